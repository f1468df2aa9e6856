"""Work that outlives the request that began it, but never the node; and the clock it goes by."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class Background:
    """A `TaskGroup` whose tasks are cancelled, and waited for, when its block ends.

    A task that fails cancels the others and the block itself, as in any task group; work whose
    failure is somebody's answer has to hand it to them instead of raising.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside everything else."""
        task = self._group.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in list(self._running):
            task.cancel()
        # A task group wraps whatever its block raises; here that goes on its own way, and only
        # what tasks raise is a group's.
        if isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(kind, error, trace)
        else:
            await self._group.__aexit__(None, None, None)


def loop_time() -> float:
    """Seconds of the running loop's clock, by which its timers and deadlines go."""
    return asyncio.get_running_loop().time()
