"""Routes: every endpoint of the spec's table, and every way to write a request that is none."""

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.errors import (
    BlobUploadUnknown,
    DigestInvalid,
    EndpointUnknown,
    MethodUnsupported,
    NameInvalid,
    OciError,
    PaginationInvalid,
    RequestInvalid,
    TagInvalid,
)
from oci_mesh.spec import routes
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import parse_repository, parse_tag
from oci_mesh.spec.routes import (
    MAX_PAGE,
    MAX_TAGS_PER_PUT,
    Request,
    Target,
    parse_request,
    parse_target,
)
from tests.spec import strategies
from tests.spec.attempt import attempt

D = Digest.of(b"content")
D512 = Digest.of(b"content", "sha512")
ID = "0123456789abcdef" * 2

# method, path, query -> what it asks for
REQUESTS: dict[tuple[str, str, str], Request] = {
    ("GET", "/v2/", ""): routes.Ping(),
    ("GET", "/v2", ""): routes.Ping(),
    ("HEAD", "/v2/", "ns=docker.io"): routes.Ping(),
    ("GET", "/v2/_catalog", ""): routes.ListRepositories(MAX_PAGE, ""),
    ("GET", "/v2/_catalog", "n=5&last=a/b"): routes.ListRepositories(5, "a/b"),
    ("GET", "/v2/_catalog", "n=1000000000"): routes.ListRepositories(MAX_PAGE, ""),
    ("GET", "/v2/_catalog", "n=" + "9" * 5000): routes.ListRepositories(MAX_PAGE, ""),
    ("GET", "/v2/a/tags/list", ""): routes.ListTags("a", MAX_PAGE, ""),
    ("GET", "/v2/a/tags/list", "n=0"): routes.ListTags("a", 0, ""),
    ("GET", "/v2/a/tags/list", "n=2&last=v1"): routes.ListTags("a", 2, "v1"),
    ("GET", "/v2/a/tags/list", "last=not%20a%20tag"): routes.ListTags("a", MAX_PAGE, "not a tag"),
    ("GET", f"/v2/a/b/c/blobs/{D}", ""): routes.GetBlob("a/b/c", D),
    ("HEAD", f"/v2/a/blobs/{D512}", "ns=docker.io"): routes.GetBlob("a", D512),
    ("GET", f"/v2/a/blobs/sha256%3A{D.hex}", ""): routes.GetBlob("a", D),
    ("DELETE", f"/v2/a/blobs/{D}", ""): routes.DeleteBlob("a", D),
    ("GET", "/v2/a/manifests/v1.0_x", ""): routes.GetManifest("a", "v1.0_x"),
    ("HEAD", f"/v2/a/manifests/{D}", ""): routes.GetManifest("a", D),
    ("PUT", "/v2/a/manifests/v1", ""): routes.PutManifest("a", "v1", ()),
    ("PUT", f"/v2/a/manifests/{D512}", "tag=b&tag=a&tag=b"): routes.PutManifest(
        "a", D512, ("b", "a")
    ),
    ("DELETE", "/v2/a/manifests/v1", ""): routes.DeleteManifest("a", "v1"),
    ("DELETE", f"/v2/a/manifests/{D}", ""): routes.DeleteManifest("a", D),
    ("GET", f"/v2/a/referrers/{D}", ""): routes.ListReferrers("a", D, None),
    ("GET", f"/v2/a/referrers/{D}", "artifactType="): routes.ListReferrers("a", D, None),
    ("GET", f"/v2/a/referrers/{D}", "artifactType=a/b%2Bc"): routes.ListReferrers("a", D, "a/b+c"),
    ("POST", "/v2/a/blobs/uploads/", ""): routes.StartUpload("a", None, None, None, None),
    ("POST", "/v2/a/blobs/uploads", ""): routes.StartUpload("a", None, None, None, None),
    ("POST", "/v2/a/blobs/uploads/", f"digest={D}"): routes.StartUpload("a", D, None, None, None),
    ("POST", "/v2/a/blobs/uploads/", "digest-algorithm=sha512"): routes.StartUpload(
        "a", None, None, None, "sha512"
    ),
    ("POST", "/v2/a/blobs/uploads/", f"mount={D}&from=b/c&origin=crane"): routes.StartUpload(
        "a", None, D, "b/c", None
    ),
    ("POST", "/v2/a/blobs/uploads/", f"mount=sha256%3A{D.hex}"): routes.StartUpload(
        "a", None, D, None, None
    ),
    ("GET", f"/v2/a/blobs/uploads/{ID}", "offset=5"): routes.GetUpload("a", ID),
    ("PATCH", f"/v2/a/blobs/uploads/{ID}", "offset=5"): routes.PatchUpload("a", ID, 5),
    ("PATCH", f"/v2/a/blobs/uploads/{ID}", ""): routes.PatchUpload("a", ID, None),
    ("PUT", f"/v2/a/blobs/uploads/{ID}", f"offset=0&digest={D}"): routes.FinishUpload(
        "a", ID, D, 0
    ),
    ("DELETE", f"/v2/a/blobs/uploads/{ID}", ""): routes.CancelUpload("a", ID),
    # repositories named like endpoints
    ("GET", "/v2/blobs/tags/list", ""): routes.ListTags("blobs", MAX_PAGE, ""),
    ("GET", "/v2/tags/list/tags/list", ""): routes.ListTags("tags/list", MAX_PAGE, ""),
    ("GET", f"/v2/a/blobs/uploads/blobs/{D}", ""): routes.GetBlob("a/blobs/uploads", D),
    ("GET", f"/v2/blobs/uploads/blobs/uploads/{ID}", ""): routes.GetUpload("blobs/uploads", ID),
    ("POST", "/v2/a/manifests/blobs/uploads/", ""): routes.StartUpload(
        "a/manifests", None, None, None, None
    ),
    ("GET", "/v2/manifests/manifests/manifests", ""): routes.GetManifest("manifests", "manifests"),
    ("GET", "/v2/a/tags/manifests/list", ""): routes.GetManifest("a/tags", "list"),
}

