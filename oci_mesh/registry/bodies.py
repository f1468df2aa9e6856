"""Request bodies: read with a bound, and never decompressed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import ClientError, web

from oci_mesh.errors import ManifestTooLarge, Timeout
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES

# A client that sends nothing for this long in the middle of a body is gone. What it sent stays in
# its upload, so it can resume. Generous: `docker push` pauses while it compresses a layer.
BODY_STALL_S: Final = 300.0


class BodyCut(ConnectionResetError):
    """The client's connection ended in the middle of a body."""


async def read_chunks(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """The body as it comes. Raises `Timeout` on a stall, `BodyCut` if it ends early.

    A client that waits for leave to send its body (`Expect: 100-continue`) gets it here: until
    now the request could still be refused without it.
    """
    content = request.content
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the response itself has not begun
    while True:
        try:
            async with asyncio.timeout(BODY_STALL_S):
                chunk = await content.readany()
        except TimeoutError:
            raise Timeout(f"nothing received for {BODY_STALL_S:.0f} s") from None
        except (ClientError, ConnectionError, web.RequestPayloadError) as error:
            raise BodyCut(str(error)) from error
        if not chunk:
            return
        yield chunk


async def read_manifest(request: web.BaseRequest) -> bytes:
    """The whole body, at most `MAX_MANIFEST_BYTES`, or `ManifestTooLarge`."""
    too_large = ManifestTooLarge(f"manifest larger than {MAX_MANIFEST_BYTES} bytes")
    if (request.content_length or 0) > MAX_MANIFEST_BYTES:
        raise too_large
    body = bytearray()
    async for chunk in read_chunks(request):
        body += chunk
        if len(body) > MAX_MANIFEST_BYTES:
            raise too_large
    return bytes(body)
