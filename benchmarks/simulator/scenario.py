"""A scenario: who takes part, how fast, when, and what goes wrong. All follows from a seed."""

import re
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Final

_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_RATE_UNITS: Final = {"bit": 1 / 8, "kbit": 125, "mbit": 125_000, "gbit": 125_000_000}
_TIME_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1, "": 1, "m": 60}

# All nodes are told to start by one hand; they do not start in the same instant.
START_JITTER_S: Final = 0.005

# One late joiner starts when the others have long been done.
LATE: Final = 2.0  # times T*

# Such a share of T* after its first node has started a node may be told outdated news of the swarm.
STALE_S: Final = 2.0

SOURCE: Final = 0  # the number of the node that has the blobs; the others are 1 … N

# Nobody has the blobs but an origin outside of the mesh, in the place of the source: all nodes ask
# it for runs of pieces, or one reads all and feeds the others.
STRIPED: Final = "striped"
LEADER: Final = "leader"


def parse_size(text: str) -> int:
    """Bytes of `1GiB`, `300MB`. Raises ValueError."""
    return int(_parse(text, _SIZE_UNITS))


def parse_rate(text: str) -> float:
    """Bytes per second of `100mbit`. Raises ValueError."""
    return _parse(text, _RATE_UNITS)


def parse_time(text: str) -> float:
    """Seconds of `0.2ms`. Raises ValueError."""
    return _parse(text, _TIME_UNITS)


def _parse(text: str, units: "dict[str, int] | dict[str, float]") -> float:
    match = re.fullmatch(r"([\d.]+)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r}: a number and one of {', '.join(filter(None, units))}")
    return float(match[1]) * units[match[2]]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Sizes in bytes, rates in bytes per second, times in seconds, shares of the N nodes."""

    nodes: int
    blobs: tuple[int, ...]
    at_once: int = 3
    """So many blobs a node fetches at a time, as containerd does."""
    rate: float = 12_500_000.0
    """Of each link, each way."""
    source_rate: float = 0.0
    """Of the source's link; 0: as the others."""
    latency: float = 0.0001
    """One way."""
    zones: int = 1
    zone_latency: float = 0.002
    """One way, between zones."""
    slow: float = 0.0
    slow_rate: float = 0.1
    """What slow nodes have of an uplink, as a share of the usual one."""
    liars: float = 0.0
    """They send false bytes, always."""
    kill: float = 0.0
    kill_at: float = 0.5
    """When these nodes die, as a share of T*."""
    kill_source: bool = False
    """The source dies, too, as soon after that as others have every piece."""
    silent: bool = False
    """The dead send no reset, as when the power fails."""
    lose: float = 0.0
    """So many requests or answers vanish."""
    spread: float = 0.0
    """Nodes start within so many seconds, evenly; 0: all at once."""
    late: int = 0
    """So many nodes start after all others are done."""
    stale: float = 0.0
    """So many of the nodes learn all news of the swarm with a delay, each with its own."""
    cold: str = ""
    """`STRIPED` or `LEADER`; empty: the source is a node."""
    origin_latency: float = 0.05
    """From asking the origin to its first byte, each time."""
    cut_off: float = 0.0
    """So many of the nodes cannot reach the origin."""
    refuse: float = 0.0
    """So many of the requests to the origin fail."""
    seed: int = 1

    @property
    def size(self) -> int:
        """Of all blobs together."""
        return sum(self.blobs)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"blobs": list(self.blobs)}


@dataclass(frozen=True)
class Part:
    """What one node is in a scenario."""

    index: int
    up: float
    down: float
    zone: int = 0
    start: float = 0.0
    dies: float | None = None
    liar: bool = False
    stale: float = 0.0
    """It learns of changes so much later."""
    cut_off: bool = False
    """It cannot reach the origin."""


@dataclass(frozen=True)
class Cast:
    """All nodes, the source first, and the bounds that follow."""

    scenario: Scenario
    parts: tuple[Part, ...]

    @property
    def bound(self) -> float:
        """T*: no scheme brings all bytes to all nodes sooner, if all start together and live."""
        source, *others = self.parts
        size, n = self.scenario.size, len(others)
        return max(
            size / source.up,
            size / min(part.down for part in others),
            n * size / sum(part.up for part in self.parts),
        )

    def own_bound(self, part: Part) -> float:
        """The same for one node, from its own start on, whatever the others do."""
        size = self.scenario.size
        return max(size / part.down, size / self.parts[SOURCE].up - part.start)

    @property
    def together(self) -> bool:
        """Whether all start at once: then the bound is one for all."""
        return not self.scenario.spread and not self.scenario.late


def cast(scenario: Scenario) -> Cast:
    """Choose who is what. One source of chance for each kind: they do not disturb each other."""
    numbers = range(1, scenario.nodes + 1)

    def chosen(what: str, share: float) -> frozenset[int]:
        return frozenset(chance(scenario, what).sample(numbers, round(share * len(numbers))))

    slow, liars = chosen("slow", scenario.slow), chosen("liars", scenario.liars)
    dying, stale = chosen("kill", scenario.kill), chosen("stale", scenario.stale)
    cut_off = chosen("cut off", scenario.cut_off)
    jitter, spread = chance(scenario, "jitter"), chance(scenario, "spread")
    parts = [Part(SOURCE, scenario.source_rate or scenario.rate, scenario.rate)]
    for number in numbers:
        start = jitter.uniform(0, START_JITTER_S) + spread.uniform(0, scenario.spread)
        parts.append(
            Part(
                number,
                up=scenario.rate * (scenario.slow_rate if number in slow else 1.0),
                down=scenario.rate,
                zone=number % scenario.zones,
                start=start,
                liar=number in liars,
                stale=spread.uniform(0, STALE_S) if number in stale else 0.0,
                cut_off=number in cut_off,
            )
        )
    bound = Cast(scenario, tuple(parts)).bound
    for number in numbers:
        changes: dict[str, float] = {}
        if number in dying:
            changes["dies"] = bound * scenario.kill_at
        if number > scenario.nodes - scenario.late:
            changes["start"] = bound * LATE
        if changes:
            parts[number] = Part(**(vars(parts[number]) | changes))
    return Cast(scenario, tuple(parts))


def chance(scenario: Scenario, what: str) -> Random:
    """Randomness for one purpose; the same in each process (a str seeds by its SHA-512)."""
    return Random(f"{scenario.seed} {what}")
