"""The paths of the distribution API: (method, path, query) -> a typed request (distribution-spec,
"Endpoints").

Names are parsed here and nowhere else, once, into values that are safe to use: a handler never
sees raw text of a path. Segments are split before they are decoded, so `%2f` cannot make one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from oci_mesh.errors import (
    BlobUploadUnknown,
    DigestInvalid,
    EndpointUnknown,
    MethodUnsupported,
    NameInvalid,
    PaginationInvalid,
    RequestInvalid,
    quoted,
)
from oci_mesh.spec.digest import Digest, check_algorithm
from oci_mesh.spec.reference import parse_repository, parse_tag, parse_tag_or_digest
from oci_mesh.spec.scope import is_registry, parse_scope

# A page that fits in one response whatever is asked for (CVE-2023-2253: `n` made distribution
# allocate). Clients follow `Link`.
MAX_PAGE: Final = 1000

# `?tag=` of a manifest PUT: the spec asks for at least 10; a request line has room for few more.
MAX_TAGS_PER_PUT: Final = 64
_MAX_QUERY_FIELDS: Final = MAX_TAGS_PER_PUT + 16

# Upload ids are ours: 32 hex digits.
_UPLOAD_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)

# A registry's name has a dot or a port, as in references; `/v2/v2/` is about a repository.
_LABEL: Final = re.compile(r"[^.:]*")

# Requests that are remembered, parsed: some layers of some hundred images. Each is at most a
# request line long, so 16 MiB in all if somebody sends nothing but long ones.
_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class Ping:
    """end-1: is this a registry?"""


@dataclass(frozen=True, slots=True)
class ListRepositories:
    """`_catalog`: an extension that every client knows."""

    n: int
    last: str


@dataclass(frozen=True, slots=True)
class ListTags:
    """end-8: tags in ASCII order, `n` of those after `last`."""

    repository: str
    n: int
    last: str


@dataclass(frozen=True, slots=True)
class GetBlob:
    """end-2, GET and HEAD."""

    repository: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class DeleteBlob:
    """end-10."""

    repository: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class GetManifest:
    """end-3, GET and HEAD."""

    repository: str
    reference: str | Digest


@dataclass(frozen=True, slots=True)
class PutManifest:
    """end-7a and 7b: under a tag, or under a digest with any number of tags."""

    repository: str
    reference: str | Digest
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeleteManifest:
    """end-9."""

    repository: str
    reference: str | Digest


@dataclass(frozen=True, slots=True)
class ListReferrers:
    """end-12."""

    repository: str
    digest: Digest
    artifact_type: str | None


@dataclass(frozen=True, slots=True)
class StartUpload:
    """end-4a, 4b, 4c and 11: a POST, perhaps with the whole blob, perhaps a mount."""

    repository: str
    digest: Digest | None
    mount: Digest | None
    source: str | None
    algorithm: str | None


@dataclass(frozen=True, slots=True)
class GetUpload:
    """end-13."""

    repository: str
    upload: str


@dataclass(frozen=True, slots=True)
class PatchUpload:
    """end-5. `offset` is what the Location said that this chunk was sent to."""

    repository: str
    upload: str
    offset: int | None


@dataclass(frozen=True, slots=True)
class FinishUpload:
    """end-6."""

    repository: str
    upload: str
    digest: Digest
    offset: int | None


@dataclass(frozen=True, slots=True)
class CancelUpload:
    """end-14."""

    repository: str
    upload: str


Request = (
    Ping
    | ListRepositories
    | ListTags
    | GetBlob
    | DeleteBlob
    | GetManifest
    | PutManifest
    | DeleteManifest
    | ListReferrers
    | StartUpload
    | GetUpload
    | PatchUpload
    | FinishUpload
    | CancelUpload
)

_Query = Mapping[str, list[str]]
_Build = Callable[[str, str, _Query], Request]


class Target(NamedTuple):
    """Which registry's content a request is about, as its client says, and the path that is left.

    `registry` is empty where nothing is said. It may be anything else, for it is only a key to look
    up: who asks about a registry that there is not is told so, not that the request was wrong.
    """

    registry: str
    path: str


@lru_cache(_REMEMBERED)
def parse_target(path: str, query: str) -> Target:
    """What a client says to a mirror, in the form of containerd, `/v2/…?ns=docker.io`, or in that
    of docker's `registry-mirrors`, `/docker.io/v2/…`. `path` and `query` as sent.

    Raises a `RequestInvalid` for what `parse_request` refuses too.
    """
    first, _, rest = path.removeprefix("/").partition("/")
    if f"{rest}/".startswith("v2/") and not _LABEL.fullmatch(first) and is_registry(first):
        return Target(first.lower(), f"/{rest}")
    names = _parse_query(query).get("ns", [])
    return Target(" ".join(names).lower(), path)  # more than one is none that there is


@lru_cache(_REMEMBERED)  # the same few manifests and blobs are asked for again and again
def parse_request(method: str, path: str, query: str, *, scoped: bool = False) -> Request:
    """Parse a request line. `path` and `query` as sent, still percent-encoded. With `scoped`, as
    between nodes, the repository may be another registry's (`spec.scope`).

    Raises an `OciError`: 404 for a path that is none of ours, 405 for a method that it does not
    take, 400 for names, digests or parameters that are not well formed.
    """
    if not (path.isascii() and query.isascii()):
        raise RequestInvalid("what is not ASCII in a URL has to be percent-encoded")
    segments = path.split("/")
    if segments[:2] != ["", "v2"]:
        raise EndpointUnknown(f"no such endpoint: {quoted(path)}; the registry is under /v2/")
    segments = [_decode(segment) for segment in segments[2:]]
    fields = _parse_query(query)
    methods, repository, last = _endpoint(segments, scoped)
    build = methods.get("GET" if method == "HEAD" else method)
    if build is None:
        allow = ", ".join(sorted({*methods, *({"HEAD"} if "GET" in methods else ())}))
        raise MethodUnsupported(f"{quoted(method)} is not for this path", headers={"Allow": allow})
    return build(repository, last, fields)


def _endpoint(segments: list[str], scoped: bool) -> tuple[dict[str, _Build], str, str]:
    """Find the endpoint by the path's end, since a repository may be called `a/blobs`."""
    match segments:
        case [] | [""]:
            return _PING, "", ""
        case ["_catalog"]:
            return _CATALOG, "", ""
        case [*name, "tags", "list"]:
            return _TAGS, _name(name, scoped), ""
        case [*name, "blobs", "uploads"] | [*name, "blobs", "uploads", ""]:
            return _UPLOADS, _name(name, scoped), ""
        case [*name, "blobs", "uploads", upload] if name and ":" not in upload:
            return _UPLOAD, _name(name, scoped), upload
        case [*name, "blobs", digest]:
            return _BLOB, _name(name, scoped), digest
        case [*name, "manifests", reference]:
            return _MANIFEST, _name(name, scoped), reference
        case [*name, "referrers", digest]:
            return _REFERRERS, _name(name, scoped), digest
    raise EndpointUnknown("no such endpoint in the distribution API")


