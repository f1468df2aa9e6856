"""Byte ranges, of RFC 9110 and of the conformance suite."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.errors import RangeInvalid, UploadRangeInvalid
from oci_mesh.spec.byte_range import ByteRange, parse_chunk_range, parse_range
from tests.spec import strategies
from tests.spec.attempt import attempt

SIZE = 2048  # of the blob that the conformance suite asks ranges of

RANGES = {
    "bytes=500-1499": (500, 1500),
    "bytes=0-0": (0, 1),
    "bytes=500-": (500, 2048),
    "bytes=0-": (0, 2048),
    "bytes=2047-": (2047, 2048),
    "bytes=-500": (1548, 2048),
    "bytes=-2048": (0, 2048),
    "bytes=-9999": (0, 2048),
    "bytes=2000-5000": (2000, 2048),
    "bytes=1-9223372036854775807": (1, 2048),
    "Bytes=0-1": (0, 2),  # "range-unit" is case-insensitive
    " bytes=0-1 ": (0, 2),
}
OUTSIDE = ["bytes=2048-", "bytes=5000-10000", "bytes=500-0", "bytes=1-0", "bytes=-0"]
IGNORED = [
    *("", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1", "bytes=+1-2", "bytes=1--2"),
    *("bytes 0-1", "bytes=0-1/2", "bytes=0x0-0x1", "bytes=0.0-1.0", "items=0-1", "0-1"),
    *("bytes=0-1,2-3", "bytes=" + ",".join(f"{i}-{i}" for i in range(10_000))),
    *("bytes=" + "9" * 20 + "-", "bytes=0-" + "9" * 5000, "bytes=\u0661-\u0662"),
]


@pytest.mark.parametrize("header", RANGES)
def test_ranges(header: str) -> None:
    """A single range gives the part it names, clipped to the content."""
    start, stop = RANGES[header]
    assert parse_range(header, SIZE) == ByteRange(start, stop)
    assert ByteRange(start, stop).content_range(SIZE) == f"bytes {start}-{stop - 1}/{SIZE}"


@pytest.mark.parametrize("header", OUTSIDE)
def test_outside_the_content(header: str) -> None:
    """A range that no byte lies in is a 416 that says how long the content is."""
    with pytest.raises(RangeInvalid) as caught:
        parse_range(header, SIZE)
    assert caught.value.status == 416
    assert caught.value.headers == {"Content-Range": "bytes */2048"}


@pytest.mark.parametrize("header", [None, *IGNORED])
def test_ignored(header: str | None) -> None:
    """What is not one byte range gets the whole content: never an error, never slow."""
    assert parse_range(header, SIZE) is None


@pytest.mark.parametrize("header", [*RANGES, *OUTSIDE, *IGNORED])
def test_empty_content_is_sent_whole(header: str) -> None:
    """An empty blob has no range, and a client that always asks for one must get it."""
    assert parse_range(header, 0) is None


@given(st.integers(1, 99), st.none() | st.integers(0, 120), st.none() | st.integers(0, 120))
def test_agrees_with_slices(size: int, first: int | None, last: int | None) -> None:
    """The bytes of a range are those that RFC 9110 names, as a slice of a list picks them."""
    content = list(range(size))
    if first is None:
        expected = content[-last:] if last else []
    else:
        expected = content[first:] if last is None else content[first : last + 1]
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    try:
        part = parse_range(header, size)
    except RangeInvalid:
        assert not expected
    else:
        wanted = ByteRange(0, size) if part is None else part
        assert content[wanted.start : wanted.stop] == (content if part is None else expected)
        assert wanted.length > 0


@given(strategies.text | st.from_regex(r"bytes=[0-9,\- ]{0,30}"), st.integers(0, 2**63))
def test_any_header(header: str, size: int) -> None:
    """Any header is a part inside the content, the whole, or a `RangeInvalid`."""
    part = attempt(parse_range, header, size)
    if isinstance(part, ByteRange):
        assert 0 <= part.start < part.stop <= size
    else:
        assert part is None or isinstance(part, RangeInvalid)


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("0-99", 0, 100),
        ("100-199", 100, 200),
        ("bytes 0-99/*", 0, 100),
        ("bytes 0-99/1000", 0, 100),
        ("bytes=0-99", 0, 100),
        (" 0-99 ", 0, 100),
    ],
)
def test_chunk_ranges(header: str, start: int, stop: int) -> None:
    """`Content-Range` of a chunk is the spec's, or RFC 9110's."""
    assert parse_chunk_range(header) == ByteRange(start, stop)


@pytest.mark.parametrize(
    "header",
    [
        *("", "-", "0", "0-", "-0", "1-0", "100-99", "0--1", "-1-2", "a-b", "0-0x5", "0-1,2-3"),
        *("bytes */100", "0-" + "9" * 20, "0-" + "9" * 5000, "\u0661-\u0662", "0-1\n2-3"),
    ],
)
def test_refused_chunk_ranges(header: str) -> None:
    """A chunk that does not say where it belongs is not taken: 416, the upload survives."""
    with pytest.raises(UploadRangeInvalid):
        parse_chunk_range(header)


@given(st.integers(0, 2**62), st.integers(1, 2**62))
def test_chunk_ranges_round_trip(start: int, length: int) -> None:
    """What a client writes for a chunk is read as that chunk."""
    assert parse_chunk_range(f"{start}-{start + length - 1}") == ByteRange(start, start + length)


@given(strategies.text)
def test_any_chunk_range(header: str) -> None:
    """Any header is a chunk of at least a byte, or an `UploadRangeInvalid`."""
    part = attempt(parse_chunk_range, header)
    assert part.length > 0 if isinstance(part, ByteRange) else isinstance(part, UploadRangeInvalid)
