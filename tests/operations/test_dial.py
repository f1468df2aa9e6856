"""Why a node is not reached: each reason made real."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from oci_mesh.operations.dial import Reason, find_reason
from oci_mesh.pki import authority
from oci_mesh.pki.authority import Authority
from oci_mesh.pki.keys import KeyPair
from oci_mesh.pki.trust import Trust
from tests.e2e.authority import issue
from tests.nodes import free_port

HOUR = 3600.0


@pytest.fixture
def mesh(tmp_path: Path) -> Authority:
    """A mesh's authority."""
    return authority.init(tmp_path / "ca", "test", time.time())


def shown(mesh: Authority, directory: Path, since: float = 0.0) -> ssl.SSLContext:
    """What the listener of a node called `n` shows, its certificate made at another time."""
    key = KeyPair.new()
    der = mesh.issue("n", key.public_key, [], HOUR, time.time() + since)
    file = directory / "shown.pem"
    file.write_bytes(key.pem() + ssl.DER_cert_to_PEM_cert(der).encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@asynccontextmanager
async def listening(context: ssl.SSLContext | None) -> AsyncIterator[str]:
    """Somebody who answers every connection with a line, and ends it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def reason(
    address: str, trust: Trust | None = None, node_id: str | None = "n", why: str = "it failed"
) -> Reason:
    """As `find_reason`, by a node that believes these, and has nothing to show."""
    return await find_reason(address, node_id, trust, why)


async def test_nobody_there() -> None:
    """No name, no route, no listener."""
    assert (await reason("no-such-host.invalid:1")).outcome == "unresolved"
    assert (await reason("a..b:1")).outcome == "unresolved"
    assert (await reason(f"127.0.0.1:{free_port()}")).outcome == "closed"
    assert (await reason("255.255.255.255:1")).outcome == "unreachable"


async def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a firewall that drops: here the queue of a listener is full."""
    monkeypatch.setattr("oci_mesh.operations.dial.CONNECT_S", 0.5)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        assert (await reason(f"127.0.0.1:{full.getsockname()[1]}")).outcome == "filtered"


async def test_with_tls_and_without(mesh: Authority, tmp_path: Path) -> None:
    """What the one end speaks, and the other does not."""
    trust = mesh.trust(time.time())
    async with listening(None) as address:
        assert (await reason(address, trust)).outcome == "plain"
        assert (await reason(address)) == Reason("failing", "it failed")
    async with listening(shown(mesh, tmp_path)) as address:
        assert (await reason(address)).outcome == "secured"


async def test_no_node(mesh: Authority, tmp_path: Path) -> None:
    """A server with TLS of another kind."""
    issue(tmp_path / "other", ["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "other/server.pem", tmp_path / "other/server.key")
    async with listening(context) as address:
        assert (await reason(address, mesh.trust(time.time()))).outcome == "stranger"


@pytest.mark.parametrize(("since", "outcome"), [(-2 * HOUR, "expired"), (HOUR, "not-yet")])
async def test_another_time(mesh: Authority, tmp_path: Path, since: float, outcome: str) -> None:
    """Its certificate was made long ago, or by a clock that is ahead."""
    async with listening(shown(mesh, tmp_path, since)) as address:
        found = await reason(address, mesh.trust(time.time()))
        assert (found.outcome, found.node) == (outcome, "n")


async def test_another_mesh_or_node(mesh: Authority, tmp_path: Path) -> None:
    """Of the same name."""
    other = authority.init(tmp_path / "other", "test", time.time())
    async with listening(shown(mesh, tmp_path)) as address:
        found = await reason(address, other.trust(time.time()))
        assert (found.outcome, found.node) == ("other-mesh", "n")
        trust = mesh.trust(time.time())
        assert (await reason(address, trust, "m")).outcome == "other-node"
        for node_id in ("n", None):
            assert (await reason(address, trust, node_id)).outcome == "failing"


async def test_our_certificate_is_not_taken(mesh: Authority, tmp_path: Path) -> None:
    """It believes another authority than the one that signed ours."""
    other = authority.init(tmp_path / "other", "test", time.time())
    theirs, trust = shown(mesh, tmp_path), mesh.trust(time.time())
    theirs.verify_mode = ssl.CERT_REQUIRED
    theirs.load_verify_locations(cadata=other.trust(time.time()).pem())
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.load_verify_locations(cadata=trust.pem())
    ours.load_cert_chain(tmp_path / "shown.pem")
    async with listening(theirs) as address:
        found = await find_reason(address, "n", trust, "reset", ours)
    assert found.outcome == "refused"
