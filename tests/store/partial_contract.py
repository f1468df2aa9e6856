"""The contract of `Partial`: pieces in any order, one holder, nothing seen before the commit."""

# ruff: noqa: D102 -- the names are sentences

import asyncio
import random

import pytest

from oci_mesh.errors import BlobUnknown, BlobUploadUnknown, DigestInvalid, UploadBusy
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.names import NameRecord
from oci_mesh.store.base import Partial, Store, Usage
from tests.store.content import push_blob, push_pieces, read_blob, stamp, write_pieces

A, B = "team/a", "team/b"
PIECE = 64 * 1024
CONTENT = random.Random(5).randbytes(10 * PIECE + 123)
SIZE = len(CONTENT)
DIGEST = Digest.of(CONTENT)
STARTS = range(0, SIZE, PIECE)


def covers(partial: Partial, start: int, stop: int) -> bool:
    """Whether one span has all of it."""
    return any(span[0] <= start and stop <= span[1] for span in partial.spans())


def write_all(partial: Partial) -> None:
    """All of `CONTENT`."""
    write_pieces(partial, CONTENT, STARTS, PIECE)


class PartialContract:
    """Partials: filled, resumed, verified, committed, dropped."""

    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    @pytest.mark.parametrize("content", [b"", b"1", CONTENT], ids=["empty", "byte", "many"])
    async def test_pieces_in_any_order_become_a_blob(
        self, store: Store, content: bytes, algorithm: str
    ) -> None:
        assert await push_pieces(store, A, content, piece=PIECE, algorithm=algorithm) == []
        assert await read_blob(store, A, Digest.of(content, algorithm)) == content
        assert await store.usage() == Usage(1, len(content), 0)

    async def test_nothing_is_seen_before_the_commit(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_all(partial)
            partial.advance(SIZE)
            with pytest.raises(BlobUnknown):
                await store.stat(A, DIGEST)
            with pytest.raises(BlobUnknown):
                await store.blob(A, DIGEST)
            with pytest.raises(BlobUnknown):
                await store.mount(B, DIGEST, None)
            assert await store.repositories() == []
            assert await store.usage() == Usage(0, 0, 1)
            await partial.commit()
            assert await store.stat(A, DIGEST) == SIZE
            assert await store.usage() == Usage(1, SIZE, 0)

    async def test_what_was_written_reads_back_and_spans_tell_where(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            assert partial.spans() == []
            assert partial.read(0, SIZE) == bytes(SIZE)
            write_pieces(partial, CONTENT, [4 * PIECE, PIECE, STARTS[-1]], PIECE)
            for start, stop in [(4, 5), (1, 2)]:
                assert covers(partial, start * PIECE, stop * PIECE)
            assert covers(partial, STARTS[-1], SIZE)
            assert not covers(partial, 0, 1)
            assert partial.spans() == sorted(partial.spans())
            assert partial.read(PIECE + 5, 2 * PIECE - 5) == CONTENT[PIECE + 5 : 2 * PIECE - 5]
            assert partial.read(2 * PIECE, 4 * PIECE) == bytes(2 * PIECE)
            assert partial.read(SIZE - 1, SIZE) == CONTENT[-1:]
            assert partial.read(7, 7) == b""
            if partial.file is not None:
                partial.file.seek(STARTS[-1])
                assert partial.file.read() == CONTENT[STARTS[-1] :]

    async def test_the_whole_is_verified_as_it_advances(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            assert (partial.hashed, partial.verified()) == (0, False)
            for start in STARTS:
                write_pieces(partial, CONTENT, [start], PIECE)
                assert not partial.verified()
                partial.advance(min(start + PIECE, SIZE))
                partial.advance(start)
                assert partial.hashed == min(start + PIECE, SIZE)
            assert partial.verified()
            partial.advance(SIZE)
            assert partial.verified()

    async def test_bytes_that_were_not_advanced_over_are_read_again(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_all(partial)
            partial.advance(3 * PIECE)
            assert not partial.verified()
            await partial.commit()
        assert await read_blob(store, A, DIGEST) == CONTENT

    @pytest.mark.parametrize("advance", [0, SIZE])
    async def test_wrong_bytes_end_it(self, store: Store, advance: int) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_all(partial)
            partial.write(5, b"not this")
            partial.advance(advance)
            assert not partial.verified()
            with pytest.raises(DigestInvalid):
                await partial.commit()
        assert await store.usage() == Usage(0, 0, 0)
        async with await store.partial(A, DIGEST, SIZE) as partial:
            assert partial.spans() == []

    async def test_one_holder_at_a_time(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE):
            with pytest.raises(UploadBusy):
                await store.partial(A, DIGEST, SIZE)
            with pytest.raises(UploadBusy):
                await store.partial(A, DIGEST, SIZE + 1)
            async with (
                await store.partial(B, DIGEST, SIZE),
                await store.partial(A, Digest.of(b"other"), 5),
            ):
                assert (await store.usage()).uploads == 3
        async with await store.partial(A, DIGEST, SIZE):
            pass

    async def test_close_keeps_the_bytes_for_the_next_holder(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_pieces(partial, CONTENT, STARTS[3:], PIECE)
            spans = partial.spans()
        async with await store.partial(A, DIGEST, SIZE) as partial:
            assert partial.spans() == spans
            assert partial.read(3 * PIECE, SIZE) == CONTENT[3 * PIECE :]
            assert partial.hashed == 0
            write_pieces(partial, CONTENT, STARTS[:3], PIECE)
            partial.advance(SIZE)
            assert partial.verified()
            await partial.commit()
        assert await read_blob(store, A, DIGEST) == CONTENT

    async def test_discard_drops_the_bytes(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_all(partial)
            await partial.discard()
            await partial.discard()
            assert (await store.usage()).uploads == 0
        async with await store.partial(A, DIGEST, SIZE) as partial:
            assert partial.spans() == []
            assert partial.read(0, SIZE) == bytes(SIZE)

    async def test_another_size_begins_anew(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE + 7) as partial:
            write_all(partial)
        async with await store.partial(A, DIGEST, SIZE) as partial:
            assert partial.size == SIZE
            assert partial.spans() == []
            write_all(partial)
            await partial.commit()
        assert await store.stat(A, DIGEST) == SIZE

    async def test_one_that_has_ended_takes_nothing(self, store: Store) -> None:
        partial = await store.partial(A, DIGEST, SIZE)
        write_all(partial)
        await partial.commit()
        with pytest.raises(BlobUploadUnknown):
            partial.write(0, b"x")
        with pytest.raises(BlobUploadUnknown):
            await partial.commit()
        await partial.discard()
        assert partial.read(0, SIZE) == CONTENT
        await store.delete_blob(A, DIGEST, stamp(1))
        assert partial.read(0, SIZE) == CONTENT
        await partial.close()
        await partial.close()
        partial = await store.partial(B, DIGEST, SIZE)
        await partial.close()
        with pytest.raises(BlobUploadUnknown):
            partial.write(0, b"x")

    async def test_a_blob_that_came_another_way_meanwhile(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_all(partial)
            await push_blob(store, A, CONTENT)
            assert await partial.commit() == []
        assert await read_blob(store, A, DIGEST) == CONTENT
        assert await store.usage() == Usage(1, SIZE, 0)

    async def test_a_copy_does_not_revive_a_deletion(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_all(partial)
            await store.merge_names([NameRecord(A, str(DIGEST), None, stamp(2))])
            with pytest.raises(BlobUnknown):
                await partial.commit()
        assert await store.usage() == Usage(0, 0, 0)
        record = NameRecord(A, str(DIGEST), str(DIGEST), stamp(3))
        assert await push_pieces(store, A, CONTENT, stamp(3), piece=PIECE) == [record]

    async def test_a_partial_expires_unless_it_is_held(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_all(partial)
            assert await store.expire_uploads(0) == 0
        assert await store.expire_uploads(3600) == 0
        assert (await store.usage()).uploads == 1
        assert await store.expire_uploads(0) == 1
        async with await store.partial(A, DIGEST, SIZE) as partial:
            assert partial.spans() == []

    async def test_no_upload_id_leads_to_a_partial(self, store: Store) -> None:
        async with await store.partial(A, DIGEST, SIZE) as partial:
            write_all(partial)
        for repository in (A, "team", ""):
            for separator in "-.:/":
                upload_id = f"{DIGEST.algorithm}{separator}{DIGEST.hex}"
                with pytest.raises(BlobUploadUnknown):
                    await store.upload_offset(repository, upload_id)
                with pytest.raises(BlobUploadUnknown):
                    await store.cancel_upload(repository, upload_id)

    async def test_a_commit_goes_on_without_its_caller(self, store: Store) -> None:
        partial = await store.partial(A, DIGEST, SIZE)
        write_all(partial)
        committing = asyncio.ensure_future(partial.commit())
        await asyncio.sleep(0)  # it waits for the disk, if there is one
        committing.cancel()
        await asyncio.wait([committing])
        await partial.close()
        while (await store.usage()).uploads:
            with pytest.raises(UploadBusy):
                await store.partial(A, DIGEST, SIZE)
            await asyncio.sleep(0)
        assert await read_blob(store, A, DIGEST) == CONTENT
        async with await store.partial(A, DIGEST, SIZE) as partial:
            assert partial.spans() == []
