"""Whose word for a piece is taken, and who is found to have lied."""

# ruff: noqa: D103 -- the names are sentences

import hashlib
import time
from pathlib import Path

import msgspec
import pytest

from oci_mesh.errors import PeerError
from oci_mesh.mesh.credentials import Credentials
from oci_mesh.mesh.identity import Identity
from oci_mesh.mesh.statements import Forged, Signer
from oci_mesh.mesh.sworn import Sworn
from oci_mesh.pki import authority
from oci_mesh.pki.authority import Authority
from oci_mesh.pki.keys import KeyPair
from oci_mesh.spec.digest import Digest
from oci_mesh.swarm.piece_statement import PieceStatement
from oci_mesh.swarm.pieces import PieceMap
from tests.mesh.fake_peer import piece_hashes
from tests.nodes import noise

BLOB = noise(3_000_000, "sworn")
DIGEST = Digest.of(BLOB)
HASH = hashlib.sha256(b"piece").digest()


def signer(name: str) -> Signer:
    return Signer(Identity(name, KeyPair.new()), None)


def sworn(of: Signer, size: int = len(BLOB), digest: Digest = DIGEST) -> Sworn:
    return Sworn(of, lambda node: node != "stranger", digest, size)


def stated(of: Signer, piece: int = 3) -> str:
    by = sworn(of)
    by.vouch(piece, HASH)
    return by.text(piece)


def test_what_a_node_vouches_for_others_take_and_pass_on() -> None:
    mine, text = sworn(signer("me")), stated(signer("a"))
    statement = mine.check(3, text)
    assert (statement.signer, statement.hash) == ("a", HASH)
    mine.take(3, statement)
    assert mine.text(3) == text
    assert mine.text(4) == ""


def test_it_is_for_one_piece_of_one_blob_of_one_size() -> None:
    text = stated(signer("a"))
    for other, piece in (
        (sworn(signer("me")), 4),
        (sworn(signer("me"), len(BLOB) + 1), 3),
        (sworn(signer("me"), digest=Digest.of(b"")), 3),
    ):
        with pytest.raises(Forged):
            other.check(piece, text)


@pytest.mark.parametrize(
    "change",
    [
        {"hash": hashlib.sha256(b"other").digest()},
        {"key": KeyPair.new().public_key},
        {"signature": b"s" * 64},
        {"signature": b""},
        {"key": b""},
    ],
    ids=["hash", "key", "signature", "no signature", "no key"],
)
def test_what_was_changed_is_not_signed(change: dict[str, bytes]) -> None:
    changed = msgspec.structs.replace(PieceStatement.parse(stated(signer("a"))), **change)
    with pytest.raises(Forged):
        sworn(signer("me")).check(3, changed.text)


def test_a_stranger_counts_for_nothing() -> None:
    text = stated(signer("stranger"))
    shown = msgspec.structs.replace(PieceStatement.parse(text), certificate=b"any").text
    for statement in (text, shown):
        with pytest.raises(PeerError, match="unknown"):
            sworn(signer("me")).check(3, statement)


@pytest.mark.parametrize("text", ["", "x" * 10_000, "AAAA"])
def test_nonsense_is_somebodys_fault(text: str) -> None:
    with pytest.raises(PeerError):
        sworn(signer("me")).check(3, text)


def test_what_was_on_the_disk_is_not_passed_on_unless_this_node_leads() -> None:
    mine = sworn(signer("me"))
    mine.recall(3, HASH)
    assert mine.text(3) == ""
    mine.vouch_for_all()
    assert sworn(signer("b")).check(3, mine.text(3)).hash == HASH


def test_liars_are_those_who_vouched_for_what_is_not_so() -> None:
    right = piece_hashes(BLOB)
    count = PieceMap(len(BLOB)).count
    mine, liar, honest = sworn(signer("me")), sworn(signer("a")), sworn(signer("b"))
    for piece in range(count):
        by = liar if piece in (1, 4) else honest
        by.vouch(piece, HASH if by is liar else right[piece * 32 : piece * 32 + 32])
        mine.take(piece, mine.check(piece, by.text(piece)))
    assert mine.liars(right) == {"a": [1, 4]}
    assert mine.hashes != right
    assert sworn(signer("me")).liars(right) == {}


# -- with certificates


class _Shown(Credentials):
    """Those of a node that has a certificate of its mesh."""

    def __init__(self, name: str, mesh: Authority, root: Path, life: float = 3600.0) -> None:
        root.mkdir()
        super().__init__(Identity(name, KeyPair.new()), root)
        key = self.identity.public_key
        self.trust = mesh.trust(time.time())
        self.certificate = mesh.issue(name, key, [], life, time.time())


@pytest.fixture
def mesh(tmp_path: Path) -> Authority:
    authority.init(tmp_path / "ca", "test", time.time())
    return Authority.load(tmp_path / "ca")


def certified(name: str, mesh: Authority, tmp_path: Path, life: float = 3600.0) -> Signer:
    shown = _Shown(name, mesh, tmp_path / f"{name}-{time.monotonic_ns()}", life)
    return Signer(shown.identity, shown)


def test_with_certificates_it_comes_with_its_signers(mesh: Authority, tmp_path: Path) -> None:
    mine = sworn(certified("me", mesh, tmp_path))
    text = stated(certified("stranger", mesh, tmp_path))  # its certificate is enough
    for _ in range(2):  # the second time it is known
        assert mine.check(3, text).signer == "stranger"
    true = PieceStatement.parse(text)
    with pytest.raises(PeerError):
        mine.check(3, msgspec.structs.replace(true, certificate=b"").text)
    with pytest.raises(Forged):
        mine.check(3, msgspec.structs.replace(true, signer="me").text)
    other = PieceStatement.parse(stated(certified("b", mesh, tmp_path)))
    with pytest.raises(Forged):
        mine.check(3, msgspec.structs.replace(true, certificate=other.certificate).text)


def test_a_certificate_of_another_mesh_counts_for_nothing(mesh: Authority, tmp_path: Path) -> None:
    authority.init(tmp_path / "other", "other", time.time())
    other = Authority.load(tmp_path / "other")
    with pytest.raises(PeerError):
        sworn(certified("me", mesh, tmp_path)).check(3, stated(certified("a", other, tmp_path)))


def test_a_certificate_counts_until_its_end(
    mesh: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, text = sworn(certified("me", mesh, tmp_path)), stated(certified("a", mesh, tmp_path))
    assert mine.check(3, text)
    later = time.time() + 7200.0
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(PeerError):
        mine.check(3, text)
