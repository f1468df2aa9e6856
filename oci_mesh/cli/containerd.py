"""`oci-mesh containerd …`: have the container runtime of this machine ask the node first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import click
import msgspec

from oci_mesh.cli import containerd_config, daemon_json, edits, hosts_toml, registries_conf
from oci_mesh.cli.edits import Machine
from oci_mesh.cli.options import json_option, registry_option
from oci_mesh.cli.output import show
from oci_mesh.cli.runtime import DEFAULT_NAME, Plan, Wish
from oci_mesh.errors import NameInvalid
from oci_mesh.spec.scope import is_registry, parse_registry

Runtime = Literal["containerd", "podman", "docker"]

_DEFAULT_NAMES: Final = {"containerd": DEFAULT_NAME, "podman": "docker.io", "docker": "docker.io"}


class Changed(msgspec.Struct, rename="camel"):
    """What `configure` or `undo` did, or with --dry-run would do."""

    runtime: str
    changed: list[str]
    """The files, by path."""
    diff: str = ""
    notes: list[str] = []


class Mirrored(msgspec.Struct, rename="camel"):
    """Whom the runtime asks for the images of a registry, in order."""

    name: str
    hosts: list[str]
    resolve: bool
    """Whether the node, if it is asked, is asked what tags mean."""
    mesh: str
    """`first`, `later` or `no`: when the node is asked."""


class Shown(msgspec.Struct, rename="camel"):
    """How a runtime is configured."""

    runtime: str
    config: str
    registries: list[Mirrored]
    hosts: str = ""
    """containerd's directory of hosts.toml files; empty if it has none."""
    old: list[str] = []
    """What of containerd's old way is in use."""
    undo: list[str] = []
    """The files that `undo` would put back."""


