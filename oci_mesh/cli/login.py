"""How the CLI answers a registry that asks who it is: tokens (anonymous ones too), or Basic
(distribution's "Token Authentication Specification").

The user's credentials (`credentials.py`) are looked for when a registry asks, not before. They go
to that registry, and to where it says that its tokens come from, by TLS if the registry itself
speaks TLS. Here is what to send; `http.py` sends it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec

from oci_mesh.cli import credentials
from oci_mesh.cli.credentials import Credentials
from oci_mesh.cli.failure import Failure, shown
from oci_mesh.spec.challenge import Challenge, parse_challenges

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


class TokenRequest(NamedTuple):
    """A GET that is answered with a token."""

    url: str
    authorization: str | None


class _Answer(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None


Fetch = Callable[[TokenRequest], Awaitable[bytes]]


class Login:
    """To one registry. `name` is what images of it are called by; `url` where it is."""

    def __init__(self, name: str, url: str, fetch: Fetch) -> None:
        self._name = name
        self._is_tls = urlsplit(url).scheme == "https"
        self._fetch = fetch
        self._headers: dict[str, str] = {}
        self._asking = asyncio.Lock()
        self._used: Credentials | None = None

    @property
    def hint(self) -> str:
        """What to do when the registry lets nobody in with what there is."""
        if self._used is not None:
            return f"{self._used.path} has credentials for {self._name}: are they still right?"
        return f"log in first: `docker login {self._name}`, or `podman login {self._name}`"

    def header(self, repository: str) -> str | None:
        """`Authorization` for a request about `repository`; None as long as nobody asked."""
        return self._headers.get(repository)

    async def answer(
        self, challenges: Sequence[str], repository: str, rejected: str | None
    ) -> str | None:
        """`Authorization` after a 401 to a request with `rejected`; None if there is nothing
        better to show. Raises `Failure` if credentials or a token cannot be had.
        """
        async with self._asking:
            current = self.header(repository)
            if current != rejected:  # another request about it has asked meanwhile
                return current
            header = await self._authorization(parse_challenges(challenges), repository)
            if header is None or header == rejected:
                return None
            self._headers[repository] = header
            return header

    async def _authorization(self, challenges: Sequence[Challenge], repository: str) -> str | None:
        found = self._used = credentials.find(self._name, repository)
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return await self._bearer(challenge, found)
            if challenge.scheme == "basic" and found is not None:
                return found.basic
        return None

    async def _bearer(self, challenge: Challenge, found: Credentials | None) -> str:
        realm = challenge.parameters["realm"]
        where = urlsplit(realm)
        if where.scheme not in ("https", "http") or not where.hostname or where.fragment:
            raise Failure(f"{self._name} says that tokens come from {shown(realm)}: no such URL")
        if self._is_tls and where.scheme != "https":
            raise Failure(
                f"{self._name} says that tokens come from {shown(realm)}, which is not TLS",
                hint="nothing was sent there: ask who runs the registry",
            )
        query = [("scope", scope) for scope in challenge.parameters.get("scope", "").split()]
        if service := challenge.parameters.get("service"):
            query.insert(0, ("service", service))
        joint = "&" if where.query else "?"
        url = realm + (joint + urlencode(query) if query else "")
        body = await self._fetch(TokenRequest(url, found.basic if found else None))
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (ValueError, RecursionError):  # it may have a token in it
            answer = _Answer()
        token = answer.token or answer.access_token or ""
        if _TOKEN.fullmatch(token) is None:
            raise Failure(f"{shown(realm)} sent no token for {self._name}")
        return f"Bearer {token}"