REFUSED: dict[tuple[str, str, str], type[OciError]] = {
    # no path of ours
    ("GET", "", ""): EndpointUnknown,
    ("GET", "/", ""): EndpointUnknown,
    ("GET", "*", ""): EndpointUnknown,
    ("GET", "/v1/", ""): EndpointUnknown,
    ("GET", "/V2/", ""): EndpointUnknown,
    ("GET", "//v2/", ""): EndpointUnknown,
    ("GET", "/v2//", ""): EndpointUnknown,
    ("GET", "/%76%32/", ""): EndpointUnknown,
    ("GET", "/../v2/", ""): EndpointUnknown,
    ("GET", "/v2/a", ""): EndpointUnknown,
    ("GET", "/v2/a/_catalog", ""): EndpointUnknown,
    ("GET", "/v2/a/tags/list/", ""): EndpointUnknown,
    ("GET", f"/v2/a/blobs/{D}/", ""): EndpointUnknown,
    ("GET", "http://localhost/v2/", ""): EndpointUnknown,
    # methods
    ("POST", "/v2/", ""): MethodUnsupported,
    ("PUT", "/v2/_catalog", ""): MethodUnsupported,
    ("PUT", f"/v2/a/blobs/{D}", ""): MethodUnsupported,
    ("POST", "/v2/a/manifests/v1", ""): MethodUnsupported,
    ("DELETE", "/v2/a/tags/list", ""): MethodUnsupported,
    ("DELETE", f"/v2/a/referrers/{D}", ""): MethodUnsupported,
    ("GET", "/v2/a/blobs/uploads/", ""): MethodUnsupported,
    ("POST", f"/v2/a/blobs/uploads/{ID}", ""): MethodUnsupported,
    ("get", "/v2/", ""): MethodUnsupported,
    ("X" * 10_000, "/v2/", ""): MethodUnsupported,
    ("\ud800", "/v2/", ""): MethodUnsupported,
    # names
    ("GET", "/v2/tags/list", ""): NameInvalid,
    ("GET", "/v2//tags/list", ""): NameInvalid,
    ("GET", "/v2/A/tags/list", ""): NameInvalid,
    ("GET", "/v2/a//b/tags/list", ""): NameInvalid,
    ("GET", "/v2/a/../b/tags/list", ""): NameInvalid,
    ("GET", "/v2/../../etc/tags/list", ""): NameInvalid,
    ("GET", "/v2/..%2f..%2fetc/tags/list", ""): NameInvalid,
    ("GET", "/v2/a%2fb/tags/list", ""): NameInvalid,
    ("GET", "/v2/a%2Fb/tags/list", ""): NameInvalid,
    ("GET", "/v2/a%252fb/tags/list", ""): NameInvalid,
    ("GET", "/v2/%2e%2e/tags/list", ""): NameInvalid,
    ("GET", "/v2/a%00b/tags/list", ""): NameInvalid,
    ("GET", "/v2/a%0ab/tags/list", ""): NameInvalid,
    ("GET", "/v2/a%20/tags/list", ""): NameInvalid,
    ("GET", "/v2/a%/tags/list", ""): NameInvalid,
    ("GET", "/v2/a%zz/tags/list", ""): NameInvalid,
    ("GET", "/v2/a\\b/tags/list", ""): NameInvalid,
    ("GET", "/v2/%C3%A9/tags/list", ""): NameInvalid,
    ("GET", "/v2/" + "a" * 256 + "/tags/list", ""): NameInvalid,
    ("GET", "/v2/" + "a/" * 5000 + "tags/list", ""): NameInvalid,
    ("POST", "/v2/a/blobs/uploads/", f"mount={D}&from=../b"): NameInvalid,
    ("POST", "/v2/a/blobs/uploads/", f"mount={D}&from=B"): NameInvalid,
    # what is not text
    ("GET", "/v2/%ff/tags/list", ""): RequestInvalid,
    ("GET", "/v2/%ed%a0%80/tags/list", ""): RequestInvalid,
    ("GET", "/v2/é/tags/list", ""): RequestInvalid,
    ("GET", "/v2/a\udcff/tags/list", ""): RequestInvalid,
    ("GET", "/v2/_catalog", "last=%ff"): RequestInvalid,
    ("GET", "/v2/_catalog", "last=\udcff"): RequestInvalid,
    ("GET", "/v2/_catalog", "é"): RequestInvalid,
    # digests
    ("GET", "/v2/a/blobs/sha256:baddigeststring", ""): DigestInvalid,
    ("GET", "/v2/a/blobs/sha256:..%2f..%2fx", ""): DigestInvalid,
    ("GET", f"/v2/a/blobs/{str(D).upper()}", ""): DigestInvalid,
    ("GET", f"/v2/a/blobs/md5:{'0' * 32}", ""): DigestInvalid,
    ("GET", f"/v2/a/blobs/{D}%20%20", ""): DigestInvalid,
    ("GET", f"/v2/a/blobs/{D}%00", ""): DigestInvalid,
    ("GET", "/v2/a/blobs/", ""): DigestInvalid,
    ("GET", "/v2/a/blobs/latest", ""): DigestInvalid,
    ("GET", "/v2/a/referrers/latest", ""): DigestInvalid,
    ("GET", "/v2/a/referrers/sha256:x", ""): DigestInvalid,
    ("PUT", "/v2/a/manifests/sha256:baddigeststring", ""): DigestInvalid,
    ("PUT", f"/v2/a/manifests/{D}%20%20", ""): DigestInvalid,
    ("POST", "/v2/a/blobs/uploads/", "digest="): DigestInvalid,
    ("POST", "/v2/a/blobs/uploads/", "digest=sha256:x"): DigestInvalid,
    ("POST", "/v2/a/blobs/uploads/", "mount=sha256:x"): DigestInvalid,
    ("POST", "/v2/a/blobs/uploads/", "digest-algorithm=md5"): DigestInvalid,
    ("POST", "/v2/a/blobs/uploads/", "digest-algorithm="): DigestInvalid,
    ("PUT", f"/v2/a/blobs/uploads/{ID}", ""): DigestInvalid,
    ("PUT", f"/v2/a/blobs/uploads/{ID}", "digest=sha256:x"): DigestInvalid,
    # tags
    ("GET", "/v2/a/manifests/", ""): TagInvalid,
    ("GET", "/v2/a/manifests/.hidden", ""): TagInvalid,
    ("GET", "/v2/a/manifests/..", ""): TagInvalid,
    ("GET", "/v2/a/manifests/a%2fb", ""): TagInvalid,
    ("GET", "/v2/a/manifests/" + "t" * 129, ""): TagInvalid,
    ("PUT", f"/v2/a/manifests/{D}", "tag=ok&tag=-bad"): TagInvalid,
    ("PUT", f"/v2/a/manifests/{D}", "tag="): TagInvalid,
    # uploads
    ("GET", "/v2/a/blobs/uploads/..", ""): BlobUploadUnknown,
    ("GET", "/v2/a/blobs/uploads/..%2f..%2fx", ""): BlobUploadUnknown,
    ("PATCH", f"/v2/a/blobs/uploads/{ID.upper()}", ""): BlobUploadUnknown,
    ("DELETE", f"/v2/a/blobs/uploads/{ID}0", ""): BlobUploadUnknown,
    ("PATCH", f"/v2/a/blobs/uploads/{ID}", "offset=-1"): RequestInvalid,
    ("PATCH", f"/v2/a/blobs/uploads/{ID}", "offset="): RequestInvalid,
    ("PATCH", f"/v2/a/blobs/uploads/{ID}", "offset=" + "9" * 20): RequestInvalid,
    # pages
    **{
        ("GET", "/v2/_catalog", f"n={n}"): PaginationInvalid
        for n in ("", "-1", "abc", "1.5", "1e9", "0x10", "+1", "%31%00", "%D9%A3", "1;2")
    },
    # the same parameter twice is nobody's meaning
    ("GET", "/v2/_catalog", "n=1&n=2"): RequestInvalid,
    ("GET", "/v2/_catalog", "last=a&last=a"): RequestInvalid,
    ("PUT", f"/v2/a/blobs/uploads/{ID}", f"digest={D}&digest={D512}"): RequestInvalid,
    ("POST", "/v2/a/blobs/uploads/", f"mount={D}&from=a&from=b"): RequestInvalid,
    ("GET", "/v2/_catalog", "&".join(f"x{i}=1" for i in range(1000))): RequestInvalid,
    ("PUT", f"/v2/a/manifests/{D}", "&".join(f"tag=t{i}" for i in range(65))): RequestInvalid,
}


