"""The time of day, for tests of what was used when."""

from collections.abc import Iterator

import pytest


class Clock:
    """The time of day, as a test wants it."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.5

    def __call__(self) -> float:
        """As `time.time`."""
        return self.now_s

    def second(self) -> int:
        """One second later, in whole seconds."""
        self.now_s += 1
        return int(self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """`time.time` for as long as the test runs."""
    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr("time.time", clock)
        yield clock
