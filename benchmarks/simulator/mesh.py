"""The shipped scheduler (`oci_mesh.swarm`) in virtual time: what the asyncio driver does around it.

One rendezvous for each blob, which is never lost; what it tells, it tells all at once, at most
every `NEWS_S`, so that nodes of one mind share one view in memory. A stale node hears it later.
A request that is lost, or whose answer is, ends by the asker's deadline alone, as over a
connection that hangs. A liar's pieces come in full and are found to be false; whom a node found out
in one swarm it knows in its others.

A cold swarm (`--cold`) has an origin in its view until a node is complete; or a leader, which is
the one of the lowest slot, and another some time after it died.
"""

from collections.abc import Callable
from typing import Any, Final

from benchmarks.simulator.network import Flow, Host
from benchmarks.simulator.origin import Origin, Reading
from benchmarks.simulator.outcome import World
from benchmarks.simulator.scenario import LEADER, SOURCE, STRIPED, Part, chance
from oci_mesh.swarm.events import (
    Ask,
    Asked,
    Begun,
    Cancel,
    Completed,
    Dropped,
    Event,
    Failed,
    Fed,
    Feed,
    Refuse,
    Send,
    Tick,
    Viewed,
)
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.pieces import PieceMap, run_length
from oci_mesh.swarm.roll import REFRESH_S, Roll
from oci_mesh.swarm.swarm import Swarm
from oci_mesh.swarm.uplink import Uplink
from oci_mesh.swarm.view import ORIGIN, Entry, View
from oci_mesh.swarm.window import Window

# Changes of a roll are gathered for so long before they are told.
NEWS_S: Final = 0.05

# Timers are this coarse. An event for each deadline of each request would be most of all events.
TIMER_S: Final = 0.05

# So long after a leader's death another leads.
LEADERLESS_S: Final = 3.0

# How often it is looked whether the source is still needed, in T*.
_REAP: Final = 0.01


class _Call:
    """A request on its way: from `asker` to `target`. `open` until the asker knows its end."""

    __slots__ = ("asker", "flow", "lost", "open", "piece", "request", "target", "ticket")

    def __init__(self, asker: "_Fetch", target: "_Fetch", request: int, ticket: int) -> None:
        self.asker = asker
        self.target = target
        self.request = request
        self.ticket = ticket
        self.piece = -1
        self.flow: Flow | None = None
        self.open = True
        self.lost = False


class _Node:
    """A machine: one uplink for all its blobs."""

    __slots__ = (
        "banned",
        "calls",
        "fetches",
        "host",
        "name",
        "part",
        "started",
        "uplink",
        "window",
    )

    def __init__(self, part: Part, host: Host) -> None:
        self.part = part
        self.host = host
        self.name = f"node-{part.index:05d}"
        self.uplink = Uplink()
        self.window = Window()
        self.fetches: list[_Fetch] = []
        self.started = 0
        self.banned: tuple[str, ...] = ()
        self.calls: dict[int, _Call] = {}  # of others, that are here


class _Fetch:
    """One blob on one node."""

    __slots__ = ("blob", "calls", "node", "readings", "runs", "swarm", "timer")

    def __init__(self, node: _Node, blob: int, swarm: Swarm) -> None:
        self.node = node
        self.blob = blob
        self.swarm = swarm
        self.timer: float | None = None
        self.calls: dict[int, _Call] = {}  # its own, by request
        self.runs: list[list[Ask]] = []  # to be read from the origin
        self.readings: dict[int, tuple[Reading, int]] = {}  # of the origin, by request


class _Rendezvous:
    """What is known of one blob's swarm."""

    __slots__ = ("changed", "fetches", "roll", "told", "view")

    def __init__(self) -> None:
        self.roll = Roll(epoch=0)
        self.fetches: dict[str, _Fetch] = {}  # who is told
        self.view = View(())
        self.told = -1
        self.changed = False


