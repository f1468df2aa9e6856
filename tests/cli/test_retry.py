"""How often, and when no more."""

import pytest

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.retry import MAX_ATTEMPTS, Patience, Transient


class Flaky:
    """Fails so many times, then answers."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    async def attempt(self) -> str:
        """Once."""
        self.calls += 1
        if self.calls <= self.failures:
            raise Transient("no connection", hint="is it running?")
        return "answer"


async def test_what_passes_is_waited_for() -> None:
    """Up to the last attempt; each new one is told."""
    notes: list[str] = []
    flaky = Flaky(MAX_ATTEMPTS - 1)
    assert await Patience(notes.append, 0).call(flaky.attempt) == "answer"
    assert notes[0] == f"no connection; attempt 2 of {MAX_ATTEMPTS}"
    assert len(notes) == MAX_ATTEMPTS - 1


async def test_what_does_not_pass_is_given_up() -> None:
    """With what happened and what to do."""
    flaky = Flaky(1_000_000)
    with pytest.raises(Failure, match=rf"no connection \({MAX_ATTEMPTS} attempts\)") as caught:
        await Patience(lambda _: None, 0).call(flaky.attempt)
    assert caught.value.hint == "is it running?"
    assert flaky.calls == MAX_ATTEMPTS


async def test_progress_counts_anew() -> None:
    """A transfer that gets on is never given up."""
    patience = Patience(lambda _: None, 0)
    for _ in range(MAX_ATTEMPTS * 3):
        await patience.after(Transient("cut"))
        patience.progress()


async def test_other_errors_are_not_repeated() -> None:
    """A refusal stays one."""

    async def refuse() -> None:
        calls.append(1)
        raise Failure("no")

    calls: list[int] = []
    with pytest.raises(Failure, match="no"):
        await Patience(lambda _: None, 0).call(refuse)
    assert calls == [1]
