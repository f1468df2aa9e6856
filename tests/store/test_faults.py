"""A disk that fails: every call once, a full one, and what works again afterwards."""

import asyncio
import errno
import os
import sqlite3
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

import pytest

from oci_mesh.errors import OciError, StorageFailed, StorageFull, Unavailable
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Resolution, Store
from oci_mesh.store.disk import DiskStore
from oci_mesh.store.files import Files, storage_error
from tests.store.content import image, push_blob, push_pieces, read_blob, stamp, write_pieces
from tests.store.power import unowned

A, MIRRORED = "team/a", "app@docker.io"
KEPT, ONE, TWO = b"kept" * 100, b"one" * 1000, b"two" * 2000
FIRST = image(ONE)


class FaultyFiles(Files):
    """The `fail_at`-th call (from 0) raises `error`, before it has done anything."""

    def __init__(self, error: OSError | sqlite3.Error) -> None:
        self.error = error
        self.fail_at: int | None = None
        self.calls = 0
        self.failed = ""

    def _call(self, name: str) -> None:
        if self.calls == self.fail_at:
            self.failed = name
            self.fail_at = None
            raise self.error
        self.calls += 1

    def create(self, path: str) -> int:
        """As `Files.create`."""
        self._call("create")
        return super().create(path)

    def write(self, fd: int, content: bytes) -> None:
        """As `Files.write`; a part is written before it fails."""
        try:
            self._call("write")
        except OSError:
            super().write(fd, content[: len(content) // 2])
            raise
        super().write(fd, content)

    def write_at(self, fd: int, offset: int, content: bytes | bytearray | memoryview) -> None:
        """As `Files.write_at`; a part is written before it fails."""
        try:
            self._call("write_at")
        except OSError:
            super().write_at(fd, offset, content[: len(content) // 2])
            raise
        super().write_at(fd, offset, content)

    def truncate(self, fd: int, size: int) -> None:
        """As `Files.truncate`."""
        self._call("truncate")
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        """As `Files.sync`."""
        self._call("sync")
        super().sync(fd)

    def publish(self, source: str, target: str) -> None:
        """As `Files.publish`."""
        self._call("publish")
        super().publish(source, target)

    def sync_directory(self, path: str) -> None:
        """As `Files.sync_directory`."""
        self._call("sync_directory")
        super().sync_directory(path)

    def commit(self, connection: sqlite3.Connection) -> None:
        """As `Files.commit`."""
        self._call("commit")
        super().commit(connection)

    def unlink(self, path: str) -> None:
        """As `Files.unlink`."""
        self._call("unlink")
        super().unlink(path)


async def push_with_truncate(store: Store) -> None:
    """A blob whose second request is taken back and sent again."""
    upload_id = await store.create_upload(A)
    async with store.upload(A, upload_id) as upload:
        await upload.write(TWO[:100])
        await upload.write(b"lost")
        await upload.truncate(100)
        await upload.write(TWO[100:])
        await upload.commit(Digest.of(TWO), stamp(1))


async def let_go(store: Store) -> None:
    """Of all blobs."""
    contents = await store.coldest(100)
    await store.evict([content for content in contents if not content.is_manifest])


OPERATIONS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "push": lambda store: push_blob(store, A, ONE, stamp(2)),
    "push with truncate": push_with_truncate,
    "push pieces": lambda store: push_pieces(store, A, TWO, stamp(2)),
    "put": lambda store: store.put_manifest(A, FIRST, ["v1"], stamp(2)),
    "delete": lambda store: store.delete_blob(A, Digest.of(KEPT), stamp(2)),
    "let go": let_go,
    "note": lambda store: store.note_resolution(MIRRORED, "v1", Resolution(FIRST.digest, 1.0)),
    "delete tag": lambda store: store.delete_tag(A, "old", stamp(2)),
}
ERRORS: list[tuple[int, type[OciError]]] = [
    (errno.ENOSPC, StorageFull),
    (errno.EDQUOT, StorageFull),
    (errno.EIO, StorageFailed),
]


async def seen(store: Store) -> object:
    """What a client can see."""
    names = sorted(await store.names(), key=lambda record: record.key)
    resolution = await store.resolution(MIRRORED, "v1")
    listed = await store.repositories(), await store.tags(A)
    return (await store.usage())[:2], names, listed, resolution


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("code", "expected"), ERRORS)
async def test_every_call_fails_once(
    tmp_path: Path, name: str, code: int, expected: type[OciError]
) -> None:
    """The client is told, nothing of it is seen, the rest goes on, and the same works then."""
    failed = set()
    for fail_at in count():
        files = FaultyFiles(OSError(code, os.strerror(code)))
        root = tmp_path / str(fail_at)
        async with await DiskStore.open(root, files) as store:
            await push_blob(store, A, KEPT)
            await store.put_manifest(A, image(note="old"), ["old"], stamp(1))
            before = await seen(store)
            files.fail_at = files.calls + fail_at
            try:
                await OPERATIONS[name](store)
            except expected:
                assert await seen(store) == before
                assert unowned(root) == set()
                assert await read_blob(store, A, Digest.of(KEPT)) == KEPT
                assert (await store.usage()).uploads <= 1  # made, but its first write failed
                await OPERATIONS[name](store)
            files.fail_at = None  # it was done before the fault was due
            assert await seen(store) != before
            after = await seen(store)
            await store.forget_names([])  # a removal follows its answer
        async with await DiskStore.open(root) as store:
            assert await seen(store) == after
        assert unowned(root) == set()
        if not files.failed:
            break
        failed.add(files.failed)
    assert "commit" in failed


async def test_a_full_database_is_a_full_disk(tmp_path: Path) -> None:
    """SQLite says it in its own words."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    files = FaultyFiles(error)
    async with await DiskStore.open(tmp_path, files) as store:
        files.fail_at = files.calls
        with pytest.raises(StorageFull):
            await store.merge_names([])
        await store.merge_names([])


async def test_a_failed_group_fails_all_of_it_and_nothing_else(tmp_path: Path) -> None:
    """Each of those who waited gets an error of its own."""

    class Failing(Files):
        broken = True

        def sync_directory(self, path: str) -> None:
            if self.broken and "blobs" in path:
                raise OSError(errno.EIO, "broken")
            super().sync_directory(path)

    files = Failing()
    files.broken = False
    async with await DiskStore.open(tmp_path, files) as store:
        await push_blob(store, A, KEPT)
        files.broken = True
        contents = [b"%d" % number for number in range(20)] + [KEPT]
        outcomes = await asyncio.gather(
            *(push_blob(store, A, content) for content in contents), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {StorageFailed}
        assert len({id(outcome) for outcome in outcomes}) == len(outcomes)
        assert (await store.usage()).blobs == 1
        assert await read_blob(store, A, Digest.of(KEPT)) == KEPT
        files.broken = False
        for content in contents:
            await push_blob(store, A, content)
    assert unowned(tmp_path) == set()


async def test_a_fault_of_ours_is_its_caller_s_alone(tmp_path: Path) -> None:
    """A wrong argument raises where it was given, and the writer's thread lives on."""
    async with await DiskStore.open(tmp_path) as store:
        with pytest.raises(AssertionError):
            await store.put_manifest(A, image(), ["v1"])
        await push_blob(store, A, ONE)
    assert unowned(tmp_path) == set()


def test_files_that_cannot_be_opened_are_a_matter_of_time() -> None:
    """Too many open files is no broken disk."""
    assert type(storage_error(OSError(errno.EMFILE, "too many"))) is Unavailable


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take less than it was given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:7])))
    fd = Files().create(str(tmp_path / "file"))
    Files().write(fd, TWO)
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == TWO


