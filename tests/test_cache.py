"""The cache keeps within its bounds, and lets go of nothing that could not be had again."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from oci_mesh import Digest, MemoryStore, Node
from oci_mesh.cache import CHECK_S, MANIFEST_S, NEEDED_S, RECENT_S, Cache
from oci_mesh.errors import BlobUnknown, StorageFailed, StorageFull
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.copies import Copies
from oci_mesh.mesh.peers import Peers
from oci_mesh.metrics import Metrics
from oci_mesh.sources import bring
from oci_mesh.store.base import Content, Store
from oci_mesh.store.disk import DiskStore
from oci_mesh.tasks import Background
from tests.mesh.conftest import client, fast_gossip
from tests.nodes import (
    DEADLINE_S,
    MIB,
    Client,
    Image,
    eventually,
    make_image,
    meet,
    metric,
    noise,
    running,
    stop,
)
from tests.store.clock import Clock, clock
from tests.store.conftest import small_disk
from tests.store.content import image, push_blob, push_image, push_pieces, read_blob, stamp

__all__ = ["client", "clock", "fast_gossip", "small_disk"]  # fixtures

OWN, OTHER, MIRRORED = "team/a", "team/b", "library/busybox@docker.io"


class Mesh:
    """What other nodes say, and what they were asked."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, Digest], int] = {}
        self.asked: list[tuple[str, Digest]] = []

    async def held_elsewhere(self, repository: str, digest: Digest) -> int:
        """Of nodes before this one."""
        self.asked.append((repository, digest))
        return self.held.get((repository, digest), 0)


class Kept:
    """A cache of a store whose mesh does as it is told; bounds to be set."""

    def __init__(self, store: Store, root: Path, limit: int = 0, share: float = 1.0) -> None:
        self.store, self.mesh, self.metrics = store, Mesh(), Metrics()
        self.cache = Cache(
            store,
            self.metrics,
            root,
            self.mesh.held_elsewhere,
            limit=limit,
            share=share,
            copies=2,
        )

    async def has(self, content: bytes, repository: str = MIRRORED) -> bool:
        """Without reading it."""
        try:
            await self.store.stat(repository, Digest.of(content))
        except BlobUnknown:
            return False
        return True


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    """One that is always quick."""
    async with MemoryStore() as store:
        yield store


async def fill(
    store: Store, clock: Clock, count: int, size: int = 1000, repository: str = MIRRORED
) -> list[bytes]:
    """Blobs of the same size, one a second, longer ago than what counts as recent."""
    contents = [noise(size, f"{repository}/{number}") for number in range(count)]
    for content in contents:
        await push_blob(store, repository, content)
        clock.second()
    clock.now_s += RECENT_S
    return contents


# -- bounds


