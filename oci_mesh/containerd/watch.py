"""What comes into containerd's content store and what goes, as the kernel tells it (inotify).

Not containerd's events: 1.6 has none for content, and no version has one for what its garbage
collection takes. A commit is a rename into a directory of blobs, so a name that appears is a whole
blob.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from asyncinotify import Event, Inotify, Mask

from oci_mesh.errors import DigestInvalid
from oci_mesh.spec.digest import Digest

# Taken from the kernel at a time: 10 ms of work. It keeps 16,384.
MAX_EVENTS: Final = 512

_CAME: Final = Mask.MOVED_TO
_WENT: Final = Mask.DELETE | Mask.MOVED_FROM
_LOST: Final = Mask.Q_OVERFLOW | Mask.IGNORED | Mask.UNMOUNT | Mask.MOVE_SELF | Mask.DELETE_SELF
_WATCHED: Final = _CAME | _WENT | Mask.CREATE | Mask.MOVE_SELF | Mask.DELETE_SELF


class Changes(NamedTuple):
    """Blobs that came and blobs that went, in no order; what did both may be there or not."""

    came: list[Digest]
    went: list[Digest]
    incomplete: bool
    """Whether more may have happened, or will without being told: look at everything anew."""


class Watch:
    """The kernel's news of some directories. `wake` is called when there is any.

    Raises `OSError` if a directory is not there, or if this user has too many watches. Closed when
    its `with` block ends.
    """

    def __init__(self, directories: Sequence[str], wake: Callable[[], None]) -> None:
        # A full-sized event is about 280 bytes; ours, with a name of 64, a third of it.
        self._inotify = Inotify(cache_size=MAX_EVENTS // 2, sync_timeout=0)
        try:
            for directory in directories:
                self._inotify.add_watch(directory, _WATCHED | Mask.ONLYDIR | Mask.DONT_FOLLOW)
        except OSError:
            self._inotify.close()
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.fd, wake)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.remove_reader(self._inotify.fd)
        self._inotify.close()

    def changes(self) -> Changes | None:
        """What has happened until now and was not told yet, or the first part of it; or None."""
        came: dict[Digest, None] = {}
        went: dict[Digest, None] = {}
        for count in range(MAX_EVENTS):
            event = self._inotify.sync_get()
            if event is None:
                return Changes(list(came), list(went), incomplete=False) if count else None
            if event.mask & (_LOST | Mask.ISDIR):  # a directory that came may be one to watch
                return Changes(list(came), list(went), incomplete=True)
            digest = _digest(event)
            if digest is not None and event.mask & _CAME:
                came[digest] = None
            elif digest is not None and event.mask & _WENT:
                went[digest] = None
        return Changes(list(came), list(went), incomplete=False)


def _digest(event: Event) -> Digest | None:
    if event.watch is None or event.name is None:
        return None
    try:
        return Digest.parse(f"{event.watch.path.name}:{os.fspath(event.name)}")
    except DigestInvalid:
        return None
