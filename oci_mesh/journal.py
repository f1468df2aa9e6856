"""What a node's last pulls were like: which blobs came, from whom, and where the time went.

In memory, the last of each kind, lost with the process: for the question why a pull of just now was
slow (`oci-mesh explain`). What is written per piece is an addition or two. What it comes to in
words is not decided here (`operations.verdict`).

These records go to other nodes as they are, so what a record may hold is bounded by its types.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from oci_mesh.spec.digest import Digest

# Records of each kind: about 1 kB each with many givers, so 400 kB; the pulls of some ten images.
MAX_RECORDS: Final = 200

# Givers named in one record, those that gave most; the others are added up as `OTHERS`. No node
# knows more of a pull that went wrong after these.
MAX_GIVERS: Final = 16
OTHERS: Final = "@others"

# Kinds of faults of one giver; those of nodes are fewer, an origin's are texts.
MAX_FAULTS: Final = 8

# Where bytes came from that are not nodes. No node's id has an @.
CONTAINERD: Final = "@containerd"
KEPT: Final = "@kept"
"""They were here from an earlier attempt."""

# Bytes are looked at so often to see what the link carries, and whether anything comes at all.
SAMPLE_S: Final = 1.0

# A transfer as short says little about the link: buffers on the way hold as much.
_MIN_RATED_S: Final = 0.25

_MAX_TEXT: Final = 300

Line: TypeAlias = Annotated[str, msgspec.Meta(max_length=_MAX_TEXT, pattern=r"^[ -~]*\Z")]
"""Printable ASCII: it is shown on a terminal."""
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-1, le=2**62)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=-1.0, le=1e12)]


class Giver(msgspec.Struct, omit_defaults=True):
    """What one source gave of a blob. Times are sums over its pieces, many of them at once."""

    bytes: Number = 0
    pieces: Number = 0
    waited_s: Seconds = 0.0
    """From asking for a piece to its first byte, of pieces that came."""
    sent_s: Seconds = 0.0
    """From the first byte of a piece to its last."""
    late: Number = 0
    """Pieces that came from another in the end, which was asked as well."""
    still_s: Seconds = 0.0
    """Seconds in which nothing came at all, from anybody, while this one was asked."""
    faults: Annotated[dict[Line, Number], msgspec.Meta(max_length=MAX_FAULTS)] = {}
    """How often what went wrong."""


class Arrival(msgspec.Struct, omit_defaults=True):
    """A blob that came into this node's store, or did not. Sizes are bytes."""

    repository: Line
    digest: Line
    at: Seconds
    """When it was begun, in seconds since 1970."""
    size: Number = -1
    took_s: Seconds = 0.0
    ended: bool = False
    failure: Line = ""
    met_s: Seconds = 0.0
    """Until it was known who has it or wants it."""
    listed_s: Seconds = 0.0
    """Until the list of its pieces, or its origin, was found; of all attempts."""
    first_s: Seconds = -1.0
    """From the first question for a piece to the first piece."""
    stored_s: Seconds = 0.0
    """After the last piece: until it was durable in the store."""
    still_s: Seconds = 0.0
    """Seconds in which nothing came at all."""
    wasted: Number = 0
    """Bytes that came and were of no use: another was quicker, or they were wrong."""
    attempts: Number = 0
    cold: bool = False
    """No node had all of it: it came from outside, through this node or others."""
    wanting: Number = 0
    """Nodes that fetched it at the same time, at most; this one counts."""
    having: Number = 0
    """Nodes that had all of it, at most."""
    limit: Number = 0
    """Bytes a second that this node takes by its settings; 0: any."""
    link: Number = 0
    """Bytes a second that this node has seen come in at best, this pull included; 0: unknown."""
    givers: Annotated[dict[Line, Giver], msgspec.Meta(max_length=MAX_GIVERS + 1)] = {}


class Delivery(msgspec.Struct, omit_defaults=True):
    """A blob, or a part of one, that a client of this node asked for."""

    repository: Line
    digest: Line
    at: Seconds
    bytes: Number = 0
    """That the client took."""
    took_s: Seconds = 0.0
    opened_s: Seconds = 0.0
    """Until there was something to send."""
    waited_s: Seconds = 0.0
    """Later on, for bytes that were on their way."""
    stored: bool = False
    """It was on this machine already."""
    failure: Line = ""


Record = TypeVar("Record", Arrival, Delivery)


class Meter:
    """The best rate of coming in, of all that a node fetches together."""

    def __init__(self) -> None:
        self.best = 0
        """Bytes a second; 0 before the first."""
        self._since = 0.0
        self._bytes = 0

    def add(self, size: int, now: float) -> None:
        """So many bytes came since the call before, at most some `SAMPLE_S` ago."""
        self._bytes += size
        took_s = now - self._since
        if took_s >= SAMPLE_S:
            if took_s < 2 * SAMPLE_S:  # else nothing was fetched in between
                self.best = max(self.best, int(self._bytes / took_s))
            self._since, self._bytes = now, 0

    def rate(self, size: int, took_s: float) -> None:
        """A whole transfer: on the average, no more than the link carries."""
        if took_s >= _MIN_RATED_S:
            self.best = max(self.best, int(size / took_s))


