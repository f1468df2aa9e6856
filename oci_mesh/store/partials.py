"""Blobs on disk whose pieces arrive in any order: sparse files of their full length.

The file system knows where bytes are and where holes, so there is no list of pieces to keep in
step with them; what an earlier run left is verified piece by piece by who goes on. (Hence no
`fallocate`: it would make everything look written. The price: room is not reserved.)

Writes, reads and the hash are done inline: a thread would cost more than it gains. The hash of the
whole runs behind the pieces and reads them back from the page cache: one copy, a tenth of its cost.
"""

import asyncio
import errno
import os
import time
from typing import BinaryIO, Final, cast

from oci_mesh.errors import BlobUploadUnknown, StorageFailed
from oci_mesh.spec.digest import Digest, Hasher
from oci_mesh.spec.names import NameRecord
from oci_mesh.spec.upload import UploadEvent
from oci_mesh.store.base import Partial
from oci_mesh.store.files import open_existing, storage_error
from oci_mesh.store.layout import partial_name
from oci_mesh.store.room import held_bytes
from oci_mesh.store.uploads import WRITE_OUT_BYTES, Uploads
from oci_mesh.store.writer import NewFile

# Read back at a time, into a buffer that stays in the processor's cache.
HASH_BYTES: Final = 256 * 1024


class Partials:
    """The partials of a store: states and files are kept with those of its uploads.

    Of the event loop's thread.
    """

    def __init__(self, uploads: Uploads) -> None:
        self.uploads = uploads
        self.buffer = memoryview(bytearray(HASH_BYTES))  # shared: a hash never waits half-way

    async def hold(self, repository: str, digest: Digest, size: int) -> "DiskPartial":
        """As `Store.partial`. `DiskPartial.close` ends it."""
        name, sessions = partial_name(repository, digest), self.uploads.sessions
        path, room = self.uploads.layout.upload(name), self.uploads.room
        if name not in sessions:
            sessions.open(name)
        sessions.advance(name, UploadEvent.BEGIN)

        def claim() -> None:
            room.claim(name, size)
            room.check_disk(size - min(size, held_bytes(path)))

        try:
            # Better now than in the middle: a node that cannot have a blob leaves it to others.
            await room.take(claim)
            fd = self._open(path, size)
        except BaseException as error:
            left = os.path.lexists(path)
            sessions.advance(name, UploadEvent.ABORT if left else UploadEvent.CANCEL)
            room.settle(name)
            if isinstance(error, OSError):
                raise storage_error(error) from error
            raise
        return DiskPartial(self, name, repository, digest, fd)

    def _open(self, path: str, size: int) -> int:
        """The file, of `size` bytes; what has another size is begun anew."""
        files = self.uploads.files
        try:
            fd = open_existing(path, os.O_RDWR)
        except FileNotFoundError:
            os.close(files.create(path))
            fd = open_existing(path, os.O_RDWR)
        try:
            if os.fstat(fd).st_size != size:
                files.truncate(fd, 0)
                files.truncate(fd, size)
        except OSError:
            os.close(fd)
            raise
        return fd


