"""Which other nodes hold what this one might let go of: asked of them, in an order all agree on."""

from typing import Final

from oci_mesh.members.table import rendezvous
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.peers import Peers
from oci_mesh.mesh.wire import content_path
from oci_mesh.spec.digest import Digest

# Nodes asked about one blob, in two waves. In a large mesh the holders of what few have may be
# beyond these: then this node keeps its copy, which is never wrong.
WAVES: Final = (4, 60)


class Copies:
    """Of blobs of the mesh's own repositories. `enough` holders end a search."""

    def __init__(self, gossip: Gossip, peers: Peers, client: PeerClient, enough: int) -> None:
        self._gossip = gossip
        self._peers = peers
        self._client = client
        self._enough = enough

    async def held_before(self, repository: str, digest: Digest) -> int:
        """How many live nodes hold a blob, of those before this one in the order of its digest.

        Whoever lets go of a blob only if it finds n of these, leaves n holders that never will:
        the first n of all in that order find fewer, however the nodes' views of the mesh differ.
        """
        me = self._gossip.table.me
        staying = [m for m in self._peers.candidates(digest) if not m.draining]
        order = rendezvous(str(digest), [*staying, me])
        before = order[: order.index(me)]
        path, held = content_path(repository, "blobs", digest), 0
        if len(before) < self._enough:
            return 0
        for count in WAVES:
            wave, before = before[:count], before[count:]
            answers = await self._peers.ask(
                wave, lambda member: self._client.stat(member.address, path, member.id)
            )
            held += sum(size is not None for _, size in answers)
            if held >= self._enough:
                break
        return held
