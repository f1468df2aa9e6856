"""What this node has of an image and knows of it, told to a node whose operator asks.

It tells of itself only, and of private content only to those who prove a right to it: to all others
there is nothing. Nothing is fetched for it, and nothing is asked of anybody else.
"""

import asyncio
import hashlib
import time
from typing import Final

from oci_mesh.errors import BlobUnknown, OciError
from oci_mesh.journal import Journal
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.pieces import Find
from oci_mesh.mesh.proofs import Proofs
from oci_mesh.mesh.wire import MAX_PULLS, Held, Holding, Holdings, Meaning, Wanted
from oci_mesh.sources import Source
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import parse_tag
from oci_mesh.spec.scope import is_mirrored, is_private, parse_scope
from oci_mesh.store.base import Store

_NOTHING: Final = Holding()

# All pieces are here, and not yet in the store: it cannot be shown.
_NEARLY: Final = 0.99


class Holder:
    """Answers `Holdings`. `local` is what is on this machine, with containerd's; `find` gives the
    fetch of a blob that is on its way.
    """

    def __init__(
        self,
        store: Store,
        local: Source,
        find: Find,
        proofs: Proofs,
        gossip: Gossip,
        journal: Journal,
        upload_limit: int,
    ) -> None:
        self._store = store
        self._local = local
        self._find = find
        self._proofs = proofs
        self._gossip = gossip
        self._journal = journal
        self._upload_limit = upload_limit

    async def answer(self, node: str, asked: Holdings) -> Held:
        """What `node` may know. Raises `NameInvalid`, `DigestInvalid`, `TagInvalid`."""
        repository = str(parse_scope(asked.repository))
        digests = [Digest.parse(wanted.digest) for wanted in asked.wanted]
        async with asyncio.TaskGroup() as group:  # proofs may wait for containerd, all at once
            proofs = [
                group.create_task(self._proofs.allow(repository, digest, node, wanted.proof))
                for digest, wanted in zip(digests, asked.wanted, strict=True)
            ]
        held = await self._held(repository, asked, [proof.result() for proof in proofs])
        if is_mirrored(repository) and not is_private(repository):
            # Clients ask for private blobs by the same name. What is not here for all, is not known
            # to be public.
            shown = zip(asked.wanted, held.holdings, strict=True)
            public = {wanted.digest for wanted, holding in shown if holding.size >= 0}
            held.deliveries = [each for each in held.deliveries if each.digest in public]
        return held

    async def own(self, asked: Holdings) -> Held:
        """What this node knows of itself: nothing is to be proved."""
        repository = str(parse_scope(asked.repository))
        return await self._held(repository, asked, [True] * len(asked.wanted))

    async def _held(self, repository: str, asked: Holdings, allowed: list[bool]) -> Held:
        holdings, known = [], set()
        for wanted, may in zip(asked.wanted, allowed, strict=True):
            holding = _NOTHING
            if may:
                digest = Digest.parse(wanted.digest)
                holding = await self._holding(repository, digest, wanted, asked.nonce)
                known.add(wanted.digest)
            holdings.append(holding)
        journal = self._journal
        named = str(parse_scope(repository)._replace(private=False))  # as clients name it
        return Held(
            holdings,
            await self._meaning(repository, parse_tag(asked.tag)) if asked.tag else None,
            journal.arrivals(repository, known, MAX_PULLS),
            journal.deliveries(named, known, MAX_PULLS),
            journal.meter.best,
            journal.limit,
            self._upload_limit,
        )

    async def _meaning(self, repository: str, tag: str) -> Meaning | None:
        if is_mirrored(repository):
            kept = await self._store.resolution(repository, tag)
            if kept is None:
                return None
            return Meaning(str(kept.digest), age_s=max(0.0, time.time() - kept.checked_at))
        record = self._gossip.register.get(repository, tag)
        return None if record is None else Meaning(record.target or "", record.stamp)

    async def _holding(
        self, repository: str, digest: Digest, wanted: Wanted, nonce: str
    ) -> Holding:
        try:
            if wanted.is_manifest:
                content = (await self._store.peek(repository, digest)).content
                probe = content[wanted.start : wanted.start + wanted.length]
                return Holding(len(content), 1.0, mark=mark(nonce, probe, wanted.length))
            return await self._stored(repository, digest, wanted, nonce)
        except OciError:  # not here, or its file cannot be read
            return await self._elsewhere(repository, digest)

    async def _stored(self, repository: str, digest: Digest, wanted: Wanted, nonce: str) -> Holding:
        async with await self._store.blob(repository, digest) as blob:
            stop = min(blob.size, wanted.start + wanted.length)
            probe = b"".join([chunk async for chunk in blob.chunks(wanted.start, stop)])
            return Holding(blob.size, 1.0, mark=mark(nonce, probe, wanted.length))

    async def _elsewhere(self, repository: str, digest: Digest) -> Holding:
        """In containerd's store, or on its way."""
        fetch = self._find(repository, digest)
        if fetch is not None and fetch.transfer is not None:
            assembly = fetch.transfer.assembly
            share = sum(assembly.good) / len(assembly.good)
            return Holding(assembly.pieces.size, min(share, _NEARLY))
        try:
            if self._local is self._store:
                raise BlobUnknown("no containerd is read here")
            size = await self._local.stat(repository, digest)
        except OciError:
            return _NOTHING
        return Holding(size, 1.0, in_containerd=True)


def mark(nonce: str, probe: bytes, length: int) -> str:
    """What only who has the bytes can say; nothing where no bytes were asked for."""
    return hashlib.sha256(nonce.encode() + b"\0" + probe).hexdigest() if length else ""
