"""What a check found."""

from collections.abc import Awaitable, Callable
from typing import Generic, Literal, NamedTuple, TypeVar

import msgspec

Level = Literal["ok", "warning", "error", "skipped"]


class Finding(msgspec.Struct, rename="camel"):
    """One thing that a check has to say."""

    level: Level
    found: str
    """A sentence: what was seen, of what."""
    code: str = ""
    """What this is called by programs: CHECK.WHAT. Of warnings and errors only."""
    fix: str = ""
    """What to do about it: a command, or a sentence."""


Patient = TypeVar("Patient")


class Check(NamedTuple, Generic[Patient]):
    """Looks at one thing. What it finds has codes that begin with its `name`."""

    name: str
    look: Callable[[Patient], Awaitable[list[Finding]]]
    needs: tuple[str, ...] = ()
    """Checks without which this one tells nothing: skipped if one of them found an error."""


def ok(found: str) -> Finding:
    """All is as it should be."""
    return Finding("ok", found)


def skipped(why: str) -> Finding:
    """It could not be looked at."""
    return Finding("skipped", why)


def warning(code: str, found: str, fix: str) -> Finding:
    """It works, and will not for ever, or not as well as it could."""
    return Finding("warning", found, code, fix)


def error(code: str, found: str, fix: str) -> Finding:
    """It does not work."""
    return Finding("error", found, code, fix)
