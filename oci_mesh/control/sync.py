"""What is said about bringing an image to nodes: `sync`, and before it, `sync-plan`."""

from typing import Final, Literal, TypeAlias

from msgspec import field

from oci_mesh.control.wire import Document

PLAN: Final = "sync-plan"
SYNC: Final = "sync"

State: TypeAlias = Literal["already", "held", "imported", "failed"]


class PlanRequest(Document):
    """What would a name, and names of nodes, mean to `sync`? Nothing is done."""

    reference: str
    nodes: list[str] = field(default_factory=list)
    """None: all."""
    image: str = ""
    """As what containerd is to know it, if not by the reference."""
    archive: bool = False
    """The image comes from a file, whatever the reference."""


class Plan(Document):
    """The answer."""

    repository: str
    """What the mesh calls it; where the image from a file is to be pushed."""
    tag: str
    registry: str
    """Where this node takes pushes: its URL."""
    image: str
    """The name that a Deployment uses."""
    nodes: list[str]
    """Those that were named, or all, also those that seem to be down."""
    unknown: list[str]
    """Of the named ones, those that no node has heard of lately."""
    known: list[str]
    """All that there are, if some are unknown."""


class SyncRequest(Document):
    """Have every named node hold an image."""

    reference: str
    nodes: list[str] = field(default_factory=list)
    """None: all."""
    image: str = ""
    """The name by which their containerds are to have it, too; empty: they are not."""
    repository: str = ""
    """Where it was just pushed to, with `digest`; without, the reference says it."""
    digest: str = ""


class NodeProgress(Document, tag="progress"):
    """How far a node is."""

    node: str
    stage: Literal["asking", "fetching", "importing"]
    done: int = 0
    """Bytes of the stage, of `total`, as far as that is known."""
    total: int = 0


class NodeResult(Document, tag="node"):
    """What came of it on one node: as soon as it is known, and again in the result."""

    node: str
    state: State
    """already: there was nothing to do. failed: not all of it, see `held`."""
    held: bool
    """Whether it has the image now."""
    imported: bool
    """Whether its containerd has, by the name."""
    bytes: int
    """That it fetched."""
    written: int
    """Bytes into containerd."""
    seconds: float
    reason: str = ""
    hint: str = ""


class SyncResult(Document, tag="result"):
    """All of it."""

    reference: str
    repository: str
    digest: str
    image: str
    """Empty: nothing was to be imported."""
    nodes: list[NodeResult]


Said: TypeAlias = NodeProgress | NodeResult | SyncResult
