"""Where the nodes that want or have a blob find each other: its rendezvous, one hop away.

The members of highest hash(digest, member) are a blob's rendezvous; the first of them that answers
keeps its roll and gives out slots, the next stand in for it. What it knows is a hint: should it
fail, or two nodes hold different ones for the first, views agree less for a while, and that is all.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from oci_mesh.errors import PeerError
from oci_mesh.members.table import Member, rendezvous
from oci_mesh.mesh import wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.wire import Attend, Roster
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.scope import parse_scope
from oci_mesh.swarm.roll import REFRESH_S, Roll
from oci_mesh.swarm.view import Entry
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

# How many of the highest are tried. With three, two may be down.
RENDEZVOUS: Final = 3

# For an answer, beyond what it was told to wait: a rendezvous has nothing to look up. One that
# fails is asked after the others for a while.
ATTEND_S: Final = 2.0
REST_S: Final = 10.0

# Rolls kept, of blobs that somebody asked for or pushed; the longest unused go first. Some 300
# bytes for each node in each. What is forgotten is found again by asking around.
MAX_ROLLS: Final = 10_000

# That nobody has a blob is believed for so long: who gets it says so. What a node has that the
# search could not reach may go unnoticed for as long, and cost another copy of an origin's.
SEARCHED_S: Final = 30.0

# News is told this much later, together with what else comes until then: nodes that start at one
# moment then cost each other one answer, not one for each.
GATHER_S: Final = 0.02

# A node that fetches calls at least so often, and tells how far it is; with many nodes less often,
# so that a rendezvous has some hundred calls a second at most.
CALL_S: Final = 2.0
CALLS_PER_S: Final = 200

Key = tuple[str, str]

Telling = Callable[[], tuple[Entry, int]]
"""This node's entry now, and how many nodes it knows of in the swarm."""


class _Kept:
    """A roll of this node's, and those who wait for news of it."""

    def __init__(self, roll: Roll) -> None:
        self.roll = roll
        self.size = -1
        self.searched_until = 0.0
        self._news = asyncio.Event()

    def wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self, within_s: float) -> None:
        """Wait for news, and for what else comes along with it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._news.wait()
                await asyncio.sleep(GATHER_S)


class Rendezvous:
    """Both sides: the rolls that this node keeps, and asking others for theirs."""

    def __init__(self, gossip: Gossip, client: PeerClient) -> None:
        self._gossip = gossip
        self._client = client
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._failed: dict[str, float] = {}  # id -> when it failed

    # -- the rolls of this node

    async def answer(self, asked: Attend) -> Roster:
        """Enter a node, and tell who else is there; waits for news if there is none.

        Raises `PeerError`, `NameInvalid`, `DigestInvalid` for what is not well formed.
        """
        parse_scope(asked.repository)
        Digest.parse(asked.digest)
        entries = wire.valid_entries([asked.entry, *asked.others])
        if not entries or entries[0].id != asked.entry.id:
            raise PeerError("an entry that is none")
        kept = self._keep((asked.repository, asked.digest))
        now = loop_time()
        kept.roll.expire(now)
        if asked.leaves:
            kept.roll.drop([asked.entry.id])
            kept.wake()
            return Roster(kept.roll.epoch, kept.roll.version, asked.entry)
        before = kept.roll.version
        mine = kept.roll.enter(entries[0], now)
        for other in entries[1:]:
            kept.roll.enter(msgspec.structs.replace(other, complete=True), now)
        if asked.size >= 0:
            kept.size = asked.size
        news = kept.roll.version != before
        if asked.searched:
            news = news or kept.searched_until < now
            kept.searched_until = now + SEARCHED_S
        if news:
            kept.wake()
        known = asked.version if asked.epoch == kept.roll.epoch else -1
        if known >= kept.roll.version and asked.wait_s > 0:
            await kept.changed(min(asked.wait_s, REFRESH_S))
        changed, gone = kept.roll.since(known)
        return Roster(
            kept.roll.epoch,
            kept.roll.version,
            mine,
            changed,
            gone,
            kept.size,
            kept.searched_until > loop_time(),
        )

    def _keep(self, key: Key) -> "_Kept":
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _Kept(Roll(random.getrandbits(48)))
            if len(self._kept) > MAX_ROLLS:
                self._kept.popitem(last=False)[1].wake()
        self._kept.move_to_end(key)
        return kept

    # -- the rolls of others

    async def attend(self, asked: Attend) -> Roster:
        """Ask the blob's rendezvous, the first that answers. Raises `PeerError` if none does."""
        for member in self._places(asked.digest):
            if member.id == self._gossip.table.me.id:
                return await self.answer(asked)
            try:
                async with asyncio.timeout(ATTEND_S + asked.wait_s):
                    return await self._client.attend(member.address, asked, member.id)
            except (PeerError, TimeoutError) as error:
                level = logging.DEBUG if member.id in self._failed else logging.WARNING
                self._failed[member.id] = loop_time()
                reason = str(error) or "no answer in time"
                _log.log(level, "node %s: no rendezvous: %s", member.id, reason)
        raise PeerError("no member answers")

    async def follow(self, asked: Attend, tell: Telling) -> AsyncIterator[Roster]:
        """Rosters for as long as this is iterated; `tell` says what to say of this node each time.

        Nothing is raised: a rendezvous that cannot be asked is asked again.
        """
        while True:
            entry, nodes = tell()
            wait_s = max(CALL_S, nodes / CALLS_PER_S)
            called_at = loop_time()
            call = msgspec.structs.replace(asked, entry=entry, wait_s=wait_s, others=[])
            try:
                roster = await self.attend(call)
            except PeerError as error:
                _log.info("no rendezvous of %s answers: %s", asked.digest, error)
                await asyncio.sleep(CALL_S)
                continue
            asked.epoch, asked.version = roster.epoch, roster.version
            yield roster
            if not (roster.entries or roster.gone):  # with nothing to say it has to wait
                await asyncio.sleep(max(GATHER_S, called_at + wait_s - loop_time()))
            else:
                await asyncio.sleep(GATHER_S)

    async def tell(self, asked: Attend) -> None:
        """Say something that no answer is needed to. Nothing is raised."""
        try:
            await self.attend(asked)
        except PeerError as error:
            _log.debug("no rendezvous of %s took the news: %s", asked.digest, error)

    def _places(self, digest: str) -> Sequence[Member]:
        members = [*self._gossip.live(), self._gossip.table.me]
        places = rendezvous(digest, members)[:RENDEZVOUS]
        rested = loop_time() - REST_S
        self._failed = {member: at for member, at in self._failed.items() if at > rested}
        return sorted(places, key=lambda member: member.id in self._failed)
