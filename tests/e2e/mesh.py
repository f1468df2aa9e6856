"""Some nodes in some namespaces: what the tests of the whole call a mesh."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import daemon as daemon_module
from tests.e2e.containerd import Containerd
from tests.e2e.daemon import Daemon
from tests.e2e.namespaces import NETWORK, Namespace, network

HOST = "registry.mesh.test"
REGISTRY = "127.0.0.1:5000"
MESH_PORT = 7946
SIGNERS = 2


@dataclass
class Peer:
    """One machine of the mesh: its namespace, its daemon, its folder."""

    namespace: Namespace
    daemon: Daemon
    directory: Path

    def containerd(self) -> Containerd:
        """This machine's containerd, pulling `HOST`'s images through its own node."""
        directory = self.directory / "ctd"
        return Containerd(directory, self.namespace, host=HOST, peer=f"http://{REGISTRY}")


@contextmanager
def mesh(
    directory: Path,
    size: int,
    *,
    join: list[str] | None = None,
    names: dict[str, list[int]] | None = None,
    more: Callable[[int, Path], list[str]] = lambda number, folder: [],
) -> Iterator[list[Peer]]:
    """`size` machines, number i at 10.79.0.i, no daemon started yet; killed and gone afterwards.

    A daemon joins `join` (HOST:PORT), by default all others by address; `names` as in `network`.
    `more` are further options of a daemon, of its number and folder.
    Machines 1 and 2 hold the mesh's authority, all others a join token.
    """
    authority = directory / "ca"
    daemon_module.oci_mesh("ca", "init", authority)
    token = daemon_module.oci_mesh("token", "create", "--ca", authority).strip()
    addresses = [f"{NETWORK}.{i}:{MESH_PORT}" for i in range(1, size + 1)]
    with ExitStack() as stack:
        peers = []
        for i, namespace in enumerate(stack.enter_context(network(directory, size, names or {}))):
            folder = directory / f"n{i + 1}"
            folder.mkdir()
            targets = addresses[:i] + addresses[i + 1 :] if join is None else join
            options = [word for target in targets for word in ("--join", target)]
            options += ["--ca", str(authority)] if i < SIGNERS else ["--token", token]
            daemon = Daemon(
                folder / "mesh",
                *options,
                *more(i + 1, folder),
                namespace=namespace,
                listen=REGISTRY,
                mesh_listen=addresses[i],
            )
            stack.callback(daemon.kill)
            peers.append(Peer(namespace, daemon, folder))
        yield peers
