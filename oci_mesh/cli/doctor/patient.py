"""What the checks look at, and what earlier ones found for later ones."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from oci_mesh.cli.edits import Machine
from oci_mesh.cli.target import is_loopback
from oci_mesh.control.health import Health
from oci_mesh.spec.reference import Reference, parse_reference

_ANYWHERE = ("0.0.0.0", "::")


@dataclass
class Patient:
    """A node, and the machine that it is on."""

    root: Path
    """The node's directory."""
    registry: str
    """URL at which the node should be, as the operator says."""
    machine: Machine
    config: str
    """Path of containerd's configuration, on that machine."""
    files: Path = Path("/")
    """Where the machine's file system is."""
    reference: str = ""
    """The image that is asked about; empty for none."""
    public: bool = False
    """Try registries as well that nobody configured."""

    # Found on the way.
    health: Health | None = None
    is_forbidden: bool = False
    """Whether the node may not be asked by this user."""
    asked_for: list[str] = field(default_factory=list)
    """The registries for whose images containerd is told to ask the node first."""
    hosts: str = ""
    """containerd's directory of hosts.toml files."""
    restart_due: bool = False
    image: Reference | None = None

    @property
    def registry_of_image(self) -> str:
        """Where the image that is asked about would come from; empty for none."""
        return parse_reference(self.reference).domain if self.reference else ""

    @property
    def url(self) -> str:
        """Where the node's registry is, as a client on this machine reaches it."""
        if self.health is None:
            return self.registry
        url = urlsplit(self.health.registry)
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(url.hostname or "")
        return f"{url.scheme}://{host}:{url.port}" if host else self.health.registry

    def is_here(self, url: str) -> bool:
        """Whether a client that asks `url` asks this node."""
        asked = urlsplit(url if "://" in url else f"http://{url}")
        own = urlsplit(self.registry if self.health is None else self.health.registry)
        try:
            if asked.port != own.port:
                return False
        except ValueError:  # a port that is none
            return False
        hosts = asked.hostname or "", own.hostname or ""
        if hosts[0] == hosts[1] or hosts[1] in _ANYWHERE:
            return True
        return "localhost" in hosts and all(is_loopback(_shown(host)) for host in hosts)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