@pytest.mark.parametrize("line", REQUESTS, ids=" ".join)
def test_requests(line: tuple[str, str, str]) -> None:
    """Every endpoint is found by its path, whatever the repository is called."""
    assert parse_request(*line) == REQUESTS[line]


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: ascii(" ".join(line))[:60])
def test_refused(line: tuple[str, str, str]) -> None:
    """What is not a request is refused as what it is, in few words."""
    with pytest.raises(REFUSED[line]) as caught:
        parse_request(*line)
    assert 400 <= caught.value.status < 500
    assert len(caught.value.body()) < 2000


@pytest.mark.parametrize("path", sorted({path for _, path, _ in REQUESTS}))
def test_allow_lists_what_a_path_takes(path: str) -> None:
    """A 405 says which methods would do, and they do."""
    with pytest.raises(MethodUnsupported) as caught:
        parse_request("BREW", path, "")
    for method in caught.value.headers["Allow"].split(", "):
        parse_request(method, path, f"digest={D}")


def test_ten_tags_and_more() -> None:
    """The spec asks for at least ten tags in one request."""
    tags = [f"t{i}" for i in range(MAX_TAGS_PER_PUT)]
    query = "&".join(f"tag={tag}" for tag in tags)
    asked = parse_request("PUT", f"/v2/a/manifests/{D}", query)
    assert asked == routes.PutManifest("a", D, tuple(tags))


