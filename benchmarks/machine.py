"""What a benchmark ran on, in a few words: numbers mean nothing without it."""

import os
import platform
from pathlib import Path
from typing import Final

GIB: Final = 1024**3


def describe(directory: Path) -> dict[str, str]:
    """Cores, memory, kernel, file system of `directory`, Python, and how busy the machine is."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} x {_cpu_model()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": _file_system(directory),
        "python": platform.python_version(),
        "load": f"{load} (1, 5, 15 minutes, before the run)",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """The mount that `directory` is on: the one with the longest matching path."""
    path = str(directory.resolve())
    mounts = [line.split()[:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    matching = [mount for mount in mounts if f"{path}/".startswith(mount[1].rstrip("/") + "/")]
    device, _, kind = max(matching, key=lambda mount: len(mount[1]))
    return f"{kind} on {device}"
