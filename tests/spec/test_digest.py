"""Digests: exactly two algorithms, exactly one spelling each."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.errors import DigestInvalid
from oci_mesh.spec.digest import Digest, Hasher, check_algorithm
from tests.spec import strategies
from tests.spec.attempt import attempt

HEX = "0123456789abcdef" * 4

NOT_DIGESTS = {
    "nothing": "",
    "no algorithm": HEX,
    "no hex": "sha256:",
    "no colon": "sha256" + HEX,
    "two colons": "sha256::" + HEX,
    "63 digits": "sha256:" + HEX[:63],
    "65 digits": "sha256:" + HEX + "0",
    "a sha256 value as sha512": "sha512:" + HEX,
    "a sha512 value as sha256": "sha256:" + HEX + HEX,
    "upper-case hex": "sha256:" + HEX.upper(),
    "one upper-case digit": "sha256:" + HEX[:-1] + "F",
    "upper-case algorithm": "SHA256:" + HEX,
    "not hex": "sha256:" + "g" * 64,
    "md5": "md5:" + "0" * 32,
    "sha1": "sha1:" + "0" * 40,
    "sha384": "sha384:" + "0" * 96,
    "unknown algorithm": "future+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
    "climbing out": "sha256:../../../../etc/passwd",
    "climbing out, of the right length": "sha256:" + "../" * 21 + "x",
    "an encoded slash": "sha256:..%2f" + "0" * 58,
    "a newline after it": f"sha256:{HEX}\n",
    "spaces after it": f"sha256:{HEX}  ",
    "a space before it": f" sha256:{HEX}",
    "NUL": f"sha256:{HEX[:-1]}\0",
    "digits that are not ASCII": "sha256:" + "٣" * 64,
    "the suite's": "sha256:baddigeststring",
}


@pytest.mark.parametrize("text", NOT_DIGESTS.values(), ids=NOT_DIGESTS.keys())
def test_refuses_what_is_no_digest(text: str) -> None:
    """Everything but the canonical form of a digest that we can compute is refused."""
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@pytest.mark.parametrize(
    ("algorithm", "content", "expected"),
    [
        # FIPS 180-4 examples, and the empty blob.
        ("sha256", b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("sha256", b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (
            "sha512",
            b"abc",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
            "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
    ],
)
def test_known_digests(algorithm: str, content: bytes, expected: str) -> None:
    """Digests are what the standard says they are."""
    digest = Digest.of(content, algorithm)
    assert str(digest) == f"{algorithm}:{expected}"
    assert digest.matches(content)
    assert not digest.matches(content + b"\0")


@given(strategies.digests)
def test_round_trip(digest: Digest) -> None:
    """What is written out is read back as the same digest."""
    assert Digest.parse(str(digest)) == digest


@given(strategies.text)
def test_any_text(text: str) -> None:
    """Any text is a digest, to the letter, or a `DigestInvalid` with a short message."""
    digest = attempt(Digest.parse, text)
    if isinstance(digest, Digest):
        assert str(digest) == text
        assert re.fullmatch(r"sha(256|512):[0-9a-f]+", text)
    else:
        assert isinstance(digest, DigestInvalid)


@given(
    st.binary(max_size=200), st.lists(st.integers(0, 200)), st.sampled_from(["sha256", "sha512"])
)
def test_hasher_takes_any_cut(content: bytes, cuts: list[int], algorithm: str) -> None:
    """A running digest does not depend on how the bytes come, nor on being looked at."""
    hasher = Hasher(algorithm)
    edges = sorted(cut for cut in cuts if cut <= len(content))
    for start, stop in zip([0, *edges], [*edges, len(content)], strict=True):
        hasher.update(memoryview(content)[start:stop])
        assert hasher.digest().hex == hashlib.new(algorithm, content[:stop]).hexdigest()
    assert hasher.size == len(content)


@pytest.mark.parametrize("algorithm", ["", "md5", "sha1", "SHA256", "sha3_256", "a" * 10_000])
def test_refuses_unknown_algorithms(algorithm: str) -> None:
    """No digest is computed, trusted or even begun by an algorithm that is not registered."""
    with pytest.raises(DigestInvalid):
        check_algorithm(algorithm)
    with pytest.raises(DigestInvalid):
        Hasher(algorithm)
    with pytest.raises(DigestInvalid):
        Digest.of(b"", algorithm)