@given(strategies.repositories, strategies.digests, strategies.tags, strategies.tags)
def test_paths_that_we_write_are_read(name: str, digest: Digest, tag: str, last: str) -> None:
    """Whatever a client builds of valid parts, encoded or not, comes back as these parts."""
    assert parse_request("GET", f"/v2/{name}/blobs/{digest}", "") == routes.GetBlob(name, digest)
    assert parse_request("GET", f"/v2/{name}/manifests/{tag}", "") == routes.GetManifest(name, tag)
    assert parse_request("GET", f"/v2/{name}/blobs/{quote(str(digest))}", "") == routes.GetBlob(
        name, digest
    )
    assert parse_request("GET", f"/v2/{name}/tags/list", f"last={quote(last)}&n=3") == (
        routes.ListTags(name, 3, last)
    )
    mount = f"mount={quote_plus(str(digest))}&from={quote_plus(name)}"
    assert parse_request("POST", f"/v2/{name}/blobs/uploads/", mount) == (
        routes.StartUpload(name, None, digest, name, None)
    )


_methods = st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]) | st.text(max_size=5)
_paths = st.one_of(
    strategies.text,
    strategies.text.map("/v2/{}".format),
    st.tuples(
        strategies.text | st.just("a"),
        st.sampled_from(["blobs", "manifests", "referrers", "tags", "blobs/uploads"]),
        strategies.text | st.sampled_from([str(D), ID, "list", "v1", ""]),
    ).map(lambda parts: "/v2/" + "/".join(parts)),
)
_queries = strategies.text | st.lists(
    st.tuples(
        st.sampled_from(["digest", "mount", "from", "n", "last", "tag", "offset", "artifactType"]),
        strategies.text | st.sampled_from([str(D), "1", "a"]),
    ).map("=".join),
    max_size=4,
).map("&".join)


