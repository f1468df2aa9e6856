"""What an end-to-end test needs from the machine, asked for in one way.

On a developer's machine a missing part skips the test with one line that names it; in CI
(`CI=true`), where nobody reads skips, it is a failure.
"""

import os
import shutil
import subprocess
from typing import NoReturn

import pytest

PROBE_SECONDS = 10.0


def absent(what: str) -> NoReturn:
    """End the calling test because `what` is not there: skipped, or failed where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI this must run, but: {what}", pytrace=False)
    pytest.skip(what)


def require(*tools: str) -> None:
    """Skip (fail in CI) unless each of `tools` is on the PATH."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        absent(f"not installed: {', '.join(missing)}")


def require_namespaces() -> None:
    """Skip (fail in CI) unless this user may create network, mount and pid namespaces."""
    require("unshare", "nsenter", "setpriv", "ip", "curl")
    probe = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    outcome = subprocess.run(probe, capture_output=True, timeout=PROBE_SECONDS, check=False)
    if outcome.returncode != 0:
        absent(f"no namespaces here: {outcome.stderr.decode().strip()}")
