"""An OCI image layout as it is read: index.json, and blobs by digest (image-spec, "Image Layout").

All that is read is checked against its digest, except layers: the registry that they are pushed
to does that. Not here: writing one (`layout_directory.py`).
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import Files, read_small
from oci_mesh.cli.selection import Candidate
from oci_mesh.errors import OciError
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES, Descriptor, Manifest, parse_manifest

INDEX: Final = "index.json"
MARKER: Final = "oci-layout"
MARKER_CONTENT: Final = b'{"imageLayoutVersion":"1.0.0"}'

# The tag alone, as skopeo, buildah and podman read it …
REF_NAME: Final = "org.opencontainers.image.ref.name"
# … and the whole name, as docker and containerd do.
IMAGE_NAME: Final = "io.containerd.image.name"

# The index of a layout is parsed as one that is pushed; a registry takes none larger.
MAX_INDEX_BYTES: Final = MAX_MANIFEST_BYTES


def blob_name(digest: str) -> str:
    """Where a blob lies in a layout. `digest` has been checked: it is safe in a path."""
    return f"blobs/{digest.replace(':', '/')}"


class Layout:
    """The layout in `files`. Raises `Failure` if index.json is not one."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._entries = _parse(
            read_small(files, INDEX, MAX_INDEX_BYTES), INDEX, media_types.OCI_INDEX
        ).manifests
        self._referrers = self._find_referrers()

    def candidates(self) -> list[Candidate[Descriptor]]:
        """What index.json offers, each digest once, with its names; referrers only if there is
        nothing else.
        """
        referrers = {d.digest for found in self._referrers.values() for d in found}
        offered = [entry for entry in self._entries if entry.digest not in referrers]
        names: dict[str, list[str]] = defaultdict(list)
        for entry in offered or self._entries:
            annotations = entry.annotations or {}
            known = (annotations.get(key) for key in (IMAGE_NAME, REF_NAME))
            names[entry.digest] += [name for name in known if name]
        found = {entry.digest: entry for entry in offered or self._entries}
        return [
            Candidate((*dict.fromkeys(names[digest]),) or (digest,), entry)
            for digest, entry in found.items()
        ]

    async def manifest(self, descriptor: Descriptor) -> Manifest | None:
        """A manifest, None if the layout does not have it. Raises `Failure` if it is damaged."""
        return self._read(descriptor)

    async def referrers(self, subject: Descriptor) -> Sequence[Descriptor]:
        """Which of index.json's manifests refer to `subject`."""
        return self._referrers.get(subject.digest, ())

    def _find_referrers(self) -> dict[str, list[Descriptor]]:
        found: dict[str, list[Descriptor]] = defaultdict(list)
        for entry in self._entries:
            manifest = self._read(entry) if entry.media_type in media_types.MANIFESTS else None
            if manifest is not None and manifest.subject is not None:
                found[manifest.subject.digest].append(entry)
        return dict(found)

    def _read(self, descriptor: Descriptor) -> Manifest | None:
        name = blob_name(descriptor.digest)
        if self.files.size(name) is None:
            return None
        content = read_small(self.files, name, MAX_MANIFEST_BYTES)
        digest = descriptor.checked_digest
        if not digest.matches(content):
            raise Failure(
                f"manifest {digest} in SOURCE is damaged: its content is {Digest.of(content)}",
                hint="make the layout again from where it came from",
            )
        return _parse(content, str(digest), descriptor.media_type, digest.algorithm)


def _parse(content: bytes, name: str, media_type: str, algorithm: str = "sha256") -> Manifest:
    try:
        return parse_manifest(content, media_type, algorithm)
    except OciError as error:
        raise Failure(f"{name} in SOURCE cannot be used: {error.message}") from None
