"""Which blobs the manifests of upstreams name that passed through here, and how large they say.

So the size of a blob need not be asked of its registry by every node, and what this machine's
containerd has of public images can be told from what it has of private ones. What a manifest says
of a size is a claim like any other: who reads by it finds out.

After a restart this is read again from the manifests in the store.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from oci_mesh.errors import ManifestUnknown
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest
from oci_mesh.spec.scope import is_private
from oci_mesh.store.base import Store

# Blobs remembered, some 300 bytes each: those of ten thousand images. Those named longest ago go
# first, and are known again when their manifest is asked for.
MAX_NAMED: Final = 100_000


class Named:
    """Filled by `learn` with each manifest that is handed on, however often."""

    def __init__(self, limit: int = MAX_NAMED) -> None:
        self._limit = limit
        self._manifests: OrderedDict[Digest, None] = OrderedDict()
        self._sizes: OrderedDict[tuple[str, Digest], int] = OrderedDict()

    def learn(self, repository: str, manifest: Manifest) -> None:
        """Take over what a manifest of the repository, verified, names."""
        self._manifests[manifest.digest] = None
        self._manifests.move_to_end(manifest.digest)
        if len(self._manifests) > self._limit:
            self._manifests.popitem(last=False)
        for blob in manifest.blobs:
            self.note(repository, blob.checked_digest, blob.size)

    async def recall(self, store: Store) -> None:
        """Take over what the public manifests in a store name, in the time that others leave."""
        for repository, digest in await store.mirrored():
            if not is_private(repository):
                with suppress(ManifestUnknown):  # gone meanwhile
                    self.learn(repository, await store.manifest(repository, digest))
            await asyncio.sleep(0)

    def note(self, repository: str, digest: Digest, size: int) -> None:
        """Take over what the upstream itself says of a blob that it gives to all."""
        self._sizes[repository, digest] = size
        self._sizes.move_to_end((repository, digest))
        if len(self._sizes) > self._limit:
            self._sizes.popitem(last=False)

    def size(self, repository: str, digest: Digest) -> int | None:
        """Of a blob in bytes; None if nothing is known of it in this repository."""
        return self._sizes.get((repository, digest))

    def is_public(self, repository: str, digest: Digest, naming: Collection[Digest]) -> bool:
        """Whether what this machine's containerd has of a blob is what the upstream gives to all in
        the repository; `naming` are the manifests there that name it.

        They are if the repository names the blob, and these manifests are all public, too. That the
        repository names it is not enough: whoever can have a manifest made that looks public, and
        knows the digest of somebody's private layer, would be given the layer.
        """
        known = (repository, digest) in self._sizes
        return known and bool(naming) and all(each in self._manifests for each in naming)

    def forget(self, repository: str, digest: Digest) -> None:
        """Its size was a lie."""
        self._sizes.pop((repository, digest), None)
