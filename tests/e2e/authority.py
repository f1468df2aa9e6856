"""A certificate authority for one upstream of the tests, and the certificate that it signs."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFE: Final = timedelta(days=2)
EARLY: Final = timedelta(hours=1)  # clocks


def issue(directory: Path, hosts: Sequence[str]) -> None:
    """Write `ca.pem`, and `server.pem` with its `server.key`, which is `hosts` and signed by it."""
    directory.mkdir()
    authority_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("authority of the tests")
    authority = _certificate(name, name, authority_key.public_key(), ca=True)
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    server = _certificate(name, _name("the upstream"), key.public_key(), ca=False)
    signed = server.add_extension(names, critical=False).sign(authority_key, hashes.SHA256())
    root = authority.sign(authority_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(root.public_bytes(pem))
    (directory / "server.pem").write_bytes(signed.public_bytes(pem))
    (directory / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        .not_valid_before(now - EARLY)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
