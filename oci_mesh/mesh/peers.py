"""The other nodes as givers of content: whom to ask, who has it, and who is asked no longer.

Who has something is asked of the nodes themselves, a few and then more at a time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from oci_mesh.errors import OciMeshError, PeerError
from oci_mesh.members.table import Member, rendezvous
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.metrics import Metrics
from oci_mesh.spec.digest import Digest
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

# How many nodes are asked at a time who has something: few first, for usually many have it; then
# more, so that a thousand nodes are asked in six round trips.
WAVES: Final = (4, 16, 64, 256)

# A node that sent wrong bytes is asked for nothing for this long. A disk that goes bad lies again.
BAN_S: Final = 600.0

_ABSENCES: Final = frozenset({"unreachable", "cut", "stalled"})

Found = TypeVar("Found")


class Peers:
    """What faults they are blamed for is in the log and in the metrics, by node."""

    def __init__(self, gossip: Gossip, client: PeerClient, metrics: Metrics) -> None:
        self._gossip = gossip
        self._client = client
        self._metrics = metrics
        self._banned: dict[str, float] = {}
        self._watchers: set[Callable[[], None]] = set()

    @property
    def me(self) -> str:
        """This node's id."""
        return self._gossip.table.me.id

    def is_banned(self, node_id: str) -> bool:
        """Whether it sent wrong bytes, not long ago."""
        return self._banned.get(node_id, 0.0) > loop_time()

    def banned(self) -> list[str]:
        """All that did."""
        return [node_id for node_id in self._banned if self.is_banned(node_id)]

    def knows(self, node_id: str) -> bool:
        """Whether it is, or was not long ago, a node of this mesh, as far as anybody says."""
        return node_id in self._gossip.table

    @contextmanager
    def watched(self, banned: Callable[[], None]) -> Iterator[None]:
        """Have `banned` called, within the block, when one more node is."""
        self._watchers.add(banned)
        try:
            yield
        finally:
            self._watchers.discard(banned)

    def candidates(self, digest: Digest) -> list[Member]:
        """Whom to ask, in an order that is this content's own: no node is everyone's first."""
        now = loop_time()
        self._banned = {member: until for member, until in self._banned.items() if until > now}
        live = self._gossip.live()
        return rendezvous(str(digest), (m for m in live if m.id not in self._banned))

    async def holders(
        self,
        digest: Digest,
        path: str,
        without: Collection[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> list[tuple[Member, int]]:
        """Some nodes that say they have `path`, and its size; empty if none does.

        Nodes whose ids are in `without` are passed over. `headers` go along.
        """
        rest = [member for member in self.candidates(digest) if member.id not in without]
        for count in _waves(len(rest)):
            wave, rest = rest[:count], rest[count:]
            answers = await self.ask(
                wave, lambda m: self._client.stat(m.address, path, m.id, headers)
            )
            found = [(member, size) for member, size in answers if size is not None]
            if found:
                return found
        return []

    async def ask(
        self, members: Sequence[Member], ask: Callable[[Member], Awaitable[Found]]
    ) -> list[tuple[Member, Found]]:
        """The answers of those that answer, in the order of `members`."""
        answers: dict[str, Found] = {}
        gate = asyncio.Semaphore(WAVES[-1])

        async def one(member: Member) -> None:
            async with gate:
                try:
                    answers[member.id] = await ask(member)
                except PeerError as error:
                    self.blame(member.id, "unreachable", error)

        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(one(member))
        return [(m, answers[m.id]) for m in members if m.id in answers]

    def blame(self, node_id: str, fault: str, error: OciMeshError) -> None:
        """Ask a node no longer: for `BAN_S` if what it sent was `corrupt`, for a while if it was
        `unreachable`, `cut` or `stalled`. Whatever it is (`missing`: it said that it has something;
        `nonsense`: none of our nodes answers so; `slow`: another was quicker), log and metrics name
        it.
        """
        _log.warning("node %s: %s: %s", node_id, fault, error)
        self._metrics.peer_faults.labels(node_id, fault).inc()
        if fault == "corrupt":
            known = self.is_banned(node_id)
            self._banned[node_id] = loop_time() + BAN_S
            for watcher in () if known else tuple(self._watchers):
                watcher()
        elif fault in _ABSENCES:
            self._gossip.failed(node_id, str(error))


def _waves(count: int) -> list[int]:
    sizes: list[int] = []
    while sum(sizes) < count:
        sizes.append(WAVES[min(len(sizes), len(WAVES) - 1)])
    return sizes
