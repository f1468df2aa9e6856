"""Asks all nodes at once what they have of an image, and checks what can be checked of it.

A node that claims to have what this node has too must show some bytes of it that nobody could
foresee. What only others have is their word. A node that has the bytes within reach (from a third
one) in that time can still pass for one that has them.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

from oci_mesh.control.explain import Content, Having, Holder, NodeAnswer, Presence
from oci_mesh.errors import OciError, PeerError
from oci_mesh.journal import plain
from oci_mesh.members.table import Member
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.holdings import Holder as OwnHoldings
from oci_mesh.mesh.proofs import Proofs
from oci_mesh.mesh.wire import MAX_ASKED, PROBE_BYTES, Held, Holding, Holdings, Wanted
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Store

# A survey has an operator waiting. A node that is well answers in some milliseconds, and one of
# fifty on a machine of two cores in some hundred.
ANSWER_S: Final = 0.6

_CHANCE: Final = secrets.SystemRandom()


class Told(NamedTuple):
    """What came of asking one node."""

    node: NodeAnswer
    held: Held | None = None


class Survey:
    """`own` is what this node would answer."""

    def __init__(
        self, gossip: Gossip, client: PeerClient, own: OwnHoldings, proofs: Proofs, store: Store
    ) -> None:
        self._gossip = gossip
        self._client = client
        self._own = own
        self._proofs = proofs
        self._store = store

    async def ask(
        self, repository: str, contents: Sequence[Content], tag: str, within_s: float
    ) -> list[Told]:
        """All answers, this node's first, the others by id. `contents` get their holders, as far
        as they were asked about: the first `MAX_ASKED`.
        """
        wanted = [await self._wanted(repository, content) for content in contents[:MAX_ASKED]]
        asked = Holdings(repository, wanted, tag, secrets.token_hex(16))
        async with asyncio.TaskGroup() as group:
            asking = self._ask_others(group, asked, within_s)
            own = await self._own.own(asked)
        me = self._gossip.table.me
        told = [_told(me, "this", own), *(task.result() for task in asking)]
        for number, content in enumerate(contents[:MAX_ASKED]):
            content.holders = _holders(content, wanted[number], number, told)
        return told

    async def holders(
        self, repository: str, content: Content, enough: int, within_s: float
    ) -> list[NodeAnswer]:
        """The first `enough` of the other nodes that say they have it; it waits for no more."""
        asked = Holdings(repository, [await self._wanted(repository, content)])
        found: list[NodeAnswer] = []
        async with asyncio.TaskGroup() as group:
            asking = set(self._ask_others(group, asked, within_s))
            while asking and len(found) < enough:
                done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                answers = [task.result() for task in done]
                found += [t.node for t in answers if t.held and t.held.holdings[0].share == 1]
            for task in asking:
                task.cancel()
        return found

    def _ask_others(
        self, group: asyncio.TaskGroup, asked: Holdings, within_s: float
    ) -> list[asyncio.Task[Told]]:
        """All at once, by id in order."""
        now_live = {member.id for member in self._gossip.live()}
        return [
            group.create_task(self._one(member, asked, member.id in now_live, within_s))
            for member in self._gossip.table.others()
        ]

    async def _one(self, member: Member, asked: Holdings, is_live: bool, within_s: float) -> Told:
        if member.left:
            return Told(NodeAnswer(member.id, member.address, "left"))
        try:
            held = await self._client.holdings(member.address, asked, member.id, within_s)
            if len(held.holdings) != len(asked.wanted):
                raise PeerError(
                    f"it answered {len(held.holdings)} of {len(asked.wanted)} questions"
                )
        except PeerError as error:
            reason = plain(str(error))  # it may quote what the node sent
            state: Presence = "silent" if is_live else "gone"
            return Told(NodeAnswer(member.id, member.address, state, reason))
        return _told(member, "answered", held)

    async def _wanted(self, repository: str, content: Content) -> Wanted:
        """The question about one content, and a probe if this node has it in its own store."""
        digest = Digest.parse(content.digest)
        is_manifest = content.kind in ("index", "manifest")
        wanted = Wanted(content.digest, is_manifest, self._proofs.proof(repository, digest))
        try:
            if is_manifest:
                size = len((await self._store.peek(repository, digest)).content)
            else:
                size = await self._store.stat(repository, digest)
        except OciError:
            return wanted
        wanted.length = min(size, PROBE_BYTES)
        wanted.start = _CHANCE.randint(0, size - wanted.length)
        return wanted


def _told(member: Member, state: Presence, held: Held) -> Told:
    answer = NodeAnswer(
        member.id,
        member.address,
        state,
        "",
        held.link,
        held.download_limit,
        held.upload_limit,
    )
    return Told(answer, held)


def _holders(content: Content, wanted: Wanted, number: int, told: Sequence[Told]) -> list[Holder]:
    held = [(t.node, t.held.holdings[number]) for t in told if t.held is not None]
    own = held[0][1]
    return [
        Holder(
            node.node,
            "has"
            if node.state == "this" and holding.share == 1
            else _state(holding, own, content.size, wanted),
            holding.share,
            holding.in_containerd,
        )
        for node, holding in held
        if holding.size >= 0
    ]


def _state(holding: Holding, own: Holding, size: int, wanted: Wanted) -> Having:
    if holding.size != size:
        return "false"
    if holding.share < 1:
        return "part"
    if holding.in_containerd or not wanted.length or not own.mark:
        return "says"
    return "has" if secrets.compare_digest(holding.mark, own.mark) else "false"
