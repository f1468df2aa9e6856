"""Drain: what only one node has is on others when it leaves, or it does not leave."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from oci_mesh import Digest, Node
from oci_mesh.control import upkeep
from oci_mesh.control.client import ControlClient
from oci_mesh.control.upkeep import DrainRequest, Progress
from oci_mesh.errors import OperationFailed
from oci_mesh.members.table import Member, rendezvous
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.copies import Copies
from oci_mesh.mesh.peers import Peers
from oci_mesh.mesh.replication import Replication
from oci_mesh.mesh.wire import REPLICATE_PATH, TAKE_PATH
from oci_mesh.metrics import Metrics
from tests import images
from tests.mesh.conftest import client, fast_gossip
from tests.nodes import Client, Image, eventually, make_image, meet, noise, running, seen_by, stop
from tests.operations.asking import documents, drain

__all__ = ["client", "fast_gossip"]  # fixtures

pytestmark = pytest.mark.usefixtures("fast_gossip")

APP = make_image("app")


async def has_all(client: Client, node: Node, *pushed: Image) -> bool:
    """Whether a node can give these from its own store."""
    for image in pushed:
        digests = [Digest.parse(image.digest)]
        if await node.store.whole("app", digests) != digests:
            return False
    return True


async def test_what_only_it_has_is_handed_over(tmp_path: Path, client: Client) -> None:
    """Then it leaves; and nothing is lost when it is gone."""
    other = make_image("other")
    async with (
        running(tmp_path, "a", copies=1) as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        await client.push(a, "app", APP, "v1")
        await client.push(a, "app", other, "v2")
        planned = await drain(a, dry_run=True)
        assert {only.digest for only in planned.handed_over} == {APP.digest, other.digest}
        assert not planned.left
        assert sum(only.size for only in planned.handed_over) == sum(
            len(content) for image in (APP, other) for content in (image.manifest, *image.blobs)
        )
        said = await documents(a, upkeep.DRAIN, DrainRequest(), upkeep.DrainDocument)
        result = said[-1]
        assert result.left
        assert {only.digest for only in result.handed_over} == {APP.digest, other.digest}
        assert not result.failed
        progress = [document for document in said[:-1] if isinstance(document, Progress)]
        assert (progress[-1].done, progress[-1].total) == (planned_size(planned),) * 2
        await eventually("b knows that it left", lambda: "a" not in seen_by(b))
        await stop(a)
        for tag, image in (("v1", APP), ("v2", other)):
            assert await client.has(b, "app", image, tag)
            assert await client.has(c, "app", image, tag)


def planned_size(planned: upkeep.DrainResult) -> int:
    """Of what is to be handed over."""
    return sum(only.size for only in planned.handed_over)


async def test_enough_others_have_it_already(tmp_path: Path, client: Client) -> None:
    """Nothing is sent; and cache is nobody's loss."""
    async with (
        running(tmp_path, "a", copies=2) as a,
        running(tmp_path, "b", a.mesh_address) as b,
    ):
        await meet(a, b)
        await client.push(a, "app", APP)
        await push_mirrored(a)
        result = await drain(a)
        assert result.left
        assert result.handed_over == []


async def push_mirrored(node: Node) -> None:
    """Something of another registry, which others can have from there."""
    upload = await node.store.create_upload("app@docker.io")
    async with node.store.upload("app@docker.io", upload) as open_upload:
        await open_upload.write(b"cache")
        await open_upload.commit(Digest.of(b"cache"))


async def test_on_as_many_as_are_asked_for(tmp_path: Path, client: Client) -> None:
    """By its setting, or by the request; a node that drains too is none of them."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
        running(tmp_path, "d", a.mesh_address) as d,
    ):
        await meet(a, b, c, d)
        await client.push(a, "app", APP)
        assert d._gossip is not None
        await d._gossip.drain()
        await eventually(
            "a knows that d drains",
            lambda: any(m.draining for m in a.members()),
        )
        result = await drain(a, copies=3)
        assert result.left
        assert sorted(result.handed_over[0].holders) == ["b", "c"]
        assert await has_all(client, b, APP)
        assert await has_all(client, c, APP)
        assert not await has_all(client, d, APP)


async def test_an_index_and_what_refers_to_it(tmp_path: Path, client: Client) -> None:
    """Every manifest is handed over, whatever leads to it, with its blobs."""
    signature = make_image(
        "signature", 1000, subject=images.descriptor(images.IMAGE_MANIFEST, APP.manifest)
    )
    index = images.encode(
        {
            "schemaVersion": 2,
            "mediaType": images.IMAGE_INDEX,
            "manifests": [images.descriptor(images.IMAGE_MANIFEST, APP.manifest)],
        }
    )
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, "app", APP, APP.digest)
        await client.put(a, "app", "v1", index)
        await client.push(a, "app", signature, signature.digest)
        assert (await drain(a)).left
        await stop(a)
        assert await client.has(b, "app", APP, APP.digest)
        assert await client.has(b, "app", signature, signature.digest)
        assert (await client.manifest(b, "app", "v1")).body == index


async def test_a_blob_of_a_push_that_is_under_way(tmp_path: Path, client: Client) -> None:
    """Its manifest may come to another node."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        for content in APP.blobs:
            await client.push_blob(a, "app", content)
        result = await drain(a)
        assert result.left
        assert len(result.handed_over) == 2
        await stop(a)
        assert (await client.put(b, "app", "v1", APP.manifest)).status == 201
        assert await client.has(b, "app", APP, "v1")


