"""HTTP to one upstream: deadlines, redirects by hand, and failures with names.

There are two sessions, for the two kinds of places of `guard`, so that no connection of one is ever
used for the other. None knows proxies, cookies or passwords of the environment. Not here: what is
asked (`client`), when again (`retry`), and with what secret (`auth`).
"""

import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import cache
from typing import Final, Self

import aiohttp
from aiohttp import ClientResponse, ClientSession
from yarl import URL

from oci_mesh.errors import ConfigError, UpstreamError, UpstreamUnavailable
from oci_mesh.upstream.guard import REFUSED, Guard, Trust, place_of, public_socket
from oci_mesh.upstream_config import UpstreamConfig

# For a connection: a name looked up, a packet that was lost sent again after 1 s, TLS to the other
# end of the world. A look-up that takes longer goes on, and the next attempt has its result.
CONNECT_S: Final = 3.0

# No byte for this long, while an answer is awaited or under way. Clients have no such limit
# themselves, or one of minutes; other nodes wait for what this one reads.
STALL_S: Final = 5.0

# docker.io sends blobs to its store and that to another one: two, seen. Browsers stop after 20.
MAX_REDIRECTS: Final = 5

# Connections to one upstream, of each kind. A node reads a few runs of pieces of a few blobs: more
# than this are not in use, and a request beyond fails like one that gets no connection.
MAX_CONNECTIONS: Final = 128

# A header of an answer: the signed URL of an object store takes 2 kB and more.
_MAX_HEADER_BYTES: Final = 16 * 1024

_READ_BYTES: Final = 1024 * 1024

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class Http:
    """Requests to one upstream and to where it leads, for the time of `async with`."""

    def __init__(self, config: UpstreamConfig, guard: Guard) -> None:
        self._config = config
        self._guard = guard
        self._stack = AsyncExitStack()
        self._sessions: dict[Trust, ClientSession] = {}

    async def __aenter__(self) -> Self:
        """Raises `ConfigError` for a CA that cannot be read."""
        trusted = aiohttp.TCPConnector(ssl=_context(self._config), limit=MAX_CONNECTIONS)
        public = aiohttp.TCPConnector(
            ssl=_system_context(), limit=MAX_CONNECTIONS, socket_factory=public_socket
        )
        for trust, connector in ((Trust.TRUSTED, trusted), (Trust.PUBLIC, public)):
            self._sessions[trust] = await self._stack.enter_async_context(_session(connector))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        authorization: str | None = None,
        *,
        follow: bool = True,
    ) -> AsyncGenerator[ClientResponse, None]:
        """One attempt at a GET or HEAD: the answer, whatever its status.

        `authorization` goes to the place of `url`, and to no other that a redirect leads to.
        Raises `UpstreamUnavailable` for what may pass, `UpstreamError` for what is no answer.
        """
        own = place_of(url)
        for _ in range(MAX_REDIRECTS + 1):
            sent = dict(headers)
            if authorization is not None and place_of(url) == own:
                sent["Authorization"] = authorization
            session = self._sessions[self._guard.trust(url)]
            with self._named(url):
                async with session.request(
                    method, url, headers=sent, allow_redirects=False
                ) as response:
                    location = response.headers.get("Location")
                    if response.status not in _REDIRECTS or location is None or not follow:
                        yield response
                        return
            url = self._guard.target(url, location)
        raise UpstreamError(f"{self._config.name} redirects more than {MAX_REDIRECTS} times")

    @contextmanager
    def _named(self, url: URL) -> Iterator[None]:
        """Whatever goes wrong, under the name of the place. No query: that may be signed."""
        name, place = self._config.name, place_of(url)
        what = name if place in self._config.places else f"{name}, at {place}"
        try:
            yield
        except aiohttp.ClientSSLError as error:
            raise UpstreamUnavailable(
                f"{what}: no TLS: {_reason(error)}; if the certificate is of an authority of your "
                "own, name that as ca (and in redirects or realms where it is used)"
            ) from None
        except aiohttp.ClientConnectorError as error:
            if error.os_error.errno == REFUSED and self._guard.trust(url) is Trust.PUBLIC:
                raise UpstreamError(
                    f"{what}: not asked, as that is in no public network; "
                    "if it should be, list it in redirects (or realms, for tokens)"
                ) from None
            raise UpstreamUnavailable(f"{what}: no connection: {error.os_error}") from None
        except aiohttp.ConnectionTimeoutError:
            raise UpstreamUnavailable(f"{what}: no connection in {CONNECT_S:.0f} s") from None
        except TimeoutError:
            raise UpstreamUnavailable(f"{what}: no byte for {STALL_S:.0f} s") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise UpstreamUnavailable(f"{what}: cut: {_reason(error)}") from None
        except (aiohttp.ClientError, ValueError) as error:
            # Their texts may quote what was sent and what came.
            raise UpstreamError(f"{what}: not HTTP: {type(error).__name__}") from None


async def read(response: ClientResponse, limit: int, *, cut: bool = False) -> bytes:
    """A whole body, of at most `limit` bytes: a longer one raises `UpstreamError`, or is cut."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit and not cut:
            raise UpstreamError(f"{response.url.host}: an answer of more than {limit} bytes")
        if len(body) > limit:
            break
    return bytes(body[:limit])


def _session(connector: aiohttp.TCPConnector) -> ClientSession:
    return ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(
            total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=STALL_S
        ),
        headers={"Accept-Encoding": "identity", "User-Agent": "oci-mesh"},
        auto_decompress=False,  # digests are over the bytes as they are
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # no proxies, no .netrc: what is dialled is what the guard has judged
        read_bufsize=_READ_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
    )


@cache
def _system_context() -> ssl.SSLContext:
    """One for all: it takes some 20 ms and a megabyte."""
    return ssl.create_default_context()


def _context(config: UpstreamConfig) -> ssl.SSLContext:
    if config.ca is None:
        return _system_context()
    context = ssl.create_default_context()
    # From Python 3.13 on certificates have to have extensions that those of home-made authorities
    # often lack, and that containerd, docker and podman do not miss.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(config.ca)
    except OSError as error:  # no file, or no PEM in it
        raise ConfigError(f"upstream {config.name}: ca {config.ca}: {error}") from None
    return context


def _reason(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
