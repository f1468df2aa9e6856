"""The listener: aiohttp's low-level server, made to answer in the OCI form whatever happens.

aiohttp parses HTTP; what it cannot parse (bad request lines, oversized headers, both lengths) it
answers in plain text, so its connection class is replaced here for that one method. No aiohttp
application, router or middleware: `spec.routes` is the router.
"""

import asyncio
import logging
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Self

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from oci_mesh.errors import ConfigError, OciError, RequestInvalid, StorageFailed
from oci_mesh.registry import responses

_log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# Also the time a client has to send its request's headers. containerd reuses idle connections
# within a pull; a minute covers the pause between two layers.
KEEPALIVE_S: Final = 75.0

# The kernel gives up on a connection whose client has taken nothing for this long. sendfile
# runs in the kernel too, so this is the deadline of a download.
CLIENT_STALL_S: Final = 300

# A request may be refused before its body is read. For so long more of it is read and dropped, or
# the client's kernel would throw the refusal away with the connection.
LINGER_S: Final = 2.0

# After the drain: for the last bytes of answers to go out, and for cut requests to notice. aiohttp
# waits this long twice, and takes 0 for "without end".
CUT_S: Final = 0.5

# Connections waiting to be accepted: a whole cluster may start a pod at one moment.
BACKLOG: Final = 1024

# For TLS to begin, on a listener that has it: two round trips, and a machine that is busy. A client
# that says nothing is dropped then.
HANDSHAKE_S: Final = 5

# TLS that has not begun yet. A cluster that starts at one moment gets through this in a second or
# two; strangers that say nothing take up no more than this (some 20 MB).
MAX_HANDSHAKES: Final = 512

# Where connections are limited, so many times more are taken while all are busy: a node that many
# others ask for something at one moment is not to seem dead. With TLS each costs some 50 KiB.
MAX_CROWD: Final = 8

# Where it counts as idle. Another request may just be on its way on one that was used right now,
# and would be lost.
UNUSED_S: Final = 1.0

# As much as one TLS record has.
READ_BYTES: Final = 16 * 1024

# A request line with 64 tags of 128 characters.
MAX_LINE_BYTES: Final = 16 * 1024


# Turns of the event loop from accepting a connection to its `connection_made`. If the listener were
# closed between, asyncio would leave the connection open, and nobody knows of it.
ACCEPT_STEPS: Final = 3

# Requests that change nothing: nobody misses their end when their client has gone.
_READS: Final = frozenset({"GET", "HEAD"})


class BadRequest(RequestInvalid):
    """HTTP itself was violated."""

    code = "UNSUPPORTED"


class _Connection(RequestHandler):
    """aiohttp's connection, whose own errors are in the OCI form too.

    When it is lost, a read that it carries is cancelled at once, for that may wait long for bytes
    which are on their way. (aiohttp's `handler_cancellation` would do it to everything: a push
    whose bytes are here goes on to be stored and announced without its client.)
    """

    __slots__ = ("asked", "reading")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reading: asyncio.Task[Any] | None = None
        self.asked = False

    @property
    def is_idle(self) -> bool:
        """Whether it was used, and is kept for another request."""
        return self.asked and self._current_request is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, CLIENT_STALL_S * 1000
            )

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.reading is not None:
            self.reading.cancel()

    def close(self) -> None:
        """Take no more requests. aiohttp's leaves an idle connection open and does not read it any
        more: what its client sends now would hang there until the drain is over.
        """
        super().close()
        if self._current_request is None and not self._messages:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # the client went: nobody to answer, nothing that failed
        if request.writer.output_size > 0:
            _log.error("%s %s failed half-way", request.method, request.path, exc_info=exc)
            raise ConnectionResetError("failed after the headers went out") from exc
        problem: OciError
        if status < 500:
            problem = BadRequest(f"not a valid HTTP request: {(message or '')[:200]}")
        else:
            _log.error("%s %s failed", request.method, request.path, exc_info=exc)
            problem = StorageFailed("internal error; the node's log says more")
        response = responses.error(problem)
        response.force_close()
        return response


class _Server(web.Server):
    """aiohttp's, that keeps about `limit` connections open, if that is not 0.

    Beyond it the longest idle one goes; where none is, one more is taken all the same, and closed
    after its answer: what others wait for here (a piece, news) is not refused.
    """

    def __init__(self, handler: Handler, limit: int, **kwargs: Any) -> None:
        super().__init__(handler, **kwargs)
        self._limit = limit
        self._used: dict[RequestHandler, float] = {}  # when last; the longest unused first

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        now = self._loop.time()
        self._used[handler] = now
        if not self._is_crowded:
            return
        for other, used in self._used.items():
            if used > now - UNUSED_S:
                break
            if isinstance(other, _Connection) and other.is_idle:
                del self._used[other]
                other.force_close()
                return
        if len(self._used) > self._limit * MAX_CROWD:
            _log.warning("refused a connection: %d are open and busy", len(self._used) - 1)
            self._loop.call_soon(transport.abort)  # not before aiohttp has begun with it

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._used.pop(handler, None)

    def asked(self, connection: _Connection) -> None:
        """Note that a request came on it."""
        connection.asked = True
        if self._used.pop(connection, None) is not None:
            self._used[connection] = self._loop.time()

    def answered(self, connection: _Connection, response: web.StreamResponse) -> None:
        """Note that it is answered, with this; the last one, if there are too many."""
        if self._is_crowded:
            self._used.pop(connection, None)
            response.force_close()

    @property
    def _is_crowded(self) -> bool:
        return 0 < self._limit < len(self._used)


