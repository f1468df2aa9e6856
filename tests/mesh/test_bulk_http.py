"""The HTTP of the bulk path without a network: which answers are taken, however they are cut."""

import asyncio
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.errors import PeerError
from oci_mesh.mesh import bulk_http
from oci_mesh.mesh.bulk import PeerNonsense
from oci_mesh.mesh.bulk_connection import Connection, Order
from oci_mesh.mesh.bulk_http import MAX_HEAD_BYTES, Head
from tests.mesh.raw_server import head
from tests.nodes import noise

BUFFER_BYTES = 64


class Wire(asyncio.Transport):
    """The other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.sent += data

    def abort(self) -> None:
        """Note it."""
        self.aborted = True


async def received(
    answer: bytes, cuts: list[int], length: int, buffer: memoryview
) -> tuple[Head, bytes]:
    """What a connection makes of `answer`, when it comes in parts that end at `cuts`."""
    wire, body = Wire(), bytearray()
    opened: list[Connection] = []
    connection = Connection("peer:1", None, buffer, opened.append, lambda _: None)
    connection.connection_made(wire)
    order = Order(b"ask", body.extend, length, head_s=60, stall_s=60)
    async with asyncio.TaskGroup() as group:
        exchange = group.create_task(connection.exchange(order))
        await asyncio.sleep(0)
        edges = sorted({0, len(answer), *cuts, *range(0, len(answer), len(buffer))})
        for start, end in pairwise(edges):
            view = connection.get_buffer(-1)
            view[: end - start] = answer[start:end]
            connection.buffer_updated(end - start)
            view[:] = bytes(len(view))  # as if another connection had used it
        await asyncio.sleep(0)
        assert exchange.done(), "it waits for more"
    assert (opened, wire.sent) == ([connection], b"ask")
    assert connection.reusable is not wire.aborted
    return exchange.result(), bytes(body)


@given(data=st.data(), size=st.integers(0, 300), status=st.sampled_from(["200 OK", "206 X"]))
def test_any_segmentation_gives_the_same(data: st.DataObject, size: int, status: str) -> None:
    """Head and body, with a buffer that is smaller than either."""
    content = noise(size)
    answer = head(size, status, "X-Extra: 1") + content
    cuts = data.draw(st.lists(st.integers(1, len(answer) - 1)))
    got, body = asyncio.run(received(answer, cuts, size, memoryview(bytearray(BUFFER_BYTES))))
    assert got.status == int(status[:3])
    assert got.headers == {
        "content-type": "x/y",
        "content-length": str(size),
        "x-extra": "1",
    }
    assert body == content


@given(data=st.data(), more=st.binary(min_size=1, max_size=99))
def test_bytes_after_the_end_are_never_taken(data: st.DataObject, more: bytes) -> None:
    """In one part with the end they fail the request; alone, they close the connection."""
    content = noise(100)
    valid = head(100) + content
    cuts = data.draw(st.lists(st.integers(1, len(valid) - 1)))
    buffer = memoryview(bytearray(1024))
    _, body = asyncio.run(received(valid, cuts, 100, buffer))
    assert body == content
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(received(valid + more, cuts, 100, buffer))
    assert isinstance(caught.value.exceptions[0], PeerNonsense)


async def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    """Whoever sends them is out of step."""
    wire = Wire()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    connection = Connection("peer:1", None, buffer, lambda _: None, lambda _: None)
    connection.connection_made(wire)
    connection.buffer_updated(1)
    assert wire.aborted
    assert not connection.reusable


async def test_only_the_body_puts_the_deadline_off() -> None:
    """A head that trickles in does not live longer for it; a body lives as long as it moves."""
    wire = Wire()
    buffer = memoryview(bytearray(1024))
    connection = Connection("peer:1", None, buffer, lambda _: None, lambda _: None)
    connection.connection_made(wire)
    assert connection.deadline == math.inf
    async with asyncio.TaskGroup() as group:
        group.create_task(connection.exchange(Order(b"", None, 2, head_s=1000, stall_s=5000)))
        await asyncio.sleep(0)
        at_first = connection.deadline
        for part, moved in [(head(2)[:5], False), (head(2)[5:] + b"a", True), (b"b", True)]:
            before = connection.deadline
            buffer[: len(part)] = part
            connection.buffer_updated(len(part))
            assert (connection.deadline > before) is moved
    assert at_first < asyncio.get_running_loop().time() + 1000
    assert connection.deadline == math.inf  # nothing is awaited


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 5",
        b"HTTP/1.1  200 OK\r\nContent-Length: 5",
        b"http/1.1 200 OK\r\nContent-Length: 5",
        b"SSH-2.0-OpenSSH_9.6",
        b"\x15\x03\x03\x00\x02\x02F",
        b"HTTP/1.1 200 \xc3\xa4\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4",
        b"HTTP/1.1 206 OK\r\nContent-Length: 6",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n folded: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\nY: b",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\rb",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\0b",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 404 Not Found",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 16385",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 1" + b"0" * 5000,
    ],
)
def test_a_head_that_is_not_ours_is_refused(text: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError):  # noqa: PT011 - which one is for the log only
        bulk_http.body_length(bulk_http.parse_head(text), 5)


def test_a_head_of_ours_is_read() -> None:
    """Names in any case, values without the space around them."""
    parsed = bulk_http.parse_head(b"HTTP/1.1 503 Busy now\r\nCONTENT-LENGTH:7 \r\nRetry-After:\t1")
    assert parsed == Head(503, {"content-length": "7", "retry-after": "1"})
    assert bulk_http.body_length(parsed, 5) == 7
    assert bulk_http.parse_head(b"HTTP/1.1 204").status == 204
    assert bulk_http.body_length(Head(204, {}), 5) == 0
    assert not parsed.closes
    assert Head(200, {"connection": "Close"}).closes


async def test_a_head_of_the_greatest_size_is_taken_and_one_byte_more_is_not() -> None:
    """However it is cut."""
    room = MAX_HEAD_BYTES - len(head(3, "200 OK", "X: "))
    for extra, taken in [(room, True), (room + 1, False)]:
        answer = head(3, "200 OK", "X: " + "x" * extra) + b"abc"
        for cuts in ([], [5000], [MAX_HEAD_BYTES]):
            buffer = memoryview(bytearray(2 * MAX_HEAD_BYTES))
            if taken:
                assert (await received(answer, cuts, 3, buffer))[1] == b"abc"
            else:
                with pytest.raises(ExceptionGroup) as caught:
                    await received(answer, cuts, 3, buffer)
                assert isinstance(caught.value.exceptions[0], PeerError)


@pytest.mark.parametrize("bad", ["a\r\nX: y", "a\nb", "a\0b", "ä"])
def test_nothing_is_smuggled_into_a_request(bad: str) -> None:
    """Not even by our own mistake."""
    for name, value in [("X", bad), (bad, "x")]:
        with pytest.raises(AssertionError):
            bulk_http.fields({name: value})
    for path in (f"/{bad}", "/a b", "a", ""):
        with pytest.raises(AssertionError):
            bulk_http.request("peer:1", path)


def test_a_request_is_plain_http() -> None:
    """As it goes over the wire."""
    lines = bulk_http.fields({"Range": "bytes=0-1", "Prefer": "wait=5"})
    assert bulk_http.request("peer:1", "/v2/a/b?c=d", lines, "") == (
        b"GET /v2/a/b?c=d HTTP/1.1\r\nHost: peer:1\r\nRange: bytes=0-1\r\nPrefer: wait=5\r\n\r\n"
    )
