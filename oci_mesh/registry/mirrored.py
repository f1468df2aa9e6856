"""What clients ask of other registries through this one: GET and HEAD, never a write."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, Protocol, cast

from aiohttp import web

from oci_mesh.errors import MethodUnsupported, NameUnknown
from oci_mesh.registry import responses
from oci_mesh.registry.blobs import Blobs
from oci_mesh.registry.listings import Listings
from oci_mesh.sources import Source
from oci_mesh.spec import routes
from oci_mesh.spec.digest import Digest

# RFC 9111 §5.5.1: "Response is Stale". Its text is for people.
_STALE: Final = 110


class Mirror(Source, Protocol):
    """The content of other registries, in repositories that are named as `spec.scope` says."""

    async def scope(self, repository: str, registry: str) -> str | None:
        """What the mesh calls a repository of `registry`, as clients give them (both may be empty).

        None: it is the mesh's own. Raises `NameUnknown` for a registry that is not mirrored.
        """
        ...

    async def resolve(self, repository: str, tag: str) -> tuple[Digest, str]:
        """What a tag means at its registry, and why that may be out of date; empty if it is not.

        Raises `ManifestUnknown` if there is none.
        """
        ...


_Endpoint = Callable[[web.BaseRequest, Any], Awaitable[web.StreamResponse]]


class Mirrored:
    """Answers what is about another registry."""

    def __init__(self, mirror: Mirror, blobs: Blobs, listings: Listings) -> None:
        """`blobs` and `listings` are of the mirror, as a source."""
        self._mirror = mirror
        self._endpoints: dict[type[routes.Request], _Endpoint] = {
            routes.GetBlob: blobs.get,
            routes.GetManifest: self._manifest,
            routes.ListReferrers: listings.referrers,
            routes.ListTags: _no_list,
            routes.ListRepositories: _no_list,
        }

    async def answer(
        self, request: web.BaseRequest, asked: routes.Request, registry: str
    ) -> web.StreamResponse | None:
        """The answer; None if it is about the mesh's own content."""
        endpoint = self._endpoints.get(type(asked))
        if isinstance(asked, routes.Ping) or (endpoint is None and not registry):
            return None
        repository = getattr(asked, "repository", "")
        name = await self._mirror.scope(repository, registry)
        if name is None:
            return None
        if endpoint is None:
            raise MethodUnsupported(
                "this is a mirror there: push to the registry itself",
                headers={"Allow": "GET, HEAD"},
            )
        if repository:
            asked = replace(cast("Any", asked), repository=name)
        return await endpoint(request, asked)

    async def _manifest(
        self, request: web.BaseRequest, asked: routes.GetManifest
    ) -> web.StreamResponse:
        """GET and HEAD, by tag or digest."""
        digest, warning = asked.reference, ""
        if not isinstance(digest, Digest):
            digest, warning = await self._mirror.resolve(asked.repository, digest)
        answer = responses.manifest(request, await self._mirror.manifest(asked.repository, digest))
        if warning:
            answer.headers["Warning"] = f'{_STALE} - "{warning}"'
        return answer


async def _no_list(request: web.BaseRequest, asked: object) -> web.StreamResponse:
    """Lists of names are asked of the registry itself, which clients then do."""
    raise NameUnknown("no such repository")
