"""How a blob is cut."""

# ruff: noqa: D103 -- the names are sentences

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oci_mesh.swarm.pieces import (
    MAX_PIECE_BYTES,
    MAX_PIECES,
    MIN_PIECE_BYTES,
    RUN_BYTES,
    SMALL_BYTES,
    PieceMap,
    piece_size,
    run_length,
)

SIZES = st.integers(0, 2**40) | st.integers(0, 64).map(lambda i: (i - 1) * MIN_PIECE_BYTES + i)


@given(st.integers(0, 2**31) | st.integers(0, 8 * SMALL_BYTES))
@example(0)
@example(1)
@example(SMALL_BYTES)
@example(SMALL_BYTES + 1)
def test_the_pieces_cover_the_blob_exactly(size: int) -> None:
    """Each begins where the one before ends; all but the last have the same length; none is empty,
    but the only one of an empty blob.
    """
    pieces = PieceMap(size)
    at = 0
    for piece in range(pieces.count):
        start, stop = pieces.span(piece)
        assert start == at
        assert pieces.length(piece) == stop - start
        assert stop > start or size == 0
        assert piece == pieces.count - 1 or stop - start == pieces.piece_size
        at = stop
    assert at == size


@given(st.integers(1, 2**33), st.data())
def test_each_byte_is_in_the_piece_that_it_is_said_to_be_in(size: int, data: st.DataObject) -> None:
    pieces = PieceMap(size)
    offset = data.draw(st.integers(0, size - 1))
    start, stop = pieces.span(pieces.at(offset))
    assert start <= offset < stop
    assert pieces.at(size + offset) == pieces.count - 1


@given(SIZES)
def test_the_size_is_a_power_of_two_within_its_limits(size: int) -> None:
    length, count = piece_size(size), PieceMap(size).count
    assert length.bit_count() == 1
    assert length >= MIN_PIECE_BYTES
    assert count <= MAX_PIECES
    assert length <= MAX_PIECE_BYTES or count > MAX_PIECES // 2 - 1


@given(SIZES, SIZES)
def test_a_larger_blob_has_no_smaller_pieces(a: int, b: int) -> None:
    """But for those that are one piece: these are all alike."""
    small, large = sorted((a, b))
    assert small <= SMALL_BYTES or piece_size(small) <= piece_size(large)


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES])
def test_a_small_blob_is_one_piece(size: int) -> None:
    assert PieceMap(size).count == 1
    assert PieceMap(size).span(0) == (0, size)


@given(SIZES)
def test_a_run_is_megabytes_or_one_piece(size: int) -> None:
    """Whatever the pieces are; never none."""
    pieces = PieceMap(size)
    assert run_length(pieces) >= 1
    length = run_length(pieces) * pieces.piece_size
    assert length == max(RUN_BYTES, pieces.piece_size)
