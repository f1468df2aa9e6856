"""What `docker login` and `podman login` keep, and what becomes of it."""

import base64
import json
from pathlib import Path

import pytest

from oci_mesh.cli import credentials
from oci_mesh.cli.failure import Failure


def encoded(text: str) -> str:
    """As in `auth`."""
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker's file, not there yet; podman's is in run/containers/auth.json beside it."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "docker").mkdir()
    (tmp_path / "run" / "containers").mkdir(parents=True)
    return tmp_path / "docker" / "config.json"


def podman(docker: Path) -> Path:
    """podman's file."""
    return docker.parent.parent / "run" / "containers" / "auth.json"


@pytest.mark.parametrize(
    ("kept", "registry"),
    [
        ("registry.corp", "registry.corp"),
        ("registry.corp:5000", "registry.corp:5000"),
        ("https://registry.corp/v2/", "registry.corp"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry.corp/team", "registry.corp"),
        ("registry.corp/team/app", "registry.corp"),
    ],
)
def test_names_of_registries(docker: Path, kept: str, registry: str) -> None:
    """As docker and podman write them, now and before."""
    docker.write_text(json.dumps({"auths": {kept: {"auth": encoded("user:p:w")}}}))
    found = credentials.find(registry, "team/app")
    assert found is not None
    assert (found.username, found.password, found.path) == ("user", "p:w", docker)
    assert found.basic == f"Basic {encoded('user:p:w')}"
    assert "p:w" not in repr(found)
    assert credentials.find("other.corp", "team/app") is None
    assert credentials.find("registry.corp:5001", "team/app") is None


def test_the_longest_name_counts(docker: Path) -> None:
    """Podman keeps some for a part of a registry."""
    auths = {
        name: {"auth": encoded(f"{user}:x")}
        for name, user in (
            ("r.corp", "all"),
            ("r.corp/team", "team"),
            ("r.corp/team/own", "own"),
            ("r.corp/te", "none"),
        )
    }
    podman(docker).write_text(json.dumps({"auths": auths}))
    asked = {"team/app": "team", "team/own": "own", "teams/app": "all", "app": "all"}
    for repository, user in asked.items():
        found = credentials.find("r.corp", repository)
        assert found is not None
        assert found.username == user


def test_dockers_file_comes_first(docker: Path) -> None:
    """And podman's counts for what docker's does not have."""
    assert credentials.find("r.corp", "app") is None
    podman(docker).write_text(json.dumps({"auths": {"r.corp": {"auth": encoded("podman:x")}}}))
    docker.write_text(json.dumps({"auths": {"r.corp": {"username": "docker", "password": "y"}}}))
    found = credentials.find("r.corp", "app")
    assert found is not None
    assert found.username == "docker"
    docker.write_text(json.dumps({"auths": {"r.corp": {}}, "credsStore": "desktop"}))
    found = credentials.find("r.corp", "app")
    assert found is not None
    assert found.username == "podman"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "is not a file of credentials"),
        ('{"auths": 7}', "is not a file of credentials"),
        ({"auths": {"r.corp": {"auth": "%%%"}}}, "is not USER:PASSWORD in base64"),
        ({"auths": {"r.corp": {"auth": encoded("secret")}}}, "is not USER:PASSWORD in base64"),
        ({"auths": {"r.corp": {"identitytoken": "secret"}}}, "identity token for r.corp"),
        ({"credsStore": "desktop"}, "docker-credential-desktop"),
        ({"credHelpers": {"r.corp": "ecr"}, "credsStore": "x"}, "docker-credential-ecr"),
    ],
)
def test_what_cannot_be_used(docker: Path, document: object, said: str) -> None:
    """Says which file it is, and what to do; no secret."""
    docker.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(Failure, match=said) as caught:
        credentials.find("r.corp", "app")
    assert str(docker) in caught.value.message
    assert caught.value.hint
    assert "secret" not in str(caught.value)


def test_helpers_of_others(docker: Path) -> None:
    """One that is for another registry does not stand in the way."""
    docker.write_text(json.dumps({"credHelpers": {"other.corp": "ecr"}}))
    assert credentials.find("r.corp", "app") is None
