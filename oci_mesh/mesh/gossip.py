"""Gossip: members and names, with one random node a second, and news with all at once.

One exchange is push and pull: both tables of members, and hashes of the registers, by which each
side learns what the other has that it has not. Who lies about names is a later concern: a peer is
trusted as far as it may speak at all.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from oci_mesh.errors import OciError, PeerError
from oci_mesh.members.clock import ClockDrift, HybridClock
from oci_mesh.members.names import TOMBSTONE_RETENTION_MS, NameRecord, NameRegister
from oci_mesh.members.table import MAX_MEMBERS, Member, MemberTable
from oci_mesh.mesh import wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.discovery import resolve_seeds
from oci_mesh.mesh.wire import Exchange
from oci_mesh.store.base import Store
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

PERIOD_S: Final = 1.0

# One round in so many goes to a configured seed as well: two meshes that grew apart (or began
# apart, with seeds that were not up yet) meet again there.
SEED_ROUNDS: Final = 15

# Seeds asked when joining. One that answers is enough to learn of all others.
JOIN_FANOUT: Final = 8

# News goes to all live nodes, so many at a time.
ANNOUNCE_FANOUT: Final = 64

# One round in so many goes to a live node that could not be reached from here: what is told of a
# bad link (`unreached`) is not told for long once it is well.
RETRY_ROUNDS: Final = 5

PRUNE_ROUNDS: Final = 3600

# Nodes by our id that are remembered: more than one is one too many.
MAX_DOUBLES: Final = 8

_UNSPECIFIED: Final = ("0.0.0.0", "[::]")


def wall_ms() -> int:
    """The time of day in milliseconds, as clocks stamp it."""
    return time.time_ns() // 1_000_000


class Unreached(NamedTuple):
    """That a node could not be reached, by what it asked for last."""

    at: float
    """As `loop_time`."""
    reason: str


class Gossip:
    """This node's part in what all know. `table` and `register` are to be read, not written."""

    def __init__(
        self,
        me: Member,
        clock: HybridClock,
        store: Store,
        client: PeerClient,
        join: Sequence[str],
    ) -> None:
        self.table = MemberTable(me)
        self.register = NameRegister()
        self._clock = clock
        self._store = store
        self._client = client
        self._join = list(join)
        self._random = random.Random()
        self.met = False
        """Whether any node has answered yet that this one was told to join."""
        self.doubles: dict[str, float] = {}
        """Where another node goes by this one's id, and when it was heard last."""
        self.unreached: dict[str, Unreached] = {}
        """Nodes, dead ones too, that could not be reached from here and were not since; they may
        well reach this one.
        """

    # -- what this node does

    async def start(self) -> None:
        """Load what the store knows, and meet the mesh if it can be reached now."""
        self.register.merge(await self._store.names())
        newest = self.register.newest()
        if newest is not None:
            # Even if the wall clock was set back since: our next stamp must be later still.
            self._clock.observe(newest, max(wall_ms(), int(newest[:12], 16)))
        await self._prune()
        await self.meet_seeds()

    async def run(self) -> None:
        """Gossip until cancelled."""
        rounds = 0
        while True:
            await asyncio.sleep(PERIOD_S * self._random.uniform(0.8, 1.2))
            rounds += 1
            now = asyncio.get_running_loop().time()
            self.table.beat(now)
            partner = self._unreached_partner() if rounds % RETRY_ROUNDS == 0 else None
            partner = partner or self.table.choose_partner(now, self._random)
            if partner is not None:
                await self._meet(partner.address, partner.id)
            if rounds % SEED_ROUNDS == 0 or not self.live():
                await self.meet_seeds(1)
            if rounds % PRUNE_ROUNDS == 0:
                await self._prune()

    async def meet_seeds(self, fanout: int = JOIN_FANOUT) -> None:
        """Exchange with some of the configured seeds."""
        if not self._join:
            return
        seeds = [seed for seed in await resolve_seeds(self._join) if seed != self.table.me.address]
        chosen = self._random.sample(seeds, min(fanout, len(seeds)))
        async with asyncio.TaskGroup() as group:
            for address in chosen:
                group.create_task(self._meet(address, None))

    async def add_seeds(self, addresses: Sequence[str]) -> None:
        """Meet these now, and now and then from now on. Whoever fails is tried again then."""
        self._join += [address for address in addresses if address not in self._join]
        async with asyncio.TaskGroup() as group:
            for address in addresses:
                group.create_task(self._meet(address, None))

    async def drain(self) -> None:
        """Tell all live nodes that this one is about to leave; `table.drain` takes it back."""
        self.table.drain(draining=True)
        await self._tell(Exchange(self.table.me))

    async def leave(self) -> None:
        """Say goodbye to a few; they tell the others."""
        self.table.leave()
        live = self.live()
        async with asyncio.TaskGroup() as group:
            for member in self._random.sample(live, min(3, len(live))):
                group.create_task(self._meet(member.address, member.id))

    async def announce(self, records: Sequence[NameRecord]) -> None:
        """Tell all live nodes of names that changed here (they are in the store already)."""
        self.register.merge(records)
        if not records:
            return
        await self._tell(Exchange(self.table.me, records=list(records)))

    async def _tell(self, message: Exchange) -> None:
        gate = asyncio.Semaphore(ANNOUNCE_FANOUT)

        async def tell(member: Member) -> None:
            async with gate:
                try:
                    await self._client.exchange(member.address, message, member.id)
                    self.unreached.pop(member.id, None)
                except PeerError as error:
                    self.failed(member.id, str(error))
                    _log.info("%s learns of this by gossip later: %s", member.id, error)

        async with asyncio.TaskGroup() as group:
            for member in self.live():
                group.create_task(tell(member))

    # -- what others tell it

    async def answer(self, message: Exchange, remote: str) -> Exchange:
        """The other half of an exchange that a node at the IP address `remote` began."""
        me = self.table.me
        if self._is_me(message.sender):
            return Exchange(me)
        sender = _seen(message.sender, remote)
        await self._learn(sender, message)
        reply = Exchange(me, you=sender.address)
        if message.members or message.buckets is not None:
            reply.members = self.table.entries()
        if message.buckets is not None:
            try:
                reply.want = self.register.differing(message.buckets)
            except ValueError as error:
                raise PeerError(str(error)) from None
            reply.records = self._some_records(reply.want)
        return reply

    def meet(self, sender: Member, remote: str) -> None:
        """Note a node at the IP address `remote` that just asked for something."""
        if not self._is_me(sender):
            self._learn_members(_seen(sender, remote), [])

    def live(self) -> list[Member]:
        """The other nodes that seem alive."""
        return self.table.live(loop_time())

    def is_live(self, member_id: str) -> bool:
        """Whether it is one of these."""
        return self.table.is_live(member_id, loop_time())

    def failed(self, member_id: str, reason: str) -> None:
        """Note that a node could not be reached."""
        self.table.failed(member_id, loop_time())
        self.unreached[member_id] = Unreached(loop_time(), reason)

    def is_deleted(self, repository: str, name: str) -> bool:
        """Whether a tag, or content, was deleted and not pushed again since."""
        record = self.register.get(repository, name)
        return record is not None and record.target is None

    async def _meet(self, address: str, member_id: str | None) -> None:
        message = Exchange(
            self.table.me, members=self.table.entries(), buckets=self.register.buckets()
        )
        try:
            reply = await self._client.exchange(address, message, member_id)
            self.met = True
            if member_id is not None:
                self.unreached.pop(member_id, None)
            if self._is_me(reply.sender):
                return  # a seed that is this node
            await self._learn(_seen(reply.sender, address.rpartition(":")[0]), reply)
            self._take_address(reply.you)
            wanted = self._some_records(reply.want)
            if wanted:
                news = Exchange(self.table.me, records=wanted)
                await self._client.exchange(address, news, member_id)
        except PeerError as error:
            if member_id is not None:
                self.failed(member_id, str(error))
            _log.debug("gossip with %s: %s", address, error)

    def _unreached_partner(self) -> Member | None:
        """One of the live ones among them; who is forgotten is no longer among them."""
        known = {member.id for member in self.table.entries()}
        self.unreached = {id_: each for id_, each in self.unreached.items() if id_ in known}
        retried = [member for member in self.live() if member.id in self.unreached]
        return self._random.choice(retried) if retried else None

    def _is_me(self, sender: Member) -> bool:
        me = self.table.me
        if sender.id == me.id and sender.incarnation != me.incarnation:
            _log.error(
                "the node at %s has the id of this one, %s: one of them needs another name, "
                "or its root's node-id removed",
                sender.address,
                me.id,
            )
            self.doubles[sender.address] = loop_time()
            while len(self.doubles) > MAX_DOUBLES:
                del self.doubles[next(iter(self.doubles))]
        return sender.id == me.id

    async def _learn(self, sender: Member, message: Exchange) -> None:
        self._learn_members(sender, message.members[:MAX_MEMBERS])
        await self._learn_names(message.records[: wire.MAX_RECORDS])

    def _learn_members(self, sender: Member, members: Sequence[Member]) -> None:
        """`sender` as it was seen here counts, not as it lists itself: that may be on 0.0.0.0."""
        now = loop_time()
        others = [member for member in members if member.id != sender.id]
        risen = self.table.merge(wire.valid_members([sender, *others]), now)
        self.table.heard(sender.id, now)
        for member_id in risen:
            _log.info("node %s is in the mesh", member_id)

    async def _learn_names(self, records: Sequence[NameRecord]) -> None:
        """Into the store first: what a node says it knows, it knows after a restart.

        What cannot be taken now is offered again by gossip.
        """
        news, refused = [], []
        for record in wire.valid_records(records):
            held = self.register.get(*record.key)
            if held is not None and (held == record or held.stamp > record.stamp):
                continue
            try:
                self._clock.observe(record.stamp, wall_ms())
            except ClockDrift as error:
                refused.append(error)
            else:
                news.append(record)
        if refused:
            _log.warning("refused %d names, the first for: %s", len(refused), refused[0])
        if not news:
            return
        try:
            await self._store.merge_names(news)
        except OciError as error:
            _log.error("cannot keep %d names of other nodes: %s", len(news), error)
        else:
            self.register.merge(news)

    def _some_records(self, buckets: Sequence[int]) -> list[NameRecord]:
        start = self._random.randrange(1 << 30)
        try:
            return self.register.records(buckets, wire.MAX_RECORDS, start)
        except ValueError as error:
            raise PeerError(str(error)) from None

    def _take_address(self, you: str) -> None:
        """A node that listens on all addresses learns from others which one is its own."""
        me = self.table.me
        seen = msgspec.structs.replace(me, address=you)
        if _is_unspecified(me) and you and not _is_unspecified(seen) and wire.valid_members([seen]):
            self.table.update_address(you)

    async def _prune(self) -> None:
        dropped = self.register.prune(wall_ms() - TOMBSTONE_RETENTION_MS)
        try:
            await self._store.forget_names(dropped)
        except OciError as error:  # they are pruned again after the next start
            _log.error("cannot forget %d deletions: %s", len(dropped), error)


def _is_unspecified(member: Member) -> bool:
    return member.address.rpartition(":")[0] in _UNSPECIFIED


def _seen(sender: Member, remote: str) -> Member:
    """The sender with the address at which it can be reached, if it does not know it itself."""
    if not _is_unspecified(sender):
        return sender
    port = sender.address.rpartition(":")[2]
    shown = f"[{remote}]" if ":" in remote and not remote.startswith("[") else remote
    return msgspec.structs.replace(sender, address=f"{shown}:{port}")
