"""The main job, on this machine: three nodes, an image pushed to one and pulled from the others.

    python -m benchmarks.demo [ARCHIVE]

ARCHIVE is a `docker save` archive or an OCI layout; without one, an image is built from the Python
at hand. Real processes on loopback, a directory of its own that is removed at the end. It prints
who sent what, as the nodes' own /metrics count it.
"""

import hashlib
import re
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.images import Files, build_docker_archive

NAMES = ("node-1", "node-2", "node-3")
IMAGE = "demo/app:v1"


@dataclass(frozen=True)
class Peer:
    """A running node."""

    name: str
    registry: str
    mesh: str


@contextmanager
def node(root: Path, name: str, join: list[str]) -> Iterator[Peer]:
    """A `python -m oci_mesh.serve` until the block ends."""
    command = [sys.executable, "-m", "oci_mesh.serve", "--root", str(root / name), "--name", name]
    command += ["--listen", "127.0.0.1:0", "--mesh-listen", "127.0.0.1:0"]
    command += [word for address in join for word in ("--join", address)]
    log = root / f"{name}.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                ready = re.match(r"oci-mesh ready: registry http://(\S+) mesh (\S+)", line)
                if ready:
                    print(line, end="")
                    yield Peer(name, ready[1], ready[2])
                    break
            else:
                sys.exit(f"{name} did not start:\n{log.read_text()}")
        finally:
            process.terminate()


def build_image(path: Path) -> None:
    """An image of this Python's own modules, two layers, as `docker save` would write it."""
    library = Path(sysconfig.get_path("stdlib"))

    def files(pattern: str) -> Files:
        return {f"python/{p.relative_to(library)}": p.read_bytes() for p in library.glob(pattern)}

    build_docker_archive(path, IMAGE, files("*.py"), files("[a-e]*/*.py"))


def oci_mesh(*arguments: str) -> str:
    """Run the command line tool of this environment; return the digest that it printed last."""
    print(f"\n$ oci-mesh {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "oci_mesh.cli", *arguments]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(ran.stdout, end="")
    return ran.stdout.strip().rpartition("@")[2]


def verify(layout: Path) -> int:
    """Hash everything in an OCI layout once more; return the bytes."""
    size = 0
    for path in (layout / "blobs" / "sha256").iterdir():
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != path.name:
            sys.exit(f"{path.name} is not what its name says")
        size += len(content)
    return size


def traffic(peer: Peer) -> dict[str, dict[str, int]]:
    """Blob bytes by counter and by the other side, as /metrics of a node shows them."""
    with urllib.request.urlopen(f"http://{peer.registry}/metrics") as response:
        text = response.read().decode()
    counters: dict[str, dict[str, int]] = {}
    for name, other, value in re.findall(
        r'^oci_mesh_(\w+)_bytes_total(?:{peer="([^"]*)"})? (\S+)$', text, re.MULTILINE
    ):
        counters.setdefault(name, {})[other or "clients"] = int(float(value))
    return counters


def show(peers: list[Peer]) -> None:
    """The table of who sent what to whom."""
    print("\nblob bytes sent, in kB (rows send, columns receive)\n")
    columns = [*NAMES, "clients"]
    print(f"{'':10}" + "".join(f"{column:>10}" for column in columns) + f"{'got pushed':>14}")
    for peer in peers:
        counters = traffic(peer)
        sent = {**counters.get("peer_sent", {}), **counters.get("client_sent", {})}
        row = "".join(
            f"{'-' if column == peer.name else round(sent.get(column, 0) / 1000):>10}"
            for column in columns
        )
        pushed = round(counters.get("client_received", {}).get("clients", 0) / 1000)
        print(f"{peer.name:10}{row}{pushed:>14}")


def main() -> None:
    """Run the demo."""
    with tempfile.TemporaryDirectory(prefix="oci-mesh-demo-") as directory, ExitStack() as stack:
        root = Path(directory)
        peers: list[Peer] = []
        for name in NAMES:
            seeds = [peer.mesh for peer in peers[:1]]
            peers.append(stack.enter_context(node(root, name, seeds)))
        if len(sys.argv) > 1:
            archive = Path(sys.argv[1])
        else:
            archive = root / "app.tar"
            build_image(archive)
        pushed = oci_mesh("push", str(archive), f"{peers[0].registry}/{IMAGE}")
        for peer in peers[1:]:
            layout = root / f"pulled-from-{peer.name}"
            if oci_mesh("pull", f"{peer.registry}/{IMAGE}", str(layout)) != pushed:
                sys.exit(f"{peer.name} gave another image than {pushed}")
            print(f"{verify(layout):,} bytes from {peer.name}, every digest verified")
        show(peers)


if __name__ == "__main__":
    main()
