"""Garbage collection: what nobody needs goes, and nothing else."""

from pathlib import Path

import pytest

from oci_mesh import Digest, Node
from oci_mesh.control.upkeep import Freed, GcResult
from oci_mesh.errors import BlobUnknown
from tests import images
from tests.mesh.conftest import client, fast_gossip
from tests.nodes import Client, eventually, make_image, meet, noise, running, stop
from tests.operations.asking import collect
from tests.store.clock import Clock, clock

__all__ = ["client", "clock", "fast_gossip"]  # fixtures

pytestmark = pytest.mark.usefixtures("fast_gossip")

APP = make_image("app")
GARBAGE = noise(5000, "garbage")
DAY_S = 24 * 3600


def freed(result: GcResult, kind: str) -> tuple[int, int]:
    """How many, and how many bytes."""
    (found,) = [each for each in result.freed if each.kind == kind]
    return found.count, found.bytes


async def has(node: Node, content: bytes, repository: str = "app") -> bool:
    """Whether it is in the node's own store."""
    try:
        await node.store.stat(repository, Digest.of(content))
    except BlobUnknown:
        return False
    return True


async def test_a_blob_that_nothing_names_goes_after_a_day(
    tmp_path: Path, client: Client, clock: Clock
) -> None:
    """Not before, for its manifest may still come; and only it."""
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", APP)
        await client.push_blob(a, "app", GARBAGE)
        clock.now_s += DAY_S - 10
        assert freed(await collect(a), "blobs") == (0, 0)
        clock.now_s += 20
        assert freed(await collect(a, dry_run=True), "blobs") == (1, len(GARBAGE))
        assert await has(a, GARBAGE)
        assert freed(await collect(a), "blobs") == (1, len(GARBAGE))
        assert not await has(a, GARBAGE)
        assert await client.has(a, "app", APP)
        assert freed(await collect(a, grace_s=0), "blobs") == (0, 0)


async def test_a_deleted_image_s_blobs_go(tmp_path: Path, client: Client, clock: Clock) -> None:
    """But those that another image names."""
    other = make_image("other")
    shared = images.encode(
        {
            "schemaVersion": 2,
            "mediaType": images.IMAGE_MANIFEST,
            "config": images.descriptor(images.IMAGE_CONFIG, other.blobs[0]),
            "layers": [images.descriptor(images.LAYER_GZIP, APP.blobs[1])],
        }
    )
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", APP, "v1")
        await client.push_blob(a, "app", other.blobs[0])
        await client.put(a, "app", "v2", shared)
        await client.delete(a, f"/v2/app/manifests/{APP.digest}")
        clock.now_s += DAY_S + 2
        assert freed(await collect(a), "blobs") == (1, len(APP.blobs[0]))
        assert [await has(a, content) for content in APP.blobs] == [False, True]


async def test_what_another_node_needs_stays(tmp_path: Path, client: Client, clock: Clock) -> None:
    """Its image has come only there; here are the only bytes."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address, sparse="allow") as b,
    ):
        await meet(a, b)
        for content in APP.blobs:
            await client.push_blob(a, "app", content)
        assert (await client.put(b, "app", "v1", APP.manifest)).status == 201
        clock.now_s += DAY_S + 2
        result = await collect(a)
        assert freed(result, "blobs") == (0, 0)
        assert result.silent == []
        assert await client.has(b, "app", APP, "v1")


async def test_a_node_that_does_not_answer_may_need_it(
    tmp_path: Path, client: Client, clock: Clock
) -> None:
    """As long as it is known; what is kept for it is told."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push_blob(a, "app", GARBAGE)
        clock.now_s += DAY_S + 2
        await b._mesh_server.__aexit__(None, None, None)
        result = await collect(a)
        assert freed(result, "blobs") == (0, 0)
        assert (result.silent, result.kept) == (["b"], len(GARBAGE))
        assert await has(a, GARBAGE)
        await stop(b)


async def test_a_node_that_left_needs_nothing(tmp_path: Path, client: Client, clock: Clock) -> None:
    """It said so."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push_blob(a, "app", GARBAGE)
        await stop(b)
        await eventually("a knows", lambda: not a.members())
        clock.now_s += DAY_S + 2
        assert freed(await collect(a), "blobs") == (1, len(GARBAGE))


async def test_a_node_that_has_met_nobody_yet_keeps_all(
    tmp_path: Path, client: Client, clock: Clock
) -> None:
    """It is told to join others: they may need it."""
    async with running(tmp_path, "a", "127.0.0.1:9") as a:
        await client.push_blob(a, "app", GARBAGE)
        clock.now_s += DAY_S + 2
        result = await collect(a)
        assert result.silent == ["127.0.0.1:9"]
        assert await has(a, GARBAGE)


async def test_manifests_without_a_tag_if_asked_for(
    tmp_path: Path, client: Client, clock: Clock
) -> None:
    """On all nodes, with their blobs here; not what is tagged, or was used on any node."""
    used = make_image("used")
    async with (
        running(tmp_path, "a", copies=2) as a,
        running(tmp_path, "b", a.mesh_address, copies=2) as b,
    ):
        await meet(a, b)
        tagged = make_image("tagged")
        for image in (APP, tagged, used):
            await client.push(a, "app", image)
        await client.put(a, "app", "v2", tagged.manifest)
        await client.push(a, "app", make_image("latest"))
        clock.now_s += DAY_S + 2
        assert await client.has(b, "app", used, used.digest)
        assert freed(await collect(a), "blobs") == (0, 0)
        result = await collect(a, untagged=True)
        assert freed(result, "manifests") == (1, len(APP.manifest))
        assert freed(result, "blobs")[0] == 2
        assert await client.has(a, "app", tagged, "v2")
        assert await client.has(a, "app", used, used.digest)
        for node in (a, b):
            assert (await client.manifest(node, "app", APP.digest)).status == 404
        assert freed(await collect(b), "blobs")[0] == 2


async def test_it_can_be_run_again(tmp_path: Path, client: Client, clock: Clock) -> None:
    """Many blobs, in steps; and what came in between is not touched."""
    async with running(tmp_path, "a") as a:
        garbage = [noise(1000, str(number)) for number in range(50)]
        for content in garbage:
            await client.push_blob(a, "app", content)
        clock.now_s += DAY_S + 2
        await client.push(a, "app", APP)
        assert freed(await collect(a), "blobs") == (50, 50_000)
        assert freed(await collect(a), "blobs") == (0, 0)
        assert await client.has(a, "app", APP)


async def test_uploads_that_nobody_continues(tmp_path: Path, client: Client, clock: Clock) -> None:
    """As the node does by itself, but now."""
    async with running(tmp_path, "a", upload_expiry=3600.0) as a:
        begun = await client.request("POST", a, "/v2/app/blobs/uploads/", b"")
        assert begun.status == 202
        clock.now_s = 2.0**32
        result = await collect(a)
        assert Freed("uploads", 1, 0) in result.freed
        assert (await client.request("GET", a, begun.headers["Location"])).status == 404


async def test_cache_beyond_its_bounds(tmp_path: Path, clock: Clock) -> None:
    """Likewise."""
    async with running(tmp_path, "a", cache_limit=10_000) as a:
        for number in range(12):
            content = noise(1000, str(number))
            upload = await a.store.create_upload("app@docker.io")
            async with a.store.upload("app@docker.io", upload) as open_upload:
                await open_upload.write(content)
                await open_upload.commit(Digest.of(content))
        clock.now_s += 3600
        assert freed(await collect(a), "cache") == (3, 3000)
