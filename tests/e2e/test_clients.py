"""What people push and pull with: skopeo, podman and buildah, each against one node on loopback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import zstandard

from tests import images
from tests.e2e import daemon, registry
from tests.e2e.clients import Clients
from tests.e2e.conftest import runnable, tag_digest
from tests.e2e.daemon import Daemon
from tests.e2e.requirements import require, require_namespaces

pytestmark = pytest.mark.e2e

ARTIFACT_TYPE = "application/vnd.example.sbom.v1+json"
ZSTD = images.Compression(images.LAYER_ZSTD, zstandard.ZstdCompressor().compress)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One node on loopback, shared: every test has a repository of its own."""
    require_namespaces()
    require("skopeo", "podman", "buildah")
    with Daemon(tmp_path_factory.mktemp("clients") / "mesh") as running:
        yield running


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    """The clients, with empty stores."""
    return Clients(tmp_path)


def manifest(node: Daemon, repository: str, reference: str) -> dict[str, Any]:
    """The manifest as served."""
    found: dict[str, Any] = json.loads(
        registry.get(node, f"{repository}/manifests/{reference}").body
    )
    return found


def digest_of(node: Daemon, repository: str, reference: str) -> str:
    """What a tag stands for: the digest of the bytes that are served."""
    return images.sha256(registry.get(node, f"{repository}/manifests/{reference}").body)


def test_skopeo_copies_an_index_there_and_back(
    node: Daemon, clients: Clients, layout: Path, tmp_path: Path
) -> None:
    """All platforms, to the node and from it into a new layout: the same digests and bytes."""
    there = f"docker://{node.registry}/skopeo/multi:v1"
    clients.skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layout}:multi", there)
    clients.skopeo("copy", "--all", "--src-tls-verify=false", there, f"oci:{tmp_path}/back:multi")
    assert tag_digest(tmp_path / "back", "multi") == tag_digest(layout, "multi")
    back = registry.layout_blobs(tmp_path / "back")
    assert back.items() <= registry.layout_blobs(layout).items()
    assert back == registry.pull(node, "skopeo/multi", "v1")


def test_skopeo_copies_within_the_node_by_mount(
    node: Daemon, clients: Clients, layout: Path
) -> None:
    """From one repository to another of the same node: skopeo mounts the blobs; all is there."""
    source, target = (f"docker://{node.registry}/mount/{name}:v1" for name in ("a", "b"))
    clients.skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:image", source)
    options = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    clients.skopeo("copy", *options, source, target)
    assert registry.pull(node, "mount/b", "v1") == registry.pull(node, "mount/a", "v1")


def test_zstd_layers_stay_zstd(node: Daemon, clients: Clients, tmp_path: Path) -> None:
    """An image with zstd layers is served as pushed, and podman unpacks it."""
    architecture = images.host_architecture()
    pushed = images.build_layout(
        tmp_path / "zstd", "v1", *runnable(), architecture=architecture, compression=ZSTD
    )
    there = f"{node.registry}/zstd:v1"
    clients.skopeo(
        "copy", "--dest-tls-verify=false", f"oci:{tmp_path}/zstd:v1", f"docker://{there}"
    )
    assert digest_of(node, "zstd", "v1") == pushed
    layers = manifest(node, "zstd", "v1")["layers"]
    assert {layer["mediaType"] for layer in layers} == {images.LAYER_ZSTD}
    clients.podman("pull", "--quiet", "--tls-verify=false", there)
    assert pushed in clients.podman("image", "inspect", "--format", "{{.Digest}}", there)


def test_docker_schema_2_is_kept_as_such(
    node: Daemon, clients: Clients, layout: Path, tmp_path: Path
) -> None:
    """A Docker v2s2 image keeps its media types, its digest and its bytes, there and back."""
    there = f"docker://{node.registry}/docker:v1"
    options = ["--format", "v2s2", "--dest-tls-verify=false"]
    clients.skopeo("copy", *options, f"oci:{layout}:image", there)
    served = registry.get(node, "docker/manifests/v1")
    assert served.headers["content-type"] == images.DOCKER_MANIFEST
    clients.skopeo("copy", "--src-tls-verify=false", there, f"dir:{tmp_path}/back")
    assert (tmp_path / "back" / "manifest.json").read_bytes() == served.body
    for digest, data in registry.pull(node, "docker", "v1").items():
        if data != served.body:
            assert (tmp_path / "back" / digest.removeprefix("sha256:")).read_bytes() == data


