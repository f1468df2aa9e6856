"""Nodes find each other and share names: whoever starts when, whatever is lost, whoever lies."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.errors import PeerError, StorageFull
from oci_mesh.members.clock import MAX_DRIFT_MS
from oci_mesh.members.names import BUCKETS
from oci_mesh.members.table import MAX_MEMBERS, Member
from oci_mesh.mesh import gossip, wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import wall_ms
from oci_mesh.mesh.wire import Exchange
from oci_mesh.spec.names import NameRecord
from tests.mesh.fake_peer import FakePeer, holding
from tests.nodes import (
    Client,
    eventually,
    free_port,
    make_image,
    meet,
    noise,
    running,
    seen_by,
    stop,
)

IMAGE = make_image("gossiped")
pytestmark = pytest.mark.usefixtures("fast_gossip")


def stamp(ahead_ms: int = 0, writer: str = "w") -> str:
    """A stamp so many ms ahead of this machine's clock."""
    return f"{wall_ms() + ahead_ms:012x}-0000-{writer}"


def record(tag: str, stamped: str | None = None) -> NameRecord:
    """A tag of `app` that means `IMAGE`."""
    return NameRecord("app", tag, IMAGE.digest, stamped or stamp())


def knows(node: Node, tag: str) -> bool:
    """Whether a node has heard of this tag of `app`."""
    assert node._gossip is not None
    return node._gossip.register.get("app", tag) is not None


async def rounds(node: Node, count: int = 5) -> None:
    """Let a node gossip some more."""
    goal = node._me.heartbeat + count
    await eventually(f"{count} rounds", lambda: node._me.heartbeat >= goal)


# -- finding each other


async def test_three_nodes_that_know_one_all_find_each_other(tmp_path: Path) -> None:
    """And their addresses are those that they listen on."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        assert {m.address for m in b.members()} == {a.mesh_address, c.mesh_address}
        assert {m.registry for m in b.members()} == {a.url, c.url}


async def test_a_late_joiner_learns_all_names(tmp_path: Path, client: Client) -> None:
    """At once: they are there when it says that it is ready."""
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", IMAGE, "v1")
        await client.push(a, "app", IMAGE, "v2")
        async with running(tmp_path, "b", a.mesh_address) as b:
            assert await client.has(b, "app", IMAGE, "v1")
            assert await client.has(b, "app", IMAGE, "v2")


async def test_nodes_that_start_before_their_seed_find_each_other(tmp_path: Path) -> None:
    """They try again until it is there."""
    seed = f"127.0.0.1:{free_port()}"
    async with running(tmp_path, "b", seed) as b, running(tmp_path, "c", seed) as c:
        assert not seen_by(b)
        async with running(tmp_path, "a", mesh_listen=seed) as a:
            await meet(a, b, c)


async def test_two_meshes_become_one_when_their_seed_comes(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each had a life of its own; then both know all names of both."""
    monkeypatch.setattr(gossip, "SEED_ROUNDS", 3)
    seed = f"127.0.0.1:{free_port()}"
    async with (
        running(tmp_path, "a1", seed) as a1,
        running(tmp_path, "a2", a1.mesh_address) as a2,
        running(tmp_path, "b1", seed) as b1,
        running(tmp_path, "b2", b1.mesh_address) as b2,
    ):
        await meet(a1, a2)
        await meet(b1, b2)
        await client.push(a2, "app", IMAGE, "from-a")
        await client.push(b2, "app", IMAGE, "from-b")
        assert seen_by(a2) == {"a1"}
        async with running(tmp_path, "s", mesh_listen=seed) as s:
            await meet(s, a1, a2, b1, b2)
            for node in (a1, a2, b1, b2):
                await eventually("all names", lambda: knows(node, "from-a"))  # noqa: B023
                await eventually("all names", lambda: knows(node, "from-b"))  # noqa: B023
            assert await client.has(b2, "app", IMAGE, "from-a")


