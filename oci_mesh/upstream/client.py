"""Another registry as this mesh asks it: the reading half of the distribution API.

All that it says is a claim: sizes, types, digests. What can be verified here (manifests) is; blobs
are verified by who gathers them. What may pass is tried again, at each of its URLs, and a broken
registry is given rest (`retry`, `breaker`). Layers that live elsewhere (`urls` of a descriptor) are
not fetched from there: nothing here reads that field.

Not here: caching of anything but tokens, and what to do when a registry refuses or cannot be asked.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final, NamedTuple, Self, TypeVar

import msgspec
from aiohttp import ClientResponse
from yarl import URL

from oci_mesh.errors import (
    DigestInvalid,
    NameInvalid,
    NoRanges,
    OciError,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES, Descriptor, Manifest, parse_manifest
from oci_mesh.tasks import Background
from oci_mesh.upstream.auth import Authorizer
from oci_mesh.upstream.guard import Guard, place_of
from oci_mesh.upstream.http import Http, read
from oci_mesh.upstream.retry import Attempts, Endpoint, passing
from oci_mesh.upstream_config import PULL, RESOLVE, UpstreamConfig

_log = logging.getLogger(__name__)

Value = TypeVar("Value")

# Of everything but blobs, attempts and waits included: containerd itself would wait for 30 s, and
# has the way to the upstream as well.
ANSWER_S: Final = 10.0

# What a read has to get on by for its attempts to be counted anew: a registry that cuts after every
# few bytes is not worth a request for each of them.
PROGRESS_BYTES: Final = 64 * 1024

_ACCEPT: Final = {"Accept": ", ".join(sorted(media_types.MANIFESTS))}
_ACCEPT_INDEX: Final = {"Accept": media_types.OCI_INDEX}

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_ERROR_CODE: Final = re.compile(r"[A-Z_]{1,40}", re.ASCII)
_MAX_ERROR_BYTES: Final = 16 * 1024

# A HEAD that a registry does not do, or not in this form: the GET may work.
_TRY_GET: Final = frozenset({400, 405, 406, 501})


class Resolved(NamedTuple):
    """What a tag is, as the registry says."""

    digest: Digest
    size: int | None = None
    """Of the manifest in bytes; None if it only confirmed what we knew."""
    media_type: str = ""


class BlobStat(NamedTuple):
    """A blob, as the registry says."""

    size: int
    ranges: bool
    """Whether it sends parts of it."""


class UpstreamClient:
    """One upstream, for the time of `async with`.

    Repositories are named as clients name them: rewrites happen here. Every method raises
    `UpstreamRefused`, `UpstreamLimited`, `UpstreamUnavailable`, or `UpstreamError` for an answer
    that cannot be right. None means: it says that it has no such thing (404), or it is not to be
    asked for such things (`capabilities`). `ANSWER_S` is the deadline of all but `read_blob`.
    """

    def __init__(self, config: UpstreamConfig) -> None:
        self.config = config
        self._endpoints = [Endpoint(url, place_of(url)) for url in map(URL, config.urls)]
        self._stack = AsyncExitStack()
        self._http: Http
        self._auth: Authorizer

    async def __aenter__(self) -> Self:
        """Raises `ConfigError` for a CA or a secret that cannot be read."""
        guard = Guard(self.config)
        async with AsyncExitStack() as stack:
            self._http = await stack.enter_async_context(Http(self.config, guard))
            background = await stack.enter_async_context(Background())
            self._auth = Authorizer(self.config, guard, self._http, background)
            self._auth.check()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def resolve(
        self, repository: str, tag: str, known: Digest | None = None
    ) -> Resolved | None:
        """What `tag` is now: a HEAD, conditional if we know what it was."""
        name = self._name(repository, RESOLVE)
        if name is None:
            return None
        condition = {} if known is None else {"If-None-Match": f'"{known}"'}

        async def attempt(endpoint: Endpoint) -> Resolved | None:
            path = ("manifests", tag)
            accept = (200, 304, 404, *_TRY_GET)
            headers = _ACCEPT | condition
            async with self._ask(endpoint, "HEAD", name, path, accept, headers) as response:
                if response.status == 404:
                    return None
                if response.status == 304 and known is not None:
                    return Resolved(known)
                digest = _said_digest(response)
                if response.status == 200 and digest is not None:
                    return Resolved(digest, response.content_length, response.content_type)
            manifest = await self._manifest(endpoint, name, tag)
            if manifest is None:
                return None
            return Resolved(manifest.digest, len(manifest.content), manifest.media_type)

        return await self._answer(f"{repository}:{tag}", attempt)

    async def manifest(self, repository: str, reference: Digest | str) -> Manifest | None:
        """A manifest by digest or tag, verified and parsed."""
        name = self._name(repository, PULL if isinstance(reference, Digest) else RESOLVE)
        if name is None:
            return None
        return await self._answer(
            f"{repository} {reference}",
            lambda endpoint: self._manifest(endpoint, name, reference),
        )

    async def referrers(self, repository: str, subject: Digest) -> tuple[Descriptor, ...]:
        """The manifests that refer to `subject`; none if it has no such list, and of a list in
        parts the first part.
        """
        name = self._name(repository, PULL)
        if name is None:
            return ()

        async def attempt(endpoint: Endpoint) -> tuple[Descriptor, ...]:
            path = ("referrers", str(subject))
            async with self._ask(
                endpoint, "GET", name, path, (200, 404), _ACCEPT_INDEX
            ) as response:
                if response.status == 404:
                    return ()
                content = await read(response, MAX_MANIFEST_BYTES)
                return self._parse(content, media_types.OCI_INDEX, "sha256").manifests

        return await self._answer(f"referrers of {repository} {subject}", attempt)

    async def stat_blob(self, repository: str, digest: Digest) -> BlobStat | None:
        """What it says of a blob: by a HEAD, and if that is not enough by asking for a byte."""
        name = self._name(repository, PULL)
        if name is None:
            return None

        async def attempt(endpoint: Endpoint) -> BlobStat | None:
            path = ("blobs", str(digest))
            accept = (200, 404, *_TRY_GET, *range(300, 400))
            async with self._ask(
                endpoint, "HEAD", name, path, accept, {}, follow=False
            ) as response:
                if response.status == 404:
                    return None
                size = response.content_length if response.status == 200 else None
                if size is not None and response.headers.get("Accept-Ranges") == "bytes":
                    return BlobStat(size, ranges=True)
            return await self._probe(endpoint, name, digest)

        return await self._answer(f"{repository} {digest}", attempt)

    async def read_blob(
        self, repository: str, digest: Digest, start: int, stop: int, *, skip: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop` (not included), unverified, as they come. Close it.

        After a cut it goes on from where it was. A registry that answers with the whole blob
        instead raises `NoRanges`, unless all of it was asked for; with `skip`, what comes before
        `start` is read and dropped instead. A 404 raises `UpstreamError`: after a `stat_blob`,
        nobody expects it.
        """
        name = self._name(repository, PULL)
        if name is None:
            raise UpstreamError(f"{self.config.name} is not to be asked for {repository}")
        attempts = Attempts(f"{self.config.name}: {repository} {digest}", self._endpoints)
        position = counted = start
        while position < stop:
            endpoint = await attempts.next()
            try:
                chunks = self._chunks(endpoint, name, digest, position, stop, skip=skip)
                async with aclosing(chunks):
                    async for chunk in chunks:
                        position += len(chunk)
                        if position - counted >= PROGRESS_BYTES:
                            counted = position
                            attempts.progress()
                        yield chunk
            except UpstreamError as error:
                attempts.failed(endpoint, error)

    async def _chunks(
        self, endpoint: Endpoint, name: str, digest: Digest, start: int, stop: int, *, skip: bool
    ) -> AsyncGenerator[bytes, None]:
        """One attempt. Exactly the bytes that were asked for, or raises."""
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        path = ("blobs", str(digest))
        async with self._ask(endpoint, "GET", name, path, (200, 206), headers) as response:
            position = self._begins_at(response, start, stop, skip=skip)
            async for chunk in response.content.iter_any():
                begins, position = position, position + len(chunk)
                part = chunk[max(0, start - begins) : max(0, stop - begins)]
                if part:
                    yield part
                if position >= stop:
                    return
        where = f"{self.config.name}: {digest}"
        raise UpstreamUnavailable(f"{where} ended at byte {position} of {stop}")

    def _begins_at(self, response: ClientResponse, start: int, stop: int, *, skip: bool) -> int:
        """Where the body of an answer to a request for `start` to `stop` begins."""
        what = f"{self.config.name}: asked for bytes {start} to {stop - 1} of a blob, it"
        length = response.content_length
        if response.status == 206:
            said = response.headers.get("Content-Range", "")
            match = _CONTENT_RANGE.fullmatch(said)
            if match is None or (int(match[1]), int(match[2])) != (start, stop - 1):
                raise UpstreamError(f"{what} sent others, or did not say which")
            if match[3] != "*" and int(match[3]) < stop:
                raise UpstreamError(f"{what} says that there are {match[3]}")
            return start
        if length is not None and length < stop:
            raise UpstreamError(f"{what} says that there are {length}")
        if not skip and (start > 0 or length != stop):
            raise NoRanges(f"{what} sends all of it")
        return 0

    async def _probe(self, endpoint: Endpoint, name: str, digest: Digest) -> BlobStat | None:
        """By a GET of the first byte. If all of it comes, the connection is closed."""
        path = ("blobs", str(digest))
        accept = (200, 206, 404, 416)
        headers = {"Range": "bytes=0-0"}
        async with self._ask(endpoint, "GET", name, path, accept, headers) as response:
            if response.status == 404:
                return None
            said = response.headers.get("Content-Range", "")
            match = _CONTENT_RANGE.fullmatch(said)
            if response.status == 206 and match is not None and match[3] != "*":
                return BlobStat(int(match[3]), ranges=True)
            if response.status == 416 and said == "bytes */0":
                return BlobStat(0, ranges=True)
            if response.status == 200 and response.content_length is not None:
                return BlobStat(response.content_length, ranges=False)
        raise UpstreamError(f"{self.config.name} does not say how large {digest} is")

    async def _manifest(
        self, endpoint: Endpoint, name: str, reference: Digest | str
    ) -> Manifest | None:
        path = ("manifests", str(reference))
        async with self._ask(endpoint, "GET", name, path, (200, 404), _ACCEPT) as response:
            if response.status == 404:
                return None
            content = await read(response, MAX_MANIFEST_BYTES)
            said = _said_digest(response)
            media_type = response.content_type
        digest = reference if isinstance(reference, Digest) else said or Digest.of(content)
        if not digest.matches(content):
            raise UpstreamError(
                f"{self.config.name}: {name} {reference} is {digest}, but it sent "
                f"{Digest.of(content, digest.algorithm)}"
            )
        return self._parse(content, media_type, digest.algorithm)

    def _parse(self, content: bytes, media_type: str, algorithm: str) -> Manifest:
        """Servers of plain files have other types; then what the document says of itself counts."""
        known = media_type in media_types.MANIFESTS
        try:
            return parse_manifest(content, media_type if known else None, algorithm)
        except OciError as error:
            raise UpstreamError(f"{self.config.name} sent a wrong manifest: {error}") from None

    def _name(self, repository: str, capability: str) -> str | None:
        """What it is called there; None if it is not to be asked for it."""
        if self.config.private:
            raise UpstreamRefused(f"{self.config.name} is private: only clients ask it")
        if capability not in self.config.capabilities:
            return None
        try:
            return self.config.repository(repository)
        except NameInvalid as error:
            _log.warning("upstream %s: a rewrite: %s", self.config.name, error)
            return None

    async def _answer(self, what: str, attempt: Callable[[Endpoint], Awaitable[Value]]) -> Value:
        """The outcome of the first attempt that has one."""
        attempts = Attempts(f"{self.config.name}: {what}", self._endpoints)
        endpoint: Endpoint | None = None
        try:
            async with asyncio.timeout(ANSWER_S):
                while True:
                    endpoint = None
                    endpoint = await attempts.next()
                    try:
                        return await attempt(endpoint)
                    except UpstreamError as error:
                        attempts.failed(endpoint, error)
        except TimeoutError:
            late = UpstreamUnavailable(
                f"{self.config.name} took longer than {ANSWER_S:.0f} s for {what}"
            )
            if endpoint is not None:
                attempts.failed(endpoint, late)
            raise late from None

    @asynccontextmanager
    async def _ask(
        self,
        endpoint: Endpoint,
        method: str,
        name: str,
        path: tuple[str, str],
        accept: tuple[int, ...],
        headers: Mapping[str, str],
        *,
        follow: bool = True,
    ) -> AsyncIterator[ClientResponse]:
        """One attempt, with what authentication it takes."""
        url = endpoint.url.joinpath("v2", name, *path, encoded=True)
        place = endpoint.place
        shown = await self._auth.header(place, name)
        async with self._http.request(method, url, headers, shown, follow=follow) as response:
            if response.status != 401 or place_of(response.url) != place:
                await self._judge(endpoint, response, accept)
                yield response
                return
            challenges = response.headers.getall("WWW-Authenticate", [])
            await read(response, _MAX_ERROR_BYTES, cut=True)  # or the connection is lost
        endpoint.breaker.succeeded()
        shown = await self._auth.answer(place, challenges, name, shown)
        async with self._http.request(method, url, headers, shown, follow=follow) as response:
            await self._judge(endpoint, response, accept)
            yield response

    async def _judge(
        self, endpoint: Endpoint, response: ClientResponse, accept: tuple[int, ...]
    ) -> None:
        """Raise unless the status is one of `accept`."""
        status, place = response.status, place_of(response.url)
        what = f"{self.config.name} answered {status}"
        if status not in accept:
            elsewhere = place != endpoint.place
            what = f"{what}, at {place}" if elsewhere else what
            if (error := passing(response, what)) is not None:
                raise error
            if elsewhere:  # its store: a 403 is of a signature that is no longer good
                raise UpstreamUnavailable(what)
        endpoint.breaker.succeeded()
        if status in accept:
            return
        code = _error_code(await read(response, _MAX_ERROR_BYTES, cut=True))
        if status in (401, 403):
            raise UpstreamRefused(f"{what}{code}")
        raise UpstreamError(f"{what}{code}")


class _Error(msgspec.Struct):
    code: str


class _Errors(msgspec.Struct):
    errors: list[_Error]


def _error_code(body: bytes) -> str:
    """The code of the OCI's JSON form; not its message, which may repeat what was sent to it."""
    try:
        code = msgspec.json.decode(body, type=_Errors).errors[0].code
    except (ValueError, IndexError, RecursionError):
        return ""
    return f" {code}" if _ERROR_CODE.fullmatch(code) else ""


def _said_digest(response: ClientResponse) -> Digest | None:
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
    except DigestInvalid:
        return None
