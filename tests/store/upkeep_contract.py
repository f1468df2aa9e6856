"""Part of the contract of stores: what a garbage collection and a scrub need."""

# ruff: noqa: D102 -- the names are sentences

import asyncio
from pathlib import Path
from typing import cast

import pytest

from oci_mesh.errors import BlobUnknown, ManifestBlobUnknown, ManifestUnknown
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Content, Damage, Leftovers, Place, Store, Unnamed, Usage
from oci_mesh.store.disk import DiskStore
from oci_mesh.store.memory import MemoryStore
from tests.store.clock import Clock
from tests.store.content import image, index, push_blob, push_image, read_blob, stamp

OWN, OTHER, MIRRORED = "team/a", "team/b", "app@docker.io"
CONTENT = b"a layer " * 1000
DIGEST = Digest.of(CONTENT)
SOON = 2.0**40  # everything was used before that


async def no_pace(count: int) -> None:
    """As fast as can be."""


def harm(store: Store, digest: Digest, content: bytes) -> None:
    """Put other bytes in the place of a content, behind the store's back."""
    if isinstance(store, DiskStore):
        path = Path(store._layout.blob(digest))
        path.write_bytes(content)
        return
    memory = cast("MemoryStore", store)
    for blobs in memory._blobs.values():
        if digest in blobs:
            blobs[digest] = content


async def damage(store: Store, digest: Digest) -> Damage:
    """Harm a content, and find that."""
    harm(store, digest, b"harmed")
    found = await store.check(digest, no_pace)
    assert found is not None
    return found


class CheckContract:
    """Reading again."""

    async def test_what_is_right_is_right(self, store: Store) -> None:
        manifest = await push_image(store, OWN, [CONTENT, b""], ["v1"], stamp(1))
        for digest in (DIGEST, Digest.of(b""), manifest.digest, Digest.of(b"not here")):
            assert await store.check(digest, no_pace) is None

    async def test_every_content_once_by_page(self, store: Store) -> None:
        for number in range(25):
            await push_blob(store, (OWN, MIRRORED)[number % 2], b"%d" % number)
        await push_blob(store, OTHER, b"0")
        manifest = image()
        await store.put_manifest(OTHER, manifest)
        found: list[Content] = []
        after = None
        while page := await store.contents(7, after):
            found, after = found + page, page[-1]
        expected = [str(Digest.of(b"%d" % number)) for number in range(25)]
        assert [str(c.digest) for c in found] == sorted([*expected, str(manifest.digest)])
        own = {content.digest: content.own for content in found}
        assert own[Digest.of(b"0")] == (OWN, OTHER)
        assert own[Digest.of(b"1")] == ()
        assert [c.digest for c in found if c.is_manifest] == [manifest.digest]

    async def test_the_pace_is_told_what_was_read(self, store: Store) -> None:
        await push_blob(store, OWN, CONTENT)
        read = 0

        async def pace(count: int) -> None:
            nonlocal read
            read += count

        assert await store.check(DIGEST, pace) is None
        assert read == len(CONTENT)

    @pytest.mark.parametrize("harmed", [CONTENT[:-1], CONTENT + b"x", b"", b"x" + CONTENT[1:]])
    async def test_other_bytes_are_found(self, store: Store, harmed: bytes) -> None:
        await push_blob(store, OWN, CONTENT)
        harm(store, DIGEST, harmed)
        found = await store.check(DIGEST, no_pace)
        assert found is not None
        assert found.digest == DIGEST
        assert found.reason

    async def test_quarantine_takes_it_from_everywhere_without_a_trace(self, store: Store) -> None:
        manifest = await push_image(store, OWN, [CONTENT], ["v1"], stamp(1))
        for repository in (OTHER, MIRRORED):
            await store.mount(repository, DIGEST, OWN)
        names = await store.names()
        places = await store.quarantine(await damage(store, DIGEST))
        assert sorted(places) == [Place(where, False) for where in (MIRRORED, OWN, OTHER)]
        for repository in (OWN, OTHER, MIRRORED):
            with pytest.raises(BlobUnknown):
                await store.blob(repository, DIGEST)
        assert await store.usage() == Usage(1, len(manifest.content), 0, 0)
        assert await store.names() == names
        assert await store.check(DIGEST, no_pace) is None
        await push_blob(store, OWN, CONTENT)
        assert await read_blob(store, OWN, DIGEST) == CONTENT

    async def test_what_came_anew_is_not_quarantined(self, store: Store) -> None:
        """A push may have been quicker; then it has been acknowledged."""
        await push_blob(store, OWN, CONTENT)
        found = await damage(store, DIGEST)
        await store.delete_blob(OWN, DIGEST, stamp(1))
        await push_blob(store, OTHER, CONTENT, stamp(2))
        assert await store.quarantine(found) == []
        assert await read_blob(store, OTHER, DIGEST) == CONTENT

    async def test_quarantined_once(self, store: Store) -> None:
        await push_blob(store, OWN, CONTENT)
        found = await damage(store, DIGEST)
        assert await store.quarantine(found) == [Place(OWN, False)]
        assert await store.quarantine(found) == []

    async def test_a_manifest_in_two_roles(self, store: Store) -> None:
        manifest = image(note="x")
        await store.put_manifest(OWN, manifest, ["v1"], stamp(1))
        await push_blob(store, OWN, manifest.content)
        found = Damage(manifest.digest, "", (await _seen(store, manifest.digest)).seen)
        assert await store.quarantine(found) == [Place(OWN, False), Place(OWN, True)]
        with pytest.raises(ManifestUnknown):
            await store.manifest(OWN, manifest.digest)
        assert await store.resolve(OWN, "v1") == manifest.digest


