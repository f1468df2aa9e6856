"""The mirror whole: real nodes, and behind them a registry that does what a test wants."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from oci_mesh import BlobUnknown, Digest, Node
from oci_mesh.mesh import turns
from oci_mesh.spec.manifest import parse_manifest
from oci_mesh.upstream import breaker, http, retry, tags
from oci_mesh.upstream_config import UpstreamConfig
from tests.containerd.fake import FakeContainerd
from tests.images import IMAGE_INDEX, IMAGE_MANIFEST, descriptor, encode, sha256
from tests.mesh.conftest import client, fast_gossip
from tests.nodes import DEADLINE_S, MIB, Answer, Client, Image, make_image, meet, metric, running
from tests.upstream.fake import FakeRegistry, Handler, hang_up, serving, status

__all__ = ["client", "fast_gossip"]  # fixtures

pytestmark = pytest.mark.usefixtures("fast_gossip")

NS = "registry.test"
SMALL = make_image("mirrored")
LARGE = make_image("mirrored, large", 12 * MIB)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the attempts at an upstream; tags are looked at again at once where a test says 0."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(retry, "LIMITED_S", 0.0)
    monkeypatch.setattr(breaker, "REST_S", 0.2)
    monkeypatch.setattr(breaker, "MAX_REST_S", 0.2)
    monkeypatch.setattr(tags, "FLOOR_S", 0.0)


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    """The upstream, with one image."""
    server = FakeRegistry()
    add(server, SMALL)
    async with serving(server):
        yield server


def add(registry: FakeRegistry, image: Image, *tags: str) -> None:
    """Have an image there."""
    for blob in image.blobs:
        registry.add_blob(blob)
    registry.add_manifest(parse_manifest(image.manifest), *tags)


Start = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start(tmp_path: Path, registry: FakeRegistry) -> AsyncIterator[Start]:
    """Starts a node that mirrors `registry`; all of them are one mesh."""
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []

        async def one(name: str = "", **settings: Any) -> Node:
            upstream = UpstreamConfig(name=NS, urls=(registry.url,), **settings.pop("upstream", {}))
            settings = {"upstreams": (upstream,), "public_registries": False} | settings
            join = [node.mesh_address for node in nodes[:1]]
            name = name or f"n{len(nodes)}"
            node = await stack.enter_async_context(running(tmp_path, name, *join, **settings))
            nodes.append(node)
            return node

        yield one


async def start_many(start: Start, count: int, **settings: Any) -> list[Node]:
    """As many nodes, which have met."""
    nodes = [await start(**settings) for _ in range(count)]
    await meet(*nodes)
    return nodes


class Puller:
    """What containerd does with a mirror."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def ask(self, method: str, node: Node, path: str, ns: str = NS, **headers: str) -> Answer:
        """One request; `path` from the repository on."""
        return await self.client.request(method, node, f"/v2/{path}?ns={ns}", None, **headers)

    async def pull(self, node: Node, image: Image, tag: str = "", repository: str = "app") -> None:
        """All of an image, by tag or by digest; fails if any of it is not there, or wrong."""
        if tag:
            head = await self.ask("HEAD", node, f"{repository}/manifests/{tag}")
            assert head.status == 200
            assert head.headers["Docker-Content-Digest"] == image.digest
        answer = await self.ask("GET", node, f"{repository}/manifests/{image.digest}")
        assert (answer.status, answer.body) == (200, image.manifest)
        for blob in image.blobs:
            answer = await self.blob(node, blob, repository)
            assert (answer.status, answer.body) == (200, blob)

    async def blob(
        self, node: Node, blob: bytes, repository: str = "app", **headers: str
    ) -> Answer:
        """One of them."""
        return await self.ask("GET", node, f"{repository}/blobs/{sha256(blob)}", **headers)


@pytest.fixture
def puller(client: Client) -> Puller:
    """Of images of the upstream."""
    return Puller(client)


# -- cold and warm


