"""Archives from strangers."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.cli import tar_files
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import read_small
from oci_mesh.cli.tar_files import TarFiles
from tests.cli.archives import Member, tar_bytes

LIMIT = 1 << 20


def opened(data: bytes) -> TarFiles:
    """The archive's names; content can be read of real files only."""
    return TarFiles(io.BytesIO(data))


def test_members_are_read_where_they_lie(tmp_path: Path) -> None:
    """Any order, empty ones too, `./` before a name or not."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("./a", b"1"), ("dir/b", b"22"), ("empty", b"")]))
    with path.open("rb") as file:
        files = TarFiles(file)
        assert read_small(files, "dir/b", LIMIT) == b"22"
        assert read_small(files, "a", LIMIT) == b"1"
        assert read_small(files, "empty", LIMIT) == b""
        assert files.size("dir/b") == 2
        assert files.size("dir") is files.size("c") is None
        with pytest.raises(Failure, match="no member 'c'"):
            read_small(files, "c", LIMIT)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_forms_of_tar(form: int) -> None:
    """docker writes ustar with PAX records, others write GNU's long names."""
    name = "blobs/sha256/" + "f" * 64 if form == tarfile.USTAR_FORMAT else "blobs/" + "f" * 300
    assert opened(tar_bytes([(name, b"123")], form)).size(name) == 3


def test_links_within_the_archive() -> None:
    """docker save lets equal layers point at one: `<id>/layer.tar -> ../<id>/layer.tar`."""
    files = opened(tar_bytes([("b/layer.tar", "../a/layer.tar"), ("a/layer.tar", b"123")]))
    assert files.size("b/layer.tar") == 3


def test_hard_links_within_the_archive() -> None:
    """They name their target from the archive's root."""
    buffer = io.BytesIO(tar_bytes([("a/layer.tar", b"123")]))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        entry = tarfile.TarInfo("b/layer.tar")
        entry.type, entry.linkname = tarfile.LNKTYPE, "a/layer.tar"
        archive.addfile(entry)
    assert opened(buffer.getvalue()).size("b/layer.tar") == 3


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "..", "a/b/../../../x", "/", "./../x"]
)
def test_names_that_lead_out_are_refused(name: str) -> None:
    """Even of members that nobody asks for: an archive with them is not an image's."""
    with pytest.raises(Failure, match="outside of the archive"):
        opened(tar_bytes([("manifest.json", b"[]"), (name, b"x")]))


@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd", "../.."])
def test_links_that_lead_out_are_refused(target: str) -> None:
    """Nothing outside of the archive is ever opened."""
    files = opened(tar_bytes([("a/layer.tar", target)]))
    with pytest.raises(Failure, match="outside of the archive"):
        files.size("a/layer.tar")


def test_links_in_circles_are_refused() -> None:
    """To itself, to each other, or in too long a chain."""
    chain: list[Member] = [(f"l{i}", f"l{i + 1}") for i in range(tar_files.MAX_LINKS)]
    files = opened(tar_bytes([("a", "a"), ("b", "c"), ("c", "b"), *chain, ("l8", b"x")]))
    for name in ("a", "b", "c", "l0"):
        with pytest.raises(Failure, match="run in circles"):
            files.size(name)
    assert files.size("l1") == 1


@pytest.mark.parametrize("second", [b"other", b"same", "elsewhere"])
def test_two_members_of_one_name_are_refused(second: bytes | str) -> None:
    """Two readers of the archive could see two different images."""
    with pytest.raises(Failure, match=r"two members called 'index\.json'"):
        opened(tar_bytes([("index.json", b"same"), ("./index.json", second)]))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_members_that_are_no_files_are_refused(kind: bytes) -> None:
    """Devices, pipes and what nobody knows have no business in an image's archive."""
    entry = tarfile.TarInfo("x")
    entry.type = kind
    with pytest.raises(Failure, match="not a plain file"):
        opened(entry.tobuf() + bytes(1024))


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\n" * 511, b"{}" * 600, tar_bytes([("a", bytes(5000))])[:3000]],
    ids=["empty", "a byte", "half a header", "JSON", "truncated"],
)
def test_what_is_no_archive(data: bytes) -> None:
    """One clear error."""
    with pytest.raises(Failure, match="not a tar archive, or is damaged"):
        opened(data)


def test_a_header_that_claims_to_be_huge() -> None:
    """A name of a gigabyte is not read, whether it is there or not."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with pytest.raises(Failure, match="larger than any that is real"):
        opened(entry.tobuf(tarfile.GNU_FORMAT) + bytes(4096))


def test_a_size_below_zero() -> None:
    """It would send a reader backwards for ever."""
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # base 256, -512
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(Failure, match=r"negative size|damaged"):
        opened(bytes(header) + bytes(1024))


def test_too_many_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names take memory: there is an end to them."""
    monkeypatch.setattr(tar_files, "MAX_MEMBERS", 3)
    members: list[Member] = [(str(number), b"") for number in range(4)]
    assert opened(tar_bytes(members[:3])).size("2") == 0
    with pytest.raises(Failure, match="more than 3 members"):
        opened(tar_bytes(members))


SEED = tar_bytes(
    [("manifest.json", b"[]"), ("n" * 200, b"x" * 600), ("l", "manifest.json")],
    tarfile.PAX_FORMAT,
) + tar_bytes([("m" * 200, b"y")], tarfile.GNU_FORMAT)


@given(
    cuts=st.integers(0, len(SEED)),
    flips=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), max_size=12),
    valid=st.booleans(),
)
def test_damage_is_never_worse_than_an_error(
    cuts: int, flips: list[tuple[int, int]], valid: bool
) -> None:
    """Whatever bytes change: an archive or a `Failure`, in bounded time."""
    data = bytearray(SEED)
    for position, value in flips:
        data[position % len(data)] = value
    if valid:  # make headers valid again, so that more than checksums are tested
        for start in range(0, len(data) - 512, 512):
            header = data[start : start + 512]
            if header[257:262] == b"ustar":
                header[148:156] = b"        "
                data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    try:
        files = opened(bytes(data[: len(data) - cuts]))
        files.size("l")
    except Failure:
        pass
