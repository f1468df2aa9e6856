"""What nodes say to each other, as text."""

import pytest

from oci_mesh.mesh.wire import content_path
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.routes import GetBlob, GetManifest, ListReferrers, parse_request

DIGEST = Digest.of(b"content")
KINDS = {"blobs": GetBlob, "manifests": GetManifest, "referrers": ListReferrers}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("repository", ["a/b", "a/b@docker.io", "a@[::1]:5000", "a@r.corp:5000!"])
def test_a_path_is_asked_as_it_is_understood(repository: str, kind: str) -> None:
    """And has nothing in it that a URL may not have (RFC 3986 §3.3)."""
    path = content_path(repository, kind, DIGEST)
    assert not set(path) & set("[] ?#")
    asked = parse_request("GET", path, "", scoped=True)
    assert isinstance(asked, (GetBlob, GetManifest, ListReferrers))
    assert type(asked) is KINDS[kind]
    assert asked.repository == repository
