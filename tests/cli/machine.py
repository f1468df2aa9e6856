"""A machine's configuration files, and `oci-mesh containerd …` called for that machine."""

import tomllib
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from oci_mesh.cli import main

CONFIGS = Path(__file__).parent / "containerd_configs"
NODE = "http://127.0.0.1:5000"
CONFIG = "etc/containerd/config.toml"
HOSTS = "etc/containerd/certs.d"
CERTS_D = "/etc/containerd/certs.d"

PLUGIN_2 = "io.containerd.grpc.v1.cri"
PLUGIN_3 = "io.containerd.cri.v1.images"
PLUGINS = {
    "commented": PLUGIN_2,
    "debian": PLUGIN_2,
    "default-1.4": PLUGIN_2,
    "default-1.6": PLUGIN_2,
    "default-2.1": PLUGIN_3,
    "docker-package": "cri",
    "dotted": PLUGIN_3,
    "old-mirrors": PLUGIN_2,
    "two-directories": PLUGIN_3,
    "version-1": "cri",
}


def call(root: Path, verb: str, *arguments: str) -> Result:
    """`oci-mesh containerd VERB` for the machine at `root`. A traceback fails the test."""
    result = CliRunner().invoke(main, ["containerd", verb, "--root", str(root), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def done(root: Path, verb: str, *arguments: str) -> str:
    """Likewise; it worked, and this is what it said."""
    result = call(root, verb, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(root: Path, *arguments: str) -> str:
    """`configure` does not work, changes nothing, and says this."""
    before = files(root)
    result = call(root, "configure", *arguments)
    assert result.exit_code == 1, result.output
    assert files(root) == before
    assert result.stdout == ""
    return result.stderr


def files(root: Path) -> dict[str, tuple[bytes, int] | None]:
    """All files below, with their modes, and directories."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mode)
        if path.is_file()
        else None
        for path in root.rglob("*")
    }


def put(root: Path, name: str, text: str | bytes) -> Path:
    """A file of the machine."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def configured(root: Path, config: str) -> Path:
    """The machine has this config.toml."""
    return put(root, CONFIG, (CONFIGS / f"{config}.toml").read_bytes())


def hosts(root: Path, name: str) -> dict[str, Any]:
    """What containerd reads of a registry, in order."""
    return tomllib.loads((root / HOSTS / name / "hosts.toml").read_text())


def said_of_registries(text: str, plugin: str) -> dict[str, Any]:
    """The table that decides."""
    said: dict[str, Any] = tomllib.loads(text)["plugins"][plugin]["registry"]
    return said
