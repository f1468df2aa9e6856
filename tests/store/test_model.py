"""Both stores against dicts: any sequence of operations, and merges in any order of stamps.

On disk, with a power cut between any two durable steps of any of them.

The model is written from `store/base.py` and `spec/names.py`, not from an implementation: one table
of what each repository has, and one of records.
"""

# ruff: noqa: D102 -- the names are sentences

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from oci_mesh.errors import BlobUnknown, ManifestBlobUnknown, ManifestUnknown, NameUnknown, OciError
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest
from oci_mesh.spec.names import NameRecord
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.store.base import Content, Resolution, Store
from oci_mesh.store.disk import DiskStore
from oci_mesh.store.memory import MemoryStore
from tests.store.content import image, push_blob, push_pieces, read_blob, stamp
from tests.store.power import PowerFiles, quick_directory, unowned

REPOSITORIES = ["a", "a/b", "c", "c@docker.io"]
TAGS = ["v1", "v2", "latest"]
_SUBJECT = image(b"one")
MANIFESTS = {
    manifest.digest: manifest
    for manifest in (_SUBJECT, image(b"two" * 1000, subject=_SUBJECT), image(b"", note="x"))
}
_CONTENTS = (b"", b"one", b"two" * 1000, _SUBJECT.content)  # the last is both
BLOBS = {Digest.of(content): content for content in _CONTENTS}
DIGESTS = sorted({*BLOBS, *MANIFESTS})

repositories = st.sampled_from(REPOSITORIES)
blobs = st.sampled_from(list(BLOBS))
manifests = st.sampled_from(list(MANIFESTS.values()))
stamps = st.integers(1, 30).map(stamp)  # few, so that equal ones and late ones are common
records = st.one_of(
    st.builds(
        NameRecord,
        repositories,
        st.sampled_from(TAGS),
        st.sampled_from([None, *map(str, DIGESTS)]),
        stamps,
    ),
    st.builds(
        lambda repository, name, gone, at: NameRecord(repository, name, None if gone else name, at),
        repositories,
        st.sampled_from([str(digest) for digest in DIGESTS]),
        st.booleans(),
        stamps,
    ),
)


