"""Content for the tests of stores: small manifests and pushes."""

import json
from collections.abc import Iterable, Sequence

from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest, parse_manifest
from oci_mesh.spec.names import NameRecord
from oci_mesh.store.base import Partial, Store


def stamp(number: int) -> str:
    """The `number`-th stamp: later ones are greater."""
    return f"{number:012x}-0000-test"


def blob_descriptor(content: bytes) -> Descriptor:
    """What an image says of a layer or config."""
    return Descriptor("application/octet-stream", str(Digest.of(content)), len(content))


def image(
    *blobs: bytes, subject: Manifest | None = None, note: str = "", algorithm: str = "sha256"
) -> Manifest:
    """An image manifest of these blobs (config first); `note` makes it another one."""
    config, *layers = [_plain(blob_descriptor(content)) for content in blobs or (b"{}",)]
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_IMAGE,
        "config": config,
        "layers": layers,
        "annotations": {"note": note},
    }
    if subject is not None:
        document["subject"] = _plain(subject.descriptor())
    return parse_manifest(json.dumps(document).encode(), algorithm=algorithm)


def index(*manifests: Manifest) -> Manifest:
    """An index of these manifests."""
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [_plain(manifest.descriptor()) for manifest in manifests],
    }
    return parse_manifest(json.dumps(document).encode())


def _plain(descriptor: Descriptor) -> dict[str, object]:
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }


async def push_blob(
    store: Store, repository: str, content: bytes, at: str | None = None
) -> list[NameRecord]:
    """Push a blob in one piece."""
    upload_id = await store.create_upload(repository)
    async with store.upload(repository, upload_id) as upload:
        await upload.write(content)
        return await upload.commit(Digest.of(content), at)


async def push_pieces(
    store: Store,
    repository: str,
    content: bytes,
    at: str | None = None,
    *,
    piece: int = 1000,
    algorithm: str = "sha256",
) -> list[NameRecord]:
    """Push a blob in pieces, the last one first; then all of it is verified."""
    digest = Digest.of(content, algorithm)
    async with await store.partial(repository, digest, len(content)) as partial:
        starts = range(0, len(content), piece)
        write_pieces(partial, content, reversed(starts), piece)
        for start in starts:
            partial.advance(min(start + piece, len(content)))
        assert partial.verified()
        return await partial.commit(at)


def write_pieces(
    partial: Partial, content: bytes, starts: Iterable[int], piece: int = 1000
) -> None:
    """Put pieces of `content` in their places, out of one buffer that is used again."""
    buffer = bytearray(piece)
    for start in starts:
        length = min(piece, len(content) - start)
        buffer[:length] = content[start : start + length]
        partial.write(start, memoryview(buffer)[:length])


async def push_image(
    store: Store, repository: str, blobs: Sequence[bytes], tags: Sequence[str], at: str
) -> Manifest:
    """Push blobs and the image that is made of them."""
    for content in blobs:
        await push_blob(store, repository, content, at)
    manifest = image(*blobs)
    await store.put_manifest(repository, manifest, tags, at, manifest.blobs)
    return manifest


async def read_blob(store: Store, repository: str, digest: Digest) -> bytes:
    """All of a blob."""
    async with await store.blob(repository, digest) as blob:
        return b"".join([chunk async for chunk in blob.chunks(0, blob.size)])
