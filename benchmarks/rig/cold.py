"""An image that only an upstream has, pulled by all nodes at once: with our mirror, and without.

The upstream is Debian's docker-registry, with TLS, on the source's machine. Each node has a real
containerd (or the nearly free client) that asks its own peer first, if there is one, and then the
upstream. A private upstream wants a secret for everything, and only the containerds have it.

 public, private  all nodes at once
 alone            one node and nobody else, in turns with a pull that has no mirror
 warm             one node that has the image: the time of a manifest (hop.py)
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from benchmarks.rig import hop, mesh
from benchmarks.rig.image import HOST, REPOSITORY, TAG
from benchmarks.rig.mesh import REGISTRY, Node
from benchmarks.rig.race import Course, race
from benchmarks.rig.readers import AREA, fetch
from benchmarks.rig.run import Run
from benchmarks.rig.runners import Runner, gated
from benchmarks.rig.topology import Machine
from tests.e2e.containerd import Containerd
from tests.e2e.mirror import settings
from tests.e2e.upstream import PASSWORD, USER, Request, Upstream, direct

KINDS: Final = ("public", "private", "alone", "warm")
TURNS: Final = 3  # of a lone node, with us and without

# What is asked of a run with our mirror.
MAX_RATIO: Final = 1.15  # the last node's time to T*
MAX_COPIES: Final = 1.05  # images that leave a public upstream
LEADERS: Final = 1  # of a private layer: nodes whose own clients fetch it upstream
MAX_PRIVATE_COPIES: Final = LEADERS + 0.10
MAX_ALONE: Final = 1.05  # a lone node's time to that of a pull without us
MAX_HOP_MS: Final = 2.0  # of a manifest, at the 99th percentile


@dataclass
class Comparison:
    """Runs, what they say about what was asked for, and what else was measured."""

    runs: list[Run]
    said: list[str]
    more: dict[str, Any] = field(default_factory=dict)


def compare(kind: str, course: Course, *, tls: bool) -> Comparison:
    """With our mirror and without, in the same command."""
    if kind == "warm":
        return warm(replace(course, links=course.links[:2]), tls=tls)
    private, turns = kind == "private", 1
    if kind == "alone":
        course, turns = replace(course, links=course.links[:2]), TURNS
    pairs = [
        [run(course, private=private, mirrored=mirrored, tls=tls) for mirrored in (True, False)]
        for _ in range(turns)
    ]
    ours, theirs = ([pair[place] for pair in pairs] for place in (0, 1))
    said = verdict_alone(ours, theirs) if kind == "alone" else verdict(ours[0], theirs[0])
    return Comparison([*ours, *theirs], said)


def run(course: Course, *, private: bool, mirrored: bool, tls: bool) -> Run:
    """One cold pull by all nodes of the course."""
    with course.machines() as machines, ExitStack() as stack:
        source, *pulling = machines
        upstream = stack.enter_context(upstream_on(source, course, private=private))
        nodes: list[Node] = []
        if mirrored:
            nodes = stack.enter_context(mirrors(pulling, upstream, tls=tls))
        pulls = stack.enter_context(runners(course, pulling, upstream, mirrored=mirrored))
        finish = race(course, machines, pulls)
        costs = [(0.0, 0), *(node.costs() for node in nodes)]
        return Run(
            name="oci-mesh" if mirrored else "direct",
            scenario="alone" if course.nodes == 1 else f"cold {_kind(private)}",
            client=course.client,
            size=course.image.size,
            bound_s=course.bound_s,
            outcomes=finish.outcomes,
            readings=finish.readings,
            busy_before=finish.busy_before,
            numbers=range(1, course.nodes + 1),
            tls=tls if mirrored else None,
            cpu_s=[cpu_s for cpu_s, _ in costs],
            peak_rss_bytes=[peak for _, peak in costs],
            more=asked(upstream.requests(), course, pulling),
        )


@contextmanager
def upstream_on(source: Machine, course: Course, *, private: bool) -> Iterator[Upstream]:
    """The upstream, with the image."""
    directory = source.directory / "upstream"
    with Upstream(directory, source.namespace, host=HOST, private=private) as upstream:
        upstream.push(course.image.layout, REPOSITORY, TAG)
        yield upstream


@contextmanager
def mirrors(machines: Sequence[Machine], upstream: Upstream, *, tls: bool) -> Iterator[list[Node]]:
    """A peer on each machine that mirrors the upstream, and knows where its containerd is."""
    configs = [
        settings(machine.directory / "node.toml", upstream, machine.directory / "containerd")
        for machine in machines
    ]
    with mesh.running(machines, tls=tls, configs=configs) as nodes:
        yield nodes


@contextmanager
def runners(
    course: Course, machines: Sequence[Machine], upstream: Upstream, *, mirrored: bool
) -> Iterator[list[Runner]]:
    """A runner on each machine that pulls, by way of the peer there if it is `mirrored`."""
    if course.client == "peer":
        where = [REGISTRY, "--ns", HOST] if mirrored else [HOST, "--ca", str(upstream.ca)]
        address, *more = where
        words = (address, REPOSITORY, TAG, *more)
        yield [Runner(machine, "benchmarks.rig.client", *words) for machine in machines]
        return
    secret = ["--user", f"{USER}:{PASSWORD}"] if upstream.private else []
    with ExitStack() as stack:
        found = []
        for machine in machines:
            containerd = Containerd(
                machine.directory / "containerd",
                machine.namespace,
                host=HOST,
                peer=f"http://{REGISTRY}" if mirrored else None,
                upstream=upstream,
                programs=course.programs,
                area=AREA,
            )
            stack.enter_context(containerd)
            found.append(gated(machine, fetch(containerd, *secret)))
        yield found


def asked(
    requests: Sequence[Request], course: Course, machines: Sequence[Machine]
) -> dict[str, object]:
    """What the upstream says: who asked it for what, and how many nodes read each layer there."""
    size = course.image.size
    by_address = direct(requests)
    shares = {m.name: round(by_address.get(m.address, 0) / size, 4) for m in machines}
    readers: dict[str, set[str]] = {}
    for request in requests:
        if request.has_layer:
            readers.setdefault(request.path.rpartition("/")[2], set()).add(request.client)
    kinds = Counter(f"{r.agent.partition('/')[0]} {r.method} {r.status}" for r in requests)
    return {
        "readers_of_blobs": sorted(map(len, readers.values())),
        "blob_copies": round(sum(by_address.values()) / size, 4),
        "blob_share_by_node": shares,
        "upstream_requests": dict(sorted(kinds.items())),
    }


def verdict(ours: Run, theirs: Run) -> list[str]:
    """Whether it is as it should be, in words; nothing if a pull failed."""
    if ours.problems or theirs.problems:
        return []
    most = MAX_PRIVATE_COPIES if ours.scenario.endswith("private") else MAX_COPIES
    copies = _line("images that left the upstream", ours.source_copies, most)
    last = _line("last node / T*", ours.ratio, MAX_RATIO, full=ours.readings.cores_full)
    payload = ours.more.get("blob_copies", math.nan)
    return [
        f"{copies} (by the registry's log, so without headers, {payload:.3f}); "
        f"without the mirror {theirs.source_copies:.2f}",
        f"{last}; without the mirror {theirs.ratio:.2f}",
    ]


def verdict_alone(ours: Sequence[Run], theirs: Sequence[Run]) -> list[str]:
    """Likewise, for a lone node: the median of the turns."""
    if any(run.problems for run in (*ours, *theirs)):
        return []
    ratios = sorted(a.last_s / b.last_s for a, b in zip(ours, theirs, strict=True))
    full = any(run.readings.cores_full for run in (*ours, *theirs))
    middle = _line("lone node / direct pull", ratios[len(ratios) // 2], MAX_ALONE, full=full)
    return [f"{middle} ({ratios[0]:.3f}..{ratios[-1]:.3f})"]


def warm(course: Course, *, tls: bool) -> Comparison:
    """What a manifest takes that the peer has."""
    with course.machines() as machines, ExitStack() as stack:
        source, node = machines
        upstream = stack.enter_context(upstream_on(source, course, private=False))
        stack.enter_context(mirrors([node], upstream, tls=tls))
        words = (REGISTRY, HOST, str(upstream.ca), REPOSITORY, TAG)
        finish = race(course, machines, [Runner(node, hop.__name__, *words)])
    [outcome] = finish.outcomes
    if outcome.problem:
        return Comparison([], [f"failed: {outcome.problem}"])
    latency_ms = outcome.facts["latency_ms"]
    full = finish.readings.cores_full
    said = [
        f"{_line(f'manifest by {what}, ms', each['mirror']['p99'], MAX_HOP_MS, full=full)}; {each}"
        for what, each in latency_ms.items()
    ]
    return Comparison([], said, {"latency_ms": latency_ms})


def _line(what: str, value: float, most: float, *, full: bool = False) -> str:
    met = "the cores were full: no result" if full else "yes" if value <= most else "NO"
    return f"{what}: {value:.3f}, at most {most:.2f}: {met}"


def _kind(private: bool) -> str:
    return "private" if private else "public"
