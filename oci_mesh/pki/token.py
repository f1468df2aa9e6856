"""Join tokens: all that a new node needs to be let in, as one line of text.

A token holds the authorities to trust, and an enrolment certificate with its key: with these the
node speaks mutual TLS from its first connection on, and asks for a certificate of its own. It is
a secret; it can be used until it expires, by any number of nodes.
"""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from oci_mesh.errors import ConfigError, PeerError
from oci_mesh.pki import certificates
from oci_mesh.pki.certificates import Role
from oci_mesh.pki.keys import KeyPair
from oci_mesh.pki.trust import Trust

PREFIX: Final = "ocimesh1_"

# A token is 2 kB at most; what is much longer is another file.
_MAX_TOKEN_BYTES: Final = 16 * 1024


class _Content(msgspec.Struct, array_like=True):
    trust: bytes
    certificate: bytes
    secret: bytes


@dataclass(frozen=True)
class Token:
    """`certificate` is DER, for the role `enrol`."""

    trust: Trust
    certificate: bytes
    key: KeyPair

    @property
    def expires(self) -> float:
        """Seconds since 1970."""
        return certificates.read(self.certificate).not_after

    def text(self) -> str:
        """One line."""
        content = _Content(self.trust.encoded, self.certificate, self.key.raw)
        packed = msgspec.msgpack.encode(content)
        return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The opposite of `text`. Raises `ConfigError`; never quotes it, as it is a secret."""
        body = text.strip().removeprefix(PREFIX)
        try:
            packed = base64.b64decode(body + "=" * (-len(body) % 4), b"-_", validate=True)
            content = msgspec.msgpack.decode(packed, type=_Content)
            token = cls(Trust(content.trust), content.certificate, KeyPair.from_raw(content.secret))
            holder = certificates.read(token.certificate)
        except (ValueError, RecursionError, binascii.Error, PeerError):
            raise ConfigError("the join token is damaged: was it copied whole?") from None
        if holder.role is not Role.ENROL or holder.public_key != token.key.public_key:
            raise ConfigError("the join token is damaged: its parts do not belong together")
        return token


def load_token(token: str) -> Token:
    """From the text itself, or from the file that has it. Raises `ConfigError`."""
    if token.strip().startswith(PREFIX):
        return Token.parse(token)
    try:
        with Path(token).open("rb") as file:
            text = file.read(_MAX_TOKEN_BYTES).decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(
            f"token: neither a join token ({PREFIX}…) nor a file that can be read ({reason})"
        ) from None
    if not text.strip().startswith(PREFIX):
        raise ConfigError(f"{token}: no join token in there ({PREFIX}…)")
    return Token.parse(text)
