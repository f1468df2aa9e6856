"""References, against the tables of distribution/reference: its reference_test, normalize_test."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.errors import DigestInvalid, NameInvalid, OciError, TagInvalid
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import (
    MAX_REPOSITORY_LENGTH,
    Reference,
    parse_reference,
    parse_repository,
    parse_tag,
    parse_tag_or_digest,
)
from tests.spec import strategies
from tests.spec.attempt import attempt

SHA256 = "sha256:" + "f" * 64
SHA512 = "sha512:" + "f" * 128

# The regular expression as distribution-spec prints it ("Pulling manifests").
SPEC_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
SPEC_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

# what is typed -> domain, repository, tag, digest
REFERENCES: dict[str, tuple[str, str, str | None, str | None]] = {
    # a plain name is Docker's
    "ubuntu": ("docker.io", "library/ubuntu", "latest", None),
    "ubuntu:22.04": ("docker.io", "library/ubuntu", "22.04", None),
    f"ubuntu@{SHA256}": ("docker.io", "library/ubuntu", None, SHA256),
    f"ubuntu:22.04@{SHA256}": ("docker.io", "library/ubuntu", "22.04", SHA256),
    "library/ubuntu": ("docker.io", "library/ubuntu", "latest", None),
    "nonlibrary/ubuntu": ("docker.io", "nonlibrary/ubuntu", "latest", None),
    "other/library": ("docker.io", "other/library", "latest", None),
    "a/b/c": ("docker.io", "a/b/c", "latest", None),
    "docker.io/debian": ("docker.io", "library/debian", "latest", None),
    "docker.io/library/debian": ("docker.io", "library/debian", "latest", None),
    "docker.io/docker/docker": ("docker.io", "docker/docker", "latest", None),
    "index.docker.io/debian": ("docker.io", "library/debian", "latest", None),
    "index.docker.io/docker/docker": ("docker.io", "docker/docker", "latest", None),
    "docker.io/" + "1a3f" * 16: ("docker.io", "library/" + "1a3f" * 16, "latest", None),
    # no slash: what looks like a host is a name, what looks like a port is a tag
    "test_com": ("docker.io", "library/test_com", "latest", None),
    "test.com:tag": ("docker.io", "library/test.com", "tag", None),
    "test.com:5000": ("docker.io", "library/test.com", "5000", None),
    "localhost": ("docker.io", "library/localhost", "latest", None),
    "localhost:5000": ("docker.io", "library/localhost", "5000", None),
    "192.168.1.1": ("docker.io", "library/192.168.1.1", "latest", None),
    "192.168.1.1:5000": ("docker.io", "library/192.168.1.1", "5000", None),
    "foo_bar.com:8080": ("docker.io", "library/foo_bar.com", "8080", None),
    "foo/foo_bar.com:8080": ("docker.io", "foo/foo_bar.com", "8080", None),
    # hosts
    "localhost/ubuntu": ("localhost", "ubuntu", "latest", None),
    "localhost:5000/ubuntu": ("localhost:5000", "ubuntu", "latest", None),
    "test.com/repo:tag": ("test.com", "repo", "tag", None),
    "test:5000/repo": ("test:5000", "repo", "latest", None),
    "test:5000/repo:tag": ("test:5000", "repo", "tag", None),
    f"test:5000/repo@{SHA256}": ("test:5000", "repo", None, SHA256),
    f"test:5000/repo:tag@{SHA256}": ("test:5000", "repo", "tag", SHA256),
    "192.168.1.1/repo": ("192.168.1.1", "repo", "latest", None),
    "192.168.1.1:5000/repo:5050": ("192.168.1.1:5000", "repo", "5050", None),
    "[::1]:5000/repo": ("[::1]:5000", "repo", "latest", None),
    "[2001:db8::1]/repo": ("[2001:db8::1]", "repo", "latest", None),
    f"[2001:db8::1]:5000/repo:tag@{SHA256}": ("[2001:db8::1]:5000", "repo", "tag", SHA256),
    "DOCKER/docker": ("DOCKER", "docker", "latest", None),  # upper case cannot be a component
    "EXAMPLE.com:8000/moonbase": ("EXAMPLE.com:8000", "moonbase", "latest", None),
    "sub-dom1.foo.com/bar/baz/quux:some-long-tag": (
        *("sub-dom1.foo.com", "bar/baz/quux", "some-long-tag"),
        None,
    ),
    "b.gcr.io/test.example.com/my-app:test.example.com": (
        *("b.gcr.io", "test.example.com/my-app", "test.example.com"),
        None,
    ),
    f"xn--7o8h.com/myimage:xn--7o8h.com@{SHA512}": (
        *("xn--7o8h.com", "myimage", "xn--7o8h.com"),
        SHA512,
    ),
    # separators inside components
    "lowercase:Uppercase": ("docker.io", "library/lowercase", "Uppercase", None),
    "d--ocker/docker": ("docker.io", "d--ocker/docker", "latest", None),
    "dock__er/docker": ("docker.io", "dock__er/docker", "latest", None),
    "docker/docker---docker": ("docker.io", "docker/docker---docker", "latest", None),
    "a/" * 127 + "a": ("docker.io", "a/" * 127 + "a", "latest", None),
}

NOT_REFERENCES: dict[str, type[OciError]] = {
    "": NameInvalid,
    ":justtag": NameInvalid,
    f"@{SHA256}": NameInvalid,
    "repo@": DigestInvalid,
    "repo@sha256:" + "f" * 34: DigestInvalid,
    "repo@sha256:" + "F" * 64: DigestInvalid,
    "validname@invaliddigest:" + "f" * 128: DigestInvalid,
    f"repo@{SHA256}@{SHA256}": DigestInvalid,
    f"repo@{SHA256}:tag": DigestInvalid,
    "repo:": TagInvalid,
    "repo:-tag": TagInvalid,
    "repo:.tag": TagInvalid,
    "repo:tag:tag": NameInvalid,
    "repo:" + "t" * 129: TagInvalid,
    "Uppercase:tag": NameInvalid,
    "test:5000/Uppercase/lowercase:tag": NameInvalid,
    "docker/Docker": NameInvalid,
    "docker.io/docker/Docker": NameInvalid,
    "https://github.com/docker/docker": NameInvalid,
    "docker///docker": NameInvalid,
    "docker.io/docker///docker": NameInvalid,
    "/docker": NameInvalid,
    "docker/": NameInvalid,
    "docker.io/": NameInvalid,
    "-docker": NameInvalid,
    "-docker/docker": NameInvalid,
    "-docker.io/docker/docker": NameInvalid,
    "docker-.io/docker": NameInvalid,
    "docker..io/docker": NameInvalid,
    "aa/asdf$$^/aa": NameInvalid,
    "dock___er/docker": NameInvalid,
    "_docker/_docker": NameInvalid,
    "docker_/docker": NameInvalid,
    "____/____": NameInvalid,
    "foo/.bar": NameInvalid,
    "foo/..": NameInvalid,
    "../../etc/passwd": NameInvalid,
    "d.o.c..ker/docker": NameInvalid,
    "this is not right": NameInvalid,
    "repo\n": NameInvalid,
    "bücher/repo": NameInvalid,
    "host:/repo": NameInvalid,
    "host:port/repo": NameInvalid,
    "[2001:db8::1]:tag": NameInvalid,
    "[fe80::1%eth0]:5000/repo": NameInvalid,
    "[2001:db8:3:4::192.0.2.33]:5000/debian": NameInvalid,
    "fc00::1:5000/debian": NameInvalid,
    "a/" * 128 + "a:tag": NameInvalid,
}


@pytest.mark.parametrize("text", REFERENCES)
def test_reads_as_docker_does(text: str) -> None:
    """A reference means here what it means to every client."""
    domain, repository, tag, digest = REFERENCES[text]
    expected = Reference(domain, repository, tag, Digest.parse(digest) if digest else None)
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize("text", NOT_REFERENCES)
def test_refuses_as_docker_does(text: str) -> None:
    """What no client takes is refused for its right part."""
    with pytest.raises(NOT_REFERENCES[text]):
        parse_reference(text)


def test_target_is_the_most_exact_part() -> None:
    """A registry is asked for the digest if there is one, else for the tag."""
    digest = Digest.parse(SHA256)
    assert Reference("a.b", "c", "tag", digest).target == SHA256
    assert Reference("a.b", "c", "tag").target == "tag"
    assert Reference("a.b", "c").target == "latest"


@given(
    strategies.domains,
    strategies.repositories,
    st.none() | strategies.tags,
    st.none() | strategies.digests,
)
def test_round_trip(domain: str, repository: str, tag: str | None, digest: Digest | None) -> None:
    """Whatever parses is written so that it parses as the same reference."""
    typed = f"{domain}/{repository}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    reference = parse_reference(typed)
    assert (reference.domain, reference.repository) == (domain, repository)
    assert (reference.tag, reference.digest) == (tag or (None if digest else "latest"), digest)
    assert parse_reference(str(reference)) == reference


@given(strategies.text)
def test_any_text(text: str) -> None:
    """Any text is a reference that round-trips, or an `OciError` with a short message."""
    reference = attempt(parse_reference, text)
    if isinstance(reference, Reference):
        assert parse_reference(str(reference)) == reference
        assert SPEC_NAME.fullmatch(reference.repository)


@given(strategies.text)
def test_names_and_tags_are_the_specs(text: str) -> None:
    """The grammar is the regular expression that the spec prints, with clients' length limit."""
    is_name = SPEC_NAME.fullmatch(text) is not None and len(text) <= MAX_REPOSITORY_LENGTH
    name, tag = attempt(parse_repository, text), attempt(parse_tag, text)
    assert name == text if is_name else isinstance(name, NameInvalid)
    assert tag == text if SPEC_TAG.fullmatch(text) else isinstance(tag, TagInvalid)


@given(strategies.tags, strategies.digests)
def test_a_tag_is_never_a_digest(tag: str, digest: Digest) -> None:
    """Which of the two is meant never needs a guess."""
    assert parse_tag_or_digest(tag) == tag
    assert parse_tag_or_digest(str(digest)) == digest


def test_long_names_are_refused_in_linear_time() -> None:
    """Names of a million characters neither hang the parser nor fill its message."""
    for piece in ("a", "a-", "a_", "a.", "a/", "-", "A", "a:"):
        with pytest.raises(OciError) as caught:
            parse_reference("host.example/" + piece * 500_000 + "!")
        assert len(caught.value.message) < 1000
        with pytest.raises(OciError):
            parse_reference("a." * 500_000 + "/!")
