"""Blobs in parts: over cuts, stalls and wrong answers, the right bytes or an error."""

import asyncio
import random
from contextlib import aclosing

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from oci_mesh.errors import (
    NoRanges,
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from oci_mesh.spec.digest import Digest
from oci_mesh.upstream import http
from oci_mesh.upstream.client import PROGRESS_BYTES, UpstreamClient
from oci_mesh.upstream.retry import MAX_ROUNDS
from tests.upstream.conftest import client_of
from tests.upstream.fake import FakeRegistry, Handler, redirect, serving, status

BLOB = random.Random(1).randbytes(1_000_000)
DIGEST = Digest.of(BLOB)


async def read(
    client: UpstreamClient, start: int = 0, stop: int = len(BLOB), *, skip: bool = False
) -> bytes:
    """All of it."""
    async with aclosing(client.read_blob("app", DIGEST, start, stop, skip=skip)) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.fixture
def having(registry: FakeRegistry) -> FakeRegistry:
    """A registry with the blob."""
    registry.add_blob(BLOB)
    return registry


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, len(BLOB)), (999_999, len(BLOB)), (5, 9)])
async def test_a_part(having: FakeRegistry, client: UpstreamClient, start: int, stop: int) -> None:
    """With one request, and no byte more than asked for."""
    assert await read(client, start, stop) == BLOB[start:stop]
    assert having.sent == stop - start
    assert having.seen[0].headers["Range"] == f"bytes={start}-{stop - 1}"
    assert len(having.seen) == 1


async def test_nothing_costs_nothing(having: FakeRegistry, client: UpstreamClient) -> None:
    """No request has that range."""
    assert await read(client, 7, 7) == b""
    assert having.seen == []


async def test_connections_are_used_again(having: FakeRegistry, client: UpstreamClient) -> None:
    """Parts after each other cost one connection."""
    ports = set()

    async def note(request: web.Request) -> None:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername"))

    having.gates = [note]
    for start in range(0, len(BLOB), 100_000):
        await read(client, start, start + 100_000)
    assert len(ports) == 1


async def test_a_cut_is_gone_on_from(having: FakeRegistry, client: UpstreamClient) -> None:
    """More often than one operation may fail, as long as it gets on; no byte is asked for twice."""
    cuts = 3 * MAX_ROUNDS
    having.faults = [having.cut(PROGRESS_BYTES)] * cuts
    assert await read(client) == BLOB
    assert having.sent == len(BLOB)
    starts = [int(seen.headers["Range"][6:].partition("-")[0]) for seen in having.seen]
    assert starts == [PROGRESS_BYTES * number for number in range(cuts + 1)]


async def test_cuts_without_progress(having: FakeRegistry, client: UpstreamClient) -> None:
    """A registry that is worth no request for each few bytes gets none."""
    having.faults = [having.cut(1)] * 100
    with pytest.raises(UpstreamUnavailable):
        await read(client)
    assert len(having.seen) == MAX_ROUNDS


async def test_what_came_before_a_failure_is_given(
    having: FakeRegistry, client: UpstreamClient
) -> None:
    """And it is right."""
    having.faults = [having.cut(100_000)] + [status(500)] * 10
    got = b""
    try:
        async for chunk in client.read_blob("app", DIGEST, 0, len(BLOB)):
            got += chunk
    except UpstreamUnavailable:
        assert got == BLOB[:100_000]
    else:
        pytest.fail("nothing was wrong?")


