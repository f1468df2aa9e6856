"""The authority's directory: what it signs, and how it goes over to a new key."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from oci_mesh.errors import ConfigError, PeerError
from oci_mesh.pki import authority, certificates
from oci_mesh.pki.authority import Authority
from oci_mesh.pki.certificates import Role
from oci_mesh.pki.files import write_file
from oci_mesh.pki.keys import KeyPair
from oci_mesh.pki.trust import Trust

NOW = 1_800_000_000.0
DAY = 24 * 3600.0
NODE = KeyPair.from_raw(b"n" * 32)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A new mesh's."""
    authority.init(tmp_path / "ca", "a mesh", NOW)
    return tmp_path / "ca"


def issue(mesh: Authority, now: float, life: float = DAY) -> bytes:
    """A certificate for a node called n."""
    return mesh.issue("n", NODE.public_key, ["10.0.0.1", "host.test", "::1"], life, now)


def test_only_the_key_is_secret_and_nothing_is_overwritten(directory: Path) -> None:
    """Whoever runs `init` twice keeps the mesh."""
    files = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert files == {"ca.crt": 0o644, "ca.key": 0o600, "ca.json": 0o644}
    assert directory.stat().st_mode & 0o777 == 0o700
    before = (directory / "ca.key").read_bytes()
    with pytest.raises(ConfigError, match="not overwritten"):
        authority.init(directory, "another", NOW)
    assert (directory / "ca.key").read_bytes() == before


def test_a_certificate_says_who_and_for_how_long(directory: Path) -> None:
    """And is believed by who trusts the authority, within its life."""
    mesh = Authority.load(directory)
    trust, certificate = mesh.trust(NOW), issue(mesh, NOW)
    holder = trust.check(certificate, NOW)
    assert (holder.role, holder.name, holder.public_key) == (Role.NODE, "n", NODE.public_key)
    assert holder.not_after == NOW + DAY
    assert trust.check(certificate, NOW + DAY) == holder
    with pytest.raises(PeerError, match="expired"):
        trust.check(certificate, NOW + DAY + 1)
    with pytest.raises(PeerError, match="not valid yet"):
        trust.check(certificate, NOW - DAY)


def test_a_foreign_authoritys_certificate_is_not_believed(directory: Path, tmp_path: Path) -> None:
    """Though it has the same name and says the same."""
    foreign = authority.init(tmp_path / "other", "a mesh", NOW)
    with pytest.raises(PeerError, match="not of this mesh"):
        Authority.load(directory).trust(NOW).check(issue(foreign, NOW), NOW)


def test_a_token_is_no_nodes_certificate(directory: Path) -> None:
    """Even if it is called like one."""
    mesh = Authority.load(directory)
    token, trust = mesh.make_token("n", 60, NOW), mesh.trust(NOW)
    assert trust.check_any(token.certificate, NOW).role is Role.ENROL
    with pytest.raises(PeerError, match="join token"):
        trust.check(token.certificate, NOW)


def test_only_a_nodes_certificate_is_a_servers(directory: Path) -> None:
    """Who has but a token cannot pose as one, whatever name it is asked for."""
    mesh = Authority.load(directory)
    issued = mesh.make_token("t", 60, NOW).certificate, issue(mesh, NOW)
    usages = [
        set(
            x509.load_der_x509_certificate(each)
            .extensions.get_extension_for_class(x509.ExtendedKeyUsage)
            .value
        )
        for each in issued
    ]
    client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    assert usages == [{client}, {client, server}]


@pytest.mark.parametrize("host", ["", "a b", "a/b", "ä", "-a", "*.a", "1.2.3.4.5/8"])
def test_what_is_no_host_is_not_signed(host: str, directory: Path) -> None:
    """It comes from others."""
    with pytest.raises(ValueError, match="neither"):
        Authority.load(directory).issue("n", NODE.public_key, [host], DAY, NOW)


