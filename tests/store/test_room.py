"""Limits of a store: how much content it may hold, and how much of the disk stays free."""

# ruff: noqa: D103 -- the names are sentences

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from oci_mesh.errors import DigestInvalid, StorageFull
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Store
from oci_mesh.store.disk import DiskStore
from oci_mesh.store.room import reserve_of
from tests.nodes import MIB, noise
from tests.store.content import image, push_blob, push_pieces, read_blob, stamp, write_pieces

A, B = "team/a", "team/b"
LIMIT = 10 * MIB
GIB = 1024 * MIB
ONE, TWO = noise(6 * MIB, "one"), noise(6 * MIB, "two")
REST = noise(4 * MIB, "rest")


async def refused(store: Store, content: bytes) -> None:
    """As an upload and as a partial: with the setting that is to blame, and without a trace."""
    before = await store.usage()
    with pytest.raises(StorageFull, match="disk-limit"):
        await push_blob(store, A, content, stamp(1))
    with pytest.raises(StorageFull, match="disk-limit"):
        await push_pieces(store, A, content, piece=MIB)
    assert await store.usage() == before


async def test_up_to_the_limit_and_no_byte_more(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path, limit=LIMIT) as store:
        await push_blob(store, A, ONE, stamp(1))
        await refused(store, TWO)
        await refused(store, REST + b"1")
        await push_pieces(store, A, REST, piece=MIB)
        await refused(store, b"1")
        with pytest.raises(StorageFull, match="disk-limit"):
            await store.put_manifest(A, image())
        await store.mount(B, Digest.of(ONE), A)  # takes no room


async def test_a_deletion_makes_room(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path, limit=LIMIT) as store:
        await push_blob(store, A, ONE)
        await store.delete_blob(A, Digest.of(ONE), stamp(1))
        await push_pieces(store, A, TWO, piece=MIB)
        await refused(store, ONE)
        assert await read_blob(store, A, Digest.of(TWO)) == TWO


async def test_who_holds_a_partial_has_its_room(tmp_path: Path) -> None:
    """All of it, so that of two only one is begun; until it is given up, or is stored."""
    async with await DiskStore.open(tmp_path, limit=LIMIT) as store:
        async with await store.partial(A, Digest.of(ONE), len(ONE)) as partial:
            await refused(store, TWO)
            await partial.discard()
        async with await store.partial(A, Digest.of(TWO), len(TWO)) as partial:
            await refused(store, ONE)
            write_pieces(partial, TWO, range(0, len(TWO), MIB), MIB)
            await partial.commit()
            await refused(store, ONE)
            await push_blob(store, A, REST)


async def test_an_upload_counts_as_far_as_it_is(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path, limit=LIMIT) as store:
        upload_id = await store.create_upload(A)
        async with store.upload(A, upload_id) as upload:
            await upload.write(ONE)
            await refused(store, TWO)
            await upload.truncate(MIB)
            await push_blob(store, A, TWO)
        await store.cancel_upload(A, upload_id)
        await push_blob(store, A, REST)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_content_that_is_wrong_takes_no_room(tmp_path: Path, cancelled: bool) -> None:
    """Nor does a push whose client went away just then."""
    async with await DiskStore.open(tmp_path, limit=LIMIT) as store:
        upload_id = await store.create_upload(A)
        async with store.upload(A, upload_id) as upload:
            await upload.write(ONE)
            commit = asyncio.create_task(upload.commit(Digest.of(TWO)))
            await asyncio.sleep(0)
            if cancelled:
                commit.cancel()
            with suppress(asyncio.CancelledError, DigestInvalid):
                await commit
        await store.forget_names([])
        await push_blob(store, A, TWO)


