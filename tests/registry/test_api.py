"""The distribution API, where the official conformance suite does not look (it has the rest)."""

import asyncio
from typing import Any
from urllib.parse import urljoin

import pytest

from oci_mesh.registry import bodies as bodies_module
from oci_mesh.registry.manifests import Sparse
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest
from oci_mesh.spec.routes import MAX_PAGE
from oci_mesh.store.memory import MemoryStore
from tests.registry.client import Client
from tests.registry.conftest import Address, Serve
from tests.registry.wire import HANG_S, HOST, Raw, exchange, request
from tests.store.content import image, index, stamp

CONFIG, LAYER = b"{}", b"layer"
IMAGE = image(CONFIG, LAYER)
OCTETS = b"0123456789" * 20


@pytest.fixture
async def pushed(client: Client) -> Manifest:
    """An image in the repository `a`, tagged `v1`."""
    await client.push_blob("a", CONFIG)
    await client.push_blob("a", LAYER)
    assert (await client.push_manifest("a", "v1", IMAGE)).status == 201
    return IMAGE


# -- lists


async def pages(client: Client, path: str, key: str) -> list[list[str]]:
    """All pages of a list, along its `Link`s."""
    found = []
    while path:
        reply = await client.call("GET", path)
        assert reply.status == 200
        found.append(reply.json[key])
        link = reply.headers.get("Link", "")
        target, _, relation = link.partition(">; ")
        assert relation in ("", 'rel="next"')
        path = urljoin(path, target.removeprefix("<")) if link else ""
    return found


@pytest.mark.parametrize("n", [1, 2, 7, 24, 25, 26, 1000, 10**9])
async def test_links_lead_through_all_tags_once(
    n: int, client: Client, store: MemoryStore, pushed: Manifest
) -> None:
    """Every tag comes once, in ASCII order, `n` on a page, and the last page has no `Link`."""
    tags = [f"{letter}{i}" for letter in "aBz_" for i in range(6)]
    await store.put_manifest("a", pushed, tags, stamp(1))
    found = await pages(client, f"/v2/a/tags/list?n={n}", "tags")
    assert [tag for page in found for tag in page] == sorted([*tags, "v1"])
    assert all(len(page) == n for page in found[:-1])


@pytest.mark.parametrize("form", ["/v2/a/tags/list?ns=own.test", "/own.test/v2/a/tags/list?x=1"])
async def test_a_link_leads_to_what_was_asked_for(
    form: str, client: Client, store: MemoryStore, pushed: Manifest
) -> None:
    """In the words in which it was asked for, whatever the client calls this registry."""
    await store.put_manifest("a", pushed, ["v2"], stamp(1))
    reply = await client.call("GET", f"{form}&n=1&last=v0")
    assert reply.json == {"name": "a", "tags": ["v1"]}
    assert reply.headers["Link"] == f'<{form}&n=1&last=v1>; rel="next"'


async def test_no_page_is_longer_than_a_response_may_be(
    client: Client, store: MemoryStore, pushed: Manifest
) -> None:
    """Without `n`, and with an enormous one, a list comes in pages too."""
    tags = [f"t{i:04}" for i in range(MAX_PAGE + 1)]
    await store.put_manifest("a", pushed, tags, stamp(1))
    for query in ("", "?n=2000", "?n=99999999999999999999"):
        found = await pages(client, "/v2/a/tags/list" + query, "tags")
        assert [len(page) for page in found] == [MAX_PAGE, 2]


@pytest.mark.parametrize(
    ("query", "expected", "more"),
    [
        ("n=0", [], False),
        ("n=2", ["a", "b"], True),
        ("n=4", ["a", "b", "c", "v1"], False),
        ("last=a", ["b", "c", "v1"], False),
        ("last=a&n=1", ["b"], True),
        ("last=bb&n=5", ["c", "v1"], False),
        ("last=v1&n=5", [], False),
        ("last=no%20tag", ["v1"], False),
    ],
)
async def test_tags_after(
    query: str,
    expected: list[str],
    more: bool,
    client: Client,
    store: MemoryStore,
    pushed: Manifest,
) -> None:
    """`last` is exclusive, needs no `n` and need not exist; `n=0` is an empty page, the last."""
    await store.put_manifest("a", pushed, ["a", "b", "c"], stamp(1))
    reply = await client.call("GET", f"/v2/a/tags/list?{query}")
    assert reply.json == {"name": "a", "tags": expected}
    assert ("Link" in reply.headers) is more


