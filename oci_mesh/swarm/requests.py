"""Requests for pieces that are under way, and the moments at which something is due."""

import heapq
import math
from dataclasses import dataclass


@dataclass(slots=True)
class Request:
    """One question for one piece to one node."""

    id: int
    piece: int
    peer: str
    asked_at: float
    deadline: float
    begun_at: float | None = None  # when its first byte came
    hedge_at: float = math.inf  # when it takes too long since then


@dataclass(slots=True)
class Held:
    """Another node's question for a piece that is not here yet."""

    ticket: int
    piece: int
    peer: str
    final: bool
    deadline: float


class Deadlines:
    """What may be due when. Nothing is ever taken out early: who pops looks whether it still is."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, object]] = []
        self._count = 0

    def add(self, due: float, thing: object) -> None:
        """Have `thing` come up at `due`."""
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, thing))

    def next(self) -> float | None:
        """When something may be due."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[object]:
        """What has come up, in order."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        return due
