"""oci_mesh: one small peer per node; an OCI registry to clients, a mesh between nodes.

    async with oci_mesh.Node(oci_mesh.NodeConfig(root="/var/lib/oci-mesh")) as node:
        print(node.url)

Six concepts, and where they live (imports go one way, `tests/test_layers.py` holds that):

    Digest, Reference   what content is called                       spec/      pure
    Store               verified content on this node                store/
    Source              something bytes can be asked of              sources.py
    Swarm               who fetches which piece from whom            swarm/     pure
    Members             who is in the mesh, and the names all share  members/   pure
    Node                all of these, composed and running           node.py

    registry/ is HTTP in, from clients; mesh/ is the IO between nodes; upstream/ is HTTP out, to
    other registries; containerd/ reads what this machine's containerd has, and imports images into
    it; mirror.py says in which order all these are asked, cache.py what is let go; pki/ is
    certificates; operations/ is what a node does for its operator, who asks by control/, a Unix
    socket; cli/ is `oci-mesh`;
    serve.py is the daemon, notify.py what systemd hears of it; errors.py has one tree of errors;
    journal.py has what the last pulls were like; config.py has every setting, upstream_config.py
    those of one upstream.

Names that bring the HTTP stack along (`Node`) are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from oci_mesh.config import NodeConfig
from oci_mesh.errors import (
    BlobUnknown,
    ConfigError,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    OciError,
    OciMeshError,
    PeerError,
    StoreCorrupt,
    StoreError,
    StoreLocked,
    TagInvalid,
    UpstreamError,
)
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest, Platform, parse_manifest
from oci_mesh.spec.reference import Reference, parse_reference
from oci_mesh.upstream_config import UpstreamConfig
from oci_mesh.version import __version__ as __version__

if TYPE_CHECKING:
    from oci_mesh.node import Node
    from oci_mesh.sources import Chain, Source
    from oci_mesh.store.base import Blob, Partial, Store, Upload
    from oci_mesh.store.disk import DiskStore
    from oci_mesh.store.memory import MemoryStore


__all__ = [
    "Blob",
    "BlobUnknown",
    "Chain",
    "ConfigError",
    "Descriptor",
    "Digest",
    "DigestInvalid",
    "DiskStore",
    "Manifest",
    "ManifestInvalid",
    "ManifestUnknown",
    "MemoryStore",
    "NameInvalid",
    "Node",
    "NodeConfig",
    "OciError",
    "OciMeshError",
    "Partial",
    "PeerError",
    "Platform",
    "Reference",
    "Source",
    "Store",
    "StoreCorrupt",
    "StoreError",
    "StoreLocked",
    "TagInvalid",
    "Upload",
    "UpstreamConfig",
    "UpstreamError",
    "parse_manifest",
    "parse_reference",
]

_LAZY: Final = {
    "Blob": "store.base",
    "Chain": "sources",
    "DiskStore": "store.disk",
    "MemoryStore": "store.memory",
    "Node": "node",
    "Partial": "store.base",
    "Source": "sources",
    "Store": "store.base",
    "Upload": "store.base",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'oci_mesh' has no attribute {name!r}")
    value = getattr(import_module(f"oci_mesh.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
