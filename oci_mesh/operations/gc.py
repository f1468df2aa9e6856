"""`node gc`: what is of no use goes, in small steps beside all else.

Garbage is a blob of one of the mesh's own repositories that no manifest of that repository names
on any node, and that was not used for the grace period. All nodes are asked: one that knows of an
image that this one has not heard of yet may rely on the blob here. As long as a node that belongs
to the mesh does not answer (it is down, and not forgotten: that takes an hour) nothing of this kind
goes. So it is never the last copy of what was pushed, as long as anybody could still pull it.

With `untagged`, manifests too: those that no tag points to, no index names, that nothing is about,
and that are not about anything that is there (signatures). They are deleted, on all nodes; their
blobs are then garbage here, and on the other nodes when these collect theirs. A tag that is set at
another node at the very moment at which this happens loses.

What else goes: uploads that nobody continues, what was in quarantine for long enough, and cache
that is beyond the bounds. Every step is safe at any moment; it may be interrupted and run again.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Final, Protocol

from oci_mesh.cache import Cache, steps
from oci_mesh.control.upkeep import Freed, GcRequest, GcResult, Progress
from oci_mesh.control.wire import Document
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.stock import Stocks
from oci_mesh.spec.names import NameRecord
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.store.base import Store, Unnamed
from oci_mesh.tasks import loop_time

# Damaged content is kept for a look at it. Who runs a scrub looks at its report within a week.
QUARANTINE_S: Final = 7 * 24 * 3600.0

# Repositories listed at a time.
_PAGE: Final = 100


class Publisher(Protocol):
    """Says what changed here (`MeshPublisher`)."""

    def stamp(self) -> str:
        """A stamp later than every one given or seen so far."""
        ...

    async def announce(self, records: Sequence[NameRecord]) -> None:
        """Tell all live nodes."""
        ...


class Collector:
    """`join` are the addresses that this node was told to join."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        stocks: Stocks,
        gossip: Gossip,
        publisher: Publisher,
        *,
        join: Sequence[str],
        upload_expiry_s: float,
    ) -> None:
        self._store = store
        self._cache = cache
        self._stocks = stocks
        self._gossip = gossip
        self._publisher = publisher
        self._join = join
        self._upload_expiry_s = upload_expiry_s

    async def answer(self, asked: GcRequest) -> AsyncGenerator[Document, None]:
        """What it does, and the result. May be cancelled at any moment, and be called twice."""
        result = GcResult(asked.dry_run, [])
        yield Progress("leftovers", 0, 0)
        if not asked.dry_run:
            expired = await self._store.expire_uploads(self._upload_expiry_s)
            result.freed.append(Freed("uploads", expired, 0))
        purged = await self._store.purge_quarantine(QUARANTINE_S, dry_run=asked.dry_run)
        result.freed.append(Freed("quarantine", *purged))
        before_s = time.time() - asked.grace_s
        kinds = ("manifests", "blobs") if asked.untagged else ("blobs",)
        for kind in kinds:
            freed = Freed(kind, 0, 0)
            result.freed.append(freed)
            async for repository in self._repositories():
                await self._look_at(repository, kind, asked, before_s, freed, result)
                yield Progress(kind, freed.bytes, 0)
        if not asked.dry_run:
            yield Progress("cache", 0, 0)
            before = await self._store.usage()
            await self._cache.trim()
            after = await self._store.usage()
            gone = max(0, before.blobs - after.blobs), max(0, before.bytes - after.bytes)
            result.freed.append(Freed("cache", *gone))
        yield result

    async def _repositories(self) -> AsyncGenerator[str, None]:
        """The mesh's own."""
        page = await self._store.repositories(n=_PAGE)
        while page:
            for repository in page:
                if not is_mirrored(repository):
                    yield repository
            await asyncio.sleep(0)
            page = await self._store.repositories(page[-1], _PAGE)

    async def _look_at(
        self,
        repository: str,
        kind: str,
        asked: GcRequest,
        before_s: float,
        freed: Freed,
        result: GcResult,
    ) -> None:
        find = self._store.untagged if kind == "manifests" else self._store.unnamed
        found = await find(repository, before_s)
        if not found:
            return
        unneeded = await self._unneeded(found, asked.grace_s, result)
        if asked.dry_run:
            freed.count += len(unneeded)
            freed.bytes += sum(each.size for each in unneeded)
            return
        for step in steps(unneeded):
            began_s = loop_time()
            take = self._delete if kind == "manifests" else self._store.collect
            gone = await take(step, before_s)
            freed.count += len(gone)
            freed.bytes += sum(each.size for each in gone)
            await asyncio.sleep(loop_time() - began_s)  # others write, too

    async def _unneeded(
        self, found: list[Unnamed], grace_s: float, result: GcResult
    ) -> list[Unnamed]:
        """Those that no other node needs, either; none if it cannot be known."""
        digests = [each.digest for each in found]
        members = self._stocks.all_known()
        findings = await self._stocks.ask(members, found[0].repository, digests, grace_s)
        silent = set(findings.silent)
        if not self._gossip.met and not members:
            silent.update(self._join)  # it has met nobody yet
        unneeded = [each for each in found if each.digest not in findings.needed]
        if silent:
            result.silent = sorted({*result.silent, *silent})
            result.kept += sum(each.size for each in unneeded)
            return []
        return unneeded

    async def _delete(self, manifests: Sequence[Unnamed], before_s: float) -> list[Unnamed]:
        gone, written = [], []
        for each in manifests:
            stamp = self._publisher.stamp()
            records = await self._store.delete_untagged(
                each.repository, each.digest, stamp, before_s
            )
            if records:
                gone.append(each)
                written += records
        await self._publisher.announce(written)
        return gone
