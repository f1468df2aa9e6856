"""What holds whatever the nodes believe of each other, and in whatever order things happen.

I1  nobody waits in a ring
I2  with agreeing views the source pays once
I3  nobody is planned to send more than it gets
I4  there is always an exit
"""

from collections import Counter
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from oci_mesh.swarm.events import Ended, Feed, Tick, Viewed, Wanted
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.view import ORIGIN, WAVE_BITS, Entry, View
from tests.swarm.fleet import Fleet, Host

# A seed for chance does not shrink to anything simpler.
PHASES = (Phase.explicit, Phase.generate)

SEEDS = st.integers(0, 2**32 - 1)

# Seconds that a message takes: none; less than any wait; so many that much times out.
PACES = st.sampled_from([0.0, 0.1, 2.0])

# What is far more than any run takes that ends at all.
MANY_STEPS = 60_000


OUTSIDE = Entry(ORIGIN, "", complete=True)


def any_slot(random: Random, places: int) -> int:
    """None, mostly one of the first wave, or one of a later one."""
    return max(-1, (random.choice([0, 0, 1, 3]) << WAVE_BITS) + random.randrange(-1, places))


def any_view(fleet: Fleet, *always: Host, origin: bool = False) -> View:
    """Some of the nodes, with what may be true or not; and the truth about some."""
    random, count = fleet.random, fleet.pieces.count
    entries = []
    for host in fleet.hosts.values():
        if random.random() < 0.3:
            continue
        true = host.entry
        believed = Entry(
            true.id,
            true.address,
            random.choice([true.slot, any_slot(random, 8)]),
            random.choice([true.zone, "", "a", "b"]),
            random.choice([true.frontier, random.randrange(2 * count)]),
            random.choice([true.complete, random.random() < 0.3]),
            random.choice([true.fed, true.fed, random.random() < 0.3]),
        )
        entries.append(believed)
    if origin:
        entries.append(OUTSIDE)
    return View(
        [
            *(e for e in entries if e.id not in {h.name for h in always}),
            *(host.entry for host in always),
        ],
        random.randrange(1, 5),
    )


def any_fleet(seed: int, nodes: int, pieces: int, pace: float, loss: float = 0.0) -> Fleet:
    """Nodes with any slots (some the same), in any zones, that begin with any pieces."""
    random = Random(seed)
    fleet = Fleet(random, pieces, pace=pace, loss=loss, run=random.randrange(1, 5))
    count = fleet.pieces.count
    for i in range(nodes):
        fleet.add(
            f"n{i}",
            any_slot(random, 2 * nodes),
            have=[p for p in range(count) if random.random() < 0.1],
            zone=random.choice(["", "a", "b"]),
            sends=random.randrange(1, 5),
        )
    return fleet


class TestNobodyWaitsInARing:
    """I1. The fleet itself looks at every step."""

    @settings(max_examples=40, deadline=None, phases=PHASES)
    @given(SEEDS, st.integers(2, 9), st.integers(1, 20), PACES, st.integers(0, 2))
    def test_with_views_that_disagree_and_change(
        self, seed: int, nodes: int, pieces: int, pace: float, seeds: int
    ) -> None:
        """Each node believes what it likes, and something else a little later."""
        fleet = any_fleet(seed, nodes, pieces, pace)
        for i in range(seeds):
            fleet.seed(f"s{i}")
        for _ in range(8):
            for host in list(fleet.hosts.values()):
                if fleet.random.random() < 0.6:
                    fleet.tell(host, Viewed(any_view(fleet)))
            fleet.run(80)
        assert fleet.asks or nodes < 4

    @settings(max_examples=60, deadline=None, phases=PHASES)
    @given(SEEDS, st.integers(2, 9), st.integers(1, 20), PACES, st.sampled_from([0.0, 0.1, 0.6]))
    def test_with_an_origin_that_some_believe_in_and_nodes_that_are_fed(
        self, seed: int, nodes: int, pieces: int, pace: float, fails: float
    ) -> None:
        """Views differ in how many pieces are a run, too; who is fed may be so no longer."""
        fleet = any_fleet(seed, nodes, pieces, pace)
        fleet.origin_fails = fails
        for _ in range(12):
            for host in list(fleet.hosts.values()):
                if fleet.random.random() < 0.5:
                    origin = fleet.random.random() < 0.6
                    fleet.tell(host, Viewed(any_view(fleet, origin=origin)))
                if fleet.random.random() < 0.1:
                    fleet.feed(host)
                elif fleet.random.random() < 0.1:
                    fleet.tell(host, Feed(on=False))
            fleet.run(40)
        assert fleet.asks or fleet.readings or nodes < 4

    def test_somebody_does_wait(self) -> None:
        """Or the above says nothing."""
        fleet = Fleet(Random(0), 8)
        hosts = [fleet.add(f"n{i}", i) for i in range(6)]
        for host in hosts:
            fleet.handle(host, Viewed(fleet.truth()))
        fleet.flow()
        assert sum(len(host.held) for host in hosts) > 6


