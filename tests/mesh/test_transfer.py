"""Swarms of real nodes: the load is shared, whoever lies or leaves in the middle of it."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.mesh import gate, transfer, wire
from oci_mesh.mesh.pieces import is_piece
from oci_mesh.mesh.server import asking
from oci_mesh.swarm import roll, swarm
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.pieces import PieceMap
from tests.images import sha256
from tests.mesh.fake_peer import (
    Sending,
    asked_range,
    cut,
    flipped,
    forgetful,
    refusing,
    silent,
    stalling,
)
from tests.mesh.swarms import (
    Handler,
    all_have,
    gather,
    lie,
    mesh_source,
    nodes,
    pull_all,
    sent,
    wrap,
)
from tests.nodes import Client, eventually, metric, noise, stop

BLOB = noise(6_000_000, "a swarm")
DIGEST = sha256(BLOB)
PIECES = PieceMap(len(BLOB))
FAULTS = "oci_mesh_peer_faults_total"

# Of a swarm in which views agree each piece leaves the source once. What is added is room for a
# machine so slow that a node asks somebody else as well; each for itself would be four.
ONE_COPY = 1.5 * len(BLOB)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is silent is soon too late."""
    monkeypatch.setattr(transfer, "STALL_S", 1.0)
    for module in (swarm, transfer):
        monkeypatch.setattr(module, "SLACK_S", 1.0)
    monkeypatch.setattr(swarm, "MIN_WAIT_S", 0.5)
    for name in ("IDLE_S", "STARVED_S", "LAST_WAIT_S"):
        monkeypatch.setattr(gate, name, getattr(gate, name) / 10)


async def test_the_source_sends_one_copy_to_many(tmp_path: Path, client: Client) -> None:
    """The nodes pass on to each other what they have so far."""
    async with nodes(tmp_path, *"abcde") as (a, *others):
        await client.push_blob(a, "app", BLOB)
        gather(a, len(others))
        await pull_all(client, others, BLOB)
        assert len(BLOB) <= sent(a) <= ONE_COPY
        assert sent(a) + sum(sent(node) for node in others) >= len(others) * len(BLOB)
        assert all(metric(node, FAULTS, fault="corrupt") == 0 for node in others)


async def test_a_zone_is_entered_once(tmp_path: Path, client: Client) -> None:
    """Three nodes far from the source share one copy of it."""
    zones = dict.fromkeys("ab", "east") | dict.fromkeys("cde", "west")
    async with nodes(tmp_path, *"abcde", **zones) as (a, b, *west):
        await client.push_blob(a, "app", BLOB)
        gather(a, 4)
        await pull_all(client, [b, *west], BLOB)
        assert len(BLOB) <= sent(a, *"cde") + sent(b, *"cde") <= ONE_COPY


