"""`node join`, where a node runs: it meets other nodes by the certificate that it has."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from oci_mesh.control.health import Outcome
from oci_mesh.control.upkeep import JoinRequest, JoinResult, Unreachable
from oci_mesh.control.wire import Document
from oci_mesh.errors import PeerError
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.credentials import Credentials
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.wire import content_path
from oci_mesh.operations.dial import find_reason
from oci_mesh.pki.trust import Trust
from oci_mesh.spec.digest import Digest

# Something that no node has: whoever says so is a node of this mesh.
_NOTHING: Final = content_path("oci-mesh", "blobs", Digest.of(b""))

_TOKEN: Final = "oci-mesh token create --ca DIR, where that mesh has its authority"

# What to do, by what came of trying.
_HINTS: Final[dict[Outcome, str]] = {
    "unresolved": "check the name, or give an address",
    "unreachable": "there is no route to it from here",
    "closed": "start the node there; its `mesh-listen` must be on an address that others reach",
    "filtered": "is the machine up, and its port open to this one (firewall, security group)?",
    "plain": "that node runs with `insecure`: nodes of one mesh all prove who they are, or none",
    "secured": f"nodes prove who they are there, so this one needs a token: {_TOKEN}",
    "stranger": "give the address of a node's mesh listener: mostly port 7946",
    "other-mesh": f"a token of that mesh lets this node in: {_TOKEN}",
    "expired": "check the clocks of both machines; `oci-mesh doctor` does",
    "not-yet": "check the clocks of both machines; `oci-mesh doctor` does",
    "refused": f"it does not take this node's certificate or token. A new token: {_TOKEN}",
}


class Joining:
    """Of a running node; without `credentials` where nodes prove nothing."""

    def __init__(self, gossip: Gossip, client: PeerClient, credentials: Credentials | None) -> None:
        self._gossip = gossip
        self._client = client
        self._credentials = credentials

    async def answer(self, asked: JoinRequest) -> AsyncGenerator[Document, None]:
        """Those who answer are met, now and from now on. Idempotent."""
        trust = None if self._credentials is None else self._credentials.trust
        unreachable = await find_unreachable(self._client, asked.addresses, trust)
        failed = {each.address for each in unreachable}
        await self._gossip.add_seeds([a for a in asked.addresses if a not in failed])
        members = sorted(member.id for member in self._gossip.live())
        yield JoinResult(self._gossip.table.me.id, members, unreachable)


async def find_unreachable(
    client: PeerClient, addresses: list[str], trust: Trust | None
) -> list[Unreachable]:
    """Those of the addresses where no node of this mesh answers, and why; asked all at once."""
    unreachable: dict[str, Unreachable] = {}

    async def look(address: str) -> None:
        try:
            await client.stat(address, _NOTHING)
        except PeerError as error:
            unreachable[address] = await explain(address, trust, str(error))

    async with asyncio.TaskGroup() as group:
        for address in addresses:
            group.create_task(look(address))
    return [unreachable[address] for address in addresses if address in unreachable]


async def explain(address: str, trust: Trust | None, why: str) -> Unreachable:
    """Why a request to a node failed, and what to do."""
    reason = await find_reason(address, None, trust, why)
    detail = reason.detail or why
    text = why if reason.outcome == "failing" else f"{reason.outcome}: {detail}"
    return Unreachable(address, text, _HINTS.get(reason.outcome, ""))
