"""What tags of other registries mean now: asked there, by one node for all, and remembered.

A tag that was looked at within its time to live is answered from memory, which the store keeps over
restarts. After that the upstream is asked again, if it says the same still (a conditional HEAD). So
that not every node has to, a node first asks its *colleague* for the tag, which is the same for all
(`mesh.tag_watch`). A colleague only ever says "it is what you know, I looked so long ago", and
anything else makes this node look itself: no peer can make a tag mean something else. Nor can it
hide a change for long: for a while after its own look this node believes one colleague, then two
that agree, and beyond the limit for stale answers nobody.

Only if the upstream cannot be asked is what is remembered served stale, up to a limit. What the
upstream takes away, or no longer gives to us, is forgotten at once. Nothing is asked of an upstream
that nobody asks for here: there is no refreshing in the background.

What this does not do: speak HTTP, fetch manifests (what a tag points to is verified when that is
fetched), or resolve tags of private repositories, which the mesh may not.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from oci_mesh.errors import ManifestUnknown, OciError, UpstreamError, UpstreamRefused
from oci_mesh.metrics import Metrics
from oci_mesh.sources import SingleFlight
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import DEFAULT_TAG
from oci_mesh.store.base import Resolution, Store
from oci_mesh.tasks import Background, loop_time

_log = logging.getLogger(__name__)

# For how long a tag is taken for what it was. Who pushes and then looks expects no more than this.
TTL_S: Final = 60.0

# `latest` is looked at whenever it is asked for, as `imagePullPolicy: Always` promises; within this
# it is the same moment, of nodes that start together. No time to live is shorter.
FLOOR_S: Final = 1.0

# A node believes one colleague for so many times to live after its own last look, then two that
# agree. So one that hides a change does so for five minutes; more nodes than two need not ask.
ONE_VOICE_TTLS: Final = 5

# How long the upstream may be away before its tags are unknown here: longer than any week-end.
STALE_LIMIT_S: Final = 7 * 86_400.0

# An upstream that takes longer than this cannot be asked, if there is something to answer without
# it: no client should be kept waiting longer (`mesh.fetch.EARLY_S`). The look goes on, for others.
PATIENCE_S: Final = 5.0

# Tags held in memory, some 300 bytes each; the longest unused are read from the store again.
MAX_REMEMBERED: Final = 10_000

# Tags that are looked at for other nodes at a time; beyond, they look themselves.
MAX_FOR_OTHERS: Final = 64

Key = tuple[str, str]
"""A repository of an upstream (`spec.scope`) and a tag."""


class Resolved(NamedTuple):
    """What a tag means."""

    digest: Digest
    stale: bool
    """The upstream should have been asked, and could not be."""
    age_s: float
    """How long ago this node itself saw the upstream say so."""


class Asker(Protocol):
    """Asks upstreams. It has deadlines of its own, and tries what may pass again."""

    async def resolve(self, repository: str, tag: str, known: Digest | None) -> Digest:
        """What the upstream says that a tag is, asked on the condition that it is not `known`.

        Raises `ManifestUnknown` if the upstream says that there is none, `UpstreamRefused` if it
        does not tell us, any other `UpstreamError` if it cannot be asked now.
        """
        ...


class Colleague(Protocol):
    """Asks the nodes that look at a tag for all."""

    async def confirm(self, repository: str, tag: str, digest: Digest, voices: int) -> float | None:
        """How many seconds ago `voices` of them saw that the tag is `digest`; of several, the
        longest. None if one does not say so, or in time, or if this node should look itself.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    """What a tag was, by this node's clock: a look is as old as the question, not the answer."""

    digest: Digest
    looked_at: float
    """When this node itself saw it."""
    confirmed_at: float
    """When anybody did."""


