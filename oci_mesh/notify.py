"""What the service manager is told of this process: sd_notify(3), one datagram for each message.

Where none asks (no `NOTIFY_SOCKET`) nothing is sent, and one that does not listen is no reason not
to serve. It does not take over sockets or file descriptors.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

_log = logging.getLogger(__name__)

# Signs of life within one interval of the watchdog: two may be late or lost.
_SIGNS: Final = 3


class Manager:
    """Who started this process, and wants to hear of it: systemd, or whoever speaks as it does."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`NOTIFY_SOCKET` is a path, or `@name` in the abstract namespace; `WATCHDOG_USEC` counts
        unless `WATCHDOG_PID` is another process.
        """
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s: Final = int(microseconds) / 1e6 if mine and microseconds.isdigit() else 0.0

    def tell(self, *assignments: str) -> None:
        """Send `READY=1`, `STATUS=…` and the like, as one message; never blocks."""
        if not self._address:
            return
        message = "\n".join(assignments).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as connection:
            try:
                connection.sendto(message, self._address)
            except OSError as error:
                _log.warning("the service manager was not told %s: %s", assignments[0], error)

    async def keep_alive(self, sign: Callable[[], Awaitable[str]]) -> None:
        """Feed the watchdog for as long as `sign` returns in time, with what it returns as status;
        without one, return at once. `OSError` and `TimeoutError` of it are no sign of life.
        """
        if not self._address or not self.watchdog_s:
            return
        pause = self.watchdog_s / _SIGNS
        while True:
            try:
                async with asyncio.timeout(pause):
                    status = await sign()
            except OSError as error:  # TimeoutError is one
                reason = str(error) or "no answer"
                _log.error("no sign of life for the watchdog: %s", reason)
            else:
                self.tell("WATCHDOG=1", f"STATUS={status}")
            await asyncio.sleep(pause)


async def ask(host: str, port: int, path: str) -> None:
    """GET `path` of a server on this machine. Raises `OSError` if the answer is not a 200; what it
    waits for is the caller's deadline.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        status = await reader.readline()
        if status.split()[1:2] != [b"200"]:
            raise OSError(f"{path} was answered with {status.decode(errors='replace').strip()!r}")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
