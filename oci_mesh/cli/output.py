"""A verb's result on standard output: a document as JSON, or what people read.

Colours are `click.style`'s: `click.echo` leaves them out where no terminal is, and with NO_COLOR.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import click
import msgspec

# Between two columns of a table.
_GAP: Final = "  "

# As many names as are read in a line; beyond, how many.
NAMED: Final = 6


def json_text(document: msgspec.Struct) -> str:
    """One document, indented, without a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def show(document: msgspec.Struct, *, as_json: bool, text: str) -> None:
    """Print a verb's result: `document`, or `text`, which need not end in a newline. No text is no
    line.
    """
    if as_json or text:
        click.echo(json_text(document) if as_json else text.removesuffix("\n"))


def columns(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table as aligned text, without ruling; all rows are of one length. Cells may be styled."""
    table = [[click.style(name, bold=True) for name in header]] if header else []
    table += [list(row) for row in rows]
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    lines = (
        _GAP.join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        )
        for row in table
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def some(names: Sequence[str]) -> str:
    """`a, b and 3 more`: as many as are read in a line."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _width(cell: str) -> int:
    return len(click.unstyle(cell))
