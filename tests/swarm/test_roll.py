"""Who is in a swarm, and the slots that they get."""

# ruff: noqa: D101, D102, D103 -- the names are sentences

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci_mesh.swarm import roll as roll_module
from oci_mesh.swarm.roll import EXPIRY_S, REFRESH_S, SEED_EXPIRY_S, Roll
from oci_mesh.swarm.view import Entry


def node(name: str, slot: int = -1, frontier: int = 0, *, complete: bool = False) -> Entry:
    return Entry(name, f"{name}:1", slot, "", frontier, complete)


class TestSlots:
    def test_they_are_dense_in_order_of_arrival(self) -> None:
        roll = Roll(1)
        assert [roll.enter(node(f"n{i}"), 0.0).slot for i in range(20)] == list(range(20))

    @pytest.mark.parametrize("brings", [True, False])
    def test_who_comes_again_keeps_its_own(self, brings: bool) -> None:
        roll = Roll(1)
        first = [roll.enter(node(f"n{i}"), 0.0) for i in range(3)]
        for _ in range(2):
            again = [roll.enter(e if brings else node(e.id), 1.0) for e in first]
            assert again == first
        assert roll.enter(node("new"), 1.0).slot == 3

    def test_the_lowest_free_one_is_given_again(self) -> None:
        roll = Roll(1)
        for i in range(6):
            roll.enter(node(f"n{i}"), 0.0)
        roll.drop(["n4", "n1", "nobody"])
        roll.enter(node("n3", complete=True), 0.0)
        assert [roll.enter(node(f"m{i}"), 0.0).slot for i in range(4)] == [1, 3, 4, 6]

    def test_one_that_is_brought_is_kept_and_given_to_nobody_else(self) -> None:
        roll = Roll(1)
        assert roll.enter(node("old", 2), 0.0).slot == 2
        assert [roll.enter(node(f"n{i}"), 0.0).slot for i in range(4)] == [0, 1, 3, 4]

    def test_two_may_bring_the_same(self) -> None:
        """It is free when both are gone."""
        roll = Roll(1)
        assert {roll.enter(node(name, 0), 0.0).slot for name in "ab"} == {0}
        roll.drop("a")
        assert roll.enter(node("c"), 0.0).slot == 1
        roll.drop("b")
        assert roll.enter(node("d"), 0.0).slot == 0

    def test_who_has_it_all_needs_none_until_it_wants_it_again(self) -> None:
        roll = Roll(1)
        roll.enter(node("a"), 0.0)
        assert roll.enter(node("a", 0, complete=True), 0.0).slot == -1
        assert roll.enter(node("b"), 0.0).slot == 0
        assert roll.enter(node("a"), 0.0).slot == 1

    def test_one_that_is_free_and_brought_is_not_given_out_as_well(self) -> None:
        roll = Roll(1)
        for i in range(3):
            roll.enter(node(f"n{i}"), 0.0)
        roll.drop(["n1"])
        roll.enter(node("old", 1), 0.0)
        assert roll.enter(node("new"), 0.0).slot == 3

    def test_refreshing_costs_no_memory(self) -> None:
        roll = Roll(1)
        entry = roll.enter(node("a"), 0.0)
        for i in range(1000):
            roll.enter(entry, float(i))
        assert len(roll._free) <= 1
        assert len(roll._changed) == 1

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32))
    def test_no_slot_is_given_twice_and_none_is_left_out(self, seed: int) -> None:
        """Comings and goings; nobody brings one, so there are exactly as many as nodes."""
        random, roll = Random(seed), Roll(1)
        here: dict[str, int] = {}
        for _ in range(80):
            name = f"n{random.randrange(12)}"
            if random.random() < 0.6:
                slot = roll.enter(node(name), 0.0).slot
                lowest = min(set(range(13)) - set(here.values()))
                assert slot == here.get(name, lowest)
                here[name] = slot
            else:
                roll.drop([name])
                here.pop(name, None)


