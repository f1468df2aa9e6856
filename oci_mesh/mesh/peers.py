"""The other nodes as givers of content: whom to ask, who has it, and who is asked no longer.

Who has something is asked of the nodes themselves, a few and then more at a time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, TypeVar

from oci_mesh.errors import OciMeshError, PeerError
from oci_mesh.members.table import Member, rendezvous
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.metrics import Metrics
from oci_mesh.spec.digest import Digest

_log = logging.getLogger(__name__)

# How many nodes are asked at a time who has something: few first, for usually many have it; then
# more, so that a thousand nodes are asked in six round trips.
WAVES: Final = (4, 16, 64, 256)

# A node that sent wrong bytes is asked for nothing for this long. A disk that goes bad lies again.
BAN_S: Final = 600.0

Found = TypeVar("Found")


class Peers:
    """What faults they are blamed for is in the log and in the metrics, by node."""

    def __init__(self, gossip: Gossip, client: PeerClient, metrics: Metrics) -> None:
        self._gossip = gossip
        self._client = client
        self._metrics = metrics
        self._banned: dict[str, float] = {}

    def candidates(self, digest: Digest) -> list[Member]:
        """Whom to ask, in an order that is this content's own: no node is everyone's first."""
        now = _now()
        self._banned = {member: until for member, until in self._banned.items() if until > now}
        live = self._gossip.live()
        return rendezvous(str(digest), (m for m in live if m.id not in self._banned))

    async def holders(
        self, digest: Digest, path: str, without: Collection[str]
    ) -> list[tuple[Member, int]]:
        """Some nodes that say they have `path`, and its size; empty if none does.

        Nodes whose ids are in `without` are passed over.
        """
        rest = [member for member in self.candidates(digest) if member.id not in without]
        for count in _waves(len(rest)):
            wave, rest = rest[:count], rest[count:]
            answers = await self.ask(wave, lambda m: self._client.stat(m.address, path))
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
                    self.blame(member, "unreachable", error)

        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(one(member))
        return [(m, answers[m.id]) for m in members if m.id in answers]

    def blame(self, member: Member, fault: str, error: OciMeshError) -> None:
        """Ask a node no longer: for `BAN_S` if what it sent was `corrupt`, else for a while."""
        _log.warning("node %s: %s: %s", member.id, fault, error)
        self._metrics.peer_faults.labels(member.id, fault).inc()
        if fault == "corrupt":
            self._banned[member.id] = _now() + BAN_S
        else:
            self._gossip.failed(member.id)


def _waves(count: int) -> list[int]:
    sizes: list[int] = []
    while sum(sizes) < count:
        sizes.append(WAVES[min(len(sizes), len(WAVES) - 1)])
    return sizes


def _now() -> float:
    return asyncio.get_running_loop().time()
