"""What is said about looking after a node: `join`, `drain`, `gc` and `scrub`."""

from typing import Final, TypeAlias

from msgspec import field

from oci_mesh.control.wire import Document

JOIN: Final = "join"
DRAIN: Final = "drain"
GC: Final = "gc"
SCRUB: Final = "scrub"

# What no manifest names is kept for so long after its last use. A push sends its blobs first, the
# manifest that names them at the end, and may be interrupted in between: an upload that nobody
# continues is kept for a day as well (setting `upload-expiry`).
GRACE_S: Final = 24 * 3600.0


class Progress(Document, tag=True):
    """How far it is. `total` may grow while it works."""

    phase: str
    """What is being done, in a word or two."""
    done: int
    """Bytes."""
    total: int


# -- join


class JoinRequest(Document):
    """Meet these nodes, now and whenever there is need."""

    addresses: list[str]


class Unreachable(Document):
    """An address where no node of this mesh answers."""

    address: str
    reason: str
    hint: str = ""
    """What to do about it."""


class JoinResult(Document):
    """Whom this node sees now."""

    node: str
    members: list[str]
    """The other nodes that are alive."""
    unreachable: list[Unreachable]


# -- drain


class DrainRequest(Document):
    """Hand over what only this node has, then leave."""

    dry_run: bool = False
    copies: int = 0
    """On how many other nodes all of it has to be; 0: the node's setting."""
    within_s: float = 0.0
    """Give up after so long; 0: never."""


class Only(Document):
    """Something that too few other nodes have: an image, index or artifact by the digest of its
    manifest, or a blob that no manifest names yet.
    """

    repository: str
    digest: str
    size: int
    """Of the manifest and all that it names, in bytes."""
    holders: list[str]
    reason: str = ""
    """Why not more nodes have it now."""


class DrainResult(Document, tag=True):
    """What came of it."""

    node: str
    left: bool
    """Whether the node has left: others do not count on it any more."""
    copies: int
    """On how many other nodes everything had to be."""
    handed_over: list[Only] = field(default_factory=list)
    """In a dry run: what would have to be."""
    failed: list[Only] = field(default_factory=list)
    """What could not be handed over; the node has not left for this."""
    incomplete: list[Only] = field(default_factory=list)
    """What no node has all of, this one neither: what there is was handed over."""
    notes: list[str] = field(default_factory=list)


DrainDocument: TypeAlias = Progress | DrainResult


# -- gc


class GcRequest(Document):
    """Remove what is of no use."""

    dry_run: bool = False
    untagged: bool = False
    """Manifests too that have no tag, and to which no other manifest leads."""
    grace_s: float = GRACE_S


class Freed(Document):
    """What went, or would go."""

    kind: str
    """`uploads`, `quarantine`, `manifests`, `blobs` or `cache`."""
    count: int
    bytes: int


class GcResult(Document, tag=True):
    """What came of it."""

    dry_run: bool
    freed: list[Freed]
    silent: list[str] = field(default_factory=list)
    """Nodes that did not answer. They may need what nothing names here, so all of that was kept."""
    kept: int = 0
    """How many bytes that is."""


GcDocument: TypeAlias = Progress | GcResult


# -- scrub


class ScrubRequest(Document):
    """Read all content again, and mend what is damaged."""

    rate: int = 0
    """Bytes a second; 0: as fast as it goes."""


class Finding(Document, tag=True):
    """A damaged content. It is in quarantine."""

    digest: str
    size: int
    reason: str
    repositories: list[str]
    is_manifest: bool
    outcome: str
    """`mended`; `dropped`, if others have it: it comes again when it is asked for; else `lost`."""
    source: str = ""
    """Where it was mended from, or who has it."""
    advice: str = ""
    """What to do."""


class ScrubResult(Document, tag=True):
    """What came of it."""

    contents: int
    bytes: int
    findings: list[Finding] = field(default_factory=list)


ScrubDocument: TypeAlias = Progress | Finding | ScrubResult
