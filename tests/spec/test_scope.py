"""What repositories of other registries are called between nodes."""

import pytest
from hypothesis import given

from oci_mesh.errors import NameInvalid, OciError
from oci_mesh.spec.routes import GetBlob, parse_request
from oci_mesh.spec.scope import Scope, is_mirrored, is_private, parse_registry, parse_scope
from tests.spec import strategies

DIGEST = f"sha256:{'a' * 64}"

REGISTRIES = ["docker.io", "localhost", "registry.corp:5000", "10.0.0.1:80", "[::1]:5000", "a-b.c"]


@pytest.mark.parametrize("registry", REGISTRIES)
@pytest.mark.parametrize("private", [False, True])
def test_a_name_is_what_was_parsed(registry: str, private: bool) -> None:
    """`str` and `parse_scope` undo each other."""
    scope = Scope("a/b", registry, private)
    assert parse_scope(str(scope)) == scope
    assert is_mirrored(str(scope))
    assert is_private(str(scope)) is private


@given(strategies.repositories)
def test_the_meshs_own_repositories_are_called_as_clients_call_them(repository: str) -> None:
    """A repository name is its own scope."""
    assert str(parse_scope(repository)) == repository
    assert parse_scope(repository).registry == ""
    assert not is_mirrored(repository)
    assert not is_private(repository)


@pytest.mark.parametrize("registry", REGISTRIES)
def test_a_registry_has_one_name_whatever_its_case(registry: str) -> None:
    """Host names are compared without case."""
    assert parse_registry(registry.upper()) == registry


@pytest.mark.parametrize(
    "text",
    [
        *("", "a/b", "user@host", "host:", ":80", "host:123456", "http://host", "host/", "ho st"),
        *("-a.b", "a..b", "a.b-", "[::1", "::1", "host%00", "höst", "a" * 260, "a\n"),
    ],
)
def test_what_is_no_registry_is_refused(text: str) -> None:
    """What could be an address with more in it is no name."""
    with pytest.raises(NameInvalid):
        parse_registry(text)
    with pytest.raises(NameInvalid):
        parse_scope(f"a@{text}")


@pytest.mark.parametrize(
    "text", ["A@docker.io", "@docker.io", "a@Docker.io", "a@b!!", "a!", "a@b@c"]
)
def test_there_is_one_spelling(text: str) -> None:
    """Two names for one repository would be two caches."""
    with pytest.raises(NameInvalid):
        parse_scope(text)


def test_clients_cannot_name_them() -> None:
    """Only requests between nodes may have such a name in the path."""
    path = f"/v2/a@docker.io!/blobs/{DIGEST}"
    asked = parse_request("GET", path, "", scoped=True)
    assert isinstance(asked, GetBlob)
    assert asked.repository == "a@docker.io!"
    with pytest.raises(OciError):
        parse_request("GET", path, "")
