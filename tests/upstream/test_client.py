"""Tags, manifests, referrers and sizes of blobs: all that is one small answer."""

import asyncio

import pytest
from aiohttp import web

from oci_mesh.errors import (
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES, Descriptor, encode_index, parse_manifest
from oci_mesh.upstream import client as client_module
from oci_mesh.upstream import http
from oci_mesh.upstream.breaker import FAILURES
from oci_mesh.upstream.client import BlobStat, Resolved, UpstreamClient
from oci_mesh.upstream.retry import MAX_ROUNDS
from tests.upstream.conftest import client_of
from tests.upstream.fake import FakeRegistry, Handler, fine, hang_up, redirect, serving, status

INDEX = parse_manifest(encode_index([]))
OTHER = parse_manifest(
    encode_index([Descriptor(media_type=media_types.OCI_IMAGE, digest=f"sha256:{1:064}", size=9)])
)
IN_SHA512 = parse_manifest(INDEX.content, algorithm="sha512")
BLOB = b"some bytes of a blob"


def body(content: bytes, media_type: str = media_types.OCI_INDEX, **headers: str) -> Handler:
    """A fault: this, with status 200."""

    async def answer(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return web.Response(body=content, headers={"Content-Type": media_type} | named)

    return answer


async def test_a_tag_is_a_head(registry: FakeRegistry, client: UpstreamClient) -> None:
    """All kinds of manifests are asked for, in their own bytes."""
    registry.add_manifest(INDEX, "v1")
    found = await client.resolve("library/app", "v1")
    assert found == Resolved(INDEX.digest, len(INDEX.content), INDEX.media_type)
    assert await client.resolve("library/app", "v2") is None
    (seen, _) = registry.seen
    assert (seen.method, seen.path) == ("HEAD", "/v2/library/app/manifests/v1")
    assert {each.strip() for each in seen.headers["Accept"].split(",")} == media_types.MANIFESTS
    assert seen.headers["Accept-Encoding"] == "identity"


async def test_a_known_tag_is_confirmed(registry: FakeRegistry, client: UpstreamClient) -> None:
    """By the registry's 304, or by the same digest; another one is another one."""
    registry.add_manifest(INDEX, "v1")
    assert await client.resolve("app", "v1", INDEX.digest) == Resolved(INDEX.digest)
    assert registry.seen[0].headers["If-None-Match"] == f'"{INDEX.digest}"'
    changed = await client.resolve("app", "v1", OTHER.digest)
    assert changed is not None
    assert changed.digest == INDEX.digest


@pytest.mark.parametrize("lacking", ["says_digest", "heads"])
@pytest.mark.parametrize("known", [None, INDEX.digest])
async def test_a_head_that_says_too_little(
    registry: FakeRegistry, client: UpstreamClient, lacking: str, known: Digest | None
) -> None:
    """Then the manifest itself is fetched, and its digest computed."""
    setattr(registry, lacking, False)
    registry.add_manifest(INDEX, "v1")
    found = await client.resolve("app", "v1", known)
    assert found == Resolved(INDEX.digest, len(INDEX.content), INDEX.media_type)
    assert await client.resolve("app", "v2") is None


async def test_a_304_that_nobody_asked_for(registry: FakeRegistry, client: UpstreamClient) -> None:
    """Confirms nothing."""
    registry.add_manifest(INDEX, "v1")
    registry.faults = [status(304)]
    found = await client.resolve("app", "v1")
    assert found is not None
    assert found.digest == INDEX.digest


async def test_manifests(registry: FakeRegistry, client: UpstreamClient) -> None:
    """By tag and by digest of either algorithm, as they were pushed."""
    registry.add_manifest(INDEX, "v1")
    registry.add_manifest(IN_SHA512, "long")
    assert await client.manifest("app", "v1") == INDEX
    assert await client.manifest("app", INDEX.digest) == INDEX
    assert await client.manifest("app", "long") == IN_SHA512
    assert await client.manifest("app", IN_SHA512.digest) == IN_SHA512
    assert await client.manifest("app", "v2") is None


@pytest.mark.parametrize("media_type", ["application/json", "text/plain; charset=utf-8"])
async def test_a_server_of_plain_files(
    registry: FakeRegistry, client: UpstreamClient, media_type: str
) -> None:
    """Has another type for a manifest than the manifest itself."""
    registry.faults = [body(INDEX.content, media_type)]
    assert await client.manifest("app", INDEX.digest) == INDEX


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(body(OTHER.content), id="another"),
        pytest.param(body(INDEX.content[:-1]), id="short"),
        pytest.param(body(INDEX.content, media_types.OCI_IMAGE), id="type"),
        pytest.param(body(b"{}"), id="nothing in it"),
        pytest.param(body(b"<html>", "text/html"), id="html"),
        pytest.param(body(b"[" * 100_000), id="deep"),
        pytest.param(body(bytes(MAX_MANIFEST_BYTES + 1)), id="too large"),
        pytest.param(status(204), id="no content"),
        pytest.param(status(206), id="a part"),
        pytest.param(status(418), id="teapot"),
        pytest.param(redirect("https:///x"), id="redirect to nowhere"),
        pytest.param(redirect("http://["), id="redirect to nonsense"),
        pytest.param(redirect("x" * 20_000), id="endless header"),
    ],
)
async def test_what_is_no_right_manifest(
    registry: FakeRegistry, client: UpstreamClient, lie: Handler
) -> None:
    """Is refused at the first attempt: the same registry would say the same again."""
    registry.faults = [lie]
    with pytest.raises(UpstreamError) as caught:
        await client.manifest("app", INDEX.digest)
    assert type(caught.value) is UpstreamError
    assert len(registry.seen) == 1


