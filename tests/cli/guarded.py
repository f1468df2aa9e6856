"""A registry that wants to know who is asking: a node, behind a gate of Basic or of tokens."""

import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from tests.cli.servers import answering

USER, PASSWORD = "user", "pass:word"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass
class Gate:
    """`tokens`: token -> the scopes that it opens. `seen` are (path, Authorization)."""

    to: str
    kind: str
    session: aiohttp.ClientSession
    anonymous: bool = False
    """Whether tokens are given to anybody."""
    revoke_at: str = ""
    """With the first request that has this in its path, all tokens that were given are void."""
    url: str = ""
    realm: str = ""
    tokens: dict[str, list[str]] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """As `servers.Answer`."""
        shown = request.headers.get("Authorization")
        self.seen.append((request.path, shown))
        if request.path == "/token":
            return self._token(request, shown)
        if self.revoke_at and self.revoke_at in request.path:
            self.revoke_at = ""
            self.tokens = {token: [] for token in self.tokens}
        wanted = _scope(request)
        if not self._opens(shown, wanted):
            await request.read()
            challenge = f'Bearer realm="{self.realm}",service="test",scope="{wanted}"'
            if self.kind == "basic":
                challenge = 'Basic realm="test"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        headers = {k: v for k, v in request.headers.items() if k not in ("Authorization", "Host")}
        url = URL(self.to + request.raw_path, encoded=True)
        data = io.BytesIO(await request.read()) if request.can_read_body else None
        async with self.session.request(
            request.method, url, headers=headers, data=data, auto_decompress=False
        ) as found:
            body = await found.read()
            kept = {k: v for k, v in found.headers.items() if k != "Content-Length" or not body}
            return web.Response(status=found.status, headers=kept, body=body)

    def _token(self, request: web.Request, shown: str | None) -> web.Response:
        if shown != BASIC and not (self.anonymous and shown is None):
            return web.Response(status=401)
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = request.query.getall("scope", [])
        return web.Response(body=json.dumps({"token": token}).encode())

    def _opens(self, shown: str | None, wanted: str) -> bool:
        if self.kind == "basic":
            return shown == BASIC
        token = (shown or "").removeprefix("Bearer ")
        scopes = self.tokens.get(token, [])
        name, _, actions = wanted.rpartition(":")
        given = {scope.rpartition(":")[0]: scope.rpartition(":")[2] for scope in scopes}
        return set(actions.split(",")) <= set(given.get(name, "").split(","))


def _scope(request: web.Request) -> str:
    repository = request.path.removeprefix("/v2/")
    for part in ("/manifests/", "/blobs/", "/tags/", "/referrers/"):
        repository = repository.partition(part)[0]
    return f"repository:{repository}:pull{'' if request.method in ('GET', 'HEAD') else ',push'}"


@asynccontextmanager
async def guarded(to: str, kind: str, *, anonymous: bool = False) -> AsyncIterator[Gate]:
    """The node at `to`, behind a gate of `kind`: basic, or bearer."""
    async with aiohttp.ClientSession() as session:
        gate = Gate(to, kind, session, anonymous)
        async with answering(gate.answer) as url:
            gate.url, gate.realm = url, f"{url}/token"
            yield gate


def log_in(directory: Path, registry: str) -> None:
    """What `docker login` leaves in `directory`, for DOCKER_CONFIG."""
    directory.mkdir(exist_ok=True)
    entry = {"auth": BASIC.removeprefix("Basic ")}
    (directory / "config.json").write_text(json.dumps({"auths": {registry: entry}}))
