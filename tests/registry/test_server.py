"""The listener and what goes out of it: faults of ours, stores that fail, starting and stopping."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from oci_mesh.errors import ConfigError, StoreCorrupt
from oci_mesh.metrics import Metrics
from oci_mesh.registry import responses
from oci_mesh.registry.api import Registry
from oci_mesh.registry.server import RegistryServer
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Blob, Store
from oci_mesh.store.disk import DiskStore
from oci_mesh.store.memory import MemoryBlob, MemoryStore
from tests.nodes import DEADLINE_S, eventually
from tests.registry.client import Client
from tests.registry.conftest import Address
from tests.registry.publisher import LonePublisher
from tests.registry.wire import exchange, request
from tests.store.content import push_blob

CONTENT = bytes(range(256)) * 8192  # 2 MiB: more than is sent at once
DIGEST = Digest.of(CONTENT)
PATH = f"/v2/a/blobs/{DIGEST}"


def serve(store: Store) -> RegistryServer:
    """A registry over a store."""
    registry = Registry(store, store, LonePublisher(), Metrics())
    return RegistryServer(registry.handle, "127.0.0.1", 0, drain_s=0)


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        (None, 0, 2**21),
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-", 1_000_000, 2**21),
        ("bytes=-5", 2**21 - 5, 2**21),
        ("bytes=65535-65536", 65535, 65537),
    ],
)
async def test_blobs_from_files(header: str | None, start: int, stop: int, tmp_path: Path) -> None:
    """A blob on disk goes out by sendfile, whole or in part, again and again on a connection."""
    async with await DiskStore.open(tmp_path) as store:
        await push_blob(store, "a", CONTENT)
        async with serve(store) as server, Client(server.address) as client:
            for _ in range(3):
                reply = await client.call("GET", PATH, **({"range": header} if header else {}))
                assert reply.status == (206 if header else 200)
                assert reply.body == CONTENT[start:stop]
            assert (await client.call("HEAD", PATH)).headers["Content-Length"] == str(2**21)


class _FailingBlob(MemoryBlob):
    """Half of it comes, then the disk fails."""

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """As `Blob.chunks`."""
        yield CONTENT[start : start + (stop - start) // 2]
        raise StoreCorrupt("a sector is gone")


class _FailingStore(MemoryStore):
    async def blob(self, repository: str, digest: Digest) -> Blob:
        """As `Store.blob`."""
        return _FailingBlob(digest, CONTENT, self._uses)


async def test_a_blob_that_fails_in_the_middle_is_cut() -> None:
    """What cannot be completed must not look complete: the connection ends early."""
    async with serve(_FailingStore()) as server, Client(server.address) as client:
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.call("GET", PATH)


async def test_a_file_that_is_too_short_is_cut(tmp_path: Path) -> None:
    """A blob whose file lost its end since it was opened does not leave the client waiting."""
    async with await DiskStore.open(tmp_path) as store:
        await push_blob(store, "a", CONTENT)

        class Shortening(MemoryStore):
            async def blob(self, repository: str, digest: Digest) -> Blob:
                blob = await store.blob(repository, digest)
                (file,) = (p for p in tmp_path.rglob("*") if p.name.endswith(DIGEST.hex))
                file.chmod(0o600)
                with file.open("r+b") as content:
                    content.truncate(2**20)
                return blob

        async with serve(Shortening()) as server, Client(server.address) as client:
            with pytest.raises(aiohttp.ClientPayloadError):
                await asyncio.wait_for(client.call("GET", PATH), 10)


async def test_a_bug_is_a_500_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A fault of ours is logged with its traceback, and the client learns only that it happened."""

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("a secret path: /etc/shadow")

    with caplog.at_level(logging.ERROR):
        async with RegistryServer(handler, "127.0.0.1", 0) as server:
            answers, closed = await exchange(server.address, request("GET /v2/"))
    assert [(answer.status, answer.code) for answer in answers] == [(500, "STORAGE_FAILED")]
    assert closed
    assert b"secret" not in answers[0].body
    assert "a secret path" in caplog.text