async def _seen(store: Store, digest: Digest) -> Damage:
    """As `check` would have it if this content were damaged."""
    if isinstance(store, DiskStore):
        return await damage(store, digest)
    memory = cast("MemoryStore", store)
    return Damage(digest, "", memory._bytes(digest))


class GarbageContract:
    """What no manifest names."""

    async def test_what_is_named_stays(self, store: Store) -> None:
        child = image(CONTENT)
        await push_blob(store, OWN, CONTENT)
        await push_blob(store, OWN, b"garbage")
        await push_blob(store, MIRRORED, b"cache")
        await store.put_manifest(OWN, child)
        await store.put_manifest(OWN, index(child), ["v1"], stamp(1))
        garbage = Unnamed(OWN, Digest.of(b"garbage"), 7)
        assert await store.unnamed(OWN, SOON) == [garbage]
        named = Unnamed(OWN, DIGEST, len(CONTENT))
        assert await store.collect([garbage, named], SOON) == [garbage]
        assert await read_blob(store, OWN, DIGEST) == CONTENT
        with pytest.raises(BlobUnknown):
            await store.stat(OWN, garbage.digest)
        assert await store.collect([garbage], SOON) == []
        assert await store.names() != []

    async def test_each_repository_for_itself(self, store: Store) -> None:
        """What another one names frees no bytes, and stays there."""
        await push_image(store, OWN, [CONTENT], ["v1"], stamp(1))
        await store.mount(OTHER, DIGEST, OWN)
        (garbage,) = await store.unnamed(OTHER, SOON)
        assert await store.collect([garbage], SOON) == [garbage._replace(size=0)]
        assert await read_blob(store, OWN, DIGEST) == CONTENT
        with pytest.raises(BlobUnknown):
            await store.stat(OTHER, DIGEST)

    async def test_garbage_that_was_used_since_stays(self, store: Store, clock: Clock) -> None:
        """Pushed, mounted, read, or open."""
        await push_blob(store, OWN, CONTENT)
        before_s = clock.second()
        (garbage,) = await store.unnamed(OWN, before_s)
        for use in (
            lambda: push_blob(store, OWN, CONTENT),
            lambda: store.mount(OTHER, DIGEST, OWN),
            lambda: read_blob(store, OWN, DIGEST),
        ):
            await use()
            assert await store.unnamed(OWN, before_s) == []
            assert await store.collect([garbage], before_s) == []
            before_s = clock.second()
            assert garbage in await store.unnamed(OWN, before_s)
        async with await store.blob(OWN, DIGEST):
            assert await store.unnamed(OWN, SOON) == [garbage]
            assert await store.collect([garbage], SOON) == []
        assert await store.collect([garbage], SOON) == [], "it was read since that was asked"
        assert await store.unnamed(OWN, SOON) == [garbage]
        assert await store.collect([garbage], SOON) == [garbage._replace(size=0)]

    async def test_a_manifest_that_came_meanwhile_keeps_its_blobs(self, store: Store) -> None:
        await push_blob(store, OWN, CONTENT)
        garbage = await store.unnamed(OWN, SOON)
        manifest = image(CONTENT)
        await store.put_manifest(OWN, manifest, ["v1"], stamp(1), manifest.blobs)
        assert await store.collect(garbage, SOON) == []
        assert await store.whole(OWN, [manifest.digest]) == [manifest.digest]

    async def test_a_deleted_manifest_leaves_garbage(self, store: Store) -> None:
        manifest = await push_image(store, OWN, [CONTENT], ["v1"], stamp(1))
        await store.delete_manifest(OWN, manifest.digest, stamp(2))
        assert [each.digest for each in await store.unnamed(OWN, SOON)] == [DIGEST]

    async def test_a_damaged_manifest_leaves_none(self, store: Store) -> None:
        """Until it is looked at no more: it may come back."""
        manifest = await push_image(store, OWN, [CONTENT], ["v1"], stamp(1))
        await store.quarantine(await _seen(store, manifest.digest))
        assert await store.unnamed(OWN, SOON) == []
        await store.purge_quarantine(1000)
        assert await store.unnamed(OWN, SOON) == []
        await store.purge_quarantine(0)
        assert [each.digest for each in await store.unnamed(OWN, SOON)] == [DIGEST]
        assert await store.purge_quarantine(0) == Leftovers(0, 0)

    async def test_what_is_whole(self, store: Store) -> None:
        manifest, top = image(CONTENT, b"two"), index(image(CONTENT, b"two"), image(b"three"))
        digests = [manifest.digest, top.digest, DIGEST]
        await store.put_manifest(OWN, manifest)
        await store.put_manifest(OWN, top)
        assert await store.whole(OWN, digests) == [top.digest]
        await push_blob(store, OWN, CONTENT)
        assert await store.whole(OWN, digests) == [top.digest, DIGEST]
        await push_blob(store, OWN, b"two")
        assert await store.whole(OWN, digests) == digests
        assert await store.whole(OTHER, digests) == []
        assert await store.manifests(OWN) == sorted([manifest.digest, top.digest])

    async def test_what_is_needed(self, store: Store, clock: Clock) -> None:
        manifest = await push_image(store, OWN, [CONTENT], [], stamp(1))
        await push_blob(store, OWN, b"garbage")
        now_s = clock.second()
        digests = [DIGEST, manifest.digest, Digest.of(b"garbage"), Digest.of(b"not here")]
        assert await store.needed(OWN, digests, now_s) == [DIGEST]
        await store.manifest(OWN, manifest.digest)
        assert await store.needed(OWN, digests, now_s) == digests[:2]
        assert await store.needed(OTHER, digests, now_s) == []

    async def test_readers_and_pushes_beside_it(self, store: Store) -> None:
        """An acknowledged image is whole, whenever its blobs were collected before."""
        contents = [b"%d" % n * 50_000 for n in range(4)]
        manifest, gone = image(*contents), 0

        async def push() -> None:
            for round_ in range(20):
                for content in contents:
                    await push_blob(store, OWN, content, stamp(3 * round_ + 1))
                    await asyncio.sleep(0)
                try:
                    await store.put_manifest(
                        OWN, manifest, ["v1"], stamp(3 * round_ + 2), manifest.blobs
                    )
                except ManifestBlobUnknown:  # some went in between
                    continue
                assert await store.whole(OWN, [manifest.digest]) == [manifest.digest]
                for content in contents:
                    assert await read_blob(store, OWN, Digest.of(content)) == content
                await store.delete_manifest(OWN, manifest.digest, stamp(3 * round_ + 3))

        async with asyncio.TaskGroup() as group:
            pushing = group.create_task(push())
            while not pushing.done():
                gone += len(await store.collect(await store.unnamed(OWN, SOON), SOON))
                await asyncio.sleep(0)
        assert gone > 0


