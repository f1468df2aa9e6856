"""Lists: tags, repositories, referrers (distribution-spec end-8, end-12; `_catalog`)."""

from aiohttp import web

from oci_mesh.registry import responses
from oci_mesh.sources import Source
from oci_mesh.spec import media_types
from oci_mesh.spec.manifest import encode_index
from oci_mesh.spec.routes import MAX_PAGE, ListReferrers, ListRepositories, ListTags
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.store.base import Store


class Listings:
    """Tags and repositories are known on every node; referrers are asked of all that have some."""

    def __init__(self, store: Store, source: Source) -> None:
        self._store = store
        self._source = source

    async def tags(self, request: web.BaseRequest, asked: ListTags) -> web.StreamResponse:
        """A page of tags; `Link` leads to the next one if there is one."""
        found = await self._store.tags(asked.repository, asked.last, asked.n + 1)
        return responses.page(request, {"name": asked.repository}, "tags", found, asked.n)

    async def repositories(
        self, request: web.BaseRequest, asked: ListRepositories
    ) -> web.StreamResponse:
        """A page of the mesh's own repositories."""
        found: list[str] = []
        last = asked.last
        while len(found) <= asked.n:
            more = await self._store.repositories(last, MAX_PAGE)
            if not more:
                break
            found += [repository for repository in more if not is_mirrored(repository)]
            last = more[-1]
        return responses.page(request, {}, "repositories", found, asked.n)

    async def referrers(self, request: web.BaseRequest, asked: ListReferrers) -> web.StreamResponse:
        """All manifests whose subject this is: an index, empty rather than 404.

        What clients list under fallback tags ("Referrers Tag Schema") is among them: each of these
        manifests names its subject itself, and it is by that that they are found, whenever pushed.
        """
        found = await self._source.referrers(asked.repository, asked.digest)
        headers: dict[str, str] = {}
        if asked.artifact_type is not None:
            found = [d for d in found if d.artifact_type == asked.artifact_type]
            headers["OCI-Filters-Applied"] = "artifactType"
        return responses.raw(encode_index(found), media_types.OCI_INDEX, headers=headers)
