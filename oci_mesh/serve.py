"""`python -m oci_mesh.serve`: a node as a process, until SIGTERM or SIGINT.

Settings come from arguments, then `OCI_MESH_…` variables, then the TOML file of `--config`, whose
keys are the options' names (`mesh-listen = "..."`, `join = [...]`), and `upstream` tables for what
an option has no room for. No logic but this lives here.
"""

import asyncio
import errno
import logging
import os
import shutil
import signal
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Final

import click

from oci_mesh import logs
from oci_mesh.config import (
    KEEP_POLICIES,
    MIN_CONNECTIONS,
    PRIVATE_POLICIES,
    SPARSE_POLICIES,
    NodeConfig,
    split_address,
)
from oci_mesh.errors import ConfigError, OciMeshError, StoreError
from oci_mesh.node import Node
from oci_mesh.notify import Manager, ask
from oci_mesh.quantity import parse_rate, parse_size
from oci_mesh.tasks import Background
from oci_mesh.upstream_config import UpstreamConfig, parse_upstreams

_log = logging.getLogger("oci_mesh.serve")

# The zone too, in a pod that is given its label topology.kubernetes.io/zone under this name. From
# 1.35 on (1.33 with PodTopologyLabelsAdmission) Kubernetes copies that from the node to its pods.
KUBERNETES_ZONE: Final = "TOPOLOGY_KUBERNETES_IO_ZONE"

# Bytes without which the store's database cannot be opened.
_MIN_FREE: Final = 1024 * 1024

# Under this in click's `meta`: the file's `upstream` tables, parsed.
_TABLES: Final = "oci_mesh.upstreams"

# What has another name as an option, given once for each, than as a field.
_OPTIONS: Final = {"upstreams": "upstream"}


