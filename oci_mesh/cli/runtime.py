"""What a container runtime is to be told: whom to ask before a registry."""

from dataclasses import dataclass, field
from typing import NamedTuple

# In containerd's words: all registries that have no settings of their own.
DEFAULT_NAME = "_default"


class Wish(NamedTuple):
    """For images of the registries `names`, ask the node at `node` first."""

    node: str
    """Its URL."""
    names: tuple[str, ...]
    resolve: bool
    """Ask it also what tags mean."""
    own: bool = False
    """There is no such registry: the names are what the mesh's own images are called here."""

    @property
    def capabilities(self) -> list[str]:
        """What the node is asked for, in containerd's words."""
        return ["pull", "resolve"] if self.resolve or self.own else ["pull"]


@dataclass
class Plan:
    """What is to be changed, and what a person should know about it."""

    edits: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