class TestTheSourcePaysOnce:
    """I2."""

    @settings(max_examples=25, deadline=None, phases=PHASES)
    @given(SEEDS, st.integers(1, 30), st.integers(1, 40), st.integers(1, 4))
    def test_each_piece_leaves_each_seed_at_most_once(
        self, seed: int, nodes: int, pieces: int, seeds: int
    ) -> None:
        """No timer is needed for it, either: everything flows from what comes."""
        random = Random(seed)
        fleet = Fleet(random, pieces)
        slots = random.sample(range(2 * nodes), nodes)
        hosts = [fleet.add(f"n{i}", slot) for i, slot in enumerate(slots)]
        sources = [fleet.seed(f"s{i}") for i in range(seeds)]
        view = fleet.truth()
        for host in random.sample(hosts, nodes):
            fleet.handle(host, Viewed(view))
        fleet.flow()
        assert fleet.done
        for piece in range(fleet.pieces.count):
            sent = [source.sent[piece] for source in sources]
            assert max(sent) == 1
            assert sum(sent) >= 1  # a root that fell behind asks others than its seed
        received = sum(sum(host.sent.values()) for host in fleet.hosts.values())
        assert received == nodes * fleet.pieces.count, "something was sent twice"

    @settings(max_examples=40, deadline=None, phases=PHASES)
    @given(
        SEEDS,
        st.integers(1, 30),
        st.integers(1, 60),
        st.integers(1, 9),
        st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=3),
    )
    def test_each_piece_leaves_an_origin_once_in_runs(
        self, seed: int, nodes: int, pieces: int, run: int, zones: list[str]
    ) -> None:
        """A run is one request, whatever the window; and nothing is sent twice between nodes."""
        random = Random(seed)
        fleet = Fleet(random, pieces, run=run)
        slots = random.sample(range(2 * nodes), nodes)
        for i, slot in enumerate(slots):
            fleet.add(f"n{i}", slot, zone=random.choice(zones))
        view = fleet.truth(OUTSIDE)
        for host in random.sample(fleet.wanting, nodes):
            fleet.handle(host, Viewed(view))
        fleet.flow()
        assert fleet.done
        count = fleet.pieces.count
        assert [fleet.origin_sent[piece] for piece in range(count)] == [1] * count
        assert fleet.readings == -(-count // run)
        received = sum(sum(host.sent.values()) for host in fleet.hosts.values())
        assert received == (nodes - 1) * count

    @settings(max_examples=25, deadline=None, phases=PHASES)
    @given(SEEDS, st.integers(1, 30), st.integers(1, 40), st.booleans())
    def test_each_piece_leaves_a_node_that_is_fed_once(
        self, seed: int, nodes: int, pieces: int, early: bool
    ) -> None:
        """It asks nobody; whatever slot it has, others wait for it."""
        random = Random(seed)
        fleet = Fleet(random, pieces)
        slots = random.sample(range(2 * nodes), nodes)
        leader, *_ = [fleet.add(f"n{i}", slot) for i, slot in enumerate(slots)]
        leader.swarm.handle(Feed(), 0.0)
        view = fleet.truth()
        if early:
            fleet.feed(leader)
        for host in random.sample(fleet.wanting, nodes):
            fleet.handle(host, Viewed(view))
        if not early:
            fleet.flow()
            fleet.feed(leader)
        fleet.flow()
        assert fleet.done
        count = fleet.pieces.count
        assert all(fleet.origin_sent[piece] == 1 for piece in range(count))
        assert all(leader.sent[piece] == min(1, nodes - 1) for piece in range(count))


class TestFairWork:
    """I3."""

    @pytest.mark.parametrize("nodes", [2, 3, 5, 8, 13, 32, 47, 100, 257])
    @pytest.mark.parametrize("seeds", [1, 3])
    def test_nobody_is_planned_to_send_more_than_it_gets(self, nodes: int, seeds: int) -> None:
        """With slots that are dense, over the pieces of a blob."""
        pieces = 256
        wanting = [Entry(f"n{i:03}", "", i) for i in range(nodes)]
        view = View([*wanting, *(Entry(f"s{i}", "", complete=True) for i in range(seeds))])
        sends: Counter[str] = Counter()
        for piece in range(pieces):
            sends.update(next(view.path(piece, entry.id)) for entry in wanting)
        assert sum(sends.values()) == nodes * pieces
        busiest = max(sends[entry.id] for entry in wanting)
        assert busiest <= pieces + 8  # turns of the golden ratio are even to within some pieces


FAULTS = st.lists(st.sampled_from(list(Fault)), max_size=5)


class TestAlwaysAnExit:
    """I4."""

    @settings(max_examples=40, deadline=None, phases=PHASES)
    @given(
        SEEDS,
        st.integers(1, 7),
        st.integers(1, 16),
        PACES,
        st.sampled_from([0.0, 0.1, 0.4]),
        FAULTS,
        st.integers(0, 2),
    )
    def test_all_come_to_have_all(
        self,
        seed: int,
        nodes: int,
        pieces: int,
        pace: float,
        loss: float,
        faults: list[Fault],
        deaths: int,
    ) -> None:
        """Liars, stallers, deaths, losses, wrong views: one honest seed is enough."""
        fleet = any_fleet(seed, nodes, pieces, pace, loss)
        random = fleet.random
        for i, fault in enumerate(faults):
            fleet.add(f"f{i}", any_slot(random, 8), fault=fault, zone=random.choice("ab"))
        seed_host = fleet.seed("seed", sends=random.randrange(1, 5))
        honest = [host for host in fleet.wanting if host is not seed_host]
        for _ in range(4):
            for host in honest:
                if random.random() < 0.7:
                    fleet.tell(host, Viewed(any_view(fleet)))
            fleet.run(random.randrange(1, 120))
            if deaths and len(fleet.wanting) > 2:
                deaths -= 1
                victim = random.choice([host for host in honest if host.alive])
                fleet.kill(victim, silently=random.random() < 0.5)
        for _ in range(20):  # again and again: older news may come after newer
            for host in honest:
                fleet.tell(host, Viewed(any_view(fleet, seed_host)))
            fleet.run(MANY_STEPS // 20)
        assert fleet.done
        for host in fleet.wanting:
            assert_nothing_is_left(fleet, host)

    @settings(max_examples=25, deadline=None, phases=PHASES)
    @given(SEEDS, st.integers(2, 14), st.integers(1, 24), PACES)
    def test_without_a_seed_they_complete_each_other(
        self, seed: int, nodes: int, pieces: int, pace: float
    ) -> None:
        """The source died once every piece had left it."""
        random = Random(seed)
        fleet = Fleet(random, pieces, pace=pace)
        count = fleet.pieces.count
        owners = [random.randrange(nodes) for _ in range(count)]
        for i in range(nodes):
            have = [p for p in range(count) if owners[p] == i or random.random() < 0.2]
            fleet.add(f"n{i}", i, have=have, sends=random.randrange(1, 5))
        for _ in range(100):
            view = fleet.truth()  # who completes meanwhile is a seed, and how far each is is told
            for host in fleet.wanting:
                fleet.tell(host, Viewed(view))
            fleet.run(MANY_STEPS // 100)
            if fleet.done:
                break
        assert fleet.done

    @settings(max_examples=40, deadline=None, phases=PHASES)
    @given(
        SEEDS,
        st.integers(1, 7),
        st.integers(1, 16),
        PACES,
        st.sampled_from([0.0, 0.1]),
        st.sampled_from([0.0, 0.1, 0.5]),
        FAULTS,
        st.integers(0, 2),
    )
    def test_an_origin_that_fails_now_and_then_is_enough(
        self,
        seed: int,
        nodes: int,
        pieces: int,
        pace: float,
        loss: float,
        fails: float,
        faults: list[Fault],
        deaths: int,
    ) -> None:
        """With no seed, and all that may go wrong besides."""
        fleet = any_fleet(seed, nodes, pieces, pace, loss)
        random, fleet.origin_fails = fleet.random, fails
        for i, fault in enumerate(faults):
            fleet.add(f"f{i}", any_slot(random, 8), fault=fault)
        for _ in range(4):
            for host in fleet.wanting:
                if random.random() < 0.7:
                    fleet.tell(host, Viewed(any_view(fleet, origin=random.random() < 0.7)))
            fleet.run(random.randrange(1, 120))
            if deaths and len(fleet.wanting) > 1:
                deaths -= 1
                fleet.kill(random.choice(fleet.wanting), silently=random.random() < 0.5)
        for _ in range(20):
            for host in fleet.wanting:
                fleet.tell(host, Viewed(any_view(fleet, origin=True)))
            fleet.run(MANY_STEPS // 20)
        assert fleet.done
        for host in fleet.wanting:
            assert_nothing_is_left(fleet, host)

    @settings(max_examples=25, deadline=None, phases=PHASES)
    @given(SEEDS, st.integers(2, 9), st.integers(1, 24), PACES, st.booleans())
    def test_when_a_leader_is_gone_the_next_one_leads(
        self, seed: int, nodes: int, pieces: int, pace: float, silently: bool
    ) -> None:
        """The first dies, the second cannot go on, the last one reads the rest."""
        random = Random(seed)
        fleet = Fleet(random, pieces, pace=pace)
        hosts = [fleet.add(f"n{i}", i) for i in range(nodes)]

        def run(leader: Host, steps: int) -> None:
            fleet.feed(leader)
            for _ in range(10):
                for host in fleet.wanting:
                    fleet.tell(host, Viewed(fleet.truth()))
                fleet.run(steps)

        run(hosts[0], random.randrange(10))
        fleet.kill(hosts[0], silently=silently)
        if nodes > 2:
            run(hosts[1], random.randrange(10))
            fleet.handle(hosts[1], Feed(on=False))
        run(hosts[-1], MANY_STEPS // 10)
        assert fleet.done

    @settings(max_examples=30, deadline=None, phases=PHASES)
    @given(SEEDS, st.integers(1, 6), st.integers(1, 12), st.integers(0, 300))
    def test_whoever_stops_leaves_nothing_behind(
        self, seed: int, nodes: int, pieces: int, steps: int
    ) -> None:
        """Ended in the middle: all requests are withdrawn, all who wait are sent elsewhere."""
        fleet = any_fleet(seed, nodes, pieces, 0.1)
        fleet.seed("seed")
        for host in fleet.wanting:
            fleet.handle(host, Viewed(fleet.truth()))
        fleet.run(steps)
        stops = fleet.hosts["n0"]
        fleet.handle(stops, Wanted(0, 0))
        stopped = len(stops.asked)
        fleet.withdrawn = 0
        fleet.handle(stops, Ended())
        assert not stops.asked
        assert not stops.held
        fleet.flow()
        assert fleet.withdrawn >= stopped
        assert_nothing_is_left(fleet, stops)


def assert_nothing_is_left(fleet: Fleet, host: Host) -> None:
    """With nothing under way, timers run out, and no memory of requests stays."""
    swarm, now = host.swarm, fleet.now
    fleet.flow()
    while (due := swarm.next_deadline()) is not None:
        now = max(now, due)
        assert swarm.handle(Tick(), now) == []
    assert swarm.in_flight == 0
    assert not host.held
    assert not swarm._requests._by_piece
    assert not swarm._held._by_ticket
    assert not swarm._held._by_piece
    if swarm.complete:
        assert not swarm._tried
        assert not swarm._waiting_since
