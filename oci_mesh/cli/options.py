"""Options that several verbs have, said once: their names, defaults and help are the same anywhere.

@click.command("status")
@root_option
@json_option
def status_command(*, root: Path, as_json: bool) -> None: ...
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from oci_mesh.cli.target import DEFAULT_REGISTRY
from oci_mesh.control.place import DEFAULT_ROOT
from oci_mesh.errors import ConfigError, OciError

Value = TypeVar("Value")
Command = TypeVar("Command", bound=Callable[..., Any])

root_option: Final = click.option(
    "--root",
    metavar="DIR",
    type=click.Path(path_type=Path),
    envvar="OCI_MESH_ROOT",
    show_envvar=True,
    default=DEFAULT_ROOT,
    show_default=True,
    help="The root directory of this machine's node: how the node is spoken to.",
)
"""Gives `root: Path`, for `ControlClient(root)`."""

json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)
"""Gives `as_json: bool`, for `output.show`."""

registry_option: Final = click.option(
    "--registry",
    metavar="URL",
    envvar="OCI_MESH_REGISTRY",
    show_envvar=True,
    default=DEFAULT_REGISTRY,
    show_default=True,
    help="The local node: what a REF without a host means.",
)
"""Gives `registry: str`, for `target.resolve`."""

plain_http_option: Final = click.option(
    "--plain-http/--tls",
    default=None,
    help="Speak HTTP, or HTTPS, whatever the host. Default: HTTP to this machine (127.0.0.0/8, "
    "::1, localhost), HTTPS to others. SSL_CERT_FILE names the certificates to trust.",
)
"""Gives `plain_http: bool | None`, for `target.resolve`."""


def registry_options(command: Command) -> Command:
    """What verbs that speak with a registry have: `registry`, `plain_http` and `as_json`."""
    return registry_option(plain_http_option(json_option(command)))


def usage(parse: Callable[[], Value]) -> Value:
    """What cannot be parsed was typed wrongly: exit code 2."""
    try:
        return parse()
    except (OciError, ConfigError) as error:
        raise click.UsageError(str(error)) from None
