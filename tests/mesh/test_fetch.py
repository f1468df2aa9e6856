"""Blobs from nodes that lie, break off, stall or die: exact bytes, or none that look whole."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.errors import StorageFull
from oci_mesh.mesh import agreement, fetch, transfer, wire
from oci_mesh.mesh import client as client_module
from oci_mesh.store.disk import DiskStore
from oci_mesh.swarm import swarm
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.pieces import SMALL_BYTES, PieceMap
from tests.images import sha256
from tests.mesh.fake_peer import (
    FakePeer,
    Sending,
    another_total,
    asking_order,
    compressed,
    cut,
    failing,
    flipped,
    flipped_at,
    forgetful,
    hanging,
    holding,
    longer,
    overflowing,
    paused,
    redirecting,
    refusing,
    shorter,
    silent,
    stalling,
    statement,
    unranged,
    unsized,
    whole,
)
from tests.nodes import Client, eventually, make_image, metric, noise, running, stop

BLOB = noise(3_000_000)
SMALL = noise(300_000)
HALF = len(BLOB) // 2
PATH = f"/v2/app/blobs/{sha256(BLOB)}"
PIECES = PieceMap(len(BLOB))
LAST = PIECES.span(PIECES.count - 1)[0]

FAULTS = "oci_mesh_peer_faults_total"

# What a node does with each piece that it is asked for, and the fault that it is blamed for.
CORRUPT: dict[str, tuple[Sending, str]] = {
    "flipped": (flipped, "corrupt"),
    "compressed": (compressed, "corrupt"),
    "another total": (another_total(SMALL_BYTES + 1), "corrupt"),
}
BROKEN: dict[str, tuple[Sending, str]] = {
    "cut at once": (cut(0), "cut"),
    "cut in the middle": (cut(100_000), "cut"),
    "cut before the last byte": (cut(-1), "cut"),
    "shorter": (shorter, "nonsense"),
    "longer": (longer, "nonsense"),
    "overflowing": (overflowing, "nonsense"),
    "unsized": (unsized, "nonsense"),
    "unranged": (unranged, "nonsense"),
    "forgetful": (forgetful, "missing"),
    "not yet": (refusing(Fault.NOT_YET), "missing"),
    "failing": (failing, "missing"),
    "redirecting": (redirecting, "missing"),
}
WRONG = {**CORRUPT, **BROKEN}
wrong = pytest.mark.parametrize(("sending", "fault"), WRONG.values(), ids=WRONG)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fetch takes too long for headers to wait for it."""
    monkeypatch.setattr(fetch, "EARLY_S", 0.0)


