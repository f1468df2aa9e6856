"""The door for what makes this node hold more: pushes of clients, and copies for other nodes.

It is closed while the node drains: what came after would be handed over by nobody.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from oci_mesh.errors import Unavailable

# When a client that was refused may try again: whatever sends it here has another node for it then.
_RETRY: Final = {"Retry-After": "5"}


class Pushes:
    """Of one node."""

    def __init__(self) -> None:
        self.closed = False
        self._under_way = 0
        self._none = asyncio.Event()

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """The block is a push. Raises `Unavailable` if there may be none."""
        if self.closed:
            raise Unavailable("this node takes no more content: it drains", headers=_RETRY)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._none.set()

    async def settle(self, within_s: float) -> bool:
        """Wait until none is under way; whether that came within `within_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._under_way:
                    self._none.clear()
                    await self._none.wait()
        return not self._under_way
