"""A peer that gossips as it should, and serves content as a test wants it to: rightly or not."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from oci_mesh import Node
from oci_mesh.members.table import Member, rendezvous
from oci_mesh.mesh import wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.identity import Identity
from oci_mesh.mesh.statements import Signer
from oci_mesh.mesh.wire import Exchange, Lookup
from oci_mesh.pki.keys import KeyPair
from oci_mesh.registry.server import RegistryServer
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.names import NameRecord
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.statement import Statement
from tests.images import IMAGE_MANIFEST, sha256
from tests.nodes import eventually, seen_by

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Sending = Callable[[web.BaseRequest, bytes], Awaitable[web.StreamResponse]]

# A handler that is to say nothing more waits for this; it ends with its connection.
_NEVER_S: Final = 3600.0


async def missing(request: web.BaseRequest) -> web.StreamResponse:
    """It has nothing."""
    return web.Response(status=404)


async def hanging(request: web.BaseRequest) -> web.StreamResponse:
    """It takes the question, and says nothing."""
    await asyncio.sleep(_NEVER_S)
    return web.Response(status=404)


class Holding:
    """What a peer serves, and by which lists of pieces; see `holding`."""

    def __init__(
        self, held: dict[str, bytes], listed: dict[str, bytes], sending: Sending, size: int | None
    ) -> None:
        self.listed = {
            digest: Statement(digest, len(content), piece_hashes(content), "", b"", b"")
            for digest, content in listed.items()
        }
        self._held = held
        self._sending = sending
        self._size = size

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """HEAD and GET, of wholes and of pieces; who goes by another list or size hears that."""
        digest = request.path.rpartition("/")[2]
        content = self._held.get(digest)
        if content is None:
            return web.Response(status=404)
        listed = self.listed[digest]
        if request.headers.get(wire.LIST_HEADER) not in (None, "", listed.list_id):
            return await disagreeing(request, content)
        if asked_range(request, 1 << 62)[1] > len(content) and "Range" in request.headers:
            headers = {"Content-Range": f"bytes */{len(content)}"}
            return web.Response(status=416, headers=headers)
        if request.method == "HEAD":
            claimed = len(content) if self._size is None else self._size
            return web.Response(headers={"Content-Length": str(claimed)})
        return await self._sending(request, content)


class FakePeer:
    """`async with` it. `asked` is what it was asked for, as `METHOD path`, gossip and rendezvous
    apart; `ranges` are the pieces among that.
    """

    def __init__(self, name: str, serve: Handler = missing, zone: str = "") -> None:
        self.name = name
        self.zone = zone
        self.serve = serve
        self.gossip: Handler = self._gossip
        self.attend: Handler = missing
        self.state: Handler = self._state
        self.replicate: Handler = missing
        self.records: list[NameRecord] = []
        self.asked: list[str] = []
        self.ranges: list[tuple[int, int]] = []
        self.attended = 0
        self.signer = Signer(Identity(name, KeyPair.new()), None)
        self._handling: set[asyncio.Task[object]] = set()
        self._server = RegistryServer(self._handle, "127.0.0.1", 0, drain_s=0)

    @property
    def address(self) -> str:
        """Of its mesh listener."""
        host, port = self._server.address
        return f"{host}:{port}"

    @property
    def member(self) -> Member:
        """What it says of itself."""
        return Member(self.name, self.address, self.zone)

    def count(self, method: str) -> int:
        """How many requests for content it got."""
        return sum(asked.startswith(f"{method} /v2/") for asked in self.asked)

    async def join(self, *nodes: Node) -> None:
        """Make itself known."""
        async with PeerClient(self.name) as client:
            for node in nodes:
                message = Exchange(self.member, members=[self.member])
                await client.exchange(node.mesh_address, message)
        for node in nodes:
            await eventually(f"{node.id} knows {self.name}", lambda n=node: self.name in seen_by(n))  # type: ignore[misc]

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._handling:  # those that hang
            task.cancel()
        await self._server.__aexit__(kind, error, trace)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._handling.add(task)
        try:
            return await self._answer(request)
        finally:
            self._handling.discard(task)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == wire.EXCHANGE_PATH:
            return await self.gossip(request)
        if request.path == wire.SWARM_PATH:
            self.attended += 1
            return await self.attend(request)
        self.asked.append(f"{request.method} {request.path}")
        if request.path == wire.REPLICATE_PATH:
            return await self.replicate(request)
        if request.path == wire.STATEMENT_PATH:
            return await self.state(request)
        if wire.SLOT_HEADER in request.headers:
            self.ranges.append(asked_range(request, 1 << 62))
        return await self.serve(request)

    async def _gossip(self, request: web.BaseRequest) -> web.StreamResponse:
        message = wire.decode(await request.read(), Exchange)
        reply = Exchange(self.member, records=self.records, you=message.sender.address)
        return web.Response(body=wire.encode(reply))

    async def _state(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = wire.decode(await request.read(), Lookup)
        listed = self.serve.listed if isinstance(self.serve, Holding) else {}
        known = listed.get(asked.digest)
        if known is None:
            return web.Response(status=404)
        signed = self.signer.sign(Digest.parse(known.digest), known.size, known.hashes)
        return web.Response(body=wire.encode(signed))


def statement(signer: Signer, digest: str, content: bytes) -> Statement:
    """That `content` is the blob `digest`, signed: true or not."""
    return signer.sign(Digest.parse(digest), len(content), piece_hashes(content))


def piece_hashes(content: bytes) -> bytes:
    """Of all its pieces, in order."""
    pieces = PieceMap(len(content))
    spans = (pieces.span(piece) for piece in range(pieces.count))
    return b"".join(hashlib.sha256(content[start:stop]).digest() for start, stop in spans)


def asking_order(digest: str, *names: str) -> list[str]:
    """Peers' names in the order in which they are asked for `digest`."""
    return [member.id for member in rendezvous(digest, [Member(name, "x:1") for name in names])]


