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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple, Self, TypeAlias

from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest
from oci_mesh.spec.names import NameRecord

# Resolutions kept; the longest unchecked go first. Some 200 bytes each: ten tags of 1,000 images.
MAX_RESOLUTIONS: Final = 10_000


class Usage(NamedTuple):
    """What a store holds: blobs (each counted once), their bytes, unfinished uploads and partials.

    `uploads` counts both of the latter. `cached` is how many of the bytes are in repositories of
    other registries only (`scope.is_mirrored`).
    """

    blobs: int
    bytes: int
    uploads: int
    cached: int = 0


class Resolution(NamedTuple):
    """What a tag of another registry pointed to when that was last asked."""

    digest: Digest
    checked_at: float
    """Seconds since 1970, by this node's clock then."""


class Content(NamedTuple):
    """Bytes that a store holds once, whichever repositories have them, and when they were used."""

    digest: Digest
    size: int
    accessed_s: int
    """Seconds since 1970: when it was last read, or came."""
    is_manifest: bool
    """Whether any repository has it as a manifest."""
    own: tuple[str, ...]
    """The repositories of this mesh itself that have it, in order; none if all of it is cache."""


class Place(NamedTuple):
    """Where a content was: as a blob of a repository, or as a manifest."""

    repository: str
    is_manifest: bool


class Unnamed(NamedTuple):
    """Content of a repository that no manifest there names."""

    repository: str
    digest: Digest
    size: int


class Damage(NamedTuple):
    """Content that is not what it was when it was stored."""

    digest: Digest
    reason: str
    """For people: what is wrong with it."""
    seen: object
    """What was looked at, as the store knows it."""


class Leftovers(NamedTuple):
    """Files that are of no more use."""

    files: int
    bytes: int


Pace: TypeAlias = Callable[[int], Awaitable[None]]
"""Awaited by who has read so many bytes, and would read more."""