class _Runner(web.ServerRunner):
    """aiohttp's runner, which waits for `drain` once nothing new comes in."""

    def __init__(self, server: web.Server, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(server, shutdown_timeout=CUT_S)
        self._drain = drain

    async def shutdown(self) -> None:
        await self._drain()


class _TurnedAway(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class _Handshake(SSLProtocol):
    """asyncio's TLS, which can be broken off before it has begun."""

    # Allocated for each connection (by default 256 KiB), and filled by requests, which are small.
    max_size = READ_BYTES

    below: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.below = transport
        super().connection_made(transport)


class _Handshakes:
    """Begins TLS on new connections, as asyncio would, but not on any number at a time."""

    def __init__(self, connections: Callable[[], asyncio.Protocol], tls: ssl.SSLContext) -> None:
        self._connections = connections
        self._tls = tls
        self._handshakes: dict[asyncio.Future[None], _Handshake] = {}

    def __call__(self) -> asyncio.BaseProtocol:
        if len(self._handshakes) >= MAX_HANDSHAKES:
            return _TurnedAway()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        done.add_done_callback(self._end)
        handshake = self._handshakes[done] = _Handshake(
            loop,
            self._connections(),
            self._tls,
            done,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_S,
        )
        return handshake

    def close(self) -> None:
        """Break off those under way."""
        for handshake in list(self._handshakes.values()):
            if handshake.below is not None:
                handshake.below.abort()

    def _end(self, done: asyncio.Future[None]) -> None:
        handshake = self._handshakes.pop(done)
        if (error := done.exception()) and handshake.below is not None:
            host = handshake.below.get_extra_info("peername")[0]
            _log.info("refused a connection from %s: %s", host, error)


class _Site(web.TCPSite):
    """aiohttp's listener, with bounded handshakes."""

    __slots__ = ("_handshakes",)

    async def start(self) -> None:
        await web.BaseSite.start(self)
        connections, tls = self._runner.server, self._ssl_context
        assert connections is not None
        self._handshakes = None if tls is None else _Handshakes(connections, tls)
        self._server = await asyncio.get_running_loop().create_server(
            self._handshakes or connections, self._host, self._port, backlog=self._backlog
        )

    async def stop(self) -> None:
        if isinstance(self._server, asyncio.Server):  # or it could not be started
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            for _ in range(ACCEPT_STEPS):
                await asyncio.sleep(0)
        await super().stop()
        if self._handshakes is not None:
            self._handshakes.close()


class RegistryServer:
    """Listens on one address and hands requests to `handler`, or to one of `pages` by exact path;
    with `tls`, only over that.

    `async with RegistryServer(...) as server:` serves until the block ends, then drains: no new
    connections, and requests under way get `drain_s` seconds. If `max_connections` is not 0, no
    more are kept open than that; up to `MAX_CROWD` times as many for the time of one request.
    """

    def __init__(
        self,
        handler: Handler,
        host: str,
        port: int,
        *,
        pages: Mapping[str, Handler] | None = None,
        drain_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
        max_connections: int = 0,
    ) -> None:
        self._handler = handler
        self._pages = pages or {}
        self._host = host
        self._port = port
        self._drain_s = drain_s
        self._tls = tls
        self._max_connections = max_connections
        self._runner: _Runner | None = None
        self._server: _Server
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port as bound: port 0 has become a real one."""
        assert self._runner is not None, "not started"
        host, port = self._runner.addresses[0][:2]
        return str(host), int(port)

    @property
    def authority(self) -> str:
        """`host:port` as bound, in the form that it has in a URL."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def url(self) -> str:
        """Where clients reach it, without a slash at the end."""
        return f"{'http' if self._tls is None else 'https'}://{self.authority}"

    async def __aenter__(self) -> Self:
        self._server = _Server(
            self._route,
            self._max_connections,
            access_log=None,
            auto_decompress=False,  # a digest is over the bytes as sent
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )
        self._runner = _Runner(self._server, self._drain)
        await self._runner.setup()
        try:
            site = _Site(
                self._runner, self._host, self._port, backlog=BACKLOG, ssl_context=self._tls
            )
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror}; "
                "is another process there? Choose another address, or port 0 for any"
            ) from error
        return self

    async def __aexit__(self, *exception: Any) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._drain_s):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("cut %d requests after %.1f s", self._under_way, self._drain_s)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        page = self._pages.get(request.path)
        connection = request.protocol
        assert isinstance(connection, _Connection)
        self._server.asked(connection)
        self._under_way += 1
        self._idle.clear()
        if request.method in _READS:
            connection.reading = asyncio.current_task()
        try:
            response = await (self._handler(request) if page is None else page(request))
            self._server.answered(connection, response)
            return response
        finally:
            connection.reading = None
            self._under_way -= 1
            if self._under_way == 0:
                self._idle.set()
