"""What this node's containerd has: its content store, read in place, and only read.

`ContainerdContent` knows at any time which blobs the manifests in there name. Whether a blob itself
is there is not kept but looked up, as it may go at any moment. What was opened stays readable when
containerd deletes it.

Names and labels are not read: they are in containerd's own database, behind its socket, and a right
to a blob follows from a manifest's bytes, whatever it was called.
"""

import asyncio
import errno
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from oci_mesh.containerd.directory import ContentDirectory, Found
from oci_mesh.containerd.manifests import (
    MAX_MANIFESTS,
    KnownManifest,
    Manifests,
    read_manifest,
)
from oci_mesh.containerd.watch import Changes, Watch
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import MAX_MANIFEST_BYTES

_log = logging.getLogger(__name__)

# How soon containerd's directory is looked for again, where it is not there or cannot be read.
RETRY_S: Final = 5.0

# After the kernel lost count, or a directory was replaced: such things come in bursts.
AGAIN_S: Final = 0.1

# How long a question waits for what has just happened to be taken in. It takes longer only while
# everything is looked at; a yes need not wait for that.
SETTLE_S: Final = 2.0
SETTLE_KNOWN_S: Final = 0.1

# JSON read in one look at everything: 50,000 manifests of the usual size. Newest first.
MAX_SCAN_BYTES: Final = 256 * 1024 * 1024

# Manifests taken in at a time, in some milliseconds: the loop has other things to do.
BATCH: Final = 200

_NO_WATCH: Final = (
    "the kernel gives no more inotify instances or watches, so what containerd has is only looked "
    f"at every {RETRY_S:.0f} s: raise fs.inotify.max_user_instances and max_user_watches"
)

Committed = Callable[[Digest], None]


