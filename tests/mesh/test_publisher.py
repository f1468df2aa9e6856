"""What is deleted or pushed again on one node is so on all, whoever was away meanwhile."""

from pathlib import Path

import pytest

from oci_mesh import Node
from oci_mesh.mesh import gossip
from oci_mesh.mesh.gossip import wall_ms
from tests.images import sha256
from tests.nodes import Client, Image, eventually, make_image, meet, running, seen_by, stop

IMAGE = make_image("deleted")
LAYER = IMAGE.blobs[1]
BY_DIGEST = f"/v2/app/manifests/{IMAGE.digest}"
BY_TAG = "/v2/app/manifests/v1"
BLOB = f"/v2/app/blobs/{sha256(LAYER)}"


async def found(client: Client, node: Node, path: str) -> bool:
    """Whether a node has something, or gets it."""
    answer = await client.request("GET", node, path)
    assert answer.status in (200, 404), answer
    return answer.status == 200


async def everywhere(client: Client, nodes: tuple[Node, ...], image: Image) -> None:
    """Pull an image at each of the nodes, so that each has it."""
    for node in nodes:
        assert await client.has(node, "app", image, "v1")


@pytest.mark.parametrize(
    ("deleted", "gone", "left"),
    [
        (BY_TAG, [BY_TAG], [BY_DIGEST, BLOB]),
        (BY_DIGEST, [BY_DIGEST, BY_TAG], [BLOB]),
        (BLOB, [BLOB], [BY_DIGEST, BY_TAG]),
    ],
)
async def test_a_delete_holds_on_all_nodes(
    deleted: str, gone: list[str], left: list[str], tmp_path: Path, client: Client
) -> None:
    """Of a tag, a manifest (with its tags) or a blob: no other node's copy brings it back."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        await client.push(a, "app", IMAGE, "v1")
        await everywhere(client, (b, c), IMAGE)
        await client.delete(b, deleted)
        for node in (a, b, c):
            for path in gone:
                assert not await found(client, node, path)
                assert (await client.request("HEAD", node, path)).status == 404
            for path in left:
                assert await found(client, node, path)


@pytest.mark.parametrize("deleted", [BY_TAG, BY_DIGEST, BLOB])
async def test_what_only_others_have_can_be_deleted_here(
    deleted: str, tmp_path: Path, client: Client
) -> None:
    """A client does not know which node has what."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, "app", IMAGE, "v1")
        await client.delete(b, deleted)
        for node in (a, b):
            assert not await found(client, node, deleted)


async def test_what_nobody_has_cannot_be_deleted(tmp_path: Path, client: Client) -> None:
    """404, and nothing is remembered of it."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        for path in (BY_TAG, BY_DIGEST, BLOB):
            assert (await client.request("DELETE", b, path)).status == 404
        assert await a.store.names() == await b.store.names() == []


@pytest.mark.usefixtures("fast_gossip")
@pytest.mark.parametrize("deleted", [BY_TAG, BY_DIGEST, BLOB])
async def test_a_node_that_was_away_does_not_bring_it_back(
    deleted: str, tmp_path: Path, client: Client
) -> None:
    """It comes with the content still on its disk, learns, and has it no more."""
    async with running(tmp_path, "a") as a:
        async with running(tmp_path, "b", a.mesh_address) as b:
            await meet(a, b)
            await client.push(a, "app", IMAGE, "v1")
            await everywhere(client, (b,), IMAGE)
        await eventually("b left", lambda: not seen_by(a))
        await client.delete(a, deleted)
        async with running(tmp_path, "b", a.mesh_address) as b:
            await meet(a, b)
            for node in (a, b):
                assert not await found(client, node, deleted)


@pytest.mark.usefixtures("fast_gossip")
async def test_a_delete_reaches_nodes_through_others(tmp_path: Path, client: Client) -> None:
    """The node on which it was done is gone before the one that was away comes back."""
    async with running(tmp_path, "b") as b:
        async with running(tmp_path, "a", b.mesh_address) as a:
            await meet(a, b)
            async with running(tmp_path, "c", b.mesh_address) as c:
                await meet(a, b, c)
                await client.push(a, "app", IMAGE, "v1")
                await everywhere(client, (b, c), IMAGE)
            await eventually("c left", lambda: "c" not in seen_by(a))
            await client.delete(a, BY_DIGEST)
        async with running(tmp_path, "c", b.mesh_address) as c:
            await meet(b, c)
            assert not await found(client, c, BY_DIGEST)
            assert not await found(client, c, BY_TAG)


async def test_what_is_pushed_again_is_back_on_all_nodes(tmp_path: Path, client: Client) -> None:
    """By another node than the one that deleted it; and copies of it are made again."""
    async with (
        running(tmp_path, "a", copies=2) as a,
        running(tmp_path, "b", a.mesh_address, copies=3) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        await client.push(a, "app", IMAGE, "v1")
        for path in (BY_TAG, BY_DIGEST, BLOB):
            if await found(client, c, path):
                await client.delete(c, path)
        answer = await client.push(b, "app", IMAGE, "v1")
        assert answer.headers["OCI-Mesh-Copies"] == "3"
        await everywhere(client, (a, b, c), IMAGE)
        await stop(b)
        await stop(a)
        await everywhere(client, (c,), IMAGE)


async def test_a_delete_in_one_repository_leaves_the_others(tmp_path: Path, client: Client) -> None:
    """On every node."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        for repository in ("app", "other"):
            await client.push(a, repository, IMAGE, "v1")
            assert await client.has(b, repository, IMAGE, "v1")
        await client.delete(b, BY_DIGEST)
        await client.delete(b, BLOB)
        for node in (a, b):
            assert not await client.has(node, "app", IMAGE, "v1")
            assert await client.has(node, "other", IMAGE, "v1")


async def test_a_later_push_wins_whatever_the_clocks_say(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node's clock is minutes behind; its user saw the other push, and pushed after it."""
    first, second = make_image("first"), make_image("second")
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, "app", first, "v1")
        now = wall_ms()
        monkeypatch.setattr("oci_mesh.mesh.publisher.wall_ms", lambda: now - 200_000)
        monkeypatch.setattr(gossip, "wall_ms", lambda: now - 200_000)
        await client.push(b, "app", second, "v1")
        for node in (a, b):
            assert (await client.manifest(node, "app", "v1")).body == second.manifest
