"""A layout on disk -> one archive: an OCI layout as a tar, or what `docker load` reads.

Both are deterministic: members in a fixed order, without times or owners. Blocking; the archive
appears under its name at once, when it is whole.
"""

import io
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from oci_mesh.cli.docker_archive import (
    LISTING,
    MAX_CONFIG_BYTES,
    encode_listing,
    parse_diff_ids,
)
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import CHUNK_BYTES, Content, Files, read_small
from oci_mesh.cli.layers import unpacked
from oci_mesh.cli.layout import INDEX, MARKER, blob_name
from oci_mesh.cli.tree import Tree
from oci_mesh.spec import media_types
from oci_mesh.spec.manifest import Manifest

STANDARD_OUTPUT: Final = "-"


@contextmanager
def new_file(destination: str) -> Iterator[BinaryIO]:
    """A file to write to; it takes the name `destination` when the context ends without an error,
    and vanishes if it ends with one. `-` is standard output, where nothing can be taken back.
    """
    if destination == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(destination)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_oci_tar(files: Files, tree: Tree, file: BinaryIO) -> None:
    """The layout in `files`, as far as `tree` goes; index.json last."""
    with _tar(file) as archive:
        for name in (MARKER, *_blob_names(tree), INDEX):
            with files.open(name) as content:
                _add(archive, name, content)


def write_docker_archive(files: Files, tree: Tree, tag: str | None, file: BinaryIO) -> None:
    """The one image of `tree`, layers unpacked and compared with its configuration; manifest.json
    last. Raises `Failure` if it is not a container image.
    """
    config, *layers = _image(tree).blobs
    diff_ids = parse_diff_ids(read_small(files, blob_name(config.digest), MAX_CONFIG_BYTES))
    if len(diff_ids) != len(layers):
        raise Failure(
            f"the image has {len(diff_ids)} layers, of which the registry has {len(layers)}",
            hint="layers that only their vendor may distribute cannot be archived",
        )
    names = [f"{diff_id.hex}/layer.tar" for diff_id in diff_ids]
    config_name = f"{config.checked_digest.hex}.json"
    with _tar(file) as archive:
        with files.open(blob_name(config.digest)) as content:
            _add(archive, config_name, content)
        done: set[str] = set()
        for name, diff_id, layer in zip(names, diff_ids, layers, strict=True):
            if name not in done:
                with (
                    files.open(blob_name(layer.digest)) as packed,
                    unpacked(packed, diff_id) as tar,
                ):
                    _add(archive, name, tar)
                done.add(name)
        _add_bytes(archive, LISTING, encode_listing(config_name, [tag] if tag else [], names))


def _image(tree: Tree) -> Manifest:
    root = tree.manifests[-1]
    if root.media_type not in media_types.IMAGES or not root.blobs:
        raise Failure(
            "only a container image for one platform can be a docker archive",
            hint="choose one with --platform, or use --format oci-dir or oci-tar",
        )
    return root


def _blob_names(tree: Tree) -> Sequence[str]:
    digests = {*tree.blobs, *(str(manifest.digest) for manifest in tree.manifests)}
    return [blob_name(digest) for digest in sorted(digests)]


@contextmanager
def _tar(file: BinaryIO) -> Iterator[tarfile.TarFile]:
    """`|` never seeks: the same for a pipe and a file."""
    with tarfile.open(fileobj=file, mode="w|", bufsize=CHUNK_BYTES) as archive:
        yield archive


def _add(archive: tarfile.TarFile, name: str, content: Content) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = content.size
    archive.addfile(entry, content.reader())


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
