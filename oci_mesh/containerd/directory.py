"""Where things are in containerd's content store, and how they are opened: only to be read, and
never through a symbolic link, or as anything but a plain file.

    <root>/io.containerd.content.v1.content/
        blobs/<algorithm>/<hex>   what was committed; containerd verified it then
        ingest/<hash>/ref         what is downloaded there: `k8s.io/1/layer-sha256:<hex>`
        ingest/<hash>/data        as far as it has come; a commit moves it to `blobs/`

(The same in containerd 1.6 to 2.x: `content/local`.) `<hash>` is that of the ref: the same name
always stands for the same download. Everything here raises `OSError`, and blocks for as long as the
disk does.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from oci_mesh.errors import DigestInvalid
from oci_mesh.spec.digest import HEX_LENGTH, Digest

CONTENT: Final = "io.containerd.content.v1.content"

# A ref is a namespace, a number and a digest; containerd's longest is far below.
MAX_REF_BYTES: Final = 1024

# Downloads at a time are few, but what is left of broken ones stays for a day.
MAX_INGESTS: Final = 4096

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

# containerd's `MakeRefKey`: what it is for (`layer-`, `config-` and so on), and the digest.
_REF: Final = re.compile(r"(?:.*/)?[^/:]*-((?:sha256|sha512):[0-9a-f]+)\s*", re.ASCII)


class Found(NamedTuple):
    """A file in `blobs/`, as it is listed."""

    digest: Digest
    size: int
    mtime_ns: int


class ContentDirectory:
    """The content store under containerd's `root` directory. It need not be there (yet)."""

    def __init__(self, root: Path) -> None:
        self.root = os.fspath(root)
        self.path = os.fspath(root / CONTENT)
        self._refs: dict[str, Digest] = {}

    def watched(self) -> list[str]:
        """The directories in which blobs, or directories for them, come to be.

        containerd makes them when it first needs them: at its first commit, or its first question.
        """
        if not self.is_there():
            return [self.root]
        blobs = f"{self.path}/blobs"
        inner = [blobs, *(f"{blobs}/{algorithm}" for algorithm in HEX_LENGTH)]
        return [self.path, *(path for path in inner if os.path.isdir(path))]

    def is_there(self) -> bool:
        """Whether containerd has made it yet."""
        return os.path.isdir(self.path)

    def blobs(self) -> Iterator[Found]:
        """Every plain file with the name of a digest; in no order."""
        for algorithm in HEX_LENGTH:
            try:
                fd = _open_beneath(self.path, "blobs", algorithm, flags=_DIRECTORY)
            except FileNotFoundError:
                continue
            try:
                with os.scandir(fd) as entries:
                    yield from _listed(algorithm, entries)
            finally:
                os.close(fd)

    def open_blob(self, digest: Digest) -> int:
        """A descriptor of a committed blob."""
        return _open_file(self.path, "blobs", digest.algorithm, digest.hex)

    def document(self, digest: Digest, most: int) -> bytes | None:
        """A committed blob that may be JSON, of up to `most` bytes; None if it is gone, or not."""
        try:
            fd = self.open_blob(digest)
        except FileNotFoundError:
            return None
        with open(fd, "rb", buffering=0) as file:
            size = _size(fd)
            if size > most or file.read(1) != b"{":
                return None
            return b"{" + file.read(size)

    def open_ingest(self, digest: Digest) -> int | None:
        """A descriptor of what has come of a blob, where several download it: of the longest.

        None if nobody does.
        """
        longest: int | None = None
        for name in self._ingests(digest):
            try:
                fd = _open_file(self.path, "ingest", name, "data")
            except OSError:  # not begun, or just committed
                continue
            if longest is None:
                longest = fd
            else:
                longest, shorter = sorted((longest, fd), key=_size, reverse=True)
                os.close(shorter)
        return longest

    def _ingests(self, digest: Digest) -> list[str]:
        """The names of the downloads of a blob. What a name stands for is read only once."""
        try:
            fd = _open_beneath(self.path, "ingest", flags=_DIRECTORY)
        except OSError:  # containerd makes it with its first download
            return []
        try:
            names = os.listdir(fd)[:MAX_INGESTS]
        finally:
            os.close(fd)
        known, self._refs = self._refs, {}
        for name in names:
            target = known.get(name) or self._target(name)
            if target is not None:
                self._refs[name] = target
        return [name for name, target in self._refs.items() if target == digest]

    def _target(self, name: str) -> Digest | None:
        """What the download called `name` is of; None if that cannot be told (yet)."""
        try:
            fd = _open_file(self.path, "ingest", name, "ref")
        except OSError:
            return None
        try:
            return parse_ref(os.read(fd, MAX_REF_BYTES).decode(errors="replace"))
        finally:
            os.close(fd)


def parse_ref(ref: str) -> Digest | None:
    """The digest in containerd's name for a download; None if there is none."""
    found = _REF.fullmatch(ref)
    try:
        return None if found is None else Digest.parse(found[1])
    except DigestInvalid:
        return None


def _listed(algorithm: str, entries: Iterator[os.DirEntry[str]]) -> Iterator[Found]:
    for entry in entries:
        try:
            digest = Digest.parse(f"{algorithm}:{entry.name}")
            status = entry.stat(follow_symlinks=False)
        except (DigestInvalid, FileNotFoundError):
            continue
        if stat.S_ISREG(status.st_mode):
            yield Found(digest, status.st_size, status.st_mtime_ns)


def _size(fd: int) -> int:
    return os.fstat(fd).st_size


def _open_file(base: str, *steps: str) -> int:
    fd = _open_beneath(base, *steps, flags=_FILE)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file", "/".join((base, *steps)))
    return fd


def _open_beneath(base: str, *steps: str, flags: int) -> int:
    """Open `base/steps…`; a symbolic link in `steps` is an error (`base` is the operator's)."""
    fd = os.open(base, _DIRECTORY)
    try:
        for step in steps[:-1]:
            inner = os.open(step, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        return os.open(steps[-1], flags | os.O_NOFOLLOW, dir_fd=fd)
    finally:
        os.close(fd)
