"""Tags of upstreams: who is asked, what is believed, for how long, whatever others say or do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from oci_mesh.errors import (
    ManifestUnknown,
    StorageFull,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from oci_mesh.metrics import Metrics
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Resolution
from oci_mesh.store.memory import MemoryStore
from oci_mesh.tasks import Background
from oci_mesh.upstream import tags as tags_module
from oci_mesh.upstream.tags import (
    FLOOR_S,
    ONE_VOICE_TTLS,
    STALE_LIMIT_S,
    TTL_S,
    Resolved,
    UpstreamTags,
)
from tests.nodes import eventually

REPOSITORY = "library/busybox@docker.io"
TAG = "1.36"

ONE_VOICE_S = ONE_VOICE_TTLS * TTL_S

State = Literal["up", "down", "limits", "refuses"]
Manner = Literal["honest", "silent", "agrees", "denies"]


def digest(name: object) -> Digest:
    """Of a manifest that is nothing but a name."""
    return Digest.of(str(name).encode())


V1, V2 = digest(1), digest(2)


@dataclass
class World:
    """Time, and one upstream with one tag in it."""

    now: float = 1_000.0
    wall: float = 1_800_000_000.0
    state: State = "up"
    hang: asyncio.Event | None = None
    heads: list[Digest | None] = field(default_factory=list)
    """What each question was conditional on."""
    told: int = 0
    """How many of them it answered with a digest."""
    history: list[tuple[float, Digest | None]] = field(default_factory=lambda: [(0.0, V1)])
    """From when on the tag was what; None is no tag."""

    def passes(self, seconds: float) -> None:
        """Time, by both clocks."""
        self.now += seconds
        self.wall += seconds

    def push(self, to: Digest | None) -> None:
        """Have the tag be `to`, or be gone."""
        self.history.append((self.now, to))

    @property
    def current(self) -> Digest | None:
        """What the tag is."""
        return self.history[-1][1]

    def had(self, what: Digest, within_s: float) -> bool:
        """Whether the tag was `what` at any moment in the last `within_s` seconds."""
        ends = [*(start for start, _ in self.history[1:]), self.now]
        return any(
            was == what and end >= self.now - within_s
            for (_, was), end in zip(self.history, ends, strict=True)
        )

    async def resolve(self, repository: str, tag: str, known: Digest | None) -> Digest:
        """As an `Asker`."""
        self.heads.append(known)
        await asyncio.sleep(0)
        if self.hang is not None:
            await self.hang.wait()
        if self.state == "down":
            raise UpstreamUnavailable("docker.io does not answer")
        if self.state == "limits":
            raise UpstreamLimited("docker.io wants to be asked less", retry_after_s=30)
        if self.state == "refuses":
            raise UpstreamRefused("docker.io wants credentials")
        if self.current is None:
            raise ManifestUnknown("docker.io has no such tag")
        self.told += 1
        return self.current


class Office:
    """How one node reaches those that look at the tag for all: the first ones of `mesh`."""

    def __init__(self, mesh: "Mesh", me: int) -> None:
        self._mesh = mesh
        self._me = me

    async def confirm(self, repository: str, tag: str, digest: Digest, voices: int) -> float | None:
        """As a `Colleague`."""
        mesh = self._mesh
        others = [node for node in range(len(mesh.nodes)) if node != self._me][:voices]
        if self._me == 0 or len(others) < voices:
            return None
        ages = [await mesh.asked(node, repository, tag, digest) for node in others]
        told = [age for age in ages if age is not None]
        return max(told) if len(told) == voices else None


class Mesh:
    """Some nodes, each with a store of its own. Any of them may be `manners`-less to others."""

    def __init__(self, world: World, size: int, background: Background) -> None:
        self.world = world
        self.stores = [MemoryStore() for _ in range(size)]
        self.manners: list[Manner] = ["honest"] * size
        self.metrics = Metrics()
        self._background = background
        self.nodes: list[UpstreamTags] = []
        for node in range(size):
            self.nodes.append(self._made(node))

    def restart(self, node: int) -> None:
        """It forgets what is in memory."""
        self.nodes[node] = self._made(node)

    def _made(self, node: int) -> UpstreamTags:
        world = self.world
        return UpstreamTags(
            self.stores[node],
            world,
            Office(self, node),
            self._background,
            self.metrics,
            clock=lambda: world.now,
            wall=lambda: world.wall,
        )

    async def asked(self, node: int, repository: str, tag: str, digest: Digest) -> float | None:
        """What a node says to another."""
        await asyncio.sleep(0)
        match self.manners[node]:
            case "silent" | "denies":
                return None
            case "agrees":
                return 0.0
            case "honest":
                return await self.nodes[node].confirm(repository, tag, digest)

    async def resolve(self, node: int = 0, tag: str = TAG) -> Resolved:
        """What a client of a node is told."""
        return await self.nodes[node].resolve(REPOSITORY, tag)

    async def resolve_all(self, tag: str = TAG) -> list[Resolved]:
        """What clients of all nodes are told that ask at one moment."""
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self.resolve(node, tag)) for node in range(len(self.nodes))]
        return [task.result() for task in asked]

    def outcomes(self) -> dict[str, float]:
        """What the metrics say, without zeros."""
        families = text_string_to_metric_families(self.metrics.render().decode())
        return {
            sample.labels["outcome"]: sample.value
            for family in families
            for sample in family.samples
            if sample.name == "oci_mesh_upstream_tags_total"
        }


@asynccontextmanager
async def mesh(size: int = 1, world: World | None = None) -> AsyncIterator[Mesh]:
    """Nodes, and an upstream."""
    async with Background() as background:
        yield Mesh(world or World(), size, background)


# -- any course of events


class Round(NamedTuple):
    """What happens, and then who asks for what."""

    push: int | None
    """Another version of the tag; 0 deletes it."""
    state: State | None
    restart: int | None
    passes_s: float
    asks: list[tuple[int, str]]


SIZE = 3
MOMENTS = [0.0, FLOOR_S / 2, FLOOR_S + 0.5, TTL_S / 2, TTL_S + 0.5, ONE_VOICE_S, STALE_LIMIT_S / 2]
ROUNDS = st.builds(
    Round,
    push=st.sampled_from([None, None, None, 0, 1, 2]),
    state=st.sampled_from([None, None, None, *get_args(State)]),
    restart=st.sampled_from([None, None, *range(SIZE)]),
    passes_s=st.sampled_from(MOMENTS),
    asks=st.lists(
        st.tuples(st.integers(0, SIZE - 1), st.sampled_from([TAG, "latest"])), min_size=1
    ),
)
# Of the first and of the second node that look for the others.
MANNERS: list[tuple[Manner, Manner]] = [
    ("honest", "honest"),
    ("silent", "honest"),
    ("agrees", "honest"),
    ("honest", "agrees"),
    ("agrees", "denies"),
    ("agrees", "agrees"),
]


class Judge:
    """Asks, and judges the answers by what the upstream has had."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._world = mesh.world
        self._gone: dict[tuple[int, str], int] = {}
        """Who was told that there is nothing, and how often anybody was told otherwise before."""
        self._lie_s = 0.0
        """How much longer than it should a colleague can hide a change."""
        if mesh.manners[0] == "agrees":
            self._lie_s = STALE_LIMIT_S if mesh.manners[1] == "agrees" else ONE_VOICE_S

    async def ask(self, node: int, tag: str) -> None:
        """One client of a node."""
        world, key = self._world, (node, tag)
        try:
            answer = await self._mesh.resolve(node, tag)
        except ManifestUnknown:
            assert world.state in ("down", "limits") or world.current is None
            if world.state == "up":
                self._gone[key] = world.told
        except UpstreamRefused:
            assert world.state == "refuses"
            self._gone[key] = world.told
        else:
            assert self._gone.get(key) != world.told, "what was gone is back"
            self._judge(answer, FLOOR_S if tag == "latest" else TTL_S)

    def _judge(self, answer: Resolved, ttl_s: float) -> None:
        world = self._world
        if answer.stale:
            assert world.state in ("down", "limits"), "the upstream could be asked"
        allowed_s = STALE_LIMIT_S if answer.stale else ttl_s + self._lie_s
        assert world.had(answer.digest, allowed_s), "older than is allowed"
        assert world.had(answer.digest, answer.age_s), "older than it says"


