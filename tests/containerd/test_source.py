"""containerd's blobs are given to who has a right to them, and only as what their names say."""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oci_mesh.containerd import source as module
from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.containerd.source import ContainerdSource
from oci_mesh.errors import BlobUnknown, ManifestUnknown
from oci_mesh.sources import Source
from oci_mesh.spec.digest import Digest
from tests.containerd.fake import PRIVATE, PUBLIC, FakeContainerd, followed, known
from tests.nodes import DEADLINE_S, eventually, make_image

IMAGE = make_image("source", 3_000_000)
MANIFEST = Digest.of(IMAGE.manifest)
CONTENT = IMAGE.blobs[1]
LAYER = Digest.of(CONTENT)
OTHER = Digest.of(b"other")


class Rig:
    """A source of a containerd that has an image, and `other`, which no manifest here names."""

    def __init__(
        self,
        containerd: FakeContainerd,
        source: ContainerdSource,
        public: set[tuple[str, Digest]],
    ) -> None:
        self.containerd = containerd
        self.source = source
        self.path = containerd.path(LAYER)
        self.public = public


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Running."""
    containerd = FakeContainerd(tmp_path / "containerd")
    containerd.pull(IMAGE)
    containerd.commit(b"other")

    public: set[tuple[str, Digest]] = set()

    async def is_public(repository: str, digest: Digest) -> bool:
        return (repository, digest) in public

    content = ContainerdContent(containerd.root)
    async with followed(content) as background:
        await known(content, LAYER)
        yield Rig(containerd, ContainerdSource(content, background, is_public), public)


async def read(source: Source, repository: str, digest: Digest) -> bytes:
    """All of a blob."""
    async with await source.blob(repository, digest) as blob:
        return b"".join([chunk async for chunk in blob.chunks(0, blob.size)])


async def is_unknown(source: Source, repository: str, digest: Digest) -> bool:
    """Whether it is denied by both ways to ask, in the same words as what nobody has."""
    said = set()
    for asked in (digest, Digest.of(b"nothing has this digest")):
        for ask in (source.stat, source.blob):
            with pytest.raises(BlobUnknown) as refusal:
                await ask(repository, asked)
            said.add(refusal.value.message.replace(str(asked), "DIGEST"))
    return said == {f"DIGEST is not in {repository}"}


async def test_named_blob_is_given_in_a_private_scope(rig: Rig) -> None:
    """With its size, and as a file that can be sent."""
    assert await rig.source.entitled(LAYER)
    assert await rig.source.stat(PRIVATE, LAYER) == len(CONTENT)
    assert await read(rig.source, PRIVATE, LAYER) == CONTENT
    async with await rig.source.blob(PRIVATE, LAYER) as blob:
        assert blob.file is not None
        assert os.pread(blob.file.fileno(), 10, 5) == CONTENT[5:15]
        assert await blob.available(7, 100) == 100
        await blob.stored()


async def test_blob_that_no_manifest_names_is_nobodys(rig: Rig) -> None:
    """It is there, but this node has no right to it that it could show."""
    assert not await rig.source.entitled(OTHER)
    assert await is_unknown(rig.source, PRIVATE, OTHER)


async def test_public_scopes_need_a_public_manifest(rig: Rig) -> None:
    """What containerd has may be private, though somebody asks for it in a public repository."""
    assert await is_unknown(rig.source, PUBLIC, LAYER)
    rig.public.add((PUBLIC, LAYER))
    assert await read(rig.source, PUBLIC, LAYER) == CONTENT
    assert await is_unknown(rig.source, "library/else@docker.io", LAYER)


async def test_the_meshs_own_repositories_get_nothing(rig: Rig) -> None:
    """They hold what was pushed to them, whoever says what."""
    rig.public.add(("library/app", LAYER))
    assert await is_unknown(rig.source, "library/app", LAYER)


async def test_manifests_are_never_given(rig: Rig) -> None:
    """Each containerd has to have fetched its own: that is the proof of its right."""
    rig.public.add((PUBLIC, MANIFEST))
    for repository in (PRIVATE, PUBLIC):
        with pytest.raises(ManifestUnknown):
            await rig.source.manifest(repository, MANIFEST)
        assert await rig.source.referrers(repository, MANIFEST) == []
    assert await is_unknown(rig.source, PRIVATE, MANIFEST)


async def test_open_blob_outlives_its_deletion(rig: Rig) -> None:
    """containerd may collect it while it is sent; then there is none."""
    async with await rig.source.blob(PRIVATE, LAYER) as blob:
        rig.containerd.delete(LAYER)
        assert await is_unknown(rig.source, PRIVATE, LAYER)
        assert b"".join([chunk async for chunk in blob.chunks(0, blob.size)]) == CONTENT


async def test_right_goes_with_the_manifest(rig: Rig) -> None:
    """The blob is still there, but nothing says any more that this node may have it."""
    rig.containerd.delete(MANIFEST)
    await eventually("it is taken in", lambda: not rig.source._content.sizes(LAYER))
    assert await is_unknown(rig.source, PRIVATE, LAYER)


async def test_rotten_file_is_not_given(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """One bit of it, of the right size; after it was found out, it is not there for `stat` either.

    Pulled again, it is.
    """
    rig.path.chmod(0o600)
    with rig.path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(bytes([CONTENT[1_000_000] ^ 1]))
    with pytest.raises(BlobUnknown):
        await rig.source.blob(PRIVATE, LAYER)
    assert await is_unknown(rig.source, PRIVATE, LAYER)
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 1
    assert "content rm" in caplog.text
    rig.containerd.delete(LAYER)
    rig.containerd.commit(CONTENT)
    assert await read(rig.source, PRIVATE, LAYER) == CONTENT


@pytest.mark.parametrize("size", [0, len(CONTENT) - 1, len(CONTENT) + 1])
async def test_file_of_another_size_is_not_there(rig: Rig, size: int) -> None:
    """Cut by a crash, say."""
    rig.path.chmod(0o600)
    os.truncate(rig.path, size)
    assert await is_unknown(rig.source, PRIVATE, LAYER)


async def test_whole_blob_is_verified_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all who ask at once and later; again when the file is another one."""
    verified = []
    read_all = module._read_all

    def counting(*arguments: object) -> object:
        verified.append(arguments[1])
        return read_all(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_read_all", counting)
    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(read(rig.source, PRIVATE, LAYER)) for _ in range(5)]
    assert {task.result() for task in reads} == {CONTENT}
    await read(rig.source, PRIVATE, LAYER)
    assert verified == [LAYER]
    os.utime(rig.path)
    await read(rig.source, PRIVATE, LAYER)
    assert verified == [LAYER] * 2


