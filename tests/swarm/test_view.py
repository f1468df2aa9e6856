"""The trees: whom a node asks for a piece, and whom if not that one."""

# ruff: noqa: D101, D102, D103 -- the names are sentences

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from oci_mesh.swarm.view import FANOUT, ORIGIN, WAVE_BITS, Entry, View, key, van_der_corput, wave

ZONES = ["", "a", "b", "c"]


def slot(number: int, place: int) -> int:
    """Of a wave; -1 where there is none."""
    return -1 if number < 0 else (number << WAVE_BITS) + place


ENTRIES = st.lists(
    st.builds(
        Entry,
        st.integers(0, 99).map(lambda i: f"n{i:02}"),
        st.just(""),
        st.builds(slot, st.sampled_from([-1, 0, 0, 0, 1, 2, 7]), st.integers(0, 20)),
        st.sampled_from(ZONES),
        st.integers(0, 9),
        st.sampled_from([False, False, False, True]),
    ),
    unique_by=lambda entry: entry.id,
    max_size=40,
)
PIECES = st.integers(0, 40_000)

# Each is of a wave of its own.
CHAIN = list(enumerate("abcd"))


def place(piece: int, entry: Entry) -> tuple[int, int, str]:
    return key(piece, entry.slot, entry.id)


def ordered(piece: int, entries: Sequence[Entry], zone: str) -> list[Entry]:
    """Those of a zone that want the blob, in the order of a piece."""
    wanting = [e for e in entries if e.zone == zone and not e.complete and e.slot >= 0]
    return sorted(wanting, key=lambda entry: place(piece, entry))


def is_scarce(view: View, entries: Sequence[Entry]) -> bool:
    """Whether zones that want the blob share the seeds."""
    return len(view.seeds) < len({e.zone for e in entries if not e.complete and e.slot >= 0})


class TestOrder:
    def test_slots_are_spread_evenly(self) -> None:
        """However many there are, each next one halves one of the widest gaps."""
        for bits in range(9):
            positions = sorted(van_der_corput(slot) for slot in range(2**bits))
            assert positions == [i << (32 - bits) for i in range(2**bits)]

    def test_the_ring_turns_by_the_golden_ratio(self) -> None:
        """All nodes keep their distances, and none stands first for long."""
        golden = 0.6180339887
        for piece in range(100):
            at = key(piece, 0, "")[1] / 2**32
            assert abs((at - piece * golden + 0.5) % 1.0 - 0.5) < 1e-6
        firsts = Counter(min(range(8), key=lambda s: key(piece, s, "")) for piece in range(800))
        assert all(95 <= firsts[slot] <= 105 for slot in range(8))

    def test_equal_slots_stand_by_id(self) -> None:
        assert key(3, 5, "a") < key(3, 5, "b")

    def test_who_came_earlier_stands_first_for_all_pieces(self) -> None:
        assert all(key(p, slot(0, 9), "z") < key(p, slot(1, 0), "a") for p in range(100))


