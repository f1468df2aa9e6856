"""What a mirror adds to a manifest: the time of each answer, on one connection that is kept open.

`python -m benchmarks.rig.hop MIRROR:PORT HOST CA REPOSITORY TAG` asks, in turns,

  mirror    the peer on this machine (loopback, plain HTTP) for a manifest of HOST that it has;
  upstream  HOST itself (TLS, over the link), as a node without a mirror would;
  floor     a server on loopback that answers each request with the same bytes and nothing else.

by tag with HEAD and by digest with GET, which is what containerd does first in each pull.
"""

import json
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from statistics import median, quantiles
from typing import Final

from benchmarks.rig.gate import await_start, say_done

ROUNDS: Final = 1000  # the 99th percentile is then of ten values
WARM_UP: Final = 50
TIMEOUT_S: Final = 10.0
ACCEPT: Final = "application/vnd.oci.image.manifest.v1+json, */*"

Ask = Callable[[], bytes]


class _Floor(socketserver.StreamRequestHandler):
    """Answers requests with the same bytes."""

    body = b""

    def handle(self) -> None:
        while line := self.rfile.readline():
            method = line.split(b" ")[0]
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.body)
            self.wfile.write(head + (b"" if method == b"HEAD" else self.body))


@contextmanager
def floor(body: bytes) -> Iterator[str]:
    """Where it listens."""
    handler = type("_Floor", (_Floor,), {"body": body})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.server_address[:2]
        yield f"{host!s}:{port}"
        server.shutdown()


def asker(connection: HTTPConnection, method: str, target: str) -> Ask:
    """One request on a connection."""

    def ask() -> bytes:
        connection.request(method, target, headers={"Accept": ACCEPT})
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, f"{method} {target}: {response.status}"
        return body

    return ask


def measured(asks: dict[str, Ask]) -> dict[str, dict[str, float]]:
    """Milliseconds of each, asked in turns."""
    times: dict[str, list[float]] = {name: [] for name in asks}
    for turn in range(WARM_UP + ROUNDS):
        for name, ask in asks.items():
            start_s = time.perf_counter()
            ask()
            if turn >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - start_s))
    return {name: summary(each) for name, each in times.items()}


def summary(values: list[float]) -> dict[str, float]:
    """Percentiles."""
    return {
        "p50": round(median(values), 3),
        "p99": round(quantiles(values, n=100)[-1], 3),
        "max": round(max(values), 3),
    }


def main() -> None:
    """Measure, and say it."""
    mirror, host, ca, repository, tag = sys.argv[1:]
    await_start()
    near = HTTPConnection(mirror, timeout=TIMEOUT_S)
    far = HTTPSConnection(host, timeout=TIMEOUT_S, context=ssl.create_default_context(cafile=ca))
    path, ns = f"/v2/{repository}/manifests", f"?ns={host}"
    body = asker(near, "GET", f"{path}/{tag}{ns}")()
    digest = _digest(near, f"{path}/{tag}{ns}")
    json.loads(body)
    told = {}
    with floor(body) as address:
        bare = HTTPConnection(address, timeout=TIMEOUT_S)
        for name, method, reference in (("tag", "HEAD", tag), ("digest", "GET", digest)):
            target = f"{path}/{reference}"
            told[name] = measured(
                {
                    "mirror": asker(near, method, f"{target}{ns}"),
                    "upstream": asker(far, method, target),
                    "floor": asker(bare, method, target),
                }
            )
        bare.close()
    say_done([time.monotonic()], latency_ms=told)


def _digest(connection: HTTPConnection, target: str) -> str:
    connection.request("HEAD", target, headers={"Accept": ACCEPT})
    response = connection.getresponse()
    response.read()
    return response.headers["Docker-Content-Digest"]


if __name__ == "__main__":
    main()