async def test_the_last_node_has_nobody(tmp_path: Path, client: Client) -> None:
    """It says so, stays in the mesh, and takes pushes again."""
    async with running(tmp_path, "a") as a:
        assert (await drain(a, dry_run=True)).handed_over == []
        await client.push(a, "app", APP)
        result = await drain(a)
        assert not result.left
        (failed,) = result.failed
        assert failed.digest == APP.digest
        assert "no other node" in failed.reason
        await client.push(a, "app", make_image("later"))
        assert (await client.request("GET", a, "/readyz")).status == 200


async def test_a_node_with_nothing_may_go(tmp_path: Path) -> None:
    """Also the last one."""
    async with running(tmp_path, "a") as a:
        assert (await drain(a)).left


async def test_full_disks(tmp_path: Path, client: Client) -> None:
    """Who has no room is passed over; if nobody has, what stays is named, and why."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address, disk_limit=50_000) as b,
    ):
        await meet(a, b)
        small = make_image("small", 1000)
        await client.push(a, "app", APP, "v1")
        await client.push(a, "app", small, "v2")
        result = await drain(a)
        assert not result.left
        assert [only.digest for only in result.failed] == [APP.digest]
        assert "disk-limit" in result.failed[0].reason
        assert [only.digest for only in result.handed_over] == [small.digest]
        assert await client.has(a, "app", APP, "v1")
        async with running(tmp_path, "c", a.mesh_address) as c:
            await meet(a, b, c)
            result = await drain(a)
            assert result.left
            assert [only.digest for only in result.handed_over] == [APP.digest]
            assert result.handed_over[0].holders == ["c"]
            assert await has_all(client, c, APP)


async def test_a_taker_that_dies_is_replaced(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of it."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        await client.push(a, "app", APP)
        nodes = {node.id: node for node in (b, c)}
        dead: list[str] = []
        give = Replication.give

        async def dies(self: Replication, member: Member, *arguments: Any, **more: Any) -> None:
            if not dead:
                dead.append(member.id)
                await stop(nodes[member.id])
            await give(self, member, *arguments, **more)

        monkeypatch.setattr(Replication, "give", dies)
        result = await drain(a)
        assert result.left
        (only,) = result.handed_over
        (survivor,) = {"b", "c"} - set(dead)
        assert only.holders == [survivor]
        assert await has_all(client, nodes[survivor], APP)


async def test_what_a_taker_says_is_not_relied_upon(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that it holds it; asked again, it does not."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, "app", APP)

        async def lies(self: Replication, *arguments: object, **more: object) -> None:
            pass

        monkeypatch.setattr(Replication, "give", lies)
        result = await drain(a)
        assert not result.left
        assert [only.digest for only in result.failed] == [APP.digest]


async def test_meanwhile_it_takes_no_pushes(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor copies for others; it serves what it has, and is not ready for more."""
    going, go_on = asyncio.Event(), asyncio.Event()
    give = Replication.give

    async def waits(self: Replication, *arguments: Any, **more: Any) -> None:
        going.set()
        await go_on.wait()
        await give(self, *arguments, **more)

    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address, copies=2) as b,
    ):
        await meet(a, b)
        await client.push(a, "app", APP, "v1")
        monkeypatch.setattr(Replication, "give", waits)
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(drain(a))
            await going.wait()
            later = make_image("later")
            refused = await client.request(
                "POST", a, "/v2/app/blobs/uploads/", b"", Content_Type="application/octet-stream"
            )
            assert refused.status == 503
            assert refused.headers["Retry-After"]
            assert (await client.put(a, "app", "v2", APP.manifest)).status == 503
            for path in (REPLICATE_PATH, TAKE_PATH):
                copy = await client.session.post(f"http://{a.mesh_address}{path}")
                assert copy.status == 503
            assert (await client.request("GET", a, "/readyz")).status == 503
            assert (await client.request("GET", a, "/healthz")).status == 200
            assert await client.has(a, "app", APP, "v1")
            with pytest.raises(OperationFailed, match="already"):
                await drain(a)
            pushed = await client.push(b, "app", later)
            assert pushed.headers["OCI-Mesh-Copies"] == "1", "the draining node is none"
            go_on.set()
            assert (await draining).left
        assert await client.has(a, "app", later), "it still serves its own machine"
        assert (await client.put(a, "app", "v2", APP.manifest)).status == 503
        assert (await drain(a)).left, "again"


