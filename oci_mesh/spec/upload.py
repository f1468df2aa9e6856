"""An upload session as a table: which request may come in which state (distribution-spec, "Pushing
blobs").

The table is asked before the disk is touched. An upload's offset is how many bytes it has; there
is no other progress, so a restarted node continues from the length of the file that it finds.
"""

from enum import Enum
from typing import Final

from oci_mesh.errors import BlobUploadUnknown, SizeInvalid, UploadBusy, UploadRangeInvalid
from oci_mesh.spec.byte_range import ByteRange, parse_chunk_range


class UploadState(Enum):
    """Where an upload is in its life."""

    OPEN = "open"
    WRITING = "writing"
    COMMITTED = "committed"
    CANCELLED = "cancelled"


class UploadEvent(Enum):
    """What can happen to it. `ABORT` is a write that ended early: what arrived is kept."""

    BEGIN = "begin"
    ABORT = "abort"
    WROTE = "wrote"
    COMMIT = "commit"
    CANCEL = "cancel"


_S, _E = UploadState, UploadEvent
TRANSITIONS: Final[dict[tuple[UploadState, UploadEvent], UploadState]] = {
    (_S.OPEN, _E.BEGIN): _S.WRITING,
    (_S.OPEN, _E.CANCEL): _S.CANCELLED,
    (_S.WRITING, _E.ABORT): _S.OPEN,
    (_S.WRITING, _E.WROTE): _S.OPEN,
    (_S.WRITING, _E.COMMIT): _S.COMMITTED,
    (_S.WRITING, _E.CANCEL): _S.CANCELLED,
}


def advance(state: UploadState, event: UploadEvent) -> UploadState:
    """The next state. Raises `UploadBusy` for a second writer, `BlobUploadUnknown` at the end."""
    following = TRANSITIONS.get((state, event))
    if following is not None:
        return following
    if state in (UploadState.COMMITTED, UploadState.CANCELLED):
        raise BlobUploadUnknown("this upload has ended")
    assert event is UploadEvent.BEGIN or event is UploadEvent.CANCEL, (state, event)
    raise UploadBusy("another request is writing to this upload; ask for its status and continue")


def check_chunk(
    offset: int, expected: int | None, content_range: str | None, content_length: int | None
) -> int | None:
    """Whether a chunk continues an upload of `offset` bytes; return how many bytes it must have.

    `expected` is the offset that the Location it was sent to stands for, when the chunk has no
    `Content-Range` of its own: a client that repeats a PATCH whose answer it never saw would
    otherwise append its bytes twice. Raises `UploadRangeInvalid` (416; the upload survives, and
    the headers say where it is) or `SizeInvalid`. None: the length is not known beforehand.
    """
    chunk: ByteRange | None = None
    if content_range is not None:
        chunk = parse_chunk_range(content_range)
        expected = chunk.start
    if expected is not None and expected != offset:
        raise UploadRangeInvalid(
            f"chunk starts at byte {expected}, the upload has {offset}",
            headers={"Range": progress(offset)},
        )
    if chunk is None:
        return content_length
    if content_length is not None and content_length != chunk.length:
        raise SizeInvalid(f"Content-Length {content_length}, Content-Range of {chunk.length} bytes")
    return chunk.length


def progress(offset: int) -> str:
    """The `Range` header of an upload of `offset` bytes.

    An empty upload says `0-0`, as every registry does: docker cannot parse `0--1`.
    """
    return f"0-{max(0, offset - 1)}"
