"""The bytes of a blob on its way: what is checked can be read, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oci_mesh.errors import PeerError
from oci_mesh.mesh.assembly import Assembly, PieceHere, Receiver
from oci_mesh.spec.digest import Digest
from oci_mesh.store.disk import DiskStore
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.statement import Statement
from tests.mesh.fake_peer import piece_hashes
from tests.nodes import noise

BLOB = noise(1_500_000, "assembled")
DIGEST = Digest.of(BLOB)
PIECES = PieceMap(len(BLOB))
LAST = PIECES.count - 1
LIST = Statement(str(DIGEST), len(BLOB), piece_hashes(BLOB), "", b"", b"")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DiskStore]:
    """On disk."""
    async with await DiskStore.open(tmp_path / "root") as opened:
        yield opened


@pytest.fixture
async def assembly(store: DiskStore) -> AsyncIterator[Assembly]:
    """With nothing yet."""
    async with await store.partial("app", DIGEST, len(BLOB)) as partial:
        yield Assembly(partial, LIST)


def receive(assembly: Assembly, piece: int, content: bytes = BLOB) -> bool:
    """A whole piece, in two parts; whether it was right."""
    start, stop = assembly.pieces.span(piece)
    middle = (start + stop) // 2
    receiver = Receiver(assembly, piece, lambda: None)
    receiver(memoryview(content)[start:middle])
    receiver(memoryview(content)[middle:stop])
    right = receiver.finish()
    receiver.close()
    return right


async def test_what_is_right_can_be_read_up_to_what_is_missing(assembly: Assembly) -> None:
    """From any place on, in any order of coming; of the last piece nothing."""
    assert [assembly.readable(at) for at in (0, 5, len(BLOB) - 1)] == [0, 5, len(BLOB) - 1]
    receive(assembly, 2)
    start, stop = PIECES.span(2)
    assert assembly.readable(0) == 0
    assert assembly.readable(start + 7) == stop
    receive(assembly, 0)
    assert assembly.readable(0) == PIECES.span(0)[1]
    receive(assembly, 1)
    assert assembly.readable(0) == stop
    for piece in range(3, PIECES.count):
        receive(assembly, piece)
    assert assembly.readable(0) == PIECES.span(LAST)[0]
    assert assembly.readable(len(BLOB) - 1) == len(BLOB) - 1
    assembly.release()
    assert assembly.readable(0) == len(BLOB)
    assert assembly.partial.read(0, len(BLOB)) == BLOB


@pytest.mark.parametrize("late", [False, True])
async def test_in_doubt_nothing_can_be_read_before_all_is_right(
    late: bool, store: DiskStore
) -> None:
    """From the beginning, or from then on."""
    async with await store.partial("app", DIGEST, len(BLOB)) as partial:
        assembly = Assembly(partial, LIST, withhold=not late)
        receive(assembly, 0)
        assembly.doubt()
        assert assembly.readable(0) == 0
        waiting = asyncio.create_task(assembly.some())
        await asyncio.sleep(0)
        assert not waiting.done()
        assembly.release()
        await waiting
        assert assembly.readable(0) == len(BLOB)


async def test_a_wrong_piece_is_not_there(assembly: Assembly) -> None:
    """It can come again, rightly."""
    assert not receive(assembly, 1, bytes(len(BLOB)))
    assert not assembly.good[1]
    assert receive(assembly, 1)
    start, stop = PIECES.span(1)
    assert assembly.partial.read(start, stop) == BLOB[start:stop]


@pytest.mark.parametrize("liar_first", [True, False])
async def test_of_two_that_come_at_once_the_right_one_counts(
    liar_first: bool, assembly: Assembly
) -> None:
    """They do not mix, whoever began, and whoever is ready first."""
    start, stop = PIECES.span(1)
    contents = [bytes(len(BLOB)), BLOB] if liar_first else [BLOB, bytes(len(BLOB))]
    receivers = [Receiver(assembly, 1, lambda: None) for _ in contents]
    for at in range(start, stop, 65536):
        for receiver, content in zip(receivers, contents, strict=True):
            receiver(memoryview(content)[at : min(stop, at + 65536)])
    assert [receiver.finish() for receiver in receivers] == [not liar_first, liar_first]
    for receiver in receivers:
        receiver.close()
    assert assembly.partial.read(start, stop) == BLOB[start:stop]
    assert not assembly.arriving


async def test_who_comes_after_the_piece_is_sent_away(assembly: Assembly) -> None:
    """And writes nothing."""
    slow = Receiver(assembly, 1, lambda: None)
    receive(assembly, 1)
    with pytest.raises(PieceHere):
        slow(memoryview(bytes(10)))
    slow.close()
    start, stop = PIECES.span(1)
    assert assembly.partial.read(start, stop) == BLOB[start:stop]


async def test_a_piece_that_broke_off_is_not_right(assembly: Assembly) -> None:
    """Nor is one that is too long."""
    start, stop = PIECES.span(0)
    receiver = Receiver(assembly, 0, lambda: None)
    receiver(memoryview(BLOB)[start : stop - 1])
    assert not receiver.finish()
    receiver(memoryview(BLOB)[stop - 1 : stop])
    assert receiver.finish()


async def test_the_whole_is_hashed_as_it_comes(assembly: Assembly) -> None:
    """Out of order too; and a list that was wrong shows."""
    hashing = asyncio.create_task(assembly.hash_whole())
    for piece in reversed(range(PIECES.count)):
        receive(assembly, piece)
        await asyncio.sleep(0)
    assert await hashing


async def test_the_whole_is_hashed_some_pieces_at_a_time(assembly: Assembly) -> None:
    """A step when it is here, and what is left at the end: not each piece for itself."""
    hashing = asyncio.create_task(assembly.hash_whole())
    seen = [0]
    for piece in range(PIECES.count):
        receive(assembly, piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if assembly.partial.hashed != seen[-1]:
            seen.append(assembly.partial.hashed)
    assert seen == [0, 1024 * 1024, len(BLOB)]
    assert await hashing


async def test_a_wrong_list_shows_in_the_whole(store: DiskStore) -> None:
    """Each piece is as listed."""
    wrong = noise(len(BLOB), "wrong")
    listed = Statement(str(DIGEST), len(BLOB), piece_hashes(wrong), "", b"", b"")
    async with await store.partial("app", DIGEST, len(BLOB)) as partial:
        assembly = Assembly(partial, listed)
        assert all(receive(assembly, piece, wrong) for piece in range(PIECES.count))
        assert not await assembly.hash_whole()


async def test_what_was_left_is_checked(store: DiskStore) -> None:
    """By an earlier transfer: right pieces count, others do not."""
    async with await store.partial("app", DIGEST, len(BLOB)) as partial:
        first = Assembly(partial, LIST)
        for piece in (0, 2, LAST):
            receive(first, piece)
        partial.write(PIECES.span(2)[0] + 9, b"spoilt")
    async with await store.partial("app", DIGEST, len(BLOB)) as partial:
        again = Assembly(partial, LIST)
        assert await again.resume() == [0, LAST]
        assert again.readable(0) == PIECES.span(0)[1]


@pytest.mark.parametrize("content", [b"", b"x", noise(300_000)])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_small_blob_needs_no_list(content: bytes, algorithm: str, store: DiskStore) -> None:
    """It is one piece, and its digest is that piece's hash. Empty, it is here from the start."""
    digest = Digest.of(content, algorithm)
    async with await store.partial("app", digest, len(content)) as partial:
        assembly = Assembly(partial, None)
        assert await assembly.resume() == ([] if content else [0])
        if content:
            assert receive(assembly, 0, content)
        assert await assembly.hash_whole()


async def test_who_waits_hears_the_end(assembly: Assembly) -> None:
    """Good or bad."""
    waits = (assembly.available(0), assembly.some(), assembly.stored())
    waiting = [asyncio.create_task(wait) for wait in waits]
    await asyncio.sleep(0)
    assembly.fail(PeerError("no more"))
    for wait in waiting:
        with pytest.raises(PeerError):
            await wait
