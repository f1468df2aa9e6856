"""Shell completion: click's, and the names of images that the local node has.

What is asked at a key press has to be quick, and silent if it fails.
"""

import json
import os
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

import click
from click.shell_completion import CompletionItem, get_completion_class

from oci_mesh.cli.target import DEFAULT_REGISTRY

# For one answer of the node. A person who pressed a key has gone on after that.
_ANSWER_S: Final = 0.5
_MAX_ANSWER_BYTES: Final = 1024 * 1024


class RefType(click.ParamType[str]):
    """A REF; completed with what the local node has."""

    name = "ref"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Repositories; of one that is clear, its tags."""
        registry = ctx.params.get("registry") or os.environ.get("OCI_MESH_REGISTRY")
        with suppress(OSError, HTTPException, ValueError, KeyError, TypeError):
            return [
                CompletionItem(name) for name in _names(registry or DEFAULT_REGISTRY, incomplete)
            ]
        return []


REF: Final = RefType()


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print what makes SHELL complete verbs, options and names of images.

    \b
    Once, for all times:
      oci-mesh completion bash > /etc/bash_completion.d/oci-mesh
      oci-mesh completion zsh > /usr/local/share/zsh/site-functions/_oci-mesh
      oci-mesh completion fish > ~/.config/fish/completions/oci-mesh.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    main = click.get_current_context().find_root().command
    click.echo(found(main, {}, "oci-mesh", "_OCI_MESH_COMPLETE").source(), nl=False)


def _names(registry: str, incomplete: str) -> list[str]:
    repository, colon, _ = incomplete.partition(":")
    if not colon:
        names = _ask(registry, "_catalog", "repositories")
        found = [name for name in names if name.startswith(incomplete)]
        if len(found) != 1:
            return found
        repository = found[0]
    tags = _ask(registry, f"{repository}/tags/list", "tags")
    names = [f"{repository}:{tag}" for tag in tags]
    return [name for name in names if name.startswith(incomplete)]


def _ask(registry: str, path: str, key: str) -> list[str]:
    """Raises all sorts of things if that is not answered, well and soon."""
    url = urlsplit(registry)
    make = HTTPSConnection if url.scheme == "https" else HTTPConnection
    connection = make(url.netloc, timeout=_ANSWER_S)
    try:
        connection.request("GET", f"/v2/{path}")
        answer = json.loads(connection.getresponse().read(_MAX_ANSWER_BYTES))
    finally:
        connection.close()
    # A shell reads them line by line, and some of it as its own language.
    return [str(name) for name in answer[key] or [] if set(str(name)) <= _SAFE]


_SAFE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/")
