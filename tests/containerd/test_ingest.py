"""A download of containerd is read while it grows, through its commit, and beyond its deletion."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from oci_mesh.containerd import ingest as module
from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.containerd.ingest import IngestOrigin, IngestOrigins
from oci_mesh.errors import UpstreamError
from oci_mesh.sources import Origin, Origins
from oci_mesh.spec.digest import Digest
from tests.containerd.fake import PRIVATE, PUBLIC, FakeContainerd, followed, known
from tests.nodes import MIB, eventually, make_image

IMAGE = make_image("ingest", 5 * MIB + 123)
CONTENT = IMAGE.blobs[1]
LAYER = Digest.of(CONTENT)


@pytest.fixture
def containerd(tmp_path: Path) -> FakeContainerd:
    """Which has the manifest, and nothing else."""
    fake = FakeContainerd(tmp_path / "containerd")
    fake.start()
    fake.commit(IMAGE.manifest)
    return fake


@pytest.fixture
async def origin(containerd: FakeContainerd) -> AsyncIterator[IngestOrigin]:
    """Of the image's layer."""
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await known(content, LAYER)
        origin = await IngestOrigins(content).origin(PRIVATE, LAYER)
        assert origin is not None
        yield origin


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what never comes."""
    monkeypatch.setattr(module, "APPEAR_S", 0.3)
    monkeypatch.setattr(module, "GROW_S", 0.3)


class Reader:
    """What has been read so far, by a task of its own."""

    def __init__(self, group: asyncio.TaskGroup, origin: Origin, start: int, stop: int) -> None:
        self.got = b""
        self._task = group.create_task(self._read(origin, start, stop))

    async def _read(self, origin: Origin, start: int, stop: int) -> None:
        async with aclosing(origin.read(start, stop)) as chunks:
            async for chunk in chunks:
                assert chunk
                self.got += chunk

    async def has(self, expected: bytes) -> None:
        """Wait until just this has been read."""
        await eventually(
            f"{len(expected)} bytes are read",
            lambda: len(self.got) >= len(expected) or self._task.done(),
        )
        assert self.got == expected

    def stop(self) -> None:
        """Give up."""
        self._task.cancel()

    async def ended(self, expected: bytes) -> None:
        """Wait for its end."""
        await self._task
        assert self.got == expected


async def test_origin_says_what_it_is(origin: IngestOrigin, containerd: FakeContainerd) -> None:
    """The size is the manifest's: nothing has begun yet."""
    assert (origin.size, origin.striped, origin.follows_client) == (len(CONTENT), False, True)
    origins: Origins = IngestOrigins(ContainerdContent(containerd.root))
    assert await origins.origin(PRIVATE, LAYER) is None  # does not follow containerd


async def test_no_origin_without_a_right(containerd: FakeContainerd) -> None:
    """For another blob, or in a public repository or one of the mesh, whatever is downloaded."""
    content = ContainerdContent(containerd.root)
    containerd.begin(LAYER).write(CONTENT)
    other = Digest.of(b"other")
    containerd.begin(other).write(b"other")
    async with followed(content):
        await known(content, LAYER)
        origins = IngestOrigins(content)
        assert await origins.origin(PRIVATE, LAYER) is not None
        assert await origins.origin(PRIVATE, other) is None
        assert await origins.origin(PUBLIC, LAYER) is None
        assert await origins.origin("team/app", LAYER) is None


async def test_download_is_read_as_it_grows_and_through_its_commit(
    origin: IngestOrigin, containerd: FakeContainerd
) -> None:
    """Begun by the reader before the download is; each part comes before the next is written."""
    async with asyncio.TaskGroup() as group:
        reader = Reader(group, origin, 0, origin.size)
        await asyncio.sleep(3 * module.POLL_S)
        download = containerd.begin(LAYER)
        for end in (MIB, 2 * MIB, 4 * MIB):
            download.write(CONTENT[len(reader.got) : end])
            await reader.has(CONTENT[:end])
        download.write(CONTENT[4 * MIB :])
        download.commit()
        await reader.ended(CONTENT)


async def test_part_is_read_from_the_middle(
    origin: IngestOrigin, containerd: FakeContainerd
) -> None:
    """Also of what has not been written when it is asked for; not a byte too much."""
    download = containerd.begin(LAYER)
    download.write(CONTENT[:MIB])
    async with asyncio.TaskGroup() as group:
        reader = Reader(group, origin, MIB - 5, 2 * MIB + 7)
        await reader.has(CONTENT[MIB - 5 : MIB])
        download.write(CONTENT[MIB : 3 * MIB])
        await reader.ended(CONTENT[MIB - 5 : 2 * MIB + 7])


async def test_committed_blob_is_read_at_once(
    origin: IngestOrigin, containerd: FakeContainerd
) -> None:
    """Another download of it, left over, is not preferred."""
    containerd.begin(LAYER, namespace="moby").write(b"x")
    containerd.commit(CONTENT)
    async with asyncio.TaskGroup() as group:
        await Reader(group, origin, 10, origin.size).ended(CONTENT[10:])


async def test_blob_committed_and_deleted_while_it_is_read(
    origin: IngestOrigin, containerd: FakeContainerd
) -> None:
    """containerds that discard their layers: the file in hand has all of it."""
    download = containerd.begin(LAYER)
    download.write(CONTENT[:MIB])
    async with aclosing(origin.read(0, origin.size)) as chunks:
        got = await anext(chunks)
        download.write(CONTENT[MIB:])
        download.commit()
        containerd.delete(LAYER)
        async for chunk in chunks:
            got += chunk
    assert got == CONTENT


