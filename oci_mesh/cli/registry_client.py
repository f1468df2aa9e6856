"""A registry as its client sees it: the distribution API, over HTTP that may fail at any moment.

What may pass is tried again (`retry.py`); a cut upload goes on from where the registry says it
stopped, a cut download is for the caller to go on with. What a registry says the digest is must be
what it is.

Not here: the order of things (`push.py`, `pull.py`, `copy.py`).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, Self
from urllib.parse import quote

import msgspec
from yarl import URL

from oci_mesh.cli.failure import Failure, shown
from oci_mesh.cli.files import Content
from oci_mesh.cli.http import COMMIT_S, STALL_S, Body, Http, Refused, Response, read
from oci_mesh.cli.layers import At, digest_of
from oci_mesh.cli.retry import FIRST_WAIT_S, Patience, Transient
from oci_mesh.errors import OciError
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import HEX_LENGTH, Digest
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES, Descriptor, Manifest, parse_manifest
from oci_mesh.spec.reference import parse_repository, parse_tag

_ACCEPT: Final = ", ".join(sorted(media_types.MANIFESTS))
_CHANGED: Final = "the registry, or something before it, changes content: do not use it"


# Of 1,000 names each, or of what the registry gives at once.
_MAX_PAGES: Final = 1000


class _Listed(msgspec.Struct):
    tags: list[str] | None = None
    repositories: list[str] | None = None


class RegistryClient:
    """One registry, for the time of `async with`. `note` is told of what is tried again.

    Without `spread` a node of this mesh does not wait for copies on other nodes when an image is
    pushed to it: the caller sees to them.
    """

    def __init__(
        self,
        base: str,
        note: Callable[[str], None],
        *,
        first_wait_s: float = FIRST_WAIT_S,
        stall_s: float = STALL_S,
        spread: bool = True,
    ) -> None:
        self._http = Http(base, stall_s=stall_s)
        self._note = note
        self._first_wait_s = first_wait_s
        self._spread = spread

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    def patience(self) -> Patience:
        """For one operation that the caller repeats."""
        return Patience(self._note, self._first_wait_s)

    async def has_blob(self, repository: str, digest: Digest) -> bool:
        """Whether the registry has it, in this repository."""

        async def attempt() -> bool:
            url = self._url(repository, "blobs", str(digest))
            opening = self._http.request("HEAD", url, (200, 404), repository=repository)
            async with opening as response:
                if response.status == 200:
                    _check_digest(response, digest)
                return response.status == 200

        return await self.patience().call(attempt)

    async def push_blob(self, repository: str, digest: Digest, body: Body, at: At) -> None:
        """Upload a blob; `at` hears how many bytes the registry has got so far. May be repeated."""
        patience = self.patience()
        upload: URL | None = None
        offset = best = 0
        while True:
            try:
                if upload is None:
                    upload, offset = await self._start(repository), 0
                elif (found := await self._status(repository, upload)) is not None:
                    upload, offset = found
                elif await self.has_blob(repository, digest):
                    return  # it was only the answer that got lost
                else:
                    upload, offset = await self._start(repository), 0
                if offset > best:
                    best = offset
                    patience.progress()
                await self._send(repository, upload, digest, body, offset, at)
            except Transient as error:
                await patience.after(error)
            except Refused as refused:
                await _blame(refused, digest, body)
                if upload is None or refused.status not in (404, 416):
                    raise
                upload = None  # the upload is lost, or not where we think: another one
                await patience.after(Transient(refused.message))
            else:
                return

    async def push_manifest(self, repository: str, reference: str, manifest: Manifest) -> None:
        """Store a manifest under a tag or its digest. May be repeated."""

        async def attempt() -> None:
            url = self._url(repository, "manifests", reference)
            headers = {"Content-Type": manifest.media_type}
            if not self._spread:
                headers["OCI-Mesh-Copies"] = "1"
            async with self._http.request(
                "PUT",
                url,
                (201,),
                repository=repository,
                headers=headers,
                data=manifest.content,
                answer_s=COMMIT_S,
            ) as response:
                _check_content(response, manifest.content, manifest.digest)

        await self.patience().call(attempt)

    async def manifest(self, repository: str, reference: str) -> Manifest | None:
        """A manifest by tag or digest, verified; None if the registry does not have it."""
        digest = Digest.parse(reference) if ":" in reference else None

        async def attempt() -> Manifest | None:
            url = self._url(repository, "manifests", reference)
            headers = {"Accept": _ACCEPT}
            async with self._http.request(
                "GET", url, (200, 404), repository=repository, headers=headers
            ) as response:
                if response.status == 404:
                    return None
                content = await read(response, MAX_MANIFEST_BYTES)
                found = digest or Digest.of(content)
                _check_content(response, content, found)
                return _parse(url, content, response.content_type, found.algorithm)

        return await self.patience().call(attempt)

    async def referrers(self, repository: str, subject: Descriptor) -> tuple[Descriptor, ...]:
        """The manifests that refer to `subject`; none if the registry has no such list."""

        async def attempt() -> tuple[Descriptor, ...]:
            url = self._url(repository, "referrers", subject.digest)
            async with self._http.request(
                "GET", url, (200, 404), repository=repository
            ) as response:
                if response.status == 404:
                    return ()
                content = await read(response, MAX_MANIFEST_BYTES)
                return _parse(url, content, response.content_type).manifests

        return await self.patience().call(attempt)

    async def find(self, repository: str, reference: str) -> Digest | None:
        """The digest of a manifest by tag, without its content; None if it is not there."""

        async def attempt() -> Digest | None:
            url = self._url(repository, "manifests", reference)
            async with self._http.request(
                "HEAD", url, (200, 404), repository=repository, headers={"Accept": _ACCEPT}
            ) as response:
                said = response.headers.get("Docker-Content-Digest", "")
                return Digest.parse(said) if response.status == 200 and said else None

        return await self.patience().call(attempt)

    async def tags(self, repository: str) -> list[str] | None:
        """All tags; None if the registry has no such repository."""
        return await self._list(self._url(repository, "tags", "list"), repository, parse_tag)

    async def repositories(self) -> list[str] | None:
        """All repositories; None if the registry does not list them."""
        return await self._list(self._url("_catalog"), "", parse_repository)

    async def delete_manifest(self, repository: str, reference: str) -> bool:
        """Delete a tag, or by digest a manifest with its tags; False if it was not there."""

        async def attempt() -> bool:
            url = self._url(repository, "manifests", reference)
            async with self._http.request(
                "DELETE", url, (200, 202, 204, 404), repository=repository
            ) as response:
                return response.status != 404

        return await self.patience().call(attempt)

    async def mount(self, repository: str, digest: Digest, source: str) -> bool:
        """Have a blob of the repository `source` in this one, too; False if it cannot be."""

        async def attempt() -> URL | None:
            url = self._url(repository, "blobs", "uploads", "")
            url = url.with_query({"mount": str(digest), "from": source})
            async with self._http.request("POST", url, (201, 202), repository=repository) as answer:
                return _location(answer) if answer.status == 202 else None

        try:
            upload = await self.patience().call(attempt)
            if upload is not None:  # the registry began one instead
                async with self._http.request(
                    "DELETE", upload, (200, 204, 404), repository=repository
                ):
                    pass
        except Refused:  # it may be more than this user may do; uploading is another question
            return False
        return upload is None

    @asynccontextmanager
    async def blob(
        self, repository: str, digest: Digest, start: int
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """A blob's bytes from `start`, unverified, and where they start in fact: a registry may
        send it all. One attempt: raises `Transient` on a cut.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        url = self._url(repository, "blobs", str(digest))
        async with self._http.request(
            "GET", url, (200, 206), repository=repository, headers=headers
        ) as response:
            begins = start if response.status == 206 else 0
            said = response.headers.get("Content-Range", "")
            if response.status == 206 and not said.startswith(f"bytes {start}-"):
                raise Failure(f"{url}: asked for the bytes from {start}, got {shown(said)}")
            yield begins, response.content.iter_any()

    async def small_blob(self, repository: str, descriptor: Descriptor, limit: int) -> bytes:
        """A whole blob of at most `limit` bytes, verified. Raises `Failure`."""
        digest = descriptor.checked_digest

        async def attempt() -> bytes:
            url = self._url(repository, "blobs", str(digest))
            async with self._http.request("GET", url, (200,), repository=repository) as response:
                content = await read(response, limit)
                _check_content(response, content, digest)
                return content

        return await self.patience().call(attempt)

    async def _list(
        self, url: URL, repository: str, parse: Callable[[str], str]
    ) -> list[str] | None:
        """The names on all pages; those that are none are left out."""
        found: list[str] = []
        following: URL | None = url
        for _ in range(_MAX_PAGES):
            if following is None:
                break
            page = await self.patience().call(partial(self._page, following, repository))
            if page is None:
                return None
            names, following = page
            for name in names:
                with suppress(OciError):
                    found.append(parse(name))
        return found

    async def _page(self, url: URL, repository: str) -> tuple[list[str], URL | None] | None:
        async with self._http.request("GET", url, (200, 404), repository=repository) as response:
            if response.status == 404:
                return None
            content = await read(response, MAX_MANIFEST_BYTES)
            try:
                listed = msgspec.json.decode(content, type=_Listed)
            except (msgspec.DecodeError, RecursionError) as error:
                raise Failure(f"{url}: the registry's list cannot be read: {error}") from None
            following = response.links["next"]["url"] if "next" in response.links else None
            names = [*(listed.tags or []), *(listed.repositories or [])]
            return names, URL(following) if following else None

    async def _start(self, repository: str) -> URL:
        url = self._url(repository, "blobs", "uploads", "")
        async with self._http.request("POST", url, (202,), repository=repository) as response:
            return _location(response)

    async def _status(self, repository: str, upload: URL) -> tuple[URL, int] | None:
        """Where an upload goes on and how much of it is there; None if it is gone."""
        async with self._http.request("GET", upload, (204, 404), repository=repository) as response:
            if response.status == 404:
                return None
            last = response.headers.get("Range", "").rpartition("-")[2]
            # "0-0" means one byte, or none: starting at none is right, or refused with 416.
            have = int(last) + 1 if last.isascii() and last.isdigit() and last != "0" else 0
            return _location(response), have

    async def _send(
        self, repository: str, upload: URL, digest: Digest, body: Body, offset: int, at: At
    ) -> None:
        """All that is missing: in one PUT, or, after a cut, in a PATCH and an empty PUT."""
        if 0 < offset < body.size:
            headers = {"Content-Range": f"{offset}-{body.size - 1}"}
            rest = self._http.send("PATCH", upload, (202,), body, offset, at, headers, repository)
            async with rest as patched:
                upload = _location(patched)
            offset = body.size
        query = f"digest={quote(str(digest))}"
        url = URL(f"{upload}{'&' if '?' in str(upload) else '?'}{query}", encoded=True)
        sending = self._http.send("PUT", url, (201,), body, offset, at, {}, repository)
        async with sending as response:
            _check_digest(response, digest)

    def _url(self, repository: str, *rest: str) -> URL:
        """Names and digests were parsed: nothing in them has to be quoted."""
        return self._http.base.joinpath("v2", repository, *rest, encoded=True)


