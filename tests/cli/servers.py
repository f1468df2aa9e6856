"""Servers that fail on purpose: one that cuts connections, one that answers from a script."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import web
from yarl import URL


@dataclass
class Cuts:
    """Forwards TCP; connection number i is cut after `limits[i]` bytes in one direction, those
    after the last limit never. `up` and `down` count what was forwarded.
    """

    limits: list[int]
    direction: str
    url: str = ""
    up: int = 0
    down: int = 0
    connections: int = 0

    async def forward(
        self, to: URL, here: asyncio.StreamReader, back: asyncio.StreamWriter
    ) -> None:
        """One connection."""
        limit = None
        if self.connections < len(self.limits):
            limit = self.limits[self.connections]
        self.connections += 1
        there, onward = await asyncio.open_connection(to.host, to.port)
        ups = limit if self.direction == "up" else None
        downs = limit if self.direction == "down" else None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(here, onward, ups, "up"))
                group.create_task(self._pump(there, back, downs, "down"))
        except* ConnectionError:
            pass
        finally:
            back.transport.abort()
            onward.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        left: int | None,
        direction: str,
    ) -> None:
        while chunk := await reader.read(65536):
            chunk = chunk if left is None else chunk[:left]
            writer.write(chunk)
            await writer.drain()
            setattr(self, direction, getattr(self, direction) + len(chunk))
            if left is not None:
                left -= len(chunk)
                if left == 0:
                    raise ConnectionError("cut on purpose")
        raise ConnectionError("one side has ended")


@asynccontextmanager
async def cutting(to: str, limits: list[int], direction: str) -> AsyncIterator[Cuts]:
    """A proxy to `to` that cuts; its `url` stands for it."""
    cuts = Cuts(limits, direction)
    running: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        with suppress(asyncio.CancelledError):
            await cuts.forward(URL(to), reader, writer)
        running.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    cuts.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield cuts
    finally:
        server.close()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        await server.wait_closed()


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Reply:
    """What a script says once."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Script:
    """Gives these replies in turn, the last for ever; `asked` are the request lines."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = replies
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        """As `Answer`."""
        await request.read()
        self.asked.append(f"{request.method} {request.raw_path}")
        reply = self._replies[min(len(self.asked), len(self._replies)) - 1]
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """An HTTP server with one handler; its URL."""
    application = web.Application(client_max_size=0)
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0, lingering_time=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
