"""The store on disk keeps the contract, and what is its own: reopening, damage, one process."""

# ruff: noqa: D102, D103 -- the names are sentences

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oci_mesh.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestUnknown,
    StorageFailed,
    StoreCorrupt,
    StoreError,
    StoreLocked,
    Unavailable,
)
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.names import NameRecord
from oci_mesh.store import uploads
from oci_mesh.store.base import Content, Resolution, Store, Usage
from oci_mesh.store.disk import DiskStore
from oci_mesh.store.files import Files
from oci_mesh.store.schema import MIGRATIONS
from tests.store.cache_contract import MIRRORED
from tests.store.content import image, push_blob, push_image, read_blob, stamp
from tests.store.contract import CONTENT, DIGEST, A, B, StoreContract


class TestDiskStore(StoreContract):
    """See `StoreContract`."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        async with await DiskStore.open(tmp_path) as store:
            yield store


def files_under(root: Path) -> set[str]:
    """Blobs and uploads."""
    found = [*root.glob("blobs/*/*"), *root.glob("uploads/*")]
    return {str(path.relative_to(root)) for path in found}


async def test_what_was_let_go_is_free_when_that_is_said(tmp_path: Path) -> None:
    """Its file has gone, however long that takes: others wait for the room."""

    class Slow(Files):
        def unlink(self, path: str) -> None:
            time.sleep(0.1)
            super().unlink(path)

    async with await DiskStore.open(tmp_path, Slow()) as store:
        await push_blob(store, MIRRORED, CONTENT)
        (path,) = files_under(tmp_path)
        assert len(await store.evict(await store.coldest(1))) == 1
        assert not (tmp_path / path).exists()


async def test_resolutions_outlive_a_restart(tmp_path: Path) -> None:
    """The one checked again just now, too."""
    digest = Digest.of(CONTENT)
    async with await DiskStore.open(tmp_path) as store:
        await store.note_resolution(MIRRORED, "v1", Resolution(digest, 1.25))
        await store.note_resolution(MIRRORED, "v1", Resolution(digest, 2.5))
    async with await DiskStore.open(tmp_path) as store:
        assert await store.resolution(MIRRORED, "v1") == (digest, 2.5)


async def test_a_store_of_the_release_before_is_the_mesh_s_own(tmp_path: Path) -> None:
    """All that is in it; and it counts right from then on."""
    async with await DiskStore.open(tmp_path):
        pass
    (tmp_path / "metadata.sqlite").unlink()
    connection = sqlite3.connect(tmp_path / "metadata.sqlite")
    connection.executescript(f"BEGIN; {MIGRATIONS[0]} PRAGMA user_version = 1; COMMIT;")
    connection.execute("INSERT INTO content VALUES (?, ?, ?)", (str(DIGEST), len(CONTENT), 7))
    connection.execute("INSERT INTO blobs VALUES (?, ?)", (A, str(DIGEST)))
    connection.commit()
    connection.close()
    (tmp_path / "blobs/sha256" / DIGEST.hex).write_bytes(CONTENT)
    async with await DiskStore.open(tmp_path) as store:
        assert await store.usage() == Usage(1, len(CONTENT), 0, 0)
        assert await store.coldest(9) == [Content(DIGEST, len(CONTENT), 7, False, (A,))]
        await push_blob(store, MIRRORED, CONTENT)
        await store.delete_blob(A, DIGEST, stamp(1))
        assert await store.usage() == Usage(1, len(CONTENT), 0, len(CONTENT))


async def test_what_a_store_of_the_release_before_names_is_no_garbage(tmp_path: Path) -> None:
    """Its manifests are read once; one that is damaged keeps nobody from starting."""
    async with await DiskStore.open(tmp_path) as store:
        manifest = await push_image(store, A, [CONTENT], ["v1"], stamp(1))
        damaged = await push_image(store, B, [b"2"], ["v1"], stamp(2))
    connection = sqlite3.connect(tmp_path / "metadata.sqlite")
    connection.execute("DROP TABLE refs")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) - 1}")
    connection.commit()
    connection.close()
    path = tmp_path / "blobs/sha256" / damaged.digest.hex
    path.write_bytes(b"x" * len(damaged.content))
    for _ in range(2):
        async with await DiskStore.open(tmp_path) as store:
            assert await store.unnamed(A, 2.0**40) == []
            assert await store.whole(A, [manifest.digest]) == [manifest.digest]
            with pytest.raises(ManifestUnknown):
                await store.manifest(B, damaged.digest)


async def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path) as store:
        manifest = await push_image(store, A, [CONTENT, b"2"], ["v1"], stamp(1))
        referrer = image(subject=manifest)
        await store.put_manifest(A, referrer)
        await push_blob(store, B, b"gone")
        await store.delete_blob(B, Digest.of(b"gone"), stamp(2))
        before = await store.usage(), await store.names()
    async with await DiskStore.open(tmp_path) as store:
        assert (await store.usage(), await store.names()) == before
        assert await read_blob(store, A, DIGEST) == CONTENT
        assert await store.manifest(A, await store.resolve(A, "v1")) == manifest
        assert await store.referrers(A, manifest.digest) == [referrer.descriptor()]
        with pytest.raises(BlobUnknown):
            await push_blob(store, B, b"gone")


async def test_an_upload_goes_on_after_reopening(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path) as store:
        ids = [await store.create_upload(A) for _ in range(2)]
        for upload_id in ids:
            async with store.upload(A, upload_id) as upload:
                await upload.write(CONTENT[:5000])
    async with await DiskStore.open(tmp_path) as store:
        assert (await store.usage()).uploads == 2
        assert await store.upload_offset(A, ids[0]) == 5000
        with pytest.raises(BlobUploadUnknown):
            await store.upload_offset(B, ids[0])
        async with store.upload(A, ids[0]) as upload:
            await upload.write(CONTENT[5000:])
            await upload.commit(DIGEST)
        assert await read_blob(store, A, DIGEST) == CONTENT
        async with store.upload(A, ids[1]) as upload:
            await upload.write(b"something else")
            with pytest.raises(DigestInvalid):
                await upload.commit(DIGEST)


async def test_a_running_hash_that_was_pushed_out_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_HASHERS", 1)
    async with await DiskStore.open(tmp_path) as store:
        ids = [await store.create_upload(A) for _ in range(3)]
        for part in (CONTENT[:5000], CONTENT[5000:]):
            for upload_id in ids:
                async with store.upload(A, upload_id) as upload:
                    await upload.write(part)
        for upload_id in ids:
            async with store.upload(A, upload_id) as upload:
                await upload.commit(DIGEST)


async def test_a_file_that_lost_bytes_between_two_requests_is_read_again(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path) as store:
        upload_id = await store.create_upload(A)
        async with store.upload(A, upload_id) as upload:
            await upload.write(CONTENT[:5000])
        (file,) = (tmp_path / "uploads").iterdir()
        os.truncate(file, 4000)
        async with store.upload(A, upload_id) as upload:
            assert upload.offset == 4000
            await upload.write(CONTENT[4000:])
            await upload.commit(DIGEST)


async def test_the_layout_on_disk(tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    async with await DiskStore.open(root) as store:
        await push_blob(store, A, CONTENT)
        await store.create_upload(A)
        assert (root / "blobs" / "sha256" / DIGEST.hex).read_bytes() == CONTENT
        for path in [root, *root.rglob("*")]:
            expected = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == expected, path


async def test_a_file_goes_with_its_last_repository(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path) as store:
        await push_blob(store, A, CONTENT)
        await store.mount(B, DIGEST, A)
        await store.delete_blob(A, DIGEST, stamp(1))
        await store.forget_names([])  # whatever follows a write is done before the next one
        assert files_under(tmp_path) == {f"blobs/sha256/{DIGEST.hex}"}
        await store.delete_blob(B, DIGEST, stamp(1))
        await store.forget_names([])
        assert files_under(tmp_path) == set()


async def test_a_second_opener_is_told_who_has_it(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path):
        with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
            await DiskStore.open(tmp_path)
    async with await DiskStore.open(tmp_path):
        pass


async def test_another_process_is_told_too(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from oci_mesh.store.disk import DiskStore\n"
        "asyncio.run(DiskStore.open(sys.argv[1]))"
    )
    async with await DiskStore.open(tmp_path):
        command = [sys.executable, "-c", script, str(tmp_path)]
        other = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        _, said = await other.communicate()
    assert other.returncode == 1
    assert f"StoreLocked: {tmp_path} is in use by process {os.getpid()}" in said.decode()


async def test_a_root_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot open the store"):
        await DiskStore.open(tmp_path / "file" / "root")


async def test_leftovers_are_removed_and_uploads_kept(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path) as store:
        await push_blob(store, A, CONTENT)
        upload_id = await store.create_upload(A)
        expected = files_under(tmp_path)
    leftover = Digest.of(b"never acknowledged")
    (tmp_path / "blobs" / "sha256" / leftover.hex).write_bytes(b"never acknowledged")
    (tmp_path / "blobs" / "sha512" / "what.tmp").write_bytes(b"?")
    (tmp_path / "uploads" / "manifest-1").write_bytes(b"{}")
    async with await DiskStore.open(tmp_path) as store:
        assert files_under(tmp_path) == expected
        assert await store.upload_offset(A, upload_id) == 0
        with pytest.raises(BlobUnknown):
            await store.stat(A, leftover)


@pytest.mark.parametrize("damage", ["missing", "short"])
async def test_rows_without_their_file_are_dropped_and_named(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await DiskStore.open(tmp_path) as store:
        manifest = await push_image(store, A, [CONTENT, b"2"], ["v1"], stamp(1))
        await store.mount(B, DIGEST, A)
    path = tmp_path / "blobs" / "sha256" / DIGEST.hex
    path.unlink() if damage == "missing" else os.truncate(path, 10)
    async with await DiskStore.open(tmp_path) as store:
        assert f"{DIGEST} is missing or has another length on disk" in caplog.text
        assert f"{A}, {B}" in caplog.text
        for repository in (A, B):
            with pytest.raises(BlobUnknown):
                await store.stat(repository, DIGEST)
        assert not path.exists()
        assert await store.manifest(A, manifest.digest) == manifest
        assert (await store.usage()).blobs == 2
        await push_blob(store, A, CONTENT)  # a copy is welcome: this was no deletion
        assert await read_blob(store, A, DIGEST) == CONTENT


@pytest.mark.parametrize("damage", ["missing", "short"])
async def test_damage_while_running_is_unknown_not_wrong_bytes(tmp_path: Path, damage: str) -> None:
    async with await DiskStore.open(tmp_path) as store:
        await push_blob(store, A, CONTENT)
        path = tmp_path / "blobs" / "sha256" / DIGEST.hex
        path.unlink() if damage == "missing" else os.truncate(path, 10)
        with pytest.raises(BlobUnknown):
            await store.blob(A, DIGEST)
        await push_blob(store, A, CONTENT)
        assert await read_blob(store, A, DIGEST) == CONTENT


@pytest.mark.parametrize("damage", [b"not json", b"", None])
async def test_a_damaged_manifest_is_unknown(tmp_path: Path, damage: bytes | None) -> None:
    manifest = image()
    async with await DiskStore.open(tmp_path) as store:
        await store.put_manifest(A, manifest, ["v1"], stamp(1))
    async with await DiskStore.open(tmp_path) as store:  # with nothing in its cache
        path = tmp_path / "blobs" / "sha256" / manifest.digest.hex
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(ManifestUnknown):
            await store.manifest(A, manifest.digest)


async def test_a_blob_that_is_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path / "root") as store:
        await push_blob(store, A, CONTENT)
        (tmp_path / "elsewhere").write_bytes(CONTENT)
        path = tmp_path / "root" / "blobs" / "sha256" / DIGEST.hex
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StorageFailed):
            await store.blob(A, DIGEST)


@pytest.mark.parametrize("content", [b"this is no database" * 1000, None])
async def test_a_damaged_database_is_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    async with await DiskStore.open(tmp_path) as store:
        await push_image(store, A, [CONTENT], ["v1"], stamp(1))
    database = tmp_path / "metadata.sqlite"
    if content is None:  # damage in the middle: every page but the first
        content = database.read_bytes()[:4096] + os.urandom(database.stat().st_size - 4096)
    database.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"metadata\.sqlite is damaged .* move the whole root"):
        await DiskStore.open(tmp_path)
    assert (tmp_path / "blobs" / "sha256" / DIGEST.hex).exists()


async def test_a_missing_database_does_not_cost_the_content(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path) as store:
        await push_blob(store, A, CONTENT)
    (tmp_path / "metadata.sqlite").unlink()
    with pytest.raises(StoreCorrupt, match=r"metadata\.sqlite is missing"):
        await DiskStore.open(tmp_path)
    assert (tmp_path / "blobs" / "sha256" / DIGEST.hex).exists()


async def test_a_database_of_a_later_release_is_refused(tmp_path: Path) -> None:
    async with await DiskStore.open(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "metadata.sqlite")
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StoreError, match="a later release"):
        await DiskStore.open(tmp_path)


async def test_accesses_are_kept_without_a_write_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1_000_000_000.0
    monkeypatch.setattr(time, "time", lambda: now_s)
    async with await DiskStore.open(tmp_path) as store:
        manifest = await push_image(store, A, [CONTENT], [], stamp(1))
        now_s += 10
        await store.manifest(A, manifest.digest)
    connection = sqlite3.connect(tmp_path / "metadata.sqlite")
    rows = dict(connection.execute("SELECT digest, accessed FROM content"))
    connection.close()
    assert rows == {str(DIGEST): 1_000_000_000, str(manifest.digest): 1_000_000_010}


async def test_a_closed_store_takes_nothing(tmp_path: Path) -> None:
    store = await DiskStore.open(tmp_path)
    upload_id = await store.create_upload(A)
    async with store.upload(A, upload_id) as upload:
        await upload.write(CONTENT)
        await store.close()
        with pytest.raises(Unavailable):
            await upload.commit(DIGEST)
    with pytest.raises(Unavailable):
        await store.merge_names([NameRecord(A, "v1", None, stamp(1))])
    async with await DiskStore.open(tmp_path) as store:
        assert await store.upload_offset(A, upload_id) == len(CONTENT)
        assert await store.usage() == Usage(0, 0, 1)
