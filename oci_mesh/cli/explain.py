"""`oci-mesh explain`: where a name leads, who has it, and how the last pulls of it went."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from oci_mesh.cli.completion import REF
from oci_mesh.cli.nearest import nearest
from oci_mesh.cli.options import json_option, root_option, usage
from oci_mesh.cli.output import NAMED, columns, show, some
from oci_mesh.cli.run import FAILED, run
from oci_mesh.cli.selection import this_platform
from oci_mesh.control.client import call
from oci_mesh.control.explain import (
    VERB,
    Content,
    ExplainRequest,
    Explanation,
    NodeAnswer,
    Offer,
    Pull,
    Rule,
    Tag,
)
from oci_mesh.quantity import duration_text, size_text
from oci_mesh.spec.digest import short
from oci_mesh.spec.platform import parse_platform, platform_text

# Pulls and deliveries shown; `--json` has more.
_SHOWN: Final = 10

_AWAY: Final = {
    "silent": "did not answer in time",
    "gone": "is gone",
    "left": "was shut down",
}

_KNOWN_FROM: Final = {
    "register": "written on {by} {ago}",
    "memory": "as its registry said {ago}",
    "others": "as its registry told other nodes {ago}; this one has not asked",
    "registry": "as its registry says now",
}


@click.command("explain")
@click.argument("ref", type=REF)
@click.option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    help="Of an image for several platforms, this one. Default: this machine's.",
)
@click.option(
    "--ask",
    is_flag=True,
    help="Ask another registry's tag anew, and get the manifest, as a pull would. That may take "
    "some seconds. Without it no registry is asked.",
)
@root_option
@json_option
def explain_command(
    ref: str, *, platform: str | None, ask: bool, root: Path, as_json: bool
) -> None:
    """Say where a name leads, which node has what of it, and how the last pulls went.

    REF is a name as anybody writes it: app:v1, nginx, docker.io/library/nginx:1.27,
    registry.internal:5000/app:v1, app@sha256:... A name without a host means different things to
    different clients: all are said.

    Every node is asked what it has. What this node has, too, the others have to show some bytes of;
    the rest is marked with "says". Of a pull it is told what came from whom, which part of the
    time went into waiting, and how near it came to what the links allow (its bound).

    Exit code 0 if the name leads to an image, 1 if it does not: then it is said where it ends.
    """
    wanted = usage(lambda: parse_platform(platform)) if platform else this_platform()
    request = ExplainRequest(ref, platform_text(wanted), ask)
    found = run(call(root, VERB, request, Explanation))
    show(found, as_json=as_json, text=explanation_text(found, time.time()))
    if found.stopped_at:
        click.echo(f"error: {found.ref} leads nowhere: {found.why}", err=True)
        if hint := nearest(_wanted(found), found.similar) or found.hint:
            click.echo(f"hint: {hint}", err=True)
        raise SystemExit(FAILED)


def explanation_text(found: Explanation, now: float) -> str:
    """All of it for people; `now` in seconds since 1970."""
    sections: list[Callable[[Explanation, float], Iterator[str]]] = [
        _name,
        _way,
        _contents,
        _nodes,
        _pulls,
        _clients,
    ]
    return "\n".join(
        "\n".join(lines) + "\n" for section in sections if (lines := list(section(found, now)))
    )


def _title(text: str) -> str:
    return click.style(text, bold=True)


def _name(found: Explanation, now: float) -> Iterator[str]:
    if len(found.readings) < 2:
        return
    yield _title(f"{found.ref} means")
    for reading in found.readings:
        leads = f" -> {reading.repository}" if reading.repository else ""
        is_this = found.rule is not None and reading.repository == found.rule.repository
        explained = "  (explained here)" if is_this else ""
        yield f"  to {reading.clients}: {reading.name}{leads}{explained}"


def _way(found: Explanation, now: float) -> Iterator[str]:
    yield _title("Where it leads")
    rows = []
    if found.rule is not None:
        rows.append(("name", _rule_text(found.rule)))
    if found.tag is not None:
        rows += [("tag", text) for text in _tag_text(found.tag, now)]
    if found.offers:
        rows += [("index", text) for text in _offers_text(found.offers)]
    rows += [(c.kind, c.digest) for c in found.contents if c.kind == "manifest"]
    if found.stopped_at:
        rows.append((click.style("ends", fg="red"), f"at the {found.stopped_at}: {found.why}"))
    else:
        size = size_text(sum(content.size for content in found.contents))
        rows.append(("image", f"{len(found.contents)} contents, {size}"))
    yield _indented(columns(rows))


def _rule_text(rule: Rule) -> str:
    if rule.kind == "off":
        return f"of {rule.registry}, whose mirroring is switched off"
    if rule.kind == "own":
        host = f" ({rule.registry} is no registry that is mirrored)" if rule.registry else ""
        return f"the mesh's own repository {rule.repository}{host}"
    what = "a configured upstream" if rule.kind == "upstream" else "a public registry"
    asked = f"asked at {', '.join(rule.urls)} for {rule.asked_as}"
    if rule.private:
        asked = "it gives this only to who has a secret: the mesh does not ask it"
    return f"of {rule.registry}, {what}; {asked}"


def _tag_text(tag: Tag, now: float) -> Iterator[str]:
    known = _KNOWN_FROM.get(tag.known_from, "")
    known = known.format(by=tag.written_by, ago=_ago(tag.at, now))
    if tag.deleted:
        yield f"{tag.name} was deleted, {known}"
    elif not tag.digest:
        yield f"{tag.name} is not known"
    else:
        stale = "; the next pull asks it again" if tag.stale else ""
        yield f"{tag.name} = {tag.digest}, {known}{stale}"
    for node in tag.differing[:NAMED]:
        yield f"to {node.node} it is {node.digest or 'deleted'}"
    if len(tag.differing) > NAMED:
        yield f"and to {len(tag.differing) - NAMED} more nodes it is another"


def _offers_text(offers: list[Offer]) -> Iterator[str]:
    taken = [offer for offer in offers if offer.taken]
    others = [offer.platform for offer in offers if not offer.taken]
    if taken:
        yield f"{taken[0].platform} is taken"
    if others:
        yield f"{'others' if taken else 'it has'}: {some(others)}"


def _contents(found: Explanation, now: float) -> Iterator[str]:
    if not found.contents:
        return
    answered = [n.node for n in found.nodes if n.state in ("this", "answered")]
    yield _title("Who has it")
    rows = [
        (c.kind, short(c.digest), size_text(c.size), _holders_text(c, answered))
        for c in found.contents
    ]
    yield _indented(columns(rows))
    if found.unasked:
        yield f"  nodes were not asked about the last {found.unasked}"


def _holders_text(content: Content, answered: list[str]) -> str:
    by_state: dict[str, list[str]] = {}
    for holder in content.holders:
        where = " (in containerd)" if holder.in_containerd else ""
        name = f"{holder.node}{where}"
        if holder.state == "part":
            name = f"{name} {100 * holder.share:.0f} %"
        by_state.setdefault(holder.state, []).append(name)
    has = by_state.get("has", [])
    parts = []
    if len(has) == len(answered) > 1:
        parts.append(f"all {len(answered)} nodes")
    elif has:
        parts.append(some(has))
    if says := by_state.get("says"):
        parts.append(f"says: {some(says)}")
    if part := by_state.get("part"):
        parts.append(f"on its way: {some(part)}")
    if false := by_state.get("false"):
        parts.append(click.style(f"cannot show it: {some(false)}", fg="red"))
    return "; ".join(parts) or click.style("nobody", fg="yellow")


def _nodes(found: Explanation, now: float) -> Iterator[str]:
    if not found.nodes:
        return
    answered = sum(node.state in ("this", "answered") for node in found.nodes)
    yield _title("Nodes")
    yield f"  {answered} of {len(found.nodes)} answered, in {found.took_s:.2f} s"
    for state, text in _AWAY.items():
        away = [_away(node) for node in found.nodes if node.state == state]
        yield from (f"  {click.style(name, fg='yellow')} {text}" for name in away[:NAMED])
        if len(away) > NAMED:
            yield f"  and so it is with {len(away) - NAMED} more"


def _away(node: NodeAnswer) -> str:
    return f"{node.node} ({node.address})"


def _pulls(found: Explanation, now: float) -> Iterator[str]:
    if not found.pulls:
        return
    yield _title("Last pulls, as each node says")
    for pull in found.pulls[:_SHOWN]:
        rate = pull.bytes / pull.took_s if pull.took_s > 0 else 0.0
        yield (
            f"  {pull.node}, {_ago(pull.at, now)}: {size_text(pull.bytes)} in {pull.took_s:.1f} s "
            f"({size_text(rate)}/s), {len(pull.blobs)} blobs"
        )
        yield f"    from {_givers_text(pull)}"
        if pull.bound is not None and pull.share is not None:
            yield (
                f"    {100 * pull.share:.0f} % of the bound, {pull.bound.seconds:.1f} s: "
                f"{pull.bound.by}"
            )
            yield from (f"      assumed: {text}" for text in pull.bound.assumed)
        yield from (f"    - {text}" for text in pull.verdict)
    if len(found.pulls) > _SHOWN:
        yield f"  and {len(found.pulls) - _SHOWN} earlier ones: --json"


def _givers_text(pull: Pull) -> str:
    given = [
        f"{_giver(name)} {size_text(giver.bytes)}"
        for name, giver in pull.givers.items()
        if giver.bytes
    ]
    return some(given) if given else "nobody"


def _giver(name: str) -> str:
    """As `journal` names them."""
    words = {"@kept": "an earlier attempt", "@containerd": "containerd", "@others": "others"}
    return words.get(name, name.removeprefix("@"))


def _clients(found: Explanation, now: float) -> Iterator[str]:
    slow = [delivery for delivery in found.deliveries if delivery.verdict]
    if not slow:
        return
    yield _title("Clients that waited, or did not get it")
    for delivery in slow[:_SHOWN]:
        yield (
            f"  of {delivery.node}, {_ago(delivery.at, now)}: {short(delivery.digest)}, "
            f"{size_text(delivery.bytes)} in {delivery.took_s:.1f} s"
        )
        yield from (f"    - {text}" for text in delivery.verdict)


# -- words


def _wanted(found: Explanation) -> str:
    repository = "" if found.rule is None else found.rule.repository
    return f"{repository}:{found.tag.name}" if found.tag is not None else repository


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _ago(at: float, now: float) -> str:
    """Clocks differ: what is a little ahead is now."""
    return f"{duration_text(now - at)} ago"
