"""Our own nodes on the rig: a daemon per machine, the source's with the image.

Reached as operators and clients reach them: options, HTTP, signals, log.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks import procfs
from benchmarks.rig.image import REPOSITORY, TAG
from benchmarks.rig.topology import Machine
from tests.e2e import command
from tests.e2e.daemon import ENVIRONMENT, Daemon

REGISTRY: Final = "127.0.0.1:5000"
MESH_PORT: Final = 7946
LIAR: Final = "benchmarks.rig.liar"

_NAMES: Final = re.compile(r"^oci_mesh_names [1-9]", re.M)
_CORRUPT: Final = re.compile(
    r'^oci_mesh_peer_faults_total\{fault="corrupt",peer="([^"]*)"\} (\S+)$', re.M
)


class Node:
    """A daemon on a machine."""

    def __init__(self, machine: Machine, *options: str, module: str = "oci_mesh.serve") -> None:
        self.machine = machine
        self.daemon = Daemon(
            machine.directory / "node",
            "--name", machine.name, *options,
            namespace=machine.namespace,
            listen=REGISTRY,
            mesh_listen=f"{machine.address}:{MESH_PORT}",
            module=module,
        )  # fmt: skip
        self._ended: tuple[float, int] | None = None

    def await_members(self, count: int) -> None:
        """Until it knows that many nodes to be alive, itself among them."""
        command.eventually(
            f"{self.machine.name} sees all {count}", lambda: self.daemon.members() == count
        )

    def await_tag(self) -> None:
        """Until it knows a tag."""
        command.eventually(
            f"{self.machine.name} knows the tag",
            lambda: bool(_NAMES.search(self._metrics_text())),
        )

    def costs(self) -> tuple[float, int]:
        """CPU seconds and the peak of resident bytes, to now or to when it was killed."""
        if self._ended is not None:
            return self._ended
        pids = procfs.tree(self.daemon.pid)
        peak = sum(procfs.status_bytes(pid, "VmHWM") for pid in pids)
        return sum(map(procfs.cpu_s, pids)), peak

    def kill(self) -> None:
        """As a crash would."""
        self._ended = self.costs()
        self.daemon.kill()

    def accused(self) -> set[str]:
        """Which nodes it found to have sent wrong bytes."""
        return {peer for peer, count in _CORRUPT.findall(self._metrics_text()) if float(count)}

    def accusations(self) -> list[str]:
        """What its log says of that."""
        return [line for line in self.daemon.log().splitlines() if "corrupt" in line]

    def _metrics_text(self) -> str:
        return self.daemon.request("GET", "/metrics").body.decode()


def _security(directory: Path, *, tls: bool) -> tuple[list[str], list[str]]:
    """How nodes trust each other: the options of the first node, and those of all others.

    With TLS the first has the mesh's authority, and the others a join token.
    """
    if not tls:
        return ["--insecure"], ["--insecure"]
    ca = directory / "ca"
    _oci_mesh("ca", "init", ca)
    token = _oci_mesh("token", "create", "--ca", ca).strip()
    return ["--ca", str(ca)], ["--token", token]


def _oci_mesh(*words: str | Path) -> str:
    program = (sys.executable, "-m", "oci_mesh.cli")
    return command.run(*program, *words, env=ENVIRONMENT).stdout.decode()


@contextmanager
def mesh(
    machines: Sequence[Machine], layout: Path, *, tls: bool, liars: Sequence[int] = ()
) -> Iterator[list[Node]]:
    """All daemons up and acquainted, the image on the source alone, its tag known to all."""
    with running(machines, tls=tls, liars=liars) as nodes:
        push(machines[0], REGISTRY, layout)
        for node in nodes:
            node.await_tag()
        yield nodes


@contextmanager
def running(
    machines: Sequence[Machine],
    *,
    tls: bool,
    liars: Sequence[int] = (),
    configs: Sequence[Path] = (),
) -> Iterator[list[Node]]:
    """All daemons up and acquainted, with nothing; each with its file of settings, if there are."""
    first, others = _security(machines[0].directory, tls=tls)
    others += ["--join", f"{machines[0].address}:{MESH_PORT}"]
    with ExitStack() as stack:
        nodes = []
        for place, machine in enumerate(machines):
            words = ["--copies", "1", *(others if place else first)]
            words += ["--config", str(configs[place])] if configs else []
            module = LIAR if machine.number in liars else "oci_mesh.serve"
            node = Node(machine, *words, module=module)
            stack.callback(node.daemon.kill)
            nodes.append(node)
        nodes[0].daemon.start()
        for node in nodes[1:]:
            node.daemon.launch()
        for node in nodes[1:]:
            node.daemon.await_ready()
        for node in nodes:
            node.await_members(len(nodes))
        yield nodes


def push(machine: Machine, registry: str, layout: Path) -> None:
    """Push the image to a registry from where it runs."""
    target = f"{registry}/{REPOSITORY}:{TAG}"
    program = (sys.executable, "-m", "oci_mesh.cli")
    machine.namespace.run(*program, "push", "--plain-http", layout, target, env=ENVIRONMENT)
