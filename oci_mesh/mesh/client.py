"""HTTP to other nodes: every request has a deadline, every answer a bound, every failure a name.

Failures become `PeerError`s. Nothing that comes back is trusted: callers verify digests.
"""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Self

import aiohttp
from yarl import URL

from oci_mesh.errors import PeerError
from oci_mesh.mesh import wire
from oci_mesh.mesh.wire import Exchange, Replicate
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES

# A node that does not take a connection within this is treated as gone. Between nodes of one
# cluster this is 100 round trips and more; a SYN that was lost is sent again after 1 s.
CONNECT_S: Final = 2.0

# No byte for this long, while an answer is awaited or under way: try another node.
STALL_S: Final = 5.0

# A look-up or a gossip in all: one that takes longer helps nobody who is waiting.
ANSWER_S: Final = 5.0

# How long a push waits for one copy in all. It has to be larger than any image takes on a slow
# link; without it, a node that never gets anywhere but says that it works would hold up the push.
REPLICATE_S: Final = 3600.0

# Sockets to all other nodes; a request beyond waits for one.
MAX_CONNECTIONS: Final = 256

# The answer of a referrers query of one node: as much as a manifest.
_MAX_LIST_BYTES: Final = MAX_MANIFEST_BYTES

# Of what went wrong with a node, as much as is worth logging.
_MAX_REASON_BYTES: Final = 500

Fetched = tuple[bytes, str]


class PeerClient:
    """One session for all peers; `async with` it."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._open: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._open = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=STALL_S),
            headers={wire.NODE_HEADER: self._node_id},
            auto_decompress=False,
            read_bufsize=1024 * 1024,
            trust_env=False,  # peers are never behind the proxy that the environment may name
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._open is not None:
            await self._open.close()

    async def exchange(self, address: str, message: Exchange) -> Exchange:
        """Gossip with the node at `address`."""
        async with (
            _deadline(address, ANSWER_S),
            self._request(
                "POST", address, wire.EXCHANGE_PATH, body=wire.encode(message)
            ) as response,
        ):
            body = await _bounded(response, wire.MAX_MESSAGE_BYTES)
        return wire.decode(body, Exchange)

    async def stat(self, address: str, path: str) -> int | None:
        """The size of what the node itself has under `path`; None if it has not."""
        async with (
            _deadline(address, ANSWER_S),
            self._request("HEAD", address, path, missing_ok=True) as response,
        ):
            if response.status == 404:
                return None
            if response.content_length is None:
                raise PeerError(f"{address} gave no size for {path}")
            return response.content_length

    async def fetch(self, address: str, path: str, limit: int = _MAX_LIST_BYTES) -> Fetched | None:
        """A small document and its Content-Type; None if the node does not have it."""
        async with (
            _deadline(address, ANSWER_S),
            self._request("GET", address, path, missing_ok=True) as response,
        ):
            if response.status == 404:
                return None
            return await _bounded(response, limit), response.headers.get("Content-Type", "")

    async def chunks(
        self, address: str, path: str, start: int, size: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob of `size` from `start` on, as they come: exactly so many."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._request("GET", address, path, headers=headers) as response:
            left = size - start
            if response.status != (206 if start else 200) or response.content_length != left:
                raise PeerError(f"{address} did not answer with bytes {start}-{size} of {path}")
            async for chunk in response.content.iter_any():
                yield chunk

    async def replicate(self, address: str, message: Replicate) -> None:
        """Have the node hold a manifest and all it needs; returns when it does.

        It sends a line now and then while it works, so `STALL_S` tells a dead node from a slow one.
        """
        body, tail = wire.encode(message), b""
        async with (
            _deadline(address, REPLICATE_S),
            self._request("POST", address, wire.REPLICATE_PATH, body=body) as response,
        ):
            async for chunk in response.content.iter_any():
                tail = (tail + chunk)[-_MAX_REASON_BYTES:]
        *_, last = tail.splitlines() or [b"nothing said"]
        if last != b"held":
            raise PeerError(f"{address} could not take a copy: {last.decode(errors='replace')!r}")

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        address: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        missing_ok: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._open is not None, "used outside `async with`"
        with _named(address):
            url = URL(f"http://{address}{path}", encoded=True)
            async with self._open.request(
                method,
                url,
                data=io.BytesIO(body) if body else None,
                headers=headers,
                allow_redirects=False,
            ) as response:
                if response.status >= 300 and not (missing_ok and response.status == 404):
                    raise PeerError(f"{address} answered {response.status} to {method} {path}")
                yield response


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Whatever goes wrong with the node at `address`, as a `PeerError`."""
    try:
        yield
    except TimeoutError:
        raise PeerError(f"{address} does not answer") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # ValueError: an address that gossip brought, and that is none to yarl, or to IDNA.
        reason = str(error)[:_MAX_REASON_BYTES] or type(error).__name__  # may quote what it sent
        raise PeerError(f"{address}: {reason}") from None


@asynccontextmanager
async def _deadline(address: str, within_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(within_s):
            yield
    except TimeoutError:
        raise PeerError(f"{address} took longer than {within_s:.0f} s") from None


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise PeerError(f"{response.url.host} answered with more than {limit} bytes")
    return bytes(body)