async def test_after_a_write_that_failed_the_rest_is_kept(tmp_path: Path) -> None:
    """A piece may be written again, by this holder or the next one."""
    files = FaultyFiles(OSError(errno.EIO, "broken"))
    async with await DiskStore.open(tmp_path, files) as store:
        async with await store.partial(A, Digest.of(TWO), len(TWO)) as partial:
            write_pieces(partial, TWO, range(0, 5000, 1000))
            files.fail_at = files.calls
            with pytest.raises(StorageFailed):
                write_pieces(partial, TWO, [5000])
            assert files.failed == "write_at"
        async with await store.partial(A, Digest.of(TWO), len(TWO)) as partial:
            assert partial.read(0, 5000) == TWO[:5000]
            write_pieces(partial, TWO, [5000])
            await partial.commit()
        assert await read_blob(store, A, Digest.of(TWO)) == TWO


def test_short_writes_in_place_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, anywhere in a file."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:7]), at))
    path = tmp_path / "file"
    path.write_bytes(bytes(len(TWO)))
    fd = os.open(path, os.O_RDWR)
    Files().write_at(fd, 100, memoryview(TWO)[100:])
    Files().write_at(fd, 0, TWO[:100])
    os.close(fd)
    assert path.read_bytes() == TWO


async def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    """Pushes fail clearly, pulls go on, deletions make room, and pushes work again."""
    contents = [bytes([number]) * 200_000 for number in range(20)]
    async with await DiskStore.open(small_disk / "root") as store:
        pushed = []
        for content in contents:
            try:
                await push_blob(store, A, content)
            except StorageFull:
                break
            pushed.append(content)
        assert 0 < len(pushed) < len(contents)
        for content in pushed:
            assert await read_blob(store, A, Digest.of(content)) == content
        assert (await store.usage()).uploads == 0
        for content in pushed[:2]:
            await store.delete_blob(A, Digest.of(content), stamp(1))
        await store.forget_names([])
        await push_blob(store, A, contents[-1])
    async with await DiskStore.open(small_disk / "root") as store:
        for content in [*pushed[2:], contents[-1]]:
            assert await read_blob(store, A, Digest.of(content)) == content
    assert unowned(small_disk / "root") == set()


async def test_pieces_on_a_disk_that_fills_up(small_disk: Path) -> None:
    """Room is not reserved: who finds none left gives up, and what it had is free again."""
    contents = [os.urandom(1_300_000) for _ in range(2)]
    async with await DiskStore.open(small_disk / "root") as store:
        async with (
            await store.partial(A, Digest.of(contents[0]), len(contents[0])) as first,
            await store.partial(A, Digest.of(contents[1]), len(contents[1])) as second,
        ):
            starts = range(0, len(contents[0]), 100_000)
            write_pieces(first, contents[0], starts[:8], 100_000)
            with pytest.raises(StorageFull):
                write_pieces(second, contents[1], starts, 100_000)
            await second.discard()
            await second.close()
            write_pieces(first, contents[0], starts[8:], 100_000)
            await first.commit()
        with pytest.raises(StorageFull):
            await store.partial(A, Digest.of(contents[1]), len(contents[1]))
        assert await read_blob(store, A, Digest.of(contents[0])) == contents[0]
        assert (await store.usage()).uploads == 0
    assert unowned(small_disk / "root") == set()
