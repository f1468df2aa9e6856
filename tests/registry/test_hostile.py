"""Hostile clients, byte by byte: the right 4xx in the OCI form, or the connection is closed.

Never a 5xx, never a hang, never a logged error (they are the client's faults, not ours), and
nothing that was smuggled in is ever done.
"""

import asyncio
import gzip
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oci_mesh.registry import server as server_module
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES
from oci_mesh.store.memory import MemoryStore
from tests.registry.conftest import Address, Serve
from tests.registry.wire import HANG_S, HOST, Raw, exchange, request
from tests.spec import strategies
from tests.store.content import image, push_image, stamp

D = Digest.of(b"content")
ID = "0123456789abcdef" * 2
NOBODY = Digest.of(b"nobody has this")
IMAGE = image(b"{}", b"layer")
PUT = b"PUT /v2/a/manifests/v1 HTTP/1.1\r\n" + HOST
POST = b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\n" + HOST
GET = b"GET /v2/ HTTP/1.1\r\n" + HOST


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing a client sends is an error of the node."""
    yield
    logged = [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert logged == []


@pytest.fixture
async def victim(store: MemoryStore) -> str:
    """An image that somebody tries to delete: `victim:v1`."""
    await push_image(store, "victim", [b"{}", b"layer"], ["v1"], stamp(1))
    return "v1"


# Smuggled behind a broken request: if it is carried out, the tag is gone.
SMUGGLED = b"DELETE /v2/victim/manifests/v1 HTTP/1.1\r\n" + HOST + b"\r\n"

# What violates HTTP itself. One 400, and the connection is closed: nobody can know where the next
# request begins.
VIOLATIONS = {
    "both lengths": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, other order": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n",
    "the same length twice": POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": POST + b"Content-Length: 0, 0\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a signed length": POST + b"Content-Length: +1\r\n\r\n",
    "a hexadecimal length": POST + b"Content-Length: 0x10\r\n\r\n",
    "a length with an underscore": POST + b"Content-Length: 1_0\r\n\r\n",
    "a length of 30 digits": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "an empty length": POST + b"Content-Length: \r\n\r\n",
    "chunked is not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "an unknown transfer coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "the coding behind a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "lines end in LF": b"GET /v2/ HTTP/1.1\nHost: a\n\n",
    "one header ends in LF": GET + b"X: y\nY: z\r\n\r\n",
    "CR in a header": GET + b"X: y\rContent-Length: 5\r\n\r\n",
    "NUL in a header": GET + b"X: y\0z\r\n\r\n",
    "a folded header": GET + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n",
    "a header without colon": GET + b"Xyz\r\n\r\n",
    "a header without name": GET + b": y\r\n\r\n",
    "a space in a header's name": GET + b"X y: z\r\n\r\n",
    "a space before the first header": b"GET /v2/ HTTP/1.1\r\n Host: a\r\n\r\n",
    "no Host": b"GET /v2/ HTTP/1.1\r\n\r\n",
    "two Hosts": GET + b"Host: other.example\r\n\r\n",
    "a header of 64 KiB": GET + b"X: " + b"y" * 65536 + b"\r\n\r\n",
    "a header's name of 64 KiB": GET + b"X" * 65536 + b": y\r\n\r\n",
    "10,000 headers": GET + b"".join(b"X-%d: y\r\n" % i for i in range(10_000)) + b"\r\n",
    "10,000 ranges": GET + b"Range: bytes=" + b",".join([b"0-0"] * 10_000) + b"\r\n\r\n",
    "a request line of 64 KiB": b"GET /v2/" + b"a" * 65536 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a request line of 1 MiB": b"GET /v2/" + b"a" * 2**20 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "an unknown method": b"BREW /v2/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in lower case": b"get /v2/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method of 5,000 letters": b"A" * 5000 + b" /v2/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method that is no token": b"G(T /v2/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/3.7": b"GET /v2/ HTTP/3.7\r\n" + HOST + b"\r\n",
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "every byte there is": bytes(range(256)) * 4,
    "zeros": bytes(10_000),
    "three words after the path": b"GET /v2/ x HTTP/1.1\r\n" + HOST + b"\r\n",
    "tabs in the request line": b"GET\t/v2/\tHTTP/1.1\r\n" + HOST + b"\r\n",
    "a target without a slash": b"GET v2/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with half a host": b"GET http://[::1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with a wrong port": b"GET http://a:99999999/v2/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the path": b"GET /v2/\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path that is not ASCII": "GET /v2/é/tags/list HTTP/1.1\r\n".encode() + HOST + b"\r\n",
    "a path that is not UTF-8": b"GET /v2/\xff/tags/list HTTP/1.1\r\n" + HOST + b"\r\n",
    "a query that is not UTF-8": b"GET /v2/_catalog?last=\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "a chunk's size that is no number": PUT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    "a chunk's size that is negative": PUT + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
    "a chunk's size of 68 bits": PUT + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 17 + b"\r\n",
    "a chunk longer than it says": PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    "chunks end in LF": PUT + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
    "a length in the trailer": (
        PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"
    ),
    "LF in the trailer": (
        PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\n\r\n\r\n"
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_violations_of_http(
    name: str, address: Address, store: MemoryStore, victim: str
) -> None:
    """A 400 in the OCI form, the end of the connection, and nothing after it is carried out."""
    answers, closed = await exchange(address, VIOLATIONS[name] + SMUGGLED)
    assert [(answer.status, answer.code) for answer in answers] == [(400, "UNSUPPORTED")]
    assert closed
    assert len(answers[0].body) < 4000
    await store.resolve("victim", victim)


async def test_http_0_9(address: Address, store: MemoryStore, victim: str) -> None:
    """A request without a version is answered or not, and is the last one."""
    answers, closed = await exchange(address, b"GET /v2/\r\n\r\n" + SMUGGLED)
    assert closed
    assert [answer.status for answer in answers] in ([200], [200, 400], [400])
    await store.resolve("victim", victim)


async def test_a_length_that_is_too_short(
    address: Address, store: MemoryStore, victim: str
) -> None:
    """The rest of a body that is longer than it says is not a request."""
    upload = f"POST /v2/a/blobs/uploads/?digest={D} HTTP/1.1\r\n".encode() + HOST
    sent = upload + b"Content-Length: 3\r\n\r\ncontent" + SMUGGLED
    answers, closed = await exchange(address, sent)
    assert {answer.status for answer in answers} == {400}
    assert answers[-1].code == "UNSUPPORTED"
    assert closed
    await store.resolve("victim", victim)


# Requests that HTTP has nothing against: each is refused by itself, and the connection lives on.
REFUSED = {
    # names
    ("GET /v2/A/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/a..b/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/../../etc/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/..%2f..%2fetc%2fpasswd/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/%2e%2e/%2e%2e/etc/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/a%2fb/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/a%252fb/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/a%5cb/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/a%00/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/a%0d%0aX:%20y/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/a%/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/%C3%A9/tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/%ff/tags/list"): (400, "UNSUPPORTED"),
    (f"GET /v2/{'a' * 256}/tags/list"): (400, "NAME_INVALID"),
    (f"GET /v2/{'a' * 10_000}/tags/list"): (400, "NAME_INVALID"),
    (f"GET /v2/{'a/' * 5_000}tags/list"): (400, "NAME_INVALID"),
    ("GET /v2//tags/list"): (400, "NAME_INVALID"),
    ("GET /v2/nobody/tags/list"): (404, "NAME_UNKNOWN"),
    # paths
    ("GET /"): (404, "UNSUPPORTED"),
    ("GET /etc/passwd"): (404, "UNSUPPORTED"),
    ("GET /v2/../../../etc/passwd"): (404, "UNSUPPORTED"),
    ("GET //evil.example/v2/"): (404, "UNSUPPORTED"),
    ("GET /v1/"): (404, "UNSUPPORTED"),
    ("GET /v2/a/tags"): (404, "UNSUPPORTED"),
    ("OPTIONS *"): (404, "UNSUPPORTED"),
    ("CONNECT evil.example:443"): (404, "UNSUPPORTED"),
    ("TRACE /v2/"): (405, "UNSUPPORTED"),
    ("PROPFIND /v2/"): (405, "UNSUPPORTED"),
    ("DELETE /v2/"): (405, "UNSUPPORTED"),
    # digests
    ("GET /v2/a/blobs/sha256:baddigeststring"): (400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/sha256:../../x"): (404, "UNSUPPORTED"),
    ("GET /v2/a/blobs/sha256:..%2f..%2fx"): (400, "DIGEST_INVALID"),
    (f"GET /v2/a/blobs/sha256:{'..%2f' * 21}x"): (400, "DIGEST_INVALID"),
    (f"GET /v2/a/blobs/sha256:{D.hex.upper()}"): (400, "DIGEST_INVALID"),
    (f"GET /v2/a/blobs/{D}%00"): (400, "DIGEST_INVALID"),
    (f"GET /v2/a/blobs/{D}%0a"): (400, "DIGEST_INVALID"),
    (f"GET /v2/a/blobs/sha512:{D.hex}"): (400, "DIGEST_INVALID"),
    (f"GET /v2/a/blobs/md5:{'0' * 32}"): (400, "DIGEST_INVALID"),
    (f"GET /v2/a/blobs/sha1:{'0' * 40}"): (400, "DIGEST_INVALID"),
    (f"GET /v2/a/blobs/sha256:{'0' * 10_000}"): (400, "DIGEST_INVALID"),
    (f"GET /v2/a/blobs/{D}"): (404, "BLOB_UNKNOWN"),
    (f"DELETE /v2/a/blobs/{D}"): (404, "BLOB_UNKNOWN"),
    ("GET /v2/a/referrers/sha256:x"): (400, "DIGEST_INVALID"),
    ("GET /v2/a/manifests/sha256:x"): (400, "DIGEST_INVALID"),
    ("GET /v2/a/manifests/..%2fv1"): (400, "MANIFEST_INVALID"),
    (f"GET /v2/a/manifests/{'t' * 129}"): (400, "MANIFEST_INVALID"),
    ("GET /v2/a/manifests/v1"): (404, "MANIFEST_UNKNOWN"),
    (f"GET /v2/a/manifests/{D}"): (404, "MANIFEST_UNKNOWN"),
    ("DELETE /v2/a/manifests/v1"): (404, "MANIFEST_UNKNOWN"),
    # queries
    **{
        f"GET {path}?n={n}": (400, "UNSUPPORTED")
        for path in ("/v2/_catalog", "/v2/victim/tags/list")
        for n in ("-1", "abc", "", "1e9", "1.5", "0x10", "%00", "%D9%A3", "1%0a", "NaN")
    },
    ("GET /v2/_catalog?n=1&n=2"): (400, "UNSUPPORTED"),
    ("GET /v2/_catalog?last=%ff"): (400, "UNSUPPORTED"),
    ("GET /v2/_catalog?last=%ed%a0%80"): (400, "UNSUPPORTED"),
    (f"GET /v2/_catalog?{'&'.join(f'x{i}' for i in range(1000))}"): (400, "UNSUPPORTED"),
    # uploads
    (f"GET /v2/a/blobs/uploads/{ID}"): (404, "BLOB_UPLOAD_UNKNOWN"),
    (f"DELETE /v2/a/blobs/uploads/{ID}"): (404, "BLOB_UPLOAD_UNKNOWN"),
    ("GET /v2/a/blobs/uploads/..%2f..%2f..%2fetc%2fpasswd"): (404, "BLOB_UPLOAD_UNKNOWN"),
    (f"PATCH /v2/a/blobs/uploads/{ID}?offset=-1"): (400, "UNSUPPORTED"),
    (f"PATCH /v2/a/blobs/uploads/{ID}"): (404, "BLOB_UPLOAD_UNKNOWN"),
    (f"PUT /v2/a/blobs/uploads/{ID}"): (400, "DIGEST_INVALID"),
    (f"PUT /v2/a/blobs/uploads/{ID}?digest={D}"): (404, "BLOB_UPLOAD_UNKNOWN"),
    (f"PUT /v2/a/blobs/uploads/{ID}?digest={D}&digest={NOBODY}"): (400, "UNSUPPORTED"),
    ("POST /v2/a/blobs/uploads/?digest=sha256:..%2f..%2fx"): (400, "DIGEST_INVALID"),
    ("POST /v2/a/blobs/uploads/?digest-algorithm=md5"): (400, "DIGEST_INVALID"),
    ("POST /v2/a/blobs/uploads/?mount=sha256:..%2fx&from=victim"): (400, "DIGEST_INVALID"),
    (f"POST /v2/a/blobs/uploads/?mount={D}&from=..%2fvictim"): (400, "NAME_INVALID"),
}


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: line[:60])
async def test_refused_requests(line: str, address: Address, victim: str) -> None:
    """Each is refused for what it is, and the client may go on."""
    answers, closed = await exchange(address, request(line))
    assert [(answer.status, answer.code) for answer in answers] == [REFUSED[line]]
    assert not closed
    assert len(answers[0].body) < 4000


# What looks odd and is fine.
TAKEN = {
    "HTTP/1.0": (b"GET /v2/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200),
    "an empty line before the request": (b"\r\n\r\n" + GET + b"\r\n", 200),
    "a full URL, of another host": (
        b"GET http://evil.example/v2/?n=1 HTTP/1.1\r\n" + HOST + b"\r\n",
        200,
    ),
    "a Host that is no host": (b"GET /v2/ HTTP/1.1\r\nHost: a/../v2/x?y#z\r\n\r\n", 200),
    "a header that is not UTF-8": (GET + b"X: \xff\xfe\r\n\r\n", 200),
    "a GET with a body": (GET + b"Content-Length: 5\r\n\r\nhello", 200),
    "a request line of 8 KiB": (request("GET /v2/_catalog?last=" + "a" * 8192), 200),
    "n of two billion": (request("GET /v2/_catalog?n=2147483648"), 200),
    "n of 5,000 digits": (request("GET /v2/_catalog?n=" + "9" * 5000), 200),
    "last with NUL and line breaks": (request("GET /v2/_catalog?last=%00%0d%0aX:%20y"), 200),
    "ten parameters that nobody knows": (request("GET /v2/_catalog?" + "x=y&" * 10), 200),
    "a mount of what is nowhere": (
        request(f"POST /v2/a/blobs/uploads/?mount={NOBODY}&from=victim", b""),
        202,
    ),
    "4,000 ranges": (
        request(
            "GET /v2/victim/manifests/v1",
            headers=b"Range: bytes=" + b",".join([b"0-0"] * 4000) + b"\r\n",
        ),
        200,
    ),
    "a range that is none": (
        request("GET /v2/victim/manifests/v1", headers=b"Range: bytes=0-0xff\r\n"),
        200,
    ),
    "a range outside": (
        request("GET /v2/victim/manifests/v1", headers=b"Range: bytes=500000-\r\n"),
        416,
    ),
    "a range that ends before it begins": (
        request("GET /v2/victim/manifests/v1", headers=b"Range: bytes=500-0\r\n"),
        416,
    ),
    "an Accept that excludes everything": (
        request("GET /v2/victim/manifests/v1", headers=b"Accept: text/html\r\n"),
        200,
    ),
}


@pytest.mark.parametrize("name", TAKEN)
async def test_odd_requests(name: str, address: Address, victim: str) -> None:
    """What the RFCs allow is answered, and the connection lives on."""
    sent, status = TAKEN[name]
    answers, closed = await exchange(address, sent)
    assert [answer.status for answer in answers] == [status]
    assert not closed


_DEEP = b'{"schemaVersion":2,"x":' + b"[" * 100_000
_HUGE_INT = IMAGE.content[:-1] + b',"x":' + b"9" * 5000 + b"}"
_AS_IMAGE = b"Content-Type: " + media_types.OCI_IMAGE.encode() + b"\r\n"
_GZIP = _AS_IMAGE + b"Content-Encoding: gzip\r\n"

# PUT of a manifest: headers and body -> what it is refused with. (`spec/test_manifest.py` has all
# that can be wrong inside one.)
BODIES = {
    "nothing": (b"", b"", 400, "MANIFEST_INVALID"),
    "not JSON": (_AS_IMAGE, b"hello", 400, "MANIFEST_INVALID"),
    "100,000 brackets": (_AS_IMAGE, _DEEP, 400, "MANIFEST_INVALID"),
    "5,000 digits": (_AS_IMAGE, _HUGE_INT, 400, "MANIFEST_INVALID"),
    "NaN": (_AS_IMAGE, IMAGE.content[:-1] + b',"x":NaN}', 400, "MANIFEST_INVALID"),
    "a key twice": (_AS_IMAGE, IMAGE.content[:-1] + b',"layers":[]}', 400, "MANIFEST_INVALID"),
    "another media type": (
        b"Content-Type: application/vnd.oci.image.index.v1+json\r\n",
        IMAGE.content,
        400,
        "MANIFEST_INVALID",
    ),
    "gzip, said so": (_GZIP, gzip.compress(IMAGE.content), 400, "MANIFEST_INVALID"),
    "a gzip bomb": (_GZIP, gzip.compress(bytes(64 * 2**20)), 400, "MANIFEST_INVALID"),
    "4 MiB and a byte": (_AS_IMAGE, bytes(MAX_MANIFEST_BYTES + 1), 413, "MANIFEST_INVALID"),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("name", BODIES)
async def test_refused_manifests(name: str, chunked: bool, address: Address) -> None:
    """A body that is no manifest is refused, whether or not its length was said."""
    headers, body, status, code = BODIES[name]
    sent = request("PUT /v2/a/manifests/v1", body, headers, chunked=chunked)
    answers, _ = await exchange(address, sent)
    assert [(answer.status, answer.code) for answer in answers] == [(status, code)]


async def test_a_gigabyte_is_refused_before_it_is_sent(address: Address) -> None:
    """A manifest that says it has 1 GB is a 413 at once: none of it is waited for."""
    async with Raw(address) as raw:
        await raw.send(PUT + b"Content-Length: 1000000000\r\n\r\n")
        assert (await raw.answer()).status == 413


async def test_a_manifest_without_end_is_refused_in_the_middle(address: Address) -> None:
    """One that does not say how long it is is read no further than a manifest may be."""
    async with Raw(address) as raw:
        await raw.send(PUT + b"Transfer-Encoding: chunked\r\n\r\n")
        await raw.send(b"%x\r\n" % (MAX_MANIFEST_BYTES + 1) + bytes(MAX_MANIFEST_BYTES + 1))
        assert (await raw.answer()).status == 413


async def test_content_encoding_is_not_decoded(address: Address, store: MemoryStore) -> None:
    """A layer that says it is gzip is stored as it came: a bomb stays as small as it is."""
    bomb = gzip.compress(bytes(64 * 2**20))
    digest = Digest.of(bomb)
    line = f"POST /v2/a/blobs/uploads/?digest={digest}"
    answers, _ = await exchange(address, request(line, bomb, b"Content-Encoding: gzip\r\n"))
    assert [answer.status for answer in answers] == [201]
    assert await store.stat("a", digest) == len(bomb)


@pytest.mark.parametrize("expect", [b"100-continue", b"100-Continue"])
async def test_expect_is_answered_before_the_body(address: Address, expect: bytes) -> None:
    """A client that waits for `100 Continue` gets it, and then sends."""
    async with Raw(address) as raw:
        line = f"POST /v2/a/blobs/uploads/?digest={D} HTTP/1.1\r\n".encode() + HOST
        await raw.send(line + b"Content-Length: 7\r\nExpect: " + expect + b"\r\n\r\n")
        assert (await raw.answer()).status == 100
        await raw.send(b"content")
        assert (await raw.answer()).status == 201


async def test_expect_is_refused_without_the_body(address: Address) -> None:
    """A request that is wrong already is refused without asking for its body."""
    async with Raw(address) as raw:
        await raw.send(PUT + b"Content-Length: 5000000\r\nExpect: 100-continue\r\n\r\n")
        assert (await raw.answer()).status == 413


CUT = {
    "in the request line": b"GET /v2/ HT",
    "in the headers": GET,
    "in a manifest": PUT + b"Content-Length: 50\r\n\r\nhello",
    "in a chunked manifest": PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
    "before a manifest": PUT + b"Content-Length: 50\r\n\r\n",
    "in a blob": (
        f"POST /v2/a/blobs/uploads/?digest={D} HTTP/1.1\r\n".encode()
        + HOST
        + b"Content-Length: 7\r\n\r\ncont"
    ),
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_cut_connections(
    name: str, reset: bool, address: Address, store: MemoryStore
) -> None:
    """A client that goes in the middle leaves nothing that can be seen, and no error behind."""
    async with Raw(address) as raw:
        await raw.send(CUT[name])
        await raw.close(reset=reset)
    answers, _ = await exchange(address, request("GET /v2/_catalog"))
    assert answers[0].body == b'{"repositories":[]}'
    await _until_idle(store)


async def _until_idle(store: MemoryStore) -> None:
    """Until no upload is held: the registry has noticed."""
    async with asyncio.timeout(HANG_S):
        while any(not store.sessions.is_idle(name) for name in store.sessions):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # a store has no event for this


@pytest.mark.parametrize("sent", [b"", b"GET /v2/ HT", GET], ids=["nothing", "a line", "headers"])
async def test_a_client_that_never_finishes_its_headers_is_let_go(
    sent: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a request holds a connection no longer than an idle client does."""
    monkeypatch.setattr(server_module, "KEEPALIVE_S", 0.2)
    async with serve() as server, Raw(server.address) as raw:
        await raw.send(sent)
        assert await raw.rest() == b""


