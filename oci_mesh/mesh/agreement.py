"""By which list the pieces of a blob are judged, and how large it is: asked of several nodes.

Whoever says what is taken for nothing but a claim. Where nodes say different things somebody lies,
or a disk does, and the fetch goes on with the next claim when one turns out to lead nowhere.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

from oci_mesh.errors import BlobUnknown, PeerError
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.meeting import Meeting
from oci_mesh.mesh.peers import Peers
from oci_mesh.mesh.statements import Statements
from oci_mesh.mesh.wire import Lookup
from oci_mesh.swarm.pieces import SMALL_BYTES
from oci_mesh.swarm.statement import Statement
from oci_mesh.swarm.view import Entry

_log = logging.getLogger(__name__)

# Nodes asked for their lists of pieces at once, so that one that lies is outvoted; and in all, of
# those that the rendezvous named, and again of those that a search found.
ASKED_FOR_LIST: Final = 3
MAX_ASKED_FOR_LIST: Final = 24

# Others are asked as well when none of these has answered by then: each may have to read all of
# the blob first, and one of them may never answer.
PATIENCE_S: Final = 2.0

# The others that were asked get so much longer than the first: a list that differs shows a lie.
GRACE_S: Final = 0.2


class Agreement:
    """For one fetch: what to go by next, after what did not work."""

    def __init__(
        self, peers: Peers, client: PeerClient, statements: Statements, meeting: Meeting
    ) -> None:
        self.disputed = False
        """Whether nodes said different things, or something wrong, so far."""
        self._peers = peers
        self._client = client
        self._statements = statements
        self._meeting = meeting
        self._signers: list[str] = []
        self._useless_sizes: set[int] = set()
        self._useless_lists: set[str] = set()

    async def find(self) -> tuple[Statement | None, int]:
        """The list to go by, and the blob's size; no list for a small blob, which is one piece.

        Raises `BlobUnknown` if nobody tells, or nothing new.
        """
        meeting = self._meeting
        unknown = BlobUnknown(f"no node has {meeting.digest} in {meeting.repository}")
        if not meeting.others() and not await meeting.search():
            raise unknown
        if meeting.size < 0:
            await meeting.search()
        if 0 <= meeting.size <= SMALL_BYTES and meeting.size not in self._useless_sizes:
            return None, meeting.size
        asked: set[str] = set()
        statement = self._vote(await self._lists(asked))
        if statement is None and await meeting.search():
            statement = self._vote(await self._lists(asked))
        if statement is None:
            raise unknown
        meeting.size = statement.size
        return (None if statement.size <= SMALL_BYTES else statement), statement.size

    @property
    def signers(self) -> list[str]:
        """Who signed the list that was found, or an equal one."""
        return self._signers

    def refuse(self, statement: Statement | None, claims: Mapping[str, int]) -> None:
        """Do not come with this again: nobody gave pieces by it. `claims` are the sizes that nodes
        said instead, by node.
        """
        if statement is not None:
            self.disputed = True
            self._useless_lists.add(statement.list_id)
            return
        self._useless_sizes.add(self._meeting.size)
        sizes = Counter(size for size in claims.values() if size not in self._useless_sizes)
        self._meeting.size = sizes.most_common(1)[0][0] if sizes else -1

    def _vote(self, statements: list[Statement]) -> Statement | None:
        """The list that most have. Where lists differ clients are to get nothing of the blob before
        the digest of the whole has told.
        """
        votes = Counter(statement.list_id for statement in statements)
        if not votes:
            return None
        signers = [statement.signer for statement in statements]
        if len(votes) > 1:
            self.disputed = True
            _log.warning(
                "the piece lists of %s differ: one of %s lies",
                self._meeting.digest,
                ", ".join(signers),
            )
        chosen = votes.most_common(1)[0][0]
        same = [statement for statement in statements if statement.list_id == chosen]
        self._signers = [statement.signer for statement in same]
        return same[0]

    async def _lists(self, asked: set[str]) -> list[Statement]:
        """Valid lists, of a few nodes that were not `asked` before."""
        found: list[Statement] = []
        most = len(asked) + MAX_ASKED_FOR_LIST
        async with asyncio.TaskGroup() as group:
            pending: set[asyncio.Task[None]] = set()
            while not found:
                batch = self._next(asked) if len(asked) < most else []
                asked.update(entry.id for entry in batch)
                pending |= {group.create_task(self._ask(entry, found)) for entry in batch}
                if not pending:
                    break
                patience_s = PATIENCE_S if batch else None  # each has a deadline of its own
                _, pending = await asyncio.wait(
                    pending, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
                )
            if pending:
                _, pending = await asyncio.wait(pending, timeout=GRACE_S)
            for late in pending:
                late.cancel()
        return found

    def _next(self, asked: set[str]) -> list[Entry]:
        """Whom to ask next: those that have it all first, for they have the list at hand."""
        rest = [entry for entry in self._meeting.seeds() if entry.id not in asked]
        rest = rest or [entry for entry in self._meeting.others() if entry.id not in asked]
        return rest[:ASKED_FOR_LIST]

    async def _ask(self, entry: Entry, found: list[Statement]) -> None:
        meeting = self._meeting
        lookup = Lookup(meeting.repository, str(meeting.digest))
        try:
            statement = await self._client.statement(entry.address, lookup, entry.id, meeting.proof)
        except PeerError as error:
            self._peers.blame(entry.id, "unreachable", error)
            return
        if statement is None:
            return
        try:
            self._statements.check(statement, meeting.digest)
        except PeerError as error:
            self._peers.blame(entry.id, "nonsense", error)
            return
        useless = statement.list_id in self._useless_lists or statement.size in self._useless_sizes
        if not useless and not self._peers.is_banned(statement.signer):
            found.append(statement)
