"""The membership table: who is in the mesh, and who of them seems alive.

Every node counts its own heartbeat up once a second, and gossips its whole table with a random
other. Of two entries for one node the greater (incarnation, heartbeat, left) holds, so entries may
come in any order, twice, or late. A node is live while its heartbeat advances; nobody declares
another dead, each node judges by what it sees:

 * what traffic shows here (`heard`, `failed`) counts at once, and more than gossip;
 * an entry that never advanced since it came by gossip is hearsay: good for a first try, but soon
   forgotten, or nodes that join would keep handing each other the dead;
 * what was forgotten is buried with its heartbeat, and only a later one is let in again;
 * a restarted node comes with a higher incarnation (the wall time at its start will do). Should
   gossip know better of us than we do, we bump ours above that.

What this does not do: IO or time (`now` is an argument, monotonic seconds), agreement (two nodes
may differ about a third for a while), or defence against members that lie about others: a member
is trusted because it holds a certificate of the mesh. Two nodes with one id outbid each other
forever.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

import msgspec

from oci_mesh.members.clock import MAX_WRITER_LENGTH

# Push-pull gossip once a second takes about log2(N) rounds to reach everyone: 10 at N = 1,000. A
# heartbeat that has not advanced for three times that is no longer under way.
DEAD_AFTER_S: Final = 30.0

# For how long a dead node is gossiped and probed: a partition that heals within it heals by itself.
# After a longer one, the configured addresses to join by are what connects the parts.
FORGET_AFTER_S: Final = 3600.0

# After a failed connection, how long to try others first. Heartbeats that are still under way, or
# come around a broken link by others, must not send every request into another time-out.
RETRY_FAILED_S: Final = 10.0

# Four times the design's thousand nodes: some 2 MB of memory, 600 kB a gossip message. Who comes
# when the table is full waits until someone was forgotten.
MAX_MEMBERS: Final = 4096

# One gossip in ten goes to a node that seems dead: two halves of a partition, each of n nodes, then
# meet again within about 10 / 2n seconds, and at most a tenth of the rounds is wasted.
DEAD_PROBE_SHARE: Final = 0.1

MAX_COUNT: Final = 2**53 - 1  # of incarnation and heartbeat: what any JSON reader keeps exactly

_ID: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_WRITER_LENGTH}}}")  # ids sign stamps, too
_ADDRESS: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")
_ZONE: Final = re.compile(r"[A-Za-z0-9._-]{0,63}")  # a Kubernetes label's value
_REGISTRY: Final = re.compile(r"(?:https?://[!-~]{1,300})?")


class Member(msgspec.Struct, frozen=True, array_like=True):
    """What a node says about itself, as it is gossiped; new fields only go at the end."""

    id: str
    address: str
    """`host:port` of its peer listener."""
    zone: str = ""
    """Where it stands; nodes of one zone are near each other."""
    incarnation: int = 0
    """Higher after every restart."""
    heartbeat: int = 0
    """Seconds counted since."""
    left: bool = False
    """It said goodbye."""
    registry: str = ""
    """The URL of its client listener; for people to read, never dialled."""
    signs: bool = False
    """It holds the mesh's authority, and signs certificates."""
    draining: bool = False
    """It is about to leave: it takes no copies, and its own do not count."""


@dataclass(slots=True)
class _Peer:
    """Another member, and what is seen of it here."""

    member: Member
    advanced_at: float  # when its heartbeat last did
    hearsay: bool = True  # never seen to advance
    failed_at: float | None = None

    def is_live(self, now: float) -> bool:
        if self.member.left or now - self.advanced_at > DEAD_AFTER_S:
            return False
        return self.failed_at is None or now - self.failed_at > RETRY_FAILED_S

    def is_forgotten(self, now: float) -> bool:
        return now - self.advanced_at > (DEAD_AFTER_S if self.hearsay else FORGET_AFTER_S)

    def advance(self, now: float) -> None:
        self.advanced_at, self.hearsay = now, False


