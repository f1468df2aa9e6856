"""Settings that cannot be used are refused, by name, before anything starts."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from oci_mesh.config import NodeConfig, split_address
from oci_mesh.errors import ConfigError
from oci_mesh.upstream_config import UpstreamConfig


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:5000", ("::1", 5000)),
        ("a-name.b_c:65535", ("a-name.b_c", 65535)),
    ],
)
def test_an_address_is_host_and_port(text: str, expected: tuple[str, int]) -> None:
    """IPv6 in brackets, which are taken off."""
    assert split_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a", ":5000", "a:", "a:b", "a:-1", "a:65536", "::1:5000", "[::1]", "a:5000 ", "a:٣", "1"],
)
def test_what_is_no_address_is_refused_with_the_form_of_one(text: str) -> None:
    """Wherever an address is asked for."""
    with pytest.raises(ConfigError, match="HOST:PORT"):
        split_address(text)
    for setting in ("listen", "mesh_listen", "advertise"):
        with pytest.raises(ConfigError):
            NodeConfig(root=Path("x"), **{setting: text})  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        NodeConfig(root=Path("x"), join=("a:1", text))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sparse": "maybe"}, "sparse"),
        ({"copies": 0}, "copies"),
        ({"upload_expiry": 0.0}, "upload_expiry"),
        ({"upload_expiry": -1.0}, "upload_expiry"),
        ({"drain": -1.0}, "drain"),
        ({"certificate_life": 0.0}, "certificate_life"),
        ({"upload_rate": -1}, "upload_rate"),
        ({"upload_rate": 99_999}, "upload_rate"),
        ({"download_rate": 1}, "download_rate"),
        ({"max_connections": 15}, "max_connections"),
        ({"disk_limit": -1}, "disk_limit"),
        ({"disk_reserve": -1}, "disk_reserve"),
        ({"tag_ttl": -1.0}, "tag_ttl"),
        ({"tag_ttl": math.nan}, "tag_ttl"),
        ({"stale_limit": math.inf}, "stale_limit"),
        ({"private": "all"}, "private"),
        ({"keep": ""}, "keep"),
        ({"cache_limit": -1}, "cache_limit"),
        ({"cache_share": 0.0}, "cache_share"),
        ({"cache_share": 1.01}, "cache_share"),
        ({"upstreams": (UpstreamConfig(name="a"), UpstreamConfig(name="a"))}, "upstreams: a"),
        ({"insecure": True, "token": "x"}, "insecure"),
        ({"insecure": True, "ca": Path("x")}, "insecure"),
    ],
)
def test_a_bad_value_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    """So that the message can be acted on."""
    with pytest.raises(ConfigError, match=named):
        NodeConfig(root=Path("x"), **settings)


def test_only_the_root_is_needed_and_clients_are_local_by_default() -> None:
    """Nothing is open to the network unless somebody said so."""
    config = NodeConfig(root="store")  # type: ignore[arg-type]  # a str will do
    assert config.root == Path("store")
    assert config.listen.startswith("127.0.0.1:")
    assert config.mesh_listen.startswith("127.0.0.1:")
    assert config.join == ()


def test_every_setting_has_a_text_and_can_be_shown() -> None:
    """For --help, and for what a daemon prints when it starts."""
    upstreams = (UpstreamConfig(name="a.corp", urls=("http://a",)), UpstreamConfig(name="b.corp"))
    config = NodeConfig(root=Path("/x"), join=("a:1", "b:2"), copies=3, upstreams=upstreams)
    assert all(field.metadata["help"].endswith(".") for field in fields(config))
    shown = config.shown()
    assert shown.keys() == {field.name for field in fields(config)}
    assert shown["join"] == "a:1 b:2"
    assert shown["upstreams"] == "a.corp b.corp"
    assert shown["copies"] == "3"
    assert shown["name"] == ""
