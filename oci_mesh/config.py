"""What can be set about a node, with units, defaults and reasons.

`serve` fills this from arguments, environment and a TOML file; other programs construct it.
"""

import math
import re
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from oci_mesh.errors import ConfigError
from oci_mesh.upstream_config import UpstreamConfig, with_public

SPARSE_POLICIES: Final = ("index", "allow", "deny")
PRIVATE_POLICIES: Final = ("strict", "nodes")
KEEP_POLICIES: Final = ("cache", "handover")

# Slower, and even the small pieces of a few senders take longer than other nodes wait for them.
MIN_RATE: Final = 100_000

# Fewer, and a node that fetches has none left over for gossip: the others would take it for dead.
MIN_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One node. Only `root` has no default.

    Raises `ConfigError` for values that cannot be used.
    """

    root: Path = field(metadata={"help": "Directory of this node's content. Made if missing."})
    listen: str = field(
        default="127.0.0.1:5000",
        metadata={"help": "HOST:PORT of the registry, for clients. Port 0 picks one."},
    )
    mesh_listen: str = field(
        default="127.0.0.1:7946",
        metadata={"help": "HOST:PORT for other nodes. Port 0 picks one."},
    )
    join: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "HOST:PORT of another node's mesh listener; may be given many times. A DNS "
            "name stands for all its addresses."
        },
    )
    name: str | None = field(
        default=None,
        metadata={"help": "Name of this node in the mesh. Default: one made up on first start."},
    )
    advertise: str | None = field(
        default=None,
        metadata={
            "help": "HOST:PORT at which other nodes reach this one. Default: the mesh listener's; "
            "if that is on all addresses, the one that other nodes see."
        },
    )
    ca: Path | None = field(
        default=None,
        metadata={
            "help": "Directory of the mesh's authority (`oci-mesh ca init`), with its key: this "
            "node signs the certificates of the others. One node needs it, two are better."
        },
    )
    token: str | None = field(
        default=None,
        metadata={
            "help": "Join token (`oci-mesh token create`), or the file that has it: for the first "
            "start of a node, which gets its certificate for it."
        },
    )
    insecure: bool = field(
        default=False,
        metadata={
            "help": "Speak plain HTTP to other nodes: whoever reaches the mesh listener is one."
        },
    )
    certificate_life: float = field(
        default=24 * 3600.0,
        metadata={
            "help": "Seconds that certificates live which this node signs. A day: they are renewed "
            "at two thirds of it, and a node that was stolen is out the day after."
        },
    )
    zone: str = field(
        default="",
        metadata={
            "help": "Where this node is: nodes of one zone are near each other, and content enters "
            "a zone once. On Kubernetes the value of topology.kubernetes.io/zone, by the downward "
            "API."
        },
    )
    upload_rate: int = field(
        default=0,
        metadata={
            "help": "Bytes of content a second to other nodes, all together: 50MB or 400Mbit. "
            "0: no limit. Clients are not counted."
        },
    )
    download_rate: int = field(
        default=0,
        metadata={"help": "Likewise, from other nodes."},
    )
    max_connections: int = field(
        default=256,
        metadata={
            "help": "Connections to other nodes, half of them for content. As many from them are "
            "kept, more only while they are in use. With TLS one costs up to 300 KB, if it is used."
        },
    )
    disk_limit: int = field(
        default=0,
        metadata={
            "help": "Bytes of content that this node may hold, as in 200GB. 0: what the disk has. "
            "What is beyond is not fetched, and pushes are refused (507)."
        },
    )
    disk_reserve: int | None = field(
        default=None,
        metadata={
            "help": "Bytes that content leaves free on the disk, for what else needs it (this "
            "node's own database too). Default: 1GiB, or 5 % of a disk below 20 GiB."
        },
    )
    upstreams: tuple[UpstreamConfig, ...] = field(
        default=(),
        metadata={
            "help": "NAME or NAME=URL of a registry that this node mirrors; may be given many "
            "times. CAs, credentials and the rest: tables [upstream.NAME] of the config file."
        },
    )
    public_registries: bool = field(
        default=True,
        metadata={
            "help": "Mirror docker.io, ghcr.io, quay.io, registry.k8s.io and other registries that "
            "anybody may pull from, for clients that ask for them here."
        },
    )
    tag_ttl: float = field(
        default=60.0,
        metadata={
            "help": "Seconds for which a mirrored tag is taken for what it was. After that its "
            "registry is asked whether it changed, by one node for all; `latest` is always asked."
        },
    )
    stale_limit: float = field(
        default=7 * 86_400.0,
        metadata={
            "help": "Seconds for which a mirrored tag is served that its registry cannot be asked "
            "for. A week."
        },
    )
    containerd: Path | None = field(
        default=None,
        metadata={
            "help": "Root directory of this machine's containerd, mostly /var/lib/containerd: what "
            "it holds is shared without another copy, and private images without their secrets."
        },
    )
    containerd_socket: Path | None = field(
        default=None,
        metadata={
            "help": "Socket of this machine's containerd, mostly /run/containerd/containerd.sock "
            "(k3s: /run/k3s/containerd/containerd.sock), for `oci-mesh sync --import`. With it you "
            "let every member of the mesh put images into this containerd, by any name."
        },
    )
    containerd_namespace: str = field(
        default="k8s.io",
        metadata={"help": "Which of containerd's namespaces images are imported into."},
    )
    private: str = field(
        default="strict",
        metadata={
            "help": "Who gets private content that a containerd fetched. strict: clients of "
            "containerds that fetched the image's manifest with a secret of theirs; nodes: whoever "
            "asks a node of this mesh."
        },
    )
    keep: str = field(
        default="cache",
        metadata={
            "help": "What of mirrored content stays here once containerd has it too. cache: all; "
            "handover: what containerd does not have."
        },
    )
    cache_limit: int = field(
        default=0,
        metadata={
            "help": "Bytes that content of other registries may have here, as in 50GB; beyond, the "
            "longest unused goes. 0: no limit but the share."
        },
    )
    cache_share: float = field(
        default=0.5,
        metadata={
            "help": "The part of the disk that content may have, of what is free and what it has; "
            "beyond, what can be had again goes, the longest unused first."
        },
    )
    sparse: str = field(
        default="index",
        metadata={
            "help": "What a pushed manifest may name that is not there. index: an index may lack "
            "platforms; allow: anything; deny: nothing."
        },
    )
    copies: int = field(
        default=2,
        metadata={
            "help": "On how many nodes a push is durable before it is acknowledged (fewer if "
            "fewer are alive)."
        },
    )
    scrub_rate: int = field(
        default=10_000_000,
        metadata={
            "help": "Bytes a second that this node reads when it verifies all it has, once a week: "
            "as in 10MB (1 TB takes a day). 0: only when it is asked to (`oci-mesh node scrub`)."
        },
    )
    upload_expiry: float = field(
        default=24 * 3600.0,
        metadata={
            "help": "Seconds after which an upload that nobody continues is dropped. A day: a "
            "laptop that was closed over night can still resume."
        },
    )
    drain: float = field(
        default=25.0,
        metadata={
            "help": "Seconds that requests under way get on shutdown. Kubernetes kills after 30."
        },
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        for name in ("ca", "containerd", "containerd_socket"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        for address in (self.listen, self.mesh_listen, *self.join):
            split_address(address)
        if self.advertise is not None:
            split_address(self.advertise)
        for name, policies in _POLICIES.items():
            if getattr(self, name) not in policies:
                chosen = getattr(self, name)
                raise ConfigError(f"{name} is {chosen!r}, expected {', '.join(policies)}")
        if _NAMESPACE.fullmatch(self.containerd_namespace) is None:
            raise ConfigError(
                f"{self.containerd_namespace!r} cannot be a namespace of containerd: letters and "
                "digits, with one of . - _ in between"
            )
        if self.copies < 1:
            raise ConfigError(f"copies is {self.copies}, expected 1 or more")
        self._check_limits()
        self._check_mirror()
        if not 0 < self.certificate_life < math.inf:
            raise ConfigError("certificate_life must be positive")
        if self.insecure and (self.ca is not None or self.token is not None):
            raise ConfigError("insecure makes no sense with ca or token: choose one")
        if not (0 < self.upload_expiry < math.inf and 0 <= self.drain < math.inf):  # nor nan
            raise ConfigError("upload_expiry must be positive and drain not negative")

    def _check_limits(self) -> None:
        for name in ("upload_rate", "download_rate"):
            if 0 < getattr(self, name) < MIN_RATE or getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 (no limit), or at least {MIN_RATE} (100kB)")
        if self.max_connections < MIN_CONNECTIONS:
            raise ConfigError(f"max_connections must be at least {MIN_CONNECTIONS}")
        if self.disk_limit < 0 or (self.disk_reserve or 0) < 0:
            raise ConfigError("disk_limit and disk_reserve must not be negative")
        if self.scrub_rate < 0:
            raise ConfigError("scrub_rate must not be negative")

    def _check_mirror(self) -> None:
        names = [upstream.name for upstream in self.upstreams]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"upstreams: {', '.join(sorted(twice))} is there twice")
        if not (0 <= self.tag_ttl < math.inf and 0 <= self.stale_limit < math.inf):
            raise ConfigError("tag_ttl and stale_limit must not be negative")
        if self.cache_limit < 0 or not 0 < self.cache_share <= 1:
            raise ConfigError("cache_limit must not be negative, and cache_share over 0, up to 1")

    @property
    def mirrored(self) -> tuple[UpstreamConfig, ...]:
        """All registries that this node mirrors."""
        return with_public(self.upstreams) if self.public_registries else self.upstreams

    def shown(self) -> dict[str, str]:
        """All settings as text, for a person to check; the token is a secret."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.token is not None:
            values["token"] = "(not shown)"
        return {
            name: " ".join(_text(each) for each in value)
            if isinstance(value, tuple)
            else _text(value)
            for name, value in values.items()
        }


# containerd's own rule, and its limit (pkg/identifiers).
_NAMESPACE: Final = re.compile(r"(?=.{1,76}\Z)[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", re.ASCII)

# For each setting that is one of a few words, the words.
_POLICIES: Final = {
    "sparse": SPARSE_POLICIES,
    "private": PRIVATE_POLICIES,
    "keep": KEEP_POLICIES,
}


def _text(value: object) -> str:
    if isinstance(value, UpstreamConfig):
        return value.name
    return "" if value is None else str(value)


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, no port) can only be this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` as host and port; `[::1]:80` for IPv6. Raises `ConfigError`."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    valid = colon and host and port.isascii() and port.isdigit() and int(port) < 65536
    if not valid or (":" in host and not bracketed):
        raise ConfigError(f"{text!r} is not HOST:PORT (IPv6 in brackets: [::1]:5000)")
    return host.strip("[]"), int(port)