async def test_an_upgrade_is_declined(address: Address) -> None:
    """Who asks for HTTP/2 or a websocket goes on with HTTP/1.1."""
    async with Raw(address) as raw:
        for protocol in (b"h2c", b"websocket", b"nonsense"):
            await raw.send(GET + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n")
            assert (await raw.answer()).status == 200


async def test_pipelined_requests_are_answered_in_order(address: Address) -> None:
    """Many requests in one packet: each answered once, in their order."""
    names = [f"r{i}" for i in range(50)]
    sent = b"".join(request(f"GET /v2/{name.upper()}/tags/list") for name in names)
    answers, closed = await exchange(address, sent)
    assert [json.loads(a.body)["errors"][0]["message"].split("'")[1] for a in answers] == [
        name.upper() for name in names
    ]
    assert not closed


_targets = st.one_of(
    strategies.near_text.map("/v2/{}".format),
    st.tuples(
        strategies.repositories | strategies.near_text,
        st.sampled_from(["blobs", "manifests", "referrers", "tags", "blobs/uploads"]),
        st.sampled_from([str(D), ID, "list", "v1", "", str(NOBODY)]) | strategies.near_text,
    ).map(lambda parts: "/v2/" + "/".join(parts)),
)
_headers = st.lists(
    st.tuples(
        st.sampled_from(
            ["Range", "Content-Range", "Content-Type", "Accept", "If-None-Match", "Expect", "X"]
        ),
        st.sampled_from(["bytes=0-1", "0-6", "bytes 0-6/7", "*/*", media_types.OCI_IMAGE, '"x"'])
        | strategies.near_text,
    ),
    max_size=3,
)
_any_bodies = st.none() | st.sampled_from([b"", b"content", IMAGE.content]) | st.binary()


@given(
    st.sampled_from(["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]),
    _targets,
    strategies.near_text,
    _headers,
    _any_bodies,
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # one registry for all
async def test_any_request(
    address: Address,
    method: str,
    path: str,
    query: str,
    headers: list[tuple[str, str]],
    body: bytes | None,
    chunked: bool,
) -> None:
    """Any request gets one answer, below 500; an error is in the OCI form."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
    sent = request(f"{method} {path}?{query}", body, lines, chunked=chunked)
    answers, _ = await exchange(address, sent)
    assert all(answer.status < 500 for answer in answers)
    assert [a.code is not None for a in answers] == [a.status >= 400 for a in answers]
