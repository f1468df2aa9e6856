"""Byte ranges: `Range` of a GET (RFC 9110, §14.2), `Content-Range` of a chunk (distribution-spec,
"Pushing a blob in chunks").
"""

import re
from dataclasses import dataclass
from typing import Final

from oci_mesh.errors import RangeInvalid, UploadRangeInvalid, quoted

# 2**63 has 19 digits: longer numbers are nobody's offset, and Python would parse them at leisure.
_SINGLE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII | re.IGNORECASE)
_CHUNK: Final = re.compile(r"(?:bytes[ =])?(\d{1,19})-(\d{1,19})(?:/(?:\d{1,19}|\*))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `stop`, `stop` not included: as in a slice."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.stop - self.start

    def content_range(self, size: int) -> str:
        """The `Content-Range` header of a 206 for content of `size` bytes."""
        return f"bytes {self.start}-{self.stop - 1}/{size}"


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """What part of `size` bytes is asked for; None means: all of it, answer 200.

    A header that is not one byte range (several ranges, another unit, nonsense) is ignored, as
    RFC 9110 allows: clients that send several accept a 200. One that lies outside the content,
    or ends before it begins (the conformance suite asks for this), raises `RangeInvalid`; but
    empty content is sent whole, for clients that put `bytes=0-` on every request (as Go does).
    """
    if header is None or size == 0:
        return None
    match = _SINGLE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    if start >= stop:
        raise RangeInvalid(
            f"range {quoted(header)} is outside the content of {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return ByteRange(start, stop)


def parse_chunk_range(header: str) -> ByteRange:
    """Parse the `Content-Range: <first>-<last>` of a chunk, or raise `UploadRangeInvalid`.

    The spec has no unit there; `bytes a-b/*` of RFC 9110 is taken too, since clients send it.
    """
    match = _CHUNK.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise UploadRangeInvalid(f"Content-Range {quoted(header)} is not <first>-<last>")
    return ByteRange(int(match[1]), int(match[2]) + 1)
