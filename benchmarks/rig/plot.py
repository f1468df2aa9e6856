"""A picture of the runs: what went in and out of each node over time, and who was done when.
Plain SVG.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import svg
from benchmarks.rig.run import Run

WIDTH: Final = 880
MARGIN: Final = 60
LANE_HEIGHT: Final = 36
LANES_LEFT: Final = 110
BAR_HEIGHT: Final = 26
NAMES_WIDTH: Final = 160

_OURS: Final = "#0b6e4f"
_THEIRS: Final = "#8a94a0"
_BOUND: Final = "#c1440e"
_OUT: Final = "#e0a458"

# Rates are means of so many samples: a link's queue empties in bursts.
_SMOOTH: Final = 4


def save(path: Path, title: str, runs: Sequence[Run]) -> None:
    """Write the picture."""
    bars_top = MARGIN + LANE_HEIGHT * len(_machines(runs[0])) + 2 * MARGIN - 20
    height = bars_top + BAR_HEIGHT * len(runs) + MARGIN
    marks = [svg.text(MARGIN, 24, title, bold=True), *_lanes(runs[0]), *_bars(runs, bars_top)]
    svg.save(path, WIDTH, height, marks)


def _machines(run: Run) -> list[int]:
    """The source, and who pulled."""
    return [0, *run.numbers]


def _lanes(run: Run) -> Iterator[str]:
    """A lane for each machine: above its line what comes in, below what goes out, as rates; and a
    line at the bound.
    """
    left, right, top = LANES_LEFT, WIDTH - MARGIN, MARGIN + 8
    start_s = min((outcome.start_s for outcome in run.outcomes), default=0.0)
    times = [at_s - start_s for at_s in run.readings.sample_s]
    end_s = max([run.bound_s, *times]) * 1.02
    machines = _machines(run)
    bottom = top + LANE_HEIGHT * len(machines)
    received = [_rates(times, run.readings.progress, number) for number in machines]
    sent = [_rates(times, run.readings.uploads, number) for number in machines]
    highest = max([1.0, *(rate for lane in (*received, *sent) for rate in lane)])

    def x(at_s: float) -> float:
        return left + (right - left) * max(0.0, at_s) / end_s

    def area(rates: Sequence[float], middle: float, height: float, color: str) -> str:
        edge = " ".join(
            f"{x(at_s):.1f},{middle - height * rate / highest:.1f}"
            for at_s, rate in zip(times, rates, strict=True)
        )
        ends = f"{x(times[0]):.1f},{middle:.1f} {edge} {x(times[-1]):.1f},{middle:.1f}"
        return f'<polygon points="{ends}" fill="{color}"/>'

    yield svg.text(MARGIN, top - 14, f"{run.name}: each node's link;")
    yield svg.text(LANES_LEFT + 130, top - 14, "what comes in", color=_OURS, bold=True)
    yield svg.text(LANES_LEFT + 234, top - 14, "and what goes out", color="#a8701f", bold=True)
    for row, number in enumerate(machines):
        middle = top + LANE_HEIGHT * (row + 0.5)
        name = f"node {number}" if number else "source"
        yield svg.text(left - 8, middle + 4, name, anchor="end")
        yield area(received[row], middle, LANE_HEIGHT / 2 - 2, _OURS)
        yield area(sent[row], middle, 2 - LANE_HEIGHT / 2, _OUT)
        yield svg.line(left, middle, right, middle, "#999")
    yield svg.line(x(run.bound_s), top, x(run.bound_s), bottom, _BOUND, dash="4 3")
    yield svg.text(x(run.bound_s), top - 14, "bound", anchor="middle", color=_BOUND)
    yield svg.line(left, bottom, right, bottom, svg.INK)
    for tick in _ticks(end_s):
        yield svg.line(x(tick), bottom, x(tick), bottom + 4, svg.INK)
        yield svg.text(x(tick), bottom + 18, f"{tick:g} s", anchor="middle")


def _rates(times: Sequence[float], counts: Sequence[Sequence[int]], number: int) -> list[float]:
    """Bytes a second of a machine at each sample, over the samples before it."""
    rates = [0.0]
    for now in range(1, len(times)):
        then = max(0, now - _SMOOTH)
        passed_s = max(times[now] - times[then], 1e-3)
        rates.append((counts[now][number] - counts[then][number]) / passed_s)
    return rates


def _bars(runs: Sequence[Run], top: float) -> Iterator[str]:
    """The last node's time of each run, on a scale of powers of ten from half the bound."""
    left, right = NAMES_WIDTH, WIDTH - 2 * MARGIN
    bound_s = runs[0].bound_s
    low = bound_s / 2
    high = max([2 * bound_s, *(run.last_s for run in runs if not run.problems)])

    def x(seconds: float) -> float:
        return left + (right - left) * math.log(max(seconds, low) / low) / math.log(high / low)

    yield svg.text(MARGIN, top - 14, "until the last node is done (logarithmic)")
    for row, run in enumerate(runs):
        y = top + row * BAR_HEIGHT
        yield svg.text(left - 8, y + 16, run.name, anchor="end")
        if run.problems:
            yield svg.text(left + 4, y + 16, "failed")
            continue
        width = x(run.last_s) - left
        color = _THEIRS if row else _OURS
        yield f'<rect x="{left}" y="{y + 3}" width="{width:.1f}" height="18" fill="{color}"/>'
        ratio = f"{run.ratio:.2f} x" if not run.readings.cores_full else "cores full"
        yield svg.text(left + width + 6, y + 16, f"{run.last_s:.1f} s ({ratio})")
    bottom = top + len(runs) * BAR_HEIGHT
    yield svg.line(x(bound_s), top, x(bound_s), bottom, _BOUND, dash="4 3")
    yield svg.text(x(bound_s), bottom + 16, f"bound {bound_s:.1f} s", anchor="middle")


def _ticks(end_s: float) -> Iterator[float]:
    step = 10 ** math.floor(math.log10(end_s))
    while end_s / step < 4:
        step /= 2
    yield from (i * step for i in range(int(end_s / step) + 1))
