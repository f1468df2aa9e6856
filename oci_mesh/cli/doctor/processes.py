"""Processes of this machine, as /proc shows them: who listens on a port, since when one runs."""

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"  # of `st` in /proc/net/tcp
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


def listener(port: int) -> str | None:
    """Who listens on a TCP port: `name (pid 7)`, or `another process` if that may not be seen.

    None if nobody does.
    """
    inodes = set(_listening(port))
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if any(os.readlink(each) in wanted for each in (process / "fd").iterdir()):
                name = (process / "comm").read_text().strip()
                return f"{name} (pid {process.name})"
    return "another process"


def _listening(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def server_of(path: Path) -> int | None:
    """The process that listens on a Unix socket; None if it cannot be seen from here.

    Raises `OSError` if there is no such socket, nobody listens, or it may not be opened.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        client.connect(str(path))
        size = _CREDENTIALS.size
        packed = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid: int = _CREDENTIALS.unpack(packed)[0]
    return pid or None


def started_at(pid: int) -> float | None:
    """When a process was started, in seconds since 1970; None if that cannot be seen."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    ticks = int(stat.rpartition(")")[2].split()[19])  # proc(5): (22) starttime, after the name
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")
