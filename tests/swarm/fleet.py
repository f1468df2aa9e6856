"""Swarms against each other, with no network: what one says to another waits in a bag, and chance
says what comes out next. Only messages of one call keep their order, as on one connection.

At every step it is looked whether somebody waits where it must not (I1), or for ever (I4).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from random import Random

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
)
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.swarm import MAX_WAIT_S, PIECE_S, SLACK_S, Swarm
from oci_mesh.swarm.uplink import Uplink
from oci_mesh.swarm.view import ORIGIN, Entry, View, key
from oci_mesh.swarm.window import Window

# Nothing is ever sent so often at a time: no node is busy.
UNLIMITED = 1_000_000


@dataclass(eq=False)
class Call:
    """One question, and what becomes of it."""

    asker: "Host"
    target: "Host"
    ask: Ask
    ticket: int
    asked_at: float
    begun_at: float | None = None  # as the asker knows
    held_at: float = 0.0
    is_open: bool = True  # the asker still waits


@dataclass(eq=False)
class Reading:
    """What one node asked an origin for in one go, and is still to come."""

    reader: "Host"
    asks: list[Ask]


@dataclass(eq=False)
class Host:
    """A node. With a `fault` it does that to all who ask, and fetches nothing itself."""

    swarm: Swarm
    uplink: Uplink
    fault: Fault | None = None
    zone: str = ""
    alive: bool = True
    ended: bool = False
    asked: dict[int, Call] = field(default_factory=dict)
    reading: dict[int, Reading] = field(default_factory=dict)
    held: dict[int, Call] = field(default_factory=dict)
    sending: set[Call] = field(default_factory=set)
    sent: Counter[int] = field(default_factory=Counter)
    """How often each piece left it whole."""

    @property
    def name(self) -> str:
        """Its id."""
        return self.swarm.me

    @property
    def entry(self) -> Entry:
        """The truth about it."""
        swarm = self.swarm
        return Entry(
            swarm.me,
            swarm.me,
            swarm.slot,
            self.zone,
            swarm.frontier,
            complete=swarm.complete,
            fed=swarm.fed,
        )


class Fleet:
    """`pace`: about the seconds that a message takes; `loss`: the share of them that is lost;
    `run`: pieces that are asked of an origin together.
    """

    def __init__(
        self, random: Random, pieces: int, *, pace: float = 0.0, loss: float = 0.0, run: int = 1
    ):
        self.random = random
        self.pieces = pieces_of(pieces)
        self.pace = pace
        self.loss = loss
        self.run_length = run
        self.now = 0.0
        self.hosts: dict[str, Host] = {}
        self.asks = 0
        self.withdrawn = 0
        self.origin_fails = 0.0
        """Such a share of what an origin is to send it does not."""
        self.origin_sent: Counter[int] = Counter()
        self.readings = 0
        self._bag: list[Callable[[], None]] = []

    # -- who is there

    def add(
        self,
        name: str,
        slot: int,
        *,
        have: Iterable[int] = (),
        fault: Fault | None = None,
        zone: str = "",
        sends: int = UNLIMITED,
    ) -> Host:
        """A further node, that knows nobody yet."""
        uplink = Uplink(sends)
        swarm = Swarm(name, slot, self.pieces, uplink, Window(), have, self.run_length)
        host = self.hosts[name] = Host(swarm, uplink, fault, zone)
        return host

    def seed(self, name: str, *, zone: str = "", sends: int = UNLIMITED) -> Host:
        """A further node that has it all."""
        return self.add(name, -1, have=range(self.pieces.count), zone=zone, sends=sends)

    @property
    def wanting(self) -> list[Host]:
        """Those that should come to have all."""
        return [h for h in self.hosts.values() if h.alive and not h.ended and h.fault is None]

    @property
    def done(self) -> bool:
        """Whether they have."""
        return all(host.swarm.complete for host in self.wanting)

    def truth(self, *others: Entry) -> View:
        """What all would see, were there no delays."""
        return View([*(host.entry for host in self.hosts.values()), *others], self.run_length)

    # -- what happens

    def tell(self, host: Host, event: Event) -> None:
        """Have something happen to a node, some time."""
        self._post(partial(self.handle, host, event))

    def handle(self, host: Host, event: Event) -> None:
        """Have something happen to a node now, and do what its swarm says."""
        if not host.alive or host.fault is not None:
            return
        commands = host.swarm.handle(event, self.now)
        for command in commands:
            self._do(host, command)
        self._read(host, [c for c in commands if isinstance(c, Ask) and c.peer == ORIGIN])
        host.ended = host.ended or isinstance(event, Ended)
        self._check(host, ticked=isinstance(event, Tick))

    def feed(self, host: Host) -> None:
        """It reads all that it has not, and passes it on."""
        self.handle(host, Feed())
        self._post(partial(self._feed_next, host))

    def kill(self, host: Host, *, silently: bool = False) -> None:
        """It is gone, and its connections are cut (`silently`: nobody is told)."""
        host.alive = False
        for call in host.asked.values():
            call.is_open = False
            self._post(partial(self._withdraw, call))
        for call in [*host.held.values(), *host.sending]:
            if not silently:
                self._fail(call, Fault.GONE)

    def step(self) -> bool:
        """One message, or one timer that is due. False: never will there be anything again."""
        self.now += self.random.random() * self.pace / (1 + len(self._bag))
        timers = [(d, h) for h in self.wanting if (d := h.swarm.next_deadline()) is not None]
        due = [host for deadline, host in timers if deadline <= self.now]
        if not due and not self._bag:
            if not timers:
                return False
            self.now, host = min(timers, key=lambda timer: timer[0])
            due = [host]
        choice = self.random.randrange(len(due) + len(self._bag))
        if choice < len(due):
            self.handle(due[choice], Tick())
        else:
            self._bag[choice - len(due)], last = self._bag[-1], self._bag[choice - len(due)]
            self._bag.pop()
            last()
        return True

    def run(self, steps: int) -> None:
        """Up to so many steps, until all is done."""
        for _ in range(steps):
            if self.done or not self.step():
                return

    def flow(self) -> None:
        """Until the bag is empty: whatever can happen without a timer has."""
        while self._bag:
            self.step()

    # -- commands

    def _do(self, host: Host, command: Command) -> None:
        match command:
            case Ask():
                if command.peer != ORIGIN:
                    self._ask(host, command)
            case Cancel() if command.request in host.reading:
                del host.reading[command.request]
            case Cancel():
                call = host.asked.pop(command.request)
                call.is_open = False
                self._post(partial(self._withdraw, call), lossy=True)
            case Send():
                call = host.held.pop(command.ticket)
                assert call.ask.piece == command.piece
                assert host.swarm.has(command.piece), "it sends what it does not have"
                host.sending.add(call)
                size = self.pieces.length(command.piece)
                self._begin(host.uplink.enqueue(call, size, self.now, last=command.last))
            case Refuse():
                self._fail(host.held.pop(command.ticket), command.fault)

    def _ask(self, host: Host, ask: Ask) -> None:
        assert ask.peer != host.name, "it asks itself"
        assert not host.swarm.has(ask.piece), "it asks for what it has"
        same = [call.ask for call in host.asked.values() if call.ask.piece == ask.piece]
        assert all(other.peer != ask.peer for other in same), "it asks the same twice"
        assert len(same) < 2
        assert 0 < ask.wait_s <= MAX_WAIT_S
        self.asks += 1
        call = Call(host, self.hosts[ask.peer], ask, self.asks, self.now)
        host.asked[ask.request] = call
        self._post(partial(self._arrive, call), lossy=True)

    def _arrive(self, call: Call) -> None:
        target, ask = call.target, call.ask
        if not call.is_open:
            return
        if not target.alive:
            self._fail(call, Fault.GONE)
        elif target.fault is None:
            call.held_at = self.now
            target.held[call.ticket] = call
            asker = call.asker.swarm
            self.handle(
                target,
                Asked(
                    call.ticket,
                    ask.piece,
                    asker.me,
                    asker.slot,
                    ask.wait_s,
                    ask.final,
                    asker.named,
                ),
            )
        else:
            if target.fault in (Fault.CORRUPT, Fault.STALLED) and self.random.random() < 0.5:
                self._started(call)
            if target.fault is not Fault.STALLED:
                self._fail(call, target.fault)

    def _withdraw(self, call: Call) -> None:
        """The asker closed the connection; what was on its way to it is lost."""
        self.withdrawn += 1
        host = call.target
        if host.held.pop(call.ticket, None) is not None:
            self.handle(host, Dropped(call.ticket))
        elif call in host.sending:
            host.sending.remove(call)
            self._begin(host.uplink.finished(call, self.now, sent=False))

    # -- an origin

    def _read(self, host: Host, asks: list[Ask]) -> None:
        """Pieces of a run, in a row, are one request."""
        rows: list[list[Ask]] = []
        for ask in asks:
            assert not host.swarm.has(ask.piece), "it asks for what it has"
            if not rows or rows[-1][-1].piece != ask.piece - 1 or not ask.piece % self.run_length:
                rows.append([])
            rows[-1].append(ask)
        for row in rows:
            self.readings += 1
            reading = Reading(host, row)
            host.reading |= {ask.request: reading for ask in row}
            self._post(partial(self._read_on, reading))

    def _read_on(self, reading: Reading) -> None:
        """The next piece begins, or none will any more."""
        host = reading.reader
        asks = reading.asks = [a for a in reading.asks if a.request in host.reading]
        if not asks or not host.alive:
            return
        if self.random.random() < self.origin_fails:
            fault = self.random.choice([Fault.GONE, Fault.BUSY, Fault.STALLED])
            for ask in asks:
                if host.reading.pop(ask.request, None) is not None:
                    self.handle(host, Failed(ask.request, fault))
            return
        self.handle(host, Begun(asks[0].request))
        self._post(partial(self._have_read, reading))

    def _have_read(self, reading: Reading) -> None:
        ask, host = reading.asks.pop(0), reading.reader
        self.origin_sent[ask.piece] += 1
        self._post(partial(self._read_on, reading))
        if host.reading.pop(ask.request, None) is not None and host.alive:
            self.handle(host, Completed(ask.request))

    def _feed_next(self, host: Host) -> None:
        if host.alive and host.swarm.fed and not host.swarm.complete:
            if self.random.random() < self.origin_fails:
                self.handle(host, Feed(on=False))
                return
            piece = host.swarm.frontier
            self.origin_sent[piece] += 1
            self.handle(host, Fed(piece))
            self._post(partial(self._feed_next, host))

    # -- answers

    def _begin(self, calls: Iterable[object]) -> None:
        for call in calls:
            assert isinstance(call, Call)
            self._post(partial(self._send, call))

    def _send(self, call: Call) -> None:
        if call in call.target.sending and call.target.alive:
            self._started(call)
            self._post(partial(self._sent, call))

    def _started(self, call: Call) -> None:
        if call.is_open:
            call.begun_at = self.now
            self.handle(call.asker, Begun(call.ask.request))

    def _sent(self, call: Call) -> None:
        host = call.target
        if call not in host.sending or not host.alive:
            return
        host.sending.remove(call)
        host.sent[call.ask.piece] += 1
        self._begin(host.uplink.finished(call, self.now))
        event = Completed(call.ask.request, host.swarm.frontier)
        self._post(partial(self._answer, call, event), lossy=True)

    def _fail(self, call: Call, fault: Fault) -> None:
        frontier = call.target.swarm.frontier
        if call.target.fault is not None:  # then it says anything
            frontier = self.random.randrange(2 * self.pieces.count)
        event = Failed(call.ask.request, fault, frontier)
        self._post(partial(self._answer, call, event), lossy=True)

    def _answer(self, call: Call, event: Event) -> None:
        if call.is_open:
            call.is_open = False
            del call.asker.asked[call.ask.request]
            self.handle(call.asker, event)

    def _post(self, message: Callable[[], None], *, lossy: bool = False) -> None:
        if not lossy or self.random.random() >= self.loss:
            self._bag.append(message)

    # -- what always holds

    def _check(self, host: Host, *, ticked: bool) -> None:
        swarm = host.swarm
        assert swarm.in_flight == len(host.asked) + len(host.reading)
        assert not (swarm.fed and swarm.in_flight), "it is fed, and asks"
        assert swarm.missing == sum(not swarm.has(p) for p in range(self.pieces.count))
        assert all(swarm.has(piece) for piece in range(swarm.frontier))
        assert swarm.complete or not swarm.has(swarm.frontier)
        if host.asked or host.held or not (swarm.complete or host.ended or swarm.fed):
            assert swarm.next_deadline() is not None, "something may wait for ever"
        if ticked:
            assert all(self._in_time(call) for call in host.asked.values())
            assert all(self.now < c.held_at + MAX_WAIT_S for c in host.held.values())
        for call in host.held.values():
            self._check_waiting(call)

    def _in_time(self, call: Call) -> bool:
        if call.begun_at is not None:
            return self.now < call.begun_at + PIECE_S
        return self.now < call.asked_at + call.ask.wait_s + SLACK_S

    def _check_waiting(self, call: Call) -> None:
        """I1: by the order, and by following who waits for whom."""
        piece, above = call.ask.piece, call.target.swarm
        below = call.asker.swarm
        assert not above.has(piece), "it keeps somebody waiting for what it has"
        if key(piece, above.slot, above.me) >= key(piece, below.slot, below.me):
            asked = self.hosts[above.me].asked.values()
            assert all(c.ask.piece != piece for c in asked), "it may wait for who waits for it"
        seen: set[str] = set()
        to_see = [above.me] if call.is_open else []  # it hung up, and that is not known here yet
        while to_see:
            name = to_see.pop()
            assert name != below.me, "they wait for each other"
            if name not in seen:
                seen.add(name)
                to_see += [
                    c.target.name
                    for c in self.hosts[name].asked.values()
                    if c.ask.piece == piece and c.ticket in c.target.held
                ]


def pieces_of(count: int) -> PieceMap:
    """A blob that is cut into so many pieces."""
    size, least = 0, 1
    while PieceMap(least).count < count:
        size, least = least, least * 2
    while least - size > 1:
        middle = (size + least) // 2
        size, least = (middle, least) if PieceMap(middle).count < count else (size, middle)
    pieces = PieceMap(least)
    assert pieces.count >= count
    return pieces
