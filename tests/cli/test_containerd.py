"""`oci-mesh containerd …`, as it is called."""

import json
from pathlib import Path

import pytest

from tests.cli.machine import (
    HOSTS,
    NODE,
    call,
    configured,
    done,
    files,
    put,
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["../x"],
        ["https://docker.io"],
        ["docker.io/library"],
        ["--own"],
        ["--registry", "127.0.0.1:5000"],
        ["--registry", "ftp://a"],
        ["--registry", "http://a/path"],
        ["--registry", "http://user:secret@a"],
        ["--registry", 'http://a"b'],
        ["--for", "podman", "--migrate"],
        ["--for", "crictl"],
    ],
)
def test_what_was_typed_wrongly(arguments: list[str], tmp_path: Path) -> None:
    """Exit code 2, and nothing is changed."""
    result = call(tmp_path, "configure", *arguments)
    assert result.exit_code == 2, result.output
    assert files(tmp_path) == {}


def test_json_says_what_changed(tmp_path: Path) -> None:
    """With the difference, also if it is only shown."""
    would = json.loads(done(tmp_path, "configure", "docker.io", "--dry-run", "--json"))
    did = json.loads(done(tmp_path, "configure", "docker.io", "--json"))
    assert would == did
    changed = ["/etc/containerd/config.toml", "/etc/containerd/certs.d/docker.io/hosts.toml"]
    assert did["changed"] == changed
    assert f'+[host."{NODE}"]\n' in did["diff"]
    assert any("restart" in note for note in did["notes"])
    again = json.loads(done(tmp_path, "configure", "docker.io", "--json"))
    assert (again["changed"], again["diff"], again["notes"]) == ([], "", [])
    assert json.loads(done(tmp_path, "undo", "--json"))["changed"] == changed


def test_show(tmp_path: Path) -> None:
    """Who is asked, in which order; what can be undone."""
    empty = json.loads(done(tmp_path, "show", "--json"))
    assert (empty["hosts"], empty["registries"], empty["undo"]) == ("", [], [])
    configured(tmp_path, "debian")
    put(tmp_path, f"{HOSTS}/a.corp/hosts.toml", '[host."https://m"]\n')
    put(tmp_path, f"{HOSTS}/b.corp/hosts.toml", f'[host."https://m"]\n[host."{NODE}"]\n')
    put(tmp_path, f"{HOSTS}/c.corp/ca.crt", "")
    done(tmp_path, "configure", "docker.io")
    shown = json.loads(done(tmp_path, "show", "--json"))
    assert [(r["name"], r["mesh"], r["resolve"]) for r in shown["registries"]] == [
        ("a.corp", "no", True),
        ("b.corp", "later", True),
        ("docker.io", "first", False),
    ]
    assert len(shown["undo"]) == 2
    text = done(tmp_path, "show")
    assert f"docker.io: the mesh first (not for tags); {NODE}, the registry itself" in text
    assert "undo would put back /etc/containerd/config.toml" in text
    configured(tmp_path, "old-mirrors")
    assert "the old way is in use: mirrors.docker.io" in done(tmp_path, "show")
