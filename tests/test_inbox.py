"""Inboxes: several connections read as one, fairly, to the end of each."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from remotemedia.errors import ChannelClosed, EndOfStream, PeerLost
from tests.channel_helpers import (
    Background,
    eventually,
    new_registry,
    number,
    send_all,
    value_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.core.multiprocess.channel.endpoint import Endpoint
    from remotemedia.core.multiprocess.channel.inbox import Inbox
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry


@pytest.fixture(params=["memory", "iceoryx"])
def registry(request: pytest.FixtureRequest) -> Iterator[ChannelRegistry]:
    with new_registry(request.param) as registry:
        yield registry


def fan_in(
    registry: ChannelRegistry, count: int, capacity: int = 8
) -> tuple[list[Publisher], Endpoint]:
    """Make writers "w0", "w1", ... and one endpoint that reads them all."""
    registry.add_endpoint("reader")
    channels = []
    for index in range(count):
        registry.add_endpoint(f"w{index}")
        channel = registry.create_channel(f"port{index}", capacity, writer=f"w{index}")
        registry.connect(channel, "reader")
        channels.append(channel)
    endpoint = registry.open("reader")
    writers: list[Publisher] = []
    for index in range(count):
        writers += registry.open(f"w{index}").publishers.values()
    return writers, endpoint


def next_of(inbox: Inbox, timeout_seconds: float = 30) -> tuple[str, int]:
    found = inbox.receive(timeout_seconds)
    assert found is not None
    subscriber, message = found
    return subscriber.port.name, value_of(message)


def test_it_takes_in_turn_from_those_that_have_something(registry: ChannelRegistry) -> None:
    (first, second, third), endpoint = fan_in(registry, 3)
    inbox = endpoint.inbox()
    send_all(first, range(6))
    send_all(third, range(100, 103))
    names = [next_of(inbox)[0] for _ in range(9)]
    assert names == ["port0", "port2"] * 3 + ["port0"] * 3
    send_all(second, [1])
    assert next_of(inbox) == ("port1", 1)
    assert inbox.receive(0) is None
    assert inbox.receive(0.001) is None


def test_a_flood_on_one_connection_starves_no_other(registry: ChannelRegistry) -> None:
    (flood, trickle), endpoint = fan_in(registry, 2, capacity=4)
    inbox = endpoint.inbox()

    def pour() -> None:
        try:
            send_all(flood, range(1_000_000))
        except ChannelClosed:
            return

    pouring = Background(pour)
    eventually(lambda: registry.stats()["port0"].sent >= 4)
    for count in range(50):
        trickle.send(number(count))
        # The other has at most one turn before it is ours.
        names = [next_of(inbox)]
        if names[-1][0] != "port1":
            names.append(next_of(inbox))
        assert ("port1", count) in names
    flood.close()
    pouring.result()


def test_order_is_kept_within_every_connection(registry: ChannelRegistry) -> None:
    writers, endpoint = fan_in(registry, 3, capacity=3)
    inbox = endpoint.inbox()

    def write(writer: Publisher) -> None:
        send_all(writer, range(200))
        writer.finish()

    senders = [Background(partial(write, writer)) for writer in writers]
    received: dict[str, list[int]] = {}
    for _ in range(600):
        name, value = next_of(inbox)
        received.setdefault(name, []).append(value)
    with pytest.raises(EndOfStream, match="every connection has finished"):
        inbox.receive(30)
    for sender in senders:
        sender.result()
    assert received == {f"port{index}": list(range(200)) for index in range(3)}


def test_one_end_is_not_the_end_of_all(registry: ChannelRegistry) -> None:
    (first, second), endpoint = fan_in(registry, 2)
    inbox = endpoint.inbox()
    first.send(number(1))
    first.finish()
    assert next_of(inbox) == ("port0", 1)
    assert inbox.receive(0) is None
    second.send(number(2))
    assert next_of(inbox) == ("port1", 2)
    second.finish()
    for _ in range(2):
        with pytest.raises(EndOfStream):
            inbox.receive()


def test_ends_of_several_at_once_hide_no_message(registry: ChannelRegistry) -> None:
    writers, endpoint = fan_in(registry, 5)
    inbox = endpoint.inbox()
    writers[3].send(number(3))
    for writer in writers:
        writer.finish()
    assert next_of(inbox) == ("port3", 3)
    with pytest.raises(EndOfStream):
        inbox.receive()


def test_a_lost_writer_is_told_once_and_the_others_go_on(registry: ChannelRegistry) -> None:
    (first, second), endpoint = fan_in(registry, 2)
    inbox = endpoint.inbox()
    first.send(number(1))
    registry.endpoint_died("w0")
    assert next_of(inbox) == ("port0", 1)
    with pytest.raises(PeerLost, match="port0"):
        inbox.receive()
    assert inbox.receive(0.001) is None
    second.send(number(2))
    assert next_of(inbox) == ("port1", 2)
    second.finish()
    with pytest.raises(EndOfStream):
        inbox.receive()


def test_a_connection_may_be_added_with_something_in_it_while_a_reader_waits(
    registry: ChannelRegistry,
) -> None:
    (first, second), endpoint = fan_in(registry, 2)
    inbox = endpoint.inbox()
    late = inbox._open.pop()
    second.send(number(7))
    waiter = Background(lambda: next_of(inbox))
    eventually(lambda: endpoint.doorbell.is_waited_on)
    inbox.add(late)
    assert waiter.result() == ("port1", 7)
    first.send(number(1))
    assert next_of(inbox) == ("port0", 1)


def test_connections_that_close_a_cycle_are_not_waited_for(registry: ChannelRegistry) -> None:
    from remotemedia.core.multiprocess.channel.inbox import Inbox

    (first, second), endpoint = fan_in(registry, 2)
    forward, feedback = endpoint.subscribers.values()
    inbox = Inbox(endpoint.doorbell, [forward, feedback], [feedback])
    second.send(number(2))
    first.finish()
    assert next_of(inbox) == ("port1", 2)
    with pytest.raises(EndOfStream):
        inbox.receive()


def test_an_inbox_without_connections_has_ended(registry: ChannelRegistry) -> None:
    registry.add_endpoint("alone")
    with pytest.raises(EndOfStream):
        registry.open("alone").inbox().receive()


def test_closing_the_endpoint_ends_a_wait(registry: ChannelRegistry) -> None:
    _, endpoint = fan_in(registry, 2)
    waiter = Background(lambda: endpoint.inbox().receive())
    eventually(lambda: endpoint.doorbell.is_waited_on)
    endpoint.close()
    with pytest.raises(ChannelClosed):
        waiter.result()


def test_tasks_may_await_it(registry: ChannelRegistry) -> None:
    (first, second), endpoint = fan_in(registry, 2, capacity=1)
    inbox = endpoint.inbox()

    async def main() -> int:
        total = 0
        sending = [asyncio.create_task(send(first)), asyncio.create_task(send(second))]
        try:
            while True:
                found = await inbox.receive_async(30)
                assert found is not None
                total += value_of(found[1])
        except EndOfStream:
            await asyncio.gather(*sending)
            return total

    async def send(publisher: Publisher) -> None:
        for count in range(40):
            await publisher.send_async(number(count))
        publisher.finish()

    assert asyncio.run(main()) == 2 * sum(range(40))
