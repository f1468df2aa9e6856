"""A server of raw bytes: answers as a test writes them, rightly or not."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """What was asked of it, and over how many connections."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.address = ""
        self.requests: list[str] = []
        """The heads of all requests."""
        self.accepted = 0
        """Connections, in all."""
        self.open = 0
        """Connections that neither end has closed."""
        self._handlers: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: answer each request, until the client closes."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        self.accepted += 1
        self.open += 1
        try:
            # A task of `start_server` that is cancelled would be logged as a failure.
            with suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
                while True:
                    request = (await reader.readuntil(b"\r\n\r\n")).decode()
                    self.requests.append(request)
                    await self.answer(request, writer)
        finally:
            self.open -= 1
            writer.transport.abort()

    async def stop(self) -> None:
        """End all connections."""
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers)


@asynccontextmanager
async def serving(
    answer: Answer, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """A server on a port of its own."""
    server = RawServer(answer)
    listener = await asyncio.start_server(server.handle, host, 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    server.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        yield server
    finally:
        listener.close()
        await server.stop()


def head(length: int, status: str = "206 Partial Content", *more: str) -> bytes:
    """As our nodes write it."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: x/y", f"Content-Length: {length}", *more]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


def always(*parts: bytes) -> Answer:
    """The same bytes for each request, as separate writes; then nothing, until the next."""

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def then_close(*parts: bytes) -> Answer:
    """Likewise, and then the connection is closed."""

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        await always(*parts)(request, writer)
        writer.close()

    return answer
