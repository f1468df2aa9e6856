"""The bulk client against servers on loopback that answer rightly, wrongly, late or not at all."""

import asyncio
import datetime as dt
import gc
import ipaddress
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oci_mesh.errors import PeerError
from oci_mesh.mesh import bulk
from oci_mesh.mesh.bulk import (
    BulkClient,
    Head,
    NoneFree,
    PeerCut,
    PeerNonsense,
    PeerStalled,
    PeerUnreachable,
    Sink,
)
from oci_mesh.registry.server import RegistryServer
from oci_mesh.swarm.rate import SLACK_S, Rate
from tests.mesh.raw_server import Answer, always, head, serving, then_close
from tests.nodes import DEADLINE_S, MIB, eventually, free_port, noise

# What a test waits for that does not fail; and a time that has to pass for a failure to show.
LONG_S = 60.0
SOON_S = 0.05

BODY = noise(1000)
GOOD = head(len(BODY)) + BODY
BUSY = head(4, "503 Service Unavailable") + b"busy"


async def get(
    client: BulkClient,
    address: str,
    sink: Sink | None = None,
    *,
    path: str = "/x",
    headers: Mapping[str, str] | None = None,
    length: int = len(BODY),
    head_s: float = LONG_S,
    stall_s: float = LONG_S,
    peer: str | None = None,
) -> Head:
    """One GET that is not in a hurry."""
    return await client.get(
        address,
        path,
        headers or {},
        sink,
        length=length,
        head_s=head_s,
        stall_s=stall_s,
        peer=peer,
    )


def unwanted(part: memoryview) -> None:
    """A sink that must not be called."""
    raise AssertionError(f"{len(part)} bytes for the sink")


async def body_of(client: BulkClient, address: str, length: int = len(BODY)) -> bytes:
    """What the sink got."""
    body = bytearray()
    await get(client, address, body.extend, length=length)
    return bytes(body)


# -- what goes well


@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 256 * 1024, MIB - 1, MIB, 5 * MIB + 3])
async def test_the_bytes_are_exact(size: int) -> None:
    """Of any size, whole and ranged, over one connection."""
    content = noise(size)
    answers = [head(size, status) + content for status in ("200 OK", "206 Partial Content")]

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[len(server.requests) % 2])
        await writer.drain()

    async with serving(answer) as server, BulkClient({}) as client:
        for _ in range(3):
            assert await body_of(client, server.address, size) == content
        assert server.accepted == 1


async def test_the_request_has_what_it_was_given() -> None:
    """The client's own fields, and the request's."""
    async with (
        serving(always(GOOD)) as server,
        BulkClient({"OCI-Mesh-Node": "me"}) as client,
    ):
        answer = await get(client, server.address, path="/a/b?c", headers={"Range": "bytes=0-999"})
    assert answer.status == 206
    assert answer.headers["content-type"] == "x/y"
    assert server.requests == [
        f"GET /a/b?c HTTP/1.1\r\nHost: {server.address}\r\n"
        "OCI-Mesh-Node: me\r\nRange: bytes=0-999\r\n\r\n"
    ]


async def test_our_own_server_is_understood(tmp_path: Path) -> None:
    """aiohttp's answers: from a file, from memory, and errors."""
    content = noise(3 * MIB)
    file = tmp_path / "content"
    file.write_bytes(content)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/file":
            return web.FileResponse(file)
        if request.path == "/memory":
            return web.Response(body=content[5:1005], status=206)
        return web.json_response({"errors": []}, status=404)

    async with (
        RegistryServer(handle, "127.0.0.1", 0, drain_s=0) as server,
        BulkClient({}) as client,
    ):
        body = bytearray()
        await get(
            client,
            server.authority,
            body.extend,
            path="/file",
            headers={"Range": "bytes=7-2000006"},
            length=2_000_000,
        )
        assert body == content[7:2_000_007]
        body.clear()
        await get(client, server.authority, body.extend, path="/memory")
        assert body == content[5:1005]
        assert (await get(client, server.authority, unwanted, path="/none")).status == 404


async def test_ipv6() -> None:
    """An address in brackets."""
    async with serving(always(GOOD), "::1") as server, BulkClient({}) as client:
        assert await body_of(client, server.address) == BODY