Relief: TypeAlias = Callable[[Callable[[], int]], Awaitable[None]]
"""Makes room, or does not: the argument says how many bytes are missing, 0 once there is room.

Raises as `Store.evict` does.
"""


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

    async def available(self, start: int, stop: int) -> int:
        """Wait until verified bytes from `start` on are here; return up to where.

        More than `start`, at most `stop`: that part can be read of `file` or `chunks` at once. A
        blob in a store is all there. Raises `OciMeshError` if the bytes will not come.
        """
        return stop

    async def stored(self) -> None:
        """Wait until all of it is durable in this node's store; at once if that is where it is.

        Raises `OciMeshError` if it will not be.
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


class Partial(_Closing):
    """A blob whose pieces arrive in any order; at most one holder per repository and digest.

    Got from `Store.partial`. Bytes are the caller's to verify, piece by piece, before it passes
    them on; the whole is verified here. Nobody sees a blob before `commit`. What is called for
    every buffer received is synchronous, and of the event loop's thread. After `commit`, whatever
    its outcome, or `discard`, only `file`, `read` and `close` are left, for those still reading.
    """

    digest: Digest
    size: int

    @property
    @abstractmethod
    def hashed(self) -> int:
        """How far `advance` got, in bytes."""

    @property
    def file(self) -> BinaryIO | None:
        """The open file, of the full length, for sendfile; None in memory. Open until `close`.

        Its position means nothing; readers pass offsets.
        """
        return None

    @abstractmethod
    def spans(self) -> list[tuple[int, int]]:
        """Where bytes may be that were written, also by an earlier holder: [start, stop), in order.

        Nothing in them is verified, and they may be wider than what was written.
        """

    @abstractmethod
    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put `data` in its place; the buffer may be used again after the call.

        Raises `StorageFull` or `StorageFailed`; the partial then stays as it is, with nothing
        certain of these bytes, and who gives up on it makes room by `discard`. Raises
        `BlobUploadUnknown` if it has ended.
        """

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes:
        """The bytes in [start, stop): what was written there, else zeros. Or `StorageFailed`."""

    @abstractmethod
    def advance(self, stop: int) -> None:
        """Hash up to `stop`: all before is in place, verified, and not written again.

        Does nothing if that is done already. It reads back what it hashes, about a second per GiB
        in all, so callers go piece by piece. Raises `StorageFailed`.
        """

    @abstractmethod
    def verified(self) -> bool:
        """Whether all bytes were advanced over and are what the digest says."""

    @abstractmethod
    async def commit(self, stamp: str | None = None) -> list[NameRecord]:
        """Make it the blob `digest` of the repository, durably, and end the partial.

        Raises and returns as `Upload.commit` does. Bytes that were not advanced over cost another
        read of all of it. It goes to its end even if the caller is cancelled; until then others
        get `UploadBusy`.
        """

    @abstractmethod
    async def discard(self) -> None:
        """Drop the bytes, and end it; `close` makes their room free. Nothing if it has ended."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of it; unless it has ended, the bytes stay for the next holder, also after a
        restart, until they expire. May be called twice.
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
    async def peek(self, repository: str, digest: Digest) -> Manifest:
        """As `manifest`, but for who only looks after it: this is no use of it."""

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
    async def mirrored(self) -> list[tuple[str, Digest]]:
        """All manifests here of mirrored repositories: repository and digest, in no order."""

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

        Without `source` (anonymous mount) any repository of the mesh's own will do: whether the
        caller may read them all is for the caller's caller to have decided. Those of other
        registries are not looked at: what is in them may be private.
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
        """Drop what nobody holds or has written to for `idle_s` seconds: uploads and partials.

        Returns how many.
        """

    @abstractmethod
    async def partial(self, repository: str, digest: Digest, size: int) -> Partial:
        """Hold the partial of a blob of `size` bytes: what an earlier holder left, or a new one.

        One that was begun with another size is begun anew. Raises `UploadBusy` if it is held,
        `StorageFull` if what is missing of it has no room on the disk now, `StorageFailed`.
        """

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

    # -- what tags of other registries meant

    @abstractmethod
    async def resolution(self, repository: str, tag: str) -> Resolution | None:
        """What `note_resolution` said last; None if nothing, or if it was pushed out."""

    @abstractmethod
    async def note_resolution(self, repository: str, tag: str, resolution: Resolution) -> None:
        """Remember what a tag of a mirrored repository means: the `MAX_RESOLUTIONS` checked last.

        Durable when it returns if the digest is another one than before (a share of a disk flush).
        If only `checked_at` moves, it costs nothing, and a crash takes it back by up to a minute:
        the tag is then asked for again earlier than it had to be.
        """

    @abstractmethod
    async def resolutions(self, n: int) -> list[tuple[str, str, Digest]]:
        """Up to `n` of them, as repository, tag and digest; in the order of the former."""

    @abstractmethod
    async def forget_resolution(self, repository: str, tag: str) -> None:
        """Remember nothing of a tag any more; durably. Nothing if nothing was."""

    # -- letting go of content

    @abstractmethod
    async def coldest(
        self, n: int, after: Content | None = None, *, cached_only: bool = False
    ) -> list[Content]:
        """Up to `n` contents, the longest unused first; those that follow `after` in that order.

        With `cached_only` just those that only mirrored repositories have. The uses of the last
        minute count too, as far as they were made before the call without `after`.
        """

    @abstractmethod
    async def evict(self, contents: Sequence[Content]) -> list[Content]:
        """Let go of contents, in all repositories that have them, and free their bytes.

        No deletion: nothing is recorded, tags stay, and it may come back from anywhere, at once.
        Passed over is what is open as a `Blob`, was used since it was asked for (`coldest`), or
        has other `own` repositories by now. Returns what has gone, once its bytes are free; all of
        that in one step that is safe at any moment, so callers come with few at a time.
        """

    @abstractmethod
    def relieve_by(self, relief: Relief | None) -> None:
        """Have `relief` called where `StorageFull` would be raised: by `Upload.write`, `partial`
        and `put_manifest`. They go on if there is room then.
        """

    # -- looking after what is there

    @abstractmethod
    async def contents(self, n: int, after: Content | None = None) -> list[Content]:
        """Up to `n` contents, by digest in order; those that follow `after`."""

    @abstractmethod
    async def check(self, digest: Digest, pace: Pace) -> Damage | None:
        """Read all of a content again; what is wrong with it, or None, also if it is gone by now.

        It is read in steps beside all else, and `pace` is awaited after each.
        """

    @abstractmethod
    async def quarantine(self, damage: Damage) -> list[Place]:
        """Take what is damaged from all repositories, and keep its bytes out of reach.

        Where it was; nowhere, if it has gone or came anew since it was looked at. As with `evict`
        nothing is recorded, tags stay, and it may come back from anywhere, at once. Who has it open
        reads on. What a damaged manifest names is not `unnamed` before `purge_quarantine`.
        """

    @abstractmethod
    async def purge_quarantine(self, idle_s: float, *, dry_run: bool = False) -> Leftovers:
        """Remove what has been in quarantine for `idle_s` seconds; with `dry_run` just look."""

    @abstractmethod
    async def manifests(self, repository: str) -> list[Digest]:
        """All manifests of a repository, in order."""

    @abstractmethod
    async def whole(self, repository: str, digests: Sequence[Digest]) -> list[Digest]:
        """Which of these are here: as a blob, or as a manifest with all blobs that it names.

        An own repository's; of others' manifests it is not known what they name.
        """

    @abstractmethod
    async def needed(
        self, repository: str, digests: Sequence[Digest], since_s: float
    ) -> list[Digest]:
        """Which of these a manifest of an own repository names here, or are manifests themselves
        that were used since (seconds since 1970).
        """

    @abstractmethod
    async def unnamed(self, repository: str, before_s: float) -> list[Unnamed]:
        """Blobs of an own repository that no manifest there names, and that were not used since."""

    @abstractmethod
    async def collect(self, unnamed: Sequence[Unnamed], before_s: float) -> list[Unnamed]:
        """Take such blobs from their repositories, those that still are; return what went, with the
        bytes that it made free as `size` (0, where another repository has the same).

        Passed over is what is open, or was used since it was asked for. As `evict` it records
        nothing, is safe at any moment, and callers come with few at a time.
        """

    @abstractmethod
    async def untagged(self, repository: str, before_s: float) -> list[Unnamed]:
        """Manifests of an own repository that were not used since, have no tag, and to which no
        other manifest there leads: no index names them, nothing is about them, nor are they about
        one that is there.
        """

    @abstractmethod
    async def delete_untagged(
        self, repository: str, digest: Digest, stamp: str, before_s: float
    ) -> list[NameRecord]:
        """`delete_manifest` if it still is one of `untagged`; else nothing happens."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was begun and let go of the root. May be called twice."""