@pytest.mark.parametrize("client", ["podman", "buildah"])
def test_pull_tag_push(node: Daemon, clients: Clients, layout: Path, client: str) -> None:
    """They pull their platform from an index, and push it, as OCI and as Docker v2s2."""
    run = getattr(clients, client)
    source = f"{node.registry}/{client}/multi:v1"
    options = ["--all", "--dest-tls-verify=false"]
    clients.skopeo("copy", *options, f"oci:{layout}:multi", f"docker://{source}")
    run("pull", "--quiet", "--tls-verify=false", source)
    for form, media_type in (("oci", images.IMAGE_MANIFEST), ("v2s2", images.DOCKER_MANIFEST)):
        target = f"{client}/again-{form}"
        words = ["--quiet", "--format", form, "--tls-verify=false", source]
        run("push", *words, f"docker://{node.registry}/{target}:v2")
        assert registry.get(node, f"{target}/manifests/v2").headers["content-type"] == media_type
        registry.pull(node, target, "v2")
    diff_ids = config(node, f"{client}/again-oci", "v2")["rootfs"]["diff_ids"]
    assert diff_ids == [images.sha256(images.layer_tar(files)) for files in runnable()]


def config(node: Daemon, repository: str, reference: str) -> dict[str, Any]:
    """The image's configuration, as served."""
    digest = manifest(node, repository, reference)["config"]["digest"]
    found: dict[str, Any] = json.loads(registry.get(node, f"{repository}/blobs/{digest}").body)
    return found


@pytest.mark.parametrize("client", ["podman", "buildah"])
def test_multi_arch_index_of_their_own(
    node: Daemon, clients: Clients, layout: Path, client: str
) -> None:
    """`manifest create/add/push --all` makes an index of two platforms, every part of it served."""
    run = getattr(clients, client)
    there = f"{client}/list"
    for architecture in ("amd64", "arm64"):
        options = ["--override-arch", architecture, "--dest-tls-verify=false"]
        target = f"docker://{node.registry}/{there}:{architecture}"
        clients.skopeo(*options[:2], "copy", options[2], f"oci:{layout}:multi", target)
    run("manifest", "create", "list")
    for architecture in ("amd64", "arm64"):
        run(
            "manifest",
            "add",
            "--tls-verify=false",
            "list",
            f"{node.registry}/{there}:{architecture}",
        )
    target = f"docker://{node.registry}/{there}:v1"
    run(
        "manifest",
        "push",
        "--quiet",
        "--all",
        "--format",
        "oci",
        "--tls-verify=false",
        "list",
        target,
    )
    index = manifest(node, there, "v1")
    platforms = {entry["platform"]["architecture"] for entry in index["manifests"]}
    assert platforms == {"amd64", "arm64"}
    registry.pull(node, there, "v1")


def test_buildah_builds_and_pushes(node: Daemon, clients: Clients, tmp_path: Path) -> None:
    """An image that buildah makes from nothing arrives, and skopeo reads it from the node."""
    (tmp_path / "file").write_text("made by buildah\n")
    container = clients.buildah("from", "scratch").strip()
    clients.buildah("copy", container, str(tmp_path / "file"), "/file")
    clients.buildah("commit", "--quiet", container, "made")
    clients.buildah(
        "push", "--quiet", "--tls-verify=false", "made", f"docker://{node.registry}/made:v1"
    )
    inspected = clients.skopeo("inspect", "--tls-verify=false", f"docker://{node.registry}/made:v1")
    assert json.loads(inspected)["Digest"] == digest_of(node, "made", "v1")


def test_artifact_with_a_referrer(
    node: Daemon, clients: Clients, layout: Path, tmp_path: Path
) -> None:
    """An SBOM whose subject is an image is listed as its referrer, by type, until deleted."""
    there = f"docker://{node.registry}/signed:v1"
    clients.skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:image", there)
    subject = registry.get(node, "signed/manifests/v1")
    artifact = {
        "schemaVersion": 2,
        "mediaType": images.IMAGE_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": images.descriptor(images.EMPTY_CONFIG, b"{}"),
        "layers": [images.descriptor("application/json", b'{"bom":1}')],
        "subject": images.descriptor(images.IMAGE_MANIFEST, subject.body),
        "annotations": {"org.example.tool": "by hand"},
    }
    for data in (b"{}", b'{"bom":1}'):
        registry.push_blob(node, "signed", data, tmp_path / "scratch")
    digest = images.sha256(images.encode(artifact))
    answer = registry.push_manifest(node, "signed", digest, artifact, tmp_path / "scratch")
    assert answer.headers["oci-subject"] == images.sha256(subject.body)
    assert [entry["digest"] for entry in referrers(node, subject.body, ARTIFACT_TYPE)] == [digest]
    assert referrers(node, subject.body, "application/other") == []
    assert registry.pull(node, "signed", digest).keys() >= {digest}
    clients.skopeo("delete", "--tls-verify=false", f"docker://{node.registry}/signed@{digest}")
    assert referrers(node, subject.body, ARTIFACT_TYPE) == []


