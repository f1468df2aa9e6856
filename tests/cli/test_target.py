"""REF, read as the CLI reads it."""

import pytest

from oci_mesh.cli.target import DEFAULT_REGISTRY, is_loopback, names_host, resolve
from oci_mesh.errors import ConfigError, DigestInvalid, NameInvalid, TagInvalid
from oci_mesh.spec.digest import Digest

DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("app", DEFAULT_REGISTRY, "app", "latest"),
        ("app:v1", DEFAULT_REGISTRY, "app", "v1"),
        ("team/app:v1", DEFAULT_REGISTRY, "team/app", "v1"),
        ("library/app", DEFAULT_REGISTRY, "library/app", "latest"),
        ("127.0.0.1:5000/app:v1", "http://127.0.0.1:5000", "app", "v1"),
        ("127.8.9.1/app:v1", "http://127.8.9.1", "app", "v1"),
        ("localhost/app", "http://localhost", "app", "latest"),
        ("localhost:80/team/app", "http://localhost:80", "team/app", "latest"),
        ("[::1]:5000/app", "http://[::1]:5000", "app", "latest"),
        ("10.0.0.7:5000/app", "https://10.0.0.7:5000", "app", "latest"),
        ("registry.example.com/a/b/c:x", "https://registry.example.com", "a/b/c", "x"),
    ],
)
def test_where_a_reference_leads(text: str, registry: str, repository: str, tag: str) -> None:
    """A host is one if docker says so; all other names are the local node's, as written."""
    target = resolve(text)
    assert (target.registry, target.repository, target.tag) == (registry, repository, tag)
    assert target.wanted == tag


def test_a_digest_counts_more_than_a_tag() -> None:
    """With both, the digest is asked for; the tag is where a push goes."""
    target = resolve(f"team/app:v1@{DIGEST}")
    assert (target.tag, target.digest, target.wanted) == ("v1", DIGEST, str(DIGEST))
    assert resolve(f"app@{DIGEST}").tag is None


def test_pinned_references_lead_back() -> None:
    """What is printed after a push can be pulled with the same options."""
    for text in ("team/app:v1", "127.0.0.1:5000/app"):
        target = resolve(text)
        pinned = resolve(target.pinned(DIGEST))
        assert (pinned.registry, pinned.repository) == (target.registry, target.repository)
        assert pinned.digest == DIGEST


@pytest.mark.parametrize(
    ("registry", "plain_http", "expected"),
    [
        ("http://10.0.0.7:5000", None, "http://10.0.0.7:5000"),
        ("https://127.0.0.1:5000/", None, "https://127.0.0.1:5000"),
        ("10.0.0.7:5000", None, "https://10.0.0.7:5000"),
        ("localhost:5000", None, "http://localhost:5000"),
        ("10.0.0.7:5000", True, "http://10.0.0.7:5000"),
        ("http://localhost:5000", False, "https://localhost:5000"),
    ],
)
def test_local_node(registry: str, plain_http: bool | None, expected: str) -> None:
    """A scheme is kept, a missing one follows the host, and a flag beats both."""
    assert resolve("app", registry, plain_http).registry == expected


def test_a_flag_beats_the_host() -> None:
    """`--plain-http` and `--tls` count for references with a host too."""
    assert resolve("10.0.0.7/app", plain_http=True).registry == "http://10.0.0.7"
    assert resolve("localhost/app", plain_http=False).registry == "https://localhost"


@pytest.mark.parametrize(
    "registry", ["", "http://", "ftp://a", "http://a/v2", "http://u@a", "a b", "http://a?x", "a#b"]
)
def test_local_node_that_is_none(registry: str) -> None:
    """A registry's URL is a scheme and a host, nothing more."""
    with pytest.raises(ConfigError):
        resolve("app", registry)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", NameInvalid),
        ("App", NameInvalid),
        ("../app", NameInvalid),
        ("app/", NameInvalid),
        ("a.b_/app", NameInvalid),
        ("app:.v1", TagInvalid),
        ("app@sha256:123", DigestInvalid),
    ],
)
def test_references_that_are_none(text: str, error: type[Exception]) -> None:
    """Names are checked before anything is sent anywhere."""
    with pytest.raises(error):
        resolve(text)


def test_hosts_that_are_this_machine() -> None:
    """127.0.0.0/8, ::1 and localhost; nothing that only looks like them."""
    assert all(map(is_loopback, ["127.0.0.1", "127.255.0.1:80", "[::1]:5000", "localhost:1"]))
    others = ["10.0.0.1", "127.0.0.1.example.com", "localhost.example.com", "[::2]:80", "example"]
    assert not any(map(is_loopback, others))


def test_a_tag_or_digest_makes_no_host() -> None:
    """Colons after the first slash, or in a name without one, are a tag's."""
    assert not names_host("app:v1")
    assert not names_host(f"app@{DIGEST}")
    assert names_host("host:1/app")