class MemberTable:
    """One node's view of the mesh."""

    def __init__(self, self_member: Member) -> None:
        self._me = self_member
        self._peers: dict[str, _Peer] = {}
        self._graves: dict[str, tuple[int, int]] = {}  # id -> life to outdo, in order of burial

    def __contains__(self, member_id: str) -> bool:
        return member_id == self._me.id or member_id in self._peers

    @property
    def me(self) -> Member:
        """This node's own entry."""
        return self._me

    def merge(self, members: Iterable[Member], now: float) -> list[str]:
        """Take what is newer than what is known; return the ids that were not live and now are.

        Entries from other nodes must have passed `validate` first. New ones are left out while
        there are `MAX_MEMBERS`.
        """
        risen = []
        for member in members:
            if member.id == self._me.id:
                self._refute(member)
            elif self._merge_one(member, now):
                risen.append(member.id)
        return risen

    def beat(self, now: float) -> None:
        """Count the own heartbeat, and bury who has been silent for too long. Once a second."""
        self._change(heartbeat=self._me.heartbeat + 1)
        for peer in [peer for peer in self._peers.values() if peer.is_forgotten(now)]:
            del self._peers[peer.member.id]
            self._graves[peer.member.id] = _life(peer.member)
        while len(self._graves) > MAX_MEMBERS:
            del self._graves[next(iter(self._graves))]

    def leave(self) -> Member:
        """Mark this node as gone, for the others to hear in a last gossip. Idempotent."""
        if not self._me.left:
            self._change(left=True, heartbeat=self._me.heartbeat + 1)
        return self._me

    def drain(self, *, draining: bool) -> None:
        """Say whether this node is about to leave. Idempotent."""
        if draining != self._me.draining:
            self._change(draining=draining, heartbeat=self._me.heartbeat + 1)

    def update_address(self, address: str) -> None:
        """Change the own address to what a peer says it sees. Idempotent."""
        if address != self._me.address:
            self._change(address=address, heartbeat=self._me.heartbeat + 1)

    def heard(self, member_id: str, now: float) -> None:
        """Note that this node itself just heard from a member: it is alive. Unknown ids pass."""
        if (peer := self._peers.get(member_id)) is not None:
            peer.advance(now)
            peer.failed_at = None

    def failed(self, member_id: str, now: float) -> None:
        """Note that this node itself could not reach a member. Unknown ids pass.

        It is not live until it was `heard`, has restarted, or `RETRY_FAILED_S` have passed.
        """
        if (peer := self._peers.get(member_id)) is not None:
            peer.failed_at = now

    def live(self, now: float) -> list[Member]:
        """The others that can be asked for something."""
        return [peer.member for peer in self._peers.values() if peer.is_live(now)]

    def is_live(self, member_id: str, now: float) -> bool:
        """Whether it is one of these."""
        peer = self._peers.get(member_id)
        return peer is not None and peer.is_live(now)

    def silent_s(self, member_id: str, now: float) -> float:
        """For how long a member's heartbeat has not advanced; 0 for unknown ids."""
        peer = self._peers.get(member_id)
        return 0.0 if peer is None else now - peer.advanced_at

    def entries(self) -> list[Member]:
        """What to gossip: this node, and all others that are not forgotten, the dead too."""
        return [self._me, *(peer.member for peer in self._peers.values())]

    def others(self) -> list[Member]:
        """`entries` without this node, by id: the live, the dead, and those that have left."""
        return sorted((peer.member for peer in self._peers.values()), key=lambda m: m.id)

    def choose_partner(self, now: float, random: Random) -> Member | None:
        """With whom to gossip next: mostly a live member, at times one that seems dead.

        None if there is nobody. Who has left is never chosen.
        """
        live, dead = [], []
        for peer in self._peers.values():
            if peer.is_live(now):
                live.append(peer.member)
            elif not peer.member.left:
                dead.append(peer.member)
        if dead and (not live or random.random() < DEAD_PROBE_SHARE):
            return random.choice(dead)
        return random.choice(live) if live else None

    def _merge_one(self, member: Member, now: float) -> bool:
        """Take the entry of another node if it is newer; return whether that made it live."""
        peer = self._peers.get(member.id)
        if peer is None:
            return self._admit(member, now)
        if _rank(member) <= _rank(peer.member):
            return False
        was_live = peer.is_live(now)
        peer.advance(now)
        if member.incarnation > peer.member.incarnation:
            peer.failed_at = None
        peer.member = member
        return peer.is_live(now) and not was_live

    def _admit(self, member: Member, now: float) -> bool:
        grave = self._graves.get(member.id)
        if len(self._peers) + 1 >= MAX_MEMBERS or (grave is not None and _life(member) <= grave):
            return False
        self._graves.pop(member.id, None)
        peer = self._peers[member.id] = _Peer(member, now, hearsay=grave is None)
        return peer.is_live(now)

    def _refute(self, claim: Member) -> None:
        """Outbid what is said of this node, be it of an earlier life of its or plainly wrong.

        Not of its address: peers say how they see it before it knows itself.
        """
        if (*_life(claim), claim.left) > (*_life(self._me), self._me.left):
            self._change(incarnation=claim.incarnation + 1)

    def _change(self, **fields: object) -> None:
        self._me = msgspec.structs.replace(self._me, **fields)


def rendezvous(digest: str, members: Iterable[Member]) -> list[Member]:
    """The members by hash(digest, id), highest first: the order in which to ask for `digest`.

    Every node computes the same order from the same members, a member that comes or goes moves no
    other (highest random weight; Thaler and Ravishankar, 1998).
    """
    seed = hashlib.blake2b(f"{digest}\0".encode(), digest_size=8)

    def weight(member: Member) -> tuple[bytes, str]:
        hasher = seed.copy()
        hasher.update(member.id.encode())
        return hasher.digest(), member.id

    return sorted(members, key=weight, reverse=True)


def validate(member: Member) -> None:
    """Raise `ValueError` unless an entry, decoded from another node's message, is one."""
    if _ID.fullmatch(member.id) is None:
        raise ValueError(f"{member.id[:80]!r} cannot be a node's id")
    address = _ADDRESS.fullmatch(member.address)
    if address is None or not 1 <= int(address[1]) <= 65535:
        raise ValueError(f"{member.address[:80]!r} is not host:port (node {member.id})")
    if _ZONE.fullmatch(member.zone) is None:
        raise ValueError(f"{member.zone[:80]!r} cannot be a zone (node {member.id})")
    if _REGISTRY.fullmatch(member.registry) is None:
        raise ValueError(f"{member.registry[:80]!r} is not a registry's URL (node {member.id})")
    if not (0 <= member.incarnation <= MAX_COUNT and 0 <= member.heartbeat <= MAX_COUNT):
        raise ValueError(f"incarnation or heartbeat out of bounds (node {member.id})")


def _life(member: Member) -> tuple[int, int]:
    return member.incarnation, member.heartbeat


def _rank(member: Member) -> tuple[int, int, bool, str, str, str, bool, bool]:
    """Total, so that all nodes keep the same one of any two entries."""
    said = member.address, member.zone, member.registry, member.signs, member.draining
    return (*_life(member), member.left, *said)
