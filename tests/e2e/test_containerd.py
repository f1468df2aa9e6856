"""Three machines, each with a node and a real containerd behind it: push on one, run on another."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e import command, daemon, registry
from tests.e2e.command import eventually
from tests.e2e.conftest import GREETING, tag_digest
from tests.e2e.containerd import Containerd
from tests.e2e.mesh import HOST, REGISTRY, Peer, mesh
from tests.e2e.requirements import absent, require, require_namespaces

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Peer]]:
    """Three machines whose nodes run."""
    require_namespaces()
    require("containerd", "ctr", "runc")
    with mesh(tmp_path_factory.mktemp("m"), 3) as peers:
        for peer in peers:
            peer.daemon.start()
        yield peers


@pytest.fixture(scope="module")
def containerds(peers: list[Peer]) -> Iterator[list[Containerd]]:
    """Their containerds, running."""
    with ExitStack() as stack:
        yield [stack.enter_context(peer.containerd()) for peer in peers]


def skopeo_push(peer: Peer, layout: Path, tag: str, reference: str) -> None:
    """Push `tag` of the layout, all platforms, from that machine to its own node."""
    require("skopeo")
    options = ["--insecure-policy", "copy", "--all", "--dest-tls-verify=false", "--quiet"]
    peer.namespace.run(
        "skopeo", *options, f"oci:{layout}:{tag}", f"docker://{REGISTRY}/{reference}"
    )


def run_greeting(containerd: Containerd, reference: str) -> None:
    """Run the image with runc, if this machine can run any container at all."""
    if command.run("unshare", "--pid", "--fork", "--mount-proc", "true", check=False).returncode:
        absent("this machine runs no containers: no new pid namespace with its own /proc")
    assert containerd.run(reference, "cat", "/greeting").strip() == GREETING


def test_docker_archive_pushed_on_one_node_runs_on_another(
    peers: list[Peer], containerds: list[Containerd], archive: Path
) -> None:
    """`oci-mesh push` of `docker save` output to node 1; containerd 3 has it all, and runs it."""
    reference = f"{HOST}/app:v1"
    daemon.push(archive, f"{REGISTRY}/app:v1", namespace=peers[0].namespace)
    containerds[2].pull(reference)
    pushed = registry.pull(peers[0].daemon, "app", "v1")
    assert containerds[2].digest(reference) in pushed
    assert {digest: containerds[2].content(digest) for digest in pushed} == pushed
    run_greeting(containerds[2], reference)


def test_image_pushed_by_skopeo_runs_on_every_node(
    peers: list[Peer], containerds: list[Containerd], layout: Path
) -> None:
    """What skopeo pushed to node 1, containerds 2 and 3 pull and run, under the same digest."""
    reference = f"{HOST}/team/app:v2"
    skopeo_push(peers[0], layout, "image", "team/app:v2")
    for containerd in containerds[1:]:
        containerd.pull(reference)
        assert containerd.digest(reference) == tag_digest(layout, "image")
        run_greeting(containerd, reference)


def test_multi_arch_index_arrives_whole_and_the_right_platform_runs(
    peers: list[Peer], containerds: list[Containerd], layout: Path
) -> None:
    """An index pushed to node 2: containerd 3 runs its own platform's image, and can pull all."""
    reference = f"{HOST}/multi:v1"
    skopeo_push(peers[1], layout, "multi", "multi:v1")
    containerds[2].pull(reference)
    run_greeting(containerds[2], reference)
    containerds[2].pull(reference, "--all-platforms")
    index = tag_digest(layout, "multi")
    assert containerds[2].digest(reference) == index
    pushed = registry.pull(peers[1].daemon, "multi", index)
    blobs = registry.layout_blobs(layout)
    for digest, data in pushed.items():
        assert containerds[2].content(digest) == data == blobs[digest]


def test_retagged_image_is_seen_by_every_node(
    peers: list[Peer], containerds: list[Containerd], layout: Path
) -> None:
    """After a second push of the same tag on another node, a pull anywhere gets the new digest."""
    skopeo_push(peers[0], layout, "image", "moving:latest")
    containerds[2].pull(f"{HOST}/moving:latest")
    skopeo_push(peers[1], layout, "multi", "moving:latest")
    containerds[2].pull(f"{HOST}/moving:latest")
    assert containerds[2].digest(f"{HOST}/moving:latest") == tag_digest(layout, "multi")


def test_nothing_is_found_where_nobody_pushed(containerds: list[Containerd]) -> None:
    """A pull of an image that no node has fails, and says that it was not found."""
    with pytest.raises(AssertionError, match="not found"):
        containerds[0].pull(f"{HOST}/nobody/has:it")


def test_image_deleted_on_one_node_is_gone_on_every_node(
    peers: list[Peer], containerds: list[Containerd], layout: Path
) -> None:
    """Pulled by containerd 3, then deleted with skopeo on node 1: no node resolves the tag."""
    skopeo_push(peers[1], layout, "image", "gone:v1")
    containerds[2].pull(f"{HOST}/gone:v1")
    delete = ["delete", "--tls-verify=false", f"docker://{REGISTRY}/gone:v1"]
    peers[0].namespace.run("skopeo", "--insecure-policy", *delete)
    tag = "/v2/gone/manifests/v1"
    eventually("no node has it", lambda: {peer.daemon.status(tag) for peer in peers} == {404})
    with pytest.raises(AssertionError, match="not found"):
        containerds[2].pull(f"{HOST}/gone:v1")
