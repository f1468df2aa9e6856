"""The end of a listener: what is under way goes on, what only waits is let go."""

import asyncio
import gc
import socket

import pytest
from aiohttp import web

from oci_mesh.registry import responses
from oci_mesh.registry.server import RegistryServer


async def test_idle_connections_are_closed_before_the_drain() -> None:
    """Their clients go elsewhere at once; the request under way is finished. (With aiohttp's own
    way a client that asked at this moment had no answer until the drain was over.)
    """
    begun, finish = asyncio.Event(), asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        await finish.wait()
        return responses.json({})

    server = RegistryServer(handle, "127.0.0.1", 0, drain_s=3600)
    async with server, asyncio.TaskGroup() as group:
        idle, idle_writer = await asyncio.open_connection(*server.address)
        busy, busy_writer = await asyncio.open_connection(*server.address)
        busy_writer.write(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n")
        await begun.wait()
        stopping = group.create_task(server.__aexit__(None, None, None))
        assert await idle.read() == b""
        assert not stopping.done()
        finish.set()
        assert (await busy.readline()).startswith(b"HTTP/1.1 200")
        await stopping
        for writer in (idle_writer, busy_writer):
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_comes_at_the_end_is_closed(turns: int) -> None:
    """Wherever the event loop is between accepting it and knowing of it. (One that is left open is
    found by the garbage collector, which fails this test.)
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return responses.json({})

    async with RegistryServer(handle, "127.0.0.1", 0, drain_s=0) as server:
        client = socket.create_connection(server.address)
        for _ in range(turns):
            await asyncio.sleep(0)
    client.close()
    await asyncio.sleep(0)
    gc.collect()
