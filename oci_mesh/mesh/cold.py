"""A blob that no node has: its origin outside of the mesh, and who reads it.

If an origin is striped, every node reads the pieces that it is the root of. If not, one node reads
it all, the leader: the lowest slot of those that are not known to have failed at it. Nobody has to
agree on that: two leaders cost a copy more, none costs some seconds.
"""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Final

from oci_mesh.errors import UpstreamError
from oci_mesh.mesh.assembly import PieceHere, Receiver
from oci_mesh.mesh.meeting import Meeting
from oci_mesh.sources import Origin
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.view import ORIGIN, Entry

# Nothing for this long, from nodes that should have a blob of another registry: the registry is
# asked as well. Clients of it must not wait longer for us than they would for itself.
RACE_S: Final = 2.0

# In a cold swarm, where all wait for the same slow link, nothing may come for longer: until a node
# says that it reads the blob for all, or before one that has it now is gone round. Longer than it
# takes a leader to begin, which may have to send its own client to the registry first.
LEAD_S: Final = 8.0

# From a leader: it gives up by itself when its client stands still, and says so. A download of
# containerd grows by the MiB, and many may share a link.
FED_S: Final = 20.0


class Cold:
    """What one transfer knows of the blob's origin; None is for one that this node may not ask.

    With `alone` this node reads all of it, and asks nobody. With `pressed` those who are said to
    have the blob do not count.
    """

    def __init__(
        self,
        meeting: Meeting,
        origin: Origin | None,
        *,
        alone: bool = False,
        pressed: bool = False,
    ) -> None:
        self.origin = origin
        self.alone = alone
        self.is_led = origin is None or self.follows_client or not origin.striped
        """Whether one node reads it for all."""
        self._pressed = pressed
        self._meeting = meeting
        self._lost: set[str] = set()

    @property
    def follows_client(self) -> bool:
        """Whether it comes by the client of the node that reads it."""
        return self.origin is not None and self.origin.follows_client

    @property
    def patience_s(self) -> float:
        """How long nothing may come before somebody else is asked."""
        if self.is_led:
            return FED_S if self.is_fed else LEAD_S
        limited = self.origin is not None and not self.origin.striped
        return RACE_S if limited else LEAD_S

    def press(self) -> None:
        """Nodes that should give it do not, or nobody can read it: go round them."""
        leader = self.leader()
        if self.is_led and leader is not None:
            self.lose(leader.id)
        if self._is_given:
            self._pressed = True
        if self.origin is not None and not self.origin.striped:
            self.is_led = True

    @property
    def is_fed(self) -> bool:
        """Whether a node says that it reads it for all."""
        leader = self.leader()
        return leader is not None and leader.fed

    @property
    def _is_given(self) -> bool:
        """Whether there are nodes that say that they have it, or read it for all."""
        return any(e.is_seed and e.id not in self._lost for e in self._meeting.known())

    def lose(self, node_id: str) -> None:
        """It does not read it, or does not pass it on."""
        if node_id != self._meeting.me:
            self._lost.add(node_id)

    def leader(self) -> Entry | None:
        """Who reads it for all, or should be about to."""
        lost = self._lost if self.origin is not None else self._lost | {self._meeting.me}
        live = [e for e in self._meeting.wanting() if e.id not in lost]
        return min(live, key=lambda e: (not e.fed, e.slot, e.id), default=None)

    def should_lead(self) -> bool:
        """Whether this node is to read it for all, as far as it knows who else is there."""
        if self.alone:
            return True
        if self.origin is None or not self.is_led:
            return False
        if self._meeting.seeds() and not self._pressed:
            return False
        leader = self.leader()
        return leader is not None and leader.id == self._meeting.me

    def entries(self) -> list[Entry]:
        """Who is in the swarm; and the origin, while no node has the blob or is fed with it.

        Also where this node cannot ask it: it is told so when it does, and then keeps nobody
        waiting for what it would have to ask there.
        """
        known = self._meeting.known()
        if self.alone:
            return [entry for entry in known if entry.id == self._meeting.me]
        if self._is_given and (self.is_led or not self._pressed):
            return known
        return [*known, Entry(ORIGIN, "", complete=True)]


async def read_pieces(
    origin: Origin,
    pieces: PieceMap,
    span: tuple[int, int],
    receivers: Iterable[Receiver],
    received: Callable[[int], None],
) -> AsyncGenerator[Receiver, None]:
    """Read some pieces in a row, in one go: bytes `span[0]` to `span[1]`, that the `receivers`
    take, one for each piece. Each is handed out when its bytes have come; where it was closed, or
    the piece came from elsewhere, they were dropped. `received` is told how many bytes came.

    Raises `UpstreamError`, `StorageFull`, `StorageFailed`. It has no deadline beside the origin's:
    who asks for pieces cancels those that are late, and who reads all gives up when nothing comes.
    """
    position = span[0]
    rest = memoryview(b"")
    async with aclosing(origin.read(*span)) as chunks:
        for receiver in receivers:
            end = pieces.span(receiver.piece)[1]
            while position < end:
                if not rest:
                    rest = memoryview(await _next(chunks))
                    received(len(rest))
                part = rest[: end - position]
                with suppress(PieceHere):
                    receiver(part)
                position += len(part)
                rest = rest[len(part) :]
            yield receiver


async def _next(chunks: AsyncGenerator[bytes, None]) -> bytes:
    try:
        return await anext(chunks)
    except StopAsyncIteration:
        raise UpstreamError("it ended before its end") from None
