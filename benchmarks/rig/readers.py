"""Who pulls the image on a node: the nearly free client, or a real containerd."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from benchmarks.rig.image import HOST, NAME, REPOSITORY, TAG
from benchmarks.rig.runners import Runner, gated
from benchmarks.rig.topology import Machine
from tests.e2e.containerd import Containerd

CLIENTS: Final = ("peer", "containerd")
AREA: Final = "k8s.io"  # kubelets' namespace in containerd


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
            runners.append(gated(machine, fetch(containerd)))
        yield runners


def fetch(containerd: Containerd, *options: str) -> list[str]:
    """The command that has a containerd pull the image, without unpacking it."""
    return [*containerd.words, "content", "fetch", *containerd.hosts_options, *options, NAME]


def containerd_on(machine: Machine, registry: str = "http://127.0.0.1:5000") -> Containerd:
    """A containerd of this machine's own, which pulls through the registry at that URL."""
    directory = machine.directory / "containerd"
    return Containerd(directory, machine.namespace, host=HOST, peer=registry, area=AREA)
