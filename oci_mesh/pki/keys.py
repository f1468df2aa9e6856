"""Ed25519 key pairs: a node's identity, and the key of its certificate."""

from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from oci_mesh.errors import ConfigError
from oci_mesh.pki.files import SECRET_MODE, write_file

PUBLIC_KEY_BYTES: Final = 32


class KeyPair:
    """A private key and its public one."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public = private.public_key()

    @classmethod
    def new(cls) -> Self:
        """One that nobody has."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_raw(cls, secret: bytes) -> Self:
        """From the 32 bytes of `raw`. Raises `ValueError`."""
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """From PKCS #8. Raises `ValueError` if it is no Ed25519 key."""
        try:
            private = serialization.load_pem_private_key(pem, None)
        except (TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
            raise ValueError(str(error)) from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("not an Ed25519 key")
        return cls(private)

    @classmethod
    def load_or_make(cls, path: Path) -> Self:
        """The key at `path`, mode 0600, made if there is none. Only one process may do this.

        Raises `ConfigError` for what is no key, `OSError`.
        """
        if not path.exists():
            made = cls.new()
            write_file(path, made.pem(), SECRET_MODE)
            return made
        try:
            return cls.from_pem(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{path} is not a private key of a node: {error}") from None

    @property
    def public_key(self) -> bytes:
        """The raw 32 bytes."""
        return self.public.public_bytes_raw()

    @property
    def raw(self) -> bytes:
        """The secret's raw 32 bytes."""
        return self.private.private_bytes_raw()

    def pem(self) -> bytes:
        """The secret as PKCS #8, not encrypted."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the same for the same message."""
        return self.private.sign(message)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of `public_key` (raw, 32 bytes) signed; False for any nonsense."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
