"""How much more may be stored: by a limit that somebody set, and by what has to stay free.

Content counts once it is stored; what is on its way counts from the first: an upload as far as it
is, a partial with all of its size, for who began to fetch it means to have it. Names and other
records do not count: they are small, and deletions must always be possible.

What this does not do: make room. Who can (`relief`) is asked to.
"""

import os
from collections.abc import Callable, Iterable
from typing import Final

from oci_mesh.store.base import Relief
from oci_mesh.store.files import NoRoom
from oci_mesh.store.layout import Layout
from oci_mesh.store.metadata import Metadata

# Left free by default: enough for the database, its log, and whoever else needs the disk in order
# to say that it is full. On a small disk it must not be all there is.
RESERVE_BYTES: Final = 1024**3
RESERVE_SHARE: Final = 20  # a twentieth

# Written between two looks at the disk: a look for every buffer that comes in would cost as much as
# a tenth of writing it. What others write meanwhile is what the reserve is for.
CHECK_BYTES: Final = 16 * 1024 * 1024

# And no more than this part of what may be written at all: the fuller, the closer it is looked at.
CHECK_SHARE: Final = 16

_BLOCK: Final = 512  # what `st_blocks` counts in


class Room:
    """Of one store. `limit` and `reserve` are bytes; a limit of 0 is none, a reserve of None the
    default. Of the event loop's thread.
    """

    def __init__(
        self,
        layout: Layout,
        metadata: Metadata,
        unfinished: Iterable[str],
        limit: int,
        reserve: int | None,
    ) -> None:
        self._layout = layout
        self._metadata = metadata
        self._limit = limit
        self._reserve = reserve_of(layout.uploads, reserve)
        self._claims: dict[str, int] = {}
        self._claimed = 0
        self._free = 0  # may still be written before the disk is looked at again
        self.relief: Relief | None = None
        for name in unfinished:
            self.settle(name)

    async def take(self, attempt: Callable[[], None]) -> None:
        """Do `attempt`; if it raises `NoRoom`, do it again when room was made, or raise that."""
        try:
            attempt()
        except NoRoom:
            if self.relief is None:
                raise
            await self.relief(lambda: _missing(attempt))
            attempt()

    def check(self, size: int) -> None:
        """Raise `NoRoom` if so many more bytes must not be written."""
        self._check_limit(size)
        self.check_disk(size)

    def claim(self, name: str, size: int) -> None:
        """Note that an upload or partial has, or will have, `size` bytes. Raises `NoRoom`."""
        more = size - self._claims.get(name, 0)
        if more > 0:
            self._check_limit(more)
        self._set(name, size)

    def settle(self, name: str) -> None:
        """Note that one is left as it is: it counts as what it takes on the disk."""
        self._set(name, held_bytes(self._layout.upload(name)))

    def free(self, name: str) -> None:
        """Note that one is gone, or stored."""
        self._claimed -= self._claims.pop(name, 0)

    def spend(self, size: int) -> None:
        """As `check_disk`, for each of many writes: the disk is looked at now and then only."""
        if size > self._free:
            self.check_disk(size)
        else:
            self._free -= size

    def check_disk(self, size: int) -> None:
        """Raise `NoRoom` if the disk has no room for so many more bytes."""
        disk = os.statvfs(self._layout.uploads)
        free = disk.f_bavail * disk.f_frsize
        if size > free - self._reserve:
            raise NoRoom(
                size - (free - self._reserve),
                f"no room for {size} bytes on this node's disk: {max(0, free)} are free, and "
                f"{self._reserve} of them have to stay so (disk-reserve)",
            )
        self._free = min(CHECK_BYTES, (free - self._reserve - size) // CHECK_SHARE)

    def _check_limit(self, more: int) -> None:
        if not self._limit:
            return
        used = self._metadata.totals()[1] + self._claimed
        if used + more > self._limit:
            raise NoRoom(
                used + more - self._limit,
                f"no room for {more} bytes: this node may hold {self._limit} (disk-limit), and "
                f"{used} are taken",
            )

    def _set(self, name: str, size: int) -> None:
        self.free(name)
        if size:
            self._claims[name] = size
            self._claimed += size


def reserve_of(path: str | os.PathLike[str], setting: int | None) -> int:
    """The bytes to leave free on the disk that `path` is on; as set, if somebody did."""
    if setting is not None:
        return setting
    disk = os.statvfs(path)
    return min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // RESERVE_SHARE)


def _missing(attempt: Callable[[], None]) -> int:
    """How many bytes an attempt has too little room by."""
    try:
        attempt()
    except NoRoom as error:
        return error.missing
    return 0


def held_bytes(path: str) -> int:
    """What a file takes on the disk; 0 if it is not there."""
    try:
        return os.stat(path, follow_symlinks=False).st_blocks * _BLOCK
    except FileNotFoundError:
        return 0
