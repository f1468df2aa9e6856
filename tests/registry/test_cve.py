"""What other registries got wrong, by the number it was published under."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, NoReturn

import pytest

from oci_mesh.metrics import Metrics
from oci_mesh.mirror import Mirror
from oci_mesh.registry.api import Registry
from oci_mesh.registry.server import RegistryServer
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import parse_manifest
from oci_mesh.spec.routes import MAX_PAGE
from oci_mesh.store.memory import MemoryStore
from oci_mesh.tasks import Background
from oci_mesh.upstream import retry
from oci_mesh.upstream.client import UpstreamClient
from oci_mesh.upstream.named import Named
from oci_mesh.upstream.source import UpstreamSource
from oci_mesh.upstream.tags import UpstreamTags
from oci_mesh.upstream_config import UpstreamConfig
from tests.registry.client import Client
from tests.registry.conftest import Address
from tests.registry.publisher import LonePublisher
from tests.registry.wire import HOST, Raw, exchange
from tests.store.content import image, index, push_image, stamp

BLOB = b"a layer of somebody"
DIGEST = Digest.of(BLOB)
IMAGE = image(b"{}", BLOB)


async def test_cve_2024_39897_blobs_of_other_repositories(client: Client) -> None:
    """Knowing a digest is not having it: a blob is read only where it was pushed or mounted."""
    await client.push_blob("owner", BLOB)
    for method in ("HEAD", "GET"):
        absent = await client.call(method, f"/v2/other/blobs/{Digest.of(b'nobody has this')}")
        reply = await client.call(method, f"/v2/other/blobs/{DIGEST}")
        assert reply.status == absent.status == 404
        assert len(reply.body) == len(absent.body)
    for query in ("from=nobody", "from=other"):
        path = f"/v2/other/blobs/uploads/?mount={DIGEST}&{query}"
        assert (await client.call("POST", path, b"")).status == 202
    assert (await client.call("HEAD", f"/v2/other/blobs/{DIGEST}")).status == 404
    path = f"/v2/other/blobs/uploads/?mount={DIGEST}&from=owner"
    assert (await client.call("POST", path, b"")).status == 201
    assert (await client.call("GET", f"/v2/other/blobs/{DIGEST}")).body == BLOB


async def test_anonymous_mount_is_a_write_of_ones_own(client: Client) -> None:
    """A mount without `from` takes the blob from whoever has it: no repository is private here.

    It is still a push into one repository: no third one sees the blob.
    """
    await client.push_blob("owner", BLOB)
    path = f"/v2/other/blobs/uploads/?mount={DIGEST}"
    assert (await client.call("POST", path, b"")).status == 201
    assert (await client.call("HEAD", f"/v2/other/blobs/{DIGEST}")).status == 200
    assert (await client.call("HEAD", f"/v2/third/blobs/{DIGEST}")).status == 404


async def test_cve_2026_35172_deleted_stays_deleted(client: Client) -> None:
    """What was deleted in one repository does not come back because another has it."""
    await client.push_blob("a", BLOB)
    await client.push_blob("b", BLOB)
    assert (await client.call("DELETE", f"/v2/a/blobs/{DIGEST}")).status == 202
    for _ in range(2):
        assert (await client.call("GET", f"/v2/a/blobs/{DIGEST}")).status == 404
        assert (await client.call("GET", f"/v2/b/blobs/{DIGEST}")).body == BLOB
        await client.push_blob("c", BLOB)
    path = f"/v2/c/blobs/uploads/?mount={DIGEST}&from=a"
    assert (await client.call("POST", path, b"")).status == 202


async def test_cve_2021_41190_one_reading_of_a_manifest(client: Client) -> None:
    """What is pushed as one type is never served as another."""
    for content in (b"{}", BLOB):
        await client.push_blob("a", content)
    confused = json.loads(IMAGE.content) | {"manifests": []}
    for document, pushed_as in (
        (json.loads(IMAGE.content), media_types.OCI_INDEX),
        (json.loads(IMAGE.content), media_types.DOCKER_IMAGE),
        (confused, media_types.OCI_IMAGE),
        (confused, media_types.OCI_INDEX),
    ):
        body = json.dumps(document).encode()
        reply = await client.call("PUT", "/v2/a/manifests/v1", body, content_type=pushed_as)
        assert (reply.status, reply.code) == (400, "MANIFEST_INVALID")
    await client.push_manifest("a", "v1", IMAGE)
    reply = await client.call("GET", "/v2/a/manifests/v1", accept=media_types.OCI_INDEX)
    assert reply.headers["Content-Type"] == media_types.OCI_IMAGE
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_blob_is_no_manifest_and_a_manifest_no_blob(client: Client) -> None:
    """Bytes that were checked as one thing cannot be had as the other."""
    await client.push_blob("a", IMAGE.content)
    assert (await client.call("GET", f"/v2/a/manifests/{IMAGE.digest}")).status == 404
    empty = index()
    await client.push_manifest("a", "v1", empty)
    assert (await client.call("GET", f"/v2/a/blobs/{empty.digest}")).status == 404


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "sha256:" + "F" * 64, "md5:x"])
async def test_cve_2024_3727_digests_inside_manifests(digest: str, client: Client) -> None:
    """A digest in a manifest is checked like one in a path, under every field that has one."""
    for content in (b"{}", BLOB):
        await client.push_blob("a", content)
    bad = {"mediaType": media_types.OCI_IMAGE, "digest": digest, "size": 1}
    document = json.loads(IMAGE.content)
    for changed in ({"config": bad}, {"layers": [bad]}, {"subject": bad}):
        reply = await client.call(
            "PUT",
            "/v2/a/manifests/v1",
            json.dumps(document | changed).encode(),
            content_type=media_types.OCI_IMAGE,
        )
        assert (reply.status, reply.code) == (400, "MANIFEST_INVALID")


async def test_cve_2023_2253_catalog_of_a_billion(client: Client, store: MemoryStore) -> None:
    """However many entries are asked for, a page has an end."""
    for i in range(MAX_PAGE + 1):
        store.put_blob(f"r{i}", DIGEST, BLOB, None)
    for n in ("1000000000", "2147483648", "9" * 100):
        reply = await client.call("GET", f"/v2/_catalog?n={n}")
        assert len(reply.json["repositories"]) == MAX_PAGE
        assert "Link" in reply.headers


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
async def test_cve_2026_41888_no_verb_gets_around_read_only(
    method: str, store: MemoryStore
) -> None:
    """A listener that only reads refuses every other verb, on every path."""
    manifest = await push_image(store, "a", [b"{}", BLOB], ["v1"], stamp(1))
    upload = await store.create_upload("a")
    registry = Registry(store, store, LonePublisher(), Metrics(), read_only=True)
    async with (
        RegistryServer(registry.handle, "127.0.0.1", 0) as server,
        Client(server.address) as client,
    ):
        for path in (
            *("a/manifests/v1", f"a/manifests/{manifest.digest}", f"a/blobs/{DIGEST}"),
            *("a/blobs/uploads/", f"a/blobs/uploads/{upload}", "", "_catalog", "nothing"),
        ):
            reply = await client.call(method, f"/v2/{path}?digest={DIGEST}", BLOB)
            assert (reply.status, reply.code) == (405, "UNSUPPORTED"), path
    assert await store.resolve("a", "v1") == manifest.digest
    assert await store.upload_offset("a", upload) == 0


# Headers by which clients, proxies and frameworks have been talked into another path or host.
FORGED = (
    b"X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\n"
    b"Forwarded: host=evil.example;proto=https\r\nX-Original-URL: /v2/victim/manifests/v1\r\n"
    b"X-Rewrite-URL: /v2/victim/manifests/v1\r\nX-HTTP-Method-Override: DELETE\r\n"
)


@pytest.mark.parametrize("host", [b"evil.example", b"a/v2/victim/manifests/v1?", b"a@b:99999", b""])
async def test_cve_2026_48710_host_says_nothing(
    host: bytes, address: Address, store: MemoryStore
) -> None:
    """Neither `Host` nor what proxies add decides what a request is about, or where to go next."""
    manifest = await push_image(store, "victim", [b"{}", BLOB], ["v1"], stamp(1))
    headers = b"Host: " + host + b"\r\n" + FORGED
    begin = b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\n" + headers + b"Content-Length: 0\r\n\r\n"
    read = b"GET /v2/_catalog HTTP/1.1\r\n" + headers + b"\r\n"
    (begun, listed), _ = await exchange(address, begin + read)
    assert begun.headers["location"].startswith("/v2/a/blobs/uploads/")
    assert json.loads(listed.body) == {"repositories": ["victim"]}
    assert await store.resolve("victim", "v1") == manifest.digest


ADDRESSES = [
    *("169.254.169.254", "[::1]", "localhost:6443", "a@b", "2130706433", "127.1", "0x7f.1"),
    *("evil.example", "http://evil.example", "..%2f..", "docker.io%00", "docker.io"),
    *("[::ffff:a9fe:a9fe]", "[fe80::1%25eth0]", "0", "0177.0.0.1", "127.0.0.1:5000", "localhost."),
    *("registry.test@evil.example", "evil.example@registry.test", "registry.test:80@evil.example"),
    *("registry.test:443", "registry.test.", "registry.test%23.evil.example", "//registry.test"),
    *(
        "registry.test%0d%0aHost:%20evil",
        "registry.test%2f..%2f..",
        "registry.test&ns=evil.example",
    ),
    *("registry%E3%80%82test", "%EF%BC%92.test", "REGISTRY.TEST.EVIL", "metadata.google.internal"),
]


@pytest.mark.parametrize("namespace", ADDRESSES)
@pytest.mark.parametrize("form", ["/v2/{path}?ns={ns}", "/{ns}/v2/{path}", "/v2/{ns}/{path}"])
async def test_cve_2026_33540_ns_is_never_dialled(
    form: str, namespace: str, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ns` is a key, not an address: nothing is resolved, connected to, or answered otherwise."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    upstream = UpstreamConfig(name="registry.test", urls=("http://127.0.0.1:9",))
    async with UpstreamClient(upstream) as client, Background() as background:
        named, metrics = Named(), Metrics()
        source = UpstreamSource([client], store, named, background, metrics)
        tags = UpstreamTags(store, source, _Alone(), background, metrics)
        turns, off = _Alone(), ["docker.io"]
        mirror = Mirror(["registry.test"], off, store, store, source, tags, turns, named.learn)
        registry = Registry(store, store, LonePublisher(), metrics, mirror=mirror)
        async with (
            RegistryServer(registry.handle, "127.0.0.1", 0, drain_s=0) as server,
            Raw(server.address) as raw,
        ):
            dialled = _refuse_to_dial(monkeypatch)
            for path in (f"a/manifests/{DIGEST}", f"a/blobs/{DIGEST}", "a/manifests/v1"):
                target = form.format(path=path, ns=namespace)
                await raw.send(f"GET {target} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
                assert (await raw.answer()).status in (400, 404), target
            assert dialled == []
            target = form.format(path="a/manifests/v1", ns="registry.test")
            await raw.send(f"GET {target} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
            assert (await raw.answer()).status == 404
            assert dialled, "nothing is dialled at all: this test sees nothing"


class _Alone:
    """There is no other node."""

    def turn(self, repository: str, digest: Digest) -> AbstractAsyncContextManager[None]:
        """As `Turns.turn`."""
        return nullcontext()

    async def confirm(self, repository: str, tag: str, digest: Digest, voices: int) -> float | None:
        """As `Colleague.confirm`."""
        return None


async def test_cve_2020_15157_urls_of_layers_are_not_followed(
    address: Address, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that lives elsewhere is the client's to fetch."""
    document = json.loads(IMAGE.content)
    document["layers"] = [
        {
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "digest": str(DIGEST),
            "size": len(BLOB),
            "urls": ["http://169.254.169.254/latest/meta-data/"],
        }
    ]
    manifest = parse_manifest(json.dumps(document).encode())
    store.put_blob("a", Digest.of(b"{}"), b"{}", None)
    head = f"PUT /v2/a/manifests/v1 HTTP/1.1\r\nContent-Length: {len(manifest.content)}\r\n"
    async with Raw(address) as raw:
        dialled = _refuse_to_dial(monkeypatch)
        await raw.send(head.encode() + HOST + b"\r\n" + manifest.content)
        assert (await raw.answer()).status == 201
        await raw.send(f"GET /v2/a/blobs/{DIGEST} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
        assert (await raw.answer()).status == 404
    assert dialled == []


def _refuse_to_dial(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """From now on nothing leaves this process; what would have is in the list."""
    dialled: list[Any] = []

    def refuse(*target: Any, **more: Any) -> NoReturn:
        dialled.append((target, more))
        raise OSError("dialled")

    loop = asyncio.get_running_loop()
    for name in ("create_connection", "getaddrinfo", "sock_connect"):
        monkeypatch.setattr(loop, name, refuse)
    return dialled
