"""A registry as its client sees it: the distribution API, over HTTP that may fail at any moment.

What may pass is tried again (`retry.py`); a cut upload goes on from where the registry says it
stopped, a cut download is for the caller to go on with. What a registry says the digest is must be
what it is.

Not here: credentials (a 401 is an error that says so), mounting from other repositories, and the
order of things (`push.py`, `pull.py`).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Self
from urllib.parse import quote

from yarl import URL

from oci_mesh.cli.failure import Failure, shown
from oci_mesh.cli.files import Content
from oci_mesh.cli.http import COMMIT_S, STALL_S, Http, Refused, Response, read
from oci_mesh.cli.layers import At, digest_of
from oci_mesh.cli.retry import FIRST_WAIT_S, Patience, Transient
from oci_mesh.errors import OciError
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import HEX_LENGTH, Digest
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES, Descriptor, Manifest, parse_manifest

_ACCEPT: Final = ", ".join(sorted(media_types.MANIFESTS))
_CHANGED: Final = "the registry, or something before it, changes content: do not use it"


class RegistryClient:
    """One registry, for the time of `async with`. `note` is told of what is tried again."""

    def __init__(
        self,
        base: str,
        note: Callable[[str], None],
        *,
        first_wait_s: float = FIRST_WAIT_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._http = Http(base, stall_s=stall_s)
        self._note = note
        self._first_wait_s = first_wait_s

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
            async with self._http.request("HEAD", url, (200, 404)) as response:
                if response.status == 200:
                    _check_digest(response, digest)
                return response.status == 200

        return await self.patience().call(attempt)

    async def push_blob(self, repository: str, digest: Digest, content: Content, at: At) -> None:
        """Upload a blob; `at` hears how many bytes the registry has got so far. May be repeated."""
        patience = self.patience()
        upload: URL | None = None
        offset = best = 0
        while True:
            try:
                if upload is None:
                    upload, offset = await self._start(repository), 0
                elif (found := await self._status(upload)) is not None:
                    upload, offset = found
                elif await self.has_blob(repository, digest):
                    return  # it was only the answer that got lost
                else:
                    upload, offset = await self._start(repository), 0
                if offset > best:
                    best = offset
                    patience.progress()
                await self._send(upload, digest, content, offset, at)
            except Transient as error:
                await patience.after(error)
            except Refused as refused:
                await _blame(refused, digest, content)
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
            async with self._http.request(
                "PUT", url, (201,), headers=headers, data=manifest.content, answer_s=COMMIT_S
            ) as response:
                _check_content(response, manifest.content, manifest.digest)

        await self.patience().call(attempt)

    async def manifest(self, repository: str, reference: str) -> Manifest | None:
        """A manifest by tag or digest, verified; None if the registry does not have it."""
        digest = Digest.parse(reference) if ":" in reference else None

        async def attempt() -> Manifest | None:
            url = self._url(repository, "manifests", reference)
            headers = {"Accept": _ACCEPT}
            async with self._http.request("GET", url, (200, 404), headers=headers) as response:
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
            async with self._http.request("GET", url, (200, 404)) as response:
                if response.status == 404:
                    return ()
                content = await read(response, MAX_MANIFEST_BYTES)
                return _parse(url, content, response.content_type).manifests

        return await self.patience().call(attempt)

    @asynccontextmanager
    async def blob(
        self, repository: str, digest: Digest, start: int
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """A blob's bytes from `start`, unverified, and where they start in fact: a registry may
        send it all. One attempt: raises `Transient` on a cut.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        url = self._url(repository, "blobs", str(digest))
        async with self._http.request("GET", url, (200, 206), headers=headers) as response:
            begins = start if response.status == 206 else 0
            said = response.headers.get("Content-Range", "")
            if response.status == 206 and not said.startswith(f"bytes {start}-"):
                raise Failure(f"{url}: asked for the bytes from {start}, got {shown(said)}")
            yield begins, response.content.iter_any()

    async def _start(self, repository: str) -> URL:
        url = self._url(repository, "blobs", "uploads", "")
        async with self._http.request("POST", url, (202,)) as response:
            return _location(response)

    async def _status(self, upload: URL) -> tuple[URL, int] | None:
        """Where an upload goes on and how much of it is there; None if it is gone."""
        async with self._http.request("GET", upload, (204, 404)) as response:
            if response.status == 404:
                return None
            last = response.headers.get("Range", "").rpartition("-")[2]
            # "0-0" means one byte, or none: starting at none is right, or refused with 416.
            have = int(last) + 1 if last.isascii() and last.isdigit() and last != "0" else 0
            return _location(response), have

    async def _send(
        self, upload: URL, digest: Digest, content: Content, offset: int, at: At
    ) -> None:
        """All that is missing: in one PUT, or, after a cut, in a PATCH and an empty PUT."""
        if 0 < offset < content.size:
            headers = {"Content-Range": f"{offset}-{content.size - 1}"}
            rest = self._http.send("PATCH", upload, (202,), content, offset, at, headers)
            async with rest as patched:
                upload = _location(patched)
            offset = content.size
        query = f"digest={quote(str(digest))}"
        url = URL(f"{upload}{'&' if '?' in str(upload) else '?'}{query}", encoded=True)
        async with self._http.send("PUT", url, (201,), content, offset, at, {}) as response:
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


async def _blame(refused: Refused, digest: Digest, content: Content) -> None:
    """If it is our copy that is wrong, say so: the registry only sees that something is."""
    if refused.status == 400 and await digest_of(content, digest.algorithm) != digest:
        raise Failure(
            f"blob {digest} in SOURCE is damaged", hint="make SOURCE again from where it came from"
        ) from refused
