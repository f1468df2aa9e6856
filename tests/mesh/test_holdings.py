"""What a node tells another of what it has and knows: of itself, to those who may know it."""

import hashlib
from pathlib import Path

import pytest

from oci_mesh import Node, journal
from oci_mesh.errors import BlobUnknown, PeerError
from oci_mesh.journal import CONTAINERD, KEPT
from oci_mesh.mesh import transfer, wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.fetch import Fetch
from oci_mesh.mesh.wire import Held, Holdings, Wanted
from oci_mesh.spec.digest import Digest
from tests.images import sha256
from tests.mesh.fake_peer import flipped
from tests.mesh.swarms import lie, mesh_source, nodes
from tests.mesh.test_private import Secret, entitle
from tests.mesh.upstreams import PRIVATE, PUBLIC, Upstream, pull, pull_all
from tests.nodes import Client, eventually, make_image, noise, running

BLOB = noise(6_000_000, "held")
DIGEST = sha256(BLOB)

pytestmark = pytest.mark.usefixtures("fast_gossip")


async def ask(node: Node, repository: str, *wanted: Wanted, tag: str = "") -> Held:
    """As node `x`."""
    async with PeerClient("x") as client:
        asked = Holdings(repository, list(wanted), tag, "a nonce")
        return await client.holdings(node.mesh_address, asked, node.id, 10.0)


async def settled(*nodes: Node) -> None:
    """Nothing is on its way there any more."""
    for node in nodes:
        await eventually("it is stored", lambda n=node: not mesh_source(n)._blobs)  # type: ignore[misc]


async def begin(node: Node) -> Fetch:
    """Have it fetch the blob; that fetch, once it has a transfer."""
    source = mesh_source(node)

    async def fetched() -> None:
        await pull(node, BLOB)

    source._background.spawn(fetched())
    await eventually("it has begun", lambda: bool(source._blobs))
    (fetch,) = source._blobs.values()
    await eventually("it transfers", lambda: fetch.transfer is not None)
    return fetch


async def test_what_it_has_it_can_show(tmp_path: Path, client: Client) -> None:
    """By bytes at the place that is asked for, together with the nonce."""
    image = make_image("held")
    async with running(tmp_path, "a") as node:
        await client.push(node, "app", image, "v1")
        held = await ask(
            node,
            "app",
            Wanted(image.digest, is_manifest=True, start=10, length=20),
            Wanted(sha256(image.blobs[1]), start=5000, length=4096),
            Wanted(sha256(b"nobody has it"), length=10),
            tag="v1",
        )
        manifest, layer, nothing = held.holdings
        assert (manifest.size, manifest.share) == (len(image.manifest), 1.0)
        assert manifest.mark == hashlib.sha256(b"a nonce\0" + image.manifest[10:30]).hexdigest()
        probe = image.blobs[1][5000 : 5000 + 4096]
        assert (layer.size, layer.share) == (len(image.blobs[1]), 1.0)
        assert layer.mark == hashlib.sha256(b"a nonce\0" + probe).hexdigest()
        assert (nothing.size, nothing.share, nothing.mark) == (-1, 0.0, "")
        assert held.meaning is not None
        assert held.meaning.target == image.digest
        assert held.meaning.stamp.endswith("-a")


async def test_what_it_does_not_know(tmp_path: Path, client: Client) -> None:
    """A tag, and content of another repository."""
    image = make_image("held")
    async with running(tmp_path, "a") as node:
        await client.push(node, "app", image, "v1")
        held = await ask(node, "other", Wanted(sha256(image.blobs[1])), tag="v1")
        assert held.holdings[0].size == -1
        assert held.meaning is None


@pytest.mark.parametrize(
    "asked",
    [
        Holdings("app", [Wanted(DIGEST)] * (wire.MAX_ASKED + 1)),
        Holdings("app", [Wanted(DIGEST, length=wire.PROBE_BYTES + 1)]),
        Holdings("app", [Wanted(DIGEST, start=-1, length=1)]),
        Holdings("app", [Wanted("no digest")]),
        Holdings("no such Name"),
        Holdings("app", tag="no tag!"),
        Holdings("app", nonce="x" * 65),
    ],
)
async def test_what_is_no_question_is_refused(tmp_path: Path, asked: Holdings) -> None:
    """And costs nothing."""
    async with running(tmp_path, "a") as node, PeerClient("x") as client:
        with pytest.raises(PeerError, match="400"):
            await client.holdings(node.mesh_address, asked, node.id, 10.0)


