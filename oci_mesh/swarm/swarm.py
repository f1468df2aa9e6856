"""A swarm: the decisions of one node about one blob. `commands = swarm.handle(event, now)`.

In: what happened (`events`). Out: what to do. Bytes never enter, nor does a clock: `now` is
seconds of any one clock, and `next_deadline` says when to come back without an event. The same
code runs under the driver in `mesh` and under the simulator.

How it decides: pieces are asked for in order, a window of them at a time, each from the node that
the view's tree says (`view`). Who is known to have a piece already is asked before a seed. From
who is busy, slow, gone, lying or too late it climbs (I4). What another node asks for and is not
here yet is held only for nodes that come after this one in that piece's order (I1): both sides'
places are facts that come with the request, so this holds whatever the two believe of the others.

What this does not do: find the nodes, hash pieces, or know of other blobs (the uplink does).
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final

from oci_mesh.swarm.events import (
    Ask,
    Asked,
    Begun,
    Cancel,
    Command,
    Completed,
    Dropped,
    Ended,
    Event,
    Failed,
    Refuse,
    Send,
    Tick,
    Viewed,
    Wanted,
)
from oci_mesh.swarm.peers import Fault, Peers, Reserve
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.requests import Deadlines, Held, Request
from oci_mesh.swarm.uplink import Uplink
from oci_mesh.swarm.view import View, key
from oci_mesh.swarm.window import Window

# Requests under way at first: before views agree, what several ask a seed for is sent twice. Some
# more for each piece that came, up to this blob's share of the node's window.
FIRST_WINDOW: Final = 3
GROWTH: Final = 2

# How long a parent may keep a request for a piece that it waits for itself: some times what is
# usual, for a place that is deep in the tree waits longest. Generous, as whoever gives up early has
# to ask somebody else to send the piece as well; for what went lost there is the hedge.
PATIENCE: Final = 4.0
MIN_WAIT_S: Final = 10.0
MAX_WAIT_S: Final = 60.0

# After its wait an answer has this long to come; then the node counts as stalled.
SLACK_S: Final = 3.0

# From first byte to last. A slow link takes it; who needs longer is given up.
PIECE_S: Final = 60.0

# A piece that takes so many times what is usual until it begins, or from there until it is whole,
# and at least so long, is asked of somebody else as well: the first to be whole counts. A few at a
# time. For one that has not begun no seed is asked that has others to send to.
HEDGE: Final = 6.0
MIN_HEDGE_S: Final = 1.0
HEDGE_SILENT: Final = 4.0
MIN_SILENT_S: Final = 2.0
MAX_HEDGES: Final = 4

# When all who could be asked for a piece have been: begin again after this.
RETRY_S: Final = 0.25

# Who lied or is gone is left out of the trees, or those below it would all climb to a seed. Who is
# gone is still asked when there is nobody else, and is back once it sends. Both so much later, as
# several are found out at a time, and a view is costly to make.
LEAVE_OUT_S: Final = 0.1

# Other nodes' requests kept waiting here. Each is a connection.
MAX_HELD: Final = 4096

# Nodes looked at for one that has a piece already.
_PROBES: Final = 8

_SMOOTH: Final = 0.125

_LEAVE_OUT: Final = object()

# Beyond every rank that `_choose` gives.
_NOBODY: Final = 100


class Swarm:
    """One blob on one node. `have` are pieces that it begins with."""

    def __init__(
        self,
        me: str,
        slot: int,
        pieces: PieceMap,
        uplink: Uplink,
        window: Window,
        have: Iterable[int] = (),
    ) -> None:
        self.me = me
        self.slot = slot
        self.pieces = pieces
        self.progress_at = 0.0  # when the last piece came
        self._uplink = uplink
        self._known = View(())
        self._view = self._known  # without those who are left out
        self._peers = Peers()
        self._have = bytearray(pieces.count)
        for piece in have:
            self._have[piece] = 1
        self._missing = pieces.count - sum(self._have)
        self._frontier = 0
        self._cursor = 0  # pieces before it were asked for once
        self._again: list[int] = []  # a heap: pieces to be asked for again
        self._resting: set[int] = set()  # nobody could be asked for them; until a deadline
        self._tried: dict[int, set[str]] = {}
        self._requests: dict[int, Request] = {}
        self._by_piece: dict[int, list[Request]] = {}
        self._hedges = 0
        self._shared_window = window
        self._window = FIRST_WINDOW
        self._latency_s = 0.0  # from asking to the first byte
        self._duration_s = 0.0  # from there to the last
        self._held: dict[int, Held] = {}
        self._held_by_piece: dict[int, list[Held]] = {}
        self._deadlines = Deadlines()
        self._next_request = 0
        self._ended = False
        self._handlers: dict[type, Callable[[Any, float], Iterable[Command]]] = {
            Viewed: self._viewed,
            Wanted: self._wanted,
            Begun: self._begun,
            Completed: self._completed,
            Failed: self._failed,
            Asked: self._asked,
            Dropped: self._dropped,
            Tick: self._tick,
            Ended: self._end,
        }
        self._advance_frontier()

    # -- what it says of itself

    @property
    def frontier(self) -> int:
        """All pieces before this one are here."""
        return self._frontier

    @property
    def complete(self) -> bool:
        """Whether all are here."""
        return self._missing == 0

    @property
    def missing(self) -> int:
        """How many are not."""
        return self._missing

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return len(self._requests)

    def has(self, piece: int) -> bool:
        """Whether it is here."""
        return bool(self._have[piece])

    def next_deadline(self) -> float | None:
        """When to come with a `Tick`, if nothing happens before; None: not at all."""
        return self._deadlines.next()

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take note of what happened; what is to be done, in this order."""
        commands = list(self._handlers[type(event)](event, now))
        if not self._ended:
            commands += self._fill(now)
        return commands

    # -- events

    def _viewed(self, event: Viewed, now: float) -> Iterable[Command]:
        view = self._known = event.view
        left_out = self._peers.left_out
        self._view = view.without(left_out) if left_out else view
        for entry in view.advanced:
            self._peers.advance(entry.id, entry.frontier)
        return ()

    def _wanted(self, event: Wanted, now: float) -> Iterable[Command]:
        for piece in range(event.first, event.last + 1):
            if piece >= self._cursor and self._is_open(piece) and piece not in self._again:
                heapq.heappush(self._again, piece)
        return ()

    def _begun(self, event: Begun, now: float) -> Iterable[Command]:
        request = self._requests.get(event.request)
        if request is not None and request.begun_at is None:
            request.begun_at = now
            self._latency_s = _smoothed(self._latency_s, now - request.asked_at)
            request.deadline = now + PIECE_S
            request.hedge_at = now + max(MIN_HEDGE_S, HEDGE * self._duration_s)
        return ()

    def _completed(self, event: Completed, now: float) -> Iterable[Command]:
        request = self._close(event.request)
        if request is None:
            return
        took_s = now - (request.begun_at if request.begun_at is not None else request.asked_at)
        self._duration_s = _smoothed(self._duration_s, took_s)
        if request.peer in self._peers.silent:
            self._deadlines.add(now + LEAVE_OUT_S, _LEAVE_OUT)
        self._peers.succeeded(request.peer, self.pieces.length(request.piece), took_s, now)
        self._peers.advance(request.peer, event.frontier)
        self.progress_at = now
        piece = request.piece
        for other in self._by_piece.pop(piece, ()):
            self._forget(other)
            yield Cancel(other.id)
        if self._have[piece]:
            return
        self._have[piece] = 1
        self._missing -= 1
        self._tried.pop(piece, None)
        self._advance_frontier()
        self._window += GROWTH
        for held in self._held_by_piece.pop(piece, ()):
            del self._held[held.ticket]
            yield self._serve(held.ticket, piece, held.final)

    def _failed(self, event: Failed, now: float) -> Iterable[Command]:
        request = self._close(event.request)
        if request is not None:
            self._peers.advance(request.peer, event.frontier)
            self._give_up(request, event.fault, now)
        return ()

    def _asked(self, event: Asked, now: float) -> Iterable[Command]:
        piece = event.piece
        if not 0 <= piece < self.pieces.count:
            yield Refuse(event.ticket, Fault.MISSING)
        elif self._have[piece]:
            yield self._serve(event.ticket, piece, event.final)
        elif self._ended:
            yield Refuse(event.ticket, Fault.MISSING)
        elif self.slot < 0 or key(piece, self.slot, self.me) >= key(piece, event.slot, event.peer):
            yield Refuse(event.ticket, Fault.NOT_YET)  # it may be we who wait for it
        elif len(self._held) >= MAX_HELD:
            yield Refuse(event.ticket, Fault.BUSY)
        else:
            until = now + min(MAX_WAIT_S, event.wait_s)  # in this order: it may be no number
            held = Held(event.ticket, piece, event.peer, event.final, until)
            self._held[event.ticket] = held
            self._held_by_piece.setdefault(piece, []).append(held)
            self._deadlines.add(until, held)

    def _dropped(self, event: Dropped, now: float) -> Iterable[Command]:
        self._release(event.ticket)
        return ()

    def _tick(self, event: Tick, now: float) -> Iterable[Command]:
        for thing in self._deadlines.pop_due(now):
            if isinstance(thing, Request):
                yield from self._request_due(thing, now)
            elif isinstance(thing, Held) and thing.ticket in self._held:
                self._release(thing.ticket)
                yield Refuse(thing.ticket, Fault.NOT_YET)
            elif thing is _LEAVE_OUT:
                self._view = self._known.without(self._peers.left_out)
            elif isinstance(thing, int):
                self._resting.discard(thing)
                self._tried.pop(thing, None)
                if self._is_open(thing):
                    heapq.heappush(self._again, thing)

    def _end(self, event: Ended, now: float) -> Iterable[Command]:
        self._ended = True
        for request in self._requests.values():
            yield Cancel(request.id)
        for ticket in self._held:
            yield Refuse(ticket, Fault.MISSING)
        self._requests.clear()
        self._by_piece.clear()
        self._held.clear()
        self._held_by_piece.clear()
        self._hedges = 0

    # -- asking

    def _fill(self, now: float) -> Iterator[Command]:
        shared = self._shared_window
        share = min(shared.share(len(self._view)), shared.in_time(self.pieces.piece_size))
        self._window = min(self._window, share)
        while len(self._by_piece) < self._window:
            piece = self._next_piece()
            if piece is None:
                return
            yield from self._ask(piece, now)

    def _next_piece(self) -> int | None:
        """The first piece that is neither here nor asked for."""
        while self._again:
            piece = heapq.heappop(self._again)
            if self._is_open(piece):
                return piece
        while self._cursor < self.pieces.count:
            piece = self._cursor
            self._cursor += 1
            if self._is_open(piece):
                return piece
        return None

    def _is_open(self, piece: int) -> bool:
        """Whether it is to be asked for now."""
        here_or_asked = self._have[piece] or piece in self._by_piece
        return not here_or_asked and piece not in self._resting

    def _ask(self, piece: int, now: float) -> Iterator[Command]:
        """Ask somebody for a piece; nobody there: try again a little later."""
        tried = self._tried.setdefault(piece, set())
        peer, final = self._choose(piece, tried, now)
        if peer is None:
            if piece not in self._resting:
                self._resting.add(piece)
                self._deadlines.add(now + RETRY_S, piece)
            return
        wait_s = min(MAX_WAIT_S, max(MIN_WAIT_S, PATIENCE * self._latency_s))
        self._next_request += 1
        request = Request(self._next_request, piece, peer, now, now + wait_s + SLACK_S)
        self._requests[request.id] = request
        self._by_piece.setdefault(piece, []).append(request)
        request.hedge_at = now + max(MIN_SILENT_S, HEDGE_SILENT * self._latency_s)
        self._deadlines.add(min(request.hedge_at, request.deadline), request)
        yield Ask(request.id, peer, piece, wait_s, final)

    def _choose(self, piece: int, tried: set[str], now: float) -> tuple[str | None, bool]:
        """Whom to ask, and whether it is to queue this rather than say that it is busy: if there is
        nobody as good. Who is busy is still better than a seed that has others to send to, and that
        better than who is slow.
        """
        best: str | None = None
        worst = _NOBODY
        others = 0
        for peer in chain(self._candidates(piece), self._left_out(piece)):
            if peer in tried or peer in (self.me, best):
                continue
            reserve = self._peers.reserve(peer, now)
            if reserve is Reserve.NEVER:
                continue
            rank = 2 * reserve + (3 if reserve < Reserve.SLOW and self._is_scarce(peer) else 0)
            if rank < worst:
                best, worst = peer, rank
                others = 0
            elif rank == 0:
                others += 1
            if worst == 0 and others:
                break
        return best, others == 0

    def _candidates(self, piece: int) -> Iterator[str]:
        """Whom to ask, in order. With a piece that others have long had (this node joined late, or
        fell behind), one of those goes before a seed that has others to send to. In the end all
        who have it: when the seeds are gone it may be nobody that stands before this one.
        """
        view, peers = self._view, self._peers
        path = view.path(piece, self.me)
        if piece >= peers.max_frontier:
            yield from path
            return
        parent = next(path, None)
        if parent is not None and len(view.seeds) < len(view.wanting):
            entry = view.entries.get(parent)
            is_seed = entry is not None and entry.complete
            if is_seed or peers[parent].frontier <= piece:
                yield from self._holders(piece)
        if parent is not None:
            yield parent
        yield from path
        yield from (peer for peer in view.wanting if peers[peer].frontier > piece)

    def _left_out(self, piece: int) -> Iterator[str]:
        """Who is in no tree any more, but would be before this one, or has the piece: there may be
        nobody else, and who is never asked never sends again.
        """
        known, view = self._known, self._view
        if len(known) == len(view):
            return
        silent = sorted(self._peers.silent)
        has_it = (peer for peer in silent if self._peers[peer].frontier > piece)
        for peer in chain(known.path(piece, self.me), has_it):
            if peer in known.entries and peer not in view.entries:
                yield peer

    def _holders(self, piece: int) -> Iterator[str]:
        """Some nodes that said they have it, another first for each piece and node."""
        wanting = self._view.wanting
        turn = (piece * 0x9E3779B9 + self.slot * 0x85EBCA6B) & 0xFFFFFFFF
        for i in range(min(_PROBES, len(wanting))):
            peer = wanting[(turn + i) % len(wanting)]
            if self._peers[peer].frontier > piece:
                yield peer

    def _is_scarce(self, peer: str) -> bool:
        """A seed that has others to send to: better to wait for somebody else than to ask it."""
        view = self._view
        entry = self._known.entries.get(peer)
        return entry is not None and entry.complete and len(view.seeds) < len(view.wanting)

    def _give_up(self, request: Request, fault: Fault, now: float) -> None:
        before = len(self._peers.left_out)
        self._peers.failed(request.peer, fault, now)
        if len(self._peers.left_out) > before:
            self._deadlines.add(now + LEAVE_OUT_S, _LEAVE_OUT)
        if self._have[request.piece]:
            return
        self._tried.setdefault(request.piece, set()).add(request.peer)
        if request.piece not in self._by_piece:
            heapq.heappush(self._again, request.piece)

    def _request_due(self, request: Request, now: float) -> Iterator[Command]:
        if request.id not in self._requests:
            return
        if request.deadline <= now:
            self._close(request.id)
            yield Cancel(request.id)
            self._give_up(request, Fault.STALLED, now)
            return
        again = max(now + MIN_HEDGE_S, request.hedge_at)
        self._deadlines.add(min(request.deadline, again), request)
        hedged = len(self._by_piece[request.piece]) > 1
        if request.hedge_at <= now and not hedged and self._hedges < MAX_HEDGES:
            tried = self._tried.setdefault(request.piece, set())
            tried.add(request.peer)
            peer, _ = self._choose(request.piece, tried, now)
            if peer is not None and (request.begun_at is not None or not self._is_scarce(peer)):
                asked = list(self._ask(request.piece, now))
                self._hedges += len(asked)
                yield from asked

    def _close(self, request_id: int) -> Request | None:
        request = self._requests.get(request_id)
        if request is None:
            return None
        same = self._by_piece[request.piece]
        same.remove(request)
        if not same:
            del self._by_piece[request.piece]
        else:
            self._hedges = max(0, self._hedges - 1)
        self._forget(request)
        return request

    def _forget(self, request: Request) -> None:
        del self._requests[request.id]

    def _advance_frontier(self) -> None:
        missing = self._have.find(0, self._frontier)
        self._frontier = self.pieces.count if missing < 0 else missing

    # -- answering

    def _serve(self, ticket: int, piece: int, final: bool) -> Command:
        if self._uplink.is_full() or (not final and self._uplink.is_busy()):
            return Refuse(ticket, Fault.BUSY)
        return Send(ticket, piece)

    def _release(self, ticket: int) -> None:
        held = self._held.pop(ticket, None)
        if held is not None:
            same = self._held_by_piece[held.piece]
            same.remove(held)
            if not same:
                del self._held_by_piece[held.piece]


def _smoothed(mean: float, sample: float) -> float:
    return mean + (sample - mean) * (_SMOOTH if mean else 1.0)
