"""The state of the mesh: real nodes, asked as an operator does, some of which lie or are gone."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.control.client import call
from oci_mesh.control.status import VERB, ImageStatus, NodeStatus, Problem, Status, StatusRequest
from oci_mesh.members import table
from oci_mesh.members.table import MemberTable
from oci_mesh.mesh import wire
from oci_mesh.mesh.gossip import Gossip, Unreached
from oci_mesh.mesh.holdings import mark
from oci_mesh.mesh.wire import Disk, HeldImage, Inquiry, Missed, Report, Running
from oci_mesh.operations import comparison
from oci_mesh.operations import status as status_module
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import parse_manifest
from oci_mesh.store.base import Resolution
from oci_mesh.swarm.pieces import PieceMap
from tests.images import IMAGE_INDEX, IMAGE_MANIFEST, descriptor, encode, sha256
from tests.mesh.conftest import client, fast_gossip
from tests.mesh.fake_peer import FakePeer, hanging, holding, paused
from tests.mesh.swarms import mesh_source
from tests.nodes import (
    DEADLINE_S,
    MIB,
    Client,
    Image,
    eventually,
    make_image,
    meet,
    noise,
    running,
    seen_by,
    stop,
)

__all__ = ["client", "fast_gossip"]  # fixtures

pytestmark = pytest.mark.usefixtures("fast_gossip")

IMAGE = make_image("stated")
REPOSITORY = "team/app"


async def status(node: Node, *, images: bool = True) -> Status:
    """What the node answers its operator."""
    return await call(node.config.root, VERB, StatusRequest(images), Status)


def node_of(found: Status, name: str) -> NodeStatus:
    """What is said of one node."""
    (one,) = (node for node in found.nodes if node.id == name)
    return one


def image_of(found: Status, digest: str) -> ImageStatus:
    """What is said of one image."""
    (one,) = (image for image in found.images if image.digest == digest)
    return one


def problems(found: Status, kind: str) -> list[Problem]:
    """Those of a kind."""
    return [problem for problem in found.problems if problem.kind == kind]


def gossip(node: Node) -> Gossip:
    """What it knows of others."""
    assert node._gossip is not None
    return node._gossip


def knows(node: Node, tag: str) -> bool:
    """Whether the tag has come to it."""
    return gossip(node).register.get(REPOSITORY, tag) is not None


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine makes no node silent."""
    monkeypatch.setattr(status_module, "ANSWER_S", DEADLINE_S)
    monkeypatch.setattr(status_module, "GONE_S", DEADLINE_S)


# -- nodes that tell the truth


async def test_each_node_tells_of_itself(tmp_path: Path) -> None:
    """Where it is, what it is, and how full; the one that was asked comes first."""
    async with (
        running(tmp_path, "b", zone="left") as b,
        running(tmp_path, "a", b.mesh_address, zone="right", disk_limit=10**9) as a,
    ):
        await meet(a, b)
        found, where = await status(b), (a.mesh_address, a.url)
    assert [(node.id, node.state, node.zone) for node in found.nodes] == [
        ("b", "this", "left"),
        ("a", "answered", "right"),
    ]
    other = node_of(found, "a")
    assert (other.address, other.registry) == where
    assert other.sees == 1
    assert abs(other.ahead_s) < 5
    assert other.version
    assert other.disk is not None
    assert other.disk.limit == 10**9
    assert other.disk.total > other.disk.free > 0
    assert found.well


async def test_images_and_where_they_are(tmp_path: Path, client: Client) -> None:
    """Whole where all blobs are, a part where some are missing; a node without it is not named."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        await client.push(a, REPOSITORY, IMAGE, "v1")
        await client.put(a, REPOSITORY, "same", IMAGE.manifest)
        await eventually(
            "c knows it", lambda: gossip(c).register.get(REPOSITORY, "same") is not None
        )
        answer = await client.manifest(b, REPOSITORY, "v1")
        assert answer.status == 200
        await client.blob(b, REPOSITORY, IMAGE.blobs[0])
        found = await status(c)
    image = image_of(found, IMAGE.digest)
    assert (image.repository, image.tags) == (REPOSITORY, ["same", "v1"])
    assert (image.whole, image.part) == (["a"], ["b"])
    assert found.tags == []
    assert found.well


async def test_an_index_is_whole_with_one_of_its_images(tmp_path: Path, client: Client) -> None:
    """That is what it takes to run it on one kind of machine."""
    index = encode(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_INDEX,
            "manifests": [descriptor(IMAGE_MANIFEST, IMAGE.manifest)],
        }
    )
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, REPOSITORY, IMAGE, "one")
        await client.put(a, REPOSITORY, "many", index)
        for digest in (sha256(index), IMAGE.digest):  # and of its blobs, none
            assert (await client.manifest(b, REPOSITORY, digest)).status == 200
        found = await status(b)
    assert image_of(found, sha256(index)).whole == ["a"]
    assert image_of(found, sha256(index)).part == ["b"]


async def test_other_registries_images_go_by_the_tags_that_were_asked(tmp_path: Path) -> None:
    """And by digest alone if none was; a private registry's are told of to nobody."""
    other = make_image("by digest")
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        for repository in ("nginx@docker.io", "secret@registry.corp!"):
            for image in (IMAGE, other):
                await a.store.put_manifest(
                    repository, parse_manifest(image.manifest, IMAGE_MANIFEST)
                )
            await a.store.note_resolution(
                repository, "1.27", Resolution(Digest.parse(IMAGE.digest), time.time())
            )
        for asked in (a, b):
            found = await status(asked)
            assert {(image.repository, *image.tags) for image in found.images} == {
                ("nginx@docker.io", "1.27"),
                ("nginx@docker.io",),
            }
            assert all(image.part == ["a"] for image in found.images)


