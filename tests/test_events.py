"""The event bus: every subscriber hears everything in order, or is told what it missed."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from remotemedia import events
from remotemedia.core.multiprocess.events import (
    MAX_WAITING_EVENTS,
    Event,
    EventBus,
    EventsMissed,
    EventStream,
    ProcessStarted,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def test_every_event_can_be_imported_by_users_and_is_in_the_documentation() -> None:
    names = {kind.__name__ for kind in get_args(Event)}
    assert {"Event", *names} == set(events.__all__) <= set(vars(events))
    page = (Path(__file__).parents[1] / "docs/howto/errors.md").read_text()
    assert not [name for name in names if f"`{name}`" not in page]


def started(pid: int) -> ProcessStarted:
    return ProcessStarted("s1", "asr", pid)


async def rest(stream: EventStream) -> list[Event]:
    return [event async for event in stream]


def test_every_subscriber_hears_all_that_comes_after_it_in_order() -> None:
    async def run() -> Sequence[list[Event]]:
        bus = EventBus()
        early = bus.subscribe()
        bus.emit(started(1))
        late = bus.subscribe()
        bus.emit(started(2))
        bus.close()
        return await asyncio.gather(rest(early), rest(late))

    assert asyncio.run(run()) == [[started(1), started(2)], [started(2)]]


def test_a_waiting_subscriber_wakes_for_an_event_and_for_the_end() -> None:
    async def run() -> list[Event]:
        bus = EventBus()
        reading = asyncio.create_task(rest(bus.subscribe()))
        await asyncio.sleep(0)
        bus.emit(started(1))
        await asyncio.sleep(0)
        bus.close()
        return await reading

    assert asyncio.run(run()) == [started(1)]


def test_a_slow_subscriber_loses_its_oldest_events_and_is_told_how_many() -> None:
    async def run() -> list[Event]:
        bus = EventBus()
        stream = bus.subscribe()
        for pid in range(MAX_WAITING_EVENTS + 3):
            bus.emit(started(pid))
        bus.close()
        return await rest(stream)

    missed, first, *others = asyncio.run(run())
    assert missed == EventsMissed(3)
    assert first == started(3)
    assert len(others) == MAX_WAITING_EVENTS - 1


def test_cancelling_a_wait_loses_no_event() -> None:
    async def run() -> list[Event]:
        bus = EventBus()
        stream = bus.subscribe()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.001)
        bus.emit(started(1))
        bus.close()
        return await rest(stream)

    assert asyncio.run(run()) == [started(1)]


def test_a_stream_that_was_left_costs_nothing_and_ends() -> None:
    async def run() -> list[Event]:
        bus = EventBus()
        dropped = weakref.ref(bus.subscribe())
        assert dropped() is None
        stream = bus.subscribe()
        bus.emit(started(1))
        await stream.aclose()
        await stream.aclose()
        bus.emit(started(2))
        return await rest(stream)

    assert asyncio.run(run()) == []


def test_a_closed_bus_ends_new_and_old_streams_at_once_and_again() -> None:
    async def run() -> list[Event]:
        bus = EventBus()
        bus.close()
        bus.close()
        return await rest(bus.subscribe())

    assert asyncio.run(run()) == []


def test_events_are_values_that_do_not_change() -> None:
    assert started(1) == started(1)
    with pytest.raises(FrozenInstanceError):
        started(1).pid = 2  # type: ignore[misc]