@pytest.mark.parametrize("manners", MANNERS, ids="-".join)
@settings(max_examples=25, deadline=None)
@given(st.lists(ROUNDS, min_size=2, max_size=12))
def test_an_answer_is_what_the_upstream_had_not_long_ago(
    manners: tuple[Manner, Manner], course: list[Round]
) -> None:
    """Whatever happens: within the time to live, with a lying colleague a little longer, with two
    or without the upstream up to the limit; and never stale, or gone, when it can be asked.
    """

    async def run() -> None:
        async with mesh(SIZE) as nodes:
            nodes.manners[:2] = manners
            judge = Judge(nodes)
            for happens in course:
                nodes.world.passes(happens.passes_s)
                nodes.world.state = happens.state or nodes.world.state
                if happens.push is not None:
                    nodes.world.push(digest(happens.push) if happens.push else None)
                if happens.restart is not None:
                    nodes.restart(happens.restart)
                for node, tag in happens.asks:
                    await judge.ask(node, tag)

    asyncio.run(run())


# -- how often the upstream is asked


async def test_within_its_time_to_live_a_tag_is_remembered() -> None:
    """Then the upstream is asked again, on a condition."""
    async with mesh() as nodes:
        assert await nodes.resolve() == (V1, False, 0.0)
        nodes.world.passes(TTL_S)
        assert await nodes.resolve() == (V1, False, TTL_S)
        assert nodes.world.heads == [None]
        nodes.world.passes(0.1)
        nodes.world.push(V2)
        assert await nodes.resolve() == (V2, False, 0.0)
        assert nodes.world.heads == [None, V1]
        assert nodes.outcomes() == {"upstream": 2, "memory": 1}


