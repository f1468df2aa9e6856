"""Images of the mesh into this machine's containerd, as `ctr images import` would have them there.

    lease                 nothing of what follows is collected before the image has its name
    config, layers        each unless it is there
    manifest, index       after what they name, labelled with it for containerd's collector
    image                 the name; from then on all of it is kept
    end of the lease      also of one that was not ended: it runs out

Of an index only what this machine can run is brought. Who runs the image unpacks it (CRI and `ctr
run` both do), and CRI puts its own labels on it when containerd tells it of the new name.

What does not work out leaves no name behind and no download, and what was written is collected.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from oci_mesh.containerd import messages_pb2 as pb
from oci_mesh.containerd.api import Containerd, ContainerdFailed, Exists
from oci_mesh.errors import ManifestUnknown
from oci_mesh.sources import Source
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest, Platform
from oci_mesh.spec.platform import platform_text, runs_on

# One import in all: it waits for its turn, and while the image still comes, for that. As long as an
# operator waits for a node.
IMPORT_S: Final = 7200.0

# A lease outlives its import by this, should nobody be left to end it.
_LEASE_MARGIN_S: Final = 600.0

# Read and sent at a time, in memory whole. containerd takes up to 16 MiB; larger ones than this are
# no faster: 0.3 GB a second of CPU here, 0.07 a second with eight nodes on two cores.
CHUNK_BYTES: Final = 256 * 1024

# Indexes in indexes, as in a push.
_MAX_DEPTH: Final = 8

# The config of an image is some kB; what is larger is none.
_MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024

_KEPT: Final = "containerd.io/gc.ref.content"

# CRI's mark. With a new image behind the name, CRI has to make it again: it names the image by its
# id then, too.
_CRI_MARK: Final = "io.cri-containerd.image"

_CONFIGS: Final = frozenset(
    {media_types.OCI_CONFIG, "application/vnd.docker.container.image.v1+json"}
)

Told = Callable[[int, int], None]
"""Of how many bytes are done, and of how many."""


class _Content(NamedTuple):
    """Something to be written; `body` is None for a blob, which is read when it is its turn."""

    digest: Digest
    size: int
    labels: Mapping[str, str]
    body: bytes | None = None


class _Config(msgspec.Struct):
    """What an image's configuration says of where it runs."""

    architecture: str = ""
    os: str = ""


