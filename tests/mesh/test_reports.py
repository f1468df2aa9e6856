"""What a node tells another of itself."""

import time
from pathlib import Path

import pytest

from oci_mesh import Node
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.transfer import Transfer
from oci_mesh.mesh.wire import Inquiry, Report
from oci_mesh.spec.manifest import parse_manifest
from oci_mesh.store.base import Resolution
from tests.images import IMAGE_MANIFEST, sha256
from tests.mesh.swarms import mesh_source, nodes
from tests.mesh.test_private import entitle
from tests.mesh.upstreams import PRIVATE, PUBLIC, Upstream, pull
from tests.nodes import eventually, make_image, noise

BLOB = noise(6_000_000, "reported")

pytestmark = pytest.mark.usefixtures("fast_gossip")


async def ask(node: Node) -> Report:
    """As node `x`."""
    async with PeerClient("x") as client:
        return await client.report(
            node.mesh_address, Inquiry("a nonce", images=True), node.id, 30.0
        )


@pytest.mark.parametrize(("repository", "told"), [(PUBLIC, 1), (PRIVATE, 0)])
async def test_what_is_on_its_way(tmp_path: Path, repository: str, told: int) -> None:
    """With its registry as who is asked; nothing at all if it is private."""
    upstream = Upstream(BLOB)
    async with nodes(tmp_path, "a") as (node,):
        upstream.serve(node)
        entitle(node)
        upstream.pauses_at["a"] = 3_000_000
        source = mesh_source(node)

        async def fetched() -> None:
            await pull(node, BLOB, repository)

        source._background.spawn(fetched())
        await eventually("it has begun", lambda: bool(source.fetches()))
        (fetch,) = source.fetches()
        await eventually("some is here", lambda: _some_of(fetch.transfer))
        report = await ask(node)
        upstream.go_on.set()
        await eventually("it is stored", lambda: not source.fetches())
    assert len(report.running) == told
    for running in report.running:
        assert (running.repository, running.digest) == (PUBLIC, sha256(BLOB))
        assert 0 < running.verified < running.size == len(BLOB)
        assert running.asked == [f"@{PUBLIC.partition('@')[2]}"]


async def test_private_images_are_told_of_to_nobody(tmp_path: Path) -> None:
    """Neither by tag nor by digest."""
    image = make_image("reported")
    async with nodes(tmp_path, "a") as (node,):
        for repository in (PUBLIC, PRIVATE):
            manifest = parse_manifest(image.manifest, IMAGE_MANIFEST)
            await node.store.put_manifest(repository, manifest)
            alone = (await ask(node)).images
            assert [each.repository for each in alone] == [PUBLIC]
            resolution = Resolution(manifest.digest, time.time())
            await node.store.note_resolution(repository, "v1", resolution)
            tagged = (await ask(node)).images
            assert [(each.repository, each.tags) for each in tagged] == [(PUBLIC, ["v1"])]


def _some_of(transfer: Transfer | None) -> bool:
    return transfer is not None and transfer.assembly.verified > 0
