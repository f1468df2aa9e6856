"""What was measured, as rows: a table for people, JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Row:
    """One quantity, measured in turns: the lists are parallel, a pair per round.

    `need` bounds the ratio ours/theirs, or our own value where there is nothing to compare with;
    from above if `at_most`. `bare` is the same work with no registry around it.
    """

    case: str
    unit: str
    need: float
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    bare: Sequence[float] = ()
    at_most: bool = False

    @property
    def values(self) -> list[float]:
        """What `need` is about: the ratio of each pair, or our own values."""
        if not self.theirs:
            return list(self.ours)
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def met(self) -> bool:
        """Whether the median is as needed."""
        value = median(self.values)
        return value <= self.need if self.at_most else value >= self.need

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        values = self.values
        ratio = f"{median(values):.2f} ({min(values):.2f}..{max(values):.2f})"
        return (
            self.case,
            self.unit,
            _number(self.ours),
            _number(self.theirs),
            ratio if self.theirs else "",
            f"{'<=' if self.at_most else '>='} {self.need:g}",
            "yes" if self.met else "NO",
            _number(self.bare),
        )

    def document(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "case": self.case,
            "unit": self.unit,
            "ours": list(self.ours),
            "theirs": list(self.theirs),
            "bare": list(self.bare),
            "values": self.values,
            "need": self.need,
            "at_most": self.at_most,
            "met": self.met,
        }


def show(rows: Sequence[Row], names: tuple[str, str]) -> str:
    """The table. `names` are ours and theirs."""
    header = ("case", "unit", *names, "ratio (min..max)", "need", "met", "bare")
    table = [header, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


def save(path: Path, machine: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Write all that was measured."""
    document = {"machine": dict(machine), "rows": [row.document() for row in rows]}
    path.write_text(json.dumps(document, indent=2) + "\n")


def _number(values: Sequence[float]) -> str:
    if not values:
        return ""
    value = median(values)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
