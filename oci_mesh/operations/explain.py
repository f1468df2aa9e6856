"""Follows a name to its bytes, and says who has them and how they came: `oci-mesh explain`.

It asks the other nodes, all at once and each about itself only, and no registry: what a pull would
hear from there is found out with `ask`, by doing what a pull does. What private images' nodes have
is told to this node as far as it has a right to it.
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final, Literal, NamedTuple

from oci_mesh.control.explain import (
    Content,
    Delivered,
    Differing,
    ExplainRequest,
    Explanation,
    Giver,
    Offer,
    Pull,
    PulledBlob,
    Tag,
)
from oci_mesh.errors import ConfigError, OciError, OperationFailed, PeerError, UpstreamError
from oci_mesh.journal import plain
from oci_mesh.members.clock import parse_stamp
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.wire import MAX_ASKED, content_path
from oci_mesh.mirror import Mirror
from oci_mesh.operations import verdict
from oci_mesh.operations.naming import Name, Naming
from oci_mesh.operations.similar import similar_images
from oci_mesh.operations.survey import ANSWER_S, Survey, Told
from oci_mesh.operations.verdict import Joined, Rates
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest, Platform, parse_manifest
from oci_mesh.spec.platform import parse_platform, platform_text, runs_on
from oci_mesh.spec.reference import DEFAULT_TAG
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.store.base import Store
from oci_mesh.tasks import loop_time

# In all, but for a registry that is to be asked. A survey has what earlier steps left of it, and
# no less than the shortest: then the answer is late rather than empty.
TOTAL_S: Final = 0.75
_SHORTEST_S: Final = 0.3

# For a node that has a manifest to send it, before the next one is asked.
_FETCH_S: Final = 0.2
_FETCHES: Final = 2

# Pulls and deliveries told of, the newest.
MAX_PULLS: Final = 50

# Images of an index that are listed; there are some ten, and one for each signature.
MAX_OFFERS: Final = 100

ReadManifest = Callable[[Digest], bytes | None]


class Parts(NamedTuple):
    """What this needs of a node."""

    naming: Naming
    survey: Survey
    gossip: Gossip
    store: Store
    client: PeerClient
    mirror: Mirror
    tag_ttl_s: float
    private_manifest: ReadManifest
    """Reads what the node's containerd was given; None if it has not got that."""