class TestExpiry:
    def test_who_is_not_heard_of_loses_its_slot(self) -> None:
        roll = Roll(1)
        roll.enter(node("a"), 0.0)
        roll.enter(node("b"), 0.0)
        for i in range(1, 6):
            roll.enter(node("b"), i * REFRESH_S)
            roll.expire(i * REFRESH_S)
        assert roll.since(-1) == ([node("b", 1)], ["a"])
        assert roll.enter(node("c"), 60.0).slot == 0

    def test_seeds_are_remembered_longer(self) -> None:
        roll = Roll(1)
        roll.enter(node("seed", complete=True), 0.0)
        roll.expire(2 * EXPIRY_S)
        assert len(roll) == 1
        roll.expire(2 * SEED_EXPIRY_S)
        assert len(roll) == 0

    def test_there_is_a_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(roll_module, "MAX_ENTRIES", 3)
        roll = Roll(1)
        for i in range(3):
            roll.enter(node(f"n{i}"), 0.0)
        assert roll.enter(node("more"), 0.0).slot == -1
        assert len(roll) == 3
        assert roll.enter(node("n1", frontier=7), 0.0) == node("n1", 1, 7)
        for i in range(9):
            roll.drop([f"n{i}"])
            roll.enter(node(f"n{i + 3}"), 0.0)
        assert len(roll.since(-1)[1]) == 3


class TestNews:
    def test_a_frontier_alone_is_no_news_but_is_told(self) -> None:
        roll = Roll(1)
        roll.enter(node("a"), 0.0)
        version = roll.version
        roll.enter(node("a", frontier=5), 0.0)
        assert roll.version == version
        assert roll.since(version) == ([node("a", 0, 5)], [])

    @pytest.mark.parametrize(
        "change",
        [
            Entry("a", "elsewhere:2", 0),
            Entry("a", "a:1", 0, "zone"),
            Entry("a", "a:1", 3),
            Entry("a", "a:1", complete=True),
            Entry("a", "a:1", 0, fed=True),
        ],
    )
    def test_everything_else_is_news(self, change: Entry) -> None:
        roll = Roll(1)
        roll.enter(node("a"), 0.0)
        roll.enter(node("b"), 0.0)
        version = roll.version
        roll.enter(change, 0.0)
        assert roll.version > version
        assert change in roll.since(version + 1)[0]

    def test_old_news_is_not_told_again(self) -> None:
        roll = Roll(1)
        for i in range(100):
            roll.enter(node(f"n{i}"), 0.0)
        roll.drop(["n7"])
        version = roll.version
        roll.enter(node("new"), 0.0)
        entries, gone = roll.since(version + 1)
        assert [entry.id for entry in entries] == ["new"]
        assert gone == []

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 2**32))
    def test_readers_come_to_know_what_the_roll_knows(self, seed: int) -> None:
        """Whatever each of them missed."""
        random, roll = Random(seed), Roll(1)
        readers = [_Reader() for _ in range(3)]
        now = 0.0
        for _ in range(60):
            now += random.random() * 5
            _anything(random, roll, now)
            for reader in readers:
                if random.random() < 0.3:
                    reader.read(roll)
                    assert reader.known == {e.id: e for e in roll.since(-1)[0]}
                    assert len(reader.known) == len(roll)
            entries, gone = roll.since(-1)
            assert not {entry.id for entry in entries} & set(gone)


@dataclass
class _Reader:
    """What another node makes of the answers that it gets."""

    version: int = -1
    known: dict[str, Entry] = field(default_factory=dict)

    def read(self, roll: Roll) -> None:
        entries, gone = roll.since(self.version)
        for name in gone:
            self.known.pop(name, None)
        for entry in entries:
            self.known[entry.id] = entry
        self.version = roll.version


def _anything(random: Random, roll: Roll, now: float) -> None:
    name = f"n{random.randrange(6)}"
    match random.randrange(5):
        case 0 | 1:
            roll.enter(node(name, random.choice([-1, 0, 3])), now)
        case 2:
            roll.enter(node(name, frontier=random.randrange(9)), now)
        case 3:
            roll.enter(node(name, complete=True), now)
        case _:
            roll.drop([name])
    if random.random() < 0.2:
        roll.expire(now)
