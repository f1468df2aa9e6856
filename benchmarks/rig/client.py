"""A client that is nearly free: an image through a registry, three blobs at a time, all verified.

`python -m benchmarks.rig.client HOST:PORT REPOSITORY REFERENCE` waits at the gate, then does what
containerd does on the wire: the manifest, then all blobs, going on with a Range where a body was
cut. It differs in that a refused blob is asked for again after a moment: it has no other mirror.
`--ns HOST` asks a mirror for what is that registry's, `--ca FILE` makes it HTTPS.
Nothing is kept; each byte is read into a reused buffer and hashed.
"""

import argparse
import hashlib
import json
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final

from benchmarks.rig.gate import await_start, say_done

PARALLEL: Final = 3  # containerd's default
BUFFER_BYTES: Final = 256 * 1024
STALL_S: Final = 60.0  # containerd itself waits without an end
RETRIES: Final = 20  # of one blob: what containerd was seen to go on after
PAUSE_S: Final = 0.25  # before a blob that was refused is asked for again

_ACCEPT: Final = (
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, */*"
)


class Wrong(Exception):
    """Bytes that are not what they were said to be, or none at all after all retries."""


class Image:
    """An image of a registry."""

    def __init__(
        self, address: str, repository: str, *, registry: str = "", ca: str | None = None
    ) -> None:
        self._address = address
        self._path = f"/v2/{repository}"
        self._query = f"?ns={registry}" if registry else ""
        self._tls = ssl.create_default_context(cafile=ca) if ca else None

    def manifest(self, reference: str) -> tuple[dict[str, Any], int]:
        """The manifest and its length in bytes."""
        connection = self._connection()
        target = f"{self._path}/manifests/{reference}{self._query}"
        connection.request("GET", target, headers={"Accept": _ACCEPT})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if response.status != 200:
            raise Wrong(f"manifest: {response.status} {body[:200]!r}")
        return json.loads(body), len(body)

    def verify(self, blob: dict[str, Any]) -> int:
        """Read a blob and check it. Returns how often it had to be asked for again."""
        digest, size, received, asked = blob["digest"], blob["size"], 0, 0
        hasher, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER_BYTES))
        for _ in range(RETRIES + 1):
            asked += 1
            connection = self._connection()
            try:
                response = self._ask(connection, digest, received)
                while received < size and (count := response.readinto(buffer)):
                    hasher.update(buffer[:count])
                    received += count
                if received >= size:
                    break
                print(f"{digest}: cut at {received} of {size}", file=sys.stderr)
            except (OSError, HTTPException) as problem:
                print(f"{digest}: at {received} of {size}: {problem!r}", file=sys.stderr)
                time.sleep(PAUSE_S)
            finally:
                connection.close()
        else:
            raise Wrong(f"{digest}: {received} of {size} bytes after {RETRIES} retries")
        found = f"sha256:{hasher.hexdigest()}"
        if (found, received) != (digest, size):
            raise Wrong(f"{digest}: got {found} with {received} bytes")
        return asked - 1

    def _connection(self) -> HTTPConnection:
        if self._tls is None:
            return HTTPConnection(self._address, timeout=STALL_S)
        return HTTPSConnection(self._address, timeout=STALL_S, context=self._tls)

    def _ask(self, connection: HTTPConnection, digest: str, start: int) -> HTTPResponse:
        headers = {"Range": f"bytes={start}-"} if start else {}
        target = f"{self._path}/blobs/{digest}{self._query}"
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        if response.status != (206 if start else 200):
            raise HTTPException(f"status {response.status}: {response.read(200)!r}")
        return response


def main() -> None:
    """Read one image."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rig.client")
    for name in ("address", "repository", "reference"):
        parser.add_argument(name)
    parser.add_argument("--ns", default="")
    parser.add_argument("--ca")
    options = parser.parse_args()
    await_start()
    image = Image(options.address, options.repository, registry=options.ns, ca=options.ca)
    try:
        manifest, size = image.manifest(options.reference)
        blobs = [manifest["config"], *manifest["layers"]]
        with ThreadPoolExecutor(PARALLEL) as threads:
            retries = sum(threads.map(image.verify, blobs))
    except (Wrong, OSError, HTTPException) as problem:
        say_done([time.monotonic()], repr(problem))
        return
    received = size + sum(blob["size"] for blob in blobs)
    say_done([time.monotonic()], bytes=received, retries=retries)


if __name__ == "__main__":
    main()
