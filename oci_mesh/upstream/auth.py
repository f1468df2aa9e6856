"""How this node shows an upstream who it is, if the upstream asks: tokens (anonymous ones too) and
Basic (distribution's "Token Authentication Specification").

A challenge is answered once; an upstream that refuses a fresh answer has refused. What it wanted is
remembered, so that the next request needs no challenge. Secrets are read from their files when they
are needed, and are in nothing that is printed: not in an error, and in no attribute of an object
that has a `repr`. Where they may go is `guard`'s to say.
"""

import base64
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from aiohttp import ClientResponse
from yarl import URL

from oci_mesh.errors import (
    ConfigError,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from oci_mesh.sources import SingleFlight
from oci_mesh.spec.challenge import Challenge, parse_challenges
from oci_mesh.tasks import Background, loop_time
from oci_mesh.upstream.guard import Guard
from oci_mesh.upstream.http import Http, read
from oci_mesh.upstream.retry import passing
from oci_mesh.upstream_config import Place, UpstreamConfig

# What the specification says of a token that does not say it itself.
DEFAULT_LIFE_S: Final = 60.0

# A token is not used in the last tenth of its life, nor in its last seconds: a request takes a
# while to arrive. One that lives shorter is used once.
_MARGIN_S: Final = 10.0
_MAX_LIFE_S: Final = 24 * 3600.0

# Tokens kept, one a repository: clients say which ones there are.
MAX_TOKENS: Final = 1024

# Real ones have 1 to 4 kB; registries take no header much longer.
_MAX_TOKEN_BYTES: Final = 64 * 1024
_MAX_SECRET_BYTES: Final = 16 * 1024

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


class _Answer(msgspec.Struct):
    """Of a realm. `repr` of it is nowhere asked for: it has the token."""

    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


class _Wanted(NamedTuple):
    """What a place asked for: Basic if it has no realm."""

    realm: URL | None
    service: str


class _Key(NamedTuple):
    realm: str
    service: str
    scope: str


class Authorizer:
    """Of one upstream."""

    def __init__(
        self, config: UpstreamConfig, guard: Guard, http: Http, background: Background
    ) -> None:
        self._config = config
        self._guard = guard
        self._http = http
        self._wanted: dict[Place, _Wanted] = {}
        self._tokens: OrderedDict[_Key, tuple[str, float]] = OrderedDict()
        self._flights: SingleFlight[_Key, str] = SingleFlight(background)

    def check(self) -> None:
        """Raises `ConfigError` if a secret cannot be read."""
        for path in (self._config.password_file, self._config.token_file):
            if path is not None:
                try:
                    _secret(path)
                except ValueError as error:
                    raise ConfigError(f"upstream {self._config.name}: {error}") from None

    async def header(self, place: Place, repository: str) -> str | None:
        """`Authorization` for a request to `place`; None as long as it has asked for none."""
        wanted = self._wanted.get(place)
        return None if wanted is None else await self._authorization(wanted, repository)

    async def answer(
        self, place: Place, challenges: Sequence[str], repository: str, rejected: str | None
    ) -> str:
        """`Authorization` after a 401 of `place` to a request with `rejected`.

        Raises `UpstreamRefused` if there is nothing better to show.
        """
        wanted = self._choose(place, parse_challenges(challenges))
        self._wanted[place] = wanted
        self._forget(rejected)
        authorization = await self._authorization(wanted, repository)
        if authorization == rejected:
            raise self._refused("it does not take what this mesh has to show")
        return authorization

    def _choose(self, place: Place, challenges: Sequence[Challenge]) -> _Wanted:
        """Tokens if it takes them: they open one repository, the password everything."""
        for challenge in challenges:
            realm = challenge.parameters.get("realm", "")
            if challenge.scheme == "bearer" and self._config.token_file is not None:
                return _Wanted(None, "")
            if challenge.scheme == "bearer" and realm:
                service = challenge.parameters.get("service", "")
                return _Wanted(self._guard.realm(place, realm), service)
        if not self._config.has_credentials:
            raise self._refused("it wants credentials, and this mesh has none for it")
        if not any(challenge.scheme == "basic" for challenge in challenges):
            raise self._refused(
                "it wants a kind of authentication that is neither Bearer nor Basic"
            )
        return _Wanted(None, "")

    async def _authorization(self, wanted: _Wanted, repository: str) -> str:
        if wanted.realm is None:
            return self._static()
        key = _Key(str(wanted.realm), wanted.service, f"repository:{repository}:pull")
        token, until = self._tokens.get(key, ("", 0.0))
        if loop_time() < until:
            self._tokens.move_to_end(key)
            return token
        realm = wanted.realm
        return await self._flights.run(key, lambda: self._fetch(realm, key))

    def _static(self) -> str:
        """The same for every request, as the files have it now."""
        config = self._config
        path = config.token_file or config.password_file
        assert path is not None, "chosen only if there are credentials"
        try:
            secret = _secret(path)
        except ValueError as error:
            raise UpstreamUnavailable(f"{config.name}: {error}") from None
        if config.token_file is not None:
            return f"Bearer {secret}"
        pair = f"{config.username}:{secret}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    async def _fetch(self, realm: URL, key: _Key) -> str:
        """A token, also kept for next time."""
        asked_at = loop_time()
        url = realm.extend_query(scope=key.scope)
        if key.service:
            url = url.extend_query(service=key.service)
        authorization = None if self._config.username is None else self._static()
        # Not followed: a realm that says it is elsewhere is another one, of which nothing is known.
        async with self._http.request("GET", url, {}, authorization, follow=False) as response:
            if response.status != 200:
                raise self._failure(response, realm)
            answer = _decode(self._config.name, await read(response, _MAX_TOKEN_BYTES))
        token = answer.token or answer.access_token or ""
        if _TOKEN.fullmatch(token) is None:
            raise UpstreamError(f"{self._config.name}: {realm.host} sent no token")
        life_s = DEFAULT_LIFE_S if answer.expires_in is None else answer.expires_in
        life_s = min(max(life_s, 0.0), _MAX_LIFE_S)
        header = f"Bearer {token}"
        self._keep(key, header, asked_at + life_s - max(_MARGIN_S, life_s / 10))
        return header

    def _failure(self, response: ClientResponse, realm: URL) -> UpstreamError:
        status = response.status
        what = f"{self._config.name}: {realm.host} answered {status} when asked for a token"
        if (error := passing(response, what)) is not None:
            return error
        if 300 <= status < 400:
            return UpstreamError(f"{what}: redirects are not followed there")
        hint = "" if self._config.username is None else "; is what password-file has still right?"
        return UpstreamRefused(f"{what}{hint}")

    def _keep(self, key: _Key, header: str, until: float) -> None:
        self._tokens[key] = header, until
        self._tokens.move_to_end(key)
        while len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)

    def _forget(self, rejected: str | None) -> None:
        """A token that is refused before its time is not shown again."""
        for key in [key for key, (header, _) in self._tokens.items() if header == rejected]:
            del self._tokens[key]

    def _refused(self, why: str) -> UpstreamRefused:
        return UpstreamRefused(f"{self._config.name}: {why}")


def _decode(name: str, body: bytes) -> _Answer:
    try:
        return msgspec.json.decode(body, type=_Answer, strict=False)
    except (ValueError, RecursionError):  # a text that has the token in it is not repeated
        raise UpstreamError(f"{name}: an answer that should have a token is not readable") from None


def _secret(path: Path) -> str:
    """What a file has, without the newline that editors put. Raises `ValueError`, to be shown."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SECRET_BYTES + 1)
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None  # the error has the bytes in it
    if not secret or len(content) > _MAX_SECRET_BYTES or not secret.isprintable():
        raise ValueError(f"{path} is not one line of text, as a password or token is")
    return secret
