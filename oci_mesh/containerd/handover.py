"""Letting go of mirrored blobs that containerd has by now (the setting `keep`): one copy on a disk.

What this does not do: look whether containerd keeps them. If its garbage collection takes them, or
it discards layers that it has unpacked, they are to be had from other nodes and from the upstream.
"""

import asyncio
import logging
import os
from typing import Final

from oci_mesh.containerd.directory import ContentDirectory
from oci_mesh.logs import event
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Content, Store

_log = logging.getLogger(__name__)

# After a blob was committed: those that fetched it together with this node ask for the last pieces
# meanwhile, and are sent them from a file that is known to be right.
SETTLE_S: Final = 60.0

# Digests that wait, some 200 bytes each. More of them stay in the cache, which is bounded itself.
MAX_WAITING: Final = 10_000

PAGE: Final = 64  # contents looked at before others get their turn on the event loop


class Handover:
    """Of one store to the containerd whose content is in `directory`. `run` does it."""

    def __init__(self, store: Store, directory: ContentDirectory) -> None:
        self._store = store
        self._directory = directory
        self._waiting: set[Digest] = set()
        self._some = asyncio.Event()

    def committed(self, digest: Digest) -> None:
        """Take note that containerd has put a blob into its store."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.add(digest)
            self._some.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(SETTLE_S)
            await self.sweep()

    async def sweep(self) -> None:
        """Let go of what containerd has committed until now. What somebody reads stays, as cache,
        and so do manifests: they say what is public.
        """
        handed, self._waiting = self._waiting, set()
        self._some.clear()
        freed: list[Content] = []
        page = await self._store.coldest(PAGE, cached_only=True)
        while page:
            last = page[-1]
            spare = [content for content in page if content.digest in handed]
            freed += await self._store.evict([c for c in spare if self._may_go(c)])
            await asyncio.sleep(0)
            page = await self._store.coldest(PAGE, last, cached_only=True)
        if freed:
            sizes = sum(content.size for content in freed)
            _log.info("handed over to containerd", extra=event(blobs=len(freed), bytes=sizes))

    def _may_go(self, content: Content) -> bool:
        if content.is_manifest:
            return False
        try:
            os.close(self._directory.open_blob(content.digest))
        except OSError:
            return False
        return True
