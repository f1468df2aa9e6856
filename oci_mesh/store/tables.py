"""One connection to a store's database, and how it is asked."""

import sqlite3
from typing import Any

from oci_mesh.store.files import storage_error


class Tables:
    """What `Upkeep` and `Metadata` have in common. Of one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.dropped: set[str] = set()
        """Digests that no repository has any more: their files are to go."""
        self.condemned: set[str] = set()
        """Those of them whose files are damaged, and are to be kept for a look."""

    def _row(self, sql: str, arguments: tuple[object, ...]) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self.connection.execute(sql, arguments).fetchone()
        except sqlite3.Error as error:
            raise storage_error(error) from error
        return row

    def _rows(
        self, sql: str, arguments: tuple[object, ...] | dict[str, object]
    ) -> list[tuple[Any, ...]]:
        try:
            return self.connection.execute(sql, arguments).fetchall()
        except sqlite3.Error as error:
            raise storage_error(error) from error

    def _change(self, sql: str, arguments: tuple[object, ...] | dict[str, object]) -> int:
        return self.connection.execute(sql, arguments).rowcount

    def _drop_if_unused(self, digest: str) -> bool:
        """Forget a content that no repository has any more; return whether that was so."""
        removed = self._change(
            "DELETE FROM content WHERE digest = :digest "
            "AND NOT EXISTS (SELECT 1 FROM blobs WHERE digest = :digest) "
            "AND NOT EXISTS (SELECT 1 FROM manifests WHERE digest = :digest)",
            {"digest": digest},
        )
        if removed:
            self.dropped.add(digest)
        return bool(removed)

    def _own(self, digest: str) -> tuple[str, ...]:
        """The mesh's own repositories that have a content, in order."""
        rows = self._rows(
            "SELECT repository FROM blobs WHERE digest = :digest AND instr(repository, '@') = 0 "
            "UNION SELECT repository FROM manifests "
            "WHERE digest = :digest AND instr(repository, '@') = 0 ORDER BY 1",
            {"digest": digest},
        )
        return tuple(repository for (repository,) in rows)
