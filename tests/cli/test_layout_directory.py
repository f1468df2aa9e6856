"""Layouts, as they are written."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.layout import IMAGE_NAME, REF_NAME
from oci_mesh.cli.layout_directory import open_layout
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor

DATA = b"content"
DIGEST = Digest.of(DATA)
BLOB = Descriptor(media_types.OCTET_STREAM, str(DIGEST), len(DATA))


def ignore(_: int) -> None:
    """Progress that nobody watches."""


def named(descriptor: Descriptor, **annotations: str) -> Descriptor:
    """With a tag and a name."""
    known = {"tag": REF_NAME, "image": IMAGE_NAME}
    names = {known[key]: value for key, value in annotations.items()}
    return Descriptor(
        descriptor.media_type, descriptor.digest, descriptor.size, annotations=names or None
    )


def entries(root: Path) -> list[Any]:
    """Of index.json."""
    found: list[Any] = json.loads((root / "index.json").read_bytes())["manifests"]
    return found


async def test_a_blob_appears_when_it_is_whole(tmp_path: Path) -> None:
    """Under its digest, and under no other name any more."""
    root = tmp_path / "new" / "layout"
    with open_layout(root) as layout:
        assert not await layout.has(BLOB, ignore)
        with layout.partial(DIGEST) as partial:
            partial.write(DATA[:3])
            assert not await layout.has(BLOB, ignore)
            partial.write(DATA[3:])
            assert partial.size == len(DATA)
        assert await layout.has(BLOB, ignore)
        layout.list([named(BLOB, tag="v1", image="app:v1")])
    assert (root / "blobs" / "sha256" / DIGEST.hex).read_bytes() == DATA
    assert json.loads((root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert {path.name for path in root.iterdir()} == {"blobs", "index.json", "oci-layout"}


async def test_what_is_left_of_a_blob_is_continued(tmp_path: Path) -> None:
    """Hashed again from the start, as if it had just come."""
    begin_and_fail(tmp_path, DATA[:3])
    with open_layout(tmp_path) as layout:
        told: list[int] = []
        with layout.partial(DIGEST) as partial:
            await partial.resume(told.append)
            assert partial.size == 3
            partial.write(DATA[3:])
        assert told == [3]
        assert await layout.has(BLOB, ignore)


async def test_a_fresh_start(tmp_path: Path) -> None:
    """What was wrong is dropped."""
    with open_layout(tmp_path) as layout, layout.partial(DIGEST) as partial:
        partial.write(b"wrong")
        partial.restart()
        partial.write(DATA)
        assert partial.digest() == DIGEST


async def test_a_blob_that_is_damaged_is_not_there(tmp_path: Path) -> None:
    """It is removed, so that it is fetched again."""
    with open_layout(tmp_path) as layout:
        layout.put(DIGEST, DATA)
    path = tmp_path / "blobs" / "sha256" / DIGEST.hex
    path.write_bytes(b"damaged")
    with open_layout(tmp_path) as layout:
        assert not await layout.has(BLOB, ignore)
        assert not path.exists()


@pytest.mark.parametrize(
    ("old", "new", "replaced"),
    [
        ({"tag": "v1", "image": "app:v1"}, {"tag": "v1", "image": "app:v1"}, True),
        ({"tag": "v1"}, {"tag": "v1", "image": "app:v1"}, True),
        ({"tag": "v1", "image": "db:v1"}, {"tag": "v1", "image": "app:v1"}, False),
        ({"tag": "v2", "image": "app:v2"}, {"tag": "v1", "image": "app:v1"}, False),
        ({}, {"tag": "v1", "image": "app:v1"}, False),
        ({"tag": "v1"}, {"image": "app@sha256:1"}, False),
    ],
)
def test_names_in_the_index(
    tmp_path: Path, old: dict[str, str], new: dict[str, str], replaced: bool
) -> None:
    """The same name moves to the new image; all other images stay."""
    other = Descriptor(BLOB.media_type, str(Digest.of(b"other")), 5)
    with open_layout(tmp_path) as layout:
        layout.list([named(other, **old)])
        layout.list([named(BLOB, **new)])
    digests = [entry["digest"] for entry in entries(tmp_path)]
    assert digests == ([BLOB.digest] if replaced else [other.digest, BLOB.digest])


def test_an_entry_without_a_name_is_listed_once(tmp_path: Path) -> None:
    """Referrers have none."""
    for _ in range(2):
        with open_layout(tmp_path) as layout:
            layout.list([BLOB, named(BLOB, tag="v1", image="app:v1")])
    assert len(entries(tmp_path)) == 2


def test_what_others_wrote_stays(tmp_path: Path) -> None:
    """Fields that we do not know, of the index and of its entries."""
    theirs = {"mediaType": "a/b", "digest": "sha256:1", "size": 1, "x-more": [1]}
    index = {"schemaVersion": 2, "manifests": [theirs], "annotations": {"a": "b"}}
    (tmp_path / "oci-layout").write_bytes(b"{}")
    (tmp_path / "index.json").write_text(json.dumps(index))
    with open_layout(tmp_path) as layout:
        layout.list([named(BLOB, tag="v1")])
    after = json.loads((tmp_path / "index.json").read_bytes())
    assert after["manifests"][0] == theirs
    assert after["annotations"] == {"a": "b"}


def test_one_writer(tmp_path: Path) -> None:
    """A second one is refused while the first is at work, and welcome afterwards."""
    twice = pytest.raises(Failure, match="another process is writing")
    with open_layout(tmp_path), twice, open_layout(tmp_path):
        pass
    with open_layout(tmp_path):
        pass


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    """Nothing is written among files that are not a layout's."""
    (tmp_path / "precious").write_bytes(b"x")
    with pytest.raises(Failure, match="is not an OCI layout"), open_layout(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    with pytest.raises(Failure, match="is a file"), open_layout(tmp_path / "precious"):
        pass
    with pytest.raises(Failure, match="is a file"), open_layout(tmp_path / "precious" / "x"):
        pass


@pytest.mark.parametrize("index", [b"", b"[]", b"{}", b'{"manifests": [1]}', b"[" * 100_000])
def test_a_damaged_index_is_found_at_once(tmp_path: Path, index: bytes) -> None:
    """Not after an hour of transfers, and it is not overwritten."""
    (tmp_path / "oci-layout").write_bytes(b"{}")
    (tmp_path / "index.json").write_bytes(index)
    with pytest.raises(Failure, match="is damaged"), open_layout(tmp_path):
        pass
    assert (tmp_path / "index.json").read_bytes() == index


def test_nothing_is_left_of_nothing(tmp_path: Path) -> None:
    """A pull that fails before it has any byte leaves no directory; one that has some does."""
    begin_and_fail(tmp_path / "new", b"")
    assert not (tmp_path / "new").exists()
    begin_and_fail(tmp_path / "new", DATA[:3])
    with open_layout(tmp_path / "new"):
        pass


def begin_and_fail(root: Path, data: bytes) -> None:
    """A pull that got so much of the blob, and then an error."""
    with suppress(ZeroDivisionError), open_layout(root) as layout:
        if data:
            with layout.partial(DIGEST) as partial:
                partial.write(data)
                _ = 1 / 0
        _ = 1 / 0