@pytest.mark.parametrize("code", [200, 403])
async def test_an_answer_without_end(
    registry: FakeRegistry, client: UpstreamClient, code: int
) -> None:
    """Is not read to its end, nor for as long as there is time."""
    sent = 0

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=code, headers={"Content-Type": media_types.OCI_INDEX})
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))
            sent += 65536

    registry.gates = [pour]
    for asked in (
        client.manifest("app", "v1"),
        client.manifest("app", INDEX.digest),
        client.referrers("app", INDEX.digest),
    ):
        with pytest.raises(UpstreamError) as caught:
            await asked
        assert type(caught.value) is (UpstreamError if code == 200 else UpstreamRefused)
    assert sent < 64 * MAX_MANIFEST_BYTES


async def test_a_tag_is_not_what_its_header_says(
    registry: FakeRegistry, client: UpstreamClient
) -> None:
    """If the content is something else."""
    registry.faults = [body(INDEX.content, Docker_Content_Digest=str(OTHER.digest))]
    with pytest.raises(UpstreamError, match=f"is {OTHER.digest}, but it sent {INDEX.digest}"):
        await client.manifest("app", "v1")


async def test_referrers(registry: FakeRegistry, client: UpstreamClient) -> None:
    """As the registry lists them; one that has no such list has none."""
    registry.faults = [body(OTHER.content)]
    found = await client.referrers("app", INDEX.digest)
    assert found == OTHER.manifests
    assert await client.referrers("app", INDEX.digest) == ()
    assert registry.lines[0] == f"GET /v2/app/referrers/{INDEX.digest}"


async def test_sizes(registry: FakeRegistry, client: UpstreamClient) -> None:
    """By a HEAD, if that says all."""
    digest = registry.add_blob(BLOB)
    assert await client.stat_blob("app", digest) == BlobStat(len(BLOB), ranges=True)
    assert await client.stat_blob("app", Digest.of(b"?")) is None
    assert {seen.method for seen in registry.seen} == {"HEAD"}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("first", [status(405), status(307, Location="http://elsewhere.test/x")])