class DiskPartial(Partial):
    """See `Partial`. Got from `Partials.hold`."""

    def __init__(
        self, partials: Partials, name: str, repository: str, digest: Digest, fd: int
    ) -> None:
        self.digest = digest
        self.size = os.fstat(fd).st_size
        self._uploads = partials.uploads
        self._buffer = partials.buffer
        self._name = name
        self._repository = repository
        self._file = cast("BinaryIO", os.fdopen(fd, "r+b", buffering=0))
        self._held = True  # until it has ended, or was let go of
        self._hasher = Hasher(digest.algorithm)
        self._writing_out = 0  # the disk has been given what is before this

    @property
    def file(self) -> BinaryIO:
        """The open file."""
        return self._file

    @property
    def hashed(self) -> int:
        """As `Partial.hashed`."""
        return self._hasher.size

    def spans(self) -> list[tuple[int, int]]:
        """As `Partial.spans`, in whole blocks of the file system."""
        fd, found, stop = self._file.fileno(), [], 0
        try:
            while stop < self.size:
                start = os.lseek(fd, stop, os.SEEK_DATA)
                stop = os.lseek(fd, start, os.SEEK_HOLE)
                found.append((start, stop))
        except OSError as error:
            if error.errno != errno.ENXIO:  # no bytes after this
                raise storage_error(error) from error
        return found

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """As `Partial.write`."""
        assert 0 <= offset <= offset + len(data) <= self.size, (offset, len(data), self.size)
        self._check_held()
        try:
            self._uploads.room.spend(len(data))
            self._uploads.files.write_at(self._file.fileno(), offset, data)
        except OSError as error:
            raise storage_error(error) from error

    def read(self, start: int, stop: int) -> bytes:
        """As `Partial.read`."""
        parts = []
        while start < stop:
            parts.append(self._read(start, stop - start))
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def advance(self, stop: int) -> None:
        """As `Partial.advance`; what was hashed is given to the disk, some MiB at a time."""
        assert stop <= self.size, (stop, self.size)
        while (at := self._hasher.size) < stop:
            got = self._read_into(self._buffer[: stop - at], at)
            self._hasher.update(self._buffer[:got])
        if (dirty := self._hasher.size - self._writing_out) >= WRITE_OUT_BYTES:
            try:
                self._uploads.files.begin_write_out(self._file.fileno(), self._writing_out, dirty)
            except OSError as error:
                raise storage_error(error) from error
            self._writing_out = self._hasher.size

    def verified(self) -> bool:
        """As `Partial.verified`."""
        return self._hasher.size == self.size and self._hasher.digest() == self.digest

    async def commit(self, stamp: str | None = None) -> list[NameRecord]:
        """As `Partial.commit`."""
        self._check_held()
        repository, digest, size, now_s = self._repository, self.digest, self.size, int(time.time())
        try:
            fd = os.dup(self._file.fileno())  # ours stays open for those who read it
        except OSError as error:
            raise storage_error(error) from error
        done = self._uploads.intake.begin(
            fd,
            NewFile(self._uploads.layout.upload(self._name), digest),
            self._hasher.digest() if self._hasher.size == size else None,
            lambda metadata: metadata.put_blob(repository, digest, size, stamp, now_s),
        )
        self._held = False
        # Not before: the next holder would find the file under its name still.
        done.add_done_callback(lambda _: self._ended())
        return await asyncio.shield(done)

    async def discard(self) -> None:
        """As `Partial.discard`; the room is free once it is closed too."""
        if self._held:
            self._held = False
            self._uploads.end(self._name)

    async def close(self) -> None:
        """As `Partial.close`."""
        self._file.close()
        if self._held:
            self._held = False
            self._uploads.room.settle(self._name)
            self._uploads.sessions.advance(self._name, UploadEvent.WROTE)

    def _ended(self) -> None:
        self._uploads.room.free(self._name)
        self._uploads.sessions.advance(self._name, UploadEvent.COMMIT)

    def _check_held(self) -> None:
        if not self._held:
            raise BlobUploadUnknown("this partial has ended")

    def _read(self, offset: int, size: int) -> bytes:
        """Some bytes from there on, at most so many."""
        try:
            some = os.pread(self._file.fileno(), size, offset)
        except OSError as error:
            raise storage_error(error) from error
        if not some:
            raise self._ends_at(offset)
        return some

    def _read_into(self, buffer: memoryview, offset: int) -> int:
        try:
            got = os.preadv(self._file.fileno(), [buffer], offset)
        except OSError as error:
            raise storage_error(error) from error
        if not got:
            raise self._ends_at(offset)
        return got

    def _ends_at(self, offset: int) -> StorageFailed:
        return StorageFailed(f"the partial of {self.digest} ends at byte {offset} on this disk")
