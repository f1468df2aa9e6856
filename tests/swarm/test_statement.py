"""Piece lists: their form, and what is signed."""

# ruff: noqa: D103 -- the names are sentences

import hashlib

import msgspec
import pytest

from oci_mesh.spec.digest import Digest
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.statement import HASH_BYTES, Statement, message

DIGEST = Digest.of(b"blob")
SIZE = 5 * 2**20
HASHES = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(PieceMap(SIZE).count))


def statement(
    digest: str = str(DIGEST), size: int = SIZE, hashes: bytes = HASHES, signer: str = "n"
) -> Statement:
    return Statement(digest, size, hashes, signer, b"k" * 32, b"s" * 64)


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, SIZE])
def test_a_list_as_long_as_the_blob_has_pieces_is_well_formed(size: int) -> None:
    statement(size=size, hashes=b"h" * HASH_BYTES * PieceMap(size).count).check_form(DIGEST)


@pytest.mark.parametrize(
    "wrong",
    [
        statement(digest=str(Digest.of(b"other"))),
        statement(digest="x" * 100_000),
        statement(digest=""),
        statement(size=-1),
        statement(size=-1, hashes=b""),
        statement(size=-1, hashes=b"h" * HASH_BYTES),
        statement(size=0),
        statement(size=2 * SIZE),
        statement(size=2**63 - 1),
        statement(hashes=b""),
        statement(hashes=HASHES[:-1]),
        statement(hashes=HASHES + b"h"),
        statement(hashes=HASHES[:-HASH_BYTES]),
        statement(hashes=HASHES + b"h" * HASH_BYTES),
    ],
)
def test_any_other_is_not(wrong: Statement) -> None:
    """And the complaint is short, whatever was sent."""
    with pytest.raises(ValueError, match="a piece list of") as caught:
        wrong.check_form(DIGEST)
    assert len(str(caught.value)) < 300


def test_each_piece_has_its_hash() -> None:
    for i in range(PieceMap(SIZE).count):
        assert statement().piece_hash(i) == hashlib.sha256(bytes([i])).digest()


def test_what_is_signed_says_all_that_matters() -> None:
    """Another digest, size or hash: other bytes. And it is the same before there is a signature."""
    said = {
        statement().message,
        statement(digest=str(Digest.of(b"other"))).message,
        statement(size=SIZE + 1).message,
        statement(hashes=HASHES[::-1]).message,
    }
    assert len(said) == 4
    assert statement().message == message(str(DIGEST), SIZE, HASHES)
    assert statement().message.startswith(b"oci-mesh piece list")


def test_equal_lists_have_one_id_whoever_signed() -> None:
    assert statement(signer="a").list_id == statement(signer="b").list_id
    assert statement().list_id != statement(hashes=HASHES[::-1]).list_id


def test_it_passes_the_wire() -> None:
    sent = msgspec.json.encode(statement())
    assert msgspec.json.decode(sent, type=Statement) == statement()