async def test_sizes_by_a_byte(
    registry: FakeRegistry, client: UpstreamClient, first: Handler, ranges: bool
) -> None:
    """If a HEAD does not say, or leads to a store: its addresses may be good for a GET only."""
    registry.ranges = ranges
    digest = registry.add_blob(BLOB)
    registry.faults = [first]
    assert await client.stat_blob("app", digest) == BlobStat(len(BLOB), ranges)
    assert registry.seen[-1].headers["Range"] == "bytes=0-0"


async def test_the_size_of_nothing(registry: FakeRegistry, client: UpstreamClient) -> None:
    """Whichever way a registry says it: there is no first byte to ask for."""
    digest = registry.add_blob(b"")
    nothing = status(416, Content_Range="bytes */0")
    for faults in ([], [status(405), fine], [status(405), nothing]):
        registry.faults = faults
        found = await client.stat_blob("app", digest)
        assert found is not None
        assert found.size == 0


async def test_a_blob_of_unknown_size(registry: FakeRegistry, client: UpstreamClient) -> None:
    """Is none that can be divided."""
    digest = registry.add_blob(BLOB)

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(BLOB)
        return response

    registry.faults = [status(405), stream]
    with pytest.raises(UpstreamError, match="does not say how large"):
        await client.stat_blob("app", digest)


@pytest.mark.parametrize("fault", [status(500), status(503), status(408), status(429), hang_up])
async def test_what_may_pass_is_tried_again(
    registry: FakeRegistry, client: UpstreamClient, fault: Handler
) -> None:
    """A few times."""
    registry.add_manifest(INDEX)
    registry.faults = [fault] * (MAX_ROUNDS - 1)
    assert await client.manifest("app", INDEX.digest) == INDEX
    assert len(registry.seen) == MAX_ROUNDS


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (status(500), UpstreamUnavailable),
        (status(429), UpstreamLimited),
        (hang_up, UpstreamUnavailable),
    ],
)
async def test_and_given_up(
    registry: FakeRegistry, client: UpstreamClient, fault: Handler, kind: type[UpstreamError]
) -> None:
    """With the name of what is wrong."""
    registry.faults = [fault] * 10
    with pytest.raises(kind, match=r"registry\.test"):
        await client.resolve("app", "v1")
    # A connection that is closed without an answer may have been closed before: aiohttp makes sure.
    assert MAX_ROUNDS <= len(registry.seen) <= (2 if fault is hang_up else 1) * MAX_ROUNDS


@pytest.mark.parametrize("code", [401, 403])
async def test_a_refusal_is_final(
    registry: FakeRegistry, client: UpstreamClient, code: int
) -> None:
    """And has a type of its own."""
    registry.faults = [status(code), fine]
    with pytest.raises(UpstreamRefused):
        await client.manifest("app", INDEX.digest)
    assert len(registry.seen) == 1


async def test_the_registrys_code_is_told(registry: FakeRegistry, client: UpstreamClient) -> None:
    """Its message is not: it may repeat what was sent to it."""
    page = b'{"errors": [{"code": "DENIED", "message": "not you, Bearer xyz"}]}'

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=403, body=page.ljust(1_000_000))

    registry.faults = [answer]
    with pytest.raises(UpstreamRefused, match=r"403( DENIED)?$"):
        await client.manifest("app", INDEX.digest)


