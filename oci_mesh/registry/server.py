"""The listener: aiohttp's low-level server, made to answer in the OCI form whatever happens.

aiohttp parses HTTP; what it cannot parse (bad request lines, oversized headers, both lengths) it
answers in plain text, so its connection class is replaced here for that one method. No aiohttp
application, router or middleware: `spec.routes` is the router.
"""

import asyncio
import logging
import socket
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

# A request line with 64 tags of 128 characters.
MAX_LINE_BYTES: Final = 16 * 1024


class BadRequest(RequestInvalid):
    """HTTP itself was violated."""

    code = "UNSUPPORTED"


class _Connection(RequestHandler):
    """aiohttp's connection, whose own errors are in the OCI form too."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, CLIENT_STALL_S * 1000
            )

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
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Runner(web.ServerRunner):
    """aiohttp's runner, which waits for `drain` once nothing new comes in."""

    def __init__(self, server: web.Server, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(server, shutdown_timeout=CUT_S)
        self._drain = drain

    async def shutdown(self) -> None:
        await self._drain()


class RegistryServer:
    """Listens on one address and hands requests to `handler`, or to one of `pages` by exact path.

    `async with RegistryServer(...) as server:` serves until the block ends, then drains: no new
    connections, and requests under way get `drain_s` seconds.
    """

    def __init__(
        self,
        handler: Handler,
        host: str,
        port: int,
        *,
        pages: Mapping[str, Handler] | None = None,
        drain_s: float = 30.0,
    ) -> None:
        self._handler = handler
        self._pages = pages or {}
        self._host = host
        self._port = port
        self._drain_s = drain_s
        self._runner: _Runner | None = None
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
        return f"http://{self.authority}"

    async def __aenter__(self) -> Self:
        server = _Server(
            self._route,
            access_log=None,
            auto_decompress=False,  # a digest is over the bytes as sent
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )
        self._runner = _Runner(server, self._drain)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, self._host, self._port, backlog=BACKLOG)
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
        self._under_way += 1
        self._idle.clear()
        try:
            return await (self._handler(request) if page is None else page(request))
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._idle.set()
