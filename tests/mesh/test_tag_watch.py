"""Which node looks at a tag of an upstream for all, between real nodes; and those that do not."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.errors import PeerError
from oci_mesh.mesh import tag_watch, wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.server import PeerServer
from oci_mesh.mesh.tag_watch import TagWatch
from oci_mesh.mesh.wire import Claim, Confirmation
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import parse_manifest
from oci_mesh.tasks import loop_time
from oci_mesh.upstream.tags import TTL_S, UpstreamTags
from oci_mesh.upstream_config import UpstreamConfig
from tests.mesh.fake_peer import asking_order
from tests.mesh.swarms import mesh_source, nodes, wrap
from tests.nodes import Client, make_image, meet, running
from tests.upstream.fake import FakeRegistry, serving

REPOSITORY = "library/busybox@docker.io"
TAG = "1.36"
DIGEST = Digest.of(b"the manifest")

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Looks:
    """What nodes see of the upstream: put in the place of their own `UpstreamTags`."""

    def __init__(self, *seen_by: Node) -> None:
        self.asked: list[str] = []
        self.ages: dict[str, float | None] = {}
        for node in seen_by:
            self._replace(node)

    def _replace(self, node: Node) -> None:
        async def confirm(repository: str, tag: str, digest: Digest) -> float | None:
            assert (repository, tag, digest) == (REPOSITORY, TAG, DIGEST)
            self.asked.append(node.id)
            return self.ages.get(node.id, 0.0)

        server = node._peers.__self__  # type: ignore[attr-defined]
        assert isinstance(server, PeerServer)
        server._confirm = confirm


def watch_of(node: Node) -> TagWatch:
    """A node's view of the others, without what it asked before."""
    source = mesh_source(node)
    return TagWatch(source._gossip, source._client)


async def confirmed(node: Node, voices: int = 1) -> float | None:
    """What the colleagues of a node say."""
    return await watch_of(node).confirm(REPOSITORY, TAG, DIGEST, voices)


def in_order(*made: Node) -> list[Node]:
    """Nodes by the order in which they look at the tag."""
    by_name = {node.id: node for node in made}
    return [by_name[name] for name in asking_order(f"{REPOSITORY}:{TAG}", *by_name)]


async def test_all_ask_the_same_node_which_asks_nobody(tmp_path: Path) -> None:
    """Every node comes to the same order of all that are live."""
    async with nodes(tmp_path, "a", "b", "c", "d") as made:
        first, *others = in_order(*made)
        looks = Looks(*made)
        looks.ages[first.id] = 7.5
        assert [await confirmed(node) for node in others] == [7.5] * 3
        assert looks.asked == [first.id] * 3
        assert await confirmed(first) is None
        assert len(looks.asked) == 3


async def test_two_have_to_agree_where_two_are_asked(tmp_path: Path) -> None:
    """And the older of their looks counts; a node never asks itself."""
    async with nodes(tmp_path, "a", "b", "c") as made:
        first, second, third = in_order(*made)
        looks = Looks(*made)
        looks.ages = {first.id: 3.0, second.id: 5.0, third.id: 4.0}
        assert await confirmed(third, voices=2) == 5.0
        assert await confirmed(second, voices=2) == 4.0
        looks.ages[second.id] = None
        assert await confirmed(third, voices=2) is None
        assert await confirmed(third) == 3.0


async def test_two_nodes_have_one_colleague_each(tmp_path: Path) -> None:
    """Where two are to be asked that is not enough."""
    async with nodes(tmp_path, "a", "b") as made:
        _, second = in_order(*made)
        looks = Looks(*made)
        assert await confirmed(second, voices=2) is None
        assert looks.asked == []


async def test_who_is_alone_asks_nobody(tmp_path: Path) -> None:
    """It is the first for every tag."""
    async with running(tmp_path, "a") as a:
        assert await confirmed(a) is None


async def _fails(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=500)


def _says(body: bytes) -> Answer:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=body)

    return answer


