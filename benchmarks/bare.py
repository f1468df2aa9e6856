"""The same work with no registry around it: what this machine, or aiohttp, allows at all.

`python -m benchmarks.bare HOST:PORT` is the least that aiohttp can do for a manifest.
"""

import asyncio
import hashlib
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import web

from benchmarks.load import Address
from benchmarks.processes import Contender
from benchmarks.traffic import Payload

MANIFEST_BYTES: Final = 2048


def store(directory: Path, blob: Payload) -> int:
    """Hash, write, fsync, name, fsync the name: a blob made durable. Returns its bytes."""
    hasher = hashlib.sha256()
    path = directory / blob.digest
    with path.with_suffix(".tmp").open("wb", buffering=0) as file:
        for part in blob.slices():
            hasher.update(part)
            file.write(part)
        os.fsync(file.fileno())
    path.with_suffix(".tmp").rename(path)
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return blob.size


class _Server(socketserver.ThreadingTCPServer):
    request_queue_size = 64  # the clients all connect at once


@contextmanager
def file_server(directory: Path, blob: Payload) -> Iterator[Address]:
    """Answers every request with the blob: a thread per connection, blocking sendfile."""
    with (directory / "bare").open("w+b", buffering=0) as file:
        for part in blob.slices():
            file.write(part)

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                _send(self.request, file, blob.size)

        with _Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield str(server.server_address[0]), int(server.server_address[1])
            finally:
                server.shutdown()
                thread.join()


def _send(connection: socket.socket, file: BinaryIO, size: int) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    sent = 0
    while sent < size:
        sent += os.sendfile(connection.fileno(), file.fileno(), sent, size - sent)


def aiohttp_server() -> Contender:
    """This module as a process."""
    return Contender(
        "aiohttp", lambda _, address: [sys.executable, "-m", "benchmarks.bare", address]
    )


async def _serve(address: str) -> None:
    body = bytes(MANIFEST_BYTES)

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=body)

    host, _, port = address.partition(":")
    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, host, int(port)).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