class Explain:
    """Of this node."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def answer(self, asked: ExplainRequest) -> AsyncGenerator[Explanation, None]:
        """One document. Raises `OperationFailed` for what is no name, or no platform."""
        began = loop_time()
        try:
            name = await self._parts.naming.read(asked.ref)
            platform = parse_platform(asked.platform)
        except (OciError, ConfigError) as error:
            raise OperationFailed(str(error)) from None
        me = self._parts.gossip.table.me.id
        found = Explanation(asked.ref, me, asked.platform, name.readings, name.rule)
        await _Trail(self._parts, asked, name, platform, found, began).follow()
        found.took_s = loop_time() - began
        yield found


class _Trail:
    """One name, followed step by step; what is found is written into `found`."""

    def __init__(
        self,
        parts: Parts,
        asked: ExplainRequest,
        name: Name,
        platform: Platform,
        found: Explanation,
        began: float,
    ) -> None:
        self._parts = parts
        self._ask = asked.ask
        self._name = name
        self._rule = name.rule
        self._repository = name.rule.repository
        self._platform = platform
        self._found = found
        self._until = began + TOTAL_S

    async def follow(self) -> None:
        """All steps, as far as they lead."""
        if self._rule.kind == "off":
            self._stop(
                "rule",
                f"this node mirrors {self._rule.registry} no longer: public-registries is off",
                "its clients go to the registry themselves",
            )
            return
        digest = await self._target()
        if digest is not None:
            await self._gather(digest)
        told = await self._survey(self._found.contents, self._tag_name())
        self._take(told)
        self._conclude()

    # -- the tag

    def _tag_name(self) -> str:
        reference = self._name.reference
        return "" if reference.digest is not None else reference.tag or DEFAULT_TAG

    async def _target(self) -> Digest | None:
        """What the name means, or None and why not."""
        if self._name.reference.digest is not None:
            return self._name.reference.digest
        tag = self._found.tag = Tag(self._tag_name())
        if self._rule.private:
            self._stop(
                "tag",
                f"{self._rule.registry} tells what its tags are only to who has a secret, and the "
                "mesh has none",
                "name the image by its digest (crictl inspecti shows it), to see who has its "
                "layers",
            )
            return None
        if not is_mirrored(self._repository):
            return self._own_tag(tag)
        await self._remembered(tag)
        return Digest.parse(tag.digest) if tag.digest else None

    def _own_tag(self, tag: Tag) -> Digest | None:
        record = self._parts.gossip.register.get(self._repository, tag.name)
        if record is None:
            hint = ""
            if len(self._found.readings) > 1:
                docker = self._found.readings[1]
                hint = f"to {docker.clients} it is {docker.name}: explain that, if it is meant"
            self._stop("tag", f"the mesh has no {self._repository}:{tag.name}", hint)
            register = self._parts.gossip.register
            self._found.similar = similar_images(register, self._repository, tag.name)
            return None
        wall_ms, _, tag.written_by = parse_stamp(record.stamp)
        tag.at, tag.known_from = wall_ms / 1000, "register"
        if record.target is None:
            tag.deleted = True
            self._stop("tag", f"it was deleted, by node {tag.written_by}", "push it again")
            return None
        tag.digest = record.target
        return Digest.parse(record.target)

    async def _remembered(self, tag: Tag) -> None:
        """Of another registry: what this node, or else another one, heard there last."""
        kept = await self._parts.store.resolution(self._repository, tag.name)
        if self._ask and await self._resolved(tag):
            return
        if kept is not None:
            tag.digest, tag.at, tag.known_from = str(kept.digest), kept.checked_at, "memory"
        else:
            told = await self._survey([], tag.name)
            heard = [t.held.meaning for t in told if t.held is not None and t.held.meaning]
            said = Counter(meaning.target for meaning in heard if _is_digest(meaning.target))
            if said:  # what most say: one that lies is shown as differing
                tag.digest, tag.known_from = said.most_common(1)[0][0], "others"
                ages = [meaning.age_s for meaning in heard if meaning.target == tag.digest]
                tag.at = time.time() - min(ages)
        ttl_s = 0.0 if tag.name == DEFAULT_TAG else self._parts.tag_ttl_s
        tag.stale = bool(tag.digest) and time.time() - tag.at > ttl_s
        if not tag.digest and not self._found.stopped_at:
            self._stop(
                "tag",
                f"no node has asked {self._rule.registry} for it yet: the next pull does",
                "--ask asks now",
            )

    async def _resolved(self, tag: Tag) -> bool:
        try:
            digest, warning = await self._parts.mirror.resolve(self._repository, tag.name)
        except OciError:
            self._stop(
                "tag",
                f"{self._rule.registry} has no such tag, does not give it to this mesh, or cannot "
                "be asked",
                "the node's log says which",
            )
            return False
        if not warning:
            tag.digest, tag.at, tag.known_from = str(digest), time.time(), "registry"
        return not warning

    # -- manifests

    async def _gather(self, digest: Digest) -> None:
        """The manifest, of an index the one for the platform, and what it names."""
        manifest = await self._manifest(digest)
        if manifest is None:
            self._stop("manifest", *self._missing_manifest(digest))
            return
        contents = self._found.contents
        if manifest.media_type in media_types.INDEXES:
            contents.append(_content("index", manifest.descriptor()))
            chosen = self._choose(manifest)
            if chosen is None:
                return
            digest = chosen.checked_digest
            manifest = await self._manifest(digest)
            if manifest is None:
                contents.append(_content("manifest", chosen))
                self._stop("manifest", *self._missing_manifest(digest))
                return
        contents.append(_content("manifest", manifest.descriptor()))
        for number, blob in enumerate(manifest.blobs):
            contents.append(_content("layer" if number else "config", blob))
        self._found.unasked = max(0, len(contents) - MAX_ASKED)

    def _choose(self, index: Manifest) -> Descriptor | None:
        chosen = next((d for d in index.manifests if runs_on(d.platform, self._platform)), None)
        self._found.offers = [
            Offer(plain(platform_text(d.platform)), d.digest, d.size, d is chosen)
            for d in index.manifests[:MAX_OFFERS]
        ]
        if chosen is None:
            self._stop(
                "platform",
                f"it has no image for {platform_text(self._platform)}",
                "name one of its platforms with --platform",
            )
        return chosen

    def _missing_manifest(self, digest: Digest) -> tuple[str, str]:
        if self._parts.gossip.is_deleted(self._repository, str(digest)):
            return f"{digest} was deleted from {self._repository}", "push it again"
        if self._rule.private:
            return (
                f"this node's containerd was not given the manifest {digest}",
                "only a pull with the registry's secret brings it here",
            )
        if is_mirrored(self._repository):
            return (
                f"no node that answers has {digest} yet: the next pull gets it from "
                f"{self._rule.registry}",
                "--ask gets it now",
            )
        return (
            f"no node that answers has the manifest {digest}",
            "it is on a node that is away, or was never pushed: push it again",
        )

    async def _manifest(self, digest: Digest) -> Manifest | None:
        """From this node's store, its containerd if it is private, another node, or, if it is to be
        asked, its registry. It is verified.
        """
        parts = self._parts
        try:
            return await parts.store.peek(self._repository, digest)
        except OciError:
            pass
        try:
            if self._rule.private:
                content = parts.private_manifest(digest)
                return None if content is None else _parse(content, "", digest)
            fetched = await self._fetch(digest)
            if fetched is None and self._ask and is_mirrored(self._repository):
                return await parts.mirror.manifest(self._repository, digest)
        except (OciError, UpstreamError, OSError):
            return None
        return fetched

    async def _fetch(self, digest: Digest) -> Manifest | None:
        asked = Content("manifest", str(digest), -1, "")
        having = await self._parts.survey.holders(self._repository, asked, _FETCHES, self._left_s())
        path = content_path(self._repository, "manifests", digest)
        for node in having:
            try:
                fetched = await self._parts.client.fetch(
                    node.address, path, member_id=node.node, within_s=_FETCH_S
                )
                if fetched is not None:
                    return _parse(*fetched, digest)
            except (PeerError, OciError):
                continue
        return None

    # -- the nodes

    async def _survey(self, contents: list[Content], tag: str) -> list[Told]:
        return await self._parts.survey.ask(self._repository, contents, tag, self._left_s())

    def _left_s(self) -> float:
        return min(ANSWER_S, max(_SHORTEST_S, self._until - loop_time()))

    def _take(self, told: list[Told]) -> None:
        """What the nodes said of themselves."""
        found = self._found
        found.nodes = [t.node for t in told]
        tag = found.tag
        if tag is not None and tag.digest:
            tag.differing = [
                Differing(t.node.node, t.held.meaning.target)
                for t in told
                if t.held is not None
                and t.held.meaning is not None
                and t.held.meaning.target != tag.digest
            ]
        rates = {
            t.node.node: Rates(t.held.link, t.held.download_limit, t.held.upload_limit)
            for t in told
            if t.held is not None
        }
        pulls = [p for t in told if t.held for p in verdict.join(t.node.node, t.held.arrivals)]
        pulls.sort(key=lambda pull: -pull.at)
        found.pulls = [_pull(pull, pulls, rates) for pull in pulls[:MAX_PULLS]]
        found.deliveries = sorted(
            (d for t in told if t.held for d in _delivered(t)), key=lambda d: -d.at
        )[:MAX_PULLS]

    def _conclude(self) -> None:
        """Of the mesh's own images all blobs have to be somewhere."""
        found = self._found
        if found.stopped_at or is_mirrored(self._repository):
            return
        lost = [
            content
            for content in found.contents[:MAX_ASKED]
            if not any(h.state in ("has", "says") for h in content.holders)
        ]
        if lost:
            away = [node.node for node in found.nodes if node.state in ("silent", "gone", "left")]
            self._stop(
                "blobs",
                f"no node that answers has {lost[0].digest}"
                + (f", and {len(lost) - 1} more" if len(lost) > 1 else ""),
                f"perhaps it is on a node that is away: {', '.join(away)}"
                if away
                else "push the image again",
            )

    def _stop(
        self,
        step: Literal["rule", "tag", "manifest", "platform", "blobs"],
        why: str,
        hint: str,
    ) -> None:
        self._found.stopped_at, self._found.why, self._found.hint = step, why, hint


