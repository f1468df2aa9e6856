"""`node join` before the first start: a join token becomes a certificate in the root directory.

It is made in a directory beside the root, and moved there when all has been checked: that a node
of the mesh answers, and takes the certificate. A failure leaves the root as it was.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from oci_mesh.control.upkeep import JoinResult, Unreachable
from oci_mesh.errors import OciMeshError, OperationFailed, PeerError
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.enrolment import obtain
from oci_mesh.mesh.identity import DIRECTORY, load_identity
from oci_mesh.operations.join import explain, find_unreachable
from oci_mesh.pki.files import DIRECTORY_MODE
from oci_mesh.pki.token import load_token
from oci_mesh.pki.trust import Trust
from oci_mesh.store.layout import Layout
from oci_mesh.store.lock import RootLock

_ID_FILE: Final = "node-id"


async def enrol(
    root: Path, name: str | None, token: str | None, addresses: list[str], hosts: Sequence[str]
) -> JoinResult:
    """Make `root` that of a node of the mesh whose nodes are at `addresses`.

    Without a token it has to be one already; or nodes prove nothing, and it is just looked whether
    one answers. Raises `ConfigError`, `OperationFailed`, `StoreLocked`, `OSError`. Idempotent.
    """
    root = Path(os.path.abspath(root))
    with _locked(root), _staging(root) as staging:
        identity = load_identity(staging, name)
        trust = None if token is None else load_token(token).trust
        try:
            credentials = await obtain(identity, staging, None, token, addresses, hosts, once=True)
        except PeerError as error:
            raise await _refused(addresses, trust, error) from None
        known = None if credentials is None else credentials.trust
        async with PeerClient(identity.id, credentials) as client:
            unreachable = await find_unreachable(client, addresses, known)
        if len(unreachable) == len(addresses):
            raise _failure(unreachable)
        if credentials is not None:
            _move(staging, root)
        return JoinResult(identity.id, [], unreachable)


async def _refused(
    addresses: Sequence[str], trust: Trust | None, error: OciMeshError
) -> OperationFailed:
    return _failure([await explain(address, trust, str(error)) for address in addresses])


def _failure(unreachable: Sequence[Unreachable]) -> OperationFailed:
    """None of the addresses is of use."""
    said = "; ".join(f"{each.address}: {each.reason}" for each in unreachable)
    return OperationFailed(f"this node cannot join: {said}", hint=unreachable[0].hint)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Nobody else works on the root meanwhile. Raises `StoreLocked`."""
    path = Layout(os.fspath(root)).lock
    if not os.path.exists(path):  # no node has ever run there; and a new file would be ours
        yield
        return
    lock = RootLock(path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A copy of who the node is, if it is anybody yet, on the same file system."""
    place = root if root.is_dir() else next(p for p in root.parents if p.is_dir())
    with tempfile.TemporaryDirectory(dir=place, prefix=".joining-") as name:
        staging = Path(name)
        if (root / DIRECTORY).is_dir():
            shutil.copytree(root / DIRECTORY, staging / DIRECTORY)
        if (root / _ID_FILE).exists():
            shutil.copy2(root / _ID_FILE, staging / _ID_FILE)
        yield staging


def _move(staging: Path, root: Path) -> None:
    """What was made goes to the root, and to who owns that.

    A new identity comes as a whole, the id last but one: a directory that has only the id is what a
    first start leaves, too.
    """
    root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    owner = root.stat()
    for path in [*staging.rglob("*")]:
        with suppress(PermissionError):  # whoever may not is the owner
            os.chown(path, owner.st_uid, owner.st_gid)
    if (staging / _ID_FILE).exists():
        os.replace(staging / _ID_FILE, root / _ID_FILE)
    if not (root / DIRECTORY).exists():
        os.rename(staging / DIRECTORY, root / DIRECTORY)
    else:
        for name in sorted(os.listdir(staging / DIRECTORY), reverse=True):  # trust before node.crt
            os.replace(staging / DIRECTORY / name, root / DIRECTORY / name)
    for directory in (root / DIRECTORY, root):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)
