"""HTTP to other nodes: every request has a deadline, every answer a bound, every failure a name.

Failures become `PeerError`s. Nothing that comes back is trusted: callers verify digests.
"""

import asyncio
import errno
import io
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Final, Protocol, Self

import aiohttp
import msgspec
from aiohttp.http_exceptions import BadHttpMessage
from yarl import URL

from oci_mesh.errors import PeerError
from oci_mesh.mesh import wire
from oci_mesh.mesh.wire import (
    Attend,
    Claim,
    Confirmation,
    Count,
    Exchange,
    Feel,
    Held,
    Holdings,
    Inquiry,
    Lookup,
    Message,
    Nonsense,
    Pulse,
    Replicate,
    Report,
    Roster,
    Stock,
    Take,
    Taken,
)
from oci_mesh.pki import certificates
from oci_mesh.pki.application import Application
from oci_mesh.pki.trust import MAX_TRUST_BYTES
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES
from oci_mesh.swarm.statement import Statement

# A node that does not take a connection within this is treated as gone. Between nodes of one
# cluster this is 100 round trips and more; a SYN that was lost is sent again after 1 s.
CONNECT_S: Final = 2.0

# No byte for this long, while an answer is awaited or under way: try another node.
STALL_S: Final = 5.0

# A look-up or a gossip in all: one that takes longer helps nobody who is waiting.
ANSWER_S: Final = 5.0

# For a certificate: the node may hand the application on to others in turn, some of them gone.
ENROL_S: Final = 10.0

# For the list of a blob's pieces: whoever is asked first has to hash all of it, a second per GiB.
STATE_S: Final = 60.0

# How long a push waits for one copy in all. It has to be larger than any image takes on a slow
# link; without it, a node that never gets anywhere but says that it works would hold up the push.
REPLICATE_S: Final = 3600.0

# How long an operator waits for one node to take an image, import included.
TAKE_S: Final = 2 * REPLICATE_S

# Nodes that an operator waits for at once, with a connection each: more wait for their turn.
MAX_TAKING: Final = 1024

# Connections to all other nodes; a request beyond waits for one, as long as for a connection.
MAX_CONNECTIONS: Final = 64

# The answer of a referrers query of one node: as much as a manifest.
_MAX_LIST_BYTES: Final = MAX_MANIFEST_BYTES

# Of what went wrong with a node, as much as is worth logging.
_MAX_REASON_BYTES: Final = 500

Fetched = tuple[bytes, str]


class Tls(Protocol):
    """What this node shows to others, and whom it believes."""

    @property
    def client(self) -> ssl.SSLContext:
        """As of now: each connection is made with the one that is current then."""