class UntaggedContract:
    """Manifests that nothing leads to."""

    async def test_what_leads_to_a_manifest(self, store: Store) -> None:
        """A tag, an index, something about it; or it is about something."""
        tagged, child, signed, astray = (image(note=str(n)) for n in range(4))
        signature, orphan = image(note="s", subject=signed), image(note="o", subject=image(b"gone"))
        for manifest in (child, signed, astray, signature, orphan):
            await store.put_manifest(OWN, manifest, (), stamp(1))
        await store.put_manifest(OWN, tagged, ["v1"], stamp(1))
        await store.put_manifest(OWN, index(child), ["v2"], stamp(1))
        found = await store.untagged(OWN, SOON)
        assert {each.digest for each in found} == {astray.digest, orphan.digest}
        assert {each.size for each in found} == {len(astray.content), len(orphan.content)}
        assert await store.untagged(OTHER, SOON) == []

    async def test_it_goes_with_a_record(self, store: Store) -> None:
        manifest = await push_image(store, OWN, [CONTENT], [], stamp(1))
        (record,) = await store.delete_untagged(OWN, manifest.digest, stamp(2), SOON)
        assert (record.name, record.target) == (str(manifest.digest), None)
        with pytest.raises(ManifestUnknown):
            await store.manifest(OWN, manifest.digest)
        with pytest.raises(ManifestUnknown):
            await store.put_manifest(OWN, manifest)
        assert [each.digest for each in await store.unnamed(OWN, SOON)] == [DIGEST]

    async def test_what_was_tagged_or_used_meanwhile_stays(
        self, store: Store, clock: Clock
    ) -> None:
        manifest = await push_image(store, OWN, [CONTENT], [], stamp(1))
        before_s = clock.second()
        assert len(await store.untagged(OWN, before_s)) == 1
        await store.manifest(OWN, manifest.digest)
        assert await store.untagged(OWN, before_s) == []
        assert await store.delete_untagged(OWN, manifest.digest, stamp(2), before_s) == []
        await store.put_manifest(OWN, manifest, ["v1"], stamp(3))
        assert await store.delete_untagged(OWN, manifest.digest, stamp(4), SOON) == []
        assert await store.resolve(OWN, "v1") == manifest.digest
        await store.delete_tag(OWN, "v1", stamp(5))
        assert len(await store.delete_untagged(OWN, manifest.digest, stamp(6), SOON)) == 1


class UpkeepContract(CheckContract, GarbageContract, UntaggedContract):
    """All of it."""
