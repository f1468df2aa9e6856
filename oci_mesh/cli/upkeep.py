"""`oci-mesh node drain|gc|scrub`: what is shown of them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import click

from oci_mesh.cli.options import json_option, root_option, usage
from oci_mesh.cli.output import columns, show
from oci_mesh.cli.progress import make_progress
from oci_mesh.cli.run import FAILED, PARTLY, run
from oci_mesh.control import upkeep
from oci_mesh.control.client import ControlClient
from oci_mesh.control.upkeep import (
    DrainRequest,
    DrainResult,
    Finding,
    GcRequest,
    GcResult,
    Only,
    ScrubRequest,
    ScrubResult,
)
from oci_mesh.control.wire import Document
from oci_mesh.quantity import parse_duration, parse_rate, size_text
from oci_mesh.spec.digest import short

Result = TypeVar("Result")


def _duration(_: click.Context, __: click.Parameter, text: str | None) -> float:
    return 0.0 if text is None else usage(lambda: parse_duration(text))


# -- drain


@click.command("drain")
@click.option("--dry-run", is_flag=True, help="Only say what would have to be handed over.")
@click.option(
    "--copies",
    type=click.IntRange(min=1),
    help="On how many other nodes all of it has to be. Default: the node's setting.",
)
@click.option(
    "--within", callback=_duration, metavar="DURATION", help="Give up after that, as in 60s."
)
@root_option
@json_option
def drain_command(
    *, dry_run: bool, copies: int | None, within: float, root: Path, as_json: bool
) -> None:
    """Hand over what only this node has, then leave the mesh.

    Meanwhile the node takes no pushes (503: clients go to another one), and serves all else. Once
    everything that was pushed is on enough other nodes, it leaves: others do not count on it any
    more. It goes on to serve this machine until it is stopped; a restart brings it back. What could
    not be handed over is named, and the node stays in the mesh then. May be interrupted, and run
    again. As a hook before a pod stops: `oci-mesh node drain --within 60s`.
    """
    asked = DrainRequest(dry_run, copies or 0, within)
    result = _stream(root, upkeep.DRAIN, asked, upkeep.DrainDocument, DrainResult)
    show(result, as_json=as_json, text=_drain_text(result, dry_run=dry_run))
    if result.failed:
        raise SystemExit(PARTLY if result.handed_over else FAILED)


def _drain_text(result: DrainResult, *, dry_run: bool) -> str:
    lines = []
    size = size_text(sum(only.size for only in result.handed_over))
    if result.handed_over:
        said = "has to be handed over" if dry_run else "was handed over"
        lines += [f"{len(result.handed_over)} ({size}) {said}:", _only(result.handed_over)]
    elif dry_run or result.left:
        lines.append(f"all of it is on {result.copies} other nodes, or on all that there are")
    if result.incomplete:
        lines += ["no node has all of these, so only parts were:", _only(result.incomplete)]
    if result.failed:
        lines += ["this could not be handed over:", _only(result.failed)]
        lines.append(f"{result.node} has not left. Free or add a node, and run this again")
    elif result.left:
        lines.append(f"{result.node} has left the mesh. It may be stopped now")
    return "\n".join([*(line.rstrip("\n") for line in lines), *result.notes])


def _only(items: list[Only]) -> str:
    return columns(
        [
            (
                f"  {only.repository}@{short(only.digest)}",
                size_text(only.size),
                f"on {', '.join(only.holders) or 'no other node'}",
                only.reason,
            )
            for only in items
        ]
    )


# -- gc


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--untagged",
    is_flag=True,
    help="Manifests too that have no tag and to which no index or other manifest leads: they are "
    "deleted on all nodes. Who pulls them by digest gets them no more.",
)
@click.option(
    "--grace",
    callback=_duration,
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="What was used so lately stays: a push sends its blobs before the manifest that names "
    "them. Less is for a mesh to which nobody pushes now.",
)
@root_option
@json_option
def gc_command(*, dry_run: bool, untagged: bool, grace: float, root: Path, as_json: bool) -> None:
    """Remove what is of no use: blobs that no manifest names on any node, uploads that nobody
    continues, what was in quarantine for a week, and cache beyond its bounds.

    All nodes are asked. While one of them does not answer, blobs that only it may need stay, and
    the exit code is 3. The node works on meanwhile; it may be interrupted at any moment.
    """
    asked = GcRequest(dry_run, untagged, grace)
    result = _stream(root, upkeep.GC, asked, upkeep.GcDocument, GcResult)
    show(result, as_json=as_json, text=_gc_text(result))
    if result.silent:
        raise SystemExit(PARTLY)


def _gc_text(result: GcResult) -> str:
    rows = [(freed.kind, str(freed.count), size_text(freed.bytes)) for freed in result.freed]
    total = size_text(sum(freed.bytes for freed in result.freed))
    would = "would be freed" if result.dry_run else "freed"
    text = columns(rows, ("KIND", "COUNT", "SIZE")) + f"{total} {would}"
    if result.silent:
        names = ", ".join(result.silent)
        text += (
            f"\nkept: {size_text(result.kept)} that nothing names here, for {names} did not "
            "answer; run this again when it does, or in an hour, when it is forgotten"
        )
    return text


# -- scrub


def _rate(_: click.Context, __: click.Parameter, text: str) -> int:
    return usage(lambda: parse_rate(text))


@click.command("scrub")
@click.option(
    "--rate",
    callback=_rate,
    default="100MB",
    show_default=True,
    metavar="RATE",
    help="Read so many bytes a second at most, as in 50MB; 0: as fast as the disk can.",
)
@root_option
@json_option
def scrub_command(*, rate: int, root: Path, as_json: bool) -> None:
    """Read all content of the node again, and mend what is damaged or missing.

    What is damaged is put aside (in ROOT/quarantine, for a week), served no more, and fetched again
    from other nodes or its registry. What cannot be had is named, with who should push it again;
    the exit code is 1 then. The node does this by itself once a week (setting `scrub-rate`).
    """
    asked = ScrubRequest(rate)
    result = _stream(root, upkeep.SCRUB, asked, upkeep.ScrubDocument, ScrubResult)
    show(result, as_json=as_json, text=_scrub_text(result))
    if any(finding.outcome == "lost" for finding in result.findings):
        raise SystemExit(FAILED)


def _scrub_text(result: ScrubResult) -> str:
    lines = [_finding_text(finding) for finding in result.findings]
    read = f"{result.contents} blobs and manifests ({size_text(result.bytes)}) verified"
    damaged = f"{len(result.findings)} damaged" if result.findings else "all are right"
    return "\n".join([*lines, f"{read}: {damaged}"])


def _finding_text(finding: Finding) -> str:
    outcome = f"mended from {finding.source}" if finding.outcome == "mended" else finding.outcome
    text = f"{finding.digest} ({', '.join(finding.repositories)}): {finding.reason}; {outcome}"
    return text + (f"\n  {finding.advice}" if finding.advice else "")


# -- how the node is asked


def _stream(root: Path, verb: str, asked: Document, kind: Any, last: type[Result]) -> Result:
    """The last document; those before it are shown as progress."""

    async def work() -> Result:
        async with ControlClient(root) as client:
            return await _follow(client.stream(verb, asked, kind), last)

    return run(work())


async def _follow(documents: AsyncIterator[Any], last: type[Result]) -> Result:
    result: Result | None = None
    with make_progress() as progress:
        task, phase = progress.task(""), ""
        async for document in documents:
            if isinstance(document, upkeep.Progress):
                if document.phase != phase:
                    phase = document.phase
                    task.phase(phase, document.total or None)
                task.at(document.done)
            elif isinstance(document, Finding):
                progress.note(f"damaged: {document.digest}")
            elif isinstance(document, last):
                result = document
    assert result is not None
    return result
