"""The registry passes the whole official suite: both versions, every feature, nothing skipped."""

from pathlib import Path

import pytest

from tests.conformance import suite
from tests.e2e.daemon import Daemon
from tests.e2e.requirements import require

pytestmark = pytest.mark.e2e

FEWEST_CHECKS = 700
"""A run with fewer was not a run of the whole suite."""

ALLOWED_SKIPS: dict[str, str] = {}
"""Check -> why no registry could pass it. There is none."""


@pytest.fixture(scope="module")
def program() -> Path:
    """The suite, built."""
    require("go", "setpriv")
    return suite.build()


@pytest.mark.parametrize("version", ["1.1", "dev"])
@pytest.mark.parametrize("sparse", [False, True], ids=["default-policy", "sparse-allowed"])
def test_everything_passes(program: Path, version: str, sparse: bool, tmp_path: Path) -> None:
    """All Pass. Sparse data, which the default policy is there to refuse, run under `allow`."""
    options = ["--sparse", "allow"] if sparse else []
    with Daemon(tmp_path / "mesh", *options) as node:
        results = suite.run(program, node.registry, version, tmp_path, sparse=sparse)
    print(f"conformance {version}, sparse {sparse}: {dict(results.counts())}")
    switched_off = {name for name, value in results.features.items() if value == "false"}
    assert switched_off == (set() if sparse else {"data.sparse"})
    failed = [check for check in results.not_passed() if check.name not in ALLOWED_SKIPS]
    assert not failed, "\n".join(f"{c.outcome} {c.name}: {c.message.strip()}" for c in failed)
    off = {"Sparse Manifests": "Disabled"} if not sparse else {}
    assert {name: got for name, got in results.areas.items() if got != "Pass"} == off
    assert len(results.checks) >= FEWEST_CHECKS


def test_a_configuration_error_is_noticed(program: Path, tmp_path: Path) -> None:
    """The suite exits 0 when it cannot start: that must not look like a pass."""
    with pytest.raises(AssertionError, match="unsupported config version"):
        suite.run(program, "127.0.0.1:1", "no-such-version", tmp_path, sparse=False)
