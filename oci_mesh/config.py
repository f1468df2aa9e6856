"""What can be set about a node, with units, defaults and reasons.

`serve` fills this from arguments, environment and a TOML file; other programs construct it.
"""

import math
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from oci_mesh.errors import ConfigError

SPARSE_POLICIES: Final = ("index", "allow", "deny")


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
    zone: str = field(
        default="", metadata={"help": "Where this node is: nodes of one zone are near each other."}
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
        for address in (self.listen, self.mesh_listen, *self.join):
            split_address(address)
        if self.advertise is not None:
            split_address(self.advertise)
        if self.sparse not in SPARSE_POLICIES:
            raise ConfigError(f"sparse is {self.sparse!r}, expected {', '.join(SPARSE_POLICIES)}")
        if self.copies < 1:
            raise ConfigError(f"copies is {self.copies}, expected 1 or more")
        if not (0 < self.upload_expiry < math.inf and 0 <= self.drain < math.inf):  # nor nan
            raise ConfigError("upload_expiry must be positive and drain not negative")

    def shown(self) -> dict[str, str]:
        """All settings as text, for a person to check."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: " ".join(value)
            if isinstance(value, tuple)
            else str(value if value is not None else "")
            for name, value in values.items()
        }


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
