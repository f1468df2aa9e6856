"""Three machines whose nodes mirror a real registry, with real containerds in front of them."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import images
from tests.e2e import mirror
from tests.e2e.clients import Clients
from tests.e2e.command import eventually
from tests.e2e.conftest import tag_digest
from tests.e2e.containerd import Containerd
from tests.e2e.mesh import REGISTRY
from tests.e2e.mirror import HOST, Site, fetch_all, wrong_files
from tests.e2e.registry import layout_blobs
from tests.e2e.requirements import absent, require, require_namespaces
from tests.e2e.upstream import direct

pytestmark = pytest.mark.e2e

CONTAINERDS = ("this machine's", "2")
PROGRAMS = "CONTAINERD2"
"""The variable that names the directory with the programs of containerd 2 (.ci/containerd2);
`none` where they cannot be had.
"""

PODMAN_MIRROR = f"""
[[registry]]
location = "{HOST}"
[[registry.mirror]]
location = "{REGISTRY}/{HOST}"
insecure = true
"""

NOISE_BYTES = 12 << 20
TWICE_BYTES = 3 << 20
"""What may leave the upstream again: runs of pieces that are begun while nodes still meet."""


def programs(version: str) -> Path | None:
    """Where the programs of that containerd are."""
    require("containerd", "ctr", "docker-registry", "tc")
    if version != "2":
        return None
    directory = os.environ.get(PROGRAMS)
    if directory == "none":
        pytest.skip("containerd 2 cannot be had here")
    if not directory:
        absent(f"no containerd 2: {PROGRAMS} names no directory (`.ci/containerd2 DIRECTORY`)")
    return Path(directory)


@pytest.fixture(scope="module", params=CONTAINERDS)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A public upstream, three machines."""
    require_namespaces()
    found = programs(request.param)
    with mirror.site(tmp_path_factory.mktemp("public"), 3, programs=found) as running:
        yield running


@pytest.fixture(scope="module")
def containerds(site: Site) -> Iterator[list[Containerd]]:
    """Their containerds, running."""
    with ExitStack() as stack:
        yield [stack.enter_context(site.containerd(peer)) for peer in site.peers]


def holds(containerd: Containerd, blobs: dict[str, bytes]) -> bool:
    """Whether it has all of an image, as pushed."""
    return {digest: containerd.content(digest) for digest in blobs} == blobs


def test_a_cold_image_leaves_the_upstream_once(
    site: Site, containerds: list[Containerd], tmp_path: Path
) -> None:
    """Three containerds pull it at once: all have it, and each byte left the upstream once."""
    blobs = mirror.image(tmp_path / "image", os.urandom(NOISE_BYTES))
    site.upstream.push(tmp_path / "image", "cold/app", "v1")
    before = len(site.upstream.requests())
    fetch_all(containerds, f"{HOST}/cold/app:v1")
    assert all(holds(containerd, blobs) for containerd in containerds)
    asked = site.upstream.requests()[before:]
    left, size = sum(direct(asked).values()), sum(map(len, blobs.values()))
    assert left <= size + TWICE_BYTES
    assert not [r for r in asked if r.has_layer and r.agent.startswith("containerd")]


def test_a_mirrored_image_runs(site: Site, containerds: list[Containerd], tmp_path: Path) -> None:
    """Pulled and unpacked by way of its node, it runs."""
    mirror.image(tmp_path / "image", b"some noise")
    site.upstream.push(tmp_path / "image", "runs", "v1")
    containerds[1].pull(f"{HOST}/runs:v1")
    assert containerds[1].run(f"{HOST}/runs:v1", "echo", "it runs").strip() == "it runs"


