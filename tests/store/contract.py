"""The contract of `Store`, as tests that every implementation passes.

A test module makes a subclass of `StoreContract` and gives it a `store` fixture.
"""

# ruff: noqa: D102 -- the names are sentences

import asyncio

import pytest

from oci_mesh.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    UploadBusy,
)
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor
from oci_mesh.spec.names import NameRecord
from oci_mesh.store.base import Store, Usage
from tests.store.cache_contract import CacheContract
from tests.store.content import image, index, push_blob, push_image, read_blob, stamp
from tests.store.partial_contract import PartialContract
from tests.store.upkeep_contract import UpkeepContract

A, B = "team/a", "team/b"
CONTENT = b"some layer " * 1000
DIGEST = Digest.of(CONTENT)


class BlobContract:
    """Blobs: pushed, read, mounted, deleted, and each repository's own."""

    async def test_a_pushed_blob_reads_back(self, store: Store) -> None:
        assert await push_blob(store, A, CONTENT) == []
        assert await store.stat(A, DIGEST) == len(CONTENT)
        assert await read_blob(store, A, DIGEST) == CONTENT
        assert await store.usage() == Usage(1, len(CONTENT), 0)

    async def test_any_range_of_a_blob_reads(self, store: Store) -> None:
        content = bytes(range(256)) * 12_000  # three chunks of a MiB
        await push_blob(store, A, content)
        async with await store.blob(A, Digest.of(content)) as blob:
            for start, stop in [(0, 1), (5, 5), (1, 3_000_000), (len(content) - 1, len(content))]:
                got = [chunk async for chunk in blob.chunks(start, stop)]
                assert b"".join(got) == content[start:stop]
            if blob.file is not None:
                assert blob.file.read() == content
            assert await blob.available(5, 10) == 10
            await blob.stored()

    async def test_the_empty_blob_is_a_blob(self, store: Store) -> None:
        await push_blob(store, A, b"")
        assert await store.stat(A, Digest.of(b"")) == 0
        assert await read_blob(store, A, Digest.of(b"")) == b""

    async def test_what_is_not_there_is_unknown(self, store: Store) -> None:
        with pytest.raises(BlobUnknown):
            await store.stat(A, DIGEST)
        with pytest.raises(BlobUnknown):
            await store.blob(A, DIGEST)
        with pytest.raises(BlobUnknown):
            await store.delete_blob(A, DIGEST, stamp(1))

    async def test_content_of_another_repository_does_not_exist(self, store: Store) -> None:
        await push_blob(store, A, CONTENT)
        with pytest.raises(BlobUnknown):
            await store.stat(B, DIGEST)
        with pytest.raises(BlobUnknown):
            await store.blob(B, DIGEST)
        with pytest.raises(BlobUnknown):
            await store.delete_blob(B, DIGEST, stamp(1))
        with pytest.raises(BlobUnknown):
            await store.mount(B, DIGEST, "team/c")
        assert await store.repositories() == [A]

    async def test_mount_gives_a_repository_what_another_has(self, store: Store) -> None:
        await push_blob(store, A, CONTENT)
        assert await store.mount(B, DIGEST, A) == []
        assert await read_blob(store, B, DIGEST) == CONTENT
        assert await store.usage() == Usage(1, len(CONTENT), 0)
        assert await store.mount(B, DIGEST, A) == []

    async def test_anonymous_mount_takes_it_from_any_repository(self, store: Store) -> None:
        with pytest.raises(BlobUnknown):
            await store.mount(B, DIGEST, None)
        await push_blob(store, A, CONTENT)
        assert await store.mount(B, DIGEST, None) == []
        assert await read_blob(store, B, DIGEST) == CONTENT
        manifest = await push_image(store, A, [CONTENT], [], stamp(1))
        with pytest.raises(BlobUnknown):
            await store.mount(B, manifest.digest, None)

    @pytest.mark.parametrize("giver", ["app@registry.corp!", "library/app@docker.io"])
    async def test_nothing_is_mounted_by_chance_from_another_registry(
        self, giver: str, store: Store
    ) -> None:
        """Who knows the digest of a private layer does not get the layer."""
        await push_blob(store, giver, CONTENT)
        with pytest.raises(BlobUnknown):
            await store.mount(B, DIGEST, None)
        await push_blob(store, A, CONTENT)
        assert await store.mount(B, DIGEST, None) == []

    async def test_manifests_of_other_registries_can_be_listed(self, store: Store) -> None:
        """Those of the mesh's own repositories are not among them."""
        assert await store.mirrored() == []
        await push_image(store, A, [CONTENT], ["v1"], stamp(1))
        ours, others = image(b"1"), image(b"2")
        for repository in ("a@b.c", "app@registry.corp!"):
            await store.put_manifest(repository, ours)
        await store.put_manifest("a@b.c", others)
        assert sorted(await store.mirrored()) == sorted(
            [("a@b.c", ours.digest), ("a@b.c", others.digest), ("app@registry.corp!", ours.digest)]
        )

    async def test_mount_from_where_it_is_not(self, store: Store) -> None:
        await push_blob(store, A, CONTENT)
        with pytest.raises(BlobUnknown):
            await store.mount("team/c", DIGEST, B)

    async def test_a_manifest_is_no_blob_and_cannot_be_mounted(self, store: Store) -> None:
        manifest = await push_image(store, A, [CONTENT], [], stamp(1))
        with pytest.raises(BlobUnknown):
            await store.stat(A, manifest.digest)
        with pytest.raises(BlobUnknown):
            await store.mount(B, manifest.digest, A)

    async def test_a_delete_in_one_repository_leaves_the_others(self, store: Store) -> None:
        await push_blob(store, A, CONTENT)
        await store.mount(B, DIGEST, A)
        assert await store.delete_blob(A, DIGEST, stamp(1)) == [
            NameRecord(A, str(DIGEST), None, stamp(1))
        ]
        with pytest.raises(BlobUnknown):
            await store.stat(A, DIGEST)
        assert await read_blob(store, B, DIGEST) == CONTENT
        await store.delete_blob(B, DIGEST, stamp(2))
        assert await store.usage() == Usage(0, 0, 0)

    async def test_an_open_blob_outlives_its_deletion(self, store: Store) -> None:
        await push_blob(store, A, CONTENT)
        async with await store.blob(A, DIGEST) as blob:
            await store.delete_blob(A, DIGEST, stamp(1))
            assert b"".join([chunk async for chunk in blob.chunks(0, blob.size)]) == CONTENT

    async def test_a_blob_may_be_closed_twice(self, store: Store) -> None:
        await push_blob(store, A, CONTENT)
        blob = await store.blob(A, DIGEST)
        await blob.close()
        await blob.close()

    async def test_the_same_blob_may_be_pushed_again(self, store: Store) -> None:
        await push_blob(store, A, CONTENT)
        await push_blob(store, A, CONTENT)
        await push_blob(store, B, CONTENT)
        assert await store.usage() == Usage(1, len(CONTENT), 0)
        assert await read_blob(store, A, DIGEST) == CONTENT

    async def test_pushes_at_the_same_time_all_arrive(self, store: Store) -> None:
        contents = [b"blob %d" % (number % 20) for number in range(60)]
        await asyncio.gather(*(push_blob(store, A, content) for content in contents))
        for content in contents:
            assert await read_blob(store, A, Digest.of(content)) == content
        assert (await store.usage()).blobs == 20


