"""`oci-mesh copy`: an image from one registry to another, every digest as it is.

Blobs pass through, a few chunks at a time: nothing is written here. What the other registry has is
not sent, what it has in another repository is mounted. As with a push, the tag comes last.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.lookup import look_up
from oci_mesh.cli.progress import Progress
from oci_mesh.cli.push import TRANSFERS, push_manifests
from oci_mesh.cli.registry_client import RegistryClient
from oci_mesh.cli.result import BlobResult, Result
from oci_mesh.cli.retry import Transient
from oci_mesh.cli.target import Target
from oci_mesh.cli.tree import Tree, no_referrers
from oci_mesh.spec.digest import Digest, Hasher
from oci_mesh.spec.manifest import Descriptor, Manifest


class RemoteBlob:
    """A blob of a registry as what is uploaded to another (`http.Body`); verified on the way.

    The last bytes are given only if the whole is what it should be. What is given a second time,
    after a cut, is compared by the other registry only.
    """

    def __init__(self, client: RegistryClient, repository: str, descriptor: Descriptor) -> None:
        self.size: Final = descriptor.size
        self._client = client
        self._repository = repository
        self._digest = descriptor.checked_digest
        self._hasher = Hasher(self._digest.algorithm)

    async def stream(self, start: int) -> AsyncGenerator[bytes, None]:
        """As `http.Body.stream`; `start` is not beyond what was given before. Raises `Transient` on
        a cut: call again.
        """
        position = start
        async with self._client.blob(self._repository, self._digest, start) as (begins, chunks):
            skip = start - begins  # a registry may send it all
            async for whole in chunks:
                chunk = whole[skip:]
                skip = max(0, skip - len(whole))
                if chunk:
                    position += len(chunk)
                    self._take(chunk, position)
                    yield chunk
        if position < self.size:
            raise Transient(f"blob {self._digest}: {position} of {self.size} bytes came")

    def _take(self, chunk: bytes, position: int) -> None:
        """Hash what was not there before, and compare before the end is passed on."""
        if position > self.size:
            raise Failure(f"blob {self._digest}: the registry sends more than {self.size} bytes")
        if position > self._hasher.size:
            self._hasher.update(chunk[self._hasher.size - position :])
        if position == self.size and self._hasher.digest() != self._digest:
            raise Failure(
                f"blob {self._digest}: the registry sent {self._hasher.digest()} instead",
                hint="the registry, or something before it, changes content: do not use it",
            )


class Copy:
    """One copy, of `source` to `target`."""

    def __init__(
        self,
        origin: tuple[RegistryClient, Target],
        goal: tuple[RegistryClient, Target],
        progress: Progress,
    ) -> None:
        self._from, self._source = origin
        self._to, self._target = goal
        self._progress = progress
        self._transfers = asyncio.Semaphore(TRANSFERS)
        self._blobs: dict[str, BlobResult] = {}

    async def run(self, *, referrers: bool) -> Result:
        """Copy all platforms, with or without what refers to them. May be repeated: what is there
        is not sent again. Raises `Failure`.
        """
        root = await look_up(self._from, self._source)
        if self._target.digest not in (None, root.digest):
            raise Failure(
                f"{self._source} is {root.digest}, and {self._target} asks for another digest",
                hint="leave the digest out of the second REF",
            )
        tree = Tree(Descriptor(root.media_type, str(root.digest), len(root.content)))

        async def fetch(descriptor: Descriptor) -> Manifest | None:
            if descriptor.digest == str(root.digest):
                return root
            return await self._from.manifest(self._source.repository, descriptor.digest)

        await tree.grow(fetch, self._referrers if referrers else no_referrers)
        if tree.absent:
            count = len(tree.absent)
            self._progress.note(f"{count} manifests of the index are not in {self._source.name}")
        async with asyncio.TaskGroup() as group:
            for blob in tree.blobs.values():
                group.create_task(self._copy_blob(blob))
        blobs = list(self._blobs.values())
        return await push_manifests(self._to, self._target, tree.manifests, blobs, tree.absent)

    async def _referrers(self, subject: Descriptor) -> Sequence[Descriptor]:
        return await self._from.referrers(self._source.repository, subject)

    async def _copy_blob(self, descriptor: Descriptor) -> None:
        task = self._progress.task(descriptor.digest)
        repository, digest = self._target.repository, descriptor.checked_digest
        async with self._transfers:
            outcome = await self._there(digest)
            if outcome is None:
                task.phase("copying", descriptor.size)
                body = RemoteBlob(self._from, self._source.repository, descriptor)
                await self._to.push_blob(repository, digest, body, task.at)
                outcome = "copied"
        task.done(outcome, descriptor.digest, descriptor.size)
        self._blobs[descriptor.digest] = BlobResult(
            descriptor.digest, descriptor.size, descriptor.media_type, outcome
        )

    async def _there(self, digest: Digest) -> str | None:
        """How the other registry has it without a byte of ours; None if it does not."""
        repository, source = self._target.repository, self._source
        if await self._to.has_blob(repository, digest):
            return "exists"
        if source.registry != self._target.registry:
            return None
        return "mounted" if await self._to.mount(repository, digest, source.repository) else None
