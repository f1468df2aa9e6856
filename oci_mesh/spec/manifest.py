"""Manifests: what is in one, checked, and never re-encoded (image-spec, "Manifest", "Index").

`parse_manifest` reads the fields that a registry acts on; the bytes stay as they came, for the
digest is over the bytes. Not here: whether what a manifest names exists (the registry's policy),
and whether an image would run (`diff_ids` and the like are the client's business).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NoReturn

import msgspec

from oci_mesh.errors import DigestInvalid, ManifestInvalid, ManifestTooLarge, quoted
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest

# distribution-spec: registries SHOULD take 4 MB; containerd, oras and containers/image all stop
# reading at about 4 MiB, so anything larger could be pushed and never pulled.
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024

# No image has this many layers. A manifest of 4 MiB could name 50,000, each a look-up at push.
MAX_DESCRIPTORS: Final = 10_000

# JSON objects in a manifest: a descriptor is one, its platform and annotations are two more. 4 MiB
# of `{}` would hold up the event loop for most of a second.
_MAX_OBJECTS: Final = 4 * MAX_DESCRIPTORS

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_MediaType = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an index says of an image (image-spec, "Image Index Property Descriptions")."""

    architecture: str = ""
    os: str = ""
    variant: str | None = None


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A typed, sized pointer to content (image-spec, "Descriptors").

    `digest` is text as in the document; `checked_digest` is it parsed.
    """

    media_type: _MediaType
    digest: str
    size: _Size
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    artifact_type: str | None = None
    platform: Platform | None = None
    data: str | None = None

    @property
    def checked_digest(self) -> Digest:
        """Raises `DigestInvalid`."""
        return Digest.parse(self.digest)


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """The union of the fields of image manifests and indexes that a registry reads."""

    schema_version: Literal[1, 2]
    media_type: str | None = None
    artifact_type: str | None = None
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest or index: its bytes, and what they say.

    `blobs` are the descriptors that have to be in the repository for an image to be complete:
    config and layers, without non-distributable layers. `manifests` are an index's children.
    The subject is neither: it may be missing (distribution-spec, "Pushing Manifests with Subject").
    """

    content: bytes
    media_type: str
    digest: Digest
    blobs: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None

    def descriptor(self) -> Descriptor:
        """How the referrers list shows this manifest (distribution-spec, "Listing Referrers")."""
        return Descriptor(
            media_type=self.media_type,
            digest=str(self.digest),
            size=len(self.content),
            artifact_type=self.artifact_type,
            annotations=self.annotations,
        )


def parse_manifest(
    content: bytes, media_type: str | None = None, algorithm: str = "sha256"
) -> Manifest:
    """Check a manifest as pushed under `media_type` (a Content-Type; parameters are dropped).

    Without `media_type`, the document's own `mediaType` counts. Raises `ManifestTooLarge` over
    `MAX_MANIFEST_BYTES`, `ManifestInvalid` for everything else that is wrong.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise ManifestTooLarge(f"manifest larger than {MAX_MANIFEST_BYTES} bytes")
    declared = (media_type or "").partition(";")[0].strip().lower()
    if declared in media_types.DOCKER_SCHEMA1:
        _refuse_schema1()
    document = _decode(content)
    kind = _kind(document, declared)
    _check_form(document, kind)
    config = [document.config] if document.config else []
    layers, manifests = document.layers or [], document.manifests or []
    subject = [document.subject] if document.subject else []
    _check_descriptors([*config, *layers, *manifests, *subject])
    artifact_type = document.artifact_type or None  # "empty or missing" is one in the spec
    if artifact_type is None and document.config is not None:
        artifact_type = document.config.media_type
    return Manifest(
        content=content,
        media_type=kind,
        digest=Digest.of(content, algorithm),
        blobs=(*config, *(d for d in layers if media_types.is_distributable(d.media_type))),
        manifests=tuple(manifests),
        subject=document.subject,
        artifact_type=artifact_type,
        annotations=document.annotations,
    )


def encode_index(manifests: Sequence[Descriptor]) -> bytes:
    """An OCI index of these descriptors: the form of a referrers list."""
    return msgspec.json.encode(
        {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": list(manifests)}
    )


def _refuse_schema1() -> NoReturn:
    raise ManifestInvalid(
        "Docker image manifest schema 1 is not supported (it was deprecated in 2017): "
        "push the image with a current client, as schema 2 or OCI"
    )


def _decode(content: bytes) -> _Document:
    try:
        _refuse_duplicates(content)
        return msgspec.json.decode(content, type=_Document)
    except RecursionError:
        raise ManifestInvalid("manifest is nested too deeply") from None
    except ValueError as error:  # not UTF-8, not JSON, not of this form, too long an integer
        raise ManifestInvalid(f"manifest is not valid: {_first_line(error)}") from None


def _refuse_duplicates(content: bytes) -> None:
    """Two readers of `{"a": 1, "a": 2}` need not agree, and a digest binds both readings."""
    objects = 0

    def check(pairs: list[tuple[str, Any]]) -> None:
        nonlocal objects
        objects += 1
        if objects > _MAX_OBJECTS:
            raise ValueError(f"more than {_MAX_OBJECTS} objects")
        if len(dict(pairs)) != len(pairs):
            raise ValueError("an object has the same key twice")

    json.loads(content.decode(), object_pairs_hook=check)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _kind(document: _Document, declared: str) -> str:
    """The media type. What two clients could read as two things is refused (CVE-2021-41190)."""
    if document.schema_version == 1:
        _refuse_schema1()
    if declared and document.media_type and declared != document.media_type:
        raise ManifestInvalid(
            f"Content-Type {quoted(declared)} is not the manifest's mediaType "
            f"{quoted(document.media_type)}"
        )
    kind = document.media_type or declared
    if kind not in media_types.MANIFESTS:
        expected = ", ".join(sorted(media_types.MANIFESTS))
        raise ManifestInvalid(f"media type {quoted(kind)} is not that of a manifest: {expected}")
    return kind


def _check_form(document: _Document, kind: str) -> None:
    """An index has `manifests` and nothing of an image; an image the other way round."""
    if kind in media_types.INDEXES:
        if document.layers is not None or document.config is not None:
            raise ManifestInvalid("an index has `manifests`, not `layers` and `config`")
        if document.manifests is None:
            raise ManifestInvalid("an index needs `manifests`; it may be empty")
    elif document.manifests is not None:
        raise ManifestInvalid("an image manifest has `config` and `layers`, not `manifests`")
    elif document.config is None:
        raise ManifestInvalid("an image manifest needs a `config`")


def _check_descriptors(descriptors: Sequence[Descriptor]) -> None:
    if len(descriptors) > MAX_DESCRIPTORS:
        raise ManifestInvalid(f"manifest names more than {MAX_DESCRIPTORS} descriptors")
    try:
        for descriptor in descriptors:
            descriptor.checked_digest  # noqa: B018 -- it raises
    except DigestInvalid as error:
        raise ManifestInvalid(f"in the manifest: {error.message}") from None
