"""The image that is distributed: six layers of uneven sizes, the same bytes wherever it is built.

Files of noise (programs and what is compressed already) and of four letters in uneven shares (text)
in such a mix that the layers take 1.9 times their size when unpacked, as real images do: `docker
save`, and so the sync script, ships them unpacked.
"""

import json
import random
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests import images

HOST: Final = "registry.mesh.test"
REPOSITORY: Final = "fleet/image"
TAG: Final = "v1"
NAME: Final = f"{HOST}/{REPOSITORY}:{TAG}"

# Of the compressed whole. One blob with a third of all bytes is usual: a language, its libraries.
SHARES: Final = (0.38, 0.25, 0.17, 0.11, 0.06, 0.03)

EXPANSION: Final = 1.9
_FILE_BYTES: Final = 64 * 1024
_LETTERS: Final = b"e" * 128 + b"t" * 64 + b"a" * 32 + b"o" * 32  # 1.75 bits each
_TEXT_RATIO: Final = 0.25  # what Huffman codes of whole bits, and their headers, make of them
_NOISE_SHARE: Final = (1 / EXPANSION - _TEXT_RATIO) / (1 - _TEXT_RATIO)
_FORM: Final = 1  # counted up when other bytes come out: cached images are not taken for new ones


@dataclass(frozen=True)
class Image:
    """An image in its two forms on disk."""

    directory: Path

    @property
    def layout(self) -> Path:
        """An OCI layout with compressed layers."""
        return self.directory / "layout"

    @property
    def archive(self) -> Path:
        """What `docker save` writes."""
        return self.directory / "image.tar"

    def descriptors(self) -> list[dict[str, Any]]:
        """Config and layers."""
        index = json.loads((self.layout / "index.json").read_bytes())
        manifest = json.loads(self.blob(index["manifests"][0]["digest"]).read_bytes())
        return [manifest["config"], *manifest["layers"]]

    def blob(self, digest: str) -> Path:
        """A blob's file."""
        return self.layout / "blobs" / digest.replace(":", "/")

    @property
    def size(self) -> int:
        """F: the bytes of all blobs."""
        return sum(descriptor["size"] for descriptor in self.descriptors())


def built(cache: Path, size: int) -> Image:
    """An image whose blobs have some `size` bytes, within 2 %; built if `cache` has it not."""
    directory = cache / f"image-{_FORM}-{size}"
    if not directory.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            image = Image(Path(scratch, "image"))
            image.directory.mkdir()
            _build(image, size)
            image.directory.rename(directory)
    return Image(directory)


def _build(image: Image, size: int) -> None:
    layers = [dict(_files(number, size * share)) for number, share in enumerate(SHARES)]
    architecture = images.host_architecture()
    packing = images.Compression(images.LAYER_GZIP, _gzip)
    images.build_layout(image.layout, TAG, *layers, architecture=architecture, compression=packing)
    images.build_docker_archive(image.archive, NAME, *layers, architecture=architecture)


def _files(layer: int, size: float) -> Iterator[tuple[str, bytes]]:
    """Files that take `size` bytes when compressed."""
    dice = random.Random(layer)
    for number in range(max(1, round(size * EXPANSION / _FILE_BYTES))):
        content = dice.randbytes(_FILE_BYTES)
        # Spread evenly: of the first n files, n times the share are noise.
        is_noise = int((number + 1) * _NOISE_SHARE) > int(number * _NOISE_SHARE)
        yield f"layer{layer}/{number:05}", content if is_noise else content.translate(_LETTERS)


def _gzip(data: bytes) -> bytes:
    """Without a search for repetitions, there being none: ten times as fast."""
    packer = zlib.compressobj(level=1, wbits=31, strategy=zlib.Z_HUFFMAN_ONLY)
    return packer.compress(data) + packer.flush()
