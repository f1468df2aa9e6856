"""How many pieces a node has under way at a time, of all blobs that it fetches together.

Enough to keep the links busy down to the deepest place in the trees; more would only wait longer,
at other nodes, and keep connections busy.
"""

from typing import Final

# With two nodes: what is being sent to this one, and as many again that are asked for.
BASE: Final = 16

# A piece takes some piece times more on each level of a tree.
PER_LEVEL: Final = 4

# Of one blob, however many others there are: below, each piece's round trip would be felt.
LEAST: Final = 6

MOST: Final = 64

# Where the rate of coming in is limited, no more is asked for than comes in so many seconds: all
# of it is on its way at once, and each piece has to be whole while its sender still waits.
AHEAD_S: Final = 5.0


class Window:
    """Shared by the swarms of a node; each `enter`s when it begins, and `leave`s.

    `most` pieces are under way at a time, and of bytes what comes in at `rate` a second, if that
    is not 0, within some seconds; but at least one piece of each blob.
    """

    def __init__(self, most: int = MOST, rate: int = 0) -> None:
        self._most = most
        self._rate = rate
        self._swarms = 0

    def enter(self) -> None:
        """One more blob is fetched."""
        self._swarms += 1

    def leave(self) -> None:
        """One less."""
        self._swarms -= 1

    def share(self, nodes: int) -> int:
        """How many pieces of one blob may be under way, in a swarm of so many nodes."""
        levels = nodes.bit_length()  # of a binary tree; it is asked for with every event
        return max(LEAST, min(self._most, BASE + PER_LEVEL * levels) // max(1, self._swarms))

    def in_time(self, piece_bytes: int) -> int:
        """How many of one blob, of that size, come in soon enough; `most` if there is no rate."""
        if not self._rate:
            return self._most
        return max(1, int(self._rate * AHEAD_S / piece_bytes) // max(1, self._swarms))
