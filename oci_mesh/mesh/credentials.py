"""What this node shows to the others, and whom it believes: on disk, and in TLS.

    identity/node.key   its key (`identity`)
    identity/node.crt   its certificate
    identity/trust      the authorities of its mesh

Both change while connections are open. Each change makes new contexts: those in use keep theirs,
and every handshake from then on has the new ones.
"""

import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from oci_mesh.errors import ConfigError, PeerError
from oci_mesh.mesh.identity import DIRECTORY, KEY_FILE, Identity
from oci_mesh.pki import certificates
from oci_mesh.pki.certificates import Holder
from oci_mesh.pki.files import PUBLIC_MODE, write_file
from oci_mesh.pki.token import Token
from oci_mesh.pki.trust import Trust

_CERTIFICATE_FILE: Final = "node.crt"
_TRUST_FILE: Final = "trust"


class Credentials:
    """Of one node. `client` and `server` can be used once there is a certificate to show."""

    def __init__(self, identity: Identity, root: Path) -> None:
        """Load what is there. Raises `ConfigError` for damaged files, `OSError`."""
        self.identity: Final = identity
        self._directory = root / DIRECTORY
        self._holders: WeakKeyDictionary[ssl.SSLObject, Holder] = WeakKeyDictionary()
        self._client: ssl.SSLContext
        self._server: ssl.SSLContext | None = None
        self.server: Final = _front(self._choose)
        self.trust: Trust | None = None
        self.certificate: bytes | None = None
        self.holder: Holder | None = None
        trust, certificate = (self._directory / f for f in (_TRUST_FILE, _CERTIFICATE_FILE))
        try:
            if trust.exists():
                self.trust = Trust(trust.read_bytes())
            if certificate.exists():
                self.certificate = ssl.PEM_cert_to_DER_cert(certificate.read_text())
                self.holder = certificates.read(self.certificate)
        except (ValueError, PeerError) as error:
            raise ConfigError(
                f"{self._directory} is damaged ({error}): remove {_TRUST_FILE} and "
                f"{_CERTIFICATE_FILE} from it, and start this node with a new token"
            ) from None

    @property
    def exist(self) -> bool:
        """Whether this node was in a mesh before."""
        return self.holder is not None and self.trust is not None

    @property
    def client(self) -> ssl.SSLContext:
        """For connections to other nodes. They must be asked for by `certificates.server_name`:
        that is how TLS checks that the other end is the node that was meant.
        """
        return self._client

    def check(self, now: float) -> Holder:
        """What the certificate says. Raises `PeerError` if others would not take it."""
        if self.certificate is None or self.trust is None:
            raise PeerError("this node has no certificate")
        holder = self.trust.check(self.certificate, now)
        if (holder.name, holder.public_key) != (self.identity.id, self.identity.public_key):
            raise PeerError(f"the certificate in {self._directory} is of {holder.name!r}")
        return holder

    def believe(self, trust: Trust) -> None:
        """Trust these authorities from now on. Raises `OSError`."""
        write_file(self._directory / _TRUST_FILE, trust.encoded, PUBLIC_MODE)
        self.trust = trust
        if self._server is not None:
            self.activate()

    def show(self, certificate: bytes) -> None:
        """Show this certificate from now on. Raises `PeerError` if it is not ours, `OSError`."""
        before = self.certificate
        self.certificate = certificate
        try:
            self.holder = self.check(time.time())
        except PeerError:
            self.certificate = before
            raise
        pem = ssl.DER_cert_to_PEM_cert(certificate).encode()
        write_file(self._directory / _CERTIFICATE_FILE, pem, PUBLIC_MODE)
        self.activate()

    def activate(self) -> None:
        """Make contexts of what there is."""
        assert self.trust is not None
        files = self._directory / _CERTIFICATE_FILE, self._directory / KEY_FILE
        self._client = _context(ssl.PROTOCOL_TLS_CLIENT, self.trust, *files)
        self._server = _context(ssl.PROTOCOL_TLS_SERVER, self.trust, *files)

    def peer(self, session: ssl.SSLObject) -> Holder:
        """Who is at the other end of a connection to `server`.

        Raises `PeerError` for whom the handshake would refuse by now.
        """
        holder = self._holders.get(session)
        if holder is None:
            der = session.getpeercert(binary_form=True)
            assert der is not None, "a handshake without a certificate"
            try:
                holder = self._holders[session] = certificates.read(der)
            except ValueError as error:
                raise PeerError(str(error)) from None
        assert self.trust is not None
        if holder.issuer not in self.trust.names or time.time() > holder.not_after:
            raise PeerError(f"the certificate of {holder.role} {holder.name} is no longer valid")
        return holder

    def _choose(self, session: ssl.SSLObject, name: str, front: ssl.SSLContext) -> None:
        assert self._server is not None, "not active"
        session.context = self._server


class TokenCredentials:
    """What a new node shows while it has but a join token: enough to ask for a certificate."""

    def __init__(self, token: Token, trust: Trust, root: Path) -> None:
        """Raises `OSError`."""
        # OpenSSL reads keys from files only, as Python has it.
        with tempfile.NamedTemporaryFile(dir=root / DIRECTORY) as file:
            file.write(token.key.pem() + ssl.DER_cert_to_PEM_cert(token.certificate).encode())
            file.flush()
            path = Path(file.name)
            self.client = _context(ssl.PROTOCOL_TLS_CLIENT, trust, path, path)


def _context(side: ssl._SSLMethod, trust: Trust, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 with a certificate on both sides, and only the mesh's authorities."""
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=trust.pem())
    context.load_cert_chain(certificate, key)
    return context


def _front(choose: Callable[[ssl.SSLObject, str, ssl.SSLContext], None]) -> ssl.SSLContext:
    """The listener's context, which has nothing but rules: `choose` sets another one for each
    handshake. (A live context can take a new certificate, but not forget an authority.)

    No session is resumed: that would skip the check of the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.num_tickets = 0
    context.sni_callback = choose  # called with or without a name
    return context
