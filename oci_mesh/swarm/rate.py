"""A rate that is kept: when the next bytes may go, or have been paid for.

One account of all who share the rate. Who takes is told how long to wait, and is served in the
order of taking. What was not used is worth only a little later on, so that any some seconds see
the rate, and not the idle time before them.
"""

from typing import Final

# Of time that passed unused, what may be made up for: as late as a busy event loop wakes somebody.
# Over five seconds it is two percent.
SLACK_S: Final = 0.1

# Bytes at one go, in seconds: small enough to look even, large enough to cost little.
SLICE_S: Final = 0.005

# Below, a go costs more than it moves; above, it holds the event loop for a millisecond or more.
MIN_SLICE_BYTES: Final = 16 * 1024
MAX_SLICE_BYTES: Final = 1024 * 1024


class Rate:
    """`limit` bytes a second. Times are seconds of any one clock."""

    def __init__(self, limit: int) -> None:
        assert limit > 0, limit
        self.limit = limit
        self.slice_bytes = max(MIN_SLICE_BYTES, min(MAX_SLICE_BYTES, int(limit * SLICE_S)))
        self._paid_until = 0.0

    def take(self, size: int, now: float) -> float:
        """Take `size` bytes; how many seconds to wait before they are sent."""
        start = max(self._paid_until, now - SLACK_S)
        self._paid_until = start + size / self.limit
        return max(0.0, start - now)

    def received(self, size: int, now: float) -> float:
        """Take `size` bytes that are here already; how many seconds to wait before more."""
        self.take(size, now)
        return max(0.0, self._paid_until - now)
