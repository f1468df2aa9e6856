"""What nodes say to each other: JSON over HTTP on the mesh listener.

    POST /mesh/v1/exchange    `Exchange` -> `Exchange`: gossip, and news of changed names
    POST /mesh/v1/replicate   `Replicate` -> lines, while the node fetches what it was asked to hold
    POST /mesh/v1/swarm       `Attend` -> `Roster`: who wants or has a blob, asked of its rendezvous
    POST /mesh/v1/statement   `Lookup` -> `Statement`: the signed list of a blob's pieces
    POST /mesh/v1/tag         `Claim` -> `Confirmation`: is a tag of an upstream still that?
    POST /mesh/v1/take        `Take` -> lines of `Taken`: hold, and import, an image
    POST /mesh/v1/report      `Inquiry` -> `Report`: what a node says of itself
    POST /mesh/v1/holdings    `Holdings` -> `Held`: what a node has of an image, and knows of it
    POST /mesh/v1/stock       `Count` -> `Stock`: what a node keeps and needs of a repository
    POST /mesh/v1/enrol       `Application` -> `Issued`: a certificate (see `door`)
    GET  /mesh/v1/trust       the authorities of the mesh, signed
    GET  /v2/...              content that this node has itself: the distribution API, read-only

A piece is a range of a blob: GET with `SLOT_HEADER` and the headers beside it. Who does not have
the piece yet keeps such a request for as long as `WAIT_HEADER` allows; an answer without the piece
says why in `FAULT_HEADER`. While no node has verified the blob, and so there is no list, nodes go
by `COLD`, and each piece comes with a `PieceStatement` in `PIECE_HEADER`.

What comes in is checked here, entry by entry: one bad entry costs itself, not the message.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import quote

import msgspec

from oci_mesh.errors import PeerError
from oci_mesh.journal import Arrival, Delivery, Line, Number, Seconds
from oci_mesh.members import names, table
from oci_mesh.members.clock import MAX_WRITER_LENGTH
from oci_mesh.members.names import NameRecord
from oci_mesh.members.table import Member
from oci_mesh.spec.digest import Digest
from oci_mesh.swarm.statement import Statement
from oci_mesh.swarm.view import SLOTS, Entry

_log = logging.getLogger(__name__)

EXCHANGE_PATH: Final = "/mesh/v1/exchange"
REPLICATE_PATH: Final = "/mesh/v1/replicate"

ENROL_PATH: Final = "/mesh/v1/enrol"
TRUST_PATH: Final = "/mesh/v1/trust"

SWARM_PATH: Final = "/mesh/v1/swarm"
STATEMENT_PATH: Final = "/mesh/v1/statement"
TAG_PATH: Final = "/mesh/v1/tag"
TAKE_PATH: Final = "/mesh/v1/take"
HOLDINGS_PATH: Final = "/mesh/v1/holdings"
PULSE_PATH: Final = "/mesh/v1/pulse"
REPORT_PATH: Final = "/mesh/v1/report"
STOCK_PATH: Final = "/mesh/v1/stock"

# Who asks, on every request between nodes. It proves nothing: where there is TLS, the certificate
# does (`door.peer_of`).
NODE_HEADER: Final = "OCI-Mesh-Node"

# With a request for a piece: the asking node's slot in the blob's swarm, how many seconds it may be
# kept waiting, that it has nobody else to ask, and the id of the piece list that it goes by.
SLOT_HEADER: Final = "OCI-Mesh-Slot"
WAIT_HEADER: Final = "OCI-Mesh-Wait"
FINAL_HEADER: Final = "OCI-Mesh-Final"
LIST_HEADER: Final = "OCI-Mesh-List"

# With it, if there are any: ids of nodes that lied to the one that asks, with commas between them.
BANNED_HEADER: Final = "OCI-Mesh-Banned"

# In place of the id of a list, while there is none.
COLD: Final = "cold"

# With every request about private content, except of who is in its swarm: that the node that asks
# has a right to it (`sources.Access`).
PROOF_HEADER: Final = "OCI-Mesh-Proof"

# With the answer: why it has no piece, how many pieces from the first on the sender has, and who
# says what the piece is.
FAULT_HEADER: Final = "OCI-Mesh-Fault"
FRONTIER_HEADER: Final = "OCI-Mesh-Frontier"
PIECE_HEADER: Final = "OCI-Mesh-Piece"

# Names in one message; what does not fit goes with the next one. With the longest names and a full
# table of members, a message of this many stays under the bytes below.
MAX_RECORDS: Final = 5000
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024


class Nonsense(PeerError):
    """None of our nodes answers like that."""


class Exchange(msgspec.Struct, omit_defaults=True):
    """Half of a push-pull: what the sender knows, and what it would like to know."""

    sender: Member
    members: list[Member] = []
    buckets: list[int] | None = None
    """The sender's register in hashes; the answer has the records of those that differ."""
    records: list[NameRecord] = []
    want: list[int] = []
    """In an answer: buckets of which the sender would like the other's records."""
    you: str = ""
    """In an answer: the address at which the other was seen."""


