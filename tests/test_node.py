"""A node as a library object: it runs until its block ends, and then nothing of it is left."""

import asyncio
import dataclasses
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

import oci_mesh
from oci_mesh import ConfigError, Node, NodeConfig, StoreLocked
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.upstream_config import UpstreamConfig
from tests.images import IMAGE_MANIFEST, sha256
from tests.mesh.conftest import client
from tests.mesh.fake_peer import FakePeer
from tests.nodes import Client, eventually, free_port, make_image, meet, running

__all__ = ["client"]  # a fixture

IMAGE = make_image("a node")


# -- the library, as another project's tests use it


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[oci_mesh.Node]:
    """A registry in this process, for one test."""
    config = oci_mesh.NodeConfig(
        root=tmp_path / "registry", listen="127.0.0.1:0", mesh_listen="127.0.0.1:0"
    )
    async with oci_mesh.Node(config) as node:
        yield node


async def test_a_fixture_is_a_registry(registry: oci_mesh.Node) -> None:
    """Push with any client, look at the store from inside, or the other way round."""
    layer, config = b"a layer", b"{}"
    async with aiohttp.ClientSession(registry.url) as http:
        for content in (layer, config):
            path = f"/v2/app/blobs/uploads/?digest={sha256(content)}"
            headers = {"Content-Type": "application/octet-stream"}
            assert (await http.post(path, data=content, headers=headers)).status == 201
        described = [
            {"mediaType": "application/x", "digest": sha256(content), "size": len(content)}
            for content in (config, layer)
        ]
        manifest = json.dumps(
            {"schemaVersion": 2, "config": described[0], "layers": described[1:]}
        ).encode()
        headers = {"Content-Type": IMAGE_MANIFEST}
        put = await http.put("/v2/app/manifests/v1", data=manifest, headers=headers)
        assert put.status == 201
        async with http.get("/v2/app/manifests/v1") as answer:
            assert await answer.read() == manifest
    digest = await registry.store.resolve("app", "v1")
    assert (await registry.source.manifest("app", digest)).content == manifest
    assert await registry.store.stat("app", oci_mesh.Digest.of(layer)) == len(layer)


async def test_several_nodes_live_in_one_process(tmp_path: Path, client: Client) -> None:
    """Each with its own store and its own counters."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, "app", IMAGE)
        assert b"oci_mesh_client_received_bytes_total 0.0" in b.metrics.render()


# -- pages beside the registry


async def test_a_node_tells_that_it_lives_that_it_works_and_what_it_did(
    tmp_path: Path, client: Client
) -> None:
    """For Kubernetes and for Prometheus."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(b, "app", IMAGE)
        await client.blob(a, "app", IMAGE.blobs[1])
        assert (await client.request("GET", a, "/healthz")).status == 200
        ready = await client.request("GET", a, "/readyz")
        assert (ready.status, json.loads(ready.body)) == (200, {"node": "a", "members": 2})
        metrics = await client.request("GET", a, "/metrics")
        assert metrics.headers["Content-Type"].startswith("text/plain; version=")
        size = float(len(IMAGE.blobs[1]))
        assert f'oci_mesh_peer_received_bytes_total{{peer="b"}} {size}' in metrics.body.decode()
        assert "oci_mesh_members 2.0" in metrics.body.decode()


