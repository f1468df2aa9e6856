"""The database of a store: its tables, their versions, and how it is opened.

`content` is a file under `blobs/`, there as long as a row of `blobs` or `manifests` names it. It is
`own` if one of these is of a repository of this mesh itself (`spec/scope.py`), else it is cache.
`own` and `totals` are kept by triggers, so that `usage` costs one row, and the cache is found
without a look at the rest. Digests are text: ids would save some bytes per row and cost a join per
question.
"""

import os
import sqlite3
from typing import Final

from oci_mesh.errors import StoreCorrupt, StoreError
from oci_mesh.store.files import FILE_MODE

# How long one connection waits for another's lock. In WAL mode readers and the writer do not wait
# for each other; only the moments of opening and closing can collide.
_LOCK_TIMEOUT_S: Final = 5.0

# The log is cut to this size after a checkpoint; without it, it stays as large as it ever was.
_WAL_LIMIT_BYTES: Final = 16 * 1024 * 1024

# After a row of one of the mesh's own repositories came or went.
_OWN_CHANGED: Final = """
    CREATE TRIGGER {table}_own_{event}
    AFTER {event} ON {table} WHEN instr({row}.repository, '@') = 0 BEGIN
        UPDATE content SET own = (
            EXISTS (SELECT 1 FROM blobs
                WHERE digest = {row}.digest AND instr(repository, '@') = 0)
            OR EXISTS (SELECT 1 FROM manifests
                WHERE digest = {row}.digest AND instr(repository, '@') = 0)
        ) WHERE digest = {row}.digest;
    END;
"""

# Each entry takes a database from version i to i + 1 (PRAGMA user_version). Never edit one that
# was released: add another.
MIGRATIONS: Final = (
    """
    CREATE TABLE content (
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, accessed INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE blobs (
        repository TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (repository, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX blobs_by_digest ON blobs (digest);
    CREATE TABLE manifests (
        repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
        subject TEXT, descriptor BLOB, PRIMARY KEY (repository, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX manifests_by_digest ON manifests (digest);
    CREATE INDEX manifests_by_subject ON manifests (repository, subject, digest)
        WHERE subject IS NOT NULL;
    CREATE TABLE names (
        repository TEXT NOT NULL, name TEXT NOT NULL, target TEXT, stamp TEXT NOT NULL,
        PRIMARY KEY (repository, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX names_by_target ON names (repository, target) WHERE target IS NOT NULL;
    CREATE TABLE totals (blobs INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
    INSERT INTO totals VALUES (0, 0);
    CREATE TRIGGER content_added AFTER INSERT ON content BEGIN
        UPDATE totals SET blobs = blobs + 1, bytes = bytes + new.size;
    END;
    CREATE TRIGGER content_removed AFTER DELETE ON content BEGIN
        UPDATE totals SET blobs = blobs - 1, bytes = bytes - old.size;
    END;
    """,
    # What came before there were mirrored repositories is all the mesh's own.
    """
    ALTER TABLE content ADD COLUMN own INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE totals ADD COLUMN cached INTEGER NOT NULL DEFAULT 0;
    UPDATE content SET own = 1;
    CREATE INDEX content_by_access ON content (own, accessed, digest);
    DROP TRIGGER content_added;
    DROP TRIGGER content_removed;
    CREATE TRIGGER content_added AFTER INSERT ON content BEGIN
        UPDATE totals SET blobs = blobs + 1, bytes = bytes + new.size,
            cached = cached + iif(new.own, 0, new.size);
    END;
    CREATE TRIGGER content_removed AFTER DELETE ON content BEGIN
        UPDATE totals SET blobs = blobs - 1, bytes = bytes - old.size,
            cached = cached - iif(old.own, 0, old.size);
    END;
    CREATE TRIGGER content_owned AFTER UPDATE OF own ON content WHEN new.own <> old.own BEGIN
        UPDATE totals SET cached = cached + iif(new.own, -new.size, new.size);
    END;
    """
    + "".join(
        _OWN_CHANGED.format(table=table, event=event, row=row)
        for table in ("blobs", "manifests")
        for event, row in (("INSERT", "new"), ("DELETE", "old"))
    )
    + """
    CREATE TABLE resolutions (
        repository TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, checked_at REAL NOT NULL,
        PRIMARY KEY (repository, tag)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX resolutions_by_check ON resolutions (checked_at);
    """,
    # What manifests name that are here already is read from them when the store is opened.
    """
    CREATE TABLE refs (
        repository TEXT NOT NULL, manifest TEXT NOT NULL, digest TEXT NOT NULL,
        kind INTEGER NOT NULL, PRIMARY KEY (repository, manifest, digest, kind)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX refs_by_digest ON refs (repository, digest);
    """,
)


def connect(path: str) -> sqlite3.Connection:
    """Open the database, create it, or bring it to this release's version.

    Raises `StoreCorrupt` if it is damaged, `StoreError` if a later release made it or the disk
    does not let it be opened.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE))
    try:
        connection = _open(path)
        try:
            _check(connection, path)
            _migrate(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError as error:
        raise StoreError(f"cannot open {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(_damaged(path, str(error))) from error
    return connection


def connect_reader(path: str) -> sqlite3.Connection:
    """A second connection to a database that `connect` has opened; it cannot write."""
    connection = _open(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _open(path: str) -> sqlite3.Connection:
    # Transactions are begun and ended by us alone (isolation_level). A connection is used by one
    # thread at a time, not always by the one that opened it.
    connection = sqlite3.connect(
        path, timeout=_LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: str) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreCorrupt(_damaged(path, " ".join(verdict.split())))


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{path} has version {version}, this release knows {len(MIGRATIONS)}: "
            "a later release wrote it; run that one"
        )
    for done, script in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN; {script} PRAGMA user_version = {done}; COMMIT;")


def _damaged(path: str, why: str) -> str:
    return (
        f"{path} is damaged ({why}). The content under blobs/ is untouched. Restore the file from "
        "a copy, or move the whole root directory away to begin with an empty store"
    )
