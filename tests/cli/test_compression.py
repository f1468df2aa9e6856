"""Layers, packed and unpacked."""

import gzip
import io
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.cli.compression import Compression, Decompressed, Method, layer_media_type
from oci_mesh.cli.failure import Failure
from oci_mesh.errors import ConfigError
from oci_mesh.spec import media_types

TEXT = b"".join(b"line %d of a text that packs well\n" % number for number in range(20_000))
METHODS: list[Method] = ["gzip", "zstd", "none"]


def packed(method: Method, data: bytes, level: int | None = None) -> bytes:
    """As one stream."""
    compressor = Compression(method, level).compressor(len(data))
    return compressor.compress(data) + compressor.flush()


def unpacked(data: bytes) -> bytes:
    """Read in small steps."""
    reader = Decompressed(io.BufferedReader(io.BytesIO(data)))
    return b"".join(iter(lambda: reader.read(1000), b""))


@pytest.mark.parametrize("method", METHODS)
@given(data=st.binary(max_size=5000))
def test_there_and_back(method: Method, data: bytes) -> None:
    """Any bytes survive, unless they look compressed themselves and were only stored."""
    if method != "none" or layer_media_type(data[:4]) == media_types.LAYER_TAR:
        assert unpacked(packed(method, data)) == data


@pytest.mark.parametrize("method", METHODS)
def test_the_same_bytes_each_time(method: Method) -> None:
    """No time, no name, no thread: else a second push would upload all again."""
    assert packed(method, TEXT) == packed(method, TEXT)


def test_what_other_tools_make_of_it() -> None:
    """The standard libraries' own readers get the bytes back; gzip's header has no time."""
    assert gzip.decompress(packed("gzip", TEXT)) == TEXT
    assert packed("gzip", TEXT)[3:8] == bytes(5)
    assert zstandard.ZstdDecompressor().decompress(packed("zstd", TEXT)) == TEXT


def test_levels() -> None:
    """A higher level packs tighter; one that does not exist is refused, naming those that do."""
    assert len(packed("gzip", TEXT, 9)) < len(packed("gzip", TEXT, 1))
    assert len(packed("zstd", TEXT, 19)) < len(packed("zstd", TEXT, 1))
    wrong: list[tuple[Method, int]] = [("gzip", 0), ("gzip", 10), ("zstd", 23), ("none", 1)]
    for method, level in wrong:
        with pytest.raises(ConfigError):
            Compression(method, level)


def test_what_bytes_are() -> None:
    """By their magic number."""
    assert layer_media_type(packed("gzip", b"x")[:4]) == media_types.LAYER_GZIP
    assert layer_media_type(packed("zstd", b"x")[:4]) == media_types.LAYER_ZSTD
    assert layer_media_type(b"\x5e\x2a\x4d\x18") == media_types.LAYER_ZSTD
    assert layer_media_type(b"bin/") == layer_media_type(b"") == media_types.LAYER_TAR
    for method in METHODS:
        media_type = Compression(method).media_type
        assert layer_media_type(packed(method, b"x" * 9)[:4]) == media_type


def test_many_members_and_frames() -> None:
    """stargz layers have a gzip member for each file, zstd:chunked ones a frame, and skippable
    frames among them.
    """
    assert unpacked(b"".join(gzip.compress(part) for part in (b"a", b"", b"bc"))) == b"abc"
    skip = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    assert unpacked(packed("zstd", b"a") + skip + packed("zstd", b"bc")) == b"abc"
    assert unpacked(skip + packed("zstd", b"a") + skip) == b"a"


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TEXT)[:-9],
        gzip.compress(TEXT)[:-4] + b"\0\0\0\0",
        gzip.compress(TEXT)[:500] + bytes(500),
        gzip.compress(TEXT) + b"more",
        packed("zstd", TEXT)[:4] + b"\xff" * 500,
        packed("zstd", TEXT) + b"more",
        b"\x1f\x8b",
    ],
)
def test_damaged_bytes(data: bytes) -> None:
    """Cut, changed, or with something after the end: an error, never a shorter layer."""
    with pytest.raises(Failure, match="damaged"):
        unpacked(data)


def test_zstd_that_is_cut_short() -> None:
    """It ends early, and gives nothing that was not in it."""
    whole = packed("zstd", TEXT)
    for length in range(0, len(whole), 97):
        assert len(unpacked(whole[:length])) < len(TEXT)
        assert TEXT.startswith(unpacked(whole[: max(length, 4)])) or length < 4


def test_a_window_without_bounds() -> None:
    """A stream that asks its reader for gigabytes of memory is refused."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=30, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(Failure, match="damaged"):
        unpacked(compressor.compress(TEXT) + compressor.flush())


def test_zlib_is_asked_for_gzip() -> None:
    """Not for its own header, which no client reads."""
    assert zlib.decompress(packed("gzip", TEXT), 31) == TEXT
