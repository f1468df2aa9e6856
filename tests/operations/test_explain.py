"""Where a name leads: real nodes, asked as an operator does, some of which lie or are gone."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.control.client import call
from oci_mesh.control.explain import VERB, Content, ExplainRequest, Explanation
from oci_mesh.errors import OperationFailed
from oci_mesh.mesh import wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.wire import Held, Holding, Holdings, Meaning, Wanted
from oci_mesh.operations.explain import Explain, Parts
from oci_mesh.operations.survey import ANSWER_S
from oci_mesh.upstream_config import UpstreamConfig
from tests.containerd.fake import FakeContainerd
from tests.images import IMAGE_INDEX, IMAGE_MANIFEST, descriptor, encode, sha256
from tests.mesh.conftest import client, fast_gossip
from tests.mesh.fake_peer import FakePeer, hanging
from tests.mesh.swarms import mesh_source, nodes, wrap
from tests.nodes import DEADLINE_S, Client, Image, eventually, make_image, running, seen_by, stop
from tests.test_mirror import NS, Puller, Start, add, no_waits, puller, registry, start, start_many
from tests.upstream.fake import FakeRegistry, status

__all__ = ["client", "fast_gossip", "no_waits", "puller", "registry", "start"]  # fixtures

pytestmark = pytest.mark.usefixtures("fast_gossip")

IMAGE = make_image("explained")
LAYER = sha256(IMAGE.blobs[1])


async def explain(
    node: Node, ref: str, platform: str = "linux/amd64", *, ask: bool = False
) -> Explanation:
    """What the node answers its operator."""
    return await call(node.config.root, VERB, ExplainRequest(ref, platform, ask), Explanation)


def content(found: Explanation, kind: str) -> Content:
    """The only one of a kind."""
    (one,) = (content for content in found.contents if content.kind == kind)
    return one


def states(content: Content) -> dict[str, str]:
    """What the nodes are to it."""
    return {holder.node: holder.state for holder in content.holders}


def presence(found: Explanation) -> dict[str, str]:
    """What the nodes are."""
    return {node.node: node.state for node in found.nodes}


async def settled(*nodes: Node) -> None:
    """Nothing is on its way there any more."""
    for node in nodes:
        await eventually("it is stored", lambda n=node: not mesh_source(n)._blobs)  # type: ignore[misc]


async def told(node: Node, repository: str) -> None:
    """It knows what `v1` is there."""
    gossip = node._gossip
    assert gossip is not None
    register = gossip.register
    await eventually("it knows the tag", lambda: register.get(repository, "v1") is not None)


def is_deleted(node: Node, name: str) -> bool:
    """Whether it knows that."""
    assert node._gossip is not None
    return node._gossip.is_deleted("app", name)


# -- the mesh's own images


async def test_a_name_of_the_mesh_itself(tmp_path: Path, client: Client) -> None:
    """From the name to the layers, who has them, and how they came."""
    async with nodes(tmp_path, "a", "b", "c") as (a, b, _):
        before = time.time()
        await client.push(a, "team/app", IMAGE, "v1")
        await told(b, "team/app")
        assert await client.has(b, "team/app", IMAGE, "v1")
        await settled(b)
        found = await explain(b, "team/app:v1")
        assert (found.stopped_at, found.node) == ("", "b")
        assert found.rule is not None
        assert (found.rule.kind, found.rule.repository) == ("own", "team/app")
        assert found.tag is not None
        assert (found.tag.digest, found.tag.known_from) == (IMAGE.digest, "register")
        assert found.tag.written_by == "a"
        assert before - 1 < found.tag.at < time.time() + 1
        assert [c.kind for c in found.contents] == ["manifest", "config", "layer"]
        for one in found.contents:
            assert states(one) == {"a": "has", "b": "has"}
        assert content(found, "layer").digest == LAYER
        assert content(found, "layer").size == len(IMAGE.blobs[1])
        assert presence(found) == {"b": "this", "a": "answered", "c": "answered"}
        (pull,) = found.pulls
        assert (pull.node, len(pull.blobs)) == ("b", 2)
        assert pull.bytes == sum(map(len, IMAGE.blobs))
        assert pull.givers["a"].bytes == pull.bytes
        assert pull.verdict == ["nothing was slow"]
        assert {d.node for d in found.deliveries} == {"b"}


@pytest.mark.parametrize(
    "ref", ["registry.internal:5000/app:v1", "127.0.0.1:5000/app:v1", f"app@{IMAGE.digest}"]
)
async def test_other_names_of_the_same_image(tmp_path: Path, client: Client, ref: str) -> None:
    """Whatever host is in it, if that is no registry that is mirrored; and by digest."""
    async with running(tmp_path, "a") as node:
        await client.push(node, "app", IMAGE, "v1")
        found = await explain(node, ref)
        assert found.stopped_at == ""
        assert found.rule is not None
        assert (found.rule.kind, found.rule.repository) == ("own", "app")
        assert content(found, "manifest").digest == IMAGE.digest


async def test_what_clients_make_of_a_name_without_a_host(tmp_path: Path, client: Client) -> None:
    """Each something else; what is here is explained."""
    async with running(tmp_path, "a") as node:
        await client.push(node, "app", IMAGE, "v1")
        found = await explain(node, "app:v1")
        assert [(r.name, r.repository) for r in found.readings[:2]] == [
            ("app:v1", "app"),
            ("docker.io/library/app:v1", "library/app@docker.io"),
        ]
        assert "podman" in found.readings[2].clients
        named = await explain(node, "docker.io/app:v1")
        assert [r.name for r in named.readings] == ["docker.io/library/app:v1"]


async def test_an_index_leads_to_the_image_for_the_platform(tmp_path: Path, client: Client) -> None:
    """And says which others there are; without one for it, it leads nowhere."""
    other = make_image("arm")
    index = encode(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_INDEX,
            "manifests": [
                _offer(other, "arm64"),
                _offer(IMAGE, "amd64"),
            ],
        }
    )
    async with running(tmp_path, "a") as node:
        for image in (IMAGE, other):
            await client.push(node, "app", image, image.digest)
        await client.put(node, "app", "v1", index)
        found = await explain(node, "app:v1")
        assert found.stopped_at == ""
        assert [(o.platform, o.taken) for o in found.offers] == [
            ("linux/arm64", False),
            ("linux/amd64", True),
        ]
        assert content(found, "index").digest == sha256(index)
        assert content(found, "manifest").digest == IMAGE.digest
        assert content(found, "layer").digest == LAYER
        found = await explain(node, "app:v1", "linux/arm64")
        assert content(found, "manifest").digest == other.digest
        found = await explain(node, "app:v1", "windows/amd64")
        assert found.stopped_at == "platform"
        assert "windows/amd64" in found.why
        assert [c.kind for c in found.contents] == ["index"]


def _offer(image: Image, architecture: str) -> dict[str, Any]:
    platform = {"os": "linux", "architecture": architecture}
    return {**descriptor(IMAGE_MANIFEST, image.manifest), "platform": platform}


async def test_what_only_another_node_has_is_explained_and_not_fetched(
    tmp_path: Path, client: Client
) -> None:
    """The manifest is read there, and verified; what it says of blobs is its word."""
    async with nodes(tmp_path, "a", "b") as (a, b):
        await client.push(a, "app", IMAGE, "v1")
        await told(b, "app")
        found = await explain(b, "app:v1")
        assert found.stopped_at == ""
        assert states(content(found, "layer")) == {"a": "says"}
        assert (await b.store.usage()).blobs == 0


async def test_a_wrong_manifest_is_not_believed(tmp_path: Path, client: Client) -> None:
    """Its digest says what it has to be."""
    forged = make_image("forged").manifest

    async def lie(request: web.BaseRequest, handler: Any) -> web.StreamResponse:
        if "/manifests/" in request.path:
            return web.Response(body=forged, content_type=IMAGE_MANIFEST)
        return await handler(request)  # type: ignore[no-any-return]

    async with nodes(tmp_path, "a", "b") as (a, b):
        await client.push(a, "app", IMAGE, "v1")
        await told(b, "app")
        wrap(a, lie)
        found = await explain(b, "app:v1")
        assert (found.stopped_at, found.contents) == ("manifest", [])


@pytest.mark.parametrize(
    ("ref", "similar"),
    [("app:v2", ["app:v1"]), ("ap:v1", ["app:v1"]), ("zzzzzzzz:1", [])],
)
async def test_a_name_that_is_not_there(
    tmp_path: Path, client: Client, ref: str, similar: list[str]
) -> None:
    """It ends at the tag; the nearest names are said."""
    async with running(tmp_path, "a") as node:
        await client.push(node, "app", IMAGE, "v1")
        found = await explain(node, ref)
        assert (found.stopped_at, found.similar) == ("tag", similar)
        assert found.hint


async def test_what_was_deleted_is_said_to_be(tmp_path: Path, client: Client) -> None:
    """A tag, with who did it; and content."""
    async with nodes(tmp_path, "a", "b") as (a, b):
        await client.push(a, "app", IMAGE, "v1")
        await client.push(a, "app", IMAGE, "v2")
        await client.delete(a, "/v2/app/manifests/v1")
        await eventually("b knows", lambda: is_deleted(b, "v1"))
        found = await explain(b, "app:v1")
        assert found.stopped_at == "tag"
        assert found.tag is not None
        assert (found.tag.deleted, found.tag.written_by) == (True, "a")
        await client.delete(a, f"/v2/app/manifests/{IMAGE.digest}")
        await eventually("b knows", lambda: is_deleted(b, IMAGE.digest))
        found = await explain(b, f"app@{IMAGE.digest}")
        assert found.stopped_at == "manifest"
        assert "was deleted" in found.why


async def test_a_layer_that_nobody_has(tmp_path: Path, client: Client) -> None:
    """The name ends at the blobs; who is away may have it."""
    async with nodes(tmp_path, "a", "b") as (a, b):
        await client.push(a, "app", IMAGE, "v1")
        assert await client.has(b, "app", IMAGE, "v1")
        await settled(b)
        await client.delete(a, f"/v2/app/blobs/{LAYER}")
        await eventually("b knows", lambda: is_deleted(b, LAYER))
        found = await explain(b, "app:v1")
        assert found.stopped_at == "blobs"
        assert LAYER in found.why
        assert content(found, "layer").holders == []
        await stop(a)
        found = await explain(b, "app:v1")
        assert presence(found)["a"] == "left"
        assert "on a node that is away: a" in found.hint


@pytest.mark.parametrize(
    ("ref", "platform"), [("App:v1", ""), ("", ""), ("app:v1", "amd64"), ("app@sha256:0", "")]
)
async def test_what_is_no_name(tmp_path: Path, ref: str, platform: str) -> None:
    """It is refused in a sentence."""
    async with running(tmp_path, "a") as node:
        with pytest.raises(OperationFailed):
            await explain(node, ref, platform or "linux/amd64")


# -- nodes that lie, or are gone


class Liar:
    """A peer that answers `Holdings` as a test says."""

    def __init__(self, tell: Callable[[Holdings], Held | bytes]) -> None:
        self._tell = tell

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """One question."""
        if request.path != wire.HOLDINGS_PATH:
            return web.Response(status=404)
        told = self._tell(wire.decode(await request.read(), Holdings))
        return web.Response(body=told if isinstance(told, bytes) else wire.encode(told))


def claim(asked: Holdings, **figures: Any) -> Held:
    """To have all that is asked for, of the right size."""
    sizes = {sha256(blob): len(blob) for blob in IMAGE.blobs} | {IMAGE.digest: len(IMAGE.manifest)}
    return Held(
        [
            Holding(**{"size": sizes[wanted.digest], "share": 1.0, "mark": "0" * 64, **figures})
            for wanted in asked.wanted
        ]
    )


LIES: dict[str, tuple[Callable[[Holdings], Held | bytes], str]] = {
    "marks made up": (claim, "false"),
    "no marks": (lambda asked: claim(asked, mark=""), "false"),
    "another size": (lambda asked: claim(asked, size=5, in_containerd=True), "false"),
    "that containerd has it": (lambda asked: claim(asked, in_containerd=True), "says"),
    "half of it": (lambda asked: claim(asked, share=0.5), "part"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_node_that_claims_what_it_has_not(tmp_path: Path, client: Client, lie: str) -> None:
    """What can be checked is; the rest is marked as its word."""
    tell, state = LIES[lie]
    async with running(tmp_path, "a") as node, FakePeer("liar", Liar(tell)) as liar:
        await client.push(node, "app", IMAGE, "v1")
        await liar.join(node)
        found = await explain(node, "app:v1")
        assert found.stopped_at == ""
        for one in found.contents:
            assert states(one) == {"a": "has", "liar": state}


async def test_what_was_shown_before_shows_nothing_again(tmp_path: Path, client: Client) -> None:
    """A node that once had it cannot live on that."""
    shown: list[Held] = []

    async with nodes(tmp_path, "a", "b") as (a, b):
        await client.push(a, "app", IMAGE, "v1")
        assert await client.has(b, "app", IMAGE, "v1")
        await settled(b)
        own = b._desk.services[wire.HOLDINGS_PATH].answer

        async def repeat(request: web.BaseRequest, handler: Any) -> web.StreamResponse:
            if request.path != wire.HOLDINGS_PATH:
                return await handler(request)  # type: ignore[no-any-return]
            if not shown:
                asked = wire.decode(await request.read(), Holdings)
                told = await own("a", asked)
                assert isinstance(told, Held)
                shown.append(told)
            return web.Response(body=wire.encode(shown[0]))

        wrap(b, repeat)
        assert states(content(await explain(a, "app:v1"), "layer"))["b"] == "has"
        assert states(content(await explain(a, "app:v1"), "layer"))["b"] == "false"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b'{"holdings": [], "link": -7}',
        b'{"holdings": [{}, {}]}',
        b'{"holdings": [{}, {}, {}], "meaning": {"target": "\\u001b[2J"}}',
        b'{"holdings": [{}, {}, {"size": 1, "share": 7}]}',
        b" " * (wire.MAX_HELD_BYTES + 1),
    ],
)
async def test_an_answer_that_is_none_is_a_node_that_gave_none(
    tmp_path: Path, client: Client, answer: bytes
) -> None:
    """The others are told of all the same."""
    async with running(tmp_path, "a") as node, FakePeer("liar", Liar(lambda _: answer)) as liar:
        await client.push(node, "app", IMAGE, "v1")
        await liar.join(node)
        found = await explain(node, "app:v1")
        assert presence(found) == {"a": "this", "liar": "silent"}
        assert found.nodes[1].reason.isprintable()
        assert states(content(found, "layer")) == {"a": "has"}


async def test_a_node_to_which_a_tag_means_another_image(tmp_path: Path, client: Client) -> None:
    """It is named; it changes nothing."""
    other = Meaning(sha256(b"another"), "000000000001-0000-liar")
    tell = lambda asked: Held([Holding()] * len(asked.wanted), other)  # noqa: E731
    async with running(tmp_path, "a") as node, FakePeer("liar", Liar(tell)) as liar:
        await client.push(node, "app", IMAGE, "v1")
        await liar.join(node)
        found = await explain(node, "app:v1")
        assert found.tag is not None
        assert found.tag.digest == IMAGE.digest
        assert [(d.node, d.digest) for d in found.tag.differing] == [("liar", other.target)]


async def test_a_node_that_does_not_answer_costs_no_more_than_the_deadline(
    tmp_path: Path, client: Client
) -> None:
    """Not one deadline for each."""
    async with (
        running(tmp_path, "a") as node,
        FakePeer("x", hanging) as x,
        FakePeer("y", hanging) as y,
    ):
        await client.push(node, "app", IMAGE, "v1")
        await x.join(node)
        await y.join(node)
        found = await explain(node, "app:v1")
        assert presence(found) == {"a": "this", "x": "silent", "y": "silent"}
        assert states(content(found, "layer")) == {"a": "has"}
        assert found.took_s >= ANSWER_S


async def test_nodes_that_are_gone_are_named(tmp_path: Path, client: Client) -> None:
    """Also those that were shut down."""
    async with nodes(tmp_path, "a", "b") as (a, b):
        await client.push(a, "app", IMAGE, "v1")
        async with FakePeer("dead") as dead:
            await dead.join(a)
        await stop(b)
        await eventually("they are gone", lambda: not seen_by(a) & {"b", "dead"})
        found = await explain(a, "app:v1")
        assert presence(found) == {"a": "this", "b": "left", "dead": "gone"}
        assert found.stopped_at == ""


# -- other registries


async def test_a_tag_of_a_registry_and_who_has_looked(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Where it is asked, and what this node, or else another, heard there."""
    add(registry, IMAGE, "v1")
    a, b = await start_many(start, 2)
    await puller.pull(a, IMAGE, "v1")
    await settled(a)
    asked = len(registry.seen)
    for node, known_from in ((a, "memory"), (b, "others")):
        found = await explain(node, f"{NS}/app:v1")
        assert found.stopped_at == ""
        assert found.rule is not None
        assert (found.rule.kind, found.rule.repository) == ("upstream", f"app@{NS}")
        assert (found.rule.urls, found.rule.asked_as) == ([registry.url], "app")
        assert found.tag is not None
        assert (found.tag.digest, found.tag.known_from) == (IMAGE.digest, known_from)
        assert not found.tag.stale
        assert abs(time.time() - found.tag.at) < 60
        (pull,) = found.pulls
        assert (pull.node, set(pull.givers)) == (a.id, {f"@{NS}"})
        assert all(blob.cold for blob in pull.blobs)
    assert len(registry.seen) == asked  # nobody asked it for this


