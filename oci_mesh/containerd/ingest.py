"""Downloads of this node's containerd as origins: what it gets from a registry with a secret that
only it has, read while it comes.

Nothing of it is verified: containerd does that when it has all of it. A download is a file that
grows; should it have to begin anew, the file is emptied, or is another one.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.containerd.directory import ContentDirectory
from oci_mesh.errors import UpstreamError
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.scope import is_private
from oci_mesh.store.file_blob import CHUNK_BYTES
from oci_mesh.tasks import loop_time

# containerd begins a download before it asks anybody for it, so it is there when its mirror (this
# node) has told it to go elsewhere. Clients that keep their downloads elsewhere never begin one.
APPEAR_S: Final = 5.0

# Then without a byte more. containerd writes by the MiB: at 50 kB/s, that is so long.
GROW_S: Final = 20.0

# How often a file is looked at for more, while there is none: 15 ms late on average, for 1 % of a
# core. The kernel's news (inotify) would be quicker by that, once for each blob, and cost a watch.
POLL_S: Final = 0.025


@dataclass(frozen=True, slots=True)
class IngestOrigin:
    """An `Origin`: one blob, in whichever download or committed file of containerd it is."""

    directory: ContentDirectory
    digest: Digest
    size: int
    striped: bool = False
    follows_client: bool = True

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """As `Origin.read`. Waits `APPEAR_S` for a download, `GROW_S` for it to go on."""
        download = _Download(self.directory, self.digest)
        deadline = loop_time() + APPEAR_S
        try:
            while start < stop:
                chunk = download.read(start, min(stop - start, CHUNK_BYTES))
                if chunk:
                    start += len(chunk)
                    yield chunk
                if chunk or download.grew():
                    deadline = loop_time() + GROW_S
                elif loop_time() > deadline:
                    raise UpstreamError(f"{download} at byte {start}")
                if not chunk:
                    await asyncio.sleep(POLL_S)
        finally:
            download.close()


class IngestOrigins:
    """`Origins` of private images, for nodes that have a right to them."""

    def __init__(self, content: ContainerdContent) -> None:
        self._content = content

    async def origin(self, repository: str, digest: Digest) -> IngestOrigin | None:
        """As `Origins.origin`: for each blob of a private image that a manifest here names."""
        if not is_private(repository) or not await self._content.entitled(digest):
            return None
        return IngestOrigin(self._content.directory, digest, self._content.sizes(digest)[0])


class _Download:
    """The file that a blob's bytes come to. It is the same one before and after the commit, and
    stays readable if that is followed by a deletion.
    """

    def __init__(self, directory: ContentDirectory, digest: Digest) -> None:
        self._directory = directory
        self._digest = digest
        self._fd: int | None = None
        self._longest = -1

    def __str__(self) -> str:
        state = "has no download" if self._fd is None else "does not go on with the download"
        return f"containerd {state} of {self._digest}"

    def read(self, start: int, most: int) -> bytes:
        """Up to `most` bytes from `start` on; none if there are none yet. Or `UpstreamError`."""
        try:
            return self._read(start, most) or (self._read(start, most) if self._look() else b"")
        except OSError as error:
            raise UpstreamError(f"containerd's {self._digest} cannot be read: {error}") from error

    def grew(self) -> bool:
        """Whether it is longer than when this was last asked, or there for the first time."""
        size = -1 if self._fd is None else os.fstat(self._fd).st_size
        grew = size > self._longest
        self._longest = max(size, self._longest)
        return grew

    def close(self) -> None:
        """May be called twice."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _read(self, start: int, most: int) -> bytes:
        return b"" if self._fd is None else os.pread(self._fd, most, start)

    def _look(self) -> bool:
        """Turn to the file where the blob's bytes come now, mostly the same; whether there is one.

        If there is none, the one in hand is kept: it may yet grow for a moment, and it is not less
        than nothing.
        """
        found = self._find()
        if found is not None:
            self.close()
            self._fd = found
        return found is not None

    def _find(self) -> int | None:
        with suppress(OSError):  # not committed yet
            return self._directory.open_blob(self._digest)
        return self._directory.open_ingest(self._digest)
