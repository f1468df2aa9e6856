"""A blob that comes from other nodes into this node's store, for any number of waiting clients.

Who has it is found out (`meeting`), by which list its pieces are judged is agreed on
(`agreement`), the pieces are got (`transfer`). Should the list have been a lie, its signer is
banned and all begins anew; what clients were given until then is cut, for nothing can take it back.

A blob of another registry that no node has comes from there (`cold`), and clients are held off
until it is whole, or they have waited for long. Should it be wrong in the end, this node reads all
of it by itself: then it is known who lied, a node or the registry.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from oci_mesh.errors import (
    BlobUnknown,
    DigestInvalid,
    OciMeshError,
    PeerError,
    StorageFull,
    UploadBusy,
    UpstreamError,
)
from oci_mesh.mesh.agreement import Agreement
from oci_mesh.mesh.assembly import Assembly
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.cold import Cold
from oci_mesh.mesh.meeting import Meeting
from oci_mesh.mesh.statements import Statements
from oci_mesh.mesh.sworn import Sworn
from oci_mesh.mesh.transfer import SignerLied, SizeDiffers, Tools, Transfer
from oci_mesh.sources import Origin, Origins
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.store.base import Blob, Partial
from oci_mesh.swarm.pieces import SMALL_BYTES
from oci_mesh.swarm.statement import Statement
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

# Until then a fetch may still end in a 404, and the client goes elsewhere at once; after it the
# headers are sent and the body follows as it is verified. Clients wait 30 s for headers.
EARLY_S: Final = 5.0

# Of what nobody has verified yet clients get nothing for so long; then what is here, but the last
# piece. By then a link that is not slow has brought most blobs, and containerd waits for 30 s.
HOLD_S: Final = 20.0

# To find the origin of a blob: whether its registry has it, and gives it to us.
ORIGIN_S: Final = 20.0

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
        self,
        tools: Tools,
        client: PeerClient,
        statements: Statements,
        meeting: Meeting,
        origins: Origins | None = None,
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
        self._origins = origins if is_mirrored(self.repository) else None
        self._cold: Cold | None = None  # of this attempt
        self._warm_failed = False
        self._suspects: Sworn | None = None  # by which the last one was wrong
        self._was_given = False
        self._taking = tools.journal.take(meeting.repository, meeting.digest, loop_time)

    # -- for those who wait

    async def opened(self) -> Blob:
        """The blob, or what is here of it: its bytes come as they are verified.

        Raises `BlobUnknown` if no node has it or could give it, `PeerError` if it cannot be taken.
        """
        await self._begun(EARLY_S)
        while not self._located.is_set():  # one attempt may follow another at once
            await self._located.wait()
        transfer = self.transfer
        if transfer is not None and transfer.follows and not transfer.is_hopeless:
            await self._begun(HOLD_S - EARLY_S)  # or this client may have to lead, without headers
        if self._error is not None:
            raise self._error
        if self._done.is_set() or self.transfer is None:
            return await self._tools.store.blob(self.repository, self.digest)
        if self.transfer.assembly.sent_away is not None:
            raise self.transfer.assembly.sent_away
        if self.transfer.is_hopeless:  # its client is quicker by itself
            raise BlobUnknown(f"nothing of {self.digest} came in {EARLY_S:.0f} s")
        self._was_given = True
        return _Arriving(self, self.transfer)

    @property
    def was_cut(self) -> bool:
        """Whether it failed when clients had begun to get it."""
        return self._was_given and self._error is not None

    async def _begun(self, within_s: float) -> None:
        """Wait until some of it can be given, or all has ended, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._some()

    async def _some(self) -> None:
        while True:
            await self._located.wait()
            if self.transfer is None or self._done.is_set():
                return
            if self.transfer.assembly.sent_away is not None:
                return
            with suppress(OciMeshError):  # this attempt's: another follows, or `_error` tells
                await self.transfer.assembly.some()
                return

    @property
    def is_arriving(self) -> bool:
        """Whether pieces come, or are waited for, and the store does not have it yet."""
        return self.transfer is not None and self.transfer.assembly.is_open

    async def under_way(self, within_s: float) -> Transfer | None:
        """The transfer, if it has begun by then, and not ended."""
        if not self._located.is_set():
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
            with self._taking.timed("met_s"):
                await self._meeting.join()
            for _ in range(MAX_ATTEMPTS):
                if await self._attempt():
                    break
            else:
                raise PeerError(f"nobody tells the truth about {self.digest}")
        except StorageFull as error:
            self._error = PeerError(f"no room here for {self.digest}: {error}")
        except UpstreamError as error:
            self._error = BlobUnknown(f"no node has {self.digest}; its registry: {error}")
        except OciMeshError as error:
            self._error = error
        except BaseException:
            self._error = PeerError("this node is stopping")
            raise
        finally:
            if self._error is not None and self.transfer is not None:
                self.transfer.assembly.fail(self._error)
            self._taking.end(str(self._error or ""))
            self._located.set()
            self._done.set()
        await (self._meeting.leave() if self._error else self._meeting.complete())

    async def _attempt(self) -> bool:
        """Whether the blob is in the store now; if not, something was learnt."""
        self._cold = None
        if self._origins is not None and (self._warm_failed or not self._meeting.seeds()):
            origin = await self._find_origin()
            if origin is not None or (self._meeting.others() and self._meeting.size >= 0):
                return await self._attempt_cold(origin)
            if not self._meeting.seeds():
                raise BlobUnknown(f"no node has {self.digest}, and its registry does not give it")
        try:
            with self._taking.timed("listed_s"):
                self.statement, size = await self._agreement.find()
        except BlobUnknown as error:
            self._go_cold(error)
            return False
        if self.statement is not None:  # others that start together with this node are known now
            await self._meeting.refresh()
        assembly = Assembly(
            await self._hold(size), self.statement, withhold=self._agreement.disputed
        )
        async with self.reading(assembly):
            have = await assembly.resume()
            find = None if self._origins is None else self._find_origin
            transfer = Transfer(
                self._tools,
                self._meeting,
                self.statement,
                assembly,
                self._taking,
                have,
                find_origin=find,
            )
            if not await self._carry_out(transfer, have):
                return False
        if self.statement is not None:
            self._conclude(size, self.statement.hashes)
        return True

    async def _attempt_cold(self, origin: Origin | None) -> bool:
        """As `_attempt`, of a blob that no node has all of."""
        meeting = self._meeting
        self.statement = None
        size = meeting.size if origin is None else origin.size
        meeting.learn_size(size)
        await meeting.refresh()  # others that start together with this node are known now
        sworn = None
        if size > SMALL_BYTES:
            sworn = Sworn(self._statements.signer, self._tools.peers.knows, self.digest, size)
        alone = self._suspects is not None
        self._cold = cold = Cold(meeting, origin, alone=alone, pressed=self._warm_failed)
        assembly = Assembly(await self._hold(size), None, sworn=sworn)
        relenting = asyncio.get_running_loop().call_later(HOLD_S, assembly.relent)
        try:
            async with self.reading(assembly):
                # Who leads reads all of it: others could not take from it what was here before.
                have = [] if cold.alone or cold.is_led else await assembly.resume()
                transfer = Transfer(
                    self._tools, meeting, None, assembly, self._taking, have, cold=cold
                )
                if not await self._carry_out(transfer, have):
                    return False
        finally:
            relenting.cancel()
        if sworn is not None:
            self._conclude(size, sworn.hashes)
        return True

    async def _carry_out(self, transfer: Transfer, have: Sequence[int]) -> bool:
        """Whether the blob is in the store now."""
        if have:
            _log.info("%s: going on with %d pieces", self.digest, len(have))
        assembly = transfer.assembly
        kept = sum(assembly.pieces.length(piece) for piece in have)
        self._taking.begin(assembly.pieces.size, cold=self._cold is not None, kept=kept)
        self.transfer = transfer
        self._meeting.fed = False
        self._located.set()
        try:
            try:
                await transfer.run()
            finally:
                self._taking.received(assembly.received)
            assembly.release()
            with self._taking.timed("stored_s"):
                await self._keep(assembly.partial)
        except (SizeDiffers, SignerLied, PeerError, UpstreamError, BlobUnknown) as error:
            await self._end_attempt(assembly, error)
            return False
        except StorageFull:  # what needs the room most is not this
            await assembly.partial.discard()
            raise
        assembly.store()
        return True

    async def _keep(self, partial: Partial) -> None:
        """Put it into the store; but not what this node's client has, if nobody else wants it."""
        led = self._cold is not None and self._cold.follows_client and self._meeting.fed
        if led and len(self._meeting.entries) == 1:
            await partial.discard()
        else:
            await partial.commit()

    def _conclude(self, size: int, hashes: bytes) -> None:
        """The blob is right: so were these pieces, and who swore that they are others lied."""
        self._statements.adopt(self.digest, size, hashes)
        if self._suspects is not None:
            wrong = self._suspects.liars(hashes)
            wrong.pop(self._tools.peers.me, None)  # it read what it was given, or its disk failed
            for signer, pieces in wrong.items():
                lie = DigestInvalid(f"it signed wrong pieces of {self.digest}: {pieces}")
                self._tools.peers.blame(signer, "corrupt", lie)

    async def _find_origin(self) -> Origin | None:
        assert self._origins is not None, "the mesh's own content has none"
        try:
            with self._taking.timed("listed_s"):
                async with asyncio.timeout(ORIGIN_S):
                    return await self._origins.origin(self.repository, self.digest)
        except (TimeoutError, UpstreamError) as error:
            _log.warning("%s: its registry: %s", self.digest, str(error) or "no answer in time")
            return None

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
        keep = False
        try:
            keep = self._learn(assembly, error)
        except OciMeshError:
            keep = not isinstance(error, SignerLied)
            raise
        else:
            self._located.clear()
            assembly.doubt()  # what clients have not got yet of a lie, they do not get
            assembly.fail(PeerError(str(error) or f"a wrong piece list of {self.digest}"))
        finally:
            if not (keep and any(assembly.good)):
                await assembly.partial.discard()

    def _learn(self, assembly: Assembly, error: Exception) -> bool:
        """Whether the pieces are good for another attempt; raises the error if there is none."""
        if self._cold is not None:
            return self._learn_cold(assembly, error)
        claims: dict[str, int] = {}
        if isinstance(error, SignerLied):
            lie = DigestInvalid(f"its signed list of the pieces of {self.digest} is wrong")
            for signer in self._agreement.signers:
                self._tools.peers.blame(signer, "corrupt", lie)
        elif isinstance(error, SizeDiffers):
            claims = error.claims
        elif not (self._agreement.disputed or assembly.doubted):
            self._go_cold(error)
            return True
        self._agreement.refuse(self.statement, claims)
        return False

    def _learn_cold(self, assembly: Assembly, error: Exception) -> bool:
        """All pieces were sworn, and the whole is wrong: compare them with what the origin gives
        to this node now. If that is wrong too, so is the origin.
        """
        if not isinstance(error, SignerLied):
            raise error
        if self._suspects is not None or assembly.sworn is None:
            raise UpstreamError(f"it gives other bytes than {self.digest}")
        _log.warning("%s: somebody swore to wrong pieces", self.digest)
        self._suspects = assembly.sworn
        return False

    def _go_cold(self, error: Exception) -> None:
        """Nodes that should have it do not give it: go on with its origin, or raise `error`."""
        if self._origins is None or self._warm_failed:
            raise error
        _log.info("%s: no node gives it (%s)", self.digest, error)
        self._warm_failed = True


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