async def test_a_cold_image_comes_from_the_upstream_and_stays(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Each byte once; the next pull asks the upstream nothing at all."""
    add(registry, SMALL, "v1")
    node = await start()
    await puller.pull(node, SMALL, "v1")
    assert registry.sent - sum(map(len, SMALL.blobs)) == 0
    asked = len(registry.seen)
    await puller.pull(node, SMALL, "v1")
    assert len(registry.seen) == asked
    assert metric(node, "oci_mesh_upstream_received_bytes_total", registry=NS) == registry.sent
    assert metric(node, "oci_mesh_upstream_requests_total", outcome="answered") == asked


async def test_nodes_that_pull_at_once_share_one_copy(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Many nodes, many clients of each: not every one of them fetches a copy. (How near to one it
    is on machines that have time for it, `benchmarks.fleet` measures.)
    """
    add(registry, LARGE, "v1")
    nodes = await start_many(start, 4)
    await asyncio.gather(*(puller.pull(node, LARGE, "v1") for node in nodes for _ in range(2)))
    copies = registry.sent / sum(map(len, LARGE.blobs))
    assert 1 <= copies < 2
    registry.sent = 0
    late = await start()
    await meet(*nodes, late)
    await puller.pull(late, LARGE, "v1")
    assert registry.sent == 0


async def test_nodes_that_pull_at_once_ask_for_a_manifest_once(
    registry: FakeRegistry, start: Start, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registries count them. If who is first fails, another asks."""
    monkeypatch.setattr(turns, "PATIENCE_S", DEADLINE_S)
    nodes = await start_many(start, 4)
    path = f"app/manifests/{SMALL.digest}"
    registry.faults = [status(404)]
    answers = await asyncio.gather(*(puller.ask("GET", node, path) for node in nodes))
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 404]
    assert registry.lines == [f"GET /v2/{path}"] * 2


async def test_nobody_waits_for_ever_for_another_to_ask(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Who is first may hang: the others ask by themselves."""
    hangs, over = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> None:
        hangs.set()
        await over.wait()

    nodes = await start_many(start, 3)
    registry.faults = [hang]
    path = f"app/manifests/{SMALL.digest}"
    async with asyncio.TaskGroup() as group:
        first = group.create_task(puller.ask("GET", nodes[0], path))
        await hangs.wait()
        for node in nodes[1:]:
            answer = await puller.ask("GET", node, path)
            assert (answer.status, answer.body) == (200, SMALL.manifest)
        over.set()
    assert first.result().status == 200


async def test_only_the_platform_that_is_asked_for_is_fetched(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Of an index, whatever else it names."""
    other = make_image("another platform")
    index = parse_manifest(
        encode(
            {
                "schemaVersion": 2,
                "mediaType": IMAGE_INDEX,
                "manifests": [
                    descriptor(IMAGE_MANIFEST, image.manifest) for image in (SMALL, other)
                ],
            }
        )
    )
    add(registry, other)
    registry.add_manifest(index, "v1")
    node = await start()
    answer = await puller.ask("GET", node, "app/manifests/v1")
    assert (answer.status, answer.body) == (200, index.content)
    await puller.pull(node, SMALL)
    assert registry.sent - sum(map(len, SMALL.blobs)) == 0
    assert not [line for line in registry.lines if other.digest in line]


async def test_parts_of_what_is_on_its_way(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """A client that resumes, or fetches in parallel, asks a mirror for ranges, too."""
    add(registry, LARGE)
    node = await start()
    (config, layer) = LARGE.blobs
    await puller.ask("GET", node, f"app/manifests/{LARGE.digest}", Range="bytes=0-")
    parts = [(i * 4 * MIB, (i + 1) * 4 * MIB) for i in range(3)]
    answers = await asyncio.gather(
        *(puller.blob(node, layer, Range=f"bytes={start}-{stop - 1}") for start, stop in parts)
    )
    assert [answer.status for answer in answers] == [206] * 3
    assert [answer.body for answer in answers] == [layer[start:stop] for start, stop in parts]
    head = await puller.ask("HEAD", node, f"app/blobs/{sha256(config)}")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(config)))


# -- names


async def test_own_content_and_mirrored_content_are_two_things(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """A repository of the same name has other content for those who ask without `ns`, or another's.

    Pushes go into the mesh's own, and are seen by nobody who asks for the upstream's.
    """
    own = make_image("pushed")
    add(registry, SMALL, "v1")
    one, other = await start_many(start, 2)
    await puller.client.push(one, "app", own, "v1")
    for node in (one, other):
        await puller.pull(node, SMALL, "v1")
        for ns in ("", "registry.internal", "127.0.0.1:5000"):
            answer = await puller.ask("GET", node, "app/manifests/v1", ns)
            assert answer.body == own.manifest
        assert (await puller.ask("GET", node, f"app/manifests/{own.digest}")).status == 404
        assert (await puller.blob(node, own.blobs[1])).status == 404
        mine = await puller.client.manifest(node, "app", SMALL.digest)
        assert mine.status == 404
        assert (await puller.client.blob(node, "app", SMALL.blobs[1])).status == 404
        listed = await puller.client.request("GET", node, "/v2/_catalog")
        assert json.loads(listed.body) == {"repositories": ["app"]}
        listed = await puller.client.request("GET", node, "/v2/app/tags/list")
        assert json.loads(listed.body) == {"name": "app", "tags": ["v1"]}


@pytest.mark.parametrize(
    "ns",
    [
        *("docker.io", "DOCKER.IO", "quay.io", "a@b", "http://evil.example", "..%2f..", "%00"),
        *("[::1", "docker.io%00", "registry.test&ns=registry.test", "registry.test%20"),
    ],
)
async def test_registries_that_are_not_mirrored_are_unknown(
    ns: str, start: Start, puller: Puller
) -> None:
    """Switched off, or no registry's name at all: the same answer as for what does not exist."""
    node = await start()
    await puller.client.push(node, "app", SMALL, "v1")
    nothing = await puller.ask("GET", node, "app/manifests/no-such-tag", "registry.test")
    for path in (
        "app/manifests/v1",
        f"app/manifests/{SMALL.digest}",
        f"app/blobs/{sha256(SMALL.blobs[1])}",
        f"app/referrers/{SMALL.digest}",
        "app/tags/list",
    ):
        answer = await puller.ask("GET", node, path, ns)
        assert answer.status == nothing.status == 404, path


@pytest.mark.parametrize(
    "form",
    [
        "/v2/app/{}?ns=registry.test",
        "/registry.test/v2/app/{}",
        "/v2/registry.test/app/{}",
        "/v2/app/{}?ns=Registry.TEST",
    ],
)
async def test_each_client_has_its_own_way_to_ask_a_mirror(
    form: str, registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """containerd's, docker's, podman's and CRI-O's; it is the same content."""
    add(registry, SMALL, "v1")
    node = await start()
    if form.startswith("/registry"):
        assert (await puller.client.request("GET", node, "/registry.test/v2/")).status == 200
    answer = await puller.client.request("GET", node, form.format("manifests/v1"))
    assert (answer.status, answer.body) == (200, SMALL.manifest)
    answer = await puller.client.request(
        "GET", node, form.format(f"blobs/{sha256(SMALL.blobs[1])}")
    )
    assert (answer.status, answer.body) == (200, SMALL.blobs[1])
    assert await node.store.tags("app@registry.test") == []


async def test_what_was_pushed_under_a_registrys_name_stays_what_it_is(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """`127.0.0.1:5000/registry.test/app` may be somebody's own copy; for `ns` it is no matter."""
    own = make_image("pushed")
    add(registry, SMALL, "v1")
    node = await start()
    await puller.client.push(node, f"{NS}/app", own, "v1")
    answer = await puller.client.manifest(node, f"{NS}/app", "v1")
    assert answer.body == own.manifest
    await puller.pull(node, SMALL, "v1")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "app/manifests/v1"),
        ("DELETE", "app/manifests/v1"),
        ("DELETE", f"app/blobs/{SMALL.digest}"),
        ("POST", "app/blobs/uploads/"),
        ("PATCH", f"app/blobs/uploads/{'0' * 32}"),
    ],
)
async def test_a_mirror_is_not_written_to(
    method: str, path: str, registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Nor is the upstream asked to."""
    node = await start()
    answer = await puller.ask(method, node, path)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert registry.seen == []


async def test_no_client_can_say_the_names_that_nodes_use(start: Start, puller: Puller) -> None:
    """They are no repository names."""
    node = await start()
    await puller.pull(node, SMALL)
    for name in ("app@registry.test", "app%40registry.test", "app@registry.test!"):
        answer = await puller.client.manifest(node, name, SMALL.digest)
        assert answer.status == 400, name


async def test_registries_without_lists(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Of tags and referrers: 404, by which clients know what to do."""
    node = await start()
    assert (await puller.ask("GET", node, "app/tags/list")).status == 404
    assert (await puller.ask("GET", node, f"app/referrers/{SMALL.digest}")).status == 404
    assert (await puller.client.request("GET", node, f"/v2/_catalog?ns={NS}")).status == 404
    assert (await puller.client.request("GET", node, f"/v2/?ns={NS}")).status == 200


async def test_referrers_are_the_upstreams(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """As it lists them; while it cannot be asked, those that were pulled through here."""
    signature = make_image("signature", subject=descriptor(IMAGE_MANIFEST, SMALL.manifest))
    described = descriptor(IMAGE_MANIFEST, signature.manifest, artifactType="application/x")
    listed = encode({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [described]})

    async def referrers(request: web.Request) -> web.Response | None:
        if "/referrers/" not in request.path:
            return None
        return web.Response(body=listed, content_type=IMAGE_INDEX)

    add(registry, signature)
    registry.gates = [referrers]
    node = await start()
    path = f"app/referrers/{SMALL.digest}"
    answer = await puller.ask("GET", node, path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, IMAGE_INDEX)
    assert json.loads(answer.body)["manifests"] == [described]
    registry.gates = [hang_up]
    assert (await puller.ask("GET", node, path)).status == 404
    registry.gates = []
    async for _ in tries("it is pulled"):
        if (await puller.ask("GET", node, f"app/manifests/{signature.digest}")).status == 200:
            break
    registry.gates = [hang_up]
    answer = await puller.ask("GET", node, path)
    (found,) = json.loads(answer.body)["manifests"]
    assert found["digest"] == signature.digest


# -- tags


async def test_a_tag_is_looked_at_again_when_its_time_is_over(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Until then it is what it was; `latest` is looked at whenever it is asked for."""
    old, new = make_image("old"), make_image("new")
    add(registry, old, "v1", "latest")
    slow, quick = await start(), await start(tag_ttl=0.0)
    await meet(slow, quick)
    for node in (slow, quick):
        await puller.pull(node, old, "v1")
        await puller.pull(node, old, "latest")
    add(registry, new, "v1", "latest")
    await puller.pull(quick, new, "v1")
    await puller.pull(slow, new, "latest")
    await puller.pull(slow, old, "v1")


async def test_an_upstream_that_is_gone_and_returns(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """What was pulled stays, by tag and digest, with a warning; what is new is seen afterwards."""
    old, new = make_image("old"), make_image("new")
    add(registry, old, "v1")
    node = await start(tag_ttl=0.0)
    await puller.pull(node, old, "v1")
    registry.gates = [hang_up]
    await puller.pull(node, old, "v1")
    answer = await puller.ask("HEAD", node, "app/manifests/v1")
    warning = answer.headers["Warning"]
    assert warning.startswith('110 - "registry.test ')
    assert warning.endswith('s ago"')
    assert metric(node, "oci_mesh_upstream_tags_total", outcome="stale") == 2
    assert (await puller.ask("HEAD", node, "app/manifests/v2")).status == 404
    assert (await puller.ask("GET", node, f"app/manifests/{new.digest}")).status == 404
    assert (await puller.blob(node, new.blobs[1])).status == 404
    registry.gates = []
    add(registry, new, "v1")
    async for _ in tries("the change is seen"):
        answer = await puller.ask("HEAD", node, "app/manifests/v1")
        if answer.headers["Docker-Content-Digest"] == new.digest:
            break
    assert "Warning" not in answer.headers
    await puller.pull(node, new, "v1")


async def tries(what: str) -> AsyncIterator[int]:
    """Again and again, until it fails."""
    for count in range(600):
        yield count
        await asyncio.sleep(0.05)
    pytest.fail(f"never came true: {what}")


async def test_a_restart_keeps_what_was_mirrored(
    tmp_path: Path, registry: FakeRegistry, puller: Puller
) -> None:
    """Tags, manifests and blobs: with the upstream gone, all is served as before."""
    add(registry, SMALL, "v1")
    upstream = UpstreamConfig(name=NS, urls=(registry.url,))
    settings: dict[str, Any] = {"upstreams": (upstream,), "public_registries": False}
    async with running(tmp_path, "a", **settings) as node:
        await puller.pull(node, SMALL, "v1")
    registry.gates = [hang_up]
    registry.seen.clear()
    async with running(tmp_path, "a", **settings) as node:
        await puller.pull(node, SMALL, "v1")
        assert registry.seen == []
    async with running(tmp_path, "a", tag_ttl=0.0, **settings) as node:
        await puller.pull(node, SMALL, "v1")
    async with running(tmp_path, "a", tag_ttl=0.0, stale_limit=0.0, **settings) as node:
        assert (await puller.ask("HEAD", node, "app/manifests/v1")).status == 404
        await puller.pull(node, SMALL)


# -- upstreams that do wrong


@pytest.mark.parametrize(
    "fault",
    [status(500), status(503), status(429), status(404), hang_up],
    ids=["500", "503", "429", "404", "hang up"],
)
@pytest.mark.parametrize("at", [1, 2, 4])
async def test_a_fault_on_the_way_is_got_over(
    fault: Handler, at: int, registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Whichever request it hits: the pull ends right, now or when the client asks again."""
    add(registry, LARGE, "v1")
    node = await start()

    async def fine(_: web.Request) -> None:
        return None

    registry.faults = [*[fine] * (at - 1), fault]
    async for _ in tries("it is pulled"):
        try:
            await puller.pull(node, LARGE, "v1")
        except (AssertionError, aiohttp.ClientError):
            continue
        break
    assert (await puller.blob(node, LARGE.blobs[1])).body == LARGE.blobs[1]


async def test_a_stream_that_is_cut_goes_on(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """From where it was."""
    add(registry, LARGE, "v1")
    node = await start()
    answer = await puller.ask("GET", node, "app/manifests/v1")
    assert answer.status == 200
    registry.faults = [registry.cut(100_000) for _ in range(3)]
    await puller.pull(node, LARGE, "v1")


async def test_a_stream_that_stalls_is_given_up(
    registry: FakeRegistry, start: Start, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle, and before its first byte: the rest comes by another request."""
    monkeypatch.setattr(http, "STALL_S", 0.5)
    add(registry, LARGE, "v1")
    node = await start()
    answer = await puller.ask("GET", node, "app/manifests/v1")
    assert answer.status == 200

    async def hang(_: web.Request) -> None:
        await asyncio.Event().wait()

    registry.faults = [registry.begins(count, hang) for count in (0, 100_000)]
    async for _ in tries("it is pulled"):
        try:
            await puller.pull(node, LARGE, "v1")
        except (AssertionError, aiohttp.ClientError):
            continue
        break
    assert registry.faults == []


async def test_an_upstream_that_limits_for_long_is_left_alone(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """Its clients are never told 429, but to go elsewhere; what is here goes on being served."""
    add(registry, SMALL, "v1")
    add(registry, LARGE)
    node = await start(tag_ttl=0.0)
    await puller.pull(node, SMALL, "v1")
    registry.gates = [status(429, Retry_After="3600")]
    await puller.pull(node, SMALL, "v1")
    answers = [
        await puller.ask("GET", node, f"app/manifests/{LARGE.digest}"),
        await puller.ask("HEAD", node, "app/manifests/v2"),
        await puller.blob(node, LARGE.blobs[1]),
    ]
    assert [answer.status for answer in answers] == [404] * 3


@pytest.mark.parametrize("size", [10_000, 12 * MIB])
async def test_an_upstream_that_lies_is_not_believed(
    size: int, registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """The right length, wrong bytes: no client gets a whole blob of them, and nothing is kept."""
    image = make_image("to be forged", size)
    add(registry, image, "v1")
    layer = image.blobs[1]
    registry.blobs[sha256(layer)] = layer[: size // 2] + b"!" + layer[size // 2 + 1 :]
    nodes = await start_many(start, 2)

    async def fetch(node: Node) -> bytes:
        try:
            answer = await puller.blob(node, layer)
        except aiohttp.ClientError:
            return b""
        return answer.body if answer.status == 200 else b""

    for _ in range(2):
        assert set(await asyncio.gather(*(fetch(node) for node in nodes))) == {b""}
    for node in nodes:
        with pytest.raises(BlobUnknown):
            await node.store.stat(f"app@{NS}", Digest.parse(sha256(layer)))
    registry.blobs[sha256(layer)] = layer
    async for _ in tries("the truth is believed"):
        if await fetch(nodes[0]) == layer:
            break


@pytest.mark.parametrize("claimed", [1, 99_999, 100_001, 2**40])
async def test_a_size_in_a_manifest_that_is_a_lie(
    claimed: int, registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """The blob is had in its true size, or not at all; by a manifest that is right, it is had."""
    layer = SMALL.blobs[1]
    document = json.loads(SMALL.manifest)
    document["layers"][0]["size"] = claimed
    forged = parse_manifest(encode(document))
    registry.add_manifest(forged)
    node = await start()
    for digest in (forged.digest, SMALL.digest):
        answer = await puller.ask("GET", node, f"app/manifests/{digest}")
        assert answer.status == 200
        try:
            answer = await puller.blob(node, layer)
        except aiohttp.ClientError:
            continue
        assert answer.status == 404 or answer.body == layer
    async for _ in tries("its true size is found out"):
        if (answer := await puller.blob(node, layer)).status == 200:
            break
    assert answer.body == layer


async def test_layers_that_live_elsewhere_are_not_followed(
    registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """`urls` of a manifest are for its clients; nothing is fetched from there."""
    bait = FakeRegistry()
    async with serving(bait):
        document = json.loads(SMALL.manifest)
        layer = b"a layer that is elsewhere"
        document["layers"].append(
            descriptor(
                "application/vnd.oci.image.layer.nondistributable.v1.tar",
                layer,
                urls=[f"{bait.url}/layer"],
            )
        )
        foreign = parse_manifest(encode(document))
        registry.add_manifest(foreign, "v1")
        node = await start()
        answer = await puller.ask("GET", node, "app/manifests/v1")
        assert answer.body == foreign.content
        assert (await puller.blob(node, layer)).status == 404
        assert bait.seen == []


async def test_without_ranges_one_node_reads_for_all(
    registry: FakeRegistry, start: Start, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fallback: each byte still leaves the upstream about once."""
    registry.ranges = False
    add(registry, LARGE)
    nodes = await start_many(start, 3)
    for node in nodes:
        await puller.ask("GET", node, f"app/manifests/{LARGE.digest}")
    await asyncio.gather(*(puller.pull(node, LARGE) for node in nodes))
    copies = registry.sent / sum(map(len, LARGE.blobs))
    assert 1 <= copies < 2.5


# -- what is refused


@pytest.mark.parametrize("code", [401, 403])
async def test_what_is_refused_is_unknown_and_asked_for_once(
    code: int, registry: FakeRegistry, start: Start, puller: Puller
) -> None:
    """A private image, and no containerd to follow: its clients go to the registry themselves."""
    add(registry, SMALL, "v1")
    registry.gates = [status(code)]
    node = await start()
    nothing = await puller.ask("GET", node, "none/manifests/v1")
    assert nothing.status == 404
    answers = [
        await puller.ask("GET", node, "app/manifests/v1"),
        await puller.ask("GET", node, f"app/manifests/{SMALL.digest}"),
    ]
    asked = len(registry.seen)
    for answer in answers:
        assert (answer.status, answer.body) == (404, nothing.body)
    blob = await puller.blob(node, SMALL.blobs[1])
    unknown = await puller.blob(node, b"nothing of the kind")
    assert (blob.status, blob.body) == (404, unknown.body)
    assert len(registry.seen) == asked


# -- private images: a containerd on each machine, which has what the mesh has not, a secret


class Machine:
    """A node, and the containerd that it reads."""

    def __init__(self, node: Node, containerd: FakeContainerd) -> None:
        self.node = node
        self.containerd = containerd


Machines = Callable[..., Awaitable[list[Machine]]]


@pytest.fixture
def machines(tmp_path: Path, registry: FakeRegistry, start: Start) -> Machines:
    """Starts some; the registry refuses everything to them all."""
    registry.gates = [status(401)]

    async def some(count: int, **settings: Any) -> list[Machine]:
        made = []
        for number in range(count):
            containerd = FakeContainerd(tmp_path / f"containerd{number}")
            containerd.start()
            containerd.commit(b"so that there are directories")
            made.append(Machine(await start(containerd=containerd.root, **settings), containerd))
        await meet(*(machine.node for machine in made))
        return made

    return some


async def test_private_blobs_are_for_those_whose_containerd_has_the_manifest(
    machines: Machines, puller: Puller
) -> None:
    """From their own containerd, or from another machine; to all others they are unknown."""
    has, entitled, stranger = await machines(3)
    nothing = await puller.blob(stranger.node, b"what nobody has")
    has.containerd.pull(SMALL)
    entitled.containerd.commit(SMALL.manifest)
    for machine in (has, entitled):
        for blob in SMALL.blobs:
            answer = await puller.blob(machine.node, blob)
            assert (answer.status, answer.body) == (200, blob)
        for name in (SMALL.digest, "v1"):
            answer = await puller.ask("GET", machine.node, f"app/manifests/{name}")
            assert answer.status == 404
    for blob in SMALL.blobs:
        answer = await puller.blob(stranger.node, blob)
        assert (answer.status, answer.body) == (404, nothing.body)
        path = f"/v2/other/blobs/uploads/?mount={sha256(blob)}"
        for machine in (has, entitled, stranger):
            assert (await puller.client.request("POST", machine.node, path)).status == 202


@pytest.mark.parametrize(
    "path",
    [
        *("/v2/{name}/blobs/{digest}", "/x.test/v2/{name}/blobs/{digest}"),
        *("/v2/{name}/blobs/{digest}?ns=x.test", "/v2/x.test/{name}/blobs/{digest}"),
        *(
            "//v2/{name}/blobs/{digest}",
            "/v2//{name}/blobs/{digest}",
            "/v2/./{name}/blobs/{digest}",
        ),
        *("/v2/{quoted}/blobs/{digest}", "/v2/{name}/blobs/{digest}/", "/V2/{name}/blobs/{digest}"),
        "/v2/{name}/manifests/{digest}",
    ],
)
async def test_no_node_gets_private_blobs_without_a_proof(
    path: str, machines: Machines, puller: Puller
) -> None:
    """However it writes its request."""
    (has,) = await machines(1)
    has.containerd.pull(SMALL)
    assert (await puller.blob(has.node, SMALL.blobs[1])).status == 200
    name, digest = f"app@{NS}!", sha256(SMALL.blobs[1])
    target = path.format(name=name, quoted="app%40registry%2etest%21", digest=digest)
    for method in ("GET", "HEAD"):
        async with puller.client.session.request(
            method, URL(f"http://{has.node.mesh_address}{target}", encoded=True)
        ) as response:
            assert response.status in (400, 404), target


async def test_private_blobs_may_be_for_every_node(machines: Machines, puller: Puller) -> None:
    """If the operator says so."""
    has, stranger = await machines(2, private="nodes")
    has.containerd.pull(SMALL)
    answer = await puller.blob(stranger.node, SMALL.blobs[1])
    assert (answer.status, answer.body) == (200, SMALL.blobs[1])


async def test_a_forged_public_manifest_opens_nothing(
    registry: FakeRegistry, machines: Machines, puller: Puller
) -> None:
    """Whoever gets a public image to name a private layer is not given it, here or elsewhere."""
    victim, other = await machines(2)
    victim.containerd.pull(SMALL)
    layer = SMALL.blobs[1]
    document = json.loads(SMALL.manifest) | {"annotations": {"by": "somebody else"}}
    forged = parse_manifest(encode(document))
    del registry.blobs[sha256(layer)]
    registry.add_manifest(forged)
    registry.gates = []
    for machine in (victim, other):
        answer = await puller.ask("GET", machine.node, f"forged/manifests/{forged.digest}")
        assert answer.status == 200
    # The victim's own clients have a right to it by the manifest that its containerd has.
    assert (await puller.blob(other.node, layer, "forged")).status == 404


async def test_one_client_fetches_a_private_blob_for_all(
    machines: Machines, puller: Puller
) -> None:
    """The others' requests are held, and then answered with what it gets, while it gets it."""
    everybody = await machines(3)
    digest = Digest.parse(sha256(LARGE.blobs[1]))
    for machine in everybody:
        machine.containerd.commit(LARGE.manifest)
    sent_away = asyncio.Queue[Machine]()

    async def pull(machine: Machine) -> bytes:
        answer = await puller.blob(machine.node, LARGE.blobs[1])
        if answer.status == 200:
            return answer.body
        assert answer.status == 404
        sent_away.put_nowait(machine)
        return b""

    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(pull(machine)) for machine in everybody]
        leader = await sent_away.get()
        download = leader.containerd.begin(digest)
        for at in range(0, len(LARGE.blobs[1]), MIB):
            download.write(LARGE.blobs[1][at : at + MIB])
            await asyncio.sleep(0)
        download.commit()
    assert sent_away.empty()
    bodies = [task.result() for task in pulls]
    assert [len(body) for body in sorted(bodies, key=len)] == [0, *[len(LARGE.blobs[1])] * 2]
    assert max(bodies) == LARGE.blobs[1]


async def test_a_registry_that_is_private_is_never_asked(
    registry: FakeRegistry, machines: Machines, puller: Puller
) -> None:
    """`private` in its table: what its clients fetch is shared all the same."""
    has, entitled = await machines(2, upstream={"private": True})
    has.containerd.pull(SMALL)
    entitled.containerd.commit(SMALL.manifest)
    assert (await puller.ask("GET", entitled.node, "app/manifests/v1")).status == 404
    answer = await puller.blob(entitled.node, SMALL.blobs[1])
    assert (answer.status, answer.body) == (200, SMALL.blobs[1])
    assert registry.seen == []


async def test_what_containerd_has_of_public_images_is_given_to_all(
    registry: FakeRegistry, machines: Machines, puller: Puller
) -> None:
    """From where it is, without another copy, though the upstream cannot be asked."""
    registry.gates = []
    first, has, other = await machines(3)
    has.containerd.pull(SMALL)
    for machine in (first, has):
        answer = await puller.ask("GET", machine.node, f"app/manifests/{SMALL.digest}")
        assert answer.status == 200
        registry.gates = [hang_up]
    await puller.pull(other.node, SMALL)
    assert registry.sent == 0
    with pytest.raises(BlobUnknown):
        await has.node.store.stat(f"app@{NS}", Digest.parse(sha256(SMALL.blobs[1])))
