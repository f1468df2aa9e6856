"""The runners of a race, seen from who starts it: processes that wait behind a gate (gate.py)."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.rig.topology import Machine
from tests.e2e.daemon import ENVIRONMENT

READY_S: Final = 60.0  # a Python, and what it imports, on a machine where 16 start at once
HEADSTART_S: Final = 0.3  # between saying when it starts and the start, for all to hear of it
_SHOWN_LOG_CHARACTERS: Final = 600


@dataclass(frozen=True)
class Outcome:
    """How a runner fared. Times are of the monotonic clock."""

    start_s: float
    ends_s: list[float]
    problem: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From its start to the end of its last step."""
        return self.ends_s[-1] - self.start_s if self.ends_s else float("nan")


class Runner:
    """`python -m MODULE ARGUMENTS` on a machine, waiting for its start."""

    def __init__(self, machine: Machine, module: str, *arguments: str) -> None:
        """Must be called by a thread that lives as long as the runner: it dies with it."""
        self.machine = machine
        self._start_s = 0.0
        self._log = machine.directory / f"{module.rpartition('.')[2]}-{time.monotonic_ns()}.log"
        words = machine.namespace.enter(sys.executable, "-m", module, *arguments)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def await_ready(self) -> None:
        """Until it waits for the start. Raises `AssertionError` if it does not come to that."""
        said = self.line(time.monotonic() + READY_S)
        assert said == "ready", f"{self.machine.name} is not ready: {said!r}\n{self.log()}"

    def release(self, start_s: float) -> None:
        """Let it start at that time of the monotonic clock."""
        self._start_s = start_s
        self.tell(str(start_s))

    def tell(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def has_news(self) -> bool:
        """Whether it has said something that was not read, or has ended."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def line(self, deadline_s: float) -> str:
        """What it says next, at the latest at that time of the monotonic clock."""
        assert self._process.stdout is not None
        left_s = max(0.0, deadline_s - time.monotonic())
        if not select.select([self._process.stdout], [], [], left_s)[0]:
            return "nothing in time"
        return self._process.stdout.readline().decode().strip()

    def outcome(self, deadline_s: float) -> Outcome:
        """What it says when it is done. One that says nothing until then has a problem."""
        line = self.line(deadline_s)
        try:
            said = json.loads(line)
        except ValueError:
            return Outcome(self._start_s, [], f"said {line!r} in the end; log: {self.log()}")
        ends_s, problem = said.pop("ends_s"), said.pop("problem")
        return Outcome(self._start_s, ends_s, problem and f"{problem}; log: {self.log()}", said)

    def log(self) -> str:
        """The end of what it wrote to standard error."""
        return self._log.read_text(errors="replace")[-_SHOWN_LOG_CHARACTERS:]

    def close(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # of a line that it never took
                pipe.close()


@contextmanager
def lined_up(runners: Sequence[Runner]) -> Iterator[Sequence[Runner]]:
    """All of them ready, until the block ends; then killed."""
    with ExitStack() as stack:
        for runner in runners:
            stack.callback(runner.close)
        for runner in runners:
            runner.await_ready()
        yield runners


def start(runners: Sequence[Runner], offsets_s: Sequence[float] = ()) -> float:
    """Release them all, each at its offset from the common start, which is returned."""
    start_s = time.monotonic() + HEADSTART_S
    for runner, offset_s in zip(runners, offsets_s or [0.0] * len(runners), strict=True):
        runner.release(start_s + offset_s)
    return start_s


def gated(machine: Machine, *steps: Sequence[str | Path]) -> Runner:
    """A runner that runs commands, one after the other."""
    return Runner(
        machine, "benchmarks.rig.gate", json.dumps([list(map(str, step)) for step in steps])
    )
