"""The settings of one upstream: another registry, whose content this mesh hands on.

`serve` reads them from `[upstream."HOST"]` tables of its TOML file; other programs construct them.
The name is a key: clients say it (`?ns=`), and only here is it turned into addresses. Secrets are
files that are read when they are needed, so that they are in no configuration, log or process list.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from oci_mesh.errors import ConfigError, NameInvalid, quoted
from oci_mesh.spec.reference import parse_repository
from oci_mesh.spec.scope import parse_registry

PULL: Final = "pull"
RESOLVE: Final = "resolve"
CAPABILITIES: Final = (PULL, RESOLVE)

_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|[0-9a-f:.]+", re.ASCII)


class Place(NamedTuple):
    """What a connection goes to: all that has the same answers to who may be told what."""

    scheme: str
    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamConfig:
    """One registry. Only `name` has no default. Raises `ConfigError` for what cannot be used.

    Files are looked at when the upstream is first used, not here.
    """

    name: str
    """HOST or HOST:PORT as in the names of its images, and as clients say it with `?ns=`."""

    urls: tuple[str, ...] = ()
    """Where it is: the first that answers. `http://` is plain HTTP. Default: https at `name`."""

    ca: Path | None = None
    """PEM file of authorities that its certificate may be from, besides those of the system."""

    username: str | None = None
    password_file: Path | None = None
    """The file has the password for `username`; a newline at its end is not part of it."""

    token_file: Path | None = None
    """Instead of these: the file has a token that the registry takes as it is (Bearer)."""

    capabilities: tuple[str, ...] = CAPABILITIES
    """`pull`: content by digest; `resolve`: what a tag is. As in containerd's hosts.toml."""

    rewrite: tuple[tuple[str, str], ...] = ()
    """(pattern, replacement) for repository names, as `re.sub` takes them: the first pattern that
    matches the whole name counts.
    """

    private: bool = False
    """Never ask it without a client's secret: all that is in it is for those who have one."""

    redirects: tuple[str, ...] = ()
    """HOST, HOST:PORT or http://HOST:PORT where its content may be besides public https addresses:
    an object store in the own network.
    """

    realms: tuple[str, ...] = ()
    """Likewise, where its tokens come from, if not from itself. Credentials go nowhere else."""

    _rules: tuple[tuple[re.Pattern[str], str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._set("name", _checked_name(self.name))
        known = _KNOWN.get(self.name, _Known())
        self._set("urls", self.urls or known.urls or (f"https://{self.name}",))
        self._set("realms", self.realms or known.realms)
        for path in ("ca", "password_file", "token_file"):
            if (value := getattr(self, path)) is not None:
                self._set(path, Path(value))
        for url in self.urls:
            self._check_url(url)
        for listed in (*self.redirects, *self.realms):
            self._place(listed)
        self._check_credentials()
        if not self.capabilities or set(self.capabilities) - set(CAPABILITIES):
            raise self._error(f"capabilities is a list of {' and '.join(CAPABILITIES)}")
        self._set("_rules", tuple(self._rule(*rule) for rule in self.rewrite))

    @property
    def places(self) -> frozenset[Place]:
        """Where its URLs lead."""
        return frozenset(self._place(url) for url in self.urls)

    @property
    def redirect_places(self) -> frozenset[Place]:
        """`redirects`, parsed."""
        return frozenset(self._place(listed) for listed in self.redirects)

    @property
    def realm_places(self) -> frozenset[Place]:
        """`realms`, parsed."""
        return frozenset(self._place(listed) for listed in self.realms)

    @property
    def has_credentials(self) -> bool:
        """Whether this mesh shows it any."""
        return self.username is not None or self.token_file is not None

    def repository(self, name: str) -> str:
        """What `name` is called there. Raises `NameInvalid` if a rewrite leaves no name."""
        for pattern, replacement in self._rules:
            match = pattern.fullmatch(name)
            if match is not None:
                return parse_repository(match.expand(replacement))
        return name

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"upstream {self.name}: {text}")

    def _check_url(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.netloc:
            raise self._error("url is https://HOST, or http://HOST for plain HTTP")
        if "@" in parts.netloc:  # and is not repeated here: it may be a password
            raise self._error("url has a user in it: write username and password-file instead")
        if parts.query or parts.fragment or not url.isascii() or "%" in url:
            raise self._error(f"url {quoted(url)} has more than https://HOST:PORT/PATH")
        self._place(url)

    def _place(self, text: str) -> Place:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        try:
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        except ValueError:  # a port that is none
            scheme, host, port = "", "", None
        if scheme not in _PORTS or _HOST.fullmatch(host) is None or "@" in parts.netloc:
            raise self._error(f"{quoted(text)} is not HOST, HOST:PORT or http://HOST:PORT")
        with suppress(ValueError):  # a name
            host = str(ip_address(host))  # IPv6 can be written in many ways
        return Place(scheme, host, port or _PORTS[scheme])

    def _check_credentials(self) -> None:
        if (self.username is None) != (self.password_file is None):
            raise self._error("username and password-file go together")
        if self.username is not None and (":" in self.username or not self.username.isprintable()):
            raise self._error("username has a colon or a control character in it")
        if self.username is not None and self.token_file is not None:
            raise self._error("username or token-file: choose one")
        if self.has_credentials and len({place.scheme for place in self.places}) > 1:
            raise self._error(  # whoever can keep us from the one could read along at the other
                "credentials, and a url with https and one without: choose one kind"
            )
        if self.private and self.has_credentials:
            raise self._error(
                "private means that clients fetch with their own secrets: leave out username and "
                "token-file, or private if all clients of this mesh may have what they open"
            )

    def _rule(self, pattern: str, replacement: str) -> tuple[re.Pattern[str], str]:
        try:
            rule = re.compile(pattern, re.ASCII)
            rule.sub(replacement, "")  # says whether the replacement names groups that are there
        except (re.error, IndexError) as error:
            raise self._error(
                f"rewrite {quoted(pattern)} to {quoted(replacement)}: {error}"
            ) from None
        return rule, replacement


class _Known(NamedTuple):
    urls: tuple[str, ...] = ()
    realms: tuple[str, ...] = ()


# What is not where its name says. The realms are those that their challenges name today.
_KNOWN: Final = {
    "docker.io": _Known(("https://registry-1.docker.io",), ("auth.docker.io",)),
    "registry.gitlab.com": _Known(realms=("gitlab.com",)),
}


def _checked_name(name: str) -> str:
    try:
        return parse_registry(name)
    except NameInvalid as error:
        raise ConfigError(f"upstream: {error.message}") from None


# Registries that anybody may pull from. That a node asks them at all can be switched off.
PUBLIC: Final = tuple(
    UpstreamConfig(name=name)
    for name in (
        "docker.io",
        "gcr.io",
        "ghcr.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
        "quay.io",
        "registry.gitlab.com",
        "registry.k8s.io",
    )
)


def with_public(configured: Iterable[UpstreamConfig]) -> tuple[UpstreamConfig, ...]:
    """Those, and of `PUBLIC` the ones that are not configured otherwise."""
    ours = tuple(configured)
    names = {upstream.name for upstream in ours}
    return (*ours, *(public for public in PUBLIC if public.name not in names))


def parse_upstreams(tables: object) -> tuple[UpstreamConfig, ...]:
    """The value of `upstream` in a TOML file: a table of tables, by name. Raises `ConfigError`.

        [upstream."registry.corp:5000"]
        url = ["https://registry.corp:5000", "https://standby.corp"]
        ca = "/etc/oci-mesh/corp.pem"
        username = "mesh"
        password-file = "/run/secrets/corp"
        rewrite = { 'proxy/(.*)' = '\\1' }

    Keys are those of `UpstreamConfig`, with `-` or `_`; a list may be one value.
    """
    if not isinstance(tables, Mapping):
        raise ConfigError('upstream is not a table: write [upstream."HOST"]')
    upstreams = tuple(_parse(str(name), table) for name, table in tables.items())
    names = [upstream.name for upstream in upstreams]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"upstream {', '.join(sorted(twice))} is there twice")
    return upstreams


def _parse(name: str, table: object) -> UpstreamConfig:
    if not isinstance(table, Mapping):
        raise ConfigError(f'upstream {name} is not a table: write [upstream."{name}"]')
    values = {str(key).replace("-", "_"): value for key, value in table.items()}
    unknown = [key for key in table if str(key).replace("-", "_") not in _READERS]
    for key in unknown:
        if isinstance(table[key], Mapping):  # [upstream.docker.io] is a table in a table
            raise ConfigError(f'upstream {name}: write [upstream."{name}.{key}"], with the quotes')
    if unknown:
        known = ", ".join(key.replace("_", "-") for key in _READERS)
        raise ConfigError(
            f"upstream {name}: unknown keys: {', '.join(map(str, unknown))}; known: {known}"
        )
    settings: dict[str, Any] = {"name": name}
    for key, value in values.items():
        read, form = _READERS[key]
        if (setting := read(value)) is None:
            raise ConfigError(f"upstream {name}: {key.replace('_', '-')} takes {form}")
        settings["urls" if key == "url" else key] = setting
    return UpstreamConfig(**settings)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: object) -> tuple[str, ...] | None:
    many = value if isinstance(value, list) else [value]
    texts = tuple(each for each in many if isinstance(each, str) and each)
    return texts if texts and len(texts) == len(many) else None


def _pairs(value: object) -> tuple[tuple[str, str], ...] | None:
    if not isinstance(value, Mapping) or not all(isinstance(to, str) for to in value.values()):
        return None
    return tuple((str(pattern), to) for pattern, to in value.items())


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


# For each key what reads its value (None: it cannot be read), and what it takes, for people.
_READERS: Final[dict[str, tuple[Any, str]]] = {
    "url": (_texts, "a URL, or a list of them"),
    "ca": (_text, "the path of a PEM file"),
    "username": (_text, "a name"),
    "password_file": (_text, "the path of a file"),
    "token_file": (_text, "the path of a file"),
    "capabilities": (_texts, f"a list of {' and '.join(CAPABILITIES)}"),
    "rewrite": (_pairs, "a table of pattern = replacement"),
    "private": (_flag, "true or false"),
    "redirects": (_texts, "a list of HOST, HOST:PORT or http://HOST:PORT"),
    "realms": (_texts, "a list of HOST, HOST:PORT or http://HOST:PORT"),
}
