"""What nodes say to each other: JSON over HTTP on the mesh listener.

    POST /mesh/v1/exchange    `Exchange` -> `Exchange`: gossip, and news of changed names
    POST /mesh/v1/replicate   `Replicate` -> lines, while the node fetches what it was asked to hold
    POST /mesh/v1/swarm       `Attend` -> `Roster`: who wants or has a blob, asked of its rendezvous
    POST /mesh/v1/statement   `Lookup` -> `Statement`: the signed list of a blob's pieces
    POST /mesh/v1/tag         `Claim` -> `Confirmation`: is a tag of an upstream still that?
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
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from oci_mesh.errors import PeerError
from oci_mesh.members import names, table
from oci_mesh.members.names import NameRecord
from oci_mesh.members.table import Member
from oci_mesh.spec.digest import Digest
from oci_mesh.swarm.statement import Statement
from oci_mesh.swarm.view import Entry

_log = logging.getLogger(__name__)

EXCHANGE_PATH: Final = "/mesh/v1/exchange"
REPLICATE_PATH: Final = "/mesh/v1/replicate"

ENROL_PATH: Final = "/mesh/v1/enrol"
TRUST_PATH: Final = "/mesh/v1/trust"

SWARM_PATH: Final = "/mesh/v1/swarm"
STATEMENT_PATH: Final = "/mesh/v1/statement"
TAG_PATH: Final = "/mesh/v1/tag"

# Who asks, on every request between nodes. It proves nothing: where there is TLS, the certificate
# does (`door.peer_of`).
NODE_HEADER: Final = "OCI-Mesh-Node"

# With a request for a piece: the asking node's slot in the blob's swarm, how many seconds it may be
# kept waiting, that it has nobody else to ask, and the id of the piece list that it goes by.
SLOT_HEADER: Final = "OCI-Mesh-Slot"
WAIT_HEADER: Final = "OCI-Mesh-Wait"
FINAL_HEADER: Final = "OCI-Mesh-Final"
LIST_HEADER: Final = "OCI-Mesh-List"

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


class Replicate(msgspec.Struct):
    """A request to hold a manifest and all it needs. Whom it is asked may not know `sender` yet,
    which may be the only one that has it.
    """

    sender: Member
    repository: str
    digest: str


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


Message = TypeVar(
    "Message", Exchange, Replicate, Attend, Roster, Lookup, Statement, Claim, Confirmation
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
        raise PeerError(f"not a valid {kind.__name__}: {str(error)[:200]}") from None


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
    if not (-1 <= entry.slot < 2**32 and 0 <= entry.frontier < 2**32):
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
