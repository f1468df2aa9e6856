"""Which images a node knows and has, for a report: own ones by their tags, and of other registries
what was pulled here.

What is listed is bounded, in one order on all nodes (own ones first, by name), so that what is left
out is the same everywhere. It is no use of anything: caches and collections go on as if nobody had
looked. Private content is not in it at all, for whoever asks.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, NamedTuple

from oci_mesh.errors import OciError
from oci_mesh.mesh.holdings import mark
from oci_mesh.mesh.wire import MAX_IMAGES, MAX_TAGS, HeldImage
from oci_mesh.sources import Source
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest
from oci_mesh.spec.scope import is_mirrored, is_private
from oci_mesh.store.base import Store

# Images looked at before others get their turn: a millisecond or two.
_STEP: Final = 16


class _Name(NamedTuple):
    repository: str
    digest: Digest


class Inventory:
    """Of one node. `local` is what is on this machine, with containerd's."""

    def __init__(self, store: Store, local: Source) -> None:
        self._store = store
        self._local = local

    async def images(self, nonce: str) -> tuple[list[HeldImage], bool]:
        """Up to `MAX_IMAGES`, and whether there are more. Where the manifest is here, `nonce` shows
        it in the mark.
        """
        tagged = await self._tagged()
        names = [*tagged, *await self._untagged(set(tagged), MAX_IMAGES + 1 - len(tagged))]
        images = []
        for count, name in enumerate(names[:MAX_IMAGES]):
            if count % _STEP == 0:
                await asyncio.sleep(0)
            images.append(await self._image(name, tagged.get(name, [])[:MAX_TAGS], nonce))
        return images, len(names) > MAX_IMAGES

    async def _tagged(self) -> dict[_Name, list[str]]:
        """What has tags, up to one more than are told of."""
        found: dict[_Name, list[str]] = {}
        for repository in await self._store.repositories():
            if not is_mirrored(repository):
                await self._add_tags(repository, found)
            if len(found) > MAX_IMAGES:
                return found
        for repository, tag, digest in await self._store.resolutions(MAX_IMAGES):
            if not is_private(repository):
                found.setdefault(_Name(repository, digest), []).append(tag)
        return found

    async def _add_tags(self, repository: str, found: dict[_Name, list[str]]) -> None:
        try:
            for tag in await self._store.tags(repository, n=MAX_IMAGES):
                digest = await self._store.resolve(repository, tag)
                found.setdefault(_Name(repository, digest), []).append(tag)
        except OciError:
            return  # it was deleted just now

    async def _untagged(self, tagged: set[_Name], most: int) -> list[_Name]:
        """Of other registries what was asked for by digest: whole indexes, and images of none."""
        here = {_Name(*each) for each in await self._store.mirrored() if not is_private(each[0])}
        rest = sorted(here - tagged, key=lambda name: (name.repository, str(name.digest)))
        manifests = {name: await self._peek(*name) for name in [*tagged, *rest[:MAX_IMAGES]]}
        children = {
            _Name(name.repository, child.checked_digest)
            for name, manifest in manifests.items()
            if manifest is not None
            for child in manifest.manifests
        }
        shown = [name for name in rest if name not in children and _stands_alone(manifests, name)]
        return shown[: max(0, most)]

    async def _image(self, name: _Name, tags: list[str], nonce: str) -> HeldImage:
        manifest = await self._peek(*name)
        if manifest is None:
            return HeldImage(name.repository, str(name.digest), tags)
        return HeldImage(
            name.repository,
            str(name.digest),
            tags,
            await self._is_whole(name.repository, manifest),
            mark(nonce, manifest.content, len(manifest.content)),
        )

    async def _is_whole(self, repository: str, manifest: Manifest) -> bool:
        if not manifest.manifests:
            return await self._has(repository, manifest.blobs)
        for descriptor in manifest.manifests:
            child = await self._peek(repository, descriptor.checked_digest)
            if child is not None and await self._has(repository, child.blobs):
                return True
        return False

    async def _has(self, repository: str, blobs: Iterable[Descriptor]) -> bool:
        try:
            for blob in blobs:
                await self._local.stat(repository, blob.checked_digest)
        except OciError:
            return False
        return True

    async def _peek(self, repository: str, digest: Digest) -> Manifest | None:
        try:
            return await self._store.peek(repository, digest)
        except OciError:
            return None


def _stands_alone(manifests: dict[_Name, Manifest | None], name: _Name) -> bool:
    """Whether it is an image, and not something about one."""
    manifest = manifests.get(name)
    return manifest is None or manifest.subject is None