class Mesh:
    """All nodes with their swarms."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._clock, self._network = world.clock, world.network
        self._chance = chance(world.scenario, "lose")
        self._lose = world.scenario.lose
        self._nodes = [
            _Node(part, host) for part, host in zip(world.cast.parts, world.hosts, strict=True)
        ]
        self._named = {node.name: node for node in self._nodes}
        self._pieces = [PieceMap(size) for size in world.scenario.blobs]
        self._cold = world.scenario.cold
        self._runs = [run_length(p) if self._cold == STRIPED else 1 for p in self._pieces]
        self._origin = Origin(world)
        self._rendezvous = [_Rendezvous() for _ in self._pieces]
        self._tickets = 0
        self._dying = sum(part.dies is not None for part in world.cast.parts)
        self._commands: dict[type, Callable[[_Fetch, Any], None]] = {
            Ask: self._ask,
            Cancel: self._cancel,
            Send: self._send,
            Refuse: self._refuse,
        }

    def start(self) -> None:
        if not self._cold:
            self._seed(self._nodes[SOURCE])
        for node in self._nodes[1:]:
            self._clock.at(node.part.start, self._begin, node)
            if node.part.dies is not None:
                self._clock.at(node.part.dies, self._kill, node)

    def _seed(self, source: _Node) -> None:
        for blob, pieces in enumerate(self._pieces):
            have = range(pieces.count)
            swarm = Swarm(source.name, -1, pieces, source.uplink, source.window, have)
            source.fetches.append(_Fetch(source, blob, swarm))
            self._enter(source.fetches[blob])

    # -- joining, and the news

    def _begin(self, node: _Node) -> None:
        for _ in self._pieces[: self._world.scenario.at_once]:
            self._next_blob(node)

    def _next_blob(self, node: _Node) -> None:
        if node.started < len(self._pieces):
            blob = node.started
            node.started += 1
            self._clock.at(self._clock.now + self._network.latency, self._join, node, blob)

    def _join(self, node: _Node, blob: int) -> None:
        """At the rendezvous: a slot, and from now on the news."""
        if not node.host.alive:
            return
        rendezvous = self._rendezvous[blob]
        entry = Entry(node.name, "", zone=f"zone-{node.host.zone}" if node.host.zone else "")
        slot = rendezvous.roll.enter(entry, self._clock.now).slot
        swarm = Swarm(
            node.name, slot, self._pieces[blob], node.uplink, node.window, run=self._runs[blob]
        )
        fetch = _Fetch(node, blob, swarm)
        node.window.enter()
        rendezvous.fetches[node.name] = fetch
        while len(node.fetches) <= blob:
            node.fetches.append(fetch)  # blobs are joined in order
        if self._cold == LEADER and len(rendezvous.fetches) == 1:
            self._lead(fetch)
        self._gather(rendezvous)
        self._clock.at(self._clock.now + REFRESH_S, self._refresh, fetch)

    def _enter(self, fetch: _Fetch) -> None:
        """Say how far this node is."""
        swarm, node = fetch.swarm, fetch.node
        rendezvous = self._rendezvous[fetch.blob]
        rendezvous.roll.enter(
            Entry(
                node.name,
                "",
                slot=swarm.slot,
                zone=f"zone-{node.host.zone}" if node.host.zone else "",
                frontier=swarm.frontier,
                complete=swarm.complete,
                fed=swarm.fed,
            ),
            self._clock.now,
        )
        self._gather(rendezvous)

    def _refresh(self, fetch: _Fetch) -> None:
        if fetch.node.host.alive and not fetch.swarm.complete:
            self._enter(fetch)
            self._rendezvous[fetch.blob].roll.expire(self._clock.now)
            self._clock.at(self._clock.now + REFRESH_S, self._refresh, fetch)

    def _gather(self, rendezvous: _Rendezvous) -> None:
        if not rendezvous.changed and rendezvous.roll.version != rendezvous.told:
            rendezvous.changed = True
            self._clock.at(self._clock.now + NEWS_S, self._tell, rendezvous)

    def _tell(self, rendezvous: _Rendezvous) -> None:
        rendezvous.changed = False
        rendezvous.told = rendezvous.roll.version
        entries = rendezvous.roll.since(0)[0]
        if self._cold == STRIPED and not any(entry.complete for entry in entries):
            entries.append(Entry(ORIGIN, "", complete=True))
        blob = self._rendezvous.index(rendezvous)
        rendezvous.view = View(entries, self._runs[blob])
        news = Viewed(rendezvous.view)
        soon = self._clock.now + self._network.latency
        for fetch in rendezvous.fetches.values():
            if not fetch.swarm.complete and fetch.node.host.alive:
                self._clock.at(soon + fetch.node.part.stale, self._view, fetch, news)

    def _view(self, fetch: _Fetch, news: Viewed) -> None:
        banned = fetch.node.banned
        self._handle(fetch, Viewed(news.view, banned) if banned else news)

    # -- the core, and what it says

    def _handle(self, fetch: _Fetch, event: Event) -> None:
        if not fetch.node.host.alive:
            return
        now = self._clock.now
        commands = self._commands
        for command in fetch.swarm.handle(event, now):
            commands[type(command)](fetch, command)
        if fetch.runs:
            self._read(fetch)
        deadline = fetch.swarm.next_deadline()
        if deadline is not None and (fetch.timer is None or deadline < fetch.timer - TIMER_S):
            fetch.timer = deadline + TIMER_S
            self._clock.at(fetch.timer, self._tick, fetch, fetch.timer)

    def _tick(self, fetch: _Fetch, when: float) -> None:
        if when == fetch.timer:
            fetch.timer = None
            self._handle(fetch, Tick())

    def _ask(self, fetch: _Fetch, command: Ask) -> None:
        if command.peer == ORIGIN:
            runs = fetch.runs
            begins = command.piece % self._runs[fetch.blob] == 0
            if not runs or begins or runs[-1][-1].piece != command.piece - 1:
                runs.append([])
            runs[-1].append(command)
            return
        node = self._named[command.peer]
        network, clock = self._network, self._clock
        there = clock.now + network.delay(fetch.node.host, node.host)
        back = there + network.delay(node.host, fetch.node.host)
        self._tickets += 1
        if fetch.blob >= len(node.fetches):  # its name is known, of another blob
            clock.at(back, self._handle, fetch, Failed(command.request, Fault.MISSING))
            return
        call = _Call(fetch, node.fetches[fetch.blob], command.request, self._tickets)
        fetch.calls[command.request] = call
        if self._lose and self._chance.random() < self._lose:
            self._world.count("lost")
            if self._chance.random() < 0.5:
                return  # the request; otherwise the answer
            call.lost = True
        if node.host.alive:
            clock.at(there, self._asked, call, command)
        elif not self._world.scenario.silent:
            clock.at(back, self._fail, call, Fault.GONE, 0)

    def _asked(self, call: _Call, command: Ask) -> None:
        asker, target = call.asker, call.target
        node = target.node
        if not call.open:
            return
        if not node.host.alive:
            if not self._world.scenario.silent:
                self._after(call, self._fail, call, Fault.GONE, 0)
            return
        node.calls[call.ticket] = call
        event = Asked(
            call.ticket,
            command.piece,
            asker.node.name,
            asker.swarm.slot,
            command.wait_s,
            command.final,
            asker.swarm.named,
        )
        self._handle(target, event)

    def _after(self, call: _Call, what: Any, *arguments: Any) -> None:
        """Do it at the asker, once the news is there."""
        delay = self._network.delay(call.target.node.host, call.asker.node.host)
        self._clock.at(self._clock.now + delay, what, *arguments)

    def _cancel(self, fetch: _Fetch, command: Cancel) -> None:
        if command.request in fetch.readings:
            self._origin.forget(*fetch.readings.pop(command.request))
            return
        call = fetch.calls.pop(command.request, None)
        if call is None or not call.open:
            return
        call.open = False
        self._after(call, self._withdraw, call)
        self._world.count("cancelled")

    def _withdraw(self, call: _Call) -> None:
        """At the target: the connection was closed."""
        node = call.target.node
        if node.calls.pop(call.ticket, None) is None or not node.host.alive:
            return
        if call.flow is not None:
            self._network.abort(call.flow)
            return
        self._handle(call.target, Dropped(call.ticket))
        self._begin_sends(node, node.uplink.finished(call.ticket, self._clock.now, sent=False))

    # -- answering

    def _send(self, fetch: _Fetch, command: Send) -> None:
        node = fetch.node
        call = node.calls.get(command.ticket)
        if call is None:
            return
        call.piece = command.piece
        size = fetch.swarm.pieces.length(command.piece)
        begun = node.uplink.enqueue(command.ticket, size, self._clock.now, last=command.last)
        self._begin_sends(node, begun)

    def _begin_sends(self, node: _Node, tickets: list[object]) -> None:
        for ticket in tickets:
            call = node.calls[ticket]  # type: ignore[index]
            size = call.target.swarm.pieces.length(call.piece)
            host = call.asker.node.host
            call.flow = Flow(node.host, host, size, call, self._left, self._arrived, self._cut)
            self._network.send(call.flow)
            self._after(call, self._begun, call)

    def _refuse(self, fetch: _Fetch, command: Refuse) -> None:
        call = fetch.node.calls.pop(command.ticket, None)
        if call is not None and not call.lost:
            self._world.count(f"refused: {command.fault}")
            self._after(call, self._fail, call, command.fault, fetch.swarm.frontier)

    def _left(self, flow: Flow) -> None:
        call: _Call = flow.subject
        call.flow = None  # each holds the other: this leaves nothing to the garbage collector
        node = call.target.node
        if node.host.alive:
            node.calls.pop(call.ticket, None)
            begun = node.uplink.finished(call.ticket, self._clock.now, sent=call.open)
            self._begin_sends(node, begun)

    # -- answers

    def _begun(self, call: _Call) -> None:
        if call.open and not call.lost:
            self._handle(call.asker, Begun(call.request))

    def _arrived(self, flow: Flow) -> None:
        call: _Call = flow.subject
        fetch, sender = call.asker, call.target
        if not call.open or call.lost:
            return
        if sender.node.part.liar:
            self._world.count("false pieces")
            self._fail(call, Fault.CORRUPT, 0)
            self._ban(fetch, sender.node.name)
            return
        call.open = False
        del fetch.calls[call.request]
        self._got(fetch, call.piece, Completed(call.request, sender.swarm.frontier))

    def _ban(self, fetch: _Fetch, liar: str) -> None:
        node = fetch.node
        if liar not in node.banned:
            node.banned = (*node.banned, liar)
            for other in dict.fromkeys(node.fetches):
                if other is not fetch and not other.swarm.complete:
                    self._view(other, Viewed(self._rendezvous[other.blob].view))

    def _got(self, fetch: _Fetch, piece: int, event: Completed | Fed) -> None:
        fresh = not fetch.swarm.has(piece)
        self._handle(fetch, event)
        if not fresh:
            self._world.count("twice")
            return
        self._world.got(fetch.node.host, fetch.swarm.pieces.length(piece))
        if fetch.swarm.complete:
            fetch.node.window.leave()
            self._enter(fetch)
            self._next_blob(fetch.node)

    def _cut(self, flow: Flow) -> None:
        self._fail(flow.subject, Fault.GONE, 0)

    def _fail(self, call: _Call, fault: Fault, frontier: int) -> None:
        if call.open:
            call.open = False
            del call.asker.calls[call.request]
            self._handle(call.asker, Failed(call.request, fault, frontier))

    # -- the origin

    def _read(self, fetch: _Fetch) -> None:
        """A request for each run."""
        runs, fetch.runs = fetch.runs, []
        for asks in runs:

            def begun(index: int, asks: list[Ask] = asks) -> None:
                self._handle(fetch, Begun(asks[index].request))

            def arrived(index: int, asks: list[Ask] = asks) -> None:
                del fetch.readings[asks[index].request]
                self._got(fetch, asks[index].piece, Completed(asks[index].request))

            def failed(asks: list[Ask] = asks) -> None:
                for ask in asks:
                    if fetch.readings.pop(ask.request, None) is not None:
                        self._handle(fetch, Failed(ask.request, Fault.GONE))

            sizes = [fetch.swarm.pieces.length(ask.piece) for ask in asks]
            reading = Reading(fetch.node.host, sizes, begun, arrived, failed)
            fetch.readings |= {ask.request: (reading, i) for i, ask in enumerate(asks)}
            self._origin.read(reading)

    def _lead(self, fetch: _Fetch) -> None:
        """Have a node read all that it has not, and feed the others."""
        swarm = fetch.swarm
        pieces = [p for p in range(swarm.pieces.count) if not swarm.has(p)]
        self._handle(fetch, Feed())
        self._enter(fetch)

        def again() -> None:
            self._clock.at(self._clock.now + 1.0, self._lead, fetch)

        reading = Reading(
            fetch.node.host,
            [swarm.pieces.length(piece) for piece in pieces],
            lambda _: None,
            lambda index: self._got(fetch, pieces[index], Fed(pieces[index])),
            again,
        )
        self._origin.read(reading)

    def _succeed(self, blob: int) -> None:
        """The next leader, after one died."""
        fetches = self._rendezvous[blob].fetches.values()
        followers = [f for f in fetches if f.node.host.alive and not f.swarm.complete]
        if followers and len(followers) == sum(not f.swarm.fed for f in followers):
            self._lead(min(followers, key=lambda f: f.swarm.slot))

    # -- deaths

    def _kill(self, node: _Node) -> None:
        """Its connections are reset, both those that it asked over and those that it answers."""
        silent = self._world.scenario.silent
        self._network.kill(node.host, silent=silent)
        for fetch in dict.fromkeys(node.fetches):
            for reading, _ in fetch.readings.values():
                self._origin.stop(reading)
            if fetch.swarm.fed:
                self._clock.at(self._clock.now + LEADERLESS_S, self._succeed, fetch.blob)
            for call in fetch.calls.values():
                call.open = False
                if not silent:
                    self._after(call, self._withdraw, call)
        for call in node.calls.values():
            if call.flow is None and not silent:
                self._after(call, self._fail, call, Fault.GONE, 0)
        if node.part.index != SOURCE:
            self._dying -= 1
        if not self._dying and self._world.scenario.kill_source and node.part.index != SOURCE:
            self._reap_source()

    def _reap_source(self) -> None:
        """The source dies once the others have every piece; looked at now and then."""
        others = [node for node in self._nodes[1:] if node.host.alive]
        for blob, pieces in enumerate(self._pieces):
            fetches = [node.fetches[blob].swarm for node in others if blob < len(node.fetches)]
            if not all(any(swarm.has(p) for swarm in fetches) for p in range(pieces.count)):
                self._clock.at(self._clock.now + self._world.bound * _REAP, self._reap_source)
                return
        self._world.count("source died at ms", round(self._clock.now * 1000))
        self._kill(self._nodes[SOURCE])
