"""The whole fleet: one image to N nodes over shaped links, ours against what people do today.

    python -m benchmarks.fleet --nodes 8 --rate 100mbit --client peer \\
        --against scp,scp-parallel,registry,bittorrent --json FILE --plot FILE

Real nodes, one process each, in network namespaces of this machine; every link is shaped both ways
(benchmarks/rig/topology.py). Root, iproute2 and util-linux are needed; contestants need their own
tools and are left out, with a line, where these are missing (a failure if CI=true).

The Python counts too: one that was built without profile-guided optimisation, as pyenv builds it if
not told otherwise, takes a tenth more of the cores than a distribution's.

 --client peer: a nearly free client on each node reads all through its own node and verifies it;
 --client containerd: a real containerd on each node does `content fetch`. 4 to 6 CPU seconds for
   300 MB each: choose the rate so that two cores can carry N of them.

What happens to our nodes (--scenario); contestants always run together on even links:

  together  all start at once
  spread    starts over half of the bound; each node is judged by its own bound
  late      one more node starts when all others are done; only that one is measured
  slow      some uplinks (--slow-nodes) have a tenth of the rate
  kills     two nodes are killed at 0.3 and 0.6 of the bound, and the source as soon as all of the
            image is on those that live on
  liars     30 % of the nodes send flipped bits; the others' time counts
  small     one node reads blobs of 4 kB to 1 MB, one after the other

--cold KIND is another comparison: the image is on an upstream registry (docker-registry with TLS)
alone, and our peers mirror it; the same in the same command without them. Clients are containerds.

  public   all nodes pull at once
  private  the same; the upstream wants a secret that the containerds have, and our peers have not
  alone    one node, nothing cached, in turns with direct pulls
  warm     one node that has the image: how long a manifest takes

--sync is a third one: a `docker save` archive on the source goes into each containerd, by one
`oci-mesh sync --import`, and by the script that copies and imports it node by node.

All clients wait behind a gate and start at the same instant. Each contestant gets new machines with
empty directories in memory. A ratio in [brackets] comes from a run in which the cores were full: it
says something of this machine, nothing of the contestant.
"""

import argparse
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.rig import cold, plot, quantities, scenarios, sync, table
from benchmarks.rig.bounds import Link
from benchmarks.rig.contestants import CONTESTANTS, missing
from benchmarks.rig.image import EXPANSION, SHARES, built
from benchmarks.rig.race import Course
from benchmarks.rig.readers import CLIENTS
from benchmarks.rig.run import HOW, Run
from benchmarks.rig.topology import BURST_S, CONGESTION, MIN_BURST_BYTES, QUEUE
from tests.e2e import command

TOOLS: Final = ("ip", "tc", "unshare", "nsenter", "setpriv", "curl")
QUICK: Final = {"nodes": 3, "rate": "200mbit", "size": "20MB", "patience": 5.0}
COLD_TOOLS: Final = ("docker-registry", "containerd", "ctr")


def main() -> None:
    """Run the contestants and report."""
    options = _parse()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("stopped"))
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking or os.geteuid() != 0:
        sys.exit(f"needs root and {', '.join(lacking or TOOLS)}")
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="oci-mesh-fleet-") as scratch:
        course = _course(options, Path(scratch))
        if options.sync:
            found = _run_sync(options, course)
        elif options.cold:
            found = _run_cold(options, course)
        else:
            found = cold.Comparison(_run(options, course), [])
    if found.runs:
        print(table.show(found.runs))
    for line in found.said:
        print(line)
    if options.json:
        options.json.write_text(json.dumps(_document(options, found), indent=1) + "\n")
    if options.plot and found.runs:
        plot.save(options.plot, _title(options), found.runs)
    if any(run.problems for run in found.runs) or not (found.runs or found.more):
        sys.exit(1)


def _course(options: argparse.Namespace, scratch: Path) -> Course:
    _say(f"building an image of {options.size / 1e6:.0f} MB, if it is not there")
    image = built(options.cache or scratch, options.size)
    links = [Link(options.rate, options.rate)] * (options.nodes + 1)
    return Course(image, links, options.client, scratch, options.patience, options.containerd)


def _run_cold(options: argparse.Namespace, course: Course) -> cold.Comparison:
    lacking = [tool for tool in COLD_TOOLS if shutil.which(tool) is None]
    if lacking:
        sys.exit(f"--cold needs {', '.join(lacking)}")
    _say(f"cold {options.cold}: {course.nodes} nodes, bound {course.bound_s:.1f} s each")
    return cold.compare(options.cold, course, tls=options.tls)


def _run_sync(options: argparse.Namespace, course: Course) -> cold.Comparison:
    if lacking := missing("scp", course):
        sys.exit(f"--sync: {lacking}")
    _say(f"sync and scp: {course.nodes} nodes, bound of a transfer {course.bound_s:.1f} s")
    return sync.compare(course, tls=options.tls, say=_say)