async def test_a_registry_that_says_nothing(
    registry: FakeRegistry, client: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is not waited for long, whether it answers nothing at all or a byte now and then; and after
    some times it is not asked.
    """
    monkeypatch.setattr(client_module, "ANSWER_S", 0.2)
    gone = asyncio.Event()

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": media_types.OCI_INDEX})
        await response.prepare(request)
        while not gone.is_set():
            await response.write(b" ")
            await asyncio.sleep(0.01)
        return response

    async def silence(_: web.Request) -> web.StreamResponse:
        await gone.wait()
        return web.Response()

    registry.faults = [trickle] + [silence] * FAILURES
    for _ in range(FAILURES):
        with pytest.raises(UpstreamUnavailable, match="took longer than"):
            await client.manifest("app", INDEX.digest)
    with pytest.raises(UpstreamUnavailable, match="failed too often"):
        await client.manifest("app", INDEX.digest)
    gone.set()


async def test_nobody_there() -> None:
    """No connection, no name, no TLS: each is unavailable, and says why."""
    registry = FakeRegistry()
    async with serving(registry) as url, client_of(url.replace("http:", "https:")) as client:
        with pytest.raises(UpstreamUnavailable, match=r"no TLS.*ca"):
            await client.resolve("app", "v1")
    async with client_of(url) as client:
        with pytest.raises(UpstreamUnavailable, match="no connection"):
            await client.resolve("app", "v1")
    async with client_of("http://nobody.invalid") as client:
        with pytest.raises(UpstreamUnavailable, match="no connection"):
            await client.resolve("app", "v1")


async def test_a_stall_has_a_deadline(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shorter than that of the whole answer: there is time for another attempt."""
    assert http.STALL_S < client_module.ANSWER_S
    monkeypatch.setattr(http, "STALL_S", 0.2)
    registry.add_manifest(INDEX, "v1")
    gone = asyncio.Event()

    async def silence(_: web.Request) -> web.StreamResponse:
        await gone.wait()
        return web.Response()

    registry.faults = [silence]
    async with client_of(registry.url) as client:
        assert await client.manifest("app", "v1") == INDEX
        gone.set()


async def test_rewrites(registry: FakeRegistry) -> None:
    """Only what the registry is asked for is rewritten; a name that is none is not asked for."""
    registry.add_manifest(INDEX, "v1")
    rewrite = ((r"bad/(.*)", r"-\1"), (r"(.*)", r"proxy/\1"))
    async with client_of(registry.url, rewrite=rewrite) as client:
        assert await client.manifest("library/app", "v1") == INDEX
        assert await client.manifest("bad/app", "v1") is None
    assert registry.lines == ["GET /v2/proxy/library/app/manifests/v1"]


async def test_a_path_before_the_api(registry: FakeRegistry) -> None:
    """Some registries live below one."""
    async with client_of(f"{registry.url}/artifactory/") as client:
        await client.resolve("app", "v1")
    assert registry.lines == ["HEAD /artifactory/v2/app/manifests/v1"]


async def test_capabilities(registry: FakeRegistry) -> None:
    """A registry that is not to be asked for tags, or for content, is not asked."""
    registry.add_manifest(INDEX, "v1")
    digest = registry.add_blob(BLOB)
    async with client_of(registry.url, capabilities=("pull",)) as client:
        assert await client.resolve("app", "v1") is None
        assert await client.manifest("app", "v1") is None
        assert await client.manifest("app", INDEX.digest) == INDEX
    async with client_of(registry.url, capabilities=("resolve",)) as client:
        assert await client.manifest("app", "v1") == INDEX
        assert await client.manifest("app", INDEX.digest) is None
        assert await client.stat_blob("app", digest) is None
        assert await client.referrers("app", digest) == ()
        with pytest.raises(UpstreamError, match="not to be asked"):
            await anext(client.read_blob("app", digest, 0, 1))
    assert len(registry.seen) == 2


async def test_a_private_registry_is_not_asked(registry: FakeRegistry) -> None:
    """By this mesh, of which it knows no secret."""
    async with client_of(registry.url, private=True) as client:
        for asked in (
            client.resolve("app", "v1"),
            client.manifest("app", INDEX.digest),
            client.stat_blob("app", INDEX.digest),
            client.referrers("app", INDEX.digest),
            anext(client.read_blob("app", INDEX.digest, 0, 1)),
        ):
            with pytest.raises(UpstreamRefused, match="private"):
                await asked
    assert registry.seen == []
