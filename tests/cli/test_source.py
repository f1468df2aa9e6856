"""SOURCE: directories, archives, compressed archives, standard input."""

import gzip
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import read_small
from oci_mesh.cli.progress import LineProgress
from oci_mesh.cli.source import STANDARD_INPUT, open_source
from tests.cli.archives import tar_bytes

ARCHIVE = tar_bytes([("index.json", b"{}"), ("big", bytes(3_000_000))])


def index_of(source: str) -> bytes:
    """What is in its index.json."""
    with open_source(source, LineProgress()) as files:
        assert files.size("no such") is None
        return read_small(files, "index.json", 10)


@pytest.mark.parametrize(
    "data",
    [ARCHIVE, gzip.compress(ARCHIVE), zstandard.compress(ARCHIVE)],
    ids=["tar", "tar.gz", "tar.zst"],
)
def test_all_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """The same files, from a path and from a stream."""
    path = tmp_path / "archive"
    path.write_bytes(data)
    assert index_of(str(path)) == b"{}"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert index_of(STANDARD_INPUT) == b"{}"


def test_a_directory(tmp_path: Path) -> None:
    """Read in place."""
    (tmp_path / "index.json").write_bytes(b"{}")
    assert index_of(str(tmp_path)) == b"{}"


def test_nothing_is_left_in_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while it is used: the copy has no name."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "a").write_bytes(gzip.compress(ARCHIVE))
    with open_source(str(tmp_path / "a"), LineProgress()) as files:
        assert files.size("index.json") == 2
        assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(ARCHIVE)[:1000], "damaged"),
        (zstandard.compress(ARCHIVE[:2000]), "damaged"),
        (gzip.compress(b"no tar"), "not a tar archive"),
    ],
    ids=["nothing", "gzip of nothing", "cut gzip", "cut zstd", "gzip of no tar"],
)
def test_streams_that_are_no_archive(
    monkeypatch: pytest.MonkeyPatch, data: bytes, problem: str
) -> None:
    """Empty, cut, or something else."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    with pytest.raises(Failure, match=problem):
        index_of(STANDARD_INPUT)
