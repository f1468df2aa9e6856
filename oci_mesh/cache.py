"""The bounded cache: what this node lets go of, and when.

Cache is all that can be had again: what other registries gave (`scope.is_mirrored`), and copies of
pushed blobs that enough other nodes hold. The longest unused goes first; what is open, or was used
in the last minute, stays. Manifests are small, and are what a node lives on while an upstream is
away: they stay a week longer. Tags, records and the manifests of pushed images are never let go.

Two nodes that let go of copies at the same moment: `held_elsewhere` counts only nodes that stand
before this one in an order that all agree on (the rendezvous of the digest). The first `copies`
holders in that order therefore never find enough before them, whatever they see of the mesh.
"""

import asyncio
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from oci_mesh.errors import OciError
from oci_mesh.logs import event
from oci_mesh.metrics import Metrics
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Content, Store, Unnamed
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

Removed = TypeVar("Removed", Content, Unnamed)

HeldElsewhere: TypeAlias = Callable[[str, Digest], Awaitable[int]]
"""How many live nodes, of those before this one in the order of the digest, say that they hold a
blob of a repository. Raises nothing; a node that does not answer does not count.
"""

# How often sizes are looked at: two rows and one system call. What comes in between is what the
# cache may be larger than its bounds.
CHECK_S: Final = 10.0

# Once over a bound, down to this part of it: not for every blob that comes another has to go.
LOW: Final = 0.9

# Used more lately, a blob may be one that others of its swarm are about to ask this node for.
RECENT_S: Final = 60.0

# Manifests stay so much longer than blobs: as long as a tag is served while its upstream is away.
MANIFEST_S: Final = 7 * 24 * 3600.0

# Let go of in one step, for which whoever pushes may have to wait. Measured on a slow ext4: 2 to 4
# ms a file, and half a second a gigabyte; so a step takes less than 0.1 s, if no blob is larger.
STEP_BLOBS: Final = 16
STEP_BYTES: Final = 128 * 1024 * 1024

# Made free at a time when something has no room: one look for many writes of an upload.
RELIEF_BYTES: Final = 64 * 1024 * 1024

# Longer, and the client that waits for room is refused.
RELIEF_S: Final = 30.0

# How long it is believed that the mesh needs a copy here, before other nodes are asked again, and
# of how many it is kept in mind (some 100 bytes each).
NEEDED_S: Final = 3600.0
MAX_NEEDED: Final = 100_000

PAGE: Final = 64  # contents looked at before others get their turn on the event loop


