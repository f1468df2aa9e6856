"""One kept-alive connection to another node, which carries one request at a time.

Bytes are received into a buffer that all connections share and are gone when the next come. That is
sound because asyncio asks for the buffer, fills it and says so without giving way to anything else:
`_SelectorSocketTransport._read_ready__get_buffer`, and `SSLProtocol._do_read__buffered` for what it
decrypts, in CPython 3.11 to 3.13.

A `rate` is kept by not reading on: the window of TCP then closes, and the other end waits.

Not here: when a connection is opened, kept or given up (`bulk.py`), and who sees to `deadline`.
"""

import asyncio
import math
import socket
import ssl
from collections.abc import Callable
from typing import Final, NamedTuple

from oci_mesh.errors import PeerError
from oci_mesh.mesh.bulk_http import (
    CONTENT,
    HEAD_END,
    MAX_HEAD_BYTES,
    Head,
    body_length,
    parse_head,
)
from oci_mesh.swarm.rate import Rate

Sink = Callable[[memoryview], None]

# A pause that is not worth the two calls of the kernel; the next one is longer by it.
_SHORTEST_PAUSE_S: Final = 0.001

# Of a body, so much is waited for before it is looked at. A link that is slower than this process
# would otherwise wake it for every few kB: measured, half of its CPU at 100 Mbit/s.
WAKE_BYTES: Final = 256 * 1024
MAX_RECORD_BYTES: Final = 17 * 1024  # of TLS: RFC 8446 §5.2, rounded up

# Of what went wrong with a node, as much as is worth logging.
_MAX_REASON_LENGTH: Final = 300


class NoneFree(PeerError):
    """All connections that this node may have are busy: no fault of the one to be asked."""


class PeerUnreachable(PeerError):
    """There is no connection to it: refused, no answer, or not the node that it should be."""


class PeerStalled(PeerError):
    """It is connected, and silent for too long."""


class PeerCut(PeerError):
    """It closed the connection before the answer had ended."""


class PeerNonsense(PeerError):
    """It answered with something that our nodes do not send."""


class Order(NamedTuple):
    """One request, and what is to be done with its answer."""

    request: bytes
    sink: Sink | None
    """For the body, if that is content; None drops it."""
    length: int
    """Of that body, in bytes."""
    head_s: float
    """From the request to the end of the answer's head."""
    stall_s: float
    """Between two arrivals of the body."""


