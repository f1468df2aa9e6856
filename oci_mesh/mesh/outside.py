"""The part of a transfer that comes from the blob's origin, outside of the mesh.

The swarm asks for pieces, and those in a row are read in one go; or this node leads, and reads all
that is missing, for everybody. What was read is vouched for where there is no list to check it by.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Protocol

from oci_mesh.errors import BlobUnknown, NoRanges, OciError, OciMeshError, UpstreamError
from oci_mesh.journal import CONTAINERD, Taking
from oci_mesh.mesh.assembly import Assembly, Receiver
from oci_mesh.mesh.cold import RACE_S, Cold, read_pieces
from oci_mesh.mesh.meeting import Meeting
from oci_mesh.metrics import Metrics
from oci_mesh.sources import Origin
from oci_mesh.spec.scope import parse_scope
from oci_mesh.swarm.events import Ask, Begun, Completed, Event, Failed, Fed, Feed
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.pieces import run_length
from oci_mesh.swarm.view import Entry
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

FindOrigin = Callable[[], Awaitable[Origin | None]]


class Driver(Protocol):
    """The transfer."""

    def handle(self, event: Event) -> None:
        """Tell the swarm."""

    def look_around(self) -> None:
        """Somebody is asked now who was not, or the other way round."""

    def fail(self, failure: OciMeshError) -> None:
        """End it."""


class Outside:
    """`cold` is for a blob that nobody has; for one that nodes have but may not give, `find` finds
    the origin, if it has one. `group` runs what is read.
    """

    def __init__(
        self,
        driver: Driver,
        meeting: Meeting,
        assembly: Assembly,
        metrics: Metrics,
        taking: Taking,
        group: asyncio.TaskGroup,
        cold: Cold | None,
        find: FindOrigin | None,
    ) -> None:
        self.leads = False
        """Whether this node reads all of it."""
        self.heard_at = 0.0
        """When the last bytes came."""
        self.taken = 0
        """Pieces that came."""
        self.failed = False
        """Whether the origin failed this node, and has given it nothing since."""
        self.cold = cold
        self._driver = driver
        self._meeting = meeting
        self._assembly = assembly
        self._metrics = metrics
        self._taking = taking
        self._run = run_length(assembly.pieces)
        self._group = group
        self._find = find
        self._pressed_at = 0.0
        self._running: dict[int, tuple[asyncio.Task[None], Receiver]] = {}
        self._aside: list[asyncio.Task[None]] = []

    # -- who is asked

    def entries(self) -> list[Entry]:
        """Who is in the swarm. If this node is to lead, it does so from here on."""
        cold = self.cold
        if cold is None:
            return self._meeting.known()
        if cold.origin is not None and not self.leads and cold.should_lead():
            self._lead(cold, cold.origin)
        return cold.entries()

    @property
    def follows(self) -> bool:
        """Whether another node reads it for all, or is about to."""
        cold = self.cold
        return cold is not None and cold.is_led and not self.leads and cold.leader() is not None

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing has come yet, and nothing says that it will: the origin is silent, or
        nobody reads it for this node.
        """
        if self.cold is None or any(self._assembly.good):
            return False
        if self.follows:
            return not self.cold.is_fed
        return bool(self._running) and self.heard_at == 0.0

    def lost(self, node_id: str) -> None:
        """It does not answer. If it is the one who reads it for all, another has to."""
        entry = self._meeting.entries.get(node_id)
        if self.cold is not None and entry is not None and entry.fed:
            self.cold.lose(node_id)
            self._driver.look_around()

    def press(self, moved_at: float) -> None:
        """Nothing has come since `moved_at`: after a while the origin is asked as well, or another
        node reads it.
        """
        idle_s = loop_time() - max(moved_at, self._pressed_at)
        if self.cold is None:
            if self._find is not None and idle_s >= RACE_S:
                self._aside.append(self._group.create_task(self._race(self._find)))
                self._find = None
        elif idle_s >= self.cold.patience_s:
            self._pressed_at = loop_time()
            self.cold.press()
            self._driver.look_around()

    async def _race(self, find: FindOrigin) -> None:
        """Nodes have it, and do not give it: who gets further, they or its origin?"""
        origin = await find()
        if origin is not None and origin.striped and not origin.follows_client:
            _log.info("%s: no piece for %.0f s: asking its origin", self._meeting.digest, RACE_S)
            self.cold = Cold(self._meeting, origin, pressed=True)
            self._driver.look_around()

    def stop(self) -> None:
        """What was begun here and nobody needs any more ends; pieces are cancelled one by one."""
        for task in self._aside:
            task.cancel()

    # -- some pieces

    def asked_now(self) -> set[str]:
        """The origin as records name it, while it is being read."""
        return {self._name} if self._running or self.leads else set()

    @property
    def _name(self) -> str:
        if self.cold is not None and self.cold.follows_client:
            return CONTAINERD
        return f"@{parse_scope(self._meeting.repository).registry}"

    def ask(self, asks: Sequence[Ask]) -> None:
        """Read pieces; those that follow each other in a run, in one go."""
        for row in self._rows(asks):
            receivers = [self._receiver(ask) for ask in row]
            task = self._group.create_task(self._read(row, receivers))
            for ask, receiver in zip(row, receivers, strict=True):
                self._running[ask.request] = task, receiver

    def cancel(self, request: int) -> None:
        """It need not come any more; a reading ends with its last piece."""
        running = self._running.pop(request, None)
        if running is None:
            return
        task, receiver = running
        receiver.close()
        if not any(other is task for other, _ in self._running.values()):
            task.cancel()

    async def _read(self, row: Sequence[Ask], receivers: list[Receiver]) -> None:
        requests = {ask.piece: ask.request for ask in row}
        try:
            reading = self._pieces(self._striped(), receivers, row[0].piece, row[-1].piece)
            async with aclosing(reading) as whole:
                async for receiver in whole:
                    request = requests[receiver.piece]
                    if self._running.pop(request, None) is not None:
                        right = self._take(receiver)
                        receiver.close()
                        wrong = Failed(request, Fault.CORRUPT)
                        self._driver.handle(Completed(request) if right else wrong)
        except UpstreamError as error:
            self._note(error)
        except OciError as error:  # this node's disk
            self._driver.fail(error)
        finally:
            for receiver in receivers:
                receiver.close()
        for request in requests.values():
            if self._running.pop(request, None) is not None:
                self._driver.handle(Failed(request, Fault.GONE))

    def _striped(self) -> Origin:
        """Raises `_ReadByOne` if this node is not to read any part of it."""
        assert self.cold is not None, "it is not in the view"
        if self.cold.is_led or self.cold.origin is None:
            raise _ReadByOne("one node reads it for all")
        return self.cold.origin

    def _note(self, error: UpstreamError) -> None:
        if isinstance(error, _ReadByOne):
            return
        _log.warning("%s: its origin: %s", self._meeting.digest, error)
        self._taking.fault(self._name, str(error) or type(error).__name__)
        self.failed = True
        if isinstance(error, NoRanges) and self.cold is not None:
            self.cold.is_led = True
            self._driver.look_around()

    def _receiver(self, ask: Ask) -> Receiver:
        return Receiver(self._assembly, ask.piece, lambda: self._driver.handle(Begun(ask.request)))

    def _rows(self, asks: Sequence[Ask]) -> Iterator[list[Ask]]:
        """Those whose pieces follow each other, and are of one run."""
        row: list[Ask] = []
        for ask in asks:
            if row and (ask.piece != row[-1].piece + 1 or ask.piece % self._run == 0):
                yield row
                row = []
            row.append(ask)
        if row:
            yield row

    # -- all of it

    def _lead(self, cold: Cold, origin: Origin) -> None:
        """Read all that is missing, in order, and have the others ask this node for it."""
        self.leads = True
        if self._assembly.sworn is not None:
            self._assembly.sworn.vouch_for_all()
        if origin.follows_client:
            reason = f"{self._meeting.digest} comes to this node by its own client"
            self._assembly.send_away(BlobUnknown(reason))
        self._driver.handle(Feed())
        self._group.create_task(self._read_all(origin))
        if not cold.alone:
            _log.info("%s: reading it for all", self._meeting.digest)
            self._meeting.fed = True
            self._aside.append(self._group.create_task(self._announce()))

    async def _announce(self) -> None:
        await self._meeting.refresh()

    async def _read_all(self, origin: Origin) -> None:
        """Whatever fails, fails the transfer: another node leads."""
        assembly = self._assembly
        first = assembly.good.find(0)
        if first < 0:
            return
        missing = (Receiver(assembly, p, _nothing) for p in range(first, assembly.pieces.count))
        try:
            reading = self._pieces(origin, missing, first, assembly.pieces.count - 1)
            async with aclosing(reading) as whole:
                async for receiver in whole:
                    if not assembly.good[receiver.piece]:
                        if not self._take(receiver):
                            raise UpstreamError(f"piece {receiver.piece} has other bytes")
                        self._driver.handle(Fed(receiver.piece))
                    receiver.close()
        except (UpstreamError, OciError) as error:
            self._driver.fail(error)

    # -- both

    async def _pieces(
        self, origin: Origin, receivers: Iterable[Receiver], first: int, last: int
    ) -> AsyncGenerator[Receiver, None]:
        """As `read_pieces`, from piece `first` to `last`, and counted."""
        pieces = self._assembly.pieces
        span = pieces.span(first)[0], pieces.span(last)[1]
        came, asked_at = 0, loop_time()

        def received(size: int) -> None:
            nonlocal came
            self.heard_at = loop_time()
            if not came:
                self._taking.giver(self._name).waited_s += self.heard_at - asked_at
            came += size

        try:
            async with aclosing(read_pieces(origin, pieces, span, receivers, received)) as whole:
                async for receiver in whole:
                    yield receiver
        finally:
            registry = parse_scope(self._meeting.repository).registry
            self._metrics.upstream_received.labels(registry).inc(came)

    def _take(self, receiver: Receiver) -> bool:
        """Whether the piece is right, as far as can be told; then it is here."""
        sworn = self._assembly.sworn
        piece_hash = None if sworn is None else receiver.hash
        if not receiver.finish(piece_hash):
            self._assembly.doubt()  # the list is wrong, or the origin is
            self._taking.fault(self._name, Fault.CORRUPT)
            return False
        if sworn is not None and piece_hash is not None:
            sworn.vouch(receiver.piece, piece_hash)
        self._taking.came(self._name, self._assembly.pieces.length(receiver.piece))
        self.taken += 1
        self.failed = False
        return True


class _ReadByOne(UpstreamError):
    """Another node reads it."""


def _nothing() -> None:
    """The first byte of a piece is no news to who reads all of them."""