def _content(
    kind: Literal["index", "manifest", "config", "layer"], descriptor: Descriptor
) -> Content:
    return Content(kind, descriptor.digest, descriptor.size, plain(descriptor.media_type))


def _parse(content: bytes, media_type: str, digest: Digest) -> Manifest | None:
    """Verified; None if it is something else."""
    if not digest.matches(content):
        return None
    return parse_manifest(content, media_type, digest.algorithm)


def _is_digest(text: str) -> bool:
    try:
        Digest.parse(text)
    except OciError:
        return False
    return True


def _pull(pull: Joined, all_pulls: Iterable[Joined], rates: dict[str, Rates]) -> Pull:
    together = verdict.overlapping(pull, all_pulls)
    bound = verdict.bound(pull, together, rates)
    share = None
    if bound is not None and pull.took_s > 0:
        share = min(1.0, bound.seconds / pull.took_s)
    return Pull(
        pull.node,
        pull.at,
        pull.took_s,
        pull.bytes,
        {
            name: Giver(g.bytes, g.pieces, g.waited_s, g.sent_s, g.late, g.still_s, g.faults)
            for name, g in pull.givers.items()
        },
        max(a.limit for a in pull.arrivals),
        max(a.link for a in pull.arrivals),
        [
            PulledBlob(**{field: getattr(a, field) for field in PulledBlob.__struct_fields__})
            for a in pull.arrivals
        ],
        bound,
        share,
        verdict.judge(pull, together, rates, share),
    )


def _delivered(told: Told) -> list[Delivered]:
    assert told.held is not None
    return [
        Delivered(
            told.node.node,
            d.digest,
            d.at,
            d.bytes,
            d.took_s,
            d.opened_s,
            d.waited_s,
            d.stored,
            d.failure,
            verdict.judge_delivery(d, told.held.link),
        )
        for d in told.held.deliveries
    ]
