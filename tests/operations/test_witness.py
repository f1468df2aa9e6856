"""A request that is looked out for: seen, answered 404, and nobody else's is touched."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from oci_mesh.control.client import ControlClient
from oci_mesh.control.witness import VERB, Sighting, WitnessRequest
from oci_mesh.errors import OperationFailed
from tests.nodes import eventually, running

NONCE = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oci_mesh.operations.witness.HOLD_S", 0.01)


@pytest.mark.parametrize(
    ("path", "query", "registry"),
    [
        (f"oci-mesh-doctor/{NONCE}", "?ns=docker.io", "docker.io"),
        (f"oci-mesh-doctor/{NONCE}", "", ""),
        (f"quay.io/oci-mesh-doctor/{NONCE}", "", "quay.io"),  # as podman and CRI-O ask
    ],
)
async def test_it_comes(tmp_path: Path, path: str, query: str, registry: str) -> None:
    """Which registry was meant is told."""
    async with (
        running(tmp_path, "a") as node,
        aiohttp.ClientSession() as session,
        ControlClient(tmp_path / "a") as client,
    ):
        sightings = client.stream(VERB, WitnessRequest(NONCE, 30.0), Sighting)
        assert await anext(sightings) == Sighting(seen=False)
        url = f"{node.url}/v2/{path}/manifests/sha256:{NONCE * 2}{query}"
        async with session.head(url) as response:
            assert response.status == 404
        assert await anext(sightings) == Sighting(seen=True, registry=registry)
        assert [each async for each in sightings] == []
        assert node._desk.witness._awaited == {}


async def test_it_does_not_come(tmp_path: Path) -> None:
    """Another one is not taken for it, and the time is bounded."""
    async with (
        running(tmp_path, "a") as node,
        aiohttp.ClientSession() as session,
        ControlClient(tmp_path / "a") as client,
    ):
        sightings = client.stream(VERB, WitnessRequest(NONCE, 0.5), Sighting)
        await anext(sightings)
        other = NONCE[::-1]
        async with session.get(f"{node.url}/v2/oci-mesh-doctor/{other}/manifests/x") as response:
            assert response.status == 404
        assert await anext(sightings) == Sighting(seen=False)
        for nonce in ("", NONCE[1:], f"{NONCE[1:]}/", NONCE.upper()):
            with pytest.raises(OperationFailed, match="hexadecimal"):
                await client.call(VERB, WitnessRequest(nonce, 1.0), Sighting)


async def test_who_waits_may_go(tmp_path: Path) -> None:
    """Nothing is looked out for any more; and only so many wait at a time."""
    async with running(tmp_path, "a") as node, ControlClient(tmp_path / "a") as client:
        async with asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(client.call(VERB, WitnessRequest(f"{i:032x}", 60.0), Sighting))
                for i in range(16)
            ]
            await eventually("all wait", lambda: len(node._desk.witness._awaited) == 16)
            with pytest.raises(OperationFailed, match="already"):
                await client.call(VERB, WitnessRequest(NONCE, 1.0), Sighting)
            for task in waiting:
                task.cancel()
        await eventually("nobody waits", lambda: not node._desk.witness._awaited)
