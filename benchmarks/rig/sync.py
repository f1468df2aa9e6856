"""An image from a `docker save` archive into every node's containerd: `oci-mesh sync`, and `scp`.

The archive is on the source, whose node is in the mesh as those of all others are. What is timed is
the one command, from its start to its end: packing, pushing, all transfers, all imports.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.rig import mesh
from benchmarks.rig.cold import Comparison
from benchmarks.rig.contestants import scp
from benchmarks.rig.image import NAME
from benchmarks.rig.race import Course, race
from benchmarks.rig.readers import containerd_on
from benchmarks.rig.run import Run
from benchmarks.rig.runners import gated
from benchmarks.rig.topology import Machine
from tests.e2e.containerd import Containerd
from tests.e2e.daemon import REPOSITORY

# What is asked for: our time to that of the script.
MAX_SHARE: Final = 1 / 6


def compare(course: Course, *, tls: bool, say: Callable[[str], None]) -> Comparison:
    """Ours and the script, in the same command."""
    ours = run(course, tls=tls)
    say(f"sync: {'failed' if ours.problems else f'{ours.last_s:.1f} s'}")
    theirs = scp(course)
    say(f"scp: {'failed' if theirs.problems else f'{theirs.last_s:.1f} s'}")
    if ours.problems or theirs.problems:
        return Comparison([ours, theirs], [])
    share = ours.last_s / theirs.last_s
    met = "yes" if share <= MAX_SHARE else "NO"
    said = f"sync / scp: {share:.3f} (1/{1 / share:.1f}), at most {MAX_SHARE:.3f}: {met}"
    return Comparison([ours, theirs], [said], {"sync_share": round(share, 4)})


def run(course: Course, *, tls: bool) -> Run:
    """`oci-mesh sync ARCHIVE NAME --import --nodes ...` on the source."""
    with course.machines() as machines, ExitStack() as stack:
        source, *others = machines
        containerds = [stack.enter_context(containerd_on(machine)) for machine in others]
        configs = [_settings(machine) for machine in machines]
        nodes = stack.enter_context(mesh.running(machines, tls=tls, configs=configs))
        finish = race(course, machines, [gated(source, _command(course, source, others))])
        [whole] = finish.outcomes
        if not whole.problem:
            _check(containerds)
        costs = [node.costs() for node in nodes]
        return Run(
            name="sync",
            scenario="archive",
            client="containerd",
            size=course.image.size,
            bound_s=course.bound_s,
            outcomes=[whole] * course.nodes,
            readings=finish.readings,
            busy_before=finish.busy_before,
            numbers=range(1, course.nodes + 1),
            tls=tls,
            cpu_s=[cpu_s for cpu_s, _ in costs],
            peak_rss_bytes=[peak for _, peak in costs],
        )


def _settings(machine: Machine) -> Path:
    """Of its node; the source's has no containerd."""
    path = machine.directory / "node.toml"
    socket = machine.directory / "containerd" / "c.sock"
    path.write_text(f'containerd-socket = "{socket}"\n' if machine.number else "")
    return path


def _command(course: Course, source: Machine, nodes: Sequence[Machine]) -> list[str | Path]:
    names = ",".join(node.name for node in nodes)
    words: list[str | Path] = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m"]
    words += ["oci_mesh.cli", "sync", course.image.archive, NAME, "--import", "--nodes", names]
    return [*words, "--root", source.directory / "node"]


def _check(containerds: Sequence[Containerd]) -> None:
    """Raise `AssertionError` unless each has the image, by its name."""
    for containerd in containerds:
        containerd.digest(NAME)
