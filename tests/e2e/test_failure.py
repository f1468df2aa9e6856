"""Nodes that die (SIGKILL), come back, come late: what the clients of the others see."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e import registry
from tests.e2e.command import SECONDS, eventually
from tests.e2e.daemon import Daemon
from tests.e2e.mesh import MESH_PORT, mesh
from tests.e2e.requirements import require_namespaces

pytestmark = pytest.mark.e2e

NOT_FOUND_SECONDS = 20.0
"""How long a 404 for what only a dead node had may take: our deadlines, not TCP's."""

LAYER_BYTES = 48 << 20
"""More than buffers hide of a download at 20 MB/s."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Daemon]]:
    """Four machines; no node runs yet."""
    require_namespaces()
    with mesh(tmp_path, 4) as peers:
        yield [peer.daemon for peer in peers]


def start(*nodes: Daemon) -> None:
    """Start those nodes and wait until they have met."""
    for node in nodes:
        node.start()
    eventually("all have met", lambda: all(node.members() >= len(nodes) for node in nodes))


def resolves(node: Daemon, repository: str, tag: str = "v1") -> bool:
    """Whether a client of that node finds the tag."""
    return node.request("HEAD", f"/v2/{repository}/manifests/{tag}").status == 200


def missing(node: Daemon, path: str) -> bool:
    """Whether that node answers 404, in time."""
    options = ["--max-time", str(NOT_FOUND_SECONDS)]
    return node.request("GET", f"/v2/{path}", *options).status == 404


def test_killed_node_changes_nothing_for_what_another_pulled(
    nodes: list[Daemon], tmp_path: Path
) -> None:
    """Node 2 pulled it, node 1 is killed: node 2 still serves it, and node 3 gets it from there."""
    one, two, three, _ = nodes
    start(one)
    pushed = registry.push_image(one, "app", "v1", tmp_path)
    start(two)
    eventually("node 2 resolves the tag", partial(resolves, two, "app"))
    assert registry.pull(two, "app", "v1") == pushed
    one.kill()
    assert registry.pull(two, "app", "v1") == pushed
    start(three)
    eventually("node 3 resolves the tag", partial(resolves, three, "app"))
    assert registry.pull(three, "app", "v1") == pushed


def test_acknowledged_push_survives_the_node_that_took_it(
    nodes: list[Daemon], tmp_path: Path
) -> None:
    """Killed right after it acknowledged, with nobody having pulled: the others serve all of it."""
    one, two, three, _ = nodes
    start(one, two, three)
    pushed = registry.push_image(one, "app", "v1", tmp_path)
    one.kill()
    assert registry.pull(two, "app", "v1") == pushed
    assert registry.pull(three, "app", "v1") == pushed


def test_node_killed_in_the_middle_of_a_download(nodes: list[Daemon], tmp_path: Path) -> None:
    """Node 1 dies while a client of node 4 downloads its layer: no wrong byte; the next pull works.

    The first download ends whole, by way of the other holder, or is cut: then what came is right.
    """
    one, two, three, four = nodes
    start(one, two, three)
    pushed = registry.push_image(one, "big", "v1", tmp_path, os.urandom(LAYER_BYTES))
    start(four)
    layer = max(pushed, key=lambda digest: len(pushed[digest]))
    target = tmp_path / "download"
    download = four.download(f"/v2/big/blobs/{layer}", target, rate="20M")
    eventually("bytes arrive", lambda: target.exists() and target.stat().st_size > 0)
    one.kill()
    whole = download.wait(SECONDS) == 0
    data = target.read_bytes()
    assert data == pushed[layer] if whole else pushed[layer].startswith(data)
    eventually("node 4 resolves the tag", partial(resolves, four, "big"))
    assert registry.pull(four, "big", "v1") == pushed


def test_what_only_a_dead_node_had_is_a_404_until_it_returns(
    nodes: list[Daemon], tmp_path: Path
) -> None:
    """Pushed while node 1 was alone: nodes 2 and 3 learn its tag, but hold nothing of it."""
    one, two, three, _ = nodes
    start(one)
    pushed = registry.push_image(one, "alone", "v1", tmp_path)
    start(two, three)
    eventually("node 3 knows the tag", partial(resolves, three, "alone"))
    one.kill()
    layer = max(pushed, key=lambda digest: len(pushed[digest]))
    for node in (two, three):
        assert missing(node, f"alone/blobs/{layer}")
    one.start()
    for node in (two, three):
        eventually("all of it is back", partial(resolves, node, "alone"))
        assert registry.pull(node, "alone", "v1") == pushed


def test_what_nobody_has_is_a_404(nodes: list[Daemon]) -> None:
    """In a mesh of living nodes and a dead one, what was never pushed is not found, in time."""
    one, two, three, _ = nodes
    start(one, two, three)
    three.kill()
    unknown = "sha256:" + 64 * "0"
    for path in ("no/manifests/v1", f"no/manifests/{unknown}", f"no/blobs/{unknown}"):
        assert missing(one, path)


def test_restarted_node_has_what_it_had_and_what_it_missed(
    nodes: list[Daemon], tmp_path: Path
) -> None:
    """Killed and started again, a node serves its own images, and those pushed meanwhile."""
    one, two, three, _ = nodes
    start(one, two, three)
    before = registry.push_image(one, "before", "v1", tmp_path)
    one.kill()
    meanwhile = registry.push_image(two, "meanwhile", "v1", tmp_path)
    one.start()
    assert registry.pull(one, "before", "v1") == before
    eventually("the new tag", partial(resolves, one, "meanwhile"))
    assert registry.pull(one, "meanwhile", "v1") == meanwhile


def test_late_joiner_pulls_everything(nodes: list[Daemon], tmp_path: Path) -> None:
    """A node that starts after all the pushes serves what each of the others was given."""
    *early, late = nodes
    start(*early)
    pushed = {
        f"from/{i}": registry.push_image(node, f"from/{i}", "v1", tmp_path)
        for i, node in enumerate(early)
    }
    late.start()
    for repository, content in pushed.items():
        eventually(f"it resolves {repository}", partial(resolves, late, repository))
        assert registry.pull(late, repository, "v1") == content


def test_a_name_with_many_addresses_joins_through_any_that_lives(tmp_path: Path) -> None:
    """`--join NAME:PORT`, four addresses: nobody's, a dead node's, two live ones: it joins."""
    require_namespaces()
    names = {"seeds.mesh.test": [9, 1, 2, 3]}
    with mesh(tmp_path, 3, join=[f"seeds.mesh.test:{MESH_PORT}"], names=names) as (_, *peers):
        two, three = (peer.daemon for peer in peers)
        start(two, three)
        pushed = registry.push_image(two, "app", "v1", tmp_path)
        assert registry.pull(three, "app", "v1") == pushed
