"""The bulk receive path: ranges of blobs from other nodes, for half of the CPU of aiohttp's client.

A pool of kept-alive HTTP/1.1 connections with one request each at a time. All receive into one
buffer, and what has come is handed on at once to a plain function, the sink: nothing is queued,
nothing copied, and no `bytes` are made of a body. Content is not verified here.

What it does not do: redirects, compression, proxies, pipelining, cookies, bodies of unknown length.
"""

import asyncio
import re
import ssl as tls
from asyncio.sslproto import SSLProtocol
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Self

from oci_mesh.errors import PeerError
from oci_mesh.mesh import bulk_http
from oci_mesh.mesh.bulk_connection import (
    Connection,
    NoneFree,
    Order,
    PeerCut,
    PeerNonsense,
    PeerStalled,
    PeerUnreachable,
    Sink,
)
from oci_mesh.mesh.bulk_http import Head
from oci_mesh.mesh.client import CONNECT_S, MAX_CONNECTIONS
from oci_mesh.swarm.rate import Rate

__all__ = [
    "BulkClient",
    "Head",
    "NoneFree",
    "PeerCut",
    "PeerNonsense",
    "PeerStalled",
    "PeerUnreachable",
    "Sink",
]

# As much as one call of the kernel, and one of the sink, handles. Larger gains little, and the
# event loop is away for as long as the sink takes: about 1 ms to hash this and write it.
BUFFER_BYTES: Final = 1024 * 1024

# Received by TLS at a time, and kept for each connection twice: by default 256 KiB, which for a
# hundred connections is more than all the rest of a node.
SESSION_BYTES: Final = 64 * 1024

# Connections kept without a request, in all and to one node: a transfer asks the same few nodes
# again and again, for a few pieces at once. With TLS each has buffers of its own.
MAX_IDLE: Final = 96
MAX_IDLE_PER_PEER: Final = 12

# Shorter than the other end keeps them (75 s), or requests would be lost to connections that it
# is closing just then.
IDLE_S: Final = 60.0

# For a connection to become free, where all are busy. A swarm waits longer for any answer, and
# would take this for a fault of the node.
FREE_S: Final = 2.0

# How late a stall may be noticed. One timer for all connections, instead of one for each.
TICK_S: Final = 0.25

_ADDRESS: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+(?:%[0-9A-Za-z._-]+)?)\]|([0-9A-Za-z._-]+)):([0-9]{1,5})"
)


