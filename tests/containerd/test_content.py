"""The content store is followed as containerd changes it: real files, real inotify."""

import asyncio
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oci_mesh.containerd import content as module
from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.containerd.watch import Watch
from oci_mesh.spec.digest import Digest
from tests.containerd.fake import FakeContainerd, followed, known
from tests.nodes import eventually, make_image

IMAGE = make_image("content")
MANIFEST = Digest.of(IMAGE.manifest)
LAYER = Digest.of(IMAGE.blobs[1])

# As many as the kernel keeps by default, and one for which it keeps only that there were more.
QUEUED_EVENTS = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


@pytest.fixture
def containerd(tmp_path: Path) -> FakeContainerd:
    """Not started yet."""
    return FakeContainerd(tmp_path / "containerd")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again soon, so that the test is quick; that it is looked again is what is tested."""
    monkeypatch.setattr(module, "RETRY_S", 0.05)


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


def messages(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """How many log lines have this in them."""
    return sum(text in record.getMessage() for record in caplog.records)


async def test_what_was_there_at_the_start_is_known(containerd: FakeContainerd) -> None:
    """And only by manifests that are there: a blob alone gives no right to it."""
    containerd.pull(IMAGE)
    other = make_image("other")
    containerd.commit(other.blobs[1])
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await known(content, LAYER)
        assert content.sizes(LAYER) == [len(IMAGE.blobs[1])]
        assert await content.entitled(LAYER)
        assert not await content.entitled(Digest.of(other.blobs[1]))


async def test_commit_of_just_now_counts(containerd: FakeContainerd) -> None:
    """Between the rename and the question nothing else has run, so no news was read yet."""
    containerd.start()
    containerd.commit(b"{}")
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await eventually("it follows", lambda: content._following)
        for number in range(20):
            image = make_image(f"now {number}", 10)
            containerd.commit(image.manifest)
            assert await content.entitled(Digest.of(image.blobs[1]))


async def test_question_during_the_first_look_is_answered_after_it(
    containerd: FakeContainerd,
) -> None:
    """A node that starts on a full disk does not deny what it has."""
    containerd.pull(IMAGE)
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await asyncio.sleep(0)  # `run` has begun, and nothing has been read
        assert content._following
        assert not content.sizes(LAYER)
        assert await content.entitled(LAYER)


async def test_first_commit_ever_counts(containerd: FakeContainerd) -> None:
    """containerd makes the directory of blobs then: the first pull of a new node."""
    containerd.start()
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await eventually("it follows", lambda: content._following)
        containerd.commit(IMAGE.manifest)
        assert await content.entitled(LAYER)
        assert not content._waiting  # it was told, and has not lost patience
        image = make_image("second")
        containerd.commit(image.manifest)
        assert await content.entitled(Digest.of(image.blobs[1]))


async def test_garbage_collection_is_noticed(containerd: FakeContainerd) -> None:
    """The manifest goes, and with it the right; what another one names stays."""
    containerd.pull(IMAGE)
    twin = IMAGE.manifest.replace(b'{"schemaVersion"', b'{ "schemaVersion"')
    containerd.commit(twin)
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await eventually("both are known", lambda: len(content.sizes(LAYER)) == 2)
        containerd.delete(MANIFEST)
        await eventually("one is gone", lambda: len(content.sizes(LAYER)) == 1)
        containerd.delete(Digest.of(twin))
        await eventually("both are gone", lambda: not content.sizes(LAYER))
        assert not await content.entitled(LAYER)


async def test_manifest_deleted_and_pulled_again_is_there(containerd: FakeContainerd) -> None:
    """In one go, as news of both come together, in either order."""
    containerd.pull(IMAGE)
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await known(content, LAYER)
        containerd.delete(MANIFEST)
        containerd.commit(IMAGE.manifest)
        assert await content.entitled(Digest.of(b"unknown")) is False  # until all is taken in
        assert content.sizes(LAYER)
        containerd.delete(MANIFEST)
        containerd.commit(IMAGE.manifest)
        containerd.delete(MANIFEST)
        await content.entitled(Digest.of(b"unknown"))
        assert not content.sizes(LAYER)


async def test_commits_are_told(containerd: FakeContainerd) -> None:
    """Each that happens while we look, also of what is no manifest; not what was there before."""
    containerd.commit(b"before")
    committed: list[Digest] = []
    content = ContainerdContent(containerd.root, committed.append)
    async with followed(content):
        await eventually("it follows", lambda: content._following)
        await content.entitled(LAYER)
        digests = [containerd.commit(blob) for blob in (b"one", b"two", IMAGE.manifest)]
        await content.entitled(Digest.of(b"unknown"))
        assert sorted(committed) == sorted(digests)


async def test_more_news_than_the_kernel_keeps(containerd: FakeContainerd) -> None:
    """Everything is looked at again: what came is found, what went is forgotten."""
    containerd.pull(IMAGE)
    content = ContainerdContent(containerd.root)
    image = make_image("behind the overflow")
    async with followed(content):
        await known(content, LAYER)
        scratch = containerd.path(Digest.of(b"scratch"))
        other = scratch.with_name("f" * 64)
        scratch.touch()
        for _ in range(QUEUED_EVENTS // 2):  # not one event is read meanwhile
            scratch.rename(other)
            other.rename(scratch)
        containerd.delete(MANIFEST)
        containerd.commit(image.manifest)
        assert await content.entitled(Digest.of(image.blobs[1]))
        assert not content.sizes(LAYER)
        assert not content._waiting  # it was told, and has not lost patience


@pytest.mark.usefixtures("soon")
async def test_containerd_may_come_later(
    containerd: FakeContainerd, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says that there is none, however often that is looked for; one, that there is."""
    caplog.set_level(logging.INFO)
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await eventually("it is missed", lambda: messages(caplog, "no content of containerd") == 1)
        assert not await content.entitled(LAYER)
        await asyncio.sleep(5 * module.RETRY_S)
        assert messages(caplog, "no content of containerd") == 1
        containerd.start()
        containerd.pull(IMAGE)
        await known(content, LAYER)
        assert messages(caplog, "reading what containerd has") == 1


