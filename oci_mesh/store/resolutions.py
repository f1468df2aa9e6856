"""What tags of other registries meant, as noted last: in front of the table that keeps it.

A new meaning is written at once, and waited for. That an old one was checked again is written now
and then, and answered from here until that is surely done.
"""

from oci_mesh.store.base import Resolution
from oci_mesh.store.intake import Intake
from oci_mesh.store.metadata import Metadata

Key = tuple[str, str]


class Resolutions:
    """Of one store. Of the event loop's thread."""

    def __init__(self, metadata: Metadata, intake: Intake) -> None:
        self._metadata = metadata
        self._intake = intake
        self._noted: dict[Key, Resolution] = {}
        self._taken: dict[Key, Resolution] = {}  # perhaps not written yet

    def get(self, repository: str, tag: str) -> Resolution | None:
        """As `Store.resolution`."""
        key = repository, tag
        noted = self._noted.get(key) or self._taken.get(key)
        return noted or self._metadata.resolution(repository, tag)

    async def note(self, repository: str, tag: str, resolution: Resolution) -> None:
        """As `Store.note_resolution`."""
        key, known = (repository, tag), self.get(repository, tag)
        self._noted[key] = resolution
        if known is not None and known.digest == resolution.digest:
            return
        try:
            await self._intake.change(lambda to: to.put_resolutions({key: resolution}))
        finally:
            for noted in (self._noted, self._taken):
                if noted.get(key) is resolution:
                    del noted[key]

    async def forget(self, repository: str, tag: str) -> None:
        """As `Store.forget_resolution`."""
        self._noted.pop((repository, tag), None)
        self._taken.pop((repository, tag), None)
        await self._intake.change(lambda to: to.forget_resolution(repository, tag))

    def take(self) -> dict[Key, Resolution]:
        """What was noted since the call before, to be written in the order of calls.

        It is answered from here until the next call, by which it has to be written.
        """
        self._taken, self._noted = self._noted, {}
        return self._taken
