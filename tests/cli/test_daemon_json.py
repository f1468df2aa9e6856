"""daemon.json: what docker is told."""

import json
from pathlib import Path

import pytest

from tests.cli.machine import (
    NODE,
    call,
    done,
    failed,
    files,
    put,
)

DAEMON = "etc/docker/daemon.json"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, f'{{\n    "registry-mirrors": [\n        "{NODE}"\n    ]\n}}\n'),
        ("", f'{{\n    "registry-mirrors": [\n        "{NODE}"\n    ]\n}}'),
        (
            '{\n  "log-driver": "json-file",\n  "registry-mirrors": ["https://m/"]\n}\n',
            '{\n  "log-driver": "json-file",\n  "registry-mirrors": [\n'
            f'    "{NODE}",\n    "https://m"\n  ]\n}}\n',
        ),
        (
            f'{{\n\t"registry-mirrors": ["https://m", "{NODE}/"]\n}}\n',
            f'{{\n\t"registry-mirrors": [\n\t\t"{NODE}",\n\t\t"https://m"\n\t]\n}}\n',
        ),
    ],
)
def test_docker_gets_a_mirror(before: str | None, after: str, tmp_path: Path) -> None:
    """First of all, in the form that the file has; undone it is what it was."""
    if before is not None:
        put(tmp_path, DAEMON, before)
    untouched = files(tmp_path)
    assert done(tmp_path, "configure", "--for", "docker") == "changed /etc/docker/daemon.json\n"
    assert (tmp_path / DAEMON).read_text() == after
    assert done(tmp_path, "configure", "--for", "docker") == "nothing to change\n"
    shown = json.loads(done(tmp_path, "show", "--for", "docker", "--json"))
    assert shown["registries"][0]["mesh"] == "first"
    assert "reload docker" in call(tmp_path, "undo", "--for", "docker").stderr
    assert files(tmp_path) == untouched


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"registry-mirrors": "x"}', "has to be a list"),
    ],
)
def test_a_daemon_file_that_cannot_be_used(text: str, says: str, tmp_path: Path) -> None:
    """Is left alone."""
    put(tmp_path, DAEMON, text)
    assert says in failed(tmp_path, "--for", "docker")


@pytest.mark.parametrize("arguments", [["quay.io"], ["docker.io", "quay.io"], ["x", "--own"]])
def test_docker_has_mirrors_of_docker_io_only(arguments: list[str], tmp_path: Path) -> None:
    """It says how else to come to the others."""
    said = failed(tmp_path, "--for", "docker", *arguments)
    assert "docker pull 127.0.0.1:5000/" in said
