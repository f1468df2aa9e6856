"""What a node says of itself, to another one whose operator asks.

Only of itself: whom it sees and whom it could not reach is its own experience. Nothing about
private content is in it, and nothing is fetched or asked of anybody for it.
"""

import os
import time
from pathlib import Path

from oci_mesh.journal import plain
from oci_mesh.mesh.credentials import Credentials
from oci_mesh.mesh.fetch import Fetch
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.inventory import Inventory
from oci_mesh.mesh.peers import Peers
from oci_mesh.mesh.source import MeshSource
from oci_mesh.mesh.wire import (
    MAX_GIVERS,
    MAX_TRANSFERS,
    Disk,
    Inquiry,
    Missed,
    Report,
    Running,
)
from oci_mesh.spec.scope import is_private
from oci_mesh.store.base import Store
from oci_mesh.tasks import loop_time


class Reporter:
    """Of one node, with its store in `root`. It is bounded to `limit` bytes of content (0: any),
    and leaves `reserve` of the disk free.
    """

    def __init__(
        self,
        root: Path,
        limit: int,
        reserve: int,
        version: str,
        store: Store,
        gossip: Gossip,
        peers: Peers,
        source: MeshSource,
        inventory: Inventory,
        credentials: Credentials | None,
    ) -> None:
        self._root = root
        self._limit = limit
        self._reserve = reserve
        self._version = version
        self._store = store
        self._gossip = gossip
        self._peers = peers
        self._source = source
        self._inventory = inventory
        self._credentials = credentials
        self._started_at = time.monotonic()

    async def answer(self, sender: str, asked: Inquiry) -> Report:
        """The same for every node, and for this one's operator."""
        gossip, now = self._gossip, loop_time()
        images, more = await self._inventory.images(asked.nonce) if asked.images else ([], False)
        holder = None if self._credentials is None else self._credentials.holder
        fetches = [each for each in self._source.fetches() if not is_private(each.repository)]
        return Report(
            node=gossip.table.me.id,
            version=self._version,
            now=time.time(),
            uptime_s=time.monotonic() - self._started_at,
            disk=await self._disk(),
            alive=sorted(member.id for member in gossip.live()),
            missed=[
                Missed(node_id, max(0.0, now - missed.at), plain(missed.reason))
                for node_id, missed in gossip.unreached.items()
            ],
            banned=self._peers.banned(),
            doubles=[plain(address) for address in gossip.doubles],
            certificate_ends=0.0 if holder is None else holder.not_after,
            running=[_running(each, now) for each in fetches[:MAX_TRANSFERS]],
            images=images,
            more_images=more,
        )

    async def _disk(self) -> Disk:
        usage, disk = await self._store.usage(), os.statvfs(self._root)
        return Disk(
            total=disk.f_blocks * disk.f_frsize,
            free=disk.f_bavail * disk.f_frsize,
            reserve=self._reserve,
            content=usage.bytes,
            cached=usage.cached,
            limit=self._limit,
        )


def _running(fetch: Fetch, now: float) -> Running:
    transfer = fetch.transfer
    running = Running(fetch.repository, str(fetch.digest), -1)
    if transfer is None:
        return running  # it is still looked for
    assembly = transfer.assembly
    running.size = assembly.pieces.size
    running.verified = assembly.verified
    if transfer.started_at:
        running.rate = int(assembly.received / max(now - transfer.started_at, 0.001))
    running.asked = sorted(plain(name) for name in transfer.asked_now())[:MAX_GIVERS]
    return running
