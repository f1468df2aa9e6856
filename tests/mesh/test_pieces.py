"""What a node answers that is asked for pieces: only what is right, in turn, and never for ever."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from oci_mesh import Node
from oci_mesh.errors import PeerError
from oci_mesh.mesh import gate as gate_module
from oci_mesh.mesh import pieces, wire
from oci_mesh.mesh.gate import Gate
from oci_mesh.mesh.server import PeerServer
from oci_mesh.spec.digest import Digest
from oci_mesh.swarm import uplink
from oci_mesh.swarm.accusations import MAX_NAMED, Accusations
from oci_mesh.swarm.events import Command, Send
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.statement import Statement
from oci_mesh.swarm.swarm import FIRST_WINDOW
from oci_mesh.swarm.uplink import Uplink
from oci_mesh.swarm.view import SLOTS, WAVE_BITS
from tests.images import sha256
from tests.mesh.fake_peer import FakePeer, holding, paused, piece_hashes
from tests.mesh.swarms import mesh_source
from tests.nodes import Answer, Client, eventually, metric, noise, running

BLOB = noise(3_000_000)
SMALL = noise(300_000)
PIECES = PieceMap(len(BLOB))
LIST = Statement(sha256(BLOB), len(BLOB), piece_hashes(BLOB), "", b"", b"").list_id


@pytest.fixture
async def node(tmp_path: Path, client: Client) -> AsyncIterator[Node]:
    """One that has a large blob and a small one."""
    async with running(tmp_path, "a") as a:
        for blob in (BLOB, SMALL):
            await client.push_blob(a, "app", blob)
        yield a


async def ask(client: Client, node: Node, blob: bytes, range_: str, **headers: str) -> Answer:
    """As a node does."""
    url = f"http://{node.mesh_address}/v2/app/blobs/{sha256(blob)}"
    fields = {"Range": range_, wire.SLOT_HEADER: "0", wire.LIST_HEADER: LIST, **headers}
    async with client.session.get(url, headers=fields) as response:
        return Answer(response.status, dict(response.headers), await response.read())


def span(piece: int) -> str:
    """As a header."""
    start, stop = PIECES.span(piece)
    return f"bytes={start}-{stop - 1}"


async def test_a_piece_is_a_range(node: Node, client: Client) -> None:
    """With the size of the whole, and how far the sender is."""
    got = await ask(client, node, BLOB, span(3))
    start, stop = PIECES.span(3)
    assert (got.status, got.body) == (206, BLOB[start:stop])
    assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(BLOB)}"
    assert got.headers[wire.FRONTIER_HEADER] == str(PIECES.count)
    sent = "oci_mesh_peer_sent_bytes_total"
    await eventually("it is counted", lambda: metric(node, sent) == stop - start)


async def test_a_piece_goes_out_with_its_head(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head by itself would be a packet more, and a wake-up of the other node, for each piece."""
    sizes = []

    def watch(transport: asyncio.Transport) -> None:
        write = transport.write

        def note(data: bytes) -> None:
            sizes.append(len(data))
            write(data)

        monkeypatch.setattr(transport, "write", note)

    monkeypatch.setattr(pieces, "_keep_little_unsent", watch)
    start, stop = PIECES.span(3)
    assert (await ask(client, node, BLOB, span(3))).body == BLOB[start:stop]
    assert len(sizes) <= 1  # newer versions of Python: none, but one `writelines`
    assert all(size > stop - start for size in sizes)


@pytest.mark.parametrize(
    "range_", ["bytes=0-300000", "bytes=300000-300001", "bytes=-5", "bytes=5-", "bytes=0--1", "x"]
)
async def test_a_range_that_is_not_all_inside_is_refused_with_the_size(
    range_: str, node: Node, client: Client
) -> None:
    """Whoever asks believes that the blob has another."""
    got = await ask(client, node, SMALL, range_)
    assert got.status == 416
    assert got.headers["Content-Range"] == f"bytes */{len(SMALL)}"


async def test_who_goes_by_another_list_gets_nothing(node: Node, client: Client) -> None:
    """And who goes by none, for a large blob, hears its size."""
    other = await ask(client, node, BLOB, span(0), **{wire.LIST_HEADER: "0" * 32})
    assert other.status == 409
    none = await ask(client, node, BLOB, span(0), **{wire.LIST_HEADER: ""})
    assert (none.status, none.headers["Content-Range"]) == (416, f"bytes */{len(BLOB)}")