async def test_many_at_once_share_the_buffer() -> None:
    """No two bodies mix, though all come through the same megabyte."""

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        content = noise(700_000, request.split()[1])
        for start in range(0, len(content), 100_000):
            writer.write(head(len(content)) * (start == 0) + content[start : start + 100_000])
            await writer.drain()
            await asyncio.sleep(0)

    async def check(client: BulkClient, path: str) -> None:
        body = bytearray()
        await get(client, server.address, body.extend, path=path, length=700_000)
        assert body == noise(700_000, path)

    async with serving(answer) as server, BulkClient({}) as client:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(check(client, f"/{number}"))
        assert server.accepted == 20


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (BUSY, 503),
        (head(9000, "404 Not Found") + b"e" * 9000, 404),
        (head(0, "404 Not Found"), 404),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304),
    ],
)
async def test_other_statuses_are_told_and_their_body_is_dropped(reply: bytes, status: int) -> None:
    """And the connection is as good as before."""

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD if "/good" in request else reply)

    async with serving(answer) as server, BulkClient({}) as client:
        for _ in range(2):
            assert (await get(client, server.address, unwanted)).status == status
        await get(client, server.address, path="/good")
        assert server.accepted == 1


async def test_a_view_cannot_be_kept() -> None:
    """A sink that did would read another request's bytes."""
    kept: list[memoryview] = []
    async with serving(always(GOOD)) as server, BulkClient({}) as client:
        await get(client, server.address, kept.append)
    with pytest.raises(ValueError, match="released"):
        bytes(kept[0])


# -- what goes wrong

FAULTS: dict[str, tuple[Answer, type[PeerError]]] = {
    "closes at once": (then_close(), PeerCut),
    "closes in the head": (then_close(GOOD[:20]), PeerCut),
    "closes after the head": (then_close(head(1000)), PeerCut),
    "closes in the body": (then_close(GOOD[:-1]), PeerCut),
    "is silent": (always(), PeerStalled),
    "stalls in the head": (always(GOOD[:20]), PeerStalled),
    "sends more": (always(GOOD + b"!"), PeerNonsense),
    "announces less": (always(head(999) + BODY[:-1]), PeerNonsense),
    "announces more": (always(head(1001) + BODY + b"!"), PeerNonsense),
    "announces nothing": (then_close(b"HTTP/1.1 200 OK\r\n\r\n" + BODY), PeerNonsense),
    "is not HTTP": (always(b"220 mail.example ESMTP\r\n\r\n"), PeerNonsense),
    "is noise": (always(noise(20_000)), PeerNonsense),
    "has no end of a head": (always(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 2000), PeerNonsense),
    "chunks": (
        always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        PeerNonsense,
    ),
    "gives endless reasons": (always(head(10**9, "500 Oops")), PeerNonsense),
}


@pytest.mark.parametrize(("answer", "error"), FAULTS.values(), ids=FAULTS)
async def test_each_fault_has_a_name(answer: Answer, error: type[PeerError]) -> None:
    """And leaves no connection behind."""
    async with serving(answer) as server, BulkClient({}) as client:
        with pytest.raises(error):
            await get(client, server.address, head_s=1.0 if error is PeerStalled else LONG_S)
        await eventually("the connection is closed", lambda: server.open == 0)
        assert server.accepted == 1
        server.answer = always(GOOD)
        assert await body_of(client, server.address) == BODY


async def test_a_stall_in_the_body_has_its_own_limit() -> None:
    """The head may take its time; the bytes may not."""
    body = bytearray()
    async with serving(always(GOOD[:-1])) as server, BulkClient({}) as client:
        with pytest.raises(PeerStalled, match="sent nothing"):
            await get(client, server.address, body.extend, stall_s=SOON_S)
        await eventually("the connection is closed", lambda: server.open == 0)
    assert body == BODY[:-1]