async def test_a_restarted_node_is_the_same_one_again(tmp_path: Path) -> None:
    """The same id without a configured name, on another port, in a later incarnation."""
    async with running(tmp_path, "a") as a:
        settings = {"name": None, "root": tmp_path / "b"}
        async with running(tmp_path, "b", a.mesh_address, **settings) as b:
            first = b._me
            await meet(a, b)
        await eventually("b left", lambda: not seen_by(a))
        async with running(tmp_path, "b", a.mesh_address, **settings) as b:
            await meet(a, b)
            assert b.id == first.id
            assert b._me.incarnation > first.incarnation
            assert [member.address for member in a.members()] == [b.mesh_address]


async def test_a_node_on_all_addresses_learns_its_own_from_others(
    tmp_path: Path, client: Client
) -> None:
    """What it is told is where others reach it, and they do."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address, mesh_listen="0.0.0.0:0", insecure=True) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        await eventually("b knows", lambda: b.mesh_address.startswith("127.0.0.1:"))
        for node in (a, c):
            at = {m.id: m.address for m in node.members()}
            assert at["b"] == b.mesh_address
        await client.push(b, "app", IMAGE)
        assert await client.has(c, "app", IMAGE)


@pytest.mark.parametrize(
    ("listens", "remote", "seen"),
    [
        ("0.0.0.0:80", "10.0.0.1", "10.0.0.1:80"),
        ("[::]:80", "2001:db8::1", "[2001:db8::1]:80"),
        ("[::]:80", "fd00::1", "[fd00::1]:80"),
        ("[::]:80", "10.0.0.1", "10.0.0.1:80"),
        ("10.9.9.9:80", "10.0.0.1", "10.9.9.9:80"),
    ],
)
async def test_who_listens_on_all_addresses_is_known_by_the_one_seen(
    listens: str, remote: str, seen: str, node: Node
) -> None:
    """Whatever it lists itself as; and it is told."""
    assert node._gossip is not None
    them = Member("b", listens)
    reply = await node._gossip.answer(Exchange(them, members=[them]), remote)
    assert reply.you == seen
    assert [member.address for member in node.members()] == [seen]


async def test_an_address_to_advertise_is_what_others_are_told(tmp_path: Path) -> None:
    """Whatever they see: there may be a NAT between."""
    port = free_port()
    settings = {
        "mesh_listen": f"0.0.0.0:{port}",
        "advertise": f"localhost:{port}",
        "insecure": True,
    }
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address, **settings) as b:
        await meet(a, b)
        assert [member.address for member in a.members()] == [f"localhost:{port}"]


async def test_a_node_that_joins_itself_is_alone(tmp_path: Path) -> None:
    """As in a headless service of one: no noise, no second self."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    async with running(
        tmp_path, "a", f"localhost:{port}", address, mesh_listen=f"0.0.0.0:{port}", insecure=True
    ) as a:
        incarnation = a._me.incarnation
        await rounds(a)
        assert seen_by(a) == set()
        assert a._me.incarnation == incarnation


async def test_a_second_node_with_the_same_id_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A root directory that was copied: neither can see the other, so the log has to say it."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path / "copy", "a", a.mesh_address) as other,
    ):
        await rounds(a, 2)
        assert other.id == a.id
        assert "has the id of this one, a" in caplog.text


