"""Scrub: damage is found, served no more, and mended where somebody has the content."""

import asyncio
import errno
import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_mesh import Digest, Node
from oci_mesh.control import upkeep
from oci_mesh.control.upkeep import Finding, ScrubRequest
from oci_mesh.errors import OperationFailed, StorageFull
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.wire import Lookup
from oci_mesh.operations import scrub as scrub_module
from oci_mesh.operations.scrub import _Pace
from oci_mesh.store import inspection
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.tasks import loop_time
from tests import images
from tests.mesh.conftest import client, fast_gossip
from tests.nodes import Client, eventually, make_image, meet, metric, noise, running
from tests.operations.asking import documents, scrub

__all__ = ["client", "fast_gossip"]  # fixtures

pytestmark = pytest.mark.usefixtures("fast_gossip")

APP = make_image("app", 300_000)
LAYER = APP.blobs[1]
MIRRORED = "app@docker.io"


def file_of(node: Node, content: bytes) -> Path:
    """Where a node has a blob, or a manifest."""
    return node.config.root / "blobs" / "sha256" / Digest.of(content).hex


def flip(path: Path) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Half of it is gone."""
    os.truncate(path, path.stat().st_size // 2)


HARMS: list[Callable[[Path], None]] = [flip, cut, Path.unlink]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("content", [APP.manifest, *APP.blobs], ids=["manifest", "config", "layer"])
async def test_damage_is_mended_from_another_node(
    harm: Callable[[Path], None], content: bytes, tmp_path: Path, client: Client
) -> None:
    """In all repositories that had it; what was damaged is put aside."""
    async with (
        running(tmp_path, "a", copies=2) as a,
        running(tmp_path, "b", a.mesh_address) as b,
    ):
        await meet(a, b)
        await client.push(a, "app", APP)
        await client.push(a, "team/app", APP)
        harm(file_of(a, content))
        result = await scrub(a)
        assert result.contents == 3
        (found,) = result.findings
        assert (found.outcome, found.source) == ("mended", "b")
        assert (found.digest, found.size) == (images.sha256(content), len(content))
        assert found.repositories == ["app", "team/app"]
        assert found.is_manifest == (content is APP.manifest)
        assert found.reason
        assert file_of(a, content).read_bytes() == content
        for repository in found.repositories:  # here, not just to be had
            digests = [Digest.of(APP.manifest), *map(Digest.of, APP.blobs)]
            assert await a.store.whole(repository, digests) == digests
        assert await client.has(a, "app", APP)
        assert await client.has(a, "team/app", APP)
        aside = tmp_path / "a" / "quarantine" / f"sha256-{Digest.of(content).hex}"
        assert aside.read_bytes() != content
        assert (await scrub(a)).findings == []
        assert metric(a, "oci_mesh_corrupt_contents_total") == 1
        assert metric(a, "oci_mesh_mended_contents_total") == 1
        assert metric(a, "oci_mesh_scrubbed_bytes_total") > len(LAYER)
        assert (await scrub(b)).findings == []


@pytest.mark.parametrize("harm", HARMS)
async def test_what_nobody_has_is_lost_and_can_be_pushed_again(
    harm: Callable[[Path], None], tmp_path: Path, client: Client
) -> None:
    """It is said who should; and from then on it is not there, instead of wrong."""
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", APP)
        harm(file_of(a, LAYER))
        (found,) = (await scrub(a)).findings
        assert found.outcome == "lost"
        assert "push" in found.advice
        assert "app" in found.advice
        assert (await client.blob(a, "app", LAYER)).status == 404
        assert (await client.manifest(a, "app", "latest")).status == 200
        assert (await scrub(a)).findings == []
        await client.push(a, "app", APP)
        assert await client.has(a, "app", APP)


async def test_cache_is_dropped(tmp_path: Path, client: Client) -> None:
    """It comes again when somebody wants it."""
    async with running(tmp_path, "a", public_registries=False) as a:
        upload = await a.store.create_upload(MIRRORED)
        async with a.store.upload(MIRRORED, upload) as open_upload:
            await open_upload.write(LAYER)
            await open_upload.commit(Digest.of(LAYER))
        flip(file_of(a, LAYER))
        (found,) = (await scrub(a)).findings
        assert found.outcome == "dropped"
        assert found.repositories == [MIRRORED]
        assert (await a.store.usage()).blobs == 0


async def test_what_others_have_is_not_lost(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it cannot be had now; who asks for it gets it."""

    async def full(source: object, repository: str, digest: Digest) -> None:
        raise StorageFull("no room")

    async with (
        running(tmp_path, "a", copies=2) as a,
        running(tmp_path, "b", a.mesh_address) as b,
    ):
        await meet(a, b)
        await client.push(a, "app", APP)
        flip(file_of(a, LAYER))
        monkeypatch.setattr(scrub_module, "bring", full)
        (found,) = (await scrub(a)).findings
        assert (found.outcome, found.source) == ("dropped", "b")
        assert "no room" in found.advice
        assert await client.has(a, "app", APP)