async def test_catalog_pages(client: Client) -> None:
    """Repositories are listed as tags are."""
    names = ["a", "a-b", "a/b", "a/b/c", "b"]
    for name in names:
        await client.push_blob(name, b"content")
    for n in (1, 2, 5):
        found = await pages(client, f"/v2/_catalog?n={n}", "repositories")
        assert [name for page in found for name in page] == sorted(names)


# -- HTTP


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_head_says_what_get_says(method: str, client: Client, pushed: Manifest) -> None:
    """HEAD has the status and the headers of GET, for what is there and for what is not."""
    digest, blob = pushed.digest, Digest.of(LAYER)
    for path in (
        *("", "_catalog", "a/tags/list", "a/manifests/v1", f"a/manifests/{digest}"),
        *(f"a/blobs/{blob}", f"a/referrers/{digest}", "a/manifests/v2", f"a/blobs/{digest}"),
        *("a/blobs/sha256:x", "nobody/tags/list", "A/tags/list", "nothing"),
    ):
        got = await client.call("GET", "/v2/" + path)
        head = await client.call("HEAD", "/v2/" + path)
        assert head.body == b""
        assert head.status == got.status
        assert _lasting(head.headers) == _lasting(got.headers), path
        assert int(got.headers["Content-Length"]) == len(got.body)


def _lasting(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "Date"}


@pytest.mark.parametrize(
    "accept", ["*/*", "", media_types.OCI_IMAGE, media_types.OCI_INDEX, "text/html", "nonsense;"]
)
async def test_accept_changes_nothing(accept: str, client: Client, pushed: Manifest) -> None:
    """A manifest is served as what it was pushed as: another form would have another digest."""
    reply = await client.call("GET", "/v2/a/manifests/v1", accept=accept)
    assert reply.status == 200
    assert reply.body == pushed.content
    assert reply.headers["Content-Type"] == pushed.media_type


@pytest.mark.parametrize("encoding", ["gzip", "zstd,gzip,deflate", "br;q=1.0, identity;q=0"])
async def test_nothing_is_encoded(encoding: str, client: Client, pushed: Manifest) -> None:
    """containerd offers encodings; bytes go out as they are, with their length."""
    for path in ("manifests/v1", f"blobs/{Digest.of(LAYER)}"):
        reply = await client.call("GET", f"/v2/a/{path}", accept_encoding=encoding)
        assert "Content-Encoding" not in reply.headers
        assert int(reply.headers["Content-Length"]) == len(reply.body)


async def test_conditional_get(client: Client, pushed: Manifest) -> None:
    """Who has a manifest or a blob already is told so in a few bytes."""
    for path in ("manifests/v1", f"manifests/{pushed.digest}", f"blobs/{Digest.of(LAYER)}"):
        tag = (await client.call("GET", f"/v2/a/{path}")).headers["ETag"]
        for held in (tag, f'"other", {tag}'):
            reply = await client.call("GET", f"/v2/a/{path}", if_none_match=held)
            assert (reply.status, reply.body) == (304, b"")
            assert reply.headers["ETag"] == tag
        reply = await client.call("GET", f"/v2/a/{path}", if_none_match='"other"')
        assert reply.status == 200


async def test_a_tag_that_moved_is_not_current(client: Client, pushed: Manifest) -> None:
    """The ETag is that of what the tag points to now."""
    tag = (await client.call("GET", "/v2/a/manifests/v1")).headers["ETag"]
    await client.push_manifest("a", "v1", image(CONFIG, LAYER, note="another"))
    reply = await client.call("GET", "/v2/a/manifests/v1", if_none_match=tag)
    assert reply.status == 200


async def test_allow_is_said_with_405(client: Client) -> None:
    """A method that a path does not take is answered with those that it does."""
    reply = await client.call("POST", "/v2/a/manifests/v1", b"")
    assert (reply.status, reply.code) == (405, "UNSUPPORTED")
    assert reply.headers["Allow"] == "DELETE, GET, HEAD, PUT"


# -- manifests