class StoreMachine(RuleBasedStateMachine):
    """Does the same to a store and to the model, and compares all that can be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.blobs: set[tuple[str, Digest]] = set()
        self.manifests: set[tuple[str, Digest]] = set()
        self.names: dict[tuple[str, str], NameRecord] = {}
        self.resolutions: dict[tuple[str, str], Resolution] = {}
        self.store = self.runner.run(self.open())

    async def open(self) -> Store:
        """The store under test."""
        raise NotImplementedError

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    def do(self, operation: Any, expected: type[OciError] | None) -> Any:
        """Run an operation; it must raise exactly what is expected."""
        if expected is None:
            return self.runner.run(operation)
        with pytest.raises(expected):
            self.runner.run(operation)
        return None

    # -- the model

    def write(self, *new: NameRecord) -> list[NameRecord]:
        """Last writer wins; a deletion takes content along."""
        written = []
        for record in new:
            held = self.names.get(record.key)
            if held and (held.stamp, held.target or "") >= (record.stamp, record.target or ""):
                continue
            self.names[record.key] = record
            if not record.is_tag and record.target is None:
                gone = (record.repository, Digest.parse(record.name))
                self.blobs.discard(gone)
                self.manifests.discard(gone)
            written.append(record)
        return written

    def revival(
        self, repository: str, digest: Digest, at: str | None
    ) -> tuple[bool, list[NameRecord]]:
        """Whether content may come in, and the records to write with it."""
        held = self.names.get((repository, str(digest)))
        if held is None or held.target is not None:
            return True, []
        if at is None or at < held.stamp:
            return False, []
        return True, [NameRecord(repository, str(digest), str(digest), at)]

    def live_tags(self, repository: str) -> list[str]:
        """Sorted."""
        return sorted(
            record.name
            for record in self.names.values()
            if record.repository == repository and record.is_tag and record.target
        )

    def held(self) -> set[Digest]:
        """All content."""
        return {digest for _, digest in self.blobs | self.manifests}

    def own(self, digest: Digest) -> tuple[str, ...]:
        """The mesh's own repositories that have it, sorted."""
        having = {name for name, there in self.blobs | self.manifests if there == digest}
        return tuple(sorted(name for name in having if not is_mirrored(name)))

    # -- what happens

    @rule(
        repository=repositories,
        digest=blobs,
        at=st.none() | stamps,
        way=st.sampled_from([push_blob, push_pieces]),
    )
    def push(
        self,
        repository: str,
        digest: Digest,
        at: str | None,
        way: Callable[..., Awaitable[list[NameRecord]]],
    ) -> None:
        welcome, new = self.revival(repository, digest, at)
        operation = way(self.store, repository, BLOBS[digest], at)
        result = self.do(operation, None if welcome else BlobUnknown)
        if welcome:
            self.blobs.add((repository, digest))
            assert result == self.write(*new)

    @rule(
        repository=repositories,
        digest=blobs,
        source=st.none() | repositories,
        at=st.none() | stamps,
    )
    def mount(self, repository: str, digest: Digest, source: str | None, at: str | None) -> None:
        own = [name for name in REPOSITORIES if not is_mirrored(name)]
        givers = own if source is None else [source]
        had = any((giver, digest) in self.blobs for giver in givers)
        welcome, new = self.revival(repository, digest, at)
        operation = self.store.mount(repository, digest, source, at)
        result = self.do(operation, None if had and welcome else BlobUnknown)
        if had and welcome:
            self.blobs.add((repository, digest))
            assert result == self.write(*new)

    @rule(repository=repositories, digest=st.sampled_from(DIGESTS), at=stamps)
    def delete_blob(self, repository: str, digest: Digest, at: str) -> None:
        there = (repository, digest) in self.blobs
        operation = self.store.delete_blob(repository, digest, at)
        result = self.do(operation, None if there else BlobUnknown)
        if there:
            assert result == self.write(NameRecord(repository, str(digest), None, at))

    @rule(
        repository=repositories,
        manifest=manifests,
        tags=st.lists(st.sampled_from(TAGS), unique=True),
        at=st.none() | stamps,
        strict=st.booleans(),
    )
    def put_manifest(
        self, repository: str, manifest: Manifest, tags: list[str], at: str | None, strict: bool
    ) -> None:
        tags = tags if at is not None else []
        needs = manifest.blobs if strict else ()
        missing = [n for n in needs if (repository, n.checked_digest) not in self.blobs]
        welcome, new = self.revival(repository, manifest.digest, at)
        expected = ManifestBlobUnknown if missing else None if welcome else ManifestUnknown
        operation = self.store.put_manifest(repository, manifest, tags, at, needs)
        result = self.do(operation, expected)
        if expected is None:
            self.manifests.add((repository, manifest.digest))
            target = str(manifest.digest)
            new += [NameRecord(repository, tag, target, at or "") for tag in tags]
            assert result == self.write(*new)

    @rule(repository=repositories, digest=st.sampled_from(DIGESTS), at=stamps)
    def delete_manifest(self, repository: str, digest: Digest, at: str) -> None:
        there = (repository, digest) in self.manifests
        operation = self.store.delete_manifest(repository, digest, at)
        result = self.do(operation, None if there else ManifestUnknown)
        if there:
            names = [
                name
                for name in self.live_tags(repository)
                if self.names[repository, name].target == str(digest)
            ]
            gone = [NameRecord(repository, name, None, at) for name in [str(digest), *names]]
            assert result == self.write(*gone)

    @rule(repository=repositories, tag=st.sampled_from(TAGS), at=stamps)
    def delete_tag(self, repository: str, tag: str, at: str) -> None:
        there = tag in self.live_tags(repository)
        operation = self.store.delete_tag(repository, tag, at)
        result = self.do(operation, None if there else ManifestUnknown)
        if there:
            assert result == self.write(NameRecord(repository, tag, None, at))

    @rule(new=st.lists(records, max_size=6))
    def merge_names(self, new: list[NameRecord]) -> None:
        self.do(self.store.merge_names(new), None)
        self.write(*new)

    @rule(old=st.lists(records, max_size=3), data=st.data())
    def forget_names(self, old: list[NameRecord], data: st.DataObject) -> None:
        held = sorted(self.names.values(), key=lambda record: record.key)
        if held:
            old = [*old, data.draw(st.sampled_from(held))]
        self.do(self.store.forget_names(old), None)
        for record in old:
            if self.names.get(record.key) == record:
                del self.names[record.key]

    @rule(chosen=st.sets(st.sampled_from(DIGESTS)), cached_only=st.booleans())
    def evict(self, chosen: set[Digest], cached_only: bool) -> None:
        contents = self.do(self.store.coldest(100, cached_only=cached_only), None)
        assert [c._replace(accessed_s=0) for c in sorted(contents, key=lambda c: c.digest)] == [
            Content(
                digest,
                _size(digest),
                0,
                any(there == digest for _, there in self.manifests),
                self.own(digest),
            )
            for digest in sorted(self.held())
            if not (cached_only and self.own(digest))
        ]
        leaving = [content for content in contents if content.digest in chosen]
        assert self.do(self.store.evict(leaving), None) == leaving
        assert self.do(self.store.evict(leaving), None) == []
        gone = {content.digest for content in leaving}
        self.blobs = {key for key in self.blobs if key[1] not in gone}
        self.manifests = {key for key in self.manifests if key[1] not in gone}

    @rule(
        repository=repositories,
        tag=st.sampled_from(TAGS),
        digest=st.sampled_from(DIGESTS),
        at_s=st.integers(0, 3),
    )
    def note_resolution(self, repository: str, tag: str, digest: Digest, at_s: int) -> None:
        self.resolutions[repository, tag] = noted = Resolution(digest, at_s)
        self.do(self.store.note_resolution(repository, tag, noted), None)

    @rule(repository=repositories, tag=st.sampled_from(TAGS))
    def forget_resolution(self, repository: str, tag: str) -> None:
        self.resolutions.pop((repository, tag), None)
        self.do(self.store.forget_resolution(repository, tag), None)

    # -- what is seen

    @invariant()
    def resolutions_are_the_model_s(self) -> None:
        for key in product(REPOSITORIES, TAGS):
            assert self.do(self.store.resolution(*key), None) == self.resolutions.get(key)

    @invariant()
    def content_is_the_model_s(self) -> None:
        self.runner.run(self.compare_content())

    @invariant()
    def names_are_the_model_s(self) -> None:
        self.runner.run(self.compare_names())

    async def compare_content(self) -> None:
        for repository in REPOSITORIES:
            for digest in DIGESTS:
                if (repository, digest) in self.blobs:
                    assert await self.store.stat(repository, digest) == len(BLOBS[digest])
                    assert await read_blob(self.store, repository, digest) == BLOBS[digest]
                else:
                    with pytest.raises(BlobUnknown):
                        await self.store.blob(repository, digest)
                if (repository, digest) in self.manifests:
                    assert await self.store.manifest(repository, digest) == MANIFESTS[digest]
                else:
                    with pytest.raises(ManifestUnknown):
                        await self.store.manifest(repository, digest)
            here = sorted(digest for there, digest in self.manifests if there == repository)
            assert await self.store.referrers(repository, _SUBJECT.digest) == [
                MANIFESTS[digest].descriptor()
                for digest in here
                if MANIFESTS[digest].subject is not None
            ]
        held = self.held()
        size = sum(map(_size, held))
        cached = sum(_size(digest) for digest in held if not self.own(digest))
        assert await self.store.usage() == (len(held), size, 0, cached)

    async def compare_names(self) -> None:
        assert sorted(await self.store.names(), key=lambda record: record.key) == sorted(
            self.names.values(), key=lambda record: record.key
        )
        having = {repository for repository, _ in self.blobs | self.manifests}
        having |= {repository for repository in REPOSITORIES if self.live_tags(repository)}
        assert await self.store.repositories() == sorted(having)
        for repository in REPOSITORIES:
            if repository not in having:
                with pytest.raises(NameUnknown):
                    await self.store.tags(repository)
                continue
            tags = self.live_tags(repository)
            assert await self.store.tags(repository) == tags
            for tag in TAGS:
                if tag in tags:
                    target = str(await self.store.resolve(repository, tag))
                    assert target == self.names[repository, tag].target
                else:
                    with pytest.raises(ManifestUnknown):
                        await self.store.resolve(repository, tag)


