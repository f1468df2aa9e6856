"""Other nodes, names, clocks, other registries: real nodes that are at fault."""

import shutil
import time
from pathlib import Path
from typing import get_args

import pytest
from aiohttp import web

from oci_mesh import Node, UpstreamConfig
from oci_mesh.cli.doctor.mesh import REFUSED_S, judge_clocks, judge_mesh
from oci_mesh.cli.output import NAMED
from oci_mesh.control.health import Outcome, Tried
from oci_mesh.members.clock import MAX_DRIFT_MS
from oci_mesh.mesh.server import Service
from oci_mesh.mesh.wire import PULSE_PATH, Feel, Pulse
from oci_mesh.pki import authority
from oci_mesh.pki.authority import Authority
from oci_mesh.pki.certificates import CLOCK_SKEW_S
from tests.cli.doctor.report import Report, examine, findings, healthy, judged, levels, provoked
from tests.cli.servers import answering
from tests.nodes import free_port, meet, running


def token(ca: Path) -> str:
    """For a node of that mesh."""
    return Authority.load(ca).make_token("t", 600.0, time.time()).text()


async def test_two_nodes_that_reach_each_other(tmp_path: Path) -> None:
    """Nothing is wrong, seen from either."""
    ca = tmp_path / "ca"
    authority.init(ca, "test", time.time())
    async with (
        running(tmp_path, "a", ca=ca) as a,
        running(tmp_path, "b", a.mesh_address, token=token(ca)) as b,
    ):
        await meet(a, b)
        for name in ("a", "b"):
            report = await examine(tmp_path / name)
            for check in ("names", "mesh", "clocks", "certificate"):
                assert levels(report, check) == ["ok"], report
            assert "reach this one: 1" in findings(report, "mesh")[0]["found"]


async def test_a_place_to_join_where_nobody_is(tmp_path: Path) -> None:
    """No node there, no such name, and only this node itself."""
    place = f"127.0.0.1:{free_port()}"
    async with running(tmp_path, "a", place, "no-such-host.invalid:7946"):
        report = await examine(tmp_path / "a")
        assert place in provoked(report, "mesh.closed")["found"]
        assert "no-such-host.invalid" in provoked(report, "names.join")["found"]
    own = f"127.0.0.1:{free_port()}"
    async with running(tmp_path, "b", own, mesh_listen=own):
        provoked(await examine(tmp_path / "b"), "mesh.alone")


async def test_two_meshes_with_the_same_name(tmp_path: Path) -> None:
    """`ca init` was run twice: who is where is told apart by the authority."""
    for name in ("ca1", "ca2"):
        authority.init(tmp_path / name, "oci-mesh", time.time())
    async with (
        running(tmp_path, "a", ca=tmp_path / "ca1") as a,
        running(tmp_path, "b", a.mesh_address, ca=tmp_path / "ca2"),
    ):
        found = provoked(await examine(tmp_path / "b"), "mesh.other-mesh")
        assert a.mesh_address in found["found"]
        assert "a at" in found["found"]


async def test_with_certificates_and_without(tmp_path: Path) -> None:
    """One of two nodes was started with --insecure, or on loopback with nothing."""
    ca = tmp_path / "ca"
    authority.init(ca, "test", time.time())
    async with (
        running(tmp_path, "plain") as plain,
        running(tmp_path, "secured", plain.mesh_address, ca=ca) as secured,
        running(tmp_path, "other", secured.mesh_address),
    ):
        provoked(await examine(tmp_path / "secured"), "mesh.plain")
        provoked(await examine(tmp_path / "other"), "mesh.secured")


async def test_a_rotation_that_was_cut_short(tmp_path: Path) -> None:
    """The other node has forgotten the authority that signed this one's certificate."""
    now, ca = time.time(), tmp_path / "ca"
    authority.init(ca, "test", now).rotate(3600.0, now)
    shutil.copytree(ca, tmp_path / "early")
    Authority.load(tmp_path / "early").finish_rotation(now, early=True)
    async with (
        running(tmp_path, "b", ca=tmp_path / "early") as b,
        running(tmp_path, "a", b.mesh_address, ca=ca),
    ):
        provoked(await examine(tmp_path / "a"), "mesh.refused")