class Replicate(msgspec.Struct, omit_defaults=True):
    """A request to hold a manifest and all it needs. Whom it is asked may not know `sender` yet,
    which may be the only one that has it.
    """

    sender: Member
    repository: str
    digest: str
    blob: bool = False
    """It is a blob, and no manifest names it yet."""


class Take(msgspec.Struct, omit_defaults=True):
    """A request to hold an image, of this mesh or a public one, as `Replicate` is."""

    sender: Member
    repository: str
    digest: str
    image: str = ""
    """The name by which the node's containerd is to have it, too; empty: it is not."""


class Taken(msgspec.Struct, omit_defaults=True):
    """How far a node is with an image; the last line of an answer is `done` or `failed`."""

    stage: Literal["fetching", "importing", "done", "failed"] = "fetching"
    done: Number = 0
    """Bytes of the stage, of `total`, as far as is known."""
    total: Number = 0
    fetched: Number = 0
    """Bytes of blobs that were not here."""
    written: Number = 0
    """Bytes that containerd did not have."""
    held: bool = False
    imported: bool = False
    """Whether containerd has the image by its name now."""
    changed: bool = False
    """Whether there was anything to do."""
    reason: Line = ""
    hint: Line = ""
    """Why it failed, and what can be done."""


class Attend(msgspec.Struct, omit_defaults=True):
    """A node says what it is to the swarm of a blob, and asks who else is in it."""

    repository: str
    digest: str
    entry: Entry
    size: int = -1
    """Of the blob, in bytes; -1 if it does not know."""
    others: list[Entry] = []
    """Nodes that it found to have the blob."""
    epoch: int = 0
    version: int = 0
    """Of the roster that it knows. The answer waits for a newer one, up to `wait_s`."""
    wait_s: float = 0.0
    leaves: bool = False
    """It wants the blob no longer, and does not have it."""
    searched: bool = False
    """It has just asked all nodes, and none has the blob."""


class Roster(msgspec.Struct, omit_defaults=True):
    """Who is in a swarm: all of them, or what changed since the version asked with."""

    epoch: int
    version: int
    entry: Entry
    """The asking node's, with the slot that it has now."""
    entries: list[Entry] = []
    gone: list[str] = []
    size: int = -1
    searched: bool = False
    """A node has asked all others, not long ago, and none had the blob."""


class Lookup(msgspec.Struct):
    """A blob by name."""

    repository: str
    digest: str


class Claim(msgspec.Struct):
    """What the asking node knows a tag of an upstream to be."""

    repository: str
    tag: str
    digest: str


class Confirmation(msgspec.Struct):
    """How long ago the node itself saw the upstream say that; None if it did not, or cannot tell.

    It never says what else the tag might be: who asks has to hear that from the upstream.
    """

    age_s: float | None = None


# Digests in one count: some 100 kB, and some milliseconds of look-ups.
MAX_COUNTED: Final = 1000


class Count(msgspec.Struct):
    """Asks what a node keeps of an own repository, and what it needs of it."""

    repository: str
    digests: Annotated[list[str], msgspec.Meta(max_length=MAX_COUNTED)]
    age_s: Annotated[float, msgspec.Meta(ge=0)]
    """A manifest that was used in so many last seconds is needed."""


class Stock(msgspec.Struct):
    """What a node says of itself: some of the digests that it was asked about."""

    whole: Annotated[list[str], msgspec.Meta(max_length=MAX_COUNTED)]
    """It has them: blobs, or manifests with all their blobs."""
    needed: Annotated[list[str], msgspec.Meta(max_length=MAX_COUNTED)]
    """A manifest there names them, or they are manifests that were used."""


