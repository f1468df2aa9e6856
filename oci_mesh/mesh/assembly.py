"""The bytes of a blob that comes in pieces: checked as they arrive, put in place, read meanwhile.

Nothing is read that was not checked: a piece against the list, and the last one only when the
digest of the whole is right. (That is hashed behind the pieces, in order, so it is there at once.)
While there is no list a piece is checked against what some node swears (`sworn`): then readers are
held off for as long as they can wait.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Final

from oci_mesh.errors import OciMeshError, PeerError
from oci_mesh.mesh.sworn import Sworn
from oci_mesh.store.base import Partial
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.statement import Statement

# Pieces hashed for the whole digest, or checked of what was left, before others get their turn. For
# less of the whole, but its end, the hashing is not woken up.
_STEP_BYTES: Final = 1024 * 1024


class PieceHere(PeerError):
    """Somebody else was quicker; no fault of anybody."""


class Receiver:
    """A sink for one piece. `begin` is called with its first byte."""

    __slots__ = (
        "_assembly",
        "_begin",
        "_buffer",
        "_closed",
        "_hasher",
        "_offset",
        "begun",
        "begun_at",
        "piece",
    )

    def __init__(self, assembly: "Assembly", piece: int, begin: Callable[[], None]) -> None:
        self.piece = piece
        self.begun = False
        self.begun_at = 0.0
        self._assembly = assembly
        self._begin = begin
        self._closed = False
        self._hasher = assembly.new_hasher()
        self._offset = assembly.pieces.span(piece)[0]
        # Two that come at once must not write to one place: the later one is kept in memory.
        self._buffer = bytearray() if piece in assembly.arriving else None
        if self._buffer is None:
            assembly.arriving[piece] = self

    def __call__(self, data: memoryview) -> None:
        """Take the next bytes. Raises `StorageFull`, `StorageFailed`, `PieceHere`."""
        assembly = self._assembly
        if assembly.good[self.piece] or self._closed:
            raise PieceHere(f"piece {self.piece} is here already")
        if not self.begun:
            self.begun = True
            self.begun_at = asyncio.get_running_loop().time()
            self._begin()
        self._hasher.update(data)
        assembly.received += len(data)
        if self._buffer is None:
            assembly.partial.write(self._offset, data)
        else:
            self._buffer += data
        self._offset += len(data)

    @property
    def hash(self) -> bytes:
        """Of what has come."""
        return self._hasher.digest()

    def finish(self, expected: bytes | None = None) -> bool:
        """Whether the piece is whole and right; then it counts as here. Where there is no list,
        `expected` is what it must hash to.
        """
        assembly = self._assembly
        start, stop = assembly.pieces.span(self.piece)
        right = assembly.piece_hash(self.piece) if expected is None else expected
        if self._offset != stop or self._hasher.digest() != right:
            return False
        if self._buffer is not None and not assembly.good[self.piece]:
            assembly.partial.write(start, self._buffer)
        assembly.accept(self.piece)
        return True

    def close(self) -> None:
        """Done with it, whatever came, and comes."""
        self._closed = True
        if self._assembly.arriving.get(self.piece) is self:
            del self._assembly.arriving[self.piece]


class Assembly:
    """A held `partial`, and what of it is known to be right: by a list; or as nodes have `sworn`,
    and then nothing is read before all is right, or `relent`; neither is for a blob of one piece.
    With `withhold` nothing is read before all is right: the list is in doubt.
    """

    def __init__(
        self,
        partial: Partial,
        statement: Statement | None,
        *,
        sworn: Sworn | None = None,
        withhold: bool = False,
    ) -> None:
        self.partial = partial
        self.pieces = PieceMap(partial.size)
        self.good = bytearray(self.pieces.count)
        self.arriving: dict[int, Receiver] = {}
        self.failure: OciMeshError | None = None
        self.received = 0
        """Bytes that have come, of whatever pieces."""
        self.sworn = sworn
        self._statement = statement
        self._withhold = withhold
        self._held = sworn is not None
        self._sent_away: OciMeshError | None = None
        self._frontier = 0
        self._released = False
        self._stored = False
        self._news = asyncio.Event()
        self._advanced = asyncio.Event()

    @property
    def verified(self) -> int:
        """Bytes of the pieces that are here."""
        if all(self.good):
            return self.pieces.size
        # All but the last, which is missing or counted in full, are of one length.
        return min(self.pieces.size, sum(self.good) * self.pieces.piece_size)

    # -- coming in

    def new_hasher(self) -> "hashlib._Hash":
        """Of the kind that the list has; a blob of one piece has its digest for a list."""
        if self._statement is not None or self.sworn is not None:
            return hashlib.sha256()
        return hashlib.new(self.partial.digest.algorithm)

    def piece_hash(self, piece: int) -> bytes:
        """What a piece must hash to, where that is known before it is here."""
        assert self.sworn is None, "it comes with the piece"
        if self._statement is None:
            return bytes.fromhex(self.partial.digest.hex)
        return self._statement.piece_hash(piece)

    def accept(self, piece: int) -> None:
        """A piece is in place and right."""
        if self.good[piece]:
            return
        self.good[piece] = 1
        missing = self.good.find(0, self._frontier)
        self._frontier = self.pieces.count if missing < 0 else missing
        if self._hashable():
            self._advanced.set()
        self._tell()

    async def resume(self) -> list[int]:
        """Check what an earlier transfer left; the pieces that are here. Raises `StorageFailed`.

        Without a list nothing can be checked yet: they are taken as they are, for themselves.
        """
        found = []
        if self.pieces.size == 0 and self._check(0):
            found.append(0)
        for start, stop in self.partial.spans():
            first = -(-start // self.pieces.piece_size)
            last = self.pieces.count if stop >= self.pieces.size else stop // self.pieces.piece_size
            for piece in range(first, last):
                if self._check(piece):
                    found.append(piece)
                await asyncio.sleep(0)
        for piece in found:
            self.accept(piece)
        return found

    def _check(self, piece: int) -> bool:
        start, stop = self.pieces.span(piece)
        hasher = self.new_hasher()
        for offset in range(start, stop, _STEP_BYTES):
            hasher.update(self.partial.read(offset, min(stop, offset + _STEP_BYTES)))
        if self.sworn is not None:
            self.sworn.recall(piece, hasher.digest())
            return True
        return hasher.digest() == self.piece_hash(piece)

    async def hash_whole(self) -> bool:
        """Hash the pieces in order as they come, until all are; whether the digest is right."""
        partial = self.partial
        while partial.hashed < partial.size:
            size = self._hashable()
            if not size:
                self._advanced.clear()
                await self._advanced.wait()
                continue
            partial.advance(partial.hashed + size)
            await asyncio.sleep(0)
        return partial.verified()

    def _hashable(self) -> int:
        """How many bytes to hash next for the whole: a step, or the end; none yet."""
        stop = min(self.pieces.size, self._frontier * self.pieces.piece_size)
        ahead = stop - self.partial.hashed
        return min(ahead, _STEP_BYTES) if ahead >= _STEP_BYTES or stop == self.pieces.size else 0

    # -- going out

    def release(self) -> None:
        """The whole is right: all of it may be read."""
        self._released = True
        self._tell()

    def relent(self) -> None:
        """Who waits has waited long enough: give pieces as they come, but the last."""
        self._held = False
        self._tell()

    def send_away(self, error: OciMeshError) -> None:
        """Nothing is given to anybody here: who waits hears why. The pieces go on coming."""
        self._sent_away = error
        self._tell()

    @property
    def sent_away(self) -> OciMeshError | None:
        """Why nothing is given, if so."""
        return self._sent_away

    def store(self) -> None:
        """It is in the store now."""
        self._stored = True
        self._tell()

    @property
    def is_open(self) -> bool:
        """Whether it is neither in the store, nor has failed."""
        return not self._stored and self.failure is None

    def fail(self, failure: OciMeshError) -> None:
        """It will not come; those who wait hear why."""
        self.failure = failure
        self._tell()

    async def available(self, start: int) -> int:
        """Wait for the byte at `start`; where the bytes that can be read from there on end.

        Raises the failure if it will not come.
        """
        while True:
            stop = self.readable(start)
            failure = self._sent_away or (self.failure if stop <= start else None)
            if failure is not None:
                raise failure
            if stop > start:
                return stop
            await self._news.wait()

    def doubt(self) -> None:
        """Somebody goes by another list: give nothing more before all is right."""
        self._withhold = True

    @property
    def doubted(self) -> bool:
        """Whether nothing is given before all is right."""
        return self._withhold or self._held

    async def some(self) -> None:
        """Wait for the first piece that may be read; raise the failure if none will come."""
        while not any(self.good) or (self.doubted and not self._released):
            failure = self._sent_away or self.failure
            if failure is not None:
                raise failure
            await self._news.wait()

    async def stored(self) -> None:
        """Wait until it is in the store; raise the failure if it will not be."""
        while not self._stored:
            if self.failure is not None:
                raise self.failure
            await self._news.wait()

    def readable(self, start: int) -> int:
        """Where the checked bytes from `start` on end; `start` if there are none."""
        if self._released:
            return self.pieces.size
        limit = self.pieces.span(self.pieces.count - 1)[0]
        if start >= limit or self.doubted:
            return start
        piece = self.pieces.at(start)
        if piece < self._frontier:
            piece = self._frontier
        while piece < self.pieces.count and self.good[piece]:
            piece += 1
        return max(start, min(limit, piece * self.pieces.piece_size))

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
