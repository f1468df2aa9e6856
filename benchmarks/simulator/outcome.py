"""What came of a run: who had how much when, who sent how much, and how that compares with T*."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from benchmarks.simulator.clock import Clock
from benchmarks.simulator.network import Host, Network
from benchmarks.simulator.scenario import SOURCE, Cast, Part, Scenario

# The picture has a column of pixels or two for each.
SAMPLES_PER_BOUND: Final = 100
MAX_SAMPLES: Final = 2000

# With more nodes than this, the picture shows shares of them.
MAX_LINES: Final = 32
QUANTILES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

# A run that takes longer has failed.
GIVE_UP: Final = 60  # times T*, besides N times: a central registry needs that


class World:
    """What all schemes run in: the clock, the network, and a record of what happens."""

    def __init__(self, cast: Cast) -> None:
        scenario = cast.scenario
        self.cast = cast
        self.scenario = scenario
        self.clock = Clock()
        self.network = Network(self.clock, scenario.latency, scenario.zone_latency)
        self.hosts = [Host(p.index, p.up, p.down, p.zone) for p in cast.parts]
        self.bound = cast.bound
        self.held = [0] * len(self.hosts)  # bytes
        self.finished: list[float | None] = [None] * len(self.hosts)
        self.samples: list[tuple[float, list[float]]] = []
        self.counts: dict[str, int] = {}
        # Whose end is waited for. What a liar has in the end is its own matter: others ban it.
        self.awaited = [p for p in cast.parts[1:] if p.dies is None and not p.liar]
        self._missing = len(self.awaited)

    def run(self) -> None:
        """Until all that live have all."""
        self.clock.at(0.0, self._sample)
        patience = (GIVE_UP + len(self.hosts)) * self.bound
        self.clock.run(until=patience + max(p.start for p in self.cast.parts))
        self._sample()

    def count(self, what: str, number: int = 1) -> None:
        """Keep a tally for the report."""
        self.counts[what] = self.counts.get(what, 0) + number

    def got(self, host: Host, size: int) -> None:
        """Note that a node has so many bytes more, verified."""
        index = host.index
        self.held[index] += size
        if self.held[index] == self.scenario.size:
            self.finished[index] = self.clock.now
            part = self.cast.parts[index]
            if part.dies is None and not part.liar:
                self._missing -= 1
                if not self._missing:
                    self.clock.stop()

    def _sample(self) -> None:
        size = self.scenario.size
        held = [self.held[part.index] / size for part in self.awaited]
        if len(held) > MAX_LINES:
            held.sort()
            held = [held[round(q * (len(held) - 1))] for q in QUANTILES]
        self.samples.append((self.clock.now, held))
        if len(self.samples) < MAX_SAMPLES:
            self.clock.at(self.clock.now + self.bound / SAMPLES_PER_BOUND, self._sample)


@dataclass(frozen=True)
class Outcome:
    """One run. Times in seconds; uploads as multiples of all blobs together, F."""

    scheme: str
    bound: float
    ratio: float | None
    """Last node over T*; if they start apart, the worst of each one's own time over its own bound.
    None if somebody never finished.
    """
    seconds: list[float | None]
    """From each one's start to its last byte, in order; of nodes that neither died nor lied."""
    uploads: list[float]
    """Of the nodes, without the source."""
    source_copies: float
    zone_copies: float
    """What crossed between zones, over F."""
    samples: list[tuple[float, list[float]]]
    counts: dict[str, int]

    @property
    def awaited(self) -> int:
        """How many nodes neither died nor lied."""
        return len(self.seconds)

    def document(self) -> dict[str, Any]:
        """As JSON: to the millisecond, which is finer than the model is true."""
        return {
            "scheme": self.scheme,
            "ratio_to_bound": None if self.ratio is None else round(self.ratio, 4),
            "bound_s": round(self.bound, 3),
            "source_copies": round(self.source_copies, 4),
            "max_upload": round(max(self.uploads), 4),
            "median_upload": round(median(self.uploads), 4),
            "min_upload": round(min(self.uploads), 4),
            "zone_copies": round(self.zone_copies, 4),
            "unfinished": self.seconds.count(None),
            "counts": dict(sorted(self.counts.items())),
            "seconds_per_node": [None if s is None else round(s, 3) for s in self.seconds],
        }

    def cells(self) -> tuple[str, ...]:
        """As a row of text."""
        last = max((s for s in self.seconds if s is not None), default=0.0)
        return (
            self.scheme,
            "never" if self.ratio is None else f"{self.ratio:.3f}",
            f"{last:,.1f}",
            f"{self.bound:,.1f}",
            f"{self.source_copies:,.2f}",
            f"{min(self.uploads):.2f} / {median(self.uploads):.2f} / {max(self.uploads):.2f}",
            f"{self.zone_copies:.2f}",
            ", ".join(f"{name} {n:,}" for name, n in sorted(self.counts.items())),
        )


HEADER: Final = (
    "scheme",
    "ratio to T*",
    "last (s)",
    "T* (s)",
    "source copies",
    "uploads/F: min / median / max",
    "between zones",
    "counted",
)


def outcome(scheme: str, world: World) -> Outcome:
    """Sum up a world after its run."""
    size, cast = world.scenario.size, world.cast
    seconds: list[float | None] = []
    ratios: list[float | None] = []
    for part in world.awaited:
        end = world.finished[part.index]
        seconds.append(None if end is None else end - part.start)
        ratios.append(None if end is None else _ratio(cast, world.bound, part, end))
    reached = [ratio for ratio in ratios if ratio is not None]
    return Outcome(
        scheme=scheme,
        bound=world.bound,
        ratio=max(reached) if len(reached) == len(ratios) else None,
        seconds=seconds,
        uploads=[host.sent / size for host in world.hosts[1:]],
        source_copies=world.hosts[SOURCE].sent / size,
        zone_copies=world.network.crossed / size,
        samples=world.samples,
        counts=world.counts,
    )


def _ratio(cast: Cast, bound: float, part: Part, end: float) -> float:
    if cast.together:
        return end / bound
    return (end - part.start) / cast.own_bound(part)


def table(outcomes: Iterable[Outcome]) -> str:
    """All runs, a line each."""
    rows = [HEADER, *(o.cells() for o in outcomes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def report(scenario: Scenario, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """All runs as JSON. No time of day, no machine: the same arguments give the same bytes."""
    return {
        "program": "benchmarks.simulate",
        "parameters": scenario.document(),
        "runs": [o.document() for o in outcomes],
    }
