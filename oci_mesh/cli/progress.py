"""How a transfer looks while it runs: bars on a terminal, a line per finished layer elsewhere.

All of it goes to standard error: standard output is for the result. The only home of rich.
"""

import sys
import time
from typing import Final, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import (
    Progress as Bars,
)

from oci_mesh.quantity import size_text as size_text
from oci_mesh.spec.digest import short

# Of names that are no digests: a node's is that of its machine mostly, with its domain.
_NAME_SHOWN: Final = 40


class Task(Protocol):
    """One blob, or another thing that takes time."""

    def phase(self, verb: str, total: int | None) -> None:
        """From now on this is being done, to so many bytes (None: nobody knows)."""
        ...

    def at(self, done: int) -> None:
        """So many bytes of the phase are done."""
        ...

    def done(self, outcome: str, name: str, size: int) -> None:
        """The end, and what it came to."""
        ...


class Progress(Protocol):
    """Where tasks are shown; used as a context."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(self, *error: object) -> None:
        """Leave the terminal as it was."""
        ...

    def task(self, name: str) -> Task:
        """A new task; `name` is a digest, or what else it is known by."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should know, in a line of its own."""
        ...


def make_progress() -> Progress:
    """For where standard error goes."""
    console = Console(stderr=True, highlight=False)
    return TerminalProgress(console) if console.is_terminal else LineProgress()


class LineProgress:
    """For pipes and logs: a line when a blob is done, with its whole digest."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        sys.stderr.flush()

    def task(self, name: str) -> Task:
        """As `Progress.task`."""
        return _Line(name)

    def note(self, text: str) -> None:
        """As `Progress.note`."""
        print(text, file=sys.stderr)


class _Line:
    def __init__(self, name: str) -> None:
        self._name = name
        self._started = time.monotonic()

    def phase(self, verb: str, total: int | None) -> None:
        pass

    def at(self, done: int) -> None:
        pass

    def done(self, outcome: str, name: str, size: int) -> None:
        took = time.monotonic() - self._started
        print(f"{outcome:<9} {name}  {size_text(size)}  {took:.1f} s", file=sys.stderr)


class TerminalProgress:
    """Bars with bytes, rate and remaining time; finished ones stay as lines above them."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.fields[verb]:<11} {task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def task(self, name: str) -> Task:
        """As `Progress.task`."""
        return _Bar(self._bars, self._bars.add_task(_short(name), verb="waiting", total=None))

    def note(self, text: str) -> None:
        """As `Progress.note`."""
        self._bars.console.print(text, markup=False)


class _Bar:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def phase(self, verb: str, total: int | None) -> None:
        self._bars.reset(self._task, total=total, verb=verb)

    def at(self, done: int) -> None:
        self._bars.update(self._task, completed=done)

    def done(self, outcome: str, name: str, size: int) -> None:
        self._bars.remove_task(self._task)
        line = f"{outcome:<11} {_short(name)}  {size_text(size)}"
        self._bars.console.print(line, markup=False)


def _short(name: str) -> str:
    return short(name) if name.startswith("sha256:") else name[:_NAME_SHOWN]
