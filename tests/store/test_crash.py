"""What was acknowledged survives: a power cut at every durable step, and `kill -9` at any moment.

After each cut the store is opened again and compared with what is known outside of it:
everything acknowledged is there and exact, what was under way is there as a whole or not at all,
and no file is left that nobody owns.
"""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from oci_mesh.errors import BlobUnknown, DigestInvalid, ManifestUnknown
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest
from oci_mesh.spec.names import NameRecord
from oci_mesh.store.base import Resolution, Store, Usage
from oci_mesh.store.disk import DiskStore
from oci_mesh.store.memory import MemoryStore
from tests.store.content import image, push_blob, push_pieces, read_blob, stamp, write_pieces
from tests.store.power import PowerFiles, quick_directory, unowned
from tests.store.upkeep_contract import harm, no_pace

A, B, MIRRORED = "team/a", "team/b", "app@docker.io"
ONE, TWO = b"one" * 1000, b"two" * 2000
FIRST, SECOND = image(ONE), image(ONE, TWO, note="second")


@dataclass(frozen=True)
class State:
    """All that can be seen: content of blobs, manifests, and what tags point to, here and there."""

    blobs: dict[tuple[str, Digest], bytes]
    manifests: dict[tuple[str, Digest], Manifest]
    tags: dict[tuple[str, str], Digest]
    meant: Digest | None
    usage: Usage


Operation = Callable[[Store], Awaitable[object]]


async def push_in_two(store: Store) -> None:
    """A blob in two requests."""
    upload_id = await store.create_upload(A)
    for part in (TWO[:500], TWO[500:]):
        async with store.upload(A, upload_id) as upload:
            await upload.write(part)
    async with store.upload(A, upload_id) as upload:
        await upload.commit(Digest.of(TWO), stamp(1))


async def push_wrong(store: Store) -> None:
    """A blob that is not what its digest says."""
    upload_id = await store.create_upload(A)
    async with store.upload(A, upload_id) as upload:
        await upload.write(b"not this")
        with pytest.raises(DigestInvalid):
            await upload.commit(Digest.of(b"but that"), stamp(1))


async def begin_pieces(store: Store) -> None:
    """A blob of which some pieces come."""
    async with await store.partial(B, Digest.of(TWO), len(TWO)) as partial:
        write_pieces(partial, TWO, [2000, 0])
        partial.advance(1000)


async def push_wrong_pieces(store: Store) -> None:
    """A blob with a wrong piece."""
    async with await store.partial(A, Digest.of(ONE), len(ONE)) as partial:
        partial.write(1, b"not this")
        partial.advance(len(ONE))
        with pytest.raises(DigestInvalid):
            await partial.commit(stamp(1))


async def push_sha512(store: Store) -> None:
    """A blob by its other digest."""
    upload_id = await store.create_upload(B, "sha512")
    async with store.upload(B, upload_id) as upload:
        await upload.write(ONE)
        await upload.commit(Digest.of(ONE, "sha512"), stamp(1))


async def let_go(store: Store) -> None:
    """All that only another registry's repositories have."""
    await store.evict(await store.coldest(100, cached_only=True))


async def let_go_of_one(store: Store) -> None:
    """Which is in two repositories, of which one is the mesh's own."""
    contents = await store.coldest(100)
    await store.evict([content for content in contents if content.digest == Digest.of(TWO)])


async def let_go_of_garbage(store: Store) -> None:
    """What no manifest names."""
    for repository in (A, B):
        await store.collect(await store.unnamed(repository, LATER), LATER)


async def harm_one(store: Store) -> None:
    """As many other bytes, where nobody looks."""
    harm(store, Digest.of(TWO), TWO[::-1])


async def set_aside(store: Store) -> None:
    """What is damaged."""
    damage = await store.check(Digest.of(TWO), no_pace)
    assert damage is not None
    assert len(await store.quarantine(damage)) == 2