async def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens; somebody listens who never accepts; what gossip brought is no address."""
    monkeypatch.setattr(bulk, "CONNECT_S", SOON_S)
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, start_serving=False)
    deaf = listener.sockets[0].getsockname()[1]
    bad = ["", ":1", "a:b", "a:99999", "a b:1", "a:1\r\nX: y", "[::1:1", "::1:1", "..:1"]
    async with listener, BulkClient({}) as client:
        for address in (f"127.0.0.1:{free_port()}", f"127.0.0.1:{deaf}", *bad):
            with pytest.raises(PeerUnreachable):
                await get(client, address)


async def test_an_error_of_the_sink_is_the_callers() -> None:
    """It ends the request and its connection, and others go on."""
    error = ValueError("no room")

    def sink(part: memoryview) -> None:
        raise error

    async with serving(always(GOOD)) as server, BulkClient({}) as client:
        with pytest.raises(ValueError, match="no room") as caught:
            await get(client, server.address, sink)
        assert caught.value is error
        await eventually("the connection is closed", lambda: server.open == 0)
        assert await body_of(client, server.address) == BODY
        assert server.accepted == 2


@pytest.mark.parametrize("sent", [b"", GOOD[:20], GOOD[:-1]], ids=["nothing", "head", "body"])
async def test_a_cancelled_request_leaves_nothing(sent: bytes) -> None:
    """Its connection is closed, its sink not called again, its slot free."""
    body = bytearray()
    async with serving(always(sent)) as server, BulkClient({}, limit=1) as client:
        task = asyncio.create_task(get(client, server.address, body.extend))
        await eventually("it has begun", lambda: len(server.requests) == 1)
        await eventually("bytes have come", lambda: bool(body) or sent != GOOD[:-1])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually("the connection is closed", lambda: server.open == 0)
        server.answer = always(GOOD)
        assert await body_of(client, server.address) == BODY


async def test_cancelled_while_connecting() -> None:
    """At every step of a connection being opened: nothing stays."""
    async with serving(always()) as server, BulkClient({}, limit=1) as client:
        for steps in range(12):
            task = asyncio.create_task(get(client, server.address))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await eventually("all are closed", lambda: server.open == 0)
        server.answer = always(GOOD)
        assert await body_of(client, server.address) == BODY
    gc.collect()  # a socket left open would warn, which fails


# -- the pool


async def test_an_answer_that_closes_is_the_connections_last() -> None:
    """It says so: the next request does not try."""
    answer = always(head(len(BODY), "206 X", "Connection: close") + BODY)
    async with serving(answer) as server, BulkClient({}) as client:
        for count in (1, 2):
            assert await body_of(client, server.address) == BODY
            assert server.accepted == count
        await eventually("both are closed", lambda: server.open == 0)


async def test_a_connection_closed_just_then_is_replaced_once() -> None:
    """The server gave up an idle connection while the request was on its way."""
    refusals = 1

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        nonlocal refusals
        if len(server.requests) > 1 and refusals:
            refusals -= 1
            writer.close()
        else:
            writer.write(GOOD)

    async with serving(answer) as server, BulkClient({}) as client:
        await get(client, server.address)
        assert await body_of(client, server.address) == BODY
        assert (server.accepted, len(server.requests)) == (2, 3)
        refusals = 2
        with pytest.raises(PeerCut):
            await get(client, server.address)
        assert (server.accepted, len(server.requests)) == (3, 5)


async def test_an_answer_that_had_begun_is_not_asked_for_again() -> None:
    """The sink has had bytes."""
    async with serving(always(GOOD)) as server, BulkClient({}) as client:
        await get(client, server.address)
        server.answer = then_close(GOOD[:1])
        with pytest.raises(PeerCut):
            await get(client, server.address)
        assert len(server.requests) == 2


async def test_an_idle_connection_that_ends_is_forgotten() -> None:
    """Closed by the other end, or by us because it sent something."""
    for parting in (b"", b"x"):
        writers: list[asyncio.StreamWriter] = []

        async def answer(request: str, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)  # noqa: B023 - used within the turn
            writer.write(GOOD)

        async with serving(answer) as server, BulkClient({}) as client:
            await get(client, server.address)
            if parting:
                writers[0].write(parting)
            else:
                writers[0].close()
            await eventually("it is closed", lambda: server.open == 0)
            await eventually("it is forgotten", lambda: not client._idle)
            assert await body_of(client, server.address) == BODY
            assert server.accepted == 2
            for connection in client._open:
                connection.abort()  # and the loop has not yet said that it is lost
            assert await body_of(client, server.address) == BODY
            assert server.accepted == 3


async def test_idle_connections_are_few_and_grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last used is used again; beyond the bounds the oldest goes; all go with time."""
    monkeypatch.setattr(bulk, "MAX_IDLE_PER_PEER", 2)
    monkeypatch.setattr(bulk, "MAX_IDLE", 3)
    both = asyncio.Barrier(4)

    async def together(request: str, writer: asyncio.StreamWriter) -> None:
        await both.wait()
        writer.write(GOOD)

    async with (
        serving(together) as one,
        serving(together) as other,
        BulkClient({}, limit=8) as client,
    ):
        for server in (one, other):
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(get(client, server.address))
        await eventually("two to the last", lambda: other.open == 2)
        await eventually("one to the other", lambda: one.open == 1)
        monkeypatch.setattr(bulk, "IDLE_S", SOON_S)
        other.answer = always(GOOD)
        newest = list(client._idle)[-1]
        await get(client, other.address)
        assert newest is list(client._idle)[-1]
        assert other.accepted == 4
        await eventually("that one is closed", lambda: other.open == 1)
        assert one.open == 1


