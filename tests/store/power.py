"""What a power cut would leave: a stand-in for `Files` that takes pictures.

Before each durable step, and after it, it copies the root as a power cut at this moment could leave
it, under each of the four combinations of what a file system may lose:

    bytes that were written but not synced   kept, or lost (the file ends before them)
    names whose directory was not synced     kept, or lost (renames and removals undone)

SQLite's own files are copied as they are: what SQLite does about its log is SQLite's to test. The
operations under test are run one after another, so that nobody writes while a picture is taken.
"""

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from oci_mesh.store.files import Files
from oci_mesh.store.layout import is_upload_name


@dataclass(frozen=True)
class Change:
    """A change of names that a power cut may undo. `had` is what `path` was before, if it was."""

    path: Path
    had: bytes | None
    source: Path | None = None


class PowerFiles(Files):
    """Calls `picture` with a directory and a label; the directory is gone afterwards.

    What `picture` raises is kept in `errors`: it is called in the store's threads.
    """

    def __init__(self, root: Path, scratch: Path, picture: Callable[[Path, str], None]) -> None:
        self.root = root
        self.scratch = scratch
        self.picture = picture
        self.synced: dict[int, int] = {}  # bytes of an inode that are durable
        self.changes: list[Change] = []  # names that are not durable yet, oldest first
        self.errors: list[str] = []  # what went wrong with pictures
        self.steps = 0
        # One step at a time: what follows an answer (the removal of unused files) is done while
        # the next operation begins.
        self.lock = threading.RLock()

    # -- the durable steps

    def create(self, path: str) -> int:
        """As `Files.create`."""
        with self.lock:
            fd = super().create(path)
            self.synced[os.fstat(fd).st_ino] = 0
            self.changes.append(Change(Path(path), None))
            return fd

    def sync(self, fd: int) -> None:
        """As `Files.sync`."""
        with self.lock:
            self.step("before the file is synced")
            super().sync(fd)
            state = os.fstat(fd)
            self.synced[state.st_ino] = state.st_size
            self.step("after the file was synced")

    def publish(self, source: str, target: str) -> None:
        """As `Files.publish`."""
        with self.lock:
            had = Path(target).read_bytes() if os.path.exists(target) else None
            super().publish(source, target)
            self.changes.append(Change(Path(target), had, Path(source)))
            self.step("after the rename")

    def sync_directory(self, path: str) -> None:
        """As `Files.sync_directory`."""
        with self.lock:
            super().sync_directory(path)
            self.changes = [change for change in self.changes if change.path.parent != Path(path)]
            self.step("after the directory was synced")

    def commit(self, connection: sqlite3.Connection) -> None:
        """As `Files.commit`."""
        with self.lock:
            self.step("before the commit")
            super().commit(connection)
            self.step("after the commit")

    def unlink(self, path: str) -> None:
        """As `Files.unlink`."""
        with self.lock:
            had = Path(path).read_bytes() if os.path.exists(path) else None
            super().unlink(path)
            if had is not None:
                self.changes.append(Change(Path(path), had))
            self.step("after the removal")

    # -- the pictures

    def losses(self) -> Iterable[tuple[bool, bool]]:
        """Which pictures to take of this step: each says whether bytes and names are lost."""
        return product((False, True), (False, True))

    def step(self, label: str) -> None:
        """Take the pictures of this moment."""
        self.steps += 1
        for lose_bytes, lose_names in self.losses():
            copy = self.scratch / "picture"
            self._copy(copy, lose_bytes=lose_bytes)
            if lose_names:
                for change in reversed(self.changes):
                    self._undo(copy, change)
            lost = " and ".join(["bytes"] * lose_bytes + ["names"] * lose_names) or "nothing"
            moment = f"step {self.steps}, {label}, {lost} lost"
            try:
                self.picture(copy, moment)
            except Exception as error:  # noqa: BLE001 -- shown by the test, not lost in a thread
                self.errors.append(f"{moment}: {error!r}")
            shutil.rmtree(copy)

    def _copy(self, copy: Path, *, lose_bytes: bool) -> None:
        shutil.copytree(self.root, copy)
        if not lose_bytes:
            return
        for path in [*self.root.glob("blobs/*/*"), *self.root.glob("uploads/*")]:
            durable = self.synced.get(path.stat().st_ino)
            if durable is not None:
                os.truncate(copy / path.relative_to(self.root), durable)

    def _undo(self, copy: Path, change: Change) -> None:
        path = copy / change.path.relative_to(self.root)
        if change.source is not None and path.exists():
            source = copy / change.source.relative_to(self.root)
            if not source.exists():  # another file may have that name by now, and keeps it
                path.rename(source)
        path.unlink(missing_ok=True)
        if change.had is not None:
            path.write_bytes(change.had)


@contextmanager
def quick_directory() -> Iterator[Path]:
    """A directory in memory, if there is such a thing: these tests cut the power by themselves."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with TemporaryDirectory(prefix="oci-mesh-test-", dir=place) as name:
        yield Path(name)


def unowned(root: Path) -> set[str]:
    """Files that no row names (of a store that is closed)."""
    connection = sqlite3.connect(root / "metadata.sqlite")
    owned = {digest for (digest,) in connection.execute("SELECT digest FROM content")}
    connection.close()
    present = {f"{path.parent.name}:{path.name}" for path in root.glob("blobs/*/*")}
    halves = {path.name for path in root.glob("uploads/*") if not is_upload_name(path.name)}
    return (present ^ owned) | halves