LATER = 2.0**40  # all was used before
ELSEWHERE = [
    NameRecord(B, "elsewhere", str(SECOND.digest), stamp(9)),
    NameRecord(A, str(Digest.of(TWO)), None, stamp(9)),
]
OPERATIONS: list[Operation] = [
    lambda store: push_blob(store, A, ONE, stamp(1)),
    push_in_two,
    lambda store: store.put_manifest(A, FIRST, ["v1"], stamp(2), FIRST.blobs),
    lambda store: store.put_manifest(A, SECOND, ["v1", "v2"], stamp(3), SECOND.blobs),
    lambda store: store.mount(B, Digest.of(ONE), A, stamp(4)),
    lambda store: push_blob(store, A, ONE, stamp(4)),
    push_wrong,
    lambda store: store.delete_blob(A, Digest.of(ONE), stamp(5)),
    lambda store: store.delete_manifest(A, SECOND.digest, stamp(6)),
    lambda store: store.delete_blob(B, Digest.of(ONE), stamp(7)),
    lambda store: push_blob(store, B, ONE, stamp(8)),
    lambda store: store.merge_names(ELSEWHERE),
    push_sha512,
    begin_pieces,
    lambda store: push_pieces(store, B, TWO, stamp(10)),
    push_wrong_pieces,
    lambda store: push_pieces(store, MIRRORED, TWO),
    lambda store: push_blob(store, MIRRORED, ONE),
    lambda store: store.put_manifest(MIRRORED, FIRST),
    lambda store: store.note_resolution(MIRRORED, "v1", Resolution(FIRST.digest, 1.5)),
    lambda store: store.note_resolution(MIRRORED, "v1", Resolution(SECOND.digest, 2.5)),
    let_go,
    let_go_of_one,
    lambda store: push_blob(store, MIRRORED, TWO),
    let_go,
    lambda store: store.forget_resolution(MIRRORED, "v1"),
    let_go_of_garbage,
    lambda store: push_blob(store, A, ONE, stamp(11)),
    lambda store: push_blob(store, B, ONE, stamp(11)),
    lambda store: store.put_manifest(B, FIRST, ["v1"], stamp(12)),
    let_go_of_garbage,
    lambda store: push_blob(store, A, TWO, stamp(13)),
    lambda store: push_blob(store, MIRRORED, TWO),
    harm_one,
    set_aside,
    lambda store: push_blob(store, A, TWO, stamp(14)),
    lambda store: store.purge_quarantine(0),
    lambda store: store.put_manifest(B, SECOND, (), stamp(15)),
    lambda store: store.delete_untagged(B, SECOND.digest, stamp(16), LATER),
    let_go_of_garbage,
]


async def look(store: Store) -> State:
    """What a store has of all that these tests push."""
    blobs, manifests, tags = {}, {}, {}
    digests = [Digest.of(ONE), Digest.of(TWO), Digest.of(ONE, "sha512")]
    for repository in (A, B, MIRRORED):
        for digest in digests:
            with suppress(BlobUnknown):
                blobs[repository, digest] = await read_blob(store, repository, digest)
        for digest in (FIRST.digest, SECOND.digest):
            with suppress(ManifestUnknown):
                manifests[repository, digest] = await store.manifest(repository, digest)
        for tag in ("v1", "v2", "elsewhere"):
            with suppress(ManifestUnknown):
                tags[repository, tag] = await store.resolve(repository, tag)
    resolution = await store.resolution(MIRRORED, "v1")
    usage = (await store.usage())._replace(uploads=0)
    return State(blobs, manifests, tags, resolution and resolution.digest, usage)


class Cuts:
    """Opens every picture, and notes the ones that are neither before nor after the operation."""

    def __init__(self, allowed: list[State]) -> None:
        self.allowed = allowed
        self.wrong: list[str] = []
        self.seen = 0

    def picture(self, copy: Path, label: str) -> None:
        """See `PowerFiles`."""
        self.seen += 1
        if asyncio.run(self._look(copy)) not in self.allowed or unowned(copy):
            self.wrong.append(label)

    async def _look(self, copy: Path) -> State:
        async with await DiskStore.open(copy) as store:
            return await look(store)


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """See `quick_directory`."""
    with quick_directory() as path:
        yield path


async def cut_everywhere(scratch: Path, files: type[PowerFiles]) -> Cuts:
    """Do all operations; before each, find out what it does on a store in memory."""
    model = MemoryStore()
    cuts = Cuts([await look(model)])
    root = scratch / "root"
    async with await DiskStore.open(root) as store:
        pass  # the directories themselves
    watched = files(root, scratch, cuts.picture)
    store = await DiskStore.open(root, watched)
    for operation in OPERATIONS:
        before = await look(model)
        await operation(model)
        cuts.allowed = [before, await look(model)]
        await operation(store)
        assert await look(store) == cuts.allowed[1]
    await store.close()
    assert watched.errors == []
    return cuts


async def test_power_cut_at_every_step(quick_path: Path) -> None:
    """Whatever the file system lost, it is as before the operation or as after it."""
    cuts = await cut_everywhere(quick_path, PowerFiles)
    assert cuts.wrong == []
    assert cuts.seen > 4 * 4 * len(OPERATIONS)


class WithoutFileSync(PowerFiles):
    """As if the file were not synced."""

    def sync(self, fd: int) -> None:
        """Nothing."""


class WithoutDirectorySync(PowerFiles):
    """As if the directory were not synced."""

    def sync_directory(self, path: str) -> None:
        """Nothing."""


