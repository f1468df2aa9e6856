"""Parsing what may or may not parse."""

from collections.abc import Callable
from typing import TypeVar

from oci_mesh.errors import OciError

Value = TypeVar("Value")

# An error repeats little of what was sent, escaped twice (by repr and by JSON) at worst.
MAX_BODY_LENGTH = 4000


def attempt(parse: Callable[..., Value], *arguments: object) -> Value | OciError:
    """What `parse` returns, or the `OciError` that it raises, if that is fit for a client."""
    try:
        return parse(*arguments)
    except OciError as error:
        problem = error
    assert 400 <= problem.status < 500, problem
    assert len(problem.body()) < MAX_BODY_LENGTH, problem
    return problem
