"""Which of the mesh's images are like a name that is not there."""

from collections.abc import Iterable

import pytest

from oci_mesh.members.names import NameRegister
from oci_mesh.operations import similar
from oci_mesh.operations.similar import MAX_SIMILAR, similar_images
from oci_mesh.spec.names import NameRecord
from tests.images import sha256

DIGEST = sha256(b"an image")


def register_of(images: Iterable[str], target: str | None = DIGEST) -> NameRegister:
    """Where `app:v1` and others have a target."""
    register = NameRegister()
    for image in images:
        repository, _, name = image.partition(":")
        register.merge([NameRecord(repository, name, target, "000000000001-0000-w")])
    return register


def test_the_likeliest_first() -> None:
    """Of all repositories; what is not like it at all is left out."""
    register = register_of(["app:v1", "app:v10", "apps:v11", "zebra:latest"])
    assert similar_images(register, "app", "v11") == ["apps:v11", "app:v1", "app:v10"]
    assert similar_images(register, "quite", "another") == []


def test_no_more_than_are_worth_reading() -> None:
    """However many are like it."""
    register = register_of(f"app:v1{number}" for number in range(3 * MAX_SIMILAR))
    assert len(similar_images(register, "app", "v1")) == MAX_SIMILAR


def test_the_same_repository_is_compared_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more names than can be compared, those of others are left out, be they more alike."""
    others = [f"team/app{number}:v1" for number in range(50)]
    register = register_of([*others, "team/app:v10", "team/app:v2"])
    monkeypatch.setattr(similar, "MAX_COMPARED", 2)
    assert sorted(similar_images(register, "team/app", "v1")) == ["team/app:v10", "team/app:v2"]


def test_only_so_many_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same repository, too."""
    register = register_of(["app:v1", "app:v2", "app:v3"])
    monkeypatch.setattr(similar, "MAX_COMPARED", 2)
    assert len(similar_images(register, "app", "v")) == 2


def test_only_what_can_be_pulled_by_that_name() -> None:
    """No tag that was deleted, and no digest that was pushed again."""
    register = register_of(["app:v1"], target=None)
    register.merge([NameRecord("app", DIGEST, DIGEST, "000000000001-0000-w")])
    assert similar_images(register, "app", "v1") == []
    assert similar_images(register, "app", DIGEST) == []
