"""An upstream that is read by one node for all: who that is, and what happens when it fails."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.errors import BlobUnknown, OciMeshError
from oci_mesh.mesh import cold, fetch
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.cold import Cold
from oci_mesh.mesh.wire import Attend
from oci_mesh.spec.digest import Digest
from oci_mesh.swarm.pieces import RUN_BYTES
from oci_mesh.swarm.view import Entry
from tests.images import sha256
from tests.mesh.fake_peer import FakePeer
from tests.mesh.swarms import Handler, mesh_source, nodes, rolls, wrap
from tests.mesh.test_fetch import unfinished
from tests.mesh.upstreams import PUBLIC, Upstream, pull, pull_all, store
from tests.nodes import eventually, metric, noise, running, stop

BLOB = noise(6_000_000, "led")
SMALL = noise(300_000, "led")
DIGEST = Digest.parse(sha256(BLOB))
ONE_COPY = len(BLOB) + 2 * RUN_BYTES

pytestmark = pytest.mark.usefixtures("fast_gossip")


def leaders(*made: Node) -> list[Node]:
    """Those who read it for all."""
    found = [(node, mesh_source(node).fetching(PUBLIC, DIGEST)) for node in made]
    return [n for n, f in found if f is not None and f.transfer and f.transfer._outside.leads]


async def follow(*made: Node) -> tuple[Node, list[Node], list[asyncio.Task[bytes]]]:
    """The first of them wants it and leads, then the others want it."""
    first, *others = made
    pulls = [asyncio.ensure_future(pull(first, BLOB))]
    await eventually("it leads", lambda: leaders(first) == [first])
    pulls += [asyncio.ensure_future(pull(node, BLOB)) for node in others]
    return first, others, pulls


# -- an upstream that gives no parts


async def test_one_node_reads_it_all(tmp_path: Path) -> None:
    """In order, and the others have it from that one and from each other."""
    async with nodes(tmp_path, *"abcd") as made:
        upstream = Upstream(BLOB, striped=False)
        upstream.serve(*made)
        await pull_all(*made, content=BLOB)
        assert len(upstream.reads) == 1
        assert upstream.sent.total() == len(BLOB)
        await store(*made, content=BLOB)


async def test_a_small_blob_is_read_by_one_node_too(tmp_path: Path) -> None:
    """It is one piece."""
    async with nodes(tmp_path, *"abc") as made:
        upstream = Upstream(SMALL, striped=False)
        upstream.serve(*made)
        await pull_all(*made, content=SMALL)
        assert upstream.sent.total() == len(SMALL)


async def test_that_it_gives_no_parts_is_found_out_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then one node reads it, at once; what nodes asked for before costs nothing."""
    monkeypatch.setattr(cold, "RACE_S", 1000.0)
    async with nodes(tmp_path, *"abc") as made:
        upstream = Upstream(BLOB)
        upstream.serve(*made)
        upstream.has_ranges = False
        await pull_all(*made, content=BLOB)
        assert upstream.sent.total() <= ONE_COPY
        assert sorted(upstream.sent.values())[:-1] <= [RUN_BYTES] * 2


async def test_an_upstream_that_limits_some_is_read_by_the_others(tmp_path: Path) -> None:
    """Or by the limited one after all, if that gets further; nobody is blamed for it."""
    async with nodes(tmp_path, *"abc") as made:
        upstream = Upstream(BLOB)
        upstream.serve(*made)
        upstream.limits = {"b"}
        await pull_all(*made, content=BLOB)
        assert upstream.sent.total() <= 2 * len(BLOB)
        assert all(metric(node, "oci_mesh_peer_faults_total") == 0 for node in made)


