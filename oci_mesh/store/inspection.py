"""Reading content again, to see whether it still is what it was.

The file is read from the disk, not from the kernel's memory of it, and is not left there: that
memory is for what clients ask for.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from oci_mesh.spec.digest import Digest, Hasher
from oci_mesh.store.files import open_existing

# Read and hashed at a time, in a thread: some ten milliseconds.
STEP_BYTES: Final = 4 * 1024 * 1024


class Version(NamedTuple):
    """Which file was looked at: a push may have put another one in its place since."""

    inode: int
    changed_ns: int


def version_of(path: str) -> Version | None:
    """Of what is at `path` now; None if nothing is. Raises `OSError`."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return Version(status.st_ino, status.st_ctime_ns)


async def find_fault(
    path: str, digest: Digest, size: int, pace: Callable[[int], Awaitable[None]]
) -> str:
    """What is wrong with a file that should be `digest` with `size` bytes; empty if nothing is.

    `pace` is awaited after every step, with how many bytes that was.
    """
    try:
        fd = open_existing(path, os.O_RDONLY)
    except FileNotFoundError:
        return "its file is missing"
    except OSError as error:
        return f"its file cannot be opened: {error.strerror}"
    loop, hasher = asyncio.get_running_loop(), Hasher(digest.algorithm)
    try:
        while True:
            step = loop.run_in_executor(None, hash_step, fd, hasher)
            try:
                count = await asyncio.shield(step)
            except asyncio.CancelledError:
                await asyncio.wait([step])  # the file must stay open for as long
                raise
            if not count:
                break
            await pace(count)
    except OSError as error:
        return f"byte {hasher.size} and on cannot be read: {error.strerror}"
    finally:
        os.close(fd)
    if hasher.size != size:
        return f"it has {hasher.size} bytes instead of {size}"
    found = hasher.digest()
    return "" if found == digest else f"its bytes are now {found}"


def hash_step(fd: int, hasher: Hasher) -> int:
    """Read on from where `hasher` is; return how many bytes that was, 0 at the end."""
    start = hasher.size
    os.posix_fadvise(fd, start, STEP_BYTES, os.POSIX_FADV_DONTNEED)
    chunk = os.pread(fd, STEP_BYTES, start)
    hasher.update(chunk)
    os.posix_fadvise(fd, start, STEP_BYTES, os.POSIX_FADV_DONTNEED)
    return len(chunk)
