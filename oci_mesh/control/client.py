"""The operator's end of the control socket."""

import errno
from collections.abc import AsyncGenerator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from oci_mesh.control.place import SOCKET, short_path
from oci_mesh.control.wire import MAX_LINE_BYTES, PATH, SILENCE_S, Document, Fault
from oci_mesh.errors import OperationFailed

Answer = TypeVar("Answer")

_FAULT = b'{"error":'


class ControlClient:
    """Asks the node whose root directory is `root`; `async with` it.

    Every call raises `OperationFailed`: if no node is there, or it may not be spoken to, or it
    could not do what was asked.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = short_path(root)
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        try:
            path = self._path.__enter__()
        except OSError as error:
            raise _unreachable(self._root, error) from None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=SILENCE_S),
            read_bufsize=MAX_LINE_BYTES,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()
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
        body = msgspec.json.encode(request)
        decode = msgspec.json.Decoder(kind).decode
        silent = OperationFailed(
            "the node broke off its answer", hint="its log says why; this can be called again"
        )
        line = b"x"
        try:
            async with self._session.post(f"http://node{PATH}{verb}", data=body) as response:
                if response.status != 200:
                    raise OperationFailed(
                        f"the node refused {verb!r}: {(await response.text())[:200]}",
                        hint="node and command should be of one version",
                    )
                while line := await response.content.readline():
                    if line.startswith(_FAULT):
                        fault = msgspec.json.decode(line, type=Fault)
                        raise OperationFailed(fault.error, hint=fault.hint)
                    if line.strip():
                        yield decode(line)
        except aiohttp.ClientConnectorError as error:
            raise _unreachable(self._root, error.os_error) from None
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError, ValueError):
            raise silent from None


def _unreachable(root: Path, error: OSError) -> OperationFailed:
    socket = root / SOCKET
    if error.errno in (errno.EACCES, errno.EPERM):
        return OperationFailed(
            f"{socket} may only be used by the node's own user", hint="try again as root"
        )
    return OperationFailed(
        f"no node is running in {root} ({error.strerror})",
        hint="name the root directory of the node by --root or OCI_MESH_ROOT, or start the node: "
        "python -m oci_mesh.serve --root DIR",
    )
