"""The verbs against Debian's docker-registry, which wants a password."""

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import oci_mesh
from tests import images
from tests.cli.conftest import Cli
from tests.cli.test_commands import failed, outcomes
from tests.cli.test_content import lines
from tests.e2e import command
from tests.e2e.requirements import require
from tests.upstream.test_real_registry import HTPASSWD

PASSWORD = "correct horse battery"  # what HTPASSWD is of
LAYER = {"f": b"1" * 1_000_000}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Its HOST:PORT."""
    require("docker-registry")
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(tmp_path / "content")},
            "delete": {"enabled": True},
        },
        "http": {"addr": place},
        "auth": {"htpasswd": {"realm": "tests", "path": str(tmp_path / "htpasswd")}},
    }
    (tmp_path / "config.yml").write_text(json.dumps(settings))  # which is YAML
    log = tmp_path / "log"
    process = command.start(
        "docker-registry", "serve", tmp_path / "config.yml", stdout=log, stderr=log
    )
    try:
        command.eventually("docker-registry listens", lambda: _listens(place))
        yield place
    finally:
        process.kill()
        process.wait()


def _listens(place: str) -> bool:
    host, _, port = place.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def test_from_a_registry_into_the_mesh_and_back(
    cli: Cli,
    node: oci_mesh.Node,
    registry: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Push, list, inspect, copy both ways, mount, remove; without the password none of it."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    digest = images.build_index(tmp_path / "s", "m", {"amd64": [LAYER], "arm64": [LAYER]})
    there = f"{registry}/team/app"
    assert "401" in failed(await cli("push", tmp_path / "s", f"{there}:v1"))
    (tmp_path / "docker").mkdir()
    auth = base64.b64encode(f"mesh:{PASSWORD}".encode()).decode()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {registry: {"auth": auth}}}))
    assert lines(await cli("push", tmp_path / "s", f"{there}:v1")) == [f"{there}@{digest}"]
    assert lines(await cli("tags", there)) == ["v1"]
    assert lines(await cli("tags", "--registry", f"http://{registry}")) == ["team/app"]
    text = "\n".join(lines(await cli("inspect", f"{there}:v1")))
    assert "linux/amd64" in text
    assert "linux/arm64" in text
    copied = await cli("copy", f"{there}:v1", "app:v1", "--referrers", registry=node.url)
    assert lines(copied) == [f"app@{digest}"]
    assert lines(await cli("copy", "app:v1", f"{there}:v2", registry=node.url))
    mounted = await cli("copy", f"{there}:v2", f"{registry}/other:v1", "--json")
    assert outcomes(mounted) == {"mounted"}
    assert "did you mean" in (await cli("inspect", f"{registry}/teem/app:v1")).stderr
    removed = lines(await cli("rm", f"{there}@{digest}"))
    assert removed == [f"removed {there}@{digest} and its tags v1, v2"]
    assert "not in the registry" in failed(await cli("inspect", f"{there}:v2"))