class TestPath:
    @settings(deadline=None)
    @given(ENTRIES, PIECES)
    def test_whoever_is_on_it_comes_before_or_has_it_all(
        self, entries: list[Entry], piece: int
    ) -> None:
        """I1, in the plan; those of the zone from near to far, then every seed, once each."""
        view = View(entries)
        known = {entry.id: entry for entry in entries}
        seeds = {entry.id for entry in entries if entry.complete}
        for entry in entries:
            path = list(view.path(piece, entry.id))
            ancestors = [node for node in path if node not in seeds]
            assert set(path) - set(ancestors) == seeds
            assert len(set(path)) == len(path)
            assert path[: len(ancestors)] == ancestors, "a seed before an ancestor"
            assert all(place(piece, known[node]) < place(piece, entry) for node in ancestors)
            near = [known[node] for node in ancestors if known[node].zone == entry.zone]
            keys = [place(piece, node) for node in near]
            assert keys == sorted(keys, reverse=True)
            if ancestors:
                assert not entry.complete
                assert entry.slot >= 0

    @settings(deadline=None)
    @given(ENTRIES, PIECES)
    def test_the_first_wave_of_a_zone_is_a_heap_below_its_roots(
        self, entries: list[Entry], piece: int
    ) -> None:
        """One root for each seed of the zone that is of a wave before, or else for each; one where
        there is none, or too few for all zones.
        """
        view = View(entries)
        for zone in ZONES:
            nodes = ordered(piece, entries, zone)
            nodes = [node for node in nodes if wave(node.slot) == wave(nodes[0].slot)]
            seeds = {e.id for e in entries if e.complete and e.zone == zone}
            number = wave(nodes[0].slot) if nodes else 0
            seeds = {s for s in seeds if 0 <= wave(view.entries[s].slot) < number} or seeds
            if is_scarce(view, entries):
                seeds = set()
            roots = max(1, len(seeds))
            asked: Counter[str] = Counter()
            for rank, node in enumerate(nodes):
                first = next(view.path(piece, node.id), None)
                if rank >= roots:
                    assert first in {n.id for n in nodes[:rank]}
                if rank >= roots or seeds:
                    asked[str(first)] += 1
                elif first is not None:
                    other = view.entries[first]
                    assert other.complete or other.zone != zone
            assert all(asked[seed] <= 1 for seed in seeds)
            assert all(asked[node.id] <= FANOUT for node in nodes)

    @settings(deadline=None)
    @given(ENTRIES, PIECES)
    def test_a_later_wave_is_a_heap_whose_root_asks_the_last_of_the_one_before(
        self, entries: list[Entry], piece: int
    ) -> None:
        """And nobody of that sends it more often for it than it would for its own."""
        view = View(entries)
        for zone in ZONES:
            nodes = ordered(piece, entries, zone)
            waves = [
                [node.id for node in nodes if wave(node.slot) == number]
                for number in sorted({wave(node.slot) for node in nodes})
            ]
            for before, own in pairwise(waves):
                parents = [next(view.path(piece, node)) for node in own]
                assert parents[0] == before[-1]
                assert set(parents[1:]) <= set(own)
                assert view.wave_asked(own[0]) == wave(view.entries[before[0]].slot)
            asked = Counter(next(view.path(piece, node.id), None) for node in nodes)
            assert all(asked[node.id] <= FANOUT for node in nodes)

    @settings(deadline=None)
    @given(ENTRIES, PIECES)
    def test_a_piece_comes_into_a_zone_without_a_seed_once(
        self, entries: list[Entry], piece: int
    ) -> None:
        """And into one that has a seed of its own never, unless seeds are fewer than zones."""
        view = View(entries)
        crossings: Counter[str] = Counter()
        entered: Counter[str] = Counter()
        for entry in entries:
            if entry.complete or entry.slot < 0:
                continue
            first = next(view.path(piece, entry.id), None)
            if first is None or view.entries[first].zone != entry.zone:
                crossings[entry.zone] += 1
                entered[str(first)] += 1
        with_seed = {entry.zone for entry in entries if entry.complete}
        for zone in ZONES:
            expected = 1 if zone not in with_seed and ordered(piece, entries, zone) else 0
            least = most = expected
            if is_scarce(view, entries) and ordered(piece, entries, zone):
                most = 1
            assert least <= crossings[zone] <= most
        assert all(times <= FANOUT for node, times in entered.items() if node != "None")
        assert all(entered[seed] <= 1 for seed in view.seeds)

    @settings(deadline=None)
    @given(ENTRIES, PIECES)
    def test_seeds_that_are_fewer_than_zones_are_asked_once(
        self, entries: list[Entry], piece: int
    ) -> None:
        """By all zones together (I2); else once by those next door and once by others."""
        view = View(entries)
        wanting = [e for e in entries if not e.complete and e.slot >= 0]
        asked = Counter(next(view.path(piece, entry.id), None) for entry in wanting)
        most = 1 if is_scarce(view, entries) else 2
        assert all(asked[seed] <= most for seed in view.seeds)

    def test_nodes_that_come_one_by_one_form_a_chain(self) -> None:
        """Each sends as much as it gets, to the next; and climbs to all before it."""
        view = View([Entry("s", "", complete=True), *(Entry(n, "", slot(i, 0)) for i, n in CHAIN)])
        for piece in range(20):
            assert list(view.path(piece, "d")) == ["c", "b", "a", "s"]
            assert list(view.path(piece, "a")) == ["s"]
        assert [view.wave_asked(node) for node in ("s", "a", "d", "?")] == [-1, -1, 2, -1]

    def test_all_of_a_wave_take_turns_at_serving_the_next(self) -> None:
        view = View([*(Entry(f"a{i}", "", i) for i in range(8)), Entry("b", "", slot(3, 0))])
        firsts = Counter(next(view.path(piece, "b")) for piece in range(800))
        assert len(firsts) == 8
        assert all(95 <= times <= 105 for times in firsts.values())

    def test_who_has_it_from_the_swarm_is_asked_before_who_brought_it(self) -> None:
        """Who brought this blob may be at bringing others."""
        seeds = [Entry("brought", "", complete=True), Entry("fetched", "", 0, complete=True)]
        view = View([*seeds, Entry("n", "", slot(1, 0)), Entry("m", "", slot(1, 1))])
        for piece in range(20):
            paths = sorted(tuple(view.path(piece, node)) for node in ("n", "m"))
            assert {path[-2:] for path in paths} == {("fetched", "brought")}
            assert sorted(map(len, paths)) == [2, 3]

    def test_who_is_done_before_others_of_its_wave_shares_with_who_brought_it(self) -> None:
        """It may be done early because its own uplink is slow."""
        seeds = [Entry("brought", "", complete=True), Entry("done", "", slot(1, 0), complete=True)]
        view = View([*seeds, Entry("n", "", slot(1, 1))])
        assert Counter(next(view.path(piece, "n")) for piece in range(20)) == {
            "brought": 10,
            "done": 10,
        }

    def test_seeds_take_turns(self) -> None:
        """One node, four seeds: each is asked for a quarter of the pieces."""
        seeds = [Entry(f"s{i}", "", complete=True) for i in range(4)]
        view = View([Entry("n", "", 0), *seeds])
        firsts = Counter(next(view.path(piece, "n")) for piece in range(400))
        assert set(firsts.values()) == {100}

    def test_a_seed_next_door_is_asked_before_one_far_away(self) -> None:
        far, near = Entry("a", "", -1, "x", 0, True), Entry("b", "", -1, "y", 0, True)
        view = View([Entry("n", "", 0, "y"), far, near])
        assert {tuple(view.path(piece, "n")) for piece in range(9)} == {("b", "a")}

    def test_who_is_not_in_the_list_asks_seeds(self) -> None:
        seeds = [Entry(f"s{i}", "", complete=True) for i in range(2)]
        view = View([Entry("n", "", 0), Entry("m", "", -1), *seeds])
        for asker in ("m", "s0", "stranger"):
            assert sorted(view.path(1, asker)) == ["s0", "s1"]

    def test_nobody_there(self) -> None:
        assert list(View(()).path(0, "n")) == []
        assert list(View([Entry("n", "", 0)]).path(0, "n")) == []


