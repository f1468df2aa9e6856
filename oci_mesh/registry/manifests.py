"""Manifests: GET, HEAD, PUT, DELETE (distribution-spec end-3, 7, 9).

`Accept` is not looked at: a manifest is served as what it was pushed as, or a digest would lie.
"""

import logging
from collections.abc import Sequence
from enum import Enum
from typing import Final

from aiohttp import web

from oci_mesh.errors import DigestInvalid, ManifestBlobUnknown, OciError
from oci_mesh.logs import event
from oci_mesh.metrics import Metrics
from oci_mesh.registry import responses
from oci_mesh.registry.bodies import read_manifest
from oci_mesh.registry.publisher import Publisher
from oci_mesh.sources import Source, bring
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import DEFAULT_ALGORITHM, Digest
from oci_mesh.spec.manifest import Descriptor, Manifest, parse_manifest
from oci_mesh.spec.names import NameRecord
from oci_mesh.spec.routes import DeleteManifest, GetManifest, PutManifest
from oci_mesh.store.base import Store

_log = logging.getLogger(__name__)


# How many nodes have what was pushed, in an answer; in a request, that one is enough.
COPIES: Final = "OCI-Mesh-Copies"


class Sparse(Enum):
    """Which content a pushed manifest may name without it being there.

    INDEX: an index may lack platforms; an image must be complete. ALLOW: anything may be missing.
    DENY: nothing may. Subjects and non-distributable layers may always be missing.
    """

    INDEX = "index"
    ALLOW = "allow"
    DENY = "deny"

    def needs(self, manifest: Manifest) -> Sequence[Descriptor]:
        """The descriptors that must be in the repository."""
        if self is Sparse.ALLOW:
            return ()
        return manifest.blobs if self is Sparse.INDEX else (*manifest.blobs, *manifest.manifests)


class Manifests:
    """Tags are this node's own knowledge (all nodes share them); content may be anybody's."""

    def __init__(
        self,
        store: Store,
        source: Source,
        publisher: Publisher,
        metrics: Metrics,
        sparse: Sparse,
    ) -> None:
        self._store = store
        self._source = source
        self._publisher = publisher
        self._metrics = metrics
        self._sparse = sparse

    async def get(self, request: web.BaseRequest, asked: GetManifest) -> web.StreamResponse:
        """GET and HEAD, by tag or digest."""
        digest = asked.reference
        if not isinstance(digest, Digest):
            digest = await self._store.resolve(asked.repository, digest)
        manifest = await self._source.manifest(asked.repository, digest)
        return responses.manifest(request, manifest)

    async def put(self, request: web.BaseRequest, asked: PutManifest) -> web.StreamResponse:
        """PUT under a tag, or under a digest with any number of tags.

        Answered when the manifest and all it needs are durable here and on as many other nodes as
        the configuration asks for and are alive; `OCI-Mesh-Copies` says on how many. A client that
        sends it as 1 sees to the others itself (`oci-mesh sync`).
        """
        content = await read_manifest(request)
        by_digest = asked.reference if isinstance(asked.reference, Digest) else None
        algorithm = by_digest.algorithm if by_digest else DEFAULT_ALGORITHM
        manifest = parse_manifest(content, request.headers.get("Content-Type"), algorithm)
        if by_digest is not None and manifest.digest != by_digest:
            raise DigestInvalid(f"the manifest sent is {manifest.digest}, not {by_digest}")
        tags = asked.tags if by_digest else (str(asked.reference), *asked.tags)
        records = await self._store_manifest(asked.repository, manifest, tags)
        # Others must know first that content which was deleted is wanted again; what a tag means
        # changes for them when the copies are made.
        await self._publisher.announce([record for record in records if not record.is_tag])
        copies = 1
        if request.headers.get(COPIES) != "1":
            copies = await self._publisher.replicate(asked.repository, manifest.digest)
        self._metrics.replicated.labels(str(copies)).inc()
        await self._publisher.announce([record for record in records if record.is_tag])
        _log.info(
            "pushed",
            extra=event(
                repository=asked.repository,
                tags=",".join(tags),
                digest=manifest.digest,
                copies=copies,
            ),
        )
        return _created(asked.repository, manifest, asked.tags, copies)

    async def delete(self, request: web.BaseRequest, asked: DeleteManifest) -> web.StreamResponse:
        """DELETE a tag (only the tag), or a manifest with its tags; on all nodes."""
        stamp = self._publisher.stamp()
        if isinstance(asked.reference, Digest):
            # It may be on other nodes only; then it is fetched, to know that it exists.
            await self._source.manifest(asked.repository, asked.reference)
            records = await self._store.delete_manifest(asked.repository, asked.reference, stamp)
        else:
            records = await self._store.delete_tag(asked.repository, asked.reference, stamp)
        await self._publisher.announce(records)
        _log.info("deleted", extra=event(repository=asked.repository, name=asked.reference))
        return responses.empty(202, {})

    async def _store_manifest(
        self, repository: str, manifest: Manifest, tags: Sequence[str]
    ) -> list[NameRecord]:
        needs, stamp = self._sparse.needs(manifest), self._publisher.stamp()
        try:
            return await self._store.put_manifest(repository, manifest, tags, stamp, needs)
        except ManifestBlobUnknown as error:
            # A client skips what HEAD says is there, and that may be on another node.
            missing = [need for need in needs if need.digest in error.missing]
            if not await self._fetch(repository, missing):
                raise
        return await self._store.put_manifest(repository, manifest, tags, stamp, needs)

    async def _fetch(self, repository: str, descriptors: Sequence[Descriptor]) -> bool:
        """Bring content of other nodes here; False if not all of it can be had."""
        try:
            for descriptor in descriptors:
                digest = descriptor.checked_digest
                if descriptor.media_type in media_types.MANIFESTS:
                    await self._source.manifest(repository, digest)
                else:
                    await bring(self._source, repository, digest)
        except OciError:
            return False
        return True


def _created(repository: str, manifest: Manifest, tags: Sequence[str], copies: int) -> web.Response:
    response = responses.empty(
        201,
        {
            "Location": f"/v2/{repository}/manifests/{manifest.digest}",
            "Docker-Content-Digest": str(manifest.digest),
            COPIES: str(copies),
        },
    )
    if manifest.subject is not None:
        response.headers["OCI-Subject"] = manifest.subject.digest
    for tag in tags:
        response.headers.add("OCI-Tag", tag)
    return response
