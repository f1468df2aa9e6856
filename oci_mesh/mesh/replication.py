"""Copies of what was pushed: a push is acknowledged when other nodes hold it as well.

The other node is asked to hold a manifest; it fetches it, and all that it names, through its own
sources. What an image does not come with (a sparse index's other platforms) is passed over.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from oci_mesh.errors import BlobUnknown, ManifestUnknown, OciMeshError, PeerError
from oci_mesh.members.table import Member, rendezvous
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.meeting import announce
from oci_mesh.mesh.rendezvous import Rendezvous
from oci_mesh.mesh.wire import Replicate
from oci_mesh.sources import Source, bring
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor

_log = logging.getLogger(__name__)

# Indexes in indexes: one level is common, two are legal and rare. Digests make cycles impossible,
# but not a long chain that a push could make this node walk.
MAX_DEPTH: Final = 8

# Blobs of one manifest fetched at a time: enough to keep a link busy.
PARALLEL: Final = 4


class Replication:
    """Both sides of it: asking others, and holding what others ask for."""

    def __init__(
        self,
        gossip: Gossip,
        client: PeerClient,
        rendezvous: Rendezvous,
        source: Source,
        copies: int,
    ) -> None:
        self._gossip = gossip
        self._client = client
        self._rendezvous = rendezvous
        self._source = source
        self._copies = copies

    async def replicate(self, repository: str, digest: Digest) -> int:
        """Have `copies` nodes hold the manifest, or as many as are alive and can.

        Returns how many do, this one counted. A node that fails is replaced by the next one.
        Where its blobs are is made known first, so that nobody has to search.
        """
        if self._gossip.live():
            await self._announce(repository, digest)
        held = 1
        rest = rendezvous(f"{repository}@{digest}", self._gossip.live())
        while held < self._copies and rest:
            missing = self._copies - held
            chosen, rest = rest[:missing], rest[missing:]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._give(m, repository, digest)) for m in chosen]
            held += sum(task.result() for task in tasks)
        return held

    async def _announce(self, repository: str, digest: Digest) -> None:
        manifest = await self._source.manifest(repository, digest)
        blobs = [(d.checked_digest, d.size) for d in manifest.blobs]
        await announce(self._rendezvous, self._gossip.table.me, repository, blobs)

    async def hold(self, repository: str, digest: Digest) -> None:
        """Get a manifest and all it needs into the store here; what nobody has is passed over,
        but the manifest itself and an image's own blobs are not: `ManifestUnknown`, `BlobUnknown`.
        """
        await self._hold(repository, digest, 0)

    async def _hold(self, repository: str, digest: Digest, depth: int) -> None:
        manifest = await self._source.manifest(repository, digest)
        gate = asyncio.Semaphore(PARALLEL)
        failures: list[OciMeshError] = []

        async def fetch(descriptor: Descriptor) -> None:
            async with gate:
                if not failures:  # one is enough to give up
                    try:
                        await bring(self._source, repository, descriptor.checked_digest)
                    except OciMeshError as error:
                        failures.append(error)

        async with asyncio.TaskGroup() as group:
            for descriptor in manifest.blobs:
                group.create_task(fetch(descriptor))
        if failures:
            raise failures[0]
        if depth < MAX_DEPTH:
            await self._hold_children(repository, manifest.manifests, depth + 1)

    async def _hold_children(
        self, repository: str, children: Sequence[Descriptor], depth: int
    ) -> None:
        for child in children:
            if child.media_type not in media_types.MANIFESTS:
                continue
            try:
                await self._hold(repository, child.checked_digest, depth)
            except (BlobUnknown, ManifestUnknown) as error:
                _log.info("%s: the index lacks %s: %s", repository, child.digest, error)

    async def _give(self, member: Member, repository: str, digest: Digest) -> bool:
        try:
            message = Replicate(self._gossip.table.me, repository, str(digest))
            await self._client.replicate(member.address, message, member.id)
        except PeerError as error:
            _log.warning("no copy of %s@%s on %s: %s", repository, digest, member.id, error)
            return False
        return True
