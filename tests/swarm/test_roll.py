"""Who is in a swarm, and the slots that they get."""

# ruff: noqa: D101, D102, D103 -- the names are sentences

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci_mesh.swarm import roll as roll_module
from oci_mesh.swarm.roll import EXPIRY_S, REFRESH_S, SEED_EXPIRY_S, WAVE_S, Roll
from oci_mesh.swarm.view import SLOTS, WAVE_BITS, Entry


def node(name: str, slot: int = -1, frontier: int = 0, *, complete: bool = False) -> Entry:
    return Entry(name, f"{name}:1", slot, "", frontier, complete)


def second(place: int) -> int:
    """A slot of the second wave."""
    return (1 << WAVE_BITS) + place


class TestSlots:
    def test_they_are_dense_in_order_of_arrival(self) -> None:
        roll = Roll(1)
        assert [roll.enter(node(f"n{i}"), 0.0).slot for i in range(20)] == list(range(20))

    def test_who_comes_later_is_of_another_wave(self) -> None:
        """From the first of a wave on, not from the last: a steady stream has waves, too."""
        roll = Roll(1)
        times = [0.0, 0.6 * WAVE_S, WAVE_S, 1.6 * WAVE_S, 5.0 * WAVE_S]
        slots = [roll.enter(node(f"n{i}"), 7.0 + at).slot for i, at in enumerate(times)]
        assert slots == [0, 1, second(0), second(1), 2 << WAVE_BITS]

    def test_who_comes_again_keeps_its_own(self) -> None:
        roll = Roll(1)
        first = [roll.enter(node(f"n{i}"), 0.0) for i in range(3)]
        for _ in range(2):
            assert [roll.enter(entry, 9.0) for entry in first] == first
        assert roll.enter(node("new"), 0.5).slot == 3

    def test_who_brings_none_has_begun_anew(self) -> None:
        """It may have lost what it had: nobody who came before is to wait for it."""
        roll = Roll(1)
        for name in ("a", "b"):
            roll.enter(node(name), 0.0)
        assert roll.enter(node("a"), 9.0).slot == second(0)

    def test_what_is_free_is_not_given_again(self) -> None:
        """Whoever holds a question of its last owner knows that one by its slot."""
        roll = Roll(1)
        for i in range(3):
            roll.enter(node(f"n{i}"), 0.0)
        roll.drop(["n1", "nobody"])
        assert roll.enter(node("new"), 0.0).slot == 3

    def test_one_that_is_brought_is_kept_and_later_ones_come_after_it(self) -> None:
        roll = Roll(1)
        assert roll.enter(node("old", second(2)), 0.0).slot == second(2)
        assert [roll.enter(node(f"n{i}"), 0.0).slot >> WAVE_BITS for i in range(3)] == [2, 2, 2]
        assert roll.enter(node("older", 1), 0.0).slot == 1
        assert roll.enter(node("n3"), 0.0).slot == (2 << WAVE_BITS) + 3

    def test_two_may_bring_the_same(self) -> None:
        roll = Roll(1)
        assert {roll.enter(node(name, 0), 0.0).slot for name in "ab"} == {0}

    def test_who_has_it_all_keeps_it_until_it_wants_it_again(self) -> None:
        roll = Roll(1)
        entry = roll.enter(node("a"), 0.0)
        assert roll.enter(node("a", entry.slot, complete=True), 0.0).slot == 0
        assert roll.enter(node("a", complete=True), 0.0).slot == 0
        assert roll.enter(node("a"), 2 * WAVE_S).slot == second(0)

    def test_who_brought_it_has_none(self) -> None:
        roll = Roll(1)
        assert roll.enter(node("a", complete=True), 0.0).slot == -1

    def test_after_the_last_wave_comes_the_first(self) -> None:
        """Somebody may say that it has any slot; what is given out stays one that is valid."""
        roll = Roll(1)
        roll.enter(node("liar", SLOTS - 1), 0.0)
        assert [roll.enter(node(f"n{i}"), 0.0).slot for i in range(2)] == [0, 1]

    def test_refreshing_costs_no_memory(self) -> None:
        roll = Roll(1)
        entry = roll.enter(node("a"), 0.0)
        for i in range(1000):
            roll.enter(entry, float(i))
        assert len(roll._changed) == 1

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32))
    def test_no_slot_is_given_twice_and_all_are_in_order(self, seed: int) -> None:
        """Comings and goings; nobody brings one that it does not have."""
        random, roll, now, last = Random(seed), Roll(1), 0.0, -1
        here: dict[str, int] = {}
        for _ in range(80):
            now += random.choice([0.0, 0.3 * WAVE_S, 3 * WAVE_S])
            name = f"n{random.randrange(12)}"
            if random.random() < 0.4:
                roll.drop([name])
                here.pop(name, None)
            elif name in here:
                assert roll.enter(node(name, here[name]), now).slot == here[name]
            else:
                here[name] = roll.enter(node(name), now).slot
                assert here[name] > last
                last = here[name]


class TestExpiry:
    def test_who_is_not_heard_of_loses_its_slot(self) -> None:
        roll = Roll(1)
        roll.enter(node("a"), 0.0)
        roll.enter(node("b"), 0.0)
        for i in range(1, 6):
            roll.enter(node("b", 1), i * REFRESH_S)
            roll.expire(i * REFRESH_S)
        assert roll.since(-1) == ([node("b", 1)], ["a"])

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
        assert roll.enter(node("n1", 1, 7), 0.0) == node("n1", 1, 7)
        for i in range(9):
            roll.drop([f"n{i}"])
            roll.enter(node(f"n{i + 3}"), 0.0)
        assert len(roll.since(-1)[1]) == 3


class TestNews:
    def test_a_frontier_alone_is_no_news_but_is_told(self) -> None:
        roll = Roll(1)
        roll.enter(node("a"), 0.0)
        version = roll.version
        roll.enter(node("a", 0, 5), 0.0)
        assert roll.version == version
        assert roll.since(version) == ([node("a", 0, 5)], [])

    @pytest.mark.parametrize(
        "change",
        [
            Entry("a", "elsewhere:2", 0),
            Entry("a", "a:1", 0, "zone"),
            Entry("a", "a:1", 3),
            Entry("a", "a:1", 0, complete=True),
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
