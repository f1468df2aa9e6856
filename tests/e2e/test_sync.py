"""`oci-mesh sync` with real containerds, in namespaces with no way out: the sync script's job.

No registry is there but the nodes, no name service, and the network is cut before a container runs.
"""

import asyncio
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oci_mesh.containerd import cri_pb2 as cri
from oci_mesh.containerd.api import Containerd as Api
from tests import images
from tests.e2e import command
from tests.e2e.command import eventually
from tests.e2e.conftest import GREETING, runnable, tag_digest
from tests.e2e.containerd import Containerd
from tests.e2e.daemon import ENVIRONMENT
from tests.e2e.mesh import HOST, Peer, mesh
from tests.e2e.requirements import require_namespaces
from tests.e2e.test_mirror import CONTAINERDS, programs
from tests.nodes import MIB, noise

pytestmark = pytest.mark.e2e

NODES = 3
AREA = "k8s.io"
NAME = "docker.io/library/{}:v1"

DONE, FAILED, MISUSED, PARTLY = 0, 1, 2, 3

# The machine whose containerd kubelets could speak with.
KUBERNETES = 2

# What the third machine's containerd has for its content.
SMALL_DISK = 24 * MIB
TOO_LARGE = 2 * SMALL_DISK


@dataclass
class Machine:
    """A node and its containerd, which the node may import into."""

    peer: Peer
    containerd: Containerd

    def sync(self, *words: str, archive: Path | None = None, code: int = DONE) -> dict[str, Any]:
        """`oci-mesh sync --json WORDS` on this machine, with `archive` on standard input; by node,
        what came of it.
        """
        done = self.run("sync", "--json", *words, archive=archive)
        assert done.returncode == code, (
            f"exit {done.returncode}: {done.stdout.decode()}{done.stderr.decode()}"
        )
        return {node["node"]: node for node in json.loads(done.stdout)["nodes"]}

    def run(self, *words: str, archive: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        """`oci-mesh WORDS` on this machine."""
        call = [sys.executable, "-m", "oci_mesh.cli", *words, "--root", str(self.peer.daemon.root)]
        piped = f"< {shlex.quote(str(archive))}" if archive else "< /dev/null"
        return self.peer.namespace.run(
            "sh", "-c", f"{shlex.join(call)} {piped}", env=ENVIRONMENT, check=False
        )

    @contextmanager
    def syncing(self, *words: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """`oci-mesh sync WORDS` runs within the block, if it does not end before."""
        call = [sys.executable, "-m", "oci_mesh.cli", "sync", *words]
        argv = self.peer.namespace.enter(*call, "--root", self.peer.daemon.root)
        running = command.start(*argv, stdout=log, stderr=log, env=ENVIRONMENT)
        try:
            yield running
        finally:
            running.kill()
            running.wait()

    def rows(self, *words: str) -> list[str]:
        """What a list of `ctr` has, without its header."""
        return self.containerd.ctr(*words).stdout.decode().splitlines()[1:]

    def leftovers(self) -> list[str]:
        """Downloads and leases in its containerd."""
        return self.rows("content", "active") + self.rows("leases", "list")

    def restart(self) -> None:
        """Its daemon, which was killed."""
        self.peer.daemon.start()
        everybody = f"node {self.peer.daemon.root} has met the others"
        eventually(everybody, lambda: self.peer.daemon.members() == NODES)

    def cut(self) -> None:
        """Take it off the network."""
        self.peer.namespace.run("ip", "link", "set", "eth0", "down")

    def plug(self) -> None:
        """Put it back."""
        self.peer.namespace.run("ip", "link", "set", "eth0", "up")


@pytest.fixture(scope="module", params=CONTAINERDS)
def machines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Machine]]:
    """Three of them; the third has a small disk for containerd's content."""
    require_namespaces()
    found = programs(request.param)

    def options(number: int, folder: Path) -> list[str]:
        return ["--name", f"node-{number}", "--containerd-socket", str(folder / "ctd" / "c.sock")]

    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("sync")
        peers = stack.enter_context(mesh(directory, NODES, more=options))
        running = []
        for number, peer in enumerate(peers, 1):
            containerd = Containerd(
                peer.directory / "ctd",
                peer.namespace,
                host=HOST,
                peer=None,
                programs=found,
                area=AREA,
                cri=number == KUBERNETES,
            )
            if number == NODES:
                content = containerd.root / "io.containerd.content.v1.content"
                content.mkdir(parents=True)
                size = f"size={SMALL_DISK}"
                peer.namespace.run("mount", "-t", "tmpfs", "-o", size, "tmpfs", content)
            stack.enter_context(containerd)
            peer.daemon.launch()
            running.append(Machine(peer, containerd))
        for peer in peers:
            peer.daemon.await_ready()
        eventually("all have met", lambda: all(p.daemon.members() == NODES for p in peers))
        yield running


