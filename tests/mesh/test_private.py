"""Private content between nodes: who has no proof is answered, on every way to it, as if there were
nothing.
"""

import asyncio
import hashlib
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from oci_mesh import Node
from oci_mesh.errors import BlobUnknown
from oci_mesh.mesh import wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.pieces import is_piece
from oci_mesh.mesh.wire import Lookup
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import parse_manifest
from oci_mesh.swarm.pieces import PieceMap
from oci_mesh.swarm.view import Entry
from tests.images import IMAGE_MANIFEST, sha256
from tests.mesh.swarms import Handler, mesh_source, nodes, wrap
from tests.mesh.upstreams import PRIVATE, Upstream, pull, pull_all, store
from tests.nodes import Answer, Client, eventually, make_image, noise

BLOB = noise(3_000_000, "private")
DIGEST = Digest.parse(sha256(BLOB))
PIECES = PieceMap(len(BLOB))
PATH = f"/v2/{PRIVATE}/blobs/{DIGEST}"

pytestmark = pytest.mark.usefixtures("fast_gossip")


class Secret:
    """An `Access` of a node that has a secret, or some other one."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def proof(self, repository: str, digest: Digest, node_id: str) -> str:
        """As `Access.proof`."""
        return hashlib.sha256(f"{self.secret} {node_id} {digest}".encode()).hexdigest()

    async def is_proven(self, repository: str, digest: Digest, node_id: str, proof: str) -> bool:
        """As `Access.is_proven`."""
        return proof == self.proof(repository, digest, node_id)


def entitle(node: Node, secret: str = "right") -> None:
    """Have it know a secret."""
    mesh_source(node)._proofs._access = Secret(secret)


async def ask(
    client: Client, node: Node, method: str, path: str, /, proof: str | None, **headers: str
) -> Answer:
    """As node `x` does, to the mesh listener."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    fields[wire.NODE_HEADER] = "x"
    if proof is not None:
        fields[wire.PROOF_HEADER] = proof
    url = f"http://{node.mesh_address}{path}"
    async with client.session.request(method, url, headers=fields) as response:
        return Answer(response.status, dict(response.headers), await response.read())


RIGHT = Secret("right").proof(PRIVATE, DIGEST, "x")
WRONG: dict[str, str | None] = {
    "none": None,
    "empty": "",
    "another secret's": Secret("wrong").proof(PRIVATE, DIGEST, "x"),
    "another node's": Secret("right").proof(PRIVATE, DIGEST, "a"),
    "another blob's": Secret("right").proof(PRIVATE, Digest.parse(sha256(b"")), "x"),
    "long": "x" * 4000,
}


def _piece(start: int, stop: int, list_id: str) -> dict[str, str]:
    return {
        "Range": f"bytes={start}-{stop - 1}",
        wire.SLOT_HEADER: "1",
        wire.LIST_HEADER: list_id,
        wire.WAIT_HEADER: "0",
    }


# Every way to a blob, and what makes it one.
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "HEAD": ("HEAD", {}),
    "GET": ("GET", {}),
    "range": ("GET", {"Range": "bytes=0-99"}),
    "piece": ("GET", _piece(*PIECES.span(0), wire.COLD)),
    "piece by no list": ("GET", _piece(*PIECES.span(0), "")),
    "no piece": ("GET", _piece(0, 7, wire.COLD)),
}


