"""A client that does what it is told and changes nothing on the way: no redirects, no decoding."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from yarl import URL

from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest


@dataclass(frozen=True)
class Reply:
    """A whole response."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str | None:
        """The OCI code of an error."""
        return self.json["errors"][0]["code"] if self.status >= 400 and self.body else None


class Client:
    """Calls one registry. Paths are sent as they are given."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._base = f"http://{address[0]}:{address[1]}"
        self._session = aiohttp.ClientSession(auto_decompress=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request; `content_type="..."` becomes the header `Content-Type`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL(self._base + path, encoded=True)
        async with self._session.request(
            method, url, data=body, headers=sent, allow_redirects=False
        ) as response:
            return Reply(response.status, response.headers, await response.read())

    async def push_blob(self, repository: str, content: bytes, algorithm: str = "sha256") -> Digest:
        """A blob in one POST."""
        digest = Digest.of(content, algorithm)
        path = f"/v2/{repository}/blobs/uploads/?digest={digest}"
        reply = await self.call("POST", path, content)
        assert reply.status == 201, reply
        return digest

    async def push_manifest(self, repository: str, reference: object, manifest: Manifest) -> Reply:
        """A manifest under a tag or digest (with its query, if it has one)."""
        path = f"/v2/{repository}/manifests/{reference}"
        return await self.call("PUT", path, manifest.content, content_type=manifest.media_type)

    async def begin_upload(self, repository: str) -> str:
        """The Location of a new upload."""
        reply = await self.call("POST", f"/v2/{repository}/blobs/uploads/")
        assert reply.status == 202, reply
        return str(reply.headers["Location"])
