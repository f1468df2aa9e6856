"""Uploads on disk: a file each, written and hashed as the bytes come.

Hashing is done inline: a thread would cost more than it gains. Running hashes outlive the request
that they were begun in, so an upload in many chunks is read only once; where one is lost (after a
restart, a truncation, or when there are too many), the file is read again at the commit. The
length of the file is the only progress there is.
"""

import os
import time
import uuid
from collections import OrderedDict
from typing import Final

from oci_mesh.errors import BlobUploadUnknown, OciError
from oci_mesh.spec.digest import DEFAULT_ALGORITHM, Digest, Hasher
from oci_mesh.spec.names import NameRecord
from oci_mesh.spec.upload import UploadEvent
from oci_mesh.store.base import Upload
from oci_mesh.store.files import Files, open_existing, storage_error
from oci_mesh.store.intake import Intake
from oci_mesh.store.layout import Layout, upload_name
from oci_mesh.store.room import Room
from oci_mesh.store.sessions import UNKNOWN, Sessions
from oci_mesh.store.writer import NewFile

# Running hashes kept between requests. A few hundred bytes each; the limit is for uploads that are
# begun and abandoned.
MAX_HASHERS: Final = 4096

# Measured for 1 GiB: the last fsync takes 0.3 s instead of 0.8 s. Small blobs are not worth a call,
# and one for much more at a time holds the event loop (32 MiB: 20 ms).
WRITE_OUT_BYTES: Final = 8 * 1024 * 1024


