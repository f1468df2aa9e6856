"""Errors: one tree, and a JSON form that clients can rely on."""

import json

import pytest
from hypothesis import given

from oci_mesh import errors
from oci_mesh.errors import MAX_QUOTED_LENGTH, ManifestBlobUnknown, OciError, OciMeshError, quoted
from tests.spec import strategies

# distribution-spec, "Error Codes": "The `code` field MUST be one of the following".
SPEC_CODES = {
    *("BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID"),
    *("MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID"),
    *("NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS"),
}


def _tree(root: type[OciMeshError]) -> list[type[OciMeshError]]:
    below = [error for child in root.__subclasses__() for error in _tree(child)]
    return [root, *(error for error in below if error.__module__ == errors.__name__)]


@pytest.mark.parametrize("error", _tree(OciError))
def test_codes_are_the_specs(error: type[OciError]) -> None:
    """A client's fault has a code of the spec; what is our fault is none of it."""
    assert error.__doc__
    if error.status < 500:
        assert error.status >= 400
        assert error.code in SPEC_CODES
    else:
        assert error.code not in SPEC_CODES
        assert error.code.replace("_", "").isupper()


@pytest.mark.parametrize("error", _tree(OciError))
def test_body_is_the_specs(error: type[OciError]) -> None:
    """The body has the form that the spec prints, whatever is in the message."""
    document = json.loads(error('"quotes" \n \x00 é').body())
    assert document == {"errors": [{"code": error.code, "message": '"quotes" \n \x00 é'}]}


def test_one_root() -> None:
    """Whoever catches `OciMeshError` catches all that is raised on purpose."""
    public = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert {*public} == {*_tree(OciMeshError)}


def test_what_is_missing_is_named() -> None:
    """A caller can go and get what a manifest lacks."""
    assert ManifestBlobUnknown("two layers", missing=["a", "b"]).missing == ("a", "b")


@given(strategies.text)
def test_quoted(text: str) -> None:
    """Hostile text in a message is one short line of valid UTF-8, and JSON takes it."""
    shown = quoted(text)
    assert shown.isprintable()
    assert len(shown) <= 10 * MAX_QUOTED_LENGTH + 3  # `\\U0010ffff` is the longest escape
    assert json.loads(OciError(shown).body())["errors"][0]["message"] == shown
    if len(text) <= MAX_QUOTED_LENGTH:
        assert shown == repr(text)
    else:
        assert shown.endswith("…")
