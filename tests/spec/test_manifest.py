"""Manifests: every kind that clients push, and everything that only looks like one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.errors import DigestInvalid, ManifestInvalid, ManifestTooLarge, OciError
from oci_mesh.spec import media_types
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import (
    MAX_DESCRIPTORS,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Manifest,
    encode_index,
    parse_manifest,
)
from tests.spec.attempt import attempt

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
NON_DISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"

Json = Any


def descriptor(media_type: str, content: str = "content", **more: Json) -> dict[str, Json]:
    """A descriptor of `content`."""
    digest = str(Digest.of(content.encode()))
    return {"mediaType": media_type, "digest": digest, "size": len(content), **more}


CONFIG = descriptor(media_types.OCI_CONFIG, "config")
LAYER = descriptor(media_types.LAYER_GZIP, "layer")
SUBJECT = descriptor(media_types.OCI_IMAGE, "subject")


def image(**more: Json) -> dict[str, Json]:
    """An OCI image of one layer."""
    kind = {"schemaVersion": 2, "mediaType": media_types.OCI_IMAGE}
    return {**kind, "config": CONFIG, "layers": [LAYER], **more}


def index(**more: Json) -> dict[str, Json]:
    """An OCI index of one image."""
    child = descriptor(
        media_types.OCI_IMAGE, "child", platform={"architecture": "arm64", "os": "linux"}
    )
    kind = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX}
    return {**kind, "manifests": [child], **more}


def without(document: dict[str, Json], *keys: str) -> dict[str, Json]:
    """The document less these fields."""
    return {key: value for key, value in document.items() if key not in keys}


def encode(document: Json) -> bytes:
    """As clients send it."""
    return json.dumps(document).encode()


def parse(document: Json, media_type: str | None = None) -> Manifest:
    """Parse a document as a client would push it."""
    return parse_manifest(encode(document), media_type)


DOCKER_IMAGE: Json = {
    "schemaVersion": 2,
    "mediaType": media_types.DOCKER_IMAGE,
    "config": descriptor(DOCKER_CONFIG, "config"),
    "layers": [descriptor(DOCKER_LAYER, "layer"), descriptor(FOREIGN, urls=["https://a.example"])],
}
DOCKER_LIST: Json = {
    "schemaVersion": 2,
    "mediaType": media_types.DOCKER_INDEX,
    "manifests": [descriptor(media_types.DOCKER_IMAGE, "child")],
}
ARTIFACT: Json = image(
    artifactType="application/vnd.example.sbom.v1",
    config=descriptor(media_types.OCI_EMPTY, "{}", data="e30="),
    layers=[descriptor("application/spdx+json")],
    subject=SUBJECT,
    annotations={"org.example.key": "value"},
)

# what is pushed -> the media types of what it needs, of what it lists, and its artifact type
VALID: dict[str, tuple[Json, list[str], list[str], str | None]] = {
    "an OCI image": (
        image(),
        [media_types.OCI_CONFIG, media_types.LAYER_GZIP],
        [],
        media_types.OCI_CONFIG,
    ),
    "an image without layers": (
        image(layers=[]),
        [media_types.OCI_CONFIG],
        [],
        media_types.OCI_CONFIG,
    ),
    "an image with layers null, as Go writes none": (
        image(layers=None),
        [media_types.OCI_CONFIG],
        [],
        media_types.OCI_CONFIG,
    ),
    "an image with a non-distributable layer": (
        image(layers=[descriptor(NON_DISTRIBUTABLE), LAYER]),
        [media_types.OCI_CONFIG, media_types.LAYER_GZIP],
        [],
        media_types.OCI_CONFIG,
    ),
    "a non-distributable layer as config is still needed": (
        image(config=descriptor(NON_DISTRIBUTABLE), layers=[]),
        [NON_DISTRIBUTABLE],
        [],
        NON_DISTRIBUTABLE,
    ),
    "an artifact": (
        ARTIFACT,
        [media_types.OCI_EMPTY, "application/spdx+json"],
        [],
        "application/vnd.example.sbom.v1",
    ),
    "an image with an empty artifact type": (
        image(artifactType=""),
        [media_types.OCI_CONFIG, media_types.LAYER_GZIP],
        [],
        media_types.OCI_CONFIG,
    ),
    "an image with unknown fields": (
        image(unknown={"nested": [1, None, {"deep": True}]}, layers=[{**LAYER, "unknown": 1}]),
        [media_types.OCI_CONFIG, media_types.LAYER_GZIP],
        [],
        media_types.OCI_CONFIG,
    ),
    "Docker's schema 2": (DOCKER_IMAGE, [DOCKER_CONFIG, DOCKER_LAYER], [], DOCKER_CONFIG),
    "an OCI index": (index(), [], [media_types.OCI_IMAGE], None),
    "an empty index": (index(manifests=[]), [], [], None),
    "a nested index": (
        index(manifests=[descriptor(media_types.OCI_INDEX), descriptor(media_types.DOCKER_INDEX)]),
        [],
        [media_types.OCI_INDEX, media_types.DOCKER_INDEX],
        None,
    ),
    "an index with a subject": (index(subject=SUBJECT), [], [media_types.OCI_IMAGE], None),
    "an index with an artifact type": (
        index(artifactType="application/vnd.example.bundle"),
        [],
        [media_types.OCI_IMAGE],
        "application/vnd.example.bundle",
    ),
    "an index with an empty artifact type": (
        index(artifactType=""),
        [],
        [media_types.OCI_IMAGE],
        None,
    ),
    "an index of an unknown platform": (
        index(manifests=[descriptor(media_types.OCI_IMAGE, platform={"os.version": "10"})]),
        [],
        [media_types.OCI_IMAGE],
        None,
    ),
    "Docker's list": (DOCKER_LIST, [], [media_types.DOCKER_IMAGE], None),
}


@pytest.mark.parametrize("name", VALID)
def test_what_clients_push(name: str) -> None:
    """Every kind of manifest is taken: the bytes kept, and what it needs and lists known."""
    document, blobs, manifests, artifact_type = VALID[name]
    content = encode(document)
    for media_type in (document["mediaType"], document["mediaType"] + "; charset=utf-8", None):
        manifest = parse_manifest(content, media_type)
        assert manifest.content is content
        assert manifest.digest == Digest.of(content)
        assert manifest.media_type == document["mediaType"]
        assert [d.media_type for d in manifest.blobs] == blobs
        assert [d.media_type for d in manifest.manifests] == manifests
        assert manifest.artifact_type == artifact_type
        assert (manifest.subject is not None) == ("subject" in document)


@pytest.mark.parametrize("name", VALID)
def test_media_type_from_the_header_alone(name: str) -> None:
    """`mediaType` is only a SHOULD in a manifest: then `Content-Type` says what it is."""
    document = without(VALID[name][0], "mediaType")
    kind = VALID[name][0]["mediaType"]
    assert parse(document, kind).media_type == kind
    assert parse(document, f" {kind.upper()} ;a=b").media_type == kind
    with pytest.raises(ManifestInvalid):
        parse(document)


def test_digest_in_the_algorithm_asked_for() -> None:
    """A manifest pushed by sha512 is known by sha512."""
    content = encode(image())
    assert parse_manifest(content, None, "sha512").digest == Digest.of(content, "sha512")
    with pytest.raises(DigestInvalid):
        parse_manifest(content, None, "md5")


def test_how_referrers_show_an_artifact() -> None:
    """The referrers list has type, size, digest, artifact type and annotations of a manifest."""
    content = encode(ARTIFACT)
    listed = json.loads(encode_index([parse_manifest(content).descriptor()]))
    assert listed == {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [
            {
                "mediaType": media_types.OCI_IMAGE,
                "digest": str(Digest.of(content)),
                "size": len(content),
                "artifactType": "application/vnd.example.sbom.v1",
                "annotations": {"org.example.key": "value"},
            }
        ],
    }


def test_how_referrers_show_an_index() -> None:
    """An index without artifact type has none in the list either, not even an empty one."""
    listed = json.loads(encode_index([parse(index(subject=SUBJECT)).descriptor()]))
    assert {*listed["manifests"][0]} == {"mediaType", "digest", "size"}


def test_a_referrers_list_is_an_index() -> None:
    """Also when it is empty."""
    assert parse_manifest(encode_index([])).media_type == media_types.OCI_INDEX


INVALID: dict[str, Json] = {
    "null": None,
    "a number": 2,
    "a list": [image()],
    "nothing in it": {},
    "schemaVersion missing": without(image(), "schemaVersion"),
    "schemaVersion 3": image(schemaVersion=3),
    "schemaVersion 0": image(schemaVersion=0),
    "schemaVersion a string": image(schemaVersion="2"),
    "schemaVersion a float": image(schemaVersion=2.0),
    "schemaVersion true": image(schemaVersion=True),
    "schemaVersion of 4,000 digits": image(schemaVersion=int("9" * 4000)),
    "mediaType a number": image(mediaType=2),
    "mediaType of a layer": image(mediaType=media_types.LAYER_GZIP),
    "mediaType of the artifact manifest that never was": image(
        mediaType="application/vnd.oci.artifact.manifest.v1+json"
    ),
    "mediaType of a million characters": image(mediaType="a" * 1_000_000),
    "mediaType in upper case": image(mediaType=media_types.OCI_IMAGE.upper()),
    "an image without config": without(image(), "config"),
    "an image with config null": image(config=None),
    "an image with manifests": image(manifests=[]),
    "an image that is an index too": image(**without(index(), "mediaType")),
    "an index with layers": index(layers=[]),
    "an index with config": index(config=CONFIG),
    "an index that is an image too": {**image(), **index()},
    "an index without manifests": without(index(), "manifests"),
    "layers not a list": image(layers={}),
    "layers of nulls": image(layers=[None]),
    "layers of strings": image(layers=["sha256:0"]),
    "config a list": image(config=[CONFIG]),
    "annotations not of strings": image(annotations={"a": 1}),
    "subject a digest": image(subject=SUBJECT["digest"]),
    "artifactType a list": image(artifactType=[]),
}

DESCRIPTORS_INVALID: dict[str, Json] = {
    "no digest": without(LAYER, "digest"),
    "no size": without(LAYER, "size"),
    "no media type": without(LAYER, "mediaType"),
    "an empty media type": {**LAYER, "mediaType": ""},
    "a long media type": {**LAYER, "mediaType": "a" * 256},
    "digest empty": {**LAYER, "digest": ""},
    "digest null": {**LAYER, "digest": None},
    "digest climbing out": {**LAYER, "digest": "sha256:../../../etc/passwd"},
    "digest in upper case": {**LAYER, "digest": LAYER["digest"].upper()},
    "digest with an encoded slash": {**LAYER, "digest": "sha256:%2f" + "0" * 61},
    "digest too short": {**LAYER, "digest": LAYER["digest"][:-1]},
    "digest of md5": {**LAYER, "digest": "md5:" + "0" * 32},
    "digest with NUL": {**LAYER, "digest": LAYER["digest"][:-1] + "\0"},
    "digest of a million characters": {**LAYER, "digest": "sha256:" + "0" * 1_000_000},
    "size negative": {**LAYER, "size": -1},
    "size 2^63": {**LAYER, "size": 2**63},
    "size of 4,000 digits": {**LAYER, "size": int("9" * 4000)},
    "size a float": {**LAYER, "size": 1.0},
    "size a string": {**LAYER, "size": "1"},
    "size true": {**LAYER, "size": True},
    "size null": {**LAYER, "size": None},
    "urls a string": {**LAYER, "urls": "https://example.com"},
    "platform a string": {**LAYER, "platform": "linux/amd64"},
}
INVALID |= {
    f"{place}: {name}": document
    for name, bad in DESCRIPTORS_INVALID.items()
    for place, document in {
        "config": image(config=bad),
        "layer": image(layers=[LAYER, bad]),
        "non-distributable layer": image(layers=[{**bad, "mediaType": NON_DISTRIBUTABLE}]),
        "child": index(manifests=[bad]),
        "subject of an image": image(subject=bad),
        "subject of an index": index(subject=bad),
    }.items()
    if not (place == "non-distributable layer" and "media type" in name)
}

_NOT_JSON = {
    "nothing": b"",
    "a space": b" ",
    "not JSON": b"hello",
    "cut off": encode(image())[:-1],
    "followed by more": encode(image()) + b"{}",
    "a trailing comma": encode(image())[:-1] + b",}",
    "not UTF-8": encode(image(annotations={"a": "b"})).replace(b'"b"', b'"\xff"'),
    "not UTF-8 where nobody looks": encode(image(x="b")).replace(b'"b"', b'"\xff"'),
    "a surrogate in UTF-8": encode(image(x="b")).replace(b'"b"', b'"\xed\xa0\x80"'),
    "half an escaped pair": encode(image(artifactType="\ud800 and more text")),
    "half an escaped pair in a key": encode(image(annotations={"\udc00 and more text": ""})),
    "half an escaped pair where nobody looks": encode(image(x="\ud800 and more text")),
    "UTF-16": json.dumps(image()).encode("utf-16"),
    "UTF-32": json.dumps(image()).encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf" + encode(image()),
    "NaN": encode(image(x=float("nan"))),
    "Infinity": encode(image(x=float("inf"))),
    "an integer of 5,000 digits": encode(image(x=0))[:-2] + b"9" * 5000 + b"}",
    "100,000 open brackets": b"[" * 100_000,
    "100,000 open brackets where nobody looks": encode(image(x=0))[:-2] + b"[" * 100_000,
    "100,000 nested lists": encode(image(x=0))[:-2] + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 nested objects": b'{"a":' * 100_000,
    "a key twice": encode(image())[:-1] + b', "layers": []}',
    "a key twice in a descriptor": encode(image()).replace(b'"size"', b'"size": 1, "size"'),
    "a key twice where nobody looks": encode(image(x=0))[:-2] + b'{"a": 1, "a": 1}}',
    "a key twice, once escaped": encode(image())[:-1] + b', "l\\u0061yers": []}',
}


@pytest.mark.parametrize("name", INVALID)
def test_refuses_other_forms(name: str) -> None:
    """What is not a manifest, whatever its `Content-Type` says, is a `ManifestInvalid`."""
    for media_type in (None, media_types.OCI_IMAGE, media_types.OCI_INDEX):
        with pytest.raises(ManifestInvalid) as caught:
            parse(INVALID[name], media_type)
        assert len(caught.value.body()) < 2000


@pytest.mark.parametrize("name", _NOT_JSON)
def test_refuses_what_is_no_json(name: str) -> None:
    """JSON that another reader could read otherwise, or not at all, is a `ManifestInvalid`."""
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(_NOT_JSON[name], media_types.OCI_IMAGE)
    assert len(caught.value.body()) < 2000


@pytest.mark.parametrize(
    "media_type", [*sorted(media_types.MANIFESTS), "application/json", "x", "a/b;c"]
)
@pytest.mark.parametrize("name", ["an OCI image", "an OCI index", "Docker's schema 2"])
def test_media_type_confusion(name: str, media_type: str) -> None:
    """CVE-2021-41190: a manifest is never served under another type than its own."""
    document = VALID[name][0]
    if media_type == document["mediaType"]:
        parse(document, media_type)
    else:
        with pytest.raises(ManifestInvalid):
            parse(document, media_type)


@pytest.mark.parametrize(
    "media_type", [None, media_types.OCI_IMAGE, *sorted(media_types.DOCKER_SCHEMA1)]
)
def test_schema1_is_refused_in_words(media_type: str | None) -> None:
    """Docker's schema 1, signed or not, is refused with a message that says what to do."""
    document = {
        "schemaVersion": 1,
        "name": "library/hello",
        "tag": "latest",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": LAYER["digest"]}],
        "history": [{"v1Compatibility": "{}"}],
        "signatures": [],
    }
    with pytest.raises(ManifestInvalid, match="schema 1 is not supported"):
        parse(document, media_type)


