"""How long an operator waits in a mesh of fifty: `oci-mesh status` and `oci-mesh explain`.

    python -m benchmarks.operator [--nodes 50] [--rounds 7] [--quick] [--json FILE]

Real nodes, a process each, on loopback, with certificates, and idle: they gossip, and nothing else.
One small image is pushed, with a copy on two more nodes. What is measured is the command from its
start to its end, Python's start with it, on the node that joined last. Each command has warmed up
once. CPU is what all nodes used while nobody asked them anything.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks import machine, procfs, report
from benchmarks.report import Row
from tests.e2e import command
from tests.e2e.daemon import ENVIRONMENT, Daemon, oci_mesh, push
from tests.images import build_docker_archive

IMAGE: Final = "app:v1"

# What every call is to take at most; `status` waits at most 0.7 s for the slowest node.
MOST_S: Final = 1.0

# Nodes started at a time: each takes half a second of a core.
STARTS: Final = 4

# The mesh is whole, and quiet again after all have joined.
WHOLE_S: Final = 300.0

QUICK_NODES: Final = 6
QUICK_ROUNDS: Final = 3


def main() -> None:
    """Measure and report; exit code 1 if a bound is not met."""
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="oci-mesh-operator-") as scratch, ExitStack() as stack:
        directory = Path(scratch)
        described = machine.describe(directory)
        daemons = stack.enter_context(_mesh(directory, options.nodes))
        build_docker_archive(directory / "app.tar", IMAGE, {"file": os.urandom(100_000)})
        push(directory / "app.tar", f"{daemons[0].registry}/{IMAGE}")
        _await_whole(daemons)
        rows = _measure(daemons, options.rounds, options.idle)
    described["nodes"] = f"{options.nodes}, a process each, idle, with certificates"
    print("\n".join(f"{name:8} {text}" for name, text in described.items()), end="\n\n")
    print(report.show(rows, ("oci-mesh", "")))
    if options.json:
        report.save(options.json, described, rows)
    if not all(row.met for row in rows):
        sys.exit(1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7, help="times each command is called")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of idling, for the CPU")
    parser.add_argument("--quick", action="store_true", help="a few nodes, for a look")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.quick:
        options.nodes, options.rounds, options.idle = QUICK_NODES, QUICK_ROUNDS, 3.0
    return options


@contextmanager
def _mesh(directory: Path, count: int) -> Iterator[list[Daemon]]:
    """So many nodes that know each other; stopped at the end."""
    authority = directory / "ca"
    oci_mesh("ca", "init", authority)
    first = Daemon(directory / "node-1", "--name", "node-1", "--ca", str(authority))
    daemons = [first]
    try:
        first.start()
        token = oci_mesh("token", "create", "--ca", authority).strip()
        for number in range(2, count + 1):
            name = f"node-{number}"
            options = ["--name", name, "--token", token, "--join", first.mesh]
            daemons.append(Daemon(directory / name, *options))
        for start in range(1, count, STARTS):
            batch = daemons[start : start + STARTS]
            for daemon in batch:
                daemon.launch()
            for daemon in batch:
                daemon.await_ready()
        yield daemons
    finally:
        for daemon in daemons:
            daemon.kill()


def _await_whole(daemons: list[Daemon]) -> None:
    """Until each sees all others."""
    for daemon in daemons:
        command.eventually(
            f"{daemon.root.name} sees all others",
            lambda daemon=daemon: daemon.members() == len(daemons),  # type: ignore[misc]
            timeout=WHOLE_S,
        )


def _measure(daemons: list[Daemon], rounds: int, idle_s: float) -> list[Row]:
    used_s = sum(procfs.cpu_s(daemon.pid) for daemon in daemons)
    time.sleep(idle_s)
    busy = (sum(procfs.cpu_s(daemon.pid) for daemon in daemons) - used_s) / idle_s
    rss = sum(procfs.status_bytes(daemon.pid, "VmRSS") for daemon in daemons) / len(daemons)
    root, last = daemons[-1].root, f"{daemons[-1].registry}/{IMAGE}"
    calls: dict[str, tuple[str | Path, ...]] = {
        "status": ("status", "--root", root),
        "status --json": ("status", "--json", "--root", root),
        "explain": ("explain", last, "--root", root),
        "--version": ("--version",),
    }
    rows, answered, failed = [], [float(len(daemons))], 0
    for name, words in calls.items():
        took = []
        for number in range(rounds + 1):
            start = time.monotonic()
            done = command.run(*_argv(*words), env=ENVIRONMENT, check=False)
            if number:  # the first one warms up
                took.append(time.monotonic() - start)
            failed += done.returncode != 0
            if number and "--json" in words:
                answered.append(_answered(done.stdout))
        rows.append(Row(f"{name}, median", "s", MOST_S, took, at_most=True))
        rows.append(Row(f"{name}, slowest", "s", MOST_S, [max(took)], at_most=True))
    cores = len(os.sched_getaffinity(0))
    rows.append(Row("calls that failed", "calls", 0, [failed], at_most=True))
    rows.append(Row("fewest that answered", "nodes", len(daemons), [min(answered)]))
    rows.append(Row("all nodes, idle", "CPUs", cores / 2, [busy], at_most=True))
    rows.append(Row("a node, idle", "MiB", 128, [rss / 1024**2], at_most=True))
    return rows


def _answered(status: bytes) -> int:
    nodes = json.loads(status)["nodes"]
    return sum(node["state"] in ("this", "answered") for node in nodes)


def _argv(*words: str | Path) -> tuple[str | Path, ...]:
    return sys.executable, "-c", "from oci_mesh.cli import main; main()", *words


if __name__ == "__main__":
    main()
