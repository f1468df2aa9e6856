"""The mesh's authority: a directory with its key, made by `oci-mesh ca init`.

    ca.crt    the authorities to trust, PEM
    ca.key    their keys, PEM, mode 0600
    ca.json   which of them signs; during a rotation, when it began and how fast it goes

A rotation has three phases, told apart by the clock alone, so that any number of nodes that have a
copy of the directory agree, and need only read it:

    from its start     both authorities are trusted, the old one still signs: the list spreads
    after one overlap  the new one signs
    after two          only the new one is trusted

With an overlap as long as certificates live, a node that was cut off all the while has nothing left
that could have been refused: its certificate has expired. Nothing that the old one signs outlives
its trust. `ca.json` is replaced last when something comes, first when something goes: a crash
between two steps leaves the state before.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from oci_mesh.errors import ConfigError
from oci_mesh.pki import certificates
from oci_mesh.pki.certificates import CLOCK_SKEW_S, Holder, Role
from oci_mesh.pki.files import DIRECTORY_MODE, PUBLIC_MODE, SECRET_MODE, write_file
from oci_mesh.pki.keys import KeyPair
from oci_mesh.pki.token import Token
from oci_mesh.pki.trust import Trust

CERTIFICATES: Final = "ca.crt"
KEYS: Final = "ca.key"
STATE: Final = "ca.json"

_END: Final = b"-----END PRIVATE KEY-----\n"


class _Rotation(msgspec.Struct):
    next: str
    started: float
    overlap: float

    @property
    def signs_from(self) -> float:
        return self.started + self.overlap

    @property
    def alone_from(self) -> float:
        return self.started + 2 * self.overlap


class _State(msgspec.Struct):
    generation: int
    active: str
    rotation: _Rotation | None = None


class Authority:
    """What the directory held when it was loaded. Fingerprints name the authorities in it."""

    def __init__(
        self,
        directory: Path,
        state: _State,
        known: dict[str, tuple[x509.Certificate, KeyPair]],
    ) -> None:
        self.directory = directory
        self._state = state
        self._known = known

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Raises `ConfigError` if `directory` is not one of an authority with its key."""
        try:
            crt = (directory / CERTIFICATES).read_bytes()
            key = (directory / KEYS).read_bytes()
            state = msgspec.json.decode((directory / STATE).read_bytes(), type=_State)
            keys = [KeyPair.from_pem(part + _END) for part in key.split(_END) if part]
            by_key = {each.public_key: each for each in keys}
            known = {
                certificates.fingerprint(each): (each, by_key[_raw(each)])
                for each in x509.load_pem_x509_certificates(crt)
                if _raw(each) in by_key
            }
            needed = [state.active, *([state.rotation.next] if state.rotation else [])]
            if missing := set(needed) - known.keys():
                raise ValueError(f"{KEYS} lacks the key of {', '.join(sorted(missing))[:16]}…")
        except OSError as error:
            raise ConfigError(
                f"{error.filename}: {error.strerror}; `oci-mesh ca init {directory}` makes the "
                "authority of a new mesh, and each node that signs for it needs a copy"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{directory} is not an authority's directory: {error}") from None
        return cls(directory, state, known)

    @property
    def rotation(self) -> tuple[float, float] | None:
        """During a rotation, from when on the new authority signs, and from when on it is alone."""
        rotation = self._state.rotation
        return None if rotation is None else (rotation.signs_from, rotation.alone_from)

    def trust(self, now: float) -> Trust:
        """The list that all nodes are to have now; the same from every copy of the directory."""
        state = self._state
        (active, key), version = self._known[state.active], 2 * state.generation
        if state.rotation is None:
            return Trust.sign(version, [active], key)
        new, new_key = self._known[state.rotation.next]
        if now < state.rotation.alone_from:
            return Trust.sign(version + 1, [active, new], key)
        return Trust.sign(version + 2, [new], new_key)

    def issue(
        self, node_id: str, public_key: bytes, hosts: Sequence[str], life_s: float, now: float
    ) -> bytes:
        """A node's certificate, DER. Raises `ValueError` for hosts that are none."""
        return self._issue(Role.NODE, node_id, public_key, life_s, now, hosts)

    def make_token(self, name: str, life_s: float, now: float) -> Token:
        """A join token; `name` tells it from others."""
        key = KeyPair.new()
        certificate = self._issue(Role.ENROL, name, key.public_key, life_s, now)
        return Token(self.trust(now), certificate, key)

    def rotate(self, overlap_s: float, now: float) -> None:
        """Begin to go over to a new key. Raises `ConfigError` if that is under way, `OSError`."""
        state = self._state
        if state.rotation is not None:
            raise ConfigError(
                f"{self.directory}: a rotation is under way; `oci-mesh ca finish-rotation` ends it"
            )
        old, key = self._known[state.active], KeyPair.new()
        name = old[0].subject.rfc4514_string().removeprefix("CN=").rpartition(" ")[0]
        new = certificates.make_authority(key, name, now)
        fingerprint = certificates.fingerprint(new)
        self._known = {state.active: old, fingerprint: (new, key)}
        _write_keys(self.directory, [*self._known.values()])
        state.rotation = _Rotation(fingerprint, now, overlap_s)
        _write_state(self.directory, state)

    def finish_rotation(self, now: float, *, early: bool) -> None:
        """Forget the old key. Raises `ConfigError` if it is still in use, unless `early`."""
        rotation = self._state.rotation
        if rotation is None:
            raise ConfigError(f"{self.directory}: no rotation is under way")
        left = rotation.alone_from - now
        if left > 0 and not early:
            raise ConfigError(
                f"{self.directory}: the old authority is in use for {left:.0f} s more; nodes that "
                "have not renewed by then would be cut off now (--early does it all the same)"
            )
        self._state = _State(self._state.generation + 1, rotation.next)
        self._known = {rotation.next: self._known[rotation.next]}
        _write_state(self.directory, self._state)
        _write_keys(self.directory, [*self._known.values()])

    def _issue(
        self,
        role: Role,
        name: str,
        public_key: bytes,
        life_s: float,
        now: float,
        hosts: Sequence[str] = (),
    ) -> bytes:
        authority, key = self._known[self._state.active]
        end = now + life_s
        rotation = self._state.rotation
        if rotation is not None and now < rotation.signs_from:
            end = min(end, rotation.alone_from)
        elif rotation is not None:
            authority, key = self._known[rotation.next]
        end = min(end, authority.not_valid_after_utc.timestamp())
        holder = Holder(role, name, public_key, "", now - CLOCK_SKEW_S, end)
        return certificates.der(certificates.make_leaf(authority, key, holder, hosts))


def init(directory: Path, name: str, now: float) -> Authority:
    """Make the authority of a new mesh. Raises `ConfigError` if there is one, `OSError`."""
    taken = [each for each in (CERTIFICATES, KEYS, STATE) if (directory / each).exists()]
    if taken:
        raise ConfigError(f"{directory / taken[0]} exists: it is not overwritten")
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    key = KeyPair.new()
    certificate = certificates.make_authority(key, name, now)
    state = _State(0, certificates.fingerprint(certificate))
    _write_keys(directory, [(certificate, key)])
    _write_state(directory, state)
    return Authority.load(directory)


def _write_keys(directory: Path, pairs: Sequence[tuple[x509.Certificate, KeyPair]]) -> None:
    write_file(directory / KEYS, b"".join(key.pem() for _, key in pairs), SECRET_MODE)
    crt = certificates.pem(*(certificate for certificate, _ in pairs))
    write_file(directory / CERTIFICATES, crt, PUBLIC_MODE)


def _write_state(directory: Path, state: _State) -> None:
    content = msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n"
    write_file(directory / STATE, content, PUBLIC_MODE)


def _raw(certificate: x509.Certificate) -> bytes:
    public = certificate.public_key()
    if not isinstance(public, Ed25519PublicKey):
        raise ValueError(f"{CERTIFICATES} has a key that is not Ed25519")
    return public.public_bytes_raw()
