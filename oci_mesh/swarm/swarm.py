"""A swarm: the decisions of one node about one blob. `commands = swarm.handle(event, now)`.

In: what happened (`events`). Out: what to do. Bytes never enter, nor does a clock: `now` is
seconds of any one clock, and `next_deadline` says when to come back without an event. The same
code runs under the driver in `mesh` and under the simulator.

How it decides: pieces are asked for in order, a window of them at a time, each from the node that
the view's tree says (`view`). From who is busy, slow, gone, lying or too late it climbs (I4). Who
lied is served last: it goes on with trees in which it stands, and asks a seed where no other does.
What another node asks for and is not here yet is held only for nodes that come after this one in
that piece's order (I1): both sides' places are facts that come with the request, so this holds
whatever the two believe of the others.

While no node has the blob its pieces come from outside of the mesh. Either the view has the
`ORIGIN` as a seed: its runs of pieces are asked for by their roots, a run at a time. Or a node is
fed: its driver says which pieces are there. Either waits for nobody in the mesh, so anybody may
wait for it; a root that comes to ask in the mesh after all first sends away whom it may wait for.

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
    Fed,
    Feed,
    Refuse,
    Send,
    Tick,
    Viewed,
    Wanted,
)
from oci_mesh.swarm.peers import Fault, Peers, Reserve
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.requests import Deadlines, Held, Request, Requests, Waiting
from oci_mesh.swarm.uplink import Uplink
from oci_mesh.swarm.view import ORIGIN, View, key, wave
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
# time. Who has not begun may wait for one that is slow, or served last as it is said to lie; so at
# the worst a seed is asked for it, also one that has others to send to; but no origin, as who waits
# for what comes from there waits no longer than it takes.
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

# What comes from outside comes as slowly as it does: who was told "not yet" after a full wait asks
# the same node again for so long, before it turns to another. All would turn to the origin.
COLD_PATIENCE_S: Final = 60.0

# Other nodes' requests kept waiting here. Each is a connection.
MAX_HELD: Final = 4096

_SMOOTH: Final = 0.125

_LEAVE_OUT: Final = object()

# Beyond every rank that `_choose` gives.
_NOBODY: Final = 100


class Swarm:
    """One blob on one node. `have` are pieces that it begins with. `run` pieces in a row are asked
    of an origin together, as in the views that it is given. `fed`: as by `Feed`.
    """

    def __init__(
        self,
        me: str,
        slot: int,
        pieces: PieceMap,
        uplink: Uplink,
        window: Window,
        have: Iterable[int] = (),
        run: int = 1,
        *,
        fed: bool = False,
    ) -> None:
        self.me = me
        self.slot = slot
        self.pieces = pieces
        self.progress_at = 0.0  # when the last piece came
        self._run = run
        self._fed = fed
        self._uplink = uplink
        self._known = View((), run)
        self._view = self._known  # without those who are left out
        self._wave_asked = -1  # as that view has it
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
        self._waiting_since: dict[int, float] = {}  # pieces that did not come in one wait
        self._requests = Requests()
        self._shared_window = window
        self._window = FIRST_WINDOW
        self._latency_s = 0.0  # from asking to the first byte
        self._duration_s = 0.0  # from there to the last
        self._held = Waiting()
        self._deadlines = Deadlines()
        self._next_request = 0
        self._ended = False
        self._handlers: dict[type, Callable[[Any, float], Iterable[Command]]] = {
            Viewed: self._viewed,
            Wanted: self._wanted,
            Begun: self._begun,
            Completed: self._completed,
            Failed: self._failed,
            Fed: self._fed_piece,
            Feed: self._feed,
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

    @property
    def fed(self) -> bool:
        """Whether its pieces come from outside of the swarm."""
        return self._fed

    @property
    def named(self) -> tuple[str, ...]:
        """Who lied to this node: some of them, to be named to those whom it asks."""
        return self._peers.named

    def has(self, piece: int) -> bool:
        """Whether it is here."""
        return bool(self._have[piece])

    def next_deadline(self) -> float | None:
        """When to come with a `Tick`, if nothing happens before; None: not at all."""
        return self._deadlines.next()

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take note of what happened; what is to be done, in this order."""
        commands = list(self._handlers[type(event)](event, now))
        if not (self._ended or self._fed):
            commands += self._fill(now)
        return commands

    # -- events

    def _viewed(self, event: Viewed, now: float) -> Iterable[Command]:
        for peer in event.banned:
            if peer not in self._peers.banned:
                self._peers.ban(peer)
                yield from self._leave(peer)
        view = self._known = event.view
        self._leave_out()
        for entry in view.advanced:
            self._peers.advance(entry.id, entry.frontier)
        yield from self._hand_over(now)

    def _leave_out(self) -> None:
        left_out = self._peers.left_out
        self._view = self._known.without(left_out) if left_out else self._known
        self._wave_asked = self._view.wave_asked(self.me)

    def _wanted(self, event: Wanted, now: float) -> Iterable[Command]:
        for piece in range(event.first, event.last + 1):
            if piece >= self._cursor and self._is_open(piece) and piece not in self._again:
                heapq.heappush(self._again, piece)
        return ()

    def _begun(self, event: Begun, now: float) -> Iterable[Command]:
        request = self._requests.get(event.request)
        if request is not None and request.begun_at is None:
            request.begun_at = now
            if request.peer == ORIGIN:
                self._push_back(request.piece, now + PIECE_S)
            else:
                self._latency_s = _smoothed(self._latency_s, now - request.asked_at)
            request.deadline = now + PIECE_S
            request.hedge_at = now + max(MIN_HEDGE_S, HEDGE * self._duration_s)
        return ()

    def _completed(self, event: Completed, now: float) -> Iterable[Command]:
        request = self._requests.close(event.request)
        if request is None:
            return
        took_s = now - (request.begun_at if request.begun_at is not None else request.asked_at)
        if request.peer == ORIGIN:
            self._push_back(request.piece, now + MIN_WAIT_S)
        else:
            self._duration_s = _smoothed(self._duration_s, took_s)
        if request.peer in self._peers.silent:
            self._deadlines.add(now + LEAVE_OUT_S, _LEAVE_OUT)
        self._peers.succeeded(request.peer, self.pieces.length(request.piece), took_s, now)
        self._peers.advance(request.peer, event.frontier)
        self._window += GROWTH
        yield from self._got(request.piece, now)

    def _got(self, piece: int, now: float) -> Iterator[Command]:
        """A piece is here: nobody else has to send it, and who waits for it gets it."""
        yield from self._cancel(self._requests.of(piece))
        self.progress_at = now
        if self._have[piece]:
            return
        self._have[piece] = 1
        self._missing -= 1
        self._tried.pop(piece, None)
        self._waiting_since.pop(piece, None)
        self._advance_frontier()
        for held in self._held.of(piece):
            self._held.remove(held.ticket)
            yield self._serve(held)

    def _failed(self, event: Failed, now: float) -> Iterable[Command]:
        request = self._requests.close(event.request)
        if request is not None:
            self._peers.advance(request.peer, event.frontier)
            if event.fault is Fault.NOT_YET and self._is_patient(request, now):
                self._reopen(request.piece)
            else:
                self._give_up(request, event.fault, now)
            if event.fault is Fault.CORRUPT:
                yield from self._leave(request.peer)

    def _fed_piece(self, event: Fed, now: float) -> Iterable[Command]:
        return self._got(event.piece, now)

    def _feed(self, event: Feed, now: float) -> Iterable[Command]:
        """Who waits for a node that was fed may come before it, and have to wait for itself."""
        self._fed = event.on
        if event.on:
            yield from self._cancel(self._requests)
            self._cursor = self._frontier
        else:
            yield from self._refuse(self._held, Fault.NOT_YET)

    def _asked(self, event: Asked, now: float) -> Iterable[Command]:
        piece = event.piece
        self._peers.accusations.hear(event.peer, event.named)
        if not 0 <= piece < self.pieces.count:
            yield Refuse(event.ticket, Fault.MISSING)
        elif self._have[piece]:
            yield self._serve(event)
        elif self._ended:
            yield Refuse(event.ticket, Fault.MISSING)
        elif not self._may_hold(event, now):
            yield Refuse(event.ticket, Fault.NOT_YET)
        elif len(self._held) >= MAX_HELD:
            yield Refuse(event.ticket, Fault.BUSY)
        else:
            until = now + min(MAX_WAIT_S, event.wait_s)  # in this order: it may be no number
            held = Held(event.ticket, piece, event.peer, event.final, self._is_behind(event))
            self._held.add(held)
            self._deadlines.add(until, held)

    def _dropped(self, event: Dropped, now: float) -> Iterable[Command]:
        self._held.remove(event.ticket)
        return ()

    def _tick(self, event: Tick, now: float) -> Iterable[Command]:
        for thing in self._deadlines.pop_due(now):
            if isinstance(thing, Request):
                yield from self._request_due(thing, now)
            elif isinstance(thing, Held) and thing in self._held:
                yield from self._refuse([thing], Fault.NOT_YET)
            elif thing is _LEAVE_OUT:
                self._leave_out()
            elif isinstance(thing, int):
                self._resting.discard(thing)
                self._tried.pop(thing, None)
                if self._is_open(thing):
                    heapq.heappush(self._again, thing)

    def _end(self, event: Ended, now: float) -> Iterable[Command]:
        self._ended = True
        yield from self._cancel(self._requests)
        yield from self._refuse(self._held, Fault.MISSING)

    # -- asking

    def _fill(self, now: float) -> Iterator[Command]:
        shared = self._shared_window
        share = min(shared.share(len(self._view)), shared.in_time(self.pieces.piece_size))
        self._window = min(self._window, share)
        while self._requests.pieces < self._window:
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
        here_or_asked = self._have[piece] or self._requests.of(piece)
        return not here_or_asked and piece not in self._resting

    def _ask(self, piece: int, now: float) -> Iterator[Command]:
        """Ask somebody for a piece, an origin for its whole run; nobody there: try again later."""
        peer, final = self._choose(piece, now)
        if peer is None:
            yield from self._rest(piece, now)
        elif peer != ORIGIN:
            yield from self._send_ahead(piece)
            yield self._request(piece, peer, final, now)
        else:
            for other in self._run_of(piece):
                if self._is_open(other) and self._choose(other, now)[0] == ORIGIN:
                    yield self._request(other, ORIGIN, final, now)

    def _request(self, piece: int, peer: str, final: bool, now: float) -> Ask:
        wait_s = min(MAX_WAIT_S, max(MIN_WAIT_S, PATIENCE * self._latency_s))
        self._next_request += 1
        request = Request(self._next_request, piece, peer, now, now + wait_s + SLACK_S)
        self._requests.open(request)
        request.hedge_at = now + max(MIN_SILENT_S, HEDGE_SILENT * self._latency_s)
        self._deadlines.add(min(request.hedge_at, request.deadline), request)
        return Ask(request.id, peer, piece, wait_s, final)

    def _rest(self, piece: int, now: float) -> Iterator[Command]:
        """Nobody is there to be asked. If an origin does not answer this node, it may others."""
        if piece not in self._resting:
            self._resting.add(piece)
            self._deadlines.add(now + RETRY_S, piece)
        if self._is_cut_off(piece, now):
            yield from self._refuse(self._held.of(piece), Fault.NOT_YET)

    def _leave(self, peer: str) -> Iterator[Command]:
        """Who lied is waited for no longer, but for what has begun to come: it may be right."""
        for request in self._requests:
            if request.peer == peer and request.begun_at is None:
                yield from self._cancel([request])
                self._reopen(request.piece)

    def _reopen(self, piece: int) -> None:
        """Nobody is asked for it any more: it is to be asked for again."""
        if not self._have[piece] and not self._requests.of(piece):
            heapq.heappush(self._again, piece)

    def _choose(self, piece: int, now: float) -> tuple[str | None, bool]:
        """Whom to ask, and whether it is to queue this rather than say that it is busy: if there is
        nobody as good. Who is busy is still better than a seed that has others to send to, and that
        better than who is slow.
        """
        tried = self._tried.get(piece, ())
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
        """Whom to ask, in order. In the end all who have it: when the seeds are gone it may be
        nobody that stands before this one.
        """
        view, peers = self._view, self._peers
        yield from view.path(piece, self.me)
        if piece < peers.max_frontier:
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

    def _is_scarce(self, peer: str) -> bool:
        """A seed that has others to send to, or who is of a wave before the one that this one's
        asks, and has that to send to: better to wait for somebody else than to ask it.
        """
        view = self._view
        entry = self._known.entries.get(peer)
        if entry is None:
            return False
        if entry.is_seed:
            return len(view.seeds) < len(view.wanting)
        return wave(entry.slot) < self._wave_asked

    def _give_up(self, request: Request, fault: Fault, now: float) -> None:
        before = len(self._peers.left_out)
        self._peers.failed(request.peer, fault, now)
        if len(self._peers.left_out) > before:
            self._deadlines.add(now + LEAVE_OUT_S, _LEAVE_OUT)
        if self._have[request.piece]:
            return
        self._tried.setdefault(request.piece, set()).add(request.peer)
        self._reopen(request.piece)

    def _request_due(self, request: Request, now: float) -> Iterator[Command]:
        if request not in self._requests:
            return
        if request.deadline <= now:
            yield from self._cancel([request])
            self._give_up(request, Fault.STALLED, now)
            return
        again = max(now + MIN_HEDGE_S, request.hedge_at)
        self._deadlines.add(min(request.deadline, again), request)
        is_hedged = len(self._requests.of(request.piece)) > 1
        hedges = len(self._requests) - self._requests.pieces
        if request.hedge_at <= now and not is_hedged and hedges < MAX_HEDGES:
            self._tried.setdefault(request.piece, set()).add(request.peer)
            peer, final = self._choose(request.piece, now)
            if peer is not None and (peer != ORIGIN or request.begun_at is not None):
                if peer != ORIGIN:
                    yield from self._send_ahead(request.piece)
                yield self._request(request.piece, peer, final, now)

    def _cancel(self, requests: Iterable[Request]) -> Iterator[Command]:
        for request in requests:
            self._requests.close(request.id)
            yield Cancel(request.id)

    def _advance_frontier(self) -> None:
        missing = self._have.find(0, self._frontier)
        self._frontier = self.pieces.count if missing < 0 else missing

    # -- an origin, and who is fed

    def _run_of(self, piece: int) -> range:
        start = piece - piece % self._run
        return range(start, min(start + self._run, self.pieces.count))

    def _at_origin(self, run: range) -> list[Request]:
        """What it is asked for of a run."""
        requests = chain.from_iterable(self._requests.of(piece) for piece in run)
        return [request for request in requests if request.peer == ORIGIN]

    def _push_back(self, piece: int, until: float) -> None:
        """The pieces of a run come one after the other: while they do, none of them is late."""
        for request in self._at_origin(self._run_of(piece)):
            if request.begun_at is None:
                request.deadline = request.hedge_at = until + SLACK_S

    def _hand_over(self, now: float) -> Iterator[Command]:
        """Leave runs that an origin has not begun to send to those who are their roots now."""
        numbers = {r.piece // self._run for r in self._requests if r.peer == ORIGIN}
        for number in sorted(numbers):
            run = self._run_of(number * self._run)
            asked = self._at_origin(run)
            if any(self._have[p] for p in run) or any(r.begun_at is not None for r in asked):
                continue
            if self._choose(asked[0].piece, now)[0] not in (None, ORIGIN):
                yield from self._cancel(asked)
                for request in asked:
                    self._reopen(request.piece)

    def _is_cut_off(self, piece: int, now: float) -> bool:
        """Whether there is nobody to be asked but an origin, and it does not answer this node. Once
        says nothing: to send all away who wait here costs a copy for some of them.
        """
        if ORIGIN not in self._view.entries or piece not in self._resting:
            return False
        origin = self._peers[ORIGIN]
        return origin.faults > 1 and origin.avoid_until > now

    def _is_patient(self, request: Request, now: float) -> bool:
        """Whether who said "not yet" is to be asked again: it still waits for what is slow."""
        if not self._view.is_cold or now < request.deadline - SLACK_S:
            return False
        since = self._waiting_since.setdefault(request.piece, request.asked_at)
        return now < since + COLD_PATIENCE_S

    # -- answering

    def _may_hold(self, asked: Asked, now: float) -> bool:
        """Only for whom this node will never wait, or while it waits for nobody in the mesh."""
        if self._fed:
            return True
        piece = asked.piece
        if self.slot < 0 or self._is_cut_off(piece, now):
            return False
        if not self._is_behind(asked):
            return True
        requests = self._requests.of(piece)
        if requests:
            return all(request.peer == ORIGIN for request in requests)
        return next(self._view.path(piece, self.me), None) == ORIGIN

    def _is_behind(self, asked: Asked) -> bool:
        """Whether this node comes after the other in the order of the piece."""
        mine = key(asked.piece, self.slot, self.me)
        return mine >= key(asked.piece, asked.slot, asked.peer)

    def _send_ahead(self, piece: int) -> Iterator[Command]:
        """Have nobody wait here that this node may come to wait for: it asks in the mesh now."""
        return self._refuse([h for h in self._held.of(piece) if h.is_ahead], Fault.NOT_YET)

    def _serve(self, asked: Asked | Held) -> Command:
        """Who lied is not refused: a ban may be wrong, and it would only ask a seed instead."""
        uplink, last = self._uplink, self._peers.is_last(asked.peer)
        if uplink.is_full(last=last) or (not asked.final and uplink.is_busy(last=last)):
            return Refuse(asked.ticket, Fault.BUSY)
        return Send(asked.ticket, asked.piece, last)

    def _refuse(self, questions: Iterable[Held], fault: Fault) -> Iterator[Command]:
        for held in questions:
            self._held.remove(held.ticket)
            yield Refuse(held.ticket, fault)


def _smoothed(mean: float, sample: float) -> float:
    return mean + (sample - mean) * (_SMOOTH if mean else 1.0)
