"""Who pulls the image on a node: the nearly free client, or a real containerd."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.rig.image import NAME, REPOSITORY, TAG
from benchmarks.rig.runners import Runner, gated
from benchmarks.rig.topology import Machine
from tests.e2e.containerd import Containerd

CLIENTS: Final = ("peer", "containerd")
HOST: Final = NAME.partition("/")[0]


@contextmanager
def readers(client: str, machines: Sequence[Machine], registry: str) -> Iterator[list[Runner]]:
    """A runner on each machine that pulls through the registry at HOST:PORT."""
    with ExitStack() as stack:
        if client == "peer":
            yield [
                Runner(machine, "benchmarks.rig.client", registry, REPOSITORY, TAG)
                for machine in machines
            ]
            return
        runners = []
        for machine in machines:
            containerd = stack.enter_context(containerd_on(machine, f"http://{registry}"))
            hosts = containerd.directory / "certs.d"
            fetch: list[str | Path] = [
                *ctr(containerd),
                "content",
                "fetch",
                "--hosts-dir",
                hosts,
                NAME,
            ]
            runners.append(gated(machine, fetch))
        yield runners


def containerd_on(machine: Machine, registry: str = "http://127.0.0.1:5000") -> Containerd:
    """A containerd of this machine's own, which pulls through the registry at that URL."""
    directory = machine.directory / "containerd"
    return Containerd(directory, machine.namespace, host=HOST, peer=registry)


def ctr(containerd: Containerd) -> list[str]:
    """The words that reach it, in the namespace that kubelets use."""
    return ["ctr", "--address", str(containerd.directory / "c.sock"), "--namespace", "k8s.io"]