@pytest.mark.parametrize("damage", ["ca.crt", "ca.key", "ca.json"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_a_damaged_directory_is_refused(
    damage: str, content: bytes | None, directory: Path
) -> None:
    """In one line, by name."""
    path = directory / damage
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(directory)):
        Authority.load(directory)


def test_a_rotation_has_three_phases(directory: Path) -> None:
    """Told by the clock, from any copy of the directory."""
    before = Authority.load(directory).trust(NOW)
    Authority.load(directory).rotate(DAY, NOW)
    mesh = Authority.load(directory)
    both, new = mesh.trust(NOW + 1), mesh.trust(NOW + 2 * DAY)
    assert mesh.trust(NOW + 2 * DAY - 1).encoded == both.encoded
    assert (len(both.authorities), len(new.authorities)) == (2, 1)
    assert before.names < both.names > new.names
    assert not before.names & new.names
    assert mesh.rotation == (NOW + DAY, NOW + 2 * DAY)

    early, late = issue(mesh, NOW + 1), issue(mesh, NOW + DAY)
    assert certificates.read(early).issuer in before.names
    assert certificates.read(late).issuer in new.names
    assert both.check(early, NOW + 2) != both.check(late, NOW + DAY)
    with pytest.raises(PeerError):
        before.check(late, NOW + DAY)
    with pytest.raises(PeerError):
        new.check(early, NOW + 2)


def test_nothing_that_the_old_key_signs_outlives_its_trust(directory: Path) -> None:
    """However long certificates live, and tokens."""
    mesh = Authority.load(directory)
    mesh.rotate(DAY, NOW)
    certificate = issue(mesh, NOW, life=100 * DAY)
    assert certificates.read(certificate).not_after == NOW + 2 * DAY
    assert mesh.make_token("t", 100 * DAY, NOW).expires == NOW + 2 * DAY


def test_a_list_is_believed_by_who_trusts_its_signer_and_only_a_later_one(
    directory: Path, tmp_path: Path
) -> None:
    """So it spreads through anybody's hands, and no old one comes back."""
    mesh = Authority.load(directory)
    first = mesh.trust(NOW)
    mesh.rotate(DAY, NOW)
    both, new = mesh.trust(NOW), mesh.trust(NOW + 2 * DAY)
    assert both.succeeds(first)
    assert new.succeeds(both)
    assert not new.succeeds(first)  # it never heard of the new key
    for old, young in ((first, first), (first, both), (both, new), (first, new)):
        assert not old.succeeds(young)
    foreign = authority.init(tmp_path / "other", "a mesh", NOW)
    foreign.rotate(DAY, NOW)
    assert not foreign.trust(NOW).succeeds(first)


def test_a_list_that_was_changed_is_not_believed(directory: Path) -> None:
    """Not in any byte."""
    mesh = Authority.load(directory)
    first = mesh.trust(NOW)
    mesh.rotate(DAY, NOW)
    encoded = mesh.trust(NOW).encoded
    for at in range(len(encoded)):
        changed = bytearray(encoded)
        changed[at] ^= 1
        try:
            trust = Trust(bytes(changed))
        except PeerError:
            continue
        assert not trust.succeeds(first)


@pytest.mark.parametrize("encoded", [b"", b"x", b"\x92\xc4\x00\xc4\x00", bytes(9000)])
def test_nonsense_is_no_list(encoded: bytes) -> None:
    """Whatever a peer sends."""
    with pytest.raises(PeerError):
        Trust(encoded)


def test_the_end_of_a_rotation_comes_when_nobody_needs_the_old_key(directory: Path) -> None:
    """Or earlier, if somebody insists; the list is the same that the clock would have made."""
    Authority.load(directory).rotate(DAY, NOW)
    with pytest.raises(ConfigError, match="under way"):
        Authority.load(directory).rotate(DAY, NOW)
    with pytest.raises(ConfigError, match="in use"):
        Authority.load(directory).finish_rotation(NOW + DAY, early=False)
    by_the_clock = Authority.load(directory).trust(NOW + 2 * DAY)
    Authority.load(directory).finish_rotation(NOW + 1, early=True)
    mesh = Authority.load(directory)
    assert mesh.trust(NOW + 1).encoded == by_the_clock.encoded
    assert (directory / "ca.key").read_bytes().count(b"BEGIN") == 1
    with pytest.raises(ConfigError, match="no rotation"):
        mesh.finish_rotation(NOW, early=True)
    mesh.rotate(DAY, NOW + 3 * DAY)
    assert Authority.load(directory).trust(NOW + 3 * DAY).succeeds(by_the_clock)


@pytest.mark.parametrize("steps", range(3))
def test_a_crash_between_two_steps_leaves_the_state_before_or_after(
    steps: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a rotation's start, and of its end; both can be done again."""

    def stop_after(limit: int) -> None:
        done: list[Path] = []

        def write(path: Path, content: bytes, mode: int) -> None:
            if len(done) == limit:
                raise OSError("power cut")
            done.append(path)
            write_file(path, content, mode)

        monkeypatch.setattr(authority, "write_file", write)

    first = Authority.load(directory).trust(NOW)
    stop_after(steps)
    with pytest.raises(OSError, match="power cut"):
        Authority.load(directory).rotate(DAY, NOW)
    monkeypatch.undo()
    assert Authority.load(directory).trust(NOW).encoded == first.encoded
    Authority.load(directory).rotate(DAY, NOW)

    new = Authority.load(directory).trust(NOW + 2 * DAY)
    stop_after(steps)
    with pytest.raises(OSError, match="power cut"):
        Authority.load(directory).finish_rotation(NOW, early=True)
    monkeypatch.undo()
    mesh = Authority.load(directory)
    if mesh.rotation is not None:
        mesh.finish_rotation(NOW, early=True)
    assert Authority.load(directory).trust(NOW).encoded == new.encoded
