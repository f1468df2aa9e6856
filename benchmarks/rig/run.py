"""One run of one contestant, in numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.rig.meter import Readings
from benchmarks.rig.runners import Outcome

HOW: Final = {
    "ratio_to_bound": "last_s / bound_s; where starts are spread, the largest of each node's "
    "seconds over its own bound; bound_s = max(F/u_s, F/d_min, N*F/(u_s+sum u_i)), u and d being "
    "the link's rate * 1448/1514, F the bytes of all blobs",
    "source_copies": "bytes sent by the source's eth0 during the run / F: payload, requests, "
    "acknowledgements, and one header per packet of up to 64 KiB (some 1 %), nothing subtracted",
    "max_upload": "the same of the node (not the source) that sent most",
    "seconds_per_node": "from the node's start to its last byte verified",
    "cores_full": "mean of busy and stolen > 85 %, or > 20 % of the seconds above 90 %: then the "
    "machine, not the links, may have set the pace, and the ratio is no result",
    "foreign_cpu_share": "tasks that are not of this benchmark, of all cores' time",
}


@dataclass
class Run:
    """What is known of a run; `seconds` and `bounds` are parallel, one of each per node."""

    name: str
    scenario: str
    client: str
    size: int
    bound_s: float
    outcomes: Sequence[Outcome]
    readings: Readings
    busy_before: float
    numbers: Sequence[int]
    own_bounds_s: Sequence[float] = ()
    tls: bool | None = None
    cpu_s: Sequence[float] = ()
    peak_rss_bytes: Sequence[int] = ()
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """What went wrong, by node."""
        pairs = zip(self.numbers, self.outcomes, strict=True)
        return [f"n{number}: {outcome.problem}" for number, outcome in pairs if outcome.problem]

    @property
    def seconds(self) -> list[float]:
        """Of each node."""
        return [outcome.seconds for outcome in self.outcomes]

    @property
    def last_s(self) -> float:
        """Of the last node."""
        return max(self.seconds, default=math.nan)

    @property
    def ratio(self) -> float:
        """To the bound."""
        if self.problems:
            return math.nan
        if not self.own_bounds_s:
            return self.last_s / self.bound_s
        return max(s / own_s for s, own_s in zip(self.seconds, self.own_bounds_s, strict=True))

    @property
    def source_copies(self) -> float:
        """How often the image left the source."""
        return self.readings.sent[0] / self.size

    @property
    def max_upload(self) -> float:
        """Images that the busiest node sent."""
        return max(self.readings.sent[1:], default=0) / self.size

    def document(self) -> dict[str, Any]:
        """As JSON. Numbers that are not are null."""
        readings = self.readings
        start_s = min((outcome.start_s for outcome in self.outcomes), default=0.0)
        return {
            "name": self.name,
            "scenario": self.scenario,
            "client": self.client,
            "bytes": self.size,
            "nodes": list(self.numbers),
            "ratio_to_bound": _number(self.ratio),
            "source_copies": _number(self.source_copies),
            "max_upload": _number(self.max_upload),
            "seconds_per_node": [_number(seconds) for seconds in self.seconds],
            "last_s": _number(self.last_s),
            "bound_s": _number(self.bound_s),
            "own_bounds_s": [_number(seconds) for seconds in self.own_bounds_s],
            "cores_full": readings.cores_full,
            "cpu_share": _number(readings.cpu_share),
            "cpu_seconds_over_90": readings.seconds_over_90,
            "foreign_cpu_share": _number(readings.foreign_cpu_share),
            "steal_share": _number(readings.steal_share),
            "busy_before": _number(self.busy_before),
            "tls": self.tls,
            "node_cpu_s": [_number(seconds) for seconds in self.cpu_s],
            "node_peak_rss_bytes": list(self.peak_rss_bytes),
            "node_sent_bytes": readings.sent,
            "node_received_bytes": readings.received,
            "problems": self.problems,
            **self.more,
            "progress_s": [_number(at_s - start_s) for at_s in readings.sample_s],
            "progress_bytes": readings.progress,
            "upload_bytes": readings.uploads,
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
