"""`sync`: real nodes, asked as an operator does; containerd's part is in tests/e2e/test_sync.py."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.control.client import ControlClient, call
from oci_mesh.control.sync import (
    PLAN,
    SYNC,
    NodeProgress,
    NodeResult,
    Plan,
    PlanRequest,
    Said,
    SyncRequest,
    SyncResult,
)
from oci_mesh.errors import OperationFailed, PeerError
from oci_mesh.members.table import Member
from oci_mesh.mesh import client as client_module
from oci_mesh.mesh import wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.spec.digest import Digest
from tests import images
from tests.mesh.conftest import client, fast_gossip
from tests.mesh.fake_peer import FakePeer, Handler
from tests.mesh.upstreams import Upstream
from tests.nodes import MIB, Client, free_port, make_image, meet, metric, running

__all__ = ["client", "fast_gossip"]  # fixtures

pytestmark = pytest.mark.usefixtures("fast_gossip")

IMAGE = make_image("synced", 2 * MIB)
SIZE = sum(map(len, IMAGE.blobs))


async def said(node: Node, reference: str, *nodes: str, image: str = "") -> list[Any]:
    """All that the node says."""
    request = SyncRequest(reference, list(nodes), image)
    async with ControlClient(node.config.root) as control:
        return [document async for document in control.stream(SYNC, request, Said)]


async def sync(node: Node, reference: str, *nodes: str, image: str = "") -> dict[str, NodeResult]:
    """What came of it, by node."""
    result = (await said(node, reference, *nodes, image=image))[-1]
    assert isinstance(result, SyncResult)
    return {one.node: one for one in result.nodes}


async def plan(node: Node, reference: str, **more: Any) -> Plan:
    """What it would do."""
    return await call(node.config.root, PLAN, PlanRequest(reference, **more), Plan)


async def is_held(node: Node, repository: str = "app") -> bool:
    """Whether all of the image is in the node's own store."""
    found = [await node.store.stat(repository, Digest.of(blob)) for blob in IMAGE.blobs]
    manifest = await node.store.manifest(repository, Digest.parse(IMAGE.digest))
    return found == [len(blob) for blob in IMAGE.blobs] and manifest.content == IMAGE.manifest


def add_member(node: Node, name: str, address: str) -> None:
    """Have the node know of another one that seemed alive a moment ago."""
    assert node._gossip is not None
    now = asyncio.get_running_loop().time()
    node._gossip.table.merge([Member(name, address, incarnation=1)], now)


async def test_all_nodes_hold_it_and_again_have_nothing_to_do(
    tmp_path: Path, client: Client
) -> None:
    """From any node, also from one that has nothing of it; progress comes before the results."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        await client.push(a, "app", IMAGE, "v1")
        documents = await said(b, "app:v1")
        last = documents[-1]
        assert isinstance(last, SyncResult)
        assert (last.repository, last.digest) == ("app", IMAGE.digest)
        states = {one.node: (one.state, one.held, one.bytes) for one in last.nodes}
        assert states == {
            "a": ("already", True, 0), "b": ("held", True, SIZE), "c": ("held", True, SIZE)
        }  # fmt: skip
        assert {d.node for d in documents if isinstance(d, NodeProgress)} == {"a", "b", "c"}
        assert {d.node for d in documents if isinstance(d, NodeResult)} == {"a", "b", "c"}
        assert await is_held(b)
        assert await is_held(c)
        assert metric(a, "oci_mesh_peer_sent_bytes_total") < 2 * SIZE, "they help each other"
        assert {one.state for one in (await sync(c, "app:v1")).values()} == {"already"}


async def test_only_the_named_nodes_take_it(tmp_path: Path, client: Client) -> None:
    """Not even the one that is asked."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        await client.push(a, "app", IMAGE, "v1")
        assert list(await sync(c, f"app@{IMAGE.digest}", "b")) == ["b"]
        assert await is_held(b)
        assert (await c.store.usage()).blobs == 0


