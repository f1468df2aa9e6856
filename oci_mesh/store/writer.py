"""The one thread that changes a store: group commit.

Whatever waits is taken together: one transaction, in which each write has its own savepoint; then
one fsync of the directory for all files that got their names; then one COMMIT. A push thereby
costs a share of two disk flushes, and costs less the more of them there are.

    BEGIN → (change, rename) for each → fsync directory → COMMIT → answers → unlink what is unused

A name exists before its row and outlives it, never the other way round, so a crash between any two
steps leaves at most files without rows; `recovery` removes these. If the directory's fsync or the
COMMIT fails, the whole group fails and its files go; the next group starts afresh.
"""

import asyncio
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from oci_mesh.errors import OciError
from oci_mesh.spec.digest import Digest
from oci_mesh.store.files import Files, storage_error
from oci_mesh.store.layout import Layout
from oci_mesh.store.metadata import Metadata

_log = logging.getLogger(__name__)

# More writes than this do not share a flush noticeably better, and the first of them waits for all.
MAX_GROUP: Final = 256


class NewFile(NamedTuple):
    """A synced file that becomes a blob: where it is, and what it was verified to be.

    From `Writer.submit` on it is the writer's: published, or removed.
    """

    path: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Write:
    """One change and who waits for its result (nobody, if `done` is None)."""

    change: Callable[[Metadata], Any]
    done: asyncio.Future[Any] | None = None
    file: NewFile | None = None
    frees: bool = False
    """Whether who waits wants to hear of it only when what became unused is gone."""

    def resolve(self, outcome: object) -> None:
        """Tell who waits; from any thread. An `Exception` is raised there."""
        if self.done is not None:
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self.done.get_loop().call_soon_threadsafe(_resolve, self.done, outcome)


class Writer:
    """Runs from `start` to `stop`; both are called once, `stop` waits for what was submitted."""

    def __init__(self, metadata: Metadata, layout: Layout, files: Files) -> None:
        self._metadata = metadata
        self._layout = layout
        self._files = files
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        # A daemon, as is the whole design: to die at any moment is safe.
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, write: Write) -> None:
        """Queue a write; from any thread."""
        self._queue.put(write)

    def stop(self) -> None:
        """Finish what was submitted and end. Blocks."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            self._process(group)

    def _next_group(self) -> list[Write]:
        """What waits, at least one; empty at the end."""
        group: list[Write] = []
        while not group or (len(group) < MAX_GROUP and not self._queue.empty()):
            write = self._queue.get()
            if write is None:
                self._queue.put(None)  # for the next call
                break
            group.append(write)
        return group

    def _process(self, group: Sequence[Write]) -> None:
        """Do a group and answer it."""
        named: set[str] = set()
        try:
            outcomes = self._commit(group, named)
        except Exception as error:  # noqa: BLE001 -- a dead writer would let all wait for ever
            self._roll_back()
            outcomes = _failures(error, len(group))
            self._remove_unused(named)
        for write, outcome in zip(group, outcomes, strict=True):
            if write.file is not None and isinstance(outcome, Exception):
                self._unlink(write.file.path)
            if not write.frees:
                write.resolve(outcome)
        self._remove_unused(self._metadata.dropped)
        self._metadata.dropped.clear()
        self._metadata.condemned.clear()
        for write, outcome in zip(group, outcomes, strict=True):
            if write.frees:
                write.resolve(outcome)

    def _commit(self, group: Sequence[Write], named: set[str]) -> list[object]:
        """The outcomes of a group, then durable; `named` gets the digests that have a new file."""
        connection = self._metadata.connection
        connection.execute("BEGIN IMMEDIATE")
        outcomes = [self._apply(write, named) for write in group]
        for algorithm in sorted({Digest.parse(digest).algorithm for digest in named}):
            self._files.sync_directory(self._layout.blobs(algorithm))
        self._files.commit(connection)
        return outcomes

    def _apply(self, write: Write, named: set[str]) -> object:
        connection = self._metadata.connection
        connection.execute("SAVEPOINT write")
        try:
            outcome: object = write.change(self._metadata)
            if write.file is not None:
                self._files.publish(write.file.path, self._layout.blob(write.file.digest))
                named.add(str(write.file.digest))
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 -- a fault of ours too is its caller's alone
            connection.execute("ROLLBACK TO write")
            outcome = storage_error(error) if isinstance(error, OSError) else error
        connection.execute("RELEASE write")
        return outcome

    def _roll_back(self) -> None:
        try:
            if self._metadata.connection.in_transaction:
                self._metadata.connection.execute("ROLLBACK")
        except sqlite3.Error as error:  # then the next BEGIN fails, and comes here again
            _log.error("cannot roll back: %s", error)

    def _remove_unused(self, digests: set[str]) -> None:
        for digest in digests:
            try:
                unused = not self._metadata.has_content(digest)
            except OciError as error:  # logged where it was made
                _log.error("cannot tell whether %s is in use: %s", digest, error)
                continue
            if unused and digest in self._metadata.condemned:
                self._set_aside(Digest.parse(digest))
            elif unused:
                self._unlink(self._layout.blob(Digest.parse(digest)))

    def _set_aside(self, digest: Digest) -> None:
        try:
            self._files.publish(self._layout.blob(digest), self._layout.condemned(digest))
        except FileNotFoundError:  # that it was missing was the damage: nothing to keep, but when
            self._mark(self._layout.condemned(digest))
        except OSError as error:
            _log.error("cannot keep the damaged %s: %s", digest, error)
            self._unlink(self._layout.blob(digest))

    def _mark(self, path: str) -> None:
        """Put an empty file there, unless there is one."""
        try:
            os.close(self._files.create(path))
        except FileExistsError:
            return
        except OSError as error:
            _log.error("cannot make %s: %s", path, error)

    def _unlink(self, path: str) -> None:
        try:
            self._files.unlink(path)
        except OSError as error:  # the next start tries again
            _log.error("cannot remove %s: %s", path, error)


def _failures(error: Exception, count: int) -> list[object]:
    """What a group's callers get, one each, for they are raised apart."""
    if not isinstance(error, OSError | sqlite3.Error):
        return [error] * count  # a fault of ours
    failure = storage_error(error)
    return [type(failure)(failure.message) for _ in range(count)]


def _resolve(done: asyncio.Future[Any], outcome: object) -> None:
    if done.done():  # its caller went away
        return
    if isinstance(outcome, Exception):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)