async def test_looking_is_no_use(tmp_path: Path, client: Client) -> None:
    """What nobody pulls is let go of, however often an operator looks at it."""
    async with running(tmp_path, "a") as a:
        await client.push(a, REPOSITORY, IMAGE)
        await a.store.coldest(10)  # writes down what was used until now
        before = await a.store.contents(10)
        await eventually("the clock has moved on", lambda: time.time() > before[0].accessed_s + 1.5)
        await status(a)
        await a.store.coldest(10)
        assert await a.store.contents(10) == before


async def test_what_is_on_its_way_is_told(tmp_path: Path, client: Client) -> None:
    """How far it is, and who gives it."""
    blob, go_on = noise(3 * MIB), asyncio.Event()
    pieces = PieceMap(len(blob))
    half = pieces.count // 2 * pieces.piece_size
    serving = holding(blob, sending=paused(half, go_on))
    async with running(tmp_path, "a") as a, FakePeer("p", serving) as peer:
        await peer.join(a)
        pull = asyncio.create_task(client.blob(a, REPOSITORY, blob))

        def halfway() -> bool:
            fetches = mesh_source(a).fetches()
            transfers = [fetch.transfer for fetch in fetches if fetch.transfer is not None]
            return any(transfer.assembly.verified == half for transfer in transfers)

        await eventually("half of it is here", halfway)
        found = await status(a)
        go_on.set()
        assert (await pull).body == blob
    (transfer,) = found.transfers
    assert (transfer.node, transfer.repository, transfer.digest) == ("a", REPOSITORY, sha256(blob))
    assert (transfer.size, transfer.verified, transfer.asked) == (len(blob), half, ["p"])
    assert transfer.rate > 0


# -- nodes that are not there


async def test_nodes_that_are_gone_or_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is listed as what it is, the others as always."""
    monkeypatch.setattr(table, "RETRY_FAILED_S", 1e9)
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        async with FakePeer("dies") as dies, FakePeer("dies-now") as dies_now:
            await dies.join(a)
            await dies_now.join(a)
            where = dies.address
            await meet(a, b, c)
        gossip(a).failed("dies", "cut")
        await stop(c)
        known = gossip(a).table.entries
        await eventually("c has left", lambda: any(m.id == "c" and m.left for m in known()))
        found = await status(a)
    states = {node.id: node.state for node in found.nodes}
    assert states.pop("dies-now") in ("silent", "gone")  # if gossip went there meanwhile
    assert states == {"a": "this", "b": "answered", "c": "left", "dies": "gone"}
    assert node_of(found, "dies").reason == f"{where}: Connection refused"
    assert node_of(found, "dies").silent_s > 0
    assert not found.well


@pytest.mark.parametrize("is_live", [True, False])
async def test_nobody_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_live: bool
) -> None:
    """A node that takes the question and says nothing, be it held for alive or not."""
    monkeypatch.setattr(status_module, "ANSWER_S" if is_live else "GONE_S", 0.2)
    monkeypatch.setattr(table, "RETRY_FAILED_S", 1e9)
    async with running(tmp_path, "a") as a, FakePeer("hangs", hanging) as hangs:
        await hangs.join(a)
        where = hangs.address
        if not is_live:
            gossip(a).failed("hangs", "cut")
            hangs.gossip = hanging
        found = await status(a)
    node = node_of(found, "hangs")
    assert node.state == ("silent" if is_live else "gone")
    assert where in node.reason


async def test_who_cannot_reach_whom(tmp_path: Path) -> None:
    """It is the word of the one that tried; no one is held for dead because of it."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        gossip(b).failed("c", "a firewall, perhaps")
        found = await status(a)
        (problem,) = problems(found, "reach")
        assert (problem.node, problem.others) == ("b", ["c"])
        assert "a firewall, perhaps" in problem.text
        assert node_of(found, "c").state == "answered"
        assert not found.well
        await eventually("b reached c again", lambda: not gossip(b).unreached)
        assert (await status(a)).well


