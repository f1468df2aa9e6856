"""Pieces for other nodes: of blobs that this node has, and of those that are on their way to it.

A request for what is not here yet waits, if the swarm says so. What is here goes out in turn
(`gate`), read and written whole: for so few bytes at a time sendfile costs asyncio more than the
copy does (a fifth of a node's CPU, measured), and TLS would need the copy anyway.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from aiohttp import web

from oci_mesh.errors import BlobUnknown, OciError, RangeInvalid
from oci_mesh.mesh.fetch import Fetch
from oci_mesh.mesh.proofs import Peer, Proofs
from oci_mesh.mesh.statements import Statements
from oci_mesh.mesh.transfer import Tools
from oci_mesh.mesh.wire import (
    BANNED_HEADER,
    COLD,
    FAULT_HEADER,
    FINAL_HEADER,
    FRONTIER_HEADER,
    LIST_HEADER,
    PIECE_HEADER,
    SLOT_HEADER,
    WAIT_HEADER,
    Lookup,
)
from oci_mesh.sources import Source
from oci_mesh.spec.byte_range import ByteRange, parse_range
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.routes import GetBlob, parse_request
from oci_mesh.spec.scope import parse_scope
from oci_mesh.store.base import Blob, Partial
from oci_mesh.swarm.accusations import MAX_NAMED, Accusations
from oci_mesh.swarm.events import Refuse
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.pieces import SMALL_BYTES, PieceMap
from oci_mesh.swarm.statement import Statement
from oci_mesh.swarm.swarm import MAX_WAIT_S
from oci_mesh.swarm.view import SLOTS

# Handed to the kernel ahead of what the network takes. More would be out of the gate's hands: the
# pieces of many turns would wait there, and all leave together, late.
UNSENT_BYTES: Final = 256 * 1024

# A node that does not take so many bytes within so many seconds is cut off: it stands still, and
# a few like it would have all turns that there are. (17 kB/s; a slow link has more, for a piece.)
TAKEN_BYTES: Final = 256 * 1024
TAKEN_S: Final = 15.0

# Blobs of this node of which it is kept who is accused by those who ask for them: about what goes
# out at one time. What is forgotten is soon said again.
MAX_HEARD: Final = 32

_SLOT_DIGITS: Final = len(str(SLOTS - 1))

Sent = Callable[[web.BaseRequest, int], None]
Find = Callable[[str, Digest], Fetch | None]


def is_piece(request: web.BaseRequest) -> bool:
    """Whether a node asks in the way of a swarm."""
    return request.method == "GET" and SLOT_HEADER in request.headers


class Pieces:
    """`local` is what this node has, `find` gives the fetch of a blob that is on its way; `peer` is
    the node that asks, and `proofs` say what it may have.
    """

    def __init__(
        self,
        local: Source,
        statements: Statements,
        tools: Tools,
        find: Find,
        peer: Peer,
        sent: Sent,
        proofs: Proofs,
    ) -> None:
        self._local = local
        self._statements = statements
        self._gate = tools.gate
        self._peers = tools.peers
        self._find = find
        self._peer = peer
        self._sent = sent
        self._proofs = proofs
        self._heard: OrderedDict[Digest, Accusations] = OrderedDict()

    async def statement(self, request: web.BaseRequest, asked: Lookup) -> Statement:
        """The list of a blob's pieces, this node's own or the one by which it fetches the blob.

        Raises `BlobUnknown`, `DigestInvalid`, `NameInvalid`.
        """
        repository, digest = str(parse_scope(asked.repository)), Digest.parse(asked.digest)
        await self._proofs.check(request, repository, digest)
        try:
            await self._local.stat(repository, digest)
            return await self._statements.of(repository, digest)
        except BlobUnknown:
            fetch = self._find(repository, digest)
            if fetch is None or fetch.statement is None:
                raise
            return fetch.statement

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """A piece, or why not."""
        path, _, query = request.path_qs.partition("?")
        try:
            asked = parse_request(request.method, path, query, scoped=True)
            if isinstance(asked, GetBlob):
                await self._proofs.check(request, asked.repository, asked.digest)
                return await self._piece(request, asked)
        except BlobUnknown:
            pass
        except OciError as error:
            headers = dict(error.headers)
            return web.Response(status=error.status, text=error.message, headers=headers)
        return _refuse(404, Fault.MISSING)

    async def _piece(self, request: web.BaseRequest, asked: GetBlob) -> web.StreamResponse:
        fetch = self._find(asked.repository, asked.digest)
        if fetch is not None and fetch.is_arriving:  # then it is no use to ask the store each time
            return await self._arriving(request, asked)
        try:
            blob = await self._local.blob(asked.repository, asked.digest)
        except BlobUnknown:
            return await self._arriving(request, asked)
        async with blob:
            part = _part(request, blob.size)
            pieces, sworn = PieceMap(blob.size), ""
            if blob.size > SMALL_BYTES:
                if not request.headers.get(LIST_HEADER):
                    raise _size_differs(blob.size)
                statement = await self._statements.of(asked.repository, asked.digest)
                if request.headers.get(LIST_HEADER) == COLD:
                    sworn = self._sworn(statement, _piece(pieces, part))
                elif request.headers.get(LIST_HEADER) != statement.list_id:
                    return _refuse(409, "another list")
            uplink, last = self._gate.uplink, self._is_last(request, asked.digest)
            is_busy = FINAL_HEADER not in request.headers and uplink.is_busy(last=last)
            if is_busy or uplink.is_full(last=last):
                return _refuse(503, Fault.BUSY)
            return await self._send(request, blob, part, pieces.count, sworn, last=last)

    def _is_last(self, request: web.BaseRequest, digest: Digest) -> bool:
        """Whether who asks for what is here is sent it after all others, as a swarm would say."""
        peer, named = self._peer(request), self._named(request)
        accusations = self._heard.get(digest)
        if accusations is None and named:
            accusations = self._heard[digest] = Accusations()
            if len(self._heard) > MAX_HEARD:
                self._heard.popitem(last=False)
        if accusations is not None:
            self._heard.move_to_end(digest)
            accusations.hear(peer, named)
            if accusations.is_accused(peer):
                return True
        return self._peers.is_banned(peer)

    def _named(self, request: web.BaseRequest) -> tuple[str, ...]:
        """Nodes that lied to the one that asks, as it says. What is no node's id is ignored."""
        text: str = request.headers.get(BANNED_HEADER, "")
        if not text or not self._peers.knows(self._peer(request)):
            return ()
        return tuple(i for i in text.split(",", MAX_NAMED)[:MAX_NAMED] if self._peers.knows(i))

    def _sworn(self, statement: Statement, piece: int) -> str:
        """This node's word for a piece of what it has, for those who have no list."""
        signer = self._statements.signer
        piece_hash = statement.piece_hash(piece)
        return signer.sign_piece(statement.digest, statement.size, piece, piece_hash).text

    async def _arriving(self, request: web.BaseRequest, asked: GetBlob) -> web.StreamResponse:
        fetch = self._find(asked.repository, asked.digest)
        if fetch is None:
            return _refuse(404, Fault.MISSING)
        headers = request.headers
        wait_s = _seconds(headers.get(WAIT_HEADER))
        transfer = await fetch.under_way(wait_s)
        if transfer is None:
            return _refuse(503, Fault.NOT_YET)
        list_id = headers.get(LIST_HEADER, "")
        if list_id != transfer.list_id:
            if COLD in (list_id, transfer.list_id):  # with a list or without one: both may be right
                return _refuse(503, Fault.NOT_YET)
            return _refuse(409, "another list")
        assembly = transfer.assembly
        pieces = assembly.pieces
        part = _part(request, pieces.size)
        piece = _piece(pieces, part)
        fetch.hold(assembly)
        try:
            answer = await transfer.asked(
                piece,
                self._peer(request),
                _slot(headers.get(SLOT_HEADER)),
                wait_s,
                FINAL_HEADER in headers,
                self._named(request),
            )
            if isinstance(answer, Refuse):
                status = 404 if answer.fault is Fault.MISSING else 503
                return _refuse(status, answer.fault, transfer.frontier)
            sworn = ""
            if assembly.sworn is not None:
                sworn = assembly.sworn.text(piece)
                if not sworn:  # it is from an earlier time, and nobody vouches for it
                    return _refuse(503, Fault.NOT_YET, transfer.frontier)
            frontier, last = transfer.frontier, answer.last
            return await self._send(request, assembly.partial, part, frontier, sworn, last=last)
        finally:
            await fetch.let_go(assembly)

    async def _send(
        self,
        request: web.BaseRequest,
        source: Blob | Partial,
        part: ByteRange,
        frontier: int,
        sworn: str,
        *,
        last: bool,
    ) -> web.StreamResponse:
        if last and not await self._gate.idle():
            return _refuse(503, Fault.BUSY, frontier)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(part.length),
            "Content-Range": part.content_range(source.size),
            FRONTIER_HEADER: str(frontier),
        }
        if sworn:
            headers[PIECE_HEADER] = sworn
        # Unlike a `StreamResponse` it keeps its head until the first bytes go, in one call.
        response = web.Response(status=206, headers=headers)
        async with self._gate.turn(part.length, last=last):
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the node went away")
            _keep_little_unsent(transport)
            await response.prepare(request)
            slice_bytes = min(TAKEN_BYTES, self._gate.slice_bytes)
            for start in range(part.start, part.stop, slice_bytes):
                stop = min(part.stop, start + slice_bytes)
                await self._gate.pace(stop - start)
                # The server cancels who waits at a connection that is gone. (Most slices are taken
                # at once: a `timeout` for each would cost more than this.)
                cut = asyncio.get_running_loop().call_later(TAKEN_S, transport.abort)
                try:
                    await _send_slice(transport, response, source, start, stop)
                finally:
                    cut.cancel()
            await response.write_eof()
        self._sent(request, part.length)
        return response


