"""Responses: JSON, manifests and blobs, with the headers that clients check.

A blob goes out with sendfile where there is a file and no TLS: the bytes then never enter this
process. Over TLS asyncio's sendfile would read 16 KiB at a time, each through a thread, so there
large writes are used. A blob that is still on its way goes out as far as it is verified, the same
way. Nothing is ever compressed on the way: a digest is over these very bytes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from aiohttp import web

from oci_mesh.errors import OciError, OciMeshError, StoreCorrupt
from oci_mesh.journal import Delivery
from oci_mesh.spec import media_types
from oci_mesh.spec.byte_range import ByteRange, parse_range
from oci_mesh.spec.manifest import Manifest
from oci_mesh.store.base import Blob
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

Sent = Callable[[web.BaseRequest, int], None]
"""Told how many bytes of a blob went out with which request."""

Pace = Callable[[int], Awaitable[None]]
"""Waits until so many more bytes of blobs may go out."""

# Sent by one call: a client that keeps up would otherwise hold the event loop for the whole blob
# (measured: 100 ms at 16 such clients). Below 4 MiB throughput suffers.
SLICE_BYTES: Final = 4 * 1024 * 1024

# At a pace.
PACED_SLICE_BYTES: Final = 256 * 1024

# Content under a digest never changes.
_IMMUTABLE: Final = "public, max-age=31536000, immutable"


def empty(status: int, headers: dict[str, str]) -> web.Response:
    """A response without a body."""
    return web.Response(status=status, headers=headers)


def json(document: Any, *, status: int = 200, **headers: str) -> web.Response:
    """A JSON document."""
    return raw(msgspec.json.encode(document), media_types.JSON, status=status, headers=headers)


def raw(
    body: bytes, media_type: str, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Bytes under a media type, which is sent as it is: no charset is added."""
    return web.Response(
        body=body, status=status, headers={**(headers or {}), "Content-Type": media_type}
    )


def error(problem: OciError) -> web.Response:
    """An error in the OCI form."""
    return raw(
        problem.body(), media_types.JSON, status=problem.status, headers=dict(problem.headers)
    )


def page(
    request: web.BaseRequest, document: dict[str, Any], key: str, found: list[str], n: int
) -> web.Response:
    """`document` with `n` of the names `found` under `key`; `Link` leads to more, if there are.

    (distribution-spec, "Listing Tags"). What the client said besides `n` and `last` stays said.
    """
    listed = found[:n]
    response = json({**document, key: listed})
    if listed and len(found) > n:
        kept = [pair for pair in parse_qsl(request.query_string) if pair[0] not in ("n", "last")]
        query = urlencode([*kept, ("n", n), ("last", listed[-1])], quote_via=quote)
        response.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return response


def manifest(request: web.BaseRequest, found: Manifest) -> web.Response:
    """A manifest, or the part of it that is asked for; nothing if the client has it already."""
    headers = content_headers(found.digest)
    if is_current(request, found.digest):
        return empty(304, headers)
    body, status = found.content, 200
    part = parse_range(request.headers.get("Range"), len(body))
    if part is not None and request.method == "GET":
        headers["Content-Range"] = part.content_range(len(body))
        body, status = body[part.start : part.stop], 206
    return raw(body, found.media_type, status=status, headers=headers)


def content_headers(digest: object) -> dict[str, str]:
    """What is sent with content, whether or not its bytes follow."""
    return {
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
    }


def is_current(request: web.BaseRequest, digest: object) -> bool:
    """Whether the client has this content already (RFC 9110 §13.1.2, If-None-Match)."""
    held = request.headers.get("If-None-Match")
    return held is not None and f'"{digest}"' in (tag.strip() for tag in held.split(","))


def blob_headers(digest: object) -> dict[str, str]:
    """The headers of a blob."""
    return {
        **content_headers(digest),
        "Content-Type": media_types.OCTET_STREAM,
        "Cache-Control": _IMMUTABLE,
    }


async def send_blob(
    request: web.BaseRequest,
    blob: Blob,
    sent: Sent,
    pace: Pace | None = None,
    delivery: Delivery | None = None,
) -> web.StreamResponse:
    """Send a blob, or the part of it that is asked for, waiting for bytes that are on their way.

    If its bytes cannot be had after the headers went out, the connection is cut: clients then
    resume or go elsewhere, while a body that ends as if it were whole would fail their pull. How
    much was sent, and how long bytes were waited for, is written into `delivery`.
    """
    part = parse_range(request.headers.get("Range"), blob.size)
    wanted = part or ByteRange(0, blob.size)
    response = web.StreamResponse(
        status=200 if part is None else 206, headers=blob_headers(blob.digest)
    )
    if part is not None:
        response.headers["Content-Range"] = part.content_range(blob.size)
    response.content_length = wanted.length
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("client went away")
    start, waited_s = wanted.start, 0.0
    try:
        while start < wanted.stop:
            asked_at = loop_time()
            stop = await blob.available(start, wanted.stop)
            waited_s += loop_time() - asked_at
            if pace is not None:
                stop = min(stop, start + PACED_SLICE_BYTES)
                await pace(stop - start)
            if blob.file is not None and transport.get_extra_info("sslcontext") is None:
                await _send_file(transport, blob.file, ByteRange(start, stop))
            else:
                async for chunk in blob.chunks(start, stop):
                    await response.write(chunk)
            start = stop
    except OciMeshError as problem:
        _log.warning("cut the response for %s: %s", blob.digest, problem)
        transport.abort()
        raise ConnectionResetError("content could not be completed") from problem
    finally:
        if delivery is not None:
            delivery.bytes, delivery.waited_s = start - wanted.start, waited_s
    await response.write_eof()
    sent(request, wanted.length)
    return response


async def _send_file(transport: asyncio.Transport, file: BinaryIO, part: ByteRange) -> None:
    loop = asyncio.get_running_loop()
    for start in range(part.start, part.stop, SLICE_BYTES):
        length = min(SLICE_BYTES, part.stop - start)
        if transport.is_closing():  # asyncio would call it a fault of ours
            raise ConnectionResetError("client went away")
        try:
            sent = await loop.sendfile(transport, file, start, length, fallback=False)
        except asyncio.SendfileNotAvailableError as error:  # the first write of these failed
            raise ConnectionResetError("client went away") from error
        if sent != length:
            raise StoreCorrupt(f"the file ends at {start + sent} instead of {part.stop} or later")
