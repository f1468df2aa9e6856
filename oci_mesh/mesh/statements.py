"""Statements: this node's lists of the pieces of what it has, and those of others, checked.

A list is made when it is first asked for (the blob is read once, in a thread), or comes for nothing
with a blob that was fetched in pieces. Lists are kept in memory; one that was pushed out is made
again.
"""

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from typing import Final

from oci_mesh.errors import PeerError, StorageFailed
from oci_mesh.mesh.credentials import Credentials
from oci_mesh.mesh.identity import Identity, verify
from oci_mesh.pki.certificates import Holder
from oci_mesh.pki.trust import Trust
from oci_mesh.sources import SingleFlight, Source
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Blob
from oci_mesh.swarm.piece_statement import PieceStatement, piece_message
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.statement import Statement, message
from oci_mesh.tasks import Background

# All lists together: those of some 2 TB of large blobs, or of a thousand small ones.
MAX_BYTES: Final = 16 * 1024 * 1024

_READ_BYTES: Final = 1024 * 1024


# Certificates that were checked lately: each piece of a cold swarm comes with one. Some 500 bytes.
_CERTIFICATES_KEPT: Final = 1024


class Forged(PeerError):
    """It was not signed by who is said to have."""


class Signer:
    """This node's signature, and the check of others'. With `credentials`, nodes have certificates
    and a list has to come with its signer's; without, a key is as good as who says it is his.
    """

    def __init__(self, identity: Identity, credentials: Credentials | None) -> None:
        self._identity = identity
        self._credentials = credentials
        self._holders: OrderedDict[bytes, tuple[Trust, Holder]] = OrderedDict()

    @property
    def certificate(self) -> bytes:
        """This node's, as of now."""
        held = None if self._credentials is None else self._credentials.certificate
        return held or b""

    def sign(self, digest: Digest, size: int, hashes: bytes) -> Statement:
        """This node's statement."""
        identity = self._identity
        signature = identity.sign(message(str(digest), size, hashes))
        return Statement(
            str(digest),
            size,
            hashes,
            identity.id,
            identity.public_key,
            signature,
            self.certificate,
        )

    def sign_piece(self, digest: str, size: int, piece: int, piece_hash: bytes) -> PieceStatement:
        """This node's statement about one piece of a blob."""
        identity = self._identity
        signature = identity.sign(piece_message(digest, size, piece, piece_hash))
        return PieceStatement(
            piece_hash, identity.id, identity.public_key, signature, self.certificate
        )

    def check(self, statement: Statement) -> None:
        """Raise `PeerError` unless it was signed by its signer."""
        self._check(statement, statement.message)

    def check_piece(self, statement: PieceStatement, digest: str, size: int, piece: int) -> None:
        """Raise `PeerError` unless it was signed by its signer, about that piece of that blob."""
        self._check(statement, piece_message(digest, size, piece, statement.hash))

    @property
    def trust(self) -> Trust | None:
        """By which nodes prove who they are; None if nobody does."""
        return None if self._credentials is None else self._credentials.trust

    def _check(self, statement: Statement | PieceStatement, signed: bytes) -> None:
        if self.trust is not None:
            holder = self._holder(statement.certificate, self.trust)
            if (holder.name, holder.public_key) != (statement.signer, statement.key):
                raise Forged(f"the certificate of {holder.name} for {statement.signer[:80]}")
        if not verify(statement.key, signed, statement.signature):
            raise Forged(f"{statement.signer[:80]} has not signed that")

    def _holder(self, certificate: bytes, trust: Trust) -> Holder:
        """As `Trust.check`; what is known to be right is not looked at again, but at its end."""
        now = time.time()
        known = self._holders.get(certificate)
        if known is not None and known[0] is trust and now <= known[1].not_after:
            return known[1]
        holder = trust.check(certificate, now)
        self._holders[certificate] = trust, holder
        if len(self._holders) > _CERTIFICATES_KEPT:
            self._holders.popitem(last=False)
        return holder


class Statements:
    """Lists by digest. All of them were verified here against the whole blob, or made from it."""

    def __init__(self, local: Source, signer: Signer, background: Background) -> None:
        self.signer = signer
        self._local = local
        self._lists: OrderedDict[Digest, Statement] = OrderedDict()
        self._bytes = 0
        self._making: SingleFlight[Digest, Statement] = SingleFlight(background)

    async def of(self, repository: str, digest: Digest) -> Statement:
        """The statement of this node about a blob that it has in `repository`, as the caller has
        seen. Raises `BlobUnknown` if it is gone by now.
        """
        known = self._lists.get(digest)
        if known is None:
            return await self._making.run(digest, lambda: self._make(repository, digest))
        self._lists.move_to_end(digest)
        if known.certificate != self.signer.certificate:  # it was renewed since
            self.adopt(digest, known.size, known.hashes)
        return self._lists[digest]

    def adopt(self, digest: Digest, size: int, hashes: bytes) -> None:
        """Note the list by which a blob came that was then verified as a whole: now it is ours."""
        self._add(digest, self.signer.sign(digest, size, hashes))

    def forget(self, digest: Digest) -> None:
        """Make no use of a list any more: the blob it was made of may have been damaged then."""
        known = self._lists.pop(digest, None)
        if known is not None:
            self._bytes -= len(known.hashes)

    def check(self, statement: Statement, digest: Digest) -> None:
        """Raise `PeerError` unless this is a list of the blob's pieces and was signed by its
        signer. Whether the list is right, only the whole blob tells.
        """
        try:
            statement.check_form(digest)
        except ValueError as error:
            raise PeerError(str(error)) from None
        self.signer.check(statement)

    async def _make(self, repository: str, digest: Digest) -> Statement:
        async with await self._local.blob(repository, digest) as blob:
            hashes = await _piece_hashes(blob)
            statement = self.signer.sign(digest, blob.size, hashes)
        self._add(digest, statement)
        return statement

    def _add(self, digest: Digest, statement: Statement) -> None:
        replaced = self._lists.pop(digest, None)
        self._bytes += len(statement.hashes) - (len(replaced.hashes) if replaced else 0)
        self._lists[digest] = statement
        while self._bytes > MAX_BYTES and len(self._lists) > 1:
            self._bytes -= len(self._lists.popitem(last=False)[1].hashes)


async def _piece_hashes(blob: Blob) -> bytes:
    """The SHA-256 of each piece; a file is read in a thread, as this may take seconds."""
    pieces = PieceMap(blob.size)
    file = blob.file
    if file is not None:
        loop = asyncio.get_running_loop()
        hashing = loop.run_in_executor(None, _hash_file, file.fileno(), pieces)
        try:
            return await asyncio.shield(hashing)
        except asyncio.CancelledError:
            await asyncio.wait([hashing])  # the file must stay open for as long
            raise
    hashes = bytearray()
    for piece in range(pieces.count):
        hasher = hashlib.sha256()
        async for chunk in blob.chunks(*pieces.span(piece)):
            hasher.update(chunk)
        hashes += hasher.digest()
    return bytes(hashes)


def _hash_file(fd: int, pieces: PieceMap) -> bytes:
    hashes = bytearray()
    for piece in range(pieces.count):
        start, stop = pieces.span(piece)
        hasher = hashlib.sha256()
        while start < stop:
            chunk = os.pread(fd, min(_READ_BYTES, stop - start), start)
            if not chunk:
                raise StorageFailed("a blob's file is shorter than it was")
            hasher.update(chunk)
            start += len(chunk)
        hashes += hasher.digest()
    return bytes(hashes)
