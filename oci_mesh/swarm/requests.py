"""Requests for pieces that are under way, questions that wait, and when something is due."""

import heapq
import math
from collections.abc import Iterator
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
    is_ahead: bool
    """It comes before this node in the order of the piece."""


class Requests:
    """All that are under way: one for each piece asked for, or two where the first is late."""

    def __init__(self) -> None:
        self._by_id: dict[int, Request] = {}
        self._by_piece: dict[int, list[Request]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._by_id.values()))

    def __contains__(self, request: Request) -> bool:
        return request.id in self._by_id

    @property
    def pieces(self) -> int:
        """How many pieces are asked for."""
        return len(self._by_piece)

    def get(self, request_id: int) -> Request | None:
        """The request of that id, if it is under way."""
        return self._by_id.get(request_id)

    def of(self, piece: int) -> tuple[Request, ...]:
        """Those for a piece."""
        return tuple(self._by_piece.get(piece, ()))

    def open(self, request: Request) -> None:
        """One more."""
        self._by_id[request.id] = request
        self._by_piece.setdefault(request.piece, []).append(request)

    def close(self, request_id: int) -> Request | None:
        """It has ended; None if it had before."""
        request = self._by_id.pop(request_id, None)
        if request is not None:
            same = self._by_piece[request.piece]
            same.remove(request)
            if not same:
                del self._by_piece[request.piece]
        return request


class Waiting:
    """All questions that are held, by ticket; those for a piece in the order of asking."""

    def __init__(self) -> None:
        self._by_ticket: dict[int, Held] = {}
        self._by_piece: dict[int, list[Held]] = {}

    def __len__(self) -> int:
        return len(self._by_ticket)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._by_ticket.values()))

    def __contains__(self, held: Held) -> bool:
        return held.ticket in self._by_ticket

    def of(self, piece: int) -> tuple[Held, ...]:
        """Those for a piece."""
        return tuple(self._by_piece.get(piece, ()))

    def add(self, held: Held) -> None:
        """Hold one more."""
        self._by_ticket[held.ticket] = held
        self._by_piece.setdefault(held.piece, []).append(held)

    def remove(self, ticket: int) -> None:
        """Hold it no longer; it may be gone already."""
        held = self._by_ticket.pop(ticket, None)
        if held is not None:
            same = self._by_piece[held.piece]
            same.remove(held)
            if not same:
                del self._by_piece[held.piece]


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
