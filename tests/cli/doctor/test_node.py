"""Is the node up."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import web

from oci_mesh.cli.doctor.processes import listener
from oci_mesh.control.health import Health, HealthRequest
from oci_mesh.control.server import ControlServer, Verb
from oci_mesh.errors import OperationFailed
from tests.cli.doctor.report import examine, findings, healthy, levels, provoked, saying
from tests.cli.servers import answering
from tests.nodes import free_port, running


async def test_a_node_that_is_well(tmp_path: Path) -> None:
    """No check of it complains."""
    async with running(tmp_path, "a") as node:
        report = await examine(tmp_path / "a", without=("runtime",))
        assert (report["errors"], report["warnings"]) == (0, 0), report
        assert levels(report, "node") == levels(report, "listening") == ["ok"]
        assert node.url in findings(report, "listening")[0]["found"]


async def test_no_directory(tmp_path: Path) -> None:
    """Probably it is another one; what needs a node is skipped, and says why."""
    report = await examine(tmp_path / "a", registry=f"http://127.0.0.1:{free_port()}")
    assert "--root" in provoked(report, "node.no-root")["fix"]
    for check in ("limits", "names", "mesh", "clocks", "upstreams"):
        assert findings(report, check)[0]["found"] == "it needs `node`"
    assert levels(report, "listening") == levels(report, "disk") == ["skipped"]


async def test_it_does_not_run(tmp_path: Path) -> None:
    """What can be looked at without it is."""
    async with running(tmp_path, "a"):
        pass
    report = await examine(tmp_path / "a", registry=f"http://127.0.0.1:{free_port()}")
    assert str(tmp_path / "a") in provoked(report, "node.absent")["fix"]
    assert levels(report, "listening") == ["skipped"]
    assert levels(report, "disk")[-1] != "skipped"
    assert levels(report, "secrets") == ["ok"]


async def test_it_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for without an end."""
    monkeypatch.setattr("oci_mesh.cli.doctor.node.HEALTH_S", 0.2)

    async def never(asked: HealthRequest) -> AsyncGenerator[Health, None]:
        await asyncio.Event().wait()
        yield healthy()

    async with ControlServer(tmp_path, {"health": Verb(HealthRequest, never)}):
        provoked(await examine(tmp_path), "node.silent")


async def test_it_cannot_look(tmp_path: Path) -> None:
    """What it says itself is passed on."""

    async def fail(asked: HealthRequest) -> AsyncGenerator[Health, None]:
        raise OperationFailed("its database is broken", hint="mend it")
        yield healthy()

    async with ControlServer(tmp_path, {"health": Verb(HealthRequest, fail)}):
        found = provoked(await examine(tmp_path), "node.failing")
        assert (found["found"], found["fix"]) == ("its database is broken", "mend it")


async def test_it_is_older(tmp_path: Path) -> None:
    """It does not know what it is asked, or says which version it is."""
    async with ControlServer(tmp_path, {}):
        provoked(await examine(tmp_path), "node.old")
    async with saying(tmp_path, healthy(version="0.0.1")):
        found = provoked(await examine(tmp_path), "node.other-version")
        assert "0.0.1" in found["found"]


async def test_another_root(tmp_path: Path) -> None:
    """A node runs, and it is not the one that is meant."""
    (tmp_path / "b").mkdir()
    async with running(tmp_path, "a") as node:
        report = await examine(tmp_path / "b", registry=node.url)
        assert "--root" in provoked(report, "listening.other")["fix"]


async def test_its_address_is_taken_by_another_node(tmp_path: Path) -> None:
    """As behind a proxy that leads elsewhere."""
    async with running(tmp_path, "a") as node, saying(tmp_path / "b", healthy(registry=node.url)):
        (tmp_path / "x").mkdir()
        async with saying(tmp_path / "x", healthy(node="x", registry=node.url)):
            found = provoked(await examine(tmp_path / "x"), "listening.another-node")
            assert "node a" in found["found"]


async def test_its_port_is_taken(tmp_path: Path) -> None:
    """By a registry of another kind, and by what speaks no HTTP: the process is named."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="docker-registry")

    async with answering(answer) as url:
        found = provoked(await examine(tmp_path, registry=url), "listening.taken")
        assert "(pid " in found["found"]
    async with await asyncio.start_server(_hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert listener(port) is not None
        report = await examine(tmp_path, registry=f"http://127.0.0.1:{port}")
        provoked(report, "listening.taken")
    assert listener(port) is None


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_its_registry_does_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks for others yet, or cannot be reached while the node says that it runs."""

    monkeypatch.setattr("oci_mesh.cli.doctor.node.READY_S", 0.5)

    async def starting(request: web.Request) -> web.Response:
        return web.Response(status=503)

    async with answering(starting) as url, saying(tmp_path, healthy(registry=url)):
        provoked(await examine(tmp_path), "listening.not-ready")
    release = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with answering(hang) as url, saying(tmp_path, healthy(registry=url)):
        provoked(await examine(tmp_path), "listening.silent")
        release.set()
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with saying(tmp_path, healthy(registry=nowhere)):
        found = provoked(await examine(tmp_path), "listening.silent")
        assert nowhere in found["found"]
