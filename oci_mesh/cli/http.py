"""HTTP to one registry, that may fail at any moment: deadlines, and errors that people understand.

Every wait has a deadline that moves with the bytes: a transfer may take hours, a stall may not.
What may pass becomes `Transient`, any other refusal `Refused`. A registry that asks who this is
gets what `login.py` says. Not here: repeating (`retry.py`), what is asked (`registry_client.py`).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http.client import responses
from typing import Final, NoReturn, Protocol, Self

import aiohttp
import msgspec
from yarl import URL

from oci_mesh.cli.failure import Failure, shown
from oci_mesh.cli.files import CHUNK_BYTES
from oci_mesh.cli.layers import At
from oci_mesh.cli.login import Login, TokenRequest
from oci_mesh.cli.retry import Transient
from oci_mesh.cli.target import is_loopback, registry_name
from oci_mesh.errors import OciMeshError
from oci_mesh.spec import media_types

CONNECT_S: Final = 10.0

# Without a single byte in either direction. TCP itself would wait for a quarter of an hour.
STALL_S: Final = 30.0

# After the last byte of a blob: the registry writes it to disk, hashes it, copies it elsewhere.
COMMIT_S: Final = 300.0

# What is read of an error's body; real ones are a line.
_MAX_ERROR_BYTES: Final = 16 * 1024

# Tokens have 1 to 4 kB.
_MAX_TOKEN_BYTES: Final = 64 * 1024

_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
_HINTS: Final = {
    403: "ask who runs the registry for access to this repository",
    413: "the registry takes no content of this size",
    507: "the registry's disk is full: free some space there",
}

Response = aiohttp.ClientResponse


class Refused(Failure):
    """The registry answered, and the answer is no."""

    def __init__(self, message: str, status: int, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Body(Protocol):
    """What is uploaded: `size` bytes, that can be had from any of them on."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    def stream(self, start: int) -> AsyncIterator[bytes]:
        """All bytes from `start`."""
        ...


class Http:
    """Requests to one registry, for the time of `async with`."""

    def __init__(self, base: str, *, stall_s: float = STALL_S) -> None:
        self.base = URL(base)
        self._stall_s = stall_s
        self._login = Login(registry_name(base), base, self._token)
        self._stack = AsyncExitStack()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        session = aiohttp.ClientSession(
            auto_decompress=False,  # digests are over the bytes as they are
            headers={"Accept-Encoding": "identity", "User-Agent": "oci-mesh"},
            trust_env=not is_loopback(self.base.authority),  # no proxy leads back to us
            read_bufsize=CHUNK_BYTES,
        )
        self._session = await self._stack.enter_async_context(session)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        accept: tuple[int, ...],
        *,
        repository: str = "",
        headers: Mapping[str, str] | None = None,
        data: bytes | AsyncIterator[bytes] | None = None,
        answer_s: float | None = None,
    ) -> AsyncIterator[Response]:
        """One attempt, about `repository` (which a login may be for). Raises `Transient` for what
        may pass, `Refused` for any other status.
        """
        # What the registry refers to elsewhere is asked as anybody may.
        ours = url.origin() == self.base.origin()
        shown_first = self._login.header(repository) if ours else None
        async with self._open(method, url, shown_first, headers, data, answer_s) as response:
            if response.status != 401 or not ours:
                await _check(response, accept)
                yield response
                return
            challenges = response.headers.getall("WWW-Authenticate", [])
            better = await self._login.answer(challenges, repository, shown_first)
            if better is None:
                await _refuse(response, self._login.hint)
        if isinstance(data, AsyncIterator):  # it has been read
            raise Transient(f"{method} {url.with_query(None)}: the registry wanted a login")
        async with self._open(method, url, better, headers, data, answer_s) as response:
            if response.status == 401:
                await _refuse(response, self._login.hint)
            await _check(response, accept)
            yield response

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        url: URL,
        authorization: str | None,
        headers: Mapping[str, str] | None,
        data: bytes | AsyncIterator[bytes] | None,
        answer_s: float | None,
        *,
        follow: bool = True,
    ) -> AsyncIterator[Response]:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_S, sock_read=answer_s or self._stall_s
        )
        shown_now = {} if authorization is None else {"Authorization": authorization}
        try:
            async with self._session.request(
                method,
                url,
                headers={**(headers or {}), **shown_now},
                data=data,
                timeout=timeout,
                # A body that was streamed cannot be sent again.
                allow_redirects=follow and data is None,
            ) as response:
                yield response
        except aiohttp.ClientConnectorError as error:
            raise _no_connection(url.origin(), error) from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            reason = str(error) or type(error).__name__
            raise Transient(f"{method} {url.with_query(None)}: {reason}") from error
        except aiohttp.ClientError as error:
            raise Failure(f"{method} {url.with_query(None)}: {error}") from error

    async def _token(self, asked: TokenRequest) -> bytes:
        url = URL(asked.url)
        # Not redirected: credentials go to whom the registry named.
        opening = self._open("GET", url, asked.authorization, None, None, None, follow=False)
        async with opening as response:
            if response.status != 200:
                await _refuse(response, self._login.hint)
            return await read(response, _MAX_TOKEN_BYTES)

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: URL,
        accept: tuple[int, ...],
        body: Body,
        offset: int,
        at: At,
        headers: Mapping[str, str],
        repository: str,
    ) -> AsyncIterator[Response]:
        """Send `body` from `offset`; a registry that takes no byte for `STALL_S` is given up. What
        `body` raises is raised here.
        """
        loop = asyncio.get_running_loop()
        headers = {
            "Content-Type": media_types.OCTET_STREAM,
            "Content-Length": str(body.size - offset),
            **headers,
        }
        trouble: OciMeshError | None = None
        try:
            async with asyncio.timeout(CONNECT_S + self._stall_s) as deadline:

                async def chunks() -> AsyncIterator[bytes]:
                    nonlocal trouble
                    position = offset
                    try:
                        async for chunk in body.stream(offset):
                            deadline.reschedule(loop.time() + self._stall_s)
                            yield chunk
                            position += len(chunk)
                            at(position)
                            deadline.reschedule(None)  # what `body` takes has its own deadline
                    except OciMeshError as error:
                        trouble = error
                        raise
                    deadline.reschedule(None)  # from here on `answer_s` counts

                data = chunks() if offset < body.size else b""
                async with self.request(
                    method,
                    url,
                    accept,
                    repository=repository,
                    headers=headers,
                    data=data,
                    answer_s=COMMIT_S,
                ) as response:
                    yield response
        except TimeoutError:
            what = f"{method} {url.with_query(None)}"
            raise Transient(f"{what}: no byte was taken for {self._stall_s:.0f} s") from None
        except Transient:
            if trouble is not None:
                raise trouble from None
            raise


