"""How bytes become content: verify → fsync → the writer's group.

The first two are done in threads, several at a time, for the file system flushes concurrent fsyncs
together. From the call of `take` on, a push goes to its end even if its caller is cancelled: a
file is always somebody's, so none is left behind, used twice, or closed under a running fsync.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from oci_mesh.errors import DigestInvalid, OciError, Unavailable
from oci_mesh.spec.digest import Digest, Hasher
from oci_mesh.store.files import Files, storage_error
from oci_mesh.store.metadata import Metadata
from oci_mesh.store.writer import NewFile, Write, Writer

Result = TypeVar("Result")

# How many fsyncs wait on the disk together. Four flush small blobs as fast; the rest is so that a
# few large ones do not keep the small ones waiting.
SYNC_THREADS: Final = 16

_READ_BYTES: Final = 1024 * 1024


class Intake:
    """The way in, for bytes and for changes without any."""

    def __init__(self, writer: Writer, files: Files) -> None:
        self._writer = writer
        self._files = files
        self._threads = ThreadPoolExecutor(SYNC_THREADS, "store-sync")
        self._closed = False

    async def change(self, change: Callable[[Metadata], Result], *, frees: bool = False) -> Result:
        """Do a change; return what it returns, or raise what it raises, once that is durable.

        With `frees`, once the bytes of what it dropped are free as well.
        """
        self._check_open()
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._writer.submit(Write(change, done, frees=frees))
        return await done

    def note(self, change: Callable[[Metadata], None]) -> None:
        """Do a change some time, that nobody waits for."""
        if not self._closed:
            self._writer.submit(Write(change))

    async def take(
        self, fd: int, file: NewFile, found: Digest | None, change: Callable[[Metadata], Result]
    ) -> Result:
        """Make a written file content, together with `change`; the file is no longer the caller's.

        `fd` is open on it for reading, and is closed here. `found` is its digest, if that was
        computed while it was written. Raises `DigestInvalid`, `StorageFull`, `StorageFailed`, or
        what `change` raises; the file is then gone. Raises `Unavailable` after `close`.
        """
        return await self.begin(fd, file, found, change)

    def begin(
        self, fd: int, file: NewFile, found: Digest | None, change: Callable[[Metadata], Result]
    ) -> asyncio.Future[Result]:
        """As `take`, for who has something to do when it is over, waited for or not."""
        try:
            self._check_open()
        except Unavailable:
            os.close(fd)
            raise
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._threads.submit(self._settle, fd, found, Write(change, done, file))
        return done

    def close(self) -> None:
        """Take no more, and wait until the writer has got everything. Blocks."""
        self._closed = True
        self._threads.shutdown()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("this node is stopping")

    def _settle(self, fd: int, found: Digest | None, write: Write) -> None:
        assert write.file is not None
        path, digest = write.file
        try:
            if found is None or found.algorithm != digest.algorithm:
                found = hash_file(fd, digest.algorithm)
            if found != digest:
                raise DigestInvalid(f"the content is {found}, not {digest}")
            self._files.sync(fd)
        except (OSError, OciError) as error:
            self._discard(path)
            write.resolve(storage_error(error) if isinstance(error, OSError) else error)
        else:
            self._writer.submit(write)
        finally:
            os.close(fd)

    def _discard(self, path: str) -> None:
        try:
            self._files.unlink(path)
        except OSError as error:  # the next start finds it, as an upload that will expire
            storage_error(error)


def hash_file(fd: int, algorithm: str) -> Digest:
    """The digest of all of an open file. Blocks for as long as it takes to read it."""
    hasher = Hasher(algorithm)
    while chunk := os.pread(fd, _READ_BYTES, hasher.size):
        hasher.update(chunk)
    return hasher.digest()
