"""The contract of a store: verified content on this node.

Content belongs to repositories: every question is asked in the name of one, and content that
another repository holds does not exist there until it is pushed or mounted (CVE-2024-39897,
CVE-2026-35172). Underneath, equal content is kept once.

What a store promises, whichever implementation: bytes come out only if their digest was verified
on the way in. When `Upload.commit` or `put_manifest` returns, what was written survives `kill -9`
and a power cut; when they raise, nothing of it can be seen. Every operation may be repeated.

What a store does not do: speak HTTP, ask other nodes, decide which content a manifest must come
with, or make stamps: callers bring these (`NameRecord` says what a stamp is).

A `stamp` of None marks content copied from where it already exists (a peer, an upstream): it never
revives a deletion. With a stamp it is a person's push.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest
from oci_mesh.spec.names import NameRecord


class Usage(NamedTuple):
    """What a store holds: blobs (each counted once), their bytes, and unfinished uploads."""

    blobs: int
    bytes: int
    uploads: int


class _Closing(ABC):
    """Closed when its `async with` block ends."""

    @abstractmethod
    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class Blob(_Closing):
    """An open blob: bytes that were verified, readable from any offset. Close it after use."""

    digest: Digest
    size: int

    @property
    def file(self) -> BinaryIO | None:
        """The whole blob as an open file, for sendfile; None where there is no file (yet).

        Its position means nothing; readers pass offsets.
        """
        return None

    @abstractmethod
    def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `stop` (not included), in order. Raises `OciMeshError` if they cannot
        be had after all; the caller then cuts its connection: a short body is never a whole one.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of it. May be called twice."""


class Upload(ABC):
    """The right to write to one upload; at most one holder at a time.

    Got from `Store.upload`. Leaving its context without `commit` keeps what was written.
    """

    repository: str
    id: str
    offset: int

    @abstractmethod
    async def write(self, chunk: bytes) -> None:
        """Append. Raises `StorageFull`; then the upload and its bytes are gone."""

    @abstractmethod
    async def truncate(self, offset: int) -> None:
        """Take back what was written after `offset`."""

    @abstractmethod
    async def commit(self, digest: Digest, stamp: str | None = None) -> list[NameRecord]:
        """Make the bytes the blob `digest` of the repository, durably, and end the upload.

        Raises `DigestInvalid` if they are not (the upload is then gone too, as nothing could make
        it right), `StorageFull` or `StorageFailed`; `BlobUnknown` if `stamp` is None and the
        blob was deleted from the repository. Returns the name records that this wrote.
        """


class Store(_Closing):
    """See the module. Raises `OciError`s; `BlobUnknown`, `ManifestUnknown` and `NameUnknown` for
    what is not there. A `Store` is a `Source` (`oci_mesh.sources`): the first one of every chain.
    """

    # -- reading

    @abstractmethod
    async def stat(self, repository: str, digest: Digest) -> int:
        """The size of a blob in bytes, or `BlobUnknown`."""

    @abstractmethod
    async def blob(self, repository: str, digest: Digest) -> Blob:
        """Open a blob, or raise `BlobUnknown`. It stays readable if it is deleted meanwhile."""

    @abstractmethod
    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """A manifest exactly as pushed, or `ManifestUnknown`."""

    @abstractmethod
    async def resolve(self, repository: str, tag: str) -> Digest:
        """What a tag points to, whether or not that is here, or `ManifestUnknown`."""

    @abstractmethod
    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """Descriptors of the manifests here whose subject this is; by digest in order."""

    @abstractmethod
    async def tags(self, repository: str, last: str = "", n: int | None = None) -> list[str]:
        """Up to `n` tags after `last`, in ASCII order, or `NameUnknown`."""

    @abstractmethod
    async def repositories(self, last: str = "", n: int | None = None) -> list[str]:
        """Up to `n` repositories that have a blob, a manifest or a tag, after `last`, in order."""

    @abstractmethod
    async def usage(self) -> Usage:
        """How much is here."""

    # -- blobs

    @abstractmethod
    async def mount(
        self, repository: str, digest: Digest, source: str | None, stamp: str | None = None
    ) -> list[NameRecord]:
        """Give `repository` the blob that `source` has; no bytes move. `BlobUnknown` if it has not.

        Without `source` (anonymous mount) any repository will do: whether the caller may read them
        all is for the caller's caller to have decided.
        """

    @abstractmethod
    async def delete_blob(self, repository: str, digest: Digest, stamp: str) -> list[NameRecord]:
        """Take a blob from a repository; other repositories keep it. Or `BlobUnknown`."""

    # -- uploads

    @abstractmethod
    async def create_upload(self, repository: str, algorithm: str = "sha256") -> str:
        """Begin an upload and return its id (32 hex digits).

        `algorithm` is a hint which digest will be asked for; another one works and costs a re-read.
        """

    @abstractmethod
    def upload(self, repository: str, upload_id: str) -> AbstractAsyncContextManager[Upload]:
        """Hold an upload. Raises `BlobUploadUnknown`, or `UploadBusy` if it is held."""

    @abstractmethod
    async def upload_offset(self, repository: str, upload_id: str) -> int:
        """How many bytes an upload has, also while it is being written. Or `BlobUploadUnknown`."""

    @abstractmethod
    async def cancel_upload(self, repository: str, upload_id: str) -> None:
        """End an upload and drop its bytes. Raises as `upload` does."""

    @abstractmethod
    async def expire_uploads(self, idle_s: float) -> int:
        """Drop the uploads that nobody has written to for `idle_s` seconds; return how many."""

    # -- manifests and names

    @abstractmethod
    async def put_manifest(
        self,
        repository: str,
        manifest: Manifest,
        tags: Sequence[str] = (),
        stamp: str | None = None,
        needs: Sequence[Descriptor] = (),
    ) -> list[NameRecord]:
        """Store a manifest and point `tags` at it, all or nothing, durably.

        `needs` are the descriptors that must be in the repository, as a manifest or a blob by their
        media type; what is not raises `ManifestBlobUnknown`. Tags need a stamp. Raises
        `ManifestUnknown` if `stamp` is None and the manifest was deleted. Returns the name records
        that this wrote.
        """

    @abstractmethod
    async def delete_manifest(
        self, repository: str, digest: Digest, stamp: str
    ) -> list[NameRecord]:
        """Take a manifest from a repository, and every tag that points to it.

        Or `ManifestUnknown`.
        """

    @abstractmethod
    async def delete_tag(self, repository: str, tag: str, stamp: str) -> list[NameRecord]:
        """Take a tag away; what it pointed to stays. Or `ManifestUnknown`."""

    @abstractmethod
    async def names(self) -> list[NameRecord]:
        """All records of the register, deletions too."""

    @abstractmethod
    async def merge_names(self, records: Iterable[NameRecord]) -> None:
        """Take records of other nodes; older ones than ours are passed over (see `NameRecord`).

        A record that deletes content takes it from its repository here.
        """

    @abstractmethod
    async def forget_names(self, records: Iterable[NameRecord]) -> None:
        """Drop these records if they are still the current ones: deletions past their retention."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was begun and let go of the root. May be called twice."""