async def test_of_an_image_with_platforms_all_are_held(tmp_path: Path, client: Client) -> None:
    """As in a push: what is there. The rest of a sparse index is passed over."""
    gone, entries = make_image("arm64"), [images.descriptor(images.IMAGE_MANIFEST, IMAGE.manifest)]
    entries.append(images.descriptor(images.IMAGE_MANIFEST, gone.manifest))
    index = images.encode(
        {"schemaVersion": 2, "mediaType": images.IMAGE_INDEX, "manifests": entries}
    )
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, "app", IMAGE)
        await client.put(a, "app", "v1", index)
        assert (await sync(a, "app:v1"))["b"].state == "held"
        assert await is_held(b)


# -- who does not take it


async def test_a_dead_node_is_named_and_the_others_go_on(tmp_path: Path, client: Client) -> None:
    """Whoever was there lately is one of all."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, "app", IMAGE, "v1")
        add_member(a, "dead", f"127.0.0.1:{free_port()}")
        found = await sync(a, "app:v1")
        assert {name: one.state for name, one in found.items()} == {
            "a": "already", "b": "held", "dead": "failed"
        }  # fmt: skip
        assert "127.0.0.1" in found["dead"].reason
        assert not found["dead"].held
        assert found["dead"].hint


async def _nothing(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


async def _nonsense(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"held\n")


async def _half(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=wire.encode(wire.Taken("importing", 1, 2, held=True)) + b"\n")


async def _escapes(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b'{"stage": "failed", "reason": "\\u001b[2J"}\n')


async def _rambles(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"{" * 5_000_000)


async def _hangs(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def _never_ends(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(wire.encode(wire.Taken("fetching")) + b"\n")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "answer", [_nothing, _nonsense, _half, _escapes, _rambles, _hangs, _never_ends]
)
async def test_who_answers_wrongly_has_failed(
    answer: Handler, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bounded time and space, with nothing on the screen that it chose freely."""
    monkeypatch.setattr(client_module, "STALL_S", 1.0)
    monkeypatch.setattr(client_module, "TAKE_S", 2.0)
    async with FakePeer("p", answer) as fake, running(tmp_path, "a") as a:
        await client.push(a, "app", IMAGE, "v1")
        await fake.join(a)
        found = await sync(a, "app:v1")
        assert (found["a"].state, found["p"].state) == ("already", "failed")
        assert not found["p"].held
        assert found["p"].reason.isprintable()
        assert len(found["p"].reason) < 1000


async def test_without_a_containerd_nothing_is_imported(tmp_path: Path, client: Client) -> None:
    """It is held, and said what to do."""
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", IMAGE, "v1")
        found = (await sync(a, "app:v1", image="docker.io/library/app:v1"))["a"]
        assert (found.state, found.held, found.imported) == ("failed", True, False)
        assert "--containerd-socket" in found.hint


@pytest.mark.parametrize("socket", ["missing.sock", "file.sock"])
async def test_a_socket_where_no_containerd_is(socket: str, tmp_path: Path, client: Client) -> None:
    """It is said which one."""
    (tmp_path / "file.sock").write_bytes(b"")
    path = tmp_path / socket
    async with running(tmp_path, "a", containerd_socket=path) as a:
        await client.push(a, "app", IMAGE, "v1")
        found = (await sync(a, "app:v1", image="docker.io/library/app:v1"))["a"]
        assert (found.state, found.held) == ("failed", True)
        assert found.reason.startswith(f"no containerd answers at {path}")


async def test_what_nobody_has_is_not_held(tmp_path: Path, client: Client) -> None:
    """By a tag: nothing is begun, and a name is offered that is like it. By a digest: nowhere."""
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", IMAGE, "v1")
        with pytest.raises(OperationFailed, match="there is no image ap:v1 ") as failure:
            await sync(a, "ap:v1")
        assert failure.value.hint == "did you mean app:v1?"
        found = (await sync(a, f"app@{images.sha256(b'nobody')}"))["a"]
        assert (found.state, found.held) == ("failed", False)


# -- what a node answers others


@pytest.mark.parametrize(
    ("repository", "digest", "image"),
    [
        ("app", "sha256:0", ""),
        ("../etc", IMAGE.digest, ""),
        ("app@registry.corp!", IMAGE.digest, ""),  # private
        ("app", IMAGE.digest, "app:v1"),  # not the whole name
        ("app", IMAGE.digest, "docker.io/library/../app:v1"),
        ("app", IMAGE.digest, "docker.io/library/app:v1\n"),
    ],
)
async def test_what_cannot_be_taken_is_refused(
    repository: str, digest: str, image: str, tmp_path: Path
) -> None:
    """At once, with nothing done."""
    async with FakePeer("p") as fake, running(tmp_path, "a") as a, PeerClient("p") as peer:
        asked = wire.Take(fake.member, repository, digest, image)
        with pytest.raises(PeerError, match="answered 400"):
            await peer.take(a.mesh_address, asked, "a", lambda taken: None)


