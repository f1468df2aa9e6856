"""What a run cost: CPU of the whole machine, bytes over each link, and who else was at work.

A sample each 0.25 s of the links and each second of the CPU, by one thread. CPU time that the
hypervisor gave to others (steal) counts as not available: a second is full when busy and stolen
together are above 90 %.
"""

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from benchmarks import procfs
from benchmarks.rig.topology import Counters, Machine

SAMPLE_S: Final = 0.25
_SAMPLES_PER_CPU_SAMPLE: Final = 4

FULL_SECOND: Final = 0.90
FULL_MEAN: Final = 0.85
FULL_SECONDS_SHARE: Final = 0.20

QUIET_SHARE: Final = 0.20
QUIET_S: Final = 2.0

_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True)
class Cpu:
    """Seconds of all cores together, since the machine started."""

    at_s: float
    tasks: float
    interrupts: float
    stolen: float

    @classmethod
    def now(cls) -> Self:
        """As the kernel counts, in hundredths."""
        with open("/proc/stat") as file:
            ticks = [int(word) / procfs.TICKS_PER_S for word in file.readline().split()[1:9]]
        user, nice, system, _, _, irq, softirq, steal = ticks
        return cls(time.monotonic(), user + nice + system, irq + softirq, steal)

    def shares(self, since: "Cpu") -> tuple[float, float]:
        """Of all cores' time: busy, stolen."""
        whole = (self.at_s - since.at_s) * (os.cpu_count() or 1)
        busy = self.tasks + self.interrupts - since.tasks - since.interrupts
        return busy / whole, (self.stolen - since.stolen) / whole


@dataclass
class Readings:
    """What was measured between the start and the end of a run."""

    seconds: float = 0.0
    cpu_share: float = 0.0
    steal_share: float = 0.0
    foreign_cpu_share: float = 0.0
    seconds_over_90: int = 0
    cores_full: bool = False
    sent: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    sample_s: list[float] = field(default_factory=list)
    progress: list[list[int]] = field(default_factory=list)
    """For each sample what each machine had received so far, in bytes; `uploads`: had sent."""
    uploads: list[list[int]] = field(default_factory=list)


class Meter:
    """`with Meter(machines) as meter: …` measures the block; then there are `meter.readings`.

    Foreign is the CPU time of tasks that are no descendants of this process; the kernel's own work
    for them, in interrupts, cannot be told apart and is not in it.
    """

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.readings = Readings()
        self._machines = machines
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._seconds: list[float] = []

    def __enter__(self) -> Self:
        _adopt_orphans()
        self._first = [machine.counters() for machine in self._machines]
        self._own_s = _own_cpu_s()
        self._cpu = Cpu.now()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        last, own_s = Cpu.now(), _own_cpu_s() - self._own_s
        self._stop.set()
        self._thread.join()
        if kind is None:
            self._conclude(last, own_s)

    def _conclude(self, last: Cpu, own_s: float) -> None:
        readings = self.readings
        readings.seconds = last.at_s - self._cpu.at_s
        readings.cpu_share, readings.steal_share = last.shares(self._cpu)
        foreign_s = last.tasks - self._cpu.tasks - own_s
        readings.foreign_cpu_share = max(0.0, foreign_s / readings.seconds / (os.cpu_count() or 1))
        readings.seconds_over_90 = sum(share > FULL_SECOND for share in self._seconds)
        readings.cores_full = is_full(readings.cpu_share + readings.steal_share, self._seconds)
        ends = [machine.counters() for machine in self._machines]
        for first, end in zip(self._first, ends, strict=True):
            readings.sent.append(end.sent - first.sent)
            readings.received.append(end.received - first.received)

    def since_start(self, machine: Machine) -> Counters:
        """What went over a machine's link so far."""
        first, now = self._first[machine.number], machine.counters()
        return Counters(now.received - first.received, now.sent - first.sent)

    def _sample(self) -> None:
        with suppress(FileNotFoundError):  # a signal to the terminal's processes ends machines too
            self._sample_until_stopped()

    def _sample_until_stopped(self) -> None:
        cpu, count = self._cpu, 0
        while True:
            self.readings.sample_s.append(time.monotonic())
            counted = [self.since_start(machine) for machine in self._machines]
            self.readings.progress.append([counters.received for counters in counted])
            self.readings.uploads.append([counters.sent for counters in counted])
            if self._stop.wait(SAMPLE_S):
                return
            count += 1
            if count % _SAMPLES_PER_CPU_SAMPLE == 0:
                now = Cpu.now()
                self._seconds.append(sum(now.shares(cpu)))
                cpu = now


def is_full(mean: float, seconds: Sequence[float]) -> bool:
    """Whether the cores, and not the links, may have set the pace."""
    over = sum(share > FULL_SECOND for share in seconds)
    return mean > FULL_MEAN or over > FULL_SECONDS_SHARE * max(1, len(seconds))


def await_quiet(patience_s: float) -> float:
    """Wait until others leave the cores alone; how busy they were in the end, as a share."""
    deadline_s = time.monotonic() + patience_s
    while True:
        before = Cpu.now()
        time.sleep(QUIET_S)
        busy, _ = Cpu.now().shares(before)
        if busy < QUIET_SHARE or time.monotonic() > deadline_s:
            return busy


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no MemAvailable")


def _adopt_orphans() -> None:
    """Have processes whose parents end become ours, so that they are still known for ours."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _own_cpu_s() -> float:
    """Of this process, its descendants, and all those that they waited for."""
    total = 0.0
    for pid in procfs.tree(os.getpid()):
        with suppress(FileNotFoundError, ProcessLookupError):  # ended: its parent has its time
            total += procfs.cpu_s(pid)
    return total