async def test_what_is_on_its_way_is_told_as_far_as_it_is_here(tmp_path: Path) -> None:
    """A part of the pieces, and of the right size."""
    upstream = Upstream(BLOB)
    async with nodes(tmp_path, "a") as (node,):
        upstream.serve(node)
        upstream.pauses_at["a"] = 3_000_000
        fetch = await begin(node)
        transfer = fetch.transfer
        assert transfer is not None
        await eventually("some is here", lambda: sum(transfer.assembly.good) > 5)
        held = await ask(node, PUBLIC, Wanted(DIGEST, length=100))
        (it,) = held.holdings
        assert 0 < it.share < 1
        assert (it.size, it.mark) == (len(BLOB), "")
        assert held.arrivals == []
        upstream.go_on.set()
        await settled(node)
        held = await ask(node, PUBLIC, Wanted(DIGEST, length=100))
        assert held.holdings[0].share == 1.0
        assert len(held.arrivals) == 1


async def test_private_content_is_told_of_to_none_without_proof(tmp_path: Path) -> None:
    """Neither that it is there, nor what came of pulling it."""
    upstream = Upstream(BLOB)
    async with nodes(tmp_path, "a") as (node,):
        upstream.serve(node)
        entitle(node)
        await pull(node, BLOB, PRIVATE)
        await settled(node)
        right = Secret("right").proof(PRIVATE, Digest.parse(DIGEST), "x")
        wrong = Secret("wrong").proof(PRIVATE, Digest.parse(DIGEST), "x")
        others = Secret("right").proof(PRIVATE, Digest.parse(DIGEST), "a")
        for proof in ("", wrong, others):
            held = await ask(node, PRIVATE, Wanted(DIGEST, proof=proof, length=10))
            assert held.holdings[0].size == -1
            assert (held.arrivals, held.deliveries) == ([], [])
        held = await ask(node, PRIVATE, Wanted(DIGEST, proof=right, length=10))
        assert held.holdings[0].size == len(BLOB)
        assert len(held.arrivals) == 1


async def test_a_proof_is_good_for_one_blob(tmp_path: Path) -> None:
    """Of the others in the same question nothing is told."""
    other = noise(1000, "other")
    upstream = Upstream(BLOB, other)
    async with nodes(tmp_path, "a") as (node,):
        upstream.serve(node)
        entitle(node)
        await pull(node, BLOB, PRIVATE)
        await pull(node, other, PRIVATE)
        await settled(node)
        proof = Secret("right").proof(PRIVATE, Digest.parse(DIGEST), "x")
        both = [Wanted(DIGEST, proof=proof), Wanted(sha256(other), proof=proof)]
        held = await ask(node, PRIVATE, *both)
        assert [it.size for it in held.holdings] == [len(BLOB), -1]
        assert [arrival.digest for arrival in held.arrivals] == [DIGEST]


# -- what is told of pulls


async def test_a_pull_from_other_nodes(tmp_path: Path, client: Client) -> None:
    """All bytes, by who gave them; and what the client got."""
    image = make_image("held", len(BLOB))
    layer = sha256(image.blobs[1])
    async with nodes(tmp_path, "a", "b", "c") as (a, b, c):
        await client.push(a, "app", image, "v1")
        assert await client.has(b, "app", image, "v1")
        assert await client.has(c, "app", image, "v1")
        await settled(c)
        held = await ask(c, "app", Wanted(layer), tag="v1")
        (arrival,) = held.arrivals
        assert set(arrival.givers) <= {"a", "b"}
        assert sum(giver.bytes for giver in arrival.givers.values()) == len(image.blobs[1])
        assert sum(giver.pieces for giver in arrival.givers.values()) > 1
        assert arrival.size == len(image.blobs[1])
        assert (arrival.failure, arrival.cold, arrival.attempts) == ("", False, 1)
        assert arrival.wanting == 1
        assert arrival.having >= 1
        assert 0 <= arrival.first_s <= arrival.took_s
        assert 0 < arrival.stored_s <= arrival.took_s
        (delivery,) = held.deliveries
        assert (delivery.bytes, delivery.stored) == (len(image.blobs[1]), False)
        assert delivery.failure == ""
        await client.blob(c, "app", image.blobs[1], Range="bytes=10-19")
        newest = (await ask(c, "app", Wanted(layer))).deliveries[0]
        assert (newest.bytes, newest.stored) == (10, True)


