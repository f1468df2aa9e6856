"""Both old ways of operators, done our way, on three real containerds with no route out; at each
step a node is killed.

(1) the internal registry: set up, configure, push, run on each node by the name that a Deployment
uses, update the tag, see the update, remove all of it, and find the machines as they were.
(2) the sync script: an archive into each containerd, and containers with the network cut.
"""

import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests import images
from tests.e2e import command
from tests.e2e.command import eventually
from tests.e2e.conftest import runnable
from tests.e2e.containerd import Containerd
from tests.e2e.daemon import ENVIRONMENT
from tests.e2e.mesh import Peer, mesh
from tests.e2e.requirements import require, require_namespaces
from tests.nodes import MIB, noise

pytestmark = pytest.mark.e2e

NODES = 3
HOST = "internal-registry.kube-system.svc.cluster.local:5000"
NAME = f"{HOST}/app:v1"
SYNCED = "docker.io/library/app:v1"

# What a node sends in a second, and a layer that takes it some: there is time to kill it meanwhile.
RATE = 8 * MIB
LAYER_BYTES = 16 * MIB

DONE, FAILED, PARTLY = 0, 1, 3

# A machine's own configuration, with what somebody wrote there by hand.
CONFIG = """version = 2
# our team's: ask in #platform before you change it
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
"""
OTHERS_HOSTS = 'server = "https://registry.corp"  # hands off\n'


