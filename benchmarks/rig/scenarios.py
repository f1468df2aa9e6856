"""What happens to our own nodes while they pull, and what is counted then."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.rig import bounds, holdings, mesh, small
from benchmarks.rig.bounds import Link
from benchmarks.rig.image import REPOSITORY, TAG
from benchmarks.rig.mesh import REGISTRY, Node
from benchmarks.rig.meter import Meter
from benchmarks.rig.race import Course, Finish, race
from benchmarks.rig.readers import readers
from benchmarks.rig.run import Run
from benchmarks.rig.runners import Runner, lined_up, start
from benchmarks.rig.topology import Machine

SCENARIOS: Final = ("together", "spread", "late", "slow", "kills", "liars", "small")

SPREAD: Final = 0.5  # of T*: from the first start to the last
SLOWER: Final = 10  # times, a slow uplink
LIARS: Final = 0.3  # of the nodes, rounded

# When two nodes are killed, in parts of T*: all pieces are on their way, none is done.
KILLED_AT: Final = (0.3, 0.6)

# The survivors' disks are looked at from when this much has left the source, in images.
NEARLY_ALL_LEFT: Final = 0.95

_POLL_S: Final = 0.05


@dataclass(frozen=True)
class Plan:
    """A scenario on a course. Numbers are of nodes, from 1."""

    name: str
    course: Course
    pulled_before: Sequence[int] = ()
    pulling: Sequence[int] = ()
    offsets_s: Sequence[float] = ()
    own_bounds_s: Sequence[float] = ()
    bound_s: float = 0.0
    liars: Sequence[int] = ()
    killed: Sequence[int] = ()
    """Two nodes; the source is the third."""


def plan(name: str, course: Course, slow_nodes: int) -> Plan:
    """How a scenario goes. Raises `ValueError` if there are too few nodes for it."""
    numbers = range(1, course.nodes + 1)
    plain = Plan(name, course, pulling=numbers, bound_s=course.bound_s)
    if name == "together":
        return plain
    if name == "spread":
        return _spread(plain)
    if name == "late":
        return _late(plain)
    if name == "slow":
        return _slow(plain, slow_nodes)
    if name == "kills":
        if course.nodes < 3:
            raise ValueError("kills: three nodes are needed, since two and the source are killed")
        return replace(plain, killed=numbers[-2:])
    if name == "liars":
        count = max(1, round(LIARS * course.nodes))
        places = [(2 * i + 1) * course.nodes // (2 * count) for i in range(count)]
        return replace(plain, liars=[numbers[place] for place in places])
    if name == "small":
        return _small(plain)
    raise ValueError(f"no scenario {name!r}: {', '.join(SCENARIOS)}")


def _spread(plain: Plan) -> Plan:
    """Starts evenly over half of T*; each node is judged by its own bound."""
    course, count = plain.course, plain.course.nodes
    step_s = SPREAD * course.bound_s / max(1, count - 1)
    offsets_s = [i * step_s for i in range(count)]
    source, *nodes = course.links
    own = [
        bounds.one(course.image.size, source, node, offset_s)
        for node, offset_s in zip(nodes, offsets_s, strict=True)
    ]
    return replace(plain, offsets_s=offsets_s, own_bounds_s=own)


def _late(plain: Plan) -> Plan:
    """One more node, which starts when all others are done; only its pull is measured."""
    nodes = plain.course.links[1:]
    course = replace(plain.course, links=[*plain.course.links, nodes[-1]])
    bound_s = course.image.size / nodes[-1].receives
    before, last = range(1, len(nodes) + 1), len(nodes) + 1
    return replace(plain, course=course, pulled_before=before, pulling=[last], bound_s=bound_s)


def _slow(plain: Plan, count: int) -> Plan:
    """The last few nodes have a slow uplink."""
    if not 0 < count < plain.course.nodes:
        raise ValueError(f"slow: {count} of {plain.course.nodes} nodes")
    links = list(plain.course.links)
    links[-count:] = [Link(link.up // SLOWER, link.down) for link in links[-count:]]
    course = replace(plain.course, links=links)
    return replace(plain, course=course, bound_s=course.bound_s)


def _small(plain: Plan) -> Plan:
    """One node reads small blobs, one after the other; all of them in one image of their own."""
    course = replace(plain.course, image=small.build(plain.course.directory / "small"))
    course = replace(course, links=course.links[:2], client="peer")
    return replace(plain, course=course, pulling=[1], bound_s=course.bound_s)


def run(plan: Plan, *, tls: bool) -> Run:
    """Our own nodes through a scenario."""
    course = plan.course
    with course.machines() as machines, ExitStack() as stack:
        nodes = stack.enter_context(
            mesh.mesh(machines, course.image.layout, tls=tls, liars=plan.liars)
        )
        before = [machines[number] for number in plan.pulled_before]
        pulled = stack.enter_context(readers(course.client, before, REGISTRY))
        _pull_unmeasured(pulled, course)
        pulling = [machines[number] for number in plan.pulling]
        if plan.name == "small":
            runners = [_reader_of_small(machines[1], nodes[0])]
        else:
            runners = stack.enter_context(readers(course.client, pulling, REGISTRY))
        killer = _Killer(plan, nodes, runners)
        finish = race(
            course,
            machines,
            runners,
            offsets_s=plan.offsets_s,
            meanwhile=killer.go,
        )
        return _told(plan, nodes, finish, killer, tls=tls)


def _reader_of_small(machine: Machine, source: Node) -> Runner:
    return Runner(machine, small.__name__, REGISTRY, REPOSITORY, TAG, source.daemon.mesh_listen)


def _pull_unmeasured(runners: Sequence[Runner], course: Course) -> None:
    with lined_up(runners):
        start(runners)
        deadline_s = time.monotonic() + course.deadline_s
        problems = [runner.outcome(deadline_s).problem for runner in runners]
    assert not any(problems), problems


def _told(
    plan: Plan, nodes: Sequence[Node], finish: Finish, killer: "_Killer", *, tls: bool
) -> Run:
    """The run, of those nodes whose time counts: neither killed nor liars."""
    left_out = {*plan.killed, *plan.liars}
    counted = [i for i, number in enumerate(plan.pulling) if number not in left_out]
    outcomes = [finish.outcomes[i] for i in counted]
    costs = [node.costs() for node in nodes]
    more: dict[str, object] = {"retries": [outcome.facts.get("retries", 0) for outcome in outcomes]}
    if plan.name == "small":
        more |= {key: outcomes[0].facts.get(key) for key in ("rtt_ms", "latency_ms")}
    if plan.killed:
        more["killed"] = killer.deaths
    if plan.liars:
        honest = [nodes[0], *(nodes[plan.pulling[i]] for i in counted)]
        more |= _verdicts(honest, [nodes[number].machine.name for number in plan.liars])
    return Run(
        name="oci-mesh",
        scenario=plan.name,
        client=plan.course.client,
        size=plan.course.image.size,
        bound_s=plan.bound_s,
        outcomes=outcomes,
        readings=finish.readings,
        busy_before=finish.busy_before,
        numbers=[plan.pulling[i] for i in counted],
        own_bounds_s=[plan.own_bounds_s[i] for i in counted] if plan.own_bounds_s else (),
        tls=tls,
        cpu_s=[cpu_s for cpu_s, _ in costs],
        peak_rss_bytes=[peak for _, peak in costs],
        more=more,
    )


def _verdicts(honest: Sequence[Node], liars: Sequence[str]) -> dict[str, object]:
    """Which honest nodes named which liar, and who was named that is none."""
    accused = {node.machine.name: node.accused() for node in honest}
    return {
        "liars": {liar: [name for name, by in accused.items() if liar in by] for liar in liars},
        "wrongly_accused": sorted(set().union(*accused.values()) - set(liars)),
        "accusations": {node.machine.name: node.accusations() for node in honest},
    }


@dataclass
class _Killer:
    """Kills whom the plan says: two nodes at their times, the source when all has left it."""

    plan: Plan
    nodes: Sequence[Node]
    runners: Sequence[Runner]
    deaths: dict[str, object] = field(default_factory=dict)

    def go(self, meter: Meter, start_s: float) -> None:
        """Until all are dead, or the others are done."""
        if not self.plan.killed:
            return
        times = [start_s + part * self.plan.course.bound_s for part in KILLED_AT]
        due = dict(zip(self.plan.killed, times, strict=True))
        source_lives = True
        deadline_s = start_s + self.plan.course.deadline_s
        while (due or source_lives) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
            if all(runner.has_news() for runner in self._survivors()):
                return
            for number in [n for n, at_s in due.items() if at_s <= time.monotonic()]:
                del due[number]
                self._kill(number, start_s)
            if source_lives and self._have_all(meter):
                source_lives = False
                self._kill(0, start_s)

    def _have_all(self, meter: Meter) -> bool:
        """Whether every piece has left the source, and is with somebody who lives on."""
        image, source = self.plan.course.image, self.nodes[0].machine
        if meter.since_start(source).sent < NEARLY_ALL_LEFT * image.size:
            return False
        roots = [self.nodes[r.machine.number].daemon.root for r in self._survivors()]
        return holdings.is_complete(roots, image.descriptors())

    def _survivors(self) -> list[Runner]:
        return [r for r in self.runners if r.machine.number not in self.plan.killed]

    def _kill(self, number: int, start_s: float) -> None:
        node = self.nodes[number]
        node.kill()
        self.deaths[node.machine.name] = round(time.monotonic() - start_s, 3)
