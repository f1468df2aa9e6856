"""What happens in the mesh when content changes on this node: the registry's `Publisher`."""

from collections.abc import Sequence

from oci_mesh.members.clock import HybridClock
from oci_mesh.mesh.gossip import Gossip, wall_ms
from oci_mesh.mesh.replication import Replication
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.names import NameRecord


class MeshPublisher:
    """Stamps, announces and replicates."""

    def __init__(self, clock: HybridClock, gossip: Gossip, replication: Replication) -> None:
        self._clock = clock
        self._gossip = gossip
        self._replication = replication

    def stamp(self) -> str:
        """A stamp later than every one given or seen so far."""
        return self._clock.tick(wall_ms())

    async def announce(self, records: Sequence[NameRecord]) -> None:
        """Tell all live nodes; the others learn it by gossip."""
        await self._gossip.announce(records)

    async def replicate(self, repository: str, digest: Digest) -> int:
        """Have other nodes hold a manifest and all it needs; how many do, this one counted."""
        return await self._replication.replicate(repository, digest)