class Connection(asyncio.BufferedProtocol):
    """A protocol for `loop.create_connection`; `opened` and `lost` are called once or never."""

    def __init__(
        self,
        address: str,
        peer: str | None,
        buffer: memoryview,
        opened: Callable[["Connection"], None],
        lost: Callable[["Connection"], None],
        rate: Rate | None = None,
    ) -> None:
        self.address = address
        self.peer = peer
        self.deadline = math.inf
        """On the loop's clock: when `expire` is due."""
        self.answered = False
        """Whether a byte of an answer to the last request has come."""
        self._buffer = buffer if rate is None else buffer[: rate.slice_bytes]
        self._rate = rate
        self._paused_until = 0.0
        self._pause: asyncio.TimerHandle | None = None
        self._opened = opened
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self._secret = False
        self._answers = 0
        # Of the request under way:
        self._order: Order | None = None
        self._answer: asyncio.Future[Head] | None = None
        self._head_bytes = bytearray()
        self._head: Head | None = None
        self._left = 0
        self._wakes_at = 1

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return not self._closed and self._answer is None

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The session, after the handshake; None if this is a plain connection."""
        assert self._transport is not None, "not connected"
        session: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        return session

    async def exchange(self, order: Order) -> Head:
        """Send the request; return when the whole answer has been received and given to the sink.

        Raises `PeerStalled`, `PeerCut`, `PeerNonsense`, or what the sink raised; the connection is
        closed then, and also when this is cancelled.
        """
        assert self.reusable, "closed, or a request is under way"
        assert self._transport is not None, "not connected"
        self.answered = False
        self._order = order
        self._head = None
        self._head_bytes.clear()
        answer: asyncio.Future[Head] = self._loop.create_future()
        self._answer = answer
        self.deadline = max(self._loop.time(), self._paused_until) + order.head_s
        self._transport.write(order.request)
        try:
            return await answer
        finally:
            if self._answer is answer:  # cancelled half-way
                self.abort()

    def abort(self) -> None:
        """Close at once. A request under way is forgotten, its sink not called again."""
        self._closed = True
        self._answer = self._order = None
        if self._transport is not None:
            self._transport.abort()

    def fail(self, error: Exception) -> None:
        """Close at once; a request under way raises `error`."""
        answer = self._answer
        self.abort()
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def expire(self) -> None:
        """The deadline has passed: of a request, or of being kept without one."""
        if self._order is None:
            self.abort()
        elif self._head is None:
            self.fail(PeerStalled(f"{self.address} gave no answer in {self._order.head_s:g} s"))
        elif self._wakes_at > 1:  # it may be slow: look at the little that has come
            self.deadline = self._loop.time() + self._order.stall_s
            self._wake_at(1)
        else:
            silent_s = self._order.stall_s
            self.fail(PeerStalled(f"{self.address} sent nothing for {silent_s:g} s"))

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """With TLS, after the handshake."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._secret = self.tls is not None
        self._opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The shared buffer, or its beginning: nothing in it is still needed."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Use the bytes at once, for the buffer is not ours after this."""
        if self._answer is None:  # nothing was asked
            self.abort()
            return
        try:
            if self._head is None:
                self._take_head(nbytes)
            else:
                self._take_body(0, nbytes)
        except Exception as error:  # noqa: BLE001 - whatever a sink raises is its caller's
            self.fail(error)

    def eof_received(self) -> None:
        """The other end closed."""
        self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        """The last call: also after `abort`."""
        if self._pause is not None:
            self._pause.cancel()
        self._end(error)
        self._lost(self)

    # -- the answer

    def _take_head(self, nbytes: int) -> None:
        """The first bytes of an answer; most often all of its head, and the body's beginning."""
        assert self._order is not None
        self.answered = True
        known = len(self._head_bytes)
        self._head_bytes += self._buffer[: min(nbytes, MAX_HEAD_BYTES - known)]
        end = self._head_bytes.find(HEAD_END, max(0, known - len(HEAD_END) + 1))
        if end < 0:
            if len(self._head_bytes) == MAX_HEAD_BYTES:
                raise self._nonsense(f"a head over {MAX_HEAD_BYTES} bytes")
            return
        try:
            head = parse_head(self._head_bytes[:end])
            self._left = body_length(head, self._order.length)
        except ValueError as error:
            raise self._nonsense(str(error)) from None
        self._head = head
        self._take_body(end + len(HEAD_END) - known, nbytes)

    def _take_body(self, start: int, end: int) -> None:
        """Bytes `start` to `end` of the buffer."""
        assert self._order is not None
        assert self._head is not None
        size = end - start
        if size > self._left:
            raise self._nonsense("more bytes than it announced")
        now = self._loop.time()
        if size and self._rate is not None and self._head.status in CONTENT:
            self._stop_reading(now, self._rate.received(size, now))
        self.deadline = max(now, self._paused_until) + self._order.stall_s
        self._left -= size
        if size and self._order.sink is not None and self._head.status in CONTENT:
            # Released after the call: a sink that keeps the view fails, instead of reading what
            # comes next.
            with self._buffer[start:end] as part:
                self._order.sink(part)
        self._wake_at(self._left)
        if self._left == 0:
            self._finish(self._head)

    def _wake_at(self, size: int) -> None:
        """Have the kernel wait for so many bytes of what is still to come (1 for a head) before it
        says that there are any. With TLS a part of the next record may be out of its hands already,
        and where reading is paused for a rate, much more.
        """
        if self._rate is not None:
            return
        size = max(1, min(size - (MAX_RECORD_BYTES if self._secret else 0), WAKE_BYTES))
        if size != self._wakes_at and self._transport is not None:
            self._wakes_at = size
            connection = self._transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _stop_reading(self, now: float, for_s: float) -> None:
        """Until what has come is paid for; also if that was the last of an answer."""
        assert self._transport is not None
        if for_s < _SHORTEST_PAUSE_S:
            return
        self._paused_until = now + for_s
        self._transport.pause_reading()
        self._pause = self._loop.call_at(self._paused_until, self._transport.resume_reading)

    def _finish(self, head: Head) -> None:
        answer, self._answer, self._order = self._answer, None, None
        self._answers += 1
        self.deadline = math.inf
        if head.closes:
            self.abort()
        if answer is not None and not answer.done():
            answer.set_result(head)

    def _end(self, error: Exception | None) -> None:
        reason = "" if error is None else f": {str(error)[:_MAX_REASON_LENGTH]}"
        if self._secret and not self._answers and not self.answered:
            # With TLS 1.3 the other end says only after our handshake that it refuses us.
            self.fail(PeerUnreachable(f"{self.address} refused us after the handshake{reason}"))
        else:
            self.fail(PeerCut(f"{self.address} closed the connection{reason}"))

    def _nonsense(self, what: str) -> PeerNonsense:
        return PeerNonsense(f"{self.address} answered nonsense: {what[:_MAX_REASON_LENGTH]}")
