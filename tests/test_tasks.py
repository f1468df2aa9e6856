"""Background work ends with its block, and its failure ends the block."""

import asyncio

import pytest

from oci_mesh.tasks import Background
from tests.nodes import eventually


class Broken(Exception):
    """What a test raises."""


async def forever(ended: list[str]) -> None:
    """Work until cancelled; note the end."""
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("work")


async def test_work_is_cancelled_and_waited_for_when_the_block_ends() -> None:
    """Nothing runs after it."""
    ended: list[str] = []
    async with Background() as background:
        background.spawn(forever(ended))
        await asyncio.sleep(0)
    assert ended == ["work"]


async def test_what_the_block_raises_goes_on_as_it_is() -> None:
    """No group around it: callers catch what was raised. The work ends all the same."""
    ended: list[str] = []

    async def block() -> None:
        async with Background() as background:
            background.spawn(forever(ended))
            await asyncio.sleep(0)
            raise Broken

    with pytest.raises(Broken):
        await block()
    assert ended == ["work"]


async def test_work_that_fails_ends_the_block_and_all_other_work() -> None:
    """With its error, in a group: there may be several."""
    ended: list[str] = []

    async def fail() -> None:
        raise Broken

    async def block() -> None:
        async with Background() as background:
            background.spawn(forever(ended))
            await asyncio.sleep(0)
            background.spawn(fail())
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await block()
    assert caught.group_contains(Broken, depth=1)
    assert ended == ["work"]


async def test_a_cancelled_block_is_a_cancelled_caller() -> None:
    """From outside, as by a deadline."""
    ended: list[str] = []

    async def block() -> None:
        async with asyncio.timeout(0.01), Background() as background:
            background.spawn(forever(ended))
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await block()
    assert ended == ["work"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_work_that_is_done_is_forgotten() -> None:
    """A node spawns work for every blob."""

    async def nothing() -> None:
        pass

    async with Background() as background:
        for _ in range(100):
            background.spawn(nothing())
        await eventually("all are forgotten", lambda: not background._running)