class UploadContract:
    """Uploads: in pieces, resumed, cancelled, expired; one writer at a time."""

    async def test_in_pieces_over_several_requests(self, store: Store) -> None:
        upload_id = await store.create_upload(A)
        assert await store.upload_offset(A, upload_id) == 0
        for start in range(0, len(CONTENT), 4000):
            async with store.upload(A, upload_id) as upload:
                assert upload.offset == start
                await upload.write(CONTENT[start : start + 4000])
                assert await store.upload_offset(A, upload_id) == upload.offset
        async with store.upload(A, upload_id) as upload:
            await upload.commit(DIGEST)
        assert await read_blob(store, A, DIGEST) == CONTENT
        with pytest.raises(BlobUploadUnknown):
            await store.upload_offset(A, upload_id)
        with pytest.raises(BlobUploadUnknown):
            async with store.upload(A, upload_id):
                pass

    async def test_an_error_in_between_keeps_what_was_written(self, store: Store) -> None:
        upload_id = await store.create_upload(A)

        async def lose_the_client() -> None:
            async with store.upload(A, upload_id) as upload:
                await upload.write(CONTENT[:100])
                raise ConnectionError

        with pytest.raises(ConnectionError):
            await lose_the_client()
        async with store.upload(A, upload_id) as upload:
            assert upload.offset == 100
            await upload.write(CONTENT[100:])
            await upload.commit(DIGEST)
        assert await read_blob(store, A, DIGEST) == CONTENT

    async def test_truncate_takes_back(self, store: Store) -> None:
        upload_id = await store.create_upload(A)
        async with store.upload(A, upload_id) as upload:
            await upload.write(CONTENT[:100])
            await upload.write(b"wrong")
            await upload.truncate(100)
            assert upload.offset == 100
            assert await store.upload_offset(A, upload_id) == 100
            await upload.write(CONTENT[100:])
            await upload.commit(DIGEST)
        assert await read_blob(store, A, DIGEST) == CONTENT

    async def test_wrong_digest_ends_it(self, store: Store) -> None:
        upload_id = await store.create_upload(A)
        async with store.upload(A, upload_id) as upload:
            await upload.write(b"other bytes")
            with pytest.raises(DigestInvalid):
                await upload.commit(DIGEST)
            with pytest.raises(BlobUploadUnknown):
                await upload.write(b"more")
        with pytest.raises(BlobUploadUnknown):
            await store.upload_offset(A, upload_id)
        with pytest.raises(BlobUnknown):
            await store.stat(A, DIGEST)
        assert await store.usage() == Usage(0, 0, 0)

    @pytest.mark.parametrize("hint", ["sha256", "sha512"])
    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    async def test_either_algorithm_whatever_the_hint(
        self, store: Store, hint: str, algorithm: str
    ) -> None:
        digest = Digest.of(CONTENT, algorithm)
        upload_id = await store.create_upload(A, hint)
        async with store.upload(A, upload_id) as upload:
            await upload.write(CONTENT)
            await upload.commit(digest)
        assert await read_blob(store, A, digest) == CONTENT
        upload_id = await store.create_upload(A, hint)
        async with store.upload(A, upload_id) as upload:
            await upload.write(b"other bytes")
            with pytest.raises(DigestInvalid):
                await upload.commit(digest)

    async def test_an_unknown_algorithm_is_refused(self, store: Store) -> None:
        with pytest.raises(DigestInvalid):
            await store.create_upload(A, "md5")

    async def test_it_belongs_to_its_repository(self, store: Store) -> None:
        upload_id = await store.create_upload(A)
        with pytest.raises(BlobUploadUnknown):
            await store.upload_offset(B, upload_id)
        with pytest.raises(BlobUploadUnknown):
            async with store.upload(B, upload_id):
                pass
        with pytest.raises(BlobUploadUnknown):
            await store.cancel_upload(B, upload_id)
        assert await store.upload_offset(A, upload_id) == 0

    async def test_one_writer_at_a_time(self, store: Store) -> None:
        upload_id = await store.create_upload(A)
        async with store.upload(A, upload_id) as upload:
            await upload.write(b"12345")
            with pytest.raises(UploadBusy):
                async with store.upload(A, upload_id):
                    pass
            with pytest.raises(UploadBusy):
                await store.cancel_upload(A, upload_id)
            assert await store.expire_uploads(0) == 0
            assert await store.upload_offset(A, upload_id) == 5
        async with store.upload(A, upload_id) as upload:
            assert upload.offset == 5

    async def test_cancel(self, store: Store) -> None:
        upload_id = await store.create_upload(A)
        async with store.upload(A, upload_id) as upload:
            await upload.write(CONTENT)
        assert (await store.usage()).uploads == 1
        await store.cancel_upload(A, upload_id)
        assert (await store.usage()).uploads == 0
        with pytest.raises(BlobUploadUnknown):
            await store.cancel_upload(A, upload_id)

    async def test_expiry_drops_the_idle_ones_only(self, store: Store) -> None:
        ids = [await store.create_upload(A) for _ in range(600)]
        assert await store.expire_uploads(3600) == 0
        async with store.upload(A, ids[0]):
            assert await store.expire_uploads(0) == 599
        assert await store.upload_offset(A, ids[0]) == 0
        with pytest.raises(BlobUploadUnknown):
            await store.upload_offset(A, ids[1])
        assert (await store.usage()).uploads == 1

    async def test_a_commit_whose_caller_goes_away_does_no_harm(self, store: Store) -> None:
        upload_id = await store.create_upload(A)

        async def push() -> None:
            async with store.upload(A, upload_id) as upload:
                await upload.write(CONTENT)
                await upload.commit(DIGEST)

        pushing = asyncio.ensure_future(push())
        await asyncio.sleep(0)  # it waits for the disk, if there is one
        pushing.cancel()
        await asyncio.wait([pushing])
        await push_blob(store, A, CONTENT)
        assert await read_blob(store, A, DIGEST) == CONTENT


