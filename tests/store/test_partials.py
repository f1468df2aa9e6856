"""Partials on disk, what is their own: restarts, `kill -9`, room, the file while others read it."""

# ruff: noqa: D103 -- the names are sentences

import os
import random
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from oci_mesh.errors import BlobUnknown, StorageFailed, StorageFull
from oci_mesh.spec.digest import Digest
from oci_mesh.store import partials
from oci_mesh.store.disk import DiskStore
from oci_mesh.store.layout import partial_name
from tests.store import filler
from tests.store.content import push_blob, read_blob, write_pieces
from tests.store.partial_contract import (
    CONTENT,
    DIGEST,
    PIECE,
    SIZE,
    STARTS,
    A,
    B,
    covers,
    write_all,
)
from tests.store.test_crash import KILLS, run_until_killed


async def test_a_partial_goes_on_after_reopening(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path) as store:
        partial = await store.partial(A, DIGEST, SIZE)  # and nobody closes it
        write_pieces(partial, CONTENT, STARTS[3:6], PIECE)
        partial.advance(PIECE)
    async with await DiskStore.open(tmp_path) as store:
        assert (await store.usage()).uploads == 1
        async with await store.partial(A, DIGEST, SIZE) as again:
            assert again.spans() == partial.spans() == [(3 * PIECE, 6 * PIECE)]
            assert again.read(3 * PIECE, 6 * PIECE) == CONTENT[3 * PIECE : 6 * PIECE]
            write_pieces(again, CONTENT, [*STARTS[:3], *STARTS[6:]], PIECE)
            again.advance(SIZE)
            await again.commit()
        assert await read_blob(store, A, DIGEST) == CONTENT
    await partial.close()


async def test_recovery_keeps_partials_and_drops_other_names(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path) as store:
        for algorithm in ("sha256", "sha512"):
            async with await store.partial(A, Digest.of(CONTENT, algorithm), SIZE):
                pass
    kept = {path.name for path in (tmp_path / "uploads").iterdir()}
    name = partial_name(A, DIGEST)
    for wrong in (name[:-1], name + "0", name[1:], name.replace("sha256", "md5")):
        (tmp_path / "uploads" / wrong).write_bytes(b"?")
    async with await DiskStore.open(tmp_path) as store:
        assert {path.name for path in (tmp_path / "uploads").iterdir()} == kept
        assert (await store.usage()).uploads == len(kept) == 2
        assert await store.expire_uploads(0) == 2


async def test_a_partial_takes_the_room_of_its_bytes_only(tmp_path: Path) -> None:
    async with (
        await DiskStore.open(tmp_path) as store,
        await store.partial(A, DIGEST, SIZE) as partial,
    ):
        write_pieces(partial, CONTENT, [5 * PIECE], PIECE)
        (path,) = (tmp_path / "uploads").iterdir()
        state = path.stat()
        assert stat.S_IMODE(state.st_mode) == 0o600
        assert state.st_size == SIZE
        assert state.st_blocks * 512 < 3 * PIECE


async def test_a_blob_without_room_is_refused_before_its_bytes_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await DiskStore.open(tmp_path) as store:
        disk = os.statvfs(tmp_path)
        with pytest.raises(StorageFull):
            await store.partial(A, DIGEST, 2 * disk.f_blocks * disk.f_frsize)
        assert (await store.usage()).uploads == 0
        assert list((tmp_path / "uploads").iterdir()) == []
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_pieces(partial, CONTENT, STARTS[1:], PIECE)
            os.fsync(partial.file.fileno() if partial.file else -1)
        scarce = os.statvfs_result([*disk[:4], PIECE // disk.f_frsize, *disk[5:]])
        monkeypatch.setattr(os, "statvfs", lambda _: scarce)
        async with await store.partial(A, DIGEST, SIZE) as partial:  # only a piece is missing
            assert covers(partial, PIECE, SIZE)
        with pytest.raises(StorageFull):
            await store.partial(B, DIGEST, SIZE)
        assert (await store.usage()).uploads == 1


async def test_the_file_is_readable_until_it_is_closed(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path) as store:
        await push_blob(store, B, CONTENT)  # the commit puts another file in its place
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_all(partial)
            assert partial.file is not None
            await partial.commit()
            assert os.pread(partial.file.fileno(), SIZE, 0) == CONTENT
            path = tmp_path / "blobs" / "sha256" / DIGEST.hex
            assert os.fstat(partial.file.fileno()).st_ino == path.stat().st_ino
        assert partial.file.closed


async def test_bytes_that_are_gone_from_under_it(tmp_path: Path) -> None:
    async with (
        await DiskStore.open(tmp_path) as store,
        await store.partial(A, DIGEST, SIZE) as partial,
    ):
        write_all(partial)
        os.truncate(tmp_path / "uploads" / partial_name(A, DIGEST), PIECE)
        for ask in (lambda: partial.read(0, SIZE), lambda: partial.advance(SIZE)):
            with pytest.raises(StorageFailed):
                ask()


async def test_what_was_hashed_is_given_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(partials, "WRITE_OUT_BYTES", 2 * PIECE)
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, size, __: given.append((start, size)))
    async with (
        await DiskStore.open(tmp_path) as store,
        await store.partial(A, DIGEST, SIZE) as partial,
    ):
        write_all(partial)
        assert given == []
        for stop in (PIECE, 2 * PIECE, 3 * PIECE, 7 * PIECE):
            partial.advance(stop)
        assert given == [(0, 2 * PIECE), (2 * PIECE, 5 * PIECE)]


@pytest.mark.slow
async def test_kill_9_while_pieces_arrive(tmp_path: Path) -> None:
    """What was written is there for the next run, and a commit that returned holds. `KILLS` times.

    The pieces that the killed process said it wrote are compared; then another process verifies
    and goes on, as a node does.
    """
    moments = random.Random(11)
    written: set[tuple[int, int]] = set()
    pushed: set[int] = set()
    for seed in range(KILLS):
        after_s = moments.uniform(0, 0.25)
        for what, number, *start in await run_until_killed(tmp_path, seed, after_s, "filler"):
            if what == "piece":
                written.add((int(number), int(*start)))
            elif what == "committing":  # a file that has its name but no row is nobody's
                written = {piece for piece in written if piece[0] != int(number)}
            else:
                pushed.add(int(number))
        async with await DiskStore.open(tmp_path) as store:
            written = {piece for piece in written if await _is_kept(store, *piece)}
            assert pushed.isdisjoint(number for number, _ in written)
            assert (await store.usage()).uploads <= 1
    async with await DiskStore.open(tmp_path) as store:
        for complete in pushed:
            content = filler.content(complete)
            assert await read_blob(store, A, Digest.of(content)) == content
    assert len(pushed) > KILLS


async def _is_kept(store: DiskStore, number: int, start: int) -> bool:
    """Check a piece that was written; False if it is part of a blob by now."""
    content = filler.content(number)
    stop, digest = min(start + filler.PIECE, len(content)), Digest.of(content)
    with suppress(BlobUnknown):
        assert await store.stat(A, digest) == len(content)
        return False
    async with await store.partial(A, digest, len(content)) as partial:
        assert covers(partial, start, stop)
        assert partial.read(start, stop) == content[start:stop]
    return True
