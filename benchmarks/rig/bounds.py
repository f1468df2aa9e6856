"""How fast it could go at best: lower bounds on time, in seconds, for F bytes over given links.

A link carries TCP's payload in 1448 of the 1514 bytes of a full frame: what tbf counts. Bytes are
taken for a fluid: that the last piece still has to travel on once it has arrived, the start of
connections, and requests are not in the bound. So nothing reaches 1.00.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

GOODPUT: Final = 1448 / 1514


@dataclass(frozen=True)
class Link:
    """What a machine can send and receive, in bits per second, both at once."""

    up: int
    down: int

    @property
    def sends(self) -> float:
        """Bytes of TCP payload per second, out."""
        return self.up * GOODPUT / 8

    @property
    def receives(self) -> float:
        """Bytes of TCP payload per second, in."""
        return self.down * GOODPUT / 8


def everyone(size: int, source: Link, nodes: Sequence[Link]) -> float:
    """T*: until the last of the nodes has all of what only `source` had, all helping.

    max(F/u_s, F/d_min, N·F/(u_s+Σu_i)): all of it leaves the source; the node with the thinnest
    link gets all of it; all of it N times is sent by somebody.
    """
    sends = source.sends + sum(node.sends for node in nodes)
    slowest = min(node.receives for node in nodes)
    return max(size / source.sends, size / slowest, len(nodes) * size / sends)


def one(size: int, source: Link, node: Link, after: float = 0.0) -> float:
    """A node's own bound, if it starts `after` seconds after the first: its seconds from then on.

    max(F/d_i, F/u_s - after): all of it gets in, and before, out of the source. With enough other
    nodes that have it, leave out the second by `after` large.
    """
    return max(size / node.receives, size / source.sends - after)
