"""All checks together: each finding has a test that provokes it; what is skipped, what is said."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from oci_mesh.cli.doctor.checkup import CHECKS, NAMES, OF_AN_IMAGE
from oci_mesh.cli.doctor.finding import Check, Finding, error, ok
from oci_mesh.control.health import Outcome
from oci_mesh.errors import PeerError
from tests.cli.conftest import Cli
from tests.cli.doctor.report import examine, findings, healthy, levels, saying
from tests.nodes import free_port, running

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = REPOSITORY / "oci_mesh" / "cli" / "doctor"
TESTS = [*Path(__file__).parent.glob("test_*.py"), REPOSITORY / "tests/e2e/test_doctor.py"]

# Other texts that look like one.
_NO_CODES = {"docker.io", "node.key"}


def _codes(path: Path) -> Iterator[str]:
    """Texts in a file that are CHECK.WHAT."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            check, dot, what = node.value.partition(".")
            if dot and check in NAMES and what.replace("-", "").isalpha():
                yield node.value


def test_each_finding_is_provoked() -> None:
    """By a test that names it; and no test names one that there is not."""
    made = {code for path in SOURCES.glob("*.py") for code in _codes(path)}
    made |= {f"mesh.{outcome}" for outcome in get_args(Outcome) if outcome != "ok"}
    provoked = {code for path in TESTS for code in _codes(path)}
    provoked |= {f"mesh.{outcome}" for outcome in get_args(Outcome) if outcome != "ok"}
    assert made - provoked == set()
    assert provoked - made == _NO_CODES
    assert {code.partition(".")[0] for code in made} == set(NAMES)


def test_checks_build_on_earlier_ones() -> None:
    """And on nothing else."""
    earlier: set[str] = set()
    for check in (*CHECKS, *OF_AN_IMAGE):
        assert set(check.needs) <= earlier, check.name
        assert check.name not in earlier
        earlier.add(check.name)


async def test_a_check_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is skipped and says why; what needs it is made, as nothing was found against it."""

    async def fail(patient: object) -> list[Finding]:
        raise PeerError("it rains")

    async def find(patient: object) -> list[Finding]:
        return [error("b.bad", "bad", "mend it"), ok("but this")]

    async def well(patient: object) -> list[Finding]:
        return [ok("well")]

    checks = (
        Check("a", fail),
        Check("b", find, ("a",)),
        Check("c", well, ("a", "b")),
        Check("d", well, ("c",)),
    )
    monkeypatch.setattr("oci_mesh.cli.doctor.checkup.CHECKS", checks)
    report = await examine(tmp_path)
    assert [levels(report, name) for name in "abcd"] == [
        ["skipped"],
        ["error", "ok"],
        ["skipped"],
        ["ok"],
    ]
    assert findings(report, "a")[0]["found"] == "it rains"
    assert findings(report, "c")[0]["found"] == "it needs `b`"
    assert (report["errors"], report["warnings"]) == (1, 0)


async def test_as_it_is_called(tmp_path: Path, cli: Cli) -> None:
    """A line for each check, the remedy below; JSON; and the exit code tells of errors."""
    (tmp_path / "machine").mkdir()
    common = ["doctor", "--root", tmp_path / "a", "--machine", tmp_path / "machine"]
    down = await cli(*common, registry=f"http://127.0.0.1:{free_port()}")
    assert down.exit_code == 1
    assert down.stdout.startswith("FAIL  node ")
    assert "\n      " in down.stdout
    assert "-> name the node's directory" in down.stdout
    assert down.stdout.endswith("errors: 2, warnings: 0\n")
    async with running(tmp_path, "a"):
        well = await cli(*common, "--skip", "runtime")
        assert well.exit_code == 0, well.stdout
        said = json.loads((await cli(*common, "--skip", "runtime", "--json")).stdout)
        assert [check["name"] for check in said["checks"]] == [check.name for check in CHECKS]
        assert said["checks"][0]["findings"][0]["level"] == "ok"


async def test_warnings_are_no_errors(tmp_path: Path, cli: Cli) -> None:
    """They are shown, and the exit code is 0."""
    (tmp_path / "machine").mkdir()
    health = healthy(join=["10.0.0.1:7946"], registry=f"http://127.0.0.1:{free_port()}")
    async with saying(tmp_path / "a", health):
        skip = ["--skip", "runtime", "--skip", "listening"]
        words = ["doctor", "--root", tmp_path / "a", "--machine", tmp_path / "machine", *skip]
        result = await cli(*words)
    assert result.exit_code == 0, result.stdout
    assert "warn  mesh " in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["a b"],
        ["a:b:c"],
        ["--skip", "nothing"],
        ["--machine", "/no/such"],
        ["--registry", "ftp://x"],
    ],
)
async def test_what_was_typed_wrongly(cli: Cli, arguments: list[str]) -> None:
    """Exit code 2."""
    assert (await cli("doctor", *arguments)).exit_code == 2
