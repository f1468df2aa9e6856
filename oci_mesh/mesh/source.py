"""The mesh as a source: content of other nodes, fetched into this node's store and verified there.
What no node has of another registry's content, the nodes that want it get from there together.

Any number of clients, and of ranges, of one blob cost one fetch (`fetch`), and it goes on when they
have gone: what was begun is wanted here, and by others of this node's trees.
"""

from typing import Final

import msgspec

from oci_mesh.errors import BlobUnknown, DigestInvalid, ManifestUnknown, OciError, PeerError
from oci_mesh.members.table import Member
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.fetch import Fetch
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.meeting import Meeting
from oci_mesh.mesh.proofs import Proofs
from oci_mesh.mesh.rendezvous import Rendezvous
from oci_mesh.mesh.statements import Statements
from oci_mesh.mesh.transfer import Tools
from oci_mesh.mesh.wire import content_path
from oci_mesh.sources import Origins, SingleFlight
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest, parse_manifest
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.store.base import Blob
from oci_mesh.tasks import Background, loop_time

# What was cut in the middle is unknown here for so long. Its clients come back here first: another
# beginning, and another cut, and containerd gives up; by a 404 it goes on at the registry.
CUT_S: Final = 60.0


class MeshSource:
    """What other nodes have, or the `origins` give. All that is fetched is kept in the store, as
    cache.
    """

    def __init__(
        self,
        tools: Tools,
        gossip: Gossip,
        rendezvous: Rendezvous,
        statements: Statements,
        client: PeerClient,
        background: Background,
        proofs: Proofs,
        origins: Origins | None = None,
    ) -> None:
        self._tools = tools
        self._store = tools.store
        self._peers = tools.peers
        self._gossip = gossip
        self._rendezvous = rendezvous
        self._statements = statements
        self._client = client
        self._background = background
        self._proofs = proofs
        self._origins = origins
        self._blobs: dict[tuple[str, Digest], Fetch] = {}
        self._cut: dict[tuple[str, Digest], float] = {}  # until when
        self._manifests: SingleFlight[tuple[str, Digest], Manifest] = SingleFlight(background)

    async def stat(self, repository: str, digest: Digest) -> int:
        """The size of a blob, as some node that has it says."""
        unknown = BlobUnknown(f"no node has {digest} in {repository}")
        if self._gossip.is_deleted(repository, str(digest)):
            raise unknown
        path = content_path(repository, "blobs", digest)
        proof = self._proofs.headers(repository, digest)
        found = await self._peers.holders(digest, path, headers=proof)
        if not found:
            raise unknown
        return found[0][1]

    async def blob(self, repository: str, digest: Digest) -> Blob:
        """A blob that some node has, or an origin; fetched once, however many ask for it.

        Raises `BlobUnknown` also where this node's own client has to get it: the others follow.
        """
        if self._gossip.is_deleted(repository, str(digest)):
            raise BlobUnknown(f"{digest} was deleted from {repository}")
        key = repository, digest
        if loop_time() < self._cut.get(key, 0.0):
            raise BlobUnknown(f"{digest} could not be had to its end a moment ago")
        fetch = self._blobs.get(key)
        if fetch is None:
            # Known before anything is awaited, so no two fetches of one blob can begin.
            meeting = Meeting(
                self._gossip, self._rendezvous, self._peers, self._proofs, repository, digest
            )
            fetch = self._blobs[key] = Fetch(
                self._tools, self._client, self._statements, meeting, self._origins
            )
            self._background.spawn(self._receive(fetch))
        return await fetch.opened()

    def fetching(self, repository: str, digest: Digest) -> Fetch | None:
        """A blob that is on its way here."""
        return self._blobs.get((repository, digest))

    def fetches(self) -> list[Fetch]:
        """All of these."""
        return list(self._blobs.values())

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """A manifest that some node has."""
        return await self._manifests.run(
            (repository, digest), lambda: self._fetch_manifest(repository, digest)
        )

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """What all nodes know to refer to `subject`, less what was deleted."""
        path = content_path(repository, "referrers", subject)

        async def ask(member: Member) -> list[Descriptor]:
            fetched = await self._client.fetch(member.address, path, member_id=member.id)
            return [] if fetched is None else _parse_referrers(fetched[0])

        answers = await self._peers.ask(self._peers.candidates(subject), ask)
        found = {d.digest: d for _, answer in answers for d in answer}
        return [d for d in found.values() if not self._gossip.is_deleted(repository, d.digest)]

    async def _receive(self, fetch: Fetch) -> None:
        try:
            await fetch.run()
        finally:
            del self._blobs[fetch.repository, fetch.digest]
        if fetch.was_cut and is_mirrored(fetch.repository):
            now = loop_time()
            self._cut = {key: until for key, until in self._cut.items() if until > now}
            self._cut[fetch.repository, fetch.digest] = now + CUT_S

    async def _fetch_manifest(self, repository: str, digest: Digest) -> Manifest:
        unknown = ManifestUnknown(f"no node has {digest} in {repository}, or can give it")
        if self._gossip.is_deleted(repository, str(digest)):
            raise unknown
        path = content_path(repository, "manifests", digest)
        failed: set[str] = set()
        while found := await self._peers.holders(digest, path, failed):
            for member, _ in found:
                manifest = await self._take_manifest(member, digest, path)
                if manifest is not None:
                    await self._store.put_manifest(repository, manifest)
                    return manifest
                failed.add(member.id)
        raise unknown

    async def _take_manifest(self, member: Member, digest: Digest, path: str) -> Manifest | None:
        """What `member` has, verified; or None, and it gets the blame."""
        try:
            fetched = await self._client.fetch(member.address, path, member_id=member.id)
            if fetched is None:
                raise PeerError(f"{digest} is no longer there")
            content, media_type = fetched
            if not digest.matches(content):
                raise DigestInvalid(f"other bytes than {digest}")
            return parse_manifest(content, media_type, digest.algorithm)
        except PeerError as error:
            self._peers.blame(member.id, "cut", error)
        except OciError as error:
            self._peers.blame(member.id, "corrupt", error)
        return None


class _Index(msgspec.Struct):
    """A referrers list."""

    manifests: list[Descriptor]


def _parse_referrers(document: bytes) -> list[Descriptor]:
    """Raises `PeerError` for what is no list of descriptors."""
    try:
        found = msgspec.json.decode(document, type=_Index).manifests
        for descriptor in found:
            descriptor.checked_digest  # noqa: B018 -- it raises
    except (ValueError, RecursionError, OciError) as error:
        raise PeerError(f"not a list of referrers: {str(error)[:200]}") from None
    return found