async def test_download_begun_anew(origin: IngestOrigin, containerd: FakeContainerd) -> None:
    """Given up and begun again in another directory; then emptied: it goes on where it was."""
    download = containerd.begin(LAYER)
    download.write(CONTENT[:MIB])
    async with asyncio.TaskGroup() as group:
        reader = Reader(group, origin, 0, origin.size)
        await reader.has(CONTENT[:MIB])
        download.abort()
        await asyncio.sleep(3 * module.POLL_S)
        download = containerd.begin(LAYER)
        download.write(CONTENT[: 2 * MIB])
        await reader.has(CONTENT[: 2 * MIB])
        download.reset()
        await asyncio.sleep(3 * module.POLL_S)
        download.write(CONTENT[: 3 * MIB])
        await reader.has(CONTENT[: 3 * MIB])
        download.write(CONTENT[3 * MIB :])
        await reader.ended(CONTENT)


async def test_left_over_download_does_not_hide_the_one_that_goes_on(
    origin: IngestOrigin, containerd: FakeContainerd
) -> None:
    """It is longer at first, but nobody writes to it."""
    containerd.begin(LAYER, namespace="moby").write(CONTENT[:MIB])
    download = containerd.begin(LAYER)
    async with asyncio.TaskGroup() as group:
        reader = Reader(group, origin, 0, origin.size)
        await reader.has(CONTENT[:MIB])
        download.write(CONTENT)
        await reader.ended(CONTENT)


@pytest.mark.usefixtures("impatient")
async def test_download_that_never_begins(origin: IngestOrigin) -> None:
    """The client does not come from this containerd, say."""
    with pytest.raises(UpstreamError, match="has no download of"):
        await anext(origin.read(0, origin.size))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["stalls", "aborted"])
async def test_download_that_ends_early(
    origin: IngestOrigin, containerd: FakeContainerd, how: str
) -> None:
    """What has come is given; then it is said that no more will."""
    download = containerd.begin(LAYER)
    download.write(CONTENT[:MIB])
    if how == "aborted":
        asyncio.get_running_loop().call_later(0.1, download.abort)
    chunks = origin.read(0, origin.size)
    assert await anext(chunks) == CONTENT[:MIB]
    with pytest.raises(UpstreamError, match=f"does not go on .* at byte {MIB}"):
        await anext(chunks)


async def test_slow_download_is_waited_for(
    origin: IngestOrigin, containerd: FakeContainerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it goes on, also where what it has is not yet what was asked for."""
    monkeypatch.setattr(module, "APPEAR_S", 0.5)
    monkeypatch.setattr(module, "GROW_S", 0.5)
    download = containerd.begin(LAYER)
    async with asyncio.TaskGroup() as group:
        reader = Reader(group, origin, MIB, 2 * MIB)
        for start in range(0, MIB, MIB // 10):
            await asyncio.sleep(0.1)
            download.write(CONTENT[start : min(start + MIB // 10, MIB)])
            assert not reader.got
        await asyncio.sleep(0.3)
        download.write(CONTENT[MIB:])
        await reader.ended(CONTENT[MIB : 2 * MIB])


async def test_slow_reader_costs_no_patience(
    origin: IngestOrigin, containerd: FakeContainerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that somebody takes with a chunk is his own."""
    monkeypatch.setattr(module, "GROW_S", 0.2)
    download = containerd.begin(LAYER)
    download.write(CONTENT[:MIB])
    async with aclosing(origin.read(0, origin.size)) as chunks:
        assert await anext(chunks) == CONTENT[:MIB]
        await asyncio.sleep(2 * module.GROW_S)
        asyncio.get_running_loop().call_later(0.05, download.write, CONTENT[MIB:])
        assert await anext(chunks) == CONTENT[MIB : 2 * MIB]


async def test_nothing_stays_open(origin: IngestOrigin, containerd: FakeContainerd) -> None:
    """Read to the end, closed on the way, or given up while there was nothing to read."""
    before = set(os.listdir("/proc/self/fd"))
    download = containerd.begin(LAYER)
    download.write(CONTENT[:MIB])
    async with asyncio.TaskGroup() as group:
        reader = Reader(group, origin, 0, origin.size)
        await reader.has(CONTENT[:MIB])
        await asyncio.sleep(5 * module.POLL_S)
        reader.stop()
    assert set(os.listdir("/proc/self/fd")) <= before
    download.write(CONTENT[MIB:])
    containerd.begin(LAYER, namespace="moby").write(CONTENT[:100])
    async for _ in origin.read(0, origin.size):
        pass
    async with aclosing(origin.read(0, origin.size)) as chunks:
        await anext(chunks)
    assert set(os.listdir("/proc/self/fd")) <= before


async def test_hundreds_of_leftovers_are_read_once(
    origin: IngestOrigin, containerd: FakeContainerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broken downloads left is not opened again with each look at whether ours has begun."""
    for number in range(300):
        containerd.begin(Digest.of(b"%d" % number))
    opened = []
    target = origin.directory._target

    def counting(name: str) -> Digest | None:
        opened.append(name)
        return target(name)

    monkeypatch.setattr(origin.directory, "_target", counting)
    async with asyncio.TaskGroup() as group:
        reader = Reader(group, origin, 0, MIB)
        await asyncio.sleep(10 * module.POLL_S)
        containerd.begin(LAYER).write(CONTENT[:MIB])
        await reader.ended(CONTENT[:MIB])
    assert len(opened) == 301