async def test_a_node_that_is_starting_lives_and_answers_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it knows what its store and the mesh know: its clock may be behind."""
    go_on, begun = asyncio.Event(), asyncio.Event()
    start = Gossip.start

    async def slow(self: Gossip) -> None:
        begun.set()
        await go_on.wait()
        await start(self)

    monkeypatch.setattr(Gossip, "start", slow)
    port = free_port()

    async def run(stopping: asyncio.Event) -> None:
        async with running(tmp_path, "a", listen=f"127.0.0.1:{port}"):
            await stopping.wait()

    stopping = asyncio.Event()
    async with (
        asyncio.TaskGroup() as group,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        group.create_task(run(stopping))
        await begun.wait()
        for path in ("/readyz", "/v2/", "/v2/app/manifests/v1"):
            async with http.get(path) as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "1"
        async with http.get("/healthz") as answer:
            assert answer.status == 200
        go_on.set()
        status = 503
        while status == 503:
            async with http.get("/readyz") as answer:
                status = answer.status
        assert status == 200
        stopping.set()


# -- what cannot start


async def test_a_root_is_one_nodes(tmp_path: Path) -> None:
    """The second is refused and says who has it; the first does not notice."""
    async with running(tmp_path, "a") as a:
        with pytest.raises(StoreLocked, match=str(tmp_path)):
            await Node(a.config).__aenter__()
        assert (await a.store.usage()).blobs == 0
    async with running(tmp_path, "a"):
        pass  # the lock went with the first


@pytest.mark.parametrize("setting", ["listen", "mesh_listen"])
async def test_an_address_that_is_taken_is_named(setting: str, tmp_path: Path) -> None:
    """And nothing of the node that could not start is left: not even its lock."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "{}:{}".format(*taken.getsockname())
        before = asyncio.all_tasks()
        with pytest.raises(ConfigError, match=address):
            await Node(_config(tmp_path, **{setting: address})).__aenter__()
        assert asyncio.all_tasks() == before
    async with Node(_config(tmp_path)):
        pass


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "a node"},
        {"name": "x" * 65},
        {"zone": "a zone"},
        {"advertise": "höst:1"},
        {"advertise": "host:0"},
    ],
)
async def test_what_other_nodes_would_refuse_is_refused_at_the_start(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """They would drop its gossip, and it would be alone without knowing why."""
    with pytest.raises(ConfigError):
        await Node(_config(tmp_path, **settings)).__aenter__()


def _config(root: Path, **settings: str) -> NodeConfig:
    defaults = {"listen": "127.0.0.1:0", "mesh_listen": "127.0.0.1:0"}
    return NodeConfig(root=root / "a", **{**defaults, **settings})  # type: ignore[arg-type]


async def test_what_an_upstream_needs_is_looked_at_when_a_node_starts(tmp_path: Path) -> None:
    """Rather than when an image is asked for; the message names the upstream and the file."""
    missing = tmp_path / "missing.pem"
    for settings in ({"ca": missing}, {"username": "me", "password_file": missing}):
        upstream = UpstreamConfig(name="registry.corp", **settings)
        config = dataclasses.replace(_config(tmp_path), upstreams=(upstream,))
        with pytest.raises(ConfigError, match=r"registry\.corp.*missing\.pem"):
            await Node(config).__aenter__()


async def test_nodes_prove_who_they_are_unless_told_otherwise(tmp_path: Path) -> None:
    """On more than loopback a node does not start without; the message has the ways out."""
    with pytest.raises(ConfigError, match=r"(?s)--ca .*--token .*--insecure"):
        await Node(_config(tmp_path, mesh_listen="0.0.0.0:0")).__aenter__()
    async with Node(_config(tmp_path, listen="0.0.0.0:0")):
        pass  # that is for clients


# -- the end


class Broken(Exception):
    """What a test raises."""


async def test_what_the_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    """Not in a group: a test's own failure stays readable."""
    before = asyncio.all_tasks()

    async def block() -> None:
        async with running(tmp_path, "a"):
            raise Broken

    with pytest.raises(Broken):
        await block()
    assert asyncio.all_tasks() == before


async def test_a_part_that_fails_for_good_ends_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its error; the rest is stopped in order, and the root is free."""

    async def fail(self: Gossip) -> None:
        raise Broken

    async def block() -> None:
        async with running(tmp_path, "a"):
            await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Gossip, "run", fail)
        with pytest.raises(ExceptionGroup) as caught:
            await block()
    assert caught.group_contains(Broken, depth=1)
    async with running(tmp_path, "a"):
        pass


async def test_a_node_that_ends_finishes_what_clients_asked_for(
    tmp_path: Path, client: Client
) -> None:
    """Others no longer come to it; a request under way gets its answer, from the mesh too."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        if request.method == "HEAD":
            asked.set()
            await go_on.wait()
        return aiohttp.web.Response(body=IMAGE.manifest, content_type=IMAGE_MANIFEST)

    async with FakePeer("p", slow) as p, asyncio.TaskGroup() as group:
        async with running(tmp_path, "a", drain=20.0) as a:
            await p.join(a)
            pull = group.create_task(client.manifest(a, "app", IMAGE.digest))
            await asked.wait()
            ending = group.create_task(_end(a))
            await eventually("a left", lambda: a._me.left)
            go_on.set()
            answer = await pull
            await ending
        assert (answer.status, answer.body) == (200, IMAGE.manifest)


async def _end(node: Node) -> None:
    await node.__aexit__(None, None, None)


async def test_uploads_that_nobody_continues_are_dropped(tmp_path: Path, client: Client) -> None:
    """By a sweep that is not later than a short expiry makes one expect."""
    async with running(tmp_path, "a", upload_expiry=0.2) as a:
        for _ in range(10):
            answer = await client.request("POST", a, "/v2/app/blobs/uploads/")
            assert answer.status == 202

        def gone() -> bool:
            return not len(a.store._sessions)  # type: ignore[attr-defined]

        assert not gone()
        await eventually("they are dropped", gone)


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        ({}, 0),
        ({"listen": "0.0.0.0:0"}, 1),
        ({"mesh_listen": "0.0.0.0:0", "insecure": True}, 1),
        ({"listen": "localhost:0", "mesh_listen": "127.0.0.2:0"}, 0),
    ],
)
async def test_what_is_open_to_the_network_is_said(
    settings: dict[str, str | bool], warnings: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener on more than loopback is warned of: nobody has to prove anything there yet."""
    async with running(tmp_path, "a", **settings):
        pass
    said = [r for r in caplog.records if r.name == "oci_mesh.node" and r.levelname == "WARNING"]
    assert len(said) == warnings