def _name(components: list[str], scoped: bool) -> str:
    for component in components:
        if "/" in component:
            raise NameInvalid("a repository name has no encoded slash")
    name = "/".join(components)
    return str(parse_scope(name)) if scoped else parse_repository(name)


def _decode(segment: str) -> str:
    if "%" not in segment:
        return segment
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise RequestInvalid("the path is not UTF-8") from None


def _parse_query(query: str) -> dict[str, list[str]]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_QUERY_FIELDS
        )
    except ValueError:
        raise RequestInvalid(
            f"the query is not UTF-8, or has more than {_MAX_QUERY_FIELDS} fields"
        ) from None
    fields: dict[str, list[str]] = {}
    for key, value in pairs:
        fields.setdefault(key, []).append(value)
    return fields


def _one(fields: _Query, key: str) -> str | None:
    values = fields.get(key)
    if values is None:
        return None
    if len(values) > 1:
        raise RequestInvalid(f"{key!r} is given {len(values)} times")
    return values[0]


def _page(fields: _Query) -> tuple[int, str]:
    text = _one(fields, "n")
    if text is None:
        n = MAX_PAGE
    elif text.isascii() and text.isdigit():
        n = min(int(text[:18]), MAX_PAGE)
    else:
        raise PaginationInvalid(f"n={quoted(text)} is not a number of entries")
    return n, _one(fields, "last") or ""