@pytest.fixture
def slow(machines: list[Machine]) -> Iterator[list[Machine]]:
    """The first of them sends at 16 Mbit/s: what takes it minutes can be interrupted."""
    namespace = machines[0].peer.namespace
    shape = ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf"]
    namespace.run(*shape, "rate", "16mbit", "burst", "128kb", "latency", "50ms")
    yield machines
    namespace.run("tc", "qdisc", "delete", "dev", "eth0", "root")


def large(size: int, seed: str) -> images.Files:
    """A layer of that many bytes, and a few."""
    return {f"noise-{seed}": noise(size, seed)}


def docker_archive(directory: Path, name: str, *layers: images.Files) -> Path:
    """What `docker save` writes of an image that runs."""
    path = directory / f"{name}.tar"
    here = images.host_architecture()
    images.build_docker_archive(path, f"{name}:v1", *runnable(), *layers, architecture=here)
    return path


def test_an_archive_is_in_each_containerd_and_runs_with_the_network_cut(
    machines: list[Machine], tmp_path: Path
) -> None:
    """`docker save app | oci-mesh sync - app:v1 --import`, nothing else; again: nothing to do."""
    archive = docker_archive(tmp_path, "app")
    first = machines[0].sync("-", "app:v1", "--import", archive=archive)
    assert {node["state"] for node in first.values()} == {"imported"}, first
    assert sorted(first) == ["node-1", "node-2", "node-3"]
    for machine in machines:
        machine.cut()
        try:
            said = machine.containerd.run(NAME.format("app"), "cat", "/greeting")
        finally:
            machine.plug()
        assert said.strip() == GREETING
    again = machines[1].sync("app:v1", "--import")
    assert {node["state"] for node in again.values()} == {"already"}, again
    assert all(node["bytes"] == node["written"] == 0 for node in again.values())


def test_a_tag_that_means_something_new_is_changed_in_each_containerd(
    machines: list[Machine], tmp_path: Path
) -> None:
    """And only what is new is sent."""
    machines[0].sync("-", "again:v1", "--import", archive=docker_archive(tmp_path, "again"))
    news = docker_archive(tmp_path, "again", {"greeting": b"news\n"})
    changed = machines[0].sync("-", "again:v1", "--import", archive=news)
    for number, machine in enumerate(machines, 1):
        assert changed[f"node-{number}"]["state"] == "imported"
        assert changed[f"node-{number}"]["written"] < 10_000
        assert machine.containerd.run(NAME.format("again"), "cat", "/greeting") == "news\n"


def test_kubernetes_finds_the_image(machines: list[Machine], tmp_path: Path) -> None:
    """So `imagePullPolicy: Never` works; also after the tag means another image."""
    containerd, found = machines[KUBERNETES - 1].containerd, [""]
    for word in (b"one", b"two"):
        archive = docker_archive(tmp_path, "cri", {"word": word})
        machines[0].sync("-", "cri:v1", "--import", archive=archive)
        eventually("CRI has heard", lambda: _id_in_cri(containerd, "cri:v1") not in found)
        found.append(_id_in_cri(containerd, "cri:v1"))
    labels = containerd.ctr("images", "list", f"name=={found[-1]}").stdout.decode()
    assert "io.cri-containerd.image=managed" in labels


