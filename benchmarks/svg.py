"""The few marks that the pictures of the benchmarks are made of. SVG, written by hand."""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

INK: Final = "#333"


def save(path: Path, width: int, height: int, marks: Iterable[str]) -> None:
    """Write a picture on white."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        *marks,
        "</svg>",
    ]
    path.write_text("\n".join(parts) + "\n")


def text(
    x: float, y: float, words: str, *, anchor: str = "start", color: str = INK, bold: bool = False
) -> str:
    """Words that begin, are centred, or end at a point."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}"{weight}>'
        f"{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, color: str, *, dash: str = "") -> str:
    """A straight line."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{dashes}/>'
    )
