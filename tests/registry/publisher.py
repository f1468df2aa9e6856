"""The mesh of one node: nobody to tell, nobody to copy to."""

import time
from collections.abc import Sequence

from oci_mesh.members.clock import HybridClock
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.names import NameRecord


class LonePublisher:
    """A `Publisher` that only makes stamps."""

    def __init__(self) -> None:
        self._clock = HybridClock("lone")

    def stamp(self) -> str:
        """As `Publisher.stamp`."""
        return self._clock.tick(time.time_ns() // 1_000_000)

    async def announce(self, records: Sequence[NameRecord]) -> None:
        """As `Publisher.announce`."""

    async def replicate(self, repository: str, digest: Digest) -> int:
        """As `Publisher.replicate`."""
        return 1
