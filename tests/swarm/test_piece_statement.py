"""The statement that goes with a piece: its form in a header, and what is signed."""

# ruff: noqa: D103 -- the names are sentences

import base64
import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.mesh.bulk_http import MAX_HEAD_BYTES, fields
from oci_mesh.swarm.piece_statement import MAX_TEXT_LENGTH, PieceStatement, piece_message

STATED = PieceStatement(b"h" * 32, "node-1", b"k" * 32, b"s" * 64, b"c" * 600)


def encoded(*values: object) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(values)).decode()


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=1000))
def test_a_header_brings_back_what_was_stated(piece_hash: bytes, certificate: bytes) -> None:
    stated = PieceStatement(piece_hash, "n", b"k" * 32, b"s" * 64, certificate)
    assert PieceStatement.parse(stated.text) == stated


def test_with_a_certificate_it_fits_in_a_head_with_room_to_spare() -> None:
    assert len(fields({"OCI-Mesh-Piece": STATED.text})) < MAX_HEAD_BYTES // 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "é",
        "not base64!",
        STATED.text[:-1],
        STATED.text + "AAAA",
        "A" * (MAX_TEXT_LENGTH + 4),
        encoded(),
        encoded(b"h" * 31, "n", b"k", b"s"),
        encoded(b"h" * 33, "n", b"k", b"s"),
        encoded(b"h" * 32, "", b"k", b"s"),
        encoded(b"h" * 32, "n" * 129, b"k", b"s"),
        encoded(b"h" * 32, 7, b"k", b"s"),
        encoded(b"h" * 32, "n", b"k"),
    ],
)
def test_nonsense_is_no_statement(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        PieceStatement.parse(text)


@given(st.text())
def test_no_text_is_worse_than_that(text: str) -> None:
    with contextlib.suppress(ValueError):
        PieceStatement.parse(text)


def test_another_piece_size_or_blob_is_another_message() -> None:
    messages = {
        piece_message("sha256:a", 10, 1, b"h" * 32),
        piece_message("sha256:b", 10, 1, b"h" * 32),
        piece_message("sha256:a", 11, 1, b"h" * 32),
        piece_message("sha256:a", 10, 11, b"h" * 32),
        piece_message("sha256:a", 101, 1, b"h" * 32),
        piece_message("sha256:a", 10, 1, b"i" * 32),
    }
    assert len(messages) == 6
