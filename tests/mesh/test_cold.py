"""A blob of another registry that no node has: each byte leaves that once, and no wrong one stays
anywhere.
"""

import asyncio
import itertools
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from oci_mesh import Node
from oci_mesh.errors import BlobUnknown, OciMeshError
from oci_mesh.mesh import cold, fetch, outside, transfer, wire
from oci_mesh.mesh.pieces import is_piece
from oci_mesh.mesh.statements import Signer
from oci_mesh.mesh.sworn import Sworn
from oci_mesh.pki import authority
from oci_mesh.pki.authority import Authority
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Partial
from oci_mesh.swarm.piece_statement import PieceStatement
from oci_mesh.swarm.pieces import RUN_BYTES, PieceMap
from tests.images import sha256
from tests.mesh.swarms import Handler, all_have, mesh_source, nodes, wrap
from tests.mesh.test_fetch import unfinished
from tests.mesh.upstreams import CHUNK_BYTES, PUBLIC, Upstream, pull, pull_all, store
from tests.nodes import eventually, meet, metric, noise, running, stop

BLOB = noise(6_000_000, "cold")
SMALL = noise(300_000, "cold")
DIGEST = Digest.parse(sha256(BLOB))
PIECES = PieceMap(len(BLOB))
FAULTS = "oci_mesh_peer_faults_total"

# What a slow machine may add: a run that is asked for twice, because a node seemed to be late.
ONE_COPY = len(BLOB) + 2 * RUN_BYTES


pytestmark = pytest.mark.usefixtures("fast_gossip")


@pytest.fixture
def soon_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that nobody gives is given up early."""
    monkeypatch.setattr(transfer, "LOST_S", 0.3)
    monkeypatch.setattr(transfer, "HOPE_S", 0.5)
    monkeypatch.setattr(transfer, "_LOOK_S", 0.1)


async def give_up(*made: Node, content: bytes = BLOB) -> None:
    """All of them want it, and none gets a byte that looks like the end."""
    answers = await asyncio.gather(*(pull(n, content) for n in made), return_exceptions=True)
    assert all(isinstance(answer, OciMeshError) for answer in answers), answers
    for node in made:
        await eventually("it has ended", lambda n=node: not mesh_source(n)._blobs)  # type: ignore[misc]
        with pytest.raises(BlobUnknown):
            await node.store.stat(PUBLIC, DIGEST)


# -- once


async def test_each_byte_leaves_the_upstream_once(tmp_path: Path) -> None:
    """However many nodes want it at once; all of them read a part, and then all have it."""
    async with nodes(tmp_path, *"abcd") as made:
        upstream = Upstream(BLOB)
        upstream.serve(*made)
        await pull_all(*made, content=BLOB)
        assert len(BLOB) <= upstream.sent.total() <= ONE_COPY
        assert all(upstream.sent[node.id] for node in made)
        received = "oci_mesh_upstream_received_bytes_total"
        counted = sum(metric(node, received, registry="registry.test") for node in made)
        assert counted == upstream.sent.total()
        await store(*made, content=BLOB)
        assert all(metric(node, FAULTS) == 0 for node in made)


async def test_a_small_blob_leaves_it_once_too(tmp_path: Path) -> None:
    """It is one piece, and needs nobody's word."""
    async with nodes(tmp_path, *"abcd") as made:
        upstream = Upstream(SMALL)
        upstream.serve(*made)
        await pull_all(*made, content=SMALL)
        assert upstream.sent.total() == len(SMALL)
        await store(*made, content=SMALL)


async def test_what_is_read_goes_by_the_megabyte(tmp_path: Path) -> None:
    """Pieces are smaller: an upstream is asked for some in a row."""
    async with running(tmp_path, "a") as a:
        upstream = Upstream(BLOB)
        upstream.serve(a)
        assert await pull(a, BLOB) == BLOB
        spans = sorted((start, stop) for _, start, stop in upstream.reads)
        edges = [*range(0, len(BLOB), RUN_BYTES), len(BLOB)]
        assert spans == list(itertools.pairwise(edges))


