"""What belongs to which repository: questions and changes, as SQL.

A `Metadata` is one connection: the event loop asks through its own (a question takes some 10 µs,
less than a thread hop), the writer's thread changes through another. What it does not do: begin or
end transactions (`writer` does), or touch files: digests whose last row went are left in `dropped`.

Every question is asked in the name of a repository. Raises `OciError`s where `Store` says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from oci_mesh.errors import (
    BlobUnknown,
    ManifestUnknown,
    NameUnknown,
    OciError,
)
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest
from oci_mesh.spec.names import NameRecord
from oci_mesh.store.base import MAX_RESOLUTIONS, Content, Resolution
from oci_mesh.store.names import missing_error, revive, supersedes, unknown_text
from oci_mesh.store.upkeep import Upkeep

_decode_descriptor: Final = msgspec.json.Decoder(Descriptor).decode

_LIVE_TAG: Final = "target IS NOT NULL AND instr(name, ':') = 0"

# The next repository after a name, from three indexes; a whole page of them in one statement.
_NEXT_REPOSITORY: Final = f"""
    SELECT min(repository) FROM (
        SELECT min(repository) AS repository FROM blobs WHERE repository > {{after}}
        UNION ALL SELECT min(repository) FROM manifests WHERE repository > {{after}}
        UNION ALL SELECT * FROM (SELECT repository FROM names
            WHERE repository > {{after}} AND {_LIVE_TAG} ORDER BY repository LIMIT 1))
"""
_REPOSITORIES: Final = f"""
    WITH RECURSIVE page (repository) AS (
        SELECT ({_NEXT_REPOSITORY.format(after=":last")})
        UNION ALL
        SELECT ({_NEXT_REPOSITORY.format(after="page.repository")}) FROM page
        WHERE page.repository IS NOT NULL
    ) SELECT repository FROM page WHERE repository IS NOT NULL LIMIT :n
"""

# In order of use; `own` is the first column of the index that this goes along.
_COLDEST: Final = """
    SELECT digest, size, accessed, EXISTS (
        SELECT 1 FROM manifests WHERE manifests.digest = content.digest), own
    FROM content WHERE own = {own} AND (accessed, digest) > (:accessed, :digest)
    ORDER BY accessed, digest LIMIT :n
"""
_COLDEST_CACHED: Final = _COLDEST.format(own=0)
_COLDEST_OF_ALL: Final = f"""
    SELECT * FROM ({_COLDEST_CACHED}) UNION ALL SELECT * FROM ({_COLDEST.format(own=1)})
    ORDER BY 3, 1 LIMIT :n