class Importer:
    """Of one containerd. Imports go one after another."""

    def __init__(self, socket: Path, namespace: str, platform: Platform) -> None:
        self._socket = socket
        self._namespace = namespace
        self._platform = platform
        self._turn = asyncio.Lock()

    async def bring(
        self, source: Source, repository: str, digest: Digest, name: str, told: Told
    ) -> int | None:
        """Have containerd hold what `source` has, by the name `name`; may be repeated.

        Returns how many bytes were written; None if there was nothing to do. Raises
        `ContainerdFailed`, and what `source` does.
        """
        root = await source.manifest(repository, digest)
        contents = await self._contents(source, repository, root, 0)
        try:
            async with (
                asyncio.timeout(IMPORT_S),
                self._turn,
                Containerd(self._socket, self._namespace) as containerd,
            ):
                if await _is_whole(containerd, root, name, contents):
                    return None
                return await self._write(containerd, source, repository, root, name, contents, told)
        except TimeoutError:
            raise ContainerdFailed(
                f"not in containerd after {IMPORT_S:.0f} s", hint="is its disk that slow?"
            ) from None

    async def _write(
        self,
        containerd: Containerd,
        source: Source,
        repository: str,
        root: Manifest,
        name: str,
        contents: list[_Content],
        told: Told,
    ) -> int:
        until = datetime.now(UTC) + timedelta(seconds=IMPORT_S + _LEASE_MARGIN_S)
        written = done = 0
        total = sum(content.size for content in contents)
        lease = f"oci-mesh-{secrets.token_hex(8)}"
        async with containerd.lease(lease, until.isoformat(timespec="seconds")):
            for content in contents:
                start = done
                told(start, total)
                written += await _put(
                    containerd,
                    source,
                    repository,
                    content,
                    lambda at, start=start: told(start + at, total),  # type: ignore[misc]
                )
                done += content.size
            target = pb.Descriptor(
                media_type=root.media_type, digest=str(root.digest), size=len(root.content)
            )
            before = await containerd.image(name)
            labels = dict(before.labels) if before is not None else {}
            labels.pop(_CRI_MARK, None)
            await containerd.put_image(pb.Image(name=name, labels=labels, target=target))
        return written

    async def _contents(
        self, source: Source, repository: str, manifest: Manifest, depth: int
    ) -> list[_Content]:
        """What the image consists of for this platform, each after all that it names."""
        if manifest.media_type in media_types.INDEXES:
            found = await self._of_children(source, repository, manifest, depth)
            labels = {f"{_KEPT}.m.{i}": d.digest for i, d in enumerate(manifest.manifests)}
        else:
            await self._check_config(source, repository, manifest)
            config, *layers = manifest.blobs
            labels = {f"{_KEPT}.config": config.digest}
            labels |= {f"{_KEPT}.l.{i}": layer.digest for i, layer in enumerate(layers)}
            found = [_Content(d.checked_digest, d.size, {}) for d in manifest.blobs]
        body = manifest.content
        found.append(_Content(manifest.digest, len(body), labels, body))
        return list({content.digest: content for content in found}.values())

    async def _of_children(
        self, source: Source, repository: str, index: Manifest, depth: int
    ) -> list[_Content]:
        found: list[_Content] = []
        for child in index.manifests:
            if child.media_type not in media_types.MANIFESTS or depth == _MAX_DEPTH:
                continue
            if child.platform is not None and not runs_on(child.platform, self._platform):
                continue
            try:
                manifest = await source.manifest(repository, child.checked_digest)
            except ManifestUnknown:  # a sparse index
                continue
            found += await self._contents(source, repository, manifest, depth + 1)
        if not found:
            offered = sorted({platform_text(d.platform) for d in index.manifests if d.platform})
            raise self._foreign(", ".join(offered) or "no platform")
        return found

    async def _check_config(self, source: Source, repository: str, manifest: Manifest) -> None:
        """Raise `ContainerdFailed` for what this machine could not run."""
        descriptor = manifest.blobs[0]
        if descriptor.media_type not in _CONFIGS or descriptor.size > _MAX_CONFIG_BYTES:
            raise ContainerdFailed(
                "this is not the image of a container",
                hint="other artifacts are held by the nodes (sync without --import), and pulled",
            )
        try:
            config = msgspec.json.decode(await _read(source, repository, descriptor), type=_Config)
        except msgspec.MsgspecError as error:
            raise ContainerdFailed(f"the image's configuration is not valid: {error}") from None
        offered = Platform(os=config.os, architecture=config.architecture)
        if config.architecture and not runs_on(offered, self._platform):
            raise self._foreign(platform_text(offered))

    def _foreign(self, offered: str) -> ContainerdFailed:
        here = platform_text(self._platform)
        return ContainerdFailed(
            f"the image is for {offered}, and this node is {here}",
            hint=f"build it for {here} too, or leave this node out with --nodes",
        )


async def _is_whole(
    containerd: Containerd, root: Manifest, name: str, contents: list[_Content]
) -> bool:
    """Whether the image is there by that name, with all that belongs to it."""
    image = await containerd.image(name)
    if image is None or image.target.digest != str(root.digest):
        return False
    for content in contents:
        labels = await containerd.labels(str(content.digest))
        if labels is None or not content.labels.items() <= labels.items():
            return False
    return True


async def _put(
    containerd: Containerd,
    source: Source,
    repository: str,
    content: _Content,
    at: Callable[[int], None],
) -> int:
    """Have containerd hold one content, under the lease; how many bytes of it were written."""
    digest = str(content.digest)
    try:
        async with containerd.writing(f"oci-mesh-{digest}", digest, content.size) as writer:
            before = writer.offset
            if content.body is not None:
                await writer.write(content.body[writer.offset :])
            else:
                async with await source.blob(repository, content.digest) as blob:
                    start, size = writer.offset, content.size
                    while start < size:
                        stop = min(start + CHUNK_BYTES, size)
                        stop = await blob.available(start, stop)
                        async for chunk in blob.chunks(start, stop):
                            await writer.write(chunk)
                            start += len(chunk)
                            at(start)
            await writer.commit(content.labels)
    except Exists:
        if content.labels:
            await containerd.set_labels(digest, content.labels)
        return 0
    return content.size - before


async def _read(source: Source, repository: str, descriptor: Descriptor) -> bytes:
    async with await source.blob(repository, descriptor.checked_digest) as blob:
        return b"".join([chunk async for chunk in blob.chunks(0, blob.size)])
