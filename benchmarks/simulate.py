"""Thousands of nodes fetch the same blobs, in virtual time, with the shipped scheduler.

    python -m benchmarks.simulate --nodes 1000 --blob 1GiB --json FILE --plot FILE

The same arguments give the same bytes. What the network's model leaves out: `simulator/network.py`.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from benchmarks.simulator import bittorrent, outcome, plot
from benchmarks.simulator.bittorrent import BitTorrent
from benchmarks.simulator.central import Registry, Scp
from benchmarks.simulator.mesh import Mesh
from benchmarks.simulator.outcome import Outcome, World
from benchmarks.simulator.scenario import (
    LEADER,
    STRIPED,
    Cast,
    Scenario,
    cast,
    parse_rate,
    parse_size,
    parse_time,
)

MESH: Final = "mesh"
COLD: Final = (STRIPED, LEADER)
AGAINST: Final = ("registry", "scp", "bittorrent")

# What CI runs: all schemes and most faults, in seconds.
QUICK: Final = (
    *("--nodes", "12", "--blob", "24MB,8MB", "--slow", "0.1", "--liars", "0.1", "--kill", "0.1"),
    *("--stale-views", "0.2", "--against", ",".join(AGAINST)),
)


class Scheme(Protocol):
    """A way to bring bytes to nodes."""

    def start(self) -> None:
        """Set the first events."""


def simulate(scheme: str, chosen: Cast) -> Outcome:
    """One run. Raises KeyError for an unknown scheme."""
    makers: dict[str, Callable[[World], Scheme]] = {
        MESH: Mesh,
        "registry": Registry,
        "scp": Scp,
        "bittorrent": BitTorrent,
    }
    world = World(chosen)
    makers[scheme](world).start()
    gc.disable()  # it would look through millions of objects, and find no ring
    try:
        world.run()
    finally:
        gc.enable()
    return outcome.outcome(scheme, world)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line says."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--quick" in given:
        given = [*QUICK, *given]  # what is said besides wins
    options = _parser().parse_args(given)
    try:
        chosen = cast(_scenario(options))
        schemes = _schemes(options.against, options.nodes)
    except ValueError as error:
        sys.exit(f"simulate: {error}")
    outcomes = []
    for scheme in schemes:
        began = time.perf_counter()
        outcomes.append(simulate(scheme, chosen))
        took = time.perf_counter() - began
        print(f"{scheme}: simulated in {took:,.1f} s", file=sys.stderr)
    print(f"{_title(chosen.scenario)}\n\n{outcome.table(outcomes)}")
    if options.json:
        document = outcome.report(chosen.scenario, outcomes)
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.plot:
        plot.draw(options.plot, _title(chosen.scenario), outcomes)


def _schemes(against: str, nodes: int) -> list[str]:
    """The mesh first, then those named. Raises ValueError."""
    named = [name for name in against.split(",") if name]
    for name in named:
        if name not in AGAINST:
            raise ValueError(f"--against {name}: one of {', '.join(AGAINST)}")
    if "bittorrent" in named and nodes > bittorrent.MAX_NODES:
        print(f"bittorrent: left out above {bittorrent.MAX_NODES:,} nodes (it takes hours)")
        named.remove("bittorrent")
    return [MESH, *named]


def _scenario(options: argparse.Namespace) -> Scenario:
    if options.cold and (options.liars or options.kill_source):
        wrong = "--liars (only the whole shows a lie), nor with --kill-source (an origin lives)"
        raise ValueError(f"--cold {options.cold}: not with {wrong}")
    return Scenario(
        nodes=options.nodes,
        blobs=tuple(parse_size(size) for size in options.blob.split(",")),
        at_once=options.at_once,
        rate=parse_rate(options.rate),
        source_rate=parse_rate(options.source_rate or options.origin_rate or "0bit"),
        latency=parse_time(options.latency),
        zones=options.zones,
        zone_latency=parse_time(options.zone_latency),
        slow=options.slow,
        slow_rate=options.slow_rate,
        liars=options.liars,
        kill=options.kill,
        kill_at=options.kill_at,
        kill_source=options.kill_source,
        silent=options.silent,
        lose=options.lose,
        spread=parse_time(options.spread),
        late=options.late,
        stale=options.stale_views,
        cold=options.cold or "",
        origin_latency=parse_time(options.origin_latency),
        cut_off=options.cut_off,
        refuse=options.refuse,
        seed=options.seed,
    )


def _title(scenario: Scenario) -> str:
    shown = [
        f"{scenario.nodes:,} nodes",
        f"{scenario.size / 1e6:,.0f} MB in {len(scenario.blobs)} blobs",
        f"{scenario.rate * 8 / 1e6:g} Mbit/s",
    ]
    usual = Scenario(nodes=1, blobs=(1,))
    for name, label in (
        ("zones", "zones"),
        ("slow", "slow"),
        ("liars", "liars"),
        ("kill", "killed"),
        ("lose", "lost"),
        ("stale", "with stale views"),
        ("cut_off", "cut off from the origin"),
        ("refuse", "refused by the origin"),
        ("spread", "s of joining"),
        ("late", "late"),
    ):
        value = getattr(scenario, name)
        if value != getattr(usual, name):
            shares = name in ("slow", "liars", "kill", "lose", "stale", "cut_off", "refuse")
            shown.append(f"{value:.3g} {label}" if not shares else f"{value:.1%} {label}")
    if scenario.cold:
        shown.insert(1, f"cold ({scenario.cold})")
    return ", ".join([*shown, f"seed {scenario.seed}"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulate", description=__doc__.partition("\n")[0]
    )
    add = parser.add_argument
    add("--nodes", type=int, default=1000, help="N, besides the source (%(default)s)")
    add("--blob", default="1GiB", metavar="SIZE[,SIZE…]", help="layers (%(default)s)")
    add("--at-once", type=int, default=3, help="blobs that a node fetches at a time (3)")
    add("--rate", default="100mbit", help="of each link, each way (%(default)s)")
    add("--source-rate", help="of the source's link, if other")
    add("--cold", nargs="?", const=STRIPED, choices=COLD, help="no node has it, but an origin")
    add("--origin-rate", help="of its link, if other (the same as --source-rate)")
    add("--origin-latency", default="50ms", help="of each request to it (%(default)s)")
    add("--cut-off", type=float, default=0.0, metavar="SHARE", help="of nodes that cannot reach it")
    add("--refuse", type=float, default=0.0, metavar="SHARE", help="of requests that it refuses")
    add("--latency", default="0.1ms", help="one way (%(default)s)")
    add("--zones", type=int, default=1, help="nodes are in so many zones, in turn")
    add("--zone-latency", default="2ms", help="one way, between zones (%(default)s)")
    add("--slow", type=float, default=0.0, metavar="SHARE", help="of nodes with slow uplinks")
    add("--slow-rate", type=float, default=0.1, help="what these have of an uplink (0.1)")
    add("--liars", type=float, default=0.0, metavar="SHARE", help="of nodes that send false bytes")
    add("--kill", type=float, default=0.0, metavar="SHARE", help="of nodes that die")
    add("--kill-at", type=float, default=0.5, help="when, as a share of T* (0.5)")
    add("--kill-source", action="store_true", help="then the source, too, once others have all")
    add("--silent", action="store_true", help="the dead send no reset, as without power")
    add(
        "--lose",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of requests or answers that vanish",
    )
    add("--spread", default="0s", help="nodes start within this time, evenly")
    add("--late", type=int, default=0, help="so many nodes start when all others are done")
    add("--stale-views", type=float, default=0.0, metavar="SHARE", help="that hear news late")
    add("--against", default="", help=f"a list of {', '.join(AGAINST)}")
    add("--seed", type=int, default=1)
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--plot", type=Path, metavar="FILE", help="draw the runs (SVG)")
    add("--quick", action="store_true", help="a few nodes, all schemes, most faults: seconds")
    return parser


if __name__ == "__main__":
    main()
