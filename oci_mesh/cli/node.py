"""`oci-mesh node …`: let this machine's node into a mesh, look after it, and take it out again."""

import os
import socket
from pathlib import Path
from typing import Final

import click

from oci_mesh.cli import node_config
from oci_mesh.cli.edits import Machine
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.node_config import NodeFile
from oci_mesh.cli.options import json_option, root_option, usage
from oci_mesh.cli.output import show
from oci_mesh.cli.run import PARTLY, run
from oci_mesh.cli.upkeep import drain_command, gc_command, scrub_command
from oci_mesh.config import is_loopback, split_address
from oci_mesh.control import upkeep
from oci_mesh.control.client import call
from oci_mesh.control.place import SOCKET, short_path
from oci_mesh.control.upkeep import JoinRequest, JoinResult

CONFIG: Final = Path("/etc/oci-mesh/config.toml")


@click.group("node")
def node_group() -> None:
    """The node on this machine: into a mesh, looked after, and out again."""


@node_group.command("join")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option(
    "--token",
    metavar="TOKEN|FILE",
    envvar="OCI_MESH_TOKEN",
    help="What `oci-mesh token create` printed, or the file that has it. Better by file, or by "
    "OCI_MESH_TOKEN: arguments can be read by all users of this machine.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=CONFIG,
    show_default=True,
    help="The file that the node starts with. Written if it is not there; what it says stays.",
)
@root_option
@json_option
@click.pass_context
def join_command(
    context: click.Context,
    *,
    addresses: tuple[str, ...],
    token: str | None,
    config: Path,
    root: Path,
    as_json: bool,
) -> None:
    """Let this machine's node into the mesh whose nodes are at ADDRESS (HOST:PORT of their mesh
    listeners; one that answers is enough).

    Where no node runs yet, the token is traded for a certificate, and what it joins is written to
    the config file; start it then. A node that runs meets the others at once, by the certificate
    that it has. It may be run again. If it fails, nothing was changed.

    \b
    On a machine that is in the mesh already:
      oci-mesh token create --ca /etc/oci-mesh/ca > token
    On the new one:
      oci-mesh node join 10.0.0.1:7946 --token token
      systemctl enable --now oci-mesh
    """
    usage(lambda: [split_address(address) for address in addresses])
    before = node_config.read(Path(os.path.abspath(config)))
    source = context.get_parameter_source("root")
    if before.root is not None and source is click.core.ParameterSource.DEFAULT:
        root = before.root
    root = Path(os.path.abspath(root))
    text = node_config.joined(before, root, addresses)
    _check_writable(before)
    runs = _is_running(root)
    if runs:
        result = _join_running(root, addresses, token)
    else:
        result = _join_before_start(before, root, addresses, token)
    if text != (before.text or ""):
        machine = Machine(Path("/"))
        machine.make_directories(before.path)
        machine.write(before.path, text.encode())
    show(result, as_json=as_json, text=_join_text(result, before, runs=runs))
    for each in result.unreachable:
        click.echo(f"not reached: {each.address}: {each.reason}", err=True)
    if result.unreachable:
        raise SystemExit(PARTLY)


def _join_running(root: Path, addresses: tuple[str, ...], token: str | None) -> JoinResult:
    result = run(call(root, upkeep.JOIN, JoinRequest(list(addresses)), JoinResult))
    if len(result.unreachable) == len(addresses):
        said = "; ".join(f"{each.address}: {each.reason}" for each in result.unreachable)
        hint = result.unreachable[0].hint
        if token is not None:
            hint = "a running node does not use a token: stop it, and run this again"
        raise Failure(f"this node cannot join: {said}", hint=hint)
    return result


def _join_before_start(
    before: NodeFile, root: Path, addresses: tuple[str, ...], token: str | None
) -> JoinResult:
    from oci_mesh.operations.enrolment import enrol  # half a second, and used once

    if before.ca is not None:
        raise Failure(
            f"this node has the authority of a mesh ({before.ca}), and signs its own certificate",
            hint=f"add the addresses to `join` in {before.path}, and start it",
        )
    beyond = not all(is_loopback(split_address(address)[0]) for address in addresses)
    known = (root / "identity" / "node.crt").exists()
    if beyond and token is None and not known and not before.insecure:
        raise Failure(
            "a node that has no certificate yet needs a token",
            hint="oci-mesh token create --ca DIR, on the machine that has the mesh's authority; "
            "then --token here",
        )
    return run(enrol(root, before.name, token, list(addresses), before.hosts))


def _check_writable(before: NodeFile) -> None:
    """Before anything is done: it must not be found out after it."""
    place = Path(before.path)
    while not place.exists():
        place = place.parent
    directory = place if place.is_dir() else place.parent
    if not os.access(directory, os.W_OK):
        raise Failure(f"{before.path} may not be written by this user", hint="run it as root")


def _is_running(root: Path) -> bool:
    """Whether a node has its socket there. Raises `Failure` where that may not be looked at."""
    try:
        return (root / SOCKET).exists() and _answers(root)
    except PermissionError:
        raise Failure(f"{root} may not be used by this user", hint="run it as root") from None


def _answers(root: Path) -> bool:
    with short_path(root) as path, socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:  # of a node that was killed
            return False
    return True


def _join_text(result: JoinResult, before: NodeFile, *, runs: bool) -> str:
    if runs:
        others = ", ".join(result.members) or "nobody yet"
        return f"{result.node} is in the mesh, with {others}; {before.path} says so from now on"
    return (
        f"{result.node} may join. Start it now, with {before.path}:\n"
        "  systemctl enable --now oci-mesh\n"
        f"or, without systemd: python -m oci_mesh.serve --config {before.path}"
    )


node_group.add_command(drain_command)
node_group.add_command(gc_command)
node_group.add_command(scrub_command)