class Taking:
    """Writes the record of one blob while it comes."""

    def __init__(self, arrival: Arrival, meter: Meter, clock: Callable[[], float]) -> None:
        self.arrival = arrival
        self._meter = meter
        self._clock = clock
        self._began = clock()
        self._moving_since = 0.0
        self._sampled_at = 0.0
        self._sampled = 0
        self._received = 0
        self._kept_before: int | None = None
        self._giver: dict[str, Giver] = {}
        self._faults: dict[str, Counter[str]] = {}

    @contextmanager
    def timed(self, field: str) -> Iterator[None]:
        """Add the time of the block to a field of the record."""
        start = self._clock()
        try:
            yield
        finally:
            took_s = self._clock() - start
            setattr(self.arrival, field, getattr(self.arrival, field) + took_s)

    def begin(self, size: int, *, cold: bool, kept: int) -> None:
        """An attempt begins to ask for pieces; `kept` bytes are here."""
        self.arrival.size = size
        self.arrival.attempts += 1
        self.arrival.cold = cold
        self._giver.clear()  # those of a failed attempt gave nothing; what went wrong stays
        if kept:
            self.giver(KEPT).bytes = kept
        if self._kept_before is None:
            self._kept_before = kept
        self._moving_since = self._sampled_at = self._clock()
        self._sampled = 0

    def giver(self, name: str) -> Giver:
        """What is noted of one source."""
        giver = self._giver.get(name)
        if giver is None:
            giver = self._giver[name] = Giver()
        return giver

    def came(self, name: str, size: int, waited_s: float = 0.0, sent_s: float = 0.0) -> None:
        """A piece that is right."""
        giver = self.giver(name)
        giver.bytes += size
        giver.pieces += 1
        giver.waited_s += waited_s
        giver.sent_s += sent_s
        if self.arrival.first_s < 0:
            self.arrival.first_s = self._clock() - self._moving_since

    def late(self, name: str) -> None:
        """A piece that came from another."""
        self.giver(name).late += 1

    def fault(self, name: str, fault: str) -> None:
        """What went wrong with it."""
        self._faults.setdefault(name, Counter())[plain(fault)] += 1

    def pieces_from(self, most: int) -> dict[str, int]:
        """Pieces by who gave them, of those that gave most."""
        pieces = Counter({name: giver.pieces for name, giver in self._giver.items()})
        return dict(pieces.most_common(most))

    def swarm(self, wanting: int, having: int) -> None:
        """How many nodes there are now that want it, and that have it."""
        arrival = self.arrival
        arrival.wanting = max(arrival.wanting, wanting)
        arrival.having = max(arrival.having, having)

    def sample(self, received: int, asked: Callable[[], Collection[str]]) -> None:
        """About once in `SAMPLE_S`: so many bytes came since the attempt began; `asked` says who
        is being asked.
        """
        now = self._clock()
        took_s = now - self._sampled_at
        if took_s < SAMPLE_S / 2:
            return
        self._meter.add(received - self._sampled, now)
        if received == self._sampled:
            self.arrival.still_s += took_s
            for name in asked():
                self.giver(name).still_s += took_s
        self._sampled_at, self._sampled = now, received

    def received(self, received: int) -> None:
        """The attempt's last piece is here; so many bytes came in all."""
        now = self._clock()
        self._meter.add(received - self._sampled, now)
        self._meter.rate(received, now - self._moving_since)
        self._sampled = received
        self._received += received

    def end(self, failure: str) -> None:
        """It is in the store, or it failed."""
        arrival = self.arrival
        arrival.took_s = self._clock() - self._began
        arrival.failure = plain(failure)
        arrival.link = self._meter.best
        of_use = sum(giver.bytes for giver in self._giver.values()) - (self._kept_before or 0)
        arrival.wasted = max(0, self._received - of_use)
        arrival.ended = True
        for name, faults in self._faults.items():
            self.giver(name).faults = dict(faults.most_common(MAX_FAULTS))
        arrival.givers = _most(self._giver)


class Journal:
    """The records of one node; `limit` is what it takes by its settings, in bytes a second."""

    def __init__(self, limit: int = 0, most: int = MAX_RECORDS) -> None:
        self.meter = Meter()
        self.limit = limit
        self._arrivals: deque[Arrival] = deque(maxlen=most)
        self._deliveries: deque[Delivery] = deque(maxlen=most)

    def take(self, repository: str, digest: Digest, clock: Callable[[], float]) -> Taking:
        """A blob that is fetched from now on."""
        arrival = Arrival(repository, str(digest), time.time(), limit=self.limit)
        self._arrivals.append(arrival)
        return Taking(arrival, self.meter, clock)

    def note(self, delivery: Delivery) -> None:
        """What a client got."""
        self._deliveries.append(delivery)

    def arrivals(self, repository: str, digests: Collection[str], most: int) -> list[Arrival]:
        """The last ones of these blobs that have ended, newest first."""
        found = (a for a in reversed(self._arrivals) if a.ended)
        return _about(found, repository, digests, most)

    def deliveries(self, repository: str, digests: Collection[str], most: int) -> list[Delivery]:
        """Likewise."""
        return _about(reversed(self._deliveries), repository, digests, most)


def _about(
    records: Iterable[Record], repository: str, digests: Collection[str], most: int
) -> list[Record]:
    found = [r for r in records if r.repository == repository and r.digest in digests]
    return found[:most]


def plain(text: str) -> str:
    """As much of a text as a record holds, without what a terminal would act on."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:_MAX_TEXT])


def _most(givers: dict[str, Giver]) -> dict[str, Giver]:
    """Those that gave most, or went wrong most, by name; the others as one."""
    order = sorted(givers, key=lambda name: (-givers[name].bytes, -givers[name].still_s, name))
    shown = {name: givers[name] for name in order[:MAX_GIVERS]}
    rest = [givers[name] for name in order[MAX_GIVERS:]]
    if rest:
        shown[OTHERS] = Giver(
            bytes=sum(g.bytes for g in rest),
            pieces=sum(g.pieces for g in rest),
            waited_s=sum(g.waited_s for g in rest),
            sent_s=sum(g.sent_s for g in rest),
            late=sum(g.late for g in rest),
            still_s=max(g.still_s for g in rest),
        )
    return shown