def _id_in_cri(containerd: Containerd, name: str) -> str:
    """The id that a kubelet is told for a name; empty if there is no such image."""

    async def ask() -> str:
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image=name))
        method = "/runtime.v1.ImageService/ImageStatus"
        async with Api(containerd.directory / "c.sock", AREA) as api:
            reply = await api.call(method, request, cri.ImageStatusResponse)
        return str(reply.image.id)

    return asyncio.run(ask())


def test_of_an_index_each_containerd_has_what_it_can_run(
    machines: list[Machine], layout: Path
) -> None:
    """Under the index's own digest, by a name that is chosen; of other platforms, nothing."""
    name = "registry.internal:5000/team/multi:v2"
    found = machines[0].sync(str(layout), "multi:v1", "--image", "multi", "--import", "--as", name)
    assert {node["state"] for node in found.values()} == {"imported"}
    for machine in machines:
        assert machine.containerd.digest(name) == tag_digest(layout, "multi")
        assert machine.containerd.run(name, "cat", "/greeting").strip() == GREETING
    missing = [d for d in _foreign(layout) if machines[1].containerd.has(d)]
    assert missing == []


def _foreign(layout: Path) -> list[str]:
    """The manifests of the index that are not for this machine."""
    index = json.loads(
        (layout / "blobs" / tag_digest(layout, "multi").replace(":", "/")).read_bytes()
    )
    here = images.host_architecture()
    found = [m["digest"] for m in index["manifests"] if m["platform"]["architecture"] != here]
    assert found
    return found


def test_an_image_for_other_machines_is_refused_by_each(
    machines: list[Machine], tmp_path: Path
) -> None:
    """It is held, and said what it is for; no containerd has its name."""
    path = tmp_path / "foreign.tar"
    images.build_docker_archive(path, "foreign:v1", {"x": b"x"}, architecture="riscv64")
    found = machines[0].sync("-", "foreign:v1", "--import", archive=path, code=FAILED)
    for node in found.values():
        assert (node["state"], node["held"], node["imported"]) == ("failed", True, False)
        assert "is for linux/riscv64" in node["reason"]
    assert not any(row.startswith(NAME.format("foreign")) for row in machines[0].rows("i", "ls"))


def test_a_full_disk_is_one_nodes_own_trouble(machines: list[Machine], tmp_path: Path) -> None:
    """It is named, with what to do; the others have the image; there is no half of it anywhere."""
    archive = docker_archive(tmp_path, "large", large(TOO_LARGE, "full"))
    for states in (["imported", "imported", "failed"], ["already", "already", "failed"]):
        found = machines[0].sync("-", "large:v1", "--import", archive=archive, code=PARTLY)
        assert [found[f"node-{number}"]["state"] for number in (1, 2, 3)] == states
        assert found["node-3"]["reason"] == "the disk of containerd is full"
        assert found["node-3"]["held"]
        assert machines[2].leftovers() == []
        assert not any("large" in row for row in machines[2].rows("images", "list"))


def test_a_node_that_is_not_there_is_asked_back(machines: list[Machine]) -> None:
    """Called wrongly: with the name that was probably meant, and nothing done."""
    done = machines[0].run("sync", "app:v1", "--nodes", "node-1,nod-2")
    assert done.returncode == MISUSED
    assert b"no node called nod-2: did you mean node-2?" in done.stderr


def test_a_dead_node_is_named_and_gets_it_the_next_time(
    machines: list[Machine], tmp_path: Path
) -> None:
    """Nobody waits for it."""
    archive = docker_archive(tmp_path, "dead", large(MIB, "dead"))
    machines[1].peer.daemon.kill()
    found = machines[0].sync("-", "dead:v1", "--import", archive=archive, code=PARTLY)
    assert [found[f"node-{n}"]["state"] for n in (1, 2, 3)] == ["imported", "failed", "imported"]
    machines[1].restart()
    found = machines[2].sync("dead:v1", "--import")
    assert [found[f"node-{n}"]["state"] for n in (1, 2, 3)] == ["already", "imported", "already"]


