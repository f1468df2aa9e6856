"""The distribution API: a request to the handler of its endpoint, an error to its answer."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from oci_mesh.errors import MethodUnsupported, OciError, OciMeshError, Unavailable
from oci_mesh.journal import Journal
from oci_mesh.metrics import Metrics
from oci_mesh.registry import responses
from oci_mesh.registry.blobs import Blobs
from oci_mesh.registry.listings import Listings
from oci_mesh.registry.manifests import Manifests, Sparse
from oci_mesh.registry.mirrored import Mirror, Mirrored
from oci_mesh.registry.publisher import Publisher
from oci_mesh.registry.responses import Pace, Sent
from oci_mesh.registry.uploads import Uploads
from oci_mesh.sources import Source
from oci_mesh.spec import routes
from oci_mesh.spec.routes import Target
from oci_mesh.store.base import Store

_log = logging.getLogger(__name__)

Endpoint = Callable[[web.BaseRequest, Any], Awaitable[web.StreamResponse]]

READ_METHODS: Final = frozenset({"GET", "HEAD"})

# Docker looks at this header to see that it talks to a registry.
_API_VERSION: Final = {"Docker-Distribution-API-Version": "registry/2.0"}


class Registry:
    """The whole API over a store (what is here) and a source (what can be had).

    `read_only` takes only GET and HEAD: what other nodes are served, from the store alone. `sent`
    accounts for blob bytes; by default they are a client's. They go out at `pace`, if there is one;
    the `journal` has what clients got lately.

    Between nodes content of other registries is asked for by the mesh's names for it; clients say
    which registry they mean, and that is the `mirror`'s to know. Without one it says nothing.
    """

    def __init__(
        self,
        store: Store,
        source: Source,
        publisher: Publisher,
        metrics: Metrics,
        *,
        sparse: Sparse = Sparse.INDEX,
        read_only: bool = False,
        sent: Sent | None = None,
        pace: Pace | None = None,
        mirror: Mirror | None = None,
        journal: Journal | None = None,
    ) -> None:
        sent = sent or self._sent_to_client
        blobs = Blobs(store, source, publisher, sent, pace, journal)
        uploads = Uploads(store, publisher, metrics)
        manifests = Manifests(store, source, publisher, metrics, sparse)
        listings = Listings(store, source)
        self._metrics = metrics
        self._read_only = read_only
        self._mirrored = None
        if mirror is not None:
            self._mirrored = Mirrored(
                mirror,
                Blobs(store, mirror, publisher, sent, pace, journal),
                Listings(store, mirror),
            )
        self._endpoints: dict[type, Endpoint] = {
            routes.Ping: _ping,
            routes.ListRepositories: listings.repositories,
            routes.ListTags: listings.tags,
            routes.ListReferrers: listings.referrers,
            routes.GetBlob: blobs.get,
            routes.DeleteBlob: blobs.delete,
            routes.GetManifest: manifests.get,
            routes.PutManifest: manifests.put,
            routes.DeleteManifest: manifests.delete,
            routes.StartUpload: uploads.start,
            routes.GetUpload: uploads.status,
            routes.PatchUpload: uploads.patch,
            routes.FinishUpload: uploads.finish,
            routes.CancelUpload: uploads.cancel,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Nothing but a lost connection is ever raised."""
        endpoint = "unknown"
        try:
            if self._read_only and request.method not in READ_METHODS:
                raise MethodUnsupported("this listener only reads", headers={"Allow": "GET, HEAD"})
            path, _, query = request.path_qs.partition("?")
            # Between nodes names say all, and what a path means is decided before this, too.
            target = Target("", path) if self._read_only else routes.parse_target(path, query)
            asked = routes.parse_request(request.method, target.path, query, scoped=self._read_only)
            endpoint = type(asked).__name__
            response = await self._answer(request, asked, target.registry)
        except OciError as problem:
            response = self._refuse(request, problem)
        except OciMeshError as problem:
            _log.error("%s %s: %s", request.method, request.path, problem)
            response = self._refuse(request, Unavailable(str(problem)))
        listener = "mesh" if self._read_only else "client"
        self._metrics.count_request(listener, endpoint, request.method, response.status)
        return response

    async def _answer(
        self, request: web.BaseRequest, asked: routes.Request, registry: str
    ) -> web.StreamResponse:
        if self._mirrored is not None:
            answer = await self._mirrored.answer(request, asked, registry)
            if answer is not None:
                return answer
        return await self._endpoints[type(asked)](request, asked)

    def _sent_to_client(self, request: web.BaseRequest, size: int) -> None:
        self._metrics.client_sent.inc(size)

    def _refuse(self, request: web.BaseRequest, problem: OciError) -> web.Response:
        level = logging.ERROR if problem.status >= 500 else logging.DEBUG
        _log.log(
            level,
            "%s %s: %d %s: %s",
            request.method,
            request.path,
            problem.status,
            problem.code,
            problem.message,
        )
        return responses.error(problem)


async def _ping(request: web.BaseRequest, asked: routes.Ping) -> web.StreamResponse:
    return responses.raw(b"{}", "application/json", headers=dict(_API_VERSION))
