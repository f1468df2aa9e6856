"""A small network of this machine's own: N network namespaces joined by a bridge, with no way out.

Each namespace is held open by one process and has no name, so there is nothing to clean up but
processes: they die with the test run, however it ends (see command.py), and links, addresses and
mounts go with them. Names would outlive a killed run, and collide with another run's.

Not here: rate limits, latency, loss.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e import command

NETWORK = "10.79.0"

# Bind the hosts file over the machine's, in the namespace's own mount table; say so; wait.
_HOLD = 'mount --bind "$1" /etc/hosts && echo held && exec sleep infinity'


class Namespace:
    """One network namespace with its own mount table and /etc/hosts."""

    def __init__(self, address: str, hosts: Path) -> None:
        """Open the namespace; `hosts` may be rewritten in place while it is open."""
        self.address = address
        words = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount"]
        self._holder = subprocess.Popen(
            [*words, "sh", "-c", _HOLD, "hold", str(hosts)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        with self._holder.stdout as said:
            if said.readline() != b"held\n":
                self.close()
                raise AssertionError("could not open a network namespace")

    @property
    def pid(self) -> int:
        """The process that holds the namespace open."""
        return self._holder.pid

    def enter(self, *argv: str | Path, mounts: bool = True) -> tuple[str | Path, ...]:
        """The command line that runs `argv` in here; the process it starts becomes `argv`'s."""
        where = f"/proc/{self.pid}/ns"
        mount_option = [f"--mount={where}/mnt"] if mounts else []
        return ("nsenter", f"--net={where}/net", *mount_option, "--", *argv)

    def run(
        self, *argv: str | Path, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end in here."""
        return command.run(*self.enter(*argv), env=env, check=check)

    def traffic(self) -> tuple[int, int]:
        """Bytes that came by its eth0, and that went, since it was made."""
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            device, _, values = line.partition(":")
            if device.strip() == "eth0":
                fields = values.split()
                return int(fields[0]), int(fields[8])
        raise AssertionError(f"no eth0 in the namespace of {self.address}")

    def close(self) -> None:
        """Let go of the namespace; it ends when the last process in it has."""
        self._holder.kill()
        self._holder.wait()


@contextmanager
def network(
    directory: Path, size: int, names: Mapping[str, list[int]]
) -> Iterator[list[Namespace]]:
    """`size` namespaces on one bridge: number i (from 1) is 10.79.0.i, and nothing leads out.

    `names` maps a host name to the numbers it stands for: several make a name of many addresses.
    """
    hosts = directory / "hosts"
    lines = [f"{NETWORK}.{i} {name}" for name, numbers in names.items() for i in numbers]
    hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    with ExitStack() as stack:
        hub = Namespace("", hosts)
        stack.callback(hub.close)
        hub.run("ip", "link", "add", "bridge", "up", "type", "bridge")
        nodes = []
        for i in range(1, size + 1):
            node = Namespace(f"{NETWORK}.{i}", hosts)
            stack.callback(node.close)
            plug(hub, node, f"port{i}")
            nodes.append(node)
        yield nodes


def plug(hub: Namespace, node: Namespace, port: str) -> None:
    """Join `node` by its new eth0 to `hub`'s device `bridge`, where the link's end is `port`."""
    pair = ["type", "veth", "peer", "name", "eth0", "netns", str(node.pid)]
    hub.run("ip", "link", "add", port, *pair)
    hub.run("ip", "link", "set", port, "master", "bridge", "up")
    node.run("ip", "address", "add", f"{node.address}/24", "dev", "eth0")
    node.run("ip", "link", "set", "lo", "up")
    node.run("ip", "link", "set", "eth0", "up")
