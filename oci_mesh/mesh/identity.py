"""Who this node is: an id and a key that outlive restarts, and one incarnation per start.

The key signs what this node states to others (piece lists), and it is the key of the certificate
by which they know it (`credentials`).
"""

import secrets
from pathlib import Path
from typing import Final

from oci_mesh.errors import ConfigError, StoreError
from oci_mesh.members.clock import HybridClock
from oci_mesh.pki import keys
from oci_mesh.pki.files import DIRECTORY_MODE
from oci_mesh.pki.keys import KeyPair

_FILE: Final = "node-id"

# Beneath the root: the key, the certificate, whom to trust.
DIRECTORY: Final = "identity"
KEY_FILE: Final = "node.key"


class Identity:
    """An id, and the Ed25519 key of who has it."""

    def __init__(self, node_id: str, key: KeyPair) -> None:
        self.id: Final = node_id
        self.key: Final = key
        self.public_key: Final = key.public_key

    def sign(self, message: bytes) -> bytes:
        """64 bytes. Messages of different kinds must begin differently."""
        return self.key.sign(message)


verify = keys.verify


def load_identity(root: Path, name: str | None) -> Identity:
    """The id and the key in `root`, made on the first start; see `load_node_id`.

    Raises `ConfigError`, `StoreError`.
    """
    directory = root / DIRECTORY
    try:
        directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        return Identity(load_node_id(root, name), KeyPair.load_or_make(directory / KEY_FILE))
    except OSError as error:
        raise StoreError(f"cannot open this node's identity in {root}: {error}") from error


def load_node_id(root: Path, name: str | None) -> str:
    """The configured name, or the id in `root`, which is made on the first start.

    Two nodes must not share an id: a copied root directory needs its `node-id` and its `identity`
    removed. Raises `ConfigError` for a name that cannot be one.
    """
    path = root / _FILE
    node_id = name or (path.read_text().strip() if path.exists() else "")
    if not node_id:
        node_id = f"node-{secrets.token_hex(4)}"
        path.write_text(f"{node_id}\n")
    try:
        HybridClock(node_id)
    except ValueError as error:
        raise ConfigError(f"node name: {error}") from None
    return node_id
