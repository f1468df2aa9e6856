"""Why would a pod not pull this image: the way that a kubelet and containerd go, step by step.

What a name leads to, and who has what of it, is the node's to say (`explain`); here is whether
containerd would ever ask it, and what it would do with the answer.
"""

import asyncio
import platform as uname
from collections.abc import Sequence
from typing import Final, NamedTuple

from oci_mesh.cli.containerd_config import hosts_path
from oci_mesh.cli.doctor.containerd import socket_of
from oci_mesh.cli.doctor.finding import Finding, error, ok, skipped, warning
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.cli.failure import Failure, shown
from oci_mesh.cli.hosts_toml import parse, read_hosts
from oci_mesh.cli.output import some
from oci_mesh.cli.runtime import DEFAULT_NAME
from oci_mesh.cli.target import names_host
from oci_mesh.containerd.cri import Cri
from oci_mesh.control.client import call
from oci_mesh.control.explain import VERB, ExplainRequest, Explanation
from oci_mesh.control.health import Asked
from oci_mesh.errors import OperationFailed
from oci_mesh.spec.platform import platform_of, platform_text
from oci_mesh.spec.reference import DEFAULT_TAG, Reference, parse_reference

# The node asks all others what they have.
EXPLAIN_S: Final = 15.0

_CONFIGURE: Final = "oci-mesh containerd configure"


class Way(NamedTuple):
    """How containerd gets images of one registry."""

    path: str
    """The hosts.toml that counts; empty if there is none."""
    asks: bool
    """Whether the node is asked at all."""
    resolves: bool
    """And what tags mean."""
    is_own: bool = False
    """There is no other registry behind that name."""


def way_of(patient: Patient, registry: str) -> Way:
    """As hosts.toml says. Raises `Failure` if that cannot be read."""
    if patient.is_here(registry):
        return Way("", asks=True, resolves=True, is_own=True)  # the node's own address
    for name in (registry, DEFAULT_NAME):
        path = hosts_path(patient.machine, patient.hosts, name) if patient.hosts else ""
        text = patient.machine.text(path) if path else None
        if text is None:
            continue
        hosts = read_hosts(text, path)
        ours = [said for url, said in hosts.items() if patient.is_here(url)]
        capabilities = ours[0].get("capabilities", ["pull", "resolve"]) if ours else []
        is_own = patient.is_here(str(parse(text, path).get("server", "")))
        return Way(path, bool(ours), "resolve" in capabilities, is_own)
    return Way("", asks=False, resolves=False)


async def look_at_name(patient: Patient) -> list[Finding]:
    """What a pod means by it, and whether containerd asks the node for that."""
    reference = parse_reference(patient.reference)
    meant = f"in a pod, {patient.reference} means {reference}"
    if not names_host(patient.reference) and await _is_own(patient):
        return [
            warning(
                "name.short",
                f"{meant}; the mesh has an image of its own by that name, which is another one",
                f"in the pod, write {_own_address(patient)}/{patient.reference}, or a name of "
                f"yours: {_CONFIGURE} registry.internal --own",
            )
        ]
    patient.image = reference
    try:
        way = way_of(patient, reference.domain)
    except Failure as failure:
        return [skipped(str(failure))]
    upstreams = [] if patient.health is None else patient.health.upstreams
    return judge_way(reference, way, upstreams) or [ok(f"{meant}, and containerd asks the node")]


async def _is_own(patient: Patient) -> bool:
    """Whether the mesh has an image of its own by the name as it was typed."""
    explained = await _explained(patient, patient.reference)
    is_own = explained.rule is not None and explained.rule.kind == "own"
    return is_own and explained.tag is not None and bool(explained.tag.digest)


def _own_address(patient: Patient) -> str:
    return patient.url.rpartition("://")[2]


def judge_way(reference: Reference, way: Way, upstreams: Sequence[Asked]) -> list[Finding]:
    """Whether containerd asks the node for it, as far as it has to."""
    domain = reference.domain
    where = way.path or "no hosts.toml"
    if not way.asks:
        return [
            warning(
                "name.not-asked",
                f"containerd does not ask the node for images of {domain} ({where}), but {domain} "
                "itself",
                f"{_CONFIGURE} {domain}",
            )
        ]
    if reference.digest is not None or way.resolves:
        return []
    if way.is_own:
        return [
            error(
                "name.no-resolve",
                f"{where} has the node asked for content, and not what tags mean; nobody else "
                f"knows that of {domain}",
                f"{_CONFIGURE} {domain} --own",
            )
        ]
    silent = [asked for asked in upstreams if asked.name == domain and asked.error]
    if not silent:
        return []
    return [
        error(
            "name.registry-silent",
            f"containerd asks {domain} what the tag {reference.tag} means, and that does not "
            f"answer: {silent[0].error}",
            f"{_CONFIGURE} {domain} --resolve: then the node is asked for tags, too; or name the "
            "image by its digest",
        )
    ]


