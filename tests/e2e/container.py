"""deploy/Dockerfile's image, built with buildah, and containers of it, run with runc.

A container is what Kubernetes' restricted profile allows: an unprivileged user by number, no
capability, no way to gain one, a root that cannot be written; its data directory is the one place
that can. It has the network of the namespace that it is started in, and dies with the test run.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e import base_image, command
from tests.e2e.clients import Clients
from tests.e2e.daemon import REPOSITORY, Daemon
from tests.e2e.namespaces import Namespace
from tests.e2e.requirements import absent

BUILD_SECONDS = 300.0
USER = 65534
DATA = "/var/lib/oci-mesh"

_BASE = "localhost/oci-mesh-base"
_IMAGE = "localhost/oci-mesh"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PYTHON = "/usr/bin/python3"  # the base image's

# Writes the base image's layer as an image; $0 is the layer.
_COMMIT_BASE = (
    'c=$(buildah from scratch) && buildah add --quiet "$c" "$0" / '
    f'&& buildah config --env PATH={_PATH} "$c" && buildah commit --quiet "$c" {_BASE}'
)
# Copies the image's file system to $0.
_COPY_ROOT = f'c=$(buildah from {_IMAGE}) && cp -a "$(buildah mount "$c")" "$0"'

_ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


class Image(NamedTuple):
    """The image as it was built: its file system, and what it says of itself."""

    root: Path
    config: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of what deploy/Dockerfile puts on top of its base."""
        files = (path.lstat() for path in (self.root / "opt").rglob("*"))
        return sum(status.st_size for status in files)


def build(shared: Path) -> Image:
    """The image, built below `shared` by whichever process of the test run comes first.

    Skips (fails in CI) where its parts cannot be had.
    """
    directory = shared / "image"
    description = directory / "config.json"
    with (shared / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not description.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            description.write_text(_build(directory))
    return Image(directory / "root", json.loads(description.read_text())["config"])


def _build(directory: Path) -> str:
    """Build deploy/Dockerfile on a base image of this machine's packages, without a network but
    for the wheels; what it says of itself.
    """
    wheels = _download_wheels(directory / "wheels")
    layer = directory / "base.tar"
    base_image.build(layer)
    clients = Clients(directory / "containers")
    clients.run("sh", "-c", _COMMIT_BASE, str(layer))
    offline = ["PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels", f"BASE={_BASE}"]
    words = [word for argument in offline for word in ("--build-arg", argument)]
    words += ["--volume", f"{wheels}:/wheels:ro", "--isolation", "chroot", "--format", "docker"]
    dockerfile = REPOSITORY / "deploy" / "Dockerfile"
    clients.run(
        *("unshare", "--net", "buildah", "build", "--file", str(dockerfile), "--tag", _IMAGE),
        *words,
        str(REPOSITORY),
        timeout=BUILD_SECONDS,
    )
    clients.run("sh", "-c", _COPY_ROOT, str(directory / "root"))
    return clients.skopeo("inspect", "--config", "--raw", f"containers-storage:{_IMAGE}")


def _download_wheels(directory: Path) -> Path:
    """What deploy/Dockerfile installs, for the Python of the base image."""
    minor = command.run(_PYTHON, "-c", "import sys; print(sys.version_info[1])").stdout.decode()
    words = ["--quiet", "--only-binary", ":all:", "--python-version", f"3.{minor.strip()}"]
    for name in ("requirements", "build-requirements"):
        words += ["--requirement", str(REPOSITORY / "deploy" / f"{name}.txt")]
    pip = (sys.executable, "-m", "pip", "download", "--require-hashes", "--dest", directory)
    done = command.run(*pip, *words, check=False, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        absent(f"no wheels to be had: {done.stderr.decode().strip().splitlines()[-1]}")
    return directory


class Container(Daemon):
    """A node as a container of the image: to be used as any `Daemon`."""

    def __init__(
        self,
        image: Image,
        data: Path,
        namespace: Namespace,
        *,
        system_calls: list[str] | None = None,
        **environment: str,
    ) -> None:
        """Describe it; `environment` is what OCI_MESH_… variables it has beside the image's own,
        and with `system_calls` no others are allowed.
        """
        super().__init__(data, namespace=namespace)
        data.mkdir()
        os.chown(data, USER, USER)
        data.chmod(0o700)
        self._inside = namespace
        self._id = f"{data.name}-{secrets.token_hex(4)}"
        self._state = data.with_suffix(".runc")
        self._bundle = data.with_suffix(".bundle")
        self._bundle.mkdir()
        variables = [f"OCI_MESH_{name.upper()}={value}" for name, value in environment.items()]
        spec = _spec(image, data, variables, system_calls)
        (self._bundle / "config.json").write_text(json.dumps(spec))

    def argv(self) -> tuple[str | Path, ...]:
        """As `Daemon.argv`."""
        return self._inside.enter(*_ISOLATED, *self._runc("run", "--bundle", self._bundle))

    def kill(self) -> None:
        """As `Daemon.kill`; what then is left of it is a cgroup."""
        super().kill()
        command.run(*self._runc("delete", "--force"))

    def terminate(self) -> None:
        """As `Daemon.terminate`: runc, the only child of what `argv` starts, hands it on."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)

    def run_inside(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the running container, as its user."""
        (child,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        where = ("nsenter", f"--target={child}", "--net", "--mount", "--pid")
        return command.run(*where, *self._runc("exec"), *argv, check=check)

    def _runc(self, verb: str, *options: str | Path) -> tuple[str | Path, ...]:
        return ("runc", "--root", self._state, verb, *options, self._id)


def _spec(
    image: Image, data: Path, variables: list[str], system_calls: list[str] | None
) -> dict[str, Any]:
    """What runc is told."""
    user, _, group = image.config["User"].partition(":")
    temporary = ["nosuid", "nodev", "noexec", "mode=1777"]
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": temporary},
        {"destination": DATA, "type": "bind", "source": str(data), "options": ["bind", "rw"]},
    ]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
    }
    if system_calls is not None:
        allowed = {"names": system_calls, "action": "SCMP_ACT_ALLOW"}
        linux["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allowed]}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": int(user), "gid": int(group)},
            "args": image.config["Entrypoint"],
            "env": [*image.config["Env"], *variables],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": str(image.root), "readonly": True},
        "mounts": mounts,
        "linux": linux,
    }