async def test_a_late_joiner_takes_from_all_who_fetched_it(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sends some pieces; who brought it is left alone, it may be at bringing others."""
    monkeypatch.setattr(roll, "WAVE_S", 0.0)  # who comes later is late, however soon it comes
    async with nodes(tmp_path, *"abcd") as (a, b, c, d):
        await client.push_blob(a, "app", BLOB)
        await pull_all(client, [b, c], BLOB)
        await all_have([a, b, c], [a, b, c, d], DIGEST)
        await pull_all(client, [d], BLOB)
        assert all(sent(node, "d") > 0 for node in (b, c))
        assert sent(b, "d") + sent(c, "d") == len(BLOB)


async def test_what_is_new_is_learnt_in_the_middle(tmp_path: Path, client: Client) -> None:
    """A node that comes later is given what the others have, not only what the source has."""
    async with nodes(tmp_path, *"abc") as (a, b, c):
        await client.push_blob(a, "app", BLOB)
        late = asyncio.Event()

        async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
            """The source gives b the first half, then nobody anything until c is there."""
            if is_piece(request) and asked_range(request, len(BLOB))[0] >= len(BLOB) // 2:
                await late.wait()
            return await handler(request)

        wrap(a, wrapper)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.blob(b, "app", BLOB))
            half = PIECES.at(len(BLOB) // 2)

            def frontier() -> int:
                fetches = mesh_source(b)._blobs.values()
                return max((f.transfer.frontier for f in fetches if f.transfer), default=0)

            await eventually("b has half", lambda: frontier() >= half)
            second = group.create_task(client.blob(c, "app", BLOB))
            await eventually("b gives to c", lambda: sent(b, "c") > 0)
            late.set()
        assert first.result().body == second.result().body == BLOB


# -- liars among those that fetch it themselves


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("sending", "faults"),
    [
        (flipped, ["corrupt"]),
        (cut(1000), ["cut"]),
        (stalling, ["slow", "stalled"]),  # as somebody else was quicker, or not
        (silent, ["slow", "stalled"]),
        (forgetful, []),
        (refusing(Fault.BUSY), []),
        (refusing(Fault.NOT_YET), []),
    ],
)
async def test_a_node_in_the_middle_that_does_wrong_harms_nobody(
    sending: Sending, faults: list[str], tmp_path: Path, client: Client
) -> None:
    """It is root of some trees, inside of others. Who asked it names it; nobody names others."""
    async with nodes(tmp_path, *"abcd") as (a, *others):
        await client.push_blob(a, "app", BLOB)
        gather(a, len(others))
        lie(others[-1], BLOB, sending)
        await pull_all(client, others, BLOB)
        honest = others[:-1]
        if faults:
            named = [metric(node, FAULTS, peer="d", fault=f) for node in honest for f in faults]
            assert sum(named) >= 1
        for node in others:
            assert metric(node, FAULTS, fault="corrupt") == metric(
                node, FAULTS, peer="d", fault="corrupt"
            )


@pytest.mark.usefixtures("impatient")
async def test_most_nodes_lie_and_the_rest_have_it_all_the_same(
    tmp_path: Path, client: Client
) -> None:
    """Every liar that gave a piece is banned by who got it."""
    async with nodes(tmp_path, *"abcdef") as (a, *others):
        await client.push_blob(a, "app", BLOB)
        gather(a, len(others))
        honest, liars = others[:2], others[2:]
        for liar in liars:
            lie(liar, BLOB, flipped)
        await pull_all(client, honest + liars, BLOB)
        for node in honest:
            assert metric(node, FAULTS, peer="a") == 0
            assert not mesh_source(node)._peers.is_banned("a")
            assert all(not mesh_source(node)._peers.is_banned(other.id) for other in honest)


async def test_who_lied_about_one_blob_is_named_and_not_asked_in_the_swarm_of_another(
    tmp_path: Path, client: Client
) -> None:
    """By each whom it lied to, from the first piece on; it has what it wants all the same."""
    other = noise(6_000_000, "another swarm")
    async with nodes(tmp_path, *"abcd") as (a, *others):
        for blob in (BLOB, other):
            await client.push_blob(a, "app", blob)
        honest, liar = others[:2], others[2]
        gather(a, len(others))
        lie(liar, BLOB, flipped)
        await pull_all(client, others, BLOB)
        found_out = {node.id for node in honest if mesh_source(node)._peers.is_banned(liar.id)}
        assert found_out
        lies = {node.id: metric(node, FAULTS, fault="corrupt") for node in honest}
        named = set[tuple[str, str]]()

        async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
            if is_piece(request):
                named.add((asking(request), request.headers.get(wire.BANNED_HEADER, "")))
            return await handler(request)

        wrap(a, wrapper)
        gather(a, len(others))
        await pull_all(client, others, other)
        assert {by for by, whom in named if whom} == {by for by, _ in named} & found_out
        for node in honest:
            if node.id in found_out:
                assert metric(node, FAULTS, fault="corrupt") == lies[node.id]
                assert metric(node, FAULTS, fault="stalled") == 0


# -- nodes that go


async def test_the_source_may_go_once_every_piece_left_it(tmp_path: Path, client: Client) -> None:
    """It gives each piece once, to somebody; those have them all together."""
    async with nodes(tmp_path, *"abcd") as (a, *others):
        await client.push_blob(a, "app", BLOB)
        gather(a, len(others))
        given: set[int] = set()
        all_given = asyncio.Event()

        async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
            if not is_piece(request):
                return await handler(request)
            start, _ = asked_range(request, len(BLOB))
            if start in given:
                return await refusing(Fault.BUSY)(request, BLOB)
            given.add(start)
            answer = await handler(request)
            if answer.status != 206:
                given.discard(start)
            elif len(given) == PIECES.count:
                all_given.set()
            return answer

        wrap(a, wrapper)
        async with asyncio.TaskGroup() as group:
            pulls = group.create_task(pull_all(client, others, BLOB))
            await all_given.wait()
            await stop(a)
            await pulls


async def test_a_node_that_goes_in_the_middle_leaves_the_others_exact(
    tmp_path: Path, client: Client
) -> None:
    """While it holds questions of theirs. (It stops; that it died is for the benchmarks.)"""
    async with nodes(tmp_path, *"abcd") as (a, *rest, going):
        await client.push_blob(a, "app", BLOB)
        gather(a, 3)
        async with asyncio.TaskGroup() as group:
            pulls = group.create_task(pull_all(client, rest, BLOB))
            lost = group.create_task(client.session.get(f"{going.url}/v2/app/blobs/{DIGEST}"))
            await eventually("it has given something", lambda: sent(going) > 0)
            await stop(going)
            await pulls
            (await lost).close()
        assert mesh_source(going)._blobs == {}


async def test_without_the_source_and_without_some_piece_it_ends(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes that wait for each other's last hope give up; nothing is left open."""
    monkeypatch.setattr(transfer, "GIVE_UP_S", 2.0)
    monkeypatch.setattr(transfer, "_LOOK_S", 0.2)
    async with nodes(tmp_path, *"abc") as (a, b, c):
        await client.push_blob(a, "app", BLOB)
        gather(a, 2)

        async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
            if is_piece(request) and asked_range(request, len(BLOB))[0] == PIECES.span(5)[0]:
                return await refusing(Fault.BUSY)(request, BLOB)
            return await handler(request)

        wrap(a, wrapper)
        for answer in await asyncio.gather(*(_outcome(client, node) for node in (b, c))):
            assert answer == PIECES.span(5)[0], "all before the missing piece, and then a cut"
        await eventually(
            "all is over", lambda: mesh_source(b)._blobs == mesh_source(c)._blobs == {}
        )


async def _outcome(client: Client, node: Node) -> int:
    """How many bytes came until the end."""
    async with client.session.get(f"{node.url}/v2/app/blobs/{DIGEST}") as response:
        body = bytearray()
        try:
            async for chunk in response.content.iter_any():
                body += chunk
        except OSError:
            pass
        except Exception as error:  # noqa: BLE001 -- of aiohttp: the payload is not complete
            assert "payload" in str(error).lower()  # noqa: PT017
        assert body == BLOB[: len(body)]
        return len(body)


# -- small blobs


async def test_a_small_blob_is_one_request_once_it_is_known_where(
    tmp_path: Path, client: Client
) -> None:
    """The rendezvous knows who has it and how large it is: no list, no search."""
    small = noise(300_000, "small")
    async with nodes(tmp_path, *"abc") as (a, b, c):
        await client.push_blob(a, "app", small)
        await pull_all(client, [b], small)
        await all_have([a, b], [a, b, c], sha256(small))
        asked: list[str] = []

        async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
            if request.path not in (wire.EXCHANGE_PATH, wire.SWARM_PATH):
                asked.append(f"{request.method} {request.path}")
            return await handler(request)

        wrap(a, wrapper)
        wrap(b, wrapper)
        await pull_all(client, [c], small)
        assert asked == [f"GET /v2/app/blobs/{sha256(small)}"]
