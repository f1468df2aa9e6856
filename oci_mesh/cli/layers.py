"""One layer: from the tar of a `docker save` to the blob of a registry, and back; checked.

The work is cut into chunks, each done in a thread (hashing and compressing let others run), so
that a cancelled push stops within a chunk. Memory: a few chunks per layer, whatever its size.
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

from oci_mesh.cli.compression import (
    MAGIC_BYTES,
    Compression,
    Compressor,
    Decompressed,
    layer_media_type,
)
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import CHUNK_BYTES, Content
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest, Hasher

# A thread hop costs about 0.1 ms; this much work takes some ms at least.
_STEP_BYTES: Final = 4 * CHUNK_BYTES

At = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer as it is pushed; `content` can be read as long as the file it lies in is open."""

    diff_id: Digest
    digest: Digest
    media_type: str
    content: Content


async def digest_of(content: Content, algorithm: str = "sha256", at: At | None = None) -> Digest:
    """The digest of it all; `at` hears how many bytes were read so far."""
    hasher = Hasher(algorithm)
    await hash_into(hasher, content, at)
    return hasher.digest()


async def hash_into(hasher: Hasher, content: Content, at: At | None = None) -> None:
    """Give a fresh `hasher` all of the content."""
    while hasher.size < content.size:
        await asyncio.to_thread(_hash_step, content, hasher)
        if at is not None:
            at(hasher.size)


async def pack(
    content: Content, diff_id: Digest, compression: Compression, spool: BinaryIO, at: At
) -> Packed:
    """Make a layer that has `diff_id` when uncompressed ready to be pushed.

    One that is compressed already stays as it is, byte for byte; a tar is compressed into `spool`.
    `at` hears how many bytes of `content` were done. Raises `Failure` if the diff ID is another.
    """
    media_type = layer_media_type(content.read_at(0, MAGIC_BYTES))
    if media_type != media_types.LAYER_TAR or compression.method == "none":
        await _check_diff_id(content, diff_id)
        digest = await digest_of(content, at=at)
        return Packed(diff_id, digest, media_type, content)
    work = _Packing(content, compression.compressor(content.size), diff_id.algorithm, spool)
    while not work.done:
        await asyncio.to_thread(work.step)
        at(work.tar.size)
    _compare(work.tar.digest(), diff_id)
    packed = Content(spool, 0, work.packed.size)
    return Packed(diff_id, work.packed.digest(), compression.media_type, packed)


@contextmanager
def unpacked(content: Content, diff_id: Digest) -> Iterator[Content]:
    """The layer's tar, in an unnamed temporary file. Raises `Failure` if its digest is not
    `diff_id`. Blocks: for use outside of an event loop.
    """
    hasher = Hasher(diff_id.algorithm)
    reader = Decompressed(content.reader())
    with tempfile.TemporaryFile(prefix="oci-mesh-") as file:
        while chunk := reader.read(CHUNK_BYTES):
            hasher.update(chunk)
            file.write(chunk)
        _compare(hasher.digest(), diff_id)
        file.flush()
        yield Content(file, 0, hasher.size)


class _Packing:
    """A layer being compressed, a step at a time."""

    def __init__(
        self, content: Content, compressor: Compressor, algorithm: str, spool: BinaryIO
    ) -> None:
        self.done = False
        self.tar = Hasher(algorithm)
        self.packed = Hasher()
        self._content = content
        self._compressor = compressor
        self._spool = spool

    def step(self) -> None:
        data = self._content.read_at(self.tar.size, _STEP_BYTES)
        self.tar.update(data)
        self._put(self._compressor.compress(data))
        if self.tar.size == self._content.size:
            self._put(self._compressor.flush())
            self._spool.flush()
            self.done = True

    def _put(self, data: bytes) -> None:
        self.packed.update(data)
        self._spool.write(data)


async def _check_diff_id(content: Content, diff_id: Digest) -> None:
    reader = Decompressed(content.reader())
    hasher = Hasher(diff_id.algorithm)
    while data := await asyncio.to_thread(reader.read, _STEP_BYTES):
        await asyncio.to_thread(hasher.update, data)
    _compare(hasher.digest(), diff_id)


def _hash_step(content: Content, hasher: Hasher) -> None:
    hasher.update(content.read_at(hasher.size, _STEP_BYTES))


def _compare(found: Digest, diff_id: Digest) -> None:
    if found != diff_id:
        raise Failure(
            f"a layer's content is {found}, but its image's configuration says {diff_id}",
            hint="the image is damaged or was tampered with: export or push it again",
        )
