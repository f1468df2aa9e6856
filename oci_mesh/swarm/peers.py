"""What a node knows of the others in one swarm: how fast they send, and whom to leave alone."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from oci_mesh.swarm.accusations import MAX_NAMED, Accusations
from oci_mesh.swarm.view import ORIGIN


class Fault(StrEnum):
    """Why a request did not bring its piece."""

    BUSY = "busy"
    """It has the piece, or will, but too much to send already."""
    NOT_YET = "not yet"
    """It did not have the piece in the time it was given."""
    MISSING = "missing"
    """It has nothing of the blob and does not fetch it, or will not wait with us."""
    GONE = "gone"
    """It cannot be reached, or the connection was cut."""
    STALLED = "stalled"
    """No byte came for too long."""
    CORRUPT = "corrupt"
    """It sent other bytes than the list says that it has."""


# For how long, in seconds, a node is not asked for anything after a fault: at first, and at most
# (it doubles with each further one until a piece comes). NOT_YET is about one piece only.
_AVOID_S: Final = {
    Fault.BUSY: (0.5, 4.0),
    Fault.MISSING: (1.0, 16.0),
    Fault.GONE: (1.0, 32.0),
    Fault.STALLED: (4.0, 64.0),
}

# A node whose pieces take so many times longer than is usual is left alone for a while: what it
# could carry is less than what waiting for it costs. Less than this is how links that are shared
# behave; a link of a tenth shows as ten times and more.
SLOW_TIMES: Final = 5.0
SLOW_AVOID_S: Final = 20.0

# How many pieces from a node tell how slow it is: the first may have met a cold connection.
_SAMPLES: Final = 3

_SMOOTH: Final = 0.25
_SMOOTH_USUAL: Final = 0.05


class Reserve(IntEnum):
    """Why a node is not the first to be asked, from the best reason to ask it all the same."""

    NONE = 0
    BUSY = 1
    SLOW = 2
    SILENT = 3
    NEVER = 4
    """Not now, whoever else there is."""


@dataclass(slots=True)
class Peer:
    """One other node."""

    frontier: int = 0
    pace: float = 0.0  # seconds for a byte, within one piece
    samples: int = 0
    faults: int = 0  # since the last piece
    avoid_until: float = 0.0
    busy_until: float = 0.0
    slow_until: float = 0.0


class Peers:
    """All of them, by id. `Peer`s are made when first asked about."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        self._usual_pace = 0.0
        self.banned: set[str] = set()
        self.named: tuple[str, ...] = ()  # of these, whom others are told of
        self.accusations = Accusations()  # what they tell
        self.silent: set[str] = set()  # could not be reached; until it sends something
        self.max_frontier = 0

    def __getitem__(self, node_id: str) -> Peer:
        peer = self._peers.get(node_id)
        if peer is None:
            peer = self._peers[node_id] = Peer()
        return peer

    def reserve(self, node_id: str, now: float) -> Reserve:
        """What speaks against asking it now."""
        if node_id in self.banned:
            return Reserve.NEVER
        is_accused = self.accusations.is_accused(node_id)  # so others serve it last: it is late
        peer = self._peers.get(node_id)
        if peer is None:
            return Reserve.BUSY if is_accused else Reserve.NONE
        if peer.avoid_until > now:
            return Reserve.NEVER
        if node_id == ORIGIN:  # busy, it is not to be asked at all; how slow it is, is no matter
            return Reserve.NEVER if peer.busy_until > now else Reserve.NONE
        if node_id in self.silent:
            return Reserve.SILENT
        if peer.slow_until > now:
            return Reserve.SLOW
        return Reserve.BUSY if is_accused or peer.busy_until > now else Reserve.NONE

    def is_last(self, node_id: str) -> bool:
        """Whether it is sent pieces after all others: it lied, to this node or some others."""
        return node_id in self.banned or self.accusations.is_accused(node_id)

    @property
    def left_out(self) -> set[str]:
        """Who is not to be counted in the trees."""
        return self.banned | self.silent

    def advance(self, node_id: str, frontier: int) -> None:
        """Note that it has all pieces before `frontier`; it never has fewer again."""
        peer = self[node_id]
        if frontier > peer.frontier:
            peer.frontier = frontier
            self.max_frontier = max(self.max_frontier, frontier)

    def succeeded(self, node_id: str, size: int, took_s: float, now: float) -> None:
        """Note a whole piece that came from it within `took_s` of its first byte."""
        peer = self[node_id]
        peer.faults = 0
        self.silent.discard(node_id)
        if not size or node_id == ORIGIN:
            return
        pace = max(0.0, took_s) / size
        peer.pace += (pace - peer.pace) * (_SMOOTH if peer.samples else 1.0)
        peer.samples += 1
        self._usual_pace += (pace - self._usual_pace) * (_SMOOTH_USUAL if self._usual_pace else 1.0)
        if peer.samples >= _SAMPLES and peer.pace > SLOW_TIMES * self._usual_pace:
            peer.slow_until = now + SLOW_AVOID_S
            peer.samples = 0  # then it is tried anew

    def ban(self, node_id: str) -> None:
        """Note that it sent false bytes: it is asked for nothing more."""
        self.banned.add(node_id)
        if node_id not in self.named:
            self.named = (*self.named, node_id)[:MAX_NAMED]

    def failed(self, node_id: str, fault: Fault, now: float) -> None:
        """Note a request that brought nothing."""
        peer = self[node_id]
        if node_id == ORIGIN and self.reserve(node_id, now) is Reserve.NEVER:
            return  # all requests of a run fail together
        if fault is Fault.CORRUPT:
            self.ban(node_id)
        elif fault in (Fault.GONE, Fault.STALLED) and node_id != ORIGIN:
            self.silent.add(node_id)
        if fault in _AVOID_S:
            first_s, most_s = _AVOID_S[fault]
            avoid = min(most_s, first_s * 2 ** min(peer.faults, 8))
            peer.faults += 1
            if fault is Fault.BUSY:
                peer.busy_until = max(peer.busy_until, now + avoid)
            else:
                peer.avoid_until = max(peer.avoid_until, now + avoid)
