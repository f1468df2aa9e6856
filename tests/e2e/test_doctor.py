"""`oci-mesh doctor` on a machine with a real containerd: does that really ask the node."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cli.doctor.report import levels, provoked
from tests.e2e import daemon
from tests.e2e.daemon import ENVIRONMENT
from tests.e2e.kubelet import Kubelet
from tests.e2e.mesh import REGISTRY, Peer, mesh
from tests.e2e.registry import push_image
from tests.e2e.requirements import absent, require, require_namespaces
from tests.e2e.test_mirror import CONTAINERDS, programs

pytestmark = pytest.mark.e2e

OWN = "registry.internal"


class Machine(NamedTuple):
    """One node, with its containerd."""

    peer: Peer
    kubelet: Kubelet

    def oci_mesh(self, *words: str | Path) -> str:
        """`oci-mesh WORDS` there; what it printed."""
        return daemon.oci_mesh(*words, namespace=self.peer.namespace)

    def doctor(self, *words: str, user: str = "") -> subprocess.CompletedProcess[bytes]:
        """`oci-mesh doctor WORDS` there, as root or another user."""
        become = ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []
        program = [sys.executable, "-c", "from oci_mesh.cli import main; main()"]
        root = ["--root", str(self.peer.daemon.root)]
        return self.peer.namespace.run(
            *become, *program, "doctor", *root, *words, env=ENVIRONMENT, check=False
        )

    def report(self, *words: str, user: str = "") -> dict[str, Any]:
        """What it finds, as JSON; its exit code says whether there are errors."""
        done = self.doctor(*words, "--json", user=user)
        assert done.stdout, done.stderr.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if found["errors"] else 0)
        return found


@pytest.fixture(params=CONTAINERDS)
def containerd(request: pytest.FixtureRequest) -> Path | None:
    """Where the programs of each containerd are; None: on the PATH."""
    return programs(request.param)


@contextmanager
def machine(directory: Path, containerd: Path | None = None) -> Iterator[Machine]:
    """A machine whose node runs, and whose containerd is not started yet."""
    require_namespaces()
    require("containerd", "ctr")
    if not Path("/etc/containerd").is_dir():
        absent("no directory /etc/containerd to mount on")
    with (
        mesh(directory, 1) as [peer],
        Kubelet(peer.namespace, peer.directory, containerd) as kubelet,
    ):
        peer.daemon.start()
        yield Machine(peer, kubelet)


def test_is_it_really_asked(tmp_path: Path, containerd: Path | None) -> None:
    """From a package's configuration to one that works: each step that is missing is found."""
    with machine(tmp_path, containerd) as here:
        here.kubelet.start()
        provoked(here.report(), "containerd.no-config-path")
        here.oci_mesh("containerd", "configure")
        os.utime(here.kubelet.config, (2**31 - 1, 2**31 - 1))  # later than any start
        found = provoked(here.report(), "restart.due", "asked.not")
        assert "restart containerd" in found["fix"]
        os.utime(here.kubelet.config, (1, 1))
        provoked(here.report(), "asked.not")
        here.kubelet.restart()
        report = here.report()
        assert levels(report, "asked") == levels(report, "restart") == ["ok"]
        assert not report["errors"]


def test_names_of_the_mesh_alone(tmp_path: Path, containerd: Path | None, archive: Path) -> None:
    """An image by such a name: asked for, held, and then replaced by another."""
    with machine(tmp_path, containerd) as here:
        here.oci_mesh("containerd", "configure", OWN, "--own")
        here.kubelet.start()
        reference = f"{OWN}/app:v1"
        provoked(here.report(reference), "image.no-tag")
        here.oci_mesh("push", archive, "app:v1")
        report = here.report(reference)
        assert levels(report, "asked") == levels(report, "name") == ["ok"]
        assert levels(report, "image") == levels(report, "held") == ["ok"]
        here.kubelet.pull(reference)
        assert levels(here.report(reference), "held") == ["ok"]
        push_image(here.peer.daemon, "app", "v1", tmp_path)
        provoked(here.report(reference), "held.old")


def test_a_containerd_without_cri(tmp_path: Path) -> None:
    """As Docker's package brings it: no pod can start, whatever hosts.toml says."""
    with machine(tmp_path) as here:
        here.kubelet.configure("io.containerd.grpc.v1.cri")
        here.oci_mesh("containerd", "configure")
        here.kubelet.start()
        provoked(here.report(), "asked.cri-off")


def test_a_containerd_that_does_not_run(tmp_path: Path) -> None:
    """Its socket is left over, or not there."""
    with machine(tmp_path) as here:
        here.oci_mesh("containerd", "configure")
        provoked(here.report(), "asked.no-containerd")
        here.kubelet.start()
        here.kubelet.stop()
        provoked(here.report(), "asked.no-containerd")


def test_another_port(tmp_path: Path) -> None:
    """containerd is told of an address where no node is."""
    with machine(tmp_path) as here:
        here.oci_mesh("containerd", "configure", "--registry", "http://127.0.0.1:5999")
        here.kubelet.start()
        found = provoked(here.report(), "containerd.elsewhere")
        assert f"--registry http://{REGISTRY}" in found["fix"]


def test_not_root(tmp_path: Path) -> None:
    """Who may not see the node, or containerd, is told so, with a code that is not 0."""
    with machine(tmp_path) as here:
        for directory in (tmp_path, *tmp_path.parents[:2], here.peer.directory):
            directory.chmod(0o755)
        here.peer.daemon.root.chmod(0o755)
        here.kubelet.config.chmod(0o600)
        report = here.report(user="65534")
        assert "root" in provoked(report, "node.no-permission", "containerd.no-permission")["fix"]


def test_disks(tmp_path: Path) -> None:
    """In memory, full, without inodes, read-only: a file system of its own for each."""
    with machine(tmp_path) as here:
        run = here.peer.namespace.run
        root = tmp_path / "disk"
        root.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=2000", "tmpfs", root)
        here.peer.daemon.root = root
        provoked(here.report(), "disk.volatile")
        run("dd", "if=/dev/zero", f"of={root}/full", "bs=1M", "count=62")
        provoked(here.report(), "disk.full")
        run("rm", root / "full")
        run("sh", "-c", f'for i in $(seq 1500); do : >"{root}/$i"; done')
        provoked(here.report(), "disk.inodes")
        run("mount", "-o", "remount,ro", root)
        provoked(here.report(), "disk.read-only")
