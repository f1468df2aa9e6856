"""The contract of `Store`, as far as it is about other registries: resolutions, and letting go."""

# ruff: noqa: D102 -- the names are sentences

import asyncio
import random

import pytest

from oci_mesh.errors import BlobUnknown, ManifestUnknown
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Content, Resolution, Store, Usage
from tests.store.clock import Clock
from tests.store.content import image, push_blob, push_image, push_pieces, read_blob, stamp

OWN, OTHER = "team/a", "team/b"
MIRRORED, PRIVATE = "library/busybox@docker.io", "app@registry.corp!"
CONTENT = b"some layer " * 1000
DIGEST = Digest.of(CONTENT)
ONE, TWO, THREE = (Digest.of(text) for text in (b"one", b"two", b"three"))


async def digests(store: Store, n: int = 100, *, cached_only: bool = False) -> list[Digest]:
    """Of what is there, the longest unused first."""
    return [content.digest for content in await store.coldest(n, cached_only=cached_only)]


async def flush(store: Store, clock: Clock) -> None:
    """Have written what is written now and then, and wait until it is."""
    clock.now_s += 100
    noted = Resolution(Digest.of(str(clock.now_s).encode()), clock.now_s)
    await store.note_resolution(PRIVATE, "other", noted)
    await store.forget_resolution(PRIVATE, "other")


