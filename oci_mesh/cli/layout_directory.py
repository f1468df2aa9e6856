"""An OCI image layout as it is written: blob by blob, each under its digest only once verified.

A directory that a pull left half done is continued: blobs that are there are hashed, not fetched;
what there is of others lies in `.oci-mesh/` and grows. index.json comes last and at once, so that
a layout that names an image has all of it. Entries that others wrote stay.

What is on the disk after a power cut is not promised: the next pull hashes it anyway.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import Content, DirectoryFiles
from oci_mesh.cli.layers import At, digest_of, hash_into
from oci_mesh.cli.layout import IMAGE_NAME, INDEX, MARKER, MARKER_CONTENT, REF_NAME, blob_name
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest, Hasher
from oci_mesh.spec.manifest import Descriptor

_PARTIALS: Final = ".oci-mesh"


class Partial:
    """A blob on its way in: `size` bytes of it are there."""

    def __init__(self, file: BinaryIO, digest: Digest) -> None:
        self._file = file
        self._hasher = Hasher(digest.algorithm)

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self._hasher.size

    async def resume(self, at: At) -> None:
        """Take what an earlier run left, hashed again."""
        size = self._file.seek(0, os.SEEK_END)
        await hash_into(self._hasher, Content(self._file, 0, size), at)

    def restart(self) -> None:
        """Drop what there is."""
        self._file.truncate(0)
        self._file.seek(0)
        self._hasher = Hasher(self._hasher.algorithm)

    def write(self, chunk: bytes) -> None:
        """Append."""
        self._file.write(chunk)
        self._hasher.update(chunk)

    def digest(self) -> Digest:
        """Of what is there."""
        return self._hasher.digest()


class LayoutDirectory:
    """The layout at `root`, for one writer: see `open_layout`."""

    def __init__(self, root: Path) -> None:
        self.files = DirectoryFiles(root)
        self._root = root
        self._checked: set[str] = set()

    async def has(self, descriptor: Descriptor, at: At) -> bool:
        """Whether the blob is there, whole: one that is not what its name says is removed."""
        if descriptor.digest in self._checked:
            return True
        path = self._path(descriptor.digest)
        if not path.is_file():
            return False
        digest = descriptor.checked_digest
        with path.open("rb") as file:
            content = Content(file, 0, os.fstat(file.fileno()).st_size)
            found = await digest_of(content, digest.algorithm, at)
        if found != digest:
            path.unlink()
            return False
        self._checked.add(descriptor.digest)
        return True

    @contextmanager
    def partial(self, digest: Digest) -> Iterator[Partial]:
        """A place to write a blob to. Left without an error, it has become the blob: the caller
        has compared `Partial.digest`. Left with one, what there is stays for the next run.
        """
        path = self._root / _PARTIALS / f"{digest.algorithm}-{digest.hex}"
        path.parent.mkdir(exist_ok=True)
        with path.open("a+b") as file:
            partial = Partial(file, digest)
            yield partial
            assert partial.digest() == digest, (partial.digest(), digest)
        self._publish(path, str(digest))

    def put(self, digest: Digest, content: bytes) -> None:
        """Write a manifest, whose digest the caller has checked."""
        with self.partial(digest) as partial:
            partial.restart()
            partial.write(content)

    def list(self, found: Sequence[Descriptor]) -> None:
        """Let index.json list these; all of their content is there. An entry that has the same
        names, or none and the same digest, is replaced.
        """
        index = self._index()
        new = [msgspec.to_builtins(descriptor) for descriptor in found]
        kept = [entry for entry in _entries(index) if not any(_replaces(n, entry) for n in new)]
        self._write(INDEX, msgspec.json.encode(index | {"manifests": [*kept, *new]}))
        with suppress(OSError):  # another image's partials may be there
            (self._root / _PARTIALS).rmdir()

    def prepare(self) -> None:
        """Make an empty directory a layout; `open_layout` does this. Raises `Failure` for one that
        holds something else, or a damaged index.json.
        """
        if not (self._root / MARKER).is_file():
            if any(self._root.iterdir()):
                raise Failure(
                    f"{self._root} is not empty, and is not an OCI layout",
                    hint="name a new directory, or one that an earlier pull made",
                )
            self._write(MARKER, MARKER_CONTENT)
        (self._root / "blobs").mkdir(exist_ok=True)
        self._index()  # better found damaged now than after an hour of transfers

    def _index(self) -> dict[str, Any]:
        """index.json as it is: what others wrote there stays."""
        path = self._root / INDEX
        if not path.exists():
            return {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []}
        try:
            index = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            _entries(index)
        except (msgspec.DecodeError, RecursionError) as error:
            hint = "remove it, or pull into another directory"
            raise Failure(f"{path} is damaged: {error}", hint=hint) from None
        return index

    def _write(self, name: str, content: bytes) -> None:
        path = self._root / f".{name}.partial"
        path.write_bytes(content)
        path.replace(self._root / name)

    def _publish(self, path: Path, digest: str) -> None:
        final = self._path(digest)
        final.parent.mkdir(exist_ok=True)
        path.replace(final)
        self._checked.add(digest)

    def _path(self, digest: str) -> Path:
        return self._root / blob_name(digest)


@contextmanager
def open_layout(root: Path) -> Iterator[LayoutDirectory]:
    """Create the layout at `root`, or go on with the one that is there, as its only writer.

    Raises `Failure` if something else is there, or another process is writing to it. One that was
    created, and left with an error before anything was in it, is removed.
    """
    created = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except (FileExistsError, NotADirectoryError):
        raise Failure(
            f"{root} is a file, not a directory",
            hint="for an archive, name it *.tar or choose a --format",
        ) from None
    try:
        _lock(lock, root)
        layout = LayoutDirectory(root)
        layout.prepare()
        yield layout
    except BaseException:
        if created:
            _remove_empty(root)
        raise
    finally:
        os.close(lock)


def _remove_empty(root: Path) -> None:
    if (root / _PARTIALS).exists():
        return
    with suppress(OSError):  # blobs are there, or the directory is not what it was
        (root / "blobs").rmdir()
        (root / MARKER).unlink()
        root.rmdir()


def _lock(descriptor: int, root: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure(f"another process is writing to {root}", hint="wait for it to end") from None


def _entries(index: dict[str, Any]) -> list[dict[str, Any]]:
    return msgspec.convert(index.get("manifests"), list[dict[str, Any]])


def _replaces(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """An entry of another tool, with the tag alone, is taken for the same image."""
    names, old_names = new.get("annotations") or {}, old.get("annotations") or {}
    tag, image = old_names.get(REF_NAME), old_names.get(IMAGE_NAME)
    if tag is None and image is None:
        return bool(old.get("digest") == new["digest"])
    return bool(tag == names.get(REF_NAME) and image in (None, names.get(IMAGE_NAME)))
