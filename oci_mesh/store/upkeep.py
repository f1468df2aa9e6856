"""What names what, as SQL: the questions and changes of a garbage collection and a scrub.

`refs` has a row for each digest that a manifest of one of the mesh's own repositories names, as a
blob, a child or its subject. It outlives a manifest whose file was damaged, for as long as that is
kept for a look: what such an image is made of is no garbage while the image may come back.

As in `metadata`, transactions and files are the writer's.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Manifest
from oci_mesh.spec.scope import is_mirrored
from oci_mesh.store.base import Content, Place, Unnamed
from oci_mesh.store.tables import Tables

_BLOB, _CHILD, _SUBJECT = range(3)

# A manifest that nothing leads to: no tag, no index, no other manifest about it, nor is it itself
# about one that is there.
_ASTRAY: Final = """
    FROM manifests AS m JOIN content USING (digest)
    WHERE m.repository = :repository AND accessed < :before_s
    AND NOT EXISTS (SELECT 1 FROM names
        WHERE names.repository = m.repository AND target = m.digest AND instr(name, ':') = 0)
    AND NOT EXISTS (SELECT 1 FROM refs
        WHERE refs.repository = m.repository AND refs.digest = m.digest)
    AND NOT EXISTS (SELECT 1 FROM manifests AS other
        WHERE other.repository = m.repository AND other.digest = m.subject)
"""

_UNNAMED: Final = """
    NOT EXISTS (SELECT 1 FROM refs WHERE refs.repository = blobs.repository
        AND refs.digest = blobs.digest)