class PeerClient:
    """One session for all peers; `async with` it. Without `tls` it speaks plain HTTP.

    With it, every connection is to a node of this mesh, and where `member_id` is given, to that
    one: the handshake fails otherwise.
    """

    def __init__(self, node_id: str, tls: Tls | None = None, limit: int = MAX_CONNECTIONS) -> None:
        self._node_id = node_id
        self._tls = tls
        self._limit = limit
        # Those who only wait for news leave connections for what is urgent: gossip, look-ups.
        self._waiting = asyncio.Semaphore(max(1, limit // 2))
        self._open: aiohttp.ClientSession | None = None
        self._long: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._open = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limit),
            timeout=_timeout(STALL_S),
            headers={wire.NODE_HEADER: self._node_id},
            auto_decompress=False,
            read_bufsize=1024 * 1024,
            trust_env=False,  # peers are never behind the proxy that the environment may name
        )
        # Operators' requests take minutes, of all nodes at once: nobody else is to wait for that.
        self._long = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_TAKING, force_close=True),
            headers={wire.NODE_HEADER: self._node_id},
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        for session in (self._open, self._long):
            if session is not None:
                await session.close()

    async def exchange(
        self, address: str, message: Exchange, member_id: str | None = None
    ) -> Exchange:
        """Gossip with the node at `address`."""
        return await self._call(address, wire.EXCHANGE_PATH, message, Exchange, member_id)

    async def stat(
        self,
        address: str,
        path: str,
        member_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int | None:
        """The size of what the node itself has under `path`; None if it has not."""
        async with (
            _deadline(address, ANSWER_S),
            self._request(
                "HEAD", address, path, member_id, missing_ok=True, headers=headers
            ) as response,
        ):
            if response.status == 404:
                return None
            if response.content_length is None:
                raise PeerError(f"{address} gave no size for {path}")
            return response.content_length

    async def fetch(
        self,
        address: str,
        path: str,
        limit: int = _MAX_LIST_BYTES,
        member_id: str | None = None,
        within_s: float = ANSWER_S,
    ) -> Fetched | None:
        """A small document and its Content-Type; None if the node does not have it."""
        async with (
            _deadline(address, within_s),
            self._request("GET", address, path, member_id, missing_ok=True) as response,
        ):
            if response.status == 404:
                return None
            return await _bounded(response, limit), response.headers.get("Content-Type", "")

    async def attend(self, address: str, message: Attend, member_id: str | None = None) -> Roster:
        """Enter the swarm of a blob at its rendezvous; the answer may wait `message.wait_s`."""
        within_s = ANSWER_S + message.wait_s
        async with self._waiting if message.wait_s > 0 else nullcontext():
            return await self._call(address, wire.SWARM_PATH, message, Roster, member_id, within_s)

    async def statement(
        self,
        address: str,
        message: Lookup,
        member_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Statement | None:
        """The list of a blob's pieces, as the node says; None if it has nothing of the blob.

        It may have to read all of the blob for that.
        """
        async with (
            _deadline(address, STATE_S),
            self._request(
                "POST",
                address,
                wire.STATEMENT_PATH,
                member_id,
                body=wire.encode(message),
                missing_ok=True,
                stall_s=STATE_S,
                headers=headers,
            ) as response,
        ):
            if response.status == 404:
                return None
            body = await _bounded(response, wire.MAX_MESSAGE_BYTES)
        return wire.decode(body, Statement)

    async def confirm(
        self, address: str, message: Claim, member_id: str | None = None
    ) -> Confirmation:
        """Whether the node, too, sees that a tag of an upstream is this."""
        return await self._call(address, wire.TAG_PATH, message, Confirmation, member_id)

    async def stock(self, address: str, message: Count, member_id: str) -> Stock:
        """What the node keeps and needs of a repository."""
        return await self._call(address, wire.STOCK_PATH, message, Stock, member_id)

    async def feel(self, address: str, message: Feel, member_id: str | None = None) -> Pulse:
        """How the node is. It may take as long as its own attempt to reach us does."""
        return await self._call(address, wire.PULSE_PATH, message, Pulse, member_id)

    async def report(
        self, address: str, message: Inquiry, member_id: str, within_s: float
    ) -> Report:
        """What the node says of itself."""
        return await self._call(
            address, wire.REPORT_PATH, message, Report, member_id, within_s, wire.MAX_REPORT_BYTES
        )

    async def holdings(
        self, address: str, message: Holdings, member_id: str, within_s: float
    ) -> Held:
        """What the node has of some contents, and what it knows of them."""
        return await self._call(
            address, wire.HOLDINGS_PATH, message, Held, member_id, within_s, wire.MAX_HELD_BYTES
        )

    async def _call(
        self,
        address: str,
        path: str,
        message: object,
        kind: type[Message],
        member_id: str | None,
        within_s: float = ANSWER_S,
        limit: int = wire.MAX_MESSAGE_BYTES,
    ) -> Message:
        """Send a message, and wait for one as answer."""
        body = wire.encode(message)
        async with (
            _deadline(address, within_s),
            self._request(
                "POST", address, path, member_id, body=body, stall_s=within_s
            ) as response,
        ):
            body = await _bounded(response, limit)
        return wire.decode(body, kind)

    async def replicate(
        self, address: str, message: Replicate, member_id: str | None = None
    ) -> None:
        """Have the node hold a manifest and all it needs; returns when it does.

        It sends a line now and then while it works, so `STALL_S` tells a dead node from a slow one.
        """
        body, tail = wire.encode(message), b""
        async with (
            _deadline(address, REPLICATE_S),
            self._request("POST", address, wire.REPLICATE_PATH, member_id, body=body) as response,
        ):
            async for chunk in response.content.iter_any():
                tail = (tail + chunk)[-_MAX_REASON_BYTES:]
        *_, last = tail.splitlines() or [b"nothing said"]
        if last != b"held":
            raise PeerError(f"{address} could not take a copy: {last.decode(errors='replace')!r}")

    async def take(
        self, address: str, message: Take, member_id: str, told: Callable[[Taken], None]
    ) -> Taken:
        """Have the node hold an image and, with a name, import it; how that went, as it says.

        `told` hears how far it is. Raises `PeerError` if it cannot be reached, or breaks off; it
        then stops by itself.
        """
        last: Taken | None = None
        async with (
            _deadline(address, TAKE_S),
            self._request(
                "POST",
                address,
                wire.TAKE_PATH,
                member_id,
                body=wire.encode(message),
                session=self._long,
            ) as response,
        ):
            while line := await response.content.readline():
                last = wire.decode(line, Taken)
                told(last)
        if last is None or last.stage not in ("done", "failed"):
            raise PeerError(f"{address} broke off while it was {last.stage if last else 'asked'}")
        return last

    async def enrol(
        self, address: str, application: Application, member_id: str | None = None
    ) -> tuple[int, bytes]:
        """Ask for a certificate; the status of the answer, and the answer."""
        body = msgspec.json.encode(application)
        async with (
            _deadline(address, ENROL_S),
            self._request(
                "POST",
                address,
                wire.ENROL_PATH,
                member_id,
                body=body,
                stall_s=ENROL_S,
                refusal_ok=True,
            ) as response,
        ):
            return response.status, await _bounded(response, MAX_TRUST_BYTES * 4)

    async def trust(self, address: str, member_id: str) -> bytes:
        """The list of the mesh's authorities that the node has."""
        async with (
            _deadline(address, ANSWER_S),
            self._request("GET", address, wire.TRUST_PATH, member_id) as response,
        ):
            return await _bounded(response, MAX_TRUST_BYTES)

    async def public_key(self, address: str, member_id: str) -> bytes | None:
        """The key of the node `member_id`, if it is there and proves that it has it; or None."""
        assert self._tls is not None, "without TLS no key is proved"
        host, _, port = address.rpartition(":")
        name = certificates.server_name(member_id)
        try:
            async with asyncio.timeout(CONNECT_S):
                _, writer = await asyncio.open_connection(
                    host.strip("[]"), int(port), ssl=self._tls.client, server_hostname=name
                )
        except (OSError, ValueError):  # TimeoutError and ssl.SSLError are OSErrors
            return None
        try:
            session: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return certificates.read(session.getpeercert(binary_form=True) or b"").public_key
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        address: str,
        path: str,
        member_id: str | None,
        *,
        body: bytes | None = None,
        missing_ok: bool = False,
        refusal_ok: bool = False,
        stall_s: float = STALL_S,
        headers: Mapping[str, str] | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._open is not None, "used outside `async with`"
        with _named(address):
            tls = self._tls
            scheme = "http" if tls is None else "https"
            url = URL(f"{scheme}://{address}{path}", encoded=True)
            async with (session or self._open).request(
                method,
                url,
                data=io.BytesIO(body) if body else None,
                headers=headers,
                allow_redirects=False,
                timeout=_timeout(stall_s),
                ssl=True if tls is None else tls.client,
                server_hostname=None if tls is None else certificates.server_name(member_id),
            ) as response:
                accepted = refusal_ok or (missing_ok and response.status == 404)
                if response.status >= 300 and not accepted:
                    raise PeerError(f"{address} answered {response.status} to {method} {path}")
                yield response


def _timeout(stall_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=stall_s)


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Whatever goes wrong with the node at `address`, as a `PeerError`."""
    try:
        yield
    except TimeoutError:
        raise PeerError(f"{address} does not answer") from None
    except (aiohttp.ClientError, BadHttpMessage, OSError, ValueError) as error:
        # ValueError: an address that gossip brought, and that is none to yarl, or to IDNA.
        raise PeerError(f"{address}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """In words that people read, where the system has some."""
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        if number in errno.errorcode and not isinstance(error.os_error, ssl.SSLError):
            return os.strerror(number)
    return str(error)[:_MAX_REASON_BYTES] or type(error).__name__  # it may quote what was sent


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
            raise Nonsense(f"{response.url.host} answered with more than {limit} bytes")
    return bytes(body)
