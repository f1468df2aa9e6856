"""hosts.toml: our node comes first, and what others wrote stays."""

from pathlib import Path

import pytest

from oci_mesh.cli import hosts_toml
from tests.cli.machine import (
    HOSTS,
    NODE,
    done,
    failed,
    hosts,
    put,
)

FIRST = f'[host."{NODE}"]\n  capabilities = ["pull"]\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", FIRST),
        (
            f'{hosts_toml.HEADER}[host."https://c"]\n',
            f'{hosts_toml.HEADER}\n{FIRST}\n[host."https://c"]\n',
        ),
        ('server = "https://r"\n', f'server = "https://r"\n\n{FIRST}'),
        ('server = "https://r"', f'server = "https://r"\n\n{FIRST}'),
        (
            'server = "https://r"\n\n# the cache\n[host."https://c"]\n  skip_verify = true # !\n',
            f'server = "https://r"\n\n{FIRST}\n'
            '# the cache\n[host."https://c"]\n  skip_verify = true # !\n',
        ),
        (
            'client = [\n  ["a", "b"],\n  ["c"]]\n[host."https://c"]\n',
            f'client = [\n  ["a", "b"],\n  ["c"]]\n\n{FIRST}\n[host."https://c"]\n',
        ),
        (
            'ca = """\n[host.x]\n"""\n[host."https://c"]',
            f'ca = """\n[host.x]\n"""\n\n{FIRST}\n[host."https://c"]',
        ),
        (
            f'[host."https://c"]\n  x = 1\n\n[host."{NODE}"]\n  capabilities = ["push"]\n',
            f'{FIRST}\n[host."https://c"]\n  x = 1\n\n',
        ),
        (
            f'[host."https://c"]\n[host."{NODE}"]\n  ca = ["x"]\n'
            f'  [host."{NODE}".header]\n  y = "z"\n',
            f'[host."{NODE}"]\n  ca = ["x"]\n  header = {{y = "z"}}\n  capabilities = ["pull"]\n\n'
            '[host."https://c"]\n',
        ),
        (
            f'[host."{NODE}"]\n  capabilities = ["pull", "resolve"] # as ever\n  ca = "x"\n',
            f'[host."{NODE}"]\n  capabilities = ["pull"] # as ever\n  ca = "x"\n',
        ),
    ],
)
def test_our_node_comes_first_and_the_rest_stays(before: str, after: str) -> None:
    """To the byte; and doing it again changes nothing."""
    settings = {"capabilities": ["pull"]}
    got = hosts_toml.with_first_host(before, "h", NODE, settings)
    assert got == after
    assert hosts_toml.with_first_host(got, "h", NODE, settings) == got


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('host."http://a" = {skip_verify = true}\n', "cannot be added to"),
        ('host = {"http://a" = {}}\n', "cannot be added to"),
        ("host = 3\n", "has to be tables"),
        ("[host]\nx = 3\n", "has to be tables"),
        ("[host", "not valid TOML"),
    ],
)
def test_a_hosts_file_that_cannot_be_added_to(text: str, says: str, tmp_path: Path) -> None:
    """Is named, and nothing else is changed either."""
    put(tmp_path, f"{HOSTS}/docker.io/hosts.toml", text)
    said = failed(tmp_path, "docker.io")
    assert says in said
    assert "/etc/containerd/certs.d/docker.io/hosts.toml" in said


def test_both_forms_of_a_port_are_found(tmp_path: Path) -> None:
    """containerd looks for `host_port_` first."""
    put(tmp_path, f"{HOSTS}/a.corp_5000_/hosts.toml", "")
    done(tmp_path, "configure", "a.corp:5000", "b.corp:5000")
    assert (tmp_path / HOSTS / "a.corp_5000_" / "hosts.toml").read_text() == FIRST
    assert NODE in hosts(tmp_path, "b.corp:5000")["host"]
    assert not (tmp_path / HOSTS / "a.corp:5000").exists()


def test_names_that_only_the_mesh_has(tmp_path: Path) -> None:
    """The node is the registry; it is asked what tags mean."""
    done(tmp_path, "configure", "registry.internal", "--own")
    assert hosts(tmp_path, "registry.internal") == {
        "server": NODE,
        "host": {NODE: {"capabilities": ["pull", "resolve"]}},
    }
    assert done(tmp_path, "configure", "registry.internal", "--own") == "nothing to change\n"
    put(tmp_path, f"{HOSTS}/docker.io/hosts.toml", 'server = "https://registry-1.docker.io"\n')
    assert "leave --own away" in failed(tmp_path, "docker.io", "--own")
