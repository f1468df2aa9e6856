"""A pull at any node of what any node has."""

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.errors import StorageFull
from oci_mesh.spec.digest import Digest
from tests import images
from tests.mesh.fake_peer import (
    FakePeer,
    Sending,
    asking_order,
    failing,
    flipped,
    forgetful,
    holding,
    longer,
    redirecting,
    shorter,
    whole,
)
from tests.nodes import Client, eventually, make_image, meet, metric, running, stop

IMAGE = make_image("an image")
CONFIG, LAYER = IMAGE.blobs


async def test_what_one_node_has_can_be_pulled_at_all(tmp_path: Path, client: Client) -> None:
    """By tag and by digest, manifest and blobs, byte for byte, at nodes that had nothing."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address) as c,
    ):
        await meet(a, b, c)
        await client.push(a, "team/app", IMAGE, "v1")
        for node in (a, b, c):
            assert await client.has(node, "team/app", IMAGE, "v1")
            by_digest = await client.manifest(node, "team/app", IMAGE.digest)
            assert by_digest.body == IMAGE.manifest
            assert by_digest.headers["Content-Type"] == images.IMAGE_MANIFEST
            assert by_digest.headers["Docker-Content-Digest"] == IMAGE.digest
            tags = await client.request("GET", node, "/v2/team/app/tags/list")
            assert json.loads(tags.body) == {"name": "team/app", "tags": ["v1"]}


async def test_what_was_pulled_stays(tmp_path: Path, client: Client) -> None:
    """The node that it came from may go."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await client.push(a, "app", IMAGE)
        assert await client.has(b, "app", IMAGE)
        await stop(a)
        assert await client.has(b, "app", IMAGE)


async def test_head_moves_no_bytes_between_nodes(tmp_path: Path, client: Client) -> None:
    """It says what GET would say."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await client.push(a, "app", IMAGE)
        path = f"/v2/app/blobs/{images.sha256(LAYER)}"
        head = await client.request("HEAD", b, path)
        assert head.status == 200
        assert head.headers["Content-Length"] == str(len(LAYER))
        assert head.headers["Docker-Content-Digest"] == images.sha256(LAYER)
        assert metric(a, "oci_mesh_peer_sent_bytes_total") == 0
        assert metric(b, "oci_mesh_peer_received_bytes_total") == 0
        await client.request("GET", b, path)
        assert metric(b, "oci_mesh_peer_received_bytes_total", peer="a") == len(LAYER)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=10-19", 10, 20), ("bytes=99000-", 99000, 100_000), ("bytes=-5", 99995, 100_000)],
)
async def test_a_range_is_served_of_what_is_elsewhere(
    asked: str, start: int, stop: int, tmp_path: Path, client: Client
) -> None:
    """Clients resume at any node."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await client.push(a, "app", IMAGE)
        part = await client.blob(b, "app", LAYER, Range=asked)
        assert part.status == 206
        assert part.body == LAYER[start:stop]
        assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(LAYER)}"


async def test_empty_blobs_and_sha512_come_too(tmp_path: Path, client: Client) -> None:
    """The edges of what a blob can be."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await client.push_blob(a, "app", b"")
        empty = await client.blob(b, "app", b"")
        assert (empty.status, empty.body) == (200, b"")
        digest = str(Digest.of(LAYER, "sha512"))
        path = f"/v2/app/blobs/uploads/?digest={digest}"
        await client.request("POST", a, path, LAYER, Content_Type="application/octet-stream")
        assert (await client.request("GET", b, f"/v2/app/blobs/{digest}")).body == LAYER


async def test_what_nobody_has_is_not_found(tmp_path: Path, client: Client) -> None:
    """404, in the OCI form: clients then go elsewhere."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address):
        blob = await client.blob(a, "app", LAYER)
        assert blob.status == 404
        assert json.loads(blob.body)["errors"][0]["code"] == "BLOB_UNKNOWN"
        manifest = await client.manifest(a, "app", IMAGE.digest)
        assert manifest.status == 404
        assert json.loads(manifest.body)["errors"][0]["code"] == "MANIFEST_UNKNOWN"


