"""`oci-mesh ca …` and `oci-mesh token …`: the mesh's own authority, and what lets nodes in.

All of it is work on a directory; no node is asked. Nodes that have the directory notice.
"""

import secrets
import time
from pathlib import Path
from typing import Final

import click

from oci_mesh.errors import ConfigError
from oci_mesh.pki import authority
from oci_mesh.pki.authority import Authority
from oci_mesh.quantity import parse_duration

# A token is used within the hour in which the node is set up.
_TTL: Final = "1h"

# As long as certificates live, by default: see `pki.authority` on why.
_OVERLAP: Final = "24h"

_DIRECTORY: Final = click.Path(path_type=Path, file_okay=False)


def _seconds(context: click.Context, parameter: click.Parameter, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    if not seconds:
        raise click.BadParameter("it has to be longer, such as 90s, 15m, 12h, 7d")
    return seconds


@click.group("ca")
def ca_group() -> None:
    """The mesh's own authority, by whose certificates nodes know each other."""


@ca_group.command("init")
@click.argument("directory", type=_DIRECTORY)
@click.option("--name", default="oci-mesh", show_default=True, help="What certificates call it.")
def init_command(directory: Path, name: str) -> None:
    """Make the authority of a new mesh in DIRECTORY.

    Whoever has DIRECTORY can let nodes into the mesh: keep it as you would a root password.
    """
    authority.init(directory, name, time.time())
    click.echo(
        f"The authority is in {directory}. Its key, {directory / authority.KEYS}, is the mesh's "
        "secret: keep a copy where it is safe.\n\n"
        "The first node (give a second one a copy of the directory, and either may be down):\n"
        f"  python -m oci_mesh.serve --ca {directory} --root DIR --mesh-listen HOST:PORT\n\n"
        "A token for all others:\n"
        f"  oci-mesh token create --ca {directory}\n"
        "  python -m oci_mesh.serve --token TOKEN --join HOST:PORT --root DIR "
        "--mesh-listen HOST:PORT"
    )


@ca_group.command("rotate")
@click.argument("directory", type=_DIRECTORY)
@click.option(
    "--overlap",
    callback=_seconds,
    metavar="DURATION",
    default=_OVERLAP,
    show_default=True,
    help="For how long the old key goes on to sign, while nodes learn of the new one; for as long "
    "again both are trusted. Not less than certificates live (24h), unless the old key was stolen: "
    "then some minutes, and nodes that are off meanwhile need a new token.",
)
def rotate_command(directory: Path, overlap: float) -> None:
    """Go over to a new key. No node has to be restarted.

    Nodes that have a copy of DIRECTORY need the new one.
    """
    mesh = Authority.load(directory)
    mesh.rotate(overlap, time.time())
    assert mesh.rotation is not None
    signs_from, alone_from = mesh.rotation
    click.echo(
        f"Nodes learn of the new key within minutes. It signs from {_time(signs_from)} on, and "
        f"from {_time(alone_from)} on it is the only one that is trusted.\n"
        f"Copy {directory} to the other nodes that sign, now.\n"
        f"After that time, `oci-mesh ca finish-rotation {directory}` removes the old key."
    )


@ca_group.command("finish-rotation")
@click.argument("directory", type=_DIRECTORY)
@click.option(
    "--early", is_flag=True, help="Now, though nodes may still have certificates of the old key."
)
def finish_command(directory: Path, early: bool) -> None:
    """Remove the old key. Nodes trust it no longer, whether or not this is done."""
    Authority.load(directory).finish_rotation(time.time(), early=early)
    click.echo(f"The old key is gone. Copy {directory} to the other nodes that sign.")


@click.group("token")
def token_group() -> None:
    """Join tokens, which let new nodes into the mesh."""


@token_group.command("create")
@click.option(
    "--ca", "directory", type=_DIRECTORY, required=True, help="The authority's directory."
)
@click.option(
    "--ttl",
    callback=_seconds,
    metavar="DURATION",
    default=_TTL,
    show_default=True,
    help="How long it lets nodes in: as many as have it.",
)
def token_command(directory: Path, ttl: float) -> None:
    """Print a join token. It is a secret.

    A node needs it once, for its first start: as --token, in OCI_MESH_TOKEN, or in a file.
    """
    name = f"token-{secrets.token_hex(4)}"
    token = Authority.load(directory).make_token(name, ttl, time.time())
    click.echo(token.text())
    click.echo(f"{name} lets nodes in until {_time(token.expires)}", err=True)


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
