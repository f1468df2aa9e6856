"""`oci-mesh status`: the nodes of the mesh, and what they have."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from oci_mesh.cli.options import json_option, root_option
from oci_mesh.cli.output import columns, show, some
from oci_mesh.cli.run import PARTLY, run
from oci_mesh.control.client import call
from oci_mesh.control.status import (
    VERB,
    ImageStatus,
    NodeStatus,
    Status,
    StatusRequest,
    TransferStatus,
)
from oci_mesh.quantity import duration_text, size_text
from oci_mesh.spec.digest import short

# Images shown when all sections are; `--images` shows all.
_SHOWN: Final = 20

_STATES: Final = {
    "this": ("up (asked)", "green"),
    "answered": ("up", "green"),
    "silent": ("no answer", "yellow"),
    "gone": ("down", "red"),
    "left": ("left", "bright_black"),
    "wrong": ("wrong answer", "red"),
}

_Sections = list[Callable[[Status], Iterator[str]]]


@click.command("status")
@click.option("--nodes", is_flag=True, help="Show the nodes, and what is wrong with them.")
@click.option("--images", is_flag=True, help="Show the images, all of them, by name.")
@click.option("--transfers", is_flag=True, help="Show what is on its way between nodes.")
@root_option
@json_option
def status_command(
    *, nodes: bool, images: bool, transfers: bool, root: Path, as_json: bool
) -> None:
    """Show the mesh: nodes, who reaches whom, disks, images and where they are, transfers.

    The node on this machine asks all others, all at once, and waits no longer than a second.
    Without one of --nodes, --images and --transfers everything is shown, of images the first 20.

    A node tells of itself only. That it has a manifest which is on this machine, too, it has to
    show; images that only others have are as they say. Images of private registries are not
    listed: `oci-mesh explain` tells of them.

    A node is down for as long as nothing was heard of it; after an hour it is forgotten.

    Exit code 0 if all nodes answer and nothing is wrong, 3 if some are down or something is, 1 if
    there is no answer at all: no node runs on this machine.
    """
    everything = not (nodes or images or transfers)
    found = run(call(root, VERB, StatusRequest(images=everything or images), Status))
    sections: _Sections = []
    if everything or nodes:
        sections += [_nodes, _problems]
    if everything or images:
        sections += [_few_images if everything else _images, _tags]
    if everything or transfers:
        sections.append(_transfers)
    show(found, as_json=as_json, text=status_text(found, sections))
    if not found.well:
        raise SystemExit(PARTLY)


def status_text(found: Status, sections: _Sections) -> str:
    """For people."""
    texts = ["\n".join(section(found)) for section in sections]
    return "\n\n".join(text for text in texts if text)


# -- nodes


def _nodes(found: Status) -> Iterator[str]:
    header = ("NODE", "STATE", "ZONE", "ADDRESS", "VERSION", "UP", "SEES", "FREE", "CONTENT")
    yield columns([_node(node) for node in found.nodes], header).removesuffix("\n")
    up = sum(node.state in ("this", "answered") for node in found.nodes)
    yield f"{up} of {len(found.nodes)} nodes answered, in {found.took_s:.2f} s"


def _node(node: NodeStatus) -> tuple[str, ...]:
    text, colour = _STATES[node.state]
    if node.draining:
        text += ", draining"
    if node.state == "gone":
        text += f" for {duration_text(node.silent_s)}"
    about = (node.id, click.style(text, fg=colour), node.zone or "-", node.address)
    disk = node.disk
    if disk is None:
        return (*about, "-", "-", "-", "-", "-")
    content = size_text(disk.content)
    return (
        *about,
        node.version,
        duration_text(node.uptime_s),
        str(node.sees),
        f"{size_text(disk.free)} of {size_text(disk.total)}",
        f"{content} of {size_text(disk.limit)}" if disk.limit else content,
    )


def _problems(found: Status) -> Iterator[str]:
    lines = [
        f"{node.id}: {node.reason}"
        for node in found.nodes
        if node.state in ("silent", "gone", "wrong")
    ]
    lines += [f"{problem.node}: {problem.text}" for problem in found.problems]
    if lines:
        yield click.style("What is wrong", bold=True)
        yield from (f"  {line}" for line in lines)


# -- images


def _few_images(found: Status) -> Iterator[str]:
    yield from _image_table(found, found.images[:_SHOWN])
    if len(found.images) > _SHOWN:
        yield f"and {len(found.images) - _SHOWN} more: oci-mesh status --images"


def _images(found: Status) -> Iterator[str]:
    yield from _image_table(found, found.images)


def _image_table(found: Status, images: list[ImageStatus]) -> Iterator[str]:
    there = [node.id for node in found.nodes if node.disk is not None]
    if images:
        header = ("IMAGE", "TAGS", "DIGEST", "NODES", "")
        yield columns([_image(image, there) for image in images], header).removesuffix("\n")
    if found.more_images:
        yield "some nodes have more images than they told of"


def _image(image: ImageStatus, there: list[str]) -> tuple[str, ...]:
    missing = [node for node in there if node not in image.whole]
    if not missing or not image.whole:
        where = ""
    elif len(missing) < len(image.whole):
        where = f"not on {some(missing)}"
    else:
        where = f"on {some(image.whole)}"
    if image.part:
        where += f"{'; ' if where else ''}a part on {some(image.part)}"
    return (
        image.repository,
        some(image.tags) or "-",
        short(image.digest),
        f"{len(image.whole)} of {len(there)}",
        where,
    )


def _tags(found: Status) -> Iterator[str]:
    if found.tags:
        yield click.style("Tags that nodes differ about", bold=True)
    for tag in found.tags:
        yield f"  {tag.repository}:{tag.tag}"
        for digest, nodes in tag.meanings.items():
            yield f"    {short(digest)} on {some(nodes)}"


# -- transfers


def _transfers(found: Status) -> Iterator[str]:
    if found.transfers:
        header = ("TO", "BLOB", "OF", "HERE", "RATE", "FROM")
        yield columns([_transfer(transfer) for transfer in found.transfers], header).removesuffix(
            "\n"
        )


def _transfer(transfer: TransferStatus) -> tuple[str, ...]:
    here = "looked for"
    if transfer.size >= 0:
        share = transfer.verified / max(1, transfer.size)
        here = f"{100 * share:.0f} % of {size_text(transfer.size)}"
    return (
        transfer.node,
        short(transfer.digest),
        transfer.repository,
        here,
        f"{size_text(transfer.rate)}/s",
        some(transfer.asked) or "-",
    )
