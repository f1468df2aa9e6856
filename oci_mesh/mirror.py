"""What clients get of other registries: where it is looked for, in which order, and for whom.

    a tag          the upstream says, or what it said lately (`upstream.tags`)
    a manifest     this node's store, other nodes, the upstream
    a blob         the store; then, unless the upstream refuses the repository to us, the mesh, all
                   nodes that want it together, with the upstream as its origin; then, for clients
                   of a containerd that was given a manifest which names the blob, what only such
                   may have: that containerd itself, and others like it

Public content is what upstreams give to this mesh, and all its clients may have it. Private content
goes by another name between nodes (`spec.scope`), and its manifests are never served: who has one
got it from its registry, with a secret that the mesh does not know. To all others it is unknown,
in the same words as what does not exist.

Who asks is not told why something cannot be had (the log says it): clients go on at the upstream by
themselves, and a 404 is what makes all of them do that at once.
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias, TypeVar

from oci_mesh.errors import (
    BlobUnknown,
    ManifestUnknown,
    NameUnknown,
    PeerError,
    UpstreamError,
)
from oci_mesh.sources import Chain, Origin, Origins, Source
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest
from oci_mesh.spec.scope import Scope, is_private, is_registry, parse_scope
from oci_mesh.store.base import Blob, Store

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
_Ask: TypeAlias = Callable[[Chain, str, Digest], Awaitable[Answer]]


class Upstreams(Protocol):
    """What the upstreams give to this mesh. Raises `UpstreamError` where they cannot be asked."""

    def is_refused(self, repository: str) -> bool:
        """Whether they do not give the repository to us, as far as is known."""
        ...

    async def stat(self, repository: str, digest: Digest) -> int:
        """As `Source.stat`."""
        ...

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """As `Source.manifest`; it is in the store then."""
        ...

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """As `Source.referrers`; empty also where the upstream has no such lists."""
        ...


class Meaning(Protocol):
    """What a tag means, as far as can be found out."""

    @property
    def digest(self) -> Digest:
        """Of the manifest."""
        ...

    @property
    def stale(self) -> bool:
        """Whether its registry should have been asked, and could not be."""
        ...

    @property
    def age_s(self) -> float:
        """How long ago the registry said so."""
        ...


class Tags(Protocol):
    """Resolves tags of upstreams."""

    async def resolve(self, repository: str, tag: str) -> Meaning:
        """Raises `ManifestUnknown`, or `UpstreamRefused` if we are not told."""
        ...


class Turns(Protocol):
    """Keeps the nodes that want the same manifest from all asking its registry for it."""

    def turn(self, repository: str, digest: Digest) -> AbstractAsyncContextManager[None]:
        """The block begins when no other node is about to get it; perhaps one has it then."""
        ...


class Private(Source, Protocol):
    """What this node's containerd has: private content for those who have a right to it, public
    content for all.
    """

    async def entitled(self, digest: Digest) -> bool:
        """Whether this node's clients have a right to a blob, wherever it is."""
        ...


