"""What people do today: all pull from one registry, or a script copies to one after the other."""

from typing import Final

from benchmarks.simulator.network import Flow, Host
from benchmarks.simulator.outcome import World
from benchmarks.simulator.scenario import SOURCE, Part

# A blob is sent in so many parts, one after the other: it is seen to grow.
_PARTS: Final = 32


class _Central:
    """The source sends whole blobs to all. Deaths take receivers away; nothing else goes wrong."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queue: list[Part] = []

    def start(self) -> None:
        for part in self._world.cast.parts[1:]:
            self._world.clock.at(part.start, self._join, part)
            if part.dies is not None:
                host = self._world.hosts[part.index]
                self._world.clock.at(part.dies, self._kill, host)

    def _join(self, part: Part) -> None:
        raise NotImplementedError

    def _kill(self, host: Host) -> None:
        self._world.network.kill(host, silent=self._world.scenario.silent)

    def _send(self, part: Part, begun: int = 0) -> None:
        """Send what comes after the first `begun` bytes."""
        hosts, size = self._world.hosts, self._world.scenario.size
        flow = Flow(
            hosts[SOURCE],
            hosts[part.index],
            min(size - begun, -(-size // _PARTS)),
            (part, begun),
            left=self._left,
            arrived=self._arrived,
            cut=self._left,
        )
        self._world.network.send(flow)

    def _left(self, flow: Flow) -> None:
        part, begun = flow.subject
        done = begun + flow.size
        if done < self._world.scenario.size and flow.target.alive:
            self._send(part, done)
        else:
            self._ended()

    def _ended(self) -> None:
        """A receiver has all, or died."""

    def _arrived(self, flow: Flow) -> None:
        self._world.got(flow.target, flow.size)


class Registry(_Central):
    """All pull at once, and share its uplink."""

    def _join(self, part: Part) -> None:
        self._send(part)


class Scp(_Central):
    """One after the other, in the order of their joining. Unpacking and importing cost nothing."""

    def _join(self, part: Part) -> None:
        self._queue.append(part)
        if len(self._queue) == 1:
            self._send(part)

    def _ended(self) -> None:
        del self._queue[0]
        if self._queue:
            self._send(self._queue[0])