MISSING_LAYER = image(CONFIG, b"not here")
MISSING_CONFIG = image(b'{"not": "here"}', LAYER)
MISSING_CHILD = index(image(b"nobody has this"))
MISSING_SUBJECT = image(CONFIG, LAYER, subject=image(b"nobody has this"))
COMPLETE_INDEX = index(IMAGE)


@pytest.mark.parametrize(
    ("policy", "manifest", "missing"),
    [
        (Sparse.INDEX, MISSING_LAYER, True),
        (Sparse.INDEX, MISSING_CONFIG, True),
        (Sparse.INDEX, MISSING_CHILD, False),
        (Sparse.INDEX, MISSING_SUBJECT, False),
        (Sparse.DENY, MISSING_LAYER, True),
        (Sparse.DENY, MISSING_CONFIG, True),
        (Sparse.DENY, MISSING_CHILD, True),
        (Sparse.DENY, MISSING_SUBJECT, False),
        (Sparse.DENY, COMPLETE_INDEX, False),
        (Sparse.ALLOW, MISSING_LAYER, False),
        (Sparse.ALLOW, MISSING_CONFIG, False),
        (Sparse.ALLOW, MISSING_CHILD, False),
        (Sparse.ALLOW, MISSING_SUBJECT, False),
    ],
)
async def test_sparse_policies(
    policy: Sparse, manifest: Manifest, missing: bool, serve: Serve
) -> None:
    """What a manifest names has to be there as the policy says; a subject never has to."""
    async with serve(policy) as server, Client(server.address) as client:
        await client.push_blob("a", CONFIG)
        await client.push_blob("a", LAYER)
        assert (await client.push_manifest("a", IMAGE.digest, IMAGE)).status == 201
        reply = await client.push_manifest("a", "v2", manifest)
        seen = await client.call("GET", "/v2/a/manifests/v2")
    if missing:
        assert (reply.status, reply.code) == (404, "MANIFEST_BLOB_UNKNOWN")
        assert (seen.status, seen.code) == (404, "MANIFEST_UNKNOWN")
    else:
        assert (reply.status, seen.status) == (201, 200)


async def test_content_of_another_repository_is_missing(client: Client) -> None:
    """A layer that only another repository has does not make an image complete."""
    await client.push_blob("b", CONFIG)
    await client.push_blob("b", LAYER)
    reply = await client.push_manifest("a", "v1", IMAGE)
    assert (reply.status, reply.code) == (404, "MANIFEST_BLOB_UNKNOWN")


async def test_many_tags_at_once(client: Client, pushed: Manifest) -> None:
    """A PUT by digest sets all its tags, and says so for each."""
    tags = [f"1.{i}" for i in range(12)]
    query = "&".join(f"tag={tag}" for tag in tags)
    reply = await client.push_manifest("a", f"{pushed.digest}?{query}", pushed)
    assert reply.status == 201
    assert reply.headers.getall("OCI-Tag") == tags
    for tag in tags:
        found = await client.call("HEAD", f"/v2/a/manifests/{tag}")
        assert found.headers["Docker-Content-Digest"] == str(pushed.digest)


async def test_a_tag_keeps_its_algorithm(client: Client, pushed: Manifest) -> None:
    """Pushed by sha512 and a tag, a manifest is sha512's by that tag as well."""
    by_sha512 = image(CONFIG, LAYER, algorithm="sha512")
    reply = await client.push_manifest("a", f"{by_sha512.digest}?tag=big", by_sha512)
    assert reply.headers["Docker-Content-Digest"] == str(by_sha512.digest)
    found = await client.call("GET", "/v2/a/manifests/big")
    assert found.headers["Docker-Content-Digest"] == str(by_sha512.digest)
    assert found.body == by_sha512.content


async def test_a_manifest_under_anothers_digest(client: Client, pushed: Manifest) -> None:
    """A manifest is not stored under a digest that is not its own."""
    other = image(CONFIG, LAYER, note="another")
    reply = await client.push_manifest("a", other.digest, pushed)
    assert (reply.status, reply.code) == (400, "DIGEST_INVALID")
    assert (await client.call("GET", f"/v2/a/manifests/{other.digest}")).status == 404


