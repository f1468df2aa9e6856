"""What a tag leads to: manifests below manifests, and the blobs that they name.

The same walk serves a push (manifests from a layout) and a pull (from a registry). Not here: IO;
`fetch` and `referrers` bring what they are asked for.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from oci_mesh.cli.failure import Failure
from oci_mesh.spec.manifest import Descriptor, Manifest

# Nobody nests indexes deeper than two; recursion needs some end.
MAX_DEPTH: Final = 8

# An index of 50 platforms with attestations and signatures has some 200 manifests, of 2 kB each.
MAX_MANIFESTS: Final = 10_000
MAX_TREE_BYTES: Final = 256 * 1024 * 1024

Fetch = Callable[[Descriptor], Awaitable[Manifest | None]]
Referrers = Callable[[Descriptor], Awaitable[Sequence[Descriptor]]]


class Tree:
    """All that `root` leads to.

    `manifests`: children and referrers before what they belong to, the root last. `blobs`: each
    once. `absent`: manifests that an index names and `fetch` does not have. `referrers`: those
    manifests that nothing in the tree names.
    """

    def __init__(self, root: Descriptor) -> None:
        self.root = root
        self.manifests: list[Manifest] = []
        self.blobs: dict[str, Descriptor] = {}
        self.absent: list[Descriptor] = []
        self.referrers: list[Descriptor] = []
        self._seen: set[str] = set()
        self._bytes = 0

    async def grow(self, fetch: Fetch, referrers: Referrers) -> None:
        """Walk it all. Raises `Failure` if there is no root, or no end of it."""
        await self._visit(self.root, fetch, referrers, 0)
        if not self.manifests:
            raise Failure(f"manifest {self.root.digest} is not there")

    async def _visit(
        self, descriptor: Descriptor, fetch: Fetch, referrers: Referrers, depth: int
    ) -> None:
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        manifest = await fetch(descriptor)
        if manifest is None:
            self.absent.append(descriptor)
            return
        self._bytes += len(manifest.content)
        if depth > MAX_DEPTH or len(self._seen) > MAX_MANIFESTS or self._bytes > MAX_TREE_BYTES:
            raise Failure(f"{self.root.digest} leads to more manifests than any real image has")
        for child in manifest.manifests:
            await self._visit(child, fetch, referrers, depth + 1)
        for referrer in await referrers(descriptor):
            self.referrers.append(referrer)
            await self._visit(referrer, fetch, referrers, depth + 1)
        self.blobs.update((blob.digest, blob) for blob in manifest.blobs)
        self.manifests.append(manifest)


async def no_referrers(_: Descriptor) -> Sequence[Descriptor]:
    """For walks that stay with what the root itself is made of."""
    return ()
