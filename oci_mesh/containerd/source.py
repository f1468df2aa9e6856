"""What containerd has as a source: blobs only, each to those who have a right to it.

containerd verified a blob when it put it there, perhaps years ago. What goes to others under this
node's name is verified again: all of it, once for as long as the file stays as it is.
"""

import asyncio
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import BinaryIO, Final, NamedTuple, cast

from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.containerd.directory import ContentDirectory
from oci_mesh.errors import BlobUnknown, ManifestUnknown
from oci_mesh.sources import SingleFlight
from oci_mesh.spec.digest import Digest, Hasher
from oci_mesh.spec.manifest import Descriptor, Manifest
from oci_mesh.spec.scope import is_mirrored, is_private
from oci_mesh.store.base import Blob
from oci_mesh.store.file_blob import CHUNK_BYTES, FileBlob
from oci_mesh.store.names import unknown_text
from oci_mesh.tasks import Background

_log = logging.getLogger(__name__)

# Files verified at a time: each reads as fast as the disk and one core allow.
MAX_CHECKS: Final = 2

# Remembered outcomes, some 300 bytes each. What is pushed out is verified again.
MAX_CHECKED: Final = 20_000

IsPublic = Callable[[str, Digest], Awaitable[bool]]


class _Stamp(NamedTuple):
    """What changes if a file does."""

    device: int
    inode: int
    mtime_ns: int
    size: int


class _Checked(NamedTuple):
    stamp: _Stamp
    right: bool


class _ContentBlob(FileBlob):
    """A file of containerd's, opened by `ContentDirectory`."""

    def __init__(self, fd: int, digest: Digest) -> None:
        self.digest = digest
        self._closed = lambda digest: None
        self._file = cast("BinaryIO", os.fdopen(fd, "rb", buffering=0))
        self.size = os.fstat(fd).st_size

    @property
    def stamp(self) -> _Stamp:
        """As of now."""
        return _stamp(self._file.fileno())


class ContainerdSource:
    """A `Source`. `is_public` says whether a public manifest of a repository names a blob: then its
    registry, which takes no manifest without the blobs, gives it to all.
    """

    def __init__(
        self, content: ContainerdContent, background: Background, is_public: IsPublic
    ) -> None:
        self._content = content
        self._is_public = is_public
        self._checked: OrderedDict[Digest, _Checked] = OrderedDict()
        self._checking: SingleFlight[Digest, _Checked] = SingleFlight(background)
        self._turns = asyncio.Semaphore(MAX_CHECKS)

    async def entitled(self, digest: Digest) -> bool:
        """Whether this node's own clients have a right to a blob of a private image: a manifest
        that containerd was given names it. One that was committed just now counts.
        """
        return await self._content.entitled(digest)

    async def stat(self, repository: str, digest: Digest) -> int:
        """As `Source.stat`. Nothing is read for it, but what was found to be wrong is not there."""
        async with await self._open(repository, digest) as blob:
            return blob.size

    async def blob(self, repository: str, digest: Digest) -> Blob:
        """As `Source.blob`. The first time, all of it is read before this returns: a second or two
        per GiB.
        """
        blob = await self._open(repository, digest)
        try:
            if await self._is_right(blob):
                return blob
        except BaseException:
            await blob.close()
            raise
        await blob.close()
        raise BlobUnknown(unknown_text(repository, digest))

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """As `Source.manifest`: never. Each containerd has to get these by itself."""
        raise ManifestUnknown(unknown_text(repository, digest))

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """As `Source.referrers`: none."""
        return []

    async def _open(self, repository: str, digest: Digest) -> _ContentBlob:
        """The blob, if it is there and who asks in the name of `repository` may know."""
        if is_private(repository):
            allowed = await self._content.entitled(digest)
        else:
            allowed = is_mirrored(repository) and await self._is_public(repository, digest)
        blob = self._opened(digest) if allowed else None
        if blob is None:
            raise BlobUnknown(unknown_text(repository, digest))
        checked = self._checked.get(digest)
        wrong = checked is not None and not checked.right and checked.stamp == blob.stamp
        if wrong or (is_private(repository) and blob.size not in self._content.sizes(digest)):
            await blob.close()
            raise BlobUnknown(unknown_text(repository, digest))
        return blob

    def _opened(self, digest: Digest) -> _ContentBlob | None:
        try:
            return _ContentBlob(self._content.directory.open_blob(digest), digest)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("containerd's %s cannot be read: %s", digest, error)
            return None

    async def _is_right(self, blob: _ContentBlob) -> bool:
        """Whether this very file has been verified, now if need be."""
        for _ in range(2):  # containerd sets a file's times just after it has put it there
            checked = self._checked.get(blob.digest)
            if checked is None or checked.stamp != blob.stamp:
                checked = await self._checking.run(blob.digest, lambda: self._check(blob.digest))
            if checked.stamp == blob.stamp:
                return checked.right
        return False

    async def _check(self, digest: Digest) -> _Checked:
        stop = threading.Event()
        async with self._turns:
            try:
                checked = await asyncio.to_thread(_read_all, self._content.directory, digest, stop)
            except OSError as error:
                raise BlobUnknown(f"{digest} cannot be read from containerd: {error}") from None
            finally:
                stop.set()
        if not checked.right:
            _log.error(
                "containerd's file of %s has other content (a fault of the disk?): it is not given "
                "to anybody. Remove it: `ctr -n k8s.io content rm %s`, and pull again",
                digest,
                digest,
            )
        self._checked[digest] = checked
        self._checked.move_to_end(digest)
        if len(self._checked) > MAX_CHECKED:
            self._checked.popitem(last=False)
        return checked


def _read_all(directory: ContentDirectory, digest: Digest, stop: threading.Event) -> _Checked:
    """Verify a file. What is returned after `stop` is of no use."""
    fd = directory.open_blob(digest)
    try:
        stamp, hasher = _stamp(fd), Hasher(digest.algorithm)
        while not stop.is_set() and (chunk := os.read(fd, CHUNK_BYTES)):
            hasher.update(chunk)
        return _Checked(stamp, hasher.digest() == digest)
    finally:
        os.close(fd)


def _stamp(fd: int) -> _Stamp:
    status = os.fstat(fd)
    return _Stamp(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
