"""`oci-mesh sync`: an image on every node, and in its containerd."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import click

from oci_mesh.cli.completion import REF
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.nearest import nearest
from oci_mesh.cli.options import json_option, root_option, usage
from oci_mesh.cli.output import columns, show
from oci_mesh.cli.progress import Progress, Task, make_progress
from oci_mesh.cli.run import FAILED, PARTLY, run
from oci_mesh.cli.target import Target, resolve
from oci_mesh.control.client import ControlClient, call
from oci_mesh.control.sync import (
    PLAN,
    SYNC,
    NodeProgress,
    NodeResult,
    Plan,
    PlanRequest,
    Said,
    SyncRequest,
    SyncResult,
)
from oci_mesh.quantity import size_text
from oci_mesh.spec.reference import parse_reference

ALL: Final = "all"

_STANDARD_INPUT: Final = "-"

_COLOURS: Final = {"already": "bright_black", "held": "green", "imported": "green", "failed": "red"}


class _SyncCommand(click.Command):
    """Says in its usage what it takes; click has no optional argument before one that is not."""

    def collect_usage_pieces(self, context: click.Context) -> list[str]:
        return ["[OPTIONS]", "[SOURCE]", "REF"]


@click.command("sync", cls=_SyncCommand)
@click.argument("names", nargs=-1, type=REF, required=True)
@click.option(
    "--nodes",
    metavar="NAME,...",
    multiple=True,
    default=[ALL],
    show_default=True,
    help="Which nodes: `all`, or names; may be given many times. All are those that the mesh has "
    "seen within the last hour, also if they are down now.",
)
@click.option(
    "--import",
    "importing",
    is_flag=True,
    help="Have it in each node's containerd, too, by the name that a Deployment uses: pods with "
    "imagePullPolicy Never start. For nodes that run with --containerd-socket.",
)
@click.option(
    "--as",
    "name",
    metavar="NAME",
    help="What containerd is to call it. Default: REF as Kubernetes reads it, so app:v1 is "
    "docker.io/library/app:v1.",
)
@click.option(
    "--image", metavar="NAME", help="Which image of SOURCE, if it holds several: as for `push`."
)
@click.option(
    "--compression",
    type=click.Choice(["gzip", "zstd", "none"]),
    default="zstd",
    show_default=True,
    help="How to pack layers of SOURCE that come as plain tar. gzip, if older clients than docker "
    "23 or podman 3 are to pull it from the mesh.",
)
@root_option
@json_option
def sync_command(
    names: tuple[str, ...],
    *,
    nodes: Sequence[str],
    importing: bool,
    name: str | None,
    image: str | None,
    compression: Literal["gzip", "zstd", "none"],
    root: Path,
    as_json: bool,
) -> None:
    """Have an image on all nodes, or on some, now.

    REF is an image that the mesh has, or can get from a registry that it mirrors: app:v1,
    docker.io/library/nginx:1.27. With SOURCE, what `docker save` writes, an OCI layout, or - for
    standard input, the image is taken from there, and called REF.

    \b
      docker save app:v1 | oci-mesh sync - app:v1 --import
      oci-mesh sync docker.io/library/nginx:1.27 --nodes node-1,node-2

    All nodes get it at the same time, and from each other. No registry is needed for what the mesh
    has, no name service, no way out. Nodes that are down are named; the others go on. Run it again
    for the rest: who has the image has nothing to do.

    Exit codes: 0 all nodes have it, 3 some do not, 1 none does, 2 there is no node of that name.
    """
    if len(names) > 2:
        raise click.UsageError("expected [SOURCE] REF")
    source, ref = names if len(names) == 2 else (None, names[0])
    if name and not importing:
        raise click.UsageError("--as is what containerd is to call it: it goes with --import")
    if image and source is None:
        raise click.UsageError("--image is about SOURCE, and there is none")
    _check_source(source)
    chosen = _chosen(nodes)
    asked = PlanRequest(ref, chosen, name or "", source is not None)
    target = usage(lambda: resolve(ref))
    if name:
        usage(lambda: parse_reference(name))
    plan = run(call(root, PLAN, asked, Plan))
    if plan.unknown:
        hint = nearest(plan.unknown[0], plan.known)
        known = ", ".join(plan.known)
        raise click.UsageError(
            f"no node called {', '.join(plan.unknown)}: {hint or f'there are {known}'}"
        )
    request = SyncRequest(ref, chosen, plan.image if importing else "")
    with make_progress() as progress:
        if source is not None:
            target = replace(
                target, registry=plan.registry, repository=plan.repository, tag=plan.tag or None
            )
            request.repository = plan.repository
            request.digest = _push(source, target, image, compression, progress)
        result = run(_sync(root, request, progress))
    show(result, as_json=as_json, text=_text(result))
    failed = sum(node.state == "failed" for node in result.nodes)
    if failed:
        raise SystemExit(FAILED if failed == len(result.nodes) else PARTLY)


def _check_source(source: str | None) -> None:
    if source == _STANDARD_INPUT and sys.stdin.isatty():
        raise click.UsageError("SOURCE is standard input, but nothing is piped into it")
    if source not in (None, _STANDARD_INPUT) and not Path(str(source)).exists():
        raise click.UsageError(f"there is no file or directory {source}")


def _chosen(nodes: Sequence[str]) -> list[str]:
    """The names; none for all."""
    given = [name for text in nodes for name in text.split(",") if name]
    if not given:
        raise click.UsageError("--nodes names no node")
    return [] if ALL in given else list(dict.fromkeys(given))


def _push(
    source: str,
    target: Target,
    image: str | None,
    compression: Literal["gzip", "zstd", "none"],
    progress: Progress,
) -> str:
    """Bring the image to the node on this machine; its digest. The others get it from there."""
    from oci_mesh.cli.compression import Compression
    from oci_mesh.cli.push import Push
    from oci_mesh.cli.registry_client import RegistryClient
    from oci_mesh.cli.source import open_source

    with open_source(source, progress) as files:

        async def work() -> str:
            async with RegistryClient(target.registry, progress.note, spread=False) as client:
                pushed = await Push(files, client, target, progress).run(
                    image, Compression(compression, None)
                )
                return pushed.digest

        return run(work())


async def _sync(root: Path, request: SyncRequest, progress: Progress) -> SyncResult:
    lines: dict[str, _Line] = {}
    async with ControlClient(root) as client:
        async for document in client.stream(SYNC, request, Said):
            if isinstance(document, SyncResult):
                return document
            line = lines.setdefault(document.node, _Line(progress.task(document.node)))
            line.show(document)
    raise Failure("the node ended before it was done", hint="run this again for the rest")


class _Line:
    """One node's live line."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._phase = ("", 0)

    def show(self, document: NodeProgress | NodeResult) -> None:
        if isinstance(document, NodeResult):
            self._task.done(document.state, document.node, document.bytes)
            return
        phase = (document.stage, document.total)
        if phase != self._phase:
            self._task.phase(document.stage, document.total or None)
            self._phase = phase
        self._task.at(document.done)


def _text(result: SyncResult) -> str:
    rows = [
        (
            node.node,
            click.style(node.state, fg=_COLOURS[node.state]),
            f"{size_text(node.bytes)} in {node.seconds:.1f} s",
            node.reason,
        )
        for node in result.nodes
    ]
    have = sum(node.imported if result.image else node.held for node in result.nodes)
    where = f"in containerd as {result.image}" if result.image else f"held as {result.reference}"
    lines = [f"{where} on {have} of {len(result.nodes)} nodes: {result.digest}"]
    hints = {node.hint: node.node for node in reversed(result.nodes) if node.hint}
    lines += [f"hint ({node}): {hint}" for hint, node in hints.items()]
    return columns(rows) + "\n".join(lines)