async def test_requests_under_way_are_finished() -> None:
    """A server that stops takes no new connections and completes what it has begun."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        began.set()
        await go_on.wait()
        return responses.json({"finished": True})

    server = RegistryServer(handler, "127.0.0.1", 0)
    async with asyncio.TaskGroup() as group:
        async with server:
            address = server.address
            asked = group.create_task(exchange(address, request("GET /v2/")))
            await began.wait()
            stopping = group.create_task(server.__aexit__(None, None, None))
            await _until_refused(address)
            assert not stopping.done()
            go_on.set()
            await stopping
        answers, _ = await asked
    assert [answer.body for answer in answers] == [b'{"finished":true}']


async def test_requests_that_take_too_long_are_cut() -> None:
    """With no time to drain, a server stops although a request would never end."""
    began = asyncio.Event()

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.TaskGroup() as group:
        async with RegistryServer(handler, "127.0.0.1", 0, drain_s=0) as server:
            asked = group.create_task(exchange(server.address, request("GET /v2/")))
            await began.wait()
        answers, _ = await asked
    assert answers == []


async def _until_refused(address: Address) -> None:
    """Until nobody listens there."""
    while True:
        try:
            _, writer = await asyncio.open_connection(*address)
        except ConnectionError:
            return
        writer.close()


async def test_an_address_that_is_taken(address: Address) -> None:
    """Somebody else's port is the operator's to settle."""

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("nobody asks")

    with pytest.raises(ConfigError, match="another process"):
        async with RegistryServer(handler, *address):
            pass


async def test_pages_beside_the_api() -> None:
    """A page is found by its exact path; everything else is the API's."""

    async def page(_: web.BaseRequest) -> web.StreamResponse:
        return responses.json({"page": True})

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return responses.json({"page": False})

    async with (
        RegistryServer(handler, "127.0.0.1", 0, pages={"/healthz": page}) as server,
        Client(server.address) as client,
    ):
        for path, expected in {"/healthz": True, "/healthz/": False, "/v2/healthz": False}.items():
            assert (await client.call("GET", path)).json == {"page": expected}


# -- a limit of connections


class _Open:
    """A connection of a client that keeps it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, path: str) -> bytes:
        """The status of the answer, or nothing if the connection was closed."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        return head.split()[1]

    async def is_closed(self) -> bool:
        """Waits for the other end to close it."""
        with suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), DEADLINE_S) == b""
        return True


async def test_the_longest_idle_makes_room_and_busy_ones_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where all are busy one more is taken, for one answer; but not any number."""
    monkeypatch.setattr("oci_mesh.registry.server.MAX_CROWD", 2)
    monkeypatch.setattr("oci_mesh.registry.server.UNUSED_S", 0.0)
    go_on = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/wait":
            await go_on.wait()
        return web.Response(status=204)

    async with (
        RegistryServer(handle, "127.0.0.1", 0, drain_s=0, max_connections=2) as server,
        AsyncExitStack() as stack,
    ):

        async def connect() -> _Open:
            connection = _Open(*await asyncio.open_connection(*server.address))
            stack.callback(connection.writer.close)
            return connection

        one, two = [await connect() for _ in range(2)]
        for each in (one, two, one):
            assert await each.ask("/") == b"204"
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(one.ask("/wait"))]
            three = await connect()
            assert await three.ask("/") == b"204"
            assert await two.is_closed()  # used before `one` was again
            four = await connect()
            assert await three.is_closed()
            waiting.append(group.create_task(four.ask("/wait")))
            await eventually("both are busy", lambda: server._under_way == 2)
            guest = await connect()
            assert await guest.ask("/") == b"204"
            assert await guest.is_closed()
            guests = [await connect() for _ in range(2)]
            waiting += [group.create_task(each.ask("/wait")) for each in guests]
            await eventually("all are busy", lambda: server._under_way == 4)
            assert await (await connect()).is_closed()
            go_on.set()
        assert [task.result() for task in waiting] == [b"204"] * 4
        answers = [await each.ask("/") for each in (one, four, *guests)]
        assert sorted(answers) == [b"", b"", b"204", b"204"]
