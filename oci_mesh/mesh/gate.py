"""Turns at this node's uplink, and its rate: `swarm` decides, here somebody waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from oci_mesh.swarm.rate import MAX_SLICE_BYTES, Rate
from oci_mesh.swarm.uplink import Uplink


class Gate:
    """One per node, for pieces of all blobs. Without a `rate` they go as fast as they can."""

    def __init__(self, uplink: Uplink, rate: Rate | None = None) -> None:
        self.uplink = uplink
        self.slice_bytes = MAX_SLICE_BYTES if rate is None else rate.slice_bytes
        """How much to send at a time."""
        self._rate = rate

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
            yield
            sent = True
        finally:
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
