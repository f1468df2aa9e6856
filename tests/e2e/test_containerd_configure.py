"""`oci-mesh containerd`: a real containerd goes by what it wrote."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e import command, daemon
from tests.e2e.mesh import HOST, REGISTRY, mesh
from tests.e2e.requirements import require, require_namespaces

pytestmark = pytest.mark.e2e

# Without the snapshotters that this machine may not have, and with nothing of the machine's own.
_CONFIG = """version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
  address = "{directory}/c.sock"
[ttrpc]
  address = "{directory}/c.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
  endpoint = ["https://mirror.corp"]
"""


def configure(verb: str, root: Path, *arguments: str) -> None:
    """`oci-mesh containerd VERB` for the machine whose files are at `root`."""
    daemon.oci_mesh("containerd", verb, "--root", root, *arguments)


def test_a_pull_goes_by_what_it_wrote(tmp_path: Path, archive: Path) -> None:
    """The node is the registry of the mesh's own names, until that is undone."""
    require_namespaces()
    require("containerd", "ctr")
    root = tmp_path / "machine"
    root.mkdir()
    with mesh(tmp_path, 1) as [peer]:
        peer.daemon.start()
        daemon.push(archive, f"{REGISTRY}/app:v1", namespace=peer.namespace)
        words = ["content", "fetch", "--hosts-dir", str(root / "etc/containerd/certs.d")]
        with peer.containerd() as containerd:
            assert containerd.ctr(*words, f"{HOST}/app:v1", check=False).returncode
            configure("configure", root, HOST, "--own", "--registry", f"http://{REGISTRY}")
            containerd.ctr(*words, f"{HOST}/app:v1")
            containerd.forget(f"{HOST}/app:v1")
            configure("undo", root)
            assert containerd.ctr(*words, f"{HOST}/app:v1", check=False).returncode


def _loads_cri(directory: Path, config: Path) -> bool:
    """Whether a containerd with this configuration loads what Kubernetes needs of it."""
    script = 'mount -t tmpfs tmpfs /run && exec containerd --config "$1"'
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    log = directory / "log"
    running = command.start(
        *isolated, "sh", "-c", script, "containerd", config, stdout=log, stderr=log
    )
    try:
        listed = ["ctr", "--address", f"{directory}/c.sock", "plugins", "ls"]
        command.eventually(
            "containerd answers",
            lambda: subprocess.run(listed, capture_output=True, check=False).returncode == 0,
        )
        rows = command.run(*listed).stdout.decode().splitlines()
        return any(row.split()[1] == "cri" and row.split()[-1] == "ok" for row in rows if row)
    finally:
        running.kill()
        running.wait()


def test_a_migrated_containerd_starts(tmp_path: Path) -> None:
    """With the old way and the new one in one file it loads no CRI plugin: that is seen, too."""
    require_namespaces()
    require("containerd", "ctr")
    directory = Path("/tmp") / f"oci-mesh-{tmp_path.name}"  # a socket's path is short
    directory.mkdir()
    try:
        config = directory / "etc/containerd/config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(_CONFIG.format(directory=directory))
        assert _loads_cri(directory, config)
        configure("configure", directory, "--migrate", "docker.io")
        assert _loads_cri(directory, config)
        migrated = config.read_text()
        config.write_text(
            migrated + '[plugins."io.containerd.grpc.v1.cri".registry.mirrors."a"]\nendpoint = []\n'
        )
        assert not _loads_cri(directory, config)
    finally:
        shutil.rmtree(directory)