@pytest.mark.parametrize("tag", [TAG, "latest"])
async def test_one_node_looks_for_all(tag: str) -> None:
    """When all ask at the same moment, some of them several times, and nothing has changed."""
    async with mesh(100) as nodes:
        await nodes.resolve_all(tag)
        assert len(nodes.world.heads) == 100  # nobody takes a colleague's word for something new
        for _ in range(ONE_VOICE_TTLS - 1):
            nodes.world.passes(TTL_S + 0.1)
            nodes.world.heads.clear()
            answers = [*await nodes.resolve_all(tag), *await nodes.resolve_all(tag)]
            assert {(answer.digest, answer.stale) for answer in answers} == {(V1, False)}
            assert nodes.world.heads == [V1]


async def test_after_a_long_time_a_few_look_for_all() -> None:
    """Two of them, and for the second one the third."""
    async with mesh(100) as nodes:
        await nodes.resolve_all()
        nodes.world.passes(86_400)
        nodes.world.heads.clear()
        await nodes.resolve_all()
        assert nodes.world.heads == [V1] * 3


async def test_the_time_to_live_is_one_for_all() -> None:
    """What a colleague saw a while ago is as old here as it is there."""
    async with mesh(2) as nodes:
        await nodes.resolve_all()
        nodes.world.passes(TTL_S + 1)
        await nodes.resolve(0)
        nodes.world.passes(TTL_S - 1)
        assert (await nodes.resolve(1)).digest == V1
        nodes.world.push(V2)
        nodes.world.passes(2)
        assert (await nodes.resolve(1)).digest == V2


async def test_latest_is_looked_at_whenever_it_is_asked_for() -> None:
    """But once for those who ask together, also one after the other within a second."""
    async with mesh(3) as nodes:
        await nodes.resolve_all("latest")
        nodes.world.passes(FLOOR_S + 0.1)
        nodes.world.push(V2)
        assert {answer.digest for answer in await nodes.resolve_all("latest")} == {V2}
        nodes.world.heads.clear()
        nodes.world.passes(FLOOR_S / 2)
        await nodes.resolve_all("latest")
        assert nodes.world.heads == []


async def test_callers_share_a_look_and_may_go_away() -> None:
    """What one began is there for the next."""
    world = World(hang=asyncio.Event())
    async with mesh(1, world) as nodes:
        assert world.hang is not None
        impatient = asyncio.create_task(nodes.resolve())
        await eventually("it asks", lambda: len(world.heads) == 1)
        impatient.cancel()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(nodes.resolve()) for _ in range(5)]
            await asyncio.sleep(0)
            world.hang.set()
        assert {task.result().digest for task in tasks} == {V1}
        assert len(world.heads) == 1


async def test_nothing_is_asked_that_nobody_wants() -> None:
    """However much time passes."""
    async with mesh(3) as nodes:
        await nodes.resolve_all()
        nodes.world.heads.clear()
        for _ in range(10):
            nodes.world.passes(STALE_LIMIT_S)
            await asyncio.sleep(0.01)
        assert nodes.world.heads == []


# -- what colleagues say