class BulkClient:
    """One pool for all peers; `async with` it.

    `headers` go with every request. With `ssl`, which is called for each new connection,
    connections are TLS to what has a certificate for `server_name(peer)` (by default, for the host
    in the address), and `check` says after the handshake whether the other end is who it should
    be: it gets the session and the `peer` of the request, and raises `PeerError` or `ValueError`.
    At most `limit` connections are open. All bodies together come at `rate`, if there is one.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        ssl: Callable[[], tls.SSLContext] | None = None,
        server_name: Callable[[str | None], str] | None = None,
        check: Callable[[tls.SSLObject, str | None], None] | None = None,
        limit: int = MAX_CONNECTIONS,
        rate: Rate | None = None,
    ) -> None:
        self._fields = bulk_http.fields(headers)
        self._ssl = ssl
        self._server_name = server_name
        self._check = check
        self._limit = limit
        self._rate = rate
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._slots = asyncio.Semaphore(limit)  # one for each request under way, first come first
        self._busy = 0
        self._connecting: set[asyncio.Timeout] = set()
        self._open: set[Connection] = set()
        self._idle = _Idle()
        self._tick: asyncio.TimerHandle | None = None
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Close everything; requests under way raise `PeerError`."""
        self._closing = True
        for scope in self._connecting:
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())
        for connection in list(self._open):
            connection.fail(PeerCut(f"{connection.address}: this node is stopping"))
        for _ in range(self._limit):
            await self._slots.acquire()  # all requests have ended
        await self._none_open.wait()

    async def get(
        self,
        address: str,
        path: str,
        headers: Mapping[str, str],
        sink: Sink | None,
        *,
        length: int,
        head_s: float,
        stall_s: float,
        peer: str | None = None,
    ) -> Head:
        """GET `path`, already escaped, from the node `peer` at `address` (`host:port`).

        With status 200 or 206 the body has exactly `length` bytes, and they go to `sink` in parts
        of any size, each a view that is valid only during the call. With another status the body
        is dropped. The head has to be complete `head_s` seconds after the request was sent; then no
        pause may be longer than `stall_s`. While `limit` connections are busy, a request waits for
        `FREE_S`, in the order of coming.

        Raises `NoneFree`, `PeerUnreachable`, `PeerStalled`, `PeerCut`, `PeerNonsense`, and what
        `sink` raises as it is; the connection is closed then, and when this is cancelled. May be
        repeated; after a failure the sink may have had a part of the body.
        """
        host, port = _split(address)
        if self._closing:
            raise PeerUnreachable(f"{address}: this node is stopping")
        request = bulk_http.request(address, path, self._fields, bulk_http.fields(headers))
        order = Order(request, sink, length, head_s, stall_s)
        await self._take_slot()
        try:
            kept = self._idle.take(address, peer)
            if kept is not None:
                try:
                    return await self._exchange(kept, order)
                except PeerCut:
                    # Most likely it closed an idle connection while we were writing.
                    if kept.answered:
                        raise
            connection = await self._connect(self._connection(address, peer), host, port)
            return await self._exchange(connection, order)
        finally:
            self._busy -= 1
            self._slots.release()

    async def _take_slot(self) -> None:
        if self._slots.locked():
            try:
                async with asyncio.timeout(FREE_S):
                    await self._slots.acquire()
            except TimeoutError:
                raise NoneFree(f"all {self._limit} connections to other nodes are busy") from None
        else:
            await self._slots.acquire()  # at once, so it needs no timer
        self._busy += 1

    async def _exchange(self, connection: Connection, order: Order) -> Head:
        try:
            return await connection.exchange(order)
        finally:
            if connection.reusable:
                self._keep(connection)

    # -- connections

    def _connection(self, address: str, peer: str | None) -> Connection:
        return Connection(address, peer, self._buffer, self._opened, self._lost, self._rate)

    async def _connect(self, connection: Connection, host: str, port: int) -> Connection:
        address = connection.address
        while self._idle and len(self._idle) + self._busy > self._limit:
            self._drop(self._idle.oldest())
        if self._closing:
            raise PeerUnreachable(f"{address}: this node is stopping")
        context = None if self._ssl is None else self._ssl()
        name = None
        if context is not None and self._server_name is not None:
            name = self._server_name(connection.peer)
        try:
            async with asyncio.timeout(CONNECT_S) as scope:
                self._connecting.add(scope)
                try:
                    await _open(connection, host, port, context, name)
                finally:
                    self._connecting.discard(scope)
            if self._check is not None and connection.tls is not None:
                self._check(connection.tls, connection.peer)
        except BaseException as error:
            connection.abort()
            if isinstance(error, TimeoutError):
                raise PeerUnreachable(f"{address} takes no connection") from None
            if isinstance(error, (OSError, ValueError, PeerError)):
                raise PeerUnreachable(f"{address}: {error}") from None
            raise
        return connection

    def _keep(self, connection: Connection) -> None:
        if self._closing:
            connection.abort()
            return
        connection.deadline = asyncio.get_running_loop().time() + IDLE_S
        self._idle.add(connection)
        if self._idle.count(connection.address) > MAX_IDLE_PER_PEER:
            self._drop(self._idle.oldest(connection.address))
        elif len(self._idle) > MAX_IDLE:
            self._drop(self._idle.oldest())

    def _drop(self, connection: Connection) -> None:
        self._idle.discard(connection)
        connection.abort()

    def _opened(self, connection: Connection) -> None:
        self._open.add(connection)
        self._none_open.clear()
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._watch)

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.discard(connection)
        if not self._open:
            self._none_open.set()
            if self._tick is not None:
                self._tick.cancel()
                self._tick = None

    def _watch(self) -> None:
        """Now and then, as long as anything is open: end what has been silent for too long."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in self._open:
            if connection.deadline <= now:
                connection.expire()
        self._tick = loop.call_later(TICK_S, self._watch)


class _Idle:
    """Connections without a request, the longest idle first; of all, and of each address."""

    def __init__(self) -> None:
        self._all: dict[Connection, None] = {}
        self._by_address: defaultdict[str, dict[Connection, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._all)

    def count(self, address: str) -> int:
        """How many there are to an address."""
        return len(self._by_address[address])

    def oldest(self, address: str | None = None) -> Connection:
        """The one that is idle for longest, of all or to an address; there is one."""
        return next(iter(self._all if address is None else self._by_address[address]))

    def add(self, connection: Connection) -> None:
        """One more, which has been used just now."""
        self._all[connection] = self._by_address[connection.address][connection] = None

    def discard(self, connection: Connection) -> None:
        """It is none of these, or no longer."""
        self._all.pop(connection, None)
        same = self._by_address[connection.address]
        same.pop(connection, None)
        if not same:
            del self._by_address[connection.address]

    def take(self, address: str, peer: str | None) -> Connection | None:
        """The one used last, so that the others may grow old. `peer` was checked when it opened."""
        for connection in reversed(self._by_address.get(address, {})):
            if connection.peer == peer and connection.reusable:
                self.discard(connection)
                return connection
        return None


def _split(address: str) -> tuple[str, int]:
    """Host and port. Raises `PeerUnreachable`: addresses are what other nodes say."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[3]) > 65535:
        raise PeerUnreachable(f"not an address: {address[:100]!r}")
    return match[1] or match[2], int(match[3])


class _Session(SSLProtocol):
    """asyncio's TLS, with a smaller buffer: it is allocated, and filled, for each connection."""

    max_size = SESSION_BYTES


async def _open(
    connection: Connection, host: str, port: int, context: tls.SSLContext | None, name: str | None
) -> None:
    """As `create_connection`, which has no way to choose the size of the buffers of TLS."""
    loop = asyncio.get_running_loop()
    if context is None:
        await loop.create_connection(lambda: connection, host, port)
        return
    shaken: asyncio.Future[None] = loop.create_future()
    transport, _ = await loop.create_connection(
        lambda: _Session(
            loop, connection, context, shaken, server_side=False, server_hostname=name or host
        ),
        host,
        port,
    )
    try:
        await shaken
    except BaseException:
        transport.abort()
        raise
