"""A store in memory: the contract of `base` with dicts.

For tests, for an in-process registry, for a node that may forget. Nothing of it outlives the
process, so the durability that `base` promises is not here; everything else is.
"""

import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from oci_mesh.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameUnknown,
)
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import DEFAULT_ALGORITHM, Digest, Hasher, check_algorithm
from oci_mesh.spec.manifest import Descriptor, Manifest
from oci_mesh.spec.names import NameRecord
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.spec.upload import UploadEvent
from oci_mesh.store.base import (
    MAX_RESOLUTIONS,
    Blob,
    Content,
    Partial,
    Relief,
    Resolution,
    Upload,
    Usage,
)
from oci_mesh.store.memory_upkeep import MemoryUpkeep
from oci_mesh.store.names import missing_error, revive, supersedes, unknown_text
from oci_mesh.store.sessions import UNKNOWN, Sessions
from oci_mesh.store.uses import Uses

CHUNK_BYTES: Final = 1024 * 1024


class MemoryBlob(Blob):
    """See `Blob`."""

    def __init__(self, digest: Digest, content: bytes, uses: Uses) -> None:
        self.digest = digest
        self.size = len(content)
        self._content = content
        self._uses: Uses | None = uses  # None once it is closed
        uses.open(digest)

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """As `Blob.chunks`."""
        for at in range(start, stop, CHUNK_BYTES):
            yield self._content[at : min(at + CHUNK_BYTES, stop)]

    async def close(self) -> None:
        """As `Blob.close`."""
        if self._uses is not None:
            self._uses.close(self.digest)
            self._uses = None


class MemoryUpload(Upload):
    """See `Upload`. Got from `MemoryStore.upload`."""

    def __init__(self, store: "MemoryStore", repository: str, upload_id: str) -> None:
        self.repository = repository
        self.id = upload_id
        self._store = store
        self._name = _upload_name(repository, upload_id)
        store.sessions.advance(self._name, UploadEvent.BEGIN)
        self._content = store.drafts[self._name]
        self.offset = len(self._content)

    async def write(self, chunk: bytes) -> None:
        """As `Upload.write`."""
        self._check_held()
        self._content += chunk
        self.offset = len(self._content)
        self._store.written_s[self._name] = time.monotonic()

    async def truncate(self, offset: int) -> None:
        """As `Upload.truncate`."""
        self._check_held()
        assert 0 <= offset <= len(self._content), (offset, len(self._content))
        del self._content[offset:]
        self.offset = offset

    async def commit(self, digest: Digest, stamp: str | None = None) -> list[NameRecord]:
        """As `Upload.commit`."""
        self._check_held()
        self._store.end_upload(self._name, UploadEvent.COMMIT)
        content = bytes(self._content)
        if not digest.matches(content):
            raise DigestInvalid(f"the content is {Digest.of(content, digest.algorithm)}")
        return self._store.put_blob(self.repository, digest, content, stamp)

    def release(self) -> None:
        """Let another hold it, if it has not ended."""
        if self._name in self._store.drafts:
            self._store.sessions.advance(self._name, UploadEvent.WROTE)

    def _check_held(self) -> None:
        if self._name not in self._store.drafts:
            raise BlobUploadUnknown("this upload has ended")