@pytest.mark.parametrize("manner", ["silent", "denies"])
async def test_a_colleague_that_does_not_confirm_costs_one_look(manner: Manner) -> None:
    """Of one's own."""
    async with mesh(2) as nodes:
        nodes.manners[0] = manner
        await nodes.resolve_all()
        nodes.world.passes(TTL_S + 1)
        nodes.world.push(V2)
        nodes.world.heads.clear()
        assert await nodes.resolve(1) == (V2, False, 0.0)
        assert nodes.world.heads == [V1]


async def test_a_colleague_that_lies_cannot_hide_a_change_for_long() -> None:
    """It always agrees; after a while this node asks another one too, and then the upstream."""
    async with mesh(3) as nodes:
        nodes.manners[0] = "agrees"
        await nodes.resolve_all()
        nodes.world.push(V2)
        told = set()
        began = nodes.world.now
        while (answer := await nodes.resolve(2)).digest == V1:
            assert answer.age_s == nodes.world.now - began
            told.add(answer.stale)
            nodes.world.passes(TTL_S / 2)
        assert answer.digest == V2
        assert ONE_VOICE_S <= nodes.world.now - began <= ONE_VOICE_S + TTL_S + TTL_S / 2
        assert told == {False}


async def test_all_colleagues_together_cannot_hide_a_change_past_the_limit() -> None:
    """However often they agree."""
    async with mesh(3) as nodes:
        nodes.manners[:2] = ["agrees", "agrees"]
        await nodes.resolve_all()
        nodes.world.push(V2)
        nodes.world.passes(STALE_LIMIT_S)
        assert (await nodes.resolve(2)).digest == V1
        nodes.world.passes(TTL_S + 1)
        assert (await nodes.resolve(2)).digest == V2


