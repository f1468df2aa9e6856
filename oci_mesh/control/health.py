"""`health`: what a node knows of its own state, and finds when it tries what it depends on.

All of it is what was found, not what it means: `oci-mesh doctor` judges.
"""

from typing import Final, Literal

import msgspec

from oci_mesh.control.wire import Document

VERB: Final = "health"

Outcome = Literal[
    "ok",
    "unresolved",
    "unreachable",
    "closed",
    "filtered",
    "plain",
    "secured",
    "stranger",
    "other-mesh",
    "other-node",
    "expired",
    "not-yet",
    "refused",
    "failing",
]
"""What came of trying a node.

unresolved: its name leads nowhere. unreachable: no route there. closed: nothing listens. filtered:
no answer to a connection. plain, secured: it speaks HTTP where we speak TLS, or the reverse.
stranger: no node at all. other-mesh: its certificate is of another authority. other-node: of
another node. expired, not-yet: of another time. refused: it does not take ours. failing: the rest.
"""


class HealthRequest(Document):
    """Asks for it. Names, nodes and registries are tried anew each time, for some seconds."""

    public: bool = False
    """Also try registries that nobody configured."""
    registry: str = ""
    """And this one, if the node mirrors it."""


class Tried(Document):
    """Another node, or a place to look for one, and what came of trying it."""

    address: str
    node: str
    """Its id; empty for a place to look, if nobody said who is there."""
    outcome: Outcome
    seed: str = ""
    """The setting `join` that led there; empty for a node that is known by gossip."""
    detail: str = ""
    """What went wrong, in words."""
    ahead_s: float | None = None
    """Its clock minus ours; None if it could not be asked."""
    version: str = ""
    back: str = ""
    """What came of its trying us in turn (an `Outcome`); empty if it did not."""


class Double(Document):
    """Another node that goes by this one's id."""

    address: str
    age_s: float
    """How long ago it was last heard."""


class Certificate(Document):
    """What this node shows to others. Times are seconds since 1970."""

    not_before: float
    not_after: float
    authority: str
    authority_ends: float
    """When the last authority that this mesh trusts is no longer valid."""
    signers: int
    """Live nodes that sign certificates, this one too."""
    outdated: bool = False
    """This node's copy of the authority is older than what the mesh trusts."""
    authority_error: str = ""
    """Why that copy cannot be read; empty if it can, or there is none."""


class Asked(Document):
    """Another registry, and how it answered; `error` is empty if it did."""

    name: str
    hosts: list[str]
    unresolved: list[str] = msgspec.field(default_factory=list)
    """Those of its hosts whose names lead nowhere."""
    error: str = ""
    refused: bool = False
    """It answered, and does not take the credentials that this node has for it."""


class Health(Document):
    """Of one node."""

    version: str
    node: str
    registry: str
    """URL of its listener for clients."""
    mesh: str
    """HOST:PORT of its listener for nodes, as others are told."""
    now: float
    secure: bool
    """Whether nodes prove who they are."""
    join: list[str]
    unresolved: list[str]
    """Those of `join` whose names lead nowhere."""
    others: list[Tried]
    doubles: list[Double]
    certificate: Certificate | None
    upstreams: list[Asked]
    secrets: list[str]
    """Files that nobody else should read."""
    reserve: int
    """Bytes that content leaves free on the disk."""
    limit: int
    """Bytes of content that the settings allow; 0 for no limit."""
    used: int
    """Bytes of content."""
    files: int
    """Open files of the process, connections too."""
    max_files: int
    connections: int
    """Connections to other nodes that the settings allow."""
    containerd: str = ""
    """Root directory of the containerd whose content is shared; empty if none."""
    untried: int = 0
    """Nodes for which there was no time."""
    watch_error: str = ""
    """Why changes of it cannot be followed; empty if they can."""
