"""Two registries measured in turns, so that what else the machine does hits both alike."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import Contender, Server, running
from benchmarks.report import Row


class Sample(NamedTuple):
    """One turn: how much per second, and the server's CPU seconds for each of it."""

    rate: float
    cpu_s: float


def timed(server: Server, work: Callable[[], float]) -> Sample:
    """Do the work, which returns how much of something it moved through the server."""
    cpu_s, started_s = server.cpu_s(), time.perf_counter()
    amount = work()
    elapsed_s = time.perf_counter() - started_s
    return Sample(amount / elapsed_s, (server.cpu_s() - cpu_s) / amount)


class Turns:
    """`rounds` of A B A B …, in new directories under `directory`, removed as soon as possible."""

    def __init__(self, directory: Path, rounds: int, ours: Contender, theirs: Contender) -> None:
        self.directory = directory
        self._rounds = rounds
        self._contenders = (ours, theirs)

    @contextmanager
    def running(self, *contenders: Contender) -> Iterator[list[Server]]:
        """Each on a new directory, until the block ends; by default ours and theirs."""
        with tempfile.TemporaryDirectory(dir=self.directory) as name, ExitStack() as stack:
            yield [
                stack.enter_context(running(contender, Path(name, contender.name)))
                for contender in contenders or self._contenders
            ]

    def alternate(
        self, servers: Sequence[Server], measure: Callable[[Server], Sample]
    ) -> list[list[Sample]]:
        """For each server that runs, a sample per round."""
        rounds = [[measure(server) for server in servers] for _ in range(self._rounds)]
        return [list(samples) for samples in zip(*rounds, strict=True)]

    def fresh(self, measure: Callable[[Server], Sample]) -> list[list[Sample]]:
        """Likewise for ours and theirs, started anew for each sample, no writes outstanding."""
        rounds = [
            [self._alone(contender, measure) for contender in self._contenders]
            for _ in range(self._rounds)
        ]
        return [list(samples) for samples in zip(*rounds, strict=True)]

    def bare(self, work: Callable[[Path], float]) -> list[float]:
        """How much per second `work` does, in a new directory each round."""
        rates = []
        for _ in range(self._rounds):
            with tempfile.TemporaryDirectory(dir=self.directory) as name:
                os.sync()
                started_s = time.perf_counter()
                amount = work(Path(name))
                rates.append(amount / (time.perf_counter() - started_s))
        return rates

    def _alone(self, contender: Contender, measure: Callable[[Server], Sample]) -> Sample:
        with self.running(contender) as [server]:
            os.sync()
            return measure(server)


def rates(
    samples: list[list[Sample]], case: str, unit: str, need: float, bare: Sequence[float]
) -> Row:
    """The row of what was done per second."""
    ours, theirs = ([sample.rate for sample in each] for each in samples)
    return Row(case, unit, need, ours, theirs, bare)


def cpu(samples: list[list[Sample]], case: str, unit: str, need: float) -> Row:
    """The row of CPU seconds."""
    ours, theirs = ([sample.cpu_s for sample in each] for each in samples)
    return Row(case, unit, need, ours, theirs, at_most=True)