async def test_one_node_searches_for_all(tmp_path: Path) -> None:
    """And the others neither search nor wait for longer than that takes."""
    async with nodes(tmp_path, *"abcd") as made:
        upstream = Upstream(BLOB)
        upstream.serve(*made)
        heads: Counter[str] = Counter()

        async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
            if request.method == "HEAD":
                heads[request.headers[wire.NODE_HEADER]] += 1
            return await handler(request)

        for node in made:
            wrap(node, wrapper)
        await pull_all(*made, content=BLOB)
        assert list(heads.values()) == [3]


async def test_a_node_alone_searches_nobody_and_waits_for_nothing(tmp_path: Path) -> None:
    """It asks the upstream once whether it has it, and reads it."""
    async with running(tmp_path, "a") as a:
        upstream = Upstream(BLOB)
        upstream.serve(a)
        assert await pull(a, BLOB) == BLOB
        assert upstream.asked["a"] == 1
        assert upstream.sent.total() == len(BLOB)


async def test_who_comes_later_gets_it_from_nodes(tmp_path: Path) -> None:
    """By a list that they have made of what they got piece by piece."""
    async with nodes(tmp_path, *"abc") as (a, b, c):
        upstream = Upstream(BLOB)
        upstream.serve(a, b, c)
        await pull_all(a, b, content=BLOB)
        await all_have([a, b], [a, b, c], str(DIGEST))
        before = upstream.sent.total()
        assert await pull(c, BLOB) == BLOB
        assert upstream.sent.total() == before
        assert upstream.asked["c"] == 0