async def test_what_was_left_counts_after_a_restart(tmp_path: Path) -> None:
    """As much as it takes on the disk: of a partial only what came, until somebody goes on."""
    async with await DiskStore.open(tmp_path) as store:
        await push_blob(store, A, noise(2 * MIB))
        async with await store.partial(A, Digest.of(ONE), len(ONE)) as partial:
            write_pieces(partial, ONE, [MIB, 3 * MIB], MIB)
        upload_id = await store.create_upload(A)
        async with store.upload(A, upload_id) as upload:
            await upload.write(noise(2 * MIB))
    async with await DiskStore.open(tmp_path, limit=LIMIT) as store:
        await refused(store, REST + b"1")
        with pytest.raises(StorageFull, match="disk-limit"):
            await store.partial(B, Digest.of(TWO), len(TWO))
        async with await store.partial(A, Digest.of(ONE), len(ONE)) as partial:
            assert partial.read(MIB, 2 * MIB) == ONE[MIB : 2 * MIB]
            with pytest.raises(StorageFull, match="disk-limit"):
                await push_blob(store, A, b"1")
        await store.expire_uploads(0)
        await push_blob(store, A, noise(8 * MIB))


async def test_a_partial_that_found_no_room_goes_on_when_there_is_some(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path, limit=LIMIT) as store:
        async with await store.partial(A, Digest.of(ONE), len(ONE)) as partial:
            write_pieces(partial, ONE, [0], MIB)
        await push_blob(store, A, TWO)
        with pytest.raises(StorageFull, match="disk-limit"):
            await store.partial(A, Digest.of(ONE), len(ONE))
        assert (await store.usage()).uploads == 1
        await store.delete_blob(A, Digest.of(TWO), stamp(1))
        async with await store.partial(A, Digest.of(ONE), len(ONE)) as partial:
            assert partial.read(0, MIB) == ONE[:MIB]


def _free(root: Path) -> int:
    disk = os.statvfs(root)
    return disk.f_bavail * disk.f_frsize


async def test_what_is_reserved_stays_free(small_disk: Path) -> None:
    """Whoever fills it: uploads, pieces, manifests. Deletions go on, and make room."""
    reserve = MIB // 2
    content = noise(500_000)
    async with await DiskStore.open(small_disk / "root", reserve=reserve) as store:
        await push_blob(store, A, content)
        free = _free(small_disk)
        assert free > reserve
        too_much = noise(free - reserve + 4096, "more")
        with pytest.raises(StorageFull, match="disk-reserve"):
            await push_blob(store, A, too_much)
        with pytest.raises(StorageFull, match="disk-reserve"):
            await store.partial(A, Digest.of(too_much), len(too_much))
        async with await store.partial(A, Digest.of(content + b"1"), len(content) + 1) as partial:
            (small_disk / "other").write_bytes(bytes(_free(small_disk) - reserve))
            with pytest.raises(StorageFull, match="disk-reserve"):
                partial.write(0, content)
            await partial.discard()
        with pytest.raises(StorageFull, match="disk-reserve"):
            await store.put_manifest(A, image(note="x" * 100_000))
        assert _free(small_disk) >= reserve - 64 * 1024  # the database is why there is one
        await store.delete_blob(A, Digest.of(content), stamp(1))
        await store.forget_names([])
        await push_blob(store, A, content[:400_000])


@pytest.mark.parametrize(
    ("disk", "setting", "reserve"),
    [
        (10 * GIB, None, GIB // 2),
        (100 * GIB, None, GIB),
        (10 * GIB, 5, 5),
        (10 * GIB, 0, 0),
        (10 * GIB, 20 * GIB, 20 * GIB),
    ],
)
def test_the_reserve_is_as_set_or_a_part_of_the_disk_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch, disk: int, setting: int | None, reserve: int
) -> None:
    blocks = SimpleNamespace(f_blocks=disk // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", {"/disk": blocks}.__getitem__)
    assert reserve_of("/disk", setting) == reserve


async def test_the_default_reserve_is_a_part_of_a_small_disk(small_disk: Path) -> None:
    """A twentieth, or nothing could be stored at all."""
    async with await DiskStore.open(small_disk / "root", reserve=None) as store:
        await push_blob(store, A, noise(MIB))
        with pytest.raises(StorageFull, match=r"104857 of them .*disk-reserve"):
            await push_blob(store, A, noise(_free(small_disk) - 100_000, "more"))
