"""A node: store, mesh, upstreams and registry, composed and running.

Start order: the store, the listeners (their ports are known then), the mesh. Other registries are
asked nothing until a client asks for something of theirs. Until the mesh is met,
or found to be unreachable, requests are answered 503. Stop order is the reverse: clients' requests
are finished first, while the mesh still serves them.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, NamedTuple, Self

from aiohttp import web

from oci_mesh import metrics as metrics_module
from oci_mesh.cache import Cache
from oci_mesh.config import NodeConfig, is_loopback, split_address
from oci_mesh.containerd.access import ContainerdAccess
from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.containerd.directory import ContentDirectory
from oci_mesh.containerd.handover import Handover
from oci_mesh.containerd.ingest import IngestOrigins
from oci_mesh.containerd.source import ContainerdSource
from oci_mesh.control.server import ControlServer
from oci_mesh.errors import ConfigError, ManifestUnknown, Unavailable
from oci_mesh.journal import Journal
from oci_mesh.members import table
from oci_mesh.members.clock import HybridClock
from oci_mesh.members.table import Member
from oci_mesh.mesh.bulk import BulkClient
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.copies import Copies
from oci_mesh.mesh.credentials import Credentials
from oci_mesh.mesh.door import Door
from oci_mesh.mesh.enrolment import Issuer, Keeper, obtain
from oci_mesh.mesh.gate import Gate
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.identity import Identity, load_identity
from oci_mesh.mesh.peers import Peers
from oci_mesh.mesh.pieces import Pieces
from oci_mesh.mesh.proofs import Proofs
from oci_mesh.mesh.publisher import MeshPublisher
from oci_mesh.mesh.rendezvous import Rendezvous
from oci_mesh.mesh.replication import Replication
from oci_mesh.mesh.server import PeerServer, asking
from oci_mesh.mesh.source import MeshSource
from oci_mesh.mesh.statements import Signer, Statements
from oci_mesh.mesh.tag_watch import TagWatch
from oci_mesh.mesh.transfer import Tools
from oci_mesh.mesh.turns import Turns
from oci_mesh.mesh.wire import NODE_HEADER, REPLICATE_PATH, TAKE_PATH
from oci_mesh.metrics import Metrics
from oci_mesh.mirror import AllOrigins, Mirror
from oci_mesh.operations.desk import Desk, Running
from oci_mesh.operations.explain import ReadManifest
from oci_mesh.pki.certificates import server_name
from oci_mesh.registry import responses
from oci_mesh.registry.api import Registry
from oci_mesh.registry.manifests import Sparse
from oci_mesh.registry.server import Handler, RegistryServer
from oci_mesh.sources import Chain, Source
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES
from oci_mesh.store.base import Store
from oci_mesh.store.disk import DiskStore
from oci_mesh.swarm.rate import Rate
from oci_mesh.swarm.uplink import Uplink
from oci_mesh.swarm.window import MOST, Window
from oci_mesh.tasks import Background
from oci_mesh.upstream.client import UpstreamClient
from oci_mesh.upstream.named import Named
from oci_mesh.upstream.source import UpstreamSource
from oci_mesh.upstream.tags import UpstreamTags
from oci_mesh.upstream_config import PUBLIC
from oci_mesh.version import __version__

_log = logging.getLogger(__name__)

# How often abandoned uploads are looked for: some hundred times within the default expiry.
SWEEP_S: Final = 300.0

# The sweep must not be later than a short expiry makes one expect.
_SWEEPS_PER_EXPIRY: Final = 4

# What makes a node hold more; deletions are for all nodes, and reach them from here as well.
PUSHES: Final = frozenset({"POST", "PUT", "PATCH"})

# Other nodes need no patience on shutdown: where a transfer breaks off, they go on elsewhere.
PEER_DRAIN_S: Final = 1.0


class Node:
    """`async with Node(NodeConfig(root=...)) as node:` runs one until the block ends.

    Raises `ConfigError` for addresses that cannot be listened on, `StoreLocked` if another
    process has the root open, `StoreCorrupt` if it cannot be read. Should a part of the node fail
    for good, the block is cancelled and the failure raised.
    """

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.store: Store
        self.source: Chain
        self.identity: Identity
        self.credentials: Credentials | None = None
        self._stack = AsyncExitStack()
        self._cache: Cache
        self._registry: Handler = _starting
        self._peers: Handler = _starting
        self._gossip: Gossip | None = None
        self._desk: Desk
        self._server: RegistryServer
        self._mesh_server: RegistryServer

    @property
    def url(self) -> str:
        """Where clients reach the registry: `http://host:port`."""
        return self._server.url

    @property
    def mesh_address(self) -> str:
        """Where other nodes reach this one: what they are given to `join`."""
        return self._me.address

    @property
    def id(self) -> str:
        """This node's name in the mesh."""
        return self._me.id

    def members(self) -> list[Member]:
        """The other nodes that seem alive."""
        assert self._gossip is not None, "not running"
        return self._gossip.live()

    @property
    def _me(self) -> Member:
        assert self._gossip is not None, "not running"
        return self._gossip.table.me

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    async def _start(self, stack: AsyncExitStack) -> None:
        config = self.config
        store = DiskStore.open(config.root, limit=config.disk_limit, reserve=config.disk_reserve)
        self.store = await stack.enter_async_context(await store)
        self.identity = identity = load_identity(config.root, config.name)
        issuer = None if config.ca is None else Issuer(config.ca, config.certificate_life)
        self.credentials = credentials = await self._secure(identity, issuer)
        client = await stack.enter_async_context(
            PeerClient(identity.id, credentials, limit=config.max_connections // 2)
        )
        bulk = await stack.enter_async_context(
            BulkClient(
                {NODE_HEADER: identity.id},
                ssl=None if credentials is None else lambda: credentials.client,
                server_name=server_name,
                limit=config.max_connections // 2,
                rate=_rate(config.download_rate),
            )
        )
        upstreams = [
            await stack.enter_async_context(UpstreamClient(upstream))
            for upstream in config.mirrored
        ]
        background = await stack.enter_async_context(Background())
        host, port = split_address(config.mesh_listen)
        self._mesh_server = await stack.enter_async_context(
            RegistryServer(
                self._handle_peer,
                host,
                port,
                drain_s=min(config.drain, PEER_DRAIN_S),
                tls=None if credentials is None else credentials.server,
                max_connections=config.max_connections,
            )
        )
        host, port = split_address(config.listen)
        pages = {"/healthz": self._healthy, "/readyz": self._ready, "/metrics": self._show_metrics}
        self._server = await stack.enter_async_context(
            RegistryServer(self._handle_client, host, port, pages=pages, drain_s=config.drain)
        )
        self._warn_if_exposed()
        gossip = self._compose(client, bulk, upstreams, background, identity, credentials)
        if credentials is not None:
            keeper = Keeper(credentials, issuer, gossip, client, config.join, _hosts(config))
            self._peers = Door(credentials, issuer, keeper, gossip, client, self._peers).handle
            background.spawn(keeper.run())
        await stack.enter_async_context(ControlServer(config.root, self._desk.verbs))
        await gossip.start()
        stack.push_async_callback(gossip.leave)
        background.spawn(gossip.run())
        background.spawn(self._sweep())
        background.spawn(self._cache.run())
        background.spawn(self._desk.upkeep.run())
        self._gossip = gossip

    def _warn_if_exposed(self) -> None:
        config = self.config
        if not is_loopback(split_address(config.listen)[0]):
            _log.warning("whoever reaches %s may push and delete: it has no accounts", self.url)
        if config.insecure and not is_loopback(split_address(config.mesh_listen)[0]):
            _log.warning(
                "nodes do not prove who they are: let only nodes reach %s (a firewall, a network "
                "of their own)",
                config.mesh_listen,
            )

    async def _secure(self, identity: Identity, issuer: Issuer | None) -> Credentials | None:
        """What TLS between nodes needs; None for plain HTTP, on loopback or if so asked."""
        config = self.config
        if config.insecure:
            return None
        credentials = await obtain(
            identity, config.root, issuer, config.token, config.join, _hosts(config)
        )
        if credentials is None and not is_loopback(split_address(config.mesh_listen)[0]):
            raise ConfigError(
                f"others than this machine reach {config.mesh_listen}, so nodes must prove who "
                "they are. The first node: `oci-mesh ca init DIR`, then --ca DIR. Every other: "
                "--token with what `oci-mesh token create --ca DIR` prints there. Or --insecure, "
                "if nobody but nodes reaches that network"
            )
        return credentials

    def _compose(
        self,
        client: PeerClient,
        bulk: BulkClient,
        upstreams: Sequence[UpstreamClient],
        background: Background,
        identity: Identity,
        credentials: Credentials | None,
    ) -> Gossip:
        """Make the parts and hand each what it needs: the only place that knows them all."""
        config, metrics, store = self.config, self.metrics, self.store
        clock, journal = HybridClock(identity.id), Journal(config.download_rate)
        gossip = Gossip(self._member(identity), clock, store, client, config.join)
        rendezvous = Rendezvous(gossip, client)
        outside = self._outside(upstreams, background)
        statements = Statements(outside.local, Signer(identity, credentials), background)
        gate = Gate(Uplink(), _rate(config.upload_rate))
        window = Window(min(MOST, config.max_connections // 2), config.download_rate)
        peers = Peers(gossip, client, metrics)
        tools = Tools(store, bulk, gate, window, peers, metrics, journal)
        proofs = Proofs(identity.id, outside.access, asking)
        origins = outside.origins
        mesh = MeshSource(
            tools, gossip, rendezvous, statements, client, background, proofs, origins
        )
        self.source = Chain([store, mesh])
        replication = Replication(gossip, client, rendezvous, self.source, store, config.copies)
        publisher = MeshPublisher(clock, gossip, replication)
        tags = self._tags(outside.upstreams, TagWatch(gossip, client), background)
        self._cache = self._bounded(Copies(gossip, peers, client, config.copies))
        mirror = self._mirror(outside, mesh, tags, Turns(gossip, rendezvous))
        running = Running(
            config=config,
            version=__version__,
            url=self._server.url,
            store=store,
            source=self.source,
            local=outside.local,
            private_manifest=outside.private_manifest,
            gossip=gossip,
            client=client,
            credentials=credentials,
            mesh=mesh,
            mirror=mirror,
            proofs=proofs,
            upstreams=outside.upstreams,
            upstream_clients=upstreams,
            replication=replication,
            publisher=publisher,
            statements=statements,
            tools=tools,
            cache=self._cache,
            journal=journal,
        )
        self._desk = Desk(running)
        self._registry = self._for_clients(running)
        self._peers = self._for_peers(running, gate, rendezvous, tags)
        return gossip

    def _for_clients(self, parts: Running) -> Handler:
        return Registry(
            parts.store,
            parts.source,
            parts.publisher,
            self.metrics,
            sparse=Sparse(self.config.sparse),
            mirror=parts.mirror,
            journal=parts.journal,
        ).handle

    def _for_peers(
        self, parts: Running, gate: Gate, rendezvous: Rendezvous, tags: UpstreamTags
    ) -> Handler:
        own = Registry(
            parts.store,
            parts.local,
            parts.publisher,
            self.metrics,
            read_only=True,
            sent=self._sent_to_peer,
            pace=gate.pace,
        )
        find, proofs = parts.mesh.fetching, parts.proofs
        pieces = Pieces(
            parts.local, parts.statements, parts.tools, find, asking, self._sent_to_peer, proofs
        )
        return PeerServer(
            parts.gossip,
            parts.replication,
            rendezvous,
            pieces,
            proofs.guarded(own.handle),
            tags.confirm,
            self._desk.services,
            self._desk.taker.begin,
        ).handle

    def _bounded(self, copies: Copies) -> Cache:
        config = self.config
        return Cache(
            self.store,
            self.metrics,
            config.root,
            copies.held_before,
            limit=config.cache_limit,
            share=config.cache_share,
            copies=config.copies,
        )

    def _member(self, identity: Identity) -> Member:
        """This node, as others are told of it. Raises `ConfigError` if they would not take it."""
        config = self.config
        me = Member(
            id=identity.id,
            address=config.advertise or self._mesh_server.authority,
            zone=config.zone,
            incarnation=time.time_ns() // 1_000_000,
            registry=self._server.url,
            signs=config.ca is not None,
        )
        try:
            table.validate(me)
        except ValueError as error:  # the other nodes would refuse it without a word
            raise ConfigError(f"no node of a mesh can be like this: {error}") from None
        return me

    def _outside(self, clients: Sequence[UpstreamClient], background: Background) -> "_Outside":
        """What is outside of the mesh: other registries, and this machine's containerd."""
        config, store, named = self.config, self.store, Named()
        upstreams = UpstreamSource(clients, store, named, background, self.metrics)
        if config.containerd is None:
            origins = AllOrigins(upstreams, None)
            return _Outside(upstreams, named, None, None, store, origins, lambda digest: None)
        if config.keep == "handover":
            handover = Handover(store, ContentDirectory(config.containerd))
            content = ContainerdContent(config.containerd, handover.committed)
            background.spawn(handover.run())
        else:
            content = ContainerdContent(config.containerd)
        background.spawn(content.run())
        background.spawn(named.recall(store))

        async def is_public(repository: str, digest: Digest) -> bool:
            return named.is_public(repository, digest, content.naming(digest))

        containerd = ContainerdSource(content, background, is_public)
        access = ContainerdAccess(content, any_node=config.private == "nodes")
        origins = AllOrigins(upstreams, IngestOrigins(content))
        local = Chain([store, containerd])

        def manifest(digest: Digest) -> bytes | None:
            return content.directory.document(digest, MAX_MANIFEST_BYTES)

        return _Outside(upstreams, named, containerd, access, local, origins, manifest)

    def _tags(
        self, upstreams: UpstreamSource, watch: TagWatch, background: Background
    ) -> UpstreamTags:
        return UpstreamTags(
            self.store,
            upstreams,
            watch,
            background,
            self.metrics,
            ttl_s=self.config.tag_ttl,
            stale_limit_s=self.config.stale_limit,
        )

    def _mirror(
        self, outside: "_Outside", mesh: MeshSource, tags: UpstreamTags, turns: Turns
    ) -> Mirror:
        config = self.config
        mirrored = {upstream.name for upstream in config.mirrored}
        return Mirror(
            mirrored,
            {upstream.name for upstream in PUBLIC} - mirrored,
            self.store,
            mesh,
            outside.upstreams,
            tags,
            turns,
            outside.named.learn,
            outside.containerd,
            entitle_all=config.private == "nodes",
        )

    def _sent_to_peer(self, request: web.BaseRequest, size: int) -> None:
        peer = asking(request)
        known = self._gossip is not None and self._gossip.is_live(peer)
        self.metrics.count(self.metrics.peer_sent, peer if known else "unknown", amount=size)

    async def _sweep(self) -> None:
        expiry = self.config.upload_expiry
        while True:
            await asyncio.sleep(min(SWEEP_S, expiry / _SWEEPS_PER_EXPIRY))
            dropped = await self.store.expire_uploads(expiry)
            if dropped:
                _log.info("dropped %d uploads that nobody continued for %.0f s", dropped, expiry)

    # -- what is behind the listeners

    async def _handle_client(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._gossip is None:  # until then the clock may be behind stamps in the store
            return await _starting(request)
        witness = self._desk.witness
        # Nothing is awaited but for seconds a year: no other request has its query parsed for it.
        if witness.looks_out and await witness.sees(request.path, request.query.get("ns", "")):
            return responses.error(ManifestUnknown("no such manifest"))
        if request.method not in PUSHES:
            return await self._registry(request)
        return await self._admit(self._registry, request)

    async def _handle_peer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path in (REPLICATE_PATH, TAKE_PATH) and self._gossip is not None:
            return await self._admit(self._peers, request)
        return await self._peers(request)

    async def _admit(self, handle: Handler, request: web.BaseRequest) -> web.StreamResponse:
        """Let a push in, unless this node takes none."""
        try:
            async with self._desk.upkeep.pushes.admitted():
                return await handle(request)
        except Unavailable as error:
            return responses.error(error)

    async def _healthy(self, request: web.BaseRequest) -> web.StreamResponse:
        """200 while it answers, from its own database; what fails then, a restart may help."""
        await self.store.usage()
        return responses.json({"status": "ok"})

    async def _ready(self, request: web.BaseRequest) -> web.StreamResponse:
        """200 once requests are answered: /healthz says it lives, this that it works."""
        if self._gossip is None:
            return await _starting(request)
        if self._desk.upkeep.pushes.closed:
            return responses.error(Unavailable("this node drains, or has left the mesh"))
        return responses.json({"node": self.id, "members": len(self.members()) + 1})

    async def _show_metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        metrics, usage = self.metrics, await self.store.usage()
        metrics.blobs.set(usage.blobs)
        metrics.blob_bytes.set(usage.bytes)
        metrics.uploads.set(usage.uploads)
        metrics.cache_bytes.set(usage.cached)
        if self._gossip is not None:
            metrics.members.set(len(self.members()) + 1)
            metrics.names.set(len(self._gossip.register))
        return responses.raw(metrics.render(), metrics_module.CONTENT_TYPE)


class _Outside(NamedTuple):
    """What a node has that knows of other registries."""

    upstreams: UpstreamSource
    named: Named
    containerd: ContainerdSource | None
    access: ContainerdAccess | None
    local: Source
    """What is on this machine: the store's content, and containerd's."""
    origins: AllOrigins
    private_manifest: ReadManifest


def _hosts(config: NodeConfig) -> list[str]:
    """Where others reach this node, as far as it is said; who signs sees the rest."""
    host = split_address(config.advertise or config.mesh_listen)[0]
    return [] if host in ("0.0.0.0", "::") else [host]


def _rate(limit: int) -> Rate | None:
    """A limit of the settings; 0 is none."""
    return Rate(limit) if limit else None


async def _starting(request: web.BaseRequest) -> web.StreamResponse:
    return responses.error(Unavailable("this node is starting", headers={"Retry-After": "1"}))
