"""Registries as processes: started on a fresh directory, measured through /proc, and stopped.

What they print goes nowhere, for both alike: a log on the disk under test would be part of it.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import procfs

START_S: Final = 30.0  # a registry that is not ready by then is broken
STOP_S: Final = 40.0  # ours gives requests under way 30 s

Command = Callable[[Path, str], list[str]]
"""The command of a registry that keeps its content in a directory and listens at HOST:PORT."""


@dataclass(frozen=True)
class Contender:
    """A registry to be measured."""

    name: str
    command: Command


@dataclass(frozen=True)
class Server:
    """A running registry."""

    name: str
    root: Path
    address: tuple[str, int]
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds, user and system, of the process, its threads and its children so far."""
        return sum(map(procfs.cpu_s, procfs.tree(self.pid)))

    def rss_bytes(self) -> int:
        """Resident memory now, with its children's."""
        return sum(procfs.status_bytes(pid, "VmRSS") for pid in procfs.tree(self.pid))

    def peak_rss_bytes(self) -> int:
        """The most resident memory there was, with its children's."""
        return sum(procfs.status_bytes(pid, "VmHWM") for pid in procfs.tree(self.pid))


def oci_mesh(*options: str) -> Contender:
    """Ours, with its defaults."""

    def command(root: Path, address: str) -> list[str]:
        where = ["--root", str(root), "--listen", address, "--mesh-listen", "127.0.0.1:0"]
        return [sys.executable, "-m", "oci_mesh.serve", *where, *options]

    return Contender("oci-mesh", command)


def docker_registry() -> Contender:
    """Debian's, as its package configures it, but for the listener and without a password.

    So with its in-memory descriptor cache, its storage health check, and its access log on.
    """

    def command(root: Path, address: str) -> list[str]:
        config = {
            "version": 0.1,
            "log": {"fields": {"service": "registry"}},
            "storage": {
                "cache": {"blobdescriptor": "inmemory"},
                "filesystem": {"rootdirectory": str(root)},
                "delete": {"enabled": True},
            },
            "http": {"addr": address, "headers": {"X-Content-Type-Options": ["nosniff"]}},
            "health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}},
        }
        path = root.with_suffix(".yml")
        path.write_text(json.dumps(config))  # JSON is YAML
        return ["docker-registry", "serve", str(path)]

    return Contender("docker-registry", command)


def docker_registry_version() -> str:
    """As it says itself. Raises `FileNotFoundError` if it is not installed."""
    command = ["docker-registry", "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def running(contender: Contender, root: Path) -> Iterator[Server]:
    """The registry on the new directory `root`, until the block ends; then both are gone."""
    root.mkdir()
    address = ("127.0.0.1", _free_port())
    command = contender.command(root, f"{address[0]}:{address[1]}")
    # Its own session: a Ctrl-C is for the benchmark, which stops it in order.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_listener(process, address, command)
        yield Server(contender.name, root, address, process.pid)
    finally:
        _stop(process)
        shutil.rmtree(root)


def _await_listener(
    process: subprocess.Popen[bytes], address: tuple[str, int], command: Sequence[str]
) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        if _answers(address):
            return
        time.sleep(0.02)
    raise RuntimeError(f"did not start: {' '.join(command)}")


def _answers(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=1.0) as connection:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