async def test_over_the_limit_the_longest_unused_go(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    """Down to nine tenths of it, and not before it is passed."""
    kept = Kept(store, tmp_path, limit=10_000)
    contents = await fill(store, clock, 10)
    await kept.cache.trim()
    assert [await kept.has(content) for content in contents] == [True] * 10
    await read_blob(store, MIRRORED, Digest.of(contents[0]))
    clock.second()
    contents += await fill(store, clock, 1, 900)
    await kept.cache.trim()
    there = [await kept.has(content) for content in contents]
    assert there == [True, False, False, *([True] * 8)]
    assert (await store.usage()).cached == 8900
    await kept.cache.trim()
    assert (await store.usage()).cached == 8900


async def test_what_is_the_mesh_s_own_does_not_count_for_the_limit(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    """Nor does it go for it, whoever else has it; nor do mirrored blobs that are its own, too."""
    kept = Kept(store, tmp_path, limit=3000)
    own = await fill(store, clock, 5, repository=OWN)
    mirrored = await fill(store, clock, 3)
    await store.mount(OTHER, Digest.of(mirrored[0]), MIRRORED)
    kept.mesh.held = {(OWN, Digest.of(content)): 9 for content in own}
    mirrored += await fill(store, clock, 2, 999)
    await kept.cache.trim()
    assert [await kept.has(content) for content in mirrored] == [True, False, False, True, True]
    assert [await kept.has(content, OWN) for content in own] == [True] * 5
    assert kept.mesh.asked == []


async def test_the_disk_s_share(small_disk: Path, clock: Clock) -> None:
    """Of what is free and what content has: it gives way to others who need the disk."""
    root = small_disk / "root"
    async with await DiskStore.open(root) as store:
        kept = Kept(store, small_disk, share=0.5)
        contents = await fill(store, clock, 9, 100_000)
        clock.now_s += RECENT_S
        await kept.cache.trim()
        left = (await store.usage()).bytes
        assert left < 900_000
        (small_disk / "others").write_bytes(bytes(_free(small_disk) // 2))
        await kept.cache.trim()
        usage = await store.usage()
        assert 0 < usage.bytes < left
        assert usage.bytes <= (usage.bytes + _free(small_disk)) // 2
        there = [await kept.has(content) for content in contents]
        assert there == sorted(there)  # the later ones


async def test_the_share_is_of_all_content(store: Store, tmp_path: Path, clock: Clock) -> None:
    """Copies of pushed content go for it too, in the order of use."""
    kept = Kept(store, tmp_path, share=1e-15)
    own = await fill(store, clock, 3, repository=OWN)
    mirrored = await fill(store, clock, 2)
    kept.mesh.held = {(OWN, Digest.of(own[0])): 2, (OWN, Digest.of(own[1])): 1}
    await kept.cache.trim()
    assert [await kept.has(content, OWN) for content in own] == [False, True, True]
    assert [await kept.has(content) for content in mirrored] == [False, False]


async def test_what_was_used_lately_stays(store: Store, tmp_path: Path, clock: Clock) -> None:
    """Others of its swarm may be about to ask for it."""
    kept = Kept(store, tmp_path, limit=1)
    contents = await fill(store, clock, 2)
    await read_blob(store, MIRRORED, Digest.of(contents[0]))
    clock.now_s += RECENT_S / 2
    await kept.cache.trim()
    assert [await kept.has(content) for content in contents] == [True, False]
    clock.now_s += RECENT_S
    await kept.cache.trim()
    assert not await kept.has(contents[0])


async def test_manifests_stay_a_week_longer(store: Store, tmp_path: Path, clock: Clock) -> None:
    """By then they go in their turn; before, only when there is nothing else."""
    kept = Kept(store, tmp_path, limit=10_000)
    first, second = image(note="1" * 5000), image(note="2" * 5000)
    await store.put_manifest(MIRRORED, first)
    clock.now_s += 10
    (content,) = await fill(store, clock, 1, 9000)
    await kept.cache.trim()
    assert not await kept.has(content)
    assert await store.manifest(MIRRORED, first.digest) == first
    clock.now_s += MANIFEST_S
    (content,) = await fill(store, clock, 1, 9000)
    await kept.cache.trim()
    assert await kept.has(content)
    assert (await store.usage()).blobs == 1
    await store.put_manifest(MIRRORED, first)
    clock.second()
    await store.put_manifest(MIRRORED, second)
    clock.now_s += 2 * RECENT_S
    await kept.cache.trim()
    assert not await kept.has(content)
    assert [content.digest for content in await store.coldest(9)] == [second.digest]


async def test_what_is_let_go_is_counted(store: Store, tmp_path: Path, clock: Clock) -> None:
    kept = Kept(store, tmp_path, limit=10_000)
    await fill(store, clock, 200, 100)
    await kept.cache.trim()
    rendered = kept.metrics.render().decode()
    assert "oci_mesh_cache_evicted_blobs_total 110.0" in rendered
    assert "oci_mesh_cache_evicted_bytes_total 11000.0" in rendered
    assert "oci_mesh_cache_bytes 9000.0" in rendered


async def test_a_disk_that_fails_once_does_not_end_it(
    store: Store, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oci_mesh.cache.CHECK_S", CHECK_S / 1000)
    kept, evict, failures = Kept(store, tmp_path, limit=1000), store.evict, [1]

    async def failing(contents: Sequence[Content]) -> list[Content]:
        if failures:
            failures.pop()
            raise StorageFailed("for once")
        return await evict(contents)

    monkeypatch.setattr(store, "evict", failing)
    await fill(store, clock, 2)
    async with Background() as background:
        background.spawn(kept.cache.run())
        await eventually(
            "both have gone",
            lambda: "evicted_blobs_total 2.0" in kept.metrics.render().decode(),
        )
    assert not failures


# -- what the mesh needs


async def test_a_copy_goes_only_if_enough_others_hold_it(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    """In every repository that has it; and never a manifest, a tag or a record."""
    kept = Kept(store, tmp_path, share=1e-15)
    content, config = noise(1000), b"{}"
    manifest = await push_image(store, OWN, [config, content], ["v1"], stamp(1))
    await push_blob(store, OTHER, content)
    await push_blob(store, MIRRORED, content)
    await store.delete_blob(OWN, Digest.of(config), stamp(2))
    names = await store.names()
    digest = Digest.of(content)
    kept.mesh.held = {(OWN, digest): 2, (OTHER, digest): 1}
    kept.mesh.held |= {(repository, manifest.digest): 9 for repository in (OWN, OTHER)}
    clock.now_s += 2 * MANIFEST_S
    await kept.cache.trim()
    assert await kept.has(content, OWN)
    kept.mesh.held[OTHER, digest] = 2
    clock.now_s += NEEDED_S
    await _forget_what_is_needed(kept)
    await kept.cache.trim()
    assert [await kept.has(content, name) for name in (OWN, OTHER, MIRRORED)] == [False] * 3
    assert await store.manifest(OWN, manifest.digest) == manifest
    assert await store.names() == names
    assert (MIRRORED, digest) not in kept.mesh.asked


async def _forget_what_is_needed(kept: Kept) -> None:
    """As if an hour had passed."""
    kept.cache._needed.clear()


async def test_other_nodes_are_not_asked_again_and_again(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    kept = Kept(store, tmp_path, share=1e-15)
    await fill(store, clock, 5, repository=OWN)
    for _ in range(3):
        await kept.cache.trim()
    assert len(kept.mesh.asked) == 5


async def trim_all(nodes: list[Node], copies: int) -> None:
    """At the same moment, on nodes for which any cache is too much."""
    async with AsyncExitStack() as stack:
        caches = []
        for node in nodes:
            peers = await stack.enter_async_context(PeerClient(node.id))
            assert node._gossip is not None
            others = Copies(
                node._gossip, Peers(node._gossip, peers, node.metrics), peers, copies
            ).held_before
            caches.append(
                Cache(
                    node.store,
                    node.metrics,
                    node.config.root,
                    others,
                    limit=0,
                    share=1e-15,
                    copies=copies,
                )
            )
        await asyncio.gather(*(cache.trim() for cache in caches))


async def hold(nodes: list[Node], picture: Image) -> None:
    """Have its blobs in their own stores."""
    for node in nodes:
        for content in picture.blobs:
            await bring(node.source, "app", Digest.of(content))


async def holders(nodes: list[Node], content: bytes) -> set[str]:
    """Who has a blob in its own store."""
    having = set()
    for node in nodes:
        try:
            await node.store.stat("app", Digest.of(content))
            having.add(node.id)
        except BlobUnknown:
            pass
    return having


@asynccontextmanager
async def mesh(root: Path, count: int) -> AsyncIterator[list[Node]]:
    """Nodes that know each other; no cache of theirs is looked after by itself."""
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for number in range(count):
            join = [nodes[0].mesh_address] if nodes else []
            nodes.append(await stack.enter_async_context(running(root, f"n{number}", *join)))
        await meet(*nodes)
        yield nodes


@pytest.mark.parametrize("count", [1, 2, 3, 5])
async def test_nodes_that_let_go_at_the_same_moment_keep_enough(
    tmp_path: Path, client: Client, clock: Clock, fast_gossip: None, count: int
) -> None:
    """Of each blob exactly `copies`, where there were as many; and all nodes still give it all."""
    pictures = [make_image(f"{number}", 5000 + number) for number in range(6)]
    async with mesh(tmp_path, count) as nodes:
        for picture in pictures:
            await client.push(nodes[0], "app", picture, picture.digest[-9:])
            await hold(nodes[1:], picture)
        clock.now_s += 2 * RECENT_S
        await trim_all(nodes, 2)
        left: list[set[str]] = []
        for picture in pictures:
            left += [await holders(nodes, content) for content in picture.blobs]
        assert {len(having) for having in left} == {min(2, count)}
        if count > 2:
            assert len(set(map(frozenset, left))) > 1  # not the same nodes for all
        for node in nodes:
            for picture in pictures:
                assert await client.has(node, "app", picture, picture.digest[-9:])


async def test_who_does_not_answer_does_not_count(
    tmp_path: Path, client: Client, clock: Clock, fast_gossip: None
) -> None:
    """Of three that hold it two stay when all live: with one of them gone, both stay as well."""
    picture = make_image("kept")
    async with mesh(tmp_path, 3) as nodes:
        await client.push(nodes[0], "app", picture)
        await hold(nodes[1:], picture)
        await stop(nodes[1])
        clock.now_s += 2 * RECENT_S
        rest = [nodes[0], nodes[2]]
        await trim_all(rest, 2)
        for content in picture.blobs:
            assert len(await holders(rest, content)) == 2


# -- room on demand

LIMIT = 10 * MIB


@pytest.fixture
def just_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more room is made than somebody asks for."""
    monkeypatch.setattr("oci_mesh.cache.RELIEF_BYTES", 0)


@asynccontextmanager
async def full(root: Path, clock: Clock) -> AsyncIterator[tuple[Kept, list[bytes]]]:
    """A store that has no room left but what cache takes: ten mebibytes, by age."""
    async with await DiskStore.open(root, limit=LIMIT) as store:
        contents = await fill(store, clock, 10, MIB)
        yield Kept(store, root), contents


async def test_a_push_is_not_refused_while_there_is_cache(
    tmp_path: Path, clock: Clock, just_enough: None
) -> None:
    """Nor are pieces, or a manifest: the longest unused makes room."""
    async with full(tmp_path, clock) as (kept, contents):
        await push_blob(kept.store, OWN, noise(MIB + 1), stamp(1))
        there = [await kept.has(content) for content in contents]
        assert there == [False] * 2 + [True] * 8
        await push_pieces(kept.store, OWN, noise(2 * MIB), stamp(1), piece=MIB)
        there = [await kept.has(content) for content in contents]
        assert there == [False] * 4 + [True] * 6
        await push_blob(kept.store, OWN, noise(MIB - 10), stamp(1))
        await kept.store.put_manifest(OWN, image(), ["v1"], stamp(2))
        assert [await kept.has(content) for content in contents] == [False] * 5 + [True] * 5


async def test_many_at_the_same_time_all_find_room(tmp_path: Path, clock: Clock) -> None:
    async with full(tmp_path, clock) as (kept, contents):
        pushes = [noise(2 * MIB, f"{number}") for number in range(5)]
        await asyncio.gather(
            *(push_blob(kept.store, OWN, content, stamp(1)) for content in pushes[:2]),
            *(push_pieces(kept.store, OWN, content, piece=MIB) for content in pushes[2:]),
        )
        assert [await kept.has(content, OWN) for content in pushes] == [True] * 5
        assert not any([await kept.has(content) for content in contents])


async def test_room_made_for_one_serves_the_others(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited while it was made looks first whether there is some now."""
    async with full(tmp_path, clock) as (kept, _):
        steps, evict = [], kept.store.evict

        async def counted(contents: Sequence[Content]) -> list[Content]:
            steps.append(len(contents))
            return await evict(contents)

        monkeypatch.setattr(kept.store, "evict", counted)
        monkeypatch.setattr("oci_mesh.cache.RELIEF_BYTES", MIB)
        pushes = [noise(MIB // 50, f"{number}") for number in range(20)]
        await asyncio.gather(*(push_blob(kept.store, OWN, content) for content in pushes))
        assert steps == [1]


async def test_nothing_goes_in_vain(tmp_path: Path, clock: Clock) -> None:
    """For what would not fit anyway; the mesh's own that others do not hold is no room."""
    async with full(tmp_path, clock) as (kept, contents):
        await kept.store.mount(OWN, Digest.of(contents[3]), MIRRORED)
        size = 9 * MIB + 1
        with pytest.raises(StorageFull, match="disk-limit"):
            await kept.store.partial(OWN, Digest.of(bytes(size)), size)
        assert [await kept.has(content) for content in contents] == [True] * 10
        async with await kept.store.partial(OWN, Digest.of(bytes(9 * MIB)), 9 * MIB) as partial:
            assert [await kept.has(content) for content in contents].count(True) == 1
            assert await kept.has(contents[3], OWN)
            await partial.discard()
        assert kept.mesh.asked[0] == (OWN, Digest.of(contents[3]))


async def test_what_is_read_makes_no_room(
    tmp_path: Path, clock: Clock, just_enough: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is closed; what comes next makes it instead, and then the push is refused."""
    monkeypatch.setattr("oci_mesh.cache.RELIEF_S", 10 * DEADLINE_S)
    async with full(tmp_path, clock) as (kept, contents), asyncio.timeout(DEADLINE_S):
        async with await kept.store.blob(MIRRORED, Digest.of(contents[0])) as blob:
            for content in contents[1:]:
                await push_blob(kept.store, OWN, noise(MIB, content[:8].hex()), stamp(1))
                assert await kept.has(contents[0])
                assert not await kept.has(content)
            with pytest.raises(StorageFull, match="disk-limit"):
                await push_blob(kept.store, OWN, noise(MIB), stamp(1))
            read = b"".join([chunk async for chunk in blob.chunks(0, MIB)])
            assert read == contents[0]
        await push_blob(kept.store, OWN, noise(MIB), stamp(1))
        assert not await kept.has(contents[0])


async def test_a_disk_that_others_filled_has_room_after_all(small_disk: Path, clock: Clock) -> None:
    """The reserve is kept by letting go of cache; bytes are free before the answer."""
    reserve = MIB // 2
    async with await DiskStore.open(small_disk / "root", reserve=reserve) as store:
        contents = await fill(store, clock, 5, 100_000)
        kept = Kept(store, small_disk)
        (small_disk / "others").write_bytes(bytes(_free(small_disk) - reserve))
        await push_blob(store, OWN, noise(150_000), stamp(1))
        there = [await kept.has(content) for content in contents]
        assert not there[0]
        assert not there[1]
        assert await read_blob(store, OWN, Digest.of(noise(150_000))) == noise(150_000)


async def test_a_client_that_goes_away_while_room_is_made(tmp_path: Path, clock: Clock) -> None:
    """It holds nothing up: its upload and its partial can be held again."""
    async with full(tmp_path, clock) as (kept, _):
        store, digest = kept.store, Digest.of(noise(3 * MIB))
        waiting = asyncio.create_task(store.partial(OWN, digest, 3 * MIB))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        async with await store.partial(OWN, digest, 3 * MIB) as partial:
            await partial.discard()
        await push_blob(store, OWN, noise(8 * MIB), stamp(1))


def _free(root: Path) -> int:
    disk = os.statvfs(root)
    return disk.f_bavail * disk.f_frsize


async def test_a_node_looks_after_its_cache(
    tmp_path: Path, client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is configured, by itself."""
    monkeypatch.setattr("oci_mesh.cache.CHECK_S", CHECK_S / 1000)
    async with running(tmp_path, "a", cache_limit=10_000) as node:
        contents = await fill(node.store, clock, 12)
        await eventually(
            "three have gone", lambda: metric(node, "oci_mesh_cache_evicted_blobs_total") == 3
        )
        kept = [await node.store.stat(MIRRORED, Digest.of(c)) for c in contents[3:]]
        assert kept == [1000] * 9
        assert (await node.store.usage()).cached == 9000