def _padded(size: int) -> bytes:
    bare = len(encode(image(annotations={"a": ""})))
    return encode(image(annotations={"a": "x" * (size - bare)}))


def test_largest_manifest() -> None:
    """4 MiB are taken, one byte more is a 413."""
    assert len(parse_manifest(_padded(MAX_MANIFEST_BYTES)).content) == MAX_MANIFEST_BYTES
    with pytest.raises(ManifestTooLarge) as caught:
        parse_manifest(_padded(MAX_MANIFEST_BYTES + 1))
    assert caught.value.status == 413


def test_most_descriptors() -> None:
    """10,000 descriptors are taken (with platform and annotations each), one more is not."""
    child = {**index()["manifests"][0], "annotations": {"a": "b"}}
    assert len(parse(index(manifests=[child] * MAX_DESCRIPTORS)).manifests) == MAX_DESCRIPTORS
    for document in (
        index(manifests=[child] * (MAX_DESCRIPTORS + 1)),
        image(layers=[LAYER] * MAX_DESCRIPTORS),
        image(layers=[descriptor(NON_DISTRIBUTABLE)] * MAX_DESCRIPTORS),
    ):
        with pytest.raises(ManifestInvalid):
            parse(document)


def test_many_objects_are_not_looked_at() -> None:
    """4 MiB of empty objects are refused after the first few, without reading the rest."""
    content = encode(image(x=0))[:-2] + b"[" + b"{}," * 1_000_000 + b"0]}"
    with pytest.raises(ManifestInvalid, match="objects"):
        parse_manifest(content)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from([LAYER["digest"], media_types.OCI_IMAGE, media_types.OCI_INDEX, "", "0" * 64])
    | st.sampled_from([CONFIG, LAYER, SUBJECT]).map(dict),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
