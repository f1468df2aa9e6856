"""What a start does about the end before it, whatever that was.

Files without a row were never acknowledged, or were deleted: they go. Rows without their file, or
with one of another length, are damage from outside: the content is reported and taken away, so
that it can come again from a client or another node. Uploads stay: their length says how far they
are. Partials stay: who goes on with them verifies every piece. Bytes are not read here: that is a
scrub's work, and a start must be quick.
"""

import logging
import os

from oci_mesh.errors import OciError, StoreCorrupt
from oci_mesh.spec.digest import HEX_LENGTH, Digest
from oci_mesh.spec.manifest import parse_manifest
from oci_mesh.store.files import Files
from oci_mesh.store.layout import Layout, is_upload_name
from oci_mesh.store.metadata import Metadata

_log = logging.getLogger(__name__)


def check_not_bereft(layout: Layout) -> None:
    """Raise `StoreCorrupt` if there is content but no database: it would all count as unused."""
    if not os.path.exists(layout.metadata) and _blob_files(layout):
        raise StoreCorrupt(
            f"{layout.metadata} is missing, but there is content under blobs/. Restore the file, "
            "or move the whole root directory away to begin with an empty store"
        )


def recover(layout: Layout, metadata: Metadata, files: Files) -> list[str]:
    """Make files and rows agree; return the names of uploads and partials. Raises `OSError`."""
    present, expected = _blob_files(layout), metadata.contents()
    lost = [digest for digest, size in expected.items() if present.get(digest) != size]
    _drop_rows(metadata, files, lost)
    unused = present.keys() - (expected.keys() - lost)
    for digest in unused:
        algorithm, _, name = digest.partition(":")
        files.unlink(f"{layout.blobs(algorithm)}/{name}")
    if unused:
        _log.info("removed %d files that no push had finished", len(unused))
    _note_refs(layout, metadata, files)
    return _uploads(layout, files)


def _note_refs(layout: Layout, metadata: Metadata, files: Files) -> None:
    """Of manifests that are older than the table of what they name."""
    unread = metadata.without_refs()
    if not unread:
        return
    metadata.connection.execute("BEGIN IMMEDIATE")
    for repository, text, media_type in unread:
        digest = Digest.parse(text)
        try:
            with open(layout.blob(digest), "rb") as file:
                manifest = parse_manifest(file.read(), media_type, digest.algorithm)
        except (OSError, OciError) as error:  # it is served no more; a scrub does the rest
            _log.error("manifest %s is damaged on disk: %s", digest, error)
        else:
            metadata.put_refs(repository, manifest)
    files.commit(metadata.connection)


def _blob_files(layout: Layout) -> dict[str, int]:
    """The size of every regular file under `blobs`, by what its digest must be."""
    found = {}
    for algorithm in HEX_LENGTH:
        with os.scandir(layout.blobs(algorithm)) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    size = entry.stat(follow_symlinks=False).st_size
                    found[f"{algorithm}:{entry.name}"] = size
    return found


def _drop_rows(metadata: Metadata, files: Files, lost: list[str]) -> None:
    if not lost:
        return
    metadata.connection.execute("BEGIN IMMEDIATE")
    for digest in lost:
        repositories = metadata.drop_content(digest)
        _log.error(
            "%s is missing or has another length on disk; taken from: %s",
            Digest.parse(digest),
            ", ".join(repositories),
        )
    files.commit(metadata.connection)
    metadata.dropped.clear()


def _uploads(layout: Layout, files: Files) -> list[str]:
    names = os.listdir(layout.uploads)
    for name in names:
        if not is_upload_name(name):  # a manifest on its way in
            files.unlink(layout.upload(name))
    return [name for name in names if is_upload_name(name)]
