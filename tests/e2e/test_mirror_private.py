"""Private images: the containerds have the secret, the mesh has not, and who has none gets nothing.

The nodes speak plain HTTP to each other here, so that all they say can be read: a capture on each
machine writes it down.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e import command, mirror
from tests.e2e.conftest import tag_digest
from tests.e2e.containerd import Containerd
from tests.e2e.daemon import ENVIRONMENT
from tests.e2e.mesh import MESH_PORT, Peer
from tests.e2e.mirror import HOST, Site, fetch_all
from tests.e2e.requirements import require_namespaces
from tests.e2e.test_mirror import BEGUN_BYTES, CONTAINERDS, SLOW, holds, programs
from tests.e2e.upstream import PASSWORD, SECRETS, USER, direct

pytestmark = pytest.mark.e2e

NOISE_BYTES = 12 << 20
SECRET = ("--user", f"{USER}:{PASSWORD}")
BEYOND_LEADERS = 0.10
"""Images that may leave the upstream, of the bytes of their blobs, beyond one for each leader."""

REPOSITORY = "secret/app"

REQUEST = re.compile(rb"GET /v2(?P<path>/\S+) HTTP/1.1\r\n(?P<headers>(?:[\w-]+: [^\r]*\r\n)+)\r\n")


class Setting(NamedTuple):
    """Three machines; two have pulled the image, the third has no secret."""

    site: Site
    containerds: list[Containerd]
    blobs: dict[str, bytes]
    digest: str
    captures: list[Path]

    @property
    def stranger(self) -> Peer:
        """Who has no secret."""
        return self.site.peers[2]


@pytest.fixture(scope="module", params=CONTAINERDS)
def setting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Setting]:
    """Two cold pulls at once, with the secret."""
    require_namespaces()
    found = programs(request.param)
    directory = tmp_path_factory.mktemp("private")
    with (
        mirror.site(directory, 3, private=True, plain=True, programs=found) as site,
        ExitStack() as stack,
    ):
        containerds = [stack.enter_context(site.containerd(peer)) for peer in site.peers]
        captures = [capture(peer, stack) for peer in site.peers]
        blobs = mirror.image(directory / "image", os.urandom(NOISE_BYTES))
        site.upstream.push(directory / "image", REPOSITORY, "v1")
        fetch_all(containerds[:2], f"{HOST}/{REPOSITORY}:v1", *SECRET)
        digest = tag_digest(directory / "image", "v1")
        yield Setting(site, containerds, blobs, digest, captures)


def capture(peer: Peer, stack: ExitStack) -> Path:
    """Write down all that goes over a machine's links until the end."""
    file, said = peer.directory / "capture", peer.directory / "capture.out"
    words = peer.namespace.enter(sys.executable, "-m", "tests.e2e.capture", file)
    process: subprocess.Popen[bytes] = command.start(
        *words, stdout=said, stderr=said, env=ENVIRONMENT
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    command.eventually("the capture listens", lambda: "listening" in said.read_text())
    return file


def test_each_layer_is_fetched_by_few(setting: Setting) -> None:
    """Both have all of it; of each layer no more left the upstream than its leaders read."""
    assert all(holds(containerd, setting.blobs) for containerd in setting.containerds[:2])
    layers = sum(map(len, setting.blobs.values()))
    read = sum(direct(setting.site.upstream.requests()).values())
    assert read <= (1 + BEYOND_LEADERS) * layers


def test_manifests_are_never_served(setting: Setting) -> None:
    """Neither by tag nor by digest, by no node, whoever asks it."""
    for peer in setting.site.peers:
        for reference in ("v1", setting.digest):
            path = f"/v2/{REPOSITORY}/manifests/{reference}?ns={HOST}"
            assert peer.daemon.status(path) == 404
            assert peer.daemon.request("HEAD", path).status == 404


def test_without_the_secret_its_containerd_gets_nothing(setting: Setting) -> None:
    """By tag and by digest; nor is anything of it in its store afterwards."""
    stranger = setting.containerds[2]
    for reference in (":v1", f"@{setting.digest}"):
        with pytest.raises(AssertionError, match="exit 1"):
            stranger.fetch(f"{HOST}/{REPOSITORY}{reference}")
    assert not [digest for digest in setting.blobs if stranger.has(digest)]


def test_without_the_secret_its_node_gives_nothing(setting: Setting) -> None:
    """What is there, and what is not, are told in the same words."""
    ask = setting.stranger.daemon.request
    unknown = f"sha256:{64 * '0'}"
    nothing = ask("GET", f"/v2/{REPOSITORY}/blobs/{unknown}?ns={HOST}")
    assert nothing.status == 404
    for digest in setting.blobs:
        for query in (f"?ns={HOST}", ""):
            answer = ask("GET", f"/v2/{REPOSITORY}/blobs/{digest}{query}")
            assert answer.status == 404
            if query:
                assert answer.body.replace(digest.encode(), unknown.encode()) == nothing.body
    for name in (f"{REPOSITORY}@{HOST}!", f"{REPOSITORY}%40{HOST}%21", f"{HOST}/{REPOSITORY}"):
        for digest in setting.blobs:
            assert ask("GET", f"/v2/{name}/blobs/{digest}").status in (400, 404)


def test_without_the_secret_other_nodes_give_nothing(setting: Setting) -> None:
    """Asked as nodes ask each other: with no proof, a wrong one, or that of another node.

    What was sent is sent again, by whoever: from a node that has the right to it, it is answered.
    """
    asked = said_to_others(setting)
    proofs = {headers["oci-mesh-proof"] for _, _, headers in asked}
    assert proofs
    unproven = {(peer, path) for peer, path, _ in asked}
    for peer in setting.site.peers[:2]:
        base = f"http://{peer.namespace.address}:{MESH_PORT}/v2"
        for name in (f"{REPOSITORY}@{HOST}!", f"{REPOSITORY}@{HOST}", REPOSITORY):
            for kind in ("blobs", "manifests"):
                unproven |= {(base, f"/{name}/{kind}/{digest}") for digest in setting.blobs}
    stranger = {"oci-mesh-node": node_id(setting.stranger)}
    for base, path in unproven:
        for proof in ("", "0" * 64):
            headers = {**stranger, **({"oci-mesh-proof": proof} if proof else {})}
            assert status(setting.stranger, base + path, headers) == 404
    for base, path, headers in asked:
        assert status(setting.stranger, base + path, {**headers, **stranger}) == 404
        assert status(setting.stranger, base + path, headers) in (200, 206)


def said_to_others(setting: Setting) -> list[tuple[str, str, dict[str, str]]]:
    """What the first two nodes asked each other for, with a proof: of whom, what, how. Once each.

    Whole requests in single packets, as they were captured.
    """
    found = {}
    for place, peer in enumerate(setting.site.peers[:2]):
        base = f"http://{peer.namespace.address}:{MESH_PORT}/v2"
        for match in REQUEST.finditer(setting.captures[place].read_bytes()):
            lines = match["headers"].decode().split("\r\n")
            headers = {key.lower(): value for key, _, value in (x.partition(": ") for x in lines)}
            mine = headers.get("oci-mesh-node") == node_id(peer)
            if "oci-mesh-proof" in headers and not mine:
                found[base, match["path"].decode()] = {
                    key: headers[key] for key in ("oci-mesh-node", "oci-mesh-proof")
                }
    return [(base, path, headers) for (base, path), headers in found.items()]


def node_id(peer: Peer) -> str:
    """What its node is called in the mesh."""
    found = re.search(r" node (\S+) with ", peer.daemon.output())
    assert found
    return found[1]


def status(peer: Peer, url: str, headers: dict[str, str]) -> int:
    """Of a GET from that machine."""
    curl = ["curl", "--silent", "--globoff", "--output", "/dev/null", "--max-time", "20"]
    more = [word for pair in headers.items() for word in ("--header", ": ".join(pair))]
    said = peer.namespace.run(*curl, "--write-out", "%{http_code}", *more, url).stdout
    return int(said)


def test_with_the_secret_it_gets_all_of_it_from_the_mesh(setting: Setting) -> None:
    """The third machine, once it has the secret: no layer leaves the upstream again."""
    before = len(setting.site.upstream.requests())
    late = setting.containerds[2]
    late.fetch(f"{HOST}/{REPOSITORY}:v1", *SECRET)
    assert holds(late, setting.blobs)
    again = setting.site.upstream.requests()[before:]
    layers = sum(map(len, setting.blobs.values()))
    assert sum(direct(again).values()) <= BEYOND_LEADERS * layers
    late.forget(f"{HOST}/{REPOSITORY}:v1")


def test_no_secret_is_anywhere(setting: Setting) -> None:
    """In no file of a node, no log, no metric, and in nothing that was sent in the clear."""
    assert not any(map(leaks, setting.site.peers))
    for file in setting.captures:
        sent = file.read_bytes()
        assert b"GET /v2/" in sent  # it did capture
        assert b"authorization:" not in sent.lower()
        assert not has_secret(sent)


def test_a_node_killed_in_the_middle_of_a_pull(tmp_path: Path) -> None:
    """Whoever leads: all containerds end their pulls, as they all have the secret."""
    require_namespaces()
    programs(CONTAINERDS[0])
    with mirror.site(tmp_path, 3, private=True, rate=SLOW) as site, ExitStack() as stack:
        containerds = [stack.enter_context(site.containerd(peer)) for peer in site.peers]
        blobs = mirror.image(tmp_path / "image", os.urandom(NOISE_BYTES))
        site.upstream.push(tmp_path / "image", REPOSITORY, "v1")
        threads = stack.enter_context(ThreadPoolExecutor(1))
        pulls = threads.submit(fetch_all, containerds, f"{HOST}/{REPOSITORY}:v1", *SECRET)
        command.eventually(
            "bytes arrive", lambda: site.upstream.namespace.traffic()[1] > BEGUN_BYTES
        )
        assert not pulls.done()
        site.peers[0].daemon.kill()
        pulls.result()
        assert all(holds(containerd, blobs) for containerd in containerds)


def test_a_mesh_that_is_given_the_secret_serves_all(tmp_path: Path) -> None:
    """The operator let it have the upstream: containerds with no secret pull, and once is enough.

    The password is in the operator's file, and nowhere else.
    """
    require_namespaces()
    programs(CONTAINERDS[0])
    with (
        mirror.site(tmp_path, 2, private=True, known=True) as site,
        ExitStack() as stack,
    ):
        containerds = [stack.enter_context(site.containerd(peer)) for peer in site.peers]
        blobs = mirror.image(tmp_path / "image", os.urandom(1 << 20))
        site.upstream.push(tmp_path / "image", REPOSITORY, "v1")
        for containerd in containerds:
            containerd.fetch(f"{HOST}/{REPOSITORY}:v1")
            assert holds(containerd, blobs)
        asked = [request for request in site.upstream.requests() if request.has_layer]
        assert {request.agent for request in asked} == {"oci-mesh"}
        size = sum(map(len, blobs.values()))
        assert sum(direct(asked).values()) <= size
        for peer in site.peers:
            assert not leaks(peer)


def leaks(peer: Peer) -> bool:
    """Whether a secret is in a node's files, its logs or its metrics."""
    said = [peer.daemon.log().encode(), peer.daemon.output().encode()]
    said.append(peer.daemon.request("GET", "/metrics").body)
    files = (path for path in peer.daemon.root.rglob("*") if path.is_file())
    return any(map(has_secret, (*said, *(path.read_bytes() for path in files))))


def has_secret(content: bytes) -> bool:
    """In one of its forms."""
    return any(secret.encode() in content for secret in SECRETS)
