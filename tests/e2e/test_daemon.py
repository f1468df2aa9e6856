"""The daemon as a process: it drains on SIGTERM, guards its store and answers probes."""

import http.client
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.e2e import registry
from tests.e2e.command import eventually
from tests.e2e.daemon import STOP_SECONDS, Daemon
from tests.e2e.namespaces import network
from tests.e2e.requirements import require, require_namespaces

pytestmark = pytest.mark.e2e

BLOB_BYTES = 64 << 20
"""More than the kernel's buffers of one connection can hide."""

RECEIVE_BUFFER_BYTES = 64 << 10

DISK_BYTES = 8 << 20

HELD_SECONDS = 4.0
"""How long the client keeps the draining daemon waiting: a daemon that does not drain has gone."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Daemon]:
    """One node on loopback, running."""
    require("curl", "setpriv")
    with Daemon(tmp_path / "mesh") as daemon:
        yield daemon


def slow_download(daemon: Daemon, path: str) -> http.client.HTTPResponse:
    """A GET whose body has begun but is held back by a small receive buffer."""
    host, _, port = daemon.registry.rpartition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    connection.settimeout(STOP_SECONDS)
    connection.connect((host, int(port)))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {daemon.registry}\r\n\r\n".encode())
    response = http.client.HTTPResponse(connection)
    connection.close()  # the response keeps its own handle
    response.begin()
    return response


def test_sigterm_drains_a_download_and_exits_0(node: Daemon, tmp_path: Path) -> None:
    """A download under way ends whole after SIGTERM, new clients are turned away, the exit is 0."""
    data = os.urandom(1 << 20) * (BLOB_BYTES >> 20)
    digest = registry.push_blob(node, "big", data, tmp_path / "blob")
    with slow_download(node, f"/v2/big/blobs/{digest}") as response:
        assert response.status == 200
        node.terminate()
        eventually("turned away", lambda: not accepts(node), timeout=STOP_SECONDS)
        time.sleep(HELD_SECONDS)
        assert images.sha256(response.read()) == digest
    assert node.wait() == 0, node.log()


def accepts(daemon: Daemon) -> bool:
    """Whether a new client would be sent to this node: it listens and says it is ready."""
    host, _, port = daemon.registry.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=STOP_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (ConnectionError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def test_idle_daemon_stops_at_once_with_0(node: Daemon) -> None:
    """With nothing to drain, SIGTERM ends it with exit code 0 and no traceback."""
    assert node.stop() == 0
    assert "Traceback" not in node.log()


def test_second_daemon_on_the_same_root_refuses(node: Daemon) -> None:
    """It exits non-zero, naming the root, and the first goes on."""
    second = Daemon(node.root).run()
    said = (second.stdout + second.stderr).decode()
    assert second.returncode != 0
    assert str(node.root) in said
    assert "Traceback" not in said
    assert node.status("/healthz") == 200


def test_probes_and_metrics(node: Daemon) -> None:
    """`/healthz` and `/readyz` say 200; `/metrics` is the Prometheus text format."""
    assert node.status("/healthz") == node.status("/readyz") == 200
    metrics = node.request("GET", "/metrics")
    assert metrics.status == 200
    assert metrics.headers["content-type"].startswith("text/plain")
    assert b"\n# TYPE " in metrics.body


def test_it_prints_what_it_resolved(node: Daemon) -> None:
    """Standard output names the root, and the ready line is its last."""
    assert str(node.root) in node.output()
    assert node.output().splitlines()[-1].startswith("oci-mesh ready: ")


def test_content_survives_kill_and_restart(node: Daemon, tmp_path: Path) -> None:
    """What was acknowledged before a SIGKILL is served after the next start."""
    digest = registry.push_blob(node, "repo", b"kept" * 1000, tmp_path / "blob")
    node.kill()
    node.start()
    assert images.sha256(registry.get(node, f"repo/blobs/{digest}").body) == digest


def test_a_full_disk_refuses_pushes_and_says_so_at_the_start(tmp_path: Path) -> None:
    """507 while it runs, with all that is there still served; one sentence where it cannot start;
    and with room again all is as it was.
    """
    require_namespaces()
    disk = tmp_path / "disk"
    disk.mkdir()
    with network(tmp_path, 1, {}) as (machine,):
        machine.run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk)
        node = Daemon(disk / "mesh", namespace=machine)
        with node:
            digest = registry.push_blob(node, "repo", b"kept" * 1000, tmp_path / "blob")
            (tmp_path / "big").write_bytes(os.urandom(DISK_BYTES))
            pushed = node.request(
                "POST",
                f"/v2/repo/blobs/uploads/?digest={images.sha256((tmp_path / 'big').read_bytes())}",
                *("--data-binary", f"@{tmp_path / 'big'}"),
            )
            assert pushed.status == 507
            assert registry.get(node, f"repo/blobs/{digest}").body == b"kept" * 1000
            assert node.stop() == 0
        machine.run("dd", "if=/dev/zero", f"of={disk}/other", "bs=4k", check=False)
        refused = node.run()
        assert refused.returncode == 1
        said = refused.stderr.decode().splitlines()[-1]
        assert str(disk) in said
        assert "the disk is full" in said
        assert b"Traceback" not in refused.stderr
        machine.run("rm", disk / "other")
        with node:
            assert registry.get(node, f"repo/blobs/{digest}").body == b"kept" * 1000