async def test_one_liar_about_a_tag_does_not_outnumber_the_others(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """What most nodes say is explained; who says otherwise is named."""
    add(registry, IMAGE, "v1")
    a, b, c = await start_many(start, 3)
    for node in (a, b):
        await puller.ask("HEAD", node, "app/manifests/v1")
    tell = lambda asked: Held([Holding()] * len(asked.wanted), Meaning(sha256(b"evil")))  # noqa: E731
    async with FakePeer("liar", Liar(tell)) as liar:
        await liar.join(c)
        found = await explain(c, f"{NS}/app:v1")
    assert found.tag is not None
    assert (found.tag.digest, found.tag.known_from) == (IMAGE.digest, "others")
    assert [(d.node, d.digest) for d in found.tag.differing] == [("liar", sha256(b"evil"))]


async def test_a_node_that_hangs_does_not_keep_the_manifest_of_another(
    tmp_path: Path, client: Client
) -> None:
    """Who has it is known as soon as it says so."""
    async with nodes(tmp_path, "a", "b") as (a, b), FakePeer("x", hanging) as hanging_peer:
        await client.push(a, "app", IMAGE, "v1")
        await hanging_peer.join(b)
        asked = Content("manifest", IMAGE.digest, -1, "")
        async with asyncio.timeout(DEADLINE_S):
            found = await parts(b).survey.holders("app", asked, 1, 10 * DEADLINE_S)
        assert [node.node for node in found] == ["a"]


async def test_a_tag_that_nobody_has_looked_up(registry: FakeRegistry, start: Start) -> None:
    """It is not asked for, unless that is wished."""
    add(registry, IMAGE, "v1")
    node = await start()
    found = await explain(node, f"{NS}/app:v1")
    assert (found.stopped_at, registry.seen) == ("tag", [])
    found = await explain(node, f"{NS}/app:v1", ask=True)
    assert found.stopped_at == ""
    assert found.tag is not None
    assert (found.tag.digest, found.tag.known_from) == (IMAGE.digest, "registry")
    assert content(found, "layer").holders == []
    assert (await explain(node, f"{NS}/app:no", ask=True)).stopped_at == "tag"


async def test_a_manifest_that_the_next_pull_would_bring(
    registry: FakeRegistry, start: Start
) -> None:
    """The tag is known, and no node has what it points to."""
    add(registry, IMAGE, "v1")
    node = await start()
    await parts(node).mirror.resolve(f"app@{NS}", "v1")
    found = await explain(node, f"{NS}/app:v1")
    assert found.stopped_at == "manifest"
    assert f"the next pull gets it from {NS}" in found.why
    assert (await explain(node, f"{NS}/app:v1", ask=True)).stopped_at == ""


def parts(node: Node) -> Parts:
    """Of what answers there."""
    explain = node._desk.verbs[VERB].answer.__self__  # type: ignore[attr-defined]
    assert isinstance(explain, Explain)
    return explain._parts


async def test_what_is_remembered_for_long_is_stale(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """The next pull asks again; also if the registry is away, what it was is said."""
    add(registry, IMAGE, "v1", "latest")
    node = await start(tag_ttl=60.0)
    await puller.pull(node, IMAGE, "v1")
    await puller.pull(node, IMAGE, "latest")
    registry.gates.append(status(503))
    tag = (await explain(node, f"{NS}/app:v1")).tag
    assert tag is not None
    assert not tag.stale
    for found in (await explain(node, f"{NS}/app"), await explain(node, f"{NS}/app", ask=True)):
        assert found.tag is not None
        assert (found.tag.name, found.tag.stale) == ("latest", True)
        assert found.tag.digest == IMAGE.digest


async def test_a_registry_that_gives_only_to_who_has_a_secret(
    tmp_path: Path, registry: FakeRegistry, start: Start
) -> None:
    """Tags end there; by digest, what this node's containerd was given says what there is."""
    containerd = FakeContainerd(tmp_path / "containerd")
    containerd.start()
    containerd.pull(IMAGE)
    node = await start(upstream={"private": True}, containerd=containerd.root)
    found = await explain(node, f"{NS}/app:v1")
    assert found.stopped_at == "tag"
    assert found.rule is not None
    assert (found.rule.private, found.rule.repository) == (True, f"app@{NS}!")
    found = await explain(node, f"{NS}/app@{IMAGE.digest}")
    assert found.stopped_at == ""
    layer = content(found, "layer")
    assert states(layer) == {node.id: "has"}
    assert layer.holders[0].in_containerd
    found = await explain(node, f"{NS}/app@{sha256(b'another')}")
    assert found.stopped_at == "manifest"
    assert registry.seen == []


async def test_what_a_client_got_of_a_private_image_is_told_to_no_other_node(
    tmp_path: Path, registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Clients ask for it by the name that public content has, too."""
    containerd = FakeContainerd(tmp_path / "containerd")
    containerd.start()
    containerd.pull(IMAGE)
    node = await start(upstream={"private": True}, containerd=containerd.root)
    assert (await puller.blob(node, IMAGE.blobs[1])).body == IMAGE.blobs[1]
    found = await explain(node, f"{NS}/app@{IMAGE.digest}")
    assert [delivery.digest for delivery in found.deliveries] == [LAYER]
    async with PeerClient("x") as other:
        for repository in (f"app@{NS}", f"app@{NS}!"):
            asked = Holdings(repository, [Wanted(LAYER)])
            held = await other.holdings(node.mesh_address, asked, node.id, DEADLINE_S)
            assert (held.deliveries, held.arrivals) == ([], [])
            assert held.holdings[0].size == -1


async def test_what_clients_got_of_public_images_is_told(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """To every node."""
    add(registry, IMAGE, "v1")
    a, b = await start_many(start, 2)
    await puller.pull(a, IMAGE, "v1")
    await settled(a)
    found = await explain(b, f"{NS}/app:v1")
    assert {d.node for d in found.deliveries} == {a.id}


async def test_a_registry_that_is_switched_off(tmp_path: Path) -> None:
    """Its names lead nowhere here."""
    async with running(tmp_path, "a", public_registries=False) as node:
        found = await explain(node, "docker.io/library/nginx:1.27")
        assert (found.stopped_at, found.nodes) == ("rule", [])
        assert found.rule is not None
        assert (found.rule.kind, found.rule.registry) == ("off", "docker.io")


async def test_a_short_name_that_only_docker_hub_has(
    tmp_path: Path, client: Client, registry: FakeRegistry
) -> None:
    """It is explained as docker and Kubernetes mean it, once that is known here; as the mesh's own
    once that has a repository of the name.
    """
    add(registry, IMAGE, "1.27")
    hub = UpstreamConfig(name="docker.io", urls=(registry.url,))
    async with running(tmp_path, "a", upstreams=(hub,), public_registries=False) as node:
        found = await explain(node, "nginx:1.27")
        assert found.rule is not None
        assert (found.rule.kind, found.stopped_at) == ("own", "tag")
        assert "docker.io/library/nginx:1.27" in found.hint
        await Puller(client).ask("HEAD", node, "library/nginx/manifests/1.27", "docker.io")
        found = await explain(node, "nginx:1.27")
        assert found.rule is not None
        assert found.rule.repository == "library/nginx@docker.io"
        await client.push(node, "nginx", IMAGE, "of-ours")
        found = await explain(node, "nginx:1.27")
        assert found.rule is not None
        assert (found.rule.kind, found.stopped_at) == ("own", "tag")
