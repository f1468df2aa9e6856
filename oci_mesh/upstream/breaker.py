"""When a place of an upstream may be asked: not while it wants patience, nor while it is broken.

A pure state machine; `now` is in seconds of any clock that does not go back. It is *closed* until
so many failures have come in a row; then *open*: nothing is asked, everybody is told at once; and
after a rest *half open*: one request is let through as a probe, whose outcome decides.
"""

from typing import Final

# In a row, of all requests together. One operation tries a few times by itself, so that this is two
# operations that failed to the end, and a single lost answer is none.
FAILURES: Final = 5

# The first rest. Each one that ends in another failure doubles the next, up to the longest: that is
# below the time for which tags are believed, so a change is seen in time once the upstream is back.
REST_S: Final = 5.0
MAX_REST_S: Final = 30.0

# A probe of which nothing was heard for this long (its caller went away) makes room for another.
PROBE_S: Final = 10.0

# However long a registry asks for patience (docker.io: hours), after this it is asked again: limits
# are per repository or kind of request as often as not, and a 429 costs it little.
MAX_LIMITED_S: Final = 60.0


class Breaker:
    """Of one place."""

    def __init__(self) -> None:
        self._failures = 0
        self._rests = 0
        self._probing = False
        self._rest_until = 0.0
        self._limited_until = 0.0

    @property
    def _broken(self) -> bool:
        return self._failures >= FAILURES

    def admits(self, now: float) -> bool:
        """Whether a request may be made now; if the breaker is half open, this is the one probe."""
        if self.rest_s(now) > 0 or self.limited_s(now) > 0:
            return False
        if self._broken:
            self._probing = True
            self._rest_until = now + PROBE_S
        return True

    def rest_s(self, now: float) -> float:
        """For how long nothing is asked because it is broken."""
        return max(0.0, self._rest_until - now)

    def limited_s(self, now: float) -> float:
        """For how long nothing is asked because it said so."""
        return max(0.0, self._limited_until - now)

    def succeeded(self) -> None:
        """It answered: also with a refusal, or that it does not have what was asked for."""
        self._failures = self._rests = 0
        self._probing = False
        self._rest_until = 0.0

    def failed(self, now: float) -> bool:
        """It did not answer, or with its own failure. True if it gets a rest from now on."""
        if self._broken and not self._probing:
            return False  # a request from before the rest
        self._failures += 1
        self._probing = False
        if not self._broken:
            return False
        self._rest_until = now + min(REST_S * 2.0**self._rests, MAX_REST_S)
        self._rests = min(self._rests + 1, 16)
        return True

    def limited(self, now: float, retry_after_s: float) -> None:
        """It asked for patience."""
        self.succeeded()
        until = now + min(retry_after_s, MAX_LIMITED_S)
        self._limited_until = max(self._limited_until, until)
