"""What a kubelet does with the pods of the chart, as far as one machine without Kubernetes can: it
runs their command lines, with arguments, environment, capabilities and files as the objects say.

Where it differs: paths that a container would have mounted are put into its arguments and variables
instead, and a main container runs as who runs the tests (`test_image.py` runs the image as nobody).
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.rendered import Object
from tests.e2e import command, daemon
from tests.e2e.daemon import ENVIRONMENT
from tests.e2e.namespaces import Namespace, network

_PROGRAM = "#!/bin/sh\nexec {python} -c 'from oci_mesh.cli import main; main()' \"$@\"\n"


@dataclass(frozen=True)
class Machine:
    """One machine of a cluster: its files, and how it is called."""

    directory: Path
    name: str
    address: str
    paths: Mapping[str, Path] = field(default_factory=dict)
    """Where a container's paths are here."""

    @property
    def host(self) -> Path:
        """Its root directory, as far as it has one."""
        return self.directory / "host"

    @property
    def hosts_toml(self) -> Path:
        """Where containerd looks for whom to ask."""
        return self.host / "etc/containerd/certs.d"

    def make(
        self,
        config: str = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n'
        'config_path = "/etc/containerd/certs.d"\n',
    ) -> "Machine":
        """Make its files: containerd's configuration, and what the kubelet makes for the mounts."""
        for directory in ("etc/containerd", "etc/oci-mesh"):
            (self.host / directory).mkdir(parents=True)
        (self.host / "etc/containerd/config.toml").write_text(config)
        (self.directory / "bin").mkdir()
        program = self.directory / "bin/oci-mesh"
        program.write_text(_PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
        return self

    def here(self, text: str) -> str:
        """A text with the paths of a container as they are here."""
        for path, place in {"/host": self.host, **self.paths}.items():
            text = text.replace(path, str(place))
        return text

    def words(self, container: Object) -> list[str]:
        """What a container runs; `env NAME=VALUE … PROGRAM ARGUMENT …`."""
        values = self.environment(container)
        words = [*container["command"], *container.get("args", [])]
        for name, value in values.items():
            words = [word.replace(f"$({name})", value) for word in words]
        first = {"python": sys.executable}.get(words[0], words[0])
        said = [f"{name}={value}" for name, value in values.items()]
        return ["env", *said, first, *(self.here(word) for word in words[1:])]

    def environment(self, container: Object) -> dict[str, str]:
        """Its variables."""
        fields = {
            "status.podIP": self.address,
            "spec.nodeName": self.name,
            "metadata.labels['topology.kubernetes.io/zone']": "zone-a",
        }
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        values = {"PATH": path, **ENVIRONMENT}
        for variable in container.get("env", []):
            known = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            # Paths of the machine itself are said to be such by --root.
            values[variable["name"]] = fields[known] if known else variable["value"]
        return values


def limited(container: Object) -> list[str]:
    """The words before a command that leave root only the capabilities which the container has."""
    has = container["securityContext"].get("capabilities", {}).get("add", [])
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in has)])
    return ["setpriv", "--no-new-privs", f"--bounding-set={bounding}", "--inh-caps=-all"]


def mount_secret(directory: Path, files: Mapping[str, bytes]) -> Path:
    """A Secret's volume, as the kubelet makes it: links into a directory that is replaced whole."""
    (directory / "..1").mkdir(parents=True)
    (directory / "..data").symlink_to("..1")
    for name, content in files.items():
        (directory / "..1" / name).write_bytes(content)
        (directory / "..1" / name).chmod(0o440)
        (directory / name).symlink_to(f"..data/{name}")
    return directory


@dataclass(frozen=True)
class Node:
    """A machine on which the pod's main container runs, from when it is made."""

    machine: Machine
    namespace: Namespace
    container: Object
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        words = self.namespace.enter(*self.machine.words(self.container))
        log = self.machine.directory / "log"
        object.__setattr__(self, "process", command.start(*words, stdout=log, stderr=log))

    def await_members(self, number: int) -> None:
        """Wait until it is ready, and sees that many nodes."""
        command.eventually(
            f"{self.machine.name} sees {number} nodes, or see {self.machine.directory / 'log'}",
            lambda: self.probe("readinessProbe").get("members") == number,
        )

    def probe(self, name: str) -> Object:
        """What a probe is answered; empty if that is not a success."""
        get = self.container[name]["httpGet"]
        [port] = [p["containerPort"] for p in self.container["ports"] if p["name"] == get["port"]]
        # A kubelet asks the pod's address, unless the probe names another.
        url = f"http://{get.get('host', self.machine.address)}:{port}{get['path']}"
        done = self.namespace.run("curl", "--silent", "--fail", url, check=False)
        answer: Object = json.loads(done.stdout) if done.returncode == 0 else {}
        return answer


@contextmanager
def cluster(directory: Path, pod: Object, size: int) -> Iterator[list[Node]]:
    """That many machines with the pod's main container, ready and met; gone after the block.

    Their Service's name is what its DNS would be: all addresses.
    """
    [container] = pod["containers"]
    daemon.oci_mesh("ca", "init", directory / "ca")
    files = {path.name: path.read_bytes() for path in (directory / "ca").iterdir()}
    secret = mount_secret(directory / "secret", files)
    (directory / "config").mkdir()
    (directory / "config/config.toml").write_text("")
    nodes: list[Node] = []
    with network(directory, size, {"oci-mesh-mesh": list(range(1, size + 1))}) as namespaces:
        try:
            for i, namespace in enumerate(namespaces, start=1):
                paths = {
                    "/var/lib/oci-mesh": directory / f"data-{i}",
                    "/etc/oci-mesh/secret": secret,
                    "/etc/oci-mesh/config": directory / "config",
                }
                own = directory / f"m{i}"
                machine = Machine(own, f"node-{i}.cluster", namespace.address, paths).make()
                nodes.append(Node(machine, namespace, container))
            for node in nodes:
                node.await_members(size)
            yield nodes
        finally:
            for node in nodes:
                node.process.kill()
                node.process.wait()
