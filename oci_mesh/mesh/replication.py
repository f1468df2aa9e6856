"""Copies of what was pushed: a push is acknowledged when other nodes hold it as well.

The other node is asked to hold a manifest; it fetches it, and all that it names, through its own
sources."""

import asyncio
import logging

from oci_mesh.errors import PeerError
from oci_mesh.members.table import Member, rendezvous
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.holding import Tally, hold
from oci_mesh.mesh.meeting import announce
from oci_mesh.mesh.rendezvous import Rendezvous
from oci_mesh.mesh.wire import Replicate
from oci_mesh.sources import Source, bring
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Store

_log = logging.getLogger(__name__)


class Replication:
    """Both sides of it: asking others, and holding what others ask for."""

    def __init__(
        self,
        gossip: Gossip,
        client: PeerClient,
        rendezvous: Rendezvous,
        source: Source,
        store: Store,
        copies: int,
    ) -> None:
        self._gossip = gossip
        self._client = client
        self._rendezvous = rendezvous
        self._source = source
        self._store = store
        self._copies = copies

    async def replicate(self, repository: str, digest: Digest) -> int:
        """Have `copies` nodes hold the manifest, or as many as are alive and can.

        Returns how many do, this one counted. A node that fails is replaced by the next one.
        Where its blobs are is made known first, so that nobody has to search.
        """
        if self._gossip.live():
            await self.announce(repository, digest)
        held = 1
        rest = self.takers(repository, digest)
        while held < self._copies and rest:
            missing = self._copies - held
            chosen, rest = rest[:missing], rest[missing:]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._give(m, repository, digest)) for m in chosen]
            held += sum(task.result() for task in tasks)
        return held

    def takers(self, repository: str, digest: Digest) -> list[Member]:
        """Whom to ask to hold something, in an order that is its own."""
        staying = (member for member in self._gossip.live() if not member.draining)
        return rendezvous(f"{repository}@{digest}", staying)

    async def announce(self, repository: str, digest: Digest) -> None:
        """Make known that the blobs of a manifest are here. Raises as `Source.manifest` does."""
        manifest = await self._source.manifest(repository, digest)
        blobs = [(d.checked_digest, d.size) for d in manifest.blobs]
        await announce(self._rendezvous, self._gossip.table.me, repository, blobs)

    async def hold(self, repository: str, digest: Digest) -> None:
        """Get a manifest and all it needs into the store here; what nobody has is passed over,
        but the manifest itself and an image's own blobs are not: `ManifestUnknown`, `BlobUnknown`.
        """
        await hold(self._source, repository, digest, self._store, Tally())

    async def hold_blob(self, repository: str, digest: Digest) -> None:
        """Get a blob into the store here, or raise `BlobUnknown`."""
        await bring(self._source, repository, digest)

    async def give(
        self, member: Member, repository: str, digest: Digest, *, blob: bool = False
    ) -> None:
        """Have a node hold a manifest and all it needs, or a blob. Raises `PeerError` if it does
        not.
        """
        message = Replicate(self._gossip.table.me, repository, str(digest), blob)
        await self._client.replicate(member.address, message, member.id)

    async def _give(self, member: Member, repository: str, digest: Digest) -> bool:
        try:
            await self.give(member, repository, digest)
        except PeerError as error:
            _log.warning("no copy of %s@%s on %s: %s", repository, digest, member.id, error)
            return False
        return True