class ManifestContract:
    """Manifests, tags, referrers, listings."""

    async def test_a_manifest_reads_back_exactly(self, store: Store) -> None:
        manifest = await push_image(store, A, [b"{}", CONTENT], ["v1", "latest"], stamp(1))
        assert await store.manifest(A, manifest.digest) == manifest
        assert await store.resolve(A, "latest") == manifest.digest
        assert await store.tags(A) == ["latest", "v1"]
        with pytest.raises(ManifestUnknown):
            await store.manifest(B, manifest.digest)

    async def test_put_returns_the_records_that_it_wrote(self, store: Store) -> None:
        manifest = image()
        target = str(manifest.digest)
        assert await store.put_manifest(A, manifest) == []
        assert await store.put_manifest(A, manifest, ["x", "y"], stamp(2)) == [
            NameRecord(A, "x", target, stamp(2)),
            NameRecord(A, "y", target, stamp(2)),
        ]
        assert await store.put_manifest(A, manifest, ["x"], stamp(1)) == []

    async def test_the_same_bytes_may_be_a_blob_and_a_manifest(self, store: Store) -> None:
        manifest = image()
        await store.put_manifest(A, manifest)
        await push_blob(store, B, manifest.content)
        assert (await store.usage()).blobs == 1
        await store.delete_blob(B, manifest.digest, stamp(1))
        assert await store.manifest(A, manifest.digest) == manifest
        await push_blob(store, B, manifest.content, stamp(2))
        await store.delete_manifest(A, manifest.digest, stamp(3))
        assert await read_blob(store, B, manifest.digest) == manifest.content
        assert (await store.usage()).blobs == 1

    async def test_sha512_manifest(self, store: Store) -> None:
        manifest = image(algorithm="sha512")
        await store.put_manifest(A, manifest, ["v1"], stamp(1))
        assert await store.resolve(A, "v1") == manifest.digest
        assert await store.manifest(A, manifest.digest) == manifest

    async def test_needs_must_be_in_the_repository(self, store: Store) -> None:
        child = await push_image(store, A, [b"{}"], [], stamp(1))
        parent = index(child)
        for repository, needs in [
            (B, parent.manifests),
            (B, child.blobs),
            # a blob is no manifest, a manifest no blob
            (A, [Descriptor(child.media_type, str(Digest.of(b"{}")), 2)]),
            (A, [Descriptor("application/octet-stream", str(child.digest), 2)]),
        ]:
            with pytest.raises(ManifestBlobUnknown) as caught:
                await store.put_manifest(repository, parent, ["v1"], stamp(2), needs)
            assert caught.value.missing == tuple(need.digest for need in needs)
            with pytest.raises(ManifestUnknown):
                await store.manifest(repository, parent.digest)
            with pytest.raises(ManifestUnknown):
                await store.resolve(repository, "v1")
        await store.put_manifest(A, parent, ["v1"], stamp(2), parent.manifests)
        assert await store.manifest(A, parent.digest) == parent

    async def test_a_tag_moves(self, store: Store) -> None:
        first, second = image(note="1"), image(note="2")
        await store.put_manifest(A, first, ["v1"], stamp(1))
        await store.put_manifest(A, second, ["v1"], stamp(2))
        assert await store.resolve(A, "v1") == second.digest
        assert await store.manifest(A, first.digest) == first

    async def test_delete_manifest_takes_its_tags(self, store: Store) -> None:
        kept = await push_image(store, A, [b"{}"], ["other"], stamp(1))
        gone = image(note="gone")
        await store.put_manifest(A, gone, ["b", "a"], stamp(1))
        await store.put_manifest(B, gone, ["a"], stamp(1))
        records = await store.delete_manifest(A, gone.digest, stamp(2))
        assert records == [
            NameRecord(A, str(gone.digest), None, stamp(2)),
            NameRecord(A, "a", None, stamp(2)),
            NameRecord(A, "b", None, stamp(2)),
        ]
        assert await store.tags(A) == ["other"]
        for name in ("a", "b"):
            with pytest.raises(ManifestUnknown):
                await store.resolve(A, name)
        with pytest.raises(ManifestUnknown):
            await store.manifest(A, gone.digest)
        with pytest.raises(ManifestUnknown):
            await store.delete_manifest(A, gone.digest, stamp(3))
        assert await store.manifest(B, gone.digest) == gone
        assert await store.resolve(B, "a") == gone.digest
        assert await store.manifest(A, kept.digest) == kept

    async def test_delete_tag_leaves_the_manifest(self, store: Store) -> None:
        manifest = await push_image(store, A, [b"{}"], ["v1"], stamp(1))
        assert await store.delete_tag(A, "v1", stamp(2)) == [NameRecord(A, "v1", None, stamp(2))]
        assert await store.tags(A) == []
        assert await store.manifest(A, manifest.digest) == manifest
        with pytest.raises(ManifestUnknown):
            await store.delete_tag(A, "v1", stamp(3))

    async def test_referrers_by_digest_and_repository(self, store: Store) -> None:
        subject = image()
        referrers = [image(note=str(number), subject=subject) for number in range(3)]
        for referrer in referrers:
            await store.put_manifest(A, referrer)
        expected = sorted(
            (r.descriptor() for r in referrers), key=lambda descriptor: descriptor.digest
        )
        assert await store.referrers(A, subject.digest) == expected
        assert await store.referrers(B, subject.digest) == []
        await store.delete_manifest(A, referrers[0].digest, stamp(1))
        assert len(await store.referrers(A, subject.digest)) == 2

    async def test_tags_by_page(self, store: Store) -> None:
        tags = sorted(["v1", "V1", "v10", "v2", "_x", "1.0", "a-b", "a.b"])
        await store.put_manifest(A, image(), tags, stamp(1))
        assert await store.tags(A) == tags
        assert await store.tags(A, n=0) == []
        assert await store.tags(A, n=3) == tags[:3]
        assert await store.tags(A, last=tags[2], n=100) == tags[3:]
        assert await store.tags(A, last="v1", n=1) == ["v10"]
        assert await store.tags(A, last="zzz") == []

    async def test_tags_of_no_repository(self, store: Store) -> None:
        with pytest.raises(NameUnknown):
            await store.tags(A)
        await push_blob(store, A, CONTENT)
        assert await store.tags(A) == []
        await store.delete_blob(A, DIGEST, stamp(1))
        with pytest.raises(NameUnknown):
            await store.tags(A)
        upload_id = await store.create_upload(A)
        with pytest.raises(NameUnknown):
            await store.tags(A)
        await store.cancel_upload(A, upload_id)

    async def test_repositories_by_page(self, store: Store) -> None:
        names = sorted(["a", "a-b", "a/b", "a/b/c", "b", "a0", "z"])
        for number, name in enumerate(names):
            if number % 3 == 0:
                await push_blob(store, name, CONTENT)
            elif number % 3 == 1:
                await store.put_manifest(name, image())
            else:  # what it points to is not here
                record = NameRecord(name, "v1", str(DIGEST), stamp(1))
                await store.merge_names([record])
        await store.merge_names([NameRecord("gone", "v1", None, stamp(1))])
        await store.merge_names([NameRecord("gone", str(DIGEST), str(DIGEST), stamp(1))])
        assert await store.repositories() == names
        assert await store.repositories(n=0) == []
        assert await store.repositories(n=4) == names[:4]
        assert await store.repositories(last=names[3], n=2) == names[4:6]
        assert await store.repositories(last="zz") == []


