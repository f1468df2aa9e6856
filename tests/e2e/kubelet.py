"""A machine as a kubelet has it: a node's namespace with a containerd of its own, configured in
/etc/containerd, listening in /run, with its CRI plugin.

/etc/containerd and /run are mounts that only this namespace has. No pod is run, so there are no
shims that could outlive it.
"""

import asyncio
import os
import subprocess
from pathlib import Path

from oci_mesh.containerd.cri import Cri
from tests.e2e import command
from tests.e2e.containerd import START_SECONDS
from tests.e2e.namespaces import Namespace

PULL_SECONDS = 60.0
SOCKET = "/run/containerd/containerd.sock"

# Without what this machine may not have; images are unpacked in a way that asks nothing of disks.
_CONFIG = """version = 2
root = "{directory}/root"
disabled_plugins = [{disabled}]
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
"""
_UNUSED = [f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")]


class Kubelet:
    """`with` it, the namespace has these mounts; containerd runs from `start` to `stop`."""

    def __init__(self, namespace: Namespace, directory: Path, programs: Path | None = None) -> None:
        """`programs` has another containerd than this machine's."""
        self._namespace = namespace
        self._directory = directory
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self.config = directory / "etc" / "config.toml"

    def __enter__(self) -> "Kubelet":
        """Mount."""
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.configure()
        self._namespace.run("mount", "--bind", self.config.parent, "/etc/containerd")
        self._namespace.run("mount", "-t", "tmpfs", "tmpfs", "/run")
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what runs; the mounts go with the namespace."""
        self.stop()

    def configure(self, *disabled: str) -> None:
        """A configuration as a package brings it, which knows nothing of the mesh."""
        names = ", ".join(f'"{name}"' for name in (*_UNUSED, *disabled))
        self.config.write_text(_CONFIG.format(directory=self._directory, disabled=names))

    def start(self) -> None:
        """Start containerd; wait until it answers."""
        path = {"PATH": f"{self._programs}:{os.environ['PATH']}"} if self._programs else {}
        log = self._directory / "containerd.log"
        argv = self._namespace.enter("containerd")
        self._process = command.start(*argv, stdout=log, stderr=log, env=path)
        try:
            command.eventually("containerd answers", self._answers, timeout=START_SECONDS)
        except AssertionError:
            self.stop()
            raise AssertionError(f"containerd did not start:\n{log.read_text()}") from None

    def stop(self) -> None:
        """Kill containerd; nothing if it does not run."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()

    def restart(self) -> None:
        """What changed in its configuration counts from now on."""
        self.stop()
        self.start()

    @property
    def socket(self) -> Path:
        """Where containerd answers: what is on a path can be opened from any network."""
        return Path(f"/proc/{self._namespace.pid}/root{SOCKET}")

    def pull(self, reference: str) -> None:
        """Pull an image as for a pod."""

        async def pull() -> None:
            async with Cri(self.socket) as cri:
                await cri.pull(reference, PULL_SECONDS)

        asyncio.run(pull())

    def _answers(self) -> bool:
        return self._namespace.run("ctr", "version", check=False).returncode == 0
