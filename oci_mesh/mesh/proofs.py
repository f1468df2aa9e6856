"""Private content between nodes: only who proves to have it from its registry is given any of it.

What an upstream gives only to those with a secret (`scope.is_private`) is known to the mesh's nodes
without that secret. `sources.Access` says who has a right to it; here each request between nodes
carries a proof, and each way to such content looks for one. Who has none is answered as if there
were nothing: so are those who have one, where there is nothing.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from oci_mesh.errors import BlobUnknown, EndpointUnknown, ManifestUnknown, OciError
from oci_mesh.mesh.wire import PROOF_HEADER
from oci_mesh.sources import Access
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.routes import GetBlob, GetManifest, ListReferrers, Ping, Request, parse_request
from oci_mesh.spec.scope import is_private

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Peer = Callable[[web.BaseRequest], str]

# What nodes ask of each other's content. Lists of repositories and tags are not among it: they
# would name what is private.
_ASKED: Final = (Ping, GetBlob, GetManifest, ListReferrers)


class Proofs:
    """Both sides, of one node. Without `access` nothing private is had or given."""

    def __init__(self, me: str, access: Access | None, peer: Peer) -> None:
        self._me = me
        self._access = access
        self._peer = peer

    def headers(self, repository: str, digest: Digest) -> dict[str, str]:
        """To send along with a request for a blob."""
        proof = self.proof(repository, digest)
        return {PROOF_HEADER: proof} if proof else {}

    def proof(self, repository: str, digest: Digest) -> str:
        """To say in a message about a blob; empty if there is none, or none is needed."""
        if self._access is None or not is_private(repository):
            return ""
        return self._access.proof(repository, digest, self._me)

    async def allow(self, repository: str, digest: Digest, node: str, proof: str) -> bool:
        """Whether `node`, which shows `proof`, may have the blob."""
        if not is_private(repository):
            return True
        if self._access is None or not proof or not node:
            return False
        return await self._access.is_proven(repository, digest, node, proof)

    async def check(self, request: web.BaseRequest, repository: str, digest: Digest) -> None:
        """Raise `BlobUnknown` unless the node that asks may have the blob."""
        if not is_private(repository):  # as nearly all: who asks need not be known
            return
        proof = request.headers.get(PROOF_HEADER, "")
        if not await self.allow(repository, digest, self._peer(request), proof):
            raise _unknown()

    def guarded(self, content: Handler) -> Handler:
        """`content`, which serves this node's content to others, for those who may have it. What is
        not understood here is refused here: it might be understood there.
        """

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            path, _, query = request.path_qs.partition("?")
            try:
                asked = parse_request("GET", path, query, scoped=True)
                repository = _private(asked)
                if repository and isinstance(asked, GetBlob):
                    await self.check(request, repository, asked.digest)
                elif repository:  # manifests of private images are never given
                    raise ManifestUnknown("no such manifest here")
                elif not isinstance(asked, _ASKED):
                    raise EndpointUnknown("nodes do not ask each other for this")
            except OciError as error:
                return _refusal(error)
            response = await content(request)
            absent = repository and response.status == 404
            return _refusal(_unknown()) if absent else response

        return handle


def _private(asked: Request) -> str:
    """The private repository that is asked for; empty if it is another."""
    repository: str = getattr(asked, "repository", "")
    return repository if is_private(repository) else ""


def _unknown() -> BlobUnknown:
    """The same words whether it is not here or not for who asks."""
    return BlobUnknown("no such blob here")


def _refusal(error: OciError) -> web.Response:
    return web.Response(
        status=error.status,
        body=error.body(),
        content_type="application/json",
        headers=error.headers,
    )