def _run(options: argparse.Namespace, course: Course) -> list[Run]:
    try:
        plan = scenarios.plan(options.scenario, course, options.slow_nodes)
    except ValueError as error:
        sys.exit(str(error))
    todo: list[tuple[str, Callable[[], Run]]] = [
        ("oci-mesh", lambda: scenarios.run(plan, tls=options.tls))
    ]
    for name in options.against:
        lacking = missing(name, course)
        if lacking and os.environ.get("CI") == "true":
            sys.exit(f"{name}: {lacking}")
        if lacking:
            _say(f"{name}: left out: {lacking}")
            continue
        todo.append((name, functools.partial(CONTESTANTS[name], course)))
    runs = []
    for name, run in todo:
        _say(f"{name}: {options.nodes} nodes, bound {course.bound_s:.1f} s")
        runs.append(run())
        took = f"{runs[-1].last_s:.1f} s, {runs[-1].ratio:.2f} x the bound"
        _say(f"{name}: {'failed' if runs[-1].problems else took}")
    return runs


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help=f"for a first look: {QUICK}")
    parser.add_argument("--nodes", type=int, default=8, help="without the source")
    parser.add_argument(
        "--rate", type=_checked(quantities.rate), default="100mbit", help="of every link, each way"
    )
    parser.add_argument(
        "--size", type=_checked(quantities.size), default="300MB", help="of the image, compressed"
    )
    parser.add_argument(
        "--client", choices=CLIENTS, help=f"default: {CLIENTS[0]}; {CLIENTS[1]} for --cold"
    )
    parser.add_argument("--containerd", type=Path, help="directory with other programs of it")
    parser.add_argument("--against", type=_contestants, default=[], help=",".join(CONTESTANTS))
    parser.add_argument("--scenario", choices=scenarios.SCENARIOS, default=scenarios.SCENARIOS[0])
    parser.add_argument("--cold", choices=cold.KINDS, help="instead: the image is on an upstream")
    parser.add_argument("--sync", action="store_true", help="instead: an archive into containerds")
    parser.add_argument("--slow-nodes", type=int, default=2, help="in the scenario slow")
    parser.add_argument("--tls", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds to wait for a quiet machine"
    )
    parser.add_argument("--json", type=Path, help="write all that was measured")
    parser.add_argument("--plot", type=Path, help="draw it (SVG)")
    parser.add_argument("--cache", type=Path, help="directory that keeps the built image")
    parser.add_argument(
        "--directory", type=Path, default=Path("/dev/shm"), help="for all else; best in memory"
    )
    if "--quick" in sys.argv:
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    options.client = options.client or CLIENTS[bool(options.cold)]
    if options.cold == "private" and options.client != "containerd":
        parser.error("--cold private: only containerds have secrets")
    return options


def _checked(read: Callable[[str], int]) -> Callable[[str], int]:
    """Has argparse show what is wrong."""

    def checked(text: str) -> int:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _contestants(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = sorted(set(names) - CONTESTANTS.keys())
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return names


def _title(options: argparse.Namespace) -> str:
    return (
        f"{options.size / 1e6:.0f} MB to {options.nodes} nodes, links of "
        f"{options.rate / 1e6:g} Mbit/s, client {options.client}"
    )


def _document(options: argparse.Namespace, found: cold.Comparison) -> dict[str, Any]:
    """All that was measured, on what, and how."""
    return {
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(options).items()
        },
        "machine": machine.describe(options.directory),
        "versions": _versions(options),
        "image": {"layers": len(SHARES), "expansion": EXPANSION},
        "links": {
            "rate_bit_s": options.rate,
            "tbf_burst": f"{1000 * BURST_S:.0f} ms, at least {MIN_BURST_BYTES} bytes",
            "tbf_latency": QUEUE,
            "congestion_control": CONGESTION,
        },
        "how": HOW,
        "runs": [run.document() for run in found.runs],
        "said": found.said,
        **found.more,
    }


def _versions(options: argparse.Namespace) -> dict[str, str]:
    """Of what took part."""
    packages = ["oci_mesh", "aiohttp", *(["libtorrent"] * ("bittorrent" in options.against))]
    versions = {name: _package_version(name) for name in packages}
    asked = {}
    scripts = options.sync or {"scp", "scp-parallel"} & set(options.against)
    if options.client == "containerd" or scripts:
        asked["containerd"] = [str((options.containerd or Path()) / "containerd"), "--version"]
    if scripts:
        asked["ssh"] = ["ssh", "-V"]
    if options.cold or "registry" in options.against:
        asked["docker-registry"] = ["docker-registry", "--version"]
    for name, words in asked.items():
        if shutil.which(words[0]) is not None:
            done = command.run(*words, check=False)
            versions[name] = (done.stdout + done.stderr).decode().strip()
    return versions


def _package_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"  # ours then runs from its source tree


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
