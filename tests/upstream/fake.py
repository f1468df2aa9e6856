"""A registry on loopback that does what a test wants: right, or wrong in any way."""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from multidict import CIMultiDictProxy
from yarl import URL

from oci_mesh.spec.byte_range import parse_range
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest

Handler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]


@dataclass
class FakeRegistry:
    """`faults` answer the first requests for content, one each; None lets one through as it is.

    `gates` look at every request for content before that.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    """By digest and by tag."""
    ranges: bool = True
    says_digest: bool = True
    heads: bool = True
    gates: list[Handler] = field(default_factory=list)
    faults: list[Handler] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    sent: int = 0
    """Bytes of blobs."""
    url: str = ""

    @property
    def place(self) -> str:
        """HOST:PORT."""
        return URL(self.url).authority

    @property
    def lines(self) -> list[str]:
        """The request lines, without their versions."""
        return [f"{seen.method} {seen.path}" for seen in self.seen]

    def add_blob(self, content: bytes) -> Digest:
        """Have it in every repository."""
        digest = Digest.of(content)
        self.blobs[str(digest)] = content
        return digest

    def add_manifest(self, manifest: Manifest, *tags: str) -> None:
        """Likewise."""
        for reference in (str(manifest.digest), *tags):
            self.manifests[reference] = manifest

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        self.seen.append(Seen(request.method, request.raw_path, request.headers))
        for gate in self.gates:
            if (response := await gate(request)) is not None:
                return response
        if self.faults and (response := await self.faults.pop(0)(request)) is not None:
            return response
        *_, kind, reference = request.path.split("/")
        if request.method == "HEAD" and not self.heads:
            return web.Response(status=405)
        if kind == "manifests":
            return self._manifest(request, reference)
        if kind == "blobs" and reference in self.blobs:
            return self._blob(request, reference)
        return web.Response(status=404)

    def begins(self, count: int, then: Callable[[web.Request], Awaitable[None]]) -> Handler:
        """A fault: so many bytes of the right answer to a Range, and `then`."""

        async def answer(request: web.Request) -> web.StreamResponse:
            content = self.blobs[request.path.rpartition("/")[2]]
            wanted = parse_range(request.headers.get("Range"), len(content))
            assert wanted is not None
            response = web.StreamResponse(status=206)
            response.content_length = wanted.length
            response.headers["Content-Range"] = wanted.content_range(len(content))
            await response.prepare(request)
            await response.write(content[wanted.start : wanted.start + count])
            self.sent += count
            await then(request)
            return response

        return answer

    def cut(self, count: int) -> Handler:
        """A fault: so many bytes, and the connection is closed."""
        return self.begins(count, _abort)

    def _manifest(self, request: web.Request, reference: str) -> web.Response:
        manifest = self.manifests.get(reference)
        if manifest is None:
            return web.Response(status=404)
        headers = {"Content-Type": manifest.media_type}
        if self.says_digest:
            headers |= {"Docker-Content-Digest": str(manifest.digest)}
            headers |= {"ETag": f'"{manifest.digest}"'}
            if request.headers.get("If-None-Match") == headers["ETag"]:
                return web.Response(status=304, headers=headers)
        return web.Response(body=manifest.content, headers=headers)

    def _blob(self, request: web.Request, reference: str) -> web.Response:
        content = self.blobs[reference]
        headers = {"Docker-Content-Digest": reference}
        status = 200
        if self.ranges:
            headers["Accept-Ranges"] = "bytes"
            wanted = parse_range(request.headers.get("Range"), len(content))
            if wanted is not None:
                status = 206
                headers["Content-Range"] = wanted.content_range(len(content))
                content = content[wanted.start : wanted.stop]
        if request.method == "GET":
            self.sent += len(content)
        return web.Response(status=status, body=content, headers=headers)


class TokenServer:
    """Gives tokens; `gate` lets only those through that have one that was given and not revoked."""

    def __init__(self, service: str = "registry.test", basic: str | None = None) -> None:
        self.service = service
        self.basic = basic
        """The only `Authorization` that gets a token; None: nobody has to show any."""
        self.answers: list[tuple[int, object]] = []
        """What is said instead to the first requests: status and document."""
        self.moved = ""
        """Where else it says that tokens are."""
        self.life_s: object = 300
        self.field = "token"
        self.given: list[str] = []
        self.valid: set[str] = set()
        self.seen: list[Seen] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """As a realm."""
        self.seen.append(Seen(request.method, request.raw_path, request.headers))
        if self.moved:
            return web.Response(status=302, headers={"Location": self.moved})
        if self.answers:
            status, document = self.answers.pop(0)
            return web.Response(status=status, text=json.dumps(document))
        if self.basic is not None and request.headers.get("Authorization") != self.basic:
            return web.Response(status=401)
        token = f"token-{len(self.given)}-of-{self.service}"
        self.given.append(token)
        self.valid.add(token)
        return web.json_response({self.field: token, "expires_in": self.life_s})

    @property
    def challenge(self) -> str:
        """What the registry says."""
        return f'Bearer realm="{self.url}/token",service="{self.service}",scope="x"'

    async def gate(self, request: web.Request) -> web.StreamResponse | None:
        """Of the registry."""
        shown = request.headers.get("Authorization", "")
        if shown.removeprefix("Bearer ") in self.valid:
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": self.challenge})


def status(code: int, **headers: str) -> Handler:
    """A fault: this status; `Retry_After` is a header."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(
            status=code, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )

    return answer


def redirect(location: str, code: int = 307) -> Handler:
    """A fault: go there instead."""
    return status(code, Location=location)


async def fine(_: web.Request) -> None:
    """No fault."""


async def hang_up(request: web.Request) -> web.StreamResponse:
    """A fault: close the connection without an answer."""
    await _abort(request)
    return web.Response()


async def _abort(request: web.Request) -> None:
    if request.transport is not None:  # else the client has closed it
        request.transport.abort()


@asynccontextmanager
async def serving(
    server: FakeRegistry | TokenServer, context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """The server runs, at its `url`."""
    application = web.Application(client_max_size=0)
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(
        application, shutdown_timeout=0, lingering_time=0, handler_cancellation=True
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        place = "http://127.0.0.1" if context is None else "https://localhost"
        server.url = f"{place}:{runner.addresses[0][1]}"
        yield server.url
    finally:
        await runner.cleanup()
