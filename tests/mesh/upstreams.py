"""Other registries as nodes read them: rightly or not, and every byte counted."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Final

from oci_mesh import Node
from oci_mesh.errors import NoRanges, UpstreamError, UpstreamLimited
from oci_mesh.sources import Origin
from oci_mesh.spec.digest import Digest
from tests.images import sha256
from tests.mesh.swarms import mesh_source
from tests.nodes import eventually

PUBLIC: Final = "library/app@registry.test"
PRIVATE: Final = "app@registry.corp!"

CHUNK_BYTES: Final = 64 * 1024


class Upstream:
    """What it gives to nodes, and how. Nodes go by their ids."""

    def __init__(
        self, *contents: bytes, striped: bool = True, follows_client: bool = False
    ) -> None:
        self.contents = {sha256(content): content for content in contents}
        self.striped = striped
        self.follows_client = follows_client
        self.reads: list[tuple[str, int, int]] = []
        """What it was asked for: node, start, stop."""
        self.sent: Counter[str] = Counter()
        """Bytes by node."""
        self.asked: Counter[str] = Counter()
        """By node: how often it looked whether there is such a blob."""
        self.chunk_s = 0.002
        """From one chunk to the next: so no node is done before the others have begun."""
        self.has_ranges = True
        self.limits: set[str] = set()
        """Nodes that may not read parts."""
        self.left: dict[str, int] = {}
        """Bytes that a node still gets before it fails for that node."""
        self.lies: Counter[str] = Counter()
        """Chunks of which a node gets other bytes."""
        self.lies_in_parts: set[str] = set()
        """Nodes that get other bytes of all that is not the whole."""
        self.pauses_at: dict[str, float] = {}
        """Bytes after which a node gets nothing, until `go_on`."""
        self.go_on = asyncio.Event()
        self._unstriped: set[str] = set()

    def serve(self, *nodes: Node) -> None:
        """Have nodes read from here."""
        for node in nodes:
            mesh_source(node)._origins = _Origins(self, node.id)

    def is_striped(self, node: str) -> bool:
        """As far as the node knows."""
        return self.striped and node not in self._unstriped

    def check(self, node: str, is_part: bool) -> None:
        """Refuse what it does not give; the node knows it then."""
        if is_part and not self.has_ranges and self.is_striped(node):
            self._unstriped.add(node)
            raise NoRanges("all or nothing")
        if is_part and node in self.limits:
            self._unstriped.add(node)
            raise UpstreamLimited("less, please", retry_after_s=30.0)


class _Origins:
    """`Origins` of one node."""

    def __init__(self, upstream: Upstream, node: str) -> None:
        self._upstream = upstream
        self._node = node

    async def origin(self, repository: str, digest: Digest) -> Origin | None:
        """As `Origins.origin`."""
        self._upstream.asked[self._node] += 1
        content = self._upstream.contents.get(str(digest))
        return None if content is None else _Origin(self._upstream, self._node, content)


class _Origin:
    """One blob, as one node reads it."""

    def __init__(self, upstream: Upstream, node: str, content: bytes) -> None:
        self.size = len(content)
        self._upstream = upstream
        self._node = node
        self._content = content

    @property
    def striped(self) -> bool:
        """As `Origin.striped`."""
        return self._upstream.is_striped(self._node)

    @property
    def follows_client(self) -> bool:
        """As `Origin.follows_client`."""
        return self._upstream.follows_client

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """As `Origin.read`."""
        upstream, node = self._upstream, self._node
        upstream.reads.append((node, start, stop))
        upstream.check(node, is_part=self.striped and stop - start < self.size)
        for offset in range(start, stop, CHUNK_BYTES):
            chunk = self._content[offset : min(stop, offset + CHUNK_BYTES)]
            if upstream.sent[node] >= upstream.pauses_at.get(node, math.inf):
                await upstream.go_on.wait()
            await asyncio.sleep(upstream.chunk_s)
            if upstream.left.get(node, self.size) < len(chunk):
                raise UpstreamError("it failed")
            if node in upstream.left:
                upstream.left[node] -= len(chunk)
            is_part = node in upstream.lies_in_parts and stop - start < self.size
            if upstream.lies[node] > 0 or is_part:
                upstream.lies[node] -= 1
                chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
            upstream.sent[node] += len(chunk)
            yield chunk


async def pull(node: Node, content: bytes, repository: str = PUBLIC) -> bytes:
    """What a client of the node gets from the mesh of a blob that should be `content`."""
    async with await mesh_source(node).blob(repository, Digest.parse(sha256(content))) as blob:
        return b"".join([chunk async for chunk in blob.chunks(0, blob.size)])


async def pull_all(*nodes: Node, content: bytes, repository: str = PUBLIC) -> None:
    """At the same time; fails if one byte is wrong."""
    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(pull(node, content, repository)) for node in nodes]
    assert all(task.result() == content for task in pulls)


async def store(*nodes: Node, content: bytes, repository: str = PUBLIC) -> None:
    """Wait until nothing is on its way; fails unless all have it in their stores, exactly."""
    digest = Digest.parse(sha256(content))
    for node in nodes:
        await eventually("nothing is on its way", lambda n=node: not mesh_source(n)._blobs)  # type: ignore[misc]
        async with await node.store.blob(repository, digest) as blob:
            assert b"".join([chunk async for chunk in blob.chunks(0, blob.size)]) == content
