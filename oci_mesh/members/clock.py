"""A hybrid logical clock: what was written later has the greater stamp, on every node.

Nodes' wall clocks differ by some milliseconds, sometimes by minutes. A stamp is wall time while
that moves on, and a counter where it does not: a write that follows another (its writer had seen
it) always gets the greater stamp, and stamps stay near the time of day, so that their age means
something. (Kulkarni et al., "Logical Physical Clocks", 2014.)

A stamp is text, `<wall ms, 12 hex>-<counter, 4 hex>-<writer>`: lexicographic order is time order,
ties go by writer, so a store can compare and sort stamps without parsing them.

What this does not do: read a clock (`wall_ms`, milliseconds since 1970, is an argument), or keep
anything: a node that restarts observes the newest stamp that it has stored.
"""

import re
from typing import Final, TypeAlias

Stamp: TypeAlias = str

# How far ahead of our own wall clock another node's stamp may be. Without a limit, one node with
# a broken clock (or a hostile one) would drag every clock to the far future, where no honest write
# could win for years. Five minutes is what Kerberos allows: hosts without NTP are mostly nearer.
# A refused stamp is not lost: gossip offers it again until our clock has come near it.
MAX_DRIFT_MS: Final = 5 * 60 * 1000

MAX_WALL_MS: Final = 2**48 - 1  # 12 hex digits: the year 10889
MAX_COUNTER: Final = 2**16 - 1  # 4 hex digits: 65 writes per microsecond; beyond, a ms is borrowed
MAX_WRITER_LENGTH: Final = 64  # a node id; the hex of a sha256 fits

_WRITER: Final = rf"[A-Za-z0-9._-]{{1,{MAX_WRITER_LENGTH}}}"
_STAMP: Final = re.compile(rf"([0-9a-f]{{12}})-([0-9a-f]{{4}})-({_WRITER})")


class ClockDrift(ValueError):
    """A stamp from further in the future than clocks of one mesh may differ."""


class HybridClock:
    """One writer's clock. Not shared between writers: two with one name make equal stamps."""

    def __init__(self, writer: str) -> None:
        """Raise `ValueError` unless `writer` is 1 to 64 of letters, digits and `. _ -`."""
        if re.fullmatch(_WRITER, writer) is None:
            raise ValueError(f"{writer[:80]!r} cannot be a writer: 1 to 64 of A-Z a-z 0-9 . _ -")
        self._writer = writer
        self._wall_ms = 0
        self._counter = 0

    def tick(self, wall_ms: int) -> Stamp:
        """A stamp greater than every stamp that was ticked or observed here.

        It also is when `wall_ms` stands still or goes back; the clock then runs ahead of it.
        """
        if wall_ms > self._wall_ms:
            self._wall_ms, self._counter = wall_ms, 0
        elif self._counter < MAX_COUNTER:
            self._counter += 1
        else:
            self._wall_ms, self._counter = self._wall_ms + 1, 0
        assert self._wall_ms <= MAX_WALL_MS, "the wall clock is past the year 10889"
        return f"{self._wall_ms:012x}-{self._counter:04x}-{self._writer}"

    def observe(self, stamp: Stamp, wall_ms: int) -> None:
        """Note another's stamp: what is ticked from now on is greater. Idempotent.

        Raises `ClockDrift`, and notes nothing, if the stamp is more than `MAX_DRIFT_MS` ahead of
        `wall_ms`; `ValueError` if it is no stamp.
        """
        stamp_ms, counter, _ = parse_stamp(stamp)
        ahead_ms = stamp_ms - wall_ms
        if ahead_ms > MAX_DRIFT_MS:
            raise ClockDrift(f"stamp {stamp} is {ahead_ms / 1000:.0f} s ahead of this node's clock")
        self._wall_ms, self._counter = max((self._wall_ms, self._counter), (stamp_ms, counter))


def parse_stamp(text: str) -> tuple[int, int, str]:
    """The wall time in ms, the counter and the writer of a stamp; `ValueError` if it is none."""
    match = _STAMP.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:100]!r} is not a stamp")
    wall, counter, writer = match.groups()
    return int(wall, 16), int(counter, 16), writer
