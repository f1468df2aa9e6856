"""The body of a request of another node, when all of it is wanted at once."""

import asyncio

from aiohttp import ClientError, web

from oci_mesh.errors import PeerError


async def read_body(request: web.BaseRequest, limit: int, within_s: float) -> bytes:
    """Up to `limit` bytes, which have `within_s` seconds to come. Raises `PeerError`."""
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise PeerError(f"a message of more than {limit} bytes")
    except TimeoutError:
        raise PeerError("the message did not come to its end") from None
    except ClientError as error:
        raise PeerError(f"the message was cut: {error}") from None
    return bytes(body)
