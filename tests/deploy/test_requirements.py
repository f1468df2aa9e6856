"""deploy/requirements.txt: what the image and the bundle install is all that is needed, pinned."""

import re
import tomllib

from tests.deploy.unit import DEPLOY

PROJECT = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())

_PINNED = re.compile(r"(?m)^([a-z0-9-]+)==\S+(.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+)")


def pinned(name: str) -> dict[str, str]:
    """Every package of the file `name`, with its hashes."""
    text = (DEPLOY / name).read_text()
    return dict(_PINNED.findall(text))


def canonical(requirement: str) -> str:
    """The package's name, as in the file."""
    return re.split(r"[<>=!~ \[;]", requirement)[0].lower().replace("_", "-")


def test_every_dependency_is_pinned_by_hash() -> None:
    """Otherwise: `make lock`."""
    for name, wanted in (
        ("requirements.txt", PROJECT["project"]["dependencies"]),
        ("build-requirements.txt", PROJECT["build-system"]["requires"]),
    ):
        lines = (DEPLOY / name).read_text().splitlines()
        found = pinned(name)
        assert len(found) == sum("==" in line for line in lines), "one has no hash"
        assert {canonical(requirement) for requirement in wanted} <= found.keys()