class Cache:
    """Keeps the cache of one store within its bounds; see the module.

    `limit`: bytes that content of other registries may have here (setting `cache_limit`); 0 is no
    limit but the next. `share`: the part, over 0 and up to 1, that all content may have of the disk
    at `root`, not counting what others keep there: of what is free and what content has already
    (`cache_share`; half by default: containerd unpacks its own copy of most of it). So it shrinks
    as others fill the disk. Both are looked at every `CHECK_S`, and may be passed by what comes in
    between. `copies`: how many other nodes have to hold a pushed blob for it to go.

    `run` does that until it is cancelled. Where the store has no room at all (`disk_limit`,
    `disk_reserve`) it asks for some at once; that works from construction on.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        root: Path,
        held_elsewhere: HeldElsewhere,
        *,
        limit: int,
        share: float,
        copies: int,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._root = root
        self._held_elsewhere = held_elsewhere
        self._limit = limit
        self._share = share
        self._copies = copies
        self._relieving = asyncio.Lock()
        self._needed: OrderedDict[Digest, float] = OrderedDict()  # until when
        store.relieve_by(self.make_room)

    async def run(self) -> None:
        """Look after it for ever."""
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                await self.trim()
            except (OciError, OSError) as error:  # of the disk: it may work again
                _log.error("the cache is not looked after: %s", error)

    async def trim(self) -> None:
        """Let go of what is beyond the bounds, if anything is; down to `LOW` of them.

        Raises `StorageFailed` and its like, or `OSError`.
        """
        usage = await self._store.usage()
        if self._limit and usage.cached > self._limit:
            await self._let_go(usage.cached - int(self._limit * LOW), cached_only=True)
            usage = await self._store.usage()
        disk = os.statvfs(self._root)
        allowed = int(self._share * (disk.f_bavail * disk.f_frsize + usage.bytes))
        if usage.bytes > allowed:
            await self._let_go(usage.bytes - int(allowed * LOW), cached_only=False)
            usage = await self._store.usage()
        self._metrics.cache_bytes.set(usage.cached)

    async def make_room(self, missing: Callable[[], int]) -> None:
        """Let go of so much that nothing is `missing`; of nothing, if that is not to be had.

        Raises `StorageFailed` and its like. Who asked finds out whether there is room.
        """
        spared: set[Digest] = set()
        try:
            async with asyncio.timeout(RELIEF_S), self._relieving:
                while (size := missing()) > 0:
                    wanted = max(size, RELIEF_BYTES)
                    chosen = self._choose(wanted, math.inf, cached_only=False, without=spared)
                    plan = [content async for content in chosen]
                    if sum(content.size for content in plan) < size:
                        return
                    for step in steps(plan):
                        gone = await self._evict(step)
                        spared.update({c.digest for c in step} - {c.digest for c in gone})
        except TimeoutError:
            _log.warning("no room could be made within %.0f s", RELIEF_S)

    async def _let_go(self, size: int, *, cached_only: bool) -> None:
        """Of so many bytes, in small steps with pauses of the same length: others write, too."""
        blobs = freed = 0
        before_s = time.time() - RECENT_S
        async with aclosing(self._choose(size, before_s, cached_only=cached_only)) as chosen:
            async for step in _gathered(chosen):
                began_s = loop_time()
                gone = await self._evict(step)
                blobs += len(gone)
                freed += sum(content.size for content in gone)
                await asyncio.sleep(loop_time() - began_s)
        if blobs:
            _log.info("let go of cache", extra=event(blobs=blobs, bytes=freed))

    async def _evict(self, step: Sequence[Content]) -> list[Content]:
        gone = await self._store.evict(step)
        self._metrics.cache_evicted_blobs.inc(len(gone))
        self._metrics.cache_evicted.inc(sum(content.size for content in gone))
        return gone

    async def _choose(
        self,
        size: int,
        before_s: float,
        *,
        cached_only: bool,
        without: Collection[Digest] = (),
    ) -> AsyncGenerator[Content, None]:
        """What may go, until that is `size` bytes: of what was not used since `before_s` the
        longest unused first, but manifests that were used this week after all else.
        """
        week_ago_s = min(before_s, time.time() - MANIFEST_S)
        for manifests in (False, True):
            async for content in self._unused(before_s, cached_only=cached_only):
                late = content.is_manifest and content.accessed_s >= week_ago_s
                if late != manifests or content.digest in without:
                    continue
                if content.own and not await self._is_spare(content):
                    continue
                yield content
                size -= content.size
                if size <= 0:
                    return

    async def _unused(self, before_s: float, *, cached_only: bool) -> AsyncIterator[Content]:
        """All contents that were not used since, the longest unused first."""
        page = await self._store.coldest(PAGE, cached_only=cached_only)
        while page:
            for content in page:
                if content.accessed_s >= before_s:
                    return
                yield content
            await asyncio.sleep(0)
            page = await self._store.coldest(PAGE, page[-1], cached_only=cached_only)

    async def _is_spare(self, content: Content) -> bool:
        """Whether the mesh can do without this node's copy of what was pushed."""
        if content.is_manifest:
            return False
        digest, now = content.digest, loop_time()
        if self._needed.get(digest, 0.0) > now:
            return False
        for repository in content.own:
            if await self._held_elsewhere(repository, digest) < self._copies:
                self._needed[digest] = now + NEEDED_S
                self._needed.move_to_end(digest)
                if len(self._needed) > MAX_NEEDED:
                    self._needed.popitem(last=False)
                return False
        return True


async def _gathered(contents: AsyncIterator[Content]) -> AsyncIterator[list[Content]]:
    """As `steps`."""
    step: list[Content] = []
    async for content in contents:
        step.append(content)
        if _is_enough(step):
            yield step
            step = []
    if step:
        yield step


def steps(contents: Iterable[Removed]) -> Iterator[list[Removed]]:
    """So few at a time that whoever pushes does not have to wait (see `STEP_BYTES`)."""
    step: list[Removed] = []
    for content in contents:
        step.append(content)
        if _is_enough(step):
            yield step
            step = []
    if step:
        yield step


def _is_enough(step: Sequence[Content | Unnamed]) -> bool:
    return len(step) >= STEP_BLOBS or sum(content.size for content in step) >= STEP_BYTES
