"""The client, against a node, a network that cuts, and registries that misbehave."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

import oci_mesh
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.http import Refused
from oci_mesh.cli.registry_client import RegistryClient
from oci_mesh.cli.retry import MAX_ATTEMPTS, Transient
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import encode_index, parse_manifest
from tests.cli.conftest import MakeContent
from tests.cli.servers import Reply, Script, answering, cutting

BIG = random.Random(1).randbytes(8_000_000)
BIG_DIGEST = Digest.of(BIG)
INDEX = parse_manifest(encode_index([]))


def ignore(_: object) -> None:
    """Nobody listens."""


@asynccontextmanager
async def client_of(
    url: str, note: Callable[[str], None] = ignore, stall_s: float = 30.0
) -> AsyncIterator[RegistryClient]:
    """A client that does not wait between attempts."""
    async with RegistryClient(url, note, first_wait_s=0, stall_s=stall_s) as client:
        yield client


async def fetch(client: RegistryClient, digest: Digest, start: int = 0) -> bytes:
    """A blob, from `start`, in one attempt."""
    async with client.blob("app", digest, start) as (begins, chunks):
        assert begins == start
        return b"".join([chunk async for chunk in chunks])


async def test_blobs_there_and_back(node: oci_mesh.Node, content: MakeContent) -> None:
    """Of any length, none as well."""
    async with client_of(node.url) as client:
        for data in (BIG, b"", b"x"):
            digest = Digest.of(data)
            told: list[int] = []
            assert not await client.has_blob("app", digest)
            await client.push_blob("app", digest, content(data), told.append)
            assert await client.has_blob("app", digest)
            assert await fetch(client, digest) == data
            assert (told or [0])[-1] == len(data)
        assert await fetch(client, BIG_DIGEST, 7_999_990) == BIG[-10:]


async def test_manifests_there_and_back(node: oci_mesh.Node) -> None:
    """By tag and digest, the very bytes; what is not there is None."""
    async with client_of(node.url) as client:
        assert await client.manifest("app", "v1") is None
        await client.push_manifest("app", "v1", INDEX)
        assert await client.manifest("app", "v1") == INDEX
        assert await client.manifest("app", str(INDEX.digest)) == INDEX
        assert await client.referrers("app", INDEX.descriptor()) == ()


async def test_a_cut_upload_goes_on(node: oci_mesh.Node, content: MakeContent) -> None:
    """Cut again and again, more often than one operation may fail without getting on."""
    limits = [500_000] * (MAX_ATTEMPTS + 2)
    async with cutting(node.url, limits, "up") as cuts, client_of(cuts.url) as client:
        await client.push_blob("app", BIG_DIGEST, content(BIG), ignore)
        assert await fetch(client, BIG_DIGEST) == BIG
    assert cuts.connections > len(limits)
    assert cuts.up < len(BIG) * 3 // 2


async def test_an_answer_that_got_lost(node: oci_mesh.Node, content: MakeContent) -> None:
    """The blob was taken, the 201 never came: it is found, not sent again."""
    async with client_of(node.url) as client:
        await client.push_blob("app", Digest.of(b"warm"), content(b"warm"), ignore)
    # The answer to the POST has some 300 bytes; the cut comes within that to the PUT.
    async with cutting(node.url, [420], "down") as cuts, client_of(cuts.url) as client:
        await client.push_blob("app", BIG_DIGEST, content(BIG), ignore)
    assert cuts.connections == 2
    assert cuts.up < len(BIG) * 3 // 2


async def test_damage_at_home_is_not_the_registrys(
    node: oci_mesh.Node, content: MakeContent
) -> None:
    """A registry that refuses content makes us look at our own copy."""
    async with client_of(node.url) as client:
        with pytest.raises(Failure, match=f"blob {BIG_DIGEST} in SOURCE is damaged"):
            await client.push_blob("app", BIG_DIGEST, content(BIG[:-1] + b"?"), ignore)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    """And told, with the registry's own words."""
    notes: list[str] = []
    body = b'{"errors": [{"code": "UNAVAILABLE", "message": "starting\\u001b[31m"}]}'
    script = Script(Reply(status=status, body=body), Reply())
    async with answering(script.answer) as url, client_of(url, notes.append) as client:
        assert await client.has_blob("app", BIG_DIGEST)
    assert len(script.asked) == 2
    assert f"{status}" in notes[0]


async def test_a_registry_that_stays_down() -> None:
    """Ends after so many attempts, with the last answer."""
    script = Script(Reply(status=503))
    async with answering(script.answer) as url, client_of(url) as client:
        with pytest.raises(Failure, match=r"503 Service Unavailable \(6 attempts\)"):
            await client.manifest("app", "v1")
    assert len(script.asked) == MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "docker login"), (403, "access"), (507, "disk")]
)
async def test_a_refusal_is_final(status: int, hint: str) -> None:
    """It is not repeated, and says what to do."""
    body = b'{"errors": [{"code": "DENIED", "message": "not \\u001b[31m you"}]}'
    script = Script(Reply(status=status, body=body))
    async with answering(script.answer) as url, client_of(url) as client:
        with pytest.raises(Refused, match=f"{status}.*DENIED: not") as caught:
            await client.manifest("app", "v1")
    assert hint in caught.value.hint
    assert "\x1b" not in caught.value.message
    assert len(script.asked) == 1