class Feel(msgspec.Struct):
    """Asks how a node is, and with `back`, how well it reaches the node that asks."""

    back: bool


class Pulse(msgspec.Struct):
    """How it is."""

    now: float
    """Its clock, in seconds since 1970."""
    version: str
    back: str = ""
    """What came of its trying the other (`control.health.Outcome`); empty if it did not."""


# Contents asked about at once: the manifests and blobs of an image that is far larger than any.
MAX_ASKED: Final = 256

# Read of a blob to show that one has it: as much as a disk reads at once anyway.
PROBE_BYTES: Final = 4096

# Records of pulls in one answer.
MAX_PULLS: Final = 20

# A full answer: 256 holdings of 150 bytes, and records of 1 to 4 kB.
MAX_HELD_BYTES: Final = 512 * 1024


class Wanted(msgspec.Struct, omit_defaults=True):
    """Some content that is asked about."""

    digest: str
    is_manifest: bool = False
    proof: str = ""
    """As in `PROOF_HEADER`."""
    start: Annotated[int, msgspec.Meta(ge=0)] = 0
    length: Annotated[int, msgspec.Meta(ge=0, le=PROBE_BYTES)] = 0
    """The bytes by which the node is to show that it has it: see `Holding.mark`."""


class Holdings(msgspec.Struct, omit_defaults=True):
    """What does a node have of these contents of a repository, and what does a tag mean to it?"""

    repository: str
    wanted: Annotated[list[Wanted], msgspec.Meta(max_length=MAX_ASKED)] = []
    tag: str = ""
    nonce: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """That no other question had."""


class Holding(msgspec.Struct, omit_defaults=True):
    """What a node has of one content."""

    size: Number = -1
    """In bytes; -1 if it has nothing of it, or who asks may not know."""
    share: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    """How much of it is here, and verified; 1 is all."""
    in_containerd: bool = False
    """It is not in the node's own store."""
    mark: Line = ""
    """SHA-256 of nonce and bytes, in hex: only who has the bytes can tell."""


class Meaning(msgspec.Struct, omit_defaults=True):
    """What a tag means to a node."""

    target: Line = ""
    """The digest; empty: it was deleted."""
    stamp: Line = ""
    """Of the mesh's own tags: when and by whom it was written (`members.clock`)."""
    age_s: Seconds = 0.0
    """Of those of other registries: how long ago the node saw it."""


class Held(msgspec.Struct, omit_defaults=True):
    """What a node says of itself, in the order that it was asked."""

    holdings: Annotated[list[Holding], msgspec.Meta(max_length=MAX_ASKED)] = []
    meaning: Meaning | None = None
    arrivals: Annotated[list[Arrival], msgspec.Meta(max_length=MAX_PULLS)] = []
    deliveries: Annotated[list[Delivery], msgspec.Meta(max_length=MAX_PULLS)] = []
    link: Number = 0
    """Bytes a second that it has seen come in at best; 0: it does not know."""
    download_limit: Number = 0
    upload_limit: Number = 0
    """Bytes a second, by its settings; 0: any."""


# Images in one report, tags of one image, transfers, and nodes that one transfer is asked of.
MAX_IMAGES: Final = 500
MAX_TAGS: Final = 32
MAX_TRANSFERS: Final = 32
MAX_GIVERS: Final = 8

# A full report: 500 images of 300 bytes, ids of 4,096 nodes twice, and some more.
MAX_REPORT_BYTES: Final = 2 * 1024 * 1024

NodeId = Annotated[str, msgspec.Meta(pattern=rf"^[A-Za-z0-9._-]{{1,{MAX_WRITER_LENGTH}}}\Z")]

# A repository and the registry that it is of, at their longest.
Repository = Annotated[str, msgspec.Meta(max_length=600)]


class Inquiry(msgspec.Struct, omit_defaults=True):
    """Asks a node about itself."""

    nonce: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """That no other question had."""
    images: bool = False
    """Also which images it has."""


Amount = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Disk(msgspec.Struct, omit_defaults=True):
    """Of a node, in bytes."""

    total: Amount = 0
    free: Amount = 0
    reserve: Amount = 0
    """As much stays free."""
    content: Amount = 0
    """In its store."""
    cached: Amount = 0
    """Of that, what only other registries' repositories have: it may be let go of."""
    limit: Amount = 0
    """Of content, by its settings; 0: none."""


