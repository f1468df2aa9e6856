"""Settings of upstreams: what is taken, what is refused and how that is said."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from oci_mesh.errors import ConfigError, NameInvalid
from oci_mesh.upstream_config import (
    PUBLIC,
    Place,
    UpstreamConfig,
    parse_upstreams,
    with_public,
)


def test_a_name_is_enough() -> None:
    """The rest is as most registries are."""
    config = UpstreamConfig(name="Registry.Test:5000")
    assert config.name == "registry.test:5000"
    assert config.urls == ("https://registry.test:5000",)
    assert config.places == {Place("https", "registry.test", 5000)}
    assert not config.has_credentials
    assert config.repository("library/app") == "library/app"
    assert UpstreamConfig(name="[::1]:5000").places == {Place("https", "::1", 5000)}


def test_docker_io_is_not_where_its_name_says() -> None:
    """Nor are its tokens; both can be set."""
    config = UpstreamConfig(name="docker.io")
    assert config.urls == ("https://registry-1.docker.io",)
    assert config.realm_places == {Place("https", "auth.docker.io", 443)}
    other = UpstreamConfig(name="docker.io", urls=("http://mirror.lan",), realms=("x.test",))
    assert other.places == {Place("http", "mirror.lan", 80)}
    assert other.realm_places == {Place("https", "x.test", 443)}


def test_public_registries() -> None:
    """Are each there once, as configured if they are."""
    ours = UpstreamConfig(name="quay.io", urls=("https://mirror.test",))
    merged = with_public([ours, UpstreamConfig(name="registry.test")])
    assert {config.name for config in PUBLIC} < {config.name for config in merged}
    assert [config.urls for config in merged if config.name == "quay.io"] == [ours.urls]
    assert len(merged) == len(PUBLIC) + 1
    assert not any(config.has_credentials or config.private for config in PUBLIC)


@pytest.mark.parametrize(
    ("text", "place", "shown"),
    [
        ("a.test", Place("https", "a.test", 443), "https://a.test"),
        ("A.test:5000", Place("https", "a.test", 5000), "https://a.test:5000"),
        ("http://a.test", Place("http", "a.test", 80), "http://a.test"),
        ("http://10.0.0.1:9000", Place("http", "10.0.0.1", 9000), "http://10.0.0.1:9000"),
        ("[0:0::1]:5000", Place("https", "::1", 5000), "https://[::1]:5000"),
        ("https://a.test/path", Place("https", "a.test", 443), "https://a.test"),
    ],
)
def test_places(text: str, place: Place, shown: str) -> None:
    """Are scheme, host and port, written in one way."""
    config = UpstreamConfig(name="x.test", redirects=(text,), realms=(text,))
    assert config.redirect_places == config.realm_places == {place}
    assert str(place) == shown


def test_rewrites() -> None:
    """The first whose pattern is the whole name; without one, the name as it is."""
    config = UpstreamConfig(
        name="x.test",
        rewrite=(("library/(.*)", r"dockerhub/\1"), ("(.*)/app", r"\1/application"), ("b", "-")),
    )
    assert config.repository("library/app") == "dockerhub/app"
    assert config.repository("team/app") == "team/application"
    assert config.repository("team/app2") == "team/app2"
    with pytest.raises(NameInvalid):
        config.repository("b")


FILE = Path("secret")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"name": "a@b"}, "HOST"),
        ({"name": "http://a"}, "HOST"),
        ({"name": "a/b"}, "HOST"),
        ({"name": ""}, "HOST"),
        ({"urls": ("x.test",)}, "url is https"),
        ({"urls": ("ftp://x.test",)}, "url is https"),
        ({"urls": ("https://",)}, "url is https"),
        ({"urls": ("https://u@x.test",)}, "username and password-file"),
        ({"urls": ("https://x.test?a=b",)}, "https://HOST:PORT/PATH"),
        ({"urls": ("https://x.test/#a",)}, "https://HOST:PORT/PATH"),
        ({"urls": ("https://x.test/%2e",)}, "https://HOST:PORT/PATH"),
        ({"urls": ("https://é.test/",)}, "https://HOST:PORT/PATH"),
        ({"urls": ("https://x.test:0x50",)}, "HOST:PORT"),
        ({"urls": ("https://x.test:99999",)}, "HOST:PORT"),
        ({"urls": ("https://x y.test",)}, "HOST:PORT"),
        ({"redirects": ("",)}, "HOST:PORT"),
        ({"redirects": ("*.x.test",)}, "HOST:PORT"),
        ({"redirects": ("u@x.test",)}, "HOST:PORT"),
        ({"realms": ("ftp://x.test",)}, "HOST:PORT"),
        ({"username": "u"}, "go together"),
        ({"password_file": FILE}, "go together"),
        ({"username": "u:v", "password_file": FILE}, "colon"),
        ({"username": "u\n", "password_file": FILE}, "control"),
        ({"username": "u", "password_file": FILE, "token_file": FILE}, "choose one"),
        ({"urls": ("http://a", "https://b"), "token_file": FILE}, "choose one kind"),
        ({"private": True, "token_file": FILE}, "private"),
        ({"capabilities": ()}, "pull and resolve"),
        ({"capabilities": ("push",)}, "pull and resolve"),
        ({"rewrite": (("(", "x"),)}, r"rewrite '\('"),
        ({"rewrite": (("a", r"\1"),)}, "rewrite 'a'"),
        ({"rewrite": (("a", r"\g<b>"),)}, "rewrite 'a'"),
    ],
)
def test_what_cannot_be_used(settings: dict[str, Any], named: str) -> None:
    """Is refused by name."""
    with pytest.raises(ConfigError, match=f"^upstream.*{named}"):
        UpstreamConfig(**({"name": "registry.test"} | settings))


def parse(text: str) -> tuple[UpstreamConfig, ...]:
    """As `serve` does."""
    return parse_upstreams(tomllib.loads(text)["upstream"])


def test_a_file() -> None:
    """Every key; one value or a list; with hyphens or without."""
    full, short = parse(
        r"""
        [upstream."Registry.corp:5000"]
        url = ["https://a.corp", "https://b.corp"]
        ca = "/etc/corp.pem"
        username = "mesh"
        password-file = "/run/secrets/corp"
        capabilities = "pull"
        rewrite = { 'library/(.*)' = 'x/\1', '(.*)' = 'y/\1' }
        private = false
        redirects = ["store.corp:9000"]
        realms = "auth.corp"

        [upstream."docker.io"]
        token_file = "/run/secrets/hub"
        """
    )
    assert full == UpstreamConfig(
        name="registry.corp:5000",
        urls=("https://a.corp", "https://b.corp"),
        ca=Path("/etc/corp.pem"),
        username="mesh",
        password_file=Path("/run/secrets/corp"),
        capabilities=("pull",),
        rewrite=(("library/(.*)", r"x/\1"), ("(.*)", r"y/\1")),
        redirects=("store.corp:9000",),
        realms=("auth.corp",),
    )
    assert full.repository("library/app") == "x/app"
    assert short == UpstreamConfig(name="docker.io", token_file=Path("/run/secrets/hub"))
    assert parse("[upstream]") == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("upstream = 1", "not a table"),
        ('upstream = ["docker.io"]', "not a table"),
        ('[upstream]\n"docker.io" = true', "docker.io is not a table"),
        ('[upstream."x.test"]\npassword = "x"', "unknown keys: password; known: url, ca"),
        ('[upstream."x.test"]\nname = "y"', "unknown keys: name"),
        ('[upstream."x.test"]\nurls = "https://y"', "unknown keys: urls"),
        ('[upstream."x.test"]\nurl = 5', "url takes"),
        ('[upstream."x.test"]\nurl = []', "url takes"),
        ('[upstream."x.test"]\nurl = [1]', "url takes"),
        ('[upstream."x.test"]\nca = ""', "ca takes the path"),
        ('[upstream."x.test"]\npassword-file = ["a"]', "password-file takes the path"),
        ('[upstream."x.test"]\nprivate = "yes"', "private takes true or false"),
        ('[upstream."x.test"]\nrewrite = "a"', "rewrite takes a table"),
        ('[upstream."x.test"]\nrewrite = { a = 1 }', "rewrite takes a table"),
        ('[upstream."x.test"]\n[upstream."X.test"]', "x.test is there twice"),
        ('[upstream.docker.io]\nurl = "https://y"', r'write \[upstream\."docker\.io"\]'),
    ],
)
def test_what_is_wrong_in_a_file(text: str, named: str) -> None:
    """Is named, with what would be right."""
    with pytest.raises(ConfigError, match=named):
        parse(text)
