"""What is shown while it runs."""

import io

import pytest
from rich.console import Console

from oci_mesh.cli.progress import LineProgress, Progress, TerminalProgress, make_progress, size_text

DIGEST = f"sha256:{'ab' * 32}"


def show(progress: Progress) -> None:
    """A transfer, a note, and a transfer that never ends."""
    with progress:
        task = progress.task(DIGEST)
        task.phase("packing", 100)
        task.at(50)
        task.phase("pushing", 1_234_567)
        progress.note("[red]no connection; attempt 2 of 6")
        task.done("pushed", DIGEST, 1_234_567)
        progress.task("other").phase("reading", None)


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe: a line for each note and each blob that is done, on standard error only."""
    show(LineProgress())
    output = capsys.readouterr()
    note, done = output.err.splitlines()
    assert note == "[red]no connection; attempt 2 of 6"
    assert done.startswith(f"pushed    {DIGEST}  1.2 MB  ")
    assert output.out == ""


def test_bars() -> None:
    """On a terminal: finished blobs and notes stay, as they are; bars do not."""
    screen = io.StringIO()
    show(TerminalProgress(Console(file=screen, force_terminal=True, width=100, color_system=None)))
    assert "[red]no connection; attempt 2 of 6\n" in screen.getvalue()
    assert f"pushed      {DIGEST[:19]}  1.2 MB\n" in screen.getvalue()


def test_a_pipe_gets_lines() -> None:
    """Standard error is captured here."""
    assert isinstance(make_progress(), LineProgress)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000_000, "2.5 GB"), (1e15, "1000.0 TB")],
)
def test_sizes(size: float, text: str) -> None:
    """In powers of ten."""
    assert size_text(size) == text
