"""The files of a tar archive, found by one pass over its headers and read where they lie.

An archive is a stranger's. Names that lead outside of it, two files of one name (which of them
would a reader mean?), links that run in circles and headers without end are refused. Symbolic and
hard links are followed within the archive only: `docker save` shares equal layers by them.

Not here: sparse members, devices, compression of the whole archive (`source.py` undoes that).
"""

import io
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from oci_mesh.cli.failure import Failure, shown
from oci_mesh.cli.files import Content

# An image of 127 layers has about 400 members; an index of dozens of images a few thousand.
MAX_MEMBERS: Final = 20_000

# What may be read to find them: a header, and a long name or a few attributes, for each member.
MAX_HEADER_BYTES: Final = 64 * 1024 * 1024

# docker's links go straight to a file.
MAX_LINKS: Final = 8


class TarFiles:
    """The regular files of the uncompressed tar archive in `file`, which stays the caller's.

    Raises `Failure` if it is not such an archive, is cut short, or is not to be trusted.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        try:
            self._scan()
        except (tarfile.TarError, ValueError, EOFError, OverflowError, IndexError) as error:
            raise Failure(
                f"SOURCE is not a tar archive, or is damaged: {error}",
                hint="if it was copied or downloaded, compare its size with the original's",
            ) from None

    def size(self, name: str) -> int | None:
        """As `Files.size`."""
        place = self._files.get(self._follow(name))
        return place[1] if place else None

    @contextmanager
    def open(self, name: str) -> Iterator[Content]:
        """As `Files.open`."""
        place = self._files.get(self._follow(name))
        if place is None:
            raise Failure(f"SOURCE has no member {shown(name)}")
        yield Content(self._file, *place)

    def _scan(self) -> None:
        self._file.seek(0)
        headers = _Headers(self._file)
        with tarfile.open(fileobj=headers, mode="r:") as archive:
            while (member := archive.next()) is not None:
                if len(self._files) + len(self._links) >= MAX_MEMBERS:
                    raise Failure(f"SOURCE has more than {MAX_MEMBERS} members")
                self._take(member)
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all; we have kept what we need

    def _take(self, member: tarfile.TarInfo) -> None:
        if member.size < 0:
            raise Failure(f"SOURCE is damaged: {shown(member.name)} has a negative size")
        if member.isdir():
            return
        name = _inside(member.name)
        if name in self._files or name in self._links:
            raise Failure(f"SOURCE has two members called {shown(name)}")
        if member.issym():
            self._links[name] = posixpath.join(posixpath.dirname(name), member.linkname)
        elif member.islnk():
            self._links[name] = member.linkname
        elif member.isreg() and member.sparse is None:
            self._files[name] = member.offset_data, member.size
        else:
            raise Failure(f"SOURCE has a member {shown(name)} that is not a plain file")

    def _follow(self, name: str) -> str:
        name = _inside(name)
        for _ in range(MAX_LINKS):
            if name not in self._links:
                return name
            name = _inside(self._links[name])
        raise Failure(f"SOURCE has links that run in circles: {shown(name)}")


def _inside(name: str) -> str:
    """The name in its normal form; raise `Failure` if it leads out of the archive."""
    normal = posixpath.normpath(name)
    if normal.startswith(("/", "../")) or normal in ("..", "."):
        raise Failure(f"SOURCE has a member {shown(name)} that points outside of the archive")
    return normal


class _Headers(io.RawIOBase):
    """The archive as tarfile may see it while it reads headers: it skips all content by seeking,
    so reading much means that a header claims to be huge.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._left:
            raise Failure("SOURCE is damaged: a header in it is larger than any that is real")
        self._left -= size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
