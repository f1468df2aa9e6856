"""Headers of challenges: those of real registries, those that are allowed, and any text at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.spec.challenge import Challenge, parse_challenges

BEARER = {"realm": "https://auth.docker.io/token", "service": "registry.docker.io"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
            'scope="repository:a/b:pull,push"',
            [("bearer", BEARER | {"scope": "repository:a/b:pull,push"})],
        ),
        (
            'BEARER Realm = "https://auth.docker.io/token" , SERVICE="registry.docker.io"',
            [("bearer", BEARER)],
        ),
        (
            "Bearer realm=https://auth.docker.io/token,service=registry.docker.io",
            [("bearer", BEARER)],
        ),
        ('Basic realm="a \\"b\\", c\\\\"', [("basic", {"realm": 'a "b", c\\'})]),
        ('Basic realm=""', [("basic", {"realm": ""})]),
        ("Negotiate", [("negotiate", {})]),
        ("NTLM TlRMTVNTUAAB==, Basic realm=x", [("ntlm", {}), ("basic", {"realm": "x"})]),
        ("Negotiate, , Basic realm=x,", [("negotiate", {}), ("basic", {"realm": "x"})]),
        (
            'Basic realm="x", Bearer realm="y", service="z"',
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})],
        ),
        ('Basic realm="x", charset="UTF-8"', [("basic", {"realm": "x", "charset": "UTF-8"})]),
        ('Bearer realm="first", realm="second"', [("bearer", {"realm": "first"})]),
        ('Bearer service=b realm="a"', [("bearer", {})]),
        ('Bearer realm="unterminated', [("bearer", {})]),
        ('Basic realm="x", =, Bearer realm="y"', [("basic", {"realm": "x"})]),
        ("", []),
        (" , ,", []),
        ('realm="x"', []),
        ('"Bearer" realm="x"', []),
    ],
)
def test_forms(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    """Up to where it can be read."""
    assert parse_challenges([header]) == [Challenge(*each) for each in expected]


def test_several_headers() -> None:
    """Are one list; what is wrong with one ends only that one."""
    found = parse_challenges(['Basic realm="x', "Bearer realm=y", "Basic realm=z"])
    assert [challenge.scheme for challenge in found] == ["basic", "bearer", "basic"]


_token = st.text("abcdefghijklmnopqrstuvwxyz!#$%&'*+-.^_`|~0123456789", min_size=1, max_size=8)
_value = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)


@given(
    st.lists(st.tuples(_token, st.dictionaries(_token, _value, min_size=1, max_size=4)), max_size=4)
)
def test_what_is_written_is_read(challenges: list[tuple[str, dict[str, str]]]) -> None:
    """Quoted as the RFC has it, in one header."""
    text = ", ".join(
        f"{scheme} "
        + ", ".join(
            '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
            for name, value in parameters.items()
        )
        for scheme, parameters in challenges
    )
    assert parse_challenges([text]) == [Challenge(*each) for each in challenges]


@given(st.lists(st.text(max_size=200), max_size=3))
def test_any_text(headers: list[str]) -> None:
    """Is read to some end."""
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()


@pytest.mark.parametrize("part", ['a="', "a=", 'a="\\', "a ,", 'a="b",', "a b ", "=", '"', "a= "])
def test_a_long_header_takes_no_longer(part: str) -> None:
    """Work that grows with the square of its length would take minutes here."""
    for lead in ("", "Bearer "):
        parse_challenges([lead + part * (200_000 // len(part))])
