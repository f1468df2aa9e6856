"""A blob on its way from other nodes into this node's store, for any number of waiting clients.

In this form it comes from one node at a time, going on with the next where one breaks off. If what
several gave does not add up, each has to give all of it alone: that shows who lies.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Final

from oci_mesh.errors import (
    BlobUnknown,
    DigestInvalid,
    OciError,
    OciMeshError,
    PeerError,
    StorageFull,
)
from oci_mesh.members.table import Member
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.peers import Peers
from oci_mesh.metrics import Metrics
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Blob, Store, Upload

# Until then a fetch may still end in a 404, and the client goes elsewhere at once; after it the
# headers are sent and the body follows when it is verified. Clients wait 30 s for headers.
EARLY_S: Final = 5.0


class Fetch:
    """One blob. `run` fetches it; `opened` gives it to one of those who wait."""

    def __init__(
        self,
        store: Store,
        peers: Peers,
        client: PeerClient,
        metrics: Metrics,
        repository: str,
        digest: Digest,
    ) -> None:
        self.repository = repository
        self.digest = digest
        self.store = store
        self._peers = peers
        self._client = client
        self._metrics = metrics
        self._path = f"/v2/{repository}/blobs/{digest}"
        self._size = 0  # as some node claims; true once the blob is verified
        self._failed: set[str] = set()  # not asked again for this blob now
        self._located = asyncio.Event()
        self._done = asyncio.Event()
        self._error: OciMeshError | None = None

    # -- for those who wait

    async def opened(self) -> Blob:
        """The blob, if it is here within `EARLY_S`; else one whose bytes come when it is.

        Raises `BlobUnknown` if no node has it or could give it, `PeerError` if it cannot be taken.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(EARLY_S):
                await self._done.wait()
        await self._located.wait()
        if self._error is not None:
            raise self._error
        if self._done.is_set():
            return await self.store.blob(self.repository, self.digest)
        return _Awaited(self, self._size)

    async def verified(self) -> None:
        """Return once the blob is in the store; raise if it will not be."""
        await self._done.wait()
        if self._error is not None:
            raise self._error

    # -- the work

    async def run(self) -> None:
        """Fetch the blob into the store. Raises nothing of that: it is for those who wait."""
        try:
            while not await self._take_from(await self._locate()):
                pass  # each time some failed; those are not asked again
        except StorageFull as error:
            self._error = PeerError(f"no room here for {self.digest}: {error}")
        except OciMeshError as error:
            self._error = error
        except BaseException:
            self._error = PeerError("this node is stopping")
            raise
        finally:
            self._located.set()
            self._done.set()

    async def _locate(self) -> list[Member]:
        """Nodes that agree on the size of what they have."""
        found = await self._peers.holders(self.digest, self._path, self._failed)
        if not found:
            raise BlobUnknown(f"no node has {self.digest} in {self.repository}, or can give it")
        self._size = found[0][1]
        self._located.set()
        return [member for member, size in found if size == self._size]

    async def _take_from(self, holders: Sequence[Member]) -> bool:
        """Whether the blob could be had of these; each goes on where the one before stopped."""
        upload_id = await self.store.create_upload(self.repository, self.digest.algorithm)
        givers: list[Member] = []
        try:
            for member in holders:
                givers.append(member)
                async with self.store.upload(self.repository, upload_id) as upload:
                    if not await self._append(member, upload):
                        continue
                    try:
                        await upload.commit(self.digest)
                    except DigestInvalid as error:
                        return await self._find_liar(givers, error)
                    return True
        finally:
            with suppress(OciError):  # committed, or refused and gone already
                await self.store.cancel_upload(self.repository, upload_id)
        return False

    async def _append(self, member: Member, upload: Upload) -> bool:
        """Write what `member` has after what is there; whether that completed it."""
        start = upload.offset
        try:
            async with aclosing(
                self._client.chunks(member.address, self._path, start, self._size)
            ) as chunks:
                async for chunk in chunks:
                    await upload.write(chunk)
        except PeerError as error:
            self._fail(member, "cut", error)
            return False
        finally:
            self._metrics.peer_received.labels(member.id).inc(upload.offset - start)
        return True

    async def _find_liar(self, givers: Sequence[Member], error: DigestInvalid) -> bool:
        """Blame who alone gave wrong bytes; of several, whether one has the blob after all."""
        if len(givers) == 1:
            self._fail(givers[0], "corrupt", error)
            return False
        for member in givers:
            if await self._take_from([member]):
                return True
        return False

    def _fail(self, member: Member, fault: str, error: OciMeshError) -> None:
        self._failed.add(member.id)
        self._peers.blame(member, fault, error)


class _Awaited(Blob):
    """What a client has of a blob that is on its way: its size, as claimed, and its bytes later."""

    def __init__(self, fetch: Fetch, size: int) -> None:
        self.digest = fetch.digest
        self.size = size
        self._fetch = fetch

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """As `Blob.chunks`; the first chunk comes when the last one has."""
        await self._fetch.verified()
        async with await self._fetch.store.blob(self._fetch.repository, self.digest) as blob:
            if blob.size != self.size:
                raise PeerError(f"{self.digest} was announced with {self.size} bytes")
            async for chunk in blob.chunks(start, stop):
                yield chunk

    async def close(self) -> None:
        """Nothing: the fetch goes on for others, and for the next time."""
