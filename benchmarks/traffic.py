"""What registry clients do: pull and push blobs and images, in the ways that real ones do it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Final
from urllib.parse import urlsplit

from benchmarks.load import Address, Client

CONNECTIONS: Final = 16
REPOSITORY: Final = "bench/image"
IMAGE_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"

_CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_CALL_BYTES: Final = 1024 * 1024  # what a client hands to the kernel at once


@dataclass(frozen=True)
class Payload:
    """A blob: `pattern`, `repeat` times over."""

    pattern: memoryview
    repeat: int = 1

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.pattern) * self.repeat

    @cached_property
    def digest(self) -> str:
        """Its sha256."""
        hasher = hashlib.sha256()
        for _ in range(self.repeat):
            hasher.update(self.pattern)
        return f"sha256:{hasher.hexdigest()}"

    def slices(self, size: int = _CALL_BYTES) -> Iterator[memoryview]:
        """All of it in parts of at most `size` bytes."""
        for _ in range(self.repeat):
            for start in range(0, len(self.pattern), size):
                yield self.pattern[start : start + size]


Push = Callable[[Client, Payload], None]


def push_put(client: Client, blob: Payload) -> None:
    """A blob as containerd pushes it: POST, then one PUT with its length."""
    where = start_upload(client)
    client.begin("PUT", _with_digest(where, blob), _octets({"Content-Length": str(blob.size)}))
    client.send(blob.slices())
    client.finish(201)


def push_patch(client: Client, blob: Payload) -> None:
    """A blob as docker pushes it: POST, a PATCH with chunked encoding, an empty PUT."""
    where = start_upload(client)
    client.begin("PATCH", where, _octets({"Transfer-Encoding": "chunked"}))
    client.send_chunked(blob.slices())
    where = _target(client.finish(202).headers["location"])
    client.ask("PUT", _with_digest(where, blob), 201)


def start_upload(client: Client) -> str:
    """POST; return where the upload goes on."""
    reply = client.ask("POST", f"/v2/{REPOSITORY}/blobs/uploads/", 202)
    return _target(reply.headers["location"])


def push_blob(address: Address, blob: Payload, push: Push = push_put) -> int:
    """A blob on a connection of its own. Returns the bytes."""
    with Client(address) as client:
        push(client, blob)
    return blob.size


def push_blobs(address: Address, blobs: Sequence[Payload]) -> int:
    """Blobs over 16 connections that are kept alive. Returns how many."""

    def push_share(share: Sequence[Payload]) -> None:
        with Client(address) as client:
            for blob in share:
                push_put(client, blob)

    shares = [blobs[first::CONNECTIONS] for first in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(push_share, shares))
    return len(blobs)


def push_image(address: Address, layers: Sequence[Payload], tag: str) -> str:
    """An image of these layers, the first of which serves as its config. Returns its digest."""
    push_blobs(address, layers)
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_TYPE,
        "config": _descriptor(_CONFIG_TYPE, layers[0]),
        "layers": [_descriptor(_LAYER_TYPE, layer) for layer in layers],
    }
    content = json.dumps(manifest, indent=2).encode()
    with Client(address) as client:
        client.ask(
            "PUT", manifest_target(tag), 201, headers={"Content-Type": IMAGE_TYPE}, body=content
        )
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def pull_blob(address: Address, blob: Payload, clients: int = 1) -> int:
    """All of a blob by so many clients at once. Returns the bytes of all of them."""
    with ThreadPoolExecutor(clients) as threads:
        return sum(threads.map(_pull_blob, repeat(address, clients), repeat(blob)))


def blob_target(blob: Payload) -> str:
    """Where a blob is."""
    return f"/v2/{REPOSITORY}/blobs/{blob.digest}"


def manifest_target(reference: str) -> str:
    """Where a manifest is."""
    return f"/v2/{REPOSITORY}/manifests/{reference}"


def _pull_blob(address: Address, blob: Payload) -> int:
    with Client(address) as client:
        client.begin("GET", blob_target(blob))
        reply = client.head(200)
        assert reply.length == blob.size, reply
        client.discard(reply.length - len(reply.rest))
    return blob.size


def _descriptor(media_type: str, blob: Payload) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _octets(headers: Mapping[str, str]) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", **headers}


def _target(location: str) -> str:
    """A Location, absolute or not, as a request's target."""
    parts = urlsplit(location)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _with_digest(target: str, blob: Payload) -> str:
    return f"{target}{'&' if '?' in target else '?'}digest={blob.digest}"
