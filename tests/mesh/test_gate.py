"""Turns at the uplink: a few at a time, in order, and none is lost."""

import asyncio

import pytest

from oci_mesh.mesh import gate as gate_module
from oci_mesh.mesh.gate import Gate
from oci_mesh.swarm.rate import Rate
from oci_mesh.swarm.uplink import Uplink
from tests.nodes import eventually


async def take(gate: Gate, name: str, log: list[str], done: asyncio.Event) -> None:
    """One turn, that lasts until `done`."""
    async with gate.turn(100):
        log.append(name)
        await done.wait()


async def test_turns_go_in_the_order_of_asking() -> None:
    """Two at a time."""
    gate, log = Gate(Uplink(sends=2)), list[str]()
    done = {name: asyncio.Event() for name in "abcd"}
    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(take(gate, name, log, done[name]))
        await eventually("two began", lambda: log == ["a", "b"])
        assert len(gate.uplink) == 4
        done["b"].set()
        await eventually("the next began", lambda: log == ["a", "b", "c"])
        for event in done.values():
            event.set()
    assert log == list("abcd")
    assert len(gate.uplink) == 0
    assert gate.uplink.rate > 0


async def test_who_leaves_gives_up_its_turn() -> None:
    """While it waits, in its turn, and in the moment in which its turn comes."""
    gate, log, never = Gate(Uplink(sends=1)), list[str](), asyncio.Event()
    first, second, third, fourth = (
        asyncio.create_task(take(gate, name, log, never)) for name in "abcd"
    )
    await eventually("the first began", lambda: log == ["a"])
    third.cancel()
    first.cancel()
    await eventually("the second began", lambda: log == ["a", "b"])
    second.cancel()
    fourth.cancel()
    await asyncio.wait([first, second, third, fourth])
    assert all(task.cancelled() for task in (first, second, third, fourth))
    assert len(gate.uplink) == 0
    async with gate.turn(1):
        pass


async def test_what_failed_was_not_sent() -> None:
    """It does not count for the rate; the next has its turn."""
    gate = Gate(Uplink(sends=1))
    with pytest.raises(ConnectionResetError):
        async with gate.turn(10**9):
            raise ConnectionResetError
    assert gate.uplink.rate == 0
    assert len(gate.uplink) == 0


async def test_a_rate_is_kept() -> None:
    """Never faster, whatever the machine does."""
    gate, loop = Gate(Uplink(), Rate(1_000_000)), asyncio.get_running_loop()
    begun = loop.time()
    for _ in range(20):
        await gate.pace(20_000)
    # The last one goes when those before are paid for, less what an idle uplink has to its credit.
    assert loop.time() - begun >= 19 * 0.02 - 0.11


async def test_who_is_served_last_waits_until_nobody_was_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And those that wait for that do so one after the other."""
    monkeypatch.setattr(gate_module, "IDLE_S", 0.05)
    gate, loop, log = Gate(Uplink()), asyncio.get_running_loop(), list[float]()

    async def wait() -> None:
        assert await gate.idle()
        log.append(loop.time())

    await wait()
    async with asyncio.TaskGroup() as group:
        async with gate.turn(1):
            began = loop.time()
        for _ in range(2):
            group.create_task(wait())
    assert log[1] >= began + 0.05
    assert log[2] >= began + 0.10


async def test_who_is_served_last_does_not_starve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that waits goes after a while; who waits behind others for too long comes again."""
    gate = Gate(Uplink())
    async with gate.turn(1):
        pass
    monkeypatch.setattr(gate_module, "IDLE_S", 60.0)
    monkeypatch.setattr(gate_module, "STARVED_S", 0.05)
    assert await gate.idle()
    monkeypatch.setattr(gate_module, "STARVED_S", 60.0)
    monkeypatch.setattr(gate_module, "LAST_WAIT_S", 0.05)
    waiting = [asyncio.create_task(gate.idle()) for _ in range(2)]
    assert await asyncio.gather(*waiting) == [False, False]
