"""Who asks an upstream for a manifest that no node has: one node, when many want it at one moment.

Registries count manifests (docker.io: a hundred in six hours for all behind one address), so nodes
take turns at them. Who wants one says so at its rendezvous, like for a blob; the lowest slot goes
first, and once that has it the others find it there. Nothing depends on it: who has waited for long
enough asks by itself.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from oci_mesh.errors import PeerError
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.rendezvous import Rendezvous
from oci_mesh.mesh.wire import Attend
from oci_mesh.spec.digest import Digest
from oci_mesh.swarm.view import Entry
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

# As long as an upstream mostly takes for a token and a manifest, twice. A client waits meanwhile.
PATIENCE_S: Final = 3.0


class Turns:
    """Of one node."""

    def __init__(self, gossip: Gossip, rendezvous: Rendezvous) -> None:
        self._gossip = gossip
        self._rendezvous = rendezvous

    @asynccontextmanager
    async def turn(self, repository: str, digest: Digest) -> AsyncIterator[None]:
        """Wait until no other node is about to get it, as far as can be told within `PATIENCE_S`:
        perhaps one has it then. If the block succeeds, this node has it.
        """
        if not self._gossip.live():
            yield
            return
        me = self._gossip.table.me
        asked = Attend(repository, str(digest), Entry(me.id, me.address, -1, me.zone))
        await self._wait(asked)
        left = msgspec.structs.replace(asked, wait_s=0.0, leaves=True)
        try:
            yield
        except Exception:  # who is cancelled tells nobody: the others lose patience
            await self._rendezvous.tell(left)
            raise
        entry = msgspec.structs.replace(asked.entry, slot=-1, complete=True)
        await self._rendezvous.tell(msgspec.structs.replace(left, entry=entry, leaves=False))

    async def _wait(self, asked: Attend) -> None:
        others: dict[str, Entry] = {}
        until = loop_time() + PATIENCE_S
        while (left_s := until - loop_time()) > 0:
            try:
                roster = await self._rendezvous.attend(asked)
            except PeerError as error:
                _log.debug("no rendezvous of %s answers: %s", asked.digest, error)
                return
            if roster.epoch != asked.epoch:
                others.clear()
            for gone in roster.gone:
                others.pop(gone, None)
            others |= {entry.id: entry for entry in roster.entries}
            asked.entry, asked.wait_s = roster.entry, left_s
            asked.epoch, asked.version = roster.epoch, roster.version
            live = {member.id for member in self._gossip.live()}
            known = [entry for entry in others.values() if entry.id in live]
            if any(entry.complete for entry in known):
                return
            if all(entry.slot > roster.entry.slot for entry in known):
                return
