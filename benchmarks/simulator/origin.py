"""An origin outside of the mesh: a registry that has the blobs, with one uplink for all.

It answers Range requests, each after a latency; then its pieces come one after the other, as over
one connection. Requests share its uplink equally. What is asked for in one request and no longer
wanted comes all the same while something behind it is.
"""

from collections.abc import Callable, Sequence

from benchmarks.simulator.network import Flow, Host
from benchmarks.simulator.outcome import World
from benchmarks.simulator.scenario import SOURCE, chance


class Reading:
    """One request. Calls are with an index into `sizes`; none comes after `stop`."""

    __slots__ = (
        "ahead",
        "arrived",
        "begun",
        "failed",
        "flow",
        "live",
        "next",
        "reader",
        "sizes",
        "wanted",
    )

    def __init__(
        self,
        reader: Host,
        sizes: Sequence[int],
        begun: Callable[[int], None],
        arrived: Callable[[int], None],
        failed: Callable[[], None],
    ) -> None:
        self.reader = reader
        self.sizes = sizes
        self.begun = begun
        self.arrived = arrived
        self.failed = failed
        self.next = 0
        self.wanted = set(range(len(sizes)))
        self.flow: Flow | None = None
        self.live = True


class Origin:
    """All its readings."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._host = world.hosts[SOURCE]
        self._chance = chance(world.scenario, "origin")

    def read(self, reading: Reading) -> None:
        """Begin one."""
        scenario, count = self._world.scenario, self._world.count
        soon = self._world.clock.now + scenario.origin_latency
        count("asked of the origin")
        if self._world.cast.parts[reading.reader.index].cut_off:
            self._world.clock.at(soon, self._fail, reading)
        elif self._chance.random() < scenario.refuse:
            count("refused by the origin")
            self._world.clock.at(soon, self._fail, reading)
        elif self._chance.random() < scenario.lose:
            count("lost")
        else:
            self._world.clock.at(soon, self._send, reading)

    def forget(self, reading: Reading, index: int) -> None:
        """One of its pieces is not wanted any more."""
        reading.wanted.discard(index)
        if not any(i >= reading.next for i in reading.wanted):
            self.stop(reading)

    def stop(self, reading: Reading) -> None:
        """End one."""
        reading.live = False
        reading.wanted.clear()
        if reading.flow is not None:
            self._world.network.abort(reading.flow)
            reading.flow = None

    def _fail(self, reading: Reading) -> None:
        if reading.live:
            reading.live = False
            reading.failed()

    def _send(self, reading: Reading) -> None:
        if not reading.live or not reading.reader.alive or reading.next == len(reading.sizes):
            return
        index = reading.next
        size = reading.sizes[index]
        reading.flow = Flow(
            self._host, reading.reader, size, (reading, index), self._left, self._arrived, _never
        )
        self._world.network.send(reading.flow)
        reading.begun(index)

    def _left(self, flow: Flow) -> None:
        reading, _ = flow.subject
        reading.flow = None
        reading.next += 1
        self._send(reading)

    def _arrived(self, flow: Flow) -> None:
        reading, index = flow.subject
        if index in reading.wanted:
            reading.wanted.discard(index)
            reading.arrived(index)


def _never(flow: Flow) -> None:
    raise AssertionError("an origin does not die")
