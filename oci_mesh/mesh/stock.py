"""What all nodes keep and need of a repository: asked of each, before this one lets go of anything.

A node that does not answer may need it all.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from oci_mesh.members.table import Member
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.peers import Peers
from oci_mesh.mesh.wire import MAX_COUNTED, Count, Stock
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import parse_repository
from oci_mesh.store.base import Store


class Findings(NamedTuple):
    """What came of a count."""

    whole: dict[str, set[Digest]]
    """By node, for those that answered: what it has."""
    needed: set[Digest]
    """What any of them needs."""
    silent: set[str]
    """The nodes that did not answer."""


class Stocks:
    """Both sides. Only repositories of the mesh's own: all else is cache."""

    def __init__(self, store: Store, gossip: Gossip, peers: Peers, client: PeerClient) -> None:
        self._store = store
        self._gossip = gossip
        self._peers = peers
        self._client = client

    async def answer(self, sender: str, asked: Count) -> Stock:
        """As this node has it. Raises `NameInvalid`, `DigestInvalid`."""
        repository = parse_repository(asked.repository)
        digests = [Digest.parse(digest) for digest in asked.digests]
        whole = await self._store.whole(repository, digests)
        since_s = time.time() - asked.age_s
        needed = await self._store.needed(repository, digests, since_s)
        return Stock([str(digest) for digest in whole], [str(digest) for digest in needed])

    def all_known(self) -> list[Member]:
        """All other nodes that have not left; also those that seem dead, until forgotten."""
        return [member for member in self._gossip.table.others() if not member.left]

    async def ask(
        self,
        members: Sequence[Member],
        repository: str,
        digests: Sequence[Digest],
        age_s: float = 0.0,
    ) -> Findings:
        """Ask all `members` at once. Who has failed once is not asked about the rest."""
        findings = Findings({member.id: set() for member in members}, set(), set())
        for start in range(0, len(digests), MAX_COUNTED):
            part = digests[start : start + MAX_COUNTED]
            message = Count(repository, [str(digest) for digest in part], age_s)
            asked = [member for member in members if member.id not in findings.silent]
            answers = await self._peers.ask(asked, partial(self._put, message))
            findings.silent.update({m.id for m in asked} - {m.id for m, _ in answers})
            for member, answer in answers:
                said_whole, said_needed = set(answer.whole), set(answer.needed)
                findings.whole[member.id].update(d for d in part if str(d) in said_whole)
                findings.needed.update(d for d in part if str(d) in said_needed)
        for node_id in findings.silent:
            del findings.whole[node_id]
        return findings

    async def _put(self, message: Count, member: Member) -> Stock:
        return await self._client.stock(member.address, message, member.id)
