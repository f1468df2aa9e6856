"""`status`: the whole mesh, as it is at one moment, seen from one node.

Each node tells of itself only, and what it tells is marked with its id. A claim that this node can
check (to have a manifest that is here, too) is checked.
"""

from typing import Final, Literal

import msgspec

from oci_mesh.control.wire import Document

VERB: Final = "status"

NodeState = Literal["this", "answered", "silent", "gone", "left", "wrong"]
"""this: it was asked. silent: it seems alive, and did not answer in time. gone: nothing was heard
of it for long, and it did not answer. left: it was shut down. wrong: no node answers like that.
"""


class StatusRequest(Document):
    """Asks for it."""

    images: bool = True
    """Also which images there are, and where."""


class Room(Document):
    """Of a node's disk, in bytes."""

    total: int
    free: int
    reserve: int
    """As much stays free."""
    content: int
    cached: int
    """Of the content, what may be let go of."""
    limit: int
    """Of content, by its settings; 0: none."""


class NodeStatus(Document):
    """A node. What only it can tell is empty unless it is `this` or `answered`."""

    id: str
    address: str
    """HOST:PORT of its listener for nodes."""
    state: NodeState
    reason: str = ""
    """Why there is no answer of it."""
    silent_s: float = 0.0
    """For how long nothing was heard of it."""
    zone: str = ""
    registry: str = ""
    """URL of its listener for clients."""
    draining: bool = False
    """It is about to leave."""
    signs: bool = False
    """It holds the authority of the mesh."""
    version: str = ""
    uptime_s: float = 0.0
    ahead_s: float = 0.0
    """Its clock minus that of the node that was asked, as far as the way there lets one tell."""
    certificate_ends: float = 0.0
    """In seconds since 1970; 0: it has none."""
    disk: Room | None = None
    sees: int = 0
    """How many other nodes seem alive to it."""
    banned: list[str] = msgspec.field(default_factory=list)
    """Nodes that it asks for nothing, for a while: they sent wrong bytes."""


class Problem(Document):
    """Something that should not be, in words; `node` says so of itself, but for `false`.

    reach: it could not reach `others`. unseen: these do not seem alive to it. double: nodes at
    these addresses go by its id. clock: its clock is far from that of the node that was asked.
    certificate: that has ended. disk: it has no room. banned: `others` sent it wrong bytes.
    false: it says that it has these images, and cannot show it.
    """

    kind: Literal["reach", "unseen", "double", "clock", "certificate", "disk", "banned", "false"]
    node: str
    text: str
    others: list[str] = msgspec.field(default_factory=list)


class ImageStatus(Document):
    """An image, and the nodes that say that they have it."""

    repository: str
    digest: str
    tags: list[str]
    """Those that mean it; of other registries' images, to any node."""
    whole: list[str]
    """Nodes with all that it takes to run it."""
    part: list[str]
    """Nodes with its manifest, and not all of the rest."""


class TagStatus(Document):
    """A tag that does not mean the same to all nodes that know it. Of one of the mesh's own that is
    a matter of seconds, of another registry's a matter of when each node asked.
    """

    repository: str
    tag: str
    meanings: dict[str, list[str]]
    """Digest: nodes."""


class TransferStatus(Document):
    """A blob that is on its way to a node."""

    node: str
    repository: str
    digest: str
    size: int
    """In bytes; -1 while it is not known."""
    verified: int
    rate: int
    """Bytes a second, since it began."""
    asked: list[str]
    """Whom it is asked of at this moment; `@HOST` is a registry."""


class Status(Document):
    """Of the mesh. Nodes are in the order of their ids, after the one that was asked."""

    node: str
    """That was asked."""
    now: float
    """Its clock, in seconds since 1970."""
    took_s: float
    nodes: list[NodeStatus]
    problems: list[Problem]
    images: list[ImageStatus]
    more_images: bool
    """Some node has more than it told of."""
    tags: list[TagStatus]
    transfers: list[TransferStatus]

    @property
    def well(self) -> bool:
        """Whether all nodes that should be there answered, and nothing is wrong with them."""
        there = all(node.state in ("this", "answered", "left") for node in self.nodes)
        return there and not self.problems