async def look_at_image(patient: Patient) -> list[Finding]:
    """Does the name lead to an image for this machine, all of it; and on which nodes is it."""
    if patient.image is None:
        return [skipped("see `name`")]
    return judge_image(await _explained(patient, str(patient.image)))


async def _explained(patient: Patient, reference: str) -> Explanation:
    platform = platform_text(platform_of(uname.machine()))
    request = ExplainRequest(reference, platform)
    async with asyncio.timeout(EXPLAIN_S):
        return await call(patient.root, VERB, request, Explanation)


_STOPS: Final = {
    "rule": "image.not-mirrored",
    "tag": "image.no-tag",
    "manifest": "image.no-manifest",
    "platform": "image.no-platform",
    "blobs": "image.incomplete",
}


def judge_image(explained: Explanation) -> list[Finding]:
    """What the node says of it."""
    if explained.stopped_at:
        similar = f"; there is {', '.join(explained.similar[:3])}" if explained.similar else ""
        fix = f"oci-mesh explain {explained.ref} tells more"
        fix = f"{explained.hint} ({fix})" if explained.hint else fix
        offered = some([offer.platform for offer in explained.offers])
        if explained.stopped_at == "platform" and offered:
            similar = f", but for {offered}"
        text = f"{explained.ref}: {explained.why}{similar}"
        rule = explained.rule
        if rule is not None and rule.kind != "own" and explained.stopped_at != "rule":
            # The registry has it perhaps, and the node gets it on the first pull.
            return [warning(_STOPS[explained.stopped_at], text, fix)]
        return [error(_STOPS[explained.stopped_at], text, fix)]
    nodes = [each.node for each in explained.nodes if each.state in ("this", "answered")]
    lacking = [node for node in nodes if not _has_all(explained, node)]
    if not lacking:
        return [ok(f"all of it is on each of {len(nodes)} nodes")]
    return [
        warning(
            "image.not-everywhere",
            f"all of it can be had, and it is not on {some(lacking)} yet",
            f"nothing, if its pods may pull: a node gets it then. oci-mesh sync {explained.ref} "
            "has it there before; with --import also for imagePullPolicy: Never",
        )
    ]


def _has_all(explained: Explanation, node: str) -> bool:
    return all(
        any(holder.node == node and holder.state in ("has", "says") for holder in content.holders)
        for content in explained.contents
    )


async def look_at_held(patient: Patient) -> list[Finding]:
    """What containerd has by that name already, which pods get that may take what is there."""
    if patient.image is None:
        return [skipped("see `name`")]
    try:
        async with asyncio.timeout(EXPLAIN_S), Cri(socket_of(patient)) as cri:
            held = await cri.image(str(patient.image))
    except (OperationFailed, TimeoutError) as failure:
        return [skipped(f"containerd cannot be asked: {shown(str(failure))[1:-1]}")]
    digests = [] if held is None else [each.rpartition("@")[2] for each in held.digests]
    explained = await _explained(patient, str(patient.image))
    now = "" if explained.tag is None else explained.tag.digest
    return judge_held(patient.image, digests if held else None, now)


def judge_held(image: Reference, held: Sequence[str] | None, now: str) -> list[Finding]:
    """`held` are the digests that containerd has by the name, None if it has nothing; `now` is what
    the tag means to the node, empty if it does not know.
    """
    policy = "Always" if image.tag == DEFAULT_TAG else "IfNotPresent"
    if held is None:
        return [ok(f"containerd has no {image} yet: imagePullPolicy: Never would fail")]
    if now and now not in held and image.digest is None:
        return [
            warning(
                "held.old",
                f"containerd has another {image} ({held[0] if held else 'of its own'}) than the "
                f"mesh has now ({now}): a pod that takes what is there gets the old one",
                f"imagePullPolicy: Always (here {policy} is the default), or: crictl rmi {image}",
            )
        ]
    return [ok(f"containerd has {image}")]
