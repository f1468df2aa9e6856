"""Where things are under a store's root.

    lock                     flock of the process that has it open, with its pid
    metadata.sqlite          what belongs to which repository (`schema`)
    blobs/<algorithm>/<hex>  content, each once: the form of an OCI layout
    uploads/<repository>-<id>  unfinished uploads; the length of the file is the offset
    uploads/<repository>.<algorithm>.<hex>  partials: sparse files of their full length
    quarantine/<algorithm>-<hex>  content that was found to be damaged, for somebody to look at

`blobs` has no shards, so that one directory fsync serves a whole group of pushes (ext4 and XFS
keep directories as trees: a hundred thousand entries cost no more to look up than a hundred).
An upload's name begins with a hash of its repository: that binds it without another file. What
follows the hash is a dash or a dot, so that no upload id leads to a partial.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oci_mesh.spec.digest import HEX_LENGTH, Digest
from oci_mesh.store.files import DIRECTORY_MODE, Files

_UPLOAD: Final = re.compile(
    r"[0-9a-f]{16}(?:-[0-9a-f]{32}|\.sha256\.[0-9a-f]{64}|\.sha512\.[0-9a-f]{128})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one root, as text (they are built on the hot path)."""

    root: str

    @property
    def lock(self) -> str:
        """The lock file."""
        return f"{self.root}/lock"

    @property
    def metadata(self) -> str:
        """The database; SQLite puts `-wal` and `-shm` beside it."""
        return f"{self.root}/metadata.sqlite"

    @property
    def uploads(self) -> str:
        """The directory of unfinished uploads, partials, and manifests on their way in."""
        return f"{self.root}/uploads"

    @property
    def quarantine(self) -> str:
        """The directory of damaged content."""
        return f"{self.root}/quarantine"

    def condemned(self, digest: Digest) -> str:
        """Where a damaged content is kept."""
        return f"{self.root}/quarantine/{digest.algorithm}-{digest.hex}"

    def blobs(self, algorithm: str) -> str:
        """The directory of content named by `algorithm`."""
        return f"{self.root}/blobs/{algorithm}"

    def blob(self, digest: Digest) -> str:
        """The file of one content."""
        return f"{self.root}/blobs/{digest.algorithm}/{digest.hex}"

    def upload(self, name: str) -> str:
        """The file of one upload or partial."""
        return f"{self.root}/uploads/{name}"

    def create(self, files: Files) -> None:
        """Make the directories that are missing, durably. Raises `OSError`."""
        blobs = [self.blobs(algorithm) for algorithm in HEX_LENGTH]
        missing = [Path(self.root), *Path(self.root).parents]
        missing = [directory for directory in missing if not directory.exists()][::-1]
        missing += [Path(self.root, "blobs"), Path(self.uploads), Path(self.quarantine)]
        missing += map(Path, blobs)
        for directory in missing:
            directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        for parent in dict.fromkeys(directory.parent for directory in missing):
            files.sync_directory(os.fspath(parent))


def upload_name(repository: str, upload_id: str) -> str:
    """The file name of an upload; another repository with the same id gets another name."""
    return f"{_repository_hash(repository)}-{upload_id}"


def partial_name(repository: str, digest: Digest) -> str:
    """The file name of a partial; another repository's of the same digest gets another name."""
    return f"{_repository_hash(repository)}.{digest.algorithm}.{digest.hex}"


def is_upload_name(name: str) -> bool:
    """Whether `upload_name` or `partial_name` could have returned this."""
    return _UPLOAD.fullmatch(name) is not None


def _repository_hash(repository: str) -> str:
    return hashlib.sha256(repository.encode()).hexdigest()[:16]
