"""The operator's end of the control socket.

With the standard library's HTTP, in a thread: aiohttp takes as long to import as a node to answer.
"""

import asyncio
import errno
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from oci_mesh.control.place import SOCKET, short_path
from oci_mesh.control.wire import MAX_LINE_BYTES, PATH, SILENCE_S, Document, Fault
from oci_mesh.errors import OperationFailed

Answer = TypeVar("Answer")

_FAULT = b'{"error":'

# Of a refusal, as much as is worth showing.
_MAX_REASON_BYTES = 200

_READ_BYTES = 1024 * 1024


class _Connection(HTTPConnection):
    """To a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("node", timeout=SILENCE_S)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)

    def connect(self) -> None:
        self._socket.settimeout(SILENCE_S)
        self._socket.connect(self._path)
        self.sock = self._socket

    def ask(self, verb: str, body: bytes) -> HTTPResponse:
        """Raises `OSError`, or `HTTPException`."""
        self.request("POST", PATH + verb, body)
        return self.getresponse()

    def abort(self) -> None:
        """Close it, also while another thread waits for what comes over it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.close()
        self._socket.close()


class ControlClient:
    """Asks the node whose root directory is `root`; `async with` it.

    Every call raises `OperationFailed`: if no node is there, or it may not be spoken to, or it
    could not do what was asked.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = short_path(root)
        self._socket = ""

    async def __aenter__(self) -> Self:
        try:
            self._socket = self._path.__enter__()
        except OSError as error:
            raise _unreachable(self._root, error) from None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._path.__exit__(None, None, None)

    async def call(self, verb: str, request: Document, kind: type[Answer]) -> Answer:
        """The verb's result, where it has no other documents."""
        last: Answer | None = None
        async for document in self.stream(verb, request, kind):
            last = document
        assert last is not None
        return last

    async def stream(self, verb: str, request: Document, kind: Any) -> AsyncGenerator[Any, None]:
        """All documents, each of `kind` (a type, or a union of tagged ones), as they come."""
        decode = msgspec.json.Decoder(kind).decode
        connection = _Connection(self._socket)
        try:
            response = await self._ask(connection, verb, msgspec.json.encode(request))
            async for line in _lines(response):
                if line.startswith(_FAULT):
                    fault = msgspec.json.decode(line, type=Fault)
                    raise OperationFailed(fault.error, hint=fault.hint)
                yield decode(line)
        except (OSError, HTTPException, msgspec.MsgspecError):
            raise OperationFailed(
                "the node broke off its answer", hint="its log says why; this can be called again"
            ) from None
        finally:
            connection.abort()

    async def _ask(self, connection: _Connection, verb: str, body: bytes) -> HTTPResponse:
        try:
            response = await asyncio.to_thread(connection.ask, verb, body)
        except (FileNotFoundError, ConnectionRefusedError, PermissionError) as error:
            raise _unreachable(self._root, error) from None
        if response.status != 200:
            reason = await asyncio.to_thread(response.read, _MAX_REASON_BYTES)
            raise OperationFailed(
                f"the node refused {verb!r}: {reason.decode(errors='replace')}",
                hint="node and command should be of one version",
            )
        return response


async def call(root: Path, verb: str, request: Document, kind: type[Answer]) -> Answer:
    """`ControlClient.call` of the node whose root directory is `root`, where it is the only one."""
    async with ControlClient(root) as client:
        return await client.call(verb, request, kind)


async def _lines(response: HTTPResponse) -> AsyncGenerator[bytes, None]:
    """Those that are not empty, as they come. Raises `HTTPException` if the answer was cut, which
    `HTTPResponse.readline` takes for its end.
    """
    rest = b""
    while some := await asyncio.to_thread(response.read1, _READ_BYTES):
        *lines, rest = (rest + some).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(rest) > MAX_LINE_BYTES:
            raise HTTPException(f"a line of more than {MAX_LINE_BYTES} bytes")


def _unreachable(root: Path, error: OSError) -> OperationFailed:
    path = root / SOCKET
    if error.errno in (errno.EACCES, errno.EPERM):
        return OperationFailed(
            f"{path} may only be used by the node's own user", hint="try again as root"
        )
    return OperationFailed(
        f"no node is running in {root} ({error.strerror})",
        hint="name the root directory of the node by --root or OCI_MESH_ROOT, or start the node: "
        "python -m oci_mesh.serve --root DIR",
    )
