"""Digests: what content is called (image-spec, "Digests").

Only the two registered algorithms exist here. `md5:`, `sha1:` and anything unknown are refused, not
"trusted as opaque": a digest that we cannot check is no digest. Hex is lower case, of exact length,
so that `str(digest)` is safe in a path and equal digests are equal text.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from oci_mesh.errors import DigestInvalid, quoted

if TYPE_CHECKING:
    from hashlib import _Hash

HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
DEFAULT_ALGORITHM: Final = "sha256"

_SHORT_LENGTH: Final = len("sha256:") + 12

_DIGEST: Final = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """`algorithm:hex`, validated. Build with `parse`, `of` or `Hasher.digest`.

    >>> str(Digest.of(b""))
    'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    """

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """Raise `DigestInvalid` unless `text` is a sha256 or sha512 digest in canonical form."""
        if _DIGEST.fullmatch(text) is None:
            raise DigestInvalid(
                f"{quoted(text)} is not a digest: "
                "expected sha256:<64 hex> or sha512:<128 hex>, lower case"
            )
        algorithm, _, hexadecimal = text.partition(":")
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, content: bytes, algorithm: str = DEFAULT_ALGORITHM) -> "Digest":
        """The digest of `content`."""
        hasher = Hasher(algorithm)
        hasher.update(content)
        return hasher.digest()

    def matches(self, content: bytes) -> bool:
        """Whether `content` is what this digest names."""
        return Digest.of(content, self.algorithm) == self

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Hasher:
    """A running digest. `size` is how many bytes it has seen."""

    __slots__ = ("_hash", "algorithm", "size")

    def __init__(self, algorithm: str = DEFAULT_ALGORITHM) -> None:
        check_algorithm(algorithm)
        self.algorithm = algorithm
        self.size = 0
        self._hash: _Hash = hashlib.new(algorithm, usedforsecurity=True)

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. hashlib lets other threads run while it works on a large chunk."""
        self._hash.update(chunk)
        self.size += len(chunk)

    def digest(self) -> Digest:
        """The digest of all bytes so far; more may follow."""
        return Digest(self.algorithm, self._hash.hexdigest())


def short(digest: str) -> str:
    """As much of a digest as people compare by eye; docker shows 12 digits too."""
    return digest[:_SHORT_LENGTH]


def check_algorithm(algorithm: str) -> None:
    """Raise `DigestInvalid` unless `algorithm` is one that we can compute."""
    if algorithm not in HEX_LENGTH:
        known = ", ".join(HEX_LENGTH)
        raise DigestInvalid(f"unknown digest algorithm {quoted(algorithm)}: one of {known}")