@dataclass
class _Pieces:
    """What a partial has, and where."""

    content: bytearray
    spans: list[tuple[int, int]] = field(default_factory=list)

    def put(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Spans that touch become one."""
        if not data:
            return
        start, stop = offset, offset + len(data)
        self.content[start:stop] = data
        touching = [span for span in self.spans if span[0] <= stop and start <= span[1]]
        joined = [*touching, (start, stop)]
        apart = [span for span in self.spans if span not in touching]
        new = (min(span[0] for span in joined), max(span[1] for span in joined))
        self.spans = sorted([*apart, new])


class MemoryPartial(Partial):
    """See `Partial`. Got from `MemoryStore.partial`."""

    def __init__(self, store: "MemoryStore", repository: str, digest: Digest, size: int) -> None:
        self.digest = digest
        self.size = size
        self._store = store
        self._repository = repository
        self._name = _partial_name(repository, digest)
        self._pieces = store.begin_partial(self._name, size)
        self._held = True
        self._hasher = Hasher(digest.algorithm)

    @property
    def hashed(self) -> int:
        """As `Partial.hashed`."""
        return self._hasher.size

    def spans(self) -> list[tuple[int, int]]:
        """As `Partial.spans`; exactly what was written."""
        return list(self._pieces.spans)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """As `Partial.write`."""
        assert 0 <= offset <= offset + len(data) <= self.size, (offset, len(data), self.size)
        self._check_held()
        self._pieces.put(offset, data)
        self._store.written_s[self._name] = time.monotonic()

    def read(self, start: int, stop: int) -> bytes:
        """As `Partial.read`."""
        return bytes(self._pieces.content[start:stop])

    def advance(self, stop: int) -> None:
        """As `Partial.advance`."""
        assert stop <= self.size, (stop, self.size)
        if stop > self._hasher.size:
            self._hasher.update(self.read(self._hasher.size, stop))

    def verified(self) -> bool:
        """As `Partial.verified`."""
        return self._hasher.size == self.size and self._hasher.digest() == self.digest

    async def commit(self, stamp: str | None = None) -> list[NameRecord]:
        """As `Partial.commit`."""
        self._check_held()
        self._held = False
        self._store.end_upload(self._name, UploadEvent.COMMIT)
        content = bytes(self._pieces.content)
        if not self.digest.matches(content):
            raise DigestInvalid(f"the content is {Digest.of(content, self.digest.algorithm)}")
        return self._store.put_blob(self._repository, self.digest, content, stamp)

    async def discard(self) -> None:
        """As `Partial.discard`."""
        if self._held:
            self._held = False
            self._store.end_upload(self._name, UploadEvent.CANCEL)

    async def close(self) -> None:
        """As `Partial.close`."""
        if self._held:
            self._held = False
            self._store.sessions.advance(self._name, UploadEvent.WROTE)

    def _check_held(self) -> None:
        if not self._held:
            raise BlobUploadUnknown("this partial has ended")


class MemoryStore(MemoryUpkeep):
    """See `Store`. Equal content in several repositories is one object."""

    def __init__(self) -> None:
        super().__init__()
        self._blobs: dict[str, dict[Digest, bytes]] = {}
        self._manifests: dict[str, dict[Digest, Manifest]] = {}
        self._names: dict[tuple[str, str], NameRecord] = {}
        self.sessions = Sessions()
        self.drafts: dict[str, bytearray] = {}
        self._partials: dict[str, _Pieces] = {}
        self.written_s: dict[str, float] = {}
        self._uses = Uses()
        self._accessed_s: dict[Digest, int] = {}
        self._resolutions: dict[tuple[str, str], Resolution] = {}

    async def close(self) -> None:
        """As `Store.close`."""

    # -- reading

    async def stat(self, repository: str, digest: Digest) -> int:
        """As `Store.stat`."""
        return len(self._blob(repository, digest))

    async def blob(self, repository: str, digest: Digest) -> Blob:
        """As `Store.blob`."""
        return MemoryBlob(digest, self._blob(repository, digest), self._uses)

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """As `Store.manifest`."""
        manifest = await self.peek(repository, digest)
        self._uses.note(digest)
        return manifest

    async def peek(self, repository: str, digest: Digest) -> Manifest:
        """As `Store.peek`."""
        manifest = self._manifests.get(repository, {}).get(digest)
        if manifest is None:
            raise ManifestUnknown(unknown_text(repository, digest))
        return manifest

    async def resolve(self, repository: str, tag: str) -> Digest:
        """As `Store.resolve`."""
        record = self._names.get((repository, tag))
        if record is None or record.target is None:
            raise ManifestUnknown(f"{repository} has no tag {tag}")
        return Digest.parse(record.target)

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """As `Store.referrers`."""
        manifests = self._manifests.get(repository, {}).values()
        found = [m for m in manifests if m.subject and m.subject.digest == str(subject)]
        return [manifest.descriptor() for manifest in sorted(found, key=lambda m: m.digest)]

    async def tags(self, repository: str, last: str = "", n: int | None = None) -> list[str]:
        """As `Store.tags`."""
        if repository not in self._repositories():
            raise NameUnknown(f"there is no repository {repository}")
        tags = sorted(r.name for r in self._live_tags() if r.repository == repository)
        return list(islice((tag for tag in tags if tag > last), n))

    async def mirrored(self) -> list[tuple[str, Digest]]:
        """As `Store.mirrored`."""
        return [
            (repository, digest)
            for repository, manifests in self._manifests.items()
            for digest in manifests
            if is_mirrored(repository)
        ]

    async def repositories(self, last: str = "", n: int | None = None) -> list[str]:
        """As `Store.repositories`."""
        return list(islice((name for name in sorted(self._repositories()) if name > last), n))

    async def usage(self) -> Usage:
        """As `Store.usage`; manifests count too."""
        contents = list(self._contents())
        cached = sum(content.size for content in contents if not content.own)
        size = sum(content.size for content in contents)
        return Usage(len(contents), size, len(self.sessions), cached)

    # -- blobs

    async def mount(
        self, repository: str, digest: Digest, source: str | None, stamp: str | None = None
    ) -> list[NameRecord]:
        """As `Store.mount`."""
        own = (name for name in self._blobs if not is_mirrored(name))
        holders = own if source is None else [source]
        giver = next((holder for holder in holders if digest in self._blobs.get(holder, {})), "")
        content = self._blob(giver, digest)
        return self.put_blob(repository, digest, content, stamp)

    async def delete_blob(self, repository: str, digest: Digest, stamp: str) -> list[NameRecord]:
        """As `Store.delete_blob`."""
        self._blob(repository, digest)
        return self._write_names([NameRecord(repository, str(digest), None, stamp)])

    def put_blob(
        self, repository: str, digest: Digest, content: bytes, stamp: str | None
    ) -> list[NameRecord]:
        """Give a repository a blob, the same object if another has it. Or `BlobUnknown`."""
        held = self._names.get((repository, str(digest)))
        record = revive(held, repository, digest, stamp, BlobUnknown)
        same = (blobs[digest] for blobs in self._blobs.values() if digest in blobs)
        self._blobs.setdefault(repository, {})[digest] = next(same, content)
        self._accessed_s[digest] = int(time.time())
        return self._write_names([record] if record else [])

    # -- uploads

    async def create_upload(self, repository: str, algorithm: str = DEFAULT_ALGORITHM) -> str:
        """As `Store.create_upload`."""
        check_algorithm(algorithm)
        upload_id = uuid.uuid4().hex
        name = _upload_name(repository, upload_id)
        self.sessions.open(name)
        self.drafts[name] = bytearray()
        self.written_s[name] = time.monotonic()
        return upload_id

    @asynccontextmanager
    async def upload(self, repository: str, upload_id: str) -> AsyncIterator[Upload]:
        """As `Store.upload`."""
        upload = MemoryUpload(self, repository, upload_id)
        try:
            yield upload
        finally:
            upload.release()

    async def upload_offset(self, repository: str, upload_id: str) -> int:
        """As `Store.upload_offset`."""
        draft = self.drafts.get(_upload_name(repository, upload_id))
        if draft is None:
            raise BlobUploadUnknown(UNKNOWN)
        return len(draft)

    async def cancel_upload(self, repository: str, upload_id: str) -> None:
        """As `Store.cancel_upload`."""
        name = _upload_name(repository, upload_id)
        self.sessions.advance(name, UploadEvent.BEGIN)
        self.end_upload(name, UploadEvent.CANCEL)

    async def expire_uploads(self, idle_s: float) -> int:
        """As `Store.expire_uploads`."""
        before_s = time.monotonic() - idle_s
        idle = [name for name, written_s in self.written_s.items() if written_s <= before_s]
        expired = [name for name in idle if self.sessions.is_idle(name)]
        for name in expired:
            self.end_upload(name, UploadEvent.CANCEL)
        return len(expired)

    def end_upload(self, name: str, event: UploadEvent) -> None:
        """Forget an upload or a partial, by commit or cancel."""
        self.sessions.advance(name, event)
        self.drafts.pop(name, None)
        self._partials.pop(name, None)
        del self.written_s[name]

    async def partial(self, repository: str, digest: Digest, size: int) -> Partial:
        """As `Store.partial`; there is no room to be short of."""
        return MemoryPartial(self, repository, digest, size)

    def begin_partial(self, name: str, size: int) -> _Pieces:
        """What a partial's holder writes to. Raises `UploadBusy`."""
        if name not in self.sessions:
            self.sessions.open(name)
        self.sessions.advance(name, UploadEvent.BEGIN)
        pieces = self._partials.get(name)
        if pieces is None or len(pieces.content) != size:
            pieces = self._partials[name] = _Pieces(bytearray(size))
            self.written_s[name] = time.monotonic()
        return pieces

    # -- manifests and names

    async def put_manifest(
        self,
        repository: str,
        manifest: Manifest,
        tags: Sequence[str] = (),
        stamp: str | None = None,
        needs: Sequence[Descriptor] = (),
    ) -> list[NameRecord]:
        """As `Store.put_manifest`."""
        if not manifest.digest.matches(manifest.content):
            raise DigestInvalid(f"the manifest is not {manifest.digest}")
        missing = [need.digest for need in needs if not self._has(repository, need)]
        if missing:
            raise missing_error(repository, missing)
        held = self._names.get((repository, str(manifest.digest)))
        record = revive(held, repository, manifest.digest, stamp, ManifestUnknown)
        self._manifests.setdefault(repository, {})[manifest.digest] = manifest
        self._lost.pop((repository, manifest.digest), None)
        self._accessed_s[manifest.digest] = int(time.time())
        assert stamp is not None or not tags, "tags need a stamp"
        target = str(manifest.digest)
        named = [NameRecord(repository, tag, target, stamp or "") for tag in tags]
        return self._write_names([record, *named] if record else named)

    async def delete_manifest(
        self, repository: str, digest: Digest, stamp: str
    ) -> list[NameRecord]:
        """As `Store.delete_manifest`."""
        await self.manifest(repository, digest)
        target = str(digest)
        here = (record for record in self._live_tags() if record.repository == repository)
        tags = sorted(record.name for record in here if record.target == target)
        gone = [NameRecord(repository, name, None, stamp) for name in [target, *tags]]
        return self._write_names(gone)

    async def delete_tag(self, repository: str, tag: str, stamp: str) -> list[NameRecord]:
        """As `Store.delete_tag`."""
        await self.resolve(repository, tag)
        return self._write_names([NameRecord(repository, tag, None, stamp)])

    async def names(self) -> list[NameRecord]:
        """As `Store.names`."""
        return list(self._names.values())

    async def merge_names(self, records: Iterable[NameRecord]) -> None:
        """As `Store.merge_names`."""
        self._write_names(records)

    async def forget_names(self, records: Iterable[NameRecord]) -> None:
        """As `Store.forget_names`."""
        for record in records:
            if self._names.get(record.key) == record:
                del self._names[record.key]

    # -- what tags of other registries meant

    async def resolution(self, repository: str, tag: str) -> Resolution | None:
        """As `Store.resolution`."""
        return self._resolutions.get((repository, tag))

    async def note_resolution(self, repository: str, tag: str, resolution: Resolution) -> None:
        """As `Store.note_resolution`."""
        self._resolutions[repository, tag] = resolution
        if len(self._resolutions) > MAX_RESOLUTIONS:
            del self._resolutions[min(self._resolutions, key=self._checked_at)]

    async def resolutions(self, n: int) -> list[tuple[str, str, Digest]]:
        """As `Store.resolutions`."""
        return [(*key, self._resolutions[key].digest) for key in sorted(self._resolutions)[:n]]

    async def forget_resolution(self, repository: str, tag: str) -> None:
        """As `Store.forget_resolution`."""
        self._resolutions.pop((repository, tag), None)

    # -- letting go of content

    async def coldest(
        self, n: int, after: Content | None = None, *, cached_only: bool = False
    ) -> list[Content]:
        """As `Store.coldest`."""
        if after is None:
            self._flush()
        found = sorted(
            (content for content in self._contents() if not (cached_only and content.own)), key=_age
        )
        return [c for c in found if after is None or _age(c) > _age(after)][:n]

    async def evict(self, contents: Sequence[Content]) -> list[Content]:
        """As `Store.evict`."""
        here = {content.digest: content for content in self._contents()}
        evicted = []
        for content in contents:
            if here.get(content.digest) == content and not self._uses.has(content.digest):
                for blobs in self._blobs.values():
                    blobs.pop(content.digest, None)
                for manifests in self._manifests.values():
                    manifests.pop(content.digest, None)
                evicted.append(here.pop(content.digest))
        return evicted

    def relieve_by(self, relief: Relief | None) -> None:
        """As `Store.relieve_by`; there is no room to be short of."""

    # -- parts

    def _contents(self) -> Iterator[Content]:
        """All of it, each once."""
        sizes, having = {}, defaultdict[Digest, set[str]](set)
        for repository, blobs in self._blobs.items():
            for digest, content in blobs.items():
                sizes[digest] = len(content)
                having[digest].add(repository)
        listed = set()
        for repository, manifests in self._manifests.items():
            for digest, manifest in manifests.items():
                sizes[digest] = len(manifest.content)
                having[digest].add(repository)
                listed.add(digest)
        for digest, size in sizes.items():
            own = tuple(sorted(name for name in having[digest] if not is_mirrored(name)))
            yield Content(digest, size, self._accessed_s[digest], digest in listed, own)

    def _flush(self) -> None:
        for digest, at_s in self._uses.take().items():
            self._accessed_s[Digest.parse(digest)] = at_s

    def _checked_at(self, key: tuple[str, str]) -> float:
        return self._resolutions[key].checked_at

    def _blob(self, repository: str, digest: Digest) -> bytes:
        content = self._blobs.get(repository, {}).get(digest)
        if content is None:
            raise BlobUnknown(unknown_text(repository, digest))
        return content

    def _has(self, repository: str, need: Descriptor) -> bool:
        kind = self._manifests if need.media_type in media_types.MANIFESTS else self._blobs
        return need.checked_digest in kind.get(repository, {})

    def _live_tags(self) -> Iterator[NameRecord]:
        return (r for r in self._names.values() if r.is_tag and r.target is not None)

    def _repositories(self) -> set[str]:
        """Those with a blob, a manifest or a tag."""
        return {
            *(repository for repository, blobs in self._blobs.items() if blobs),
            *(repository for repository, manifests in self._manifests.items() if manifests),
            *(record.repository for record in self._live_tags()),
        }

    def _write_names(self, records: Iterable[NameRecord]) -> list[NameRecord]:
        """Write those that supersede what is held, with what follows from them; return these."""
        written = []
        for record in records:
            if not supersedes(record, self._names.get(record.key)):
                continue
            self._names[record.key] = record
            if record.target is None and not record.is_tag:
                digest = Digest.parse(record.name)
                self._blobs.get(record.repository, {}).pop(digest, None)
                self._manifests.get(record.repository, {}).pop(digest, None)
                self._lost.pop((record.repository, digest), None)
            written.append(record)
        return written


def _age(content: Content) -> tuple[int, str]:
    return content.accessed_s, str(content.digest)


def _upload_name(repository: str, upload_id: str) -> str:
    return f"{repository}/{upload_id}"


def _partial_name(repository: str, digest: Digest) -> str:
    """No upload's name: those have no colon before their first slash."""
    return f"{digest}/{repository}"
