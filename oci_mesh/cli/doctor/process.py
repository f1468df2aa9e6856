"""The node's process: what the kernel lets it open and watch, and who may read its secrets."""

import os
import stat
from pathlib import Path
from typing import Final

from oci_mesh.cli.doctor.finding import Finding, error, ok, skipped, warning
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.control.health import Health

# Beside connections to other nodes: clients of this machine, blobs that are read and written.
_OWN_FILES: Final = 512

# Of the open files that are allowed.
_NEARLY: Final = 0.9

_KEY: Final = Path("identity/node.key")


async def look_at_limits(patient: Patient) -> list[Finding]:
    """Open files, and watches of containerd's directory."""
    assert patient.health is not None, "needs `node`"
    return judge_limits(patient.health)


def judge_limits(health: Health) -> list[Finding]:
    """Whether they are enough."""
    found: list[Finding] = []
    said = f"the node has {health.files} files open, of {health.max_files} that it may"
    raise_it = "LimitNOFILE=65536 in its unit (systemctl edit oci-mesh), or ulimit -n 65536"
    if health.files > health.max_files * _NEARLY:
        found.append(error("limits.files-used", said, raise_it))
    elif health.max_files < health.connections + _OWN_FILES:
        needed = health.connections + _OWN_FILES
        found.append(warning("limits.files", f"{said}: it can come to need {needed}", raise_it))
    if health.watch_error:
        found.append(
            error(
                "limits.watch",
                f"the node cannot follow what containerd has in {health.containerd}: "
                f"{health.watch_error}",
                "is that containerd's root directory (`containerd config dump`), and may the "
                "node's user read it? For `No space left on device` or `Too many open files`: "
                "sysctl fs.inotify.max_user_watches=65536 fs.inotify.max_user_instances=512",
            )
        )
    return found or [ok(said)]


async def look_at_secrets(patient: Patient) -> list[Finding]:
    """Whether anybody but their owner may read what must stay secret."""
    health = patient.health
    paths = [patient.root / _KEY]
    paths += [] if health is None else [Path(path) for path in health.secrets]
    modes: dict[Path, int] = {}
    for path in paths:
        try:
            modes[path] = stat.S_IMODE(os.stat(path).st_mode)
        except OSError:  # not there, or in another mount namespace
            continue
    if not modes:
        return [skipped("no key of this node can be seen from here")]
    open_to_all = [path for path, mode in modes.items() if mode & 0o077]
    if not open_to_all:
        return [ok("keys and secrets are readable by their owner alone")]
    names = " ".join(map(str, open_to_all))
    return [
        error(
            "secrets.readable",
            f"others than their owner may read {names}",
            f"chmod 600 {names}; if somebody may have read a key: oci-mesh ca rotate",
        )
    ]