class CommitTooEarly(PowerFiles):
    """As if rows came before names."""

    def sync_directory(self, path: str) -> None:
        """Nothing yet."""

    def commit(self, connection: sqlite3.Connection) -> None:
        """The directory last."""
        super().commit(connection)
        for algorithm in ("sha256", "sha512"):
            super().sync_directory(str(self.root / "blobs" / algorithm))


@pytest.mark.parametrize("files", [WithoutFileSync, WithoutDirectorySync, CommitTooEarly])
async def test_the_pictures_show_a_missing_step(quick_path: Path, files: type[PowerFiles]) -> None:
    """The test above can fail: it does for each step that is left out or comes too late."""
    assert (await cut_everywhere(quick_path, files)).wrong


# -- kill -9

KILLS = int(os.environ.get("OCI_MESH_TEST_KILLS", "30"))


async def run_until_killed(
    root: Path, seed: int, after_s: float, program: str = "pusher"
) -> list[list[str]]:
    """Let a program of `tests.store` push, kill it `after_s` after its first word.

    Returns what it said.
    """
    command = [sys.executable, "-m", f"tests.store.{program}", str(root), str(seed)]
    pusher = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert pusher.stdout is not None
    said = await asyncio.wait_for(pusher.stdout.readline(), 60)
    await asyncio.sleep(after_s)
    pusher.kill()
    said += await pusher.stdout.read()
    assert await pusher.wait() == -signal.SIGKILL
    whole, _, _ = said.decode().rpartition("\n")
    return [line.split() for line in whole.splitlines()]


@pytest.mark.slow
async def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    """Every acknowledged push, tag and deletion holds; nothing else is left. `KILLS` times."""
    moments = random.Random(9)
    said: list[list[str]] = []
    for seed in range(KILLS):
        new = await run_until_killed(tmp_path, seed, moments.uniform(0, 0.25))
        async with await DiskStore.open(tmp_path) as store:
            await verify(store, new)
        assert unowned(tmp_path) == set()
        said += new
    async with await DiskStore.open(tmp_path) as store:
        await verify(store, said)
    assert len(said) > 5 * KILLS


@pytest.mark.slow
async def test_kill_9_while_cache_is_let_go(tmp_path: Path) -> None:
    """What was not let go of is exact, what was is gone or came back, and no file is left over."""
    moments = random.Random(10)
    evicted = 0
    for seed in range(KILLS):
        said = await run_until_killed(tmp_path, seed, moments.uniform(0, 0.25), "evictor")
        came, leaving, gone = (
            {digest for what, *about in said if what == kind for digest in about}
            for kind in ("blob", "leaving", "gone")
        )
        evicted += len(gone)
        async with await DiskStore.open(tmp_path) as store:
            assert (await store.usage()).cached == (await store.usage()).bytes
            here = set()
            for text in came | leaving:
                digest = Digest.parse(text)
                with suppress(BlobUnknown):
                    assert digest.matches(await read_blob(store, MIRRORED, digest))
                    here.add(text)
            assert came - leaving <= here
            assert not gone & here
            await store.evict(await store.coldest(1000))
        assert unowned(tmp_path) == set()
    assert evicted > 5 * KILLS


@pytest.mark.slow
async def test_kill_9_while_garbage_is_collected(tmp_path: Path) -> None:
    """An acknowledged image is whole and exact, and no file is left over."""
    moments = random.Random(11)
    said: list[list[str]] = []
    for seed in range(KILLS):
        new = await run_until_killed(tmp_path, seed, moments.uniform(0, 0.25), "collector")
        said += new
        async with await DiskStore.open(tmp_path) as store:
            for text in (words[1] for words in new if words[0] == "image"):
                manifest = await store.manifest(A, Digest.parse(text))
                for blob in manifest.blobs:
                    digest = blob.checked_digest
                    assert digest.matches(await read_blob(store, A, digest))
        assert unowned(tmp_path) == set()
    counts = dict.fromkeys(("image", "collected", "aside"), 0)
    for kind, text in said:
        counts[kind] += 1 if kind == "image" else int(text)
    assert all(count > KILLS for count in counts.values()), counts


async def verify(store: Store, said: list[list[str]]) -> None:
    """Compare a store with what `tests.store.pusher` said, line by line."""
    deleting = {words[2] for words in said if words[0] == "deleting"}
    for what, repository, *words in said:
        digest = Digest.parse(words[0])
        if what == "blob":
            assert digest.matches(await read_blob(store, repository, digest))
        elif what == "image" and words[0] not in deleting:
            assert digest.matches((await store.manifest(repository, digest)).content)
            assert await store.resolve(repository, words[1]) == digest
        elif what == "deleted":
            with pytest.raises(ManifestUnknown):
                await store.manifest(repository, digest)
            with pytest.raises(ManifestUnknown):
                await store.resolve(repository, words[1])