@pytest.mark.parametrize("proof", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(("method", "headers"), WAYS.values(), ids=WAYS)
async def test_without_proof_a_blob_is_unknown(
    method: str, headers: dict[str, str], proof: str | None, tmp_path: Path, client: Client
) -> None:
    """The answer is the same, to the letter, as for one that there is not."""
    async with nodes(tmp_path, "a") as (a,):
        entitle(a)
        upstream = Upstream(BLOB)
        upstream.serve(a)
        await pull(a, BLOB, PRIVATE)
        await store(a, content=BLOB, repository=PRIVATE)
        other = PATH.replace(DIGEST.hex, "0" * 64)
        refused = await ask(client, a, method, PATH, proof, **headers)
        unknown = await ask(client, a, method, other, RIGHT, **headers)
        for answer in (refused, unknown):
            answer.headers.pop("Date")
        assert refused.status == 404
        assert refused == unknown


async def test_with_proof_it_is_there(tmp_path: Path, client: Client) -> None:
    """On all of these ways."""
    async with nodes(tmp_path, "a") as (a,):
        entitle(a)
        upstream = Upstream(BLOB)
        upstream.serve(a)
        await pull(a, BLOB, PRIVATE)
        await store(a, content=BLOB, repository=PRIVATE)
        got = {way: await ask(client, a, m, PATH, RIGHT, **h) for way, (m, h) in WAYS.items()}
        statuses = {way: answer.status for way, answer in got.items()}
        assert statuses == {
            "HEAD": 200,
            "GET": 200,
            "range": 206,
            "piece": 206,
            "piece by no list": 416,
            "no piece": 416,
        }
        assert got["GET"].body == BLOB
        assert got["piece"].body == BLOB[: PIECES.piece_size]


@pytest.mark.parametrize("proof", WRONG.values(), ids=WRONG)
async def test_without_proof_its_list_is_unknown(proof: str | None, tmp_path: Path) -> None:
    """Of a blob that is here."""
    async with nodes(tmp_path, "a") as (a,), PeerClient("x") as peer:
        entitle(a)
        upstream = Upstream(BLOB)
        upstream.serve(a)
        await pull(a, BLOB, PRIVATE)
        await store(a, content=BLOB, repository=PRIVATE)
        lookup = Lookup(PRIVATE, str(DIGEST))
        headers = {} if proof is None else {wire.PROOF_HEADER: proof}
        assert await peer.statement(a.mesh_address, lookup, headers=headers) is None
        right = {wire.PROOF_HEADER: RIGHT}
        listed = await peer.statement(a.mesh_address, lookup, headers=right)
        assert listed is not None
        assert listed.digest == str(DIGEST)


@pytest.mark.parametrize("proof", WRONG.values(), ids=WRONG)
async def test_without_proof_what_is_on_its_way_is_unknown(
    proof: str | None, tmp_path: Path, client: Client
) -> None:
    """Its pieces and its list."""
    async with nodes(tmp_path, "a") as (a,), PeerClient("x") as peer:
        entitle(a)
        upstream = Upstream(BLOB)
        upstream.serve(a)
        upstream.pauses_at["a"] = len(BLOB) // 2
        pulling = asyncio.ensure_future(pull(a, BLOB, PRIVATE))
        await eventually("half is here", lambda: upstream.sent["a"] >= len(BLOB) // 2)
        for method, headers in WAYS.values():
            assert (await ask(client, a, method, PATH, proof, **headers)).status == 404
        headers = {} if proof is None else {wire.PROOF_HEADER: proof}
        lookup = Lookup(PRIVATE, str(DIGEST))
        assert await peer.statement(a.mesh_address, lookup, headers=headers) is None
        piece = await ask(client, a, "GET", PATH, RIGHT, **_piece(*PIECES.span(0), wire.COLD))
        assert piece.status == 206
        upstream.go_on.set()
        assert await pulling == BLOB


async def test_what_else_is_private_is_never_given(tmp_path: Path, client: Client) -> None:
    """Manifests, whatever is proven; and lists of what there is."""
    image = make_image("private")
    digest = Digest.parse(image.digest)
    async with nodes(tmp_path, "a") as (a,):
        entitle(a)
        manifest = parse_manifest(image.manifest, IMAGE_MANIFEST, digest.algorithm)
        await a.store.put_manifest(PRIVATE, manifest)
        proof = Secret("right").proof(PRIVATE, digest, "x")
        unknown = f"sha256:{'0' * 64}"
        paths = [
            f"/v2/{PRIVATE}/manifests/{digest}",
            f"/v2/{PRIVATE}/manifests/latest",
            f"/v2/{PRIVATE}/referrers/{digest}",
            f"/v2/{PRIVATE}/tags/list",
            f"/v2/{PRIVATE}/blobs/uploads/{'0' * 32}",
            "/v2/_catalog",
        ]
        for path in paths:
            for method in ("GET", "HEAD"):
                answer = await ask(client, a, method, path, proof)
                assert answer.status == 404, path
                assert PRIVATE.encode() not in answer.body
        there = await ask(client, a, "GET", paths[0], proof)
        absent = await ask(client, a, "GET", paths[0].replace(str(digest), unknown), proof)
        assert there.body == absent.body


@pytest.mark.parametrize(
    "path",
    [
        f"/registry.corp{PATH}",
        f"/registry.corp:443{PATH}",
        f"{PATH}?ns=registry.corp",
        f"/v2/app/blobs/{DIGEST}?ns=registry.corp",
        PATH.replace("!", "%21"),
        PATH.replace("@", "%40"),
        PATH.replace("/blobs", "//blobs"),
        f"//{PATH}",
        f"/./{PATH}",
        PATH.upper().replace("/V2/", "/v2/"),
    ],
)
async def test_there_is_no_other_way_to_it(path: str, tmp_path: Path, client: Client) -> None:
    """However the path is written: what is not understood as private must not be given as such."""
    async with nodes(tmp_path, "a") as (a,):
        entitle(a)
        upstream = Upstream(BLOB)
        upstream.serve(a)
        await pull(a, BLOB, PRIVATE)
        await store(a, content=BLOB, repository=PRIVATE)
        for method in ("GET", "HEAD", "POST", "PUT"):
            for _, headers in WAYS.values():
                url = URL(f"http://{a.mesh_address}{path}", encoded=True)
                fields = {wire.NODE_HEADER: "x", **headers}
                async with client.session.request(method, url, headers=fields) as response:
                    assert response.status >= 400
                    assert len(await response.read()) < 1000


async def test_nodes_with_a_right_to_it_share_it(tmp_path: Path) -> None:
    """Also what one of them has got already; a node without gets nothing of anybody."""
    async with nodes(tmp_path, *"abcd") as (a, b, c, d):
        upstream = Upstream(BLOB)
        upstream.serve(a, b, c)
        for node in (a, b, c):
            entitle(node)
        await pull_all(a, b, content=BLOB, repository=PRIVATE)
        before = upstream.sent.total()
        assert await pull(c, BLOB, PRIVATE) == BLOB
        assert upstream.sent.total() == before
        with pytest.raises(BlobUnknown):
            await pull(d, BLOB, PRIVATE)
        entitle(d, "wrong")
        with pytest.raises(BlobUnknown):
            await pull(d, BLOB, PRIVATE)


async def test_what_a_node_shows_is_no_use_to_others(tmp_path: Path, client: Client) -> None:
    """One that is asked with a proof cannot go with it to a third."""
    async with nodes(tmp_path, *"ab") as (a, b):
        upstream = Upstream(BLOB)
        upstream.serve(a, b)
        for node in (a, b):
            entitle(node)
        await pull(a, BLOB, PRIVATE)
        shown: set[str] = set()

        async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
            content = request.path.startswith("/v2/") or request.path == wire.STATEMENT_PATH
            if content or is_piece(request):
                shown.add(request.headers[wire.PROOF_HEADER])
            return await handler(request)

        wrap(a, wrapper)
        assert await pull(b, BLOB, PRIVATE) == BLOB
        assert len(shown) == 1
        for proof in shown:
            assert (await ask(client, a, "GET", PATH, proof)).status == 404


async def test_names_of_other_registries_are_checked_between_nodes(tmp_path: Path) -> None:
    """And copies of them are never asked for: all of it is cache."""
    async with nodes(tmp_path, "a") as (a,), PeerClient("x") as peer:
        me = a._me
        for name in ("app@", "app@UP", "a@b@c", "@x", "app!", "app@x!!"):
            with pytest.raises(Exception, match="answered 400"):
                await peer.statement(a.mesh_address, Lookup(name, str(DIGEST)))
            entry = Entry("x", "127.0.0.1:1")
            with pytest.raises(Exception, match="answered 400"):
                await peer.attend(a.mesh_address, wire.Attend(name, str(DIGEST), entry))
        for name in ("app@registry.test", PRIVATE):
            with pytest.raises(Exception, match="answered 400"):
                await peer.replicate(a.mesh_address, wire.Replicate(me, name, str(DIGEST)))
