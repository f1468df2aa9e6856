"""Tokens and passwords: what is shown to whom, and how often it is asked for."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from oci_mesh.errors import (
    ConfigError,
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from oci_mesh.spec.manifest import encode_index, parse_manifest
from oci_mesh.upstream import auth
from oci_mesh.upstream.client import UpstreamClient
from tests.upstream.conftest import client_of
from tests.upstream.fake import FakeRegistry, Handler, TokenServer, serving, status

INDEX = parse_manifest(encode_index([]))
PASSWORD = "correct horse battery"
BASIC = f"Basic {base64.b64encode(f'mesh:{PASSWORD}'.encode()).decode()}"


@pytest.fixture
async def tokens(registry: FakeRegistry) -> AsyncIterator[TokenServer]:
    """Where `registry` sends those who have no token; at another port."""
    server = TokenServer()
    registry.gates = [server.gate]
    registry.add_manifest(INDEX, "v1")
    async with serving(server):
        yield server


@asynccontextmanager
async def with_tokens(
    registry: FakeRegistry, tokens: TokenServer, **settings: object
) -> AsyncIterator[UpstreamClient]:
    """A client that may go to `tokens`."""
    async with client_of(registry.url, realms=(tokens.url,), **settings) as client:
        yield client


async def get(client: UpstreamClient, repository: str = "library/app") -> None:
    """A manifest, that is there."""
    assert await client.manifest(repository, "v1") == INDEX


def shown(registry: FakeRegistry) -> list[str | None]:
    """What each request had for authorization."""
    return [seen.headers.get("Authorization") for seen in registry.seen]


async def test_an_anonymous_token(registry: FakeRegistry, tokens: TokenServer) -> None:
    """Is fetched once per repository, for reading, and the next request shows it at once."""
    async with with_tokens(registry, tokens) as client:
        await get(client)
        await get(client)
        await get(client, "other/app")
    first, other = (URL(seen.path).query for seen in tokens.seen)
    assert dict(first) == {"service": "registry.test", "scope": "repository:library/app:pull"}
    assert other["scope"] == "repository:other/app:pull"
    assert [seen.headers.get("Authorization") for seen in tokens.seen] == [None, None]
    bearers = [f"Bearer {token}" for token in tokens.given]
    assert shown(registry) == [None, bearers[0], bearers[0], bearers[1]]


async def test_the_scope_is_of_the_name_there(registry: FakeRegistry, tokens: TokenServer) -> None:
    """After rewriting."""
    async with with_tokens(registry, tokens, rewrite=(("(.*)", r"proxy/\1"),)) as client:
        await get(client)
    assert "scope=repository:proxy/library/app:pull" in tokens.seen[0].path


async def test_the_dance_costs_no_connection(registry: FakeRegistry, tokens: TokenServer) -> None:
    """The one over which it was asked for a token is the one over which that is shown."""
    ports = set()

    async def note(request: web.Request) -> None:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername"))

    async def refuse_slowly(request: web.Request) -> web.StreamResponse | None:
        if "Authorization" in request.headers:
            return None
        response = web.StreamResponse(status=401, headers={"WWW-Authenticate": tokens.challenge})
        response.content_length = 10
        await response.prepare(request)
        await asyncio.sleep(0.05)  # the body comes by itself, as it may
        await response.write(b"0123456789")
        return response

    registry.gates = [note, refuse_slowly]
    async with with_tokens(registry, tokens) as client:
        await get(client)
    assert len(registry.seen) == 2
    assert len(ports) == 1


async def test_many_requests_cost_one_token(registry: FakeRegistry, tokens: TokenServer) -> None:
    """Also if none has one yet."""
    async with with_tokens(registry, tokens) as client, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(get(client))
    assert len(tokens.given) == 1


@pytest.mark.parametrize(
    ("field", "life_s"), [("access_token", 300), ("token", None), ("token", "300"), ("token", 61.5)]
)
async def test_forms_of_an_answer(
    registry: FakeRegistry, tokens: TokenServer, field: str, life_s: object
) -> None:
    """All that are seen."""
    tokens.field, tokens.life_s = field, life_s
    async with with_tokens(registry, tokens) as client:
        await get(client)
        await get(client)
    assert len(tokens.given) == 1


@pytest.mark.parametrize("life_s", [0, -5, 3])
async def test_a_short_life(registry: FakeRegistry, tokens: TokenServer, life_s: int) -> None:
    """Is long enough for one request."""
    tokens.life_s = life_s
    async with with_tokens(registry, tokens) as client:
        await get(client)
        await get(client)
    assert len(tokens.given) == 2
    assert shown(registry)[-1] == f"Bearer {tokens.given[1]}"


async def test_a_token_that_is_revoked(registry: FakeRegistry, tokens: TokenServer) -> None:
    """Is replaced, once."""
    async with with_tokens(registry, tokens) as client:
        await get(client)
        tokens.valid.clear()
        await get(client)
        await get(client)
    assert len(tokens.given) == 2


async def test_a_fresh_token_that_is_refused(registry: FakeRegistry, tokens: TokenServer) -> None:
    """Is the answer: this is not for us. docker.io says so for what is private, or not there."""
    registry.gates = [lambda _: status(401, WWW_Authenticate=tokens.challenge)(_)]
    async with with_tokens(registry, tokens) as client:
        with pytest.raises(UpstreamRefused):
            await get(client)
    assert len(registry.seen) == 2
    assert len(tokens.given) == 1


@pytest.mark.parametrize(
    ("code", "kind", "times"),
    [
        (401, UpstreamRefused, 1),
        (403, UpstreamRefused, 1),
        (404, UpstreamRefused, 1),
        (302, UpstreamError, 1),
        (429, UpstreamLimited, 3),
        (500, UpstreamUnavailable, 3),
    ],
)
async def test_a_realm_that_gives_none(
    registry: FakeRegistry, tokens: TokenServer, code: int, kind: type[Exception], times: int
) -> None:
    """Says no, or fails: then it is asked again."""
    tokens.answers = [(code, {})] * 10
    async with with_tokens(registry, tokens) as client:
        with pytest.raises(kind):
            await get(client)
    assert len(tokens.seen) == times


async def test_a_realm_is_where_it_says(registry: FakeRegistry, tokens: TokenServer) -> None:
    """Not elsewhere, even where it could be."""
    other = TokenServer()
    async with serving(other):
        tokens.moved = f"{other.url}/token"
        async with client_of(registry.url, realms=(tokens.url, other.url)) as client:
            with pytest.raises(UpstreamError, match="redirects are not followed"):
                await get(client)
    assert other.seen == []


@pytest.mark.parametrize(
    "document",
    [
        *({}, [], {"token": ""}, {"token": 5}, {"token": "a b"}, {"token": "a\r\nX: y"}),
        *({"token": "é"}, {"token": "x" * 100_000}, {"token": "x", "expires_in": []}),
    ],
)
async def test_what_is_no_token(
    registry: FakeRegistry, tokens: TokenServer, document: object
) -> None:
    """Is not shown to anybody."""
    tokens.answers = [(200, document)]
    async with with_tokens(registry, tokens) as client:
        with pytest.raises(UpstreamError):
            await get(client)
    assert shown(registry) == [None]


async def test_a_password_goes_to_the_realm(
    registry: FakeRegistry, tokens: TokenServer, secret: Path
) -> None:
    """And to nobody else: the registry gets the token."""
    tokens.basic = BASIC
    settings = {"username": "mesh", "password_file": secret}
    async with with_tokens(registry, tokens, **settings) as client:
        await get(client)
    assert shown(registry) == [None, f"Bearer {tokens.given[0]}"]
    secret.write_text("wrong")
    async with with_tokens(registry, tokens, **settings) as client:
        with pytest.raises(UpstreamRefused, match="password-file"):
            await get(client)


async def test_a_password_goes_to_no_realm_that_is_not_listed(
    registry: FakeRegistry, tokens: TokenServer, secret: Path
) -> None:
    """The message says how to list it."""
    tokens.basic = BASIC
    tokens.url = "https://tokens.example"
    async with client_of(registry.url, username="mesh", password_file=secret) as client:
        with pytest.raises(UpstreamRefused, match=r"realms = \['https://tokens\.example'\]"):
            await get(client)


def wants(*challenges: str, basic: str = BASIC) -> Handler:
    """A gate: only with this header."""

    async def gate(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Authorization") == basic:
            return None
        response = web.Response(status=401)
        for challenge in challenges:
            response.headers.add("WWW-Authenticate", challenge)
        return response

    return gate


@pytest.mark.parametrize(
    "challenges",
    [
        ('Basic realm="Registry Realm"',),
        ("basic",),
        ("Negotiate", "Basic realm=x"),
        ('Digest realm="a, Basic", nonce="\\"", Basic realm="b"',),
    ],
)
async def test_basic(registry: FakeRegistry, secret: Path, challenges: tuple[str, ...]) -> None:
    """If that is what it takes; after the first time without being asked."""
    registry.add_manifest(INDEX, "v1")
    registry.gates = [wants(*challenges)]
    async with client_of(registry.url, username="mesh", password_file=secret) as client:
        await get(client)
        await get(client)
        assert shown(registry) == [None, BASIC, BASIC]
        secret.write_text("changed")
        with pytest.raises(UpstreamRefused):
            await get(client)
        assert len(registry.seen) == 4  # the same again would not help
        secret.write_text(f"{PASSWORD}\r\n")
        await get(client)


async def test_a_password_that_is_changed_is_read(registry: FakeRegistry, secret: Path) -> None:
    """At the next request, without a restart."""
    registry.add_manifest(INDEX, "v1")
    new = f"Basic {base64.b64encode(b'mesh:new').decode()}"
    registry.gates = [wants("Basic realm=x", basic=new)]
    async with client_of(registry.url, username="mesh", password_file=secret) as client:
        with pytest.raises(UpstreamRefused):
            await get(client)
        secret.write_text("new")
        await get(client)


async def test_a_token_of_a_file(registry: FakeRegistry, secret: Path) -> None:
    """Is shown as it is, to the registry."""
    secret.write_text("abc.def\n")
    registry.add_manifest(INDEX, "v1")
    registry.gates = [wants('Bearer realm="https://tokens.example/"', basic="Bearer abc.def")]
    async with client_of(registry.url, token_file=secret) as client:
        await get(client)
        assert shown(registry) == [None, "Bearer abc.def"]


@pytest.mark.parametrize(
    "challenges",
    [
        (),
        ("",),
        ("Basic realm=x",),
        ("Bearer",),
        ('Bearer realm=""',),
        ("Negotiate",),
        ('Bearer realm="nonsense"',),
        ('Bearer realm="/token"',),
        ('Bearer realm="ftp://x/"',),
        ("\xff", "=,=,=", '"'),
    ],
)
async def test_nothing_to_show(registry: FakeRegistry, challenges: tuple[str, ...]) -> None:
    """Is a refusal, at the first answer."""
    registry.gates = [wants(*challenges)]
    async with client_of(registry.url) as client:
        with pytest.raises(UpstreamRefused):
            await get(client)
    assert len(registry.seen) == 1


@pytest.mark.parametrize("content", [None, b"", b"\n", b"two\nlines", b"\xff\xfe", b"x" * 20_000])
async def test_a_secret_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """Is found at the start. Its bytes are in no message."""
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^upstream registry.test: {path}") as caught:
        async with client_of("http://x", username="mesh", password_file=path):
            pass
    assert not content or str(content)[2:-1] not in str(caught.value)


async def test_a_secret_that_is_taken_away(registry: FakeRegistry, secret: Path) -> None:
    """Is no refusal by the registry: it may be back in a moment."""
    registry.gates = [wants("Basic realm=x")]
    async with client_of(registry.url, username="mesh", password_file=secret) as client:
        secret.unlink()
        with pytest.raises(UpstreamUnavailable, match="No such file"):
            await get(client)


async def test_tokens_are_not_kept_without_end(
    registry: FakeRegistry, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients can think of any number of repositories; those asked for last are kept."""
    monkeypatch.setattr(auth, "MAX_TOKENS", 3)
    async with with_tokens(registry, tokens) as client:
        for name in ("a", "b", "c", "a", "d", "a", "c", "b"):
            await get(client, name)
    asked = [URL(seen.path).query["scope"].split(":")[1] for seen in tokens.seen]
    assert asked == ["a", "b", "c", "d", "b"]
