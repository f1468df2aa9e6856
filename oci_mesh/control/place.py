"""Where the socket is: in the node's root directory, for its owner alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SOCKET: Final = "control.sock"

# Where nodes are usually installed; `OCI_MESH_ROOT` and `--root` say otherwise.
DEFAULT_ROOT: Final = Path("/var/lib/oci-mesh")


@contextmanager
def short_path(root: Path) -> Iterator[str]:
    """A path of the socket in `root` that is good within the block.

    The kernel takes no more than 107 bytes of one, so it goes by a descriptor of the directory.
    Raises `OSError` if there is no such directory, or one may not look into it.
    """
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET}"
    finally:
        os.close(directory)
