"""One blob on its way into this node's store, piece by piece, from many nodes and for many clients.

The decisions are `swarm`'s, the bytes `assembly`'s; here are the requests and the timer. Pieces
stay on disk when a transfer breaks off: the next one checks them and goes on with them.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from oci_mesh import logs
from oci_mesh.errors import BlobUnknown, DigestInvalid, OciError, OciMeshError, PeerError
from oci_mesh.journal import Journal, Taking
from oci_mesh.mesh.assembly import Assembly, PieceHere, Receiver
from oci_mesh.mesh.bulk import BulkClient, Head, NoneFree, PeerCut, PeerNonsense, PeerStalled
from oci_mesh.mesh.client import STALL_S
from oci_mesh.mesh.cold import Cold
from oci_mesh.mesh.gate import Gate
from oci_mesh.mesh.meeting import Meeting
from oci_mesh.mesh.outside import FindOrigin, Outside
from oci_mesh.mesh.peers import Peers
from oci_mesh.mesh.statements import Forged
from oci_mesh.mesh.wire import (
    BANNED_HEADER,
    COLD,
    FAULT_HEADER,
    FINAL_HEADER,
    FRONTIER_HEADER,
    LIST_HEADER,
    PIECE_HEADER,
    SLOT_HEADER,
    WAIT_HEADER,
)
from oci_mesh.metrics import Metrics
from oci_mesh.store.base import Store
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
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.pieces import run_length
from oci_mesh.swarm.statement import Statement
from oci_mesh.swarm.swarm import MIN_HEDGE_S, SLACK_S, Swarm
from oci_mesh.swarm.view import ORIGIN, View
from oci_mesh.swarm.window import Window
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

# No piece for this long, whoever is asked: the blob is given up, and clients go elsewhere.
GIVE_UP_S: Final = 30.0

# Given up sooner if nobody even says "later": all who should have it are gone, or do not give it.
# Less than `EARLY_S` of a fetch: the client hears it before headers are out. After a piece, or a
# "later", longer: a node that was busy is left alone for some seconds.
LOST_S: Final = 3.0
HOPE_S: Final = 8.0

# How often it is looked whether there is still somebody to ask. Nodes are searched for after as
# long at first, then after twice as long each time: each search may ask all nodes.
_LOOK_S: Final = 1.0

# In the log, of those that gave most.
_GIVERS_SHOWN: Final = 8

# A node that takes so long for a piece is named if another was quicker, which was asked only since.
_LONG_S: Final = MIN_HEDGE_S / 2

# A client that waits at some place has this many pieces from there on asked for first.
_AHEAD: Final = 4


class Tools(NamedTuple):
    """What transfers of one node share."""

    store: Store
    bulk: BulkClient
    gate: Gate
    window: Window
    peers: Peers
    metrics: Metrics
    journal: Journal


class SignerLied(Exception):
    """All pieces are as listed, and the whole is not: the list was wrong."""


class SizeDiffers(Exception):
    """Nobody gives it with the size that was said; `claims` are the sizes that nodes say instead,
    by node.
    """

    def __init__(self, claims: dict[str, int]) -> None:
        super().__init__(f"nodes say other sizes: {sorted(set(claims.values()))}")
        self.claims = claims


class Transfer:
    """One attempt, by one list or from a `cold` blob's origin, with the pieces that it begins with.
    `run` it; others read from `assembly` meanwhile. `find_origin` is for a blob that nodes have but
    do not give.
    """

    def __init__(
        self,
        tools: Tools,
        meeting: Meeting,
        statement: Statement | None,
        assembly: Assembly,
        taking: Taking,
        have: Iterable[int] = (),
        *,
        cold: Cold | None = None,
        find_origin: FindOrigin | None = None,
    ) -> None:
        self.assembly = assembly
        self._tools = tools
        self._taking = taking
        self._meeting = meeting
        self._list_id = _list_id(statement, assembly)
        self._path = meeting.path
        self._headers = meeting.proof | {LIST_HEADER: self._list_id}
        self._run = 1 if assembly.sworn is None else run_length(assembly.pieces)
        self._swarm = Swarm(
            tools.peers.me,
            meeting.slot,
            assembly.pieces,
            tools.gate.uplink,
            tools.window,
            have,
            self._run,
        )
        self._running: dict[int, tuple[asyncio.Task[None], Ask, Receiver]] = {}
        self._claims: dict[str, int] = {}
        self._tickets: dict[int, asyncio.Future[Send | Refuse]] = {}
        self._last_ticket = 0
        self._group = asyncio.TaskGroup()
        self._outside = Outside(
            self,
            meeting,
            assembly,
            tools.metrics,
            taking,
            self._group,
            cold,
            find_origin,
        )
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._failure: OciMeshError | SizeDiffers | None = None
        self._outcomes: Counter[str] = Counter()
        self._ended = False
        self.started_at = 0.0
        self._received = 0
        self._received_at = 0.0
        self._hope_until = 0.0
        self._searching: asyncio.Task[None] | None = None
        self._search_s = _LOOK_S

    # -- the work

    async def run(self) -> None:
        """Get all pieces, and see that the whole is right.

        Raises `BlobUnknown` if there is nobody left to ask, `PeerError` if nobody gives anything,
        `UpstreamError` if this node leads and the origin fails, `SignerLied`, `StorageFull`,
        `StorageFailed`.
        """
        self.started_at = loop_time()
        self._hope_until = self.started_at + LOST_S
        self._tools.window.enter()
        try:
            async with self._group as group:
                hashing = group.create_task(self.assembly.hash_whole())
                following = group.create_task(self._follow())
                self.look_around()
                try:
                    with self._tools.peers.watched(self.look_around):
                        await self._await_pieces()
                    right = await hashing
                finally:
                    following.cancel()
                    hashing.cancel()
                    if self._searching is not None:
                        self._searching.cancel()
                    self._outside.stop()
                    self._end()
                    self._tools.window.leave()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if not right:
            raise SignerLied
        self._log_summary()

    def _log_summary(self) -> None:
        _log.info(
            "fetched %s",
            self._meeting.digest,
            extra=logs.event(
                bytes=self.assembly.pieces.size,
                seconds=round(loop_time() - self.started_at, 2),
                requests=dict(self._outcomes),
                pieces_from_outside=self._outside.taken,
                pieces_from=self._taking.pieces_from(_GIVERS_SHOWN),
            ),
        )

    async def _await_pieces(self) -> None:
        while not self._swarm.complete:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            self._wake.clear()
            self._taking.sample(self.assembly.received, self.asked_now)
            if self._failure is not None:
                raise self._failure
            self._look_for_life()

    def _look_for_life(self) -> None:
        """Give up if nothing comes any more; look for others who have it if nobody is asked."""
        now = loop_time()
        moved_at = max(self.started_at, self._swarm.progress_at, self._outside.heard_at)
        idle_s = now - moved_at
        if idle_s > GIVE_UP_S:
            raise PeerError(f"no piece of {self._meeting.digest} came for {GIVE_UP_S:.0f} s")
        if self._swarm.complete or self._outside.leads:
            return
        if self.assembly.received != self._received:
            self._received, self._received_at = self.assembly.received, now
        self._outside.press(max(moved_at, self._received_at))
        if idle_s > HOPE_S and self._outside.failed and not self._outside.follows:
            raise BlobUnknown(f"the origin of {self._meeting.digest} fails")
        if idle_s < _LOOK_S or self._swarm.in_flight:
            return
        if now > self._hope_until and not self._outside.follows:
            raise BlobUnknown(f"nobody who should have {self._meeting.digest} gives it")
        if idle_s >= self._search_s and self._searching is None:
            self._search_s *= 2
            self._searching = self._group.create_task(self._search())

    def asked_now(self) -> set[str]:
        """Who is being asked for a piece."""
        asked = {ask.peer for _, ask, _ in self._running.values()}
        return asked | self._outside.asked_now()

    async def _search(self) -> None:
        if await self._meeting.search():
            self.look_around()
        elif not self._meeting.others():
            self.fail(BlobUnknown(f"no node has {self._meeting.digest}, or can give it"))
        self._searching = None

    def fail(self, failure: OciMeshError | SizeDiffers) -> None:
        """End it; the first failure counts."""
        self._failure = self._failure or failure
        self._wake.set()

    async def _follow(self) -> None:
        await self._meeting.follow(lambda: self._swarm.frontier, self.look_around)

    def look_around(self) -> None:
        """Tell the swarm who is in it now."""
        if not self._ended:
            entries = self._meeting.entries
            banned = tuple(peer for peer in self._tools.peers.banned() if peer in entries)
            self.handle(Viewed(View(self._outside.entries(), self._run), banned))
            having = sum(entry.complete for entry in entries.values())
            self._taking.swarm(len(entries) - having, having)

    def _end(self) -> None:
        self._ended = True
        self.handle(Ended())
        if self._timer is not None:
            self._timer.cancel()

    # -- the swarm's events and commands

    def want(self, offset: int) -> None:
        """A client waits for the byte at `offset`."""
        pieces = self.assembly.pieces
        first = pieces.at(offset)
        self.handle(Wanted(first, min(first + _AHEAD, pieces.count) - 1))

    async def asked(
        self,
        piece: int,
        peer: str,
        slot: int,
        wait_s: float,
        final: bool,
        named: tuple[str, ...],
    ) -> Send | Refuse:
        """Another node's question for a piece, answered when it may be sent, or will not be."""
        self._last_ticket += 1
        ticket = self._last_ticket
        answer: asyncio.Future[Send | Refuse] = asyncio.get_running_loop().create_future()
        self._tickets[ticket] = answer
        self.handle(Asked(ticket, piece, peer, slot, wait_s, final, named))
        try:
            return await answer
        finally:
            if not answer.done() or answer.cancelled():
                self.handle(Dropped(ticket))
            self._tickets.pop(ticket, None)

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing has come from outside of the mesh, and nothing says that it will."""
        return self._outside.is_hopeless

    @property
    def follows(self) -> bool:
        """Whether another node reads it for all."""
        return self._outside.follows

    @property
    def frontier(self) -> int:
        """All pieces before it are here."""
        return self._swarm.frontier

    @property
    def list_id(self) -> str:
        """Of the list that this goes by, `COLD` if there is none; empty for a blob of one piece."""
        return self._list_id

    def handle(self, event: Event) -> None:
        """Tell the swarm what happened, and do what it says."""
        outside: list[Ask] = []
        for command in self._swarm.handle(event, loop_time()):
            if isinstance(command, Ask) and command.peer == ORIGIN:
                outside.append(command)
            else:
                self._do(command)
        if outside:
            self._outside.ask(outside)
        if self._swarm.complete:
            self._wake.set()
        self._set_timer()

    def _do(self, command: Command) -> None:
        match command:
            case Ask():
                number = command.request
                receiver = Receiver(
                    self.assembly, command.piece, lambda: self.handle(Begun(number))
                )
                task = self._group.create_task(self._request(command, receiver))
                self._running[number] = task, command, receiver
            case Cancel():
                running = self._running.pop(command.request, None)
                if running is None:
                    self._outside.cancel(command.request)
                else:
                    task, ask, receiver = running
                    self._note_late(ask, receiver)
                    receiver.close()
                    task.cancel()
            case Send() | Refuse():
                answer = self._tickets.get(command.ticket)
                if answer is not None and not answer.done():
                    answer.set_result(command)

    def _set_timer(self) -> None:
        due = self._swarm.next_deadline()
        if self._timer is not None:
            if due is not None and self._timer.when() <= due and not self._timer.cancelled():
                return  # it comes early enough, and looks again
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.handle(Tick())

    # -- one request

    async def _request(self, ask: Ask, receiver: Receiver) -> None:
        asked_at = loop_time()
        try:
            event = await self._fetch(ask, receiver)
        except OciError as error:  # this node's disk
            self.fail(error)
            return
        finally:
            receiver.close()
            self._running.pop(ask.request, None)
        if not isinstance(event, Failed) or self._gives_hope(event, ask.peer):
            self._hope_until = loop_time() + HOPE_S
        outcome = event.fault.value if isinstance(event, Failed) else "received"
        self._outcomes[outcome] += 1
        metrics = self._tools.metrics
        metrics.count(metrics.pieces, outcome)
        if isinstance(event, Failed):
            self._taking.fault(ask.peer, outcome)
        else:
            size, begun_at = self.assembly.pieces.length(ask.piece), receiver.begun_at or asked_at
            self._taking.came(ask.peer, size, begun_at - asked_at, loop_time() - begun_at)
        self.handle(event)
        if isinstance(event, Failed) and event.fault in (Fault.GONE, Fault.STALLED):
            self._outside.lost(ask.peer)
        if self._claims and self._swarm.in_flight == 0 and not self._swarm.complete:
            self.fail(SizeDiffers(self._claims))

    def _note_late(self, ask: Ask, receiver: Receiver) -> None:
        """Name a node whose answer took too long, or stood still while another's came."""
        late = PeerStalled(f"piece {ask.piece} of {self._meeting.digest} did not come in time")
        if self._ended or self._outside.leads or self._tools.peers.is_banned(ask.peer):
            return
        self._taking.late(ask.peer)
        if not self.assembly.good[ask.piece]:
            self._blame(ask.peer, late)
        elif receiver.begun and loop_time() - receiver.begun_at > _LONG_S:
            self._tools.peers.blame(ask.peer, "slow", late)

    def _gives_hope(self, failed: Failed, peer: str) -> bool:
        """Whether it may have the piece later. Who has all has no reason to say "not yet"."""
        entry = self._meeting.entries.get(peer)
        has_all = entry is not None and entry.complete
        return failed.fault is Fault.BUSY or (failed.fault is Fault.NOT_YET and not has_all)

    async def _fetch(self, ask: Ask, receiver: Receiver) -> Event:
        """What became of a request."""
        entry = self._meeting.entries.get(ask.peer)
        if entry is None:
            return Failed(ask.request, Fault.GONE)
        try:
            head = await self._get(ask, entry.address, receiver)
        except (PieceHere, NoneFree):
            return Failed(ask.request, Fault.NOT_YET)
        except PeerError as error:
            return Failed(ask.request, self._blame(ask.peer, error))
        frontier = _number(head.headers.get(FRONTIER_HEADER.lower(), "")) or 0
        if head.status != 206:
            return Failed(ask.request, self._refusal(ask.peer, head), frontier)
        if _total(head) != self.assembly.pieces.size:
            return Failed(ask.request, self._size_differs(ask.peer, head))
        metrics, size = self._tools.metrics, self.assembly.pieces.length(ask.piece)
        metrics.count(metrics.peer_received, ask.peer, amount=size)
        try:
            right = self._finish(receiver, head)
        except PeerError as error:
            fault = "corrupt" if isinstance(error, Forged) else "nonsense"
            self._tools.peers.blame(ask.peer, fault, error)
            return Failed(ask.request, Fault.CORRUPT if fault == "corrupt" else Fault.MISSING)
        if right is None:
            return Failed(ask.request, Fault.NOT_YET, frontier)
        if right:
            return Completed(ask.request, frontier)
        wrong = DigestInvalid(f"piece {ask.piece} of {self._meeting.digest} has other bytes")
        self._tools.peers.blame(ask.peer, "corrupt", wrong)
        return Failed(ask.request, Fault.CORRUPT)

    def _finish(self, receiver: Receiver, head: Head) -> bool | None:
        """Whether the piece is what it has to be; None if who vouches for it has lied before.

        Raises `Forged` or `PeerError` if nobody vouches for it who should.
        """
        sworn = self.assembly.sworn
        if sworn is None:
            return receiver.finish()
        statement = sworn.check(receiver.piece, head.headers.get(PIECE_HEADER.lower(), ""))
        if self._tools.peers.is_banned(statement.signer):
            return None
        if not receiver.finish(statement.hash):
            return False
        sworn.take(receiver.piece, statement)
        return True

    async def _get(self, ask: Ask, address: str, receiver: Receiver) -> Head:
        start, stop = self.assembly.pieces.span(ask.piece)
        headers = {
            "Range": f"bytes={start}-{stop - 1}",
            SLOT_HEADER: str(self._swarm.slot),
            WAIT_HEADER: f"{ask.wait_s:.2f}",
            **self._headers,
        }
        if ask.final:
            headers[FINAL_HEADER] = "1"
        if self._swarm.named:
            headers[BANNED_HEADER] = ",".join(self._swarm.named)
        return await self._tools.bulk.get(
            address,
            self._path,
            headers,
            receiver,
            length=stop - start,
            head_s=ask.wait_s + SLACK_S,
            stall_s=STALL_S,
            peer=ask.peer,
        )

    def _size_differs(self, peer: str, head: Head) -> Fault:
        """Without a signed list the size was only hearsay, and this node may be the one that is
        right. With one, who goes by it knows the size.
        """
        size = _total(head)
        if self._outside.cold is not None and self._list_id in ("", COLD):  # the origin knows
            return Fault.MISSING
        if self._list_id or size is None:
            self._tools.peers.blame(peer, "corrupt", PeerError(f"another size: {size}"))
            return Fault.CORRUPT
        self._claims[peer] = size
        return Fault.MISSING

    def _blame(self, peer: str, error: PeerError) -> Fault:
        for kind, fault in _FAULTS.items():
            if isinstance(error, kind):
                self._tools.peers.blame(peer, fault, error)
                break
        return Fault.STALLED if isinstance(error, PeerStalled) else Fault.GONE

    def _refusal(self, peer: str, head: Head) -> Fault:
        """What an answer without a piece means."""
        if head.status in (409, 416):  # it goes by another list, or by another size
            if self.assembly.sworn is not None:
                return Fault.MISSING
            if self._list_id:
                self.assembly.doubt()
            elif (size := _total(head)) is not None and self._outside.cold is None:
                self._claims[peer] = size
            return Fault.MISSING
        try:
            fault = Fault(head.headers.get(FAULT_HEADER.lower(), ""))
        except ValueError:
            fault = Fault.MISSING
        entry = self._meeting.entries.get(peer)
        if fault is not Fault.BUSY and entry is not None and entry.complete:
            error = PeerError(f"it does not have {self._meeting.digest} after all")
            self._tools.peers.blame(peer, "missing", error)
        return fault


# By what it is blamed for; the first that fits.
_FAULTS: Final = {
    PeerStalled: "stalled",
    PeerCut: "cut",
    PeerNonsense: "nonsense",
    PeerError: "unreachable",
}


def _list_id(statement: Statement | None, assembly: Assembly) -> str:
    if assembly.sworn is not None:
        return COLD
    return "" if statement is None else statement.list_id


def _total(head: Head) -> int | None:
    """The size of the blob, as an answer tells it."""
    return _number(head.headers.get("content-range", "").rpartition("/")[2])


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
