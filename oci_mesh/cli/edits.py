"""Changes to files of this machine that other people own as well: shown first, made whole or not at
all, and taken back to the byte.

What a file was before its first change is kept in a ledger, one for each runtime, together with
what we made of it. A file that somebody changed since is not ours to put back: undoing says its
name and stops. Files are replaced by renaming, with their owner and mode.

What this does not do: lock out an editor that has the file open, or make the change of several
files one step. If one fails the others are put back; after a crash in between, `undo` knows both
states of each file.
"""

import difflib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec

from oci_mesh.cli.failure import Failure

# The configurations of container runtimes are some kilobytes; what is larger is something else.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024

# Where ledgers are, one for each runtime. They hold whole configurations, secrets in them too.
LEDGERS: Final = "/etc/oci-mesh/undo"
_LEDGER_MODE: Final = 0o600

_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755


class Entry(msgspec.Struct):
    """One changed file."""

    path: str
    before: bytes | None
    """What was in it; None if there was no file."""
    mode: int
    written: list[str]
    """The SHA-256 of each content that we gave it."""


class Ledger(msgspec.Struct):
    """What was changed for one runtime."""

    files: list[Entry] = []
    directories: list[str] = []
    """Those that we made, each after the one that it is in."""

    def entry(self, path: str) -> Entry | None:
        """What is known of a file."""
        return next((entry for entry in self.files if entry.path == path), None)


