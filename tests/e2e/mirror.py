"""An upstream, and machines whose nodes mirror it: what the tests of the mirror are about."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests import images
from tests.e2e import command
from tests.e2e import daemon as daemon_module
from tests.e2e.containerd import Containerd
from tests.e2e.daemon import Daemon
from tests.e2e.mesh import MESH_PORT, REGISTRY, Peer
from tests.e2e.namespaces import NETWORK, Namespace, network
from tests.e2e.registry import layout_blobs
from tests.e2e.upstream import PASSWORD, USER, Upstream

HOST: Final = "upstream.test"
AREA: Final = "k8s.io"  # what kubelets use in containerd
TAG_TTL_S: Final = 3.0

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def settings(
    path: Path,
    upstream: Upstream,
    containerd: Path,
    *,
    tag_ttl_s: float = 60.0,
    password: Path | None = None,
) -> Path:
    """Write a node's file of settings: its upstream, and the containerd on its machine.

    With the file of a `password` the node itself has a secret for the upstream. The containerd has
    its directories, as if it had run before: a node looks for them only now and then.
    """
    for name in ("blobs/sha256", "ingest"):
        (containerd / "root" / "io.containerd.content.v1.content" / name).mkdir(parents=True)
    more = f'username = "{USER}"\npassword-file = "{password}"\n' if password else ""
    tables = [f'[upstream."{host}"]\nca = "{upstream.ca}"\n{more}' for host in upstream.hosts]
    path.write_text(
        f'containerd = "{containerd}/root"\ntag-ttl = {tag_ttl_s}\npublic-registries = false\n'
        + "".join(tables)
    )
    return path


@dataclass
class Site:
    """The upstream, and the machines with their nodes."""

    upstream: Upstream
    peers: Sequence[Peer]
    programs: Path | None

    def containerd(self, peer: Peer) -> Containerd:
        """The one on that machine: it asks its own node first, then the upstream."""
        return Containerd(
            peer.directory / "containerd",
            peer.namespace,
            host=HOST,
            peer=f"http://{REGISTRY}",
            upstream=self.upstream,
            programs=self.programs,
            area=AREA,
        )


@contextmanager
def site(
    directory: Path,
    size: int,
    *,
    aliases: Sequence[str] = (),
    private: bool = False,
    known: bool = False,
    faulty: bool = False,
    plain: bool = False,
    rate: str = "",
    programs: Path | None = None,
) -> Iterator[Site]:
    """`size` machines (number i at 10.79.0.i) whose nodes have met, and behind them the upstream.

    `known`: they have the secret of the upstream; `plain`: they speak plain HTTP to each other;
    `rate`: what the upstream can send at most.
    """
    password = directory / "password" if known else None
    if password is not None:
        password.write_text(f"{PASSWORD}\n")
    names = {host: [size + 1] for host in (HOST, *aliases)}
    with ExitStack() as stack:
        *nodes, last = stack.enter_context(network(directory, size + 1, names))
        if rate:
            shape = ["rate", rate, "burst", "64kb", "latency", "100ms"]
            last.run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *shape)
        upstream = stack.enter_context(
            Upstream(
                directory / "up", last, host=HOST, aliases=aliases, private=private, faulty=faulty
            )
        )
        peers = []
        for number, trust in enumerate(_trust(directory, size, plain=plain), 1):
            folder = directory / f"n{number}"
            folder.mkdir()
            file = settings(
                folder / "node.toml",
                upstream,
                folder / "containerd",
                tag_ttl_s=TAG_TTL_S,
                password=password,
            )
            daemon = _daemon(folder, nodes[number - 1], "--config", str(file), *trust)
            stack.callback(daemon.kill)
            peers.append(Peer(nodes[number - 1], daemon, folder))
        first, *others = [peer.daemon for peer in peers]
        first.start()
        for daemon in others:
            daemon.launch()
        for daemon in others:
            daemon.await_ready()
        met(peers)
        yield Site(upstream, peers, programs)


def met(peers: Sequence[Peer]) -> None:
    """Wait until all have."""
    command.eventually(
        "all have met", lambda: all(peer.daemon.members() == len(peers) for peer in peers)
    )


def _daemon(folder: Path, namespace: Namespace, *options: str) -> Daemon:
    """A node that joins by the first machine."""
    join = ["--join", f"{NETWORK}.1:{MESH_PORT}"] if namespace.address != f"{NETWORK}.1" else []
    return Daemon(
        folder / "mesh",
        *options,
        *join,
        namespace=namespace,
        listen=REGISTRY,
        mesh_listen=f"{namespace.address}:{MESH_PORT}",
    )


def _trust(directory: Path, size: int, *, plain: bool) -> list[list[str]]:
    """The options by which each node knows the others."""
    if plain:
        return [["--insecure"]] * size
    authority = directory / "ca"
    daemon_module.oci_mesh("ca", "init", authority)
    token = daemon_module.oci_mesh("token", "create", "--ca", authority).strip()
    return [["--ca", str(authority)], *[["--token", token]] * (size - 1)]


def image(directory: Path, noise: bytes, tag: str = "v1") -> dict[str, bytes]:
    """A layout in `directory` of an image that runs, two of whose layers are noise; its blobs."""
    half = len(noise) // 2
    images.build_layout(
        directory,
        tag,
        images.busybox_files(),
        {"one": noise[:half]},
        {"two": noise[half:]},
        architecture=images.host_architecture(),
    )
    return layout_blobs(directory)


def fetch_all(containerds: Sequence[Containerd], reference: str, *options: str) -> None:
    """All of them at once; AssertionError if one fails."""
    with ThreadPoolExecutor(len(containerds)) as threads:
        list(threads.map(lambda containerd: containerd.fetch(reference, *options), containerds))


def wrong_files(root: Path) -> list[Path]:
    """Files below `root` that are called by a digest and have other content."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file()
        and _DIGEST.fullmatch(path.name)
        and images.sha256(path.read_bytes()) != f"sha256:{path.name}"
    ]
