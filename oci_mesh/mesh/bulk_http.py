"""The HTTP/1.1 of the bulk path (RFC 9112): a GET to write, the head of an answer to read.

Only what our own nodes send is understood. A head that folds or repeats a field, is chunked or has
no length is refused: nothing is guessed of where a body ends.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

# An answer about a piece has some ten short fields.
MAX_HEAD_BYTES: Final = 8 * 1024

# The body of an answer that is not content, so an error in JSON. It is read to keep the connection.
MAX_REASON_BYTES: Final = 16 * 1024

HEAD_END: Final = b"\r\n\r\n"

# The statuses whose body is what was asked for.
CONTENT: Final = frozenset({200, 206})

_BODILESS: Final = frozenset({204, 304})
_PATH: Final = re.compile(r"/[!-~]*")
_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE: Final = r"[\t -~]*"
_FIELD: Final = re.compile(rf"{_NAME}:{_VALUE}")
_HEAD: Final = re.compile(rf"HTTP/1\.1 ([2-5][0-9][0-9])(?: {_VALUE})?((?:\r\n{_NAME}:{_VALUE})*)")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")


class Head(NamedTuple):
    """What came before the body."""

    status: int
    headers: dict[str, str]
    """Values by lower-case name."""

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this answer."""
        return "close" in self.headers.get("connection", "").lower()


def fields(headers: Mapping[str, str]) -> str:
    """Header lines. Nothing can be smuggled in: a line break in a name or value is our fault."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    for line in lines:
        assert _FIELD.fullmatch(line), f"not a header: {line!r}"
    return "".join(f"{line}\r\n" for line in lines)


def request(address: str, path: str, *lines: str) -> bytes:
    """A GET of `path`, already escaped, from `address`; `lines` are made by `fields`."""
    assert _PATH.fullmatch(path), f"not a path: {path!r}"
    return f"GET {path} HTTP/1.1\r\nHost: {address}\r\n{''.join(lines)}\r\n".encode("ascii")


def parse_head(head: bytes | bytearray) -> Head:
    """A head without the empty line at its end. Raises `ValueError` if it is not of our form."""
    match = _HEAD.fullmatch(head.decode("ascii"))
    if match is None:
        raise ValueError("not a head of HTTP/1.1")
    headers: dict[str, str] = {}
    for line in match[2].split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name = name.lower()
        if name in headers:
            raise ValueError(f"two of {name}")
        headers[name] = value.strip(" \t")
    return Head(int(match[1]), headers)


def body_length(head: Head, expected: int) -> int:
    """How many bytes follow. Raises `ValueError` if that is not said, if it is content of any
    other length than `expected`, or a reason over `MAX_REASON_BYTES`.
    """
    if "transfer-encoding" in head.headers:
        raise ValueError("a transfer encoding")
    if head.status in _BODILESS:
        return 0
    text = head.headers.get("content-length", "")
    if not _LENGTH.fullmatch(text):
        raise ValueError("no length")
    length = int(text)
    if head.status in CONTENT and length != expected:
        raise ValueError(f"{length} bytes where {expected} were asked for")
    if head.status not in CONTENT and length > MAX_REASON_BYTES:
        raise ValueError(f"{length} bytes with status {head.status}")
    return length
