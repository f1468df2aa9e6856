"""Lists of pieces: who signs one can be held to it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from oci_mesh import Node
from oci_mesh.errors import BlobUnknown, PeerError
from oci_mesh.mesh import statements
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.identity import Identity
from oci_mesh.mesh.statements import Signer, Statements
from oci_mesh.mesh.wire import Lookup
from oci_mesh.pki.keys import KeyPair
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Blob
from oci_mesh.swarm.statement import Statement
from oci_mesh.tasks import Background
from tests.mesh.fake_peer import piece_hashes
from tests.nodes import Client, noise, running

BLOBS = [noise(size, "listed") for size in (0, 1, 300_000, 1_048_577, 3_000_000)]
BLOB = BLOBS[-1]
DIGEST = Digest.of(BLOB)


@pytest.fixture
async def node(tmp_path: Path, client: Client) -> AsyncIterator[Node]:
    """One that has the blobs."""
    async with running(tmp_path, "a") as a:
        for blob in BLOBS:
            await client.push_blob(a, "app", blob)
        yield a


@pytest.fixture
async def made(node: Node) -> AsyncIterator[Statements]:
    """Its lists."""
    async with Background() as background:
        yield Statements(node.store, Signer(Identity("a", KeyPair.new()), None), background)


@pytest.mark.parametrize("blob", BLOBS, ids=len)
async def test_a_list_is_of_all_pieces_and_signed(blob: bytes, made: Statements) -> None:
    """Whoever checks it agrees."""
    digest = Digest.of(blob)
    stated = await made.of("app", digest)
    assert (stated.size, stated.hashes) == (len(blob), piece_hashes(blob))
    made.check(stated, digest)


async def test_what_is_not_in_the_repository_has_no_list(node: Node, made: Statements) -> None:
    """Nor is it told to others if it was made for another repository, where the blob is."""
    with pytest.raises(BlobUnknown):
        await made.of("app", Digest.of(b"nothing"))
    async with PeerClient("b") as peer:
        told = await peer.statement(node.mesh_address, Lookup("app", str(DIGEST)))
        assert told is not None
        assert told.hashes == piece_hashes(BLOB)
        assert await peer.statement(node.mesh_address, Lookup("other", str(DIGEST))) is None


async def test_many_who_ask_cost_one_reading(
    made: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and later."""
    readings = 0
    true = statements._piece_hashes

    async def counted(blob: Blob) -> bytes:
        nonlocal readings
        readings += 1
        return await true(blob)

    monkeypatch.setattr(statements, "_piece_hashes", counted)
    stated = await asyncio.gather(*(made.of("app", DIGEST) for _ in range(10)))
    assert {s.list_id for s in stated} == {(await made.of("app", DIGEST)).list_id}
    assert readings == 1


async def test_lists_are_bounded_and_made_again(
    made: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest unused goes first."""
    monkeypatch.setattr(statements, "MAX_BYTES", len(piece_hashes(BLOB)) + 32)
    for blob in reversed(BLOBS):
        await made.of("app", Digest.of(blob))
    assert made._bytes == sum(len(s.hashes) for s in made._lists.values()) <= statements.MAX_BYTES
    assert DIGEST not in made._lists
    assert (await made.of("app", DIGEST)).hashes == piece_hashes(BLOB)


async def test_the_list_by_which_a_blob_came_is_this_nodes_then(made: Statements) -> None:
    """Signed by itself: it has seen the whole."""
    other = Signer(Identity("b", KeyPair.new()), None).sign(DIGEST, len(BLOB), piece_hashes(BLOB))
    made.adopt(DIGEST, other.size, other.hashes)
    mine = await made.of("app", DIGEST)
    assert (mine.signer, mine.list_id) == ("a", other.list_id)
    made.check(mine, DIGEST)


WRONG = {
    "another signature": {"signature": bytes(64)},
    "no signature": {"signature": b""},
    "another key": {"key": KeyPair.new().public_key},
    "no key": {"key": b"short"},
    "another size": {"size": len(BLOB) - 1},
    "a size that is none": {"size": -1},
    "another piece": {"hashes": bytes(32) + piece_hashes(BLOB)[32:]},
    "a piece less": {"hashes": piece_hashes(BLOB)[:-32]},
    "another blob": {"digest": str(Digest.of(b"x"))},
    "a name that is none": {"digest": "x" * 1000},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_what_was_not_signed_so_is_refused(
    wrong: dict[str, object], made: Statements
) -> None:
    """One thing is other than when it was signed."""
    stated: Statement = await made.of("app", DIGEST)
    with pytest.raises(PeerError):
        made.check(msgspec.structs.replace(stated, **wrong), DIGEST)
