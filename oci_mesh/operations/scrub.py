"""`node scrub`: all content is read again, and what is damaged is mended or reported.

A disk may return other bytes than were written, or none. Whoever reads verifies: containerd and
other nodes compare every blob with its digest, so damage costs a failed pull, never a wrong image;
but serving does not notice it (the kernel sends files without our seeing the bytes), and a failed
pull from a registry that has something is not tried elsewhere. A scrub finds it before.

What is damaged or missing goes into quarantine: no request gets it from then on, who is just
reading it reads on, and `gc` removes the file after a week. It is then fetched again, for all
repositories that had it, from other nodes or its registry. What was pushed and cannot be had from
anywhere has to be pushed again; what was cache comes when it is next asked for.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final, Protocol

from oci_mesh.control.upkeep import Finding, Progress, ScrubRequest, ScrubResult
from oci_mesh.control.wire import Document
from oci_mesh.errors import BlobUnknown, OciError, OciMeshError, OperationFailed
from oci_mesh.logs import event
from oci_mesh.mesh.peers import Peers
from oci_mesh.mesh.wire import content_path
from oci_mesh.metrics import Metrics
from oci_mesh.sources import Source, bring
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest
from oci_mesh.spec.scope import is_mirrored, parse_scope
from oci_mesh.store.base import Content, Damage, Place, Store
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

# How often a node reads all it has, on its own: a week after the last time. Disks that go bad are
# found in time, as long as another copy is good; it is what file systems that scrub do by default,
# too.
EVERY_S: Final = 7 * 24 * 3600.0

# How often it is looked whether that is due.
_LOOK_S: Final = 600.0

# Beneath the root: its time says when the last one ended.
_MARK: Final = "scrubbed"

# Contents listed at a time.
_PAGE: Final = 100

# Bytes between two words on how far it is.
_REPORT_BYTES: Final = 16 * 1024 * 1024


class Manifests(Protocol):
    """Gives manifests of other registries (`UpstreamSource`)."""

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """It is in the store then."""
        ...


class Scrub:
    """Of one node. `forget` is told what others must no longer be told of a blob's pieces."""

    def __init__(
        self,
        store: Store,
        source: Source,
        upstreams: Manifests,
        peers: Peers,
        forget: Callable[[Digest], None],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._source = source
        self._upstreams = upstreams
        self._peers = peers
        self._forget = forget
        self._metrics = metrics
        self._running = False

    async def answer(self, asked: ScrubRequest) -> AsyncGenerator[Document, None]:
        """What it finds as it goes, and the result. May be cancelled at any moment.

        Raises `OperationFailed` while another one is running.
        """
        if self._running:
            raise OperationFailed(
                "a scrub is running already", hint="wait for its end; the node's log has it"
            )
        self._running = True
        try:
            async with aclosing(self._scrub(asked.rate)) as documents:
                async for document in documents:
                    yield document
        finally:
            self._running = False

    async def run(self, root: Path, rate: int) -> None:
        """Until cancelled: scrub by oneself, `EVERY_S` after the last time."""
        mark = root / _MARK
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                last_s = mark.stat().st_mtime if mark.exists() else _begun_at(mark)
                if time.time() - last_s < EVERY_S or self._running:
                    continue
                async with aclosing(self.answer(ScrubRequest(rate))) as documents:
                    async for _ in documents:
                        pass
                mark.touch()
            except (OciMeshError, OSError) as error:  # of the disk: it may work again
                _log.error("no scrub: %s", error)

    async def _scrub(self, rate: int) -> AsyncGenerator[Document, None]:
        result = ScrubResult(0, 0)
        pace = _Pace(rate)
        total = (await self._store.usage()).bytes
        told = 0
        yield Progress("verifying", 0, total)
        page = await self._store.contents(_PAGE)
        while page:
            for content in page:
                damage = await self._store.check(content.digest, pace)
                result.contents += 1
                if damage is not None:
                    finding = await self._treat(content, damage)
                    if finding is not None:
                        result.findings.append(finding)
                        yield finding
                if pace.bytes - told >= _REPORT_BYTES:
                    told = pace.bytes
                    yield Progress("verifying", told, max(total, told))
            page = await self._store.contents(_PAGE, page[-1])
        result.bytes = pace.bytes
        self._metrics.scrubbed.inc(pace.bytes)
        yield result

    async def _treat(self, content: Content, damage: Damage) -> Finding | None:
        """Quarantine it and get it again; None if it has gone, or come anew, meanwhile."""
        places = await self._store.quarantine(damage)
        if not places:
            return None
        digest = content.digest
        self._forget(digest)
        self._metrics.corrupt.inc()
        finding = Finding(
            str(digest),
            content.size,
            damage.reason,
            sorted({place.repository for place in places}),
            any(place.is_manifest for place in places),
            "mended",
        )
        try:
            finding.source = await self._mend(digest, places)
            self._metrics.mended.inc()
        except OciMeshError as error:
            _log.warning("%s cannot be had again: %s", digest, error)
            lost = [place for place in places if not is_mirrored(place.repository)]
            finding.source = await self._having(lost[0], digest) if lost else ""
            finding.outcome = "lost" if lost and not finding.source else "dropped"
            finding.advice = _advice(finding, str(error.__cause__ or error), lost)
        _log.error(
            "damaged content",
            extra=event(
                digest=digest,
                reason=damage.reason,
                repositories=",".join(finding.repositories),
                outcome=finding.outcome,
                source=finding.source,
            ),
        )
        return finding

    async def _mend(self, digest: Digest, places: Sequence[Place]) -> str:
        """Get it for all places; return from where. Raises what the last one raised."""
        ordered = sorted(places, key=lambda place: is_mirrored(place.repository))
        blobs = [place.repository for place in ordered if not place.is_manifest]
        source = await self._mend_blob(digest, blobs) if blobs else ""
        failure: OciMeshError | None = None
        for repository in (place.repository for place in ordered if place.is_manifest):
            try:
                source = await self._bring_manifest(repository, digest) or source
            except OciMeshError as error:
                failure = error
        if failure is not None:
            raise failure
        return source

    async def _mend_blob(self, digest: Digest, repositories: Sequence[str]) -> str:
        """Get it for the first of these for which it can be had, and give it to the others."""
        failure: OciMeshError = BlobUnknown(f"nobody has {digest}")
        for giver in repositories:
            try:
                source = await self._bring_blob(giver, digest)
            except OciMeshError as error:
                failure = error
                continue
            for other in repositories:
                with suppress(BlobUnknown):  # it was deleted there meanwhile
                    await self._store.mount(other, digest, giver)
            return source
        raise failure

    async def _bring_blob(self, repository: str, digest: Digest) -> str:
        source = await self._having(Place(repository, is_manifest=False), digest)
        await bring(self._source, repository, digest)
        return source

    async def _bring_manifest(self, repository: str, digest: Digest) -> str:
        source = await self._having(Place(repository, is_manifest=True), digest)
        try:
            await self._source.manifest(repository, digest)
        except OciError:
            if not is_mirrored(repository):
                raise
            await self._upstreams.manifest(repository, digest)
        return source

    async def _having(self, place: Place, digest: Digest) -> str:
        """The nodes that say that they have it, or the registry that should."""
        repository, kind = place.repository, "manifests" if place.is_manifest else "blobs"
        found = await self._peers.holders(digest, content_path(repository, kind, digest))
        nodes = ", ".join(sorted(member.id for member, _ in found))
        return nodes or parse_scope(repository).registry


class _Pace:
    """Of a read at `rate` bytes a second; 0 is as fast as it goes."""

    def __init__(self, rate: int) -> None:
        self.bytes = 0
        self._rate = rate
        self._next_s = loop_time()

    async def __call__(self, count: int) -> None:
        """Wait until more may be read. Time that was not used is not made up for."""
        self.bytes += count
        if not self._rate:
            return
        now = loop_time()
        self._next_s = max(self._next_s, now - 1) + count / self._rate
        await asyncio.sleep(max(0.0, self._next_s - now))


def _begun_at(mark: Path) -> float:
    """A new node begins its first week now."""
    mark.touch()
    return mark.stat().st_mtime


def _advice(finding: Finding, why: str, own: Sequence[Place]) -> str:
    if finding.source:
        return f"it could not be had ({why}): it comes from there when it is next asked for"
    if not own:
        return "nothing: it is fetched again when it is next asked for"
    what = "the image" if finding.is_manifest else "the images that it is part of"
    return f"push {what} again: {', '.join(sorted({place.repository for place in own}))}"
