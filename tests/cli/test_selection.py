"""Which image, which platform."""

import pytest

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.selection import (
    Candidate,
    choose_image,
    choose_platform,
    parse_platform,
    platform_text,
    runs_on,
    this_platform,
)
from oci_mesh.cli.target import resolve
from oci_mesh.errors import ConfigError
from oci_mesh.spec.manifest import Descriptor, Platform

APP = Candidate(("docker.io/library/app:v1", "v1"), "app")
DB = Candidate(("db:v2",), "db")
UNNAMED = Candidate((), "unnamed")


def image(platform: str | None) -> Descriptor:
    """An entry of an index."""
    parsed = parse_platform(platform) if platform else None
    return Descriptor("x/y", f"sha256:{'0' * 64}", 1, platform=parsed)


def test_the_only_image_needs_no_name() -> None:
    """Whatever REF is called."""
    assert choose_image([DB], None, resolve("app:v1")) == "db"
    assert choose_image([UNNAMED], None, resolve("app:v1")) == "unnamed"


@pytest.mark.parametrize("wanted", ["app:v1", "docker.io/library/app:v1", "v1", "library/app:v1"])
def test_a_name_chooses(wanted: str) -> None:
    """As the archive has it, or another way to write the same."""
    assert choose_image([APP, DB, UNNAMED], wanted, resolve("other")) == "app"


@pytest.mark.parametrize("ref", ["db:v2", "127.0.0.1:5000/db:v2"])
def test_ref_chooses(ref: str) -> None:
    """Several images, one of them called as REF, with or without the host."""
    assert choose_image([APP, DB], None, resolve(ref)) == "db"


def test_no_guessing() -> None:
    """Several that fit, or none: an error that lists them."""
    with pytest.raises(Failure, match=r"holds 2 images.*'docker.io/library/app:v1'.*'db:v2'"):
        choose_image([APP, DB], None, resolve("other:v9"))
    with pytest.raises(Failure, match="holds 2 images"):
        choose_image([DB, Candidate(("db:v2",), "twin")], None, resolve("db:v2"))
    with pytest.raises(Failure, match=r"no image is called 'x'.*\(no name\)"):
        choose_image([DB, UNNAMED], "x", resolve("db:v2"))
    with pytest.raises(Failure, match="holds no image"):
        choose_image([], None, resolve("db:v2"))


def test_a_list_of_names_is_short_and_harmless() -> None:
    """A thousand names, with escape codes in them, are cut and escaped."""
    many = [Candidate((f"\x1b[31m{'n' * 500}{i}",), i) for i in range(1000)]
    with pytest.raises(Failure, match="and 980 more") as caught:
        choose_image(many, None, resolve("app"))
    assert len(caught.value.message) < 4000
    assert "\x1b" not in caught.value.message


def test_platforms() -> None:
    """os/architecture, and perhaps a variant."""
    assert parse_platform("linux/arm/v7") == Platform("arm", "linux", "v7")
    assert platform_text(parse_platform("linux/amd64")) == "linux/amd64"
    assert platform_text(None) == "(any)"
    assert this_platform().os == "linux"


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "a//b"])
def test_what_is_no_platform(text: str) -> None:
    """Neither two nor three parts, or an empty one."""
    with pytest.raises(ConfigError):
        parse_platform(text)


def test_a_variant_counts_if_asked_for() -> None:
    """linux/arm is any of its variants; linux/arm/v7 is that one."""
    v6, v7 = parse_platform("linux/arm/v6"), parse_platform("linux/arm/v7")
    assert runs_on(v7, parse_platform("linux/arm"))
    assert runs_on(v7, v7)
    assert not runs_on(v6, v7)
    assert not runs_on(None, v7)
    index = [image(None), image("linux/arm/v6"), image("linux/arm/v7")]
    assert choose_platform(index, v7) is index[2]
    assert choose_platform(index, parse_platform("linux/arm")) is index[1]


def test_a_platform_that_is_not_offered() -> None:
    """The error lists those that are."""
    with pytest.raises(Failure, match="no image for linux/s390x: linux/amd64, linux/arm64"):
        choose_platform([image("linux/arm64"), image("linux/amd64")], parse_platform("linux/s390x"))
