"""Layouts, as they are read."""

import json
from pathlib import Path

import pytest

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import DirectoryFiles
from oci_mesh.cli.layout import IMAGE_NAME, REF_NAME, Layout, blob_name
from oci_mesh.cli.tree import Tree
from tests import images


def layout_of(directory: Path) -> Layout:
    """Read it."""
    return Layout(DirectoryFiles(directory))


async def test_an_index_and_all_below_it(tmp_path: Path) -> None:
    """Children come before the index; what is shared comes once."""
    layer = {"same": b"file"}
    digest = images.build_index(tmp_path, "v1", {"amd64": [layer], "arm64": [layer]})
    layout = layout_of(tmp_path)
    (found,) = layout.candidates()
    assert found.names == ("v1",)
    tree = Tree(found.item)
    await tree.grow(layout.manifest, layout.referrers)
    assert str(tree.manifests[-1].digest) == digest
    assert len(tree.manifests) == 3
    assert len(tree.blobs) == 3  # two configurations, one layer
    assert tree.absent == []


def refer_to(layout: images.Layout, subject: dict[str, object]) -> dict[str, object]:
    """An artifact with that subject, listed without a name."""
    empty = layout.add("application/vnd.oci.empty.v1+json", b"{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.IMAGE_MANIFEST,
        "artifactType": "application/x-signature",
        "config": empty,
        "layers": [empty],
        "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
    }
    found = layout.add(images.IMAGE_MANIFEST, images.encode(manifest))
    index = json.loads((layout.directory / "index.json").read_bytes())
    index["manifests"].append(found)
    (layout.directory / "index.json").write_bytes(images.encode(index))
    return found


async def test_referrers_go_with_their_subject(tmp_path: Path) -> None:
    """A signature, and a signature of that: part of the image, and no image of their own."""
    writer = images.Layout(tmp_path)
    image = writer.image({"f": b"1"})
    writer.tag("v1", image)
    signature = refer_to(writer, image)
    countersignature = refer_to(writer, signature)
    layout = layout_of(tmp_path)
    (found,) = layout.candidates()
    tree = Tree(found.item)
    await tree.grow(layout.manifest, layout.referrers)
    digests = [str(manifest.digest) for manifest in tree.manifests]
    assert digests == [countersignature["digest"], signature["digest"], image["digest"]]
    assert {d.digest for d in tree.referrers} == set(digests[:2])


async def test_a_sparse_index(tmp_path: Path) -> None:
    """Platforms that are not in the layout are counted, not missed."""
    images.build_index(tmp_path, "v1", {"amd64": [{"f": b"1"}], "arm64": [{"f": b"2"}]})
    layout = layout_of(tmp_path)
    root = layout.candidates()[0].item
    index = await layout.manifest(root)
    assert index is not None
    gone = index.manifests[1]
    (tmp_path / blob_name(gone.digest)).unlink()
    tree = Tree(root)
    await tree.grow(layout.manifest, layout.referrers)
    assert tree.absent == [gone]
    assert len(tree.manifests) == 2


def test_one_image_of_many_names(tmp_path: Path) -> None:
    """docker lists an image once for each of its tags, with the whole name and the tag."""
    writer = images.Layout(tmp_path)
    image = writer.image({"f": b"1"})
    names = [{IMAGE_NAME: f"docker.io/library/app:{tag}", REF_NAME: tag} for tag in ("v1", "v2")]
    entries = [{**image, "annotations": annotations} for annotations in names]
    index = {"schemaVersion": 2, "manifests": entries}
    (tmp_path / "index.json").write_bytes(images.encode(index))
    (found,) = layout_of(tmp_path).candidates()
    assert found.names == ("docker.io/library/app:v1", "v1", "docker.io/library/app:v2", "v2")


def test_an_image_without_a_name_is_called_by_its_digest(tmp_path: Path) -> None:
    """So that it can be chosen."""
    image = images.Layout(tmp_path).image({"f": b"1"})
    (tmp_path / "index.json").write_bytes(images.encode({"schemaVersion": 2, "manifests": [image]}))
    assert layout_of(tmp_path).candidates()[0].names == (image["digest"],)


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"no",
        b"[]",
        b"{}",
        b'{"schemaVersion": 2}',
        b'{"schemaVersion": 2, "manifests": [{}]}',
        b'{"schemaVersion": 2, "manifests": '
        b'[{"mediaType": "a/b", "size": 1, "digest": "sha256:../../../../etc/passwd"}]}',
    ],
)
def test_indexes_that_are_none(tmp_path: Path, index: bytes) -> None:
    """Nothing that index.json says is used before all of it was checked."""
    (tmp_path / "index.json").write_bytes(index)
    with pytest.raises(Failure, match=r"index\.json in SOURCE cannot be used"):
        layout_of(tmp_path)


def test_a_damaged_manifest(tmp_path: Path) -> None:
    """Its digest is compared before it is read."""
    digest = images.build_layout(tmp_path, "v1", {"f": b"1"})
    (tmp_path / blob_name(digest)).write_bytes(b"{}")
    with pytest.raises(Failure, match=f"manifest {digest} in SOURCE is damaged"):
        layout_of(tmp_path)