class NameContract:
    """The register: later stamps win, deletions hold, nothing comes back by itself."""

    async def test_merge_is_last_writer_wins_in_any_order(self, store: Store) -> None:
        one, two = str(DIGEST), str(Digest.of(b"two"))
        records = [
            NameRecord(A, "v1", one, stamp(1)),
            NameRecord(A, "v1", two, stamp(3)),
            NameRecord(A, "v1", None, stamp(2)),
        ]
        await store.merge_names(records)
        assert await store.names() == [records[1]]
        await store.merge_names(reversed(records))
        assert await store.names() == [records[1]]
        assert str(await store.resolve(A, "v1")) == two

    async def test_equal_stamps_greater_target_wins(self, store: Store) -> None:
        low, high = sorted([str(DIGEST), str(Digest.of(b"two"))])
        await store.merge_names([NameRecord(A, "v1", None, stamp(1))])
        await store.merge_names([NameRecord(A, "v1", high, stamp(1))])
        await store.merge_names([NameRecord(A, "v1", low, stamp(1))])
        assert str(await store.resolve(A, "v1")) == high

    async def test_a_tag_may_point_to_what_is_elsewhere(self, store: Store) -> None:
        await store.merge_names([NameRecord(A, "v1", str(DIGEST), stamp(1))])
        assert await store.resolve(A, "v1") == DIGEST
        assert await store.tags(A) == ["v1"]
        assert await store.repositories() == [A]

    async def test_merged_deletion_takes_the_content(self, store: Store) -> None:
        manifest = await push_image(store, A, [CONTENT], ["v1"], stamp(1))
        await store.mount(B, DIGEST, A)
        await store.merge_names(
            [
                NameRecord(A, str(DIGEST), None, stamp(2)),
                NameRecord(A, str(manifest.digest), None, stamp(2)),
            ]
        )
        with pytest.raises(BlobUnknown):
            await store.stat(A, DIGEST)
        with pytest.raises(ManifestUnknown):
            await store.manifest(A, manifest.digest)
        assert await store.stat(B, DIGEST) == len(CONTENT)
        assert await store.usage() == Usage(1, len(CONTENT), 0)

    async def test_copies_do_not_revive_a_deletion(self, store: Store) -> None:
        manifest = await push_image(store, A, [CONTENT], [], stamp(1))
        await push_blob(store, B, CONTENT)
        await store.delete_blob(A, DIGEST, stamp(2))
        await store.delete_manifest(A, manifest.digest, stamp(2))
        with pytest.raises(BlobUnknown):
            await push_blob(store, A, CONTENT)
        with pytest.raises(BlobUnknown):
            await store.mount(A, DIGEST, B)
        with pytest.raises(ManifestUnknown):
            await store.put_manifest(A, manifest)
        assert await store.usage() == Usage(1, len(CONTENT), 0)

    async def test_a_push_revives_and_the_revival_holds(self, store: Store) -> None:
        manifest = await push_image(store, A, [CONTENT], [], stamp(1))
        await push_blob(store, B, CONTENT)
        await store.delete_blob(A, DIGEST, stamp(2))
        await store.delete_manifest(A, manifest.digest, stamp(2))
        with pytest.raises(BlobUnknown):  # pushed before it was deleted, seen after
            await push_blob(store, A, CONTENT, stamp(1))
        blob_record = NameRecord(A, str(DIGEST), str(DIGEST), stamp(3))
        assert await push_blob(store, A, CONTENT, stamp(3)) == [blob_record]
        assert await push_blob(store, A, CONTENT, stamp(4)) == []
        target = str(manifest.digest)
        assert await store.put_manifest(A, manifest, ["v1"], stamp(3)) == [
            NameRecord(A, target, target, stamp(3)),
            NameRecord(A, "v1", target, stamp(3)),
        ]
        await store.merge_names([NameRecord(A, str(DIGEST), None, stamp(2))])
        assert await store.stat(A, DIGEST) == len(CONTENT)
        await store.delete_blob(A, DIGEST, stamp(5))
        assert await store.mount(A, DIGEST, B, stamp(6)) == [
            NameRecord(A, str(DIGEST), str(DIGEST), stamp(6))
        ]

    async def test_a_deletion_holds_in_its_repository_only(self, store: Store) -> None:
        await push_blob(store, A, CONTENT)
        await store.delete_blob(A, DIGEST, stamp(1))
        assert await push_blob(store, B, CONTENT) == []
        assert await store.stat(B, DIGEST) == len(CONTENT)

    async def test_forget_drops_exactly_these(self, store: Store) -> None:
        await push_blob(store, A, CONTENT)
        (tombstone,) = await store.delete_blob(A, DIGEST, stamp(2))
        other = NameRecord(A, str(DIGEST), None, stamp(1))
        await store.forget_names([other])
        assert await store.names() == [tombstone]
        await store.forget_names([tombstone, tombstone])
        assert await store.names() == []
        await push_blob(store, A, CONTENT)

    async def test_all_or_nothing(self, store: Store) -> None:
        """A put that is refused for a deletion leaves no tag either."""
        manifest = image()
        await store.merge_names([NameRecord(A, str(manifest.digest), None, stamp(5))])
        with pytest.raises(ManifestUnknown):
            await store.put_manifest(A, manifest, ["v1"], stamp(4))
        assert len(await store.names()) == 1
        assert await store.repositories() == []


class StoreContract(
    BlobContract,
    UploadContract,
    PartialContract,
    ManifestContract,
    NameContract,
    CacheContract,
    UpkeepContract,
):
    """All of it."""

    async def test_close_may_be_called_twice(self, store: Store) -> None:
        await store.close()
        await store.close()
