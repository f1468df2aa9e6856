"""The container image: built from deploy/Dockerfile, and run as nodes with no rights at all."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import unit
from tests.e2e import container, daemon
from tests.e2e.command import eventually
from tests.e2e.conftest import tag_digest
from tests.e2e.container import DATA, USER, Container, Image
from tests.e2e.namespaces import Namespace, network
from tests.e2e.requirements import require, require_namespaces

pytestmark = pytest.mark.e2e

MESH_PORT = 7946

# What is put on top of the base image, as files: 73 MB now, most of it compiled.
MAX_BYTES = 90_000_000

# Run inside: capabilities, user, and where it can write.
PROBE = """
import os
rights = [line.split() for line in open("/proc/self/status")]
print(*[words[1] for words in rights if words[0] in ("CapEff:", "CapBnd:", "NoNewPrivs:")])
print(os.getuid(), os.getgid())
for place in ("/", "/opt/oci-mesh", "/tmp", "/var/lib/oci-mesh"):
    try:
        open(f"{place}/probe", "w").close()
        print(place)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image, built once."""
    require_namespaces()
    require("buildah", "skopeo", "runc", "systemd-analyze")
    mine = tmp_path_factory.getbasetemp()
    return container.build(mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Namespace]]:
    """Two machines, and no way out."""
    with network(tmp_path, 2, {}) as namespaces:
        yield namespaces


def start(image: Image, directory: Path, namespace: Namespace, **environment: str) -> Container:
    """Describe a node of a mesh in which nobody proves anything, in the unit's system calls."""
    return Container(
        image,
        directory,
        namespace,
        system_calls=unit.system_calls(),
        mesh_listen=f"{namespace.address}:{MESH_PORT}",
        insecure="1",
        **environment,
    )


def test_the_image_is_small_and_says_how_to_be_run(image: Image) -> None:
    """By number and not root, ports and volume declared, a health check, SIGTERM."""
    print(f"\non top of its base: {image.size / 1e6:.1f} MB")
    assert image.size < MAX_BYTES
    assert image.config["User"] == f"{USER}:{USER}"
    assert image.config["ExposedPorts"].keys() == {"5000/tcp", f"{MESH_PORT}/tcp"}
    assert image.config["Volumes"].keys() == {DATA}
    assert image.config["StopSignal"] == "SIGTERM"
    assert image.config["Healthcheck"]["Test"][0] == "CMD"
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.title"] == "oci-mesh"
    assert not list((image.root / "opt").rglob("pip")), "nobody installs anything there"


def test_nodes_without_any_right_push_and_pull(
    image: Image, nodes: list[Namespace], tmp_path: Path, layout: Path
) -> None:
    """Two containers are a mesh: what is pushed to one, the other serves, and either says so."""
    one, two = nodes
    join = {"join": f"{one.address}:{MESH_PORT}"}
    with (
        start(image, tmp_path / "one", one, name="one") as first,
        start(image, tmp_path / "two", two, name="two", **join) as second,
    ):
        eventually("they see each other", lambda: first.members() == second.members() == 2)
        reference = f"{first.registry}/app:v1"
        daemon.push(layout, reference, "--image", "image", namespace=one)
        pulled = second.request("HEAD", "/v2/app/manifests/v1")
        assert pulled.headers["docker-content-digest"] == tag_digest(layout, "image")
        manifest = json.loads(second.request("GET", "/v2/app/manifests/v1").body)
        for blob in (manifest["config"], *manifest["layers"]):
            body = second.request("GET", f"/v2/app/blobs/{blob['digest']}").body
            assert len(body) == blob["size"]
        for node in (first, second):
            shown = node.run_inside("oci-mesh", "status").stdout.decode()
            assert "one" in shown
            assert "two" in shown


def test_a_node_has_no_right_and_writes_nowhere_but_to_its_volume(
    image: Image, nodes: list[Namespace], tmp_path: Path
) -> None:
    """As seen from inside; its health check passes there, and fails once it does not answer."""
    with start(image, tmp_path / "one", nodes[0]) as node:
        rights, user, *writable = (
            node.run_inside("python", "-c", PROBE).stdout.decode().splitlines()
        )
        assert [int(word, 16) for word in rights.split()] == [0, 0, 1]
        assert user == f"{USER} {USER}"
        assert writable == ["/tmp", DATA]
        check = image.config["Healthcheck"]["Test"][1:]
        assert node.run_inside(*check, check=False).returncode == 0
        elsewhere = ("env", "OCI_MESH_LISTEN=127.0.0.1:1", *check)
        assert node.run_inside(*elsewhere, check=False).returncode != 0


def test_sigterm_ends_it_in_time_and_a_restart_has_all(
    image: Image, nodes: list[Namespace], tmp_path: Path, layout: Path
) -> None:
    """Exit code 0, no traceback; the volume is all there is to a node."""
    with start(image, tmp_path / "one", nodes[0]) as node:
        daemon.push(layout, f"{node.registry}/app:v1", "--image", "image", namespace=nodes[0])
        assert node.stop() == 0, node.log()
        assert "Traceback" not in node.log()
        node.start()
        held = node.request("HEAD", "/v2/app/manifests/v1").headers["docker-content-digest"]
        assert held == tag_digest(layout, "image")