def _amount(parse: Callable[[str], int]) -> dict[str, Any]:
    """What `_setting` needs for a size or a rate, as `parse` reads it."""

    def read(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
        try:
            return None if text is None else parse(text)
        except ConfigError as error:
            raise click.BadParameter(str(error)) from None

    return {"type": str, "callback": read}


def _setting(name: str, **extra: Any) -> Callable[[Any], Any]:
    """An option for a field of `NodeConfig`, with its default and its help."""
    spec = NodeConfig.__dataclass_fields__[name]
    if spec.default is not MISSING and not extra.get("multiple"):
        extra["default"] = spec.default
    option = f"--{name.replace('_', '-')}"
    if spec.default is True:
        option = f"{option}/--no-{option.removeprefix('--')}"
    return click.option(option, help=spec.metadata["help"], **extra)


def _upstreams(
    context: click.Context, _: click.Parameter, texts: tuple[str, ...]
) -> tuple[UpstreamConfig, ...]:
    """NAME=URL each, or the NAME of a table in the file, or just a NAME."""
    tables = {upstream.name: upstream for upstream in context.meta.get(_TABLES, ())}
    try:
        upstreams = [_upstream(text) for text in texts]
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    return tuple(
        upstream if "=" in text else tables.get(upstream.name, upstream)
        for text, upstream in zip(texts, upstreams, strict=True)
    )


def _upstream(text: str) -> UpstreamConfig:
    name, equals, url = text.partition("=")
    return UpstreamConfig(name=name, urls=(url,) if equals else ())


def _load_config(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Make the file's keys the defaults, which arguments and environment override."""
    if path is None:
        return None
    try:
        settings = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from None
    if isinstance(settings.get("upstream"), dict):
        try:
            tables = context.meta[_TABLES] = parse_upstreams(settings["upstream"])
        except ConfigError as error:
            raise click.BadParameter(f"{path}: {error}") from None
        settings["upstream"] = [table.name for table in tables]
    options = {p.name: p for p in context.command.params if p.name != "config"}
    unknown = sorted(key for key in settings if key.replace("-", "_") not in options)
    if unknown:
        raise click.BadParameter(f"{path}: unknown keys: {', '.join(unknown)}")
    context.default_map = {
        (name := key.replace("-", "_")): _as_typed(f"{path}: {key}", value, options[name])
        for key, value in settings.items()
    }
    return path


def _as_typed(key: str, value: Any, option: click.Parameter) -> str | list[str]:
    """A value of the file in the form of an argument, to be judged as one."""
    many = isinstance(option, click.Option) and option.multiple
    if isinstance(value, dict) or isinstance(value, list) != many:
        raise click.BadParameter(f"{key} takes {'a list of values' if many else 'one value'}")
    return [str(each) for each in value] if many else str(value)


@click.command(context_settings={"auto_envvar_prefix": "OCI_MESH", "show_default": True})
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_load_config,
    is_eager=True,
    help="A TOML file with any of these settings.",
)
@_setting("root", type=click.Path(path_type=Path), required=True)
@_setting("listen", metavar="HOST:PORT")
@_setting("mesh_listen", metavar="HOST:PORT")
@_setting("join", metavar="HOST:PORT", multiple=True)
@_setting("name")
@_setting("advertise", metavar="HOST:PORT")
@_setting("ca", type=click.Path(path_type=Path, file_okay=False))
@_setting("token")
@_setting("insecure", is_flag=True)
@_setting("certificate_life", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS")
@_setting("zone", envvar=["OCI_MESH_ZONE", KUBERNETES_ZONE])
@_setting("upload_rate", metavar="RATE", **_amount(parse_rate))
@_setting("download_rate", metavar="RATE", **_amount(parse_rate))
@_setting("max_connections", type=click.IntRange(min=MIN_CONNECTIONS))
@_setting("disk_limit", metavar="SIZE", **_amount(parse_size))
@_setting("disk_reserve", metavar="SIZE", **_amount(parse_size))
@click.option(
    "--upstream",
    metavar="NAME[=URL]",
    multiple=True,
    callback=_upstreams,
    help=NodeConfig.__dataclass_fields__["upstreams"].metadata["help"],
)
@_setting("public_registries", is_flag=True)
@_setting("tag_ttl", type=click.FloatRange(min=0), metavar="SECONDS")
@_setting("stale_limit", type=click.FloatRange(min=0), metavar="SECONDS")
@_setting("containerd", type=click.Path(path_type=Path, file_okay=False))
@_setting("containerd_socket", type=click.Path(path_type=Path, dir_okay=False))
@_setting("containerd_namespace")
@_setting("private", type=click.Choice(PRIVATE_POLICIES))
@_setting("keep", type=click.Choice(KEEP_POLICIES))
@_setting("cache_limit", metavar="SIZE", **_amount(parse_size))
@_setting("cache_share", type=click.FloatRange(min=0, min_open=True, max=1), metavar="PART")
@_setting("sparse", type=click.Choice(SPARSE_POLICIES))
@_setting("copies", type=click.IntRange(min=1))
@_setting("scrub_rate", metavar="RATE", **_amount(parse_rate))
@_setting("upload_expiry", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS")
@_setting("drain", type=click.FloatRange(min=0), metavar="SECONDS")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="What is logged to standard error.",
)
@click.option("--log-format", type=click.Choice(logs.FORMATS), default="text", help="How.")
@click.pass_context
def main(context: click.Context, /, log_level: str, log_format: str, **settings: Any) -> None:
    """Run a node of a mesh: a complete OCI registry that shares content with the other nodes.

    Every option is also a variable (--mesh-listen: OCI_MESH_MESH_LISTEN) and a key of the file
    given by --config (mesh-listen); an argument wins over a variable, that over the file.
    """
    settings.pop("config")
    settings["upstreams"] = settings.pop("upstream")
    logs.configure(log_level, log_format)
    try:
        config = NodeConfig(**settings)
        for field, text in config.shown().items():
            name = _OPTIONS.get(field, field)
            source = context.get_parameter_source(name)
            print(f"{name.replace('_', '-')} = {text}  ({_origin(source)})")
        asyncio.run(_serve(config))
    except OciMeshError as error:
        advice = _advice(settings["root"], error) if isinstance(error, StoreError) else ""
        print(f"oci-mesh: cannot serve: {error}{advice}", file=sys.stderr)
        sys.exit(1)


def _advice(root: Path, error: StoreError) -> str:
    """What to do about a root directory that cannot be used."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"; all in there has to be writable for the node's user (now uid {os.geteuid()})"
    with suppress(OSError):
        if shutil.disk_usage(root).free < _MIN_FREE:
            return "; the disk is full: make room, then start it again"
    return ""


def _origin(source: click.core.ParameterSource | None) -> str:
    names = {"COMMANDLINE": "argument", "ENVIRONMENT": "environment", "DEFAULT_MAP": "config file"}
    return names.get(source.name if source is not None else "", "default")


async def _serve(config: NodeConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    manager = Manager(os.environ)
    manager.tell("STATUS=opening the store, looking for other nodes")
    async with Node(config) as node:
        others = ", ".join(sorted(member.id for member in node.members())) or "nobody else yet"
        print(
            f"oci-mesh ready: registry {node.url} mesh {node.mesh_address} "
            f"node {node.id} with {others}",
            flush=True,
        )
        async with Background() as background:
            manager.tell("READY=1", f"STATUS={_state(node)}")
            background.spawn(manager.keep_alive(lambda: _sign_of_life(node)))
            await stop.wait()
        manager.tell("STOPPING=1", "STATUS=finishing requests under way")
        _log.info("stopping: finishing requests under way, for %.0f s at most", config.drain)
    _log.info("stopped")


async def _sign_of_life(node: Node) -> str:
    """The node as its clients find it: asked over its listener, it answers from its store."""
    await ask(*split_address(node.url.removeprefix("http://")), "/healthz")
    return _state(node)


def _state(node: Node) -> str:
    return f"node {node.id}, {len(node.members()) + 1} in the mesh, registry {node.url}"


if __name__ == "__main__":
    main()
