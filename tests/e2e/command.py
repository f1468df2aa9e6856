"""Running programs: each has a deadline, is quoted when it fails, and dies with the test run.

The kernel's parent-death signal sees to the last, so that even a run that is killed with SIGKILL
leaves no process behind. Nothing here knows about registries.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

SECONDS = 60.0
"""Deadline of one command: far above what any takes, far below a hung CI."""

SOON_SECONDS = 30.0
"""How long a condition may take that holds within a second or two on an idle machine."""

_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
_POLL_SECONDS = 0.05


def run(
    *argv: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
    timeout: float = SECONDS,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; AssertionError with its output if it fails and `check` is set."""
    words = [*_DIES_WITH_US, *(str(word) for word in argv)]
    environment = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(
            words,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = ((late.stdout or b"") + (late.stderr or b"")).decode(errors="replace")
        raise AssertionError(f"no end after {timeout} s: {_shown(argv)}\n{said}") from late
    if check and done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise AssertionError(f"exit {done.returncode}: {_shown(argv)}\n{said}")
    return done


def start(
    *argv: str | Path,
    stdout: Path,
    stderr: Path,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a long-running command with its output in files; it is killed if this process dies."""
    words = [*_DIES_WITH_US, *(str(word) for word in argv)]
    environment = {**os.environ, **(env or {})}
    with stdout.open("ab") as out, stderr.open("ab") as err:
        return subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )


def eventually(what: str, condition: Callable[[], bool], *, timeout: float = SOON_SECONDS) -> None:
    """Poll until `condition()` holds; AssertionError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout} s: {what}"
        time.sleep(_POLL_SECONDS)


def _shown(argv: tuple[str | Path, ...]) -> str:
    return " ".join(str(word) for word in argv)
