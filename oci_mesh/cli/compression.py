"""Layers, compressed and decompressed as streams; the only home of zstandard.

Compressing is deterministic: the same bytes give the same digest (no time, no name, one thread,
fixed chunks), so that a layer that was pushed once is found and not sent again. That holds for one
version of zlib or libzstd; another version may pack better, which costs a transfer, nothing else.

What compressed bytes are is read from the bytes (their magic number), not from what a media type
or a file name claims. Not here: diff IDs (`layers.py`), threads, files.
"""

import gzip
import io
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, Protocol

import zstandard

from oci_mesh.cli.failure import Failure
from oci_mesh.errors import ConfigError
from oci_mesh.spec import media_types

Method = Literal["gzip", "zstd", "none"]

LEVELS: Final[dict[str, tuple[int, int]]] = {"gzip": (1, 9), "zstd": (1, 22)}
DEFAULT_LEVELS: Final[dict[str, int]] = {"gzip": 6, "zstd": 3}

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
# A skippable frame may come first: 0x184D2A50 to 0x184D2A5F, little endian.
_ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"
MAGIC_BYTES: Final = 4

# zlib's code for "gzip header and trailer around a window of 32 KiB".
_GZIP_WINDOW: Final = 31

# The largest window that a stream may ask us to hold: what the zstd tool takes by default.
_MAX_ZSTD_WINDOW_BYTES: Final = 128 * 1024 * 1024


class Compressor(Protocol):
    """zlib's and zstandard's objects: bytes in, some bytes out, the rest on `flush`."""

    def compress(self, data: bytes, /) -> bytes:
        """Take the next bytes."""
        ...

    def flush(self) -> bytes:
        """End the stream."""
        ...


class _Stored:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class Compression:
    """How layers that come uncompressed are packed.

    Raises `ConfigError` for a level that the method does not have.
    """

    method: Method
    level: int | None = None

    def __post_init__(self) -> None:
        if self.level is None:
            return
        if self.method not in LEVELS:
            raise ConfigError("a level needs a compression: gzip or zstd")
        low, high = LEVELS[self.method]
        if not low <= self.level <= high:
            raise ConfigError(f"{self.method} has the levels {low} to {high}, not {self.level}")

    @property
    def media_type(self) -> str:
        """Of the layers that this makes."""
        return {
            "gzip": media_types.LAYER_GZIP,
            "zstd": media_types.LAYER_ZSTD,
            "none": media_types.LAYER_TAR,
        }[self.method]

    def compressor(self, size: int) -> Compressor:
        """For one layer of `size` bytes."""
        level = DEFAULT_LEVELS.get(self.method, 0) if self.level is None else self.level
        if self.method == "gzip":
            return zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW)
        if self.method == "zstd":
            return zstandard.ZstdCompressor(level=level, threads=0).compressobj(size=size)
        return _Stored()


def layer_media_type(head: bytes) -> str:
    """What a layer is, by its first `MAGIC_BYTES`. Anything unknown is taken for a tar."""
    if head.startswith(_GZIP_MAGIC):
        return media_types.LAYER_GZIP
    if head == _ZSTD_MAGIC or (head[1:] == _ZSTD_SKIPPABLE and 0x50 <= head[0] <= 0x5F):
        return media_types.LAYER_ZSTD
    return media_types.LAYER_TAR


class Decompressed:
    """The uncompressed bytes of a file that may be gzip, zstd (both of any number of members or
    frames, as stargz and zstd:chunked make them) or neither.

    A zstd stream that is cut short may just end early: zstandard's bounded reader does not tell.
    Every caller has something to compare with, a diff ID or the end of a tar.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        media_type = layer_media_type(file.peek(MAGIC_BYTES)[:MAGIC_BYTES])
        self._file: BinaryIO | io.BufferedReader | gzip.GzipFile | zstandard.ZstdDecompressionReader
        if media_type == media_types.LAYER_GZIP:
            self._file = gzip.GzipFile(fileobj=file)
        elif media_type == media_types.LAYER_ZSTD:
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
            self._file = decompressor.stream_reader(file, read_across_frames=True, closefd=False)
        else:
            self._file = file

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; empty at the end. Raises `Failure` for bytes that are damaged."""
        try:
            return self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise Failure(f"compressed data is damaged: {error}") from None
