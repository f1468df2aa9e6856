"""Uploads: POST, PATCH, PUT, GET, DELETE (distribution-spec end-4, 5, 6, 11, 13, 14).

The Location of every answer carries the offset at which the next chunk belongs, so that a chunk
without a Content-Range that a client sends twice (it never saw the first answer) is noticed.
"""

from aiohttp import web

from oci_mesh.errors import BlobUnknown, SizeInvalid
from oci_mesh.metrics import Metrics
from oci_mesh.registry import responses
from oci_mesh.registry.bodies import read_chunks
from oci_mesh.registry.publisher import Publisher
from oci_mesh.spec.digest import DEFAULT_ALGORITHM, Digest
from oci_mesh.spec.routes import CancelUpload, FinishUpload, GetUpload, PatchUpload, StartUpload
from oci_mesh.spec.upload import check_chunk, progress
from oci_mesh.store.base import Store, Upload

_NOTHING = Digest.of(b"")


class Uploads:
    """Uploads belong to the node that began them; the blob belongs to the mesh."""

    def __init__(self, store: Store, publisher: Publisher, metrics: Metrics) -> None:
        self._store = store
        self._publisher = publisher
        self._metrics = metrics

    async def start(self, request: web.BaseRequest, asked: StartUpload) -> web.StreamResponse:
        """POST: mount if asked and possible, else take the whole blob if it came, else begin."""
        if asked.mount is not None and await self._mount(asked.repository, asked.mount, asked):
            return _created(asked.repository, asked.mount)
        algorithm = asked.algorithm or DEFAULT_ALGORITHM
        if asked.digest is not None and (request.can_read_body or asked.digest == _NOTHING):
            upload_id = await self._store.create_upload(asked.repository, asked.digest.algorithm)
            return await self._take(request, asked.repository, upload_id, asked.digest, None)
        if asked.digest is not None:
            algorithm = asked.digest.algorithm
        upload_id = await self._store.create_upload(asked.repository, algorithm)
        return _accepted(asked.repository, upload_id, 0)

    async def status(self, request: web.BaseRequest, asked: GetUpload) -> web.StreamResponse:
        """GET: how far an upload is."""
        offset = await self._store.upload_offset(asked.repository, asked.upload)
        return _accepted(asked.repository, asked.upload, offset, status=204)

    async def patch(self, request: web.BaseRequest, asked: PatchUpload) -> web.StreamResponse:
        """PATCH: one chunk, or the whole blob as a stream."""
        async with self._store.upload(asked.repository, asked.upload) as upload:
            await self._receive(request, upload, asked.offset)
            return _accepted(asked.repository, asked.upload, upload.offset)

    async def finish(self, request: web.BaseRequest, asked: FinishUpload) -> web.StreamResponse:
        """PUT: perhaps the last chunk, and the digest of it all."""
        return await self._take(request, asked.repository, asked.upload, asked.digest, asked.offset)

    async def cancel(self, request: web.BaseRequest, asked: CancelUpload) -> web.StreamResponse:
        """DELETE: drop it."""
        await self._store.cancel_upload(asked.repository, asked.upload)
        return responses.empty(204, {})

    async def _mount(self, repository: str, digest: Digest, asked: StartUpload) -> bool:
        try:
            records = await self._store.mount(
                repository, digest, asked.source, self._publisher.stamp()
            )
        except BlobUnknown:
            return False
        await self._publisher.announce(records)
        return True

    async def _take(
        self,
        request: web.BaseRequest,
        repository: str,
        upload_id: str,
        digest: Digest,
        expected: int | None,
    ) -> web.StreamResponse:
        async with self._store.upload(repository, upload_id) as upload:
            if request.can_read_body:
                await self._receive(request, upload, expected)
            records = await upload.commit(digest, self._publisher.stamp())
        await self._publisher.announce(records)
        return _created(repository, digest)

    async def _receive(
        self, request: web.BaseRequest, upload: Upload, expected: int | None
    ) -> None:
        """Append the body. What arrived before a cut connection stays, for the client to resume."""
        start = upload.offset
        length = check_chunk(
            start, expected, request.headers.get("Content-Range"), request.content_length
        )
        try:
            async for chunk in read_chunks(request):
                await upload.write(chunk)
                if length is not None and upload.offset - start > length:
                    break
        finally:
            self._metrics.client_received.inc(max(0, upload.offset - start))
        if length is not None and upload.offset - start != length:
            received = upload.offset - start
            await upload.truncate(start)
            raise SizeInvalid(f"received {received} bytes of a chunk of {length}")


def _created(repository: str, digest: Digest) -> web.Response:
    return responses.empty(
        201,
        {
            "Location": f"/v2/{repository}/blobs/{digest}",
            "Docker-Content-Digest": str(digest),
        },
    )


def _accepted(repository: str, upload_id: str, offset: int, status: int = 202) -> web.Response:
    return responses.empty(
        status,
        {
            "Location": f"/v2/{repository}/blobs/uploads/{upload_id}?offset={offset}",
            "Range": progress(offset),
            "Docker-Upload-UUID": upload_id,
        },
    )
