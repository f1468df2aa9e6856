"""All that a node does for its operator, made from the node's parts: its verbs, and what other
nodes are answered for theirs.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass

from oci_mesh.cache import Cache
from oci_mesh.config import NodeConfig
from oci_mesh.control import explain as explain_documents
from oci_mesh.control import health as health_documents
from oci_mesh.control import status as status_documents
from oci_mesh.control import sync as sync_documents
from oci_mesh.control import witness as witness_documents
from oci_mesh.control.explain import ExplainRequest
from oci_mesh.control.health import HealthRequest
from oci_mesh.control.server import Verb
from oci_mesh.control.status import StatusRequest
from oci_mesh.control.sync import PlanRequest, SyncRequest
from oci_mesh.control.witness import WitnessRequest
from oci_mesh.journal import Journal
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.credentials import Credentials
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.holdings import Holder
from oci_mesh.mesh.inventory import Inventory
from oci_mesh.mesh.proofs import Proofs
from oci_mesh.mesh.publisher import MeshPublisher
from oci_mesh.mesh.replication import Replication
from oci_mesh.mesh.reports import Reporter
from oci_mesh.mesh.server import Service
from oci_mesh.mesh.source import MeshSource
from oci_mesh.mesh.statements import Statements
from oci_mesh.mesh.transfer import Tools
from oci_mesh.mesh.wire import (
    HOLDINGS_PATH,
    PULSE_PATH,
    REPORT_PATH,
    Feel,
    Holdings,
    Inquiry,
)
from oci_mesh.mirror import Mirror
from oci_mesh.operations.explain import Explain, Parts, ReadManifest
from oci_mesh.operations.health import HealthCheck
from oci_mesh.operations.naming import Naming
from oci_mesh.operations.status import StatusOfAll
from oci_mesh.operations.survey import Survey
from oci_mesh.operations.sync import Sync
from oci_mesh.operations.take import Taker
from oci_mesh.operations.upkeep import Upkeep
from oci_mesh.operations.witness import Witness
from oci_mesh.sources import Source
from oci_mesh.spec.platform import platform_of
from oci_mesh.store.base import Store
from oci_mesh.store.room import reserve_of
from oci_mesh.upstream.client import UpstreamClient
from oci_mesh.upstream.source import UpstreamSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The parts of a node that its operator's verbs are about."""

    config: NodeConfig
    version: str
    url: str
    """Where clients reach the registry."""
    store: Store
    source: Source
    local: Source
    """What is on this machine: the store's content, and containerd's."""
    private_manifest: ReadManifest
    gossip: Gossip
    client: PeerClient
    credentials: Credentials | None
    mesh: MeshSource
    mirror: Mirror
    proofs: Proofs
    upstreams: UpstreamSource
    upstream_clients: Sequence[UpstreamClient]
    replication: Replication
    publisher: MeshPublisher
    statements: Statements
    tools: Tools
    cache: Cache
    journal: Journal


class Desk:
    """Where an operator's questions and orders go. `upkeep.run` is to be run."""

    def __init__(self, running: Running) -> None:
        self.verbs: dict[str, Verb] = {}
        self.services: dict[str, Service] = {}
        """What other nodes may ask of this one, by path."""
        self.witness = Witness()
        self.taker = _taker(running)
        self.upkeep = _upkeep(running)
        self.verbs.update(self.upkeep.verbs())
        self.services.update(self.upkeep.services())
        self._sync(running)
        self._explain(running)
        self._health(running)
        self._status(running)

    def _sync(self, node: Running) -> None:
        sync = Sync(
            node.url,
            node.store,
            node.mirror,
            node.gossip,
            node.client,
            node.replication,
            self.taker,
        )
        self.verbs[sync_documents.PLAN] = Verb(PlanRequest, sync.plan)
        self.verbs[sync_documents.SYNC] = Verb(SyncRequest, sync.sync)

    def _explain(self, node: Running) -> None:
        holder = Holder(
            node.store,
            node.local,
            node.mesh.fetching,
            node.proofs,
            node.gossip,
            node.journal,
            node.config.upload_rate,
        )
        explain = Explain(
            Parts(
                Naming(node.config, node.mirror, node.upstreams, node.store, node.gossip),
                Survey(node.gossip, node.client, holder, node.proofs, node.store),
                node.gossip,
                node.store,
                node.client,
                node.mirror,
                node.config.tag_ttl,
                node.private_manifest,
            )
        )
        self.verbs[explain_documents.VERB] = Verb(ExplainRequest, explain.answer)
        self.services[HOLDINGS_PATH] = Service(Holdings, holder.answer)

    def _health(self, node: Running) -> None:
        health = HealthCheck(
            node.config,
            node.url,
            node.version,
            node.store,
            node.gossip,
            node.client,
            node.credentials,
            node.upstream_clients,
        )
        self.verbs[health_documents.VERB] = Verb(HealthRequest, health.answer)
        self.verbs[witness_documents.VERB] = Verb(WitnessRequest, self.witness.answer)
        self.services[PULSE_PATH] = Service(Feel, health.feel)

    def _status(self, node: Running) -> None:
        config = node.config
        reporter = Reporter(
            config.root,
            config.disk_limit,
            reserve_of(config.root, config.disk_reserve),
            node.version,
            node.store,
            node.gossip,
            node.tools.peers,
            node.mesh,
            Inventory(node.store, node.local),
            node.credentials,
        )
        self.services[REPORT_PATH] = Service(Inquiry, reporter.answer)
        status = StatusOfAll(node.gossip, node.client, reporter, node.store)
        self.verbs[status_documents.VERB] = Verb(StatusRequest, status.answer)


def _taker(node: Running) -> Taker:
    config, importer = node.config, None
    here = platform_of(platform.machine())
    if config.containerd_socket is not None:
        from oci_mesh.containerd.importer import Importer  # gRPC, which most do without

        importer = Importer(config.containerd_socket, config.containerd_namespace, here)
    return Taker(node.store, node.source, node.mirror, here, importer)


def _upkeep(node: Running) -> Upkeep:
    return Upkeep(
        node.config,
        node.tools,
        node.cache,
        node.source,
        node.upstreams,
        node.statements,
        node.gossip,
        node.client,
        node.replication,
        node.publisher,
        node.credentials,
    )