async def test_a_stall_is_gone_on_from(
    having: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while without a byte."""
    assert http.STALL_S == 5.0
    monkeypatch.setattr(http, "STALL_S", 0.2)
    gone = asyncio.Event()

    async def wait(_: web.Request) -> None:
        await gone.wait()

    having.faults = [having.begins(100_000, wait)]
    async with client_of(having.url) as client:
        assert await read(client) == BLOB
        gone.set()
    assert having.seen[1].headers["Range"].startswith("bytes=100000-")


async def test_the_next_url_goes_on(having: FakeRegistry) -> None:
    """From where the first was cut; it is the first one's turn again after the last."""
    other = FakeRegistry()
    other.add_blob(BLOB)
    having.faults = [having.cut(100_000)]
    async with serving(other), client_of(having.url, other.url) as client:
        assert await read(client) == BLOB
        assert (having.sent, other.sent) == (100_000, 900_000)
        assert await read(client, 0, 9) == BLOB[:9]
        assert having.sent == 100_009


def says(range_: str, body: bytes = b"", code: int = 206) -> Handler:
    """A fault: this Content-Range."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, body=body, headers={"Content-Range": range_})

    return answer


@pytest.mark.parametrize(
    "wrong",
    [
        says("bytes 0-9/1000000"),
        says("bytes 100-199/150"),
        says("bytes 100-198/1000000"),
        says("bytes 100-299/1000000"),
        says("bytes 99-198/1000000"),
        says("bytes 100-199"),
        says("items 100-199/1000000"),
        says("bytes */1000000", code=416),
        says(f"bytes 100-199/{'9' * 5000}"),
        says(""),
        status(206),
        status(404),
        status(204),
        says("bytes 100-199/1000000", b"short", 200),
    ],
)
async def test_answers_to_another_question(
    having: FakeRegistry, client: UpstreamClient, wrong: Handler
) -> None:
    """None of it is taken, and the registry not asked again."""
    having.faults = [wrong]
    with pytest.raises(UpstreamError) as caught:
        await read(client, 100, 200)
    assert type(caught.value) is UpstreamError
    assert len(having.seen) == 1


async def test_a_size_that_is_not_said(having: FakeRegistry, client: UpstreamClient) -> None:
    """Is fine: the bytes are counted."""
    having.faults = [says("bytes 100-199/*", BLOB[100:200])]
    assert await read(client, 100, 200) == BLOB[100:200]


@pytest.mark.parametrize("more", [b"", b"and more of it" * 100_000])
async def test_a_body_is_as_long_as_asked_for(
    having: FakeRegistry, client: UpstreamClient, more: bytes
) -> None:
    """More is cut off, less is a cut; whatever length was said."""

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Range": "bytes 100-199/1000000"}
        response = web.StreamResponse(status=206, headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(BLOB[100:150] + (BLOB[150:200] + more if more else b""))
        return response

    having.faults = [answer]
    assert await read(client, 100, 200) == BLOB[100:200]
    assert len(having.seen) == (1 if more else 2)


async def test_no_ranges(having: FakeRegistry, client: UpstreamClient) -> None:
    """Is told at once, whichever part was asked for, unless it is all."""
    having.ranges = False
    for start, stop in ((0, 10), (10, 20), (10, len(BLOB))):
        with pytest.raises(NoRanges):
            await read(client, start, stop)
    assert len(having.seen) == 3
    assert await read(client) == BLOB


@pytest.mark.parametrize("start", [0, 1, 999_999])
async def test_one_who_reads_all_in_order(
    having: FakeRegistry, client: UpstreamClient, start: int
) -> None:
    """Can do without ranges, from wherever it was."""
    having.ranges = False
    assert await read(client, start, skip=True) == BLOB[start:]
    assert await read(client, start, start + 1, skip=True) == BLOB[start : start + 1]


async def test_and_go_on_after_a_cut(having: FakeRegistry, client: UpstreamClient) -> None:
    """By reading it all again."""
    having.ranges = False
    having.faults = [having.cut(500_000)]
    assert await read(client, skip=True) == BLOB
    assert having.sent == len(BLOB) + 500_000


async def test_a_store_of_its_own(having: FakeRegistry) -> None:
    """Each attempt asks the registry for the way: addresses in stores are good for a while only."""
    store = FakeRegistry()
    store.add_blob(BLOB)
    async with serving(store), client_of(having.url, redirects=(store.url,)) as client:
        store.faults = [status(500), status(403)]
        path = f"/blobs/{DIGEST}?X-Signature=a%2Fb%20c&x="
        having.gates = [redirect(f"{store.url}{path}")]
        assert await read(client, 5, 500) == BLOB[5:500]
    assert store.lines[-1] == f"GET {path}"
    assert store.seen[-1].headers["Range"] == "bytes=5-499"
    assert having.sent == 0
    assert len(having.seen) == 3


async def test_a_limit_is_kept_to(having: FakeRegistry, client: UpstreamClient) -> None:
    """A short one is waited for, whoever was told; a long one is handed on to who asked."""
    loop = asyncio.get_running_loop()
    having.faults = [status(429, Retry_After="1")]
    begun = loop.time()
    assert await read(client, 0, 10) == BLOB[:10]
    assert loop.time() - begun > 0.9
    having.faults = [status(429, Retry_After="3600")]
    with pytest.raises(UpstreamLimited) as caught:
        await read(client, 0, 10)
    assert caught.value.retry_after_s == 3600
    asked = len(having.seen)
    with pytest.raises(UpstreamLimited) as caught:
        await read(client, 0, 10)
    assert 50 < caught.value.retry_after_s <= 60
    assert len(having.seen) == asked


async def test_a_refusal_ends_it(having: FakeRegistry, client: UpstreamClient) -> None:
    """Also when some of it was given before."""
    having.faults = [having.cut(100_000), status(403)]
    with pytest.raises(UpstreamRefused):
        await read(client)
    assert len(having.seen) == 2


async def test_who_stops_reading_leaves_nothing(
    having: FakeRegistry, client: UpstreamClient
) -> None:
    """Closing the generator closes the connection, so that no more is sent."""
    gone = asyncio.Event()

    async def watch(request: web.Request) -> None:
        try:
            await asyncio.Event().wait()
        finally:  # the server cancels what it does for a client that has gone
            gone.set()

    having.faults = [having.begins(1000, watch)]
    async with aclosing(client.read_blob("app", DIGEST, 0, len(BLOB))) as chunks:
        assert BLOB.startswith(await anext(chunks))
    async with asyncio.timeout(30):
        await gone.wait()


@settings(max_examples=30)  # each has a server of its own
@given(
    cuts=st.lists(st.tuples(st.integers(0, 3000), st.booleans()), max_size=MAX_ROUNDS - 1),
    bounds=st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
    ranges=st.booleans(),
)
async def test_any_order_of_faults(
    cuts: list[tuple[int, bool]], bounds: tuple[int, int], ranges: bool
) -> None:
    """Either the right bytes, or the right ones so far and an error."""
    content = BLOB[:3000]
    registry = FakeRegistry(ranges=ranges)
    digest = registry.add_blob(content)
    registry.faults = [registry.cut(count) if cut else status(500) for count, cut in cuts]
    start, stop = sorted(bounds)
    got = b""
    async with serving(registry), client_of(registry.url) as client:
        try:
            async for chunk in client.read_blob("app", digest, start, stop):
                got += chunk
        except NoRanges:
            assert not ranges
        else:
            assert got == content[start:stop]
    assert content[start:stop].startswith(got)
