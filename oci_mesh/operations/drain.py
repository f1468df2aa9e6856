"""`node drain`: hand over what only this node has, then leave the mesh.

Everything that was pushed into the mesh's own repositories has to be on `copies` other nodes, or
on all of them if there are fewer: each manifest with all its blobs, and blobs of the last day that
no manifest names yet, for somebody may be about to push it. Tags are on all nodes anyway, and the
rest is cache.

Who holds what is asked of the nodes before, and again after it was handed over: what a node said
when it took something is not relied upon. Meanwhile this node takes no pushes and no copies for
others (503; /readyz says so, too), serves all else, and the others do not count its copies.
If all could be handed over the node leaves: it goes on to serve its own machine from what it has
and what it can get, until it is stopped. A restart brings it back as a full member.
If not, or if this is cancelled, all is as before, with more copies; it can be run again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from oci_mesh.control.upkeep import (
    GRACE_S,
    DrainRequest,
    DrainResult,
    Only,
    Progress,
)
from oci_mesh.control.wire import Document
from oci_mesh.errors import (
    BlobUnknown,
    ManifestUnknown,
    OciMeshError,
    OperationFailed,
    PeerError,
)
from oci_mesh.members.table import Member
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.replication import Replication
from oci_mesh.mesh.stock import Findings, Stocks
from oci_mesh.operations.pushes import Pushes
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.store.base import Store
from oci_mesh.tasks import Background, loop_time

_log = logging.getLogger(__name__)

# Handed over at a time: enough to keep a link busy, few enough that others have some of it.
PARALLEL: Final = 4

# Pushes that have begun get so long to end before it is looked at what there is. What takes longer
# is an upload of a blob, whose manifest will be refused here: its client goes to another node.
SETTLE_S: Final = 10.0

# Looks at what is missing. After the first there should be nothing left but what a push has just
# brought; who keeps finding something has a mesh that loses things.
MAX_ROUNDS: Final = 5

_PAGE: Final = 100

_NOBODY: Final = "there is no other node that could take it"


@dataclass
class _Item:
    """Something to hand over: a manifest with what it names, or a `blob`."""

    only: Only
    blob: bool = False
    whole: bool = True
    """This node itself has all of it."""
    late: bool = False
    """There was no time for it."""


class Drain:
    """Of one node; `copies` is its setting."""

    def __init__(
        self,
        store: Store,
        gossip: Gossip,
        replication: Replication,
        stocks: Stocks,
        pushes: Pushes,
        *,
        copies: int,
    ) -> None:
        self._store = store
        self._gossip = gossip
        self._replication = replication
        self._stocks = stocks
        self._pushes = pushes
        self._copies = copies

    async def answer(self, asked: DrainRequest) -> AsyncGenerator[Document, None]:
        """How far it is, and the result. Idempotent; cancelled, the node stays in the mesh.

        What there was no time for `within_s` has failed. Raises `OperationFailed` if it is under
        way already.
        """
        me = self._gossip.table.me
        result = DrainResult(me.id, me.left, asked.copies or self._copies)
        deadline_s = loop_time() + asked.within_s if asked.within_s else None
        if me.left:
            result.notes.append("it had left before")
        elif asked.dry_run:
            result.handed_over = [item.only for item in await self._missing(result.copies)]
            result.notes += self._warnings()
        else:
            async with self._closed():
                async with aclosing(self._hand_over(result, deadline_s)) as steps:
                    async for progress in steps:
                        yield progress
                if not result.failed:
                    result.notes += self._warnings()
                    await self._gossip.leave()
                    result.left = True
        yield result

    @asynccontextmanager
    async def _closed(self) -> AsyncGenerator[None, None]:
        """Within, nothing new comes here, and nobody counts on this node. It stays so if it left.

        What follows of a cancellation waits for nothing: the others learn of it by gossip.
        """
        if self._pushes.closed:
            raise OperationFailed("this node is being drained already")
        self._pushes.closed = True
        try:
            await self._gossip.drain()
            yield
        finally:
            if not self._gossip.table.me.left:
                self._pushes.closed = False
                self._gossip.table.drain(draining=False)

    async def _hand_over(
        self, result: DrainResult, deadline_s: float | None
    ) -> AsyncGenerator[Document, None]:
        yield Progress("waiting for pushes", 0, 0)
        await self._pushes.settle(SETTLE_S)
        done = total = 0
        incomplete: set[tuple[str, str]] = set()
        for _ in range(MAX_ROUNDS):
            missing = await self._missing(result.copies)
            missing = [item for item in missing if _key(item) not in incomplete]
            if not missing:
                return
            total += sum(item.only.size for item in missing)
            yield Progress("handing over", done, total)
            give = partial(self._give, result.copies)
            async with aclosing(_each(missing, give, deadline_s)) as given:
                async for item in given:
                    done += item.only.size
                    yield Progress("handing over", done, total)
                    if item.late:
                        result.failed.append(item.only)
                    elif not item.only.reason:
                        result.handed_over.append(item.only)
                    elif item.whole:
                        result.failed.append(item.only)
                    else:
                        incomplete.add(_key(item))
                        result.incomplete.append(item.only)
            if result.failed:
                return
        result.failed = [item.only for item in await self._missing(result.copies)]

    async def _give(self, copies: int, item: _Item) -> None:
        """Have other nodes hold it, or say why they do not."""
        try:
            item.only.reason = await self._try_to_give(copies, item)
        except (ManifestUnknown, BlobUnknown):  # it was deleted meanwhile
            return
        except OciMeshError as error:
            item.only.reason = str(error)

    async def _try_to_give(self, copies: int, item: _Item) -> str:
        only, reasons = item.only, []
        digest = Digest.parse(only.digest)
        if not item.blob:
            await self._replication.announce(only.repository, digest)
        takers = self._replication.takers(only.repository, digest)
        wanted = max(min(copies, len(takers)), 1)
        for member in takers:
            if len(only.holders) >= wanted:
                break
            if member.id in only.holders:
                continue
            try:
                await self._replication.give(member, only.repository, digest, blob=item.blob)
                only.holders.append(member.id)
            except PeerError as error:
                reasons.append(f"{member.id}: {error}")
        return "" if len(only.holders) >= wanted else "; ".join(reasons) or _NOBODY

    # -- what is missing

    async def _missing(self, copies: int) -> list[_Item]:
        """All that fewer than `copies` of the nodes that stay have."""
        staying = [member for member in self._gossip.live() if not member.draining]
        missing: list[_Item] = []
        seen: set[str] = set()
        page = await self._store.repositories(n=_PAGE)
        while page:
            for repository in page:
                if not is_mirrored(repository):
                    missing += await self._missing_of(repository, copies, staying, seen)
            page = await self._store.repositories(page[-1], _PAGE)
        return missing

    async def _missing_of(
        self, repository: str, copies: int, staying: Sequence[Member], seen: set[str]
    ) -> list[_Item]:
        manifests = await self._store.manifests(repository)
        old = set(await self._store.unnamed(repository, time.time() - GRACE_S))
        now_s = time.time() + 1  # the whole second that it is now, too
        blobs = [b for b in await self._store.unnamed(repository, now_s) if b not in old]
        digests = [*manifests, *(blob.digest for blob in blobs)]
        if not digests:
            return []
        findings = await self._stocks.ask(staying, repository, digests)
        wanted = max(min(copies, len(findings.whole)), 1)
        missing: list[_Item] = []
        for digest in digests:
            holders = _holders(findings, digest)
            if len(holders) < wanted and digest not in manifests:
                size = await self._store.stat(repository, digest)
                missing.append(_Item(Only(repository, str(digest), size, holders), blob=True))
            elif len(holders) < wanted:
                with suppress(ManifestUnknown):  # it was deleted, or its file is damaged
                    item, parts = await self._look_into(repository, digest, holders, seen)
                    found = await self._stocks.ask(staying, repository, parts)
                    held = {part: _holders(found, part) for part in parts}
                    missing += [
                        _Item(Only(repository, str(part), 0, nodes), blob=True)
                        for part, nodes in held.items()
                        if len(nodes) < wanted
                    ]
                    missing.append(item)
        return missing

    async def _look_into(
        self, repository: str, digest: Digest, holders: list[str], seen: set[str]
    ) -> tuple[_Item, list[Digest]]:
        """A manifest, with the bytes that none before it named; and if this node does not have all
        of it, the blobs that it has.
        """
        manifest = await self._store.peek(repository, digest)
        size = 0
        for name, each in [(str(digest), len(manifest.content))] + [
            (descriptor.digest, descriptor.size) for descriptor in manifest.blobs
        ]:
            size += 0 if name in seen else each
            seen.add(name)
        whole = bool(await self._store.whole(repository, [digest]))
        item = _Item(Only(repository, str(digest), size, holders), whole=whole)
        blobs = [] if whole else [descriptor.checked_digest for descriptor in manifest.blobs]
        return item, await self._store.whole(repository, blobs)

    def _warnings(self) -> list[str]:
        live = self._gossip.live()
        if self._gossip.table.me.signs and not any(member.signs for member in live):
            return [
                "no other node signs certificates: give the directory of the authority to another "
                "one (--ca), or the mesh ends when its certificates do"
            ]
        return []


def _holders(findings: Findings, digest: Digest) -> list[str]:
    return [node for node, whole in findings.whole.items() if digest in whole]


def _key(item: _Item) -> tuple[str, str]:
    return item.only.repository, item.only.digest


async def _each(
    items: Sequence[_Item], give: Callable[[_Item], Awaitable[None]], deadline_s: float | None
) -> AsyncGenerator[_Item, None]:
    """The items as they are done, some at a time; after the deadline the rest, which are not."""
    gate, done = asyncio.Semaphore(PARALLEL), asyncio.Queue[_Item](len(items))

    async def one(item: _Item) -> None:
        async with gate:
            await give(item)
            done.put_nowait(item)

    async with Background() as background:
        for item in items:
            background.spawn(one(item))
        rest = {_key(item): item for item in items}
        try:
            while rest:
                async with asyncio.timeout_at(deadline_s):
                    item = await done.get()
                del rest[_key(item)]
                yield item
        except TimeoutError:
            _log.warning("there was no time to hand over %d of %d", len(rest), len(items))
    for item in rest.values():
        item.late, item.only.reason = True, "there was no time left"
        yield item
