"""Blobs: GET, HEAD, DELETE (distribution-spec end-2, end-10)."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from oci_mesh.errors import BlobUnknown, OciMeshError
from oci_mesh.journal import Delivery, Journal, plain
from oci_mesh.registry import responses
from oci_mesh.registry.publisher import Publisher
from oci_mesh.registry.responses import Pace, Sent
from oci_mesh.sources import Source
from oci_mesh.spec.names import NameRecord
from oci_mesh.spec.routes import DeleteBlob, GetBlob
from oci_mesh.store.base import Store
from oci_mesh.tasks import loop_time


class Blobs:
    """Blobs come from the source: this node's store, or whoever has them. What clients get is
    written into the `journal`.
    """

    def __init__(
        self,
        store: Store,
        source: Source,
        publisher: Publisher,
        sent: Sent,
        pace: Pace | None,
        journal: Journal | None = None,
    ) -> None:
        self._store = store
        self._source = source
        self._publisher = publisher
        self._sent = sent
        self._pace = pace
        self._journal = journal

    async def get(self, request: web.BaseRequest, asked: GetBlob) -> web.StreamResponse:
        """GET and HEAD. HEAD moves no bytes between nodes."""
        if request.method == "HEAD":
            size = await self._source.stat(asked.repository, asked.digest)
            headers = {**responses.blob_headers(asked.digest), "Content-Length": str(size)}
            return web.Response(headers=headers)
        if responses.is_current(request, asked.digest):
            await self._source.stat(asked.repository, asked.digest)
            return responses.empty(304, responses.content_headers(asked.digest))
        with self._noted(asked) as delivery:
            began = loop_time()
            async with await self._source.blob(asked.repository, asked.digest) as blob:
                delivery.opened_s, delivery.stored = loop_time() - began, blob.file is not None
                return await responses.send_blob(request, blob, self._sent, self._pace, delivery)

    @contextmanager
    def _noted(self, asked: GetBlob) -> Iterator[Delivery]:
        """A record of what the client gets, which is kept when the block ends."""
        began = loop_time()
        delivery = Delivery(asked.repository, str(asked.digest), time.time())
        try:
            yield delivery
        except OciMeshError as error:
            delivery.failure = plain(str(error))
            raise
        except (ConnectionError, asyncio.CancelledError):
            delivery.failure = "the client went away, or was cut off"
            raise
        finally:
            delivery.took_s = loop_time() - began
            if self._journal is not None:
                self._journal.note(delivery)

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
