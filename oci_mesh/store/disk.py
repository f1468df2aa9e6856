"""A store on disk: blobs as files, what belongs where in SQLite, one process per root.

The nouns are elsewhere: `layout` (paths), `files` (durable steps), `schema` and `metadata` (SQL),
`upkeep` (what names what), `writer` (group commit), `intake` (bytes becoming content), `inspection`
(bytes read again), `room` (limits), `uses` (what was read), `resolutions`, `uploads`, `partials`,
`recovery`. Here they are put together behind the contract of `base`.

Questions are answered on the event loop, from SQLite's page cache and the kernel's; a thread per
question would cost several times the answer.
"""

import asyncio
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Self

from oci_mesh.errors import BlobUnknown, ManifestInvalid, ManifestUnknown, StoreError
from oci_mesh.spec.digest import DEFAULT_ALGORITHM, Digest
from oci_mesh.spec.manifest import Descriptor, Manifest, parse_manifest
from oci_mesh.spec.names import NameRecord
from oci_mesh.store.base import (
    Blob,
    Content,
    Damage,
    Leftovers,
    Pace,
    Partial,
    Place,
    Relief,
    Resolution,
    Store,
    Unnamed,
    Upload,
    Usage,
)
from oci_mesh.store.file_blob import FileBlob
from oci_mesh.store.files import Files, open_existing, storage_error
from oci_mesh.store.inspection import find_fault, version_of
from oci_mesh.store.intake import Intake
from oci_mesh.store.layout import Layout
from oci_mesh.store.lock import RootLock
from oci_mesh.store.manifest_cache import ManifestCache
from oci_mesh.store.metadata import Metadata
from oci_mesh.store.names import unknown_text
from oci_mesh.store.partials import Partials
from oci_mesh.store.recovery import check_not_bereft, recover
from oci_mesh.store.resolutions import Resolutions
from oci_mesh.store.room import Room
from oci_mesh.store.schema import connect, connect_reader
from oci_mesh.store.sessions import Sessions
from oci_mesh.store.uploads import Uploads
from oci_mesh.store.uses import Uses
from oci_mesh.store.writer import NewFile, Writer

_log = logging.getLogger(__name__)

# What was read, and which tags were checked, is written this often; a crash forgets up to this much
# of it.
ACCESS_FLUSH_S: Final = 60.0

# Uploads looked at before others get their turn on the event loop: some milliseconds of work.
_EXPIRE_STEP: Final = 256


