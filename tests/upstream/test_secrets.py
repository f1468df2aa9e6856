"""A secret is in nothing that is printed, whatever a registry does with it."""

import logging
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from oci_mesh.errors import UpstreamError
from oci_mesh.spec.manifest import encode_index, parse_manifest
from oci_mesh.upstream.client import UpstreamClient
from oci_mesh.upstream_config import UpstreamConfig
from tests.upstream.conftest import client_of
from tests.upstream.fake import FakeRegistry, TokenServer, hang_up, redirect, serving, status
from tests.upstream.test_auth import BASIC, PASSWORD

INDEX = parse_manifest(encode_index([]))
_ENCODED = BASIC.removeprefix("Basic ")
_SIGNED = "X-Signature=sEcReT"

Reply = Callable[[str], dict[str, Any]]


def _secrets(tokens: TokenServer) -> list[str]:
    return [PASSWORD, PASSWORD.replace(" ", "%20"), _ENCODED, "sEcReT", *tokens.given]


def _assert_absent(text: str, tokens: TokenServer) -> None:
    for secret in _secrets(tokens):
        assert secret not in text


async def _fail(client: UpstreamClient, tokens: TokenServer) -> None:
    """Everything that a caller may do, and may print of it."""
    requests: list[Callable[[], Awaitable[object]]] = [
        lambda: client.resolve("app", "v1"),
        lambda: client.manifest("app", INDEX.digest),
        lambda: client.stat_blob("app", INDEX.digest),
        lambda: client.referrers("app", INDEX.digest),
        lambda: anext(client.read_blob("app", INDEX.digest, 0, 9)),
    ]
    for request in requests:
        try:
            await request()
        except UpstreamError as error:
            printed = "".join(traceback.format_exception(error))
            _assert_absent(f"{error} {error!r} {printed}", tokens)


REPEATING: list[Reply] = [
    lambda sent: {"text": f'{{"errors": [{{"code": "{sent}", "message": "{sent}"}}]}}'},
    lambda sent: {"text": sent, "status": 200},
    lambda sent: {"status": 206, "headers": {"Content-Range": f"bytes {sent}"}},
    lambda sent: {"status": 200, "headers": {"Docker-Content-Digest": sent}},
    lambda sent: {"status": 302, "headers": {"Location": f"ftp://{sent}/{sent}"}},
    lambda sent: {"status": 302, "headers": {"Location": f"http://a.test/{sent}?{sent}"}},
    lambda sent: {"status": 302, "headers": {"Location": f"http://{sent}@a.test/"}},
    lambda sent: {"status": 401, "headers": {"WWW-Authenticate": f'Bearer realm="{sent}"'}},
    lambda sent: {"status": 401, "headers": {"WWW-Authenticate": sent}},
    lambda sent: {"status": 429, "headers": {"Retry-After": sent}},
    lambda sent: {"status": 500, "reason": sent},
    lambda sent: {"status": 403, "reason": sent, "text": sent},
]


@pytest.mark.parametrize("kind", ["token", "basic"])
async def test_no_secret_is_printed(
    registry: FakeRegistry,
    secret: Path,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor what it became: by a registry that works, that fails, that says back what it was sent."""
    caplog.set_level(logging.DEBUG)
    tokens = TokenServer(basic=BASIC)

    async def basic(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Authorization") == BASIC:
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": "Basic realm=x"})

    def repeating(reply: Reply) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            sent = request.headers.get("Authorization", "").partition(" ")[2]
            settings: dict[str, Any] = {"status": 403} | reply(sent)
            return web.Response(**settings)

        return answer

    registry.add_manifest(INDEX, "v1")
    faults = [None, hang_up, status(500), status(403), redirect(f"https://127.0.0.1:1/?{_SIGNED}")]
    faults += [repeating(reply) for reply in REPEATING]
    async with serving(tokens):
        registry.gates = [tokens.gate if kind == "token" else basic]
        for fault in faults:
            settings: dict[str, Any] = {"username": "mesh", "password_file": secret}
            async with client_of(registry.url, realms=(tokens.url,), **settings) as client:
                registry.faults = [] if fault is None else [fault] * 50
                await _fail(client, tokens)
                _assert_absent(f"{client} {client!r} {client.config!r}", tokens)
        tokens.answers = [(500, PASSWORD), (403, PASSWORD), (200, PASSWORD), (200, {"token": " "})]
        for _ in range(4):
            async with client_of(registry.url, realms=(tokens.url,), **settings) as client:
                await _fail(client, tokens)
    assert len(tokens.given) > 3 or kind == "basic"
    ours = [record for record in caplog.records if not record.name.startswith("aiohttp.")]
    assert any("registry.test" in record.getMessage() for record in ours)
    _assert_absent(caplog.text, tokens)


def test_a_configuration_has_no_secret(secret: Path) -> None:
    """Only where it is; and a URL with a password is refused without repeating it."""
    config = UpstreamConfig(name="x.test", username="mesh", password_file=secret)
    assert PASSWORD not in repr(config)
    with pytest.raises(Exception, match="password-file") as caught:
        UpstreamConfig(name="x.test", urls=("https://mesh:hunter2@x.test",))
    assert "hunter2" not in str(caught.value)
