"""Pieces: how a blob is cut. A pure function of its size, so every node cuts alike.

Small pieces make the pipeline short (a piece is passed on when it is whole), large ones make
requests few. Some hundred pieces a blob lose about a percent to either.
"""

from typing import Final

# A request between nodes costs about half a millisecond of CPU on both sides together, as much as
# moving 256 KiB does: smaller pieces would be mostly overhead.
MIN_PIECE_BYTES: Final = 256 * 1024

# A blob of up to so many bytes is one piece: its digest is the piece's hash, so nobody has to be
# asked for a list, and it is here after two round trips.
SMALL_BYTES: Final = 1024 * 1024

# What one request holds up at most, on a slow link (10 Mbit/s: 3 s).
MAX_PIECE_BYTES: Final = 4 * 1024 * 1024

# Into so many pieces a blob is cut between these sizes. For 1,000 nodes and 1 GiB twice as many
# end 5 % earlier than half as many, in simulation.
PIECES: Final = 1024

# Beyond it pieces grow again, so that the list of their hashes (32 bytes each) stays under 1 MiB.
MAX_PIECES: Final = 32_000

# In one request to an origin outside of the mesh: enough that its round trip is little beside the
# bytes. With twice as many a cold pull of six layers ends 3 % later, with four times as many 11 %,
# in simulation (8 and 32 nodes): each root has all of a run to come first.
RUN_BYTES: Final = 1024 * 1024


def piece_size(blob_size: int) -> int:
    """The size in bytes of all pieces but the last, a power of two, for a blob of so many bytes."""
    if blob_size <= SMALL_BYTES:
        return SMALL_BYTES
    size = MIN_PIECE_BYTES
    while size < MAX_PIECE_BYTES and size * PIECES < blob_size:
        size *= 2
    while size * MAX_PIECES < blob_size:
        size *= 2
    return size


class PieceMap:
    """Where the pieces of a blob of `size` bytes begin and end. An empty blob has one, empty."""

    __slots__ = ("count", "piece_size", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.piece_size = piece_size(size)
        self.count = max(1, -(-size // self.piece_size))

    def span(self, piece: int) -> tuple[int, int]:
        """The first byte of a piece, and the one after its last."""
        start = piece * self.piece_size
        return start, min(self.size, start + self.piece_size)

    def length(self, piece: int) -> int:
        """Its bytes."""
        start, stop = self.span(piece)
        return stop - start

    def at(self, offset: int) -> int:
        """The piece that byte `offset` is in; the last one for what is beyond."""
        return min(offset // self.piece_size, self.count - 1)


def run_length(pieces: PieceMap) -> int:
    """How many pieces in a row are asked of an origin together; at least 1."""
    return max(1, RUN_BYTES // pieces.piece_size)
