"""Blobs from nodes that lie, break off, stall or die: exact bytes, or none that look whole."""

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.errors import StorageFull
from oci_mesh.mesh import client as client_module
from oci_mesh.mesh import fetch
from oci_mesh.store.disk import DiskStore
from tests.images import sha256
from tests.mesh.fake_peer import (
    FakePeer,
    Sending,
    asking_order,
    compressed,
    cut,
    failing,
    flipped,
    forgetful,
    holding,
    longer,
    overflowing,
    paused,
    redirecting,
    shorter,
    unsized,
    whole,
)
from tests.nodes import Client, eventually, make_image, metric, noise, running, stop

BLOB = noise(3_000_000)
HALF = len(BLOB) // 2
PATH = f"/v2/app/blobs/{sha256(BLOB)}"

CORRUPT = {"flipped": flipped, "compressed": compressed}
BROKEN = {
    "cut at once": cut(0),
    "cut in the middle": cut(HALF),
    "cut before the last byte": cut(len(BLOB) - 1),
    "shorter": shorter,
    "longer": longer,
    "overflowing": overflowing,
    "unsized": unsized,
    "forgetful": forgetful,
    "failing": failing,
    "redirecting": redirecting,
}
WRONG = {**CORRUPT, **BROKEN}
wrong = pytest.mark.parametrize("sending", WRONG.values(), ids=WRONG)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fetch takes too long for headers to wait for it."""
    monkeypatch.setattr(fetch, "EARLY_S", 0.0)


def unfinished(node: Node) -> list[int]:
    """The sizes of the uploads on a node's disk."""
    assert isinstance(node.store, DiskStore)
    directory = os.path.dirname(node.store._layout.upload("x"))
    return [entry.stat().st_size for entry in os.scandir(directory)]


# -- liars


