"""How a verb ends: errors as text and exit codes, signals as a tidy stop."""

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import click

from oci_mesh.cli.failure import first_failure
from oci_mesh.errors import OciMeshError, OperationFailed

# Exit codes, for scripts. Wrong usage is click's own.
FAILED: Final = 1
MISUSED: Final = click.UsageError.exit_code
PARTLY: Final = 3
"""Some of it is done, and is not undone; running it again does the rest."""

Value = TypeVar("Value")


class ReportingGroup(click.Group):
    """Turns what a verb raises for others' faults into `error: …` and exit code 1.

    Our own faults keep their traceback: it is what a bug report needs.
    """

    def invoke(self, context: click.Context) -> Any:
        """Run the verb."""
        _stop_on_sigterm()
        if "NO_COLOR" in os.environ:
            context.color = False
        try:
            return super().invoke(context)
        except BaseExceptionGroup as group:
            error = first_failure(group)
            if not isinstance(error, (OciMeshError, OSError)):
                raise
        except (OciMeshError, OSError) as single:
            error = single
        report(error)
        raise SystemExit(FAILED)


def report(error: BaseException) -> None:
    """`error: …`, and what to do, on standard error."""
    click.echo(f"error: {_text(error)}", err=True)
    if hint := _hint(error):
        click.echo(f"hint: {hint}", err=True)


def _text(error: BaseException) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if isinstance(error, BrokenPipeError):
        return "the program that standard output goes to has ended"
    name = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{name}"


def _hint(error: BaseException) -> str:
    if isinstance(error, OperationFailed):
        return error.hint
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "free some space, or let TMPDIR name a directory on a larger disk"
    return ""


def run(work: Coroutine[Any, Any, Value]) -> Value:
    """`asyncio.run`, which SIGTERM ends as Ctrl-C does: by cancelling, then `KeyboardInterrupt`."""

    async def main() -> Value:
        task = asyncio.current_task()
        assert task is not None
        if _handles_signals():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        _stop_on_sigterm()  # the loop has put the default back


def _stop_on_sigterm() -> None:
    """As on Ctrl-C: temporary files are removed on the way out."""
    if _handles_signals():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _handles_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