async def test_whom_it_could_not_reach_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as it seems alive; who is fine, and who is forgotten, is no matter of that."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        gossip(a).unreached |= {name: Unreached(0.0, "") for name in ("b", "nobody")}
        partner = gossip(a)._unreached_partner()
        assert partner is not None
        assert partner.id == "b"
        assert set(gossip(a).unreached) == {"b"}
        with monkeypatch.context() as patched:  # it goes there of itself, not by chance
            patched.setattr(MemberTable, "choose_partner", lambda *_: None)
            await eventually("it was reached", lambda: not gossip(a).unreached)
        assert gossip(a)._unreached_partner() is None


async def test_a_node_that_is_not_seen_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers here, has been there for a while, and the other does not know of it."""
    monkeypatch.setattr(comparison, "SETTLED_S", 0.0)
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        liar(alive=["b"]) as p,
    ):
        await p.join(a, b)
        await meet(a, b)
        found = await status(a)
    (problem,) = problems(found, "unseen")
    assert (problem.node, problem.others) == ("p", ["a"])


# -- nodes that lie


def liar(change: Callable[[dict[str, Any]], object] = lambda _: None, **says: Any) -> FakePeer:
    """A peer called `p` that answers with a report in which these fields are said; `change` makes
    of it what no struct could be.
    """

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path != wire.REPORT_PATH:
            return web.Response(status=404)
        asked = msgspec.json.decode(await request.read(), type=Inquiry)
        truth = Report("p", "1", time.time(), uptime_s=60.0, disk=Disk())
        said = {name: each(asked) if callable(each) else each for name, each in says.items()}
        document = json.loads(wire.encode(truth)) | json.loads(wire.encode(said))
        change(document)
        return web.Response(body=json.dumps(document).encode())

    return FakePeer("p", answer)


def setting(**fields: object) -> Callable[[dict[str, Any]], object]:
    """Fields as no node says them."""
    return lambda document: document.update(fields)


@pytest.mark.parametrize(
    "change",
    [
        setting(alive=[f"n{number}" for number in range(5000)]),
        setting(alive=["a", 5]),
        setting(alive=["\x1b[2J"]),
        setting(alive=["a\n"]),
        setting(disk={"total": -1}),
        setting(disk={"free": 2**70}),
        setting(disk="much"),
        setting(uptime_s="long"),
        setting(now=1e300),
        setting(version="1\x1b]0;pwned\x07"),
        setting(version="1" * 5000),
        setting(images=[{"repository": "x", "digest": IMAGE.digest}] * 501),
        setting(images=[{"repository": "x" * 5_000_000, "digest": ""}]),
        setting(running=[{"repository": "x", "digest": "y", "size": -7}]),
        setting(missed=[{"node": "a", "age_s": 1}]),
        setting(node="a b"),
        lambda document: document.clear(),
    ],
)
async def test_what_no_node_says_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """Huge lists, wrong types, negative sizes: the node is listed as one that answered wrongly."""
    async with running(tmp_path, "a") as a, liar(change) as peer:
        await peer.join(a)
        found = await status(a)
    assert [(node.id, node.state) for node in found.nodes] == [("a", "this"), ("p", "wrong")]
    assert node_of(found, "p").reason.isprintable()
    assert not found.well


async def test_nobody_answers_for_another(tmp_path: Path) -> None:
    """A report in the name of another node counts for neither."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        liar(node="b", version="9.9") as peer,
    ):
        await peer.join(a)
        await meet(a, b)
        found = await status(a)
    assert node_of(found, "p").state == "wrong"
    assert "b" in node_of(found, "p").reason
    assert node_of(found, "b").version != "9.9"


async def test_claims_about_others_change_nothing(tmp_path: Path) -> None:
    """Who says that others are dead, or that it sees some that are not there, is just quoted."""
    missed = [Missed("b", 1.0, "it is dead"), Missed("nobody", 1.0, "gone")]
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        liar(missed=missed, alive=["x", "y"], banned=["b", "nobody"]) as peer,
    ):
        await peer.join(a)
        await meet(a, b)
        found = await status(a)
        assert "b" in seen_by(a)
    assert {node.id for node in found.nodes} == {"a", "b", "p"}
    assert node_of(found, "b").state == "answered"
    assert [(p.node, p.others) for p in problems(found, "reach")] == [("p", ["b"])]
    assert [(p.node, p.others) for p in problems(found, "banned")] == [("p", ["b"])]


