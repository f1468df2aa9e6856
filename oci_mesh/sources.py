"""Sources: what content can be asked of, and the chain of them that a node answers from.

A store is a source, the mesh is one, an upstream is one; a `Chain` of sources is one too. Which
piece of a blob comes from whom is not decided here: a source that gathers a blob from many peers
returns it as a `Blob` whose bytes are `available` as they are verified.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
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


class Origin(Protocol):
    """Where the bytes of one blob come from while no node has it. Nothing of it is verified."""

    @property
    def size(self) -> int:
        """Of the blob in bytes, as the origin says."""
        ...

    @property
    def striped(self) -> bool:
        """Whether any node may read any part of it, at the same time as others.

        If not, one node of the mesh reads it, all of it and in order (its leader).
        """
        ...

    @property
    def follows_client(self) -> bool:
        """Whether it is this node's own client that gets the bytes, with a secret that only it has.

        Then the client has to be sent away (404) for the origin to have anything: it goes on at the
        upstream by itself, and the origin reads what it has got so far.
        """
        ...

    def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop` (not included), as they come. Close it after use.

        Raises `UpstreamError` when no more will come, also after a part. It has its own deadlines
        and tries what may pass again by itself, from where it was.
        """
        ...


class Origins(Protocol):
    """Finds the origin of a blob in a repository of an upstream."""

    async def origin(self, repository: str, digest: Digest) -> Origin | None:
        """None if there is none: no such blob, not given to this mesh, or not to be asked now."""
        ...


class Access(Protocol):
    """Who may have what an upstream gives only to those with a secret (`scope.is_private`).

    A node whose containerd was given a manifest has had the secret; with the manifest, which nobody
    else has, it proves that to other nodes. A proof is of one node, for one blob.
    """

    def proof(self, repository: str, digest: Digest, node_id: str) -> str:
        """What node `node_id` (this one) shows to others for a blob; empty if it has nothing."""
        ...

    async def is_proven(self, repository: str, digest: Digest, node_id: str, proof: str) -> bool:
        """Whether `proof`, which node `node_id` has shown, is right, as far as this node knows."""
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
        trouble: PeerError | None = None
        for source in self._sources:
            try:
                return await ask(source)
            except unknown as error:
                answer = error
            except PeerError as error:
                _log.warning("%s: %s", type(source).__name__, error)
                trouble = error
        raise answer or unknown("nobody here has it") from trouble


async def bring(
    source: Source, repository: str, digest: Digest, arrived: Callable[[int], None] | None = None
) -> None:
    """Have a chain's store hold a blob that another of its sources may have.

    `arrived` hears of the bytes that came since it last did. A source that fetches keeps what it
    fetched. Raises as `Source.blob` and `Blob.stored` do.
    """
    async with await source.blob(repository, digest) as blob:
        at = 0
        while arrived is not None and at < blob.size:
            stop = await blob.available(at, blob.size)
            arrived(stop - at)
            at = stop
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
