"""Parsed manifests, so that a manifest that is asked for again costs no file and no parsing.

By content, not by repository: whether a repository has a manifest is asked of the metadata each
time, so a delete needs nothing of this.
"""

from collections import OrderedDict
from typing import Final

from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest

# Of manifests' bytes; with what was parsed from them, about three times that in memory. A manifest
# has 1 to 10 kB: this holds those of some thousand images.
CACHE_BYTES: Final = 32 * 1024 * 1024


class ManifestCache:
    """The manifests used last. The same content under another media type is another manifest."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._bytes = 0
        self._manifests: OrderedDict[tuple[Digest, str], Manifest] = OrderedDict()

    def get(self, digest: Digest, media_type: str) -> Manifest | None:
        """The manifest, if it is here."""
        manifest = self._manifests.get((digest, media_type))
        if manifest is not None:
            self._manifests.move_to_end((digest, media_type))
        return manifest

    def add(self, manifest: Manifest) -> None:
        """Keep a manifest; forget those used longest ago if there are too many bytes."""
        key = (manifest.digest, manifest.media_type)
        if key in self._manifests:
            return
        self._manifests[key] = manifest
        self._bytes += len(manifest.content)
        while self._bytes > self._limit:
            _, oldest = self._manifests.popitem(last=False)
            self._bytes -= len(oldest.content)
