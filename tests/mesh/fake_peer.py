"""A peer that gossips as it should, and serves content as a test wants it to: rightly or not."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from oci_mesh import Node
from oci_mesh.members.table import Member, rendezvous
from oci_mesh.mesh import wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.wire import Exchange
from oci_mesh.registry.server import RegistryServer
from oci_mesh.spec.names import NameRecord
from tests.images import IMAGE_MANIFEST, sha256
from tests.nodes import eventually, seen_by

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Sending = Callable[[web.BaseRequest, bytes], Awaitable[web.StreamResponse]]


async def missing(request: web.BaseRequest) -> web.StreamResponse:
    """It has nothing."""
    return web.Response(status=404)


class FakePeer:
    """`async with` it. `asked` is what it was asked for, as `METHOD path`, gossip apart."""

    def __init__(self, name: str, serve: Handler = missing) -> None:
        self.name = name
        self.serve = serve
        self.gossip: Handler = self._gossip
        self.replicate: Handler = missing
        self.records: list[NameRecord] = []
        self.asked: list[str] = []
        self._server = RegistryServer(self._handle, "127.0.0.1", 0, drain_s=0)

    @property
    def address(self) -> str:
        """Of its mesh listener."""
        host, port = self._server.address
        return f"{host}:{port}"

    @property
    def member(self) -> Member:
        """What it says of itself."""
        return Member(self.name, self.address)

    def count(self, method: str) -> int:
        """How many requests for content it got."""
        return sum(asked.startswith(f"{method} /v2/") for asked in self.asked)

    async def join(self, node: Node) -> None:
        """Make itself known."""
        async with PeerClient(self.name) as client:
            await client.exchange(node.mesh_address, Exchange(self.member, members=[self.member]))
        await eventually(f"{node.id} knows {self.name}", lambda: self.name in seen_by(node))

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._server.__aexit__(kind, error, trace)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == wire.EXCHANGE_PATH:
            return await self.gossip(request)
        self.asked.append(f"{request.method} {request.path}")
        if request.path == wire.REPLICATE_PATH:
            return await self.replicate(request)
        return await self.serve(request)

    async def _gossip(self, request: web.BaseRequest) -> web.StreamResponse:
        message = wire.decode(await request.read(), Exchange)
        reply = Exchange(self.member, records=self.records, you=message.sender.address)
        return web.Response(body=wire.encode(reply))


def asking_order(digest: str, *names: str) -> list[str]:
    """Peers' names in the order in which they are asked for `digest`."""
    return [member.id for member in rendezvous(digest, [Member(name, "x:1") for name in names])]


# -- how content is served


async def whole(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """As it should be."""
    return await _send(request, content, content)


async def flipped(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """One bit is wrong."""
    return await _send(request, content, content[:-1] + bytes([content[-1] ^ 1]))


async def shorter(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """The last byte is missing, and the length says so."""
    return await _send(request, content[:-1], content[:-1])


async def longer(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """A byte too many, and the length says so."""
    return await _send(request, content + b"!", content + b"!")


async def overflowing(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """Bytes after the end, over the length that was announced; from the second half on wrong."""
    assert request.transport is not None
    response = await _begin(request, content)
    half = len(content) // 2
    request.transport.write(content[:half] + bytes(len(content)) + b"and more")
    request.transport.close()
    return response


async def unsized(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """Without a length."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(content)
    await response.write_eof()
    return response


async def forgetful(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """It said that it has it, and has not."""
    return web.Response(status=404)


async def failing(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """500."""
    return web.Response(status=500, text="no")


async def redirecting(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """Elsewhere: where a node must not be sent."""
    return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/"})


async def compressed(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """Says that it is compressed, which no blob is between nodes."""
    return web.Response(body=content[::-1], headers={"Content-Encoding": "gzip"})


def cut(at: int) -> Sending:
    """The connection ends after `at` bytes."""

    async def send(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        assert request.transport is not None
        response = await _begin(request, content)
        if at:
            await response.write(content[_start(request) : at])
        request.transport.close()
        return response

    return send


def paused(at: int, go_on: asyncio.Event, sending: Sending = whole) -> Sending:
    """`at` bytes, and the rest when told to; of what `sending` would send."""

    async def send(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        if sending is flipped:
            content = content[:-1] + bytes([content[-1] ^ 1])
        response = await _begin(request, content)
        await response.write(content[_start(request) : at])
        await go_on.wait()
        await response.write(content[at:])
        return response

    return send


def holding(
    *contents: bytes, sending: Sending = whole, size: int | None = None, name: str | None = None
) -> Handler:
    """Serve these, as `sending` does. `size` is what HEAD says, and `name` the digest under which
    they are, if not the truth.
    """
    held = {name or sha256(content): content for content in contents}

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        content = held.get(request.path.rpartition("/")[2])
        if content is None:
            return web.Response(status=404)
        if request.method == "HEAD":
            claimed = len(content) if size is None else size
            return web.Response(headers={"Content-Length": str(claimed)})
        return await sending(request, content)

    return serve


def _start(request: web.BaseRequest) -> int:
    return int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


async def _begin(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    start = _start(request)
    response = web.StreamResponse(status=206 if start else 200)
    response.content_type = IMAGE_MANIFEST if "/manifests/" in request.path else "x/y"
    response.content_length = len(content) - start
    await response.prepare(request)
    return response


async def _send(request: web.BaseRequest, sized: bytes, content: bytes) -> web.StreamResponse:
    response = await _begin(request, sized)
    await response.write(content[_start(request) :])
    await response.write_eof()
    return response
