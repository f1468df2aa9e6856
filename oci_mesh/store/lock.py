"""One process per root: a lock that the kernel drops with the process, however that ends."""

import fcntl
import os
from typing import Final

from oci_mesh.errors import StoreLocked
from oci_mesh.store.files import FILE_MODE

_MAX_PID_LENGTH: Final = 20


class RootLock:
    """Held from construction to `release`. Raises `StoreLocked` if another has it."""

    def __init__(self, path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, FILE_MODE)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, _MAX_PID_LENGTH, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise StoreLocked(
                f"{os.path.dirname(path)} is in use by process {holder or 'unknown'}: "
                "stop that one first, or give this one another root"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have it. The file stays: to remove it would race with who just opened it."""
        os.close(self._fd)