class ContainerdContent:
    """The content store of the containerd whose root directory is `root`.

    `run` keeps it up to date; until then, and where containerd is not there, it has nothing.
    `committed` is called for each blob that containerd has just verified and put in its store.
    """

    def __init__(self, root: Path, committed: Committed | None = None) -> None:
        self.directory = ContentDirectory(root)
        self._committed = committed
        self._manifests = Manifests()
        self._woken = asyncio.Event()
        self._following = False
        self._waiting: list[asyncio.Future[None]] = []
        self._said = ""
        self._stopping = threading.Event()

    # -- questions

    async def entitled(self, digest: Digest) -> bool:
        """Whether a manifest in containerd's store names this blob, also one of just now.

        After it, `sizes` and `keys` know of that one too.
        """
        await self._settle(SETTLE_KNOWN_S if self._manifests.sizes(digest) else SETTLE_S)
        return bool(self._manifests.sizes(digest))

    def sizes(self, digest: Digest) -> list[int]:
        """The sizes in bytes that manifests here give for a blob, the newest manifest's first."""
        return self._manifests.sizes(digest)

    def naming(self, digest: Digest) -> list[Digest]:
        """The manifests here that name a blob."""
        return self._manifests.naming(digest)

    def keys(self, digest: Digest, most: int) -> list[bytes]:
        """Secrets that only who has a manifest knows: of up to `most` that name the blob, the
        newest first.
        """
        return self._manifests.keys(digest, most)

    async def _settle(self, within_s: float) -> None:
        """Wait until what had happened before the call is known, if it is to be had."""
        if not self._following:
            return
        told = asyncio.get_running_loop().create_future()
        self._waiting.append(told)
        self._woken.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await told

    # -- following containerd

    async def run(self) -> None:
        """Follow what containerd does, until cancelled. It may come, go and come again."""
        try:
            while True:
                await self._attend_or_rest()
        finally:
            self._stopping.set()  # a thread may still be reading

    async def _attend_or_rest(self) -> None:
        try:
            again = await self._attend()
        except OSError as error:
            again = False
            self._manifests.clear()
            self._say(_advice(error, self.directory.path), logging.WARNING)
        if not again:
            self._following = False
            self._tell(len(self._waiting))
        await asyncio.sleep(AGAIN_S if again else RETRY_S)

    async def _attend(self) -> bool:
        """Follow for as long as the kernel tells all; whether to look again at once."""
        watched = self.directory.watched()
        try:
            watch = Watch(watched, self._woken.set)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENOSPC):
                raise
            await self._take_stock()
            self._say(_NO_WATCH, logging.WARNING)
            return False
        with watch:
            self._following = True
            if self.directory.watched() != watched:  # made before the kernel was asked
                return True
            await self._take_stock()
            if self.directory.is_there():
                self._say(f"reading what containerd has in {self.directory.path}", logging.INFO)
            else:
                self._say(_nothing(self.directory.path), logging.WARNING)
            await self._follow(watch)
        return True

    async def _follow(self, watch: Watch) -> None:
        while True:
            self._woken.clear()
            asked = len(self._waiting)
            while (changes := watch.changes()) is not None:
                await self._take(changes)
                if changes.incomplete:
                    return
            self._tell(asked)
            await self._woken.wait()

    async def _take(self, changes: Changes) -> None:
        """Take in what came and went. What did both is looked at: the order does not matter."""
        for digest in changes.went:
            self._manifests.remove(digest)
        if self._committed is not None:
            for digest in changes.came:
                self._committed(digest)
        digests = {*changes.went, *changes.came}
        for manifest in await asyncio.to_thread(self._read, digests):
            self._manifests.add(manifest)

    async def _take_stock(self) -> None:
        """Look at everything: what was known, and is still there, is not read again."""
        known = self._manifests.digests
        there, found = await asyncio.to_thread(self._read_all, known)
        for digest in known - there:
            self._manifests.remove(digest)
        for number, manifest in enumerate(found, 1):
            self._manifests.add(manifest)
            if number % BATCH == 0:
                await asyncio.sleep(0)

    def _tell(self, asked: int) -> None:
        """Answer those who asked first, as many as these."""
        answered, self._waiting = self._waiting[:asked], self._waiting[asked:]
        for told in answered:
            if not told.done():
                told.set_result(None)

    def _say(self, text: str, level: int) -> None:
        """Log it, unless it was said last."""
        if text != self._said:
            _log.log(level, "%s", text)
        self._said = text

    # -- in a thread

    def _read_all(self, known: frozenset[Digest]) -> tuple[set[Digest], list[KnownManifest]]:
        """Which of `known` are there; and the manifests that are not among them, oldest first."""
        there: set[Digest] = set()
        small: list[Found] = []
        for blob in self.directory.blobs():
            if blob.digest in known:
                there.add(blob.digest)
            elif blob.size <= MAX_MANIFEST_BYTES:
                small.append(blob)
        small.sort(key=lambda blob: blob.mtime_ns, reverse=True)
        return there, self._read(blob.digest for blob in small)[::-1]

    def _read(self, digests: Iterable[Digest]) -> list[KnownManifest]:
        """The manifests among blobs, in that order, as far as the limits allow."""
        manifests: list[KnownManifest] = []
        unreadable: list[OSError] = []
        left = MAX_SCAN_BYTES
        for digest in digests:
            if self._stopping.is_set() or left <= 0 or len(manifests) == MAX_MANIFESTS:
                break
            try:
                content = self.directory.document(digest, MAX_MANIFEST_BYTES)
            except OSError as error:
                unreadable.append(error)
                continue
            if content is not None:
                left -= len(content)
                manifest = read_manifest(digest, content)
                manifests += [] if manifest is None else [manifest]
        if unreadable:
            count, first = len(unreadable), unreadable[0]
            _log.warning("%d files of containerd cannot be read, the first: %s", count, first)
        return manifests


def _nothing(path: str) -> str:
    return f"no content of containerd at {path} (yet): it is read once it is there"


def _advice(error: OSError, path: str) -> str:
    retried = f"looked at again every {RETRY_S:.0f} s"
    if isinstance(error, FileNotFoundError):
        return _nothing(path)
    if isinstance(error, PermissionError):
        return f"this user may not read {path}: run the node as root, as containerd; {retried}"
    return f"containerd's content at {path} cannot be read ({error}): {retried}"
