"""Decisions about name records that all stores make alike (`spec/names.py`: what they mean)."""

from collections.abc import Sequence

from oci_mesh.errors import ManifestBlobUnknown, OciError
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.names import NameRecord


def supersedes(record: NameRecord, held: NameRecord | None) -> bool:
    """Whether `record` takes the place of `held`, which is about the same name.

    The later stamp wins; of equal stamps the greater target, none being the least. So all nodes
    end with the same record, in whatever order they hear of them.
    """
    if held is None:
        return True
    return (record.stamp, record.target or "") > (held.stamp, held.target or "")


def revive(
    held: NameRecord | None,
    repository: str,
    digest: Digest,
    stamp: str | None,
    unknown: type[OciError],
) -> NameRecord | None:
    """The record to write when content comes (back) to a repository; None if none is needed.

    `held` is the record of the digest. Raises `unknown` if the content was deleted and `stamp` is
    none, or older than the deletion.
    """
    if held is None or held.target is not None:
        return None
    if stamp is not None:
        record = NameRecord(repository, str(digest), str(digest), stamp)
        if supersedes(record, held):
            return record
    raise unknown(f"{digest} was deleted from {repository}")


def missing_error(repository: str, missing: Sequence[str]) -> ManifestBlobUnknown:
    """A manifest needs content that its repository does not have; the text names the first few."""
    shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return ManifestBlobUnknown(f"not in {repository}: {shown}", missing=missing)


def unknown_text(repository: str, digest: Digest) -> str:
    """What `BlobUnknown` and `ManifestUnknown` say: nothing about other repositories."""
    return f"{digest} is not in {repository}"