_fields = st.sampled_from(
    [
        *("schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests"),
        *("subject", "annotations", "digest", "size", "urls", "platform", "data", "unknown"),
    ]
)
_valid = st.sampled_from([document for document, *_ in VALID.values()])
_content_types = st.none() | st.sampled_from([*media_types.MANIFESTS, "", ";", "x"]) | st.text()


@st.composite
def _mutated(draw: st.DrawFn) -> Json:
    """A valid manifest with a few fields, at any depth, replaced by anything."""
    document = json.loads(json.dumps(draw(_valid)))
    for _ in range(draw(st.integers(1, 3))):
        place = document
        while isinstance(place, dict) and draw(st.booleans()):
            below = [v for v in place.values() if isinstance(v, (dict, list)) and v]
            if not below:
                break
            place = draw(st.sampled_from(below))
            if isinstance(place, list):
                place = place[0]
        if isinstance(place, dict):
            place[draw(_fields)] = draw(_json)
    return document


@st.composite
def _corrupted(draw: st.DrawFn) -> bytes:
    """A valid manifest with a few bytes cut out, put in or doubled."""
    content = bytearray(encode(draw(_valid)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=4))
    return bytes(content)


@given(st.binary() | _json.map(encode) | _mutated().map(encode) | _corrupted(), _content_types)
def test_any_bytes(content: bytes, media_type: str | None) -> None:
    """Any bytes under any type: a manifest that is safe to use, or a `ManifestInvalid`."""
    manifest = attempt(parse_manifest, content, media_type)
    if isinstance(manifest, OciError):
        assert isinstance(manifest, ManifestInvalid)
        return
    assert manifest.content == content
    assert manifest.media_type in media_types.MANIFESTS
    assert not (manifest.blobs and manifest.manifests)
    for listed in (*manifest.blobs, *manifest.manifests):
        assert str(listed.checked_digest) == listed.digest
        assert 0 <= listed.size < 2**63
    # What referrers will be told of it can be encoded, and is an index again.
    assert parse_manifest(encode_index([manifest.descriptor()])).media_type == media_types.OCI_INDEX


def test_a_descriptor_checks_its_digest() -> None:
    """Descriptors from elsewhere (a peer) are checked where they are used."""
    with pytest.raises(DigestInvalid):
        _ = Descriptor(media_type="a", digest="sha256:../..", size=0).checked_digest