def test_an_upstream_that_is_gone_and_comes_back(
    site: Site, containerds: list[Containerd], tmp_path: Path
) -> None:
    """Pulled, then the upstream is killed: the tag can be had wherever it was, the digest on all.

    When it is back, with another image under the tag, that is seen when the tag's time is over.
    """
    blobs = mirror.image(tmp_path / "old", os.urandom(1 << 20))
    site.upstream.push(tmp_path / "old", "gone", "v1")
    name, digest = f"{HOST}/gone:v1", tag_digest(tmp_path / "old", "v1")
    for containerd in containerds[:2]:
        containerd.fetch(name)
        containerd.forget(name)
        assert not containerd.has(digest)
    site.upstream.kill()
    try:
        for containerd in containerds[:2]:
            containerd.fetch(name)
            assert holds(containerd, blobs)
        containerds[2].fetch(f"{HOST}/gone@{digest}")
        assert holds(containerds[2], blobs)
        time.sleep(mirror.TAG_TTL_S)  # what is known is out of date now, and still the best
        containerds[1].fetch(name)
    finally:
        site.upstream.start()
    mirror.image(tmp_path / "new", os.urandom(1 << 20))
    site.upstream.push(tmp_path / "new", "gone", "v1")
    changed = tag_digest(tmp_path / "new", "v1")
    assert changed != digest

    def has_changed(containerd: Containerd) -> bool:
        containerd.fetch(name)
        return containerd.digest(name) == changed

    for containerd in containerds:
        eventually("the tag has changed", lambda c=containerd: has_changed(c))  # type: ignore[misc]


def test_a_tag_that_changes_is_seen_within_its_time(
    site: Site, containerds: list[Containerd], tmp_path: Path
) -> None:
    """`latest` at once, another tag when its time is over."""
    for turn in ("first", "second"):
        for tag in ("latest", "stable"):
            mirror.image(tmp_path / f"{turn}-{tag}", f"{turn} {tag}".encode(), tag)
            site.upstream.push(tmp_path / f"{turn}-{tag}", "moving", tag)
            name, digest = f"{HOST}/moving:{tag}", tag_digest(tmp_path / f"{turn}-{tag}", tag)

            def is_new(containerd: Containerd, name: str = name, digest: str = digest) -> bool:
                containerd.fetch(name)
                return containerd.digest(name) == digest

            for containerd in containerds:
                if tag == "latest":
                    assert is_new(containerd)
                else:
                    eventually("it is the new one", lambda c=containerd: is_new(c))  # type: ignore[misc]


def test_only_the_platform_that_is_asked_for_is_fetched(
    site: Site, containerds: list[Containerd], layout: Path
) -> None:
    """Of an index of two the one that runs here; the other one's layers stay at the upstream."""
    site.upstream.push(layout, "multi", "multi")
    blobs = layout_blobs(layout)
    index = json.loads(blobs[tag_digest(layout, "multi")])
    foreign = [
        json.loads(blobs[entry["digest"]])["layers"][0]["digest"]
        for entry in index["manifests"]
        if entry["platform"]["architecture"] != images.host_architecture()
    ]
    containerds[0].fetch(f"{HOST}/multi:multi")
    asked = [request.path for request in site.upstream.requests()]
    assert foreign
    assert not [path for path in asked for digest in foreign if path.endswith(digest)]
    containerds[2].fetch(f"{HOST}/multi:multi", "--all-platforms")
    assert all(containerds[2].has(digest) for digest in foreign)


def test_podman_pulls_by_its_own_mirror_setting(site: Site, tmp_path: Path) -> None:
    """A `registries.conf` whose mirror is the node: the upstream itself is not asked by podman."""
    require("podman")
    blobs = mirror.image(tmp_path / "image", os.urandom(1 << 20))
    site.upstream.push(tmp_path / "image", "team/podman", "v1")
    clients = Clients(tmp_path / "clients", site.peers[1].namespace, PODMAN_MIRROR)
    before = len(site.upstream.requests())
    clients.podman("pull", "--quiet", f"{HOST}/team/podman:v1")
    asked = site.upstream.requests()[before:]
    assert {request.agent for request in asked} == {"oci-mesh"}
    digest = clients.podman("image", "inspect", "--format", "{{.Digest}}", f"{HOST}/team/podman:v1")
    assert digest.strip() in blobs


def test_what_is_nowhere_is_not_found(site: Site, containerds: list[Containerd]) -> None:
    """Neither a tag, nor what other registries have that nobody configured."""
    with pytest.raises(AssertionError, match="not found"):
        containerds[0].fetch(f"{HOST}/no/such:v1")
    path = "/v2/cold/app/manifests/v1?ns="
    for ns in ("169.254.169.254", "127.0.0.1:5000", "[::1]", "a@b", "2130706433", "other.test"):
        assert site.peers[0].daemon.status(path + ns) == 404, ns


# -- an upstream that does wrong

LAYERS = "/blobs/"
OURS = "^oci-mesh"  # the agent: to containerds this upstream is well
MIB = 1 << 20