async def test_a_node_that_leaves_says_goodbye(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others know before they run into it: here, nobody gossips on his own."""
    monkeypatch.setattr(gossip, "PERIOD_S", 3600.0)
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        assert seen_by(a) == {"b"}
        await stop(b)
        assert seen_by(a) == set()


# -- names


async def test_a_push_is_known_to_all_when_it_is_acknowledged(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is announced; gossip would come too late, or here never."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        monkeypatch.setattr(gossip, "PERIOD_S", 3600.0)
        await rounds(a, 1)  # asleep by now, or when this one has ended
        await client.push(a, "app", IMAGE, "v1")
        assert (await client.manifest(b, "app", "v1")).body == IMAGE.manifest
        other = make_image("moved")
        await client.push(b, "app", other, "v1")
        assert (await client.manifest(a, "app", "v1")).body == other.manifest


async def test_names_spread_though_their_announcement_was_lost(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By gossip, from node to node."""
    exchange, lost = PeerClient.exchange, set[str]()

    async def lossy(
        self: PeerClient, address: str, message: Exchange, member_id: str | None = None
    ) -> Exchange:
        if message.buckets is None and address not in lost:
            lost.add(address)
            raise PeerError("lost")
        return await exchange(self, address, message, member_id)

    monkeypatch.setattr(PeerClient, "exchange", lossy)
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        await client.push(a, "app", IMAGE, "v1")
        assert lost == {b.mesh_address, c.mesh_address}
        await eventually("b and c know", lambda: knows(b, "v1") and knows(c, "v1"))
        await meet(a, b, c)
        assert await client.has(c, "app", IMAGE, "v1")


async def test_more_names_than_fit_a_message_all_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several."""
    monkeypatch.setattr(wire, "MAX_RECORDS", 50)
    records = [record(f"v{number}") for number in range(400)]
    async with running(tmp_path, "a") as a:
        assert a._gossip is not None
        await a._gossip._learn_names(records)
        async with running(tmp_path, "b", a.mesh_address) as b:
            await eventually("all are there", lambda: knows(b, "v0") and _count(b) == 400)
            assert len(await b.store.names()) == 400


def _count(node: Node) -> int:
    assert node._gossip is not None
    return len(node._gossip.register)


async def test_names_survive_a_restart_and_new_ones_are_later(
    tmp_path: Path, client: Client
) -> None:
    """Also with a clock that was set back: a stamp is always later than all that is known."""
    ahead = record("v1", stamp(MAX_DRIFT_MS - 10_000))
    async with running(tmp_path, "a") as a:
        assert a._gossip is not None
        await a._gossip._learn_names([ahead])
    async with running(tmp_path, "a") as a:
        assert knows(a, "v1")
        other = make_image("later")
        await client.push(a, "app", other, "v1")
        assert (await client.manifest(a, "app", "v1")).body == other.manifest


async def test_names_that_cannot_be_kept_come_again_when_there_is_room(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk here is nobody else's fault: the others stay alive, and are pulled from."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)

        async def full(*_: object) -> None:
            raise StorageFull("no room")

        with monkeypatch.context() as patch:
            patch.setattr(b.store, "merge_names", full)
            await client.push(a, "app", IMAGE, "v1")
            await rounds(b)
            assert not knows(b, "v1")
            assert seen_by(b) == {"a"}
            assert seen_by(a) == {"b"}
        await eventually("b knows", lambda: knows(b, "v1"))
        assert await client.has(b, "app", IMAGE, "v1")


async def test_a_deletion_past_its_retention_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory and on the disk, on start and every so many rounds."""
    gone = NameRecord("app", "v1", None, stamp())
    async with running(tmp_path, "a") as a:
        assert a._gossip is not None
        await a._gossip._learn_names([gone])
        assert await a.store.names() == [gone]
        monkeypatch.setattr(gossip, "TOMBSTONE_RETENTION_MS", -1000)
        monkeypatch.setattr(gossip, "PRUNE_ROUNDS", 1)
        await eventually("forgotten", lambda: not knows(a, "v1"))
        await rounds(a, 2)
        assert await a.store.names() == []


# -- garbage and lies


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """One that knows a name and, at first, nobody."""
    async with running(tmp_path, "a") as a:
        assert a._gossip is not None
        await a._gossip._learn_names([record("known")])
        yield a


GARBAGE = {
    "nothing": b"",
    "no JSON": b"nonsense",
    "not UTF-8": b'{"sender":["\xff","b:1"]}',
    "a lone surrogate": b'{"sender":["\\ud800","b:1"]}',
    "another form": b'{"sender":{"id":"b"}}',
    "a list": b"[]",
    "nested": b'{"sender":["b","b:1"],"members":' + b"[" * 100_000,
    "huge numbers": b'{"sender":["b","b:1"],"want":[' + b"9" * 10_000 + b"]}",
    "too long": b'{"sender":["b","b:1"],"you":"' + b"x" * 10_000_000 + b'"}',
    "too few buckets": b'{"sender":["b","b:1"],"buckets":[1,2,3]}',
}
garbage = pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)


