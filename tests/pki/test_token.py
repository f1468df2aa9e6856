"""Join tokens, and the applications that are made with them."""

from pathlib import Path

import msgspec
import pytest

from oci_mesh.errors import ConfigError, PeerError
from oci_mesh.pki import application, authority
from oci_mesh.pki.application import Application
from oci_mesh.pki.authority import Authority
from oci_mesh.pki.certificates import MAX_HOSTS, Role
from oci_mesh.pki.keys import KeyPair
from oci_mesh.pki.token import PREFIX, Token, load_token

NOW = 1_800_000_000.0
KEY = KeyPair.from_raw(b"k" * 32)


@pytest.fixture
def mesh(tmp_path: Path) -> Authority:
    """A new one."""
    return authority.init(tmp_path / "ca", "a mesh", NOW)


@pytest.fixture
def token(mesh: Authority) -> Token:
    """Good for an hour."""
    return mesh.make_token("t", 3600, NOW)


# -- tokens


def test_a_token_is_one_word_and_comes_back_from_it_or_from_a_file(
    token: Token, tmp_path: Path
) -> None:
    """With white space around it."""
    text = token.text()
    assert text.startswith(PREFIX)
    assert text.split() == [text]
    (tmp_path / "file").write_text(f"\n{text}\n")
    for place in (text, f" {text}\n", str(tmp_path / "file")):
        loaded = load_token(place)
        assert loaded.certificate == token.certificate
        assert loaded.key.raw == token.key.raw
        assert loaded.trust.encoded == token.trust.encoded
        assert loaded.expires == NOW + 3600


def test_what_is_no_token_is_refused_and_not_repeated(token: Token, tmp_path: Path) -> None:
    """Cut, changed, of something else: in one line that has nothing of the secret."""
    text = token.text()
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    cases = [text[:-10], text + "AAAA", PREFIX, PREFIX + "ä", PREFIX + "AAAA", text[:500], "", "x"]
    cases += [str(tmp_path), str(tmp_path / "empty"), str(tmp_path / "binary")]
    for case in cases:
        with pytest.raises(ConfigError, match="token") as caught:
            load_token(case)
        assert text[60:80] not in str(caught.value)


def test_a_token_with_anothers_key_is_refused(mesh: Authority, token: Token) -> None:
    """Before it is used."""
    other = mesh.make_token("u", 3600, NOW)
    mixed = Token(token.trust, token.certificate, other.key)
    with pytest.raises(ConfigError, match="damaged"):
        Token.parse(mixed.text())


# -- applications


def make(token: Token, node_id: str = "n", hosts: tuple[str, ...] = ("10.0.0.1",)) -> Application:
    """By a new node."""
    return Application.make(node_id, hosts, KEY, token.certificate, token.key)


def test_an_application_says_who_asks_for_what(mesh: Authority, token: Token) -> None:
    """Sent as JSON."""
    sent = msgspec.json.decode(
        msgspec.json.encode(make(token, hosts=("a.test", "::1"))), type=Application
    )
    asked = application.check(sent, mesh.trust(NOW), NOW)
    assert (asked.node_id, asked.public_key) == ("n", KEY.public_key)
    assert set(asked.hosts) == {"a.test", "::1"}
    assert (asked.credential.role, asked.credential.name) == (Role.ENROL, "t")


def test_nobody_can_change_an_application_or_make_one_up(mesh: Authority, token: Token) -> None:
    """Not who hands it on, and not who saw a token's certificate without its key."""
    trust, mine, other = mesh.trust(NOW), make(token), make(mesh.make_token("u", 60, NOW), "evil")
    forged = [
        Application(other.request, mine.credential, mine.signature),
        Application(mine.request, mine.credential, other.signature),
        Application(mine.request, other.credential, mine.signature),
        Application(mine.request, mine.credential, b""),
        Application(b"", mine.credential, token.key.sign(b"")),
        Application(mine.request, b"", mine.signature),
        Application.make("n", (), KEY, token.certificate, KEY),
    ]
    for each in forged:
        with pytest.raises(PeerError):
            application.check(each, trust, NOW)


def test_an_expired_or_foreign_token_asks_in_vain(
    mesh: Authority, token: Token, tmp_path: Path
) -> None:
    """Each with its reason."""
    with pytest.raises(PeerError, match="expired"):
        application.check(make(token), mesh.trust(NOW), NOW + 3601)
    foreign = authority.init(tmp_path / "other", "a mesh", NOW).make_token("t", 3600, NOW)
    with pytest.raises(PeerError, match="not of this mesh"):
        application.check(make(foreign), mesh.trust(NOW), NOW)


def test_a_node_has_a_handful_of_addresses(mesh: Authority, token: Token) -> None:
    """Or its certificate would be everybody's burden."""
    many = tuple(f"10.0.0.{i}" for i in range(MAX_HOSTS + 1))
    application.check(make(token, hosts=many[1:]), mesh.trust(NOW), NOW)
    with pytest.raises(PeerError, match="addresses"):
        application.check(make(token, hosts=many), mesh.trust(NOW), NOW)


@pytest.mark.parametrize("part", ["request", "credential"])
def test_no_byte_of_an_application_can_mean_something_else(
    part: str, mesh: Authority, token: Token
) -> None:
    """Even where the holder of a token made it so: only what was signed is believed, and nothing
    that can be sent raises anything else. (How many bits of a signature are unused means nothing.)
    """
    good, trust = make(token), mesh.trust(NOW)
    asked, content = application.check(good, trust, NOW), getattr(good, part)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1
        sent = msgspec.structs.replace(good, **{part: bytes(changed)})
        sent.signature = token.key.sign(application._CONTEXT + sent.request)
        try:
            assert application.check(sent, trust, NOW) == asked
        except PeerError:
            continue