"""


class Upkeep(Tables):
    """The part of `Metadata` that looks after what is there."""

    # -- questions

    def contents_after(self, n: int, after: Content | None) -> list[Content]:
        """As `Store.contents`."""
        rows = self._rows(
            "SELECT digest, size, accessed, EXISTS (SELECT 1 FROM manifests "
            "WHERE manifests.digest = content.digest), own FROM content "
            "WHERE digest > ? ORDER BY digest LIMIT ?",
            ("" if after is None else str(after.digest), n),
        )
        return [
            Content(
                Digest.parse(digest), size, at_s, bool(listed), self._own(digest) if own else ()
            )
            for digest, size, at_s, listed, own in rows
        ]

    def manifests_of(self, repository: str) -> list[Digest]:
        """As `Store.manifests`."""
        rows = self._rows(
            "SELECT digest FROM manifests WHERE repository = ? ORDER BY digest", (repository,)
        )
        return [Digest.parse(digest) for (digest,) in rows]

    def whole(self, repository: str, digests: Sequence[Digest]) -> list[Digest]:
        """As `Store.whole`."""
        return [digest for digest in digests if self._is_whole(repository, str(digest))]

    def needed(self, repository: str, digests: Sequence[Digest], since_s: float) -> list[Digest]:
        """As `Store.needed`."""
        return [d for d in digests if self._is_needed(repository, str(d), since_s)]

    def unnamed(self, repository: str, before_s: float) -> list[Unnamed]:
        """As `Store.unnamed`."""
        rows = self._rows(
            "SELECT digest, size FROM blobs JOIN content USING (digest) "
            f"WHERE repository = ? AND accessed < ? AND {_UNNAMED} ORDER BY digest",
            (repository, before_s),
        )
        return [Unnamed(repository, Digest.parse(digest), size) for digest, size in rows]

    def untagged(self, repository: str, before_s: float) -> list[Unnamed]:
        """As `Store.untagged`."""
        rows = self._rows(
            f"SELECT m.digest, size {_ASTRAY} ORDER BY m.digest",
            {"repository": repository, "before_s": before_s},
        )
        return [Unnamed(repository, Digest.parse(digest), size) for digest, size in rows]

    def is_astray(self, repository: str, digest: Digest, before_s: float) -> bool:
        """Whether `untagged` would list it."""
        rows = self._rows(
            f"SELECT 1 {_ASTRAY} AND m.digest = :digest",
            {"repository": repository, "before_s": before_s, "digest": str(digest)},
        )
        return bool(rows)

    def without_refs(self) -> list[tuple[str, str, str]]:
        """Repository, digest and media type of own manifests of which no row says what they name:
        those of before there was such a table, and empty indexes.
        """
        return self._rows(
            "SELECT repository, digest, media_type FROM manifests "
            "WHERE instr(repository, '@') = 0 AND NOT EXISTS (SELECT 1 FROM refs "
            "WHERE refs.repository = manifests.repository AND manifest = manifests.digest)",
            (),
        )

    # -- changes

    def put_refs(self, repository: str, manifest: Manifest) -> None:
        """Note what a manifest names; of other registries' nothing is noted, for it is cache."""
        if is_mirrored(repository):
            return
        subject = [manifest.subject] if manifest.subject else []
        kinds = ((_BLOB, manifest.blobs), (_CHILD, manifest.manifests), (_SUBJECT, subject))
        self.connection.executemany(
            "INSERT OR IGNORE INTO refs VALUES (?, ?, ?, ?)",
            [
                (repository, str(manifest.digest), descriptor.digest, kind)
                for kind, descriptors in kinds
                for descriptor in descriptors
            ],
        )

    def collect(self, unnamed: Iterable[Unnamed], before_s: float) -> list[Unnamed]:
        """As `Store.collect`."""
        return [self._collect(each) for each in unnamed if self._is_garbage(each, before_s)]

    def condemn(self, digest: Digest) -> list[Place]:
        """Take a damaged content from all repositories; return these."""
        text = str(digest)
        key: dict[str, object] = {"digest": text}
        rows = self._rows(
            "SELECT repository, 0 FROM blobs WHERE digest = :digest UNION ALL "
            "SELECT repository, 1 FROM manifests WHERE digest = :digest ORDER BY 1, 2",
            key,
        )
        self._change("DELETE FROM blobs WHERE digest = :digest", key)
        self._change("DELETE FROM manifests WHERE digest = :digest", key)
        if self._drop_if_unused(text):
            self.condemned.add(text)
        return [Place(repository, bool(is_manifest)) for repository, is_manifest in rows]

    def forget_lost(self) -> None:
        """Of manifests that are not here any more, forget what they named."""
        self._change(
            "DELETE FROM refs WHERE NOT EXISTS (SELECT 1 FROM manifests "
            "WHERE manifests.repository = refs.repository AND digest = manifest)",
            (),
        )

    # -- parts

    def _is_whole(self, repository: str, digest: str) -> bool:
        rows = self._rows(
            "SELECT EXISTS (SELECT 1 FROM blobs "
            "WHERE repository = :repository AND digest = :digest) OR (EXISTS ("
            "SELECT 1 FROM manifests WHERE repository = :repository AND digest = :digest) "
            "AND NOT EXISTS (SELECT 1 FROM refs "
            "WHERE repository = :repository AND manifest = :digest AND kind = :blob "
            "AND NOT EXISTS (SELECT 1 FROM blobs "
            "WHERE blobs.repository = refs.repository AND blobs.digest = refs.digest)))",
            {"repository": repository, "digest": digest, "blob": _BLOB},
        )
        return rows == [(1,)]

    def _is_needed(self, repository: str, digest: str, since_s: float) -> bool:
        rows = self._rows(
            "SELECT EXISTS (SELECT 1 FROM refs "
            "WHERE repository = :repository AND digest = :digest) "
            "OR EXISTS (SELECT 1 FROM manifests JOIN content USING (digest) "
            "WHERE repository = :repository AND digest = :digest AND accessed >= :since_s)",
            {"repository": repository, "digest": digest, "since_s": since_s},
        )
        return rows == [(1,)]

    def _is_garbage(self, unnamed: Unnamed, before_s: float) -> bool:
        rows = self._rows(
            "SELECT 1 FROM blobs JOIN content USING (digest) "
            f"WHERE repository = ? AND digest = ? AND accessed < ? AND {_UNNAMED}",
            (unnamed.repository, str(unnamed.digest), before_s),
        )
        return bool(rows)

    def _collect(self, unnamed: Unnamed) -> Unnamed:
        self._change(
            "DELETE FROM blobs WHERE repository = ? AND digest = ?",
            (unnamed.repository, str(unnamed.digest)),
        )
        freed = self._drop_if_unused(str(unnamed.digest))
        return unnamed if freed else unnamed._replace(size=0)