async def test_a_disk_that_gives_nothing(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO in the middle of a file."""
    step = inspection.hash_step
    failing: list[str] = []

    def fails(fd: int, hasher: object) -> int:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not failing and path.endswith(Digest.of(LAYER).hex):
            failing.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return step(fd, hasher)  # type: ignore[arg-type]

    monkeypatch.setattr(inspection, "hash_step", fails)
    async with (
        running(tmp_path, "a", copies=2) as a,
        running(tmp_path, "b", a.mesh_address) as b,
    ):
        await meet(a, b)
        await client.push(a, "app", APP)
        (found,) = (await scrub(a)).findings
        assert found.outcome == "mended"
        assert os.strerror(errno.EIO) in found.reason
        assert await client.has(a, "app", APP)


async def test_findings_are_told_as_they_are_found(tmp_path: Path, client: Client) -> None:
    """And how far it is."""
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", APP)
        flip(file_of(a, LAYER))
        said = await documents(a, upkeep.SCRUB, ScrubRequest(), upkeep.ScrubDocument)
        assert any(isinstance(document, Finding) for document in said[:-1])
        assert isinstance(said[0], upkeep.Progress)
        assert said[0].total == (await a.store.usage()).bytes + len(LAYER)


async def test_beside_readers_and_evictions(tmp_path: Path, client: Client) -> None:
    """What is let go of, or comes anew, meanwhile is no damage; readers get exact bytes or 404."""
    contents = [noise(50_000, str(number)) for number in range(20)]
    async with running(tmp_path, "a") as a:
        done = asyncio.Event()
        chance = random.Random(5)

        async def push(content: bytes) -> None:
            upload = await a.store.create_upload(MIRRORED)
            async with a.store.upload(MIRRORED, upload) as open_upload:
                await open_upload.write(content)
                await open_upload.commit(Digest.of(content))

        async def churn() -> None:
            while not done.is_set():
                await push(chance.choice(contents))
                await a.store.evict((await a.store.coldest(100))[: chance.randrange(3)])

        async with asyncio.TaskGroup() as group:
            group.create_task(churn())
            for _ in range(30):
                assert (await scrub(a)).findings == []
            done.set()


async def test_a_reader_of_what_is_damaged_reads_on(tmp_path: Path, client: Client) -> None:
    """It has the file open; the next one does not get it."""
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", APP)
        async with await a.store.blob("app", Digest.of(LAYER)) as blob:
            flip(file_of(a, LAYER))
            assert len((await scrub(a)).findings) == 1
            read = b"".join([chunk async for chunk in blob.chunks(0, blob.size)])
            assert len(read) == len(LAYER)
        assert (await client.blob(a, "app", LAYER)).status == 404


async def test_one_at_a_time(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would read everything twice."""
    going, go_on = asyncio.Event(), asyncio.Event()

    async def waits(self: _Pace, count: int) -> None:
        going.set()
        await go_on.wait()

    async with running(tmp_path, "a") as a:
        await client.push(a, "app", APP)
        monkeypatch.setattr(_Pace, "__call__", waits)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(scrub(a))
            await going.wait()
            with pytest.raises(OperationFailed, match="already"):
                await scrub(a)
            go_on.set()
            assert (await first).findings == []
        assert (await scrub(a)).findings == []


async def test_the_rate() -> None:
    """A hundred bytes at a thousand a second take a tenth; the first second is not ahead of it."""
    pace = _Pace(1000)
    began_s = loop_time()
    for _ in range(30):
        await pace(10)
    assert loop_time() - began_s >= 0.25
    assert pace.bytes == 300


async def test_a_wrong_list_of_pieces_is_forgotten(tmp_path: Path, client: Client) -> None:
    """It was made while the blob was damaged: by it no other node would take the right bytes."""
    digest = Digest.of(LAYER)
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        await client.push(a, "app", APP)
        flip(file_of(a, LAYER))
        async with PeerClient("b") as peer:
            asked = Lookup("app", str(digest))
            wrong = await peer.statement(a.mesh_address, asked)
            await scrub(a)
            await client.push(a, "app", APP)
            mended = await peer.statement(a.mesh_address, asked)
        assert wrong is not None
        assert mended is not None
        assert mended.hashes == pieces_of(LAYER) != wrong.hashes
        assert (await client.blob(b, "app", LAYER)).body == LAYER


def pieces_of(content: bytes) -> bytes:
    """The hashes of a blob's pieces."""
    pieces = PieceMap(len(content))
    spans = (pieces.span(piece) for piece in range(pieces.count))
    return b"".join(hashlib.sha256(content[start:stop]).digest() for start, stop in spans)


async def test_a_node_scrubs_by_itself(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a week, also if it is started anew each day."""
    monkeypatch.setattr(scrub_module, "_LOOK_S", 0.01)
    mark = tmp_path / "a" / "scrubbed"
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", APP)
        await eventually("its first week has begun", mark.exists)
        flip(file_of(a, LAYER))
        await asyncio.sleep(0.1)
        assert metric(a, "oci_mesh_corrupt_contents_total") == 0
    week_ago = time.time() - scrub_module.EVERY_S - 1
    os.utime(mark, (week_ago, week_ago))
    async with running(tmp_path, "a") as a:
        await eventually("it is found", lambda: metric(a, "oci_mesh_corrupt_contents_total") == 1)
        await eventually("it is noted", lambda: mark.stat().st_mtime > week_ago + 1000)
    os.utime(mark, (week_ago, week_ago))
    async with running(tmp_path, "a", scrub_rate=0) as a:
        flip(file_of(a, APP.blobs[0]))
        await asyncio.sleep(0.1)
        assert metric(a, "oci_mesh_corrupt_contents_total") == 0