async def test_it_is_not_reached(tmp_path: Path) -> None:
    """It tells others an address at which it is not."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address, advertise=f"127.0.0.1:{free_port()}") as b,
    ):
        await meet(b, a)
        found = provoked(await examine(tmp_path / "b"), "mesh.one-way")
        assert b.mesh_address in found["found"]
        provoked(await examine(tmp_path / "a"), "mesh.closed")


async def test_two_nodes_with_one_id(tmp_path: Path) -> None:
    """As from a copied directory."""
    async with (
        running(tmp_path / "1", "a") as first,
        running(tmp_path / "2", "a", first.mesh_address),
    ):
        found = provoked(await examine(tmp_path / "1" / "a"), "mesh.double")
        assert "node-id" in found["fix"]


@pytest.mark.parametrize("outcome", [each for each in get_args(Outcome) if each != "ok"])
def test_each_outcome_has_a_remedy(outcome: Outcome) -> None:
    """Whatever came of trying a node; how that comes about is `tests/operations/test_dial.py`'s."""
    count = NAMED + 2
    tried = [Tried(f"10.0.0.{i}:7946", f"n{i}", outcome, detail="\x1b[31m") for i in range(count)]
    found = judged(judge_mesh(healthy(others=tried)), f"mesh.{outcome}")
    assert found.found.startswith("n0 at 10.0.0.0:7946, n1 at 10.0.0.1:7946")
    assert " and 2 more: " in found.found
    assert "\x1b" not in found.found


def test_nodes_of_another_version() -> None:
    """Only a warning: upgrades are made one after another."""
    tried = Tried("10.0.0.1:7946", "n1", "ok", version="0.0.1")
    assert "0.0.1" in judged(judge_mesh(healthy(others=[tried])), "mesh.versions").found


async def ahead(tmp_path: Path, a: Node, b: Node, seconds: float) -> Report:
    """What `a` finds if the clock of `b` is so much ahead."""

    async def feel(sender: str, asked: Feel) -> Pulse:
        return Pulse(time.time() + seconds, "")

    b._desk.services[PULSE_PATH] = Service(Feel, feel)
    return await examine(tmp_path / a.id)


async def test_clocks(tmp_path: Path) -> None:
    """As other nodes say when they are asked; nonsense is not believed."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        assert levels(await ahead(tmp_path, a, b, 20), "clocks") == ["ok"]
        found = provoked(await ahead(tmp_path, a, b, -100), "clocks.apart")
        assert "b at" in found["found"]
        assert "100 s behind ours" in found["found"]
        provoked(await ahead(tmp_path, a, b, 1000), "clocks.far-apart")
        assert levels(await ahead(tmp_path, a, b, float("inf")), "mesh") != ["skipped"]


def test_from_when_on_clocks_are_refused() -> None:
    """As other parts of the node have it."""
    assert REFUSED_S == CLOCK_SKEW_S == MAX_DRIFT_MS / 1000


def test_whose_clock_is_wrong() -> None:
    """If most others agree, it is this machine's."""
    others = [Tried(f"10.0.0.{i}:1", f"n{i}", "ok", ahead_s=60.0) for i in range(3)]
    assert (
        "this machine's clock is 60 s behind"
        in judged(
            judge_clocks([*others, Tried("10.0.0.9:1", "n9", "ok", ahead_s=0.0)]), "clocks.apart"
        ).found
    )
    assert (
        "n0 at"
        in judged(
            judge_clocks([others[0], *(Tried("10.0.0.9:1", "n9", "ok", ahead_s=0.0),) * 2]),
            "clocks.apart",
        ).found
    )


async def test_other_registries(tmp_path: Path) -> None:
    """One that is not there, one whose name leads nowhere, one that wants another password."""

    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    secret = tmp_path / "password"
    secret.write_text("old")
    gone = f"127.0.0.1:{free_port()}"
    async with answering(refuse) as url:
        place = url.removeprefix("http://")
        upstreams = (
            UpstreamConfig(name=gone, urls=(f"http://{gone}",)),
            UpstreamConfig(name="registry.invalid"),
            UpstreamConfig(name=place, urls=(url,), username="u", password_file=secret),
        )
        async with running(tmp_path, "a", upstreams=upstreams):
            report = await examine(tmp_path / "a")
    assert gone in provoked(report, "upstreams.silent")["found"]
    assert place in provoked(report, "upstreams.refused")["found"]
    assert "registry.invalid" in provoked(report, "names.upstream")["found"]
    assert "error" not in levels(report, "upstreams") + levels(report, "names")