BAD: dict[str, Answer | None] = {
    "hangs": None,
    "fails": _fails,
    "not JSON": _says(b"{" * 100_000),
    "another form": _says(b'{"age_s": "0"}'),
    "no number": _says(b'{"age_s": NaN}'),
    "too much": _says(b" " * (wire.MAX_MESSAGE_BYTES + 1)),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_a_node_that_does_not_answer_is_passed_over_for_a_while(
    answer: Answer | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its silence confirms nothing, and the next one is asked instead."""
    caplog.set_level("INFO", logger=tag_watch.__name__)
    hung = asyncio.Event()

    async def bad(request: web.BaseRequest, handler: Answer) -> web.StreamResponse:
        if request.path != wire.TAG_PATH:
            return await handler(request)
        if answer is None:
            await hung.wait()
        return await (answer or _fails)(request)

    async with nodes(tmp_path, "a", "b", "c") as made:
        first, second, third = in_order(*made)
        looks = Looks(*made)
        wrap(first, bad)
        watch = watch_of(third)
        monkeypatch.setattr(tag_watch, "CONFIRM_S", 0.2 if answer is None else 30.0)
        assert await watch.confirm(REPOSITORY, TAG, DIGEST, 1) is None
        assert ("no answer within 0.2 s" in caplog.text) is (answer is None)
        monkeypatch.setattr(tag_watch, "CONFIRM_S", 30.0)
        assert await watch.confirm(REPOSITORY, TAG, DIGEST, 1) == 0.0
        assert looks.asked == [second.id]
        hung.set()


@pytest.mark.parametrize(
    ("repository", "tag", "digest"),
    [
        ("app", TAG, str(DIGEST)),
        ("app@registry.corp!", TAG, str(DIGEST)),
        ("../x@docker.io", TAG, str(DIGEST)),
        ("app@-", TAG, str(DIGEST)),
        (REPOSITORY, "a/b", str(DIGEST)),
        (REPOSITORY, "", str(DIGEST)),
        (REPOSITORY, TAG, "sha256:0"),
    ],
)
async def test_what_is_no_tag_of_an_upstream_is_not_looked_at(
    repository: str, tag: str, digest: str, tmp_path: Path
) -> None:
    """Names of the mesh's own and of private repositories, and what is no name at all."""
    async with running(tmp_path, "a") as a, PeerClient("x") as peer:
        looks = Looks(a)
        with pytest.raises(PeerError, match="400"):
            await peer.confirm(a.mesh_address, Claim(repository, tag, digest))
        assert looks.asked == []


async def test_an_answer_names_no_digest(tmp_path: Path) -> None:
    """There is no way to say what else a tag might be."""
    async with running(tmp_path, "a") as a, PeerClient("x") as peer:
        Looks(a).ages["a"] = None
        claim = Claim(REPOSITORY, TAG, str(DIGEST))
        assert await peer.confirm(a.mesh_address, claim) == Confirmation(None)
    assert [field.name for field in msgspec.structs.fields(Confirmation)] == ["age_s"]


async def test_of_real_nodes_one_asks_a_real_upstream(tmp_path: Path, client: Client) -> None:
    """All nodes' clients ask again after the time to live, at once; and when it has changed."""
    registry = FakeRegistry()
    first, second = make_image("first"), make_image("second")
    for image in (first, second):
        registry.add_manifest(parse_manifest(image.manifest))
    registry.add_manifest(parse_manifest(first.manifest), TAG)
    async with serving(registry), AsyncExitStack() as stack:
        upstream = UpstreamConfig(name="docker.io", urls=(registry.url,))
        settings = {"upstreams": (upstream,), "public_registries": False}
        made: list[Node] = []
        for name in "abcd":
            join = [node.mesh_address for node in made[:1]]
            made.append(await stack.enter_async_context(running(tmp_path, name, *join, **settings)))
        await meet(*made)

        async def ask_all() -> set[bytes]:
            path = f"/v2/library/busybox/manifests/{TAG}?ns=docker.io"
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(client.request("GET", node, path)) for node in made]
            return {task.result().body for task in asked}

        def asked_upstream() -> int:
            count = sum(line.endswith(f"/manifests/{TAG}") for line in registry.lines)
            registry.seen.clear()
            return count

        assert await ask_all() == {first.manifest}
        assert asked_upstream() == len(made)
        for age_s in (TTL_S + 1, 2 * (TTL_S + 1)):
            for node in made:
                _tags_of(node)._clock = lambda age_s=age_s: loop_time() + age_s  # type: ignore[misc]
            assert await ask_all() == {first.manifest}
            assert asked_upstream() == 1
        registry.add_manifest(parse_manifest(second.manifest), TAG)
        for node in made:
            _tags_of(node)._clock = lambda: loop_time() + 3 * (TTL_S + 1)
        assert await ask_all() == {second.manifest}


def _tags_of(node: Node) -> UpstreamTags:
    confirm = node._peers.__self__._confirm  # type: ignore[attr-defined]
    assert isinstance(confirm.__self__, UpstreamTags)
    return confirm.__self__
