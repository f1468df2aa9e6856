"""`oci-mesh status`: every node is asked about itself, all at once; the answers are put together.

The answer comes in time whoever does not: a node that is late or gone is listed as that. Nothing
that a node says is believed of another one, and what it says of itself was bounded on the way in
(`wire.Report`); of what comes then, what cannot be right is left out.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from oci_mesh.control.status import (
    NodeState,
    NodeStatus,
    Room,
    Status,
    StatusRequest,
    TransferStatus,
)
from oci_mesh.errors import OciError, PeerError
from oci_mesh.members.table import Member
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.reports import Reporter
from oci_mesh.mesh.wire import Inquiry, Nonsense, Report
from oci_mesh.operations.comparison import Told, find_images, find_problems, find_tags
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.scope import is_private, parse_scope
from oci_mesh.store.base import Store
from oci_mesh.tasks import loop_time

# For all answers. Fifty nodes on one machine of two cores need most of it; a mesh of hundreds
# takes that many handshakes more.
ANSWER_S: Final = 0.7
MANY: Final = 50
PER_NODE_S: Final = 0.01

# A node that is not alive is given less: a live one is not waited for with it.
GONE_S: Final = 0.4


class StatusOfAll:
    """Of the mesh that this node is in."""

    def __init__(
        self, gossip: Gossip, client: PeerClient, reporter: Reporter, store: Store
    ) -> None:
        self._gossip = gossip
        self._client = client
        self._reporter = reporter
        self._store = store

    async def answer(self, asked: StatusRequest) -> AsyncGenerator[Status, None]:
        """One document."""
        began = loop_time()
        told = await self._ask_all(images=asked.images)
        images, false = await find_images(told, self._store)
        yield Status(
            node=self._gossip.table.me.id,
            now=time.time(),
            took_s=loop_time() - began,
            nodes=[each.node for each in told],
            problems=[*find_problems(told), *false],
            images=images,
            more_images=any(each.report and each.report.more_images for each in told),
            tags=find_tags(told),
            transfers=[transfer for each in told for transfer in _transfers(each)],
        )

    async def _ask_all(self, *, images: bool) -> list[Told]:
        me, now = self._gossip.table.me, loop_time()
        live = {member.id for member in self._gossip.live()}
        others = self._gossip.table.others()
        within_s = ANSWER_S + PER_NODE_S * max(0, len(others) - MANY)
        async with asyncio.TaskGroup() as group:
            asking = [
                group.create_task(self._ask(m, m.id in live, within_s, images=images))
                for m in others
            ]
            nonce = secrets.token_hex(16)
            own = await self._reporter.answer(me.id, Inquiry(nonce, images))
        node = self._node(me, "this", now)
        _fill(node, own, own.now)
        return [Told(node, own, nonce), *(task.result() for task in asking)]

    async def _ask(self, member: Member, is_live: bool, within_s: float, *, images: bool) -> Told:
        """What `member` says of itself. It is held for no more or less alive because of it."""
        began, wall = loop_time(), time.time()
        node = self._node(member, "left", began)
        if member.left:
            return Told(node)
        nonce = secrets.token_hex(16)
        try:
            report = await self._client.report(
                member.address,
                Inquiry(nonce, images),
                member.id,
                within_s if is_live else GONE_S,
            )
        except PeerError as error:
            absent: NodeState = "silent" if is_live else "gone"
            return _without(node, "wrong" if isinstance(error, Nonsense) else absent, str(error))
        if report.node != member.id:
            return _without(node, "wrong", f"it says that it is {report.node}")
        node.state, node.silent_s = "answered", 0.0
        _fill(node, report, wall + (loop_time() - began) / 2)
        return Told(node, report, nonce)

    def _node(self, member: Member, state: NodeState, now: float) -> NodeStatus:
        return NodeStatus(
            id=member.id,
            address=member.address,
            state=state,
            silent_s=self._gossip.table.silent_s(member.id, now),
            zone=member.zone,
            registry=member.registry,
            draining=member.draining,
            signs=member.signs,
        )


def _without(node: NodeStatus, state: NodeState, reason: str) -> Told:
    node.state, node.reason = state, reason
    return Told(node)


def _fill(node: NodeStatus, report: Report, wall: float) -> None:
    """What the node says of itself; `wall` was this node's clock when it said so."""
    node.version = report.version
    node.uptime_s = report.uptime_s
    node.ahead_s = report.now - wall
    node.certificate_ends = report.certificate_ends
    node.disk = Room(**msgspec.structs.asdict(report.disk))
    node.sees = len(report.alive)
    node.banned = report.banned


def _transfers(told: Told) -> list[TransferStatus]:
    """Those that can be: of a valid name, with no more verified than there is, and not private."""
    found = []
    for running in [] if told.report is None else told.report.running:
        try:
            parse_scope(running.repository)
            Digest.parse(running.digest)
        except OciError:
            continue
        if is_private(running.repository) or running.verified > max(0, running.size):
            continue
        found.append(TransferStatus(told.node.id, **msgspec.structs.asdict(running)))
    return found
