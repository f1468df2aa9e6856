"""What spec tests draw: valid values, and text that is nearly valid."""

from hypothesis import strategies as st

from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import MAX_REPOSITORY_LENGTH

digests = st.builds(Digest.of, st.binary(max_size=8), st.sampled_from(["sha256", "sha512"]))

_component = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,3}", fullmatch=True)
repositories = (
    st.lists(_component, min_size=1, max_size=5)
    .map("/".join)
    .filter(lambda name: len(name) <= MAX_REPOSITORY_LENGTH)
)
tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)
domains = st.from_regex(
    r"(localhost|[a-zA-Z0-9]{1,8}(\.[a-z0-9]{1,8}){1,2}|\[[0-9a-f]{1,4}(:[0-9a-f]{0,4}){2,7}\])(:[0-9]{1,5})?",
    fullmatch=True,
)

# Any text at all, lone surrogates too: what aiohttp makes of bytes that are not UTF-8.
any_text = st.text(st.characters(), max_size=300)

# Text of the pieces that grammars are made of, in the wrong order and number.
_PIECES = [
    *("a", "A", "0", "_", "__", "-", ".", "..", "/", "//", ":", "@", "%", "%2f", "%2F", "%00"),
    *("%ff", "%C3%A9", "é", "\x00", "\n", " ", "+", "[", "]", "&", "=", "?", "#", ";", "v2"),
    *("sha256:", "sha512:", "md5:", "0" * 64, "F" * 64, "a" * 128, "a" * 300),
    *("blobs", "uploads", "manifests", "referrers", "tags", "list", "_catalog", "localhost:5000"),
    *("digest=", "mount=", "from=", "n=", "last=", "tag=", "offset=", "artifactType=", "9" * 30),
]
near_text = st.lists(st.sampled_from(_PIECES), max_size=12).map("".join)
text = st.one_of(any_text, near_text)
