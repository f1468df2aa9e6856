"""Keys: made once, kept secret; signatures that hold for one message of one key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.errors import ConfigError
from oci_mesh.pki import keys
from oci_mesh.pki.keys import PUBLIC_KEY_BYTES, KeyPair

ONE, TWO = KeyPair.from_raw(b"1" * 32), KeyPair.from_raw(b"2" * 32)


@given(st.binary(max_size=100))
def test_a_signature_is_of_one_key_and_one_message(message: bytes) -> None:
    """And is the same each time."""
    signature = ONE.sign(message)
    assert keys.verify(ONE.public_key, message, signature)
    assert ONE.sign(message) == signature
    assert not keys.verify(TWO.public_key, message, signature)
    assert not keys.verify(ONE.public_key, message + b"!", signature)


@pytest.mark.parametrize("public_key", [b"", b"x", bytes(PUBLIC_KEY_BYTES + 1), bytes(32)])
@pytest.mark.parametrize("signature", [b"", b"x", bytes(64)])
def test_nonsense_is_no_signature(public_key: bytes, signature: bytes) -> None:
    """Whatever a peer sends: False, no exception."""
    assert not keys.verify(public_key, b"message", signature)
    assert not keys.verify(ONE.public_key, b"message", signature)


def test_a_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    """The file has mode 0600, and nothing is beside it."""
    path = tmp_path / "node.key"
    made = KeyPair.load_or_make(path)
    assert KeyPair.load_or_make(path).public_key == made.public_key
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert KeyPair.from_raw(made.raw).public_key == made.public_key


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_damaged_key_is_not_replaced(content: bytes, tmp_path: Path) -> None:
    """Others know this node by it: that it is lost must be noticed."""
    path = tmp_path / "node.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"node\.key"):
        KeyPair.load_or_make(path)
    assert path.read_bytes() == content
