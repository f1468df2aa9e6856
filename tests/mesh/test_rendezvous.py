"""Where a swarm meets: slots, news, and what becomes of a fetch when that node lies or hangs."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.errors import PeerError
from oci_mesh.mesh import agreement, rendezvous, transfer, wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.rendezvous import Rendezvous
from oci_mesh.mesh.wire import Attend, Roster
from oci_mesh.swarm.view import Entry
from tests.images import sha256
from tests.mesh.fake_peer import FakePeer, Handler, asking_order, hanging, holding
from tests.mesh.swarms import mesh_source
from tests.nodes import Client, eventually, metric, noise, running

BLOB = noise(3_000_000)
SMALL = noise(300_000)
DIGEST = sha256(BLOB)
FAULTS = "oci_mesh_peer_faults_total"


def entry(name: str, slot: int = -1, frontier: int = 0, *, complete: bool = False) -> Entry:
    """A node that nobody can reach."""
    return Entry(name, "127.0.0.1:9", slot, "", frontier, complete)


def attend(name: str, known: Roster | None = None, **more: object) -> Attend:
    """What a node asks, that knows this roster."""
    seen: dict[str, object] = {}
    mine = entry(name)
    if known is not None:
        seen = {"epoch": known.epoch, "version": known.version}
        mine = known.entry if known.entry.id == name else mine
    return Attend("app", DIGEST, mine, **{**seen, **more})  # type: ignore[arg-type]


def kept_by(node: Node) -> Rendezvous:
    """The rolls of a node."""
    return mesh_source(node)._rendezvous


# -- the roll


async def test_slots_are_given_in_order_of_arrival(tmp_path: Path) -> None:
    """Who brings one keeps it, also once it has the blob; who brings none gets a new one."""
    async with running(tmp_path, "a") as a, PeerClient("x") as peer:

        async def enter(name: str, slot: int = -1) -> Roster:
            asked = Attend("app", DIGEST, entry(name, slot))
            return await peer.attend(a.mesh_address, asked)

        slots = [(await enter(name)).entry.slot for name in "xyz"]
        assert slots == sorted(set(slots))
        assert (await enter("y", slots[1])).entry.slot == slots[1]
        assert (await enter("x")).entry.slot > slots[2]
        complete = Attend("app", DIGEST, entry("y", slots[1], complete=True), size=7)
        assert (await peer.attend(a.mesh_address, complete)).entry.slot == slots[1]
        roster = await enter("v")
        assert {e.id for e in roster.entries if e.complete} == {"y"}
        assert roster.size == 7


async def test_news_is_told_to_who_waits(tmp_path: Path) -> None:
    """At once; who knows it all is kept waiting, but no longer than it said."""
    async with running(tmp_path, "a") as a, PeerClient("x") as peer:
        known = await peer.attend(a.mesh_address, attend("x"))
        same = await peer.attend(a.mesh_address, attend("x", known, wait_s=0.05))
        assert same.version == known.version
        async with asyncio.TaskGroup() as group:
            question = attend("x", known, wait_s=10.0)
            waiting = group.create_task(peer.attend(a.mesh_address, question))
            await eventually("it waits", lambda: _waits(a))
            await peer.attend(a.mesh_address, attend("y"))
        assert "y" in {e.id for e in waiting.result().entries}
        left = await peer.attend(a.mesh_address, attend("y", leaves=True))
        assert "y" not in {e.id for e in left.entries}
        assert (await peer.attend(a.mesh_address, attend("x", known))).gone == ["y"]


async def test_that_nobody_has_it_is_told_and_believed_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once to who waits; said again, it is no news."""
    async with running(tmp_path, "a") as a, PeerClient("x") as peer:
        known = await peer.attend(a.mesh_address, attend("x"))
        assert not known.searched
        async with asyncio.TaskGroup() as group:
            question = attend("x", known, wait_s=10.0)
            waiting = group.create_task(peer.attend(a.mesh_address, question))
            await eventually("it waits", lambda: _waits(a))
            found = msgspec.structs.replace(attend("x", known), searched=True)
            await peer.attend(a.mesh_address, found)
        assert waiting.result().searched
        async with asyncio.TaskGroup() as group:
            question = attend("x", waiting.result(), wait_s=0.3)
            waiting = group.create_task(peer.attend(a.mesh_address, question))
            await eventually("it waits", lambda: _waits(a))
            await peer.attend(a.mesh_address, found)
            assert _waits(a)
        monkeypatch.setattr(rendezvous, "SEARCHED_S", 0.0)
        await peer.attend(a.mesh_address, found)
        assert not (await peer.attend(a.mesh_address, attend("y"))).searched


def _waits(node: Node) -> bool:
    [kept] = kept_by(node)._kept.values()
    return bool(kept._news._waiters)


@pytest.mark.parametrize(
    "bad",
    [
        Entry("../x", "127.0.0.1:9"),
        Entry("x", "no address"),
        Entry("x", "127.0.0.1:9", -2),
        Entry("x", "127.0.0.1:9", 2**32),
        Entry("x", "127.0.0.1:9", 0, "", 2**40),
        Entry("x", "127.0.0.1:9", 0, "a zone"),
    ],
)
async def test_an_entry_that_is_none_is_refused(bad: Entry, tmp_path: Path) -> None:
    """As the asking node's own; among others it costs only itself."""
    async with running(tmp_path, "a") as a, PeerClient("x") as peer:
        with pytest.raises(PeerError):
            await peer.attend(a.mesh_address, Attend("app", DIGEST, bad))
        others = [bad, entry("z", complete=True)]
        roster = await peer.attend(a.mesh_address, attend("y", others=others))
        assert {e.id for e in roster.entries} == {"y", "z"}


