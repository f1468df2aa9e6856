"""The control socket: verbs, their documents, and how each end sees the other fail."""

import asyncio
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import pytest

from oci_mesh.control import wire
from oci_mesh.control.client import ControlClient, call
from oci_mesh.control.place import SOCKET
from oci_mesh.control.server import ControlServer, Verb
from oci_mesh.control.wire import Document
from oci_mesh.errors import ConfigError, OperationFailed, PeerError
from tests.nodes import eventually


class Count(Document):
    """Asks for numbers up to this."""

    to: int


class Number(Document):
    """One of them."""

    value: int


async def _count(asked: Count) -> AsyncGenerator[Document, None]:
    for value in range(asked.to):
        yield Number(value)


async def _fail(asked: Count) -> AsyncGenerator[Document, None]:
    yield Number(0)
    raise OperationFailed("it rains", hint="wait")


async def _fail_otherwise(asked: Count) -> AsyncGenerator[Document, None]:
    raise PeerError("gone")
    yield Number(0)


VERBS = {"count": Verb(Count, _count), "fail": Verb(Count, _fail)}


async def test_documents_come_one_by_one(tmp_path: Path) -> None:
    """A stream is all of them, a call is the last one."""
    async with ControlServer(tmp_path, VERBS), ControlClient(tmp_path) as client:
        documents = [d async for d in client.stream("count", Count(3), Number)]
        assert documents == [Number(0), Number(1), Number(2)]
        assert await client.call("count", Count(5), Number) == Number(4)
        assert await call(tmp_path, "count", Count(5), Number) == Number(4)


async def test_only_the_owner_may_open_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is no other check of who asks. It goes with the node, without a word of asyncio's."""
    async with ControlServer(tmp_path, VERBS):
        others = [(tmp_path / f"other-{i}").open("w") for i in range(5)]  # take free descriptors
        assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600
    for other in others:
        other.close()
    assert not (tmp_path / SOCKET).exists()
    assert not caplog.records


async def test_a_directory_with_a_long_name(tmp_path: Path) -> None:
    """The kernel's bound of 107 bytes is not one of ours."""
    root = tmp_path / ("x" * 120)
    root.mkdir()
    async with ControlServer(root, VERBS), ControlClient(root) as client:
        assert await client.call("count", Count(1), Number) == Number(0)


async def test_what_an_earlier_life_left_is_replaced(tmp_path: Path) -> None:
    """A node that was killed leaves its socket behind."""
    (tmp_path / SOCKET).write_text("")
    async with ControlServer(tmp_path, VERBS), ControlClient(tmp_path) as client:
        assert await client.call("count", Count(1), Number) == Number(0)


async def test_a_failure_comes_with_its_hint(tmp_path: Path) -> None:
    """Also after other documents; and errors that have no hint."""
    verbs = {**VERBS, "otherwise": Verb(Count, _fail_otherwise)}
    async with ControlServer(tmp_path, verbs), ControlClient(tmp_path) as client:
        with pytest.raises(OperationFailed, match="it rains") as caught:
            await client.call("fail", Count(1), Number)
        assert caught.value.hint == "wait"
        with pytest.raises(OperationFailed, match="gone"):
            await client.call("otherwise", Count(1), Number)


async def test_a_verb_that_the_node_does_not_know(tmp_path: Path) -> None:
    """A command may be newer than the node."""
    async with ControlServer(tmp_path, VERBS), ControlClient(tmp_path) as client:
        with pytest.raises(OperationFailed, match="no such verb"):
            await client.call("dance", Count(1), Number)


async def test_nobody_there(tmp_path: Path) -> None:
    """No socket, no directory, and a socket that nobody listens on: what to do is said."""
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(OperationFailed, match="no node is running") as caught:
            async with ControlClient(root) as client:
                await client.call("count", Count(1), Number)
        assert "--root" in caught.value.hint


async def test_the_node_stops_meanwhile(tmp_path: Path) -> None:
    """Who waits is told, and does not wait on."""
    begun = asyncio.Event()

    async def forever(asked: Count) -> AsyncGenerator[Document, None]:
        begun.set()
        yield Number(0)
        await asyncio.Event().wait()

    async with ControlClient(tmp_path) as client, asyncio.TaskGroup() as group:
        async with ControlServer(tmp_path, {"forever": Verb(Count, forever)}):
            call = group.create_task(_failure(client))
            await begun.wait()
        assert "broke off" in await call


async def _failure(client: ControlClient) -> str:
    with pytest.raises(OperationFailed) as caught:
        await client.call("forever", Count(1), Number)
    return str(caught.value)


async def test_who_goes_cancels_the_work(tmp_path: Path) -> None:
    """Nothing goes on for nobody."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def forever(asked: Count) -> AsyncGenerator[Document, None]:
        try:
            begun.set()
            yield Number(0)
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with ControlServer(tmp_path, {"forever": Verb(Count, forever)}):
        async with ControlClient(tmp_path) as client, asyncio.TaskGroup() as group:
            call = group.create_task(client.call("forever", Count(1), Number))
            await begun.wait()
            call.cancel()
        await eventually("the verb has ended", ended.is_set)


async def test_a_quiet_verb_says_that_it_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By empty lines, while it has nothing to say; they are no documents."""
    monkeypatch.setattr("oci_mesh.control.server.ALIVE_S", 0.01)
    heard = asyncio.Event()

    async def slow(asked: Count) -> AsyncGenerator[Document, None]:
        await heard.wait()
        yield Number(1)

    async with (
        ControlServer(tmp_path, {"slow": Verb(Count, slow)}),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / SOCKET))) as session,
        session.post(f"http://node{wire.PATH}slow", data=b'{"to":1}') as response,
    ):
        assert await response.content.readline() == b"\n"
        heard.set()
        lines = (await response.content.read()).split(b"\n")
    assert [line for line in lines if line] == [b'{"value":1}']


async def test_a_place_where_no_socket_can_be(tmp_path: Path) -> None:
    """The node says so when it starts."""
    (tmp_path / SOCKET).mkdir()
    with pytest.raises(ConfigError, match=SOCKET):
        async with ControlServer(tmp_path, VERBS):
            pass


def test_silence_is_longer_than_a_sign_of_life() -> None:
    """Some signs may be late."""
    assert wire.SILENCE_S >= 5 * wire.ALIVE_S