FAULTS: dict[str, list[dict[str, object]]] = {
    "limits for a while": [
        {"path": LAYERS, "do": "status", "status": 429, "retry_after": 1, "times": 4}
    ],
    "limits us": [
        {"path": LAYERS, "agent": OURS, "do": "status", "status": 429, "retry_after": 60}
    ],
    "fails for a while": [
        {"path": "/v2/", "agent": OURS, "do": "status", "status": 500, "times": 4}
    ],
    "fails for us": [{"path": "/v2/", "agent": OURS, "do": "status", "status": 500}],
    "says nothing": [{"path": LAYERS, "agent": OURS, "do": "hang"}],
    "says nothing for a while": [{"path": "/v2/", "agent": OURS, "do": "hang", "times": 2}],
    "stalls": [{"path": LAYERS, "agent": OURS, "do": "stall", "after": MIB}],
    "stalls once": [{"path": LAYERS, "agent": OURS, "do": "stall", "after": MIB, "times": 1}],
    "cuts": [{"path": LAYERS, "do": "cut", "after": MIB, "times": 5}],
    "cuts us": [{"path": LAYERS, "agent": OURS, "do": "cut", "after": 1000}],
    "lies once": [{"path": LAYERS, "agent": OURS, "do": "lie", "after": 1000, "times": 1}],
    "lies": [{"path": LAYERS, "agent": OURS, "do": "lie", "after": 1000}],
    "lies about manifests": [{"path": "/manifests/", "agent": OURS, "do": "lie", "after": 9}],
    "has no ranges": [{"path": LAYERS, "agent": OURS, "do": "whole"}],
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A public upstream behind a proxy that does what it is told.

    It has a name for each fault, so that nobody takes the one for an end of the other.
    """
    require_namespaces()
    programs(CONTAINERDS[0])
    directory = tmp_path_factory.mktemp("faulty")
    with mirror.site(directory, 3, faulty=True, aliases=list(map(host_of, FAULTS))) as running:
        yield running


def host_of(fault: str) -> str:
    """The upstream's name for a fault."""
    return f"{fault.replace(' ', '-')}.{HOST}"


@pytest.fixture(scope="module")
def patients(faulty: Site) -> Iterator[list[Containerd]]:
    """Their containerds."""
    with ExitStack() as stack:
        yield [stack.enter_context(faulty.containerd(peer)) for peer in faulty.peers]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pull_ends_right_whatever_the_upstream_does(
    faulty: Site, patients: list[Containerd], fault: str, tmp_path: Path
) -> None:
    """Three cold pulls at once, and one later: all right, and nothing wrong is on any node."""
    blobs = mirror.image(tmp_path / "image", os.urandom(4 * MIB))
    faulty.upstream.push(tmp_path / "image", "app", "v1")
    what = str(FAULTS[fault][0]["do"])
    before = faulty.upstream.did(what)
    faulty.upstream.do(*FAULTS[fault])
    try:
        fetch_all(patients, f"{host_of(fault)}/app:v1")
    finally:
        faulty.upstream.do()
    assert faulty.upstream.did(what) > before
    assert all(holds(containerd, blobs) for containerd in patients)
    for peer in faulty.peers:
        assert wrong_files(peer.daemon.root) == []
    assert all(peer.daemon.status("/healthz") == 200 for peer in faulty.peers)


# -- a node that dies

SLOW = "24mbit"
BEGUN_BYTES = 2 << 20


def test_a_node_killed_in_the_middle_of_a_pull(tmp_path: Path) -> None:
    """Its containerd goes on at the upstream by itself; the others' pulls end as well."""
    require_namespaces()
    found = programs(CONTAINERDS[0])
    with mirror.site(tmp_path, 3, rate=SLOW, programs=found) as site, ExitStack() as stack:
        containerds = [stack.enter_context(site.containerd(peer)) for peer in site.peers]
        blobs = mirror.image(tmp_path / "image", os.urandom(NOISE_BYTES))
        site.upstream.push(tmp_path / "image", "killed", "v1")
        threads = stack.enter_context(ThreadPoolExecutor(1))
        pulls = threads.submit(fetch_all, containerds, f"{HOST}/killed:v1")
        victim = site.peers[0]
        eventually("bytes arrive", lambda: victim.namespace.traffic()[0] > BEGUN_BYTES)
        assert not pulls.done()
        victim.daemon.kill()
        pulls.result()
        assert all(holds(containerd, blobs) for containerd in containerds)
        assert any(
            r.agent.startswith("containerd") and r.has_layer for r in site.upstream.requests()
        )