@click.group("containerd")
def containerd_group() -> None:
    """Have the container runtime of this machine ask the mesh first: containerd, or podman, CRI-O
    or docker.
    """


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """The options that all verbs have."""
    options = [
        click.option(
            "--for",
            "runtime",
            type=click.Choice(["containerd", "podman", "docker"]),
            default="containerd",
            show_default=True,
            help="Which runtime. podman is for all that read registries.conf: CRI-O, skopeo, "
            "buildah.",
        ),
        click.option(
            "--root",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            default=Path("/"),
            help="Where the machine's file system is, if it is not this one's.",
        ),
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


_config_option = click.option(
    "--config",
    metavar="PATH",
    default=containerd_config.CONFIG,
    show_default=True,
    help="containerd's own configuration.",
)


@containerd_group.command("configure")
@click.argument("names", metavar="[REGISTRY]...", nargs=-1)
@click.option(
    "--resolve",
    is_flag=True,
    help="Ask the node what tags mean, too, not only for content. Then images also start while "
    "their registry is down.",
)
@click.option(
    "--own",
    is_flag=True,
    help="REGISTRY is a name that only the mesh has, such as registry.internal: there is no "
    "registry behind it.",
)
@click.option("--migrate", is_flag=True, help="Move containerd's old `registry.mirrors` over.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@_config_option
@registry_option
@_common
def configure_command(
    names: tuple[str, ...],
    *,
    resolve: bool,
    own: bool,
    migrate: bool,
    dry_run: bool,
    config: str,
    registry: str,
    runtime: Runtime,
    root: Path,
    as_json: bool,
) -> None:
    """Have images of each REGISTRY asked of the node first, then of the registry itself.

    Default: all registries that have no settings of their own (_default); for podman and docker,
    docker.io. Without --resolve tags are asked of the registry, so what an image name means never
    depends on the mesh.

    What others wrote stays: comments, other mirrors, the order of these. What was there is kept,
    and `oci-mesh containerd undo` brings it back to the byte. Running this again changes nothing.

    \b
    Examples:
      oci-mesh containerd configure --dry-run
      oci-mesh containerd configure docker.io ghcr.io --resolve
      oci-mesh containerd configure registry.internal --own
      oci-mesh containerd configure --for podman docker.io --resolve
    """
    machine = Machine(root)
    wanted = names or (_DEFAULT_NAMES[runtime],)
    wish = Wish(_node(registry), tuple(_name(name) for name in wanted), resolve, own)
    if own and not names:
        raise click.UsageError("--own needs the names that are the mesh's own")
    made = _plan(machine, runtime, config, wish, migrate=migrate)
    diff = edits.difference(machine, made.edits)
    if dry_run:
        changed = [path for path, new in made.edits.items() if machine.read(path) != new]
    else:
        changed = edits.apply(machine, runtime, made.edits)
    result = Changed(runtime, changed, diff, made.notes if changed else [])
    _print(result, as_json=as_json, text=diff if dry_run else _lines("changed", changed))


@containerd_group.command("undo")
@click.option("--skip-changed", is_flag=True, help="Leave files alone that somebody changed since.")
@_common
def undo_command(*, skip_changed: bool, runtime: Runtime, root: Path, as_json: bool) -> None:
    """Put back, to the byte, what was there before the first `configure`.

    If somebody changed one of the files since, nothing is put back, and it says which.
    """
    changed = edits.undo(Machine(root), runtime, skip_changed=skip_changed)
    notes = []
    if any(path.endswith("/config.toml") for path in changed):
        notes.append(containerd_config.RESTART)
    elif daemon_json.CONFIG in changed:
        notes.append(daemon_json.RELOAD)
    _print(
        Changed(runtime, changed, notes=notes), as_json=as_json, text=_lines("put back", changed)
    )


@containerd_group.command("show")
@_config_option
@registry_option
@_common
def show_command(
    *, config: str, registry: str, runtime: Runtime, root: Path, as_json: bool
) -> None:
    """Show whom the runtime asks, in which order, and what `undo` would put back."""
    shown = _shown(Machine(root), runtime, config, _node(registry))
    lines = [f"{shown.config}: {_directory(shown)}"]
    lines += [f"  the old way is in use: {name}" for name in shown.old]
    for one in shown.registries:
        asked = ", ".join([*one.hosts, "the registry itself"])
        tags = "" if one.mesh == "no" or one.resolve else " (not for tags)"
        lines.append(f"{one.name}: the mesh {_WHEN[one.mesh]}{tags}; {asked}")
    lines += [f"undo would put back {path}" for path in shown.undo]
    _print(shown, as_json=as_json, text="".join(f"{line}\n" for line in lines))


_WHEN: Final = {"first": "first", "later": "after others", "no": "not"}


def _directory(shown: Shown) -> str:
    if shown.runtime != "containerd":
        return f"{len(shown.registries)} registries"
    return f"hosts.toml files are in {shown.hosts}" if shown.hosts else "no hosts.toml files"


def _plan(machine: Machine, runtime: Runtime, config: str, wish: Wish, *, migrate: bool) -> Plan:
    if runtime == "containerd":
        return containerd_config.plan(machine, config, wish, migrate=migrate)
    if migrate:
        raise click.UsageError("--migrate is for containerd")
    if runtime == "podman":
        return registries_conf.plan(machine, wish)
    return daemon_json.plan(machine, wish)


def _shown(machine: Machine, runtime: Runtime, config: str, node: str) -> Shown:
    undo = edits.can_undo(machine, runtime)
    if runtime == "podman":
        said = registries_conf.read(machine)
        mirrored = [_podman(name, registry, node) for name, registry in said.items()]
        return Shown(runtime, registries_conf.OURS, mirrored, undo=undo)
    if runtime == "docker":
        mirrors = daemon_json.read(machine)
        docker = Mirrored(daemon_json.REGISTRY, mirrors, True, _when(mirrors, node))
        return Shown(runtime, daemon_json.CONFIG, [docker], undo=undo)
    found = containerd_config.load(machine, config)
    directory = found.deciding.hosts.split(":")[0].rstrip("/")
    mirrored = []
    for name in machine.names(directory) if directory else []:
        path = f"{directory}/{name}/hosts.toml"
        text = machine.text(path)
        if text is not None:
            hosts = hosts_toml.read_hosts(text, path)
            resolve = "resolve" in hosts.get(node, {}).get("capabilities", ["resolve"])
            mirrored.append(Mirrored(name, list(hosts), resolve, _when(list(hosts), node)))
    old = [name for file in found.files for name in file.old]
    return Shown(runtime, found.deciding.path, mirrored, directory, old, undo)


def _podman(name: str, registry: dict[str, Any], node: str) -> Mirrored:
    hosts = [mirror["location"] for mirror in registry.get("mirror", [registry])]
    ours = urlsplit(node).netloc
    urls = [node if host.split("/")[0] == ours else host for host in hosts]
    return Mirrored(name, hosts, "mirror-by-digest-only" not in registry, _when(urls, node))


def _when(hosts: list[str], node: str) -> str:
    if node not in hosts:
        return "no"
    return "first" if hosts[0] == node else "later"


def _node(text: str) -> str:
    url = urlsplit(text)
    is_plain = url.scheme in ("http", "https") and not (url.path.strip("/") or url.query)
    if not is_plain or not is_registry(url.netloc):
        raise click.UsageError(f"--registry {text!r} is not http://HOST:PORT or https://HOST:PORT")
    return f"{url.scheme}://{url.netloc}"


def _name(text: str) -> str:
    if text == DEFAULT_NAME:
        return text
    try:
        return parse_registry(text)
    except NameInvalid as error:
        raise click.UsageError(str(error)) from None


def _lines(what: str, paths: list[str]) -> str:
    return "".join(f"{what} {path}\n" for path in paths) or "nothing to change\n"


def _print(result: Changed | Shown, *, as_json: bool, text: str) -> None:
    show(result, as_json=as_json, text=text or "nothing to change")
    for note in result.notes if isinstance(result, Changed) and not as_json else []:
        click.echo(f"note: {note}", err=True)
