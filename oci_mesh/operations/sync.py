"""`sync`: every named node holds an image, and its containerd has it, if that is asked for.

All nodes are asked at the same time, this one too: what one has got of the image goes on to the
others as in any pull, so the last of them is done soon after the first. Who does not answer is
named, and the others go on; asked again, those that have it have nothing to do.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

from oci_mesh.control.sync import (
    NodeProgress,
    NodeResult,
    Plan,
    PlanRequest,
    Said,
    State,
    SyncRequest,
    SyncResult,
)
from oci_mesh.errors import (
    BlobUnknown,
    ManifestUnknown,
    NameUnknown,
    OciMeshError,
    OperationFailed,
    PeerError,
)
from oci_mesh.journal import plain
from oci_mesh.members.table import Member
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.replication import Replication
from oci_mesh.mesh.wire import Take, Taken
from oci_mesh.mirror import Mirror
from oci_mesh.operations.similar import similar_images
from oci_mesh.operations.take import Taker
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import Reference, names_host, parse_reference, parse_repository
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.store.base import Store
from oci_mesh.tasks import Background, loop_time

# How often this node looks how far it is itself; as often as others say it.
_SAID_EVERY_S: Final = 0.5

# Documents that wait for a client that is slow to read them. Beyond, progress is left out.
_MAX_WAITING: Final = 4096

# Makes the grammar take a name without a host as it is written.
_ANY_HOST: Final = "localhost/"


_Queue: TypeAlias = "asyncio.Queue[NodeProgress | NodeResult]"
_Told: TypeAlias = Callable[[Taken], None]


class _Place(NamedTuple):
    """Where in the mesh a reference leads."""

    reference: Reference
    """The whole of it, as containerd and Kubernetes know it."""
    repository: str


class Sync:
    """Both verbs. `registry` is the URL of this node's listener for clients."""

    def __init__(
        self,
        registry: str,
        store: Store,
        mirror: Mirror,
        gossip: Gossip,
        client: PeerClient,
        replication: Replication,
        taker: Taker,
    ) -> None:
        self._registry = registry
        self._store = store
        self._mirror = mirror
        self._gossip = gossip
        self._client = client
        self._replication = replication
        self._taker = taker

    async def plan(self, asked: PlanRequest) -> AsyncGenerator[Plan, None]:
        """One document. Raises `OciError`s for names that are none."""
        reference, repository = await self._place(asked.reference, archive=asked.archive)
        members = {member.id for member in self._members(asked.nodes)}
        unknown = [name for name in asked.nodes if name not in members]
        yield Plan(
            repository=repository,
            tag=reference.tag or "",
            registry=self._registry,
            image=str(_as_run(parse_reference(asked.image) if asked.image else reference)),
            nodes=sorted(members & set(asked.nodes) if asked.nodes else members),
            unknown=unknown,
            known=sorted(members) if unknown else [],
        )

    async def sync(self, asked: SyncRequest) -> AsyncGenerator[Said, None]:
        """How far each node is, what came of it on each, and at the end all of that again."""
        if asked.image:
            parse_reference(asked.image)
        repository = asked.repository
        if not repository:
            repository = (await self._place(asked.reference))[1]
        digest = Digest.parse(asked.digest) if asked.digest else None
        digest = digest or await self._resolve(asked.reference, repository)
        members = [m for m in self._members(asked.nodes) if not asked.nodes or m.id in asked.nodes]
        if missing := set(asked.nodes) - {member.id for member in members}:
            raise OperationFailed(f"no such node: {', '.join(sorted(missing))}")
        with suppress(BlobUnknown, ManifestUnknown, PeerError):  # it is another node that has it
            await self._announce(repository, digest)
        results: list[NodeResult] = []
        said: _Queue = asyncio.Queue(_MAX_WAITING)
        # Not a task group: a generator that is closed early would raise its `GeneratorExit` as one
        # of a group's failures.
        async with Background() as background:
            for member in members:
                take = Take(self._gossip.table.me, repository, str(digest), asked.image)
                background.spawn(_Node(self, member, take, said).run())
            while len(results) < len(members):
                document = await said.get()
                if isinstance(document, NodeResult):
                    results.append(document)
                yield document
        results.sort(key=lambda result: result.node)
        yield SyncResult(asked.reference, repository, str(digest), asked.image, results)

    def _members(self, named: Collection[str]) -> Iterable[Member]:
        """This node and all others that were there lately; but those that have left, and of those
        that are about to, whom nobody named.
        """
        entries = (member for member in self._gossip.table.entries() if not member.left)
        return (member for member in entries if not member.draining or member.id in named)

    async def _announce(self, repository: str, digest: Digest) -> None:
        """Tell the others where the blobs are, so that nobody has to search, if all are here."""
        if is_mirrored(repository) or not self._gossip.live():
            return
        manifest = await self._store.manifest(repository, digest)
        for blob in manifest.blobs:
            await self._store.stat(repository, blob.checked_digest)
        await self._replication.announce(repository, digest)

    # -- names

    async def _place(self, text: str, *, archive: bool = False) -> _Place:
        """What the mesh calls an image: by what was pushed here under that very name, or else as
        clients with that name are served. What comes from an `archive` is the mesh's own.
        """
        reference = parse_reference(text)
        if not names_host(text):
            return _Place(reference, parse_reference(_ANY_HOST + text).repository)
        domain, path = reference.domain.lower(), reference.repository
        try:
            scope = await self._mirror.scope(path, domain)
        except NameUnknown:  # a registry that this node was told not to ask
            scope = ""
        if scope is None:  # an internal registry, whose place the mesh takes: pods ask so, too
            return _Place(reference, path)
        whole = f"{domain.partition(':')[0]}/{path}"
        if archive or not scope:
            return _Place(reference, parse_repository(whole))
        return _Place(reference, await self._mirror.scope(whole, "") or whole)

    async def _resolve(self, text: str, repository: str) -> Digest:
        reference = parse_reference(text)
        if reference.digest is not None:
            return reference.digest
        tag = reference.target
        try:
            if is_mirrored(repository):
                return (await self._mirror.resolve(repository, tag))[0]
            return await self._store.resolve(repository, tag)
        except ManifestUnknown:
            raise self._no_image(text, repository, tag) from None

    def _no_image(self, text: str, repository: str, tag: str) -> OperationFailed:
        if is_mirrored(repository):
            registry = repository.rpartition("@")[2]
            return OperationFailed(
                f"{text}: {registry} has no such image, does not give it to this mesh, or cannot "
                "be asked",
                hint="with no way to it, bring the image: docker save IMAGE | oci-mesh sync - NAME",
            )
        similar = similar_images(self._gossip.register, repository, tag)
        return OperationFailed(
            f"there is no image {repository}:{tag} in this mesh",
            hint=f"did you mean {similar[0]}?"
            if similar
            else "push it first, or name its registry: docker.io/library/NAME:TAG",
        )

    # -- for `_Node`

    async def take(self, member: Member, asked: Take, told: _Told) -> Taken:
        """Have a node take an image; how that went. Raises `OciMeshError`s if it cannot say so."""
        if member.id != self._gossip.table.me.id:
            return await self._client.take(member.address, asked, member.id, told)
        taking = self._taker.begin(asked)
        async with asyncio.TaskGroup() as group:
            work = group.create_task(taking.run())
            while not work.done():
                told(taking.now)
                await asyncio.wait([work], timeout=_SAID_EVERY_S)
        return taking.now

    def failed(self, member: Member, reason: str) -> None:
        """Note that a node could not be reached."""
        self._gossip.failed(member.id, reason)


