"""A push is acknowledged when others hold it: as many as are asked for and alive."""

import asyncio
import logging
from pathlib import Path

import pytest
from aiohttp import web

from oci_mesh.errors import PeerError, StorageFull
from oci_mesh.mesh import client as client_module
from oci_mesh.mesh import server as server_module
from oci_mesh.mesh import wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.replication import Replication
from oci_mesh.spec.digest import Digest
from tests import images
from tests.mesh.fake_peer import FakePeer, Handler, asking_order
from tests.nodes import Answer, Client, make_image, meet, metric, running, seen_by, stop

IMAGE = make_image("replicated", 500_000)


def copies(answer: Answer) -> str:
    """What a push was told."""
    return answer.headers["OCI-Mesh-Copies"]


def make_index(*children: tuple[str, bytes]) -> bytes:
    """Of these media types and manifests."""
    entries = [images.descriptor(media_type, manifest) for media_type, manifest in children]
    return images.encode(
        {"schemaVersion": 2, "mediaType": images.IMAGE_INDEX, "manifests": entries}
    )


@pytest.mark.parametrize(("wanted", "held"), [(1, 1), (2, 2), (3, 3), (9, 3)])
async def test_a_push_is_on_as_many_nodes_as_it_says(
    wanted: int, held: int, tmp_path: Path, client: Client
) -> None:
    """On as many as are alive if more are asked for; and durably, so the pusher may go."""
    async with (
        running(tmp_path, "a", copies=wanted) as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        answer = await client.push(a, "app", IMAGE)
        assert copies(answer) == str(held)
        assert metric(a, "oci_mesh_pushes_replicated_total", copies=str(held)) == 1
        blobs = [(await node.store.usage()).blobs for node in (a, b, c)]
        assert blobs.count(3) == held, "config, layer and manifest"
        await stop(a)
        assert await client.has(b, "app", IMAGE) == (held > 1)


async def test_a_node_alone_takes_pushes(tmp_path: Path, client: Client) -> None:
    """One copy is what there can be."""
    async with running(tmp_path, "a", copies=2) as a:
        assert copies(await client.push(a, "app", IMAGE)) == "1"


async def test_a_copy_of_an_index_is_one_of_all_its_images(tmp_path: Path, client: Client) -> None:
    """Through indexes in indexes, with their blobs; platforms that nobody has are passed over."""
    image, gone = make_image("amd64"), make_image("arm64")
    inner = make_index((images.IMAGE_MANIFEST, image.manifest))
    index = make_index((images.IMAGE_INDEX, inner), (images.IMAGE_MANIFEST, gone.manifest))
    async with running(tmp_path, "a", copies=2) as a:
        await client.push(a, "app", image)
        await client.put(a, "app", "inner", inner)
        async with running(tmp_path, "b", a.mesh_address) as b:
            await meet(a, b)
            assert copies(await client.put(a, "app", "v1", index)) == "2"
            await stop(a)
            assert (await client.manifest(b, "app", "v1")).body == index
            assert (await client.manifest(b, "app", "inner")).body == inner
            assert await client.has(b, "app", image, image.digest)


async def test_who_is_slow_says_that_it_works(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is not taken for one that has stalled."""
    timeout, hold = client_module._timeout, Replication.hold
    monkeypatch.setattr(client_module, "_timeout", lambda _: timeout(1.0))
    monkeypatch.setattr(server_module, "_ALIVE_S", 0.1)

    async def slowly(self: Replication, repository: str, digest: Digest) -> None:
        await asyncio.sleep(2.0)
        await hold(self, repository, digest)

    monkeypatch.setattr(Replication, "hold", slowly)
    async with (
        running(tmp_path, "a", copies=2) as a,
        running(tmp_path, "b", a.mesh_address) as b,
    ):
        await meet(a, b)
        assert copies(await client.push(a, "app", IMAGE)) == "2"


# -- who does not take a copy is replaced


async def _refuses(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="working\nno room\n")


async def _fails(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=500)


async def _redirects(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/"})


async def _rambles(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"\xff" * 5_000_000)


async def _says_nothing(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


async def _breaks_off(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"working\nheld")
    assert request.transport is not None
    request.transport.abort()
    return response


async def _stalls(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(3)
    return web.Response(text="held\n")


async def _never_ends(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"working\n")
        await asyncio.sleep(0.1)


FAILURES = [
    _refuses, _fails, _redirects, _rambles, _says_nothing, _breaks_off, _stalls, _never_ends
]  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
async def test_who_fails_is_replaced_by_the_next(
    failure: Handler, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The push does not fail of it."""
    monkeypatch.setattr(client_module, "STALL_S", 1.0)
    monkeypatch.setattr(client_module, "REPLICATE_S", 2.0)
    first, second = asking_order(f"app@{IMAGE.digest}", "p", "q")
    async with (
        FakePeer(first) as fake,
        running(tmp_path, "a", copies=2) as a,
        running(tmp_path, second, a.mesh_address) as real,
    ):
        fake.replicate = failure
        await fake.join(a)
        await meet(a, real)
        assert copies(await client.push(a, "app", IMAGE)) == "2"
        assert fake.asked.count(f"POST {wire.REPLICATE_PATH}") == 1
        await real.store.manifest("app", Digest.parse(IMAGE.digest))


async def test_with_nobody_else_who_can_the_push_is_taken_all_the_same(
    tmp_path: Path, client: Client
) -> None:
    """And says that it is on one node."""
    async with FakePeer("p") as fake, running(tmp_path, "a", copies=2) as a:
        fake.replicate = _fails
        await fake.join(a)
        assert copies(await client.push(a, "app", IMAGE)) == "1"


async def test_a_node_without_room_says_so(
    tmp_path: Path,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To the one who asked, which logs it and asks the next."""
    async with (
        running(tmp_path, "a", copies=2) as a,
        running(tmp_path, "b", a.mesh_address) as b,
    ):
        await meet(a, b)

        async def full(*_: object) -> None:
            raise StorageFull("no room")

        monkeypatch.setattr(b.store, "put_manifest", full)
        assert copies(await client.push(a, "app", IMAGE)) == "1"
        assert "no copy of app@" in caplog.text
        assert "no room" in caplog.text


async def test_a_node_that_does_not_know_who_asks_gets_to_know_it(
    tmp_path: Path, client: Client
) -> None:
    """The one that asks may have just joined, and be the only one that has the content."""
    async with running(tmp_path, "a", copies=2) as a, running(tmp_path, "b") as b:
        assert seen_by(b) == set()
        async with FakePeer("p") as herald:
            await herald.join(a)
            assert a._gossip is not None
            a._gossip.table.merge([b._me], asyncio.get_running_loop().time())
            a._gossip.table.failed("p", asyncio.get_running_loop().time())
            assert copies(await client.push(a, "app", IMAGE)) == "2"
        assert "a" in seen_by(b)


# -- what a node answers that is asked to hold something


@pytest.mark.parametrize(
    ("repository", "digest"),
    [("app", IMAGE.digest), ("../etc", IMAGE.digest), ("app", "sha256:0"), ("app", "../../x")],
)
async def test_what_cannot_be_held_is_said(repository: str, digest: str, tmp_path: Path) -> None:
    """Content that nobody has, and names that are none."""
    async with FakePeer("p") as fake, running(tmp_path, "a") as a, PeerClient("p") as peer:
        with pytest.raises(PeerError):
            await peer.replicate(a.mesh_address, wire.Replicate(fake.member, repository, digest))
        assert (await a.store.usage()).blobs == 0


async def test_an_image_that_lacks_a_blob_is_not_held(tmp_path: Path, client: Client) -> None:
    """It would be no copy."""
    async with (
        running(tmp_path, "a", sparse="allow", copies=2) as a,
        running(tmp_path, "b", a.mesh_address) as b,
    ):
        await meet(a, b)
        answer = await client.put(a, "app", "v1", IMAGE.manifest)
        assert (answer.status, copies(answer)) == (201, "1")


async def test_who_went_away_is_not_worked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of the request goes on; nothing of it is logged as a failure of ours."""
    asked, never = asyncio.Event(), asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await never.wait()
        return web.Response(status=404)

    async with FakePeer("p", slow) as fake, running(tmp_path, "a") as a:
        await fake.join(a)
        body = wire.encode(wire.Replicate(fake.member, "app", IMAGE.digest))
        host, _, port = a.mesh_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {wire.REPLICATE_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await asked.wait()
        writer.close()
        never.set()
    assert not [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
