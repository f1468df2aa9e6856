"""A view: which nodes want a blob and which have it, and the trees that follow from that.

A node that joins a blob's swarm gets a slot: its wave of arrivals (those of about a second), and
its place in that, 0, 1, 2, … in order of arrival (`roll`). For piece p the nodes that want the blob
stand in the order of

    key(p, n) = wave, frac(vdc(place) + p·φ),  ties by node id

with vdc the van der Corput sequence (the place's bits reversed behind the point) and φ the golden
ratio: evenly spread on a ring, and the ring turned by the golden ratio for each piece, so that
over the pieces every node stands in every place equally often. In that order the nodes of a zone
that are of one wave form a k-ary heap.

The roots of a zone's first wave ask seeds (nodes that have it all): one root for each seed, so that
no seed sends a piece twice. The root of a later wave asks the last node of the wave before, which
began earlier and so has the piece. So each wave gets one copy and passes one on: nobody waits for
who came after it, and who comes late costs only those who came just before. So it remains when the
wave before has it all: its nodes come before those that brought the blob, which may be busy with
bringing others. Who is done before others of its own wave is a seed like any.

A zone without a seed has one root: a piece enters a zone once. Where seeds are fewer than zones
each zone has one root, with a seed or not, and these form such a heap in turn, below all seeds: no
zone's own.

Whoever a node is told to ask comes before it in that one order, or has the piece (invariant I1):
the key is a fact about a node, not of a view, so nodes with different views never wait in a ring.

While no node has the blob, a seed may be the `ORIGIN`, which is outside of the mesh, or a node that
is `fed` from outside. An origin is asked for a run of pieces at a time: the first in the order of
the run (p above being its number) is raised to be the root of all its trees, which differ below.
A root that asks an origin waits for nobody in the mesh, so whoever it is told by the order to ask
may have to wait for it.

A view is immutable and may be shared; to look somebody up costs O(log n), whatever n is.
"""

from bisect import bisect_left
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Self

import msgspec

# Children of a node in a piece's tree. Two is the measured best: one makes deep trees, more let a
# node send the same piece too often before the next.
FANOUT: Final = 2

# The upper bits of a slot number the wave, these the place in it: more than a swarm has nodes.
WAVE_BITS: Final = 16
SLOTS: Final = 1 << 32

# 32-bit fixed point: exact, the same on all nodes, and enough for more places than there are nodes.
_BITS: Final = 32
_ONE: Final = 1 << _BITS
_GOLDEN: Final = 0x9E3779B9  # 2**32 / φ, Knuth's multiplicative constant


# The id of who is outside of the mesh and has it all, in a view. No node has it.
ORIGIN: Final = ""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A node in the swarm of a blob. New fields only go at the end."""

    id: str
    address: str
    """`host:port` of its mesh listener."""
    slot: int = -1
    """Its wave and place since it wants the blob, or wanted it; -1 for one that brought it."""
    zone: str = ""
    frontier: int = 0
    """It has all pieces before this one; asked for in order, so it mostly has no others."""
    complete: bool = False
    """It has all of the blob, verified."""
    fed: bool = False
    """Its pieces come from outside of the swarm, in order: it is asked like one that has it all,
    and asks nobody.
    """

    @property
    def is_seed(self) -> bool:
        """Whether it is at the top of all trees, and in none of them."""
        return self.complete or self.fed


def wave(slot: int) -> int:
    """The wave that a slot is of; -1 for none."""
    return slot >> WAVE_BITS


def van_der_corput(slot: int) -> int:
    """Its bits reversed behind the point, in 2**-32: those of the wave count least."""
    return int(f"{slot % _ONE:0{_BITS}b}"[::-1], 2)


def key(piece: int, slot: int, node_id: str) -> tuple[int, int, str]:
    """A node's place in the order of `piece`: the smaller comes first."""
    return wave(slot), (van_der_corput(slot) + piece * _GOLDEN) % _ONE, node_id


class _Ring:
    """The nodes of one zone and wave that want the blob, by position. `before`: of its zone, that
    of the wave before.
    """

    __slots__ = ("before", "index", "nodes", "positions", "wave")

    def __init__(self, number: int, entries: Iterable[Entry], before: "_Ring | None") -> None:
        placed = sorted((van_der_corput(e.slot), e.id) for e in entries)
        self.wave = number
        self.before = before
        self.positions = [position for position, _ in placed]
        self.nodes = [node for _, node in placed]
        self.index = {node: i for i, node in enumerate(self.nodes)}

    def order(self, piece: int, root: str = "") -> "_Order":
        """Theirs for a piece; `root` stands first, if it is one of them."""
        first = bisect_left(self.positions, -piece * _GOLDEN % _ONE) % len(self.nodes)
        at = self.index.get(root)
        raised = 0 if at is None else (at - first) % len(self.nodes)
        return _Order(self, piece, first, raised, is_led=at is not None)


class _Order(NamedTuple):
    """The nodes of a ring in the order of a piece: from index `start` on round it, but the one of
    rank `raised` stands first.
    """

    ring: _Ring
    piece: int
    start: int
    raised: int
    is_led: bool

    def rank(self, node_id: str) -> int:
        rank = (self.ring.index[node_id] - self.start) % len(self.ring.nodes)
        if rank == self.raised:
            return 0
        return rank + 1 if rank < self.raised else rank

    def at(self, rank: int) -> str:
        if rank <= self.raised:
            rank = rank - 1 if rank else self.raised
        return self.ring.nodes[(self.start + rank) % len(self.ring.nodes)]

    @property
    def first(self) -> tuple[int, int, str]:
        """Who stands first, with its key; a root comes before all."""
        i = (self.start + self.raised) % len(self.ring.nodes)
        node = self.ring.nodes[i]
        if self.is_led:
            return -1, -1, node
        return self.ring.wave, (self.ring.positions[i] + self.piece * _GOLDEN) % _ONE, node

    def climb(self, rank: int, roots: int) -> Generator[str, None, int]:
        """The ancestors of who has a rank in a heap with so many roots; return its root's rank."""
        while rank >= roots:
            rank = (rank - roots) // FANOUT
            yield self.at(rank)
        return rank


