"""The registry passes the whole official suite: both versions, every feature, nothing skipped."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance import suite
from tests.e2e.command import eventually
from tests.e2e.daemon import Daemon
from tests.e2e.requirements import absent, require

pytestmark = pytest.mark.e2e

FEWEST_CHECKS = 700
"""A run with fewer was not a run of the whole suite."""


@pytest.fixture(scope="module")
def program() -> Path:
    """The suite, built."""
    require("go", "setpriv", "curl")
    try:
        return suite.build()
    except AssertionError as error:  # an old Go, or no way to a module proxy
        absent(f"cannot build the conformance suite: {str(error).splitlines()[-1]}")


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a line that is seen when the test passes, too."""

    def line(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return line


@pytest.mark.parametrize("version", ["1.1", "dev"])
@pytest.mark.parametrize("sparse", [False, True], ids=["default-policy", "sparse-allowed"])
def test_everything_passes(
    program: Path, version: str, sparse: bool, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    """All Pass. Sparse data, which the default policy is there to refuse, run under `allow`."""
    options = ["--sparse", "allow"] if sparse else []
    with Daemon(tmp_path / "mesh", *options) as node:
        results = suite.run(program, node.registry, version, tmp_path, sparse=sparse)
    check(results, sparse=sparse)
    tell(f"conformance {version}, sparse data {sparse}: {dict(results.counts())}")


def test_everything_passes_on_a_node_of_a_mesh(program: Path, tmp_path: Path) -> None:
    """Two more nodes, which get copies of it all, do not bring back what the suite deletes."""
    with ExitStack() as stack:
        first = stack.enter_context(Daemon(tmp_path / "mesh1", "--sparse", "allow"))
        options = ["--sparse", "allow", "--join", first.mesh]
        for name in ("mesh2", "mesh3"):
            stack.enter_context(Daemon(tmp_path / name, *options))
        eventually("the three have met", lambda: first.members() == 3)
        check(suite.run(program, first.registry, "dev", tmp_path, sparse=True), sparse=True)


def check(results: suite.Results, *, sparse: bool) -> None:
    """Every feature was on (sparse data: if asked for), every check passed, and they were many."""
    switched_off = {name for name, value in results.features.items() if value == "false"}
    assert switched_off == (set() if sparse else {"data.sparse"})
    failed = results.not_passed()  # skipped ones as well: there is none that cannot be passed
    assert not failed, "\n".join(f"{c.outcome} {c.name}: {c.message.strip()}" for c in failed)
    off = {} if sparse else {"Sparse Manifests": "Disabled"}
    assert {name: got for name, got in results.areas.items() if got != "Pass"} == off
    assert len(results.checks) >= FEWEST_CHECKS


def test_a_configuration_error_is_noticed(program: Path, tmp_path: Path) -> None:
    """The suite exits 0 when it cannot start: that must not look like a pass."""
    with pytest.raises(AssertionError, match="unsupported config version"):
        suite.run(program, "127.0.0.1:1", "no-such-version", tmp_path, sparse=False)
