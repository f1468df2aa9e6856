"""Media types that a registry acts on."""

import pytest

from oci_mesh.spec import media_types


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        (media_types.LAYER_TAR, True),
        (media_types.LAYER_GZIP, True),
        (media_types.LAYER_ZSTD, True),
        (media_types.OCI_EMPTY, True),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", True),
        ("application/vnd.example.sbom.v1+json", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", False),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", False),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", False),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", False),
    ],
)
def test_distributable_layers(media_type: str, expected: bool) -> None:
    """Only layers under the two "foreign" families may be missing."""
    assert media_types.is_distributable(media_type) is expected


def test_kinds_are_apart() -> None:
    """A manifest is an image or an index, never both, and never Docker's schema 1."""
    assert not media_types.IMAGES & media_types.INDEXES
    assert not media_types.MANIFESTS & media_types.DOCKER_SCHEMA1
