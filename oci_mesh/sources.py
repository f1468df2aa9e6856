"""Sources: what content can be asked of, and the chain of them that a node answers from.

A store is a source, the mesh is one, an upstream is one; a `Chain` of sources is one too. Which
piece of a blob comes from whom is not decided here: a source that gathers a blob from many peers
returns it as a `Blob` whose bytes are `available` as they are verified.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from oci_mesh.errors import BlobUnknown, ManifestUnknown, PeerError
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest
from oci_mesh.store.base import Blob
from oci_mesh.tasks import Background

_log = logging.getLogger(__name__)

Key = TypeVar("Key")
Value = TypeVar("Value")


class Source(Protocol):
    """Raises `BlobUnknown` or `ManifestUnknown` for what it does not have, `PeerError` if it
    cannot tell. All that it returns has been verified against its digest.
    """

    async def stat(self, repository: str, digest: Digest) -> int:
        """The size of a blob in bytes."""
        ...

    async def blob(self, repository: str, digest: Digest) -> Blob:
        """Open a blob; the caller closes it."""
        ...

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """A manifest, exactly as pushed."""
        ...

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """The manifests that refer to `subject`."""
        ...


class Chain:
    """The first source that has it answers; referrers come from all of them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)

    async def stat(self, repository: str, digest: Digest) -> int:
        """As `Source.stat`."""
        return await self._first(lambda source: source.stat(repository, digest), BlobUnknown)

    async def blob(self, repository: str, digest: Digest) -> Blob:
        """As `Source.blob`."""
        return await self._first(lambda source: source.blob(repository, digest), BlobUnknown)

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """As `Source.manifest`."""
        return await self._first(
            lambda source: source.manifest(repository, digest), ManifestUnknown
        )

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """All referrers that any source knows, each once, by digest in order."""
        found: dict[str, Descriptor] = {}
        for source in self._sources:
            try:
                for descriptor in await source.referrers(repository, subject):
                    found.setdefault(descriptor.digest, descriptor)
            except PeerError as error:
                _log.warning("referrers of %s incomplete: %s", subject, error)
        return [found[digest] for digest in sorted(found)]

    async def _first(
        self,
        ask: Callable[[Source], Awaitable[Value]],
        unknown: type[BlobUnknown] | type[ManifestUnknown],
    ) -> Value:
        answer: Exception | None = None
        for source in self._sources:
            try:
                return await ask(source)
            except unknown as error:
                answer = error
            except PeerError as error:
                _log.warning("%s: %s", type(source).__name__, error)
        raise answer or unknown("nobody here has it")


async def bring(source: Source, repository: str, digest: Digest) -> None:
    """Have a chain's store hold a blob that another of its sources may have.

    A source that fetches keeps what it fetched. Raises as `Source.blob` and `Blob.stored` do.
    """
    async with await source.blob(repository, digest) as blob:
        await blob.stored()


class SingleFlight(Generic[Key, Value]):
    """Any number of callers for one key cost one run of the work.

    The work runs in the background given, so a caller that goes away takes nothing from the
    others.
    """

    def __init__(self, background: Background) -> None:
        self._background = background
        self._flights: dict[Key, asyncio.Future[Value]] = {}

    async def run(self, key: Key, work: Callable[[], Awaitable[Value]]) -> Value:
        """The result of `work` for `key`, begun now or already under way."""
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.get_running_loop().create_future()
            self._flights[key] = flight
            self._background.spawn(self._fly(key, flight, work))
        return await asyncio.shield(flight)

    async def _fly(
        self, key: Key, flight: asyncio.Future[Value], work: Callable[[], Awaitable[Value]]
    ) -> None:
        try:
            flight.set_result(await work())
        except asyncio.CancelledError:
            flight.cancel()
            raise
        except Exception as error:  # noqa: BLE001 -- it is every waiting caller's, not the group's
            flight.set_exception(error)
            flight.exception()  # retrieved, should every caller have gone
        finally:
            del self._flights[key]
