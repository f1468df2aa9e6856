"""What a name means to clients, and what this node makes of it. Nothing is asked of anybody."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from oci_mesh.config import NodeConfig
from oci_mesh.control.explain import Reading, Rule
from oci_mesh.errors import ManifestUnknown, NameInvalid, NameUnknown
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mirror import Mirror
from oci_mesh.spec.reference import Reference, names_host, parse_reference
from oci_mesh.spec.scope import Scope, is_private, parse_scope
from oci_mesh.store.base import Store
from oci_mesh.upstream.source import UpstreamSource
from oci_mesh.upstream_config import UpstreamConfig

# Makes the grammar take a name without a host as it is written.
_ANY_HOST: Final = "localhost/"

_HERE: Final = "oci-mesh, and who names this node as HOST:PORT/..."
_DOCKER: Final = "docker, containerd and Kubernetes"
_PODMAN: Final = "podman and CRI-O"
_ALL: Final = "all clients"


class Name(NamedTuple):
    """A name that was read."""

    reference: Reference
    """As the reading that is explained has it; for the mesh's own, the domain means nothing."""
    readings: list[Reading]
    rule: Rule


class Naming:
    """Reads names as this node's clients write them."""

    def __init__(
        self,
        config: NodeConfig,
        mirror: Mirror,
        upstreams: UpstreamSource,
        store: Store,
        gossip: Gossip,
    ) -> None:
        self._configured = {upstream.name for upstream in config.upstreams}
        self._mirrored: Mapping[str, UpstreamConfig] = {u.name: u for u in config.mirrored}
        self._mirror = mirror
        self._upstreams = upstreams
        self._store = store
        self._gossip = gossip

    async def read(self, text: str) -> Name:
        """Raises `NameInvalid`, `TagInvalid` or `DigestInvalid`."""
        if names_host(text):
            reference = parse_reference(text)
            rule = await self._rule(reference)
            return Name(reference, [_reading(_ALL, str(reference), rule)], rule)
        own = parse_reference(_ANY_HOST + text)
        expanded = parse_reference(text)
        docker = await self._rule(expanded)
        here = Rule("own", own.repository)
        short = str(own).removeprefix(_ANY_HOST)
        readings = [
            _reading(_HERE, short, here),
            _reading(_DOCKER, str(expanded), docker),
            Reading(_PODMAN, f"{short} at each registry that they are to search"),
        ]
        if not await self._is_known(own, here) and await self._is_known(expanded, docker):
            return Name(expanded, readings, docker)
        return Name(own, readings, here)

    async def _rule(self, reference: Reference) -> Rule:
        registry = reference.domain.lower()
        try:
            scope = await self._mirror.scope(reference.repository, registry)
        except NameUnknown:
            return Rule("off", "", registry)
        if scope is None:
            return Rule("own", reference.repository, registry)
        upstream = self._mirrored[registry]
        try:
            asked_as = upstream.repository(reference.repository)
        except NameInvalid:
            asked_as = ""
        refused = self._upstreams.is_refused(scope)
        return Rule(
            "upstream" if registry in self._configured else "public",
            str(Scope(reference.repository, registry, private=refused)),
            registry,
            list(upstream.urls),
            asked_as,
            refused,
        )

    async def _is_known(self, reference: Reference, rule: Rule) -> bool:
        """Whether this node has heard of such a thing."""
        if rule.kind == "off" or is_private(rule.repository):
            return False
        if reference.digest is not None:
            try:
                await self._store.peek(rule.repository, reference.digest)
            except ManifestUnknown:
                return False
        elif parse_scope(rule.repository).registry:
            kept = await self._store.resolution(rule.repository, str(reference.tag))
            return kept is not None
        elif self._gossip.register.get(rule.repository, str(reference.tag)) is None:
            return await self._mirror.is_own(rule.repository)
        return True


def _reading(clients: str, name: str, rule: Rule) -> Reading:
    return Reading(clients, name, rule.repository)
