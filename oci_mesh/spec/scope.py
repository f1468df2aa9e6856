"""What the repositories of other registries are called inside the mesh.

    library/busybox@docker.io     what docker.io gives to this mesh, and so to every client
    app@registry.corp!            what registry.corp gives to those who have a secret for it: so
                                  does the mesh, whose nodes never see that secret

No client can ask for such a name, or push to it: `@` and `!` are in no repository name. Clients say
`?ns=docker.io` instead, and what that is to mean is decided in one place (`mirror`). Between nodes
and in the store these names are used like any other.
"""

import re
from typing import Final, NamedTuple

from oci_mesh.errors import NameInvalid, quoted
from oci_mesh.spec.reference import parse_repository

# What a host name can have, and the longest port.
MAX_REGISTRY_LENGTH: Final = 253 + len(":65535")

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_REGISTRY: Final = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:]+\])(?::[0-9]{{1,5}})?", re.ASCII
)


class Scope(NamedTuple):
    """A repository of another registry; of this mesh itself if `registry` is empty."""

    repository: str
    registry: str = ""
    private: bool = False

    def __str__(self) -> str:
        if not self.registry:
            return self.repository
        return f"{self.repository}@{self.registry}{'!' if self.private else ''}"


def is_registry(text: str) -> bool:
    """Whether `text`, in whatever case, has the form of a registry's name."""
    return len(text) <= MAX_REGISTRY_LENGTH and _REGISTRY.fullmatch(text.lower()) is not None


def parse_registry(text: str) -> str:
    """The name of a registry, `host` or `host:port`, in lower case; or raise `NameInvalid`."""
    name = text.lower()
    if not is_registry(name):
        raise NameInvalid(f"{quoted(text)} is not the name of a registry (HOST or HOST:PORT)")
    return name


def parse_scope(text: str) -> Scope:
    """A name as nodes and stores use it. Raises `NameInvalid`. `str` of it is `text` again."""
    repository, at, registry = text.partition("@")
    parse_repository(repository)
    if not at:
        return Scope(repository)
    private = registry.endswith("!")
    name = registry.removesuffix("!")
    if parse_registry(name) != name:
        raise NameInvalid(f"{quoted(registry)}: the names of registries are in lower case here")
    return Scope(repository, name, private)


def is_mirrored(repository: str) -> bool:
    """Whether a (valid) name is that of another registry's repository: all of it is cache."""
    return "@" in repository


def is_private(repository: str) -> bool:
    """Whether what is in it may only be given to who proves to have it from there."""
    return repository.endswith("!")