async def test_content_is_of_its_repository(tmp_path: Path, client: Client) -> None:
    """What another repository has, elsewhere too, is not there (CVE-2024-39897)."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await client.push(a, "private", IMAGE)
        assert (await client.blob(b, "public", LAYER)).status == 404
        assert (await client.manifest(b, "public", IMAGE.digest)).status == 404


async def test_a_manifest_can_name_blobs_that_only_another_node_has(
    tmp_path: Path, client: Client
) -> None:
    """A client does not push what HEAD says is there; the manifest's PUT fetches it."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        for content in IMAGE.blobs:
            await client.push_blob(a, "app", content)
            path = f"/v2/app/blobs/{images.sha256(content)}"
            assert (await client.request("HEAD", b, path)).status == 200
        assert (await client.put(b, "app", "v1", IMAGE.manifest)).status == 201
        await stop(a)
        assert await client.has(b, "app", IMAGE, "v1")


async def test_concurrent_pulls_of_a_manifest_ask_others_once(
    tmp_path: Path, client: Client
) -> None:
    """Twenty clients, one transfer."""
    async with (
        FakePeer("fake", holding(IMAGE.manifest)) as fake,
        running(tmp_path, "a") as a,
    ):
        await fake.join(a)
        async with asyncio.TaskGroup() as group:
            pulls = [group.create_task(client.manifest(a, "app", IMAGE.digest)) for _ in range(20)]
        assert {pull.result().body for pull in pulls} == {IMAGE.manifest}
        assert fake.count("GET") == 1