async def _post(node: Node, body: bytes) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{node.mesh_address}{wire.EXCHANGE_PATH}", data=_stream(body)) as got,
    ):
        return got.status


async def _stream(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


@garbage
async def test_garbage_is_refused(
    sent: bytes, node: Node, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """With a 400, or a connection that is closed on who does not stop; a line in the log says why,
    and is no longer than others.
    """
    try:
        assert await _post(node, sent) == 400
    except aiohttp.ClientError:
        assert len(sent) > wire.MAX_MESSAGE_BYTES
    assert "Traceback" not in caplog.text
    assert all(len(entry.getMessage()) < 1000 for entry in caplog.records)
    await client.push(node, "app", IMAGE)
    assert await client.has(node, "app", IMAGE)


@garbage
async def test_garbage_as_an_answer_does_no_harm(
    sent: bytes, node: Node, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A node goes on gossiping with others, and pulls from them."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=sent)

    caplog.set_level(logging.DEBUG, "oci_mesh")
    async with FakePeer("p") as p, FakePeer("q", holding(noise(1000))) as q:
        await p.join(node)
        p.gossip = answer
        await q.join(node)
        await rounds(node)
        assert "q" in seen_by(node)
        assert (await client.blob(node, "app", noise(1000))).status == 200
        assert all(len(entry.getMessage()) < 1000 for entry in caplog.records)


@pytest.mark.parametrize("status", [204, 302, 404, 500])
async def test_an_answer_that_is_none_does_no_harm(status: int, node: Node) -> None:
    """Nobody is sent elsewhere by it."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:9/"})

    async with FakePeer("p") as p:
        await p.join(node)
        p.gossip = answer
        await rounds(node)
        await eventually("p is taken for dead", lambda: not seen_by(node))


@pytest.mark.parametrize(
    "entry",
    [
        Member("../x", "127.0.0.1:9"),
        Member("x" * 65, "127.0.0.1:9"),
        Member("x", "127.0.0.1"),
        Member("x", "127.0.0.1:0"),
        Member("x", "http://evil/:9"),
        Member("x", "a@b:9"),
        Member("x", "127.0.0.1:9", zone="a zone"),
        Member("x", "127.0.0.1:9", registry="javascript:alert(1)"),
        Member("x", "127.0.0.1:9", incarnation=2**60),
        Member("x", "127.0.0.1:9", heartbeat=-1),
    ],
)
async def test_a_bad_member_costs_itself_only(entry: Member, node: Node) -> None:
    """The others in the same message are taken."""
    message = Exchange(Member("b", "127.0.0.1:9"), members=[entry, Member("c", "127.0.0.1:9")])
    assert await _post(node, wire.encode(message)) == 200
    assert seen_by(node) == {"b", "c"}


@pytest.mark.parametrize("host", ["[..]", "[:::::]", "a..b", "x" * 100, "999.9.9.9", "-", "[::]"])
async def test_an_address_that_is_none_does_no_harm(host: str, node: Node, client: Client) -> None:
    """It passes for one in gossip; who is asked there does not answer, and others do."""
    async with FakePeer("q", holding(noise(1000))) as q:
        await q.join(node)
        await _post(node, wire.encode(Exchange(Member("bad", f"{host}:9"))))
        await rounds(node)
        assert (await client.blob(node, "app", noise(1000))).status == 200
        await client.push(node, "app", IMAGE)
        assert "q" in seen_by(node)


async def test_a_flood_of_members_is_bounded(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """In the table, and in the log."""
    flood = [Member(f"m{number}", "127.0.0.1:9") for number in range(20_000)]
    bad = [Member("", "") for _ in range(20_000)]
    caplog.clear()
    for members in (flood, bad):
        await _post(node, wire.encode(Exchange(Member("b", "127.0.0.1:9"), members=members)))
    assert node._gossip is not None
    assert len(node._gossip.table.entries()) <= MAX_MEMBERS
    assert sum(entry.levelno >= logging.WARNING for entry in caplog.records) < 10


@pytest.mark.parametrize(
    "entry",
    [
        NameRecord("../etc", "v1", IMAGE.digest, stamp()),
        NameRecord("APP", "v1", IMAGE.digest, stamp()),
        NameRecord("app", "v 1", IMAGE.digest, stamp()),
        NameRecord("app", "v1", "sha256:0", stamp()),
        NameRecord("app", "v1", IMAGE.digest, "tomorrow"),
        NameRecord("app", "v1", IMAGE.digest, stamp(10 * MAX_DRIFT_MS)),
        NameRecord("app", "v1", IMAGE.digest, "ffffffffffff-ffff-w"),
    ],
)
async def test_a_bad_name_costs_itself_only(entry: NameRecord, node: Node) -> None:
    """Also one from the far future, which would win for years."""
    good = record("good")
    message = Exchange(Member("b", "127.0.0.1:9"), records=[entry, good])
    assert await _post(node, wire.encode(message)) == 200
    assert set(await node.store.names()) - {good} == {
        held for held in await node.store.names() if held.name == "known"
    }
    assert knows(node, "good")
    assert knows(node, "known")


async def test_a_flood_of_bad_names_is_a_line_in_the_log(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one for each."""
    future = [record(f"v{number}", stamp(10**9)) for number in range(4000)]
    caplog.clear()
    await _post(node, wire.encode(Exchange(Member("b", "127.0.0.1:9"), records=future)))
    assert sum(entry.levelno >= logging.WARNING for entry in caplog.records) == 1


@pytest.mark.parametrize("want", [[-1], [BUCKETS], [2**62]])
async def test_to_want_buckets_that_are_none_does_no_harm(want: list[int], node: Node) -> None:
    """In an answer: the node that asked goes on."""
    async with FakePeer("p") as p:

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=wire.encode(Exchange(p.member, want=want)))

        await p.join(node)
        p.gossip = answer
        await rounds(node)


@pytest.mark.parametrize("you", ["x", "evil host:1", "x" * 10_000, "[::]:80", "a:0"])
async def test_a_node_believes_no_address_that_is_none(you: str, tmp_path: Path) -> None:
    """Others would refuse its entry, and it would be gone from the mesh."""
    async with FakePeer("p") as p:

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=wire.encode(Exchange(p.member, you=you)))

        p.gossip = answer
        async with running(tmp_path, "a", p.address, mesh_listen="0.0.0.0:0", insecure=True) as a:
            address = a.mesh_address
            await rounds(a)
            assert a.mesh_address == address


async def test_a_message_that_is_cut_or_does_not_end_is_dropped(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one at once, the other when it has taken too long."""
    monkeypatch.setattr("oci_mesh.mesh.server.STALL_S", 0.2)
    host, _, port = node.mesh_address.rpartition(":")
    head = f"POST {wire.EXCHANGE_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{"
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode())
    writer.close()
    await rounds(node, 2)


async def test_only_post_is_gossip(node: Node) -> None:
    """405, and what is allowed."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{node.mesh_address}{wire.EXCHANGE_PATH}") as answer,
    ):
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
