"""The uplink of a node: how many pieces it sends at a time, to whom next, and when it is too busy.

A few at a time, in the order of asking: a piece that goes out alone is soon whole, and only a
whole piece can be passed on. Many at a time would all be whole late, together. Those who are served
last have an order of their own: they get what the link would not carry otherwise.

What this does not do: limit the rate (`mesh` does), or know what the pieces are.
"""

from collections import OrderedDict
from typing import Final

# Sent at a time. One would leave the link idle between two, and wait for one slow receiver.
SENDS: Final = 4

# A node that would take longer than this before it even begins answers "busy": whoever asks has
# somebody else to ask. About what a window of pieces takes to come in.
BUSY_S: Final = 1.0

# But for so many waiting it is never busy: on a link that is slow for all, there is nobody better.
MIN_QUEUE: Final = 8

# Beyond it even those with nobody else to ask are sent away; they come again.
MAX_QUEUE: Final = 4096

_SMOOTH: Final = 0.2  # the weight of the newest send


class Uplink:
    """Sends are known by tickets (any hashable); sizes are bytes, times are seconds."""

    def __init__(self, sends: int = SENDS) -> None:
        self._sends = sends
        self._sending: dict[object, int] = {}
        self._queue: OrderedDict[object, int] = OrderedDict()
        self._queued_bytes = 0
        self._last: OrderedDict[object, int] = OrderedDict()  # sent when nothing is in the queue
        self._last_bytes = 0
        # Both fade alike: of sends that end together one took the time, all brought bytes.
        self._sent_bytes = 0.0
        self._sending_s = 0.0
        self._measured_at = 0.0

    def __len__(self) -> int:
        """How many are being sent or wait to be."""
        return len(self._sending) + len(self._queue) + len(self._last)

    @property
    def rate(self) -> float:
        """Bytes a second that go out while something does; 0 before the first."""
        return self._sent_bytes / self._sending_s if self._sending_s > 0 else 0.0

    def is_busy(self, *, last: bool = False) -> bool:
        """Whether one more would have to wait for long. Who is served last waits for all."""
        waiting, waiting_bytes = len(self._queue), self._queued_bytes
        if last:
            waiting += len(self._last)
            waiting_bytes += self._last_bytes
        return waiting >= MIN_QUEUE and waiting_bytes > BUSY_S * self.rate

    def is_full(self, *, last: bool = False) -> bool:
        """Whether there is no room even to wait."""
        return len(self._queue) + (len(self._last) if last else 0) >= MAX_QUEUE

    def enqueue(self, ticket: object, size: int, now: float, *, last: bool = False) -> list[object]:
        """Take a send; return the tickets to begin with now: this one, or none yet."""
        if last:
            self._last[ticket] = size
            self._last_bytes += size
        else:
            self._queue[ticket] = size
            self._queued_bytes += size
        if not self._sending:
            self._measured_at = now
        return self._start()

    def finished(self, ticket: object, now: float, *, sent: bool = True) -> list[object]:
        """Note that a send ended (or will not happen); return the tickets to begin with now."""
        size = self._sending.pop(ticket, None)
        if size is None:
            self._queued_bytes -= self._queue.pop(ticket, 0)
            self._last_bytes -= self._last.pop(ticket, 0)
        elif sent:
            self._sent_bytes += size - self._sent_bytes * _SMOOTH
            self._sending_s += now - self._measured_at - self._sending_s * _SMOOTH
            self._measured_at = now
        return self._start()

    def _start(self) -> list[object]:
        started = []
        while self._queue and len(self._sending) < self._sends:
            ticket, size = self._queue.popitem(last=False)
            self._queued_bytes -= size
            self._sending[ticket] = size
            started.append(ticket)
        while self._last and len(self._sending) < self._sends:  # then the queue is empty
            ticket, size = self._last.popitem(last=False)
            self._last_bytes -= size
            self._sending[ticket] = size
            started.append(ticket)
        return started