class Uploads:
    """All unfinished uploads of a store. Of the event loop's thread."""

    def __init__(
        self, layout: Layout, files: Files, intake: Intake, sessions: Sessions, room: Room
    ) -> None:
        self.layout = layout
        self.files = files
        self.intake = intake
        self.sessions = sessions
        self.room = room
        self._hashers: OrderedDict[str, Hasher] = OrderedDict()

    def create(self, repository: str, algorithm: str) -> str:
        """As `Store.create_upload`."""
        hasher = Hasher(algorithm)
        upload_id = uuid.uuid4().hex
        name = upload_name(repository, upload_id)
        try:
            os.close(self.files.create(self.layout.upload(name)))
        except OSError as error:
            raise storage_error(error) from error
        self.sessions.open(name)
        self.keep_hasher(name, hasher)
        return upload_id

    def hold(self, repository: str, upload_id: str) -> "DiskUpload":
        """Raises `BlobUploadUnknown`, `UploadBusy`. `DiskUpload.release` ends it."""
        name = upload_name(repository, upload_id)
        self.sessions.advance(name, UploadEvent.BEGIN)
        try:
            fd = open_existing(self.layout.upload(name), os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            self.end(name)
            raise BlobUploadUnknown(UNKNOWN) from None
        except OSError as error:
            self.sessions.advance(name, UploadEvent.ABORT)
            raise storage_error(error) from error
        return DiskUpload(self, name, repository, upload_id, fd)

    def offset(self, repository: str, upload_id: str) -> int:
        """As `Store.upload_offset`."""
        name = upload_name(repository, upload_id)
        if name not in self.sessions:
            raise BlobUploadUnknown(UNKNOWN)
        try:
            return os.stat(self.layout.upload(name)).st_size
        except OSError as error:
            raise storage_error(error) from error

    def expire(self, name: str, idle_s: float) -> bool:
        """Drop an upload if nobody holds it or has written to it for `idle_s` seconds."""
        if not self.sessions.is_idle(name):
            return False
        try:
            age_s = time.time() - os.stat(self.layout.upload(name)).st_mtime
        except FileNotFoundError:
            age_s = idle_s
        if age_s < idle_s:
            return False
        self.end(name)
        return True

    def end(self, name: str) -> None:
        """Drop an upload and its bytes."""
        self.sessions.advance(name, UploadEvent.CANCEL)
        self.room.free(name)
        self._hashers.pop(name, None)
        try:
            self.files.unlink(self.layout.upload(name))
        except OSError as error:  # a restart finds it again, and it expires
            storage_error(error)

    def keep_hasher(self, name: str, hasher: Hasher) -> None:
        """Keep a running hash until `take_hasher`; too many push out those kept longest."""
        self._hashers[name] = hasher
        if len(self._hashers) > MAX_HASHERS:
            self._hashers.popitem(last=False)

    def take_hasher(self, name: str, offset: int) -> Hasher | None:
        """The running hash of an upload, if it has seen exactly its `offset` bytes."""
        hasher = self._hashers.pop(name, None)
        if hasher is None and offset == 0:
            hasher = Hasher(DEFAULT_ALGORITHM)
        return hasher if hasher is not None and hasher.size == offset else None


class DiskUpload(Upload):
    """See `Upload`. Got from `Uploads.hold`."""

    def __init__(
        self, uploads: Uploads, name: str, repository: str, upload_id: str, fd: int
    ) -> None:
        self.repository = repository
        self.id = upload_id
        self.offset = os.fstat(fd).st_size
        self._uploads = uploads
        self._name = name
        self._fd: int | None = fd  # None once it has ended
        self._hasher = uploads.take_hasher(name, self.offset)
        self._writing_out = self.offset  # the disk has been given what is before this

    async def write(self, chunk: bytes) -> None:
        """As `Upload.write`."""
        fd, room = self._open_fd(), self._uploads.room

        def claim() -> None:
            room.claim(self._name, self.offset + len(chunk))
            room.spend(len(chunk))

        try:
            await room.take(claim)
            self._uploads.files.write(fd, chunk)
        except OSError as error:
            raise self._drop(error) from error
        self.offset += len(chunk)
        if self._hasher is not None:
            self._hasher.update(chunk)
        if (dirty := self.offset - self._writing_out) >= WRITE_OUT_BYTES:
            self._uploads.files.begin_write_out(fd, self._writing_out, dirty)
            self._writing_out = self.offset

    async def truncate(self, offset: int) -> None:
        """As `Upload.truncate`."""
        assert 0 <= offset <= self.offset, (offset, self.offset)
        if offset == self.offset:
            return
        try:
            self._uploads.files.truncate(self._open_fd(), offset)
        except OSError as error:
            raise self._drop(error) from error
        self.offset = offset
        self._uploads.room.claim(self._name, offset)
        self._writing_out = min(self._writing_out, offset)
        self._hasher = None

    async def commit(self, digest: Digest, stamp: str | None = None) -> list[NameRecord]:
        """As `Upload.commit`."""
        fd, size = self._open_fd(), self.offset
        self._fd = None
        self._uploads.sessions.advance(self._name, UploadEvent.COMMIT)
        repository, now_s = self.repository, int(time.time())
        done = self._uploads.intake.begin(
            fd,
            NewFile(self._uploads.layout.upload(self._name), digest),
            self._hasher.digest() if self._hasher is not None else None,
            lambda metadata: metadata.put_blob(repository, digest, size, stamp, now_s),
        )
        # It counts as content now, or is gone; also if nobody waits for that any more.
        done.add_done_callback(lambda _: self._uploads.room.free(self._name))
        return await done

    def cancel(self) -> None:
        """End it and drop its bytes."""
        os.close(self._open_fd())
        self._fd = None
        self._uploads.end(self._name)

    def release(self) -> None:
        """Let another hold it, if it has not ended."""
        if self._fd is None:
            return
        os.close(self._fd)
        self._fd = None
        self._uploads.sessions.advance(self._name, UploadEvent.WROTE)
        if self._hasher is not None:
            self._uploads.keep_hasher(self._name, self._hasher)

    def _open_fd(self) -> int:
        if self._fd is None:
            raise BlobUploadUnknown("this upload has ended")
        return self._fd

    def _drop(self, error: OSError) -> OciError:
        """After a failed write nothing is certain of the file, and its room may be all there is."""
        self.cancel()
        return storage_error(error)
