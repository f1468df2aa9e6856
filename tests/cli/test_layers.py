"""One layer, checked on the way in and out."""

import gzip
from pathlib import Path

import pytest

from oci_mesh.cli.compression import Compression
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.layers import Packed, digest_of, pack, unpacked
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from tests import images
from tests.cli.conftest import MakeContent

# More than one step of work.
TAR = images.layer_tar({"numbers": b"".join(b"%d\n" % number for number in range(900_000))})
DIFF_ID = Digest.of(TAR)
GZIP = Compression("gzip", 1)


async def packed(
    content: MakeContent, data: bytes, tmp_path: Path, compression: Compression = GZIP
) -> tuple[Packed, bytes, list[int]]:
    """The layer, its bytes, and what progress was told."""
    told: list[int] = []
    with (tmp_path / "spool").open("w+b") as spool:
        layer = await pack(content(data), DIFF_ID, compression, spool, told.append)
        return layer, b"".join(layer.content.chunks()), told


async def test_a_tar_is_compressed(content: MakeContent, tmp_path: Path) -> None:
    """Digest and media type are those of the compressed bytes; progress ends at the tar's size."""
    layer, data, told = await packed(content, TAR, tmp_path)
    assert layer.digest == Digest.of(data)
    assert layer.media_type == media_types.LAYER_GZIP
    assert gzip.decompress(data) == TAR
    assert told == sorted(told)
    assert len(told) > 1
    assert told[-1] == len(TAR)


@pytest.mark.parametrize("method", ["gzip", "zstd"])
async def test_packing_twice_gives_one_digest(
    content: MakeContent, tmp_path: Path, method: str
) -> None:
    """So the registry has it the second time."""
    compression = Compression(method, 3)  # type: ignore[arg-type]  # parametrize knows no Literal
    first, _, _ = await packed(content, TAR, tmp_path, compression)
    second, _, _ = await packed(content, TAR, tmp_path, compression)
    assert first.digest == second.digest


async def test_a_compressed_layer_stays_as_it_is(content: MakeContent, tmp_path: Path) -> None:
    """Byte for byte, and whatever compression is asked for."""
    data = gzip.compress(TAR, mtime=12345)
    layer, same, _ = await packed(content, data, tmp_path, Compression("zstd"))
    assert same == data
    assert layer.digest == Digest.of(data)
    assert layer.media_type == media_types.LAYER_GZIP


async def test_a_tar_may_stay_a_tar(content: MakeContent, tmp_path: Path) -> None:
    """With no compression its digest is its diff ID."""
    layer, data, _ = await packed(content, TAR, tmp_path, Compression("none"))
    assert (data, layer.digest, layer.media_type) == (TAR, DIFF_ID, media_types.LAYER_TAR)


@pytest.mark.parametrize("method", ["gzip", "none"])
@pytest.mark.parametrize(
    "data", [TAR + b"x", b"", gzip.compress(b"x"), TAR[:-1]], ids=["more", "none", "other", "less"]
)
async def test_another_diff_id_is_refused(
    content: MakeContent, tmp_path: Path, data: bytes, method: str
) -> None:
    """A layer that is not what the configuration says is never pushed."""
    compression = Compression(method)  # type: ignore[arg-type]  # parametrize knows no Literal
    with pytest.raises(Failure, match=f"configuration says {DIFF_ID}"):
        await packed(content, data, tmp_path, compression)


@pytest.mark.parametrize("data", [TAR, gzip.compress(TAR)], ids=["tar", "gzip"])
def test_unpacked(content: MakeContent, data: bytes) -> None:
    """The tar, compared with its diff ID."""
    with unpacked(content(data), DIFF_ID) as tar:
        assert tar.size == len(TAR)
        assert b"".join(tar.chunks()) == TAR
    with pytest.raises(Failure, match="configuration says"), unpacked(content(b"x"), DIFF_ID):
        pass


async def test_digest_of(content: MakeContent) -> None:
    """Of all of it, in either algorithm, and of nothing."""
    assert await digest_of(content(TAR)) == DIFF_ID
    assert await digest_of(content(TAR), "sha512") == Digest.of(TAR, "sha512")
    assert await digest_of(content(b"")) == Digest.of(b"")