class Missed(msgspec.Struct):
    """A node that the reporting one could not reach."""

    node: NodeId
    age_s: Seconds
    reason: Line


class Running(msgspec.Struct, omit_defaults=True):
    """A blob that is on its way to the reporting node."""

    repository: Repository
    digest: Line
    size: Number
    """In bytes; -1 while it is not known."""
    verified: Amount = 0
    rate: Amount = 0
    """Bytes a second, since it began."""
    asked: Annotated[list[Line], msgspec.Meta(max_length=MAX_GIVERS)] = []
    """Whom it is asked of at this moment; `@HOST` is a registry."""


class HeldImage(msgspec.Struct, omit_defaults=True):
    """A tag or manifest that the reporting node knows."""

    repository: Repository
    digest: Line
    tags: Annotated[list[Line], msgspec.Meta(max_length=MAX_TAGS)] = []
    whole: bool = False
    """It has all that it takes to run it: of an index, one image or more."""
    mark: Line = ""
    """SHA-256 of nonce and manifest, in hex: only who has it can tell. Empty: it has not."""


class Report(msgspec.Struct, omit_defaults=True):
    """What a node says of itself. Nothing in it is about private content."""

    node: NodeId
    version: Line
    now: Seconds
    """Its clock, in seconds since 1970."""
    uptime_s: Seconds
    disk: Disk
    alive: Annotated[list[NodeId], msgspec.Meta(max_length=table.MAX_MEMBERS)] = []
    """The other nodes that seem alive to it."""
    missed: Annotated[list[Missed], msgspec.Meta(max_length=table.MAX_MEMBERS)] = []
    banned: Annotated[list[NodeId], msgspec.Meta(max_length=table.MAX_MEMBERS)] = []
    """Nodes that it asks for nothing, for a while: they sent wrong bytes."""
    doubles: Annotated[list[Line], msgspec.Meta(max_length=16)] = []
    """Addresses of other nodes that go by its id."""
    certificate_ends: Seconds = 0.0
    """In seconds since 1970; 0: it has none."""
    running: Annotated[list[Running], msgspec.Meta(max_length=MAX_TRANSFERS)] = []
    images: Annotated[list[HeldImage], msgspec.Meta(max_length=MAX_IMAGES)] = []
    more_images: bool = False
    """There are more than fit."""


Message = TypeVar(
    "Message",
    Exchange,
    Replicate,
    Attend,
    Roster,
    Lookup,
    Statement,
    Claim,
    Confirmation,
    Take,
    Taken,
    Feel,
    Pulse,
    Held,
    Holdings,
    Count,
    Stock,
    Report,
)
Listed = TypeVar("Listed", Member, NameRecord, Entry)


def content_path(repository: str, kind: str, digest: Digest) -> str:
    """Where a node has content (`kind`: blobs, manifests, or referrers to it), escaped: the name of
    a registry may be an address of IPv6.
    """
    return f"/v2/{quote(repository, safe='/@!:')}/{kind}/{digest}"


def decode(body: bytes, kind: type[Message]) -> Message:
    """Raises `PeerError` if `body` is not such a message."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, not of this form
        raise Nonsense(f"not a valid {kind.__name__}: {str(error)[:200]}") from None


encode = msgspec.json.encode


def valid_members(members: Iterable[Member]) -> list[Member]:
    """Those that are well formed."""
    return _valid(members, table.validate)


def valid_records(records: Iterable[NameRecord]) -> list[NameRecord]:
    """Those that are well formed."""
    return _valid(records, names.validate)


def valid_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Those that are well formed."""
    return _valid(entries, _validate_entry)


def _validate_entry(entry: Entry) -> None:
    table.validate(Member(entry.id, entry.address, entry.zone))
    if not (-1 <= entry.slot < SLOTS and 0 <= entry.frontier < 2**32):
        raise ValueError(f"slot or frontier out of bounds (node {entry.id})")


def _valid(entries: Iterable[Listed], validate: Callable[[Listed], None]) -> list[Listed]:
    kept, refused = [], []
    for entry in entries:
        try:
            validate(entry)
        except ValueError as error:
            refused.append(error)
        else:
            kept.append(entry)
    if refused:
        _log.warning("refused %d entries from a peer, the first for: %s", len(refused), refused[0])
    return kept
