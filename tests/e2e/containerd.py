"""A real containerd per node, with everything of its own: root, state, socket, mounts, processes.

It runs as the first process of a pid namespace, in a mount namespace with a fresh /run: killing it
ends every shim and container it started, and no mount, socket or runc state of it is visible, or
stays, outside.

`ctr` resolves and fetches itself, so it has to run in the node's network namespace as well.
"""

import json
import os
import subprocess
from pathlib import Path

from tests.e2e import command
from tests.e2e.namespaces import Namespace
from tests.e2e.upstream import Upstream
from tests.images import host_architecture

START_SECONDS = 30.0
_ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_UNUSED = [
    *(f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")),
    *(f"io.containerd.{name}" for name in ("grpc.v1.cri", "internal.v1.tracing")),
    *(f"io.containerd.{name}" for name in ("tracing.processor.v1.otlp", "internal.v1.restart")),
]
_CRI = "io.containerd.grpc.v1.cri"
_SNAPSHOTTER = "native"  # asks nothing of the file system that the tests run on


class Containerd:
    """One containerd that pulls `host`'s images through the peer on its own node."""

    def __init__(
        self,
        directory: Path,
        namespace: Namespace,
        *,
        host: str,
        peer: str | None,
        upstream: Upstream | None = None,
        programs: Path | None = None,
        area: str = "default",
        cri: bool = False,
    ) -> None:
        """Describe it: images named `host`/… are pulled through the registry at the URL `peer`.

        With an `upstream` the peer is its mirror, and only the first that is asked; without a peer
        too, nobody else is. `programs` has another containerd than this machine's; `area` is what
        containerd calls a namespace. With `cri` it runs what kubelets speak with, too.
        """
        self.directory = directory
        self._namespace = namespace
        self._socket = directory / "c.sock"
        self._area = area
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        for name in upstream.hosts if upstream else [host]:
            certificates = directory / "certs.d" / name
            certificates.mkdir(parents=True)
            (certificates / "hosts.toml").write_text(_rules(name, peer, upstream))
        (directory / "fifo").mkdir()
        (directory / "config.toml").write_text(
            f"version = 2\nroot = '{directory}/root'\nstate = '{directory}/state'\n"
            f"disabled_plugins = {json.dumps([p for p in _UNUSED if not cri or p != _CRI])}\n"
            f"[grpc]\naddress = '{self._socket}'\n[ttrpc]\naddress = '{self._socket}.ttrpc'\n"
            f"[plugins.'io.containerd.internal.v1.opt']\npath = '{directory}/opt'\n"
            f"[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n"  # from 2.0 on
            f"platform = 'linux/{host_architecture()}'\nsnapshotter = '{_SNAPSHOTTER}'\n"
            f"[plugins.'{_CRI}'.containerd]\nsnapshotter = '{_SNAPSHOTTER}'\n"
            f"[plugins.'io.containerd.cri.v1.images']\nsnapshotter = '{_SNAPSHOTTER}'\n"
        )

    def __enter__(self) -> "Containerd":
        """Start; wait until it answers."""
        script = 'mount -t tmpfs tmpfs /run && exec containerd --config "$1"'
        configuration = self.directory / "config.toml"
        argv = self._namespace.enter(*_ISOLATED, "sh", "-c", script, "containerd", configuration)
        log = self.directory / "containerd.log"
        path = {"PATH": f"{self._programs}:{os.environ['PATH']}"} if self._programs else {}
        self._process = command.start(*argv, stdout=log, stderr=log, env=path)
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

    @property
    def root(self) -> Path:
        """Where its content store is."""
        return self.directory / "root"

    @property
    def words(self) -> list[str]:
        """`ctr`, told which containerd is meant."""
        program = str(self._programs / "ctr") if self._programs else "ctr"
        return [program, "--address", str(self._socket), "--namespace", self._area]

    @property
    def hosts_options(self) -> list[str]:
        """How `ctr` is told this node's hosts.toml, where it resolves by itself."""
        return ["--hosts-dir", str(self.directory / "certs.d")]

    def ctr(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """`ctr WORDS` against this containerd, in its network namespace."""
        return self._namespace.run(*self.words, *words, check=check)

    def pull(self, reference: str, *options: str) -> None:
        """Pull and unpack, as a kubelet would: by the rules of this node's hosts.toml."""
        rules = [*self.hosts_options, "--snapshotter", _SNAPSHOTTER]
        self.ctr("images", "pull", *rules, *options, reference)

    def fetch(self, reference: str, *options: str) -> None:
        """Pull without unpacking. AssertionError with what it complains of, if it fails."""
        words = ["content", "fetch", *self.hosts_options, *options, reference]
        done = self.ctr(*words, check=False)  # its standard output is a bar that grows
        assert done.returncode == 0, f"exit {done.returncode}: {reference}: {done.stderr.decode()}"

    def forget(self, reference: str) -> None:
        """Remove an image and, before this returns, what only it needed."""
        self.ctr("images", "remove", "--sync", reference)

    def has(self, digest: str) -> bool:
        """Whether a blob is in the content store."""
        return self.ctr("content", "get", digest, check=False).returncode == 0

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

        No cgroup: the machine's hierarchy is the one thing here that is shared. The shim writes
        what is printed to a file: `ctr` itself reads no further once the container has ended.
        """
        printed = self.directory / "printed"
        printed.unlink(missing_ok=True)
        options = ["--rm", "--net-host", "--cgroup=", "--fifo-dir", str(self.directory / "fifo")]
        options += ["--snapshotter", _SNAPSHOTTER]
        options += ["--log-uri", f"file://{printed}"]
        self.ctr("run", *options, reference, "container", *argv)
        return printed.read_text()

    def _answers(self) -> bool:
        return self.ctr("version", check=False).returncode == 0


def _rules(host: str, peer: str | None, upstream: Upstream | None) -> str:
    server = f"https://{host}" if upstream else peer
    ca = [f'ca = "{upstream.ca}"'] if upstream else []
    first = peer or server  # containerd 1.6 wants a first one
    lines = [f'server = "{server}"', *ca, f'[host."{first}"]']
    lines += ['capabilities = ["pull", "resolve"]', *([] if peer else ca)]
    return "\n".join([*lines, ""])