async def test_an_upstream_that_limits_all_is_read_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once nobody gets anything any more."""
    monkeypatch.setattr(cold, "RACE_S", 0.3)
    async with nodes(tmp_path, *"abc") as made:
        upstream = Upstream(BLOB)
        upstream.serve(*made)
        upstream.limits = set("abc")
        await pull_all(*made, content=BLOB)
        assert upstream.sent.total() <= ONE_COPY


async def test_who_may_not_ask_follows(tmp_path: Path) -> None:
    """It knows of no origin, but others are at it."""
    async with nodes(tmp_path, *"ab") as (a, b):
        upstream = Upstream(BLOB, striped=False)
        upstream.serve(a, b)
        upstream.pauses_at["a"] = len(BLOB) // 2
        mesh_source(b)._origins = None
        Upstream().serve(b)
        pulls = [asyncio.ensure_future(pull(a, BLOB))]
        kept = [mesh_source(node)._rendezvous._kept for node in (a, b)]
        key = PUBLIC, str(DIGEST)
        await eventually(
            "its size is told", lambda: any(key in k and k[key].size == len(BLOB) for k in kept)
        )
        pulls.append(asyncio.ensure_future(pull(b, BLOB)))
        await eventually("b has some", lambda: _has_some(b))
        assert leaders(b) == []
        upstream.go_on.set()
        assert await asyncio.gather(*pulls) == [BLOB, BLOB]
        assert upstream.sent.total() == len(BLOB)


def _has_some(node: Node) -> bool:
    fetching = mesh_source(node).fetching(PUBLIC, DIGEST)
    return bool(fetching and fetching.transfer and any(fetching.transfer.assembly.good))


# -- leaders that fail


async def test_a_leader_that_dies_is_followed_by_the_next(tmp_path: Path) -> None:
    """In the middle; what the others have by then is not read again."""
    async with nodes(tmp_path, *"abc") as made:
        upstream = Upstream(BLOB, striped=False)
        upstream.serve(*made)
        upstream.pauses_at["a"] = len(BLOB) // 2
        a, others, pulls = await follow(*made)
        await eventually("some is there", lambda: all(_has_some(node) for node in others))
        await stop(a)
        with pytest.raises(OciMeshError):
            await pulls[0]
        assert await asyncio.gather(*pulls[1:]) == [BLOB, BLOB]
        assert upstream.sent.total() < 2 * len(BLOB)
        await store(*others, content=BLOB)


async def test_a_leader_that_cannot_be_reached_is_followed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: nobody waits for whether it comes back."""
    monkeypatch.setattr(cold, "FED_S", 1000.0)
    async with nodes(tmp_path, *"abc") as made:
        upstream = Upstream(BLOB, striped=False)
        upstream.serve(*made)
        upstream.pauses_at["a"] = len(BLOB) // 2
        a, others, pulls = await follow(*made)
        await eventually("some is there", lambda: all(_has_some(node) for node in others))

        async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        wrap(a, wrapper)
        await a._mesh_server.__aexit__(None, None, None)  # who waits there is cut off
        assert await asyncio.gather(*pulls[1:]) == [BLOB, BLOB]
        upstream.go_on.set()
        await pulls[0]


async def test_a_leader_that_the_upstream_fails_is_followed_by_the_next(tmp_path: Path) -> None:
    """It gives up, and says so."""
    async with nodes(tmp_path, *"abc") as made:
        upstream = Upstream(BLOB, striped=False)
        upstream.serve(*made)
        upstream.left["a"] = len(BLOB) // 2
        _, others, pulls = await follow(*made)
        answers = await asyncio.gather(*pulls, return_exceptions=True)
        assert isinstance(answers[0], OciMeshError)
        assert answers[1:] == [BLOB, BLOB]
        await store(*others, content=BLOB)


async def test_a_leader_that_stands_still_is_followed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has it from that one in the end."""
    monkeypatch.setattr(cold, "FED_S", 1.0)
    async with nodes(tmp_path, *"abc") as made:
        upstream = Upstream(BLOB, striped=False)
        upstream.serve(*made)
        upstream.pauses_at["a"] = len(BLOB) // 2
        a, others, pulls = await follow(*made)
        assert await asyncio.gather(*pulls[1:]) == [BLOB, BLOB]
        assert upstream.sent["a"] < len(BLOB)
        await store(*others, content=BLOB)
        upstream.go_on.set()
        assert await pulls[0] == BLOB
        await store(a, content=BLOB)


async def test_while_nobody_leads_clients_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there are headers: a client is quicker by itself. The fetch goes on."""
    monkeypatch.setattr(fetch, "EARLY_S", 0.3)
    async with nodes(tmp_path, *"ab") as (a, b):
        upstream = Upstream(BLOB, striped=False)
        upstream.serve(a, b)
        upstream.pauses_at["a"] = 0
        monkeypatch.setattr(Cold, "is_fed", False)
        _, _, pulls = await follow(a, b)
        with pytest.raises(BlobUnknown):
            await pulls[1]
        upstream.go_on.set()
        assert await pulls[0] == BLOB
        await store(a, b, content=BLOB)


