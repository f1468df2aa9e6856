"""What nodes say to each other: JSON over HTTP on the mesh listener.

    POST /mesh/v1/exchange    `Exchange` -> `Exchange`: gossip, and news of changed names
    POST /mesh/v1/replicate   `Replicate` -> lines, while the node fetches what it was asked to hold
    GET  /v2/...              content that this node has itself: the distribution API, read-only

What comes in is checked here, entry by entry: one bad entry costs itself, not the message.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec

from oci_mesh.errors import PeerError
from oci_mesh.members import names, table
from oci_mesh.members.names import NameRecord
from oci_mesh.members.table import Member

_log = logging.getLogger(__name__)

EXCHANGE_PATH: Final = "/mesh/v1/exchange"
REPLICATE_PATH: Final = "/mesh/v1/replicate"

# Who asks, on every request between nodes. Accounting only: it proves nothing.
NODE_HEADER: Final = "OCI-Mesh-Node"

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


Message = TypeVar("Message", Exchange, Replicate)
Entry = TypeVar("Entry", Member, NameRecord)


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


def _valid(entries: Iterable[Entry], validate: Callable[[Entry], None]) -> list[Entry]:
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
