"""What a push, a pull or a copy came to, for people (a line) and for programs (`--json`)."""

from collections.abc import Iterable, Sequence

import msgspec

from oci_mesh.cli.target import Target
from oci_mesh.spec.manifest import Descriptor, Manifest


class BlobResult(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One blob. `outcome`: pushed, pulled, copied, mounted (the registry had it elsewhere), or
    exists (it was there).

    `diff_id` is the digest of the uncompressed layer that it was made from (docker archives).
    """

    digest: str
    size: int
    media_type: str
    outcome: str
    diff_id: str | None = None


class ManifestResult(msgspec.Struct, frozen=True, rename="camel"):
    """One manifest."""

    digest: str
    size: int
    media_type: str


class Result(msgspec.Struct, frozen=True, rename="camel"):
    """The whole. `reference` will always mean this content; `absent` are manifests that an index
    names and that were not there (an index may be sparse).
    """

    reference: str
    registry: str
    digest: str
    media_type: str
    manifests: list[ManifestResult]
    blobs: list[BlobResult]
    absent: list[str]


def result_of(
    target: Target,
    manifests: Sequence[Manifest],
    blobs: list[BlobResult],
    absent: Iterable[Descriptor],
) -> Result:
    """The last of the manifests is the root."""
    root = manifests[-1]
    return Result(
        reference=target.pinned(root.digest),
        registry=target.registry,
        digest=str(root.digest),
        media_type=root.media_type,
        manifests=[_manifest_result(manifest) for manifest in manifests],
        blobs=blobs,
        absent=[descriptor.digest for descriptor in absent],
    )


def _manifest_result(manifest: Manifest) -> ManifestResult:
    return ManifestResult(str(manifest.digest), len(manifest.content), manifest.media_type)
