"""registries.conf.d: what podman and CRI-O are told."""

import json
import os
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.cli.machine import (
    done,
    failed,
    files,
    put,
)

REGISTRIES = "etc/containers/registries.conf"
OURS = "etc/containers/registries.conf.d/50-oci-mesh.conf"


def podman(root: Path, *arguments: str) -> dict[str, Any]:
    """What our file says after `configure --for podman`."""
    done(root, "configure", "--for", "podman", *arguments)
    return tomllib.loads((root / OURS).read_text())


def test_podman_gets_a_file_of_its_own(tmp_path: Path) -> None:
    """Which grows; content by digest only, unless tags are wanted too."""
    put(tmp_path, REGISTRIES, 'unqualified-search-registries = ["docker.io"]\n')
    untouched = files(tmp_path)
    first = {
        "prefix": "docker.io",
        "location": "docker.io",
        "mirror-by-digest-only": True,
        "mirror": [{"location": "127.0.0.1:5000/docker.io", "insecure": True}],
    }
    assert podman(tmp_path) == {"registry": [first]}
    assert done(tmp_path, "configure", "--for", "podman") == "nothing to change\n"
    second = {
        "prefix": "quay.io",
        "location": "quay.io",
        "mirror": [{"location": "127.0.0.1:5000/quay.io", "insecure": True}],
    }
    assert podman(tmp_path, "quay.io", "--resolve") == {"registry": [first, second]}
    own = {"prefix": "registry.internal", "location": "127.0.0.1:5000", "insecure": True}
    assert podman(tmp_path, "registry.internal", "--own")["registry"] == [first, second, own]
    shown = json.loads(done(tmp_path, "show", "--for", "podman", "--json"))
    assert [(r["name"], r["mesh"], r["resolve"]) for r in shown["registries"]] == [
        ("docker.io", "first", False),
        ("quay.io", "first", True),
        ("registry.internal", "first", True),
    ]
    done(tmp_path, "undo", "--for", "podman")
    assert files(tmp_path) == untouched


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (REGISTRIES, '[[registry]]\nprefix = "docker.io"\n', "has settings for docker.io"),
        (REGISTRIES, '[[registry]]\nlocation = "docker.io"\n', "has settings for docker.io"),
        (REGISTRIES, '[registries.search]\nregistries = ["docker.io"]\n', "first version"),
        (REGISTRIES, "[[", "not valid TOML"),
        (f"{OURS}.conf", '[[registry]]\nprefix = "docker.io"\n', "has settings for docker.io"),
        (OURS, '[[registry]]\nprefix = "docker.io"\n', "somebody changed"),
    ],
)
def test_podman_settings_of_others_are_not_replaced(
    name: str, text: str, says: str, tmp_path: Path
) -> None:
    """Of two files with the same prefix only one would count."""
    put(tmp_path, name, text)
    said = failed(tmp_path, "--for", "podman", "docker.io")
    assert says in said
    assert f"/{name}" in said


def test_podman_has_no_default(tmp_path: Path) -> None:
    """Registries have to be named."""
    assert "name them" in failed(tmp_path, "--for", "podman", "_default")


def test_a_real_podman_reads_it(tmp_path: Path) -> None:
    """`podman info` lists the registries that it found."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    podman(tmp_path, "docker.io", "quay.io", "--resolve")
    environment = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(tmp_path / OURS)}
    with tempfile.TemporaryDirectory(prefix="p-") as state:  # podman takes no longer path
        stores = ["--root", f"{state}/s", "--runroot", f"{state}/r"]
        said = subprocess.run(
            ["podman", *stores, "info", "--format", "json"],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    if said.returncode:
        pytest.skip(f"podman does not run here: {said.stderr.strip()[:80]}")
    registries = json.loads(said.stdout)["registries"]
    assert registries["docker.io"]["Mirrors"][0]["Location"] == "127.0.0.1:5000/docker.io"