async def test_containerd_may_make_its_store_with_its_first_pull(
    containerd: FakeContainerd, caplog: pytest.LogCaptureFixture
) -> None:
    """As 2.x does: a right to what it names counts at once, though there was nothing before."""
    caplog.set_level(logging.INFO)
    containerd.root.mkdir()
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await eventually("it is missed", lambda: messages(caplog, "no content of containerd") == 1)
        containerd.start()
        containerd.commit(IMAGE.manifest)
        assert await content.entitled(LAYER)
        assert not content._waiting  # it was told, and has not lost patience
        assert messages(caplog, "reading what containerd has") == 1


@pytest.mark.parametrize("there", ["root", "store", "blobs"])
async def test_directory_made_between_look_and_watch(
    containerd: FakeContainerd, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """The kernel tells nothing of it; it is not overlooked."""
    containerd.root.mkdir()
    if there != "root":
        containerd.start()
    if there == "blobs":
        (containerd.content / "blobs").mkdir()
    watching: list[list[str]] = []

    def late(directories: list[str], wake: Callable[[], None]) -> Watch:
        if not watching:
            containerd.start()
            containerd.commit(b"first")
        watching.append(directories)
        return Watch(directories, wake)

    monkeypatch.setattr(module, "Watch", late)
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await eventually("it follows", lambda: bool(watching))
        containerd.commit(IMAGE.manifest)
        await known(content, LAYER)


@pytest.mark.usefixtures("soon")
async def test_containerd_may_be_wiped_and_come_again(containerd: FakeContainerd) -> None:
    """With its directory go all rights; what it pulls into a new one is seen."""
    containerd.pull(IMAGE)
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await known(content, LAYER)
        containerd.content.rename(containerd.root / "old")
        await eventually("nothing is left", lambda: not content.sizes(LAYER))
        image = make_image("new")
        containerd.pull(image)
        await known(content, Digest.of(image.blobs[1]))
        assert not content.sizes(LAYER)


@pytest.mark.usefixtures("soon")
async def test_containerd_may_be_removed(containerd: FakeContainerd) -> None:
    """With everything that it had."""
    containerd.pull(IMAGE)
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await known(content, LAYER)
        shutil.rmtree(containerd.root)
        await eventually("nothing is left", lambda: not content.sizes(LAYER))


@pytest.mark.usefixtures("soon")
async def test_replaced_directory_of_blobs_is_seen(containerd: FakeContainerd) -> None:
    """Our watches would stay with the old one."""
    containerd.pull(IMAGE)
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await known(content, LAYER)
        (containerd.content / "blobs").rename(containerd.content / "old")
        await eventually("nothing is left", lambda: not content.sizes(LAYER))
        containerd.pull(IMAGE)
        await known(content, LAYER)


@pytest.mark.usefixtures("soon")
async def test_directory_that_may_not_be_read(
    containerd: FakeContainerd, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says what to do; once it may be read, it is."""
    containerd.pull(IMAGE)
    containerd.root.chmod(0)
    content = ContainerdContent(containerd.root)
    async with followed(content):
        with nobody():
            await eventually("that is said", lambda: messages(caplog, "as root") == 1)
            await asyncio.sleep(5 * module.RETRY_S)
        containerd.root.chmod(0o700)
        await known(content, LAYER)
    assert messages(caplog, "as root") == 1


@pytest.mark.usefixtures("soon")
async def test_link_in_place_of_the_blobs_is_not_followed(
    containerd: FakeContainerd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it leads to."""
    elsewhere = FakeContainerd(tmp_path / "elsewhere")
    elsewhere.pull(IMAGE)
    containerd.start()
    (containerd.content / "blobs").symlink_to(elsewhere.content / "blobs")
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await eventually("that is said", lambda: messages(caplog, "cannot be read") == 1)
        assert not await content.entitled(LAYER)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("limit", [errno.EMFILE, errno.ENOSPC])
async def test_without_inotify_it_is_looked_at_now_and_then(
    limit: int,
    containerd: FakeContainerd,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The kernel has limits per user, which other programs use up; one line says which."""

    def refuse(directories: list[str], wake: Callable[[], None]) -> None:
        raise OSError(limit, os.strerror(limit))

    monkeypatch.setattr(module, "Watch", refuse)
    containerd.pull(IMAGE)
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await known(content, LAYER)
        containerd.delete(MANIFEST)
        await eventually("it is gone", lambda: not content.sizes(LAYER))
        containerd.commit(IMAGE.manifest)
        await known(content, LAYER)
    assert messages(caplog, "fs.inotify.max_user_instances") == 1


async def test_files_of_all_kinds_are_no_trouble(
    containerd: FakeContainerd, caplog: pytest.LogCaptureFixture
) -> None:
    """Large, sparse, deep, unreadable, pipes, links, directories: the manifest is found."""
    containerd.pull(IMAGE)
    blobs = containerd.path(LAYER).parent
    containerd.commit(b"{" * 1_000_000)
    containerd.commit(b'{"mediaType":' + b"[" * 1_000_000)
    with (blobs / ("1" * 64)).open("wb") as huge:
        huge.write(b"{")
        huge.truncate(1 << 40)
    os.mkfifo(blobs / ("2" * 64))
    (blobs / ("3" * 64)).symlink_to("/dev/zero")
    (blobs / ("4" * 64)).mkdir()
    (blobs / ("5" * 64)).write_bytes(IMAGE.manifest)  # not what its name says
    content = ContainerdContent(containerd.root)
    async with followed(content):
        await known(content, LAYER)
        assert len(content.sizes(LAYER)) == 1
        (blobs / ("3" * 64)).rename(blobs / ("6" * 64))  # it `came`: now it is opened
        assert not await content.entitled(Digest.of(b"unknown"))
    assert messages(caplog, "1 files of containerd cannot be read") == 1


async def test_many_files_do_not_hold_up_the_node(containerd: FakeContainerd) -> None:
    """They are read in a thread: what else the loop does goes on, and it can be stopped."""
    first = containerd.path(containerd.commit(b'{"schemaVersion":2}'))
    for number in range(20_000):
        first.with_name(f"{number:064x}").hardlink_to(first)
    containerd.pull(IMAGE)
    content = ContainerdContent(containerd.root)
    turns = 0
    async with followed(content):
        while not content.sizes(LAYER):
            turns += 1
            await asyncio.sleep(0.001)
    assert turns > 10
    stopped = ContainerdContent(containerd.root)
    async with followed(stopped):
        await asyncio.sleep(0)
    assert stopped._stopping.is_set()
