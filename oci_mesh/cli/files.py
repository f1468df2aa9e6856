"""Files by name, wherever they lie: in a directory, or in an archive (`tar_files.py`).

A reader of images asks for the names that the formats define (`index.json`, `blobs/sha256/…`,
what manifest.json lists) and gets bytes at an offset of an open file. Nothing is ever unpacked
under a name that an archive chose.
"""

import io
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from oci_mesh.cli.failure import Failure, shown

# Long enough that hashing and compressing a chunk outweigh passing it on.
CHUNK_BYTES: Final = 1024 * 1024


class Content:
    """`size` bytes of an open file, from `offset`.

    Reading never moves the file's position, so that several threads and tasks may share it.
    """

    __slots__ = ("_file", "_offset", "size")

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file = file
        self._offset = offset
        self.size = size

    def read_at(self, position: int, length: int) -> bytes:
        """Up to `length` bytes from `position`; fewer only at the end. Raises `Failure` if the
        file has become shorter than it was.
        """
        length = max(0, min(length, self.size - position))
        data = os.pread(self._file.fileno(), length, self._offset + position)
        if length and not data:
            raise Failure("a file became shorter while it was being read")
        return data

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """All bytes from `start`, in pieces of at most `CHUNK_BYTES`."""
        position = start
        while position < self.size:
            data = self.read_at(position, CHUNK_BYTES)
            position += len(data)
            yield data

    async def stream(self, start: int) -> AsyncIterator[bytes]:
        """As `http.Body.stream`."""
        for chunk in self.chunks(start):
            yield chunk

    def reader(self) -> io.BufferedReader:
        """The bytes as a file, for what reads files."""
        return io.BufferedReader(_Reader(self), CHUNK_BYTES)


class _Reader(io.RawIOBase):
    def __init__(self, content: Content) -> None:
        self._content = content
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # a Buffer, once 3.12 is the oldest
        view = memoryview(buffer).cast("B")
        data = self._content.read_at(self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class Files(Protocol):
    """What images are read from."""

    def size(self, name: str) -> int | None:
        """How long the file is; None if there is no such file."""
        ...

    def open(self, name: str) -> AbstractContextManager[Content]:
        """The file's bytes, readable within the context. Raises `Failure` if it is not there."""
        ...


class DirectoryFiles:
    """The files below a directory of the user's own."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def size(self, name: str) -> int | None:
        """As `Files.size`."""
        path = self._root / name
        return path.stat().st_size if path.is_file() else None

    @contextmanager
    def open(self, name: str) -> Iterator[Content]:
        """As `Files.open`."""
        path = self._root / name
        if not path.is_file():
            raise Failure(f"SOURCE has no {shown(name)}")
        with path.open("rb") as file:
            yield Content(file, 0, os.fstat(file.fileno()).st_size)


def read_small(files: Files, name: str, limit: int) -> bytes:
    """A whole file of at most `limit` bytes. Raises `Failure` if it is not there, or larger."""
    with files.open(name) as content:
        if content.size > limit:
            raise Failure(f"{shown(name)} in SOURCE is larger than {limit} bytes")
        return b"".join(content.chunks())
