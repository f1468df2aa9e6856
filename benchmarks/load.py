"""The load: HTTP clients that cost far less than the registry they are aimed at.

Blocking sockets and no parsing beyond what is needed. A downloaded body is discarded by the kernel
(MSG_TRUNC) and never copied here; an uploaded one is sent from memory. Correctness is not checked
here beyond status and length: the tests do that.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NoReturn, Self

Address = tuple[str, int]

# No answer for so long is a hang. In the kernel, so that sockets stay blocking: one call per read.
DEADLINE_S: Final = 120

# What docker sends a layer in: Go's io.Copy through net/http's chunked writer.
DOCKER_CHUNK_BYTES: Final = 32 * 1024

_DISCARD_BYTES: Final = 8 * 1024 * 1024
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True)
class Reply:
    """An answer; `rest` is what was read of its body."""

    status: int
    headers: Mapping[str, str]
    rest: bytes

    @property
    def length(self) -> int:
        """Of the body, as announced."""
        return int(self.headers.get("content-length", "0"))


class Client:
    """One HTTP/1.1 connection, kept alive. Raises `AssertionError` for an unexpected status."""

    def __init__(self, address: Address, receive_buffer: int | None = None) -> None:
        self._socket = socket.socket()
        if receive_buffer is not None:  # must be set before the connection is made
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", DEADLINE_S, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect(address)
        self._host = f"{address[0]}:{address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def ask(
        self,
        method: str,
        target: str,
        expect: int,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        body: bytes | memoryview = b"",
    ) -> Reply:
        """A request with a small answer."""
        self.begin(method, target, {**headers, "Content-Length": str(len(body))})
        self._socket.sendall(body)
        return self.finish(expect, method)

    def begin(self, method: str, target: str, headers: Mapping[str, str] = _NO_HEADERS) -> None:
        """Send the head of a request."""
        self._socket.sendall(head(method, target, {"Host": self._host, **headers}))

    def send(self, parts: Iterable[memoryview]) -> None:
        """Send a body as it is."""
        for part in parts:
            self._socket.sendall(part)

    def send_chunked(self, parts: Iterable[memoryview]) -> None:
        """Send a body with chunked encoding, in docker's chunks."""
        for part in parts:
            framed: list[bytes | memoryview] = []
            for at in range(0, len(part), DOCKER_CHUNK_BYTES):
                chunk = part[at : at + DOCKER_CHUNK_BYTES]
                framed += (b"%x\r\n" % len(chunk), chunk, b"\r\n")
            sent = self._socket.sendmsg(framed)
            assert sent == sum(map(len, framed)), "deadline"
        self._socket.sendall(b"0\r\n\r\n")

    def finish(self, expect: int, method: str = "") -> Reply:
        """Read the answer, with all of its body."""
        reply = self.head(expect)
        rest = reply.rest
        while method != "HEAD" and len(rest) < reply.length:
            rest += self._receive(65536)
        return Reply(reply.status, reply.headers, rest)

    def head(self, expect: int) -> Reply:
        """Read the head of an answer; its body is left to `discard` or `trickle`."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive(16384)
        top, _, rest = received.partition(b"\r\n\r\n")
        status_line, *lines = top.decode().split("\r\n")
        status = int(status_line.split()[1])
        assert status == expect, f"{status_line}, expected {expect}: {rest[:300]!r}"
        split = (line.partition(": ") for line in lines)
        return Reply(status, {name.lower(): value for name, _, value in split}, rest)

    def discard(self, size: int) -> None:
        """Take `size` bytes without looking at them."""
        buffer = bytearray(min(_DISCARD_BYTES, size))
        while size:
            taken = self._socket.recv_into(buffer, min(size, len(buffer)), socket.MSG_TRUNC)
            assert taken, "connection closed in the middle of a body"
            size -= taken

    def trickle(self, size: int) -> None:
        """Take what is there, up to `size` bytes."""
        self._receive(size)

    def _receive(self, size: int) -> bytes:
        received = self._socket.recv(size)
        assert received, "connection closed by the registry"
        return received


def head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The head of a request."""
    lines = (f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()))
    return "\r\n".join((*lines, "", "")).encode()


def repeat(
    address: Address, method: str, target: str, accept: str, connections: int, seconds: float
) -> int:
    """Send one request again and again, each connection waiting for its answer; count answers.

    All answers are taken to be as long as the first one.
    """
    message = head(method, target, {"Host": f"{address[0]}:{address[1]}", "Accept": accept})
    length = _answer_length(address, message, method)
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        missing = {}
        for _ in range(connections):
            connection = stack.enter_context(socket.create_connection(address, DEADLINE_S))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(connection, select.EPOLLIN)
            missing[connection.fileno()] = length
            connection.sendall(message)
        done, end_s = 0, time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            events = poll.poll(DEADLINE_S)
            assert events, "no answer"
            for fd, _ in events:
                missing[fd] -= len(os.read(fd, 65536)) or _closed()
                if missing[fd] == 0:
                    missing[fd] = length
                    done += 1
                    os.write(fd, message)
    return done


def _answer_length(address: Address, message: bytes, method: str) -> int:
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.sendall(message)
        received = connection.recv(65536)
        top, _, body = received.partition(b"\r\n\r\n")
        assert b" 200 " in top[:16], received[:300]
        lines = top.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        while method != "HEAD" and len(body) < length:
            body += connection.recv(65536) or _closed()
        return len(top) + 4 + len(body)


def _closed() -> NoReturn:
    raise AssertionError("connection closed by the registry")
