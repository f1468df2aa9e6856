"""What was probably meant by a name that is not there."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean app:v1?` if one of `known` is like `name`; else empty. For a `hint`."""
    found = most_like(name, known)
    return f"did you mean {found}?" if found else ""


def most_like(name: str, known: Iterable[str]) -> str:
    """The one of `known` that is most like `name`; empty if none is like it."""
    return next(iter(get_close_matches(name, list(known), n=1)), "")
