"""A blob that is still on its way: sent as it is verified, and cheap when its client has gone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import aiohttp
import pytest
from aiohttp import web

from oci_mesh.errors import PeerError
from oci_mesh.metrics import Metrics
from oci_mesh.registry import responses
from oci_mesh.registry.api import Registry
from oci_mesh.registry.server import RegistryServer
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Blob, Partial
from oci_mesh.store.disk import DiskStore
from oci_mesh.store.memory import MemoryStore
from tests.nodes import eventually
from tests.registry.client import Client
from tests.registry.publisher import LonePublisher
from tests.registry.wire import Raw, request

PIECE = 3 * 1024 * 1024 + 7
CONTENT = bytes(range(256)) * (4 * PIECE // 256)
SIZE = len(CONTENT)
DIGEST = Digest.of(CONTENT)
PATH = f"/v2/a/blobs/{DIGEST}"


class Arriving:
    """A partial of `CONTENT`, and the blobs that read it while it arrives."""

    def __init__(self, partial: Partial, *, as_file: bool) -> None:
        self.partial = partial
        self.as_file = as_file
        self.open = 0
        self.waiting = 0
        self.error: PeerError | None = None
        self.news = asyncio.Condition()

    async def arrive(self, stop: int, error: PeerError | None = None) -> None:
        """Bytes up to `stop`, verified; then nothing more if there is an error."""
        async with self.news:
            self.partial.write(self.partial.hashed, CONTENT[self.partial.hashed : stop])
            self.partial.advance(stop)
            self.error = error
            self.news.notify_all()


class ArrivingBlob(Blob):
    """See `Blob`."""

    def __init__(self, arriving: Arriving) -> None:
        self.digest, self.size = DIGEST, SIZE
        self._arriving = arriving
        arriving.open += 1

    @property
    def file(self) -> BinaryIO | None:
        """As `Blob.file`."""
        return self._arriving.partial.file if self._arriving.as_file else None

    async def available(self, start: int, stop: int) -> int:
        """As `Blob.available`."""
        partial, news = self._arriving.partial, self._arriving.news
        self._arriving.waiting += 1
        try:
            async with news:
                await news.wait_for(lambda: partial.hashed > start or self._arriving.error)
        finally:
            self._arriving.waiting -= 1
        if partial.hashed <= start:
            assert self._arriving.error is not None
            raise self._arriving.error
        return min(stop, partial.hashed)

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """As `Blob.chunks`; nothing is asked for that is not there."""
        assert start < stop <= self._arriving.partial.hashed
        yield self._arriving.partial.read(start, stop)

    async def close(self) -> None:
        """As `Blob.close`."""
        self._arriving.open -= 1


class ArrivingSource(MemoryStore):
    """A source that has one blob, some day."""

    def __init__(self, arriving: Arriving) -> None:
        super().__init__()
        self._arriving = arriving

    async def blob(self, repository: str, digest: Digest) -> Blob:
        """As `Source.blob`."""
        return ArrivingBlob(self._arriving)


@pytest.fixture(params=["file", "chunks"])
async def arriving(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Arriving]:
    """Nothing of it is here yet."""
    async with (
        await DiskStore.open(tmp_path) as store,
        await store.partial("a", DIGEST, SIZE) as partial,
    ):
        yield Arriving(partial, as_file=request.param == "file")


@pytest.fixture
async def server(arriving: Arriving) -> AsyncIterator[RegistryServer]:
    """Serves it."""
    source = ArrivingSource(arriving)
    registry = Registry(MemoryStore(), source, LonePublisher(), Metrics())
    async with RegistryServer(registry.handle, "127.0.0.1", 0, drain_s=0) as server:
        yield server


async def read_exactly(response: aiohttp.ClientResponse, length: int) -> bytes:
    """The next bytes of a body."""
    async with asyncio.timeout(30):
        return await response.content.readexactly(length)


async def test_bytes_go_out_as_they_are_verified(
    arriving: Arriving, server: RegistryServer
) -> None:
    """The client has all that is here before the next byte is; the whole is exact."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(server.url + PATH, headers={"Range": "bytes=5-"}) as response,
    ):
        assert response.status == 206
        start = 5
        for stop in (6, PIECE, 2 * PIECE, SIZE - 1, SIZE):
            await arriving.arrive(stop)
            assert await read_exactly(response, stop - start) == CONTENT[start:stop]
            start = stop
        assert await response.read() == b""
    await eventually("the blob is closed", lambda: arriving.open == 0)


async def test_a_range_ends_before_the_blob_is_here(
    arriving: Arriving, server: RegistryServer
) -> None:
    """What is here is enough for who asks for no more, again and again on a connection."""
    await arriving.arrive(PIECE)
    async with Client(server.address) as client:
        for start, stop in [(0, PIECE), (7, 8), (PIECE - 1, PIECE)]:
            reply = await client.call("GET", PATH, range=f"bytes={start}-{stop - 1}")
            assert reply.body == CONTENT[start:stop]


async def test_bytes_that_will_not_come_cut_the_connection(
    arriving: Arriving, server: RegistryServer
) -> None:
    """A client that has a part must not take it for the whole."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(server.url + PATH) as response,
    ):
        await arriving.arrive(PIECE)
        assert await read_exactly(response, PIECE) == CONTENT[:PIECE]
        await arriving.arrive(PIECE, PeerError("everybody left"))
        with pytest.raises(aiohttp.ClientPayloadError):
            await asyncio.wait_for(response.read(), 30)
    assert arriving.open == 0


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("sent", [0, PIECE])
async def test_clients_that_go_while_they_wait_leave_nothing(
    arriving: Arriving, server: RegistryServer, reset: bool, sent: int
) -> None:
    """Many open-ended ranges, dropped: all are let go of while no byte moves."""
    await arriving.arrive(sent)
    clients = [Raw(server.address) for _ in range(50)]
    for number, client in enumerate(clients):
        await client.__aenter__()
        await client.send(request(f"GET {PATH}", headers=b"Range: bytes=%d-\r\n" % (sent + number)))
    await eventually("all wait", lambda: arriving.waiting == len(clients))
    await asyncio.gather(*(client.close(reset=reset) for client in clients))
    await eventually("all are gone", lambda: arriving.open == 0)
    assert arriving.waiting == 0
    await arriving.arrive(SIZE)
    async with Client(server.address) as last:
        assert (await last.call("GET", PATH)).body == CONTENT


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_only_reads_end_with_their_client(method: str) -> None:
    """What changes something goes to its end."""
    asked: list[web.BaseRequest] = []
    go_on, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request)
        await go_on.wait()
        ended.set()
        return responses.empty(201, {})

    async with RegistryServer(handler, "127.0.0.1", 0, drain_s=0) as server:
        async with Raw(server.address) as client:
            await client.send(request(f"{method} /v2/"))
            await eventually("it is asked", lambda: len(asked) == 1)
        await eventually("the client is gone", lambda: asked[0].transport is None)
        assert not ended.is_set()
        go_on.set()
        await asyncio.wait_for(ended.wait(), 30)