async def test_the_limit_holds_and_the_first_to_come_is_the_first_served() -> None:
    """Requests beyond it wait in order, and may give up waiting."""
    go_on = asyncio.Semaphore(0)

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        await go_on.acquire()
        writer.write(GOOD)

    async with serving(answer) as server, BulkClient({}, limit=2) as client:
        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(get(client, server.address, path=f"/{number}")))
            await asyncio.sleep(0)
        await eventually("two are asked", lambda: len(server.requests) == 2)
        tasks[3].cancel()
        for _ in tasks:
            go_on.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [n == 3 for n in range(6)]
        asked = [request.split()[1] for request in server.requests]
        assert sorted(asked[:2]) == ["/0", "/1"]
        assert [path for path in asked if path in ("/2", "/4", "/5")] == ["/2", "/4", "/5"]
        assert server.accepted == 2


async def test_who_finds_none_free_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no fault of the one to be asked; and those under way are not disturbed."""
    monkeypatch.setattr(bulk, "FREE_S", SOON_S)
    go_on = asyncio.Event()

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(GOOD)

    async with serving(answer) as server, BulkClient({}, limit=1) as client:
        first = asyncio.create_task(get(client, server.address))
        await eventually("it is asked", lambda: len(server.requests) == 1)
        for _ in range(2):
            with pytest.raises(NoneFree):
                await get(client, server.address)
        go_on.set()
        await first
        await get(client, server.address)
        assert server.accepted == 1


async def test_an_idle_connection_makes_room_for_another_address() -> None:
    """The limit counts it, but nobody waits for it."""
    async with (
        serving(always(GOOD)) as one,
        serving(always(GOOD)) as other,
        BulkClient({}, limit=1) as client,
    ):
        for _ in range(2):
            await get(client, one.address)
            await get(client, other.address)
            await eventually("the first is closed", lambda: one.open == 0)
        assert (one.accepted, other.accepted) == (2, 2)


# -- the rate


@pytest.mark.parametrize("secret", [False, True], ids=["plain", "tls"])
async def test_all_bodies_together_come_at_the_rate(secret: bool, certificate: str) -> None:
    """Exact, in many requests at once and one after the other; the server would send them all."""
    limit, size = 8 * MIB, MIB + 3
    content, context = noise(size), trusting(certificate)
    async with (
        serving(
            always(head(size) + content), context=server_context(certificate) if secret else None
        ) as server,
        BulkClient({}, ssl=(lambda: context) if secret else None, rate=Rate(limit)) as client,
    ):
        begun = time.monotonic()
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(body_of(client, server.address, size)) for _ in range(5)]
            assert all(task.result() == content for task in tasks)
        took_s = time.monotonic() - begun
        # The last slice of each connection is not waited for.
        paid = 10 * size - 5 * Rate(limit).slice_bytes
        assert took_s > paid / limit - SLACK_S
        assert server.accepted == 5


async def test_small_bodies_are_paid_for_too() -> None:
    """One after the other on a kept connection, none of them as large as a slice."""
    limit = 20 * len(BODY)
    async with serving(always(GOOD)) as server, BulkClient({}, rate=Rate(limit)) as client:
        begun = time.monotonic()
        for _ in range(30):
            assert await body_of(client, server.address) == BODY
        assert time.monotonic() - begun > 29 / 20 - SLACK_S


async def test_what_is_dropped_is_not_paid_for() -> None:
    """A refusal; and it does not wait for long."""
    async with serving(always(BUSY)) as server, BulkClient({}, rate=Rate(1)) as client:
        for _ in range(10):
            assert (await get(client, server.address, unwanted)).status == 503


async def test_our_own_pause_is_no_stall() -> None:
    """Neither within a body nor before the next head, however long it is; theirs still is one."""
    size = 30_000
    rate = Rate(16 * 1024)  # a slice takes a second, and two are the answer
    async with (
        serving(always(head(size) + noise(size))) as server,
        BulkClient({}, rate=rate) as client,
    ):
        for _ in range(2):
            await get(client, server.address, lambda _: None, length=size, head_s=0.5, stall_s=0.5)
        assert server.accepted == 1
        server.answer = always(head(size) + b"x")
        with pytest.raises(PeerStalled, match="sent nothing"):
            await get(client, server.address, lambda _: None, length=size, stall_s=SOON_S)


async def test_the_end_comes_in_a_pause() -> None:
    """A connection is closed at once, though nothing is read from it for a day."""
    body = noise(64 * 1024)
    async with serving(always(head(len(body)) + body)) as server:
        async with asyncio.TaskGroup() as group, BulkClient({}, rate=Rate(1)) as client:
            arrived: list[int] = []
            task = group.create_task(
                _failed(client, server.address, lambda part: arrived.append(len(part)), len(body))
            )
            await eventually("it has begun", lambda: bool(arrived))
        assert type(task.result()) is PeerCut
        assert sum(arrived) < len(body)
        await eventually("it is closed", lambda: server.open == 0)


# -- the end


async def test_the_end_comes_in_the_middle_of_requests() -> None:
    """One is answered half, one waits for its turn, one connection is idle: all end at once."""
    async with serving(always(GOOD)) as server, serving(always(GOOD[:-1])) as hanging:
        async with asyncio.TaskGroup() as group, BulkClient({}, limit=2) as client:
            await asyncio.gather(*[get(client, server.address) for _ in range(2)])
            tasks = [group.create_task(_failed(client, hanging.address)) for _ in range(3)]
            await eventually("two are asked", lambda: len(hanging.requests) == 2)
        assert [type(task.result()) for task in tasks] == [PeerCut, PeerCut, PeerUnreachable]
        assert not client._open
        await eventually("all are closed", lambda: server.open == hanging.open == 0)
        assert len(hanging.requests) == 2
        with pytest.raises(PeerUnreachable):
            await get(client, server.address)


async def test_the_end_comes_while_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TLS handshake that gets no answer: the end does not wait for it."""
    monkeypatch.setattr(bulk, "CONNECT_S", 2 * DEADLINE_S)
    started = time.monotonic()
    async with serving(always()) as server:
        context = ssl.create_default_context()
        async with asyncio.TaskGroup() as group, BulkClient({}, ssl=lambda: context) as client:
            task = group.create_task(_failed(client, server.address))
            await eventually("it has connected", lambda: server.accepted == 1)
        assert isinstance(task.result(), PeerUnreachable)
        assert time.monotonic() - started < DEADLINE_S
        await eventually("it is closed", lambda: server.open == 0)