class _Near(NamedTuple):
    """The seeds of a zone: those that its roots ask, and those beside them, for when these fail."""

    asked: Sequence[str]
    beside: Sequence[str]

    @classmethod
    def of(cls, seeds: Sequence[Entry], before: int) -> Self:
        """Those of waves `before` the one that asks, and the origin, if there are any: they go on
        with what they did when they had not yet all of it.
        """
        asked = [s.id for s in seeds if 0 <= wave(s.slot) < before or s.id == ORIGIN]
        if not asked:
            return cls([seed.id for seed in seeds], ())
        return cls(asked, [seed.id for seed in seeds if seed.id not in asked])


_NONE: Final = _Near((), ())


class View:
    """Who is in the swarm of one blob, as somebody knows it. `run`: so many pieces in a row
    are asked of an origin together.
    """

    def __init__(self, entries: Iterable[Entry], run: int = 1) -> None:
        self.run = run
        self.entries = {e.id: e for e in entries}
        wanting: dict[tuple[str, int], list[Entry]] = {}
        seeds: dict[str, list[Entry]] = {}
        for entry in sorted(self.entries.values(), key=lambda e: e.id):
            if entry.is_seed:
                seeds.setdefault(entry.zone, []).append(entry)
            elif entry.slot >= 0:
                wanting.setdefault((entry.zone, wave(entry.slot)), []).append(entry)
        self._rings: dict[tuple[str, int], _Ring] = {}
        self._first: dict[str, _Ring] = {}  # of each zone
        last: dict[str, _Ring] = {}
        for (zone, number), nodes in sorted(wanting.items()):
            ring = _Ring(number, nodes, last.get(zone))
            self._rings[zone, number] = last[zone] = ring
            self._first.setdefault(zone, ring)
        self._near = {
            zone: _Near.of(seeds[zone], ring.wave)
            for zone, ring in self._first.items()
            if zone in seeds
        }
        self.seeds = [entry.id for zone in sorted(seeds) for entry in seeds[zone]]
        self.wanting = [node for ring in self._rings.values() for node in ring.nodes]
        self.advanced = [e for e in self.entries.values() if e.frontier > 0 and not e.complete]
        self.is_cold = any(e.fed or e.id == ORIGIN for e in self.entries.values())

    def __len__(self) -> int:
        return len(self.entries)

    def without(self, node_ids: Collection[str]) -> "View":
        """The same, but for some nodes."""
        return View((e for e in self.entries.values() if e.id not in node_ids), self.run)

    def path(self, piece: int, node_id: str) -> Iterator[str]:
        """Whom `node_id` asks for a piece: its parent in the tree first, then whom to climb to, up
        to the seeds and through all of them. Empty if there is nobody before it and no seed.
        """
        ring = self._ring(node_id)
        if ring is None:
            yield from self._rotated(self.seeds, piece)
            return
        zone = self.entries[node_id].zone
        root = self._root(piece)
        order = ring.order(piece, root)
        rank = order.rank(node_id)
        while ring.before is not None:
            yield from order.climb(rank, 1)
            ring = ring.before
            order = ring.order(piece, root)
            rank = len(ring.nodes) - 1  # a leaf: it has nobody of its own wave to send to
            yield order.at(rank)
        enough = len(self.seeds) >= len(self._first)
        near, beside = self._near.get(zone, _NONE) if enough else _NONE
        rank = yield from order.climb(rank, max(1, len(near)))
        if not near:
            rank = yield from self._between_zones(piece, zone, root)
        turn = rank if root else piece + rank  # the origin is the first of the seeds
        yield from self._rotated(near, turn)
        yield from self._rotated(beside, turn)
        yield from self._rotated([s for s in self.seeds if s not in near and s not in beside], turn)

    def wave_asked(self, node_id: str) -> int:
        """The number of the wave that the root of a node's wave asks; -1 if that asks seeds."""
        ring = self._ring(node_id)
        return -1 if ring is None or ring.before is None else ring.before.wave

    def _ring(self, node_id: str) -> _Ring | None:
        """The ring that a node stands in; None if it is known not to want the blob."""
        entry = self.entries.get(node_id)
        if entry is None or entry.is_seed:
            return None
        return self._rings.get((entry.zone, wave(entry.slot)))

    def _root(self, piece: int) -> str:
        """Who asks the origin for a piece; nobody (empty) where there is no origin."""
        if ORIGIN not in self.entries:
            return ""
        run = piece // self.run
        return min(ring.order(run).first for ring in self._first.values())[-1]

    def _between_zones(self, piece: int, zone: str, root: str) -> Generator[str, None, int]:
        """Whom the first of a zone asks before the seeds, if those are fewer than the zones; return
        its rank, or that of the one above it who asks a seed.
        """
        first = {name: ring.order(piece, root).first for name, ring in self._first.items()}
        leaders = sorted(first.values())
        rank = leaders.index(first[zone])
        roots = max(1, len(self.seeds))
        while rank >= roots:
            rank = (rank - roots) // FANOUT
            yield leaders[rank][-1]
        return rank

    @staticmethod
    def _rotated(nodes: Sequence[str], by: int) -> Iterator[str]:
        for i in range(len(nodes)):
            yield nodes[(by + i) % len(nodes)]