@pytest.mark.parametrize("age_s", [-1.0, float("nan"), float("inf"), TTL_S + 0.1, 1e300])
async def test_an_age_that_is_none_or_too_great_is_no_confirmation(
    age_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upstream is asked, then."""
    async with mesh(2) as nodes:
        await nodes.resolve_all()
        nodes.world.passes(TTL_S + 1)
        nodes.world.push(V2)

        async def asked(*_: object) -> float:
            return age_s

        monkeypatch.setattr(nodes, "asked", asked)
        assert (await nodes.resolve(1)).digest == V2


async def test_a_late_confirmation_does_not_undo_what_was_seen_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This node looked for another one while a colleague of its own was slow."""
    async with mesh(2) as nodes:
        await nodes.resolve_all()
        nodes.world.passes(TTL_S + 1)
        nodes.world.push(V2)

        async def asked(*_: object) -> float:
            assert await nodes.nodes[1].confirm(REPOSITORY, TAG, V1) is None
            return 0.0

        monkeypatch.setattr(nodes, "asked", asked)
        nodes.world.heads.clear()
        assert (await nodes.resolve(1)).digest == V2
        assert nodes.world.heads == [V1]


async def test_a_slow_store_does_not_undo_what_was_seen_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is read for a client while this node looks for another one."""
    async with mesh(2) as nodes:
        await nodes.resolve_all()
        nodes.world.passes(TTL_S + 1)
        nodes.world.push(V2)
        nodes.restart(1)
        store, go_on = nodes.stores[1], asyncio.Event()
        read = store.resolution

        async def slow(repository: str, tag: str) -> Resolution | None:
            kept = await read(repository, tag)
            monkeypatch.setattr(store, "resolution", read)
            await go_on.wait()
            return kept

        monkeypatch.setattr(store, "resolution", slow)
        asked = asyncio.create_task(nodes.resolve(1))
        await eventually("the store is read", lambda: store.resolution is read)
        assert await nodes.nodes[1].confirm(REPOSITORY, TAG, V2) == 0.0
        nodes.world.heads.clear()
        go_on.set()
        assert (await asked).digest == V2
        assert nodes.world.heads == []


async def test_a_colleague_is_asked_once_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this node."""
    async with mesh(2) as nodes:
        await nodes.resolve_all()
        nodes.world.passes(TTL_S + 1)
        asked, calls = nodes.asked, []

        async def counted(node: int, repository: str, tag: str, digest: Digest) -> float | None:
            calls.append(node)
            return await asked(node, repository, tag, digest)

        monkeypatch.setattr(nodes, "asked", counted)
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(nodes.resolve(1))
        assert calls == [0]


async def test_a_node_confirms_only_what_it_saw_itself() -> None:
    """Not what others told it; and it says nothing of what it cannot tell."""
    async with mesh(3) as nodes:
        nodes.manners[0] = "agrees"
        await nodes.resolve_all()
        nodes.world.passes(TTL_S + 1)
        nodes.world.push(V2)
        assert (await nodes.resolve(1)).digest == V1
        assert await nodes.nodes[1].confirm(REPOSITORY, TAG, V1) is None
        assert await nodes.nodes[1].confirm(REPOSITORY, TAG, V2) == 0.0
        nodes.world.passes(TTL_S + 1)
        nodes.world.state = "down"
        assert await nodes.nodes[1].confirm(REPOSITORY, TAG, V2) is None
        assert nodes.outcomes().get("stale", 0) == 0


async def test_a_node_looks_at_so_many_tags_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is not looked at; of those under way any number may ask."""
    monkeypatch.setattr(tags_module, "MAX_FOR_OTHERS", 2)
    world = World(hang=asyncio.Event())
    async with mesh(1, world) as nodes, asyncio.TaskGroup() as group:
        assert world.hang is not None
        node = nodes.nodes[0]
        asked = [
            group.create_task(node.confirm(REPOSITORY, tag, V1))
            for tag in ("a", "b", "b", "b", "a")
        ]
        await eventually("it looks", lambda: len(world.heads) == 2)
        assert await node.confirm(REPOSITORY, "c", V1) is None
        world.hang.set()
        assert [await task for task in asked] == [0.0] * 5
        assert await node.confirm(REPOSITORY, "c", V1) == 0.0


# -- when the upstream takes it away, or cannot be asked


async def test_a_tag_that_is_gone_is_forgotten() -> None:
    """Also when the upstream can no longer say so, and after a restart."""
    async with mesh() as nodes:
        await nodes.resolve()
        nodes.world.push(None)
        nodes.world.passes(TTL_S + 1)
        with pytest.raises(ManifestUnknown):
            await nodes.resolve()
        nodes.world.state = "down"
        with pytest.raises(ManifestUnknown):
            await nodes.resolve()
        nodes.restart(0)
        with pytest.raises(ManifestUnknown):
            await nodes.resolve()
        assert nodes.outcomes() == {"upstream": 1, "unknown": 1, "unavailable": 2}


async def test_what_is_no_longer_given_to_us_is_forgotten() -> None:
    """And who asks can tell that from a tag that is gone."""
    async with mesh() as nodes:
        await nodes.resolve()
        nodes.world.state = "refuses"
        nodes.world.passes(TTL_S + 1)
        with pytest.raises(UpstreamRefused):
            await nodes.resolve()
        nodes.world.state = "down"
        with pytest.raises(ManifestUnknown):
            await nodes.resolve()
        assert nodes.outcomes() == {"upstream": 1, "refused": 1, "unavailable": 1}


@pytest.mark.parametrize("state", ["down", "limits"])
async def test_without_the_upstream_tags_are_served_stale_up_to_a_limit(state: State) -> None:
    """On all nodes; once it is back they are as new as ever."""
    async with mesh(3) as nodes:
        await nodes.resolve_all()
        nodes.world.state = state
        nodes.world.push(V2)
        assert {answer.stale for answer in await nodes.resolve_all()} == {False}
        nodes.world.passes(STALE_LIMIT_S)
        assert await nodes.resolve_all() == [Resolved(V1, True, STALE_LIMIT_S)] * 3
        nodes.world.passes(1)
        for node in range(3):
            with pytest.raises(ManifestUnknown, match="cannot be asked"):
                await nodes.resolve(node)
        nodes.world.state = "up"
        assert await nodes.resolve_all() == [Resolved(V2, False, 0.0)] * 3


async def test_nobody_waits_for_a_slow_upstream_who_has_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The look goes on, and the next one gets what it brought."""
    monkeypatch.setattr(tags_module, "PATIENCE_S", 0.01)
    async with mesh() as nodes:
        await nodes.resolve()
        nodes.world.passes(TTL_S + 1)
        nodes.world.push(V2)
        nodes.world.hang = asyncio.Event()
        assert await nodes.resolve() == (V1, True, TTL_S + 1)
        assert await nodes.resolve() == (V1, True, TTL_S + 1)
        assert len(nodes.world.heads) == 2
        nodes.world.hang.set()
        kept = nodes.stores[0]._resolutions
        await eventually("the look ends", lambda: kept[REPOSITORY, TAG].digest == V2)
        assert (await nodes.resolve()).digest == V2
        assert len(nodes.world.heads) == 2


async def test_who_has_no_answer_waits_for_a_slow_upstream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As long as the asker does."""
    monkeypatch.setattr(tags_module, "PATIENCE_S", 0.01)
    world = World(hang=asyncio.Event())
    async with mesh(1, world) as nodes:
        assert world.hang is not None
        asked = asyncio.create_task(nodes.resolve())
        await asyncio.sleep(0.05)
        assert not asked.done()
        world.hang.set()
        assert (await asked).digest == V1


# -- what is kept


async def test_a_restart_takes_nothing_away() -> None:
    """Neither what is known nor how old that is."""
    async with mesh() as nodes:
        await nodes.resolve()
        nodes.world.passes(TTL_S - 1)
        nodes.restart(0)
        assert await nodes.resolve() == (V1, False, TTL_S - 1)
        assert nodes.world.heads == [None]
        nodes.world.passes(2)
        nodes.world.state = "down"
        nodes.restart(0)
        assert await nodes.resolve() == (V1, True, TTL_S + 1)


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused go; the store still has them."""
    monkeypatch.setattr(tags_module, "MAX_REMEMBERED", 2)
    async with mesh() as nodes:
        for tag in ("a", "b", "a", "c", "b"):
            await nodes.resolve(tag=tag)
        assert [tag for _, tag in nodes.nodes[0]._known] == ["c", "b"]
        assert len(nodes.world.heads) == 3


async def test_a_full_disk_is_no_reason_not_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag is remembered in memory, and forgotten there too."""

    async def fails(*_: object) -> None:
        raise StorageFull("no room")

    async with mesh() as nodes:
        monkeypatch.setattr(nodes.stores[0], "note_resolution", fails)
        monkeypatch.setattr(nodes.stores[0], "forget_resolution", fails)
        assert (await nodes.resolve()).digest == V1
        assert (await nodes.resolve()).digest == V1
        assert len(nodes.world.heads) == 1
        nodes.world.passes(TTL_S + 1)
        nodes.world.push(None)
        with pytest.raises(ManifestUnknown):
            await nodes.resolve()
        assert not nodes.nodes[0]._known


# -- clocks


@pytest.mark.parametrize("jump_s", [-1e9, -3600.0, 3600.0, 1e9])
async def test_the_time_of_day_may_jump_while_a_node_runs(jump_s: float) -> None:
    """Ages go by another clock."""
    async with mesh() as nodes:
        await nodes.resolve()
        nodes.world.wall += jump_s
        nodes.world.passes(TTL_S - 1)
        await nodes.resolve()
        assert len(nodes.world.heads) == 1
        nodes.world.passes(2)
        nodes.world.push(V2)
        assert (await nodes.resolve()).digest == V2


async def test_a_clock_that_was_set_back_makes_nothing_fresh_for_ever() -> None:
    """What seems to be of the future is asked for again at once."""
    async with mesh() as nodes:
        await nodes.resolve()
        nodes.world.wall -= 1e8
        nodes.world.push(V2)
        nodes.restart(0)
        assert (await nodes.resolve()).digest == V2
        assert nodes.stores[0]._resolutions[REPOSITORY, TAG].checked_at == nodes.world.wall


async def test_a_clock_that_was_set_back_makes_nothing_stale_for_ever() -> None:
    """Without the upstream it is served on, but ages, over any number of restarts."""
    async with mesh() as nodes:
        await nodes.resolve()
        nodes.world.wall -= 1e8
        nodes.world.state = "down"
        answers = []
        for _ in range(9):
            nodes.restart(0)
            try:
                answers.append(await nodes.resolve())
            except ManifestUnknown:
                break
            nodes.world.passes(STALE_LIMIT_S / 4)
        assert all(answer.stale for answer in answers)
        assert 3 <= len(answers) <= 5


async def test_a_clock_that_was_set_forward_takes_nothing_away() -> None:
    """Once it is right again, what is in the store is as old as it is."""
    async with mesh() as nodes:
        await nodes.resolve()
        nodes.world.state = "down"
        nodes.world.passes(TTL_S + 1)
        nodes.world.wall += 1e8
        nodes.restart(0)
        with pytest.raises(ManifestUnknown):
            await nodes.resolve()
        nodes.world.wall -= 1e8
        nodes.restart(0)
        assert await nodes.resolve() == (V1, True, TTL_S + 1)


async def test_what_the_store_kept_is_not_believed_without_end() -> None:
    """A time that lies far back is one that is over the limit."""
    async with mesh() as nodes:
        await nodes.stores[0].note_resolution(REPOSITORY, TAG, Resolution(V2, 0.0))
        assert (await nodes.resolve()).digest == V1
        assert nodes.world.heads == [V2]
