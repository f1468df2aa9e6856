"""Who lied, as other nodes say: what a node hears of that from those who ask it for pieces.

Who has a whole blob takes no piece of it, and so finds nobody out. But who asks for a piece names
those who lied to it; what it says last counts.

It is a matter of order, never of access. Who is accused is served last, and asked after others, but
before a seed that has others to send to: so lies told here cost a seed little. What this does not
do: find out who lies, ban anybody, or tell others. Two nodes that lie together can put a third last
at a seed; it then gets what is left there, and everything from the others.
"""

from typing import Final

# So many have to say it: one node alone must not be able to put another last.
ACCUSERS: Final = 2

# Named by one node: a line of a request. It comes upon liars in an order of its own, so where there
# are more, others name those that it does not.
MAX_NAMED: Final = 8

# Nodes that are believed something, for each blob. Of a thousand nodes a third may lie, and each of
# them is still named by some.
MAX_ACCUSERS: Final = 256


class Accusations:
    """About the nodes in one swarm, by id."""

    def __init__(self) -> None:
        self._named: dict[str, tuple[str, ...]] = {}  # by accuser
        self._accusers: dict[str, int] = {}  # by accused, how many

    def __len__(self) -> int:
        """How many nodes accuse others."""
        return len(self._named)

    def hear(self, accuser: str, named: tuple[str, ...]) -> None:
        """Whom a node names now, in place of those whom it named before."""
        before = self._named.get(accuser, ())
        named = named[:MAX_NAMED]
        if named == before or not (before or len(self._named) < MAX_ACCUSERS):
            return
        for node_id in {*before} - {accuser}:
            self._accusers[node_id] -= 1
            if not self._accusers[node_id]:
                del self._accusers[node_id]
        for node_id in {*named} - {accuser}:
            self._accusers[node_id] = self._accusers.get(node_id, 0) + 1
        self._named[accuser] = named
        if not named:
            del self._named[accuser]

    def is_accused(self, node_id: str) -> bool:
        """Whether enough nodes say that it lied."""
        return self._accusers.get(node_id, 0) >= ACCUSERS
