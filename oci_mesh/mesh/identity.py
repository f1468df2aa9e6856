"""Who this node is: an id that outlives restarts, and one incarnation per start."""

import secrets
from pathlib import Path
from typing import Final

from oci_mesh.errors import ConfigError
from oci_mesh.members.clock import HybridClock

_FILE: Final = "node-id"


def load_node_id(root: Path, name: str | None) -> str:
    """The configured name, or the id in `root`, which is made on the first start.

    Two nodes must not share an id: a copied root directory needs its `node-id` removed. Raises
    `ConfigError` for a name that cannot be one.
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
