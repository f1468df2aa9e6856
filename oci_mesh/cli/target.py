"""What REF means to the CLI: which registry to talk to, about which repository, tag or digest.

    app:v1                      the local node's repository `app`
    team/app@sha256:…           the local node's repository `team/app`
    127.0.0.1:5000/app:v1       the registry there
    registry.example.com/app    the registry there, over TLS

`docker pull app` would mean docker.io/library/app; to a tool that exists to talk to the node beside
it, a name without a host is that node's. All pure: no look-up, no connection.
"""

from dataclasses import dataclass
from typing import Final

from oci_mesh import config
from oci_mesh.errors import ConfigError
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import DEFAULT_DOMAIN, Reference, parse_reference
from oci_mesh.spec.reference import names_host as names_host

DEFAULT_REGISTRY: Final = "http://127.0.0.1:5000"

# A host that no registry URL can be mistaken for: makes the grammar take any path as written.
_ANY_HOST: Final = "localhost/"


# Where docker.io is.
_HUB: Final = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Target:
    """A place in a registry.

    `registry` is its URL without a path, `name` the repository as the user wrote it, `repository`
    the name within the registry. At least one of `tag` and `digest` is there.
    """

    registry: str
    name: str
    repository: str
    tag: str | None
    digest: Digest | None

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest is not None else str(self.tag)

    def pinned(self, digest: Digest) -> str:
        """The reference that will always mean this content."""
        return f"{self.name}@{digest}"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else f"@{self.digest}")


def resolve(text: str, registry: str = DEFAULT_REGISTRY, plain_http: bool | None = None) -> Target:
    """Parse REF; `registry` is the local node, for names without a host.

    `plain_http` None means: http for loopback hosts, else TLS. A scheme in `registry` counts
    unless `plain_http` says otherwise. Raises `NameInvalid`, `TagInvalid`, `DigestInvalid`, or
    `ConfigError` if `registry` is not the URL of a registry.
    """
    if names_host(text):
        reference = parse_reference(text)
        name = f"{reference.domain}/{reference.repository}"
        host = _HUB if reference.domain == DEFAULT_DOMAIN else reference.domain
        return _target(_url(None, host, plain_http), name, reference)
    reference = parse_reference(_ANY_HOST + text)
    scheme, host = _split_url(registry)
    return _target(_url(scheme, host, plain_http), reference.repository, reference)


def registry_name(url: str) -> str:
    """What images of the registry at `url` are called by, and its credentials kept under."""
    host = url.partition("://")[2].rstrip("/")
    return DEFAULT_DOMAIN if host == _HUB else host


def is_loopback(host: str) -> bool:
    """Whether `host` (with or without a port) can only be this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return config.is_loopback(name)


def _target(registry: str, name: str, reference: Reference) -> Target:
    return Target(registry, name, reference.repository, reference.tag, reference.digest)


def _url(scheme: str | None, host: str, plain_http: bool | None) -> str:
    if plain_http is not None:
        scheme = "http" if plain_http else "https"
    elif scheme is None:
        scheme = "http" if is_loopback(host) else "https"
    return f"{scheme}://{host}"


def _split_url(registry: str) -> tuple[str | None, str]:
    scheme, separator, rest = registry.rpartition("://")
    host = rest.removesuffix("/")
    if scheme not in ("", "http", "https") or not host or set(host) & set("/?#@ "):
        raise ConfigError(
            f"{registry!r} is not the URL of a registry: expected http://HOST:PORT, or https"
        )
    return (scheme if separator else None), host