async def test_what_is_not_here_is_missing(node: Node, client: Client) -> None:
    """At once: nobody looks for it elsewhere for another node."""
    got = await ask(client, node, b"nothing", "bytes=0-6", **{wire.WAIT_HEADER: "20"})
    assert (got.status, got.headers[wire.FAULT_HEADER]) == (404, "missing")


async def test_who_has_much_to_send_is_busy(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not for those who have nobody else, until there is no room at all."""
    monkeypatch.setattr(Uplink, "is_busy", lambda self, **_: True)
    busy = await ask(client, node, BLOB, span(0))
    assert (busy.status, busy.headers[wire.FAULT_HEADER]) == (503, "busy")
    final = {wire.FINAL_HEADER: "1"}
    assert (await ask(client, node, BLOB, span(0), **final)).status == 206
    monkeypatch.setattr(uplink, "MAX_QUEUE", 0)
    assert (await ask(client, node, BLOB, span(0), **final)).status == 503


async def test_who_takes_nothing_does_not_keep_the_others_waiting(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are turns stand still; they are cut off, and the next one is served."""
    monkeypatch.setattr(pieces, "TAKEN_S", 0.3)
    blob = noise(40_000_000, "much")
    await client.push_blob(node, "app", blob)
    host, _, port = node.mesh_address.rpartition(":")
    still = []
    size = PieceMap(len(blob)).piece_size
    assert len(blob) // size > 10
    list_id = Statement(sha256(blob), len(blob), piece_hashes(blob), "", b"", b"").list_id
    for _ in range(uplink.SENDS):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        for piece in range(8):  # one after the other: more than all buffers on the way hold
            connection.sendall(
                f"GET /v2/app/blobs/{sha256(blob)} HTTP/1.1\r\nHost: x\r\n"
                f"Range: bytes={piece * size}-{(piece + 1) * size - 1}\r\n"
                f"{wire.SLOT_HEADER}: 0\r\n{wire.LIST_HEADER}: {list_id}\r\n\r\n".encode()
            )
        still.append(connection)
    await asyncio.sleep(0)
    try:
        assert (await ask(client, node, BLOB, span(0), **{wire.FINAL_HEADER: "1"})).status == 206
        await eventually("no turn is taken", lambda: len(_gate(node).uplink) == 0)
    finally:
        for connection in still:
            connection.close()


def _heard(node: Node) -> Mapping[Digest, Accusations]:
    """By those who ask for blobs that are here."""
    server = getattr(node._peers, "__self__", None)
    assert isinstance(server, PeerServer)
    return server._pieces._heard


def _gate(node: Node) -> Gate:
    return mesh_source(node)._tools.gate


# -- who lied is served last


async def served(client: Client, node: Node, *asking: str) -> list[str]:
    """In which order these get a piece that ask one after the other, while all turns are taken."""
    gate, loop, log = _gate(node), asyncio.get_running_loop(), list[str]()
    turns: list[asyncio.Future[None]] = [loop.create_future() for _ in range(uplink.SENDS)]
    for turn in turns:
        gate.uplink.enqueue(turn, 1, loop.time())

    async def one(name: str) -> None:
        headers = {wire.NODE_HEADER: name, wire.FINAL_HEADER: "1"}
        assert (await ask(client, node, BLOB, span(0), **headers)).status == 206
        log.append(name)

    async with asyncio.TaskGroup() as group:
        for count, name in enumerate(asking, 1):
            group.create_task(one(name))
            await eventually("it waits", lambda n=count: len(gate.uplink) == len(turns) + n)  # type: ignore[misc]
        gate._begin(gate.uplink.finished(turns.pop(), loop.time()))  # one at a time, from now on
    for turn in turns:
        gate._begin(gate.uplink.finished(turn, loop.time()))
    return log


@pytest.fixture
async def known(node: Node) -> AsyncIterator[None]:
    """The node knows x, y and z."""
    async with FakePeer("x") as x, FakePeer("y") as y, FakePeer("z") as z:
        for peer in (x, y, z):
            await peer.join(node)
        yield


async def name(client: Client, node: Node, accuser: str, header: str) -> None:
    """Ask for a piece as a node that says that these lied."""
    headers = {wire.NODE_HEADER: accuser, wire.BANNED_HEADER: header}
    assert (await ask(client, node, BLOB, span(1), **headers)).status == 206


@pytest.mark.usefixtures("known")
async def test_whom_two_nodes_accuse_a_seed_serves_last(node: Node, client: Client) -> None:
    """It never took a piece of it, and cannot know; alone it is served like any other."""
    await name(client, node, "x", "z")
    assert await served(client, node, "z", "x") == ["z", "x"]
    await name(client, node, "x", "z")
    await name(client, node, "y", "other,z")
    assert await served(client, node, "z", "x", "y") == ["x", "y", "z"]
    assert await served(client, node, "z") == ["z"]


@pytest.mark.usefixtures("known")
async def test_who_is_served_last_is_told_to_come_again_where_others_are_served(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not left to wait until it takes this node for one that stands still."""
    monkeypatch.setattr(gate_module, "IDLE_S", 60.0)
    monkeypatch.setattr(gate_module, "STARVED_S", 60.0)
    monkeypatch.setattr(gate_module, "LAST_WAIT_S", 0.05)
    for accuser in ("x", "y"):
        await name(client, node, accuser, "z")
    answer = await ask(client, node, BLOB, span(1), **{wire.NODE_HEADER: "z"})
    assert (answer.status, answer.headers[wire.FAULT_HEADER]) == (503, Fault.BUSY)
    assert (await ask(client, node, BLOB, span(1), **{wire.NODE_HEADER: "x"})).status == 206


@pytest.mark.usefixtures("known")
async def test_who_lied_to_it_is_served_last_though_nobody_else_says_so(
    node: Node, client: Client
) -> None:
    """With another blob, and of one that it has."""
    mesh_source(node)._peers.blame("z", "corrupt", PeerError("it lied"))
    assert await served(client, node, "z", "x") == ["x", "z"]


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("accuser", "header"),
    [
        ("stranger", "z"),
        ("", "z"),
        ("y", ""),
        ("y", ",,;"),
        ("y", "z;x"),
        ("y", "Z"),
        ("y", "z" * 8000),
        ("y", "a," * MAX_NAMED + "z"),
        ("y", "nobody," * MAX_NAMED + "z"),
        ("z", "z"),
    ],
)
async def test_what_is_no_accusation_changes_nothing(
    accuser: str, header: str, node: Node, client: Client
) -> None:
    """By whom nobody knows, of nobody, of too many, or of oneself."""
    await name(client, node, "x", "z")
    await name(client, node, accuser, header)
    heard = _heard(node)
    assert not any(accusations.is_accused("z") for accusations in heard.values())
    assert all(len(named) <= MAX_NAMED for a in heard.values() for named in a._named.values())


@pytest.mark.usefixtures("known")
async def test_what_is_heard_of_many_blobs_is_bounded(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were asked for last are kept; nothing is where nobody was accused."""
    monkeypatch.setattr(pieces, "MAX_HEARD", 2)
    blobs = [noise(1000 + i, "heard") for i in range(4)]
    for blob in blobs:
        await client.push_blob(node, "app", blob)
        await ask(client, node, blob, f"bytes=0-{len(blob) - 1}")
        assert not _heard(node)
    accusing = {wire.NODE_HEADER: "x", wire.BANNED_HEADER: "z"}
    for blob in [*blobs, blobs[2]]:
        await ask(client, node, blob, f"bytes=0-{len(blob) - 1}", **accusing)
    kept = [str(digest) for digest in _heard(node)]
    assert kept == [sha256(blobs[3]), sha256(blobs[2])]


# -- of what is on its way


@pytest.fixture
async def fetching(tmp_path: Path, client: Client) -> AsyncIterator[tuple[Node, asyncio.Event]]:
    """A node that has the first piece, and gets the others when told to."""
    go_on = asyncio.Event()
    first = PIECES.span(0)[1]
    async with (
        FakePeer("p", holding(BLOB, sending=paused(first, go_on))) as p,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        async with client.session.get(f"{a.url}/v2/app/blobs/{sha256(BLOB)}") as response:
            assert await response.content.readexactly(first) == BLOB[:first]
            yield a, go_on
        go_on.set()


async def test_what_is_here_of_it_is_given(
    fetching: tuple[Node, asyncio.Event], client: Client
) -> None:
    """Before the rest is there."""
    node, _ = fetching
    got = await ask(client, node, BLOB, span(0))
    start, stop = PIECES.span(0)
    assert (got.status, got.body) == (206, BLOB[start:stop])
    assert int(got.headers[wire.FRONTIER_HEADER]) == 1


@pytest.mark.parametrize("range_", ["bytes=0-2999999", "bytes=0-262144", "bytes=1-262143"])
async def test_nothing_is_given_beside_a_piece(
    range_: str, fetching: tuple[Node, asyncio.Event], client: Client
) -> None:
    """It may not be right yet, or not there."""
    got = await ask(client, fetching[0], BLOB, range_)
    assert got.status == 416


async def test_a_question_waits_for_its_piece(
    fetching: tuple[Node, asyncio.Event], client: Client
) -> None:
    """If the asking node stands after this one, as one with the same slot and a later id does."""
    node, go_on = fetching
    me = {wire.NODE_HEADER: "z", wire.WAIT_HEADER: "20"}
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ask(client, node, BLOB, span(2), **me))
        [fetch] = mesh_source(node)._blobs.values()
        assert fetch.transfer is not None
        held = fetch.transfer._swarm._held
        await eventually("it is held", lambda: len(held) == 1)
        go_on.set()
    start, stop = PIECES.span(2)
    assert waiting.result().body == BLOB[start:stop]


@pytest.mark.parametrize("wait", ["0", "0.05", "-1", "nan", "-inf", "x", "", "1e400x"])
async def test_a_question_waits_no_longer_than_it_says(
    wait: str, fetching: tuple[Node, asyncio.Event], client: Client
) -> None:
    """Whatever it says."""
    node, _ = fetching
    me = {wire.NODE_HEADER: "z", wire.WAIT_HEADER: wait}
    got = await ask(client, node, BLOB, span(FIRST_WINDOW), **me)
    assert (got.status, got.headers[wire.FAULT_HEADER]) == (503, "not yet")


async def test_a_question_of_who_comes_before_is_not_kept(
    fetching: tuple[Node, asyncio.Event], client: Client
) -> None:
    """It may be that one for which this node waits."""
    me = {wire.NODE_HEADER: "0", wire.WAIT_HEADER: "20"}
    got = await ask(client, fetching[0], BLOB, span(2), **me)
    assert (got.status, got.headers[wire.FAULT_HEADER]) == (503, "not yet")


async def test_who_went_away_is_forgotten(
    fetching: tuple[Node, asyncio.Event], client: Client
) -> None:
    """Its question is held no longer."""
    node, _ = fetching
    me = {wire.NODE_HEADER: "z", wire.WAIT_HEADER: "20"}
    asking = asyncio.create_task(ask(client, node, BLOB, span(2), **me))
    [fetch] = mesh_source(node)._blobs.values()
    assert fetch.transfer is not None
    transfer = fetch.transfer
    await eventually("it is held", lambda: len(transfer._swarm._held) == 1)
    asking.cancel()
    await eventually("it is not", lambda: not transfer._swarm._held and not transfer._tickets)


async def test_of_what_is_on_its_way_too_who_is_accused_is_served_last(
    fetching: tuple[Node, asyncio.Event], client: Client
) -> None:
    """Also by a question that was asked before it was."""
    node, go_on = fetching
    me = {wire.NODE_HEADER: "z", wire.WAIT_HEADER: "20"}
    [fetch] = mesh_source(node)._blobs.values()
    assert fetch.transfer is not None
    core, sends = fetch.transfer._swarm, list[Command]()
    served = core._serve
    core._serve = lambda asked: sends.append(served(asked)) or sends[-1]  # type: ignore[method-assign, func-returns-value]
    async with FakePeer("x") as x, FakePeer("z") as z, asyncio.TaskGroup() as group:
        for peer in (x, z):
            await peer.join(node)
        waiting = group.create_task(ask(client, node, BLOB, span(2), **me))
        await eventually("it is held", lambda: len(core._held) == 1)
        for accuser in ("x", "p", "nobody"):
            headers = {wire.NODE_HEADER: accuser, wire.BANNED_HEADER: "z,nobody"}
            assert (await ask(client, node, BLOB, span(0), **headers)).status == 206
        assert core._peers.is_last("z")
        assert not core._peers.is_last("nobody")
        go_on.set()
    assert waiting.result().status == 206
    assert [send for send in sends if isinstance(send, Send) and send.last] == [sends[-1]]


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        ("0", 0),
        ("65537", 65537),
        (str(15_259 << WAVE_BITS), 15_259 << WAVE_BITS),
        (str(SLOTS - 1), SLOTS - 1),
        (str(SLOTS), 0),
        ("1" * 5000, 0),
        ("-1", 0),
        ("\u0661", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_a_slot_of_any_wave_is_understood(text: str | None, slot: int) -> None:
    """One that was taken for the first would put its node before all others: it would wait."""
    assert pieces._slot(text) == slot