async def test_deletes_are_seen_at_once(client: Client, pushed: Manifest) -> None:
    """Deleting a tag leaves its siblings; deleting the manifest takes them all."""
    await client.push_manifest("a", "v2", pushed)
    assert (await client.call("DELETE", "/v2/a/manifests/v1")).status == 202
    assert (await client.call("HEAD", "/v2/a/manifests/v1")).status == 404
    assert (await client.call("HEAD", "/v2/a/manifests/v2")).status == 200
    assert (await client.call("DELETE", f"/v2/a/manifests/{pushed.digest}")).status == 202
    assert (await client.call("HEAD", "/v2/a/manifests/v2")).status == 404
    assert (await client.call("HEAD", f"/v2/a/manifests/{pushed.digest}")).status == 404
    assert (await client.push_manifest("a", "v1", pushed)).status == 201
    assert (await client.call("HEAD", "/v2/a/manifests/v1")).status == 200


# -- referrers


async def test_referrers_of_nothing_in_nowhere(client: Client) -> None:
    """Never a 404: an index, empty, under its exact type."""
    reply = await client.call("GET", f"/v2/nobody/referrers/{IMAGE.digest}")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == media_types.OCI_INDEX
    assert reply.json["manifests"] == []
    assert "OCI-Filters-Applied" not in reply.headers


async def test_referrers_filtered(client: Client, pushed: Manifest) -> None:
    """A filter leaves what has the type, and says that it was applied, also if nothing is left."""
    artifact = image(CONFIG, LAYER, subject=pushed)
    reply = await client.push_manifest("a", artifact.digest, artifact)
    assert reply.headers["OCI-Subject"] == str(pushed.digest)
    path = f"/v2/a/referrers/{pushed.digest}"
    for query, expected in {
        "": [str(artifact.digest)],
        "?artifactType=application%2Foctet-stream": [str(artifact.digest)],
        "?artifactType=text/plain": [],
    }.items():
        reply = await client.call("GET", path + query)
        assert [d["digest"] for d in reply.json["manifests"]] == expected
        assert reply.headers.get("OCI-Filters-Applied") == ("artifactType" if query else None)
    await client.call("DELETE", f"/v2/a/manifests/{artifact.digest}")
    assert (await client.call("GET", path)).json["manifests"] == []


async def test_fallback_tags(client: Client, pushed: Manifest) -> None:
    """An index under a fallback tag adds nothing that does not say itself whose referrer it is."""
    artifact = image(CONFIG, LAYER, subject=pushed)
    other = image(CONFIG, LAYER, note="of nobody")
    absent = image(CONFIG, LAYER, note="nobody has this", subject=pushed)
    for manifest in (artifact, other):
        assert (await client.push_manifest("a", manifest.digest, manifest)).status == 201
    listed = index(artifact, other, absent)
    tag = str(pushed.digest).replace(":", "-")
    assert (await client.push_manifest("a", tag, listed)).status == 201
    found = await client.call("GET", f"/v2/a/referrers/{pushed.digest}")
    assert [d["digest"] for d in found.json["manifests"]] == [str(artifact.digest)]


# -- blobs


@pytest.mark.parametrize(
    ("header", "status", "start", "stop"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=50-149", 206, 50, 150),
        ("bytes=50-", 206, 50, 200),
        ("bytes=-50", 206, 150, 200),
        ("bytes=150-900", 206, 150, 200),
        ("bytes=0-0,5-5", 200, 0, 200),
        ("lines=1-2", 200, 0, 200),
        ("bytes=200-", 416, 0, 0),
        ("bytes=5-1", 416, 0, 0),
    ],
)
async def test_ranges(header: str, status: int, start: int, stop: int, client: Client) -> None:
    """A range of a blob is these bytes, and a 416 says how many there are."""
    digest = await client.push_blob("a", OCTETS)
    reply = await client.call("GET", f"/v2/a/blobs/{digest}", range=header)
    assert reply.status == status
    if status == 416:
        assert reply.headers["Content-Range"] == "bytes */200"
        assert reply.code == "SIZE_INVALID"
    else:
        assert reply.body == OCTETS[start:stop]
    if status == 206:
        assert reply.headers["Content-Range"] == f"bytes {start}-{stop - 1}/200"