class Mirror:
    """The registry's `Mirror`, and all that has to do with the difference of private and public.

    `learn` is told of each manifest that is served: what it names is public from then on. `private`
    is None where there is no containerd to follow. With `entitle_all` every client has a right to
    all private content that the mesh has, as the operator wants it.
    """

    def __init__(
        self,
        mirrored: Collection[str],
        switched_off: Collection[str],
        store: Store,
        mesh: Source,
        upstreams: Upstreams,
        tags: Tags,
        turns: Turns,
        learn: Callable[[str, Manifest], None],
        private: Private | None = None,
        *,
        entitle_all: bool = False,
    ) -> None:
        self._mirrored = frozenset(mirrored)
        self._switched_off = frozenset(switched_off)
        self._store = store
        self._mesh = mesh
        self._upstreams = upstreams
        self._tags = tags
        self._turns = turns
        self._learn = learn
        self._private = private
        self._entitle_all = entitle_all
        here = [] if private is None else [private]
        self._for_all = Chain([*here, mesh])
        self._for_entitled = Chain([store, *here, mesh])

    # -- whose content it is

    async def scope(self, repository: str, registry: str) -> str | None:
        """What the mesh calls a repository of `registry`, as clients give them; None if it is the
        mesh's own. Raises `NameUnknown` for what is not mirrored.

        Where no registry is said, `docker.io/library/busybox` is docker.io's, as podman and CRI-O
        ask mirrors for it; but what was pushed here under such a name stays what it is.
        """
        if not registry:
            registry, _, inner = repository.partition("/")
            if registry not in self._mirrored or not inner or await self.is_own(repository):
                return None
            repository = inner
        if registry in self._mirrored:
            return str(Scope(repository, registry))
        if registry in self._switched_off or not is_registry(registry):
            raise NameUnknown("no such repository")
        return None

    async def is_own(self, repository: str) -> bool:
        """Whether this node has anything under that name."""
        try:
            await self._store.tags(repository, n=1)
        except NameUnknown:
            return False
        return True

    # -- tags and manifests

    async def resolve(self, repository: str, tag: str) -> tuple[Digest, str]:
        """What a tag means, and a warning if that may be out of date. Or `ManifestUnknown`."""
        unknown = ManifestUnknown("no such manifest")
        if self._upstreams.is_refused(repository):
            raise unknown
        try:
            meaning = await self._tags.resolve(repository, tag)
        except UpstreamError as error:
            _log.info("%s:%s: %s", repository, tag, error)
            raise unknown from None
        if not meaning.stale:
            return meaning.digest, ""
        registry = parse_scope(repository).registry
        return meaning.digest, (
            f"{registry} cannot be asked now; this is what it said {meaning.age_s:.0f} s ago"
        )

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """A manifest that its registry gives to this mesh, or gave. Or `ManifestUnknown`."""
        try:
            found = await self._store.manifest(repository, digest)
        except ManifestUnknown:
            found = await self._fetch_manifest(repository, digest)
        self._learn(repository, found)
        return found

    async def _fetch_manifest(self, repository: str, digest: Digest) -> Manifest:
        unknown = ManifestUnknown("no such manifest")
        if self._upstreams.is_refused(repository):
            raise unknown
        try:
            async with self._turns.turn(repository, digest):
                try:
                    return await self._mesh.manifest(repository, digest)
                except (ManifestUnknown, PeerError) as error:
                    _log.debug("%s", error)
                return await self._upstreams.manifest(repository, digest)
        except (ManifestUnknown, UpstreamError) as error:
            _log.info("%s in %s: %s", digest, repository, error)
            raise unknown from None

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """What refers to `subject`; what was seen here, if the upstream cannot be asked.

        Raises `ManifestUnknown` if there is nothing: of a registry that has no such lists, clients
        then ask by the tags that stand in for them ("Referrers Tag Schema").
        """
        try:
            found = await self._upstreams.referrers(repository, subject)
        except UpstreamError as error:
            _log.info("referrers of %s in %s: %s", subject, repository, error)
            found = await self._store.referrers(repository, subject)
        if not found:
            raise ManifestUnknown("no referrers known")
        return found

    # -- blobs

    async def stat(self, repository: str, digest: Digest) -> int:
        """The size of a blob. Or `BlobUnknown`."""
        try:
            return await self._store.stat(repository, digest)
        except BlobUnknown:
            pass
        if not self._upstreams.is_refused(repository):
            for source in (self._upstreams, self._for_all):
                try:
                    return await source.stat(repository, digest)
                except (BlobUnknown, PeerError, UpstreamError) as error:
                    _log.debug("%s in %s: %s", digest, repository, error)
        return await self._entitled(repository, digest, Chain.stat)

    async def blob(self, repository: str, digest: Digest) -> Blob:
        """Open a blob; its bytes may be on their way. Or `BlobUnknown`."""
        try:
            return await self._store.blob(repository, digest)
        except BlobUnknown:
            pass
        if not self._upstreams.is_refused(repository):
            try:
                return await self._for_all.blob(repository, digest)
            except (BlobUnknown, PeerError, UpstreamError) as error:
                _log.info("%s in %s: %s", digest, repository, error)
        return await self._entitled(repository, digest, Chain.blob)

    async def _entitled(self, repository: str, digest: Digest, ask: _Ask[Answer]) -> Answer:
        """What only those may have who have a right to it. Or `BlobUnknown`, for all others too."""
        unknown = BlobUnknown("no such blob")
        if self._private is None:
            raise unknown
        if not (self._entitle_all or await self._private.entitled(digest)):
            raise unknown
        name = str(parse_scope(repository)._replace(private=True))
        try:
            return await ask(self._for_entitled, name, digest)
        except (BlobUnknown, PeerError) as error:
            _log.info("%s in %s: %s", digest, name, error)
            raise unknown from None


class AllOrigins:
    """The origin of public content is its upstream, that of private content this node's client."""

    def __init__(self, public: Origins, private: Origins | None) -> None:
        self._public = public
        self._private = private

    async def origin(self, repository: str, digest: Digest) -> Origin | None:
        """As `Origins.origin`."""
        origins = self._private if is_private(repository) else self._public
        return None if origins is None else await origins.origin(repository, digest)
