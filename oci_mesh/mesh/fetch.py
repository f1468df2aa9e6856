"""A blob that comes from other nodes into this node's store, for any number of waiting clients.

Who has it is found out (`meeting`), by which list its pieces are judged is agreed on
(`agreement`), the pieces are got (`transfer`). Should the list have been a lie, its signer is
banned and all begins anew; what clients were given until then is cut, for nothing can take it back.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from oci_mesh.errors import (
    BlobUnknown,
    DigestInvalid,
    OciMeshError,
    PeerError,
    StorageFull,
    UploadBusy,
)
from oci_mesh.mesh.agreement import Agreement
from oci_mesh.mesh.assembly import Assembly
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.meeting import Meeting
from oci_mesh.mesh.statements import Statements
from oci_mesh.mesh.transfer import SignerLied, SizeDiffers, Tools, Transfer
from oci_mesh.store.base import Blob, Partial
from oci_mesh.swarm.statement import Statement

_log = logging.getLogger(__name__)

# Until then a fetch may still end in a 404, and the client goes elsewhere at once; after it the
# headers are sent and the body follows as it is verified. Clients wait 30 s for headers.
EARLY_S: Final = 5.0

# Lists that were lies or led nowhere, and sizes that were wrong, before a blob is given up.
MAX_ATTEMPTS: Final = 16

# The bytes of an earlier fetch are held until its last client has heard that it failed.
HELD_S: Final = 2.0
_LOOK_S: Final = 0.05

# Read at a time, of what is on its way, for clients that are not sent a file.
_CHUNK_BYTES: Final = 1024 * 1024


class Fetch:
    """One blob. `run` fetches it; `opened` gives it to one of those who wait."""

    def __init__(
        self, tools: Tools, client: PeerClient, statements: Statements, meeting: Meeting
    ) -> None:
        self.repository = meeting.repository
        self.digest = meeting.digest
        self.transfer: Transfer | None = None
        self.statement: Statement | None = None
        self._tools = tools
        self._statements = statements
        self._meeting = meeting
        self._agreement = Agreement(tools.peers, client, statements, meeting)
        self._located = asyncio.Event()
        self._done = asyncio.Event()
        self._error: OciMeshError | None = None
        self._readers: Counter[Assembly] = Counter()

    # -- for those who wait

    async def opened(self) -> Blob:
        """The blob, or what is here of it: its bytes come as they are verified.

        Raises `BlobUnknown` if no node has it or could give it, `PeerError` if it cannot be taken.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(EARLY_S):
                await self._begun()
        while not self._located.is_set():  # one attempt may follow another at once
            await self._located.wait()
        if self._error is not None:
            raise self._error
        if self._done.is_set() or self.transfer is None:
            return await self._tools.store.blob(self.repository, self.digest)
        return _Arriving(self, self.transfer)

    async def _begun(self) -> None:
        """Wait until some of it can be given, or all has ended."""
        while True:
            await self._located.wait()
            if self.transfer is None or self._done.is_set():
                return
            with suppress(OciMeshError):  # this attempt's: another follows, or `_error` tells
                await self.transfer.assembly.some()
                return

    async def under_way(self, within_s: float) -> Transfer | None:
        """The transfer, if it has begun by then, and not ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._located.wait()
        ended = self._done.is_set() or not self._located.is_set()
        return None if ended else self.transfer

    @asynccontextmanager
    async def reading(self, assembly: Assembly) -> AsyncIterator[None]:
        """Keep the bytes open for the time of the block."""
        self.hold(assembly)
        try:
            yield
        finally:
            await self.let_go(assembly)

    def hold(self, assembly: Assembly) -> None:
        """Keep its file open until as many `let_go`."""
        self._readers[assembly] += 1

    async def let_go(self, assembly: Assembly) -> None:
        """Close the file after the last reader."""
        self._readers[assembly] -= 1
        if not self._readers[assembly]:
            del self._readers[assembly]
            await assembly.partial.close()

    # -- the work

    async def run(self) -> None:
        """Fetch the blob into the store. Raises nothing of that: it is for those who wait."""
        try:
            await self._meeting.join()
            for _ in range(MAX_ATTEMPTS):
                if await self._attempt():
                    break
            else:
                raise PeerError(f"nobody tells the truth about {self.digest}")
        except StorageFull as error:
            self._error = PeerError(f"no room here for {self.digest}: {error}")
        except OciMeshError as error:
            self._error = error
        except BaseException:
            self._error = PeerError("this node is stopping")
            raise
        finally:
            if self._error is not None and self.transfer is not None:
                self.transfer.assembly.fail(self._error)
            self._located.set()
            self._done.set()
        await (self._meeting.leave() if self._error else self._meeting.complete())

    async def _attempt(self) -> bool:
        """Whether the blob is in the store now; if not, something was learnt."""
        self.statement, size = await self._agreement.find()
        if self.statement is not None:  # others that start together with this node are known now
            await self._meeting.refresh()
        partial = await self._hold(size)
        assembly = Assembly(partial, self.statement, withhold=self._agreement.disputed)
        async with self.reading(assembly):
            have = await assembly.resume()
            if have:
                _log.info("%s: going on with %d pieces", self.digest, len(have))
            transfer = Transfer(self._tools, self._meeting, self.statement, assembly, have)
            self.transfer = transfer
            self._located.set()
            try:
                await transfer.run()
                assembly.release()
                await partial.commit()
            except (SizeDiffers, SignerLied, PeerError, BlobUnknown) as error:
                await self._end_attempt(assembly, error)
                return False
            except StorageFull:  # what needs the room most is not this
                await partial.discard()
                raise
        assembly.store()
        if self.statement is not None:
            self._statements.adopt(self.digest, size, self.statement.hashes)
        return True

    async def _hold(self, size: int) -> Partial:
        until = asyncio.get_running_loop().time() + HELD_S
        while True:
            try:
                return await self._tools.store.partial(self.repository, self.digest, size)
            except UploadBusy:
                if asyncio.get_running_loop().time() > until:
                    raise
            await asyncio.sleep(_LOOK_S)

    async def _end_attempt(self, assembly: Assembly, error: Exception) -> None:
        """Learn from one that brought nothing: who lied, or by what not to go again.

        Raises the error if there is nothing else to go by. Pieces that are right stay for later.
        """
        claims: dict[str, int] = {}
        final = False
        if isinstance(error, SignerLied):
            lie = DigestInvalid(f"its signed list of the pieces of {self.digest} is wrong")
            for signer in self._agreement.signers:
                self._tools.peers.blame(signer, "corrupt", lie)
        elif isinstance(error, SizeDiffers):
            claims = error.claims
        else:
            final = not (self._agreement.disputed or assembly.doubted)
        if not final:
            self._located.clear()
            self._agreement.refuse(self.statement, claims)
            assembly.doubt()  # what clients have not got yet of a lie, they do not get
            assembly.fail(PeerError(str(error) or f"a wrong piece list of {self.digest}"))
        if not final or not any(assembly.good):
            await assembly.partial.discard()
        if final:
            raise error


class _Arriving(Blob):
    """What a client has of a blob that is on its way. It is read piece by piece, not sent as a
    file: for so few bytes at a time sendfile costs asyncio more than the copies do.
    """

    def __init__(self, fetch: Fetch, transfer: Transfer) -> None:
        self.digest = fetch.digest
        self.size = transfer.assembly.pieces.size
        self._fetch = fetch
        self._transfer = transfer
        self._open = True
        fetch.hold(transfer.assembly)

    async def available(self, start: int, stop: int) -> int:
        """As `Blob.available`. What is asked for here is fetched first."""
        assembly = self._transfer.assembly
        if assembly.readable(start) <= start:
            self._transfer.want(start)
        return min(stop, await assembly.available(start))

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """As `Blob.chunks`."""
        while start < stop:
            until = min(await self.available(start, stop), start + _CHUNK_BYTES)
            yield self._transfer.assembly.partial.read(start, until)
            start = until

    async def stored(self) -> None:
        """As `Blob.stored`."""
        await self._transfer.assembly.stored()

    async def close(self) -> None:
        """As `Blob.close`. The fetch goes on: for others, and for the next time."""
        if self._open:
            self._open = False
            await self._fetch.let_go(self._transfer.assembly)
