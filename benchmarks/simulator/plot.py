"""A run as a picture: what share of all bytes the nodes had when. SVG, written by hand."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks import svg
from benchmarks.simulator.outcome import MAX_LINES, Outcome

_WIDTH: Final = 880
_HEIGHT: Final = 300  # of one run
_TITLE: Final = 24
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 42, 38
_FAINT: Final = "#d5dbe1"
_BAND: Final = "#1f77b4"
_BOUND: Final = "#c0392b"

_Scale = Callable[[float], float]


def draw(path: Path, title: str, outcomes: Sequence[Outcome]) -> None:
    """One panel for each run, below each other, with one axis of time each."""
    marks = [svg.text(_LEFT, 16, title, bold=True)]
    for row, run in enumerate(outcomes):
        marks.append(f'<g transform="translate(0 {_TITLE + row * _HEIGHT})">')
        marks += _panel(run)
        marks.append("</g>")
    svg.save(path, _WIDTH, _TITLE + _HEIGHT * len(outcomes), marks)


def _panel(run: Outcome) -> list[str]:
    end = max(run.samples[-1][0], run.bound) * 1.02
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(time: float) -> float:
        return _LEFT + time / end * (right - _LEFT)

    def y(share: float) -> float:
        return bottom - share * (bottom - _TOP)

    ratio = "never done" if run.ratio is None else f"{run.ratio:.2f} x the bound"
    parts = [
        svg.text(
            _LEFT,
            _TOP - 12,
            f"{run.scheme}: {ratio}; the source sends {run.source_copies:.2f} copies, "
            f"no node more than {max(run.uploads):.2f}",
        )
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(svg.line(_LEFT, y(share), right, y(share), _FAINT))
        parts.append(svg.text(_LEFT - 8, y(share) + 4, f"{share:.0%}", anchor="end"))
    for time in _ticks(end):
        parts.append(svg.line(x(time), bottom, x(time), bottom + 4, svg.INK))
        parts.append(svg.text(x(time), bottom + 18, f"{time:g} s", anchor="middle"))
    parts += _bands(run, x, y) if run.awaited > MAX_LINES else _lines(run, x, y)
    parts.append(svg.line(x(run.bound), _TOP, x(run.bound), bottom, _BOUND, dash="5 4"))
    parts.append(svg.text(x(run.bound) - 4, bottom - 6, "T*", anchor="end", color=_BOUND))
    return parts


def _lines(run: Outcome, x: _Scale, y: _Scale) -> list[str]:
    parts = []
    for i in range(run.awaited):
        points = " ".join(f"{x(t):.1f},{y(shares[i]):.1f}" for t, shares in run.samples)
        hue = 360 * i // run.awaited
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="hsl({hue} 60% 45%)" '
            'stroke-width="1.2" stroke-opacity="0.8"/>'
        )
    return parts


def _bands(run: Outcome, x: _Scale, y: _Scale) -> list[str]:
    """From the slowest to the fastest, the inner shares darker; the median as a line."""
    quantiles = len(run.samples[0][1])
    parts = []
    for i in range(quantiles // 2):
        low = [f"{x(t):.1f},{y(shares[i]):.1f}" for t, shares in run.samples]
        high = [f"{x(t):.1f},{y(shares[-1 - i]):.1f}" for t, shares in run.samples]
        points = " ".join([*low, *reversed(high)])
        parts.append(f'<polygon points="{points}" fill="{_BAND}" fill-opacity="0.25"/>')
    middle = " ".join(f"{x(t):.1f},{y(s[quantiles // 2]):.1f}" for t, s in run.samples)
    parts.append(f'<polyline points="{middle}" fill="none" stroke="{_BAND}" stroke-width="1.5"/>')
    return parts


def _ticks(end: float) -> list[float]:
    """Round times, ten at most."""
    digits = math.floor(math.log10(end)) - 1
    step = next(n * 10.0**digits for n in (1, 2, 5, 10, 20) if n * 10.0**digits * 10 >= end)
    return [round(i * step, 6) for i in range(int(end / step) + 1)]