def _location(response: Response) -> URL:
    """Where to go on, as the registry put it: its bytes may be signed, so none is re-quoted."""
    text = response.headers.get("Location")
    if text is None:
        raise Failure(f"{response.url}: the registry did not say where to upload to")
    return response.url.join(URL(text, encoded=True))


def _check_digest(response: Response, *digests: Digest) -> None:
    """One content may have a digest of either algorithm."""
    said = response.headers.get("Docker-Content-Digest")
    if said is not None and said not in map(str, digests):
        raise Failure(
            f"{response.url.with_query(None)}: the registry says {shown(said)}, "
            f"expected {digests[0]}",
            hint=_CHANGED,
        )


def _check_content(response: Response, content: bytes, digest: Digest) -> None:
    if not digest.matches(content):
        found = Digest.of(content, digest.algorithm)
        raise Failure(f"{response.url}: the registry sent {found} instead", hint=_CHANGED)
    _check_digest(response, *(Digest.of(content, algorithm) for algorithm in HEX_LENGTH))


def _parse(url: URL, content: bytes, media_type: str, algorithm: str = "sha256") -> Manifest:
    try:
        return parse_manifest(content, media_type, algorithm)
    except OciError as error:
        raise Failure(f"{url}: {error.message}") from None


async def _blame(refused: Refused, digest: Digest, body: Body) -> None:
    """If it is our copy that is wrong, say so: the registry only sees that something is."""
    if refused.status != 400 or not isinstance(body, Content):
        return
    if await digest_of(body, digest.algorithm) != digest:
        raise Failure(
            f"blob {digest} in SOURCE is damaged", hint="make SOURCE again from where it came from"
        ) from refused