# -- how content is served


async def whole(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """As it should be."""
    return await _send(request, content, _asked(request, content))


async def flipped(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """One bit is wrong, in each piece."""
    body = _asked(request, content)
    return await _send(request, content, body[:-1] + bytes([body[-1] ^ 1]))


def flipped_at(offset: int) -> Sending:
    """One bit is wrong in all of the content."""

    async def send(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        wrong = content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]
        return await whole(request, wrong)

    return send


async def shorter(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """The last byte is missing, and the length says so."""
    return await _send(request, content, _asked(request, content)[:-1])


async def longer(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """A byte too many, and the length says so."""
    return await _send(request, content, _asked(request, content) + b"!")


async def overflowing(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """Bytes after the end, over the length that was announced; from the second half on wrong."""
    assert request.transport is not None
    body = _asked(request, content)
    response = await _begin(request, content, len(body))
    half = len(body) // 2
    request.transport.write(body[:half] + bytes(len(body)) + b"and more")
    request.transport.close()
    return response


async def unsized(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """Without a length."""
    response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(_asked(request, content))
    await response.write_eof()
    return response


async def unranged(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """All of it, whatever is asked for."""
    return web.Response(body=content)


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
    body = _asked(request, content)[::-1]
    return await _send(request, content, body, None, **{"Content-Encoding": "gzip"})


async def disagreeing(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """It goes by another list."""
    return web.Response(status=409, headers={wire.FAULT_HEADER: "another list"})


def refusing(fault: Fault) -> Sending:
    """It never has a piece to give, and says why."""

    async def send(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        return web.Response(status=503, headers={wire.FAULT_HEADER: fault.value})

    return send


def another_total(total: int) -> Sending:
    """The right bytes, of a blob that is said to have another size."""

    async def send(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        return await _send(request, content, _asked(request, content), total=total)

    return send


def cut(at: int) -> Sending:
    """The connection ends after `at` bytes of what was asked for, or so many before its end."""

    async def send(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        assert request.transport is not None
        body = _asked(request, content)
        response = await _begin(request, content, len(body))
        if at:
            await response.write(body[:at])
        request.transport.close()
        return response

    return send


def paused(at: int, go_on: asyncio.Event, sending: Sending = whole) -> Sending:
    """All before byte `at` of the content as it is; what comes after, when told to, as `sending`
    sends it.
    """

    async def send(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        start, stop = asked_range(request, len(content))
        if start < at < stop and not go_on.is_set() and sending is whole:
            response = await _begin(request, content, stop - start)
            await response.write(content[start:at])
            await go_on.wait()
            await response.write(content[at:stop])
            return response
        if stop <= at:
            return await whole(request, content)
        await go_on.wait()
        return await sending(request, content)

    return send


async def stalling(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """Half of it, and then nothing, on an open connection."""
    body = _asked(request, content)
    response = await _begin(request, content, len(body))
    await response.write(body[: len(body) // 2])
    await asyncio.sleep(_NEVER_S)
    return response


async def silent(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """Not even a head."""
    return await hanging(request)


def holding(
    *contents: bytes,
    sending: Sending = whole,
    size: int | None = None,
    name: str | None = None,
    listed: bytes | None = None,
) -> Holding:
    """Serve these, as `sending` does. `size` is what HEAD says, `name` the digest under which they
    are, and `listed` what the piece list is of, if not the truth.
    """
    held = {name or sha256(content): content for content in contents}
    lists = {digest: content if listed is None else listed for digest, content in held.items()}
    return Holding(held, lists, sending, size)


def asked_range(request: web.BaseRequest, size: int) -> tuple[int, int]:
    """The first byte that is asked for, and the one after the last."""
    first, _, last = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
    return int(first), min(size, int(last) + 1) if last else size


def _asked(request: web.BaseRequest, content: bytes) -> bytes:
    start, stop = asked_range(request, len(content))
    return content[start:stop]


async def _begin(
    request: web.BaseRequest,
    content: bytes,
    length: int,
    total: int | None = None,
    **headers: str,
) -> web.StreamResponse:
    ranged = "Range" in request.headers
    response = web.StreamResponse(status=206 if ranged else 200, headers=headers)
    response.content_type = IMAGE_MANIFEST if "/manifests/" in request.path else "x/y"
    response.content_length = length
    if ranged:
        start, stop = asked_range(request, len(content))
        size = len(content) if total is None else total
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    await response.prepare(request)
    return response


async def _send(
    request: web.BaseRequest,
    content: bytes,
    body: bytes,
    total: int | None = None,
    **headers: str,
) -> web.StreamResponse:
    response = await _begin(request, content, len(body), total, **headers)
    await response.write(body)
    await response.write_eof()
    return response
