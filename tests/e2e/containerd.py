"""A real containerd per node, with everything of its own: root, state, socket, mounts, processes.

It runs as the first process of a pid namespace, in a mount namespace with a fresh /run: killing it
ends every shim and container it started, and no mount, socket or runc state of it is visible, or
stays, outside.

`ctr` resolves and fetches itself, so it has to run in the node's network namespace as well.
"""

import json
import subprocess
from pathlib import Path

from tests.e2e import command
from tests.e2e.namespaces import Namespace

START_SECONDS = 30.0
_ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_UNUSED = [
    *(f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")),
    *(f"io.containerd.{name}" for name in ("grpc.v1.cri", "internal.v1.tracing")),
    *(f"io.containerd.{name}" for name in ("tracing.processor.v1.otlp", "internal.v1.restart")),
]
_SNAPSHOTTER = "native"  # asks nothing of the file system that the tests run on


class Containerd:
    """One containerd that pulls `host`'s images through the peer on its own node."""

    def __init__(self, directory: Path, namespace: Namespace, *, host: str, peer: str) -> None:
        """Describe it: images named `host`/… are pulled through the registry at the URL `peer`."""
        self.directory = directory
        self._namespace = namespace
        self._socket = directory / "c.sock"
        self._process: subprocess.Popen[bytes] | None = None
        certificates = directory / "certs.d" / host
        certificates.mkdir(parents=True)
        (certificates / "hosts.toml").write_text(
            f'server = "{peer}"\n[host."{peer}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        (directory / "fifo").mkdir()
        (directory / "config.toml").write_text(
            f"version = 2\nroot = '{directory}/root'\nstate = '{directory}/state'\n"
            f"disabled_plugins = {json.dumps(_UNUSED)}\n"
            f"[grpc]\naddress = '{self._socket}'\n[ttrpc]\naddress = '{self._socket}.ttrpc'\n"
            f"[plugins.'io.containerd.internal.v1.opt']\npath = '{directory}/opt'\n"
        )

    def __enter__(self) -> "Containerd":
        """Start; wait until it answers."""
        script = 'mount -t tmpfs tmpfs /run && exec containerd --config "$1"'
        configuration = self.directory / "config.toml"
        argv = self._namespace.enter(*_ISOLATED, "sh", "-c", script, "containerd", configuration)
        log = self.directory / "containerd.log"
        self._process = command.start(*argv, stdout=log, stderr=log)
        try:
            command.eventually("containerd answers", self._answers, timeout=START_SECONDS)
        except AssertionError:
            self.__exit__()
            raise AssertionError(f"containerd did not start:\n{log.read_text()}") from None
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it, and with it all it started."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def ctr(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """`ctr WORDS` against this containerd, in its network namespace."""
        return self._namespace.run("ctr", "--address", self._socket, *words, check=check)

    def pull(self, reference: str, *options: str) -> None:
        """Pull and unpack, as a kubelet would: by the rules of this node's hosts.toml."""
        rules = ["--hosts-dir", str(self.directory / "certs.d"), "--snapshotter", _SNAPSHOTTER]
        self.ctr("images", "pull", *rules, *options, reference)

    def content(self, digest: str) -> bytes:
        """A blob of the content store."""
        return self.ctr("content", "get", digest).stdout

    def digest(self, reference: str) -> str:
        """The digest that an image's name stands for here."""
        rows = self.ctr("images", "list", f"name=={reference}").stdout.decode().splitlines()
        assert len(rows) == 2, f"no image {reference}"
        return rows[1].split()[2]

    def run(self, reference: str, *argv: str) -> str:
        """Run a container to its end with runc, in the node's network; what it printed.

        No cgroup: the machine's hierarchy is the one thing here that is shared.
        """
        options = ["--rm", "--net-host", "--cgroup=", "--fifo-dir", str(self.directory / "fifo")]
        options += ["--snapshotter", _SNAPSHOTTER]
        return self.ctr("run", *options, reference, "container", *argv).stdout.decode()

    def _answers(self) -> bool:
        return self.ctr("version", check=False).returncode == 0
