"""The doctor called, and what it says."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from oci_mesh.cli.containerd_config import CONFIG
from oci_mesh.cli.doctor.checkup import check_up
from oci_mesh.cli.doctor.finding import Finding
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.cli.edits import Machine
from oci_mesh.control.health import VERB, Health, HealthRequest
from oci_mesh.control.server import ControlServer, Verb
from oci_mesh.version import __version__

Report = dict[str, Any]


async def examine(
    root: Path,
    machine: Path | None = None,
    *,
    registry: str = "http://127.0.0.1:5000",
    reference: str = "",
    public: bool = False,
    without: tuple[str, ...] = (),
) -> Report:
    """What it finds of the node in `root`, on a machine with these files (default: none)."""
    files = machine or root.parent / "machine"
    files.mkdir(exist_ok=True)
    patient = Patient(
        root=root,
        registry=registry,
        machine=Machine(files),
        config=CONFIG,
        files=files,
        reference=reference,
        public=public,
    )
    report: Report = msgspec.to_builtins(await check_up(patient, without))
    return report


def findings(report: Report, check: str) -> list[dict[str, Any]]:
    """Of one check."""
    (found,) = [each["findings"] for each in report["checks"] if each["name"] == check]
    assert found, f"{check} says nothing"
    return list(found)


def levels(report: Report, check: str) -> list[str]:
    """How bad they are."""
    return [finding["level"] for finding in findings(report, check)]


def provoked(report: Report, *codes: str) -> dict[str, Any]:
    """All `codes` were found; the finding of the last one, which says what to do."""
    all_found = [finding for check in report["checks"] for finding in check["findings"]]
    for code in codes:
        found = [finding for finding in all_found if finding["code"] == code]
        assert found, (code, [each for each in all_found if each["level"] != "ok"])
        _check(found[0])
    return dict(found[0])


def judged(found: list[Finding], *codes: str) -> Finding:
    """These codes, in this order, and no others; the last finding."""
    assert [finding.code for finding in found] == list(codes)
    for finding in found:
        _check(msgspec.to_builtins(finding))
    return found[-1]


def _check(finding: dict[str, Any]) -> None:
    assert finding["level"] in ("warning", "error")
    assert finding["found"]
    assert finding["fix"]
    assert "\n" not in finding["found"]


def healthy(**changes: Any) -> Health:
    """What a node says that lacks nothing, but for `changes`."""
    health = Health(
        version=__version__,
        node="a",
        registry="http://127.0.0.1:5000",
        mesh="127.0.0.1:7946",
        now=0.0,
        secure=False,
        join=[],
        unresolved=[],
        others=[],
        doubles=[],
        certificate=None,
        upstreams=[],
        secrets=[],
        reserve=0,
        limit=0,
        used=0,
        files=20,
        max_files=65536,
        connections=256,
    )
    return msgspec.structs.replace(health, **changes)


@asynccontextmanager
async def saying(root: Path, health: Health) -> AsyncIterator[None]:
    """A control socket in `root` behind which somebody says this."""

    async def answer(asked: HealthRequest) -> AsyncGenerator[Health, None]:
        yield health

    root.mkdir(exist_ok=True)
    async with ControlServer(root, {VERB: Verb(HealthRequest, answer)}):
        yield
