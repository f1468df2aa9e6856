"""The user's credentials for registries, as `docker login` and `podman login` keep them.

Read are docker's config.json (in DOCKER_CONFIG, else ~/.docker) and then podman's auth.json (in
XDG_RUNTIME_DIR/containers): their `auths`. Credential helpers are not called; where one has the
credentials, that is said.
"""

import base64
import binascii
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from oci_mesh.cli.failure import Failure
from oci_mesh.spec.reference import DEFAULT_DOMAIN, LEGACY_DEFAULT_DOMAIN

# Real ones have a few kB.
_MAX_FILE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's, for one registry. Not shown by `repr`: it gets into tracebacks."""

    username: str
    password: str = field(repr=False)
    path: Path
    """The file that they are from."""

    @property
    def basic(self) -> str:
        """`Authorization` with these (RFC 7617)."""
        return f"Basic {base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()}"


class _Entry(msgspec.Struct, rename="lower"):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _File(msgspec.Struct, rename="camel"):
    auths: dict[str, _Entry] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


def find(registry: str, repository: str) -> Credentials | None:
    """What is kept for `registry` (`HOST[:PORT]`, as in names of images); None if nothing is.

    Raises `Failure` if a file cannot be read, or says that a helper has them.
    """
    names = list(_names(registry, repository))
    helper: Failure | None = None
    for path in places():
        file = _read(path)
        if file is None:
            continue
        # docker takes `https://host/v1/` for what it calls `host` today.
        auths = {_host(name): entry for name, entry in file.auths.items()}
        for name in names:
            entry = auths.get(name)
            if entry is not None and (found := _credentials(entry, name, path)):
                return found
        helper = helper or _helper(file, names, path)
    if helper is not None:
        raise helper
    return None


def places() -> list[Path]:
    """The files, in the order in which they count."""
    docker = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return [docker, Path(runtime) / "containers" / "auth.json"] if runtime else [docker]


def _names(registry: str, repository: str) -> Iterator[str]:
    """Podman may keep some for a part of a registry: the longest such name counts."""
    parts = repository.split("/")
    yield from ("/".join([registry, *parts[:length]]) for length in range(len(parts), 0, -1))
    yield registry
    if registry == DEFAULT_DOMAIN:
        yield LEGACY_DEFAULT_DOMAIN


def _host(name: str) -> str:
    """`index.docker.io` of `https://index.docker.io/v1/`."""
    plain = name.removeprefix("https://").removeprefix("http://")
    return plain.partition("/")[0] if plain != name or plain.endswith("/") else plain


def _read(path: Path) -> _File | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):  # they may quote a secret
        raise Failure(
            f"{path} is not a file of credentials as docker and podman write them",
            hint="mend it, or move it away and log in again",
        ) from None


def _credentials(entry: _Entry, name: str, path: Path) -> Credentials | None:
    username, password = entry.username, entry.password
    if entry.auth:
        try:
            pair = base64.b64decode(entry.auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            pair = ""
        username, colon, password = pair.rstrip("\0").partition(":")
        if not colon:
            raise Failure(
                f"what {path} has for {name} is not USER:PASSWORD in base64",
                hint=f"log in again: docker login {name}",
            )
    if entry.identitytoken:
        raise Failure(
            f"{path} has an identity token for {name}, which this command cannot use",
            hint="log in with a user name and a password, or an access token as the password",
        )
    return Credentials(username, password, path) if username else None


def _helper(file: _File, names: list[str], path: Path) -> Failure | None:
    helpers: Mapping[str, str] = file.cred_helpers
    program = next((helpers[name] for name in names if name in helpers), file.creds_store)
    if not program:
        return None
    return Failure(
        f"{path} leaves the credentials for {names[-1]} to docker-credential-{program}, "
        "which this command does not call",
        hint=f"keep them in a file of their own: DOCKER_CONFIG=DIR docker login {names[-1]}, "
        "then DOCKER_CONFIG=DIR oci-mesh …",
    )