async def _send_slice(
    transport: asyncio.Transport,
    response: web.StreamResponse,
    source: Blob | Partial,
    start: int,
    stop: int,
) -> None:
    if transport.is_closing():  # asyncio would call it a fault of ours
        raise ConnectionResetError("the node went away")
    if isinstance(source, Partial):
        await response.write(source.read(start, stop))
    else:
        async for chunk in source.chunks(start, stop):
            await response.write(chunk)


def _keep_little_unsent(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def _part(request: web.BaseRequest, size: int) -> ByteRange:
    """The range that is asked for. One that is not all inside is refused, with the size: whoever
    asks believes that the blob has another.
    """
    asked = request.headers.get("Range", "")
    part = parse_range(asked, size)
    if part is None or asked != f"bytes={part.start}-{part.stop - 1}":
        raise _size_differs(size)
    return part


def _piece(pieces: PieceMap, part: ByteRange) -> int:
    """Which one a range is; what is beside it may not be right yet."""
    piece = pieces.at(part.start)
    if (part.start, part.stop) != pieces.span(piece):
        raise _size_differs(pieces.size)
    return piece


def _size_differs(size: int) -> RangeInvalid:
    return RangeInvalid(
        f"not a piece of {size} bytes", headers={"Content-Range": f"bytes */{size}"}
    )


def _refuse(status: int, fault: str, frontier: int = 0) -> web.Response:
    return web.Response(
        status=status, headers={FAULT_HEADER: fault, FRONTIER_HEADER: str(frontier)}
    )


def _seconds(text: str | None) -> float:
    """A wait in a header; none for what is no number of seconds."""
    try:
        return min(MAX_WAIT_S, max(0.0, float(text or 0)))  # so nan becomes 0
    except ValueError:
        return 0.0


def _slot(text: str | None) -> int:
    """One in a header, up to the last of the last wave; the first for what is none."""
    if not text or not text.isascii() or not text.isdigit() or len(text) > _SLOT_DIGITS:
        return 0
    slot = int(text)
    return slot if slot < SLOTS else 0