async def swapped(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """Another manifest, with which nothing else is wrong."""
    return await whole(request, make_image("another image").manifest)


@pytest.mark.parametrize("sending", [flipped, shorter, longer, swapped])
async def test_a_wrong_manifest_is_never_served_and_its_giver_is_banned(
    sending: Sending, tmp_path: Path, client: Client
) -> None:
    """An honest node has it as well, and is asked second."""
    first, second = asking_order(IMAGE.digest, "p", "q")
    async with (
        FakePeer(first, holding(IMAGE.manifest, LAYER, sending=sending)) as liar,
        FakePeer(second, holding(IMAGE.manifest, sending=whole)) as honest,
        running(tmp_path, "a") as a,
    ):
        await liar.join(a)
        await honest.join(a)
        answer = await client.manifest(a, "app", IMAGE.digest)
        assert (answer.status, answer.body) == (200, IMAGE.manifest)
        assert metric(a, "oci_mesh_peer_faults_total", peer=first, fault="corrupt") == 1
        assert metric(a, "oci_mesh_peer_faults_total", peer=second) == 0
        liar.asked.clear()
        assert (await client.blob(a, "app", LAYER)).status == 404
        assert liar.asked == [], "a liar is asked for nothing more"


@pytest.mark.parametrize("sending", [flipped, swapped, forgetful, failing, redirecting])
async def test_a_manifest_that_only_liars_have_is_not_found(
    sending: Sending, tmp_path: Path, client: Client
) -> None:
    """And no manifest at all would have been better than a wrong one."""
    async with (
        FakePeer("p", holding(IMAGE.manifest, sending=sending)) as p,
        FakePeer("q", holding(IMAGE.manifest, sending=sending)) as q,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        await q.join(a)
        assert (await client.manifest(a, "app", IMAGE.digest)).status == 404
        assert p.count("GET") == q.count("GET") == 1


async def test_a_manifest_under_a_wrong_media_type_is_refused(
    tmp_path: Path, client: Client
) -> None:
    """The bytes are right, but a client would read them as something else."""

    async def as_index(request: web.BaseRequest, content: bytes) -> web.StreamResponse:
        return web.Response(body=content, content_type=images.IMAGE_INDEX)

    async with (
        FakePeer("p", holding(IMAGE.manifest, sending=as_index)) as p,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)
        assert (await client.manifest(a, "app", IMAGE.digest)).status == 404


async def test_a_full_disk_here_is_not_blamed_on_who_gave(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An honest giver is not banned for it, and is asked again when there is room."""
    async with (
        FakePeer("p", holding(IMAGE.manifest)) as p,
        running(tmp_path, "a") as a,
    ):
        await p.join(a)

        async def full(*_: object) -> None:
            raise StorageFull("no room")

        with monkeypatch.context() as patch:
            patch.setattr(a.store, "put_manifest", full)
            assert (await client.manifest(a, "app", IMAGE.digest)).status == 507
        assert metric(a, "oci_mesh_peer_faults_total") == 0
        assert (await client.manifest(a, "app", IMAGE.digest)).body == IMAGE.manifest


# -- referrers


def _referrer(name: str) -> bytes:
    return make_image(
        name,
        artifactType=f"application/{name}",
        subject=images.descriptor(images.IMAGE_MANIFEST, IMAGE.manifest),
    ).manifest


async def _referrers(client: Client, node: Node, query: str = "") -> set[str]:
    path = f"/v2/app/referrers/{IMAGE.digest}{query}"
    answer = await client.request("GET", node, path)
    assert answer.status == 200
    return {entry["digest"] for entry in json.loads(answer.body)["manifests"]}


async def test_referrers_of_all_nodes_are_one_list_without_the_deleted(
    tmp_path: Path, client: Client
) -> None:
    """Each pushed to another node; asked for at any."""
    settings = {"sparse": "allow"}
    async with (
        running(tmp_path, "a", **settings) as a,
        running(tmp_path, "b", a.mesh_address, **settings) as b,
        running(tmp_path, "c", a.mesh_address, **settings) as c,
    ):
        await meet(a, b, c)
        signature, bill = _referrer("signature"), _referrer("bill")
        await client.put(a, "app", "latest", IMAGE.manifest)
        await client.put(b, "app", images.sha256(signature), signature)
        await client.put(c, "app", images.sha256(bill), bill)
        both = {images.sha256(signature), images.sha256(bill)}
        for node in (a, b, c):
            assert await _referrers(client, node) == both
            only = await _referrers(client, node, "?artifactType=application/bill")
            assert only == {images.sha256(bill)}
        await client.delete(a, f"/v2/app/manifests/{images.sha256(bill)}")
        for node in (a, b, c):
            assert await _referrers(client, node) == {images.sha256(signature)}


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"nonsense",
        b"\xff",
        b'{"manifests": 7}',
        b'{"manifests": [{"mediaType": "a/b", "digest": "../../etc", "size": 1}]}',
        b'{"manifests": [{"mediaType": "a/b", "digest": "sha256:00", "size": -1}]}',
        b'{"manifests": ' + b"[" * 100_000,
        b'{"manifests": [' + b" " * 5_000_000 + b"]}",
    ],
    ids=lambda sent: repr(sent[:30]),
)
async def test_a_peer_that_sends_no_list_of_referrers_is_left_out(
    sent: bytes, tmp_path: Path, client: Client
) -> None:
    """The others' lists still count."""

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=sent)

    async with FakePeer("p", serve) as p, running(tmp_path, "a", sparse="allow") as a:
        await p.join(a)
        signature = _referrer("signature")
        await client.put(a, "app", images.sha256(signature), signature)
        assert await _referrers(client, a) == {images.sha256(signature)}
        assert metric(a, "oci_mesh_peer_faults_total", peer="p") == 1


async def test_a_node_that_was_restarted_gives_what_it_had(tmp_path: Path, client: Client) -> None:
    """Its content is on its disk, and others find it at its new address."""
    async with running(tmp_path, "b") as b:
        async with running(tmp_path, "a", b.mesh_address) as a:
            await client.push(a, "app", IMAGE)
        await eventually("b knows that a left", lambda: not b.members())
        assert (await client.blob(b, "app", LAYER)).status == 404
        async with running(tmp_path, "a", b.mesh_address) as a:
            await meet(a, b)
            assert await client.has(b, "app", IMAGE)