async def _failed(
    client: BulkClient, address: str, sink: Sink | None = None, length: int = len(BODY)
) -> PeerError:
    with pytest.raises(PeerError) as caught:
        await get(client, address, sink, length=length)
    return caught.value


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with a self-signed certificate of 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "node.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(path)


def server_context(certificate: str, *, mutual: bool = False) -> ssl.SSLContext:
    """What the server shows, and whether it wants to see the same."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate)
    return context


def trusting(certificate: str) -> ssl.SSLContext:
    """A client that shows nothing of itself."""
    return ssl.create_default_context(cafile=certificate)


async def test_tls_gives_the_same_bytes(certificate: str) -> None:
    """Reused, retried and dropped as plain ones are; one look at the session per connection."""
    seen: list[tuple[bool, str | None]] = []

    def check(session: ssl.SSLObject, peer: str | None) -> None:
        seen.append((bool(session.getpeercert()), peer))

    content = noise(5 * MIB + 3)
    context = trusting(certificate)
    async with (
        serving(
            always(head(len(content)) + content), context=server_context(certificate)
        ) as server,
        BulkClient({}, ssl=lambda: context, check=check) as client,
    ):
        for peer in ("a", "a", "b", "a", "b"):
            body = bytearray()
            await get(client, server.address, body.extend, length=len(content), peer=peer)
            assert body == content
        assert seen == [(True, "a"), (True, "b")]
        assert server.accepted == 2
        server.answer = then_close()
        with pytest.raises(PeerUnreachable):  # asked again, on a connection that has yet to answer
            await get(client, server.address, peer="a")
        assert server.accepted == 3
        server.answer = always(GOOD)
        await get(client, server.address, peer="a")
        server.answer = then_close(head(len(content)) + content[:MIB])
        with pytest.raises(PeerCut):
            await get(client, server.address, length=len(content), peer="a")
        server.answer = always(head(len(content)) + content[:MIB])
        with pytest.raises(PeerStalled):
            await get(client, server.address, length=len(content), peer="b", stall_s=SOON_S)
        await eventually("both are closed", lambda: server.open == 0)


async def test_tls_sink_errors_and_cancellation(certificate: str) -> None:
    """The other ways for a request to end half-way."""
    context = trusting(certificate)
    async with (
        serving(always(GOOD), context=server_context(certificate)) as server,
        BulkClient({}, ssl=lambda: context) as client,
    ):
        with pytest.raises(ZeroDivisionError):
            await get(client, server.address, lambda part: 1 // 0)  # type: ignore[arg-type]
        server.answer = always(GOOD[:-1])
        task = asyncio.create_task(get(client, server.address))
        await eventually("it is asked", lambda: len(server.requests) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually("both are closed", lambda: server.open == 0)
        assert server.accepted == 2


@pytest.mark.parametrize("error", [PeerError("another node"), ValueError("no name")])
async def test_tls_with_the_wrong_node(certificate: str, error: Exception) -> None:
    """Its certificate is good, but it is not whom we meant: it is not asked."""

    def check(session: ssl.SSLObject, peer: str | None) -> None:
        raise error

    context = trusting(certificate)
    async with (
        serving(always(GOOD), context=server_context(certificate)) as server,
        BulkClient({}, ssl=lambda: context, check=check) as client,
    ):
        with pytest.raises(PeerUnreachable, match=str(error)):
            await get(client, server.address)
        await eventually("the server has seen it", lambda: server.accepted == 1)
        await eventually("it is closed", lambda: server.open == 0)
        assert server.requests == []


async def test_tls_refusals(certificate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """We do not trust it; it does not trust us; it does not speak TLS, or nothing."""
    stranger, friend = ssl.create_default_context(), trusting(certificate)
    cases: list[tuple[ssl.SSLContext | None, ssl.SSLContext]] = [
        (server_context(certificate), stranger),
        (server_context(certificate, mutual=True), friend),
        (None, friend),
    ]
    for theirs, ours in cases:
        async with (
            serving(always(GOOD), context=theirs) as server,
            BulkClient({}, ssl=lambda: ours) as client,  # noqa: B023 - used within the turn
        ):
            monkeypatch.setattr(bulk, "CONNECT_S", LONG_S if theirs else SOON_S)
            with pytest.raises(PeerUnreachable):
                await get(client, server.address)
            await eventually("it is closed", lambda: server.open == 0)


async def test_tls_both_ways(certificate: str) -> None:
    """A server that wants a certificate gets ours."""
    context = trusting(certificate)
    context.load_cert_chain(certificate)
    async with (
        serving(always(GOOD), context=server_context(certificate, mutual=True)) as server,
        BulkClient({}, ssl=lambda: context) as client,
    ):
        assert await body_of(client, server.address) == BODY
