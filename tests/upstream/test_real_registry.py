"""The real thing: Debian's docker-registry, with TLS of its own authority and a password."""

import json
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from oci_mesh.errors import UpstreamError, UpstreamRefused, UpstreamUnavailable
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest, parse_manifest
from oci_mesh.upstream.client import BlobStat, Resolved, UpstreamClient
from tests.e2e import command
from tests.e2e.requirements import require
from tests.upstream.conftest import Authority, client_of
from tests.upstream.test_auth import BASIC

# bcrypt of "correct horse battery" (conftest.secret), at the lowest cost that is quick.
HTPASSWD = "mesh:$2a$05$aVWbI40mWW9Gkv7cpXVs9eD8mWYgRc0F8xB7BFC0LXaCriBUnlkXW\n"
BLOB = random.Random(1).randbytes(5_000_000)
CONFIG = b'{"architecture": "amd64", "os": "linux"}'


def _manifest() -> Manifest:
    def descriptor(content: bytes, media_type: str) -> dict[str, Any]:
        digest = str(Digest.of(content))
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_IMAGE,
        "config": descriptor(CONFIG, media_types.OCI_CONFIG),
        "layers": [descriptor(BLOB, media_types.LAYER_TAR)],
    }
    return parse_manifest(json.dumps(document).encode(), media_types.OCI_IMAGE)


MANIFEST = _manifest()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    """Its URL."""
    require("docker-registry")
    directory = tmp_path_factory.mktemp("registry")
    (directory / "htpasswd").write_text(HTPASSWD)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tls = {"certificate": str(authority.certificate), "key": str(authority.key)}
    settings = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "content")}},
        "http": {"addr": f"127.0.0.1:{port}", "tls": tls},
        "auth": {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}},
    }
    path = directory / "config.yml"
    path.write_text(json.dumps(settings))  # which is YAML
    log = directory / "log"
    process = command.start("docker-registry", "serve", path, stdout=log, stderr=log)
    try:
        command.eventually("docker-registry listens", lambda: _listens(port))
        yield f"https://localhost:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def client(real: str, authority: Authority, secret: Path) -> AsyncIterator[UpstreamClient]:
    """With the password, of a registry with an image in it."""
    await _push(real, authority)
    settings: dict[str, Any] = {"username": "mesh", "password_file": secret}
    async with client_of(real, ca=authority.ca, **settings) as made:
        yield made


async def _push(url: str, authority: Authority) -> None:
    context = authority.client_context()
    connector = aiohttp.TCPConnector(ssl=context)
    headers = {"Authorization": BASIC}
    async with aiohttp.ClientSession(url, connector=connector, headers=headers) as session:
        for content in (CONFIG, BLOB):
            async with session.post("/v2/library/app/blobs/uploads/") as started:
                location = URL(started.headers["Location"], encoded=True)
            at = location.extend_query(digest=str(Digest.of(content)))
            async with session.put(at, data=BytesIO(content)) as done:
                assert done.status == 201
        headers = {"Content-Type": MANIFEST.media_type}
        async with session.put(
            "/v2/library/app/manifests/v1", data=MANIFEST.content, headers=headers
        ) as done:
            assert done.status == 201


async def test_an_image(client: UpstreamClient) -> None:
    """Its tag, its manifest, its layer in parts."""
    found = Resolved(MANIFEST.digest, len(MANIFEST.content), MANIFEST.media_type)
    assert await client.resolve("library/app", "v1") == found
    assert await client.resolve("library/app", "v1", MANIFEST.digest) == Resolved(MANIFEST.digest)
    assert await client.resolve("library/app", "v2") is None
    assert await client.manifest("library/app", "v1") == MANIFEST
    assert await client.manifest("library/app", MANIFEST.digest) == MANIFEST
    assert await client.manifest("library/other", MANIFEST.digest) is None
    assert await client.referrers("library/app", MANIFEST.digest) == ()
    digest = Digest.of(BLOB)
    assert await client.stat_blob("library/app", digest) == BlobStat(len(BLOB), ranges=True)
    assert await client.stat_blob("library/app", Digest.of(b"?")) is None
    for start, stop in ((0, len(BLOB)), (0, 1), (1_000_000, 3_000_000), (len(BLOB) - 1, len(BLOB))):
        chunks = client.read_blob("library/app", digest, start, stop)
        async with aclosing(chunks):
            assert b"".join([chunk async for chunk in chunks]) == BLOB[start:stop]
    with pytest.raises(UpstreamError):
        await anext(client.read_blob("library/app", digest, 0, len(BLOB) + 1))


@pytest.mark.usefixtures("client")
async def test_without_the_password(real: str, authority: Authority, tmp_path: Path) -> None:
    """Or with a wrong one: refused, and that is remembered by nobody here."""
    wrong = tmp_path / "wrong"
    wrong.write_text("incorrect horse")
    for settings in ({}, {"username": "mesh", "password_file": wrong}):
        named: dict[str, Any] = {**settings}
        async with client_of(real, ca=authority.ca, **named) as client:
            with pytest.raises(UpstreamRefused):
                await client.resolve("library/app", "v1")
            with pytest.raises(UpstreamRefused):
                await anext(client.read_blob("library/app", Digest.of(BLOB), 0, 1))


@pytest.mark.usefixtures("client")
async def test_without_its_authority(real: str, secret: Path) -> None:
    """Nothing is asked, above all not with a password."""
    settings: dict[str, Any] = {"username": "mesh", "password_file": secret}
    async with client_of(real, **settings) as client:
        with pytest.raises(UpstreamUnavailable, match="no TLS"):
            await client.resolve("library/app", "v1")