async def test_a_roll_is_of_a_blob_and_there_are_not_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests are checked, and the longest unused roll goes first."""
    monkeypatch.setattr(rendezvous, "MAX_ROLLS", 3)
    async with running(tmp_path, "a") as a, PeerClient("x") as peer:
        with pytest.raises(PeerError):
            await peer.attend(a.mesh_address, Attend("app", "../etc", entry("x")))
        for number in range(5):
            call = Attend("app", sha256(bytes([number])), entry("x"))
            await peer.attend(a.mesh_address, call)
            await peer.attend(a.mesh_address, attend("x"))
        assert len(kept_by(a)._kept) == 3
        assert ("app", DIGEST) in kept_by(a)._kept


# -- a rendezvous that does not do its part


async def _fails(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=500)


async def _rambles(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"{" * 100_000)


def _says(**what: object) -> Handler:
    """This roster, whatever it is asked."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked = wire.decode(await request.read(), Attend)
        mine = msgspec.structs.replace(asked.entry, slot=what.get("slot", 0))
        roster = {
            "epoch": 1,
            "version": 1,
            "entry": mine,
            **{name: value for name, value in what.items() if name != "slot"},
        }
        return web.Response(body=msgspec.json.encode(roster))

    return answer


SEEDS = [Entry(f"n{number}", f"127.0.0.1:{number + 1}", -1, "", 0, True) for number in range(9)]
LIES = {
    "hangs": hanging,
    "fails": _fails,
    "rambles": _rambles,
    "a slot that is none": _says(slot=-5),
    "a slot beyond all": _says(slot=2**62),
    "nobody is there": _says(gone=["a", "b", "p"]),
    "a size that is too small": _says(size=200_000),
    "a size that is too large": _says(size=2**62),
    "nothing": _says(size=0),
    "seeds that are not there": _says(entries=SEEDS),
    "seeds, and a size": _says(entries=SEEDS, size=500_000),
    "itself": _says(entries=[Entry("p", "127.0.0.1:9", -1, "", 0, True)]),
    "who has it is elsewhere": _says(
        entries=[Entry("b", "127.0.0.1:9", -1, "", 0, True)], size=len(BLOB)
    ),
    "who has it wants it": _says(entries=[Entry("b", "127.0.0.1:9", 3)]),
    "entries that are none": _says(entries=[Entry("x y", "nowhere", -7, "", -1, True)]),
    "nodes ahead": _says(entries=[Entry(f"m{n}", "127.0.0.1:9", n, "", 10**6) for n in range(9)]),
}


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES)
@pytest.mark.parametrize("blob", [BLOB, SMALL], ids=["large", "small"])
async def test_a_rendezvous_that_lies_or_fails_costs_time_only(
    answer: Handler,
    blob: bytes,
    tmp_path: Path,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the first that a node asks; another has the blob, and is not blamed."""
    monkeypatch.setattr(rendezvous, "ATTEND_S", 0.2)
    monkeypatch.setattr(agreement, "PATIENCE_S", 0.2)
    monkeypatch.setattr(transfer, "_LOOK_S", 0.1)
    first = asking_order(sha256(blob), "a", "b", *(f"p{number}" for number in range(20)))[0]
    if first in "ab":
        pytest.skip("no such name goes first")
    async with (
        FakePeer(first) as p,
        running(tmp_path, "b") as b,
        running(tmp_path, "a", b.mesh_address) as a,
    ):
        await client.push_blob(b, "app", blob)
        p.attend = answer
        await p.join(a, b)
        got = await client.blob(a, "app", blob)
        assert (got.status, got.body) == (200, blob)
        assert p.attended >= 1
        assert metric(a, FAULTS, peer="b") == 0


async def test_who_answers_without_end_is_not_asked_without_end(
    tmp_path: Path, client: Client
) -> None:
    """A rendezvous that never lets a node wait does not keep it busy."""
    go_on = asyncio.Event()
    first = asking_order(DIGEST, "a", "q", *(f"p{number}" for number in range(20)))[0]

    async def sending(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        await go_on.wait()
        return web.Response(status=404)

    async with (
        FakePeer(first) as p,
        FakePeer("q", holding(BLOB, sending=sending)) as q,
        running(tmp_path, "a") as a,
    ):
        p.attend = _says()
        await p.join(a)
        await q.join(a)
        pull = asyncio.create_task(client.blob(a, "app", BLOB))
        await eventually("it is fetched", lambda: bool(q.ranges))
        before = p.attended
        for _ in range(50):
            await client.request("GET", a, "/healthz")
        assert p.attended <= before + 2
        pull.cancel()
        go_on.set()


async def test_a_blob_is_found_without_any_rendezvous(tmp_path: Path, client: Client) -> None:
    """All three fail; they know who has it all the same."""
    async with (
        FakePeer("p", holding(BLOB)) as p,
        FakePeer("q", holding(BLOB)) as q,
        FakePeer("r") as r,
        FakePeer("s") as s,
        running(tmp_path, "a") as a,
    ):
        for peer in (p, q, r, s):
            await peer.join(a)
        kept_by(a)._places = lambda digest: [m for m in a.members() if m.id != "a"][:3]  # type: ignore[method-assign]
        assert (await client.blob(a, "app", BLOB)).body == BLOB
