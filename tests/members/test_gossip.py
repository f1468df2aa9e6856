"""Many tables that gossip over a bad network: a small, deterministic simulation.

One round is one second: every node beats, and exchanges tables with one other (push, then pull).
Either message may be lost. There is no time but the round's number, no randomness but the seed's.
"""

from collections.abc import Callable, Iterable
from random import Random

import pytest

from oci_mesh.members.table import (
    DEAD_AFTER_S,
    DEAD_PROBE_SHARE,
    FORGET_AFTER_S,
    Member,
    MemberTable,
)

SEEDS = range(3)
LOSS = 0.2

# Push-pull spreads a rumour to N nodes in about log2(N) rounds (10 for N = 1,000); with a fifth of
# the messages lost and the unlucky tail, three times that is ample.
SPREAD_ROUNDS = 3 * 10


class Mesh:
    """The nodes that run, and the network between them."""

    def __init__(self, seed: int, size: int, loss: float = LOSS) -> None:
        self.random = Random(seed)
        self.loss = loss
        self.now = 0.0
        self.tables: dict[str, MemberTable] = {}
        self.connected: Callable[[str, str], bool] = lambda _a, _b: True
        for index in range(size):
            self.start(f"n{index}")

    def start(self, name: str, incarnation: int = 1) -> MemberTable:
        """A node starts, knowing one address to join by (and retries until somebody answers)."""
        table = MemberTable(Member(name, f"{name}:7000", incarnation=incarnation))
        for seed in self.tables.values():
            table.merge(seed.entries(), self.now)
            seed.merge(table.entries(), self.now)
            break
        self.tables[name] = table
        return table

    def crash(self, name: str) -> None:
        """A node is gone without a word."""
        del self.tables[name]

    def round(self) -> None:
        """One second passes."""
        self.now += 1
        for name in self.random.sample(sorted(self.tables), len(self.tables)):
            table = self.tables[name]
            table.beat(self.now)
            partner = table.choose_partner(self.now, self.random)
            if partner is None:
                continue
            there = self.tables.get(partner.id)
            if there is None or not self.connected(name, partner.id):
                table.failed(partner.id, self.now)
                continue
            if self.random.random() >= self.loss:
                there.merge(table.entries(), self.now)
                there.heard(name, self.now)
                if self.random.random() >= self.loss:
                    table.merge(there.entries(), self.now)
                    table.heard(partner.id, self.now)

    def rounds_until(self, holds: Callable[[], bool], limit: int) -> int:
        """How many rounds it took; fails after `limit`."""
        for count in range(limit):
            if holds():
                return count
            self.round()
        assert holds(), f"not within {limit} rounds"
        return limit

    def all_see(self, expected: Iterable[str]) -> bool:
        """Whether every running node holds exactly these (but itself) for live."""
        wanted = set(expected)
        return all(
            {member.id for member in table.live(self.now)} == wanted - {name}
            for name, table in self.tables.items()
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_that_join_by_one_address_all_find_each_other(seed: int) -> None:
    """Forty nodes, a fifth of all messages lost."""
    mesh = Mesh(seed, 40)
    mesh.rounds_until(lambda: mesh.all_see(mesh.tables), SPREAD_ROUNDS)
    for _ in range(100):
        mesh.round()
        assert mesh.all_see(mesh.tables), "and nobody is ever taken for dead"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crashed_node_is_noticed_and_its_restart_too(seed: int) -> None:
    """By all, within the limit and the time that news takes."""
    mesh = Mesh(seed, 20)
    mesh.rounds_until(lambda: mesh.all_see(mesh.tables), SPREAD_ROUNDS)
    mesh.crash("n7")
    mesh.rounds_until(lambda: mesh.all_see(mesh.tables), int(DEAD_AFTER_S) + SPREAD_ROUNDS)
    mesh.start("n7", incarnation=2)
    mesh.rounds_until(lambda: mesh.all_see(mesh.tables), SPREAD_ROUNDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restart_without_memory_is_noticed_too(seed: int) -> None:
    """The same incarnation as before, the heartbeat back at zero: the node outbids its past."""
    mesh = Mesh(seed, 20)
    for _ in range(100):
        mesh.round()
    mesh.crash("n7")
    table = mesh.start("n7", incarnation=1)
    for _ in range(int(DEAD_AFTER_S) + SPREAD_ROUNDS):
        mesh.round()
    assert table.me.incarnation == 2
    assert mesh.all_see(mesh.tables)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_goodbye_reaches_all_and_is_not_taken_back(seed: int) -> None:
    """Told to one node, known to all sooner than a crash would be."""
    mesh = Mesh(seed, 20)
    mesh.rounds_until(lambda: mesh.all_see(mesh.tables), SPREAD_ROUNDS)
    goodbye = mesh.tables["n7"].leave()
    mesh.crash("n7")
    mesh.tables["n3"].merge([goodbye], mesh.now)
    mesh.rounds_until(lambda: mesh.all_see(mesh.tables), int(DEAD_AFTER_S) // 2)
    for _ in range(100):
        mesh.round()
        assert mesh.all_see(mesh.tables)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_partition_splits_the_mesh_and_heals_by_itself(seed: int) -> None:
    """Each half loses the other and keeps itself; no outside help brings them together."""
    mesh = Mesh(seed, 24)
    mesh.rounds_until(lambda: mesh.all_see(mesh.tables), SPREAD_ROUNDS)
    half = {f"n{index}" for index in range(12)}
    mesh.connected = lambda a, b: (a in half) == (b in half)

    def split() -> bool:
        return all(
            {member.id for member in table.live(mesh.now)}
            == (half if name in half else set(mesh.tables) - half) - {name}
            for name, table in mesh.tables.items()
        )

    mesh.rounds_until(split, int(DEAD_AFTER_S) + SPREAD_ROUNDS)
    for _ in range(100):
        mesh.round()
    assert split()
    mesh.connected = lambda _a, _b: True
    # A first probe across: 24 nodes each try one in ten rounds; then the news spreads.
    first_probe = 10 / (24 * DEAD_PROBE_SHARE)
    mesh.rounds_until(lambda: mesh.all_see(mesh.tables), int(first_probe) + SPREAD_ROUNDS)


def test_a_link_that_is_down_does_not_make_its_ends_dead_to_others() -> None:
    """The two ends see each other fail, and alive by the others' word; everyone else sees all."""
    mesh = Mesh(1, 8)
    mesh.rounds_until(lambda: mesh.all_see(mesh.tables), SPREAD_ROUNDS)
    mesh.connected = lambda a, b: {a, b} != {"n1", "n2"}
    for _ in range(200):
        mesh.round()
        for name, table in mesh.tables.items():
            seen = {member.id for member in table.live(mesh.now)} | {name}
            assert seen >= set(mesh.tables) - ({"n1", "n2"} if name in {"n1", "n2"} else set())


def test_the_dead_are_forgotten_by_all_for_good() -> None:
    """Also while new nodes join, who may have heard of them only just before."""
    mesh = Mesh(3, 6)
    mesh.rounds_until(lambda: mesh.all_see(mesh.tables), SPREAD_ROUNDS)
    mesh.crash("n5")

    def known() -> bool:
        return any(
            member.id == "n5" for table in mesh.tables.values() for member in table.entries()
        )

    for _ in range(int(FORGET_AFTER_S) - 5):
        mesh.round()
    assert known()
    for index in range(3):
        mesh.start(f"late{index}")
        for _ in range(10):
            mesh.round()
    mesh.rounds_until(lambda: not known(), int(DEAD_AFTER_S) + 2 * SPREAD_ROUNDS)
    for _ in range(300):
        mesh.round()
        assert not known()


def test_the_same_seed_gives_the_same_run() -> None:
    """Else a failure could not be looked into."""

    def run() -> list[list[Member]]:
        mesh = Mesh(4, 10)
        for _ in range(50):
            mesh.round()
        return [table.entries() for table in mesh.tables.values()]

    assert run() == run()
