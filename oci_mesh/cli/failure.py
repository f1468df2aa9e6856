"""How the CLI says that something did not work: what happened, to what, and what to do next.

Not here: wrong usage, which is click's (exit code 2), and our own faults (`AssertionError`).
"""

from typing import Final

from oci_mesh.errors import OperationFailed

# Names and texts in errors come from archives and registries; a line of them is enough.
MAX_SHOWN: Final = 120


class Failure(OperationFailed):
    """An operation that failed for a reason outside of this program; exit code 1."""


def shown(text: str) -> str:
    """Foreign text, fit for one line of a terminal: escaped (no control codes) and cut."""
    quoted = repr(text)
    return quoted if len(quoted) <= MAX_SHOWN else quoted[:MAX_SHOWN] + "…"


def first_failure(group: BaseExceptionGroup) -> BaseException:
    """The first single error of what a task group raised: the others followed from it."""
    first = group.exceptions[0]
    return first_failure(first) if isinstance(first, BaseExceptionGroup) else first