class DiskStore(Store):
    """See `Store`. Open with `DiskStore.open`; close it, or use it as an async context."""

    def __init__(
        self, layout: Layout, files: Files, opened: ExitStack, limit: int, reserve: int | None
    ) -> None:
        """Not for callers: `open` is. `opened` gets what `close` has to close."""
        opened.callback(RootLock(layout.lock).release)
        check_not_bereft(layout)
        connection = connect(layout.metadata)
        opened.callback(connection.close)
        files.sync_directory(layout.root)
        unfinished = recover(layout, Metadata(connection), files)
        reading = connect_reader(layout.metadata)
        opened.callback(reading.close)
        writer = Writer(Metadata(connection), layout, files)
        writer.start()
        opened.callback(writer.stop)
        self._layout = layout
        self._files = files
        self._metadata = Metadata(reading)
        self._intake = Intake(writer, files)
        opened.callback(self._intake.close)
        self._sessions = Sessions(unfinished)
        self._room = Room(layout, self._metadata, unfinished, limit, reserve)
        self._uploads = Uploads(layout, files, self._intake, self._sessions, self._room)
        self._partials = Partials(self._uploads)
        self._manifests = ManifestCache()
        self._uses = Uses()
        self._resolutions = Resolutions(self._metadata, self._intake)
        self._flushed_s = time.time()
        self._opened = opened.pop_all()  # closed in reverse: intake, writer, connections, lock

    @classmethod
    async def open(
        cls, root: Path, files: Files | None = None, *, limit: int = 0, reserve: int | None = 0
    ) -> Self:
        """Open the store at `root`; a directory that is missing is made.

        It takes up to `limit` bytes of content (0: any), and leaves `reserve` bytes of the disk
        free (None: as many as is good, see `room`). What does not fit raises `StorageFull`.
        Raises `StoreLocked`, `StoreCorrupt`, or `StoreError` if `root` cannot be used.
        """
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(
            None, cls._open, Path(root), files or Files(), limit, reserve
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            with suppress(StoreError):
                await (await opening).close()
            raise

    @classmethod
    def _open(cls, root: Path, files: Files, limit: int, reserve: int | None) -> Self:
        layout = Layout(os.path.abspath(root))
        try:
            with ExitStack() as opened:
                layout.create(files)
                return cls(layout, files, opened, limit, reserve)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the store at {root}: {error}") from error

    async def close(self) -> None:
        """As `Store.close`."""
        self._flush()
        closing = self._opened.pop_all()
        await asyncio.get_running_loop().run_in_executor(None, closing.close)

    # -- reading

    async def stat(self, repository: str, digest: Digest) -> int:
        """As `Store.stat`."""
        return self._metadata.blob_size(repository, digest)

    async def blob(self, repository: str, digest: Digest) -> Blob:
        """As `Store.blob`."""
        size = self._metadata.blob_size(repository, digest)
        try:
            blob = FileBlob(self._layout.blob(digest), digest, self._uses.close)
        except FileNotFoundError:
            self._metadata.blob_size(repository, digest)  # raises, if it was deleted just now
            _log.error("%s is missing on disk", digest)
            raise BlobUnknown(unknown_text(repository, digest)) from None
        except OSError as error:
            raise storage_error(error) from error
        self._uses.open(digest)
        if blob.size != size:
            await blob.close()
            _log.error("%s has %d bytes on disk instead of %d", digest, blob.size, size)
            raise BlobUnknown(unknown_text(repository, digest))
        self._flush_if_due()
        return blob

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """As `Store.manifest`."""
        manifest = await self.peek(repository, digest)
        self._uses.note(digest)
        self._flush_if_due()
        return manifest

    async def peek(self, repository: str, digest: Digest) -> Manifest:
        """As `Store.peek`."""
        media_type = self._metadata.manifest_type(repository, digest)
        manifest = self._manifests.get(digest, media_type)
        if manifest is None:
            manifest = self._read_manifest(repository, digest, media_type)
            self._manifests.add(manifest)
        return manifest

    async def resolve(self, repository: str, tag: str) -> Digest:
        """As `Store.resolve`."""
        return self._metadata.resolve(repository, tag)

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """As `Store.referrers`."""
        return self._metadata.referrers(repository, subject)

    async def tags(self, repository: str, last: str = "", n: int | None = None) -> list[str]:
        """As `Store.tags`."""
        return self._metadata.tags(repository, last, n)

    async def mirrored(self) -> list[tuple[str, Digest]]:
        """As `Store.mirrored`."""
        return self._metadata.mirrored()

    async def repositories(self, last: str = "", n: int | None = None) -> list[str]:
        """As `Store.repositories`."""
        return self._metadata.repositories(last, n)

    async def usage(self) -> Usage:
        """As `Store.usage`; manifests count, for their bytes are files too."""
        blobs, size, cached = self._metadata.totals()
        return Usage(blobs, size, len(self._sessions), cached)

    # -- blobs

    async def mount(
        self, repository: str, digest: Digest, source: str | None, stamp: str | None = None
    ) -> list[NameRecord]:
        """As `Store.mount`."""
        giver, now_s = source or self._metadata.blob_repository(digest), int(time.time())
        return await self._intake.change(
            lambda to: to.mount(repository, digest, giver, stamp, now_s)
        )

    async def delete_blob(self, repository: str, digest: Digest, stamp: str) -> list[NameRecord]:
        """As `Store.delete_blob`."""
        return await self._intake.change(lambda to: to.delete_blob(repository, digest, stamp))

    # -- uploads

    async def create_upload(self, repository: str, algorithm: str = DEFAULT_ALGORITHM) -> str:
        """As `Store.create_upload`."""
        return self._uploads.create(repository, algorithm)

    @asynccontextmanager
    async def upload(self, repository: str, upload_id: str) -> AsyncIterator[Upload]:
        """As `Store.upload`."""
        upload = self._uploads.hold(repository, upload_id)
        try:
            yield upload
        finally:
            upload.release()

    async def upload_offset(self, repository: str, upload_id: str) -> int:
        """As `Store.upload_offset`."""
        return self._uploads.offset(repository, upload_id)

    async def cancel_upload(self, repository: str, upload_id: str) -> None:
        """As `Store.cancel_upload`."""
        self._uploads.hold(repository, upload_id).cancel()

    async def expire_uploads(self, idle_s: float) -> int:
        """As `Store.expire_uploads`."""
        expired = 0
        for count, name in enumerate(list(self._sessions), 1):
            expired += self._uploads.expire(name, idle_s)
            if count % _EXPIRE_STEP == 0:
                await asyncio.sleep(0)
        return expired

    async def partial(self, repository: str, digest: Digest, size: int) -> Partial:
        """As `Store.partial`."""
        return await self._partials.hold(repository, digest, size)

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
        path, now_s = self._layout.upload(f"manifest-{uuid.uuid4().hex}"), int(time.time())
        try:
            await self._room.take(lambda: self._room.check(len(manifest.content)))
            fd = self._files.create(path)
            try:
                self._files.write(fd, manifest.content)
            except OSError:
                os.close(fd)
                self._files.unlink(path)
                raise
        except OSError as error:
            raise storage_error(error) from error
        written = await self._intake.take(
            fd,
            NewFile(path, manifest.digest),
            None,
            lambda to: to.put_manifest(repository, manifest, tags, stamp, needs, now_s),
        )
        self._manifests.add(manifest)
        return written

    async def delete_manifest(
        self, repository: str, digest: Digest, stamp: str
    ) -> list[NameRecord]:
        """As `Store.delete_manifest`."""
        return await self._intake.change(lambda to: to.delete_manifest(repository, digest, stamp))

    async def delete_tag(self, repository: str, tag: str, stamp: str) -> list[NameRecord]:
        """As `Store.delete_tag`."""
        return await self._intake.change(lambda to: to.delete_tag(repository, tag, stamp))

    async def names(self) -> list[NameRecord]:
        """As `Store.names`."""
        return self._metadata.names()

    async def merge_names(self, records: Iterable[NameRecord]) -> None:
        """As `Store.merge_names`."""
        merged = list(records)
        await self._intake.change(lambda to: to.merge_names(merged))

    async def forget_names(self, records: Iterable[NameRecord]) -> None:
        """As `Store.forget_names`."""
        forgotten = list(records)
        await self._intake.change(lambda to: to.forget_names(forgotten))

    # -- what tags of other registries meant

    async def resolution(self, repository: str, tag: str) -> Resolution | None:
        """As `Store.resolution`."""
        return self._resolutions.get(repository, tag)

    async def note_resolution(self, repository: str, tag: str, resolution: Resolution) -> None:
        """As `Store.note_resolution`."""
        await self._resolutions.note(repository, tag, resolution)
        self._flush_if_due()

    async def resolutions(self, n: int) -> list[tuple[str, str, Digest]]:
        """As `Store.resolutions`."""
        return self._metadata.resolutions(n)

    async def forget_resolution(self, repository: str, tag: str) -> None:
        """As `Store.forget_resolution`."""
        await self._resolutions.forget(repository, tag)

    # -- letting go of content

    async def coldest(
        self, n: int, after: Content | None = None, *, cached_only: bool = False
    ) -> list[Content]:
        """As `Store.coldest`."""
        if after is None:
            await self._write_uses()
        return self._metadata.coldest(n, after, cached_only)

    async def evict(self, contents: Sequence[Content]) -> list[Content]:
        """As `Store.evict`."""
        unused = [content for content in contents if not self._uses.has(content.digest)]
        if not unused:
            return []
        return await self._intake.change(lambda to: to.evict(unused), frees=True)

    def relieve_by(self, relief: Relief | None) -> None:
        """As `Store.relieve_by`."""
        self._room.relief = relief

    # -- looking after what is there

    async def contents(self, n: int, after: Content | None = None) -> list[Content]:
        """As `Store.contents`."""
        return self._metadata.contents_after(n, after)

    async def check(self, digest: Digest, pace: Pace) -> Damage | None:
        """As `Store.check`."""
        path = self._layout.blob(digest)
        while (size := self._metadata.content_size(digest)) is not None:
            version = version_of(path)
            reason = await find_fault(path, digest, size, pace)
            if not reason:
                return None
            if version == version_of(path) and self._metadata.content_size(digest) == size:
                return Damage(digest, reason, version)
        return None

    async def quarantine(self, damage: Damage) -> list[Place]:
        """As `Store.quarantine`."""
        path = self._layout.blob(damage.digest)

        def condemn(to: Metadata) -> list[Place]:  # where nobody else changes files
            return to.condemn(damage.digest) if version_of(path) == damage.seen else []

        return await self._intake.change(condemn, frees=True)

    async def purge_quarantine(self, idle_s: float, *, dry_run: bool = False) -> Leftovers:
        """As `Store.purge_quarantine`."""
        loop, before_s = asyncio.get_running_loop(), time.time() - idle_s
        try:
            purged, kept = await loop.run_in_executor(None, self._purge, before_s, dry_run)
        except OSError as error:
            raise storage_error(error) from error
        if not dry_run and not kept.files:
            await self._intake.change(lambda to: to.forget_lost())
        return purged

    async def manifests(self, repository: str) -> list[Digest]:
        """As `Store.manifests`."""
        return self._metadata.manifests_of(repository)

    async def whole(self, repository: str, digests: Sequence[Digest]) -> list[Digest]:
        """As `Store.whole`."""
        return self._metadata.whole(repository, digests)

    async def needed(
        self, repository: str, digests: Sequence[Digest], since_s: float
    ) -> list[Digest]:
        """As `Store.needed`."""
        await self._write_uses()
        return self._metadata.needed(repository, digests, since_s)

    async def unnamed(self, repository: str, before_s: float) -> list[Unnamed]:
        """As `Store.unnamed`."""
        await self._write_uses()
        return self._metadata.unnamed(repository, before_s)

    async def collect(self, unnamed: Sequence[Unnamed], before_s: float) -> list[Unnamed]:
        """As `Store.collect`."""
        closed = [each for each in unnamed if not self._uses.has(each.digest)]
        if not closed:
            return []
        return await self._intake.change(lambda to: to.collect(closed, before_s), frees=True)

    async def untagged(self, repository: str, before_s: float) -> list[Unnamed]:
        """As `Store.untagged`."""
        await self._write_uses()
        return self._metadata.untagged(repository, before_s)

    async def delete_untagged(
        self, repository: str, digest: Digest, stamp: str, before_s: float
    ) -> list[NameRecord]:
        """As `Store.delete_untagged`."""
        return await self._intake.change(
            lambda to: to.delete_untagged(repository, digest, stamp, before_s), frees=True
        )

    # -- parts

    def _purge(self, before_s: float, dry_run: bool) -> tuple[Leftovers, Leftovers]:
        """What went of the quarantine, and what stays. Blocks."""
        went = stays = Leftovers(0, 0)
        for name in os.listdir(self._layout.quarantine):
            path = f"{self._layout.quarantine}/{name}"
            status = os.stat(path, follow_symlinks=False)
            if status.st_ctime > before_s:  # when it was put there
                stays = Leftovers(stays.files + 1, stays.bytes + status.st_size)
                continue
            if not dry_run:
                self._files.unlink(path)
            went = Leftovers(went.files + 1, went.bytes + status.st_size)
        return went, stays

    async def _write_uses(self) -> None:
        accessed = self._uses.take()  # if nothing: what was taken before may not be written yet
        await self._intake.change(lambda to: to.touch(accessed))

    def _read_manifest(self, repository: str, digest: Digest, media_type: str) -> Manifest:
        try:
            fd = open_existing(self._layout.blob(digest), os.O_RDONLY)
            with os.fdopen(fd, "rb") as file:
                manifest = parse_manifest(file.read(), media_type, digest.algorithm)
        except FileNotFoundError:
            self._metadata.manifest_type(repository, digest)  # raises, if it was deleted just now
            _log.error("manifest %s is missing on disk", digest)
        except ManifestInvalid as error:
            _log.error("manifest %s is damaged on disk: %s", digest, error)
        except OSError as error:
            raise storage_error(error) from error
        else:
            if manifest.digest == digest:
                return manifest
            _log.error("manifest %s is damaged on disk: it is %s", digest, manifest.digest)
        raise ManifestUnknown(unknown_text(repository, digest))

    def _flush_if_due(self) -> None:
        if abs(time.time() - self._flushed_s) >= ACCESS_FLUSH_S:
            self._flush()

    def _flush(self) -> None:
        """Have written what was read, and what tags were checked."""
        accessed, resolutions = self._uses.take(), self._resolutions.take()
        self._flushed_s = time.time()
        if accessed:
            self._intake.note(lambda to: to.touch(accessed))
        if resolutions:
            self._intake.note(lambda to: to.put_resolutions(resolutions))
