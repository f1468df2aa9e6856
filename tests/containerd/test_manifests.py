"""What is a manifest of an image gives rights to the blobs that it names; nothing else does."""

import json
from typing import Any

import pytest

from oci_mesh.containerd import manifests as module
from oci_mesh.containerd.manifests import KnownManifest, Manifests, read_manifest
from oci_mesh.spec.digest import Digest
from tests import images
from tests.nodes import Image, make_image

IMAGE = make_image("manifests")


def understood(content: bytes) -> KnownManifest | None:
    """As from a file with the right name."""
    return read_manifest(Digest.of(content), content)


def known(image: Image) -> KnownManifest:
    """Of an image that is one."""
    manifest = understood(image.manifest)
    assert manifest is not None
    return manifest


def changed(**fields: Any) -> bytes:
    """The image's manifest with some fields replaced; None takes one away."""
    document = {**json.loads(IMAGE.manifest), **fields}
    return images.encode({name: value for name, value in document.items() if value is not None})


@pytest.mark.parametrize("media_type", [images.IMAGE_MANIFEST, images.DOCKER_MANIFEST, None])
def test_manifest_names_its_blobs_with_their_sizes(media_type: str | None) -> None:
    """Docker's, OCI's, and one that leaves out what it is."""
    manifest = understood(changed(mediaType=media_type))
    assert manifest is not None
    assert manifest.sizes == {Digest.of(blob): len(blob) for blob in IMAGE.blobs}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b'"x"',
        b"null",
        b"{" * 100_000,
        b'{"schemaVersion":2,"x":' + b"[" * 100_000,
        b'{"mediaType":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"schemaVersion":' + b"9" * 5000 + b"}",
        b'{"mediaType":7}',
        b"{\xff}",
        IMAGE.blobs[0],
        IMAGE.blobs[1],
        changed(config=None),
        changed(layers=[{"mediaType": "x", "digest": "sha256:short", "size": 1}]),
        changed(layers=[{**images.descriptor("x", b"x"), "size": -1}]),
        images.encode({"schemaVersion": 2, "mediaType": images.IMAGE_INDEX, "manifests": []}),
        images.encode({"schemaVersion": 2, "manifests": []}),
    ],
    ids=lambda content: repr(content[:30]),
)
def test_anything_else_is_no_manifest(content: bytes) -> None:
    """Broken, deep, or of another kind: no right follows from it."""
    assert understood(content) is None


def test_manifest_that_rotted_is_none() -> None:
    """Its bytes are not what its name says."""
    assert read_manifest(Digest.of(b"another"), IMAGE.manifest) is None


def test_keys_are_of_the_bytes() -> None:
    """Of the same fields in other bytes, there is another key."""
    same = known(IMAGE)
    other = understood(json.dumps(json.loads(IMAGE.manifest), indent=1).encode())
    assert other is not None
    assert other.sizes == same.sizes
    assert other.key != same.key


def test_newest_manifest_comes_first() -> None:
    """Of a blob that several name."""
    index = Manifests()
    shared = Digest.of(b"shared")
    sized = [KnownManifest(Digest.of(bytes([i])), bytes([i]), {shared: i}) for i in range(3)]
    for manifest in sized:
        index.add(manifest)
    assert index.sizes(shared) == [2, 1, 0]
    assert index.keys(shared, 2) == [b"\2", b"\1"]
    index.add(sized[0])  # it came again
    assert index.sizes(shared) == [0, 2, 1]
    index.remove(sized[2].digest)
    assert index.sizes(shared) == [0, 1]


def test_removed_manifest_leaves_nothing() -> None:
    """What it named is not named, unless by another; removing it again does nothing."""
    index, manifest = Manifests(), known(IMAGE)
    index.add(manifest)
    index.add(manifest)
    assert len(index) == 1
    assert manifest.digest in index
    for _ in range(2):
        index.remove(manifest.digest)
    assert (len(index), index.digests, index._naming, index._named) == (0, frozenset(), {}, 0)


def test_oldest_manifests_go_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their number, and by all that they name."""
    monkeypatch.setattr(module, "MAX_MANIFESTS", 3)
    monkeypatch.setattr(module, "MAX_NAMED", 5)
    index = Manifests()
    blobs = [Digest.of(bytes([i])) for i in range(10)]
    made = [KnownManifest(Digest.of(bytes([i, i])), b"", {blobs[i]: 1}) for i in range(4)]
    for manifest in made:
        index.add(manifest)
    assert index.digests == {manifest.digest for manifest in made[1:]}
    wide = KnownManifest(Digest.of(b"wide"), b"", dict.fromkeys(blobs[4:8], 1))
    index.add(wide)
    assert index.digests == {made[3].digest, wide.digest}
    assert index._named == 5
