"""When to try again, and for how long: a network that fails for a while is waited for, briefly.

An attempt raises `Transient` for what may pass (no connection, a cut one, 5xx, 429). Progress
starts the count anew: an upload that is cut every minute still arrives.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import uniform
from typing import Final, TypeVar

from oci_mesh.cli.failure import Failure
from oci_mesh.errors import OciMeshError

Value = TypeVar("Value")

# With the waits below, about 8 s: a node that restarts is back by then, and a person who mistyped
# a port has not gone away yet.
MAX_ATTEMPTS: Final = 6
FIRST_WAIT_S: Final = 0.25

# A registry may ask for patience (Retry-After), not for the afternoon.
MAX_WAIT_S: Final = 30.0


class Transient(OciMeshError):
    """An attempt failed in a way that another may not; `wait_s` is what the registry asked for."""

    def __init__(self, message: str, *, hint: str = "", wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.wait_s = wait_s


class Patience:
    """The attempts at one operation."""

    def __init__(self, note: Callable[[str], None], first_wait_s: float = FIRST_WAIT_S) -> None:
        self._note = note
        self._first_wait_s = first_wait_s
        self._failures = 0

    def progress(self) -> None:
        """Something was achieved: begin to count anew."""
        self._failures = 0

    async def after(self, error: Transient) -> None:
        """Wait before the next attempt. Raises `Failure` if that was the last."""
        self._failures += 1
        if self._failures >= MAX_ATTEMPTS:
            raise Failure(f"{error.message} ({MAX_ATTEMPTS} attempts)", hint=error.hint) from error
        wait_s = max(self._first_wait_s * 2 ** (self._failures - 1), error.wait_s)
        self._note(f"{error.message}; attempt {self._failures + 1} of {MAX_ATTEMPTS}")
        await asyncio.sleep(min(wait_s, MAX_WAIT_S) * uniform(0.75, 1.0))

    async def call(self, attempt: Callable[[], Awaitable[Value]]) -> Value:
        """The result of the first attempt that does not raise `Transient`."""
        while True:
            try:
                return await attempt()
            except Transient as error:
                await self.after(error)
