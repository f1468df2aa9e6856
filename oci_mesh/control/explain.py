"""`explain`: where a name leads, who has what of it, and how the last pulls of it went.

What a node says of others is not believed, what it says of itself is marked as that.
"""

from typing import Final, Literal

import msgspec

from oci_mesh.control.wire import Document

VERB: Final = "explain"


class ExplainRequest(Document):
    """Asks about a name as people write it."""

    ref: str
    platform: str
    """`os/architecture[/variant]`: which image of an index."""
    ask: bool = False
    """Also ask its registry, as a pull would, for what no node knows; that may take seconds."""


class Reading(Document):
    """What a client makes of the name."""

    clients: str
    name: str
    repository: str = ""
    """What the mesh calls the repository that this leads to; empty if the client asks elsewhere."""


class Rule(Document):
    """What this node does with the name.

    own: it is the mesh's own, whatever host is in it. upstream, public: it is another registry's,
    which is configured, or one that all nodes mirror. off: mirroring that registry is switched off.
    """

    kind: Literal["own", "upstream", "public", "off"]
    repository: str
    """What the mesh calls it."""
    registry: str = ""
    urls: list[str] = msgspec.field(default_factory=list)
    """Where the registry is asked."""
    asked_as: str = ""
    """What the repository is called there."""
    private: bool = False
    """The registry does not give it to this mesh: only who has a secret gets it."""


class Differing(Document):
    """A node to which a tag means something else."""

    node: str
    digest: str
    """Empty: it holds it for deleted."""


class Tag(Document):
    """What the tag means.

    register: all nodes know it. memory: this node looked it up at its registry, and remembers.
    others: other nodes did, and this one did not. registry: it was asked just now.
    """

    name: str
    digest: str = ""
    known_from: Literal["register", "memory", "others", "registry", ""] = ""
    deleted: bool = False
    written_by: str = ""
    """The node where it was pushed or deleted."""
    at: float = 0.0
    """When it was written, or looked up; in seconds since 1970."""
    stale: bool = False
    """It was looked up so long ago that the next pull asks again."""
    differing: list[Differing] = msgspec.field(default_factory=list)


class Offer(Document):
    """An image of an index."""

    platform: str
    digest: str
    size: int
    """Of its manifest, in bytes."""
    taken: bool = False
    """It is the one for the platform that was asked for."""


Having = Literal["has", "says", "part", "false"]
Presence = Literal["this", "answered", "silent", "gone", "left"]


class Holder(Document):
    """A node that has some content, or says so.

    has: it showed that it has it. says: that could not be checked, this node does not have it.
    part: it is on its way there. false: it says so, and cannot show it.
    """

    node: str
    state: Having
    share: float = 1.0
    in_containerd: bool = False


class Content(Document):
    """A manifest or blob that the name leads to."""

    kind: Literal["index", "manifest", "config", "layer"]
    digest: str
    size: int
    media_type: str
    holders: list[Holder] = msgspec.field(default_factory=list)


class NodeAnswer(Document):
    """A node that was asked. gone: it seems dead, and did not answer. silent: it seems alive, and
    did not answer in time, or not in a valid way. left: it was shut down.
    """

    node: str
    address: str
    state: Presence
    reason: str = ""
    link: int = 0
    """Bytes a second that it has seen come in at best, as it says; 0: unknown."""
    download_limit: int = 0
    upload_limit: int = 0


class Giver(Document):
    """What a source gave to a pull. The sums are over pieces, many of which come at once."""

    bytes: int
    pieces: int
    waited_s: float
    """From asking for a piece to its first byte."""
    sent_s: float
    late: int
    """Pieces that came from another in the end."""
    still_s: float
    """Seconds in which nothing came from anybody, while this one was asked."""
    faults: dict[str, int]


class PulledBlob(Document):
    """A blob that came to a node, or did not. Of the times, see `journal.Arrival`."""

    digest: str
    size: int
    at: float
    took_s: float
    met_s: float
    listed_s: float
    first_s: float
    stored_s: float
    still_s: float
    wasted: int
    attempts: int
    cold: bool
    wanting: int
    having: int
    failure: str = ""


class Bound(Document):
    """What could not be beaten: the time that the bytes need at least."""

    seconds: float
    by: str
    """What it comes from, in words."""
    assumed: list[str]


class Pull(Document):
    """Blobs of the image that came to one node together, as that node says."""

    node: str
    at: float
    took_s: float
    bytes: int
    givers: dict[str, Giver]
    """By node. `@HOST` is a registry, `@containerd` this machine's client, `@kept` what was here
    from an earlier attempt, `@others` more nodes.
    """
    limit: int
    link: int
    blobs: list[PulledBlob]
    bound: Bound | None = None
    share: float | None = None
    """Of the bound, that was reached; 1 is as fast as can be."""
    verdict: list[str] = msgspec.field(default_factory=list)


class Delivered(Document):
    """What a client of a node got of a blob, as that node says."""

    node: str
    digest: str
    at: float
    bytes: int
    took_s: float
    opened_s: float
    waited_s: float
    stored: bool
    failure: str
    verdict: list[str] = msgspec.field(default_factory=list)


class Explanation(Document):
    """The answer. `stopped_at` is empty if the name leads to an image."""

    ref: str
    node: str
    """That was asked."""
    platform: str
    readings: list[Reading] = msgspec.field(default_factory=list)
    rule: Rule | None = None
    tag: Tag | None = None
    offers: list[Offer] = msgspec.field(default_factory=list)
    contents: list[Content] = msgspec.field(default_factory=list)
    unasked: int = 0
    """Blobs that nodes were not asked about: there are too many."""
    nodes: list[NodeAnswer] = msgspec.field(default_factory=list)
    pulls: list[Pull] = msgspec.field(default_factory=list)
    deliveries: list[Delivered] = msgspec.field(default_factory=list)
    stopped_at: Literal["", "rule", "tag", "manifest", "platform", "blobs"] = ""
    why: str = ""
    hint: str = ""
    similar: list[str] = msgspec.field(default_factory=list)
    """Names that are there, if this one is not."""
    took_s: float = 0.0