async def test_while_somebody_leads_clients_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be slow, because many go through one link: who went as well would only make it slower.
    They have no headers either, so that they can still be sent away.
    """
    monkeypatch.setattr(fetch, "EARLY_S", 0.1)
    async with nodes(tmp_path, *"ab") as (a, b):
        upstream = Upstream(BLOB, striped=False)
        upstream.serve(a, b)
        upstream.pauses_at["a"] = 0
        _, _, pulls = await follow(a, b)
        opening = asyncio.ensure_future(mesh_source(b).blob(PUBLIC, DIGEST))
        assert not (await asyncio.wait([opening], timeout=0.5))[0]
        upstream.go_on.set()
        assert await asyncio.gather(*pulls) == [BLOB] * 2
        await (await opening).close()


@pytest.mark.parametrize("striped", [True, False])
async def test_who_only_says_that_he_reads_it_does_not_keep_it_from_others(
    striped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives nothing: this node reads it, all of it or its part."""
    for name in ("RACE_S", "LEAD_S", "FED_S"):
        monkeypatch.setattr(cold, name, 0.3)
    async with running(tmp_path, "a") as a, FakePeer("p") as p, PeerClient("p") as speaking:
        upstream = Upstream(BLOB, striped=striped)
        upstream.serve(a)
        await p.join(a)
        entry = Entry("p", p.address, 0, fed=True)
        await speaking.attend(a.mesh_address, Attend(PUBLIC, str(DIGEST), entry))
        assert await pull(a, BLOB) == BLOB
        assert upstream.sent == {"a": len(BLOB)}


# -- what comes by the leader's own client


async def test_the_leaders_client_is_sent_away_and_the_others_get_it(tmp_path: Path) -> None:
    """For as long as it comes by that client; then it is here like anything else."""
    async with nodes(tmp_path, *"abc") as made:
        upstream = Upstream(BLOB, striped=False, follows_client=True)
        upstream.serve(*made)
        upstream.pauses_at = dict.fromkeys("abc", 0)
        a, _, pulls = await follow(*made)
        with pytest.raises(BlobUnknown):
            await pulls[0]
        with pytest.raises(BlobUnknown):
            await pull(a, BLOB)
        assert not any(task.done() for task in pulls[1:])
        upstream.go_on.set()
        assert await asyncio.gather(*pulls[1:]) == [BLOB, BLOB]
        assert upstream.sent == {"a": len(BLOB)}
        await store(*made, content=BLOB)
        assert await pull(a, BLOB) == BLOB


async def test_the_next_leaders_client_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has headers by then, and some of the body: it goes on at the upstream."""
    monkeypatch.setattr(fetch, "EARLY_S", 0.1)
    monkeypatch.setattr(fetch, "HOLD_S", 0.2)
    monkeypatch.setattr(cold, "FED_S", 1.0)
    async with nodes(tmp_path, *"ab") as (a, b):
        upstream = Upstream(BLOB, striped=False, follows_client=True)
        upstream.serve(a, b)
        upstream.pauses_at["a"] = len(BLOB) // 2
        _, _, pulls = await follow(a, b)
        with pytest.raises(BlobUnknown):
            await pulls[0]
        with pytest.raises(BlobUnknown):
            await pulls[1]
        assert leaders(b) == [b]
        assert upstream.sent["a"] >= len(BLOB) // 2
        with pytest.raises(BlobUnknown):
            await pull(b, BLOB)
        await store(b, content=BLOB)


async def test_what_a_client_got_for_itself_alone_is_not_kept_twice(tmp_path: Path) -> None:
    """No other node wants it; should one, this node's containerd has it."""
    async with running(tmp_path, "a") as a:
        upstream = Upstream(BLOB, striped=False, follows_client=True)
        upstream.serve(a)
        with pytest.raises(BlobUnknown):
            await pull(a, BLOB)
        await eventually("it has ended", lambda: not mesh_source(a)._blobs)
        assert upstream.sent["a"] == len(BLOB)
        assert (await a.store.usage()).blobs == 0
        assert unfinished(a) == []
        assert [entry.complete for roll in rolls(a, str(DIGEST)) for entry in roll.since(0)[0]] == [
            True
        ]


async def test_a_client_that_fetches_nothing_stores_nothing(tmp_path: Path) -> None:
    """It went away for good: so does the blob."""
    async with running(tmp_path, "a") as a:
        upstream = Upstream(BLOB, striped=False, follows_client=True)
        upstream.serve(a)
        upstream.left["a"] = 0
        with pytest.raises(BlobUnknown):
            await pull(a, BLOB)
        await eventually("it has ended", lambda: not mesh_source(a)._blobs)
        with pytest.raises(BlobUnknown):
            await a.store.stat(PUBLIC, DIGEST)