"""


class Metadata(Upkeep):
    """The tables of `schema`, seen through one connection."""

    # -- questions

    def blob_size(self, repository: str, digest: Digest) -> int:
        """The size of a blob of `repository`, or `BlobUnknown`."""
        row = self._row(
            "SELECT size FROM blobs JOIN content USING (digest) "
            "WHERE repository = ? AND digest = ?",
            (repository, str(digest)),
        )
        if row is None:
            raise BlobUnknown(unknown_text(repository, digest))
        return int(row[0])

    def blob_repository(self, digest: Digest) -> str:
        """A repository of the mesh's own that has a blob, or `BlobUnknown`."""
        row = self._row(
            "SELECT repository FROM blobs WHERE digest = ? AND instr(repository, '@') = 0 LIMIT 1",
            (str(digest),),
        )
        if row is None:
            raise BlobUnknown(f"no repository has blob {digest}")
        return str(row[0])

    def manifest_type(self, repository: str, digest: Digest) -> str:
        """The media type under which a manifest was pushed, or `ManifestUnknown`."""
        row = self._row(
            "SELECT media_type FROM manifests WHERE repository = ? AND digest = ?",
            (repository, str(digest)),
        )
        if row is None:
            raise ManifestUnknown(unknown_text(repository, digest))
        return str(row[0])

    def resolve(self, repository: str, tag: str) -> Digest:
        """As `Store.resolve`."""
        row = self._row(
            "SELECT target FROM names WHERE repository = ? AND name = ?", (repository, tag)
        )
        if row is None or row[0] is None:
            raise ManifestUnknown(f"{repository} has no tag {tag}")
        return Digest.parse(row[0])

    def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """As `Store.referrers`."""
        rows = self._rows(
            "SELECT descriptor FROM manifests WHERE repository = ? AND subject = ? ORDER BY digest",
            (repository, str(subject)),
        )
        return [_decode_descriptor(descriptor) for (descriptor,) in rows]

    def mirrored(self) -> list[tuple[str, Digest]]:
        """As `Store.mirrored`."""
        rows = self._rows(
            "SELECT repository, digest FROM manifests WHERE instr(repository, '@') > 0", ()
        )
        return [(repository, Digest.parse(digest)) for repository, digest in rows]

    def tags(self, repository: str, last: str, n: int | None) -> list[str]:
        """As `Store.tags`."""
        rows = self._rows(
            f"SELECT name FROM names WHERE repository = ? AND name > ? AND {_LIVE_TAG} "
            "ORDER BY name LIMIT ?",
            (repository, last, -1 if n is None else n),
        )
        if not rows and not self._has_repository(repository):
            raise NameUnknown(f"there is no repository {repository}")
        return [name for (name,) in rows]

    def repositories(self, last: str, n: int | None) -> list[str]:
        """As `Store.repositories`."""
        rows = self._rows(_REPOSITORIES, {"last": last, "n": -1 if n is None else n})
        return [repository for (repository,) in rows]

    def totals(self) -> tuple[int, int, int]:
        """How many contents there are, their bytes, and how many of these are cache."""
        ((blobs, size, cached),) = self._rows("SELECT blobs, bytes, cached FROM totals", ())
        return blobs, size, cached

    def names(self) -> list[NameRecord]:
        """All records."""
        return [
            NameRecord(*row)
            for row in self._rows("SELECT repository, name, target, stamp FROM names", ())
        ]

    def contents(self) -> dict[str, int]:
        """The size of every content."""
        return dict(self._rows("SELECT digest, size FROM content", ()))

    def has_content(self, digest: str) -> bool:
        """Whether any repository has it."""
        return self._row("SELECT 1 FROM content WHERE digest = ?", (digest,)) is not None

    def content_size(self, digest: Digest) -> int | None:
        """The size of a content; None if no repository has it."""
        row = self._row("SELECT size FROM content WHERE digest = ?", (str(digest),))
        return None if row is None else int(row[0])

    def coldest(self, n: int, after: Content | None, cached_only: bool) -> list[Content]:
        """As `Store.coldest`, by what was written of accesses."""
        rows = self._rows(
            _COLDEST_CACHED if cached_only else _COLDEST_OF_ALL,
            {
                "accessed": -1 if after is None else after.accessed_s,
                "digest": "" if after is None else str(after.digest),
                "n": n,
            },
        )
        return [
            Content(
                Digest.parse(digest),
                size,
                accessed,
                bool(is_manifest),
                self._own(digest) if own else (),
            )
            for digest, size, accessed, is_manifest, own in rows
        ]

    def resolution(self, repository: str, tag: str) -> Resolution | None:
        """As `Store.resolution`."""
        row = self._row(
            "SELECT digest, checked_at FROM resolutions WHERE repository = ? AND tag = ?",
            (repository, tag),
        )
        return None if row is None else Resolution(Digest.parse(row[0]), row[1])

    # -- changes

    def put_blob(
        self, repository: str, digest: Digest, size: int, stamp: str | None, now_s: int
    ) -> list[NameRecord]:
        """Give a repository a blob whose file is (about to be) there. Or `BlobUnknown`."""
        written = self._revive(repository, digest, stamp, BlobUnknown)
        self._add_content(digest, size, now_s)
        self._link_blob(repository, digest)
        return written

    def mount(
        self, repository: str, digest: Digest, source: str, stamp: str | None, now_s: int
    ) -> list[NameRecord]:
        """As `Store.mount`; it counts as a use, for a manifest is about to name it."""
        size = self.blob_size(source, digest)
        written = self._revive(repository, digest, stamp, BlobUnknown)
        self._add_content(digest, size, now_s)
        self._link_blob(repository, digest)
        return written

    def delete_blob(self, repository: str, digest: Digest, stamp: str) -> list[NameRecord]:
        """As `Store.delete_blob`."""
        self.blob_size(repository, digest)
        return self._write_names([NameRecord(repository, str(digest), None, stamp)])

    def put_manifest(
        self,
        repository: str,
        manifest: Manifest,
        tags: Sequence[str],
        stamp: str | None,
        needs: Sequence[Descriptor],
        now_s: int,
    ) -> list[NameRecord]:
        """As `Store.put_manifest`, for a file that is (about to be) there."""
        self._check_needs(repository, needs)
        written = self._revive(repository, manifest.digest, stamp, ManifestUnknown)
        digest, subject = str(manifest.digest), manifest.subject
        self._add_content(manifest.digest, len(manifest.content), now_s)
        self._change(
            "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?, ?)",
            (
                repository,
                digest,
                manifest.media_type,
                subject and subject.digest,
                subject and msgspec.json.encode(manifest.descriptor()),
            ),
        )
        self.put_refs(repository, manifest)
        assert stamp is not None or not tags, "tags need a stamp"
        return written + self._write_names(
            NameRecord(repository, tag, digest, stamp or "") for tag in tags
        )

    def delete_manifest(self, repository: str, digest: Digest, stamp: str) -> list[NameRecord]:
        """As `Store.delete_manifest`."""
        self.manifest_type(repository, digest)
        tags = self._rows(
            f"SELECT name FROM names WHERE repository = ? AND target = ? AND {_LIVE_TAG} "
            "ORDER BY name",
            (repository, str(digest)),
        )
        gone = [str(digest), *(tag for (tag,) in tags)]
        return self._write_names(NameRecord(repository, name, None, stamp) for name in gone)

    def delete_untagged(
        self, repository: str, digest: Digest, stamp: str, before_s: float
    ) -> list[NameRecord]:
        """As `Store.delete_untagged`."""
        if not self.is_astray(repository, digest, before_s):
            return []
        return self._write_names([NameRecord(repository, str(digest), None, stamp)])

    def delete_tag(self, repository: str, tag: str, stamp: str) -> list[NameRecord]:
        """As `Store.delete_tag`."""
        self.resolve(repository, tag)
        return self._write_names([NameRecord(repository, tag, None, stamp)])

    def merge_names(self, records: Iterable[NameRecord]) -> None:
        """As `Store.merge_names`."""
        self._write_names(records)

    def forget_names(self, records: Iterable[NameRecord]) -> None:
        """As `Store.forget_names`."""
        for record in records:
            self._change(
                "DELETE FROM names WHERE repository = ? AND name = ? AND target IS ? AND stamp = ?",
                (record.repository, record.name, record.target, record.stamp),
            )

    def touch(self, accessed: Mapping[str, int]) -> None:
        """Note when contents were last read: seconds since 1970 by digest."""
        self.connection.executemany(
            "UPDATE content SET accessed = ? WHERE digest = ?",
            [(at_s, digest) for digest, at_s in accessed.items()],
        )

    def evict(self, contents: Sequence[Content]) -> list[Content]:
        """Take contents from all repositories, as `Store.evict`; return those that were taken."""
        evicted = []
        for content in contents:
            digest = str(content.digest)
            row = self._row("SELECT accessed FROM content WHERE digest = ?", (digest,))
            if row == (content.accessed_s,) and self._own(digest) == content.own:
                self.drop_content(digest)
                evicted.append(content)
        return evicted

    def resolutions(self, n: int) -> list[tuple[str, str, Digest]]:
        """As `Store.resolutions`."""
        rows = self._rows(
            "SELECT repository, tag, digest FROM resolutions ORDER BY repository, tag LIMIT ?", (n,)
        )
        return [(repository, tag, Digest.parse(digest)) for repository, tag, digest in rows]

    def put_resolutions(self, resolutions: Mapping[tuple[str, str], Resolution]) -> None:
        """Note what tags mean; keep those that were checked last."""
        self.connection.executemany(
            "INSERT OR REPLACE INTO resolutions VALUES (?, ?, ?, ?)",
            [
                (repository, tag, str(digest), checked_at)
                for (repository, tag), (digest, checked_at) in resolutions.items()
            ],
        )
        self._change(
            "DELETE FROM resolutions WHERE (repository, tag) IN (SELECT repository, tag "
            "FROM resolutions ORDER BY checked_at DESC LIMIT -1 OFFSET ?)",
            (MAX_RESOLUTIONS,),
        )

    def forget_resolution(self, repository: str, tag: str) -> None:
        """As `Store.forget_resolution`."""
        self._change("DELETE FROM resolutions WHERE repository = ? AND tag = ?", (repository, tag))

    def drop_content(self, digest: str) -> list[str]:
        """Take a content whose file is, or may be, lost from all repositories; return these.

        Not a deletion: no record is written, and the content is welcome from anywhere.
        """
        having = self._rows(
            "SELECT repository FROM blobs WHERE digest = :digest "
            "UNION SELECT repository FROM manifests WHERE digest = :digest",
            {"digest": digest},
        )
        for (repository,) in having:
            self._unlink(repository, digest)
        return [repository for (repository,) in having]

    # -- parts

    def _has_repository(self, repository: str) -> bool:
        rows = self._rows(
            "SELECT EXISTS (SELECT 1 FROM blobs WHERE repository = :name) "
            "OR EXISTS (SELECT 1 FROM manifests WHERE repository = :name) "
            f"OR EXISTS (SELECT 1 FROM names WHERE repository = :name AND {_LIVE_TAG})",
            {"name": repository},
        )
        return rows == [(1,)]

    def _held(self, repository: str, name: str) -> NameRecord | None:
        row = self._row(
            "SELECT target, stamp FROM names WHERE repository = ? AND name = ?", (repository, name)
        )
        return NameRecord(repository, name, *row) if row is not None else None

    def _revive(
        self, repository: str, digest: Digest, stamp: str | None, unknown: type[OciError]
    ) -> list[NameRecord]:
        held = self._held(repository, str(digest))
        record = revive(held, repository, digest, stamp, unknown)
        return self._write_names([record] if record is not None else [])

    def _write_names(self, records: Iterable[NameRecord]) -> list[NameRecord]:
        """Write those that supersede what is held, with what follows from them; return these."""
        written = []
        for record in records:
            if not supersedes(record, self._held(*record.key)):
                continue
            self._change(
                "INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)",
                (record.repository, record.name, record.target, record.stamp),
            )
            if record.target is None and not record.is_tag:
                self._unlink(record.repository, record.name)
            written.append(record)
        return written

    def _add_content(self, digest: Digest, size: int, now_s: int) -> None:
        self._change(
            "INSERT INTO content (digest, size, accessed) VALUES (?, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET accessed = excluded.accessed",
            (str(digest), size, now_s),
        )

    def _link_blob(self, repository: str, digest: Digest) -> None:
        self._change("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (repository, str(digest)))

    def _unlink(self, repository: str, digest: str) -> None:
        """Take content from a repository, and altogether if no other has it."""
        key = (repository, digest)
        self._change("DELETE FROM blobs WHERE repository = ? AND digest = ?", key)
        self._change("DELETE FROM manifests WHERE repository = ? AND digest = ?", key)
        self._change("DELETE FROM refs WHERE repository = ? AND manifest = ?", key)
        self._drop_if_unused(digest)

    def _check_needs(self, repository: str, needs: Sequence[Descriptor]) -> None:
        missing = [need.digest for need in needs if not self._has(repository, need)]
        if missing:
            raise missing_error(repository, missing)

    def _has(self, repository: str, need: Descriptor) -> bool:
        table = "manifests" if need.media_type in media_types.MANIFESTS else "blobs"
        sql = f"SELECT 1 FROM {table} WHERE repository = ? AND digest = ?"
        return self._row(sql, (repository, need.digest)) is not None