def test_a_containerd_that_is_down_is_named_by_its_node(
    machines: list[Machine], tmp_path: Path
) -> None:
    """The node holds the image all the same."""
    machines[1].containerd.__exit__()
    try:
        archive = docker_archive(tmp_path, "down", {"down": b"down"})
        found = machines[0].sync("-", "down:v1", "--import", archive=archive, code=PARTLY)
    finally:
        machines[1].containerd.__enter__()
    assert (found["node-2"]["state"], found["node-2"]["held"]) == ("failed", True)
    assert found["node-2"]["reason"].startswith("no containerd answers at ")
    assert found["node-1"]["state"] == found["node-3"]["state"] == "imported"


def _writes(machine: Machine) -> bool:
    """Whether something is on its way into the containerd."""
    return machine.rows("content", "active") != []


def test_a_node_killed_while_it_takes_the_image(slow: list[Machine], tmp_path: Path) -> None:
    """It is named, the others get all; started again, it gets the rest."""
    archive, log = docker_archive(tmp_path, "killed", large(6 * MIB, "killed")), tmp_path / "log"
    two = ("--import", "--nodes", "node-2,node-3")
    with slow[0].syncing(str(archive), "killed:v1", *two, log=log) as running:
        eventually("node 2 writes into containerd", lambda: _writes(slow[1]))
        slow[1].peer.daemon.kill()
        assert running.wait(command.SECONDS) == PARTLY, log.read_text()
    assert re.search(r"^node-2 +failed .*node-3 +imported", log.read_text(), re.M | re.S)
    slow[1].restart()
    found = slow[0].sync("killed:v1", *two)
    assert [found[f"node-{n}"]["state"] for n in (2, 3)] == ["imported", "already"]
    assert slow[1].rows("content", "active") == []
    assert slow[1].containerd.run(NAME.format("killed"), "cat", "/greeting").strip() == GREETING


def test_an_interrupt_leaves_nothing_half_done(slow: list[Machine], tmp_path: Path) -> None:
    """Ctrl-C ends it on all nodes: no download, no lease, no name."""
    archive, log = docker_archive(tmp_path, "broken", large(6 * MIB, "broken")), tmp_path / "log"
    before = [machine.leftovers() for machine in slow]
    with slow[0].syncing(str(archive), "broken:v1", "--import", log=log) as running:
        eventually("both write into containerd", lambda: all(map(_writes, slow[1:])))
        running.send_signal(signal.SIGINT)
        assert running.wait(command.SECONDS) not in (DONE, PARTLY), log.read_text()
    for machine, left in zip(slow, before, strict=True):
        eventually("all is taken back", partial(_is_as_before, machine, left))
    assert not any("broken" in row for row in slow[1].rows("images", "list"))
    found = slow[0].sync("broken:v1", "--import")
    assert [found[f"node-{n}"]["imported"] for n in (1, 2, 3)] == [True] * NODES


def _is_as_before(machine: Machine, left: list[str]) -> bool:
    """A node that was killed has left a lease, which runs out."""
    return machine.leftovers() == left


def test_what_is_not_committed_is_taken_back_at_once(machines: list[Machine]) -> None:
    """Without a lease, too, whose end would have it collected; and it may be begun again."""
    containerd, content = machines[0].containerd, noise(MIB, "taken back")
    before = containerd.ctr("content", "active").stdout

    async def fail() -> None:
        async with (
            Api(containerd.directory / "c.sock", AREA) as api,
            api.writing("half", images.sha256(content), len(content)) as writer,
        ):
            await writer.write(content[:1000])
            assert containerd.ctr("content", "active").stdout != before
            raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            asyncio.run(fail())
        assert containerd.ctr("content", "active").stdout == before
