"""All upstreams as one source: what they give to this mesh, in the public repositories of them.

Manifests are kept in the store. Blobs are not fetched here: the mesh does that, all nodes together,
and an `Origin` is where it gets the bytes that no node has. Nothing is fetched that nobody asks
for: of an image index, only the platforms that clients go on with.

What this does not do: look at private repositories (`scope.is_private`), choose between this and
other sources (`mirror`), remember tags (`tags`), speak HTTP (`client`).
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import Final, NamedTuple, TypeVar

from oci_mesh.errors import (
    BlobUnknown,
    ManifestUnknown,
    NoRanges,
    OciError,
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from oci_mesh.metrics import Metrics
from oci_mesh.sources import Origin, SingleFlight
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest
from oci_mesh.spec.scope import parse_scope
from oci_mesh.store.base import Store
from oci_mesh.tasks import Background, loop_time
from oci_mesh.upstream.client import UpstreamClient
from oci_mesh.upstream.named import Named
from oci_mesh.upstream_config import PULL

_log = logging.getLogger(__name__)

# A repository that was refused to us is not asked for again for this long. Whoever makes it public,
# or gives this mesh a secret, waits no longer than this; and a private image that is started again
# and again costs its registry one refusal in this time, not one for each blob.
REFUSED_S: Final = 300.0

# An upstream that sends no parts of blobs is read by one node at a time for this long, and one that
# wants to be asked less for at least as long as it says.
UNSTRIPED_S: Final = 600.0

# Repositories that refused, a hundred bytes each. More of them, and the first is asked again.
MAX_REFUSED: Final = 4096

_OUTCOMES: Final[tuple[tuple[type[UpstreamError], str], ...]] = (
    (UpstreamRefused, "refused"),
    (UpstreamLimited, "limited"),
    (UpstreamUnavailable, "unavailable"),
    (NoRanges, "whole"),
    (UpstreamError, "nonsense"),
)

Answer = TypeVar("Answer")


class _Place(NamedTuple):
    """Whom to ask for a repository, and what it is called there."""

    client: UpstreamClient
    repository: str

    @property
    def registry(self) -> str:
        return self.client.config.name


class UpstreamSource:
    """What the upstreams give to whoever asks from here. Names of repositories are scopes.

    What asks raises `UpstreamError`s (not `origin`), of which `UpstreamRefused` is remembered.
    """

    def __init__(
        self,
        clients: Iterable[UpstreamClient],
        store: Store,
        named: Named,
        background: Background,
        metrics: Metrics,
    ) -> None:
        self._clients = {client.config.name: client for client in clients}
        self._store = store
        self._named = named
        self._metrics = metrics
        self._manifests: SingleFlight[tuple[str, Digest], Manifest] = SingleFlight(background)
        self._sizes: SingleFlight[tuple[str, Digest], int] = SingleFlight(background)
        self._refused: dict[str, float] = {}  # repository -> until when
        self._unstriped: dict[str, float] = {}  # registry -> until when

    # -- what is known without asking

    def is_refused(self, repository: str) -> bool:
        """Whether the upstream does not give it to us: it said so lately, or is never asked."""
        if loop_time() < self._refused.get(repository, 0.0):
            return True
        scope = parse_scope(repository)
        client = self._clients.get(scope.registry)
        return client is None or client.config.private or scope.private

    def is_striped(self, registry: str) -> bool:
        """Whether many nodes may read parts of a blob of it at the same time."""
        return loop_time() >= self._unstriped.get(registry, 0.0)

    # -- as a source

    async def resolve(self, repository: str, tag: str, known: Digest | None = None) -> Digest:
        """What a tag is, asked on the condition that it is not `known`. Or `ManifestUnknown`."""
        place = self._place(repository)
        unknown = ManifestUnknown(f"{place.registry} has no {place.repository}:{tag}")
        asked = place.client.resolve(place.repository, tag, known)
        return (await self._ask(repository, asked, unknown)).digest

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """A manifest, verified, and kept in the store. Or `ManifestUnknown`."""
        return await self._manifests.run(
            (repository, digest), lambda: self._fetch_manifest(repository, digest)
        )

    async def stat(self, repository: str, digest: Digest) -> int:
        """The size of a blob: as a manifest says, or else the upstream. Or `BlobUnknown`."""
        size = self._named.size(repository, digest)
        if size is not None:
            return size
        return await self._sizes.run(
            (repository, digest), lambda: self._ask_size(repository, digest)
        )

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """The manifests that refer to `subject`, as the upstream says."""
        place = self._place(repository)
        asked = place.client.referrers(place.repository, subject)
        return list(await self._ask(repository, asked, ManifestUnknown("no referrers")))

    async def origin(self, repository: str, digest: Digest) -> Origin | None:
        """Where to read a blob from; as `Origins.origin`."""
        if self.is_refused(repository):
            return None
        place = self._place(repository)
        if PULL not in place.client.config.capabilities:
            return None
        try:
            size = await self.stat(repository, digest)
        except (BlobUnknown, UpstreamError) as error:
            _log.info("%s in %s is not to be had: %s", digest, repository, error)
            return None
        return _UpstreamOrigin(self, place, repository, digest, size)

    # -- asking

    def _place(self, repository: str) -> _Place:
        scope = parse_scope(repository)
        client = self._clients.get(scope.registry)
        if client is None or self.is_refused(repository):
            raise UpstreamRefused(f"{repository} is not given to this mesh")
        return _Place(client, scope.repository)

    async def _fetch_manifest(self, repository: str, digest: Digest) -> Manifest:
        place = self._place(repository)
        unknown = ManifestUnknown(f"{place.registry} has no {digest} in {place.repository}")
        asked = place.client.manifest(place.repository, digest)
        manifest = await self._ask(repository, asked, unknown)
        try:
            await self._store.put_manifest(repository, manifest)
        except OciError as error:  # it is right all the same
            _log.error("cannot keep %s of %s: %s", digest, repository, error)
        self._named.learn(repository, manifest)
        return manifest

    async def _ask_size(self, repository: str, digest: Digest) -> int:
        place = self._place(repository)
        unknown = BlobUnknown(f"{place.registry} has no {digest} in {place.repository}")
        stat = await self._ask(
            repository, place.client.stat_blob(place.repository, digest), unknown
        )
        if not stat.ranges:
            self._note_unstriped(place.registry, UNSTRIPED_S)
        self._named.note(repository, digest, stat.size)
        return stat.size

    async def _ask(
        self, repository: str, asked: Awaitable[Answer | None], unknown: OciError
    ) -> Answer:
        """The answer, if there is one; else raise `unknown`."""
        with self.noted(repository):
            answer = await asked
            if answer is None:
                raise unknown
        return answer

    def doubt(self, repository: str, digest: Digest) -> None:
        """What is known of a blob cannot be right: ask for it again."""
        self._named.forget(repository, digest)

    @contextmanager
    def noted(self, repository: str) -> Iterator[None]:
        """Count what comes of the block, and remember what an upstream said of itself in it."""
        registry = parse_scope(repository).registry
        outcome = "answered"
        try:
            yield
        except OciError:
            outcome = "unknown"
            raise
        except UpstreamError as error:
            outcome = next(name for kind, name in _OUTCOMES if isinstance(error, kind))
            self._note(repository, registry, error)
            raise
        finally:
            self._metrics.upstream_requests.labels(registry, outcome).inc()

    def _note(self, repository: str, registry: str, error: UpstreamError) -> None:
        if isinstance(error, UpstreamRefused):
            self._refused.pop(repository, None)
            self._refused[repository] = loop_time() + REFUSED_S
            if len(self._refused) > MAX_REFUSED:
                del self._refused[next(iter(self._refused))]
        elif isinstance(error, UpstreamLimited):
            self._note_unstriped(registry, max(UNSTRIPED_S, error.retry_after_s))
        elif isinstance(error, NoRanges):
            self._note_unstriped(registry, UNSTRIPED_S)

    def _note_unstriped(self, registry: str, for_s: float) -> None:
        if self.is_striped(registry):
            _log.info("%s: its blobs are read by one node each for %.0f s", registry, for_s)
        self._unstriped[registry] = max(self._unstriped.get(registry, 0.0), loop_time() + for_s)


class _UpstreamOrigin:
    """A blob at an upstream."""

    follows_client = False

    def __init__(
        self, source: UpstreamSource, place: _Place, repository: str, digest: Digest, size: int
    ) -> None:
        self.size = size
        self._source = source
        self._place = place
        self._repository = repository
        self._digest = digest

    @property
    def striped(self) -> bool:
        """As of now: an upstream shows while it is read that it sends no parts, or limits."""
        return self._source.is_striped(self._place.registry)

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """As `Origin.read`. Who reads alone gets any part, also of an upstream without ranges."""
        chunks = self._place.client.read_blob(
            self._place.repository, self._digest, start, stop, skip=not self.striped
        )
        try:
            with self._source.noted(self._repository):
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk
        except UpstreamError as error:
            if type(error) is UpstreamError:  # its answer contradicts what was asked for
                self._source.doubt(self._repository, self._digest)
            raise
