"""What a push, a pull or a copy came to, for people (a line) and for programs (`--json`)."""

import msgspec

from oci_mesh.spec.manifest import Manifest


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


def manifest_result(manifest: Manifest) -> ManifestResult:
    """What is said of a manifest."""
    return ManifestResult(str(manifest.digest), len(manifest.content), manifest.media_type)
