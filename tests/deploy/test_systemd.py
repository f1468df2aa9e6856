"""deploy/oci-mesh.service, as systemd's own tools judge it; what it promises is elsewhere.

`tests/test_notify.py` has the messages and the watchdog, `tests/e2e/test_image.py` runs nodes with
nothing but the system calls that the unit allows.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oci_mesh import NodeConfig
from oci_mesh.mesh.enrolment import ENROL_S
from oci_mesh.pki import authority
from tests.deploy import unit
from tests.e2e.requirements import absent, require
from tests.images import sha256
from tests.test_serve import ask, daemon

# In tenths, as `--threshold` takes it; 0 is nothing to be afraid of. What is left is the network.
MAX_EXPOSURE = {"": 15, "oci-mesh-containerd.conf": 20}

# PR_SET_MDWE and its PR_MDWE_REFUSE_EXEC_GAIN, from Linux 6.3 on: what MemoryDenyWriteExecute uses
# there. It outlives exec.
DENY_WRITE_EXECUTE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(77)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
UNSUPPORTED = 77


@pytest.fixture(params=MAX_EXPOSURE, ids=["plain", "containerd"])
def drop_in(request: pytest.FixtureRequest) -> str:
    """Nothing, or what is added for a node that looks at containerd."""
    return str(request.param)


@pytest.fixture
def installed(tmp_path: Path, drop_in: str) -> Path:
    """The unit where systemd-analyze takes it for installed, with a program that is there."""
    require("systemd-analyze")
    text = unit.UNIT.read_text()
    program = unit.settings("Service")["ExecStart"][0].split()[0]
    assert text.count(program) == 1
    path = tmp_path / unit.UNIT.name
    path.write_text(text.replace(program, sys.executable))
    if drop_in:
        directory = tmp_path / f"{path.name}.d"
        directory.mkdir()
        (directory / drop_in).write_text((unit.DEPLOY / drop_in).read_text())
    return path


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


def test_systemd_understands_all_of_it(installed: Path) -> None:
    """No unknown setting, no value that is ignored."""
    done = analyze("verify", installed)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_exposes_next_to_nothing(installed: Path, drop_in: str) -> None:
    """By systemd's own measure."""
    threshold = f"--threshold={MAX_EXPOSURE[drop_in]}"
    done = analyze("security", "--offline=yes", "--no-pager", threshold, installed)
    assert done.returncode == 0, done.stdout


def test_its_times_fit_the_nodes() -> None:
    """It is not killed while it drains, nor while it looks for who signs."""
    service = unit.settings("Service")
    drain = NodeConfig(root=Path("/")).drain
    assert float(service["TimeoutStopSec"][0]) > drain + 10
    assert float(service["TimeoutStartSec"][0]) > 2 * ENROL_S
    assert float(service["WatchdogSec"][0]) > drain


def test_the_node_needs_no_memory_that_is_written_and_run(tmp_path: Path) -> None:
    """A whole node works where the kernel refuses that: with TLS, and with an eye on containerd."""
    authority.init(tmp_path / "ca", "mesh", time.time())
    (tmp_path / "containerd").mkdir()
    options = ["--ca", str(tmp_path / "ca"), "--containerd", str(tmp_path / "containerd")]
    denied = [sys.executable, "-c", DENY_WRITE_EXECUTE]
    if subprocess.run([*denied, "-c", ""], check=False).returncode == UNSUPPORTED:
        absent("this kernel has no PR_SET_MDWE (Linux 6.3)")
    program = [*denied, "-m", "oci_mesh.serve"]
    with daemon(tmp_path / "a", *options, program=program) as a:
        url = a.ready()["registry"]
        path = f"/v2/app/blobs/uploads/?digest={sha256(b'kept')}"
        assert ask(url + path, "POST", b"kept")[0] == 201
        assert ask(f"{url}/readyz")[0] == 200
        assert a.end(signal.SIGTERM) == 0