async def test_who_goes_away_stops_it(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is as before, and can be drained again."""
    going = asyncio.Event()
    give = Replication.give

    async def waits(self: Replication, *arguments: object, **more: object) -> None:
        going.set()
        await asyncio.Event().wait()

    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, "app", APP)
        monkeypatch.setattr(Replication, "give", waits)
        async with ControlClient(a.config.root) as control, asyncio.TaskGroup() as group:
            draining = group.create_task(control.call(upkeep.DRAIN, DrainRequest(), Progress))
            await going.wait()
            draining.cancel()
        monkeypatch.setattr(Replication, "give", give)
        assert a._gossip is not None
        me = a._gossip.table
        await eventually("it does not drain any more", lambda: not me.me.draining)
        await client.push(a, "app", make_image("later"), "later")
        assert (await drain(a)).left
        assert await has_all(client, b, APP, make_image("later"))


async def test_not_for_ever(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a hook before a pod stops wants it."""

    async def never(self: Replication, *arguments: object, **more: object) -> None:
        await asyncio.Event().wait()

    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, "app", APP)
        monkeypatch.setattr(Replication, "give", never)
        result = await drain(a, within_s=0.1)
        assert not result.left
        assert result.handed_over == []
        assert [(only.digest, "no time" in only.reason) for only in result.failed] == [
            (APP.digest, True)
        ]
        assert (await client.request("GET", a, "/readyz")).status == 200


async def test_an_image_that_nobody_has_all_of(tmp_path: Path, client: Client) -> None:
    """What there is of it is handed over, it is named, and keeps nobody."""
    async with (
        running(tmp_path, "a", sparse="allow") as a,
        running(tmp_path, "b", a.mesh_address) as b,
    ):
        await meet(a, b)
        await client.push_blob(a, "app", APP.blobs[0])
        assert (await client.put(a, "app", "v1", APP.manifest)).status == 201
        result = await drain(a)
        assert result.left
        assert [only.digest for only in result.incomplete] == [APP.digest]
        await stop(a)
        assert (await client.manifest(b, "app", "v1")).body == APP.manifest
        assert (await client.blob(b, "app", APP.blobs[0])).body == APP.blobs[0]


async def test_pushes_under_way_are_waited_for(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acknowledged is handed over, also if it was just being pushed."""
    going, go_on = asyncio.Event(), asyncio.Event()
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        put = a.store.put_manifest

        async def waits(*arguments: Any) -> Any:
            going.set()
            await go_on.wait()
            return await put(*arguments)

        monkeypatch.setattr(a.store, "put_manifest", waits)
        async with asyncio.TaskGroup() as group:
            pushing = group.create_task(client.push(a, "app", APP))
            await going.wait()
            draining = group.create_task(drain(a))
            await eventually("it is closed", lambda: a._desk.upkeep.pushes.closed)
            await asyncio.sleep(0.2)  # were it not waited for, it would have left by now
            assert not draining.done()
            go_on.set()
            assert (await pushing).status == 201
            assert (await draining).left
        assert await has_all(client, b, APP)


async def test_the_cache_does_not_count_on_who_drains(tmp_path: Path, client: Client) -> None:
    """Its copies are about to go."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        assert a._gossip is not None
        assert b._gossip is not None
        nodes = [a._gossip.table.me, b._gossip.table.me]
        layers = (noise(100, str(number)) for number in range(1000))
        layer = next(x for x in layers if rendezvous(str(Digest.of(x)), nodes)[0].id == "a")
        await client.push_blob(a, "app", layer)
        async with PeerClient("b") as peers:
            copies = Copies(b._gossip, Peers(b._gossip, peers, Metrics()), peers, 1)
            assert await copies.held_before("app", Digest.of(layer)) == 1
            await a._gossip.drain()
            assert await copies.held_before("app", Digest.of(layer)) == 0
