"""Which blobs the manifests in containerd's content store name: this node's rights.

A manifest of an image is in there because containerd was given it by its registry, with whatever
secret that took. Indexes name manifests, not blobs, and play no part.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from oci_mesh.errors import ManifestInvalid
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import parse_manifest

# A node with a thousand images of many layers has a tenth of this. Of more, the oldest are
# forgotten. A pair takes some 200 bytes.
MAX_MANIFESTS: Final = 20_000
MAX_NAMED: Final = 200_000

# Keys are of this use, and no other, of a manifest's bytes.
_KEY_PREFIX: Final = b"oci-mesh private blob\0"


class _Head(msgspec.Struct, rename="camel"):
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class KnownManifest:
    """What is kept of a manifest: a key that only its bytes give, and the blobs that it names."""

    digest: Digest
    key: bytes
    sizes: dict[Digest, int]
    """In bytes, as the manifest says."""


def read_manifest(digest: Digest, content: bytes) -> KnownManifest | None:
    """The image manifest that this is; None if it names no blobs, or `digest` is not its."""
    if not digest.matches(content):
        return None
    try:
        # OCI lets a manifest leave out what it is; then it is an image's, or none.
        declared = msgspec.json.decode(content, type=_Head).media_type
        manifest = parse_manifest(content, declared or media_types.OCI_IMAGE, digest.algorithm)
    except (ManifestInvalid, ValueError, RecursionError):
        return None
    sizes = {blob.checked_digest: blob.size for blob in manifest.blobs}
    if not sizes:
        return None
    return KnownManifest(digest, hashlib.sha256(_KEY_PREFIX + content).digest(), sizes)


class Manifests:
    """The manifests of a content store, in the order in which they came."""

    def __init__(self) -> None:
        self._manifests: OrderedDict[Digest, KnownManifest] = OrderedDict()
        self._naming: dict[Digest, dict[Digest, int]] = {}
        self._named = 0

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._manifests

    def __len__(self) -> int:
        return len(self._manifests)

    @property
    def digests(self) -> frozenset[Digest]:
        """All of them."""
        return frozenset(self._manifests)

    def add(self, manifest: KnownManifest) -> None:
        """Take note of a manifest; the oldest go where there are too many."""
        self.remove(manifest.digest)
        self._manifests[manifest.digest] = manifest
        self._named += len(manifest.sizes)
        for blob, size in manifest.sizes.items():
            self._naming.setdefault(blob, {})[manifest.digest] = size
        while len(self._manifests) > MAX_MANIFESTS or self._named > MAX_NAMED:
            self.remove(next(iter(self._manifests)))

    def remove(self, digest: Digest) -> None:
        """Forget a manifest, if it is known."""
        manifest = self._manifests.pop(digest, None)
        if manifest is None:
            return
        self._named -= len(manifest.sizes)
        for blob in manifest.sizes:
            naming = self._naming[blob]
            del naming[digest]
            if not naming:
                del self._naming[blob]

    def clear(self) -> None:
        """Forget all."""
        self._manifests.clear()
        self._naming.clear()
        self._named = 0

    def sizes(self, blob: Digest) -> list[int]:
        """The sizes that manifests give for a blob, the newest first; none if none names it."""
        return list(reversed(self._naming.get(blob, {}).values()))

    def naming(self, blob: Digest) -> list[Digest]:
        """The manifests that name a blob."""
        return list(self._naming.get(blob, ()))

    def keys(self, blob: Digest, most: int) -> list[bytes]:
        """The keys of up to `most` manifests that name a blob, the newest first."""
        naming = self._naming.get(blob, {})
        return [self._manifests[digest].key for digest in islice(reversed(naming), most)]
