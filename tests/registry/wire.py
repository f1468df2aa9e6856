"""HTTP as bytes on a socket: what a client that keeps no rule can send, and what comes back."""

import asyncio
import json
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

# An answer takes milliseconds: whoever waits this long has found a hang.
HANG_S = 30.0

HOST = b"Host: registry.example\r\n"

# Sent after everything: its answer shows that the connection survived, and then ends it.
_LAST = b"GET /last-of-all HTTP/1.1\r\nHost: registry.example\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """One response. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The OCI code of an error, checked for its form; None if this is no error."""
        if self.status < 400 or not self.body:
            return None
        assert self.headers["content-type"] == "application/json"
        document: Any = json.loads(self.body)
        assert [*document] == ["errors"], document
        (error,) = document["errors"]
        assert isinstance(error["message"], str)
        return str(error["code"])


def request(
    line: str, body: bytes | None = None, headers: bytes = b"", *, chunked: bool = False
) -> bytes:
    """A request as an honest client sends it; `line` is method and target."""
    if chunked and body is not None:
        headers += b"Transfer-Encoding: chunked\r\n"
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    elif body is not None:
        headers += b"Content-Length: %d\r\n" % len(body)
    return line.encode() + b" HTTP/1.1\r\n" + HOST + headers + b"\r\n" + (body or b"")


async def exchange(address: tuple[str, int], sent: bytes) -> tuple[list[Answer], bool]:
    """Send bytes on a connection of their own; return all answers, and if it was closed on us.

    A server that neither answers nor closes is a `TimeoutError`.
    """
    received = await _converse(address, sent + _LAST)
    answers = parse_answers(received)
    survived = answers and answers[-1].status == 404 and b"/last-of-all" in answers[-1].body
    return (answers[:-1], False) if survived else (answers, True)


def parse_answers(received: bytes, *, whole: bool = True) -> list[Answer]:
    """All responses in a stream; AssertionError if it is not made of `whole` ones."""
    answers = []
    while received:
        head, blank, received = received.partition(b"\r\n\r\n")
        assert blank, f"cut off in the headers: {head[:200]!r}"
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version.startswith("HTTP/"), status_line
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert "transfer-encoding" not in headers, headers
        length = int(headers.get("content-length", 0))
        assert len(received) >= length or not whole, f"cut off in the body: {head!r}"
        answers.append(Answer(int(status), headers, received[:length]))
        received = received[length:]
    return answers


class Raw:
    """A connection on which every byte is sent by hand."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def send(self, data: bytes) -> None:
        """Send, and nothing else."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> Answer:
        """The next response."""
        async with asyncio.timeout(HANG_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            (answer,) = parse_answers(head, whole=False)
            length = int(answer.headers.get("content-length", 0))
            return replace(answer, body=await self._reader.readexactly(length))

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        async with asyncio.timeout(HANG_S):
            return await self._reader.read()

    async def close(self, *, reset: bool = False) -> None:
        """Go, politely or with a reset."""
        if reset and not self._writer.is_closing():
            linger = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


async def _converse(address: tuple[str, int], sent: bytes) -> bytes:
    """Send and receive side by side, so that a reset while sending loses no answer."""
    loop = asyncio.get_running_loop()
    received = bytearray()
    with socket.create_connection(address) as connection:
        connection.setblocking(False)

        async def send() -> None:
            with suppress(ConnectionError):  # it may answer before it has read everything
                await loop.sock_sendall(connection, sent)

        async def receive() -> None:
            with suppress(ConnectionResetError):  # closed with bytes of ours unread
                while chunk := await loop.sock_recv(connection, 65536):
                    received.extend(chunk)

        async with asyncio.timeout(HANG_S):
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(send())
                await receive()
                sending.cancel()
    return bytes(received)
