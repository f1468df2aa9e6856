"""What systemd is told: the messages, the watchdog, and the daemon as it would see it."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_mesh import serve
from oci_mesh.errors import StorageFailed
from oci_mesh.notify import Manager, ask
from tests.nodes import DEADLINE_S, eventually, running
from tests.test_serve import ask as request
from tests.test_serve import daemon

# An interval in which a machine with more to do still gets to three signs of life.
WATCHDOG_S = 1.5

# A daemon whose event loop hangs from SIGUSR1 on: the signal is handled in its thread.
HANGS = """
import signal, sys, time
from oci_mesh import serve
def hang(*_):
    print("hung", flush=True)
    time.sleep(3600)
signal.signal(signal.SIGUSR1, hang)
serve.main()
"""


class Systemd:
    """The other end: it receives messages, each a list of assignments."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(DEADLINE_S)

    def receive(self) -> dict[str, str]:
        """The next message."""
        lines = self.socket.recv(4096).decode().split("\n")
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def receive_until(self, name: str) -> dict[str, str]:
        """The next message that has this assignment."""
        while name not in (message := self.receive()):
            pass
        return message

    def received(self) -> list[dict[str, str]]:
        """What is there now."""
        self.socket.setblocking(False)
        messages = []
        try:
            while True:
                messages.append(self.receive())
        except BlockingIOError:
            return messages
        finally:
            self.socket.settimeout(DEADLINE_S)


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As NOTIFY_SOCKET has it: systemd uses either."""
    return str(tmp_path / "notify") if request.param == "path" else f"@{secrets.token_hex(8)}"


@pytest.fixture
def systemd(address: str) -> Iterator[Systemd]:
    """Something that listens there."""
    manager = Systemd(f"\0{address[1:]}" if address[0] == "@" else address)
    with manager.socket:
        yield manager


# -- the protocol


def test_a_message_is_a_datagram_of_assignments(systemd: Systemd, address: str) -> None:
    """To a path, or to a name in the abstract namespace."""
    Manager({"NOTIFY_SOCKET": address}).tell("READY=1", "STATUS=a = b")
    assert systemd.receive() == {"READY": "1", "STATUS": "a = b"}


@pytest.mark.parametrize("value", [None, "", "/no/such/socket", "@nobody", "/" + "x" * 200])
def test_who_does_not_listen_is_not_told(value: str | None) -> None:
    """And nothing fails for that."""
    Manager({} if value is None else {"NOTIFY_SOCKET": value}).tell("READY=1")


async def test_one_that_reads_nothing_is_not_waited_for(tmp_path: Path) -> None:
    """Its queue is full at some time; messages are lost then."""
    path = str(tmp_path / "notify")
    with Systemd(path).socket:
        manager = Manager({"NOTIFY_SOCKET": path})
        for _ in range(2000):
            manager.tell("STATUS=" + "x" * 1000)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_asked_for_by_the_environment(
    environment: dict[str, str], seconds: float
) -> None:
    """In microseconds, and of one process, which children are not."""
    assert Manager(environment).watchdog_s == seconds


async def test_signs_of_life_feed_the_watchdog(systemd: Systemd, address: str) -> None:
    """Each is said with the state; one that fails or does not come is not; then it goes on."""
    manager = Manager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000"})
    outcomes: list[str | None] = ["first", "fails", None, "last"]
    seen: list[str | None] = []

    async def sign() -> str:
        seen.append(outcome := outcomes.pop(0) if len(outcomes) > 1 else outcomes[0])
        if outcome == "fails":
            raise ConnectionRefusedError
        if outcome is None:
            await asyncio.Event().wait()
        return str(outcome)

    async with asyncio.TaskGroup() as group:
        watch = group.create_task(manager.keep_alive(sign))
        await eventually("a sign after all", lambda: "last" in seen[:-1])
        watch.cancel()
    messages = systemd.received()
    assert all(message["WATCHDOG"] == "1" for message in messages)
    assert list(dict.fromkeys(message["STATUS"] for message in messages)) == ["first", "last"]


async def test_without_a_watchdog_nothing_is_asked() -> None:
    """It ends at once."""

    async def sign() -> str:
        raise AssertionError

    await Manager({"NOTIFY_SOCKET": "@x"}).keep_alive(sign)
    await Manager({"WATCHDOG_USEC": "1"}).keep_alive(sign)


# -- what is a sign of life of a node


async def test_a_node_that_answers_from_its_store_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that answers, but has lost its store, does not."""
    async with running(tmp_path, "a") as node:
        assert await serve._sign_of_life(node) == f"node a, 1 in the mesh, registry {node.url}"

        async def fail() -> None:
            raise StorageFailed("the disk is gone")

        monkeypatch.setattr(node.store, "usage", fail)
        with pytest.raises(OSError, match=r"/healthz was answered with .HTTP/1\.0 500"):
            await serve._sign_of_life(node)


async def test_who_closes_without_an_answer_is_not_alive() -> None:
    """Nor who is not there."""

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(OSError):  # noqa: PT011 - whichever the kernel makes of it
            await ask("127.0.0.1", port, "/readyz")
    with pytest.raises(ConnectionRefusedError):
        await ask("127.0.0.1", port, "/readyz")


# -- the daemon


def watched(address: str) -> dict[str, str]:
    """The environment in which systemd starts it."""
    return {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}


def test_it_is_ready_once_it_answers_lives_and_says_when_it_stops(
    tmp_path: Path, systemd: Systemd, address: str
) -> None:
    """In this order, and READY names the registry, which serves by then."""
    with daemon(tmp_path / "a", "--name", "a", **watched(address)) as a:
        assert "READY" not in systemd.receive()
        ready = systemd.receive()
        assert ready["READY"] == "1"
        url = ready["STATUS"].rpartition(" ")[2]
        assert request(f"{url}/readyz")[0] == 200
        assert systemd.receive()["WATCHDOG"] == systemd.receive()["WATCHDOG"] == "1"
        assert a.end(signal.SIGTERM) == 0
    stopping = ["STOPPING" in message for message in systemd.received()]
    assert stopping[-1:] == [True]
    assert not any(stopping[:-1])


def test_a_hung_event_loop_does_not_feed_the_watchdog(tmp_path: Path) -> None:
    """The process is there, and nothing comes from it for as long as systemd would wait."""
    address = str(tmp_path / "notify")
    systemd = Systemd(address)
    program = [sys.executable, "-c", HANGS]
    with (
        systemd.socket,
        daemon(tmp_path / "a", program=program, **watched(address)) as a,
    ):
        a.ready()
        systemd.receive_until("WATCHDOG")
        a.process.send_signal(signal.SIGUSR1)
        assert a.process.stdout is not None
        assert a.process.stdout.readline() == "hung\n"
        systemd.received()
        systemd.socket.settimeout(2 * WATCHDOG_S)
        with pytest.raises(TimeoutError):
            systemd.receive()
        assert a.process.poll() is None
