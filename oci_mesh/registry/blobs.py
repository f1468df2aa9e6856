"""Blobs: GET, HEAD, DELETE (distribution-spec end-2, end-10)."""

from aiohttp import web

from oci_mesh.errors import BlobUnknown
from oci_mesh.registry import responses
from oci_mesh.registry.publisher import Publisher
from oci_mesh.registry.responses import Pace, Sent
from oci_mesh.sources import Source
from oci_mesh.spec.names import NameRecord
from oci_mesh.spec.routes import DeleteBlob, GetBlob
from oci_mesh.store.base import Store


class Blobs:
    """Blobs come from the source: this node's store, or whoever has them."""

    def __init__(
        self,
        store: Store,
        source: Source,
        publisher: Publisher,
        sent: Sent,
        pace: Pace | None,
    ) -> None:
        self._store = store
        self._source = source
        self._publisher = publisher
        self._sent = sent
        self._pace = pace

    async def get(self, request: web.BaseRequest, asked: GetBlob) -> web.StreamResponse:
        """GET and HEAD. HEAD moves no bytes between nodes."""
        if request.method == "HEAD":
            size = await self._source.stat(asked.repository, asked.digest)
            headers = {**responses.blob_headers(asked.digest), "Content-Length": str(size)}
            return web.Response(headers=headers)
        if responses.is_current(request, asked.digest):
            await self._source.stat(asked.repository, asked.digest)
            return responses.empty(304, responses.content_headers(asked.digest))
        async with await self._source.blob(asked.repository, asked.digest) as blob:
            return await responses.send_blob(request, blob, self._sent, self._pace)

    async def delete(self, request: web.BaseRequest, asked: DeleteBlob) -> web.StreamResponse:
        """DELETE, on all nodes: none of them brings the blob back."""
        stamp = self._publisher.stamp()
        try:
            records = await self._store.delete_blob(asked.repository, asked.digest, stamp)
        except BlobUnknown:
            await self._source.stat(asked.repository, asked.digest)  # elsewhere, or unknown
            records = [NameRecord(asked.repository, str(asked.digest), None, stamp)]
            await self._store.merge_names(records)
        await self._publisher.announce(records)
        return responses.empty(202, {})
