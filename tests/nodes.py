"""Nodes in this process, what a client does with them, and how tests wait for what they do.

Real nodes on loopback, each on ports of its own; nothing of them is replaced.
"""

import asyncio
import hashlib
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from oci_mesh import Node, NodeConfig
from tests import images

# Only a test that fails waits for so long.
DEADLINE_S = 30.0

MIB = 1024 * 1024


async def eventually(what: str, holds: Callable[[], bool]) -> None:
    """Wait until `holds()`; fail if it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"never came true: {what}"
        await asyncio.sleep(0.01)


def configured(root: Path, name: str, /, *join: str, **settings: Any) -> NodeConfig:
    """A node that listens wherever there is room, and does not wait for others when it stops."""
    defaults = {
        "root": root / name,
        "name": name,
        "listen": "127.0.0.1:0",
        "mesh_listen": "127.0.0.1:0",
        "copies": 1,
        "drain": 0.05,
    }
    return NodeConfig(**{**defaults, **settings}, join=join)


@asynccontextmanager
async def running(root: Path, name: str, /, *join: str, **settings: Any) -> AsyncIterator[Node]:
    """A node called `name`, with its store in `root/name`."""
    async with Node(configured(root, name, *join, **settings)) as node:
        yield node


async def meet(*nodes: Node) -> None:
    """Wait until all of them hold each other for alive."""
    ids = {node.id for node in nodes}
    await eventually(
        f"{ids} see each other", lambda: all(ids <= seen_by(node) | {node.id} for node in nodes)
    )


async def stop(node: Node) -> None:
    """End a node before its block ends, which then does nothing more."""
    await node.__aexit__(None, None, None)


def seen_by(node: Node) -> set[str]:
    """The ids of the other nodes that seem alive to it."""
    return {member.id for member in node.members()}


def metric(node: Node, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels; 0 if there is none."""
    families = text_string_to_metric_families(node.metrics.render().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def free_port() -> int:
    """A port where nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def noise(size: int, seed: str = "") -> bytes:
    """Bytes in which no part looks like another; the same for the same arguments."""
    return hashlib.shake_128(f"{size}/{seed}".encode()).digest(size)


@dataclass(frozen=True)
class Image:
    """An image (or an artifact): its manifest, and the blobs that this names."""

    manifest: bytes
    blobs: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return images.sha256(self.manifest)


def make_image(seed: str, size: int = 100_000, **more: Any) -> Image:
    """A config and one layer of `size` bytes; `more` goes into the manifest."""
    config = json.dumps({"seed": seed}).encode()
    layer = noise(size, seed)
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.IMAGE_MANIFEST,
        "config": images.descriptor(images.IMAGE_CONFIG, config),
        "layers": [images.descriptor(images.LAYER_GZIP, layer)],
        **more,
    }
    return Image(images.encode(manifest), (config, layer))


class Answer(NamedTuple):
    """A response that came to its end."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """What docker, containerd and the like do, to any node."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def request(
        self, method: str, node: Node, path: str, body: bytes | None = None, /, **headers: str
    ) -> Answer:
        """`headers` with _ for -. Raises `aiohttp.ClientError` if the connection is cut."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = io.BytesIO(body) if body else body
        async with self.session.request(
            method, node.url + path, data=data, headers=named, allow_redirects=False
        ) as response:
            return Answer(response.status, dict(response.headers), await response.read())

    async def blob(self, node: Node, repository: str, content: bytes, **headers: str) -> Answer:
        """GET the blob that should be `content`."""
        path = f"/v2/{repository}/blobs/{images.sha256(content)}"
        return await self.request("GET", node, path, None, **headers)

    async def manifest(self, node: Node, repository: str, reference: str) -> Answer:
        """GET."""
        return await self.request("GET", node, f"/v2/{repository}/manifests/{reference}")

    async def push_blob(self, node: Node, repository: str, content: bytes) -> None:
        """In one request."""
        path = f"/v2/{repository}/blobs/uploads/?digest={images.sha256(content)}"
        answer = await self.request(
            "POST", node, path, content, Content_Type="application/octet-stream"
        )
        assert answer.status == 201, answer

    async def put(self, node: Node, repository: str, reference: str, manifest: bytes) -> Answer:
        """PUT a manifest."""
        media_type = json.loads(manifest)["mediaType"]
        path = f"/v2/{repository}/manifests/{reference}"
        return await self.request("PUT", node, path, manifest, Content_Type=media_type)

    async def push(self, node: Node, repository: str, image: Image, tag: str = "latest") -> Answer:
        """Blobs, then the manifest; its answer."""
        for content in image.blobs:
            await self.push_blob(node, repository, content)
        answer = await self.put(node, repository, tag, image.manifest)
        assert answer.status == 201, answer
        return answer

    async def delete(self, node: Node, path: str) -> None:
        """DELETE, which is taken."""
        answer = await self.request("DELETE", node, path)
        assert answer.status == 202, answer

    async def has(self, node: Node, repository: str, image: Image, tag: str = "latest") -> bool:
        """Whether the whole image can be pulled; fails if a byte of it is wrong."""
        answers = [await self.manifest(node, repository, tag)]
        answers += [await self.blob(node, repository, content) for content in image.blobs]
        for answer, content in zip(answers, (image.manifest, *image.blobs), strict=True):
            assert answer.status in (200, 404), answer
            assert answer.status == 404 or answer.body == content
        return all(answer.status == 200 for answer in answers)
