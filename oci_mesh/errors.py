"""Everything that this package raises for other people's faults.

    OciMeshError
    ├── ConfigError              what the operator wrote cannot be used
    ├── StoreError               this node's disk
    │   ├── StoreLocked          another process has this root open
    │   └── StoreCorrupt         what is on disk is not what was written
    ├── OperationFailed          what an operator asked this node for
    ├── PeerError                another node: gone, slow, or not speaking our protocol
    ├── UpstreamError            another registry: it sent what cannot be used
    │   ├── UpstreamRefused      it wants (other) credentials, or forbids
    │   ├── UpstreamLimited      it wants to be asked less
    │   ├── UpstreamUnavailable  it cannot be asked: gone, slow, failing, or given a rest by us
    │   └── NoRanges             it sends blobs whole or not at all
    └── OciError                 what a client is told; one class per code, with its HTTP status

Our own faults are `AssertionError`s. An `OciError` renders itself as the JSON form of
distribution-spec, "Error Codes"; nothing else ever decides what an error body looks like. The
codes of 4xx answers are the spec's closed list; for 5xx, of which it says nothing, there are ours.
"""

from collections.abc import Sequence
from typing import ClassVar, Final

import msgspec

# How much of what somebody sent is repeated to them: a whole tag or sha256 digest fits.
MAX_QUOTED_LENGTH: Final = 128


def quoted(text: str) -> str:
    """Somebody else's text as a message can show it: escaped, and cut where it is too long."""
    cut = "" if len(text) <= MAX_QUOTED_LENGTH else "…"
    return repr(text[:MAX_QUOTED_LENGTH]) + cut


class OciMeshError(Exception):
    """The root: catch this to catch all that oci_mesh raises on purpose."""


class ConfigError(OciMeshError):
    """A setting that cannot be used; the message names it and says what to write instead."""


class StoreError(OciMeshError):
    """This node's store could not do what was asked."""


class StoreLocked(StoreError):
    """Another process serves this root directory."""


class StoreCorrupt(StoreError):
    """Content on disk is not what was acknowledged."""


class PeerError(OciMeshError):
    """Another node did not answer, answered too late, or answered nonsense."""


class OperationFailed(OciMeshError):
    """What an operator asked for could not be done; `hint` is what to do next, or empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UpstreamError(OciMeshError):
    """Another registry did not answer, refused for now, cut its answer, or sent other content."""


class UpstreamRefused(UpstreamError):
    """It does not give this to us (401, 403): asking again with the same credentials is no use."""


class UpstreamLimited(UpstreamError):
    """It wants to be asked less (429); `retry_after_s` is when next, as it says or as we guess."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamUnavailable(UpstreamError):
    """It cannot be asked: no connection, a stall, 5xx; or it failed so often that we give it rest.

    What is remembered of it may be served (stale), for this says nothing about what it has.
    `retry_after_s` is when it wants to be asked again, if it says so.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoRanges(UpstreamError):
    """It answers a request for a part of a blob with all of it."""


class OciError(OciMeshError):
    """An error with an OCI code (distribution-spec, "Error Codes") and its HTTP status.

    `headers` are sent along with the body.
    """

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers or {}

    def body(self) -> bytes:
        """The error as the spec's JSON document."""
        error = {"code": self.code, "message": self.message}
        return msgspec.json.encode({"errors": [error]})


class BlobUnknown(OciError):
    """No such blob in this repository."""

    code, status = "BLOB_UNKNOWN", 404


class BlobUploadInvalid(OciError):
    """The upload cannot take what was sent."""

    code, status = "BLOB_UPLOAD_INVALID", 400


class BlobUploadUnknown(OciError):
    """No such upload: never started, finished, cancelled or expired."""

    code, status = "BLOB_UPLOAD_UNKNOWN", 404


class UploadRangeInvalid(BlobUploadInvalid):
    """A chunk that does not continue the upload; the upload survives."""

    status = 416


class UploadBusy(BlobUploadInvalid):
    """Another request is writing to this upload right now."""

    status = 409


class RangeInvalid(OciError):
    """A byte range outside the content."""

    code, status = "SIZE_INVALID", 416


class DigestInvalid(OciError):
    """Not a digest, or not the digest of what was sent."""

    code, status = "DIGEST_INVALID", 400


class ManifestBlobUnknown(OciError):
    """A manifest names content that its repository does not have: the digests in `missing`."""

    code, status = "MANIFEST_BLOB_UNKNOWN", 404

    def __init__(self, message: str, *, missing: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class ManifestInvalid(OciError):
    """Not a manifest that can be stored."""

    code, status = "MANIFEST_INVALID", 400


class ManifestTooLarge(ManifestInvalid):
    """A manifest over the size limit."""

    status = 413


class ManifestUnknown(OciError):
    """No such manifest or tag in this repository."""

    code, status = "MANIFEST_UNKNOWN", 404


class NameInvalid(OciError):
    """Not a repository name."""

    code, status = "NAME_INVALID", 400


class TagInvalid(OciError):
    """Not a tag."""

    code, status = "MANIFEST_INVALID", 400


class NameUnknown(OciError):
    """No such repository."""

    code, status = "NAME_UNKNOWN", 404


class SizeInvalid(OciError):
    """The length sent is not the length announced."""

    code, status = "SIZE_INVALID", 400


class RequestInvalid(OciError):
    """A request that is not well formed, before any of its content is looked at."""

    code, status = "UNSUPPORTED", 400


class PaginationInvalid(OciError):
    """`n` is not a number of entries."""

    code, status = "UNSUPPORTED", 400


class EndpointUnknown(OciError):
    """A path that no registry has."""

    code, status = "UNSUPPORTED", 404


class MethodUnsupported(OciError):
    """A method that this path does not take."""

    code, status = "UNSUPPORTED", 405


class Denied(OciError):
    """Not allowed here."""

    code, status = "DENIED", 403


class StorageFull(OciError):
    """No room on the disk; nothing of the request was kept."""

    code, status = "STORAGE_FULL", 507


class StorageFailed(OciError):
    """The disk failed under the request; nothing of it was acknowledged."""

    code, status = "STORAGE_FAILED", 500


class Unavailable(OciError):
    """Not now: the node is starting, draining, or at a limit."""

    code, status = "UNAVAILABLE", 503


class Timeout(OciError):
    """The client stopped sending in the middle of a request."""

    code, status = "SIZE_INVALID", 408
