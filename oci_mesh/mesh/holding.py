"""Having all of an image on this node: its manifests, and what they name, from wherever it is.

What an image does not come with (a sparse index's other platforms) is passed over.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from oci_mesh.errors import BlobUnknown, ManifestUnknown, OciMeshError
from oci_mesh.sources import Source, bring
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor
from oci_mesh.store.base import Store

_log = logging.getLogger(__name__)

# Indexes in indexes: one level is common, two are legal and rare. Digests make cycles impossible,
# but not a long chain that a push could make this node walk.
MAX_DEPTH: Final = 8

# Blobs of one manifest fetched at a time: enough to keep a link busy.
PARALLEL: Final = 4


@dataclass
class Tally:
    """How far `hold` is, in bytes of blobs, and which these are: of the manifests read so far."""

    done: int = 0
    total: int = 0
    fetched: int = 0
    """Of `done`, what was not in the store when it was its turn."""
    blobs: list[Descriptor] = field(default_factory=list)

    def name(self, blobs: tuple[Descriptor, ...]) -> None:
        """These are to be held, too."""
        self.blobs += blobs
        self.total += sum(blob.size for blob in blobs)

    def found(self, size: int) -> None:
        """So many bytes have been here before."""
        self.done += size

    def arrived(self, size: int) -> None:
        """So many bytes more are here."""
        self.done += size
        self.fetched += size


def _all(_: Descriptor) -> bool:
    return True


async def hold(
    source: Source,
    repository: str,
    digest: Digest,
    store: Store,
    tally: Tally,
    wanted: Callable[[Descriptor], bool] = _all,
    depth: int = 0,
) -> None:
    """Have `store`, that of `source`, hold a manifest and all it needs; of an index, the `wanted`.

    What nobody has of an index's is passed over, but the manifest itself and an image's own blobs
    are not: `ManifestUnknown`, `BlobUnknown`. May be repeated.
    """
    manifest = await source.manifest(repository, digest)
    tally.name(manifest.blobs)
    gate = asyncio.Semaphore(PARALLEL)
    failures: list[OciMeshError] = []

    async def fetch(descriptor: Descriptor) -> None:
        async with gate:
            if not failures:  # one is enough to give up
                try:
                    if await _has(store, repository, descriptor):
                        tally.found(descriptor.size)
                    else:
                        await bring(source, repository, descriptor.checked_digest, tally.arrived)
                except OciMeshError as error:
                    failures.append(error)

    async with asyncio.TaskGroup() as group:
        for descriptor in manifest.blobs:
            group.create_task(fetch(descriptor))
    if failures:
        raise failures[0]
    for child in manifest.manifests if depth < MAX_DEPTH else ():
        if child.media_type not in media_types.MANIFESTS or not wanted(child):
            continue
        try:
            await hold(source, repository, child.checked_digest, store, tally, wanted, depth + 1)
        except (BlobUnknown, ManifestUnknown) as error:
            _log.info("%s: the index lacks %s: %s", repository, child.digest, error)


async def _has(store: Store, repository: str, descriptor: Descriptor) -> bool:
    try:
        await store.stat(repository, descriptor.checked_digest)
    except BlobUnknown:
        return False
    return True
