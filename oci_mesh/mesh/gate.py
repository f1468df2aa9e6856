"""Turns at this node's uplink, and its rate: `swarm` decides, here somebody waits."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from oci_mesh.swarm.rate import MAX_SLICE_BYTES, Rate
from oci_mesh.swarm.uplink import Uplink

# A turn ends when the kernel has taken its bytes; what is handed to it at one time leaves a shared
# link in about so many seconds. Only then nobody is kept waiting by who is served last.
IDLE_S: Final = 0.2

# But who may be served last unjustly is not to starve: the first that waits goes after so many
# seconds in any case. And it asks again when it has waited for so many behind others: less than
# `swarm.SLACK_S`, or it would take this node for one that stands still.
STARVED_S: Final = 1.0
LAST_WAIT_S: Final = 2.0


class Gate:
    """One per node, for pieces of all blobs. Without a `rate` they go as fast as they can."""

    def __init__(self, uplink: Uplink, rate: Rate | None = None) -> None:
        self.uplink = uplink
        self.slice_bytes = MAX_SLICE_BYTES if rate is None else rate.slice_bytes
        """How much to send at a time."""
        self._rate = rate
        self._sent_at = -math.inf  # the last turn's beginning or end
        self._lasts = asyncio.Lock()

    async def idle(self) -> bool:
        """Wait until nobody has been sent anything for a while, but not for long; False if others
        have waited for that for too long before. One at a time: who waited counts as somebody to
        whom something is sent.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LAST_WAIT_S), self._lasts:
                until = loop.time() + STARVED_S
                while (idle_at := min(until, self._sent_at + IDLE_S)) > loop.time():  # noqa: ASYNC110
                    await asyncio.sleep(idle_at - loop.time())
                self._sent_at = loop.time()
        except TimeoutError:
            return False
        return True

    @asynccontextmanager
    async def turn(self, size: int, *, last: bool = False) -> AsyncIterator[None]:
        """Wait until `size` bytes may be sent, by those served `last` or before them. The turn ends
        with the block.
        """
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._begin(self.uplink.enqueue(turn, size, loop.time(), last=last))
        sent = False
        try:
            await turn
            self._sent_at = loop.time()
            yield
            sent = True
        finally:
            self._sent_at = loop.time()
            self._begin(self.uplink.finished(turn, loop.time(), sent=sent))

    async def pace(self, size: int) -> None:
        """Wait until `size` more bytes may go, if they are to go at a rate."""
        if self._rate is not None:
            wait_s = self._rate.take(size, asyncio.get_running_loop().time())
            if wait_s > 0:
                await asyncio.sleep(wait_s)

    @staticmethod
    def _begin(turns: list[object]) -> None:
        for turn in turns:
            assert isinstance(turn, asyncio.Future)
            if not turn.done():  # or it is leaving just now, and ends its turn itself
                turn.set_result(None)
