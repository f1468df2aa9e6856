"""A race: machines, runners on them, a quiet moment, the start, the end."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.rig import bounds
from benchmarks.rig.bounds import Link
from benchmarks.rig.image import Image
from benchmarks.rig.meter import Meter, Readings, await_quiet
from benchmarks.rig.runners import Outcome, Runner, lined_up, start
from benchmarks.rig.topology import Machine, rig

PATIENCE: Final = 5.0  # scp ships 1.9 times the bytes, and then containerd unpacks them
PATIENCE_S: Final = 60.0


@dataclass(frozen=True)
class Course:
    """What all contestants of a command have in common: the image, the links, where files go."""

    image: Image
    links: Sequence[Link]
    """The source's first."""
    client: str
    """`peer` or `containerd`."""
    directory: Path
    patience_s: float
    """For a quiet machine, before each start."""
    programs: Path | None = None
    """Where another containerd than this machine's is."""

    @property
    def nodes(self) -> int:
        """Without the source."""
        return len(self.links) - 1

    @property
    def bound_s(self) -> float:
        """T*."""
        return bounds.everyone(self.image.size, self.links[0], self.links[1:])

    @property
    def deadline_s(self) -> float:
        """Seconds after which a run is given up: five times what all takes that one node sends to
        each of the others in turn, and a minute.
        """
        slowest = min(min(link.sends, link.receives) for link in self.links)
        return PATIENCE_S + PATIENCE * self.nodes * self.image.size / slowest

    @contextmanager
    def machines(self) -> Iterator[list[Machine]]:
        """New ones, with empty directories in memory: one disk would have to serve all nodes."""
        with (
            tempfile.TemporaryDirectory(dir=self.directory, prefix="run-") as name,
            rig(Path(name), self.links) as machines,
        ):
            yield machines


@dataclass(frozen=True)
class Finish:
    """How a race went."""

    outcomes: list[Outcome]
    readings: Readings
    busy_before: float


def race(
    course: Course,
    machines: Sequence[Machine],
    runners: Sequence[Runner],
    *,
    offsets_s: Sequence[float] = (),
    meanwhile: Callable[[Meter, float], None] = lambda _meter, _start_s: None,
    afterwards: Callable[[], None] = lambda: None,
) -> Finish:
    """Start all runners at once (or at their offsets), await the last. `meanwhile` is called with
    the start's time and may take until the end; `afterwards`, unmeasured, before they are killed.
    """
    with lined_up(runners):
        busy = await_quiet(course.patience_s)
        with Meter(machines) as meter:
            start_s = start(runners, offsets_s)
            meanwhile(meter, start_s)
            deadline_s = time.monotonic() + course.deadline_s
            outcomes = [runner.outcome(deadline_s) for runner in runners]
        afterwards()
    return Finish(outcomes, meter.readings, busy)
