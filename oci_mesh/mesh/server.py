"""What a node answers other nodes: gossip, requests to hold copies, and content that it has itself.

Content is served by `content`, which looks only at this node's store: a request between nodes never
makes a third one work, so there are no loops.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from aiohttp import web

from oci_mesh.errors import BlobUnknown, OciMeshError, PeerError
from oci_mesh.mesh import tag_watch, wire
from oci_mesh.mesh.body import read_body
from oci_mesh.mesh.client import STALL_S
from oci_mesh.mesh.door import peer_of
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.pieces import Pieces, is_piece
from oci_mesh.mesh.rendezvous import Rendezvous
from oci_mesh.mesh.replication import Replication
from oci_mesh.mesh.tag_watch import Confirm
from oci_mesh.mesh.wire import Message
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import parse_repository

_log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Service(NamedTuple):
    """A message that others may send, and what it is answered."""

    request: type[Any]
    answer: Callable[[str, Any], Awaitable[object]]
    """Of the sender's id (proved where there is TLS, else as it says) and the message. Raises
    `OciMeshError`s.
    """


class Taking(Protocol):
    """An image under way to this node."""

    @property
    def now(self) -> wire.Taken:
        """How far it is."""
        ...

    async def run(self) -> None:
        """Until `now` is the end of it; failures of others are said there, too."""
        ...


# How often an operator's node hears how far this one is: often enough for a live line.
_SAID_EVERY_S: Final = 0.5

# How often the asking node hears that work goes on: well within what it takes for a stall.
_ALIVE_S: Final = STALL_S / 4


class PeerServer:
    """The handler of the mesh listener."""

    def __init__(
        self,
        gossip: Gossip,
        replication: Replication,
        rendezvous: Rendezvous,
        pieces: Pieces,
        content: Handler,
        confirm: Confirm,
        services: Mapping[str, Service],
        take: Callable[[wire.Take], Taking],
    ) -> None:
        self._gossip = gossip
        self._replication = replication
        self._rendezvous = rendezvous
        self._pieces = pieces
        self._content = content
        self._confirm = confirm
        self._services = services
        self._take = take
        self._handlers: dict[str, Handler] = {
            wire.EXCHANGE_PATH: self._exchange,
            wire.REPLICATE_PATH: self._replicate,
            wire.TAKE_PATH: self._give,
            wire.SWARM_PATH: self._attend,
            wire.STATEMENT_PATH: self._state,
            wire.TAG_PATH: self._look,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        handler = self._handlers.get(request.path)
        if handler is None and request.path in self._services:
            handler = self._serve
        if handler is None:
            if is_piece(request):
                return await self._pieces.handle(request)
            return await self._content(request)
        if request.method != "POST":
            return web.Response(status=405, headers={"Allow": "POST"})
        try:
            return await handler(request)
        except OciMeshError as error:
            _log.warning("%s from %s: %s", request.path, request.remote, error)
            return web.Response(status=400, text=str(error))

    async def _exchange(self, request: web.BaseRequest) -> web.StreamResponse:
        message = await _message(request, wire.Exchange)
        check_sender(request, message.sender.id)
        reply = await self._gossip.answer(message, request.remote or "")
        return _document(reply)

    async def _attend(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = await _message(request, wire.Attend)
        check_sender(request, asked.entry.id)
        return _document(await self._rendezvous.answer(asked))

    async def _state(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = await _message(request, wire.Lookup)
        try:
            return _document(await self._pieces.statement(request, asked))
        except BlobUnknown as error:
            return web.Response(status=404, text=str(error))

    async def _look(self, request: web.BaseRequest) -> web.StreamResponse:
        claim = await _message(request, wire.Claim)
        return _document(await tag_watch.answer(claim, self._confirm))

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        service = self._services[request.path]
        message = await _message(request, service.request)
        return _document(await service.answer(asking(request), message))

    async def _replicate(self, request: web.BaseRequest) -> web.StreamResponse:
        """Lines of `working` until the last one: `held`, or why not."""
        asked = await _message(request, wire.Replicate)
        check_sender(request, asked.sender.id)
        self._gossip.meet(asked.sender, request.remote or "")
        repository, digest = parse_repository(asked.repository), Digest.parse(asked.digest)
        work = partial(self._hold, repository, digest, blob=asked.blob)
        return await _say(request, work, lambda: b"working\n", _ALIVE_S)

    async def _give(self, request: web.BaseRequest) -> web.StreamResponse:
        """Lines of `Taken`."""
        asked = await _message(request, wire.Take)
        check_sender(request, asked.sender.id)
        self._gossip.meet(asked.sender, request.remote or "")
        taking = self._take(asked)

        def now() -> bytes:
            return wire.encode(taking.now) + b"\n"

        async def work() -> bytes:
            await taking.run()
            return now()

        return await _say(request, work, now, _SAID_EVERY_S)

    async def _hold(self, repository: str, digest: Digest, *, blob: bool) -> bytes:
        hold = self._replication.hold_blob if blob else self._replication.hold
        try:
            await hold(repository, digest)
        except OciMeshError as error:
            return f"{error.__cause__ or error}\n".encode()  # what was in the way, if anything
        return b"held\n"


async def _say(
    request: web.BaseRequest,
    work: Callable[[], Coroutine[Any, Any, bytes]],
    now: Callable[[], bytes],
    every_s: float,
) -> web.StreamResponse:
    """Lines of `now` while `work` goes on; its result is the last one. It ends when who asked has
    gone.
    """
    response = web.StreamResponse()
    await response.prepare(request)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work())
        while not task.done():
            await response.write(now())
            await asyncio.wait([task], timeout=every_s)
    await response.write(task.result())
    await response.write_eof()
    return response


def _document(document: object) -> web.Response:
    return web.Response(body=wire.encode(document), content_type="application/json")


def asking(request: web.BaseRequest) -> str:
    """Which node asks: as its certificate proves, or without TLS, as it says."""
    claimed: str = request.headers.get(wire.NODE_HEADER, "")
    return peer_of(request) or claimed


def check_sender(request: web.BaseRequest, claimed: str) -> None:
    """Raise `PeerError` if a message is said to be from another node than sent it."""
    peer = peer_of(request)
    if peer is not None and peer != claimed:
        raise PeerError(f"a message as {claimed[:80]!r} by {peer}")


async def _message(request: web.BaseRequest, kind: type[Message]) -> Message:
    """Raises `PeerError` for what is not of that kind."""
    return wire.decode(await read_body(request, wire.MAX_MESSAGE_BYTES, STALL_S), kind)
