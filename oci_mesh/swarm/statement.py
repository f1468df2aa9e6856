"""A piece list, and the statement of a node that it is right.

A blob's digest says nothing of its pieces. So a node that has verified the whole blob lists the
SHA-256 of each piece, and signs the list with its identity (Ed25519). Who takes pieces by that
list can tell at once who sent a wrong one; and should the whole not have the blob's digest in the
end, the signature names the liar.
"""

import hashlib

import msgspec

from oci_mesh.spec.digest import Digest
from oci_mesh.swarm.pieces import PieceMap

HASH_BYTES = 32

_PREFIX = b"oci-mesh piece list 1\n"  # no signature of ours for another purpose begins like this


class Statement(msgspec.Struct, frozen=True):
    """Who says that these are the pieces of a blob."""

    digest: str
    size: int
    hashes: bytes
    """The SHA-256 of every piece, 32 bytes each, in order."""
    signer: str
    """The node's id."""
    key: bytes
    """Its Ed25519 public key, raw."""
    signature: bytes
    certificate: bytes = b""
    """The node's, in DER, where nodes have one: it proves whose the list is, whoever brings it."""

    def check_form(self, digest: Digest) -> None:
        """Raise `ValueError` unless this lists as many pieces as a blob of its size has."""
        if self.digest != str(digest):
            raise ValueError(f"a piece list of {self.digest[:80]!r} instead of {digest}")
        if self.size < 0 or len(self.hashes) != PieceMap(self.size).count * HASH_BYTES:
            raise ValueError(f"a piece list of {len(self.hashes)} bytes for {self.size}")

    @property
    def message(self) -> bytes:
        """What is signed."""
        return message(self.digest, self.size, self.hashes)

    @property
    def list_id(self) -> str:
        """The same for equal lists, whoever signed them: by it nodes know that they agree."""
        return hashlib.sha256(self.message).hexdigest()[:32]

    def piece_hash(self, piece: int) -> bytes:
        """The SHA-256 that a piece must have."""
        return self.hashes[piece * HASH_BYTES : (piece + 1) * HASH_BYTES]


def message(digest: str, size: int, hashes: bytes) -> bytes:
    """The bytes that are signed, for a list that is not yet."""
    return _PREFIX + f"{digest}\n{size}\n".encode() + hashes
