"""Models that work in threads: what they make leaves at once, and they end between two steps."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing

import pytest

from remotemedia.nodes.threads import Outlet, made_in_thread

pytestmark = pytest.mark.anyio

SECONDS = 10.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Steps:
    """Work that goes on until nothing of it is wanted, and puts something at its first step."""

    def __init__(self, *, is_silent: bool = False) -> None:
        self.is_silent = is_silent
        self.at_work = threading.Event()
        self.ended_between_steps = False

    def __call__(self, outlet: Outlet[int]) -> None:
        deadline = time.monotonic() + SECONDS
        if not self.is_silent:
            outlet.put(1)
        while outlet.is_wanted and time.monotonic() < deadline:
            self.at_work.set()
        self.ended_between_steps = not outlet.is_wanted


async def test_items_come_in_their_order_and_an_error_behind_them() -> None:
    def make(outlet: Outlet[int]) -> None:
        for number in range(3):
            outlet.put(number)
        raise RuntimeError("it was asked to")

    items = made_in_thread(make)
    assert [await anext(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="it was asked to"):
        await anext(items)


async def test_closing_it_ends_work_that_puts_nothing_any_more() -> None:
    steps = Steps()
    async with aclosing(made_in_thread(steps)) as items:
        assert await anext(items) == 1
    assert steps.ended_between_steps


async def test_cancelling_who_waits_ends_work_that_has_put_nothing_yet() -> None:
    steps = Steps(is_silent=True)
    waiting = asyncio.ensure_future(anext(made_in_thread(steps)))
    assert await asyncio.to_thread(steps.at_work.wait, SECONDS)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert steps.ended_between_steps


async def test_work_has_ended_also_when_who_waits_is_cancelled_twice() -> None:
    goes_on = threading.Event()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    has_ended = False

    def make(outlet: Outlet[int]) -> None:
        nonlocal has_ended
        outlet.put(1)
        while outlet.is_wanted:
            time.sleep(0.001)
        loop.call_soon_threadsafe(told.set)
        assert goes_on.wait(SECONDS)  # in a step of the work
        has_ended = True

    async def consume() -> None:
        async for _ in made_in_thread(make):
            began.set()

    began = asyncio.Event()
    consuming = asyncio.create_task(consume())
    await began.wait()
    consuming.cancel()
    await told.wait()
    consuming.cancel()
    await asyncio.sleep(0)
    goes_on.set()
    await asyncio.wait([consuming])
    assert consuming.cancelled()
    assert has_ended
