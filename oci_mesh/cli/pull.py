"""`oci-mesh pull`: an image from a registry to a layout on disk, every byte of it verified.

Manifests first, to know what there is; then blobs, several at once; index.json names the image
when all of it is there. Archives are made from such a layout afterwards (`export.py`).
"""

import asyncio
from typing import Final

import msgspec

from oci_mesh.cli.docker_archive import MAX_CONFIG_BYTES
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import read_small
from oci_mesh.cli.layout import IMAGE_NAME, REF_NAME, blob_name
from oci_mesh.cli.layout_directory import LayoutDirectory, Partial
from oci_mesh.cli.lookup import look_up
from oci_mesh.cli.progress import Progress, Task
from oci_mesh.cli.registry_client import RegistryClient
from oci_mesh.cli.result import BlobResult, Result, result_of
from oci_mesh.cli.retry import Transient
from oci_mesh.cli.selection import choose_platform, platform_text, runs_on
from oci_mesh.cli.target import Target
from oci_mesh.cli.tree import Tree, no_referrers
from oci_mesh.spec import media_types
from oci_mesh.spec.manifest import Descriptor, Manifest, Platform

# Downloads at once; see `push.TRANSFERS`.
TRANSFERS: Final = 4

IMAGE_CONFIGS: Final = frozenset(
    {media_types.OCI_CONFIG, "application/vnd.docker.container.image.v1+json"}
)


class Pull:
    """One pull, of `target`, into `layout`."""

    def __init__(
        self, client: RegistryClient, target: Target, layout: LayoutDirectory, progress: Progress
    ) -> None:
        self._client = client
        self._target = target
        self._layout = layout
        self._progress = progress
        self._transfers = asyncio.Semaphore(TRANSFERS)
        self._root: Manifest
        self._blobs: dict[str, BlobResult] = {}

    async def run(
        self, platform: Platform | None, *, fallback: Platform | None, referrers: bool
    ) -> tuple[Result, Tree]:
        """Pull all of it, or what is for `platform`; with or without what refers to it. Of an
        index, `fallback` counts if no platform is asked for. May be repeated: what is there
        already is not fetched.
        """
        root = await self._resolve(platform, platform or fallback)
        tree = Tree(root)
        await tree.grow(self._fetch_manifest, self._referrers if referrers else no_referrers)
        if tree.absent:
            count = len(tree.absent)
            self._progress.note(f"{count} manifests of the index are not in the registry")
        async with asyncio.TaskGroup() as group:
            for blob in tree.blobs.values():
                group.create_task(self._pull_blob(blob))
        for manifest in tree.manifests:
            self._layout.put(manifest.digest, manifest.content)
        self._layout.list([*tree.referrers, self._named(root)])
        blobs = list(self._blobs.values())
        return result_of(self._target, tree.manifests, blobs, tree.absent), tree

    async def _resolve(self, platform: Platform | None, preferred: Platform | None) -> Descriptor:
        """The manifest that REF means, or, if it is an index, the one in it that is `preferred`."""
        target = self._target
        manifest = await look_up(self._client, target)
        while preferred is not None and manifest.media_type in media_types.INDEXES:
            chosen = choose_platform(manifest.manifests, preferred)
            child = await self._client.manifest(target.repository, chosen.digest)
            if child is None:
                raise Failure(
                    f"{target} has an image for {platform_text(preferred)}, {chosen.digest}, "
                    f"but the registry {target.registry} does not have it"
                )
            manifest = child
        if platform is not None:
            await self._check_platform(manifest, platform)
        self._root = manifest
        return Descriptor(manifest.media_type, str(manifest.digest), len(manifest.content))

    async def _check_platform(self, manifest: Manifest, wanted: Platform) -> None:
        """An image says in its configuration where it runs. Artifacts run nowhere: no check."""
        config = next(iter(manifest.blobs), None)
        if config is None or config.media_type not in IMAGE_CONFIGS:
            return
        await self._pull_blob(config)
        content = read_small(self._layout.files, blob_name(config.digest), MAX_CONFIG_BYTES)
        try:
            offered = msgspec.json.decode(content, type=Platform)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Failure(f"the image's configuration cannot be read: {error}") from None
        if not runs_on(offered, wanted):
            raise Failure(
                f"{self._target} is an image for {platform_text(offered)} only, "
                f"not for {platform_text(wanted)}"
            )

    async def _fetch_manifest(self, descriptor: Descriptor) -> Manifest | None:
        if descriptor.digest == str(self._root.digest):
            return self._root
        return await self._client.manifest(self._target.repository, descriptor.digest)

    async def _referrers(self, subject: Descriptor) -> tuple[Descriptor, ...]:
        return await self._client.referrers(self._target.repository, subject)

    async def _pull_blob(self, descriptor: Descriptor) -> None:
        if descriptor.digest in self._blobs:
            return  # the configuration, when its platform was looked at
        task = self._progress.task(descriptor.digest)
        outcome = "exists"
        async with self._transfers:
            task.phase("checking", descriptor.size)
            if not await self._layout.has(descriptor, task.at):
                with self._layout.partial(descriptor.checked_digest) as partial:
                    await partial.resume(task.at)
                    task.phase("pulling", descriptor.size)
                    await self._download(descriptor, partial, task)
                outcome = "pulled"
        task.done(outcome, descriptor.digest, descriptor.size)
        self._blobs[descriptor.digest] = BlobResult(
            descriptor.digest, descriptor.size, descriptor.media_type, outcome
        )

    async def _download(self, descriptor: Descriptor, partial: Partial, task: Task) -> None:
        """Get what is missing, over as many connections as it takes, and compare the digest."""
        patience = self._client.patience()
        best = leftover = partial.size
        while True:
            try:
                if partial.size != descriptor.size:
                    await self._receive(descriptor, partial, task)
                if partial.digest() == descriptor.checked_digest:
                    return
                if not leftover:
                    raise Failure(
                        f"blob {descriptor.digest}: the registry sent {partial.digest()} instead",
                        hint="the registry, or something before it, changes content: do not use it",
                    )
                leftover = 0  # what an earlier run left may have been the wrong part
                partial.restart()
            except Transient as error:
                if partial.size > best:
                    best = partial.size
                    patience.progress()
                await patience.after(error)
            except Failure:
                partial.restart()  # nothing that may be wrong is built upon
                raise

    async def _receive(self, descriptor: Descriptor, partial: Partial, task: Task) -> None:
        """One connection's worth."""
        repository, digest = self._target.repository, descriptor.checked_digest
        if partial.size > descriptor.size:
            partial.restart()
        async with self._client.blob(repository, digest, partial.size) as (begins, chunks):
            if begins != partial.size:
                partial.restart()
            async for chunk in chunks:
                if partial.size + len(chunk) > descriptor.size:
                    raise Failure(
                        f"blob {digest}: the registry sends more than {descriptor.size} bytes"
                    )
                partial.write(chunk)
                task.at(partial.size)
        if partial.size < descriptor.size:
            raise Transient(f"blob {digest}: {partial.size} of {descriptor.size} bytes came")

    def _named(self, root: Descriptor) -> Descriptor:
        names = {IMAGE_NAME: str(self._target)}
        if self._target.tag is not None:
            names[REF_NAME] = self._target.tag
        return msgspec.structs.replace(root, annotations=names)
