"""What containerd has by now is let go of, if the operator wants it so."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oci_mesh.containerd import handover as module
from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.containerd.handover import Handover
from oci_mesh.errors import BlobUnknown
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Store
from oci_mesh.store.disk import DiskStore
from tests.containerd.fake import PRIVATE, PUBLIC, FakeContainerd, followed
from tests.nodes import eventually
from tests.store.content import image, push_blob, read_blob, stamp

LAYER, OTHER = b"a layer", b"another layer"
DIGEST = Digest.of(LAYER)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """On a disk."""
    async with await DiskStore.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def containerd(tmp_path: Path) -> FakeContainerd:
    """It runs."""
    fake = FakeContainerd(tmp_path / "containerd")
    fake.start()
    return fake


async def has(store: Store, repository: str, digest: Digest = DIGEST) -> bool:
    """Whether a store has a blob."""
    try:
        await store.stat(repository, digest)
    except BlobUnknown:
        return False
    return True


async def test_mirrored_blobs_go_when_containerd_has_committed_them(
    store: Store, containerd: FakeContainerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those, and no others."""
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    for repository in (PUBLIC, PRIVATE):
        for content in (LAYER, OTHER):
            await push_blob(store, repository, content)
    containerd.commit(b"an earlier one")
    handover = Handover(store, ContainerdContent(containerd.root).directory)
    found = ContainerdContent(containerd.root, handover.committed)
    async with followed(found) as background:
        background.spawn(handover.run())
        await eventually("it is followed", lambda: found._following)
        containerd.commit(LAYER)
        for _ in range(1000):
            if not await has(store, PUBLIC):
                break
            await asyncio.sleep(0.02)
    assert not await has(store, PUBLIC)
    assert not await has(store, PRIVATE)
    assert await has(store, PUBLIC, Digest.of(OTHER))


async def test_what_is_not_to_go_stays(store: Store, containerd: FakeContainerd) -> None:
    """What was pushed here, what is being read, manifests; and what containerd has lost again."""
    handover = Handover(store, ContainerdContent(containerd.root).directory)
    manifest = image(LAYER)
    await store.put_manifest(PUBLIC, manifest)
    for content in (LAYER, OTHER, b"pushed", b"lost"):
        await push_blob(store, PUBLIC, content)
        handover.committed(containerd.commit(content))
    await push_blob(store, "own", b"pushed", stamp(1))
    handover.committed(containerd.commit(manifest.content))
    containerd.delete(Digest.of(b"lost"))
    async with await store.blob(PUBLIC, DIGEST):
        await handover.sweep()
    assert await has(store, PUBLIC)
    assert not await has(store, PUBLIC, Digest.of(OTHER))
    assert await has(store, "own", Digest.of(b"pushed"))
    assert await has(store, PUBLIC, Digest.of(b"lost"))
    assert await store.manifest(PUBLIC, manifest.digest) == manifest
    assert await read_blob(store, PUBLIC, DIGEST) == LAYER


async def test_what_waits_is_bounded(
    store: Store, containerd: FakeContainerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond, blobs stay in the cache."""
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    handover = Handover(store, ContainerdContent(containerd.root).directory)
    for content in (LAYER, OTHER):
        await push_blob(store, PUBLIC, content)
        handover.committed(containerd.commit(content))
    await handover.sweep()
    assert not await has(store, PUBLIC)
    assert await has(store, PUBLIC, Digest.of(OTHER))