@given(_methods, _paths, _queries)
def test_any_request(method: str, path: str, query: str) -> None:
    """Any request line: safe values, or an `OciError` of the 4xx kind with a short message."""
    asked = attempt(parse_request, method, path, query)
    if isinstance(asked, OciError):
        return
    for field in ("repository", "source"):
        value = getattr(asked, field, None)
        assert value is None or parse_repository(value)
    for tag in (*getattr(asked, "tags", ()), getattr(asked, "reference", None)):
        assert tag is None or isinstance(tag, Digest) or parse_tag(tag)
    assert 0 <= getattr(asked, "n", 0) <= MAX_PAGE
    assert set(getattr(asked, "upload", "")) <= set("0123456789abcdef")
    # Parameters may be any text, but text it is: a store and a header can take it.
    for text in (getattr(asked, "last", ""), getattr(asked, "artifact_type", "")):
        (text or "").encode()


MANIFEST = "/v2/library/busybox/manifests/1"

# path, query -> whose content, and the path that is left
TARGETS: dict[tuple[str, str], Target] = {
    (MANIFEST, ""): Target("", MANIFEST),
    (MANIFEST, "ns="): Target("", MANIFEST),
    (MANIFEST, "ns=docker.io"): Target("docker.io", MANIFEST),
    (MANIFEST, "a=b&ns=Docker.IO&c"): Target("docker.io", MANIFEST),
    (MANIFEST, "%6es=docker%2Eio"): Target("docker.io", MANIFEST),
    (MANIFEST, "ns=registry.corp%3A5000"): Target("registry.corp:5000", MANIFEST),
    (MANIFEST, "ns=a&ns=docker.io"): Target("a docker.io", MANIFEST),
    (MANIFEST, "ns=169.254.169.254"): Target("169.254.169.254", MANIFEST),
    (MANIFEST, "ns=http://a@b/"): Target("http://a@b/", MANIFEST),
    # the form of docker's `registry-mirrors`
    ("/docker.io" + MANIFEST, ""): Target("docker.io", MANIFEST),
    ("/registry.corp:5000/v2/", ""): Target("registry.corp:5000", "/v2/"),
    ("/Docker.io/v2", ""): Target("docker.io", "/v2"),
    # no registries' names
    ("/v2/v2/manifests/1", ""): Target("", "/v2/v2/manifests/1"),
    ("/v2/v2/v2/manifests/1", ""): Target("", "/v2/v2/v2/manifests/1"),
    ("/a/v2/", ""): Target("", "/a/v2/"),
    ("/../v2/", ""): Target("", "/../v2/"),
    ("//v2/", ""): Target("", "//v2/"),
    ("/a%2eb/v2/", ""): Target("", "/a%2eb/v2/"),
    ("/a.b@c/v2/", ""): Target("", "/a.b@c/v2/"),
    ("/a.b/v3/", ""): Target("", "/a.b/v3/"),
    ("/a.b/v2x", ""): Target("", "/a.b/v2x"),
    ("", ""): Target("", ""),
}


@pytest.mark.parametrize(("path", "query"), TARGETS, ids=" ".join)
def test_whose_content_it_is_about(path: str, query: str) -> None:
    """A key to look up, however it is written, and no more than that."""
    assert parse_target(path, query) == TARGETS[path, query]


@given(strategies.repositories)
def test_no_repository_is_taken_for_a_registry(repository: str) -> None:
    """What clients without a mirror ask for is left as it is."""
    for path in (f"/v2/{repository}/tags/list", f"/v2/{repository}/v2/manifests/v2"):
        assert parse_target(path, "") == ("", path)
