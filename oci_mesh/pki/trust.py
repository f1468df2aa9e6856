"""Which authorities are trusted now: one; two while the mesh goes over to a new one.

The list is numbered and signed by an authority. A node that has one takes a later one from anybody,
if an authority that it trusts already has signed it: so a rotation spreads through the mesh without
trust in who passes it on, and an old list cannot come back.
"""

from collections.abc import Sequence
from typing import Final, Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from oci_mesh.errors import PeerError
from oci_mesh.pki import certificates
from oci_mesh.pki.certificates import CLOCK_SKEW_S, Holder, Role
from oci_mesh.pki.keys import KeyPair, verify

# Two are trusted during a rotation.
MAX_AUTHORITIES: Final = 2

# Two authorities, a number and a signature take 1 kB.
MAX_TRUST_BYTES: Final = 8 * 1024

# No other thing that an authority signs begins like this (certificates begin with 0x30).
_CONTEXT: Final = b"oci-mesh trust 1\0"


class _Listed(msgspec.Struct, array_like=True):
    version: int
    authorities: list[bytes]


class _Signed(msgspec.Struct, array_like=True):
    listed: bytes
    signature: bytes


class Trust:
    """A list of authorities. `version` grows with every change of it in one mesh."""

    def __init__(self, encoded: bytes) -> None:
        """Raises `PeerError` if this is no such list; whether to believe it is `succeeds`'s."""
        try:
            if len(encoded) > MAX_TRUST_BYTES:
                raise ValueError("too long")
            signed = msgspec.msgpack.decode(encoded, type=_Signed)
            listed = msgspec.msgpack.decode(signed.listed, type=_Listed)
            with certificates.parsing():
                authorities = [x509.load_der_x509_certificate(each) for each in listed.authorities]
                names = frozenset(each.subject.rfc4514_string() for each in authorities)
        except (ValueError, RecursionError) as error:
            raise PeerError(f"not a list of authorities: {str(error)[:200]}") from None
        if not 1 <= len(authorities) <= MAX_AUTHORITIES:
            raise PeerError(f"a list of {len(authorities)} authorities")
        self.encoded: Final = encoded
        self.version: Final = listed.version
        self.authorities: Final = authorities
        self.names: Final = names
        self._signed = signed

    @classmethod
    def sign(cls, version: int, authorities: Sequence[x509.Certificate], key: KeyPair) -> Self:
        """A list, signed by one authority that those who are to believe it trust already."""
        listed = _Listed(version, [certificates.der(each) for each in authorities])
        content = msgspec.msgpack.encode(listed)
        return cls(msgspec.msgpack.encode(_Signed(content, key.sign(_CONTEXT + content))))

    def succeeds(self, earlier: Self) -> bool:
        """Whether who trusts `earlier` is to trust this from now on."""
        if self.version <= earlier.version:
            return False
        message = _CONTEXT + self._signed.listed
        keys = [each.public_key() for each in earlier.authorities]  # believed, so well formed
        return any(
            verify(key.public_bytes_raw(), message, self._signed.signature)
            for key in keys
            if isinstance(key, Ed25519PublicKey)
        )

    def pem(self) -> str:
        """The authorities, for TLS."""
        return certificates.pem(*self.authorities).decode()

    def check(self, certificate: bytes, now: float) -> Holder:
        """Of which node a certificate (DER) is. Raises `PeerError` if it is not valid now."""
        holder = self.check_any(certificate, now)
        if holder.role is not Role.NODE:
            raise PeerError(f"the certificate {holder.name!r} is a join token's")
        return holder

    def check_any(self, certificate: bytes, now: float) -> Holder:
        """As `check`, of a node or of a join token."""
        try:
            holder = certificates.read(certificate)
            leaf = x509.load_der_x509_certificate(certificate)
        except ValueError as error:
            raise PeerError(f"not a certificate of a mesh: {str(error)[:200]}") from None
        if not any(certificates.is_issued_by(leaf, each) for each in self.authorities):
            raise PeerError(f"the certificate of {holder.name!r} is not of this mesh's authority")
        if not holder.not_before - CLOCK_SKEW_S <= now:
            raise PeerError(f"the certificate of {holder.name!r} is not valid yet: compare clocks")
        if now > holder.not_after:
            raise PeerError(f"the certificate of {holder.name!r} has expired")
        return holder
