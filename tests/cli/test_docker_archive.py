"""manifest.json and what it names."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from oci_mesh.cli.docker_archive import (
    MAX_CONFIG_BYTES,
    encode_listing,
    encode_manifest,
    parse_diff_ids,
    read_config,
    read_images,
)
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import DirectoryFiles
from oci_mesh.cli.tar_files import TarFiles
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, parse_manifest
from tests import images
from tests.cli.archives import tar_bytes


def files_of(directory: Path, **members: bytes) -> DirectoryFiles:
    """A directory is as good as an archive here."""
    for name, content in members.items():
        (directory / name.replace("_", ".")).write_bytes(content)
    return DirectoryFiles(directory)


def config(*diff_ids: str) -> bytes:
    """As little of a configuration as there can be."""
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()


def test_what_docker_save_writes(tmp_path: Path) -> None:
    """Names, configuration and layers of a real archive."""
    diff_ids = images.build_docker_archive(tmp_path / "a.tar", "app:v1", {"f": b"1"}, {"g": b"2"})
    with (tmp_path / "a.tar").open("rb") as file:
        files = TarFiles(file)
        (image,) = read_images(files)
        content, found = read_config(files, image.item)
    assert image.names == ("app:v1",)
    assert [str(diff_id) for diff_id in found] == diff_ids
    assert image.item.config == f"{Digest.of(content).hex}.json"
    assert image.item.layers == [f"{diff_id.hex}/layer.tar" for diff_id in found]


@pytest.mark.parametrize("tags", [None, []])
def test_images_without_a_name(tmp_path: Path, tags: Any) -> None:
    """`docker save <id>` writes null, others an empty list."""
    listing = json.dumps([{"Config": "c", "RepoTags": tags, "Layers": None, "More": 1}]).encode()
    (image,) = read_images(files_of(tmp_path, manifest_json=listing))
    assert image.names == ()


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"{}",
        b"[1]",
        b"[{}]",
        b'[{"Config": 1}]',
        b'[{"Config": "c", "Layers": "l"}]',
        b'[{"Config": "c", "RepoTags": [1]}]',
        b"[" * 100_000,
    ],
    ids=repr,
)
def test_listings_that_are_none(tmp_path: Path, listing: bytes) -> None:
    """Whatever is in it: one clear error."""
    with pytest.raises(Failure, match=r"manifest\.json is not what docker save writes"):
        read_images(files_of(tmp_path, manifest_json=listing))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"rootfs": {}}',
        b'{"rootfs": {"diff_ids": [1]}}',
        config("sha256:1"),
        config("md5:d41d8cd98f00b204e9800998ecf8427e"),
        b'{"a":' * 100_000,
    ],
    ids=lambda content: repr(content[:60]),
)
def test_configurations_that_are_none(content: bytes) -> None:
    """Without diff IDs that can be checked there is no image."""
    with pytest.raises(Failure, match="configuration cannot be read"):
        parse_diff_ids(content)


def test_a_layer_for_each_diff_id(tmp_path: Path) -> None:
    """More of one than of the other is an error that counts both."""
    listing = encode_listing("c", ["app:v1"], ["l1", "l2"])
    files = files_of(tmp_path, manifest_json=listing, c=config(str(Digest.of(b""))))
    with pytest.raises(Failure, match="lists 2 layers, its configuration 'c' 1"):
        read_config(files, read_images(files)[0].item)


def test_members_that_are_missing_or_too_large(tmp_path: Path) -> None:
    """A configuration that is not there, or longer than any client takes."""
    files = files_of(tmp_path, manifest_json=encode_listing("c", [], []))
    image = read_images(files)[0].item
    with pytest.raises(Failure, match="has no 'c'"):
        read_config(files, image)
    (tmp_path / "c").write_bytes(bytes(MAX_CONFIG_BYTES + 1))
    with pytest.raises(Failure, match="larger than"):
        read_config(files, image)


def test_a_configuration_outside_of_the_archive() -> None:
    """What manifest.json names is looked for in the archive only."""
    listing = encode_listing("../../etc/passwd", [], [])
    files = TarFiles(io.BytesIO(tar_bytes([("manifest.json", listing)])))
    with pytest.raises(Failure, match="outside of the archive"):
        files.size("../../etc/passwd")


def test_the_manifest_that_is_pushed() -> None:
    """A valid OCI image manifest, that names the configuration as it is and the layers in order."""
    layer = Descriptor(media_types.LAYER_GZIP, str(Digest.of(b"1")), 1)
    manifest = parse_manifest(encode_manifest(b"{}", [layer, layer]))
    assert manifest.media_type == media_types.OCI_IMAGE
    assert manifest.blobs[0] == Descriptor(media_types.OCI_CONFIG, str(Digest.of(b"{}")), 2)
    assert manifest.blobs[1:] == (layer, layer)
