"""Virtual time: a heap of what is to happen."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Clock:
    """Runs calls in the order of their times; those of one time in the order they were set."""

    __slots__ = ("_count", "_heap", "_stopped", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._stopped = False

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call at `when` seconds, or now if that has passed. It cannot be taken back."""
        self._count += 1
        heappush(self._heap, (max(when, self.now), self._count, call, arguments))

    def stop(self) -> None:
        """Let `run` return after the current call."""
        self._stopped = True

    def run(self, until: float) -> None:
        """Run until `stop`, until nothing is left, or until `until` seconds."""
        heap = self._heap
        while heap and not self._stopped:
            when, _, call, arguments = heappop(heap)
            if when > until:
                return
            self.now = when
            call(*arguments)