async def test_who_gives_up_during_verification_leaves_nothing_open(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither he nor the verification, which others may wait for."""
    began, go = threading.Event(), threading.Event()
    read_all = module._read_all

    def held(*arguments: object) -> object:
        began.set()
        assert go.wait(DEADLINE_S)
        return read_all(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_read_all", held)
    before = set(os.listdir("/proc/self/fd"))
    task = asyncio.get_running_loop().create_task(rig.source.blob(PRIVATE, LAYER))
    await eventually("it is verified", began.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await eventually("that is over", lambda: not rig.source._checking._flights)
    assert set(os.listdir("/proc/self/fd")) <= before
    assert await read(rig.source, PRIVATE, LAYER) == CONTENT


async def test_blob_of_just_now_is_given(rig: Rig) -> None:
    """Before there was any news of its manifest."""
    image = make_image("just now")
    rig.containerd.pull(image)
    assert await read(rig.source, PRIVATE, Digest.of(image.blobs[1])) == image.blobs[1]


async def test_links_and_pipes_are_not_there(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if they lead to the right bytes."""
    rig.path.rename(tmp_path / "moved")
    rig.path.symlink_to(tmp_path / "moved")
    assert await is_unknown(rig.source, PRIVATE, LAYER)
    rig.path.unlink()
    os.mkfifo(rig.path)
    assert await is_unknown(rig.source, PRIVATE, LAYER)
    assert "not a plain file" in caplog.text
