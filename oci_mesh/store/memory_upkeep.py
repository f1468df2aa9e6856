"""What looks after a store in memory: the last part of the contract, with dicts."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest
from oci_mesh.spec.names import NameRecord
from oci_mesh.store.base import Content, Damage, Leftovers, Pace, Place, Store, Unnamed
from oci_mesh.store.uses import Uses


class MemoryUpkeep(Store):
    """A part of `MemoryStore`, which keeps what is declared here."""

    _blobs: dict[str, dict[Digest, bytes]]
    _manifests: dict[str, dict[Digest, Manifest]]
    _names: dict[tuple[str, str], NameRecord]
    _accessed_s: dict[Digest, int]
    _uses: Uses

    def __init__(self) -> None:
        self._lost: dict[tuple[str, Digest], Manifest] = {}  # damaged, by where they were

    @abstractmethod
    def _contents(self) -> Iterator[Content]:
        """All of it, each once."""

    @abstractmethod
    def _flush(self) -> None:
        """Note what was read."""

    async def contents(self, n: int, after: Content | None = None) -> list[Content]:
        """As `Store.contents`."""
        last = "" if after is None else str(after.digest)
        found = sorted(self._contents(), key=lambda content: str(content.digest))
        return [content for content in found if str(content.digest) > last][:n]

    async def check(self, digest: Digest, pace: Pace) -> Damage | None:
        """As `Store.check`."""
        held = self._bytes(digest)
        if held is None:
            return None
        await pace(len(held))
        if digest.matches(held) or self._bytes(digest) is not held:
            return None
        return Damage(digest, f"its bytes are now {Digest.of(held, digest.algorithm)}", held)

    async def quarantine(self, damage: Damage) -> list[Place]:
        """As `Store.quarantine`."""
        digest, places = damage.digest, []
        if self._bytes(digest) is not damage.seen:
            return []
        for repository, blobs in self._blobs.items():
            if blobs.pop(digest, None) is not None:
                places.append(Place(repository, is_manifest=False))
        for repository, manifests in self._manifests.items():
            if (manifest := manifests.pop(digest, None)) is not None:
                self._lost[repository, digest] = manifest
                places.append(Place(repository, is_manifest=True))
        return sorted(places)

    async def purge_quarantine(self, idle_s: float, *, dry_run: bool = False) -> Leftovers:
        """As `Store.purge_quarantine`; nothing is kept that could be looked at."""
        if not dry_run and idle_s == 0:
            self._lost.clear()
        return Leftovers(0, 0)

    async def manifests(self, repository: str) -> list[Digest]:
        """As `Store.manifests`."""
        return sorted(self._manifests.get(repository, {}), key=str)

    async def whole(self, repository: str, digests: Sequence[Digest]) -> list[Digest]:
        """As `Store.whole`."""
        blobs, manifests = self._blobs.get(repository, {}), self._manifests.get(repository, {})
        return [
            digest
            for digest in digests
            if digest in blobs
            or (
                digest in manifests
                and all(d.checked_digest in blobs for d in manifests[digest].blobs)
            )
        ]

    async def needed(
        self, repository: str, digests: Sequence[Digest], since_s: float
    ) -> list[Digest]:
        """As `Store.needed`."""
        self._flush()
        named, here = self._named(repository), self._manifests.get(repository, {})
        return [d for d in digests if d in named or (d in here and self._accessed_s[d] >= since_s)]

    async def unnamed(self, repository: str, before_s: float) -> list[Unnamed]:
        """As `Store.unnamed`."""
        self._flush()
        named = self._named(repository)
        return [
            Unnamed(repository, digest, len(content))
            for digest, content in sorted(self._blobs.get(repository, {}).items())
            if digest not in named and self._accessed_s[digest] < before_s
        ]

    async def collect(self, unnamed: Sequence[Unnamed], before_s: float) -> list[Unnamed]:
        """As `Store.collect`."""
        gone = []
        for each in unnamed:
            used = self._uses.has(each.digest)
            if not used and each in await self.unnamed(each.repository, before_s):
                del self._blobs[each.repository][each.digest]
                freed = self._bytes(each.digest) is None
                gone.append(each if freed else each._replace(size=0))
        return gone

    async def untagged(self, repository: str, before_s: float) -> list[Unnamed]:
        """As `Store.untagged`."""
        self._flush()
        manifests, named = self._manifests.get(repository, {}), self._named(repository)
        tagged = {
            record.target
            for record in self._names.values()
            if record.repository == repository and record.is_tag
        }
        return [
            Unnamed(repository, digest, len(manifest.content))
            for digest, manifest in sorted(manifests.items())
            if digest not in named
            and str(digest) not in tagged
            and self._accessed_s[digest] < before_s
            and (manifest.subject is None or manifest.subject.checked_digest not in manifests)
        ]

    async def delete_untagged(
        self, repository: str, digest: Digest, stamp: str, before_s: float
    ) -> list[NameRecord]:
        """As `Store.delete_untagged`."""
        if digest not in {each.digest for each in await self.untagged(repository, before_s)}:
            return []
        return await self.delete_manifest(repository, digest, stamp)

    def _bytes(self, digest: Digest) -> bytes | None:
        for blobs in self._blobs.values():
            if digest in blobs:
                return blobs[digest]
        for manifests in self._manifests.values():
            if digest in manifests:
                return manifests[digest].content
        return None

    def _named(self, repository: str) -> set[Digest]:
        """What the manifests of a repository name, those in quarantine too."""
        lost = [m for (where, _), m in self._lost.items() if where == repository]
        manifests = [*self._manifests.get(repository, {}).values(), *lost]
        return {
            descriptor.checked_digest
            for manifest in manifests
            for descriptor in (
                *manifest.blobs,
                *manifest.manifests,
                *([manifest.subject] if manifest.subject else []),
            )
        }