def _no_connection(base: URL, error: aiohttp.ClientConnectorError) -> Failure | Transient:
    if isinstance(error, aiohttp.ClientSSLError):
        return Failure(
            f"no TLS connection to {base}: {error}",
            hint="if the registry speaks plain HTTP, say --plain-http; "
            "if its certificate is your own, name it in SSL_CERT_FILE",
        )
    hint = "is this its address, and can this machine reach it?"
    if is_loopback(base.authority):
        hint = (
            "is it running, and is this its address? "
            "A node is started by `python -m oci_mesh.serve`, another one named by --registry"
        )
    return Transient(f"no registry answers at {base}: {_reason(error.os_error)}", hint=hint)


def _reason(error: OSError) -> str:
    """`Connection refused`, where asyncio says which call failed; looking up a name has its own."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


async def _check(response: Response, accept: tuple[int, ...]) -> None:
    if response.status not in accept:
        await _refuse(response, _HINTS.get(response.status, ""))


async def _refuse(response: Response, hint: str) -> NoReturn:
    status = response.status
    name = responses.get(status, "")
    what = f"{response.method} {response.url.with_query(None)}: {status} {name}"
    what = f"{what.rstrip()}{_error_text(await read(response, _MAX_ERROR_BYTES, cut=True))}"
    if status in _AGAIN:
        raise Transient(what, hint="try again later", wait_s=_retry_after(response))
    raise Refused(what, status, hint=hint)


def _error_text(body: bytes) -> str:
    """The first error of the OCI's JSON form, or nothing if the body is something else."""
    try:
        first = msgspec.json.decode(body, type=_Errors).errors[0]
    except (msgspec.DecodeError, IndexError, RecursionError):
        return ""
    return f": {shown(first.code)[1:-1]}: {shown(first.message)[1:-1]}"


class _Error(msgspec.Struct):
    code: str
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error]


def _retry_after(response: Response) -> float:
    """In seconds; a date, which the header may also be, is ignored."""
    text = response.headers.get("Retry-After", "")
    return float(text[:9]) if text.isascii() and text.isdigit() else 0.0


async def read(response: Response, limit: int, *, cut: bool = False) -> bytes:
    """A whole body of at most `limit` bytes. A longer one raises `Failure`, or is cut."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit and not cut:
            raise Failure(f"{response.url}: an answer of more than {limit} bytes")
        if len(content) > limit:
            break
    return bytes(content[:limit])