# -- names


@pytest.mark.parametrize(
    ("reference", "archive", "repository", "image"),
    [
        ("app:v1", False, "app", "docker.io/library/app:v1"),
        ("team/app", True, "team/app", "docker.io/team/app:latest"),
        ("internal:5000/app:v1", False, "app", "internal:5000/app:v1"),
        ("internal:5000/app:v1", True, "app", "internal:5000/app:v1"),
        ("docker.io/library/x:1", False, "library/x@docker.io", "docker.io/library/x:1"),
        ("docker.io/library/x:1", True, "docker.io/library/x", "docker.io/library/x:1"),
    ],
)
async def test_what_a_name_means(
    reference: str, archive: bool, repository: str, image: str, tmp_path: Path
) -> None:
    """To the mesh, as its clients ask for it; and to containerd, as Kubernetes does."""
    async with running(tmp_path, "a") as a:
        found = await plan(a, reference, archive=archive)
        assert (found.repository, found.image) == (repository, image)
        assert (found.registry, found.nodes) == (a.url, ["a"])


async def test_by_a_digest_the_tag_says_nothing(tmp_path: Path) -> None:
    """So it is not in the name that a kubelet asks for."""
    async with running(tmp_path, "a") as a:
        found = await plan(a, f"app:v1@{IMAGE.digest}")
        assert found.image == f"docker.io/library/app@{IMAGE.digest}"


async def test_what_was_pushed_by_a_name_is_found_by_it(tmp_path: Path, client: Client) -> None:
    """Also where the name is that of a registry that is mirrored: no registry is asked."""
    async with running(tmp_path, "a") as a:
        await client.push(a, "docker.io/library/x", IMAGE, "1")
        assert (await plan(a, "docker.io/library/x:1")).repository == "docker.io/library/x"
        assert (await sync(a, "docker.io/library/x:1"))["a"].state == "already"


async def test_unknown_nodes_are_said(tmp_path: Path) -> None:
    """With those that there are, the dead too."""
    async with running(tmp_path, "a") as a:
        add_member(a, "dead", "127.0.0.1:1")
        found = await plan(a, "app:v1", nodes=["a", "c"])
        assert (found.nodes, found.unknown, found.known) == (["a"], ["c"], ["a", "dead"])
        with pytest.raises(OperationFailed, match="no such node: c"):
            await sync(a, f"app@{IMAGE.digest}", "a", "c")


# -- images of other registries


async def test_a_public_image_is_fetched_once_by_all(tmp_path: Path, client: Client) -> None:
    """Of its platforms only ours; nobody needs the others here."""
    name, foreign = "library/app@docker.io", make_image("foreign", MIB)
    here = {"os": "linux", "architecture": images.host_architecture()}
    there = {"os": "linux", "architecture": "riscv64"}
    index = images.encode(
        {
            "schemaVersion": 2,
            "mediaType": images.IMAGE_INDEX,
            "manifests": [
                images.descriptor(images.IMAGE_MANIFEST, foreign.manifest, platform=there),
                images.descriptor(images.IMAGE_MANIFEST, IMAGE.manifest, platform=here),
            ],
        }
    )
    upstream = Upstream(*IMAGE.blobs, *foreign.blobs)
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        upstream.serve(a, b)
        for manifest in (IMAGE.manifest, foreign.manifest, index):
            await a.store.put_manifest(name, _parsed(manifest), (), None, ())
        found = await sync(b, f"docker.io/library/app@{images.sha256(index)}")
        assert {one.state for one in found.values()} == {"held"}, found
        assert await is_held(a, name)
        assert await is_held(b, name)
        assert sum(upstream.sent.values()) < SIZE * 1.5, "nothing of the other platform"


def _parsed(manifest: bytes) -> Any:
    from oci_mesh import parse_manifest

    return parse_manifest(manifest)