@wrong
async def test_an_honest_node_makes_up_for_one_that_is_not(
    sending: Sending, tmp_path: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """The liar is asked first: exact bytes all the same, and it is named."""
    first, second = asking_order(sha256(BLOB), "p", "q")
    async with (
        FakePeer(first, holding(BLOB, sending=sending)) as liar,
        FakePeer(second, holding(BLOB)) as honest,
        running(tmp_path, "a") as a,
    ):
        await liar.join(a)
        await honest.join(a)
        answer = await client.blob(a, "app", BLOB)
        assert (answer.status, answer.body) == (200, BLOB)
        assert liar.count("GET") >= 1
        assert metric(a, "oci_mesh_peer_faults_total", peer=first) >= 1
        assert metric(a, "oci_mesh_peer_faults_total", peer=second) == 0
        assert f"node {first}: " in caplog.text
        assert unfinished(a) == []


@wrong
async def test_liars_alone_give_not_found(sending: Sending, tmp_path: Path, client: Client) -> None:
    """Never wrong bytes, and nothing of them stays."""
    async with (
        FakePeer("p", holding(BLOB, sending=sending)) as p,
        FakePeer("q", holding(BLOB, sending=sending)) as q,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        await q.join(a)
        assert (await client.blob(a, "app", BLOB)).status == 404
        assert unfinished(a) == []
        assert (await a.store.usage()).blobs == 0


@pytest.mark.usefixtures("late")
@wrong
async def test_liars_alone_cut_the_connection_once_headers_are_out(
    sending: Sending, tmp_path: Path, client: Client
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


async def test_no_peer_sends_a_node_elsewhere(tmp_path: Path, client: Client) -> None:
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


@pytest.mark.parametrize("sending", CORRUPT.values(), ids=CORRUPT)
async def test_who_sent_wrong_bytes_is_asked_for_nothing_more(
    sending: Sending, tmp_path: Path, client: Client
) -> None:
    """Neither for this blob nor for another; it still may gossip."""
    other = noise(1000, "other")
    async with (
        FakePeer("p", holding(BLOB, other, sending=sending)) as p,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        await client.blob(a, "app", BLOB)
        assert metric(a, "oci_mesh_peer_faults_total", peer="p", fault="corrupt") == 1
        p.asked.clear()
        assert (await client.blob(a, "app", other)).status == 404
        assert p.asked == []
        await p.join(a)


async def test_a_first_part_that_is_wrong_does_not_spoil_the_honest_rest(
    tmp_path: Path, client: Client
) -> None:
    """The liar breaks off, the honest one goes on, and it does not add up. Each alone then shows
    who it was; the honest one is not blamed.
    """

    async def wrong_half(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        return await cut(HALF)(request, bytes(len(content)))

    first, second = asking_order(sha256(BLOB), "p", "q")
    async with (
        FakePeer(first, holding(BLOB, sending=wrong_half)) as liar,
        FakePeer(second, holding(BLOB)) as honest,
        running(tmp_path, "a") as a,
    ):
        await liar.join(a)
        await honest.join(a)
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        assert metric(a, "oci_mesh_peer_faults_total", peer=second) == 0


async def test_a_wrong_rest_is_told_from_an_honest_first_part(
    tmp_path: Path, client: Client
) -> None:
    """The other way round: who has it, but broke off once, is not taken for the liar."""
    broke_off = asyncio.Event()

    async def once_cut(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        sending = whole if broke_off.is_set() else cut(HALF)
        broke_off.set()
        return await sending(request, content)

    first, second = asking_order(sha256(BLOB), "p", "q")
    async with (
        FakePeer(first, holding(BLOB, sending=once_cut)) as honest,
        FakePeer(second, holding(BLOB, sending=flipped)) as liar,
        running(tmp_path, "a") as a,
    ):
        await honest.join(a)
        await liar.join(a)
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        assert metric(a, "oci_mesh_peer_faults_total", peer=first, fault="corrupt") == 0


async def test_many_liars_do_not_outnumber_one_honest_node(tmp_path: Path, client: Client) -> None:
    """Each claims another size, and all are asked before the honest one."""
    *liars, last = asking_order(sha256(BLOB), *(f"n{number}" for number in range(8)))
    async with AsyncExitStack() as stack, running(tmp_path, "a") as a:
        for number, name in enumerate(liars):
            lie = holding(BLOB[number + 1 :], name=sha256(BLOB))
            await (await stack.enter_async_context(FakePeer(name, lie))).join(a)
        await (await stack.enter_async_context(FakePeer(last, holding(BLOB)))).join(a)
        answer = await client.blob(a, "app", BLOB)
        assert (answer.status, answer.body) == (200, BLOB)
        assert metric(a, "oci_mesh_peer_faults_total", fault="corrupt") == len(liars)


@pytest.mark.usefixtures("late")
async def test_a_lie_about_the_size_never_makes_a_body_that_looks_whole(
    tmp_path: Path, client: Client
) -> None:
    """Headers went out with the liar's size; then the blob came from an honest node."""
    first, second = asking_order(sha256(BLOB), "p", "q")
    liar = FakePeer(first, holding(BLOB, sending=forgetful, size=HALF))
    async with liar, FakePeer(second, holding(BLOB)) as honest, running(tmp_path, "a") as a:
        await liar.join(a)
        await honest.join(a)
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.blob(a, "app", BLOB)
        await eventually("the blob is here", lambda: not unfinished(a))
        assert (await client.blob(a, "app", BLOB)).body == BLOB


# -- nodes that break off, stall or die


@pytest.mark.parametrize("at", [1, HALF, len(BLOB) - 1])
async def test_the_next_node_goes_on_where_one_broke_off(
    at: int, tmp_path: Path, client: Client
) -> None:
    """No byte is fetched twice."""
    first, second = asking_order(sha256(BLOB), "p", "q")
    async with (
        FakePeer(first, holding(BLOB, sending=cut(at))) as dying,
        FakePeer(second, holding(BLOB)) as alive,
        running(tmp_path, "a") as a,
    ):
        await dying.join(a)
        await alive.join(a)
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        assert metric(a, "oci_mesh_peer_received_bytes_total", peer=first) == at
        assert metric(a, "oci_mesh_peer_received_bytes_total", peer=second) == len(BLOB) - at
        assert metric(a, "oci_mesh_peer_faults_total", peer=first, fault="cut") == 1


async def test_a_node_that_breaks_off_is_not_asked_again_and_again(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is alive and well each time, as gossip says: the fetch comes to an end."""
    async with FakePeer("p") as p, running(tmp_path, "a") as a:

        async def sending(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
            return await (cut(HALF) if p.count("GET") < 5 else whole)(request, content)

        p.serve = holding(BLOB, sending=sending)
        await p.join(a)
        monkeypatch.setattr(a._gossip, "failed", lambda member_id: None)
        assert (await client.blob(a, "app", BLOB)).status == 404
        assert p.count("GET") == 1


async def test_a_node_that_stalls_is_left_for_the_next(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the connection open and sends nothing more."""
    monkeypatch.setattr(client_module, "STALL_S", 1.0)
    never = asyncio.Event()
    first, second = asking_order(sha256(BLOB), "p", "q")
    async with (
        FakePeer(first, holding(BLOB, sending=paused(HALF, never))) as stalled,
        FakePeer(second, holding(BLOB)) as alive,
        running(tmp_path, "a") as a,
    ):
        await stalled.join(a)
        await alive.join(a)
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        assert metric(a, "oci_mesh_peer_received_bytes_total", peer=second) == len(BLOB) - HALF
        never.set()


async def test_a_node_that_takes_no_question_is_left_out(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts connections, and is silent; others are waited for no longer than it."""
    monkeypatch.setattr(client_module, "ANSWER_S", 1.0)
    never = asyncio.Event()

    async def silent(request: web.BaseRequest) -> web.StreamResponse:
        await never.wait()
        return web.Response(status=404)

    async with (
        FakePeer("p", silent) as p,
        FakePeer("q", holding(BLOB)) as q,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        await q.join(a)
        assert (await client.blob(a, "app", BLOB)).body == BLOB
        assert metric(a, "oci_mesh_peer_faults_total", peer="p", fault="unreachable") == 1
        never.set()


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
    """Twenty clients, real nodes; the holder counts what it sent."""
    image = make_image("single flight", len(BLOB))
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await client.push(a, "app", image)
        layer = image.blobs[1]
        async with asyncio.TaskGroup() as group:
            pulls = [group.create_task(client.blob(b, "app", layer)) for _ in range(20)]
        assert all(pull.result().body == layer for pull in pulls)
        assert metric(a, "oci_mesh_peer_sent_bytes_total", peer="b") == len(layer)
        assert metric(b, "oci_mesh_client_sent_bytes_total") == 20 * len(layer)


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
        return await holding(BLOB)(request)

    async with FakePeer("p", serve) as p, running(tmp_path, "a") as a:
        await p.join(a)
        async with asyncio.TaskGroup() as group:
            pulls = [group.create_task(client.blob(a, "app", BLOB)) for _ in range(20)]
        assert all(pull.result().body == BLOB for pull in pulls)
        assert p.count("GET") == 1


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
        assert p.count("GET") == 1


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("sending", [whole, flipped])
async def test_headers_come_early_and_no_byte_before_the_last_is_verified(
    sending: Sending, tmp_path: Path, client: Client
) -> None:
    """All but the last byte is here: the client has nothing of it. Then everything or nothing."""
    go_on = asyncio.Event()
    async with (
        FakePeer("p", holding(BLOB, sending=paused(len(BLOB) - 1, go_on, sending))) as p,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        async with client.session.get(a.url + PATH) as response:
            assert response.status == 200
            assert response.headers["Docker-Content-Digest"] == sha256(BLOB)
            await eventually("nearly all is here", lambda: unfinished(a) == [len(BLOB) - 1])
            for _ in range(3):  # what was sent to us by now would have come before these
                await client.request("GET", a, "/healthz")
            assert response.content.total_bytes == 0
            go_on.set()
            if sending is whole:
                assert await response.read() == BLOB
            else:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
                assert response.content.total_bytes == 0


@pytest.mark.usefixtures("late")
async def test_a_late_range_is_the_right_part(tmp_path: Path, client: Client) -> None:
    """Its headers are made before the bytes are known."""
    async with FakePeer("p", holding(BLOB)) as p, running(tmp_path, "a") as a:
        await p.join(a)
        part = await client.blob(a, "app", BLOB, Range=f"bytes={HALF}-")
        assert (part.status, part.body) == (206, BLOB[HALF:])


# -- this node


async def test_a_full_disk_here_is_not_found_and_no_fault_of_peers(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client goes elsewhere; when there is room again, the blob comes."""
    async with FakePeer("p", holding(BLOB)) as p, running(tmp_path, "a") as a:
        await p.join(a)

        async def full(*_: object) -> None:
            raise StorageFull("no room")

        with monkeypatch.context() as patch:
            patch.setattr("oci_mesh.store.uploads.DiskUpload.write", full)
            assert (await client.blob(a, "app", BLOB)).status == 404
        assert metric(a, "oci_mesh_peer_faults_total") == 0
        assert unfinished(a) == []
        assert (await client.blob(a, "app", BLOB)).body == BLOB


@pytest.mark.usefixtures("late")
async def test_a_node_that_stops_leaves_nothing_of_a_fetch_under_way(
    tmp_path: Path, client: Client
) -> None:
    """No task, no file, no lock; its clients see that they did not get all."""
    never = asyncio.Event()
    async with FakePeer("p", holding(BLOB, sending=paused(HALF, never))) as p:
        async with running(tmp_path, "a") as a:
            await p.join(a)
            async with client.session.get(a.url + PATH) as response:
                await eventually("half is here", lambda: unfinished(a) == [HALF])
                before = asyncio.all_tasks()
                await stop(a)
                assert asyncio.all_tasks() < before
                with pytest.raises(aiohttp.ClientError):
                    await response.read()
            assert unfinished(a) == []
        never.set()
        async with running(tmp_path, "a") as a:
            await p.join(a)
            assert (await client.blob(a, "app", BLOB)).body == BLOB