class Machine:
    """The files of this machine, or of one whose root directory is mounted at `root`.

    Paths are as they are on that machine. Raises `Failure` for what cannot be read or written.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.realpath(root))

    def read(self, path: str) -> bytes | None:
        """What is in a file; None if there is none."""
        place = self._place(path)
        try:
            with place.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Failure(f"cannot read {path}: {error.strerror}", hint=_hint(error)) from None
        if len(content) > MAX_FILE_BYTES:
            raise Failure(f"{path} is larger than {MAX_FILE_BYTES} bytes: no configuration is")
        return content

    def text(self, path: str) -> str | None:
        """Likewise, decoded."""
        content = self.read(path)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError:
            raise Failure(f"{path} is not UTF-8: no program could read it either") from None

    def names(self, directory: str) -> list[str]:
        """What is in a directory, in order; nothing if it is not there."""
        try:
            return sorted(entry.name for entry in self._place(directory).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise Failure(f"cannot read {directory}: {error.strerror}", hint=_hint(error)) from None

    def glob(self, pattern: str) -> list[str]:
        """The paths that match a pattern, in order."""
        if not pattern.startswith("/"):
            return []
        found = self._root.glob(pattern.lstrip("/"))
        return sorted(f"/{path.relative_to(self._root)}" for path in found)

    def write(self, path: str, content: bytes, mode: int | None = None) -> None:
        """Replace a file, or make it, durably. Its directory has to be there."""
        place = self._place(path)
        try:
            before = place.stat() if place.exists() else None
            if mode is None:
                mode = _FILE_MODE if before is None else stat.S_IMODE(before.st_mode)
            with _fresh(place) as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                if before is not None:
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fsync(file.fileno())
                os.rename(file.name, place)
            _sync(place.parent)
        except OSError as error:
            raise Failure(f"cannot write {path}: {error.strerror}", hint=_hint(error)) from None

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        place = self._place(path)
        try:
            place.unlink(missing_ok=True)
            if place.parent.is_dir():
                _sync(place.parent)
        except OSError as error:
            raise Failure(f"cannot remove {path}: {error.strerror}", hint=_hint(error)) from None

    def make_directories(self, path: str) -> list[str]:
        """Make the directory of a file, and those above; return which were not there."""
        missing = [p for p in Path(path).parents if not self._place(str(p)).is_dir()]
        made: list[str] = []
        for directory in reversed(missing):
            try:
                self._place(str(directory)).mkdir()
                self._place(str(directory)).chmod(_DIRECTORY_MODE)  # whatever the umask
            except OSError as error:
                self.remove_directories(made)
                raise Failure(
                    f"cannot make {directory}: {error.strerror}", hint=_hint(error)
                ) from None
            made.append(str(directory))
        return made

    def remove_directories(self, paths: list[str]) -> None:
        """Remove these, the last first, as far as they are empty."""
        for path in reversed(paths):
            with suppress(OSError):
                self._place(path).rmdir()

    def mode(self, path: str) -> int:
        """Of a file that is there; of a new one if it is not."""
        place = self._place(path)
        return stat.S_IMODE(place.stat().st_mode) if place.exists() else _FILE_MODE

    def _place(self, path: str) -> Path:
        """Where a path of that machine is here, symbolic links followed."""
        place = Path(os.path.realpath(self._root / path.lstrip("/")))
        if not place.is_relative_to(self._root):
            raise Failure(f"{path} is a link that leads out of {self._root}")
        return place


Edits = Mapping[str, bytes]
"""What files are to contain, by path."""


def difference(machine: Machine, edits: Edits) -> str:
    """What would change, as `diff -u` shows it; empty if nothing."""
    return "".join(_difference(machine, edits))


def _difference(machine: Machine, edits: Edits) -> Iterator[str]:
    for path, content in edits.items():
        before = machine.text(path)
        old, new = (before or "").splitlines(keepends=True), content.decode().splitlines(True)
        origin = "/dev/null" if before is None else path
        for line in difflib.unified_diff(old, new, origin, path):
            yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def apply(machine: Machine, runtime: str, edits: Edits) -> list[str]:
    """Make the changes, all or none; return the paths of the files that changed."""
    current = {path: machine.read(path) for path in edits}
    changed = [path for path, content in edits.items() if content != current[path]]
    if not changed:
        return []
    ledger_path = _ledger_path(runtime)
    before = machine.read(ledger_path)
    ledger = _load(machine, runtime)
    for path in changed:
        _enter(machine, ledger, path, current[path], edits[path])
    made: list[str] = []
    try:
        for path in (ledger_path, *changed):
            made += machine.make_directories(path)
        ledger.directories += made
        machine.write(ledger_path, msgspec.json.encode(ledger), _LEDGER_MODE)
        for path in changed:
            machine.write(path, edits[path])
    except BaseException:
        for path in changed:
            if machine.read(path) != current[path]:
                _put(machine, path, current[path])
        _put(machine, ledger_path, before)
        machine.remove_directories(made)
        raise
    return changed


def undo(machine: Machine, runtime: str, *, skip_changed: bool = False) -> list[str]:
    """Put back what was there before all changes; return the paths of the files that changed.

    Files that somebody changed since are left as they are with `skip_changed`; without it nothing
    is put back if there is one. May be called again after it failed.
    """
    ledger = _load(machine, runtime)
    ours: list[Entry] = []
    theirs: list[Entry] = []
    for entry in ledger.files:
        current = machine.read(entry.path)
        if current == entry.before:
            continue
        is_ours = current is not None and _hash(current) in entry.written
        (ours if is_ours else theirs).append(entry)
    if theirs and not skip_changed:
        names = ", ".join(entry.path for entry in theirs)
        raise Failure(
            f"somebody changed {names} since; nothing is undone",
            hint="take out by hand what is ours (`show` tells), then run this with --skip-changed",
        )
    for entry in ours:
        _put(machine, entry.path, entry.before, entry.mode)
    machine.remove(_ledger_path(runtime))
    machine.remove_directories(ledger.directories)
    return [entry.path for entry in ours]


def can_undo(machine: Machine, runtime: str) -> list[str]:
    """The paths of the files that were changed, and not put back."""
    return [entry.path for entry in _load(machine, runtime).files]


def _enter(machine: Machine, ledger: Ledger, path: str, current: bytes | None, new: bytes) -> None:
    entry = ledger.entry(path)
    if entry is None:
        entry = Entry(path, current, machine.mode(path), [])
        ledger.files.append(entry)
    elif current != entry.before and (current is None or _hash(current) not in entry.written):
        return  # somebody changed it: with that in it, it is not to be put back any more
    entry.written.append(_hash(new))


def _put(machine: Machine, path: str, content: bytes | None, mode: int | None = None) -> None:
    if content is None:
        machine.remove(path)
    else:
        machine.write(path, content, mode)


def _load(machine: Machine, runtime: str) -> Ledger:
    path = _ledger_path(runtime)
    content = machine.read(path)
    if content is None:
        return Ledger()
    try:
        return msgspec.json.decode(content, type=Ledger)
    except msgspec.MsgspecError as error:
        raise Failure(f"{path}, which knows what to undo, is damaged: {error}") from None


def _ledger_path(runtime: str) -> str:
    return f"{LEDGERS}/{runtime}.json"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _fresh(place: Path) -> Iterator[BinaryIO]:
    """A new file beside `place`, which is gone if the block fails."""
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".oci-mesh-", delete=False) as file:
        try:
            yield cast("BinaryIO", file)
        except BaseException:
            os.unlink(file.name)
            raise


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hint(error: OSError) -> str:
    return "run it as root" if isinstance(error, PermissionError) else ""
