"""Files are found where containerd puts them, and nothing else is opened."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from oci_mesh.containerd.directory import ContentDirectory, parse_ref
from oci_mesh.spec.digest import Digest
from tests.containerd.fake import FakeContainerd

DIGEST = Digest.of(b"content")


@pytest.fixture
def containerd(tmp_path: Path) -> FakeContainerd:
    """With its directories."""
    fake = FakeContainerd(tmp_path / "containerd")
    fake.start()
    return fake


@pytest.fixture
def directory(containerd: FakeContainerd) -> ContentDirectory:
    """What is under test."""
    return ContentDirectory(containerd.root)


def read(fd: int | None) -> bytes:
    """All of it; closes it."""
    assert fd is not None
    with open(fd, "rb") as file:
        return file.read()


@pytest.mark.parametrize(
    "ref",
    [
        f"k8s.io/1/layer-{DIGEST}",
        f"default/31/config-{DIGEST}",
        f"moby/2/manifest-{DIGEST}",
        f"a/b/c/4/unknown-{DIGEST}\n",
        f"layer-{DIGEST}",
        f"buildkit/7/attestation-manifest-{DIGEST}",
    ],
)
def test_ref_names_a_digest(ref: str) -> None:
    """Whatever the namespace and the kind."""
    assert parse_ref(ref) == DIGEST


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "k8s.io/1/layer-",
        f"k8s.io/1/{DIGEST}",
        f"k8s.io/1/layer-{DIGEST}/x",
        f"k8s.io/1/layer-{str(DIGEST)[:-1]}",
        f"k8s.io/1/layer-{str(DIGEST).upper()}",
        "k8s.io/1/layer-md5:d41d8cd98f00b204e9800998ecf8427e",
        "k8s.io/1/ingest-some-build",
    ],
)
def test_ref_without_a_digest_is_nothing(ref: str) -> None:
    """It is somebody else's download."""
    assert parse_ref(ref) is None


def test_committed_blobs_are_listed_and_opened(
    containerd: FakeContainerd, directory: ContentDirectory
) -> None:
    """By digest, with their sizes."""
    assert list(directory.blobs()) == []
    digest = containerd.commit(b"content")
    assert [(found.digest, found.size) for found in directory.blobs()] == [(DIGEST, 7)]
    assert read(directory.open_blob(digest)) == b"content"


def test_names_that_are_no_digests_are_passed_over(
    containerd: FakeContainerd, directory: ContentDirectory
) -> None:
    """Files, directories and links of other names, or that are not files."""
    containerd.commit(b"content")
    blobs = containerd.path(DIGEST).parent
    (blobs / "README").write_text("x")
    (blobs / ("A" * 64)).write_text("x")
    (blobs / ("b" * 64)).mkdir()
    (blobs / ("c" * 64)).symlink_to("/etc/passwd")
    os.mkfifo(blobs / ("d" * 64))
    assert [found.digest for found in directory.blobs()] == [DIGEST]


@pytest.mark.parametrize("where", ["file", "algorithm", "blobs"])
def test_no_symbolic_link_is_followed(
    where: str, containerd: FakeContainerd, directory: ContentDirectory, tmp_path: Path
) -> None:
    """Neither as the last step nor on the way; the file behind it is of the right name."""
    elsewhere = FakeContainerd(tmp_path / "elsewhere")
    elsewhere.commit(b"content")
    file, outside = containerd.path(DIGEST), elsewhere.path(DIGEST)
    link, target = {
        "file": (file, outside),
        "algorithm": (file.parent, outside.parent),
        "blobs": (file.parent.parent, outside.parent.parent),
    }[where]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        directory.open_blob(DIGEST)
    with suppress(OSError):
        assert list(directory.blobs()) == []


def test_pipe_is_not_waited_for(containerd: FakeContainerd, directory: ContentDirectory) -> None:
    """Opening one to read would block the node until somebody writes."""
    path = containerd.path(DIGEST)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a plain file"):
        directory.open_blob(DIGEST)


def test_root_may_be_reached_through_a_link(containerd: FakeContainerd, tmp_path: Path) -> None:
    """What is before containerd's own directory is the operator's."""
    containerd.commit(b"content")
    (tmp_path / "link").symlink_to(containerd.root)
    assert read(ContentDirectory(tmp_path / "link").open_blob(DIGEST)) == b"content"


def test_longest_download_of_a_blob_is_opened(
    containerd: FakeContainerd, directory: ContentDirectory
) -> None:
    """Two namespaces may download the same blob; other blobs' downloads are none of it."""
    assert directory.open_ingest(DIGEST) is None
    containerd.begin(Digest.of(b"other")).write(b"something else")
    assert directory.open_ingest(DIGEST) is None
    containerd.begin(DIGEST).write(b"con")
    containerd.begin(DIGEST, namespace="moby").write(b"conte")
    containerd.begin(DIGEST, namespace="default").write(b"c")
    assert read(directory.open_ingest(DIGEST)) == b"conte"


def test_download_is_found_once_its_ref_is_written(
    containerd: FakeContainerd, directory: ContentDirectory
) -> None:
    """That the file is there and empty for a moment is not the last word on it."""
    download = containerd.begin(DIGEST)
    ref = (download.directory / "ref").read_text()
    (download.directory / "ref").write_text("")
    assert directory.open_ingest(DIGEST) is None
    (download.directory / "ref").write_text(ref)
    assert read(directory.open_ingest(DIGEST)) == b""


def test_downloads_through_links_and_with_odd_refs_are_none(
    containerd: FakeContainerd, directory: ContentDirectory, tmp_path: Path
) -> None:
    """A `ref` of any size and bytes, a pipe, links: nothing is opened, and nothing blocks."""
    real = containerd.begin(DIGEST)
    real.write(b"content")
    moved = tmp_path / "moved"
    real.directory.rename(moved)
    real.directory.symlink_to(moved)
    ingest = real.directory.parent
    for name, ref in {"large": b"x" * 10_000_000, "binary": b"\xff\0", "empty": b""}.items():
        (ingest / name).mkdir()
        (ingest / name / "ref").write_bytes(ref)
    (ingest / "pipe").mkdir()
    os.mkfifo(ingest / "pipe" / "ref")
    (ingest / "linked").mkdir()
    (ingest / "linked" / "ref").write_text(f"k8s.io/1/layer-{DIGEST}")
    (ingest / "linked" / "data").symlink_to(moved / "data")
    (ingest / "file").write_text("x")
    assert directory.open_ingest(DIGEST) is None