async def test_who_joins_in_the_middle_takes_part(tmp_path: Path) -> None:
    """Of what the others have already nothing is read again."""
    async with nodes(tmp_path, *"abc") as (a, b, c):
        upstream = Upstream(BLOB)
        upstream.serve(a, b, c)
        upstream.pauses_at = dict.fromkeys("abc", len(BLOB) // 4)
        async with asyncio.TaskGroup() as group:
            first = [group.create_task(pull(node, BLOB)) for node in (a, b)]
            await eventually("half is here", lambda: upstream.sent.total() >= len(BLOB) // 2)
            first.append(group.create_task(pull(c, BLOB)))
            await eventually("it is in", lambda: upstream.asked["c"] == 1)
            upstream.go_on.set()
        assert all(task.result() == BLOB for task in first)
        assert upstream.sent.total() <= ONE_COPY


async def test_nodes_with_certificates_take_each_others_word(tmp_path: Path) -> None:
    """Each piece comes with who read it, and its certificate."""
    authority.init(tmp_path / "ca", "test", time.time())
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(tmp_path, "a", ca=tmp_path / "ca"))
        made = [a]
        for name in "bc":
            token = Authority.load(tmp_path / "ca").make_token(name, 600.0, time.time()).text()
            other = running(tmp_path, name, a.mesh_address, token=token)
            made.append(await stack.enter_async_context(other))
        await meet(*made)
        upstream = Upstream(BLOB)
        upstream.serve(*made)
        upstream.lies["a"] = RUN_BYTES // CHUNK_BYTES
        await pull_all(*made, content=BLOB)
        await store(*made, content=BLOB)
        for node in made[1:]:
            assert metric(node, FAULTS, peer="a", fault="corrupt") == 1
            assert metric(node, FAULTS, fault="corrupt") == 1
        assert all(upstream.sent[node.id] for node in made)


# -- when clients get it


async def test_clients_get_nothing_before_all_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is proven before; the size is known all the same."""
    async with running(tmp_path, "a") as a:
        upstream = Upstream(BLOB)
        upstream.serve(a)
        upstream.pauses_at["a"] = len(BLOB) // 2
        first_pull = asyncio.ensure_future(pull(a, BLOB))
        await eventually("half is here", lambda: upstream.sent["a"] >= len(BLOB) // 2)
        monkeypatch.setattr(fetch, "EARLY_S", 0.0)
        async with await mesh_source(a).blob(PUBLIC, DIGEST) as blob:
            assert blob.size == len(BLOB)
            chunks = blob.chunks(0, blob.size)
            first = asyncio.ensure_future(anext(chunks))
            assert not (await asyncio.wait([first], timeout=0.2))[0]
            upstream.go_on.set()
            got = await first + b"".join([chunk async for chunk in chunks])
        assert got == await first_pull == BLOB


async def half_pulled(
    a: Node, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> asyncio.Future[bytes]:
    """A pull of which half is here, and the rest does not come; clients now get what is here."""
    monkeypatch.setattr(fetch, "HOLD_S", 0.3)
    upstream.serve(a)
    upstream.pauses_at["a"] = len(BLOB) // 2
    pulling = asyncio.ensure_future(pull(a, BLOB))
    await eventually("half is here", lambda: upstream.sent["a"] >= len(BLOB) // 2)
    monkeypatch.setattr(fetch, "EARLY_S", 0.0)
    return pulling


async def test_who_has_waited_for_long_gets_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the last piece."""
    async with running(tmp_path, "a") as a:
        upstream = Upstream(BLOB)
        first_pull = await half_pulled(a, upstream, monkeypatch)
        async with await mesh_source(a).blob(PUBLIC, DIGEST) as blob:
            chunks = blob.chunks(0, blob.size)
            first = await anext(chunks)
            assert first
            assert BLOB.startswith(first)
            upstream.go_on.set()
            assert first + b"".join([chunk async for chunk in chunks]) == BLOB
        assert await first_pull == BLOB


# -- an upstream that fails


async def test_an_upstream_that_is_silent_is_left_to_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there are headers; and should it speak after all, it is stored."""
    monkeypatch.setattr(fetch, "EARLY_S", 0.3)
    async with running(tmp_path, "a") as a:
        upstream = Upstream(BLOB)
        upstream.serve(a)
        upstream.pauses_at["a"] = 0
        with pytest.raises(BlobUnknown):
            await pull(a, BLOB)
        upstream.go_on.set()
        await store(a, content=BLOB)


async def test_what_was_cut_sends_clients_to_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come back here first, and another cut would be the end of their pull. Only for a while:
    then the mesh has it from a registry that works again.
    """
    async with running(tmp_path, "a") as a:
        upstream = Upstream(BLOB)
        first_pull = await half_pulled(a, upstream, monkeypatch)
        async with await mesh_source(a).blob(PUBLIC, DIGEST) as blob:
            chunks = blob.chunks(0, blob.size)
            assert await anext(chunks)
            upstream.left["a"] = 0
            upstream.go_on.set()
            with pytest.raises(OciMeshError):
                [chunk async for chunk in chunks]
        with pytest.raises(OciMeshError):
            await first_pull
        monkeypatch.undo()
        del upstream.left["a"], upstream.pauses_at["a"]
        await eventually("it is given up", lambda: not mesh_source(a)._blobs)
        asked = upstream.asked["a"]
        with pytest.raises(BlobUnknown):
            await pull(a, BLOB)
        assert upstream.asked["a"] == asked
        mesh_source(a)._cut = dict.fromkeys(mesh_source(a)._cut, 0.0)  # a minute later
        assert await pull(a, BLOB) == BLOB


async def test_what_one_node_cannot_read_others_do(tmp_path: Path) -> None:
    """It is cut off in the middle of a run."""
    async with nodes(tmp_path, *"abc") as made:
        upstream = Upstream(BLOB)
        upstream.serve(*made)
        upstream.left["b"] = RUN_BYTES // 2
        await pull_all(*made, content=BLOB)
        assert upstream.sent["b"] <= RUN_BYTES // 2
        assert upstream.sent.total() < 2 * len(BLOB)  # both children of a root go round it


@pytest.mark.usefixtures("soon_lost")
async def test_an_upstream_that_fails_for_all_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored; and when it works again, what came is not read again."""
    monkeypatch.setattr(transfer, "GIVE_UP_S", 1000.0)
    async with nodes(tmp_path, *"ab") as made:
        upstream = Upstream(BLOB)
        upstream.serve(*made)
        upstream.left = {"a": 2 * RUN_BYTES, "b": 2 * RUN_BYTES}
        await give_up(*made)
        upstream.left.clear()
        came = upstream.sent.copy()
        assert await pull(made[0], BLOB) == BLOB
        again = upstream.sent["a"] - came["a"]
        assert again <= len(BLOB) - came["a"] + RUN_BYTES


async def test_a_restart_goes_on_with_what_is_here(tmp_path: Path) -> None:
    """What was on the disk is believed by this node, and proven by the whole."""
    upstream = Upstream(BLOB)
    upstream.pauses_at["a"] = 3 * RUN_BYTES
    async with running(tmp_path, "a") as a:
        upstream.serve(a)
        pulling = asyncio.ensure_future(pull(a, BLOB))
        await eventually("half is here", lambda: upstream.sent["a"] >= 3 * RUN_BYTES)
        await stop(a)
        with pytest.raises(OciMeshError):
            await pulling
    before = upstream.sent["a"]
    upstream.go_on.set()
    async with running(tmp_path, "a") as a:
        upstream.serve(a)
        assert await pull(a, BLOB) == BLOB
        assert upstream.sent["a"] - before <= len(BLOB) - before + 3 * RUN_BYTES
        assert upstream.sent["a"] - before < len(BLOB)


async def test_what_was_damaged_on_the_disk_is_read_again(tmp_path: Path) -> None:
    """It is found at the end, and nobody else is blamed for it."""
    upstream = Upstream(BLOB)
    async with nodes(tmp_path, *"ab") as (a, b):
        upstream.serve(a, b)
        async with await a.store.partial(PUBLIC, DIGEST, len(BLOB)) as partial:
            partial.write(0, bytes(PIECES.piece_size))
        await pull_all(a, b, content=BLOB)
        assert metric(a, FAULTS, fault="corrupt") == metric(b, FAULTS, fault="corrupt") == 0
        await store(a, b, content=BLOB)


# -- liars


async def test_a_liar_is_named_by_its_signature(tmp_path: Path) -> None:
    """One node brought wrong pieces into the mesh: all get the right ones in the end, and the
    others ask that one no more.
    """
    async with nodes(tmp_path, *"abcd") as (a, *others):
        upstream = Upstream(BLOB)
        upstream.serve(a, *others)
        upstream.lies_in_parts = {"a"}
        await pull_all(a, *others, content=BLOB)
        await store(a, *others, content=BLOB)
        for node in others:
            assert metric(node, FAULTS, peer="a", fault="corrupt") == 1
            assert metric(node, FAULTS, fault="corrupt") == 1
            assert mesh_source(node)._peers.is_banned("a")
        assert metric(a, FAULTS, fault="corrupt") == 0


async def test_the_word_of_who_has_lied_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not from a node that does not know that: such pieces are got elsewhere."""
    async with nodes(tmp_path, *"abc") as (a, b, c):
        upstream = Upstream(BLOB)
        upstream.serve(a, b, c)
        mesh_source(b)._peers.blame("a", "corrupt", OciMeshError("it did"))
        taken: list[tuple[Signer, str]] = []
        take = Sworn.take

        def noted(self: Sworn, piece: int, statement: PieceStatement) -> None:
            taken.append((self._signer, statement.signer))
            take(self, piece, statement)

        def by(node: Node) -> set[str]:
            mine = mesh_source(node)._statements.signer
            return {signer for of, signer in taken if of is mine}

        monkeypatch.setattr(Sworn, "take", noted)
        upstream.pauses_at = {"a": len(BLOB) // 2, "c": 0}
        pulls = [asyncio.ensure_future(pull(a, BLOB))]
        await eventually("a has half", lambda: upstream.sent["a"] >= len(BLOB) // 2)
        pulls.append(asyncio.ensure_future(pull(c, BLOB)))
        await eventually("c has some of it", lambda: "a" in by(c))
        pulls.append(asyncio.ensure_future(pull(b, BLOB)))
        await eventually("b has what a has", lambda: upstream.sent["b"] >= RUN_BYTES)
        upstream.go_on.set()
        assert await asyncio.gather(*pulls) == [BLOB] * 3
        assert "a" not in by(b)


async def test_who_changes_pieces_is_named_and_who_signed_them_is_not(tmp_path: Path) -> None:
    """The statement is right, and the bytes are not."""
    async with nodes(tmp_path, *"abc") as (a, b, c):
        upstream = Upstream(BLOB)
        upstream.serve(a, b, c)
        _damage(a)
        await asyncio.gather(*(pull(node, BLOB) for node in (a, b, c)))
        await store(a, b, c, content=BLOB)
        assert sum(metric(node, FAULTS, peer="a", fault="corrupt") for node in (b, c)) >= 1
        assert metric(b, FAULTS, peer="c") == metric(c, FAULTS, peer="b") == 0
        assert upstream.sent.total() < 2 * len(BLOB)


def _damage(node: Node) -> None:
    """Have one bit flipped in all that it reads of what is on its way to it: that is, sends."""
    hold = node.store.partial

    async def partial(repository: str, digest: Digest, size: int) -> Partial:
        held = await hold(repository, digest, size)
        read = held.read
        held.read = lambda start, stop: bytes([(right := read(start, stop))[0] ^ 1]) + right[1:]  # type: ignore[method-assign]
        return held

    node.store.partial = partial  # type: ignore[method-assign]


async def test_nobody_can_sign_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that names another node than has signed it does not count."""
    async with nodes(tmp_path, *"abc") as (a, b, c):
        upstream = Upstream(BLOB)
        upstream.serve(a, b, c)
        other = mesh_source(c)._statements.signer._identity.public_key
        text = Sworn.text

        def frame(self: Sworn, piece: int) -> str:
            true = text(self, piece)
            if not true or self._signer is not mesh_source(a)._statements.signer:
                return true
            stated = PieceStatement.parse(true)
            return msgspec.structs.replace(stated, signer="c", key=other).text

        monkeypatch.setattr(Sworn, "text", frame)
        await pull_all(a, b, c, content=BLOB)
        assert sum(metric(node, FAULTS, peer="a", fault="corrupt") for node in (b, c)) >= 1
        assert metric(b, FAULTS, peer="c") == metric(c, FAULTS, peer="b") == 0


async def test_a_lying_upstream_stores_nothing(tmp_path: Path, soon_lost: None) -> None:
    """Right length, wrong bytes, again and again: no node keeps any of it, or blames another."""
    async with nodes(tmp_path, *"ab") as made:
        upstream = Upstream(BLOB)
        upstream.serve(*made)
        upstream.lies = Counter(a=10**9, b=10**9)
        await give_up(*made)
        for node in made:
            await eventually("nothing stays", lambda n=node: unfinished(n) == [])  # type: ignore[misc]
            assert metric(node, FAULTS, fault="corrupt") == 0


async def test_a_lying_upstream_is_found_out_by_a_small_blob_at_once(
    tmp_path: Path, soon_lost: None
) -> None:
    """Its digest is its piece's."""
    async with running(tmp_path, "a") as a:
        upstream = Upstream(SMALL)
        upstream.serve(a)
        upstream.lies["a"] = 1000
        await give_up(a, content=SMALL)
        assert unfinished(a) == []


# -- nodes that have it, and do not give it


async def test_a_warm_swarm_that_stands_still_is_raced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upstream is asked as well, and pieces are still judged by the list."""
    monkeypatch.setattr(outside, "RACE_S", 0.2)
    async with nodes(tmp_path, *"ab") as (a, b):
        upstream = Upstream(BLOB)
        upstream.serve(a, b)
        assert await pull(a, BLOB) == BLOB
        await all_have([a], [a, b], str(DIGEST))
        hang = asyncio.Event()

        async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
            if is_piece(request):
                await hang.wait()
            return await handler(request)

        wrap(a, wrapper)
        assert await pull(b, BLOB) == BLOB
        assert upstream.sent["b"] >= len(BLOB) // 2
        hang.set()


async def test_who_only_says_that_he_has_it_does_not_keep_it_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known as having it all, it has nothing any more: the upstream has, and is asked at once."""
    monkeypatch.setattr(cold, "LEAD_S", 1000.0)
    async with nodes(tmp_path, *"ab") as (a, b):
        upstream = Upstream(BLOB)
        upstream.serve(a, b)
        assert await pull(a, BLOB) == BLOB
        await all_have([a], [a, b], str(DIGEST))

        async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
            if request.path.startswith("/v2/") or request.path == wire.STATEMENT_PATH:
                return web.Response(status=404)
            return await handler(request)

        wrap(a, wrapper)
        assert await pull(b, BLOB) == BLOB
        assert len(BLOB) <= upstream.sent["b"] <= ONE_COPY
