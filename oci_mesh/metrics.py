"""Counters for `/metrics`: the one home of the Prometheus client.

One `Metrics` per node, with its own collector registry: several nodes may live in one process.
Counting is per request and per blob, never per chunk.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"})


class Metrics:
    """What a node counts. Names and labels are an interface: dashboards are built on them."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._labelled: dict[tuple[Counter, tuple[str, ...]], Counter] = {}
        self.requests = Counter(
            "oci_mesh_requests",
            "Requests answered, of clients and of other nodes.",
            ["listener", "endpoint", "method", "status"],
            registry=registry,
        )
        self.client_sent = Counter(
            "oci_mesh_client_sent_bytes", "Blob bytes sent to clients.", registry=registry
        )
        self.client_received = Counter(
            "oci_mesh_client_received_bytes", "Upload bytes from clients.", registry=registry
        )
        self.peer_sent = Counter(
            "oci_mesh_peer_sent_bytes",
            "Blob bytes sent to other nodes, by node.",
            ["peer"],
            registry=registry,
        )
        self.peer_received = Counter(
            "oci_mesh_peer_received_bytes",
            "Blob bytes from other nodes, by node.",
            ["peer"],
            registry=registry,
        )
        self.peer_faults = Counter(
            "oci_mesh_peer_faults",
            "What went wrong with other nodes: unreachable, cut, stalled, slow (another was "
            "quicker), missing (it said that it has something), nonsense, corrupt.",
            ["peer", "fault"],
            registry=registry,
        )
        self.pieces = Counter(
            "oci_mesh_piece_requests",
            "Pieces of blobs asked of other nodes, by what came of it: received, or why not.",
            ["outcome"],
            registry=registry,
        )
        self.replicated = Counter(
            "oci_mesh_pushes_replicated",
            "Pushed manifests, by the number of nodes that held them when acknowledged.",
            ["copies"],
            registry=registry,
        )
        self.members = Gauge(
            "oci_mesh_members", "Nodes that seem alive, this one counted.", registry=registry
        )
        self.names = Gauge(
            "oci_mesh_names", "Tags that all nodes share, deletions too.", registry=registry
        )
        self.blobs = Gauge("oci_mesh_store_blobs", "Blobs on this node.", registry=registry)
        self.blob_bytes = Gauge("oci_mesh_store_bytes", "Their bytes.", registry=registry)
        self.uploads = Gauge("oci_mesh_store_uploads", "Unfinished uploads.", registry=registry)
        self._add_mirror(registry)
        self._add_upkeep(registry)

    def _add_mirror(self, registry: CollectorRegistry) -> None:
        self.upstream_received = Counter(
            "oci_mesh_upstream_received_bytes",
            "Blob bytes from other registries, by registry.",
            ["registry"],
            registry=registry,
        )
        self.upstream_tags = Counter(
            "oci_mesh_upstream_tags",
            "Tags of upstreams looked up, by what came of it: memory (within its time to live), "
            "colleague (another node had looked), upstream, stale (the upstream cannot be asked), "
            "unavailable (nor is it remembered), unknown, refused.",
            ["outcome"],
            registry=registry,
        )
        self.upstream_requests = Counter(
            "oci_mesh_upstream_requests",
            "What upstreams were asked, by what came of it: answered, unknown (it has no such "
            "thing), refused (401, 403), limited (429), unavailable, whole (all of a blob where a "
            "part was asked for), nonsense.",
            ["registry", "outcome"],
            registry=registry,
        )
        self.cache_bytes = Gauge(
            "oci_mesh_cache_bytes",
            "Bytes of content on this node that came from other registries.",
            registry=registry,
        )
        self.cache_evicted = Counter(
            "oci_mesh_cache_evicted_bytes",
            "Content that was let go of to stay within bounds, or to make room.",
            registry=registry,
        )
        self.cache_evicted_blobs = Counter(
            "oci_mesh_cache_evicted_blobs", "Likewise, blobs and manifests.", registry=registry
        )

    def _add_upkeep(self, registry: CollectorRegistry) -> None:
        self.scrubbed = Counter(
            "oci_mesh_scrubbed_bytes", "Content that was read again.", registry=registry
        )
        self.corrupt = Counter(
            "oci_mesh_corrupt_contents", "Content found damaged or missing.", registry=registry
        )
        self.mended = Counter(
            "oci_mesh_mended_contents",
            "Of these, those that could be had again.",
            registry=registry,
        )

    def count(self, counter: Counter, *labels: str, amount: int = 1) -> None:
        """Count under labels. The client would check and convert them anew each time."""
        labelled = self._labelled.get((counter, labels))
        if labelled is None:
            labelled = self._labelled[counter, labels] = counter.labels(*labels)
        labelled.inc(amount)

    def count_request(self, listener: str, endpoint: str, method: str, status: int) -> None:
        """Count an answered request. A method that no endpoint takes is `other`: clients must not
        be able to make up time series.
        """
        method = method if method in _METHODS else "other"
        self.count(self.requests, listener, endpoint, method, str(status))

    def render(self) -> bytes:
        """The text exposition format, as `CONTENT_TYPE` says."""
        return generate_latest(self._registry)