@pytest.mark.parametrize("hint", ["", "?digest-algorithm=sha256", "?digest-algorithm=sha512"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_digest_algorithm(hint: str, algorithm: str, client: Client) -> None:
    """The algorithm of an upload may be said at its start, and may turn out to be another."""
    begun = await client.call("POST", f"/v2/a/blobs/uploads/{hint}", b"")
    sent = await client.call("PATCH", begun.headers["Location"], OCTETS)
    digest = Digest.of(OCTETS, algorithm)
    ended = await client.call("PUT", f"{sent.headers['Location']}&digest={digest}", b"")
    assert ended.status == 201
    assert ended.headers["Docker-Content-Digest"] == str(digest)
    found = await client.call("GET", ended.headers["Location"])
    assert (found.body, found.headers["Docker-Content-Digest"]) == (OCTETS, str(digest))


# -- uploads


async def status_of(client: Client, location: str) -> str:
    """How far an upload says it is; 204 or an AssertionError."""
    reply = await client.call("GET", location)
    assert reply.status == 204, reply
    return str(reply.headers["Range"])


async def test_a_replayed_chunk_is_noticed(client: Client) -> None:
    """jib sends a PATCH again whose answer it never saw: its bytes must not be taken twice."""
    first = await client.begin_upload("a")
    second = (await client.call("PATCH", first, OCTETS[:50])).headers["Location"]
    replay = await client.call("PATCH", first, OCTETS[:50])
    assert (replay.status, replay.code) == (416, "BLOB_UPLOAD_INVALID")
    assert replay.headers["Range"] == "0-49"
    assert await status_of(client, first) == "0-49"
    digest = Digest.of(OCTETS)
    ended = await client.call("PUT", f"{second}&digest={digest}", OCTETS[50:])
    assert ended.status == 201


@pytest.mark.parametrize("content_range", ["0-49", "51-199", "49-199", "0-199", "x", "50-49"])
async def test_a_last_chunk_from_elsewhere(content_range: str, client: Client) -> None:
    """A PUT whose chunk does not continue the upload is a 416, and the upload survives it."""
    location = await client.begin_upload("a")
    location = (await client.call("PATCH", location, OCTETS[:50])).headers["Location"]
    digest = Digest.of(OCTETS)
    path = f"{location}&digest={digest}"
    reply = await client.call("PUT", path, OCTETS[50:], content_range=content_range)
    assert (reply.status, reply.code) == (416, "BLOB_UPLOAD_INVALID")
    assert await status_of(client, location) == "0-49"
    reply = await client.call("PUT", path, OCTETS[50:], content_range="50-199")
    assert reply.status == 201


async def test_a_chunk_that_is_not_as_long_as_it_says(client: Client) -> None:
    """Length and range of a chunk have to agree; nothing of it is kept."""
    location = await client.begin_upload("a")
    reply = await client.call("PATCH", location, OCTETS[:50], content_range="0-99")
    assert (reply.status, reply.code) == (400, "SIZE_INVALID")
    assert await status_of(client, location) == "0-0"


@pytest.mark.parametrize("length", [0, 49, 51, 200])
async def test_a_chunked_body_that_is_not_as_long_as_its_range(
    length: int, client: Client, address: Address
) -> None:
    """Without a Content-Length, the bytes are counted as they come; nothing of them is kept."""
    location = await client.begin_upload("a")
    head = b"Content-Range: 0-49\r\n"
    sent = request(f"PATCH {location}", OCTETS[:length], head, chunked=True)
    answers, _ = await exchange(address, sent)
    assert [(answer.status, answer.code) for answer in answers] == [(400, "SIZE_INVALID")]
    assert await status_of(client, location) == "0-0"


async def test_a_post_without_the_blob(client: Client) -> None:
    """POST with a digest and no body begins an upload, as the spec's 202 says."""
    digest = Digest.of(OCTETS)
    begun = await client.call("POST", f"/v2/a/blobs/uploads/?digest={digest}")
    assert begun.status == 202
    reply = await client.call("PUT", f"{begun.headers['Location']}&digest={digest}", OCTETS)
    assert reply.status == 201


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_the_empty_blob(algorithm: str, client: Client) -> None:
    """Nothing is a blob too, however it comes."""
    digest = Digest.of(b"", algorithm)
    location = await client.begin_upload("a")
    location = (await client.call("PATCH", location, b"")).headers["Location"]
    assert (await client.call("PUT", f"{location}&digest={digest}", b"")).status == 201
    for headers in ({}, {"range": "bytes=0-"}):
        reply = await client.call("GET", f"/v2/a/blobs/{digest}", **headers)
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers["Content-Length"] == "0"


async def test_two_writers(client: Client, address: Address) -> None:
    """While one request writes to an upload, another gets a 409 and the first is not disturbed."""
    location = await client.begin_upload("a")
    async with Raw(address) as raw:
        head = f"PATCH {location} HTTP/1.1\r\n".encode() + HOST
        await raw.send(head + b"Content-Length: 200\r\nExpect: 100-continue\r\n\r\n")
        assert (await raw.answer()).status == 100  # so it holds the upload
        for method, path in {
            "PATCH": location,
            "PUT": f"{location}&digest={Digest.of(OCTETS)}",
            "DELETE": location,
        }.items():
            reply = await client.call(method, path, OCTETS)
            assert (reply.status, reply.code) == (409, "BLOB_UPLOAD_INVALID"), method
        assert await status_of(client, location) == "0-0"
        await raw.send(OCTETS)
        assert (await raw.answer()).status == 202
    assert await status_of(client, location) == "0-199"


async def test_resume_after_an_interruption(client: Client, address: Address) -> None:
    """What arrived before the connection broke is there; the client asks how far, and goes on."""
    location = await client.begin_upload("a")
    async with Raw(address) as raw:
        head = f"PATCH {location} HTTP/1.1\r\n".encode() + HOST
        await raw.send(head + b"Content-Length: 200\r\nExpect: 100-continue\r\n\r\n")
        assert (await raw.answer()).status == 100
        await raw.send(OCTETS[:120])
        async with asyncio.timeout(HANG_S):
            while await status_of(client, location) != "0-119":
                pass
        await raw.close(reset=True)
    path = f"{location}&digest={Digest.of(OCTETS)}"
    reply = await client.call("PUT", path, OCTETS[120:], content_range="120-199")
    while reply.status == 409:  # until the registry has noticed that the first writer is gone
        reply = await client.call("PUT", path, OCTETS[120:], content_range="120-199")
    assert reply.status == 201
    assert (await client.call("GET", reply.headers["Location"])).body == OCTETS


async def test_a_client_that_stalls(
    client: Client, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that stops coming is a 408; what came of it stays."""
    monkeypatch.setattr(bodies_module, "BODY_STALL_S", 0.2)
    location = await client.begin_upload("a")
    async with Raw(address) as raw:
        head = f"PATCH {location} HTTP/1.1\r\n".encode() + HOST
        await raw.send(head + b"Content-Length: 200\r\n\r\n" + OCTETS[:50])
        answer = await raw.answer()
    assert (answer.status, answer.code) == (408, "SIZE_INVALID")
    assert await status_of(client, location) == "0-49"


async def test_bytes_that_are_not_the_blob(client: Client) -> None:
    """Bytes of another digest are a 400, no blob, and the end of the upload."""
    digest = Digest.of(b"other")
    location = await client.begin_upload("a")
    reply = await client.call("PUT", f"{location}&digest={digest}", OCTETS)
    assert (reply.status, reply.code) == (400, "DIGEST_INVALID")
    assert (await client.call("HEAD", f"/v2/a/blobs/{digest}")).status == 404
    gone = await client.call("GET", location)
    assert (gone.status, gone.code) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_cancelled_upload_is_gone(client: Client) -> None:
    """After a cancel nothing of an upload is left, for any request."""
    location = await client.begin_upload("a")
    await client.call("PATCH", location, OCTETS)
    assert (await client.call("DELETE", location)).status == 204
    for method, path in {
        "GET": location,
        "PATCH": location,
        "PUT": f"{location}&digest={Digest.of(OCTETS)}",
        "DELETE": location,
    }.items():
        reply = await client.call(method, path, OCTETS if method in ("PATCH", "PUT") else None)
        assert (reply.status, reply.code) == (404, "BLOB_UPLOAD_UNKNOWN"), method


async def test_an_upload_is_its_repositorys(client: Client) -> None:
    """An upload's id means nothing in another repository."""
    location = await client.begin_upload("a")
    elsewhere = location.replace("/v2/a/", "/v2/b/")
    assert (await client.call("PATCH", elsewhere, OCTETS)).code == "BLOB_UPLOAD_UNKNOWN"
    assert await status_of(client, location) == "0-0"