def _teller(node: str, said: _Queue) -> _Told:
    """Passes on how far a node is, as long as there is room."""

    def told(taken: Taken) -> None:
        if taken.stage in ("fetching", "importing") and said.qsize() < _MAX_WAITING // 2:
            said.put_nowait(NodeProgress(node, taken.stage, taken.done, taken.total))

    return told


class _Node(NamedTuple):
    """One node's part."""

    sync: Sync
    member: Member
    asked: Take
    said: _Queue

    async def run(self) -> None:
        """Ends in a `NodeResult`, whatever happens."""
        began = loop_time()
        self.said.put_nowait(NodeProgress(self.member.id, "asking"))
        try:
            taken = await self.sync.take(
                self.member, self.asked, _teller(self.member.id, self.said)
            )
        except PeerError as error:
            self.sync.failed(self.member, str(error))
            taken = Taken(
                "failed", reason=plain(str(error)), hint="see that it is up, and run this again"
            )
        except OciMeshError as error:
            taken = Taken("failed", reason=plain(str(error)))
        await self.said.put(_result(self.member.id, taken, loop_time() - began))


def _result(node: str, taken: Taken, seconds: float) -> NodeResult:
    state: State = "failed"
    if taken.stage == "done":
        state = "imported" if taken.imported else "held"
        state = state if taken.changed else "already"
    return NodeResult(
        node=node,
        state=state,
        held=taken.held,
        imported=taken.imported,
        bytes=taken.fetched,
        written=taken.written,
        seconds=round(seconds, 3),
        reason=taken.reason,
        hint=taken.hint,
    )


def _as_run(reference: Reference) -> Reference:
    """As Kubernetes asks containerd for it: by a digest, the tag says nothing."""
    if reference.digest is None:
        return reference
    return Reference(reference.domain, reference.repository, None, reference.digest)
