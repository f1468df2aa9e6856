"""The node's own config file: what `node join` has to know of it, and what it changes in it.

Comments and order stay. The file is read again before it is written: it has to say what was meant.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import tomlkit

from oci_mesh.cli.edits import Machine
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.hosts_toml import edited, first_table, parse
from oci_mesh.config import is_loopback, split_address
from oci_mesh.errors import ConfigError

# On all addresses, with the port that is the default.
LISTEN: Final = "0.0.0.0:7946"

_HEADER: Final = (
    "# Written by `oci-mesh node join`. All settings: python -m oci_mesh.serve --help\n"
)


class NodeFile(NamedTuple):
    """What a config file says now, as far as joining needs it."""

    path: str
    text: str | None
    """None if there is no file."""
    root: Path | None
    name: str | None
    join: tuple[str, ...]
    insecure: bool
    ca: str | None
    hosts: tuple[str, ...]
    """Where others reach this node, as far as it says."""
    listens: bool
    """Whether it says on which address other nodes are listened to."""


def read(path: Path) -> NodeFile:
    """Raises `Failure` for a file that a node could not start with."""
    text = Machine(Path("/")).text(str(path))
    said = {key.replace("-", "_"): value for key, value in parse(text or "", str(path)).items()}
    for key, kind in _KINDS.items():
        if key in said and not isinstance(said[key], kind):
            raise Failure(f"{path}: {key.replace('_', '-')} cannot be {said[key]!r}")
    reached = said.get("advertise") or said.get("mesh_listen") or ""
    return NodeFile(
        str(path),
        text,
        Path(said["root"]) if "root" in said else None,
        said.get("name"),
        tuple(map(str, said.get("join", ()))),
        said.get("insecure", False),
        said.get("ca"),
        _hosts(reached, path),
        "mesh_listen" in said,
    )


_KINDS: Final = {
    "root": str,
    "name": str,
    "join": list,
    "insecure": bool,
    "ca": str,
    "advertise": str,
    "mesh_listen": str,
}


def _hosts(address: str, path: Path) -> tuple[str, ...]:
    try:
        host = split_address(address)[0] if address else ""
    except ConfigError as error:
        raise Failure(f"{path}: {error}") from None
    return () if host in ("", "0.0.0.0", "::") else (host,)


def joined(before: NodeFile, root: Path, addresses: Sequence[str]) -> str:
    """The file with these addresses in `join`, and what a node beyond this machine needs.

    What it says already stays: the order of `join`, the `root`, an address that it listens on.
    """
    join = [*before.join, *(a for a in addresses if a not in before.join)]
    wanted: dict[str, Any] = {}
    if join != list(before.join):
        wanted["join"] = join
    if before.root is None:
        wanted["root"] = str(root)
    if not before.listens and not all(is_loopback(split_address(a)[0]) for a in addresses):
        wanted["mesh-listen"] = LISTEN
    if not wanted:
        return before.text or ""
    text = before.text if before.text is not None else _HEADER
    said = {key.replace("-", "_"): key for key in tomllib.loads(text)}
    new = {key: value for key, value in wanted.items() if key.replace("-", "_") not in said}
    old = {said[key.replace("-", "_")]: wanted[key] for key in wanted if key not in new}
    text = _with_lines(edited(text, lambda document: document.update(old)), new)
    now = tomllib.loads(text)
    if now != {**tomllib.loads(before.text or ""), **old, **new}:
        raise Failure(
            f"cannot change {before.path} so that it means just that", hint="change it by hand"
        )
    return text


def _with_lines(text: str, settings: dict[str, Any]) -> str:
    """New settings, above the first table: what comes below one belongs to it."""
    lines = "".join(
        f"{key} = {tomlkit.item(value).as_string()}\n" for key, value in settings.items()
    )
    start = first_table(text)
    above, below = text[:start], text[start:]
    gap = "\n" if above and not above.endswith("\n") else ""
    return f"{above}{gap}{lines}{below}"