class ResolutionContract:
    """What tags of other registries meant."""

    async def test_what_was_noted_last_is_remembered(self, store: Store) -> None:
        assert await store.resolution(MIRRORED, "v1") is None
        for noted in (Resolution(ONE, 10.25), Resolution(TWO, 5.5), Resolution(TWO, 7.0)):
            await store.note_resolution(MIRRORED, "v1", noted)
            assert await store.resolution(MIRRORED, "v1") == noted
        assert await store.resolution(MIRRORED, "v2") is None
        assert await store.resolution(PRIVATE, "v1") is None

    async def test_all_of_them_by_name(self, store: Store, clock: Clock) -> None:
        await store.note_resolution(MIRRORED, "v2", Resolution(ONE, 1.0))
        await store.note_resolution(MIRRORED, "v1", Resolution(TWO, 2.0))
        await store.note_resolution(PRIVATE, "v1", Resolution(ONE, 3.0))
        await store.note_resolution(MIRRORED, "v2", Resolution(TWO, 4.0))
        every = sorted([(MIRRORED, "v1", TWO), (MIRRORED, "v2", TWO), (PRIVATE, "v1", ONE)])
        for _ in range(3):
            assert await store.resolutions(10) == every
            assert await store.resolutions(2) == every[:2]
            await flush(store, clock)

    async def test_it_is_neither_a_tag_nor_a_repository(self, store: Store) -> None:
        await store.note_resolution(MIRRORED, "v1", Resolution(ONE, 1.0))
        assert await store.names() == []
        assert await store.repositories() == []
        with pytest.raises(ManifestUnknown):
            await store.resolve(MIRRORED, "v1")

    async def test_forgotten_is_forgotten(self, store: Store, clock: Clock) -> None:
        await store.note_resolution(MIRRORED, "v1", Resolution(ONE, 1.0))
        await store.note_resolution(MIRRORED, "v1", Resolution(ONE, 2.0))
        await store.note_resolution(MIRRORED, "v2", Resolution(TWO, 1.0))
        await store.forget_resolution(MIRRORED, "v1")
        await store.forget_resolution(MIRRORED, "v1")
        for _ in range(3):
            assert await store.resolution(MIRRORED, "v1") is None
            assert await store.resolution(MIRRORED, "v2") == (TWO, 1.0)
            await flush(store, clock)

    async def test_at_the_same_time_the_last_call_holds(self, store: Store, clock: Clock) -> None:
        """Also while it is being written, and when it was."""
        noted = [Resolution((ONE, TWO)[number % 2], number) for number in range(20)]
        await asyncio.gather(*(store.note_resolution(MIRRORED, "v1", one) for one in noted))
        assert await store.resolution(MIRRORED, "v1") == noted[-1]
        later = Resolution(noted[-1].digest, 99)
        await store.note_resolution(MIRRORED, "v1", later)
        for _ in range(3):
            await store.coldest(1)
            assert await store.resolution(MIRRORED, "v1") == later
            clock.now_s += 100
            await store.note_resolution(PRIVATE, "v1", later)
            assert await store.resolution(MIRRORED, "v1") == later
            await flush(store, clock)

    async def test_the_longest_unchecked_are_pushed_out(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("metadata", "memory"):
            monkeypatch.setattr(f"oci_mesh.store.{module}.MAX_RESOLUTIONS", 5)
        for number in (3, 1, 2, 6, 5, 4):
            await store.note_resolution(MIRRORED, f"v{number}", Resolution(ONE, number))
        await store.note_resolution(MIRRORED, "v2", Resolution(TWO, 7))
        await store.note_resolution(MIRRORED, "v7", Resolution(ONE, 8))
        there = [n for n in range(1, 8) if await store.resolution(MIRRORED, f"v{n}") is not None]
        assert there == [2, 4, 5, 6, 7]


class ColdestContract:
    """What there is, by when it was used."""

    async def test_the_longest_unused_come_first(self, store: Store, clock: Clock) -> None:
        came_s = {}
        for text in (b"one", b"two", b"three"):
            came_s[Digest.of(text)] = clock.second()
            await push_blob(store, MIRRORED, text)
        assert await store.coldest(10) == [
            Content(digest, size, came_s[digest], False, ())
            for digest, size in ((ONE, 3), (TWO, 3), (THREE, 5))
        ]
        read_s = clock.second()
        await read_blob(store, MIRRORED, ONE)
        assert await digests(store) == [TWO, THREE, ONE]
        assert (await store.coldest(10))[-1].accessed_s == read_s
        clock.second()
        await push_blob(store, MIRRORED, b"two")
        assert await digests(store) == [THREE, ONE, TWO]

    async def test_a_blob_is_used_until_it_is_closed(self, store: Store, clock: Clock) -> None:
        for reading, other in ((ONE, b"two"), (TWO, b"one")):
            await push_blob(store, MIRRORED, b"one")
            await push_blob(store, MIRRORED, b"two")
            async with await store.blob(MIRRORED, reading):
                clock.second()
                await push_blob(store, MIRRORED, other)
                clock.second()
            assert await digests(store) == [Digest.of(other), reading]

    async def test_a_manifest_is_used_by_reading_it(self, store: Store, clock: Clock) -> None:
        manifest = image()
        await store.put_manifest(MIRRORED, manifest)
        clock.second()
        await push_blob(store, MIRRORED, b"one")
        assert await digests(store) == [manifest.digest, ONE]
        clock.second()
        assert await store.peek(MIRRORED, manifest.digest) == manifest
        assert await digests(store) == [manifest.digest, ONE]
        clock.second()
        await store.manifest(MIRRORED, manifest.digest)
        assert await digests(store) == [ONE, manifest.digest]
        assert [content.is_manifest for content in await store.coldest(2)] == [False, True]

    async def test_by_page(self, store: Store, clock: Clock) -> None:
        """Some of one second, some not; own and mirrored among each other."""
        for number in range(30):
            repository = (OWN, MIRRORED, PRIVATE)[number % 3]
            await push_blob(store, repository, b"blob %d" % number)
            if number % 4 == 0:
                clock.second()
        for cached_only, count in ((False, 30), (True, 20)):
            whole = await store.coldest(100, cached_only=cached_only)
            paged: list[Content] = []
            while page := await store.coldest(
                7, paged[-1] if paged else None, cached_only=cached_only
            ):
                paged += page
            assert paged == whole
            assert len(whole) == count
            assert whole == sorted(whole, key=lambda c: (c.accessed_s, str(c.digest)))

    async def test_whose_it_is(self, store: Store) -> None:
        for repository in (OTHER, MIRRORED, OWN, PRIVATE):
            await push_blob(store, repository, CONTENT)
        (content,) = await store.coldest(10)
        assert content.own == (OWN, OTHER)
        assert await store.coldest(10, cached_only=True) == []
        for repository in (OWN, OTHER):
            await store.delete_blob(repository, DIGEST, stamp(1))
        (content,) = await store.coldest(10, cached_only=True)
        assert content.own == ()

    async def test_what_counts_as_cached(self, store: Store) -> None:
        """In step with whatever makes content the mesh's own, or no longer."""
        size = len(CONTENT)
        await push_pieces(store, MIRRORED, CONTENT)
        assert await store.usage() == Usage(1, size, 0, size)
        await push_blob(store, OWN, CONTENT)
        await store.mount(OTHER, DIGEST, OWN)
        assert await store.usage() == Usage(1, size, 0, 0)
        await store.delete_blob(OWN, DIGEST, stamp(1))
        assert await store.usage() == Usage(1, size, 0, 0)
        await store.delete_blob(OTHER, DIGEST, stamp(1))
        assert await store.usage() == Usage(1, size, 0, size)
        await store.delete_blob(MIRRORED, DIGEST, stamp(1))
        assert await store.usage() == Usage(0, 0, 0, 0)

    async def test_the_same_bytes_as_a_manifest_of_another(self, store: Store) -> None:
        manifest = image()
        size = len(manifest.content)
        for _ in range(2):
            await store.put_manifest(MIRRORED, manifest)
            await push_blob(store, PRIVATE, manifest.content)
        assert await store.usage() == Usage(1, size, 0, size)
        for _ in range(2):
            await store.put_manifest(OWN, manifest)
        assert await store.usage() == Usage(1, size, 0, 0)
        (content,) = await store.coldest(10)
        assert (content.is_manifest, content.own) == (True, (OWN,))
        await store.delete_manifest(OWN, manifest.digest, stamp(1))
        assert await store.usage() == Usage(1, size, 0, size)


class EvictContract:
    """Letting go."""

    async def test_it_goes_from_everywhere_without_a_trace(self, store: Store) -> None:
        manifest = await push_image(store, OWN, [CONTENT], ["v1"], stamp(1))
        await push_blob(store, MIRRORED, CONTENT)
        await store.put_manifest(MIRRORED, manifest)
        names = await store.names()
        contents = await store.coldest(10)
        assert await store.evict(contents) == contents
        assert await store.usage() == Usage(0, 0, 0, 0)
        for repository in (OWN, MIRRORED):
            with pytest.raises(BlobUnknown):
                await store.stat(repository, DIGEST)
            with pytest.raises(BlobUnknown):
                await store.blob(repository, DIGEST)
            with pytest.raises(ManifestUnknown):
                await store.manifest(repository, manifest.digest)
        assert await store.names() == names
        assert await store.resolve(OWN, "v1") == manifest.digest
        assert await store.evict(contents) == []

    async def test_it_may_come_back_at_once(self, store: Store) -> None:
        """Without a stamp: nothing was deleted."""
        for repository in (OWN, MIRRORED):
            for _ in range(2):
                assert await push_blob(store, repository, CONTENT) == []
                assert await read_blob(store, repository, DIGEST) == CONTENT
                assert len(await store.evict(await store.coldest(10))) == 1

    async def test_what_is_open_stays(self, store: Store) -> None:
        for text in (b"one", b"two"):
            await push_blob(store, MIRRORED, text)
        contents = await store.coldest(10)
        async with await store.blob(MIRRORED, ONE) as first, await store.blob(MIRRORED, ONE):
            await first.close()
            await first.close()  # counts once
            for _ in range(2):
                assert ONE not in {c.digest for c in await store.evict(contents)}
                contents = await store.coldest(10)
            assert [content.digest for content in contents] == [ONE]
        assert [c.digest for c in await store.evict(await store.coldest(10))] == [ONE]

    async def test_what_was_used_since_stays(self, store: Store, clock: Clock) -> None:
        """Whatever kind of use; known from memory, or already written."""
        manifest = image(b"two")
        await push_blob(store, MIRRORED, b"one")
        await push_blob(store, MIRRORED, b"two")
        await store.put_manifest(MIRRORED, manifest)
        for written in (False, True):
            contents = await store.coldest(10)
            clock.second()
            await read_blob(store, MIRRORED, ONE)
            await push_blob(store, MIRRORED, b"two")
            await store.manifest(MIRRORED, manifest.digest)
            if written:
                await store.coldest(1)
            assert await store.evict(contents) == []
        assert (await store.usage()).blobs == 3

    async def test_what_became_another_repository_s_own_stays(self, store: Store) -> None:
        """Whoever chose it asked the mesh about those that had it then."""
        await push_blob(store, MIRRORED, b"one")
        await push_blob(store, OWN, b"two")
        contents = await store.coldest(10)
        for digest in (ONE, TWO):
            giver = MIRRORED if digest == ONE else OWN
            await store.mount(OTHER, digest, giver)
        assert await store.evict(contents) == []
        assert await read_blob(store, OTHER, ONE) == b"one"

    async def test_uploads_and_partials_stay(self, store: Store) -> None:
        upload_id = await store.create_upload(MIRRORED)
        async with store.upload(MIRRORED, upload_id) as upload:
            await upload.write(b"on")
            async with await store.partial(OWN, TWO, 3) as partial:
                partial.write(0, b"tw")
                await push_blob(store, MIRRORED, CONTENT)
                assert len(await store.evict(await store.coldest(10))) == 1
                partial.write(2, b"o")
                await partial.commit()
            await upload.write(b"e")
            await upload.commit(ONE)
        assert await read_blob(store, MIRRORED, ONE) == b"one"
        assert await read_blob(store, OWN, TWO) == b"two"

    async def test_readers_get_exact_bytes_or_nothing(self, store: Store) -> None:
        """While what they read is let go of, and comes back, all the time."""
        contents = {Digest.of(text): text for text in (b"%d" % n * 50_000 for n in range(8))}
        chance, reads = random.Random(4), 0
        done = asyncio.Event()

        async def read() -> None:
            nonlocal reads
            while not done.is_set():
                digest = chance.choice(list(contents))
                try:
                    assert await read_blob(store, MIRRORED, digest) == contents[digest]
                    reads += 1
                except BlobUnknown:
                    await push_blob(store, MIRRORED, contents[digest])
                await asyncio.sleep(0)

        async def let_go() -> int:
            gone = 0
            while gone < 100 or reads <= 100:  # whichever is slower on this machine
                gone += len(await store.evict((await store.coldest(100))[: chance.randrange(5)]))
                await asyncio.sleep(0)
            done.set()
            return gone

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(read())
            group.create_task(let_go())
        assert reads > 100


class BorderContract:
    """What another registry gave is nobody else's to give on."""

    async def test_an_anonymous_mount_does_not_reach_across(self, store: Store) -> None:
        """Or whoever knows the digest of private content would have it."""
        for repository in (PRIVATE, MIRRORED):
            await push_blob(store, repository, CONTENT)
            with pytest.raises(BlobUnknown):
                await store.mount(OWN, DIGEST, None)


class CacheContract(ResolutionContract, ColdestContract, EvictContract, BorderContract):
    """All of it."""