def _start_upload(repository: str, _: str, fields: _Query) -> StartUpload:
    digest, mount = _one(fields, "digest"), _one(fields, "mount")
    source, algorithm = _one(fields, "from"), _one(fields, "digest-algorithm")
    if algorithm is not None:
        check_algorithm(algorithm)
    return StartUpload(
        repository,
        Digest.parse(digest) if digest is not None else None,
        Digest.parse(mount) if mount is not None else None,
        parse_repository(source) if source else None,
        algorithm,
    )


def _finish_upload(repository: str, upload: str, fields: _Query) -> FinishUpload:
    digest = _one(fields, "digest")
    if digest is None:
        raise DigestInvalid("a PUT that ends an upload needs ?digest=")
    return FinishUpload(repository, _upload(upload), Digest.parse(digest), _offset(fields))


def _offset(fields: _Query) -> int | None:
    text = _one(fields, "offset")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RequestInvalid("this is not a Location that the registry gave")
    return int(text)


def _upload(text: str) -> str:
    if _UPLOAD_ID.fullmatch(text) is None:
        raise BlobUploadUnknown("no such upload: its id is none of ours")
    return text


def _put_manifest(repository: str, text: str, fields: _Query) -> PutManifest:
    reference = parse_tag_or_digest(text)
    tags = tuple(dict.fromkeys(parse_tag(tag) for tag in fields.get("tag", [])))
    if len(tags) > MAX_TAGS_PER_PUT:
        raise RequestInvalid(f"more than {MAX_TAGS_PER_PUT} tags in one request")
    return PutManifest(repository, reference, tags)


_PING: Final[dict[str, _Build]] = {"GET": lambda r, t, q: Ping()}
_CATALOG: Final[dict[str, _Build]] = {"GET": lambda r, t, q: ListRepositories(*_page(q))}
_TAGS: Final[dict[str, _Build]] = {"GET": lambda r, t, q: ListTags(r, *_page(q))}
_BLOB: Final[dict[str, _Build]] = {
    "GET": lambda r, t, q: GetBlob(r, Digest.parse(t)),
    "DELETE": lambda r, t, q: DeleteBlob(r, Digest.parse(t)),
}
_MANIFEST: Final[dict[str, _Build]] = {
    "GET": lambda r, t, q: GetManifest(r, parse_tag_or_digest(t)),
    "PUT": _put_manifest,
    "DELETE": lambda r, t, q: DeleteManifest(r, parse_tag_or_digest(t)),
}
_REFERRERS: Final[dict[str, _Build]] = {
    "GET": lambda r, t, q: ListReferrers(r, Digest.parse(t), _one(q, "artifactType") or None)
}
_UPLOADS: Final[dict[str, _Build]] = {"POST": _start_upload}
_UPLOAD: Final[dict[str, _Build]] = {
    "GET": lambda r, t, q: GetUpload(r, _upload(t)),
    "PATCH": lambda r, t, q: PatchUpload(r, _upload(t), _offset(q)),
    "PUT": _finish_upload,
    "DELETE": lambda r, t, q: CancelUpload(r, _upload(t)),
}