def claim(repository: str, image: Image, content: bytes | None) -> Callable[[Inquiry], Any]:
    """To have an image, shown by `content`; None if it has nothing to show."""

    def images(asked: Inquiry) -> list[HeldImage]:
        shown = mark(asked.nonce, content, len(content)) if content is not None else "0" * 64
        return [HeldImage(repository, image.digest, ["v1"], whole=True, mark=shown)]

    return images


async def test_a_manifest_that_is_here_has_to_be_shown(tmp_path: Path, client: Client) -> None:
    """Who claims to have it and cannot is named; who can, is believed."""
    for content, believed in ((IMAGE.manifest, True), (None, False), (b"another", False)):
        root = tmp_path / str(content is None) / str(believed)
        async with (
            running(root, "a") as a,
            liar(images=claim(REPOSITORY, IMAGE, content)) as peer,
        ):
            await peer.join(a)
            await client.push(a, REPOSITORY, IMAGE, "v1")
            found = await status(a)
        assert image_of(found, IMAGE.digest).whole == (["a", "p"] if believed else ["a"])
        assert [p.node for p in problems(found, "false")] == ([] if believed else ["p"])


async def test_the_same_question_is_asked_of_nobody_twice(tmp_path: Path) -> None:
    """What another node has shown, or this one has shown before, is of no use."""
    nonces = []

    def note(asked: Inquiry) -> list[HeldImage]:
        nonces.append(asked.nonce)
        return []

    async with running(tmp_path, "a") as a, liar(images=note) as peer:
        await peer.join(a)
        await status(a)
        await status(a)
    assert len(set(nonces)) == 2
    assert all(len(nonce) == 32 for nonce in nonces)


async def test_names_that_cannot_be_are_left_out(tmp_path: Path) -> None:
    """Of images and transfers alike; private ones are none of a report's business."""
    names = ["../etc", "UPPER", "x\x1b[2J", "app@registry.corp!", "fine"]
    images = [HeldImage(name, IMAGE.digest, mark="0" * 64) for name in names]
    images += [HeldImage("fine", "sha256:short", mark="0" * 64)]
    images += [HeldImage("fine", sha256(b""), ["not a tag"], mark="0" * 64)]
    transfers = [Running(name, IMAGE.digest, 10, 5) for name in names]
    transfers += [Running("fine", IMAGE.digest, 10, 11), Running("fine", "x", 10)]
    async with running(tmp_path, "a") as a, liar(images=images, running=transfers) as peer:
        await peer.join(a)
        found = await status(a)
    assert [image.repository for image in found.images] == ["fine"]
    assert [(t.repository, t.verified) for t in found.transfers] == [("fine", 5)]


async def test_tags_that_nodes_differ_about(tmp_path: Path, client: Client) -> None:
    """Each meaning is said with the nodes that hold it; the asked node's own one counts for the
    image.
    """
    other = make_image("other")
    async with running(tmp_path, "a") as a, liar(images=claim(REPOSITORY, other, None)) as peer:
        await peer.join(a)
        await client.push(a, REPOSITORY, IMAGE, "v1")
        found = await status(a)
    (tag,) = found.tags
    assert (tag.repository, tag.tag) == (REPOSITORY, "v1")
    assert tag.meanings == {IMAGE.digest: ["a"], other.digest: ["p"]}
    assert image_of(found, other.digest).tags == []


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ({"now": lambda _: time.time() - 3600}, "clock"),
        ({"certificate_ends": 1000.0}, "certificate"),
        ({"doubles": ["127.0.0.1:9"]}, "double"),
        ({"disk": Disk(total=100, free=9, reserve=10)}, "disk"),
        ({"disk": Disk(total=100, free=90, content=50, cached=10, limit=40)}, "disk"),
    ],
)
async def test_what_is_wrong_with_a_node_is_said(
    tmp_path: Path, says: dict[str, Any], kind: str
) -> None:
    """As it tells, or as its clock shows."""
    async with running(tmp_path, "a") as a, liar(**says) as peer:
        await peer.join(a)
        found = await status(a)
    assert [(p.kind, p.node) for p in found.problems] == [(kind, "p")]


async def test_without_images_none_are_looked_for(tmp_path: Path, client: Client) -> None:
    """Who wants to see the nodes does not wait for more."""
    async with running(tmp_path, "a") as a:
        await client.push(a, REPOSITORY, IMAGE)
        assert (await status(a, images=False)).images == []
        assert (await status(a)).images != []
        assert mesh_source(a).fetches() == []