def referrers(node: Daemon, subject: bytes, artifact_type: str) -> list[dict[str, Any]]:
    """The referrers of `subject` in repository `signed` that are of that type."""
    path = f"/v2/signed/referrers/{images.sha256(subject)}?artifactType={quote(artifact_type)}"
    response = node.request("GET", path)
    assert response.status == 200
    assert response.headers["content-type"] == images.IMAGE_INDEX
    found: list[dict[str, Any]] = json.loads(response.body)["manifests"]
    return [entry for entry in found if entry["artifactType"] == artifact_type]


def test_oci_mesh_pulls_what_skopeo_pushed(
    node: Daemon, clients: Clients, layout: Path, tmp_path: Path
) -> None:
    """`oci-mesh pull` of an index into a directory and a tar: skopeo reads both, same digests."""
    there = f"{node.registry}/pulled:v1"
    options = ["--all", "--dest-tls-verify=false"]
    clients.skopeo("copy", *options, f"oci:{layout}:multi", f"docker://{there}")
    said = daemon.pull(there, tmp_path / "back")
    daemon.pull(there, tmp_path / "back.tar")
    assert tag_digest(layout, "multi") in said
    assert registry.layout_blobs(tmp_path / "back") == registry.pull(node, "pulled", "v1")
    for source in (f"oci:{tmp_path}/back", f"oci-archive:{tmp_path}/back.tar"):
        copied = tmp_path / source.partition(":")[0]
        clients.skopeo("copy", "--all", source, f"oci:{copied}:multi")
        assert tag_digest(copied, "multi") == tag_digest(layout, "multi")


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_docker_archive_there_and_back_through_podman(
    node: Daemon, clients: Clients, archive: Path, tmp_path: Path, compression: str
) -> None:
    """Pushed with each compression, pulled as a docker archive, loaded: the same unpacked."""
    there = f"{node.registry}/docker-archive:{compression}"
    daemon.push(archive, there, "--compression", compression)
    daemon.pull(there, tmp_path / "back.tar", "--format", "docker-archive")
    clients.podman("load", "--quiet", "--input", str(tmp_path / "back.tar"))
    diff_ids = clients.podman("image", "inspect", "--format", "{{json .RootFS.Layers}}", there)
    assert json.loads(diff_ids) == [images.sha256(images.layer_tar(part)) for part in runnable()]
    assert config(node, "docker-archive", compression)["rootfs"]["diff_ids"] == json.loads(diff_ids)


def test_skopeo_deletes(node: Daemon, clients: Clients, layout: Path) -> None:
    """After `skopeo delete` the image is gone, by tag, digest and in the list; others stay."""
    options = ["--dest-tls-verify=false", f"oci:{layout}:image"]
    for name in ("gone:v1", "stays:v1"):
        clients.skopeo("copy", *options, f"docker://{node.registry}/{name}")
    digest = digest_of(node, "gone", "v1")
    clients.skopeo("delete", "--tls-verify=false", f"docker://{node.registry}/gone:v1")
    assert node.status("/v2/gone/manifests/v1") == 404
    assert node.status(f"/v2/gone/manifests/{digest}") == 404
    tags = node.request("GET", "/v2/gone/tags/list")
    assert tags.status == 404 or not json.loads(tags.body)["tags"]
    registry.pull(node, "stays", "v1")


def test_skopeo_lists_tags(node: Daemon, clients: Clients, layout: Path) -> None:
    """`skopeo list-tags` sees every tag pushed, in order."""
    for tag in ("b", "a", "c"):
        there = f"docker://{node.registry}/tags:{tag}"
        clients.skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:image", there)
    listed = clients.skopeo("list-tags", "--tls-verify=false", f"docker://{node.registry}/tags")
    assert json.loads(listed)["Tags"] == ["a", "b", "c"]
