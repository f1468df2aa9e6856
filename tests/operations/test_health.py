"""What a node finds of others: bounded in time, and in what is believed."""

import asyncio
from pathlib import Path

import pytest

from oci_mesh import Node
from oci_mesh.control.client import call
from oci_mesh.control.health import VERB, Health, HealthRequest
from oci_mesh.mesh.server import Service
from oci_mesh.mesh.wire import PULSE_PATH, Feel, Pulse
from oci_mesh.upstream.client import UpstreamClient
from oci_mesh.upstream_config import PUBLIC
from tests.nodes import eventually, meet, running, stop


async def health(node: Node) -> Health:
    """As its operator is told."""
    return await call(node.config.root, VERB, HealthRequest(), Health)


async def test_what_a_node_says_of_itself_is_bounded(tmp_path: Path) -> None:
    """Text of any length, with whatever in it, is not handed on."""

    async def boast(sender: str, asked: Feel) -> Pulse:
        return Pulse(1e308, "\x1b[31m" + "v" * 10_000, "splendid")

    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        b._desk.services[PULSE_PATH] = Service(Feel, boast)
        (tried,) = (await health(a)).others
        assert (tried.node, tried.outcome, tried.version, tried.back) == ("b", "ok", "", "")
        b._desk.services[PULSE_PATH] = Service(Feel, _grow)
        (tried,) = (await health(a)).others
        assert tried.version == "v" * 40


async def _grow(sender: str, asked: Feel) -> Pulse:
    return Pulse(0.0, "v" * 10_000)


async def test_only_a_known_node_is_tried_in_turn(tmp_path: Path) -> None:
    """Where gossip says that it is."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        feel = a._desk.services[PULSE_PATH].answer

        async def back(sender: str, *, asked: bool) -> str:
            pulse = await feel(sender, Feel(asked))
            assert isinstance(pulse, Pulse)
            return pulse.back

        assert await back("nobody", asked=True) == ""
        assert await back("b", asked=False) == ""
        assert await back("b", asked=True) == "ok"


async def test_a_node_that_left_is_not_tried(tmp_path: Path) -> None:
    """It said goodbye: nothing is wrong."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await stop(b)
        await eventually("a knows that b has left", lambda: not a.members())
        assert (await health(a)).others == []


@pytest.mark.parametrize(
    ("request_", "tried"),
    [
        (HealthRequest(), []),
        (HealthRequest(registry="quay.io"), ["quay.io"]),
        (HealthRequest(registry="registry.internal"), []),
        (HealthRequest(public=True), sorted(upstream.name for upstream in PUBLIC)),
    ],
)
async def test_which_registries_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: HealthRequest, tried: list[str]
) -> None:
    """Of those that nobody configured, none unless it is asked for."""
    asked = []

    async def resolve(self: UpstreamClient, repository: str, tag: str) -> None:
        asked.append(self.config.name)

    async def resolves(host: str) -> bool:
        return True

    monkeypatch.setattr(UpstreamClient, "resolve", resolve)
    monkeypatch.setattr("oci_mesh.operations.health._resolves", resolves)
    async with running(tmp_path, "a") as a:
        found = await call(a.config.root, VERB, request_, Health)
    assert sorted(asked) == sorted(each.name for each in found.upstreams) == tried


async def test_it_has_only_so_much_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that do not answer within it are counted."""
    monkeypatch.setattr("oci_mesh.operations.health.TRY_S", 0.3)

    release = asyncio.Event()

    async def hang(sender: str, asked: Feel) -> Pulse:
        await release.wait()
        return Pulse(0.0, "")

    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        b._desk.services[PULSE_PATH] = Service(Feel, hang)
        found = await health(a)
        assert ([tried.node for tried in found.others], found.untried) == (["c"], 1)
        release.set()
