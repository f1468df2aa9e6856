"""The swarm of one blob as this node sees it: who is in it, told by the rendezvous or found out."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from oci_mesh.errors import PeerError
from oci_mesh.members.table import Member
from oci_mesh.mesh import wire
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.peers import Peers
from oci_mesh.mesh.proofs import Proofs
from oci_mesh.mesh.rendezvous import Rendezvous
from oci_mesh.mesh.wire import Attend, Roster
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.swarm.roll import MAX_ENTRIES
from oci_mesh.swarm.view import SLOTS, Entry
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

# If the rendezvous knows nobody who has the blob, the node of the lowest slot asks around; the
# others wait for this long for what it finds, before each of them does.
SEARCH_AFTER_S: Final = 0.5

# Of another registry's content it is told what was found, or that nothing was: so the others wait
# for as long as a search takes where some nodes are gone (each takes `client.CONNECT_S`).
SEARCH_S: Final = 2.5


class Meeting:
    """`join` it, then `follow` what changes; `leave` it, or say that it is `complete`."""

    def __init__(
        self,
        gossip: Gossip,
        rendezvous: Rendezvous,
        peers: Peers,
        proofs: Proofs,
        repository: str,
        digest: Digest,
    ) -> None:
        self.repository = repository
        self.digest = digest
        self.slot = -1
        self.size = -1
        self.fed = False
        """Whether this node reads the blob from its origin, for all (`Entry.fed`)."""
        self.entries: dict[str, Entry] = {}
        self._searched = False
        self._gossip = gossip
        self._rendezvous = rendezvous
        self._peers = peers
        self._proofs = proofs
        self._asked = Attend(repository, str(digest), self._entry())
        self._found: list[Entry] = []

    # -- who is there

    @property
    def path(self) -> str:
        """Where nodes have the blob."""
        return wire.content_path(self.repository, "blobs", self.digest)

    @property
    def proof(self) -> dict[str, str]:
        """The headers by which this node shows that it may have the blob."""
        return self._proofs.headers(self.repository, self.digest)

    @property
    def me(self) -> str:
        """This node's id."""
        return self._gossip.table.me.id

    def known(self) -> list[Entry]:
        """All but those that have lied to this node."""
        return [e for e in self.entries.values() if not self._peers.is_banned(e.id)]

    def wanting(self) -> list[Entry]:
        """Those that want it and seem alive, this node among them."""
        live = {self.me, *(member.id for member in self._gossip.live())}
        return [e for e in self.known() if e.slot >= 0 and not e.complete and e.id in live]

    def seeds(self) -> list[Entry]:
        """Those that say that they have it all."""
        return [e for e in self.entries.values() if e.complete and not self._peers.is_banned(e.id)]

    def others(self) -> list[Entry]:
        """Everybody else who could be asked, those that have it all first."""
        me = self._gossip.table.me.id
        rest = (e for e in self.entries.values() if not e.complete and e.id != me)
        return self.seeds() + [e for e in rest if not self._peers.is_banned(e.id)]

    # -- coming and going

    async def join(self) -> None:
        """Enter the swarm. Whether anybody has the blob, `seeds` tells."""
        try:
            self._take(await self._rendezvous.attend(self._asked))
        except PeerError as error:
            _log.info("no rendezvous of %s answers: %s", self.digest, error)
        me = self._gossip.table.me.id
        if me not in self.entries:
            self.slot = 0
            self.entries[me] = self._entry()
        if not self.seeds():
            await self._find_seeds()

    def learn_size(self, size: int) -> None:
        """Of the blob, as its origin says: the others are told."""
        self.size = self._asked.size = size

    async def refresh(self, wait_s: float = 0.0) -> bool:
        """Ask again who is there; if nothing is new, wait for that. Whether there was an answer."""
        try:
            self._take(await self._rendezvous.attend(self._now(wait_s)))
        except PeerError as error:
            _log.debug("%s", error)
            return False
        return True

    async def search(self) -> bool:
        """Ask all nodes who has it; whether any does. The rendezvous is told what came of it."""
        found = await self._peers.holders(self.digest, self.path, headers=self.proof)
        self._asked.searched = not found  # said again with each call, as long as this node is here
        if not found:
            await self._rendezvous.tell(self._now())
            return False
        self.size = Counter(size for _, size in found).most_common(1)[0][0]
        self._found = [Entry(m.id, m.address, -1, m.zone, 0, True) for m, _ in found]
        for entry in self._found:
            self.entries[entry.id] = entry
        self._asked.others, self._asked.size = self._found, self.size
        await self._rendezvous.tell(self._now())
        return True

    async def follow(self, frontier: Callable[[], int], changed: Callable[[], None]) -> None:
        """Keep up with the swarm until cancelled, and tell it how far this node is."""

        def tell() -> tuple[Entry, int]:
            return self._entry(frontier()), len(self.entries)

        async for roster in self._rendezvous.follow(self._asked, tell):
            if self._take(roster):
                changed()

    async def complete(self) -> None:
        """Say that this node has it all."""
        entry = msgspec.structs.replace(self._entry(), complete=True, fed=False)
        await self._rendezvous.tell(
            Attend(self.repository, str(self.digest), entry, size=self.size)
        )

    async def leave(self) -> None:
        """Say that this node wants it no longer."""
        await self._rendezvous.tell(
            Attend(self.repository, str(self.digest), self._entry(), leaves=True)
        )

    async def _find_seeds(self) -> None:
        wanting = [e.slot for e in self.entries.values() if e.slot >= 0 and not e.complete]
        if self.slot > min(wanting, default=0):
            if is_mirrored(self.repository):
                await self._await_search()
                if self._searched:
                    return
            else:
                await self.refresh(SEARCH_AFTER_S)
        if not self.seeds():
            await self.search()

    async def _await_search(self) -> None:
        """Wait until somebody is known to have it, or nobody."""
        until = loop_time() + SEARCH_S
        while not (self.seeds() or self._searched) and (left_s := until - loop_time()) > 0:
            if not await self.refresh(left_s):
                return

    def _take(self, roster: Roster) -> bool:
        """Take over what the rendezvous says; whether that changed anything.

        But this node keeps its first slot, by which others hold its questions; what it found out
        itself counts more; and where a node is, gossip knows better.
        """
        before = dict(self.entries)
        me = self._gossip.table.me.id
        if roster.entry.id == me and self.slot < 0:
            self.slot = roster.entry.slot if 0 <= roster.entry.slot < SLOTS else 0
            self.entries[me] = self._entry()
        known = {me, *(entry.id for entry in self._found)}
        for gone in roster.gone:
            if gone not in known:
                self.entries.pop(gone, None)
        members = {member.id: member for member in self._gossip.live()} if roster.entries else {}
        for entry in wire.valid_entries(roster.entries):
            full = len(self.entries) >= MAX_ENTRIES and entry.id not in self.entries
            if entry.id in known or full:
                continue
            member = members.get(entry.id)
            address = entry.address if member is None else member.address
            self.entries[entry.id] = msgspec.structs.replace(entry, address=address)
        if roster.size >= 0:
            self.size = roster.size
        self._searched = roster.searched
        self._asked.epoch, self._asked.version = roster.epoch, roster.version
        return self.entries != before

    def _now(self, wait_s: float = 0.0) -> Attend:
        return msgspec.structs.replace(self._asked, entry=self._entry(), wait_s=wait_s)

    def _entry(self, frontier: int = 0) -> Entry:
        me = self._gossip.table.me
        return Entry(me.id, me.address, self.slot, me.zone, frontier, fed=self.fed)


async def announce(
    rendezvous: Rendezvous, me: Member, repository: str, blobs: Iterable[tuple[Digest, int]]
) -> None:
    """Tell the rendezvous of some blobs that this node has them, all of each."""
    entry = Entry(me.id, me.address, -1, me.zone, 0, True)
    gate = asyncio.Semaphore(_ANNOUNCED_AT_ONCE)

    async def one(digest: Digest, size: int) -> None:
        async with gate:
            await rendezvous.tell(Attend(repository, str(digest), entry, size=size))

    async with asyncio.TaskGroup() as group:
        for digest, size in blobs:
            group.create_task(one(digest, size))


# A manifest has tens of blobs, at times hundreds.
_ANNOUNCED_AT_ONCE: Final = 16
