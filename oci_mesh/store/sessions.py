"""The uploads that are under way, and who may write to them: `spec/upload.py`, kept."""

from collections.abc import Iterable, Iterator
from typing import Final

from oci_mesh.errors import BlobUploadUnknown
from oci_mesh.spec.upload import UploadEvent, UploadState, advance

UNKNOWN: Final = "there is no such upload: finished, cancelled or expired"
_ENDED: Final = (UploadState.COMMITTED, UploadState.CANCELLED)


class Sessions:
    """The state of every upload by name; one that ended is forgotten. Of one thread."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._states = dict.fromkeys(names, UploadState.OPEN)

    def open(self, name: str) -> None:
        """A new one."""
        assert name not in self._states, name
        self._states[name] = UploadState.OPEN

    def advance(self, name: str, event: UploadEvent) -> None:
        """Let `event` happen. Raises `BlobUploadUnknown`, `UploadBusy`."""
        state = self._states.get(name)
        if state is None:
            raise BlobUploadUnknown(UNKNOWN)
        following = advance(state, event)
        if following in _ENDED:
            del self._states[name]
        else:
            self._states[name] = following

    def is_idle(self, name: str) -> bool:
        """Whether it is there and nobody holds it."""
        return self._states.get(name) is UploadState.OPEN

    def __contains__(self, name: str) -> bool:
        return name in self._states

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)
