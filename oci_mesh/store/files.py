"""The durable steps: every call that makes something survive a power cut, or takes it away.

One small class, so that a test can stand in for it: fail each call with `ENOSPC` or `EIO`, or note
what a power cut between any two of them would leave. What it does not do: decide the order of the
steps (`writer` and `uploads` do), or read.
"""

import errno
import logging
import os
import sqlite3
from typing import Final

from oci_mesh.errors import OciError, StorageFailed, StorageFull, Unavailable

_log = logging.getLogger(__name__)

# Content is the node's alone: others get it from the node, by its rules.
DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})


class NoRoom(OSError):
    """A limit that was set is reached: `missing` bytes would have to go. The text is for people."""

    def __init__(self, missing: int, text: str) -> None:
        super().__init__(errno.ENOSPC, text)
        self.missing = missing


class Files:
    """File operations with nothing added. All raise `OSError`."""

    def create(self, path: str) -> int:
        """A new file, open for reading and appending; one must not exist."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, FILE_MODE)

    def write(self, fd: int, content: bytes) -> None:
        """Append all of `content`, however many writes the kernel makes of it."""
        written = os.write(fd, content)
        if written < len(content):
            rest = memoryview(content)[written:]
            while rest:
                rest = rest[os.write(fd, rest) :]

    def write_at(self, fd: int, offset: int, content: bytes | bytearray | memoryview) -> None:
        """Write all of `content` at `offset`; `fd` is not one of `create`, which only append."""
        written = os.pwrite(fd, content, offset)
        if written < len(content):
            rest = memoryview(content)
            while rest := rest[written:]:
                offset += written
                written = os.pwrite(fd, rest, offset)

    def begin_write_out(self, fd: int, start: int, size: int) -> None:
        """Let the disk begin with these bytes, without waiting: `sync` then has less to do.

        The call says that they are not needed soon. Linux takes that as a reason to write out what
        is dirty, and keeps in memory what it is writing. (`fdatasync` in a thread would do as much,
        but could use up an error that `sync` must see.)
        """
        os.posix_fadvise(fd, start, size, os.POSIX_FADV_DONTNEED)

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file to `size` bytes, or add a hole up to there."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Make a file's bytes durable. After an error they are lost, whatever a retry says."""
        os.fsync(fd)

    def publish(self, source: str, target: str) -> None:
        """Give a synced file its final name, in place of what has it; `sync_directory` is next."""
        os.rename(source, target)

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def commit(self, connection: sqlite3.Connection) -> None:
        """Make a transaction durable. Raises `sqlite3.Error`."""
        connection.execute("COMMIT")

    def unlink(self, path: str) -> None:
        """Take a name away; who has the file open keeps its bytes. Idempotent."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return


def open_existing(path: str, flags: int) -> int:
    """Open a file of ours: never through a symbolic link, never inherited by a child process."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def storage_error(error: OSError | sqlite3.Error) -> OciError:
    """What a client is told of a failure of the disk; it is logged here, with its details."""
    _log.error("storage: %s: %s", type(error).__name__, error)
    if isinstance(error, OSError):
        if error.errno in _NO_DESCRIPTORS:
            return Unavailable("this node has too many files open")
        if isinstance(error, NoRoom):
            return StorageFull(error.strerror or "")
        full = error.errno in _FULL
    else:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if full:
        return StorageFull("no space left on this node's disk")
    return StorageFailed("this node's disk failed")
