"""The statement of a node that it read a piece of a blob from the blob's origin, and what that was.

While no node has verified a blob there is no list of its pieces. So each piece travels with the
word of the node that brought it into the mesh. Who takes it can tell that it is the same piece; and
should the whole not have the blob's digest in the end, the signatures name who brought what is not
the blob.
"""

import base64
import binascii
from typing import Self

import msgspec

_PREFIX = b"oci-mesh piece 1\n"  # no signature of ours for another purpose begins like this

# What it takes as text, at most: with a certificate some 900 characters. The head of an answer,
# with all else in it, must stay under `bulk_http.MAX_HEAD_BYTES`.
MAX_TEXT_LENGTH = 4096

# Ids of nodes are shorter (`members.names`).
_MAX_SIGNER_LENGTH = 128


class PieceStatement(msgspec.Struct, frozen=True, array_like=True):
    """Who says that a piece has this hash. Which piece of which blob, those know who exchange it:
    it is signed along with the rest.
    """

    hash: bytes
    """The SHA-256 of the piece."""
    signer: str
    """The node's id."""
    key: bytes
    """Its Ed25519 public key, raw."""
    signature: bytes
    certificate: bytes = b""
    """The node's, in DER, where nodes have one."""

    @property
    def text(self) -> str:
        """For a header: base64url of its MessagePack."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of a header. Raises `ValueError` for what is no such statement."""
        if not 0 < len(text) <= MAX_TEXT_LENGTH:
            raise ValueError(f"a piece statement of {len(text)} characters")
        try:
            content = base64.b64decode(text.encode("ascii"), b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError) as error:
            raise ValueError(f"not a piece statement: {error}") from None
        statement = msgspec.msgpack.decode(content, type=cls)
        if len(statement.hash) != 32 or not 0 < len(statement.signer) <= _MAX_SIGNER_LENGTH:
            raise ValueError("a piece statement without a hash, or without a signer")
        return statement


def piece_message(digest: str, size: int, piece: int, piece_hash: bytes) -> bytes:
    """The bytes that are signed: `piece` of the blob `digest`, which has `size` bytes."""
    return _PREFIX + f"{digest}\n{size}\n{piece}\n".encode() + piece_hash