def _size(digest: Digest) -> int:
    return len(BLOBS[digest] if digest in BLOBS else MANIFESTS[digest].content)


class MemoryMachine(StoreMachine):
    """The store in memory."""

    async def open(self) -> Store:
        return MemoryStore()


class OneCut(PowerFiles):
    """Takes one picture: at the `countdown`-th step from now, with these losses."""

    countdown = 0
    loss = (False, False)

    def losses(self) -> list[tuple[bool, bool]]:
        """None, but at one step."""
        self.countdown -= 1
        return [self.loss] if self.countdown == 0 else []


class DiskMachine(StoreMachine):
    """The store on disk, which may also be closed and opened again, or lose its power."""

    def __init__(self) -> None:
        self.cleanup = ExitStack()
        self.scratch = self.cleanup.enter_context(quick_directory())
        self.root = self.scratch / "root"
        self.pictures: list[object] = []
        super().__init__()
        self.before = self.state()

    async def open(self) -> Store:
        self.files = OneCut(self.root, self.scratch, self.picture)
        return await DiskStore.open(self.root, self.files)

    def teardown(self) -> None:
        super().teardown()
        self.cleanup.close()

    def state(self) -> object:
        """All that the model has; of resolutions, what is not to be lost."""
        meant = {(key, resolution.digest) for key, resolution in self.resolutions.items()}
        names = frozenset(self.names.values())
        return frozenset(self.blobs), frozenset(self.manifests), names, frozenset(meant)

    def picture(self, copy: Path, label: str) -> None:
        """See `PowerFiles`; what comes up again is compared when the operation is over."""
        with asyncio.Runner() as runner:
            self.pictures.append(runner.run(self.look(copy)))
        assert unowned(copy) == set(), label

    async def look(self, root: Path) -> object:
        """What a store at `root` has, like `state`; all of it is read."""
        blobs, manifests, meant = set(), set(), set()
        async with await DiskStore.open(root) as store:
            for key in product(REPOSITORIES, BLOBS):
                with suppress(BlobUnknown):
                    assert await read_blob(store, *key) == BLOBS[key[1]]
                    blobs.add(key)
            for key in product(REPOSITORIES, MANIFESTS):
                with suppress(ManifestUnknown):
                    assert await store.manifest(*key) == MANIFESTS[key[1]]
                    manifests.add(key)
            for tag in product(REPOSITORIES, TAGS):
                resolution = await store.resolution(*tag)
                if resolution is not None:
                    meant.add((tag, resolution.digest))
            names = frozenset(await store.names())
            return frozenset(blobs), frozenset(manifests), names, frozenset(meant)

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.store.close())
        self.store = self.runner.run(self.open())

    @rule(countdown=st.integers(1, 8), loss=st.tuples(st.booleans(), st.booleans()))
    def cut_the_power_soon(self, countdown: int, loss: tuple[bool, bool]) -> None:
        self.files.countdown, self.files.loss = countdown, loss

    @invariant()
    def no_file_is_left_over(self) -> None:
        self.runner.run(self.store.forget_names([]))  # what follows a write is done before this
        held = {digest.hex for digest in self.held()}
        assert {path.name for path in self.root.glob("blobs/*/*")} == held
        assert list(self.root.glob("uploads/*")) == []

    @invariant()
    def a_power_cut_leaves_the_state_before_or_after(self) -> None:
        assert self.files.errors == []
        after = self.state()
        for picture in self.pictures:
            assert picture in (self.before, after)
        self.pictures.clear()
        self.before = after


TestMemoryModel = MemoryMachine.TestCase
TestDiskModel = DiskMachine.TestCase
TestMemoryModel.settings = settings(stateful_step_count=30)
TestDiskModel.settings = settings(stateful_step_count=20)  # each opens a store or two
