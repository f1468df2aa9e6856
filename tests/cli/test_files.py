"""Bytes of files, by name and by offset."""

from pathlib import Path

import pytest

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import CHUNK_BYTES, Content, DirectoryFiles, read_small
from tests.cli.conftest import MakeContent


def test_content_is_a_part_of_a_file(content: MakeContent) -> None:
    """Only its own bytes, from any position, however read."""
    part = content(b"0123456789")
    assert part.read_at(0, 100) == b"0123456789"
    assert part.read_at(7, 2) == b"78"
    assert part.read_at(10, 5) == b""
    assert b"".join(part.chunks(4)) == b"456789"
    assert part.reader().read() == b"0123456789"


def test_chunks_are_bounded(content: MakeContent) -> None:
    """No chunk is longer than its limit."""
    lengths = [len(chunk) for chunk in content(bytes(CHUNK_BYTES * 2 + 5)).chunks()]
    assert lengths == [CHUNK_BYTES, CHUNK_BYTES, 5]


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    """Bytes that were promised and are gone are an error, not an early end."""
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    with path.open("rb") as file, pytest.raises(Failure, match="became shorter"):
        list(Content(file, 0, 5).chunks())


def test_directories(tmp_path: Path) -> None:
    """Files by name; directories and what is not there are no files."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "x").write_bytes(b"abc")
    files = DirectoryFiles(tmp_path)
    assert files.size("blobs/x") == 3
    assert files.size("blobs") is files.size("no") is None
    assert read_small(files, "blobs/x", 3) == b"abc"
    with pytest.raises(Failure, match="larger than 2 bytes"):
        read_small(files, "blobs/x", 2)
    with pytest.raises(Failure, match="has no 'no'"):
        read_small(files, "no", 2)
