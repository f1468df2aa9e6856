"""What `docker save` writes: images listed in manifest.json, each a configuration and its layers.

Classic archives keep layers as `<id>/layer.tar`; newer ones as `blobs/sha256/<hex>`, and are OCI
layouts as well. Both are read by what manifest.json says. Not here: the layers' bytes.
"""

from typing import Final

import msgspec

from oci_mesh.cli.failure import Failure, shown
from oci_mesh.cli.files import Files, read_small
from oci_mesh.cli.selection import Candidate
from oci_mesh.errors import DigestInvalid
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor

LISTING: Final = "manifest.json"

# An entry takes about 10 kB at most (127 layers of 80 characters).
MAX_LISTING_BYTES: Final = 4 * 1024 * 1024

# What containers/image takes ("MaxConfigBodySize"): a larger one could be pushed and never pulled.
MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024


class ArchivedImage(msgspec.Struct, frozen=True, rename="pascal"):
    """An entry of manifest.json: member names, and the tags that the image had."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: list[str]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs


def read_images(files: Files) -> list[Candidate[ArchivedImage]]:
    """An archive's images, by their tags. Raises `Failure` if manifest.json is not a listing."""
    content = read_small(files, LISTING, MAX_LISTING_BYTES)
    try:
        images = msgspec.json.decode(content, type=list[ArchivedImage])
    except (msgspec.DecodeError, RecursionError) as error:  # ValidationError is a DecodeError
        raise Failure(
            f"SOURCE's {LISTING} is not what docker save writes: {error}",
            hint="make the archive again with docker save, podman save or skopeo copy",
        ) from None
    return [Candidate(tuple(image.repo_tags or ()), image) for image in images]


def read_config(files: Files, image: ArchivedImage) -> tuple[bytes, list[Digest]]:
    """An image's configuration, as it is, and its layers' diff IDs, one for each layer.

    Raises `Failure` if it is not an image's configuration, or has another number of layers.
    """
    content = read_small(files, image.config, MAX_CONFIG_BYTES)
    diff_ids = parse_diff_ids(content)
    layers = image.layers or []
    if len(diff_ids) != len(layers):
        raise Failure(
            f"SOURCE's {LISTING} lists {len(layers)} layers, its configuration "
            f"{shown(image.config)} {len(diff_ids)}"
        )
    return content, diff_ids


def parse_diff_ids(config: bytes) -> list[Digest]:
    """The digests of an image's uncompressed layers (image-spec, "Image Configuration", rootfs)."""
    try:
        decoded = msgspec.json.decode(config, type=_Config)
        return [Digest.parse(text) for text in decoded.rootfs.diff_ids]
    except (msgspec.DecodeError, DigestInvalid, RecursionError) as error:
        raise Failure(f"the image's configuration cannot be read: {error}") from None


def encode_listing(config: str, names: list[str], layers: list[str]) -> bytes:
    """manifest.json of an archive of one image."""
    return msgspec.json.encode([ArchivedImage(config, names or None, layers)])


def encode_manifest(config: bytes, layers: list[Descriptor]) -> bytes:
    """The OCI image manifest of a configuration, as it is, and these layers."""
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_IMAGE,
            "config": Descriptor(
                media_type=media_types.OCI_CONFIG, digest=str(Digest.of(config)), size=len(config)
            ),
            "layers": layers,
        }
    )
