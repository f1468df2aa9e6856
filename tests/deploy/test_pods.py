"""What the pods of the chart run does what it is there for."""

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import images
from tests.deploy import rendered
from tests.deploy.machines import Machine, Node, cluster, limited
from tests.deploy.rendered import Object
from tests.e2e import command
from tests.e2e.namespaces import NETWORK
from tests.e2e.requirements import absent, require_namespaces

pytestmark = pytest.mark.e2e

INTERNAL = "internal-registry.kube-system.svc.cluster.local:5000"


def pod_of(objects: list[Object], name: str = "oci-mesh") -> Object:
    """The pod of a DaemonSet."""
    pod: Object = rendered.find(objects, "DaemonSet", name)["spec"]["template"]["spec"]
    return pod


def run(machine: Machine, container: Object, *, check: bool = True) -> str:
    """Run an init container to its end; what it printed. AssertionError if it fails."""
    words = [*limited(container), *machine.words(container)]
    done = command.run(*words, check=check)
    return (done.stdout + done.stderr).decode()


def tree(directory: Path) -> dict[str, bytes | None]:
    """All files beneath, with what is in them; None for directories."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One whose containerd looks into certs.d, as a new node's does."""
    require_root()
    return Machine(tmp_path / "machine", "node-1", f"{NETWORK}.1").make()


def require_root() -> None:
    """What containers do on their machine they do as root."""
    if os.geteuid() != 0:
        absent("this test has to be root")


def test_containerd_is_told_and_forgets_to_the_byte(machine: Machine, tmp_path: Path) -> None:
    """`configure` writes who is asked for what; again it changes nothing; removal undoes it all."""
    before = tree(machine.host)
    objects = rendered.variant("complete", tmp_path)
    configure = rendered.container(pod_of(objects), "configure")
    run(machine, configure)
    own = (machine.hosts_toml / INTERNAL / "hosts.toml").read_text()
    assert 'server = "http://127.0.0.1:5000"' in own
    assert 'capabilities = ["pull", "resolve"]' in own
    public = (machine.hosts_toml / "docker.io/hosts.toml").read_text()
    assert '[host."http://127.0.0.1:5000"]' in public
    assert 'capabilities = ["pull"]' in public
    after = tree(machine.host)
    assert "nothing to change" in run(machine, configure)
    assert tree(machine.host) == after
    removal = pod_of(objects, "oci-mesh-removal")
    run(machine, rendered.container(removal, "undo"))
    assert tree(machine.host) == before


def test_undone_by_an_upgrade(machine: Machine, tmp_path: Path) -> None:
    """`containerd.hosts: undo` does as the removal does, for who installs without helm's hooks."""
    before = tree(machine.host)
    run(machine, rendered.container(pod_of(rendered.variant("defaults", tmp_path)), "configure"))
    assert tree(machine.host) != before
    run(machine, rendered.container(pod_of(rendered.variant("undone", tmp_path)), "undo"))
    assert tree(machine.host) == before


def test_a_pod_does_not_start_where_containerd_cannot_be_told(tmp_path: Path) -> None:
    """On a machine with containerd's old way, it says so, and changes nothing."""
    require_root()
    old = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\n'
    machine = Machine(tmp_path / "machine", "node-1", "").make(f'{old}endpoint = ["https://m"]\n')
    before = tree(machine.host)
    with pytest.raises(AssertionError, match="configured the old way"):
        run(
            machine, rendered.container(pod_of(rendered.variant("defaults", tmp_path)), "configure")
        )
    assert tree(machine.host) == before


def test_containerd_is_restarted_once(tmp_path: Path) -> None:
    """With `containerd.restart`: by the machine's systemd, if and only if it has to be."""
    require_root()
    machine = Machine(tmp_path / "machine", "node-1", "").make("version = 2\n")
    try:
        system = images.busybox_files()
    except FileNotFoundError as error:
        absent(str(error))
    (machine.host / "bin").mkdir()
    for path, content in system.items():
        place = machine.host / path
        if isinstance(content, bytes):
            place.write_bytes(content)
            place.chmod(0o755)
        else:
            place.symlink_to(content)
    systemctl = machine.host / "bin/systemctl"
    systemctl.write_text("#!/bin/sh\nexit 1\n")
    systemctl.chmod(0o755)
    pod = pod_of(rendered.variant("with a restart", tmp_path))
    words = ["env", "-i", *machine.words(rendered.container(pod, "configure"))[1:]]
    assert command.run(*words, check=False).returncode == 1
    systemctl.write_text('#!/bin/sh\necho "$SYSTEMD_IGNORE_CHROOT $*" >>/restarted\n')
    for _ in range(2):  # what failed is made up for, and not done twice
        command.run(*words)
    restarted = (machine.host / "restarted").read_text()
    assert restarted == "1 --no-block restart containerd\n"


def test_the_data_are_the_nodes(tmp_path: Path) -> None:
    """Whoever had the directory before; nobody else may look into it."""
    require_root()
    data = tmp_path / "data"
    (data / "blobs").mkdir(parents=True)
    (data / "blobs/one").write_bytes(b"1")
    os.chown(data / "blobs/one", 1000, 1000)
    os.chown(data / "blobs", 1000, 1000)
    (data / "blobs").chmod(0o700)
    machine = Machine(tmp_path, "node-1", "", {"/var/lib/oci-mesh": data})
    own = rendered.container(pod_of(rendered.variant("defaults", tmp_path)), "data")
    for _ in range(2):
        run(machine, own)
        assert {path.stat().st_uid for path in (data, *data.rglob("*"))} == {65534}
        assert data.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("variant", ["defaults", "the host's network", "no TLS"])