OUTSIDE = Entry(ORIGIN, "", complete=True)


class TestOrigin:
    """While no node has it."""

    @settings(deadline=None)
    @given(ENTRIES, PIECES, st.integers(1, 9))
    def test_one_node_asks_it_for_all_pieces_of_a_run(
        self, entries: list[Entry], piece: int, run: int
    ) -> None:
        """The first in the order of the run, of all zones; the others ask each other."""
        wanting = [e for e in entries if not e.complete and e.slot >= 0]
        view = View([OUTSIDE, *wanting], run)
        number = piece // run
        for p in range(number * run, (number + 1) * run):
            asked = Counter(next(view.path(p, entry.id), None) for entry in wanting)
            assert asked[ORIGIN] == (1 if wanting else 0)
            assert all(times <= 2 * FANOUT for node, times in asked.items())
            root = min(wanting, key=lambda e: place(number, e), default=None)
            if root is not None:
                assert list(view.path(p, root.id)) == [ORIGIN]

    @settings(deadline=None)
    @given(ENTRIES, PIECES, st.integers(1, 9))
    def test_all_but_the_root_come_after_those_they_ask(
        self, entries: list[Entry], piece: int, run: int
    ) -> None:
        """In the order of the piece, not of the run (I1): views may differ in their runs."""
        wanting = [e for e in entries if not e.complete and e.slot >= 0]
        view = View([OUTSIDE, *wanting], run)
        root = min(wanting, key=lambda e: place(piece // run, e), default=None)
        known = {entry.id: entry for entry in wanting}
        for entry in wanting:
            path = list(view.path(piece, entry.id))
            assert path[-1] == ORIGIN
            assert len(set(path)) == len(path)
            for node in path[:-1]:
                assert known[node] is root or place(piece, known[node]) < place(piece, entry)

    def test_trees_of_a_run_differ_below_the_root(self) -> None:
        """Or the same nodes would send all of its pieces, at once."""
        view = View([OUTSIDE, *(Entry(f"n{i:02}", "", i) for i in range(32))], 8)
        senders = [{next(view.path(p, f"n{i:02}")) for i in range(32)} for p in range(8)]
        assert len(set.union(*senders)) > 30
        assert len(set.intersection(*senders)) <= 4

    def test_without_an_origin_there_are_no_runs(self) -> None:
        entries = [Entry("s", "", complete=True), *(Entry(f"n{i}", "", i) for i in range(9))]
        views = [View(entries, run) for run in (1, 8)]
        for piece in range(20):
            first, second = ([list(v.path(piece, f"n{i}")) for i in range(9)] for v in views)
            assert first == second

    def test_it_is_asked_first_by_the_root_beside_a_seed_that_does_not_send(self) -> None:
        wanting = [Entry(f"n{i}", "", i) for i in range(9)]
        view = View([OUTSIDE, Entry("s", "", complete=True), *wanting], 4)
        for piece in range(40):
            askers = [e for e in wanting if next(view.path(piece, e.id)) == ORIGIN]
            root = min(wanting, key=lambda e: place(piece // 4, e))
            assert askers == [root]

    def test_what_is_left_keeps_its_runs(self) -> None:
        view = View([OUTSIDE, Entry("a", "", 0), Entry("b", "", 1)], 4)
        assert view.without(["a"]).run == 4
        assert view.is_cold
        assert view.without(["a"]).is_cold
        assert not view.without([ORIGIN]).is_cold


class TestFed:
    def test_it_is_asked_like_a_seed_and_asks_nobody(self) -> None:
        fed = Entry("fed", "", 3, fed=True, frontier=5)
        view = View([fed, *(Entry(f"n{i}", "", i) for i in range(3))])
        assert view.seeds == ["fed"]
        assert sorted(view.wanting) == ["n0", "n1", "n2"]
        assert view.advanced == [fed]
        assert view.is_cold
        for piece in range(40):
            paths = [list(view.path(piece, f"n{i}")) for i in range(3)]
            assert [path[0] for path in paths].count("fed") == 1
            assert all(path[-1] == "fed" for path in paths)


def test_what_a_view_lists() -> None:
    entries = [
        Entry("seed", "", complete=True, frontier=9),
        Entry("far", "", 1, frontier=4),
        Entry("new", "", 0),
        Entry("idle", "", -1),
    ]
    view = View(entries)
    assert len(view) == 4
    assert view.seeds == ["seed"]
    assert view.wanting == ["new", "far"]
    assert [entry.id for entry in view.advanced] == ["far"]
