"""A picture of the runs: what each node had over time, and who was done when. Plain SVG."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import svg
from benchmarks.rig.run import Run

WIDTH: Final = 880
MARGIN: Final = 60
CURVES_HEIGHT: Final = 280
BAR_HEIGHT: Final = 26
NAMES_WIDTH: Final = 160

_OURS: Final = "#0b6e4f"
_THEIRS: Final = "#8a94a0"
_BOUND: Final = "#c1440e"


def save(path: Path, title: str, runs: Sequence[Run]) -> None:
    """Write the picture."""
    bars_top = MARGIN + CURVES_HEIGHT + MARGIN
    height = bars_top + BAR_HEIGHT * len(runs) + MARGIN
    marks = [svg.text(MARGIN, 24, title, bold=True), *_curves(runs[0]), *_bars(runs, bars_top)]
    svg.save(path, WIDTH, height, marks)


def _curves(run: Run) -> Iterator[str]:
    """What each node has received over time, and a line at the bound."""
    left, right, top, bottom = MARGIN, WIDTH - MARGIN, MARGIN, MARGIN + CURVES_HEIGHT
    start_s = min((outcome.start_s for outcome in run.outcomes), default=0.0)
    times = [at_s - start_s for at_s in run.readings.sample_s]
    end_s = max([run.bound_s, *times]) * 1.02

    def x(at_s: float) -> float:
        return left + (right - left) * max(0.0, at_s) / end_s

    def y(received: float) -> float:
        return bottom - (bottom - top) * min(received / run.size, 1.05) / 1.05

    yield svg.text(left, top - 14, f"{run.name}: the image on each node, by bytes on its link")
    yield svg.line(left, bottom, right, bottom, svg.INK)
    for tick in _ticks(end_s):
        yield svg.line(x(tick), bottom, x(tick), bottom + 4, svg.INK)
        yield svg.text(x(tick), bottom + 18, f"{tick:g} s", anchor="middle")
    yield svg.line(left, y(run.size), right, y(run.size), "#ddd")
    yield svg.text(left - 6, y(run.size) + 4, "all", anchor="end")
    yield svg.line(x(run.bound_s), top, x(run.bound_s), bottom, _BOUND, dash="4 3")
    yield svg.text(x(run.bound_s) - 4, top + 4, "bound", anchor="end")
    for number in run.numbers:
        points = " ".join(
            f"{x(at_s):.1f},{y(received[number]):.1f}"
            for at_s, received in zip(times, run.readings.progress, strict=True)
        )
        yield f'<polyline points="{points}" fill="none" stroke="{_OURS}" stroke-opacity=".6"/>'


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
