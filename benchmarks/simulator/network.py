"""Links in virtual time: what it costs to move bytes from one host to another.

An uplink is shared equally by the flows that are leaving through it (as TCP flows through one
shaper roughly are). A downlink is a queue: a flow waits there behind those that left their uplinks
before it. A flow is over when both are through with it, plus the latency; until then it holds its
place at the sender, which is back-pressure as far as a sender can see it.

Left out: TCP's slow start, losses and fairness in the small; packet headers and requests (a request
costs latency and no bytes); the receiver's back-pressure on what *other* flows of the sender get;
anything between the hosts (the core of the network is never the limit); the processors and disks.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from benchmarks.simulator.clock import Clock

# Virtual time of an uplink counts bytes, up to 10^12 of them; this is above its rounding errors.
_ROUNDING_BYTES: Final = 0.01


class Flow:
    """Bytes on their way. `left` is called at the sender, `arrived` or `cut` at the receiver."""

    __slots__ = (
        "arrived",
        "begun",
        "cut",
        "due",
        "left",
        "live",
        "size",
        "source",
        "subject",
        "target",
    )

    def __init__(
        self,
        source: "Host",
        target: "Host",
        size: int,
        subject: Any,
        left: "Callable[[Flow], None]",
        arrived: "Callable[[Flow], None]",
        cut: "Callable[[Flow], None]",
    ) -> None:
        self.source = source
        self.target = target
        self.size = size
        self.subject = subject
        self.left = left
        self.arrived = arrived
        self.cut = cut
        self.begun = 0.0
        self.due = 0.0  # in the virtual time of the uplink
        self.live = True


class Host:
    """A machine with its two link directions; rates in bytes per second."""

    __slots__ = (
        "alive",
        "down",
        "down_free",
        "flows",
        "index",
        "next",
        "of",
        "order",
        "sent",
        "served",
        "since",
        "up",
        "zone",
    )

    def __init__(self, index: int, up: float, down: float, zone: int) -> None:
        self.index = index
        self.up = up
        self.down = down
        self.zone = zone
        self.alive = True
        self.sent = 0  # bytes that left through the uplink
        self.down_free = 0.0  # when the queue before the downlink will be empty
        # Equal sharing by virtual time: a flow leaves once each flow was served so many bytes.
        self.flows: list[tuple[float, int, Flow]] = []
        self.of = 0  # live flows among them
        self.order = 0
        self.served = 0.0  # bytes that each flow was served, up to `_since`
        self.since = 0.0
        self.next = float("inf")  # the event that is set for the first flow to leave


class Network:
    """Moves flows between hosts."""

    __slots__ = ("_clock", "crossed", "latency", "zone_latency")

    def __init__(self, clock: Clock, latency: float, zone_latency: float) -> None:
        self._clock = clock
        self.latency = latency
        self.zone_latency = zone_latency
        self.crossed = 0  # bytes between zones

    def delay(self, a: Host, b: Host) -> float:
        """Seconds from one to the other, one way."""
        return self.latency if a.zone == b.zone else self.zone_latency

    def send(self, flow: Flow) -> None:
        """Begin to move its bytes."""
        host, now = flow.source, self._clock.now
        flow.begun = now
        self._serve(host, now)
        host.order += 1
        host.of += 1
        flow.due = host.served + flow.size
        heappush(host.flows, (flow.due, host.order, flow))
        self._expect(host, now)

    def abort(self, flow: Flow) -> None:
        """Stop a flow whose receiver no longer wants it: no callback but `left`, and that now."""
        if not flow.live:
            return
        flow.live = False
        host, now = flow.source, self._clock.now
        self._serve(host, now)
        host.of -= 1
        host.sent += max(0, flow.size - int(flow.due - host.served))
        self._expect(host, now)
        flow.left(flow)

    def kill(self, host: Host, *, silent: bool) -> None:
        """Take the host away. Its receivers are told by a reset after the latency, or never."""
        host.alive = False
        flows = [flow for _, _, flow in sorted(host.flows) if flow.live]
        host.flows.clear()
        host.of = 0
        host.next = float("inf")
        for flow in flows:
            flow.live = False
            if not silent:
                when = self._clock.now + self.delay(host, flow.target)
                self._clock.at(when, flow.cut, flow)

    def _serve(self, host: Host, now: float) -> None:
        """Count what each flow was served since the last time."""
        if host.of:
            host.served += (now - host.since) * host.up / host.of
        else:
            host.served = 0.0
            host.flows.clear()  # aborted ones
        host.since = now

    def _expect(self, host: Host, now: float) -> None:
        """Set an event for the first flow to leave, unless one is set that comes no later."""
        flows = host.flows
        while flows and not flows[0][2].live:
            heappop(flows)
        if not flows:
            return
        when = now + max(flows[0][0] - host.served, 0.0) * host.of / host.up
        if when < host.next:
            host.next = when
            self._clock.at(when, self._leave, host, when)

    def _leave(self, host: Host, when: float) -> None:
        """The first flows may have been served in full."""
        if when != host.next:
            return  # an earlier one was set since
        host.next = float("inf")
        now = self._clock.now
        self._serve(host, now)
        flows, done = host.flows, host.served + _ROUNDING_BYTES
        leaving = []
        while flows and (flows[0][0] <= done or not flows[0][2].live):
            flow = heappop(flows)[2]
            if flow.live:
                leaving.append(flow)
                host.of -= 1
        self._expect(host, now)
        for flow in leaving:
            self._drain(flow, now)

    def _drain(self, flow: Flow, now: float) -> None:
        """All bytes have left the uplink; they may still queue before the downlink."""
        flow.live = False
        host, target = flow.source, flow.target
        host.sent += flow.size
        if host.zone != target.zone:
            self.crossed += flow.size
        free = max(target.down_free, flow.begun) + flow.size / target.down
        target.down_free = free
        if free > now:
            self._clock.at(free, flow.left, flow)
            now = free
        else:
            flow.left(flow)
        self._clock.at(now + self.delay(host, target), self._arrive, flow)

    def _arrive(self, flow: Flow) -> None:
        if flow.target.alive:
            flow.arrived(flow)
