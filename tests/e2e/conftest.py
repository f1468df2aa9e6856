"""What the end-to-end tests share: the images they push."""

import json
from pathlib import Path

import pytest

from tests import images
from tests.e2e.requirements import absent

GREETING = "hello from the mesh"


def runnable() -> list[images.Files]:
    """The layers of an image that runs, its last one holding `/greeting`."""
    try:
        system = images.busybox_files()
    except FileNotFoundError as error:
        absent(str(error))
    return [system, {"greeting": GREETING.encode() + b"\n"}]


def tag_digest(layout: Path, tag: str) -> str:
    """What a tag of an OCI layout points at."""
    for entry in json.loads((layout / "index.json").read_bytes())["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == tag:
            return str(entry["digest"])
    raise AssertionError(f"no tag {tag}")


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout: `image` (this architecture), `multi` (an index of two)."""
    directory = tmp_path_factory.mktemp("layout")
    here = images.host_architecture()
    other = "arm64" if here != "arm64" else "amd64"
    images.build_layout(directory, "image", *runnable(), architecture=here)
    foreign: list[images.Files] = [{"greeting": f"this is {other}\n".encode()}]
    images.build_index(directory, "multi", {here: runnable(), other: foreign})
    return directory


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `docker save` would write of the same image."""
    path = tmp_path_factory.mktemp("archive") / "image.tar"
    images.build_docker_archive(
        path, "image:v1", *runnable(), architecture=images.host_architecture()
    )
    return path
