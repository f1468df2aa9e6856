"""`oci-mesh push`: an image from a file to a registry.

Blobs go before the manifests that name them, children before parents, the tag last: at no moment
does the registry have a name for something that is not whole. What it has already is not sent.
"""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from oci_mesh.cli.compression import Compression
from oci_mesh.cli.docker_archive import (
    LISTING,
    ArchivedImage,
    encode_manifest,
    read_config,
    read_images,
)
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import Content, Files
from oci_mesh.cli.layers import pack
from oci_mesh.cli.layout import INDEX, Layout, blob_name
from oci_mesh.cli.progress import Progress, Task
from oci_mesh.cli.registry_client import RegistryClient
from oci_mesh.cli.result import BlobResult, Result, result_of
from oci_mesh.cli.selection import choose_image
from oci_mesh.cli.target import Target
from oci_mesh.cli.tree import Tree
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest, parse_manifest

# Uploads at once: enough to hide the round trips between small layers, few enough that a large
# one gets most of the link. docker takes 5.
TRANSFERS: Final = 4

_UNCOMPRESSED: Final = frozenset(
    {media_types.LAYER_TAR, "application/vnd.docker.image.rootfs.diff.tar"}
)


class Push:
    """One push, to `target`, of an image of `files`."""

    def __init__(
        self, files: Files, client: RegistryClient, target: Target, progress: Progress
    ) -> None:
        self._files = files
        self._client = client
        self._target = target
        self._progress = progress
        self._transfers = asyncio.Semaphore(TRANSFERS)
        self._compressions = asyncio.Semaphore(len(os.sched_getaffinity(0)))
        self._blobs: dict[str, BlobResult] = {}

    async def run(self, image: str | None, compression: Compression) -> Result:
        """Push the image called `image`, or the one that is meant; see `choose_image`."""
        is_archive = self._files.size(LISTING) is not None
        is_layout = self._files.size(INDEX) is not None
        if not is_archive and not is_layout:
            raise Failure(
                f"SOURCE is neither what docker save writes (no {LISTING}) nor an OCI layout "
                f"(no {INDEX})",
                hint="a root file system alone is not an image: build one from it first",
            )
        if is_layout:
            layout = Layout(self._files)
            root = choose_image(layout.candidates(), image, self._target)
            if not (is_archive and await _is_uncompressed(layout, root)):
                return await self._push_layout(layout, root)
        chosen = choose_image(read_images(self._files), image, self._target)
        return await self._push_archive(chosen, compression)

    async def _push_layout(self, layout: Layout, root: Descriptor) -> Result:
        tree = Tree(root)
        await tree.grow(layout.manifest, layout.referrers)
        if tree.absent:
            self._progress.note(f"{len(tree.absent)} manifests of the index are not in SOURCE")
        async with asyncio.TaskGroup() as group:
            for blob in tree.blobs.values():
                group.create_task(self._push_layout_blob(blob))
        return await self._push_manifests(tree.manifests, tree.absent)

    async def _push_archive(self, image: ArchivedImage, compression: Compression) -> Result:
        config, diff_ids = read_config(self._files, image)
        names = dict(zip(diff_ids, image.layers or [], strict=True))
        async with asyncio.TaskGroup() as group:
            layers = {
                diff_id: group.create_task(self._push_layer(name, diff_id, compression))
                for diff_id, name in names.items()
            }
            group.create_task(self._push_config(image.config, config))
        content = encode_manifest(config, [layers[diff_id].result() for diff_id in diff_ids])
        return await self._push_manifests([parse_manifest(content)], [])

    async def _push_layer(self, name: str, diff_id: Digest, compression: Compression) -> Descriptor:
        """Push a layer of a docker archive; its temporary file lives no longer than that."""
        task = self._progress.task(str(diff_id))
        with self._files.open(name) as content, tempfile.TemporaryFile(prefix="oci-mesh-") as spool:
            async with self._compressions:
                task.phase("packing", content.size)
                packed = await pack(content, diff_id, compression, spool, task.at)
            descriptor = Descriptor(packed.media_type, str(packed.digest), packed.content.size)
            await self._push_blob(descriptor, nullcontext(packed.content), task, str(diff_id))
        return descriptor

    async def _push_config(self, name: str, config: bytes) -> None:
        digest = str(Digest.of(config))
        descriptor = Descriptor(media_types.OCI_CONFIG, digest, len(config))
        await self._push_blob(descriptor, self._files.open(name), self._progress.task(digest))

    async def _push_layout_blob(self, descriptor: Descriptor) -> None:
        name = blob_name(descriptor.digest)
        size = self._files.size(name)
        if size is not None and size != descriptor.size:
            raise Failure(
                f"blob {descriptor.digest} in SOURCE has {size} bytes instead of {descriptor.size}"
            )
        content = None if size is None else self._files.open(name)
        await self._push_blob(descriptor, content, self._progress.task(descriptor.digest))

    async def _push_blob(
        self,
        descriptor: Descriptor,
        opening: AbstractContextManager[Content] | None,
        task: Task,
        diff_id: str | None = None,
    ) -> None:
        """Send a blob unless the registry has it. `opening` is entered only then: a layout may
        have more blobs than a process may have files.
        """
        repository, digest = self._target.repository, descriptor.checked_digest
        outcome = "exists"
        async with self._transfers:
            if not await self._client.has_blob(repository, digest):
                if opening is None:
                    raise Failure(
                        f"blob {digest} is neither in SOURCE nor in {self._target.name}",
                        hint="SOURCE is not complete: make it again from where it came from",
                    )
                task.phase("pushing", descriptor.size)
                with opening as content:
                    await self._client.push_blob(repository, digest, content, task.at)
                outcome = "pushed"
        task.done(outcome, descriptor.digest, descriptor.size)
        self._blobs[descriptor.digest] = BlobResult(
            descriptor.digest, descriptor.size, descriptor.media_type, outcome, diff_id
        )

    async def _push_manifests(
        self, manifests: Sequence[Manifest], absent: Sequence[Descriptor]
    ) -> Result:
        target, root = self._target, manifests[-1]
        if target.digest not in (None, root.digest):
            raise Failure(
                f"the image in SOURCE is {root.digest}, REF asks for {target.digest}",
                hint="leave the digest out of REF to push what there is",
            )
        blobs = list(self._blobs.values())
        return await push_manifests(self._client, target, manifests, blobs, absent)


async def push_manifests(
    client: RegistryClient,
    target: Target,
    manifests: Sequence[Manifest],
    blobs: list[BlobResult],
    absent: Sequence[Descriptor],
) -> Result:
    """In the order given; the last is the root, and gets the tag. `blobs` are there already."""
    root = manifests[-1]
    for manifest in manifests:
        if manifest is not root or target.tag is None or root.digest.algorithm != "sha256":
            await client.push_manifest(target.repository, str(manifest.digest), manifest)
    if target.tag is not None:
        await client.push_manifest(target.repository, target.tag, root)
    return result_of(target, manifests, blobs, absent)


async def _is_uncompressed(layout: Layout, root: Descriptor) -> bool:
    """Whether docker wrote this layout from unpacked layers: then they are better packed first."""
    manifest = await layout.manifest(root)
    if manifest is None or manifest.media_type not in media_types.IMAGES:
        return False
    layers = manifest.blobs[1:]
    return bool(layers) and all(layer.media_type in _UNCOMPRESSED for layer in layers)
