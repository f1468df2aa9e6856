"""The node's end of the control socket.

Who may open the socket may do all: it is for the node's own user, and root. Nothing here knows what
the verbs do.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec
from aiohttp import web

from oci_mesh.control.place import SOCKET, short_path
from oci_mesh.control.wire import ALIVE_S, MAX_REQUEST_BYTES, PATH, Document, Fault
from oci_mesh.errors import ConfigError, OciMeshError, OperationFailed

# Verbs under way when the node stops are cut after this: each can be called again.
_CUT_S: Final = 0.5


class Verb(NamedTuple):
    """What can be asked of a node."""

    request: type[Document]
    answer: Callable[[Any], AsyncGenerator[Document, None]]
    """Documents as they come, the last one is the result. `OciMeshError`s become a `Fault`. It is
    cancelled when who asked has gone.
    """


class ControlServer:
    """`async with ControlServer(root, verbs):` answers until the block ends.

    Raises `ConfigError` if there cannot be a socket in `root`.
    """

    def __init__(self, root: Path, verbs: Mapping[str, Verb]) -> None:
        self._root = root
        self._verbs = verbs
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        server = web.Server(self._answer, access_log=None, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=_CUT_S)
        async with AsyncExitStack() as stack:
            try:
                # To the end: from Python 3.13 on asyncio removes the socket by this path.
                path = stack.enter_context(short_path(self._root))
                stack.push_async_callback(runner.cleanup)
                await runner.setup()
                # The store's lock on the root is held: what is there is left from an earlier life.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                mask = os.umask(0o177)
                try:
                    await web.UnixSite(runner, path).start()
                finally:
                    os.umask(mask)
            except OSError as error:
                raise ConfigError(f"cannot make {self._root / SOCKET}: {error.strerror}") from error
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()
        (self._root / SOCKET).unlink(missing_ok=True)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        verb = self._verbs.get(request.path.removeprefix(PATH))
        if verb is None or request.method != "POST":
            return web.Response(status=404, text="this node knows no such verb: is it older?")
        if (request.content_length or 0) > MAX_REQUEST_BYTES:
            return web.Response(status=413)
        try:
            asked = msgspec.json.decode(await request.read(), type=verb.request)
        except msgspec.MsgspecError as error:
            return web.Response(status=400, text=str(error))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await _stream(verb.answer(asked), response)
        await response.write_eof()
        return response


async def _stream(documents: AsyncGenerator[Document, None], response: web.StreamResponse) -> None:
    async with asyncio.TaskGroup() as group, aclosing(documents):
        alive = group.create_task(_say_alive(response))
        try:
            async for document in documents:
                await response.write(msgspec.json.encode(document) + b"\n")
        except OciMeshError as error:
            hint = error.hint if isinstance(error, OperationFailed) else ""
            await response.write(msgspec.json.encode(Fault(str(error), hint)) + b"\n")
        finally:
            alive.cancel()


async def _say_alive(response: web.StreamResponse) -> None:
    while True:
        await asyncio.sleep(ALIVE_S)
        await response.write(b"\n")
