"""What nodes say of themselves, held against each other: what is where, and what does not fit.

A word of one node about another is shown as its word, and changes nothing that is said of the
other. Who claims to have a manifest that this node has, too, must show it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from secrets import compare_digest
from typing import Final, NamedTuple

from oci_mesh.control.status import ImageStatus, NodeStatus, Problem, TagStatus
from oci_mesh.errors import OciError
from oci_mesh.members.table import DEAD_AFTER_S
from oci_mesh.mesh.holdings import mark
from oci_mesh.mesh.wire import HeldImage, Report
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import parse_tag
from oci_mesh.spec.scope import is_mirrored, is_private, parse_scope
from oci_mesh.store.base import Store

# A clock that is so far from ours is worth a word: names from one five minutes ahead are refused.
CLOCK_S: Final = 30.0

# Who has started just now is not known everywhere, nor does it know all.
SETTLED_S: Final = DEAD_AFTER_S

_Key = tuple[str, str]


class Told(NamedTuple):
    """What came of asking one node. `nonce` was for it alone."""

    node: NodeStatus
    report: Report | None = None
    nonce: str = ""


# -- what is wrong


def find_problems(told: Sequence[Told]) -> list[Problem]:
    """All that the answers show, but for false claims; by node, in their order."""
    there = [each for each in told if each.report is not None]
    settled = {each.node.id for each in there if each.node.uptime_s > SETTLED_S}
    return [
        problem
        for each in there
        for problem in _problems(each, {t.node.id for t in there}, settled)
    ]


def _problems(told: Told, there: set[str], settled: set[str]) -> Iterator[Problem]:
    node, report = told.node, told.report
    assert report is not None
    missed = {each.node: each for each in report.missed if each.node in there - {node.id}}
    for other, each in missed.items():
        text = f"says that it could not reach {other} {each.age_s:.0f} s ago: {each.reason}"
        yield Problem("reach", node.id, text, [other])
    unseen = settled - set(report.alive) - set(missed) - {node.id}
    if unseen and node.id in settled:
        yield _about("unseen", node.id, "says that these do not seem alive to it", unseen)
    if report.doubles:
        yield _about("double", node.id, "says that others go by its id, at", set(report.doubles))
    banned = set(report.banned) & there - {node.id}
    if banned:
        yield _about("banned", node.id, "says that it got wrong bytes from", banned)
    if abs(node.ahead_s) > CLOCK_S:
        direction = "ahead of" if node.ahead_s > 0 else "behind"
        text = f"its clock is {abs(node.ahead_s):.0f} s {direction} ours"
        yield Problem("clock", node.id, text)
    if 0 < node.certificate_ends < report.now:
        yield Problem("certificate", node.id, "its certificate is no longer valid")
    disk = report.disk
    if disk.total and disk.free <= disk.reserve:
        yield Problem("disk", node.id, "its disk has no room for more content")
    elif disk.limit and disk.content - disk.cached >= disk.limit:
        yield Problem("disk", node.id, "it has as much content as its settings allow (disk-limit)")


def _about(kind: str, node: str, text: str, others: set[str]) -> Problem:
    names = sorted(others)
    return Problem(kind, node, f"{text} {', '.join(names)}", names)  # type: ignore[arg-type]


# -- what is where


async def find_images(
    told: Sequence[Told], store: Store
) -> tuple[list[ImageStatus], list[Problem]]:
    """The images of all, and who claims what is not so. `store` is what claims are held against."""
    found: dict[_Key, ImageStatus] = {}
    false: defaultdict[str, set[str]] = defaultdict(set)
    contents: dict[_Key, bytes | None] = {}
    for node, nonce, image in _claims(told):
        key = image.repository, image.digest
        status = found.get(key)
        if status is None:
            status = found[key] = ImageStatus(*key, [], [], [])
            contents[key] = await _content(store, *key)
        if node == told[0].node.id or is_mirrored(image.repository):
            status.tags += [tag for tag in image.tags if tag not in status.tags]
        if not image.mark:
            continue  # it only knows of it
        content = contents[key]
        if content is None or compare_digest(image.mark, mark(nonce, content, len(content))):
            (status.whole if image.whole else status.part).append(node)
        else:
            false[node].add(f"{image.repository}@{image.digest}")
    images = sorted(found.values(), key=lambda each: (each.repository, each.tags, each.digest))
    text = "says that it has these, and cannot show it:"
    return images, [_about("false", node, text, names) for node, names in false.items()]


def find_tags(told: Sequence[Told]) -> list[TagStatus]:
    """Tags that mean different things to different nodes, as far as they told of all they know."""
    meanings: defaultdict[_Key, dict[str, list[str]]] = defaultdict(dict)
    for node, _, image in _claims(told):
        for tag in image.tags:
            meanings[image.repository, tag].setdefault(image.digest, []).append(node)
    return [
        TagStatus(repository, tag, nodes)
        for (repository, tag), nodes in sorted(meanings.items())
        if len(nodes) > 1
    ]


def _claims(told: Sequence[Told]) -> Iterator[tuple[str, str, HeldImage]]:
    """Node, nonce and image, for all images that could be."""
    for each in told:
        seen = set()
        for image in [] if each.report is None else each.report.images:
            key = image.repository, image.digest
            if key not in seen and _could_be(image):
                seen.add(key)
                yield each.node.id, each.nonce, image


def _could_be(image: HeldImage) -> bool:
    try:
        parse_scope(image.repository)
        Digest.parse(image.digest)
        for tag in image.tags:
            parse_tag(tag)
    except OciError:
        return False
    return not is_private(image.repository)


async def _content(store: Store, repository: str, digest: str) -> bytes | None:
    try:
        return (await store.peek(repository, Digest.parse(digest))).content
    except OciError:
        return None