class UpstreamTags:
    """The tags of all upstreams. Any number of callers for one tag cost one look.

    `clock` counts seconds of this process, by which all ages go; `wall`, the time of day, is for
    ages across restarts only: it may jump.
    """

    def __init__(
        self,
        store: Store,
        asker: Asker,
        colleague: Colleague,
        background: Background,
        metrics: Metrics,
        *,
        ttl_s: float = TTL_S,
        stale_limit_s: float = STALE_LIMIT_S,
        clock: Callable[[], float] = loop_time,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._asker = asker
        self._colleague = colleague
        self._metrics = metrics
        self._ttl_s = max(ttl_s, FLOOR_S)
        self._stale_limit_s = stale_limit_s
        self._clock = clock
        self._wall = wall
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._looks: SingleFlight[Key, _Known] = SingleFlight(background)
        self._renewals: SingleFlight[Key, Resolved] = SingleFlight(background)
        self._for_others: set[Key] = set()

    async def resolve(self, repository: str, tag: str) -> Resolved:
        """What `tag` of `repository` means.

        Raises `ManifestUnknown` if the upstream has no such tag, or cannot be asked and nothing is
        remembered that is recent enough; `UpstreamRefused` if it does not tell us.
        """
        key = repository, tag
        known = self._known.get(key)
        if known is None or not self._is_fresh(key, known):
            return await self._renewals.run(key, lambda: self._renew(key))
        self._known.move_to_end(key)
        return self._answer(known, "memory")

    async def confirm(self, repository: str, tag: str, digest: Digest) -> float | None:
        """For another node: how many seconds ago this one itself saw that the tag is `digest`, if
        need be by looking now. None if it is something else, or that cannot be told.
        """
        key = repository, tag
        if len(self._for_others - {key}) >= MAX_FOR_OTHERS:
            return None
        self._for_others.add(key)
        try:
            known = await self._looks.run(key, lambda: self._look(key))
        except (OciError, UpstreamError) as error:
            _log.debug("cannot confirm %s:%s: %s", repository, tag, error)
            return None
        finally:
            self._for_others.discard(key)
        return self._clock() - known.looked_at if known.digest == digest else None

    # -- how a tag is renewed

    async def _renew(self, key: Key) -> Resolved:
        known = await self._recall(key)
        if known is not None:
            if self._is_fresh(key, known):
                return self._answer(known, "memory")
            confirmed = await self._confirmed(key, known)
            if confirmed is not None:
                return self._answer(confirmed, "colleague")
        return await self._asked(key)

    async def _confirmed(self, key: Key, known: _Known) -> _Known | None:
        """What is known, if colleagues say that it is so still; or None."""
        asked_at = self._clock()
        own_age_s = asked_at - known.looked_at
        if own_age_s > self._stale_limit_s:
            return None
        voices = 1 if own_age_s <= ONE_VOICE_TTLS * self._ttl_s else 2
        age_s = await self._colleague.confirm(*key, known.digest, voices)
        # Was it within the time to live when this node asked? Meanwhile it got older by `took_s`.
        took_s = self._clock() - asked_at
        if age_s is None or not 0 <= age_s <= self._ttl(key) + took_s:
            return None
        if self._known.get(key) != known:  # this node looked meanwhile, for another
            return None
        confirmed_at = max(known.confirmed_at, asked_at - age_s)
        return self._remember(key, replace(known, confirmed_at=confirmed_at))

    async def _asked(self, key: Key) -> Resolved:
        """What the upstream says; or if that cannot be asked, what is remembered."""
        patience_s = PATIENCE_S if self._servable(key) is not None else None
        try:
            async with asyncio.timeout(patience_s):
                known = await self._looks.run(key, lambda: self._look(key))
        except ManifestUnknown:
            self._count("unknown")
            raise
        except UpstreamRefused:
            self._count("refused")
            raise
        except (UpstreamError, TimeoutError) as error:
            return self._stale(key, str(error) or f"no answer within {PATIENCE_S:.0f} s")
        return self._answer(known, "upstream")

    def _stale(self, key: Key, reason: str) -> Resolved:
        repository, tag = key
        known = self._servable(key)
        if known is None:
            self._count("unavailable")
            raise ManifestUnknown(
                f"{repository}:{tag} is not remembered here, and cannot be asked for now: {reason}"
            )
        answer = self._answer(known, "stale", stale=True)
        _log.info("%s:%s as of %.0f s ago: %s", repository, tag, answer.age_s, reason)
        return answer

    async def _look(self, key: Key) -> _Known:
        """This node's own look at the upstream, unless it has just looked. Raises as `Asker`."""
        known = await self._recall(key)
        asked_at, wall = self._clock(), self._wall()
        if known is not None and asked_at - known.looked_at <= self._ttl(key):
            return known
        repository, tag = key
        try:
            before = None if known is None else known.digest
            digest = await self._asker.resolve(repository, tag, before)
        except (ManifestUnknown, UpstreamRefused):
            await self._forget(key)
            raise
        await self._keep(key, digest, wall)
        return self._remember(key, _Known(digest, asked_at, asked_at))

    # -- what is remembered

    def _ttl(self, key: Key) -> float:
        return FLOOR_S if key[1] == DEFAULT_TAG else self._ttl_s

    def _is_fresh(self, key: Key, known: _Known) -> bool:
        return self._clock() - known.confirmed_at <= self._ttl(key)

    def _servable(self, key: Key) -> _Known | None:
        """What is known and may be served stale."""
        known = self._known.get(key)
        if known is None or self._clock() - known.looked_at > self._stale_limit_s:
            return None
        return known

    async def _recall(self, key: Key) -> _Known | None:
        """What memory has, or else the store."""
        known = self._known.get(key)
        if known is not None:
            return known
        kept = await self._store.resolution(*key)
        if kept is None:
            return None
        age_s = self._wall() - kept.checked_at
        if age_s < 0:
            # The clock was set back since: how old this is nobody knows. It is looked at before it
            # is used, and its age counts from here, also after more restarts.
            age_s = ONE_VOICE_TTLS * self._ttl_s
            await self._keep(key, kept.digest, self._wall() - age_s)
        looked_at = self._clock() - age_s
        if key in self._known:  # while the store was asked
            return self._known[key]
        return self._remember(key, _Known(kept.digest, looked_at, looked_at))

    def _remember(self, key: Key, known: _Known) -> _Known:
        self._known[key] = known
        self._known.move_to_end(key)
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return known

    async def _keep(self, key: Key, digest: Digest, checked_at: float) -> None:
        """In the store. That it cannot be kept over a restart is no reason not to answer."""
        try:
            await self._store.note_resolution(*key, Resolution(digest, checked_at))
        except OciError as error:
            _log.error("cannot keep what %s:%s is: %s", *key, error)

    async def _forget(self, key: Key) -> None:
        try:
            await self._store.forget_resolution(*key)
        except OciError as error:
            _log.error("cannot forget what %s:%s was: %s", *key, error)
        self._known.pop(key, None)

    # -- answers

    def _answer(self, known: _Known, outcome: str, *, stale: bool = False) -> Resolved:
        self._count(outcome)
        return Resolved(known.digest, stale, self._clock() - known.looked_at)

    def _count(self, outcome: str) -> None:
        self._metrics.upstream_tags.labels(outcome).inc()