async def test_a_client_that_hears_that_there_is_nothing(tmp_path: Path, client: Client) -> None:
    """And the search for it are remembered."""
    async with running(tmp_path, "a") as node:
        assert (await client.blob(node, "app", BLOB)).status == 404
        held = await ask(node, "app", Wanted(DIGEST))
        assert "no node has" in held.deliveries[0].failure
        assert held.deliveries[0].bytes == 0
        await settled(node)
        (arrival,) = (await ask(node, "app", Wanted(DIGEST))).arrivals
        assert "no node has" in arrival.failure
        assert arrival.givers == {}


async def test_a_node_that_sends_wrong_bytes_is_named(tmp_path: Path, client: Client) -> None:
    """With its fault, and none of its bytes."""
    async with nodes(tmp_path, "a", "b", "liar") as (a, b, liar):
        for node in (a, liar):
            await client.push_blob(node, "app", BLOB)
        lie(liar, BLOB, flipped)
        assert (await client.blob(b, "app", BLOB)).body == BLOB
        await settled(b)
        (arrival,) = (await ask(b, "app", Wanted(DIGEST))).arrivals
        assert arrival.givers["liar"].faults["corrupt"] >= 1
        assert arrival.givers["liar"].bytes == 0
        assert arrival.givers["a"].bytes == len(BLOB)
        assert arrival.wasted > 0


async def test_a_cold_pull_of_many(tmp_path: Path) -> None:
    """Every node tells what it read itself, and what it had from the others."""
    upstream = Upstream(BLOB)
    async with nodes(tmp_path, "a", "b", "c") as made:
        upstream.serve(*made)
        await pull_all(*made, content=BLOB)
        for node in made:
            await settled(node)
            (arrival,) = (await ask(node, PUBLIC, Wanted(DIGEST))).arrivals
            assert arrival.cold
            assert set(arrival.givers) <= {"@registry.test", "a", "b", "c"} - {node.id}
            assert sum(giver.bytes for giver in arrival.givers.values()) == len(BLOB)
            outside = arrival.givers["@registry.test"]
            assert 0 < outside.bytes <= upstream.sent[node.id]
            assert outside.waited_s > 0
            assert arrival.wanting == 3


async def test_an_origin_that_stands_still_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the time in which nothing came."""
    monkeypatch.setattr(journal, "SAMPLE_S", 0.1)
    monkeypatch.setattr(transfer, "_LOOK_S", 0.1)
    upstream = Upstream(BLOB)
    async with nodes(tmp_path, "a") as (node,):
        upstream.serve(node)
        upstream.pauses_at["a"] = 3_000_000
        fetch = await begin(node)
        record = fetch._taking.arrival
        await eventually("it is seen to stand still", lambda: record.still_s > 0.3)
        upstream.go_on.set()
        await settled(node)
        (arrival,) = (await ask(node, PUBLIC, Wanted(DIGEST))).arrivals
        assert 0.3 < arrival.still_s < arrival.took_s
        assert arrival.givers["@registry.test"].still_s > 0.3


async def test_a_cold_pull_by_a_client_of_this_machine(tmp_path: Path) -> None:
    """Its bytes are containerd's."""
    upstream = Upstream(BLOB, striped=False, follows_client=True)
    async with nodes(tmp_path, "a", "b") as (a, b):
        upstream.serve(a)
        entitle(a)
        entitle(b)
        with pytest.raises(BlobUnknown):  # it goes to the registry itself
            await pull(a, BLOB, PRIVATE)
        assert await pull(b, BLOB, PRIVATE) == BLOB
        await settled(a)
        proof = Secret("right").proof(PRIVATE, Digest.parse(DIGEST), "x")
        arrival = (await ask(a, PRIVATE, Wanted(DIGEST, proof=proof))).arrivals[0]
        assert arrival.givers[CONTAINERD].bytes == len(BLOB)


async def test_what_an_earlier_attempt_left_is_not_counted_twice(
    tmp_path: Path, client: Client
) -> None:
    """It came some other time."""
    async with running(tmp_path, "a") as a:
        await client.push_blob(a, "app", BLOB)
        async with running(tmp_path, "b", a.mesh_address) as b:
            partial = await b.store.partial("app", Digest.parse(DIGEST), len(BLOB))
            partial.write(0, BLOB[:4_000_000])
            await partial.close()
            assert (await client.blob(b, "app", BLOB)).body == BLOB
            await settled(b)
            (arrival,) = (await ask(b, "app", Wanted(DIGEST))).arrivals
            kept = arrival.givers[KEPT].bytes
            assert kept > 3_000_000
            assert kept + arrival.givers["a"].bytes == len(BLOB)
