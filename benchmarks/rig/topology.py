"""Machines on one bridge, each a network namespace behind a link that is shaped both ways.

tbf on both ends of every link: the machine's end limits what it sends, the bridge's end what it
receives. No latency is added: a round trip takes 0.1 to 0.2 ms and the queues. No route leads out.

Everything hangs on processes (tests/e2e/namespaces.py): when these end, nothing is left.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.rig.bounds import Link
from benchmarks.rig.image import HOST
from tests.e2e.namespaces import NETWORK, Namespace, plug

# 10 ms of the rate. Less than the largest packet that the sending kernel makes (64 KiB and more
# with offloads) would have tbf cut each into frames, at eight times the CPU.
BURST_S: Final = 0.010
MIN_BURST_BYTES: Final = 128 * 1024

# What a link's buffer holds, as most switches' and home routers' do at least.
QUEUE: Final = "25ms"

# By route, since a namespace may not choose what the machine keeps from its users; it is the one
# that nearly all nodes run, and hosts differ in their default.
CONGESTION: Final = "cubic"

# A switch filters no packets. Where the kernel has br_netfilter loaded, for another's containers,
# each new namespace has it switched on: every packet would go through the hooks of iptables.
_NO_FILTER: Final = (
    "for call in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $call ] || echo 0 >$call; done"
)

MAX_MACHINES: Final = 250  # the last part of an address


@dataclass(frozen=True)
class Counters:
    """Bytes through a machine's eth0: payload and headers, one header per packet of up to 64 KiB
    (the kernel cuts these into frames later), so some 1 % above payload and 3 % below the wire.
    """

    received: int
    sent: int


@dataclass(frozen=True)
class Machine:
    """One machine of the rig; number 0 is the source. Its files are in `directory`."""

    number: int
    namespace: Namespace
    link: Link
    directory: Path

    @property
    def address(self) -> str:
        """On the rig's network."""
        return self.namespace.address

    @property
    def name(self) -> str:
        """For people, and in the mesh."""
        return f"n{self.number}" if self.number else "source"

    def counters(self) -> Counters:
        """Since the link was made."""
        return Counters(*self.namespace.traffic())


@contextmanager
def rig(directory: Path, links: Sequence[Link]) -> Iterator[list[Machine]]:
    """A machine per link, the source first, until the block ends. All know the source as `HOST`."""
    assert len(links) <= MAX_MACHINES
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{NETWORK}.1 {HOST}\n")
    with ExitStack() as stack:
        hub = Namespace("", hosts)
        stack.callback(hub.close)
        hub.run("sh", "-c", _NO_FILTER)
        hub.run("ip", "link", "add", "bridge", "up", "type", "bridge")
        machines = []
        for number, link in enumerate(links):
            namespace = Namespace(f"{NETWORK}.{number + 1}", hosts)
            stack.callback(namespace.close)
            port = f"port{number}"
            plug(hub, namespace, port)
            _settle(namespace)
            _shape(namespace, "eth0", link.up)
            _shape(hub, port, link.down)
            home = directory / f"m{number}"
            home.mkdir()
            machines.append(Machine(number, namespace, link, home))
        yield machines


def burst(rate: int) -> int:
    """The bucket of a rate (bits per second), in bytes."""
    return max(round(rate * BURST_S / 8), MIN_BURST_BYTES)


def _settle(namespace: Namespace) -> None:
    route = ["ip", "route", "replace", f"{NETWORK}.0/24", "dev", "eth0", "scope", "link"]
    namespace.run(*route, "src", namespace.address, "congctl", CONGESTION)
    # A connection must not begin with what an earlier one to the same address has learnt.
    namespace.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save")


def _shape(namespace: Namespace, device: str, rate: int) -> None:
    bucket = ["rate", f"{rate}bit", "burst", str(burst(rate)), "latency", QUEUE]
    namespace.run("tc", "qdisc", "replace", "dev", device, "root", "tbf", *bucket)
