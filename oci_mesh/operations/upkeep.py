"""What looks after a node, put together: `join`, `drain`, `gc`, `scrub`."""

from oci_mesh.cache import Cache
from oci_mesh.config import NodeConfig
from oci_mesh.control import upkeep as documents
from oci_mesh.control.server import Verb
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.credentials import Credentials
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.publisher import MeshPublisher
from oci_mesh.mesh.replication import Replication
from oci_mesh.mesh.server import Service
from oci_mesh.mesh.statements import Statements
from oci_mesh.mesh.stock import Stocks
from oci_mesh.mesh.transfer import Tools
from oci_mesh.mesh.wire import STOCK_PATH, Count
from oci_mesh.operations.drain import Drain
from oci_mesh.operations.gc import Collector
from oci_mesh.operations.join import Joining
from oci_mesh.operations.pushes import Pushes
from oci_mesh.operations.scrub import Manifests, Scrub
from oci_mesh.sources import Source


class Upkeep:
    """Of one node. `pushes` is the door that all of them have to go through."""

    def __init__(
        self,
        config: NodeConfig,
        tools: Tools,
        cache: Cache,
        source: Source,
        upstreams: Manifests,
        statements: Statements,
        gossip: Gossip,
        client: PeerClient,
        replication: Replication,
        publisher: MeshPublisher,
        credentials: Credentials | None,
    ) -> None:
        store, peers, metrics = tools.store, tools.peers, tools.metrics
        self.pushes = Pushes()
        self._stocks = Stocks(store, gossip, peers, client)
        self._joining = Joining(gossip, client, credentials)
        self._drain = Drain(
            store, gossip, replication, self._stocks, self.pushes, copies=config.copies
        )
        self._collector = Collector(
            store,
            cache,
            self._stocks,
            gossip,
            publisher,
            join=config.join,
            upload_expiry_s=config.upload_expiry,
        )
        self._scrub = Scrub(store, source, upstreams, peers, statements.forget, metrics)
        self._root = config.root
        self._scrub_rate = config.scrub_rate

    def verbs(self) -> dict[str, Verb]:
        """What an operator may ask for."""
        return {
            documents.JOIN: Verb(documents.JoinRequest, self._joining.answer),
            documents.DRAIN: Verb(documents.DrainRequest, self._drain.answer),
            documents.GC: Verb(documents.GcRequest, self._collector.answer),
            documents.SCRUB: Verb(documents.ScrubRequest, self._scrub.answer),
        }

    def services(self) -> dict[str, Service]:
        """What other nodes ask for it."""
        return {STOCK_PATH: Service(Count, self._stocks.answer)}

    async def run(self) -> None:
        """Scrub now and then, if it is to; until cancelled."""
        if self._scrub_rate:
            await self._scrub.run(self._root, self._scrub_rate)
