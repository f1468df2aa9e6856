"""What a registry asks of the mesh when content changes."""

from collections.abc import Sequence
from typing import Protocol

from oci_mesh.spec.digest import Digest
from oci_mesh.spec.names import NameRecord


class Publisher(Protocol):
    """Makes a change on this node known to, and safe on, others."""

    def stamp(self) -> str:
        """A stamp later than every one given or seen so far (`NameRecord`)."""
        ...

    async def announce(self, records: Sequence[NameRecord]) -> None:
        """Tell all live nodes; those that cannot be told now learn it by gossip."""
        ...

    async def replicate(self, repository: str, digest: Digest) -> int:
        """Have other nodes hold a manifest and all it needs.

        Returns how many nodes do, this one counted.
        """
        ...