class Machine:
    """A node, its containerd, and its file system as far as it is about these."""

    def __init__(self, number: int, peer: Peer) -> None:
        self.name = f"node-{number}"
        self.peer = peer
        self.root = peer.directory / "machine"
        self.containerd = Containerd(
            peer.directory / "ctd", peer.namespace, host="nobody.test", peer=None, area="k8s.io"
        )
        hosts = self.root / "etc/containerd/certs.d/registry.corp"
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(OTHERS_HOSTS)
        (self.root / "etc/containerd/config.toml").write_text(CONFIG)
        (self.root / "var/lib").mkdir(parents=True)
        peer.daemon.root = self.root / "var/lib/oci-mesh"

    def argv(self, *words: str | Path) -> tuple[str | Path, ...]:
        """`oci-mesh WORDS` on this machine."""
        return self.peer.namespace.enter(sys.executable, "-m", "oci_mesh.cli", *words)

    def oci_mesh(self, *words: str | Path, code: int = DONE) -> str:
        """Run it to its end; what it said."""
        done = command.run(*self.argv(*words), env=ENVIRONMENT, check=False)
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == code, f"{self.name}: oci-mesh {words}: {done.returncode}\n{said}"
        return said

    @contextmanager
    def running(self, log: Path, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
        """`oci-mesh WORDS` runs within the block, if it does not end before."""
        running = command.start(*self.argv(*words), stdout=log, stderr=log, env=ENVIRONMENT)
        try:
            yield running
        finally:
            running.kill()
            running.wait()

    def configure(self, verb: str, *words: str) -> None:
        """`oci-mesh containerd VERB` for this machine's files."""
        self.oci_mesh("containerd", verb, "--root", self.root, *words)

    def pull(self) -> None:
        """As a kubelet that always pulls, by this machine's hosts.toml."""
        hosts = str(self.root / "etc/containerd/certs.d")
        self.containerd.ctr("images", "pull", "--hosts-dir", hosts, "--snapshotter", "native", NAME)

    def says(self, name: str) -> str:
        """What a container of the image prints."""
        return self.containerd.run(name, "cat", "/greeting").strip()

    def finds_tag(self) -> bool:
        """Whether a client of this node finds it."""
        return self.peer.daemon.request("HEAD", "/v2/app/manifests/v1").status == 200

    def sent(self) -> float:
        """Blob bytes to other nodes."""
        return self._metric("oci_mesh_peer_sent_bytes_total")

    def received(self) -> float:
        """Blob bytes from clients."""
        return self._metric("oci_mesh_client_received_bytes_total")

    def kill(self) -> None:
        """The node, as a crash would; its containerd runs on."""
        self.peer.daemon.kill()

    def restart(self) -> None:
        """After a kill; until all are together."""
        self.peer.daemon.start()
        eventually("all have met", lambda: self.peer.daemon.members() == NODES)

    def files(self) -> dict[str, tuple[int, bytes]]:
        """All there is below its root: modes and bytes."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(self.root))] = (stat.S_IMODE(path.stat().st_mode), content)
        return found

    def mounts(self) -> str:
        """Of the namespace."""
        return self.peer.namespace.run("cat", "/proc/self/mounts").stdout.decode()

    def processes(self) -> list[str]:
        """Command lines that name the node's directory."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it ended just now
                continue
            if str(self.peer.daemon.root) in line:
                found.append(line)
        return found

    def _metric(self, name: str) -> float:
        body = self.peer.daemon.request("GET", "/metrics").body.decode()
        lines = [line.split() for line in body.splitlines() if line.startswith(name)]
        return sum(float(words[-1]) for words in lines)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    """Three, with containerd running, and no node yet."""
    require_namespaces()
    require("containerd", "ctr", "runc")

    def options(number: int, folder: Path) -> list[str]:
        socket = str(folder / "ctd" / "c.sock")
        words = ["--name", f"node-{number}", "--upload-rate", str(RATE)]
        return [*words, "--containerd-socket", socket]

    with ExitStack() as stack:
        peers = stack.enter_context(mesh(tmp_path, NODES, more=options))
        found = [Machine(number, peer) for number, peer in enumerate(peers, 1)]
        for machine in found:
            stack.enter_context(machine.containerd)
        yield found


def start(machines: Sequence[Machine]) -> None:
    """All nodes; the second is killed while it starts, and started again."""
    for machine in machines:
        machine.peer.daemon.launch()
    machines[1].kill()
    for machine in (machines[0], machines[2]):
        machine.peer.daemon.await_ready()
    machines[1].peer.daemon.start()
    for machine in machines:
        eventually("all have met", lambda m=machine: m.peer.daemon.members() == NODES)  # type: ignore[misc]


def archive(directory: Path, greeting: str) -> Path:
    """What `docker save` writes of an image that runs, and says that."""
    path = directory / f"{greeting}.tar"
    layers = [*runnable(), {"noise": noise(LAYER_BYTES, greeting)}]
    layers.append({"greeting": f"{greeting}\n".encode()})
    here = images.host_architecture()
    images.build_docker_archive(path, "app:v1", *layers, architecture=here)
    return path


def test_the_internal_registry_from_set_up_to_removal(
    machines: list[Machine], tmp_path: Path
) -> None:
    """The name stays what it was in the Deployment, and afterwards the machines are what they were:
    files to the byte, no process, no mount.
    """
    one, two, three = machines
    before = [(machine.files(), machine.mounts()) for machine in machines]
    start(machines)
    for machine in machines:
        machine.configure("configure", HOST, "--own")

    log = tmp_path / "log"
    with one.running(log, "push", archive(tmp_path, "first"), "app:v1") as push:
        eventually("node 1 hands it on", lambda: one.sent() > 0)
        three.kill()
        assert push.wait(command.SECONDS) == DONE, log.read_text()
    three.restart()

    with ThreadPoolExecutor(NODES) as pool:
        before_kill = one.sent()
        pulls = [pool.submit(machine.pull) for machine in (two, three)]
        eventually("it comes from node 1, too", lambda: _is_over(pulls) or one.sent() > before_kill)
        one.kill()
        for pull in pulls:
            pull.result()
    assert [machine.says(NAME) for machine in (two, three)] == ["first", "first"]
    one.restart()
    one.pull()
    assert one.says(NAME) == "first"

    with two.running(log, "push", archive(tmp_path, "second"), "app:v1") as push:
        eventually("node 2 gets it", lambda: two.received() > 0)
        one.kill()
        assert push.wait(command.SECONDS) == DONE, log.read_text()
    one.restart()
    for machine in machines:
        eventually("the update is here", partial(_is_updated, machine))

    with three.running(log, "rm", "app:v1") as removal:
        two.kill()
        assert removal.wait(command.SECONDS) == DONE, log.read_text()
    two.restart()
    for machine in machines:
        eventually("the tag is gone", lambda m=machine: not m.finds_tag())  # type: ignore[misc]

    for machine in machines:
        machine.configure("undo")
        machine.containerd.forget(NAME)
    one.kill()  # and so it leaves its socket, and what was on its way
    assert [machine.peer.daemon.stop() for machine in (two, three)] == [0, 0]
    for machine in machines:
        shutil.rmtree(machine.peer.daemon.root)
    assert [(machine.files(), machine.mounts()) for machine in machines] == before
    assert [machine.processes() for machine in machines] == [[]] * NODES


def _is_over(pulls: Sequence[Future[None]]) -> bool:
    return all(pull.done() for pull in pulls)


def _is_updated(machine: Machine) -> bool:
    """What a kubelet that always pulls starts now."""
    machine.pull()
    return machine.says(NAME) == "second"


def test_an_archive_is_run_everywhere_with_the_network_cut(
    machines: list[Machine], tmp_path: Path
) -> None:
    """The node that was asked is killed, then one that takes it; what was begun is finished by
    calling it again, anywhere. In the end containers need neither the network nor any node.
    """
    one, two, three = machines
    start(machines)
    saved, log = archive(tmp_path, "synced"), tmp_path / "log"
    where = ("--root", one.peer.daemon.root)
    with one.running(log, "sync", saved, "app:v1", "--import", *where) as sync:
        eventually("node 1 gives it", lambda: one.sent() > 0)
        one.kill()
        assert sync.wait(command.SECONDS) == FAILED, log.read_text()
    one.restart()
    with one.running(log, "sync", saved, "app:v1", "--import", *where) as sync:
        given = one.sent()
        eventually("it gives it again", lambda: sync.poll() is not None or one.sent() > given)
        three.kill()
        code = sync.wait(command.SECONDS)
    assert code in (DONE, PARTLY), log.read_text()  # done: it had all when it was killed
    three.restart()
    two.oci_mesh("sync", "app:v1", "--import", "--root", two.peer.daemon.root)
    for machine in machines:
        machine.peer.namespace.run("ip", "link", "set", "eth0", "down")
        machine.kill()
    assert [machine.says(SYNCED) for machine in machines] == ["synced"] * NODES