async def test_nobody_there() -> None:
    """Says where, and how to start one."""
    async with answering(Script(Reply()).answer) as url:
        pass
    async with client_of(url) as client:
        with pytest.raises(Failure, match=f"no registry answers at {url}.*refused") as caught:
            await client.has_blob("app", BIG_DIGEST)
    assert "oci_mesh.serve" in caught.value.hint


OTHER = {"Docker-Content-Digest": str(Digest.of(b"other"))}
INDEX_TYPE = {"Content-Type": media_types.OCI_INDEX}


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(Reply(body=INDEX.content, headers=INDEX_TYPE | OTHER), id="digest"),
        pytest.param(Reply(body=b"{}", headers=INDEX_TYPE), id="no index"),
        pytest.param(Reply(body=b"<html>", headers={"Content-Type": "text/html"}), id="html"),
        pytest.param(Reply(body=bytes(5_000_000), headers=INDEX_TYPE), id="too large"),
    ],
)
async def test_manifests_that_are_none(wrong: Reply) -> None:
    """One clear error, at the first attempt."""
    script = Script(wrong)
    async with answering(script.answer) as url, client_of(url) as client:
        with pytest.raises(Failure):
            await client.manifest("app", "v1")
    assert len(script.asked) == 1


async def test_a_manifest_is_what_was_asked_for() -> None:
    """By digest, another manifest is refused, however valid it is."""
    script = Script(Reply(body=INDEX.content, headers=INDEX_TYPE))
    async with answering(script.answer) as url, client_of(url) as client:
        with pytest.raises(Failure, match=f"sent {INDEX.digest} instead"):
            await client.manifest("app", str(BIG_DIGEST))


async def test_the_registrys_digest_is_compared(content: MakeContent) -> None:
    """Of what it has, and of what it took."""
    script = Script(Reply(headers=OTHER))
    async with answering(script.answer) as url, client_of(url) as client:
        with pytest.raises(Failure, match="the registry says"):
            await client.has_blob("app", BIG_DIGEST)
    start = Reply(status=202, headers={"Location": "/v2/app/blobs/uploads/1?state=a%2Fb"})
    script = Script(start, Reply(status=201, headers=OTHER))
    async with answering(script.answer) as url, client_of(url) as client:
        with pytest.raises(Failure, match="the registry says"):
            await client.push_blob("app", Digest.of(b"x"), content(b"x"), ignore)
    assert script.asked[1].startswith("PUT /v2/app/blobs/uploads/1?state=a%2Fb&digest=sha256")


async def test_a_lost_upload_is_begun_again(content: MakeContent) -> None:
    """A registry that forgets its uploads gets a new one, a few times."""
    start = Reply(status=202, headers={"Location": "/v2/app/blobs/uploads/1"})
    lost = Reply(status=404)
    script = Script(start, lost, start, Reply(status=201))
    async with answering(script.answer) as url, client_of(url) as client:
        await client.push_blob("app", Digest.of(b"x"), content(b"x"), ignore)
    assert [line.partition(" ")[0] for line in script.asked] == ["POST", "PUT", "POST", "PUT"]


async def test_an_upload_without_a_place(content: MakeContent) -> None:
    """A 202 that says not where to go on."""
    script = Script(Reply(status=202))
    async with answering(script.answer) as url, client_of(url) as client:
        with pytest.raises(Failure, match="did not say where to upload"):
            await client.push_blob("app", BIG_DIGEST, content(BIG), ignore)


async def test_a_range_that_was_not_asked_for() -> None:
    """Other bytes than those that are missing are not taken."""
    headers = {"Content-Range": "bytes 3-9/10"}
    script = Script(Reply(status=206, body=b"1234567", headers=headers))
    async with answering(script.answer) as url, client_of(url) as client:
        with pytest.raises(Failure, match="asked for the bytes from 5"):
            await fetch(client, BIG_DIGEST, 5)


async def test_stalls_end(content: MakeContent) -> None:
    """A registry that takes nothing, or gives nothing, is not waited for for ever."""
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": "/v2/app/blobs/uploads/1"})
        await release.wait()
        return web.Response()

    huge = content(bytes(64_000_000))  # more than the kernel's buffers take
    notes: list[str] = []
    async with answering(answer) as url, client_of(url, notes.append, 0.2) as client:
        with pytest.raises(Transient):
            await fetch(client, BIG_DIGEST)
        with pytest.raises(Failure, match="attempts"):
            await client.push_blob("app", BIG_DIGEST, huge, ignore)
        release.set()
    assert any("no byte was taken" in note for note in notes)


@pytest.mark.parametrize(
    ("replies", "mounted", "asked"),
    [
        ([Reply(201)], True, []),
        ([Reply(202, headers={"Location": "/u/1"}), Reply(204)], False, ["DELETE /u/1"]),
        ([Reply(202, headers={"Location": "/u/1"}), Reply(404)], False, ["DELETE /u/1"]),
        ([Reply(403)], False, []),
    ],
)
async def test_mounts(replies: list[Reply], mounted: bool, asked: list[str]) -> None:
    """Or not: an upload that was begun instead is not left behind, a refusal is no error."""
    script = Script(*replies)
    async with answering(script.answer) as url, client_of(url) as client:
        assert await client.mount("b", INDEX.digest, "a/c") is mounted
    mount, *rest = script.asked
    assert mount == f"POST /v2/b/blobs/uploads/?mount={INDEX.digest}&from=a/c"
    assert rest == asked