@pytest.fixture
def soon_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that nobody gives is given up early. No honest node's fault comes of this."""
    monkeypatch.setattr(transfer, "LOST_S", 0.3)
    monkeypatch.setattr(transfer, "_LOOK_S", 0.1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is silent is soon too late."""
    monkeypatch.setattr(transfer, "STALL_S", 1.0)
    for module in (swarm, transfer):
        monkeypatch.setattr(module, "SLACK_S", 1.0)
    monkeypatch.setattr(swarm, "MIN_WAIT_S", 0.2)


def unfinished(node: Node) -> list[int]:
    """The sizes of the uploads on a node's disk."""
    assert isinstance(node.store, DiskStore)
    directory = os.path.dirname(node.store._layout.upload("x"))
    found = []
    for name in os.listdir(directory):
        with suppress(FileNotFoundError):  # it ends just now
            found.append(Path(directory, name).stat().st_size)
    return found


@asynccontextmanager
async def liar_and_honest(root: Path, liar: FakePeer, honest: FakePeer) -> AsyncIterator[Node]:
    """A node that knows both."""
    async with liar, honest, running(root, "a") as a:
        await liar.join(a)
        await honest.join(a)
        yield a


# -- wrong pieces, by a true list


@wrong
async def test_an_honest_node_makes_up_for_one_that_is_not(
    sending: Sending, fault: str, tmp_path: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Exact bytes all the same; the one that is not is named, and only that one."""
    liar, honest = FakePeer("p", holding(BLOB, sending=sending)), FakePeer("q", holding(BLOB))
    async with liar_and_honest(tmp_path, liar, honest) as a:
        answer = await client.blob(a, "app", BLOB)
        assert (answer.status, answer.body) == (200, BLOB)
        assert liar.ranges
        assert metric(a, FAULTS, peer="p", fault=fault) >= 1
        assert metric(a, FAULTS, peer="q") == 0
        assert f"node p: {fault}: " in caplog.text
        await eventually("it is in the store", lambda: unfinished(a) == [])


@pytest.mark.usefixtures("soon_lost")
@wrong
async def test_liars_alone_give_not_found(
    sending: Sending, fault: str, tmp_path: Path, client: Client
) -> None:
    """Never wrong bytes, and nothing of them stays."""
    p, q = (
        FakePeer("p", holding(BLOB, sending=sending)),
        FakePeer("q", holding(BLOB, sending=sending)),
    )
    async with liar_and_honest(tmp_path, p, q) as a:
        assert (await client.blob(a, "app", BLOB)).status == 404
        assert metric(a, FAULTS, peer="p", fault=fault) >= 1
        assert metric(a, FAULTS, peer="q", fault=fault) >= 1
        await eventually("nothing stays", lambda: unfinished(a) == [])
        assert (await a.store.usage()).blobs == 0


@pytest.mark.usefixtures("late", "soon_lost")
@wrong
async def test_liars_alone_cut_the_connection_once_headers_are_out(
    sending: Sending, fault: str, tmp_path: Path, client: Client
) -> None:
    """Not a byte of the body comes, and no end of it that looks like one."""
    async with FakePeer("p", holding(BLOB, sending=sending)) as p, running(tmp_path, "a") as a:
        await p.join(a)
        async with client.session.get(a.url + PATH) as response:
            assert response.status == 200
            assert response.content_length == len(BLOB)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
            assert response.content.total_bytes == 0


@pytest.mark.parametrize(
    "sending",
    [
        *(sending for sending, _ in WRONG.values()),
        another_total(7),
        another_total(2 * len(BLOB)),
    ],
)
async def test_a_small_blob_comes_from_who_is_honest(
    sending: Sending, tmp_path: Path, client: Client
) -> None:
    """It has no list: its digest is enough, and its size is what somebody says."""
    for name, other in (("p", "q"), ("q", "p")):
        liar, honest = (
            FakePeer(name, holding(SMALL, sending=sending)),
            FakePeer(other, holding(SMALL)),
        )
        async with liar_and_honest(tmp_path / name, liar, honest) as a:
            assert (await client.blob(a, "app", SMALL)).body == SMALL
            assert metric(a, FAULTS, peer=other) == 0


@pytest.mark.parametrize("size", [0, 1, 200_000, 299_999, 300_001, 2_000_000])
async def test_a_false_size_of_a_small_blob_costs_an_attempt(
    size: int, tmp_path: Path, client: Client
) -> None:
    """Whether it is too small or too large, or that of a blob with a list. Before the headers."""
    first, second = asking_order(sha256(SMALL), "p", "q")
    liar = FakePeer(first, holding(SMALL, sending=forgetful, size=size))
    async with liar_and_honest(tmp_path, liar, FakePeer(second, holding(SMALL))) as a:
        answer = await client.blob(a, "app", SMALL)
        assert (answer.status, answer.body) == (200, SMALL)
        assert metric(a, FAULTS, peer=second) == 0


async def test_no_peer_sends_a_node_elsewhere(
    tmp_path: Path, client: Client, soon_lost: None
) -> None:
    """A redirect is not followed, though what is asked for would be there (CWE-918)."""
    async with (
        FakePeer("stranger", holding(BLOB)) as stranger,
        FakePeer("p") as p,
        running(tmp_path, "a") as a,
    ):

        async def sending(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
            location = f"http://{stranger.address}{request.path}"
            return web.Response(status=307, headers={"Location": location})

        p.serve = holding(BLOB, sending=sending)
        await p.join(a)
        assert (await client.blob(a, "app", BLOB)).status == 404
        assert stranger.asked == []


@pytest.mark.parametrize("sending", [case[0] for case in CORRUPT.values()], ids=CORRUPT)
async def test_who_sent_wrong_bytes_is_asked_for_nothing_more(
    sending: Sending, tmp_path: Path, client: Client, soon_lost: None
) -> None:
    """Neither for this blob nor for another; it still may gossip."""
    other = noise(1000, "other")
    async with (
        FakePeer("p", holding(BLOB, other, sending=sending)) as p,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        await client.blob(a, "app", BLOB)
        assert metric(a, FAULTS, peer="p", fault="corrupt") >= 1
        p.asked.clear()
        assert (await client.blob(a, "app", other)).status == 404
        assert p.asked == []
        await p.join(a)


@pytest.mark.parametrize("piece", [0, PIECES.count // 2, PIECES.count - 1])
async def test_one_wrong_bit_is_found_in_its_piece(
    piece: int, tmp_path: Path, client: Client
) -> None:
    """Wherever it is; what else came from that node is right, and is not fetched again."""
    sending = flipped_at(PIECES.span(piece)[1] - 1)
    liar, honest = FakePeer("p", holding(BLOB, sending=sending)), FakePeer("q", holding(BLOB))
    async with liar_and_honest(tmp_path, liar, honest) as a:
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        assert metric(a, FAULTS, peer="q") == 0
        lies = metric(a, FAULTS, peer="p", fault="corrupt")
        assert lies == (PIECES.span(piece) in liar.ranges)
        received = metric(a, "oci_mesh_peer_received_bytes_total")
        assert received == len(BLOB) + lies * PIECES.length(piece)


async def test_who_lied_is_named_to_the_others_once_it_has(tmp_path: Path, client: Client) -> None:
    """Not before, and not to itself: it is asked for nothing more."""
    named: dict[str, list[str | None]] = {"p": [], "q": []}

    def noting(name: str, sending: Sending) -> Sending:
        async def send(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
            if wire.SLOT_HEADER in request.headers:
                named[name].append(request.headers.get(wire.BANNED_HEADER))
            return await sending(request, content)

        return send

    liar = FakePeer("p", holding(BLOB, sending=noting("p", flipped)))
    honest = FakePeer("q", holding(BLOB, sending=noting("q", whole)))
    async with liar_and_honest(tmp_path, liar, honest) as a:
        assert (await client.blob(a, "app", BLOB)).body == BLOB
    assert set(named["p"]) == {None}
    before = named["q"].count(None)
    assert named["q"] == [None] * before + ["p"] * (len(named["q"]) - before)
    assert named["q"][-1] == "p"


# -- wrong lists


def false_bytes() -> bytes:
    """Other bytes of the same size, in every piece."""
    return noise(len(BLOB), "false")


async def test_a_wrong_list_with_wrong_bytes_is_found_before_a_client_has_any(
    tmp_path: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Another node's list differs, so nothing is given before the whole is right; then the signer
    is banned, and the honest one is not.
    """
    for liars, honests in (("p", "q"), ("q", "p")):
        liar = FakePeer(liars, holding(false_bytes(), name=sha256(BLOB)))
        async with liar_and_honest(tmp_path / liars, liar, FakePeer(honests, holding(BLOB))) as a:
            answer = await client.blob(a, "app", BLOB)
            assert (answer.status, answer.body) == (200, BLOB)
            assert metric(a, FAULTS, peer=honests) == 0
            assert "differ: one of" in caplog.text


@pytest.mark.usefixtures("late")
async def test_in_doubt_a_client_gets_nothing_before_all_is_right(
    tmp_path: Path, client: Client
) -> None:
    """Two lists; all but the last piece is here."""
    go_on = asyncio.Event()
    liar = FakePeer("p", holding(BLOB, sending=forgetful, listed=false_bytes()))
    honest = FakePeer("q", holding(BLOB, sending=paused(LAST, go_on)))
    async with (
        liar_and_honest(tmp_path, liar, honest) as a,
        client.session.get(a.url + PATH) as response,
    ):
        await eventually(
            "nearly all is here", lambda: PIECES.span(PIECES.count - 1) in honest.ranges
        )
        assert response.content.total_bytes == 0
        go_on.set()
        assert await response.read() == BLOB


async def test_a_wrong_list_by_which_nobody_gives_pieces_is_left(
    tmp_path: Path, client: Client, soon_lost: None
) -> None:
    """Its signer only says so, and is silent then: the other list is gone by."""
    for liars, honests in (("p", "q"), ("q", "p")):
        liar = FakePeer(liars, holding(BLOB, sending=forgetful, listed=false_bytes()))
        honest = FakePeer(honests, holding(BLOB))
        async with liar_and_honest(tmp_path / liars, liar, honest) as a:
            assert (await client.blob(a, "app", BLOB)).body == BLOB
            assert metric(a, FAULTS, peer=honests) == 0


@pytest.mark.usefixtures("soon_lost")
async def test_a_wrong_list_alone_never_makes_a_body_that_looks_whole(
    tmp_path: Path, client: Client
) -> None:
    """The last piece is withheld, the connection cut, and the signer banned."""
    async with (
        FakePeer("p", holding(false_bytes(), name=sha256(BLOB))) as p,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.blob(a, "app", BLOB)
        assert metric(a, FAULTS, peer="p", fault="corrupt") == 1
        await eventually("nothing stays", lambda: unfinished(a) == [])
        assert (await client.blob(a, "app", BLOB)).status == 404


async def test_many_liars_do_not_outnumber_one_honest_node(tmp_path: Path, client: Client) -> None:
    """Each with a list of its own, of another size, and the bytes for it."""
    *liars, last = asking_order(sha256(BLOB), *(f"n{number}" for number in range(8)))
    async with AsyncExitStack() as stack, running(tmp_path, "a") as a:
        for number, name in enumerate(liars):
            lie = holding(BLOB[number + 1 :], name=sha256(BLOB))
            await (await stack.enter_async_context(FakePeer(name, lie))).join(a)
        await (await stack.enter_async_context(FakePeer(last, holding(BLOB)))).join(a)
        answer = await client.blob(a, "app", BLOB)
        assert (answer.status, answer.body) == (200, BLOB)
        assert metric(a, FAULTS, peer=last, fault="corrupt") == 0


async def test_liars_with_one_list_are_all_banned_for_it(tmp_path: Path, client: Client) -> None:
    """Two that agree outvote the honest one, once."""
    lie = holding(false_bytes(), name=sha256(BLOB))
    async with (
        FakePeer("p", lie) as p,
        FakePeer("q", lie) as q,
        FakePeer("r", holding(BLOB)) as r,
        running(tmp_path, "a") as a,
    ):
        for peer in (p, q, r):
            await peer.join(a)
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        assert metric(a, FAULTS, peer="p", fault="corrupt") == 1
        assert metric(a, FAULTS, peer="q", fault="corrupt") == 1
        assert metric(a, FAULTS, peer="r") == 0


@pytest.mark.parametrize("kind", ["another key", "another blob", "short", "no document", "500"])
async def test_a_list_that_is_none_is_passed_over(
    kind: str, tmp_path: Path, client: Client
) -> None:
    """And not believed, whoever is said to have signed it."""
    digest = sha256(BLOB)
    liar, honest = FakePeer("p", holding(BLOB)), FakePeer("q", holding(BLOB))
    true = statement(liar.signer, digest, BLOB)
    other = statement(honest.signer, digest, BLOB)
    bodies = {
        "another key": msgspec.json.encode(msgspec.structs.replace(true, key=other.key)),
        "another blob": msgspec.json.encode(statement(liar.signer, sha256(b""), BLOB)),
        "short": msgspec.json.encode(msgspec.structs.replace(true, hashes=true.hashes[:-32])),
        "no document": b"x" * 100,
        "500": b"",
    }

    async def state(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=bodies[kind], status=500 if kind == "500" else 200)

    liar.state = state
    async with liar_and_honest(tmp_path, liar, honest) as a:
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        assert metric(a, FAULTS, peer="p") == 1
        assert metric(a, FAULTS, peer="q") == 0


async def test_who_never_says_its_list_is_not_waited_for(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are asked after a while, and then it is too late."""
    monkeypatch.setattr(agreement, "PATIENCE_S", 0.1)
    names = asking_order(sha256(BLOB), *"pqrs")
    async with AsyncExitStack() as stack, running(tmp_path, "a") as a:
        for name in names[:3]:
            peer = await stack.enter_async_context(FakePeer(name, holding(BLOB)))
            peer.state = hanging
            await peer.join(a)
        honest = await stack.enter_async_context(FakePeer(names[3], holding(BLOB)))
        await honest.join(a)
        assert (await client.blob(a, "app", BLOB)).body == BLOB


@pytest.mark.usefixtures("late")
async def test_a_lie_about_the_size_never_makes_a_body_that_looks_whole(
    tmp_path: Path, client: Client, soon_lost: None
) -> None:
    """Headers may go out with the liar's size; then the blob comes from an honest node."""
    first, second = asking_order(sha256(SMALL), "p", "q")
    liar = FakePeer(first, holding(SMALL, sending=forgetful, size=len(SMALL) // 2))
    async with liar_and_honest(tmp_path, liar, FakePeer(second, holding(SMALL))) as a:
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.blob(a, "app", SMALL)
        await eventually("the blob is here", lambda: not unfinished(a))
        assert (await client.blob(a, "app", SMALL)).body == SMALL


# -- nodes that break off, stall or die


@pytest.mark.parametrize("at", [1, 100_000, -1])
async def test_the_next_node_goes_on_where_one_broke_off(
    at: int, tmp_path: Path, client: Client
) -> None:
    """No piece is fetched twice."""
    dying, alive = FakePeer("p", holding(BLOB, sending=cut(at))), FakePeer("q", holding(BLOB))
    async with liar_and_honest(tmp_path, dying, alive) as a:
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        assert metric(a, "oci_mesh_peer_received_bytes_total", peer="p") == 0
        assert metric(a, "oci_mesh_peer_received_bytes_total", peer="q") == len(BLOB)
        assert metric(a, FAULTS, peer="p", fault="cut") >= 1
        assert len(alive.ranges) == len(set(alive.ranges)) == PIECES.count


async def test_a_node_that_breaks_off_is_not_asked_again_and_again(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch, soon_lost: None
) -> None:
    """Though it is alive and well each time, as gossip says: the fetch comes to an end."""
    async with FakePeer("p", holding(BLOB, sending=cut(1000))) as p, running(tmp_path, "a") as a:
        await p.join(a)
        monkeypatch.setattr(a._gossip, "failed", lambda member_id, reason: None)
        assert (await client.blob(a, "app", BLOB)).status == 404
        assert len(p.ranges) <= 2 * swarm.FIRST_WINDOW


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sending", [stalling, silent])
async def test_a_node_that_stalls_is_left_for_the_next(
    sending: Sending, tmp_path: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds the connection open and sends nothing (more); and is named for it: `slow`, if the
    other was asked as well and gave it in time.
    """
    stalled, alive = FakePeer("p", holding(BLOB, sending=sending)), FakePeer("q", holding(BLOB))
    async with liar_and_honest(tmp_path, stalled, alive) as a:
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        faults = {f: metric(a, FAULTS, peer="p", fault=f) for f in ("stalled", "slow")}
        assert sum(faults.values()) >= 1
        assert "node p: stalled" in caplog.text or "node p: slow" in caplog.text


@pytest.mark.usefixtures("impatient", "soon_lost")
@pytest.mark.parametrize("sending", [stalling, silent])
async def test_a_node_that_stalls_alone_is_given_up(
    sending: Sending, tmp_path: Path, client: Client
) -> None:
    """The client goes elsewhere."""
    async with FakePeer("p", holding(BLOB, sending=sending)) as p, running(tmp_path, "a") as a:
        await p.join(a)
        assert (await client.blob(a, "app", BLOB)).status == 404
        assert metric(a, FAULTS, peer="p", fault="stalled") >= 1


async def test_a_node_that_is_busy_for_ever_is_given_up(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no fault, so it gets longer."""
    monkeypatch.setattr(transfer, "_LOOK_S", 0.1)
    monkeypatch.setattr(transfer, "GIVE_UP_S", 1.0)
    busy = holding(BLOB, sending=refusing(Fault.BUSY))
    async with FakePeer("p", busy) as p, running(tmp_path, "a") as a:
        await p.join(a)
        assert (await client.blob(a, "app", BLOB)).status == 404
        assert metric(a, FAULTS) == 0


async def test_a_node_that_is_busy_at_first_is_asked_again(tmp_path: Path, client: Client) -> None:
    """And gives it then."""

    async def sending(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        return await (refusing(Fault.BUSY) if len(p.ranges) < 5 else whole)(request, content)

    async with FakePeer("p", holding(BLOB, sending=sending)) as p, running(tmp_path, "a") as a:
        await p.join(a)
        assert (await client.blob(a, "app", BLOB)).body == BLOB


async def test_a_node_that_takes_no_question_is_left_out(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts connections, and is silent; others are waited for no longer than it."""
    monkeypatch.setattr(client_module, "ANSWER_S", 1.0)
    async with (
        FakePeer("p", hanging) as p,
        FakePeer("q", holding(BLOB)) as q,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        await q.join(a)
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        assert metric(a, FAULTS, peer="p", fault="unreachable") == 1


async def test_a_node_that_died_costs_nothing_but_its_content(
    tmp_path: Path, client: Client
) -> None:
    """It is still held for alive when it is asked."""
    async with (
        FakePeer("q", holding(BLOB)) as q,
        running(tmp_path, "a") as a,
    ):
        async with FakePeer("p", holding(BLOB)) as p:
            await p.join(a)
        await q.join(a)
        assert (await client.blob(a, "app", BLOB)).body == BLOB


# -- many clients, slow fetches


async def test_concurrent_pulls_cost_one_transfer(tmp_path: Path, client: Client) -> None:
    """Twenty clients, some of parts; real nodes; the holder counts what it sent."""
    image = make_image("single flight", len(BLOB))
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await client.push(a, "app", image)
        layer = image.blobs[1]
        async with asyncio.TaskGroup() as group:
            pulls = [group.create_task(client.blob(b, "app", layer)) for _ in range(20)]
            part = group.create_task(client.blob(b, "app", layer, Range="bytes=2000000-2000009"))
        assert all(pull.result().body == layer for pull in pulls)
        assert part.result().body == layer[2_000_000:2_000_010]
        assert metric(a, "oci_mesh_peer_sent_bytes_total", peer="b") == len(layer)
        assert metric(b, "oci_mesh_client_sent_bytes_total") == 20 * len(layer) + 10


async def test_pulls_that_come_while_others_search_cost_no_second_transfer(
    tmp_path: Path, client: Client
) -> None:
    """A node that is slow to answer who has it makes their searches end at different times."""
    asked = 0

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        if request.method == "HEAD":
            asked += 1
            await asyncio.sleep(0.02 * asked)
        return await holding(SMALL)(request)

    async with FakePeer("p", serve) as p, running(tmp_path, "a") as a:
        await p.join(a)
        async with asyncio.TaskGroup() as group:
            pulls = [group.create_task(client.blob(a, "app", SMALL)) for _ in range(20)]
        assert all(pull.result().body == SMALL for pull in pulls)
        assert p.count("GET") == 1


async def test_parallel_open_ranges_that_are_dropped_cost_nothing(
    tmp_path: Path, client: Client
) -> None:
    """As containerd asks: fifty from here to the end, all but one dropped after a few bytes."""
    async with FakePeer("p", holding(BLOB)) as p, running(tmp_path, "a") as a:
        await p.join(a)
        before = open_files()
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(_drop(a, number * 50_000))
            whole_pull = group.create_task(client.blob(a, "app", BLOB))
        assert whole_pull.result().body == BLOB
        assert len(p.ranges) == PIECES.count
        assert p.count("HEAD") == 1
        await eventually("nothing is open", lambda: open_files() == before)


async def _drop(node: Node, start: int) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(node.url + PATH, headers={"Range": f"bytes={start}-"}) as response,
    ):
        assert response.status == 206
        assert await response.content.readexactly(10) == BLOB[start : start + 10]


def open_files() -> int:
    """Regular files that this process has open, of blobs."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        count += "/uploads/" in target or "/blobs/" in target
    return count


@pytest.mark.usefixtures("late")
async def test_a_client_that_goes_away_takes_nothing_from_the_others(
    tmp_path: Path, client: Client
) -> None:
    """Not even the one whose request began the fetch."""
    go_on = asyncio.Event()
    async with (
        FakePeer("p", holding(BLOB, sending=paused(HALF, go_on))) as p,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        async with aiohttp.ClientSession() as leaving:
            response = await leaving.get(a.url + PATH)
            assert response.status == 200
            async with client.session.get(a.url + PATH) as staying:
                response.close()
                go_on.set()
                assert await staying.read() == BLOB
        assert len(p.ranges) == PIECES.count


async def test_a_client_has_the_first_bytes_long_before_the_last(
    tmp_path: Path, client: Client
) -> None:
    """As they are verified, piece by piece, in order."""
    go_on = asyncio.Event()
    sending = paused(HALF, go_on)
    async with FakePeer("p", holding(BLOB, sending=sending)) as p, running(tmp_path, "a") as a:
        await p.join(a)
        async with client.session.get(a.url + PATH) as response:
            here = PIECES.span(PIECES.at(HALF))[0]
            assert await response.content.readexactly(here) == BLOB[:here]
            assert response.content.total_bytes == here, "of the piece half-way nothing is given"
            go_on.set()
            assert await response.read() == BLOB[here:]


@pytest.mark.usefixtures("late")
async def test_what_a_client_waits_for_is_fetched_first(tmp_path: Path, client: Client) -> None:
    """A range in the middle, while the first pieces do not come."""
    go_on = asyncio.Event()
    wanted = 8

    async def sending(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        if request.headers["Range"].startswith("bytes=0-"):
            await go_on.wait()
        elif len(p.ranges) <= swarm.FIRST_WINDOW:
            await asked.wait()
        return await whole(request, content)

    asked = asyncio.Event()
    async with FakePeer("p", holding(BLOB, sending=sending)) as p, running(tmp_path, "a") as a:
        await p.join(a)
        async with asyncio.TaskGroup() as group:
            all_of_it = group.create_task(client.blob(a, "app", BLOB))
            await eventually("it began", lambda: len(p.ranges) == swarm.FIRST_WINDOW)
            start, stop = PIECES.span(wanted)
            header = f"bytes={start + 5}-{stop - 1}"
            part = group.create_task(client.blob(a, "app", BLOB, Range=header))
            fetching = a.source._sources[1]._blobs  # type: ignore[attr-defined]
            [running_fetch] = fetching.values()
            again = running_fetch.transfer._swarm._again
            await eventually("the part is wanted", lambda: wanted in again)
            asked.set()
            assert (await part).body == BLOB[start + 5 : stop]
            order = [PIECES.at(first) for first, _ in p.ranges]
            before = swarm.FIRST_WINDOW + 1  # those that were asked, and what the other waits for
            assert order.index(wanted) <= before
            go_on.set()
        assert all_of_it.result().body == BLOB


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("sending", [whole, flipped])
async def test_of_the_last_piece_nothing_is_given_before_all_is_right(
    sending: Sending, tmp_path: Path, client: Client, soon_lost: None
) -> None:
    """All but the last byte is here: then the end comes, or the connection is cut."""
    go_on = asyncio.Event()
    last = holding(BLOB, sending=paused(len(BLOB) - 1, go_on, sending))
    async with FakePeer("p", last) as p, running(tmp_path, "a") as a:
        await p.join(a)
        async with client.session.get(a.url + PATH) as response:
            assert response.status == 200
            assert response.headers["Docker-Content-Digest"] == sha256(BLOB)
            assert await response.content.readexactly(LAST) == BLOB[:LAST]
            for _ in range(3):  # what was sent to us by now would have come before these
                await client.request("GET", a, "/healthz")
            assert response.content.total_bytes == LAST
            go_on.set()
            if sending is whole:
                assert await response.read() == BLOB[LAST:]
            else:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
                assert response.content.total_bytes == LAST


@pytest.mark.usefixtures("late")
async def test_a_late_range_is_the_right_part(tmp_path: Path, client: Client) -> None:
    """Its headers are made before the bytes are known."""
    async with FakePeer("p", holding(BLOB)) as p, running(tmp_path, "a") as a:
        await p.join(a)
        part = await client.blob(a, "app", BLOB, Range=f"bytes={HALF}-")
        assert (part.status, part.body) == (206, BLOB[HALF:])


async def test_a_small_blob_costs_two_round_trips(tmp_path: Path, client: Client) -> None:
    """Who has it, and the blob: no list is asked for, and no search made."""
    async with FakePeer("p", holding(SMALL)) as p, running(tmp_path, "a") as a:
        await p.join(a)
        assert (await client.blob(a, "app", SMALL)).body == SMALL
        assert (p.count("HEAD"), p.count("GET"), len(p.asked)) == (1, 1, 2)


# -- this node


@pytest.mark.parametrize("blob", [BLOB, SMALL])
async def test_a_full_disk_here_is_not_found_and_no_fault_of_peers(
    blob: bytes, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client goes elsewhere; when there is room again, the blob comes."""
    async with FakePeer("p", holding(blob)) as p, running(tmp_path, "a") as a:
        await p.join(a)

        def full(*_: object) -> None:
            raise StorageFull("no room")

        for place in ("DiskPartial.write", "Partials.hold"):
            with monkeypatch.context() as patch:
                patch.setattr(f"oci_mesh.store.partials.{place}", full)
                assert (await client.blob(a, "app", blob)).status == 404
            await eventually("its room is free", lambda: unfinished(a) == [])
        assert metric(a, FAULTS) == 0
        assert (await client.blob(a, "app", blob)).body == blob


@pytest.mark.usefixtures("late")
async def test_a_node_that_stops_leaves_nothing_open_of_a_fetch_under_way(
    tmp_path: Path, client: Client
) -> None:
    """No task, no file, no lock; its clients see that they did not get all. The pieces that came
    stay on disk, and are not fetched again.
    """
    never = asyncio.Event()
    before_all = open_files()
    async with FakePeer("p", holding(BLOB, sending=paused(HALF, never))) as p:
        async with running(tmp_path, "a") as a:
            await p.join(a)
            async with client.session.get(a.url + PATH) as response:
                here = PIECES.span(PIECES.at(HALF))[0]
                await response.content.readexactly(here)
                before = asyncio.all_tasks()
                await stop(a)
                assert asyncio.all_tasks() < before
                assert open_files() == before_all
                with pytest.raises(aiohttp.ClientError):
                    await response.read()
            assert unfinished(a) == [len(BLOB)]
        never.set()
        p.ranges.clear()
        async with running(tmp_path, "a") as a:
            await p.join(a)
            assert (await client.blob(a, "app", BLOB)).body == BLOB
            assert min(p.ranges)[0] == here


async def test_what_a_restart_left_is_checked_again(tmp_path: Path, client: Client) -> None:
    """A byte on disk is another now: that piece is fetched again, and only that one of the old."""
    never = asyncio.Event()
    async with FakePeer("p", holding(BLOB, sending=paused(HALF, never))) as p:
        async with running(tmp_path, "a") as a:
            await p.join(a)
            async with client.session.get(a.url + PATH) as response:
                here = PIECES.span(PIECES.at(HALF))[0]
                await response.content.readexactly(here)
        assert isinstance(a.store, DiskStore)
        directory = os.path.dirname(a.store._layout.upload("x"))
        [left] = os.scandir(directory)
        with open(left.path, "r+b") as file:
            file.seek(PIECES.span(2)[0] + 7)
            file.write(bytes([BLOB[PIECES.span(2)[0] + 7] ^ 1]))
        never.set()
        p.ranges.clear()
        async with running(tmp_path, "a") as a:
            await p.join(a)
            assert (await client.blob(a, "app", BLOB)).body == BLOB
            old = [PIECES.at(first) for first, _ in p.ranges if first < here]
            assert old == [2]
            assert metric(a, FAULTS) == 0
