"""What the pieces of one blob are while there is no list of them, and whose word that is.

A piece is worth what its statement is: signed by a node that read it from the blob's origin. That
it is the same piece, whoever passed it on, the signature tells; that it is right, only the digest
of the whole.
"""

from collections.abc import Callable
from typing import Final

from oci_mesh.errors import PeerError
from oci_mesh.mesh.statements import Signer
from oci_mesh.spec.digest import Digest
from oci_mesh.swarm.piece_statement import PieceStatement
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.statement import HASH_BYTES

Knows = Callable[[str], bool]

# Pieces that a lie was found in, as named in the log.
_SHOWN: Final = 8


class Sworn:
    """`knows` says whether a node is one of the mesh, where nodes have no certificates."""

    def __init__(self, signer: Signer, knows: Knows, digest: Digest, size: int) -> None:
        self._signer = signer
        self._knows = knows
        self._digest = str(digest)
        self._size = size
        self._hashes: dict[int, bytes] = {}
        self._statements: dict[int, PieceStatement] = {}
        self._known: set[str] = set()

    def check(self, piece: int, text: str) -> PieceStatement:
        """The statement that came with a piece. Raises `Forged` if it was not signed by who it
        says, `PeerError` if it is none, or by nobody that this node knows.
        """
        try:
            statement = PieceStatement.parse(text)
        except ValueError as error:
            raise PeerError(str(error)[:200]) from None
        self._signer.check_piece(statement, self._digest, self._size, piece)
        if self._signer.trust is None and statement.signer not in self._known:
            if not self._knows(statement.signer):
                raise PeerError(f"a piece statement of {statement.signer[:80]}, who is unknown")
            self._known.add(statement.signer)
        return statement

    def take(self, piece: int, statement: PieceStatement) -> None:
        """Note the (checked) statement by which a piece was accepted."""
        self._hashes[piece] = statement.hash
        self._statements[piece] = statement

    def vouch(self, piece: int, piece_hash: bytes) -> None:
        """This node has read the piece from the origin, or from its own verified copy."""
        self.take(piece, self._signer.sign_piece(self._digest, self._size, piece, piece_hash))

    def recall(self, piece: int, piece_hash: bytes) -> None:
        """The piece was on this node's disk: good enough to go on with, but nobody vouches for it,
        so it is not passed on.
        """
        self._hashes[piece] = piece_hash

    def vouch_for_all(self) -> None:
        """Vouch for what was only on the disk, too: this node leads, nobody else has it."""
        for piece, piece_hash in self._hashes.items():
            if piece not in self._statements:
                self.vouch(piece, piece_hash)

    def text(self, piece: int) -> str:
        """The statement, for a header; empty if nobody vouches for the piece."""
        statement = self._statements.get(piece)
        return "" if statement is None else statement.text

    @property
    def hashes(self) -> bytes:
        """All of them in order, as in a list."""
        return b"".join(self._hashes[piece] for piece in range(PieceMap(self._size).count))

    def liars(self, hashes: bytes) -> dict[str, list[int]]:
        """Who vouched for pieces that are others than those in a list that is right; some of these
        pieces, by node.
        """
        found: dict[str, list[int]] = {}
        for piece, statement in self._statements.items():
            if statement.hash != hashes[piece * HASH_BYTES : (piece + 1) * HASH_BYTES]:
                wrong = found.setdefault(statement.signer, [])
                if len(wrong) < _SHOWN:
                    wrong.append(piece)
        return found