def test_the_nodes_find_each_other(variant: str, tmp_path: Path) -> None:
    """Two pods, by their Service's name, with the authority of one Secret; probes are answered."""
    require_namespaces()
    pod = pod_of(rendered.variant(variant, tmp_path))
    with cluster(tmp_path, pod, 2) as nodes:
        for node in nodes:
            assert node.probe("readinessProbe")["node"] == node.machine.name
            assert node.probe("livenessProbe")
            assert node.probe("startupProbe")
            node.process.terminate()
        seconds = pod["terminationGracePeriodSeconds"]
        assert [node.process.wait(seconds) for node in nodes] == [0, 0]


def test_a_pod_is_replaced(tmp_path: Path) -> None:
    """By one with another address, as each update does: it is the same node, with its content."""
    require_namespaces()
    objects = rendered.variant("complete", tmp_path)
    [monitor] = [o for o in objects if o["kind"] == "ServiceMonitor"]
    [endpoint] = monitor["spec"]["endpoints"]
    with cluster(tmp_path, pod_of(objects), 2) as nodes:
        [first, old] = nodes
        key = tmp_path / "data-2/identity/node.key"
        before = key.read_bytes()
        old.process.terminate()
        assert old.process.wait() == 0
        first.await_members(1)
        address = f"{NETWORK}.22"
        device = ["ip", "address"]
        old.namespace.run(*device, "flush", "dev", "eth0")
        old.namespace.run(*device, "add", f"{address}/24", "dev", "eth0")
        names = (tmp_path / "hosts").read_text()
        (tmp_path / "hosts").write_text(names.replace(f"{old.namespace.address} ", f"{address} "))
        new = Node(dataclasses.replace(old.machine, address=address), old.namespace, old.container)
        nodes.append(new)
        for node in (first, new):
            node.await_members(2)
        assert new.probe("readinessProbe")["node"] == old.machine.name
        assert key.read_bytes() == before
        url = f"http://{address}:5000{endpoint['path']}"
        assert b"oci_mesh_members 2.0" in new.namespace.run("curl", "--silent", url).stdout


class _Api(BaseHTTPRequestHandler):
    """The two documents of an API server that the Job of the removal reads."""

    ready: tuple[bool, bool] = (True, True)
    observed = 1
    asked = 0

    def do_GET(self) -> None:
        """The DaemonSet, or the pods; with the token only."""
        state = type(self)
        assert self.headers["Authorization"] == "Bearer secret"
        state.asked += 1
        daemons = {
            "metadata": {"generation": 1, "uid": "u"},
            "status": {
                "observedGeneration": self.observed,
                "desiredNumberScheduled": 2,
                "numberReady": sum(self.ready),
            },
        }
        pods = [
            {
                "metadata": {"ownerReferences": [{"uid": owner}]},
                "spec": {"nodeName": node},
                "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
            }
            for owner, node, ready in [
                ("u", "node-1", self.ready[0]),
                ("u", "node-2", self.ready[1]),
                ("v", "node-3", False),
            ]
        ]
        base = "/apis/apps/v1/namespaces/kube-system/daemonsets/oci-mesh-removal"
        answer: Object = daemons if self.path == base else {"items": pods}
        assert self.path in (base, "/api/v1/namespaces/kube-system/pods")
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def api(**state: object) -> Iterator[tuple[type[_Api], str]]:
    """An API server in that state, and its URL."""
    handler = type("Api", (_Api,), state)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield handler, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def wait(url: str, seconds: int, directory: Path) -> tuple[int, str]:
    """The Job that helm waits for: its exit code and what it says."""
    job = rendered.find(rendered.variant("defaults", directory), "Job", "oci-mesh-removal")
    container = job["spec"]["template"]["spec"]["containers"][0]
    words = [*container["command"], *container["args"]]
    assert words[3] == "https://kubernetes.default.svc"
    assert float(words[6]) < 300, "helm gives up after 5 minutes, and would not say why"
    words = [sys.executable, *words[1:3], url, *words[4:6], str(seconds)]
    (directory / "token").write_text("secret")
    done = command.run(*words, env={"ACCOUNT": str(directory)}, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


def test_uninstalling_goes_on_when_all_nodes_are_done(tmp_path: Path) -> None:
    """At once, and also when the last one needs a while."""
    with api() as (_, url):
        assert wait(url, 30, tmp_path) == (0, "done on all nodes\n")
    with api(ready=(True, False)) as (server, url):
        late = threading.Timer(1, lambda: setattr(server, "ready", (True, True)))
        late.start()
        assert wait(url, 30, tmp_path)[0] == 0
        assert server.asked > 2


def test_uninstalling_stops_if_a_node_is_not_done(tmp_path: Path) -> None:
    """It names the node, and no other that is not ready."""
    with api(ready=(True, False)) as (_, url):
        code, said = wait(url, 1, tmp_path)
    assert code == 1
    assert "on 1 nodes: node-2. " in said
    assert "Run helm uninstall again" in said


def test_uninstalling_does_not_believe_an_old_status(tmp_path: Path) -> None:
    """Right after the DaemonSet is made its numbers are those of nothing."""
    with api(observed=0) as (_, url):
        assert wait(url, 1, tmp_path)[0] == 1


def test_uninstalling_says_if_the_api_is_away(tmp_path: Path) -> None:
    """In place of a traceback."""
    code, said = wait("http://127.0.0.1:1", 1, tmp_path)
    assert code == 1
    assert "The API server does not answer" in said
    assert "Traceback" not in said
