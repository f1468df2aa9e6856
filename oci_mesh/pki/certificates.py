"""The mesh's certificates: X.509 with Ed25519 keys, for TLS 1.3.

Three kinds. An *authority* signs the others. A *node*'s certificate names its id and addresses and
serves both ends of a connection. An *enrolment* certificate is what a join token holds: it opens a
connection, but no node may take it for a server, and it may ask for one thing only.

A node is named by a URI, `oci-mesh://node/ID`, and by a host name derived from it (`server_name`),
so that TLS itself checks in the handshake that the node at the other end is the one that was meant.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from oci_mesh.pki.keys import KeyPair

# Clocks of the nodes of one mesh may differ by so much.
CLOCK_SKEW_S: Final = 300.0

# Of an authority. Rotation is for sooner; this is for the mesh that nobody looks after.
AUTHORITY_LIFE_S: Final = 10 * 365 * 24 * 3600.0

# Addresses of one node: more are nobody's need and everybody's handshake.
MAX_HOSTS: Final = 8

_URI: Final = "oci-mesh://"
_ANY_NODE: Final = "node.oci-mesh"
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")


class Role(StrEnum):
    """What a certificate is for."""

    NODE = "node"
    ENROL = "enrol"


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a certificate speaks of."""

    role: Role
    name: str
    """A node's id, or a token's number."""
    public_key: bytes
    """Raw, 32 bytes."""
    issuer: str
    """The name of the authority."""
    not_before: float
    not_after: float
    """Seconds since 1970; the last one in which it is valid."""


def server_name(node_id: str | None) -> str:
    """The host name in the certificate of a node, for TLS to look for; None means any node.

    A hash, as ids may be longer than a label and differ only in case.
    """
    if node_id is None:
        return _ANY_NODE
    return f"{hashlib.sha256(node_id.encode()).hexdigest()[:32]}.{_ANY_NODE}"


def make_authority(key: KeyPair, name: str, now: float) -> x509.Certificate:
    """A self-signed authority; its key's fingerprint makes its name one of a kind."""
    fingerprint = hashlib.sha256(key.public_key).hexdigest()[:16]
    subject = _name(f"{name[:40]} {fingerprint}")
    builder = _builder(subject, subject, key.public, now, now + AUTHORITY_LIFE_S)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return builder.sign(key.private, None)


def make_leaf(
    authority: x509.Certificate,
    authority_key: KeyPair,
    holder: Holder,
    hosts: Iterable[str] = (),
) -> x509.Certificate:
    """The certificate of `holder`, who can be reached at `hosts` (names or addresses).

    Raises `ValueError` for hosts that are neither.
    """
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(f"{_URI}{holder.role}/{holder.name}")
    ]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if holder.role is Role.NODE:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        names += [x509.DNSName(server_name(each)) for each in (None, holder.name)]
        names += [general_name(host) for host in hosts]
    public = Ed25519PublicKey.from_public_bytes(holder.public_key)
    builder = _builder(
        _name(holder.name), authority.subject, public, holder.not_before, holder.not_after
    )
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public)
    builder = builder.add_extension(issuer_key, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority_key.private, None)


@contextmanager
def parsing() -> Iterator[None]:
    """Whatever `cryptography` raises for what others made up, as `ValueError`."""
    try:
        yield
    except (
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.UnsupportedGeneralNameType,
        UnsupportedAlgorithm,
    ) as error:
        raise ValueError(str(error)) from None


def read(der: bytes) -> Holder:
    """What a certificate says, whoever signed it. Raises `ValueError` if it is none of a mesh."""
    with parsing():
        return _read(x509.load_der_x509_certificate(der))


def _read(certificate: x509.Certificate) -> Holder:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not uris[0].startswith(_URI):
        raise ValueError("a certificate of something else than a mesh")
    role, _, name = uris[0].removeprefix(_URI).partition("/")
    public = certificate.public_key()
    if not isinstance(public, Ed25519PublicKey):
        raise ValueError("a certificate with a key that is not Ed25519")
    return Holder(
        Role(role),
        name,
        public.public_bytes_raw(),
        issuer_name(certificate),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def issuer_name(leaf: x509.Certificate) -> str:
    """The name of the authority that a certificate says has signed it."""
    return leaf.issuer.rfc4514_string()


def is_issued_by(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority` signed it."""
    try:
        leaf.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 over DER, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def pem(*certificates: x509.Certificate) -> bytes:
    """One after another."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def der(certificate: x509.Certificate) -> bytes:
    """The bytes that are signed and sent."""
    return certificate.public_bytes(serialization.Encoding.DER)


def general_name(host: str) -> x509.GeneralName:
    """A host as certificates name it. Raises `ValueError` for what is neither name nor address."""
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        if _HOST_NAME.fullmatch(host) is None:
            raise ValueError(f"{host[:80]!r} is neither a host's name nor its address") from None
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: Ed25519PublicKey, start: float, end: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(int(start), UTC))
        .not_valid_after(datetime.fromtimestamp(int(end), UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
