"""Letting go of copies: whatever nodes see of each other, and whenever they ask, enough stay."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from oci_mesh.members.table import Member, rendezvous
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.copies import WAVES, Copies
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.peers import Peers
from oci_mesh.spec.digest import Digest

DIGEST = Digest.of(b"a layer")


class World:
    """Nodes by name, and which of them hold the blob now."""

    def __init__(self, count: int, holders: set[int]) -> None:
        self.members = [Member(f"n{number}", f"n{number}:1") for number in range(count)]
        self.holders = {self.members[number].id for number in holders}
        self.asked = 0

    async def stat(self, address: str, path: str, member_id: str) -> int | None:
        """As `PeerClient.stat`; others get their turn before the answer, and after it."""
        self.asked += 1
        await asyncio.sleep(0)
        size = 7 if member_id in self.holders else None
        await asyncio.sleep(0)
        return size

    async def ask(
        self, members: Sequence[Member], ask: Callable[[Member], Awaitable[int | None]]
    ) -> list[tuple[Member, int | None]]:
        """As `Peers.ask`."""
        return [(member, await ask(member)) for member in members]

    def copies(self, me: int, seen: set[int], enough: int) -> Copies:
        """Of a node that sees these others."""
        others = [self.members[number] for number in sorted(seen - {me})]
        peers = SimpleNamespace(
            candidates=lambda digest: rendezvous(str(digest), others), ask=self.ask
        )
        gossip = SimpleNamespace(table=SimpleNamespace(me=self.members[me]))
        client = SimpleNamespace(stat=self.stat)
        return Copies(
            cast("Gossip", gossip), cast("Peers", peers), cast("PeerClient", client), enough
        )

    async def let_go(self, me: int, seen: set[int], enough: int, late: int) -> None:
        """Perhaps, after so many turns of others."""
        copies = self.copies(me, seen, enough)
        for _ in range(late):
            await asyncio.sleep(0)
        held = await copies.held_before("app", DIGEST)
        for _ in range(late):
            await asyncio.sleep(0)
        if held >= enough:
            self.holders.discard(self.members[me].id)


COUNT = 7
numbers = st.sets(st.integers(0, COUNT - 1))


@settings(max_examples=300)
@given(
    holders=numbers,
    views=st.lists(numbers, min_size=COUNT, max_size=COUNT),
    late=st.lists(st.integers(0, 12), min_size=COUNT, max_size=COUNT),
    enough=st.integers(1, 3),
)
def test_enough_stay_however_the_nodes_see_each_other(
    holders: set[int], views: list[set[int]], late: list[int], enough: int
) -> None:
    """All decide at about the same time, twice, each by what it sees and was told."""
    world = World(COUNT, holders)

    async def decide() -> None:
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                for me in sorted(holders):
                    group.create_task(world.let_go(me, views[me], enough, late[me]))

    asyncio.run(decide())
    assert len(world.holders) >= min(enough, len(holders))


async def test_with_equal_views_just_enough_stay() -> None:
    """Of those that come first in the order."""
    everyone = set(range(COUNT))
    world = World(COUNT, everyone)
    async with asyncio.TaskGroup() as group:
        for me in everyone:
            group.create_task(world.let_go(me, everyone, 2, 0))
    order = rendezvous(str(DIGEST), world.members)
    assert world.holders == {member.id for member in order[:2]}


async def test_a_large_mesh_is_not_searched_through() -> None:
    """A few answer for what all have; of what few have a copy more is kept."""
    count = 1000
    everyone = set(range(count))
    world = World(count, everyone)
    order = [member.id for member in rendezvous(str(DIGEST), world.members)]
    last = int(order[-1].removeprefix("n"))
    assert await world.copies(last, everyone, 2).held_before("app", DIGEST) >= 2
    assert world.asked == WAVES[0]
    world.holders, world.asked = {order[-2], order[-3]}, 0
    assert await world.copies(last, everyone, 2).held_before("app", DIGEST) == 0
    assert world.asked == sum(WAVES)
