"""A node's request for a certificate.

It carries its own proof: a signing request by the node's key, and over that a signature by the key
of a certificate which the mesh gave out before (of a token, or the node's present one). So whoever
hands it on can neither change it nor make one up, and what comes back is of use to that node only.
"""

from collections.abc import Sequence
from typing import Final, Self

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from oci_mesh.errors import PeerError
from oci_mesh.pki import certificates
from oci_mesh.pki.certificates import MAX_HOSTS, Holder, general_name
from oci_mesh.pki.keys import KeyPair, verify
from oci_mesh.pki.trust import Trust

_CONTEXT: Final = b"oci-mesh application 1\0"

# A certificate and a signing request take 1 kB.
MAX_APPLICATION_BYTES: Final = 8 * 1024


class Application(msgspec.Struct):
    """As it is sent."""

    request: bytes
    credential: bytes
    signature: bytes
    seen: str = ""
    """The IP address that it came from, as the node says that handed it on."""

    @classmethod
    def make(
        cls, node_id: str, hosts: Sequence[str], key: KeyPair, credential: bytes, proof: KeyPair
    ) -> Self:
        """For a node's own `key`; `proof` is the key of `credential` (DER). Raises `ValueError`."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
        )
        if hosts:
            names = x509.SubjectAlternativeName([general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        request = builder.sign(key.private, None).public_bytes(serialization.Encoding.DER)
        return cls(request, credential, proof.sign(_CONTEXT + request))


class Checked(msgspec.Struct):
    """What an application asks for, by whom."""

    node_id: str
    public_key: bytes
    hosts: list[str]
    credential: Holder


def check(application: Application, trust: Trust, now: float) -> Checked:
    """What is asked for, if it was asked rightly. Raises `PeerError` if not.

    Whether this node may have this id is another question.
    """
    credential = trust.check_any(application.credential, now)
    message = _CONTEXT + application.request
    if not verify(credential.public_key, message, application.signature):
        raise PeerError("an application that was not made by the holder of its credential")
    try:
        with certificates.parsing():
            request = x509.load_der_x509_csr(application.request)
            signed = request.is_signature_valid
            (name,) = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            hosts, public = _hosts(request), request.public_key()
    except (ValueError, InvalidSignature) as error:
        raise PeerError(f"not a signing request: {str(error)[:200]}") from None
    if not signed or not isinstance(public, Ed25519PublicKey):
        raise PeerError("a signing request that its Ed25519 key did not sign")
    if len(hosts) > MAX_HOSTS:
        raise PeerError(f"a node with more than {MAX_HOSTS} addresses")
    return Checked(str(name.value), public.public_bytes_raw(), hosts, credential)


def _hosts(request: x509.CertificateSigningRequest) -> list[str]:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]
