"""A blob of one registry as what is uploaded to another."""

import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from aiohttp import web

from oci_mesh.cli.copying import RemoteBlob
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.retry import Transient
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor
from tests.cli.servers import answering
from tests.cli.test_registry_client import client_of

BYTES = random.Random(3).randbytes(400_000)
HALF = len(BYTES) // 2


@asynccontextmanager
async def remote(*contents: bytes, ranges: bool = True) -> AsyncIterator[RemoteBlob]:
    """A blob that is said to be `BYTES`; requests are answered with `contents`, in turn."""
    answers = [*contents]

    async def answer(request: web.Request) -> web.Response:
        content = answers.pop(0)
        wanted = request.headers.get("Range", "")
        if not (ranges and wanted):
            return web.Response(body=content)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        said = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        return web.Response(status=206, body=content[start:], headers=said)

    async with answering(answer) as url, client_of(url) as client:
        described = Descriptor("x", str(Digest.of(BYTES)), len(BYTES))
        yield RemoteBlob(client, "app", described)


async def read(blob: RemoteBlob, start: int, until: int = len(BYTES)) -> bytes:
    """At least so far as asked for."""
    got = b""
    async with aclosing(blob.stream(start)) as chunks:
        async for chunk in chunks:
            got += chunk
            if start + len(got) >= until:
                break
    return got


@pytest.mark.parametrize("ranges", [True, False])
async def test_it_goes_on_from_anywhere(ranges: bool) -> None:
    """From what the other side has, less than was given before, or nothing; the registry may send
    it all each time.
    """
    async with remote(BYTES, BYTES, BYTES, ranges=ranges) as blob:
        first = await read(blob, 0, HALF)
        assert first == BYTES[: len(first)]
        assert await read(blob, 1000) == BYTES[1000:]
        assert await read(blob, 0) == BYTES


@pytest.mark.parametrize("ranges", [True, False])
async def test_other_bytes_do_not_get_through(ranges: bool) -> None:
    """Whenever they come: the last ones are kept back."""
    wrong = BYTES[:-1] + bytes([BYTES[-1] ^ 1])
    async with remote(wrong, ranges=ranges) as blob:
        with pytest.raises(Failure, match=r"sent sha256:.* instead"):
            await read(blob, 0)
    async with remote(BYTES[:HALF], wrong, ranges=ranges) as blob:
        with pytest.raises(Transient):
            await read(blob, 0)
        with pytest.raises(Failure, match=r"sent sha256:.* instead"):
            await read(blob, 1000)


async def test_more_or_fewer_bytes() -> None:
    """More is wrong; fewer is a cut, of which the rest may still come."""
    async with remote(BYTES + b"x") as blob:
        with pytest.raises(Failure, match=f"more than {len(BYTES)} bytes"):
            await read(blob, 0, len(BYTES) + 1)
    async with remote(BYTES[:HALF], BYTES) as blob:
        with pytest.raises(Transient, match=f"{HALF} of {len(BYTES)} bytes came"):
            await read(blob, 0)
        assert await read(blob, HALF) == BYTES[HALF:]
