"""Subscribers: order, gaps, ends, views, and an account that balances at every moment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from remotemedia.core.multiprocess.channel.inbox import Inbox
from remotemedia.core.multiprocess.plan import SpareTaps
from remotemedia.core.multiprocess.transport.ledger import LedgerWord, PortState, PortWord
from remotemedia.data import Binary, Json, Tensor, Text
from remotemedia.data.wire import HEADER
from remotemedia.errors import (
    ChannelClosed,
    DecodeError,
    EndOfStream,
    PeerLost,
    ReleasedError,
)
from tests.channel_helpers import (
    Background,
    connection_stats_of,
    eventually,
    is_asleep,
    new_registry,
    number,
    receive_now,
    send_all,
    value_of,
)

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.native.portable import Chunk
    from remotemedia.data import Message


@pytest.fixture
def spin_ns() -> int:
    return 0  # waits block at once


def pair(
    registry: ChannelRegistry, policy: str = "block", capacity: int = 8, max_held: int = 4
) -> tuple[Publisher, Subscriber]:
    channel = registry.create_channel("port", capacity)
    depth = None if policy == "latest" else capacity
    reader = registry.create_subscriber(channel, policy=policy, capacity=depth, max_held=max_held)
    return registry.create_publisher(channel), reader


def interrupt(registry: ChannelRegistry) -> None:
    """Raise the epoch, as the executor does."""
    registry.ledger.words[LedgerWord.EPOCH] += 1


def rewrite_next(publisher: Publisher, offset: int, changed: bytes) -> None:
    """Have the next message leave with other bytes in its header."""
    writer = publisher._writer

    class Damaging:
        connect, close, on_moved = writer.connect, writer.close, writer.on_moved

        def loan(self, nbytes: int) -> tuple[Chunk, object]:
            self.chunk, token = writer.loan(nbytes)
            return self.chunk, token

        def send(self, token: object) -> None:
            self.chunk.header[offset : offset + len(changed)] = changed
            publisher._writer = writer
            writer.send(token)

    publisher._writer = Damaging()


def damage_next(publisher: Publisher) -> None:
    """Have the next message leave with a header that is none."""
    rewrite_next(publisher, 0, b"\0")


def renumber_next(publisher: Publisher, sequence: int) -> None:
    """Have the next message leave with another sequence number."""
    rewrite_next(publisher, 64, sequence.to_bytes(8, "little"))


# Waiting


@pytest.mark.parametrize("timeout_seconds", [0, 0.001])
def test_a_receive_that_runs_out_of_time_is_none(
    registry: ChannelRegistry, timeout_seconds: float
) -> None:
    publisher, reader = pair(registry)
    assert reader.receive(timeout_seconds) is None
    publisher.send(number(1))
    assert value_of(reader.receive(timeout_seconds)) == 1


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        *((-1, ValueError), (-0.5, ValueError), (float("nan"), ValueError)),
        *((value, TypeError) for value in ("5", "", [1], [], True, False)),
    ],
)
def test_a_timeout_that_is_none_is_refused(
    registry: ChannelRegistry, timeout: Any, error: type[Exception]
) -> None:
    publisher, reader = pair(registry)
    inbox = Inbox(reader._doorbell, [reader])
    for call in (
        reader.receive,
        inbox.receive,
        publisher.wait_connected,
        publisher.loan(Binary, nbytes=1).send,
        lambda seconds: publisher.send(number(1), timeout_seconds=seconds),
        lambda seconds: asyncio.run(reader.receive_async(seconds)),
        lambda seconds: asyncio.run(inbox.receive_async(seconds)),
        lambda seconds: asyncio.run(publisher.send_async(number(1), timeout_seconds=seconds)),
    ):
        with pytest.raises(error, match=r"timeout_seconds is .* it must be"):
            call(timeout)
    assert reader.receive(0) is None


def test_a_message_wakes_a_reader_that_waits(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry)
    waiter = Background(lambda: value_of(reader.receive()))
    eventually(lambda: is_asleep(registry, reader))
    publisher.send(number(5))
    assert waiter.result() == 5


def test_an_end_wakes_a_reader_that_waits(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry)
    waiter = Background(reader.receive)
    eventually(lambda: is_asleep(registry, reader))
    publisher.finish()
    with pytest.raises(EndOfStream, match="port port has finished"):
        waiter.result()


def test_closing_wakes_a_reader_that_waits(registry: ChannelRegistry) -> None:
    _, reader = pair(registry)
    waiter = Background(reader.receive)
    eventually(lambda: is_asleep(registry, reader))
    reader.close()
    with pytest.raises(ChannelClosed, match="subscriber of port -> reader"):
        waiter.result()


@pytest.mark.parametrize("spin_ns", [0, 50_000, 2_000_000])
def test_closing_while_another_thread_looks_is_channel_closed_and_nothing_else(
    registry: ChannelRegistry, spin_ns: int
) -> None:
    channel = registry.create_channel("port", 4)
    registry.create_publisher(channel)
    for _ in range(8):
        reader = registry.create_subscriber(channel)
        reader._doorbell.spin_ns = spin_ns
        waiter = Background(reader.receive)
        eventually(partial(getattr, reader._doorbell, "is_waited_on"))
        reader.close()
        with pytest.raises(ChannelClosed):
            waiter.result()


def test_ctrl_c_ends_a_receive_and_takes_nothing(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry)

    def press() -> None:
        eventually(lambda: is_asleep(registry, reader))
        os.kill(os.getpid(), signal.SIGINT)

    presser = Background(press)
    with pytest.raises(KeyboardInterrupt):
        reader.receive()
    presser.result()
    waiter = Background(lambda: value_of(reader.receive(30)))
    publisher.send(number(1))
    assert waiter.result() == 1


@pytest.mark.parametrize("spin_ns", [0, 50_000])
def test_no_message_is_missed_between_a_sender_and_a_reader_that_sleeps(
    registry: ChannelRegistry, spin_ns: int
) -> None:
    publisher, reader = pair(registry, capacity=1)
    reader._doorbell.spin_ns = publisher._doorbell.spin_ns = spin_ns
    sender = Background(partial(send_all, publisher, range(2000)))
    assert [value_of(reader.receive(30)) for _ in range(2000)] == list(range(2000))
    sender.result()
    connection_stats_of(registry, reader)


# Ends


def test_a_reader_is_due_while_a_look_may_find_something(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry)
    assert reader.receive_nowait() is None
    assert not reader.is_due
    publisher.send(number(1))
    assert reader.is_due
    message = reader.receive_nowait()
    assert reader.is_due, "it may have memory to give back"
    del message
    assert reader.receive_nowait() is None
    assert not reader.is_due
    publisher.finish()
    assert reader.is_due
    with pytest.raises(EndOfStream):
        reader.receive_nowait()


def test_all_that_was_sent_comes_before_the_end(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry)
    send_all(publisher, range(5))
    publisher.finish()
    assert [value_of(message) for message in reader] == list(range(5))
    for _ in range(2):
        with pytest.raises(EndOfStream):
            reader.receive()
    assert connection_stats_of(registry, reader).received == 5


def test_all_that_was_sent_comes_before_the_loss_of_the_writer(
    registry: ChannelRegistry,
) -> None:
    registry.add_endpoint("writer")
    channel = registry.create_channel("port", 4, writer="writer")
    reader = registry.create_subscriber(channel)
    (publisher,) = registry.open("writer").publishers.values()
    send_all(publisher, range(3))
    waiter = Background(lambda: [value_of(message) for message in reader])
    registry.endpoint_died("writer")
    with pytest.raises(PeerLost, match="the writer of port port died"):
        waiter.result()
    assert connection_stats_of(registry, reader).received == 3


def test_what_was_counted_and_never_came_is_lost_at_the_end(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry)
    publisher.send(number(0))
    words, slot = registry.ledger.words, publisher.port.slot
    words[slot + PortWord.SENT] += 1  # it died between counting and sending
    words[slot + PortWord.STATE] = PortState.LOST
    assert value_of(reader.receive()) == 0
    assert connection_stats_of(registry, reader).queued == 1
    with pytest.raises(PeerLost):
        reader.receive()
    stats = connection_stats_of(registry, reader)
    assert (stats.queued, stats.dropped["lost"]) == (0, 1)


def test_a_late_reader_that_got_nothing_lost_nothing(registry: ChannelRegistry) -> None:
    channel = registry.create_channel("port", 4)
    publisher = registry.create_publisher(channel)
    send_all(publisher, range(5))
    late = registry.create_subscriber(channel)
    assert (late.position, late.ended_input()) == (5, 0)
    publisher.finish()
    with pytest.raises(EndOfStream):
        late.receive()
    stats = connection_stats_of(registry, late)
    assert (stats.sent, stats.received, sum(stats.dropped.values())) == (0, 0, 0)


# Late readers


@pytest.mark.parametrize("before", [0, 1, 7])
def test_a_late_reader_gets_exactly_what_is_sent_after_it_joined(
    registry: ChannelRegistry, before: int
) -> None:
    channel = registry.create_channel("port", 4)
    early = registry.create_subscriber(channel, policy="drop_oldest")
    publisher = registry.create_publisher(channel)
    send_all(publisher, range(before))
    late = registry.create_subscriber(channel)
    send_all(publisher, range(100, 103))
    assert receive_now(late) == [100, 101, 102]
    publisher.send(number(103))
    assert receive_now(late) == [103]
    assert receive_now(early)[-1] == 103
    stats = connection_stats_of(registry, late)
    assert (stats.sent, stats.received, sum(stats.dropped.values())) == (4, 4, 0)


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "latest", "error"])
@pytest.mark.parametrize("has_taken", [True, False])
def test_what_reaches_a_reader_before_the_writer_knows_of_it_is_not_meant_for_it(
    registry: ChannelRegistry, policy: str, has_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add_endpoint("late")
    channel = registry.create_channel("port", 4)
    publisher = registry.create_publisher(channel)
    connection = registry.connect(channel, "late", policy=policy)
    # Told later, as across processes.
    monkeypatch.setattr(registry._opener, "_link_late", lambda *_: None)
    (late,) = registry.open("late").subscribers.values()
    # The transport may connect them before the plan does.
    publisher._writer.connect()
    send_all(publisher, range(6))
    assert late.position == 0
    assert connection_stats_of(registry, late).sent == 0
    if has_taken:
        assert late.take() is None
    publisher.add_connection(connection, registry._parties.bells[connection.reader])
    assert late.take() is None
    publisher.send(number(100))
    assert receive_now(late) == [100]
    stats = connection_stats_of(registry, late)
    assert (stats.sent, stats.received, sum(stats.dropped.values())) == (1, 1, 0)
    assert late.position == 7


# What is skipped


@pytest.mark.parametrize("count", [1, 2, 5])
def test_messages_of_an_older_epoch_are_dropped_and_hide_nothing_behind_them(
    registry: ChannelRegistry, count: int
) -> None:
    publisher, reader = pair(registry)
    send_all(publisher, range(count))
    interrupt(registry)
    publisher.send(number(100))
    assert value_of(reader.take()) == 100
    stats = connection_stats_of(registry, reader)
    assert (stats.received, stats.dropped["interrupted"]) == (1, count)
    # One that belongs to the older epoch although it is sent after the newer began.
    publisher.send(number(1), epoch=0)
    publisher.send(number(101))
    assert value_of(reader.receive(30)) == 101


def test_old_messages_at_the_end_of_a_stream_hide_no_good_one(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry)
    send_all(publisher, range(3))
    interrupt(registry)
    publisher.send(number(100))
    publisher.finish()
    assert [value_of(message) for message in reader] == [100]
    stats = connection_stats_of(registry, reader)
    assert (stats.dropped["interrupted"], stats.dropped["lost"]) == (3, 0)


def test_old_messages_are_skipped_by_a_reader_that_keeps_all_it_may(
    registry: ChannelRegistry,
) -> None:
    publisher, reader = pair(registry, max_held=2)
    send_all(publisher, range(6))
    kept = [reader.take() for _ in range(2)]
    interrupt(registry)
    publisher.send(number(100))
    kept.append(reader.receive(30))
    assert [value_of(message) for message in kept] == [0, 1, 100]
    assert connection_stats_of(registry, reader).dropped["interrupted"] == 4


def test_a_damaged_message_is_one_error_and_the_next_call_goes_on(
    registry: ChannelRegistry,
) -> None:
    publisher, reader = pair(registry)
    publisher.send(number(0))
    damage_next(publisher)
    publisher.send(number(1))
    publisher.send(number(2))
    assert value_of(reader.receive()) == 0
    with pytest.raises(DecodeError):
        reader.receive()
    assert value_of(reader.receive()) == 2
    stats = connection_stats_of(registry, reader)
    assert (stats.received, stats.dropped["unreadable"]) == (2, 1)


@pytest.mark.parametrize("offset", [56, 72, 80, 87])
def test_a_reserved_field_that_is_not_0_is_damage_and_costs_that_message_alone(
    registry: ChannelRegistry, offset: int
) -> None:
    publisher, reader = pair(registry)
    for value in range(3):
        if value == 1:
            rewrite_next(publisher, offset, b"\1")
        publisher.send(number(value))
    assert value_of(reader.receive()) == 0
    with pytest.raises(DecodeError, match="in place of 0"):
        reader.receive()
    assert value_of(reader.receive()) == 2
    stats = connection_stats_of(registry, reader)
    assert (stats.received, stats.dropped["unreadable"]) == (2, 1)


def test_a_damaged_message_frees_its_slot_for_a_sender_that_waits(
    registry: ChannelRegistry,
) -> None:
    publisher, reader = pair(registry, capacity=1)
    damage_next(publisher)
    publisher.send(number(0))
    sender = Background(partial(send_all, publisher, [1]))
    eventually(lambda: is_asleep(registry, publisher))
    with pytest.raises(DecodeError):
        reader.receive()
    sender.result()
    assert receive_now(reader) == [1]


# Views


def test_a_view_stays_as_it_was_however_much_is_sent_after(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry, "drop_oldest", capacity=2, max_held=3)
    publisher.send(Tensor(np.full(100, 7)))
    kept = reader.receive()
    assert isinstance(kept, Tensor)
    for count in range(50):
        publisher.send(Tensor(np.full(100, count)))
        if count % 5 == 0:
            reader.take()
    assert kept.array.tolist() == [7] * 100
    assert not kept.array.flags.writeable


def test_a_reader_that_hoards_gets_counted_copies_and_the_writer_goes_on(
    registry: ChannelRegistry,
) -> None:
    publisher, reader = pair(registry, capacity=2, max_held=3)
    hoard = []
    for count in range(20):
        publisher.send(number(count))
        hoard.append(reader.receive())
    assert [value_of(message) for message in hoard] == list(range(20))
    stats = connection_stats_of(registry, reader)
    assert (stats.copied, reader.held) == (17, 3)
    hoard.clear()
    assert reader.held == 0
    assert reader.take() is None
    assert connection_stats_of(registry, reader).released == 20


def test_a_message_is_released_by_release_by_dropping_it_and_by_the_last_of_its_arrays(
    registry: ChannelRegistry,
) -> None:
    publisher, reader = pair(registry)
    send_all(publisher, range(3))
    first, second, third = (reader.receive() for _ in range(3))
    assert isinstance(first, Binary)
    assert isinstance(third, Binary)
    assert reader.held == 3
    first.release()
    with pytest.raises(ReleasedError):
        first.array  # noqa: B018
    del second
    part = third.array[2:4]
    third.release()
    assert reader.held == 1
    assert reader.take() is None  # it looks for a message, and gives back what nobody uses
    assert connection_stats_of(registry, reader).released == 2
    del part
    assert reader.held == 0
    assert reader.take() is None
    assert connection_stats_of(registry, reader).released == 3


def test_a_thread_may_ask_what_is_held_while_another_receives(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry)
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            assert 0 <= reader.held <= 8

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    asker = Background(ask)
    try:
        kept: list[tuple[int, Message]] = []
        for count in range(20_000):
            publisher.send(number(count))
            kept.append((count, reader.receive()))
            if len(kept) > 3:
                sent, message = kept.pop(0)
                assert value_of(message) == sent
                del message
    finally:
        done.set()
        sys.setswitchinterval(interval)
    asker.result()


def test_messages_without_an_array_hold_nothing(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry)
    publisher.send(Text("hello", metadata={"a": 1}))
    publisher.send(Json([1, 2]))
    assert reader.receive() == Text("hello", metadata={"a": 1})
    assert reader.receive() == Json([1, 2])
    assert reader.held == 0
    assert connection_stats_of(registry, reader).released == 2


def read_last(box: list[Message | None]) -> int:
    return value_of(box.pop())


def test_messages_may_be_dropped_in_another_thread(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry, max_held=2)
    for count in range(100):
        publisher.send(number(count))
        message = reader.receive()
        box: list[Message | None] = [message]
        del message
        assert Background(partial(read_last, box)).result() == count
    assert reader.held == 0
    assert connection_stats_of(registry, reader).copied == 0


def test_what_is_held_outlives_the_reader_the_writer_and_the_registry() -> None:
    for transport in ("memory", "iceoryx"):
        with new_registry(transport) as registry:
            publisher, reader = pair(registry)
            publisher.send(Tensor(np.arange(100_000)))
            kept = reader.receive()
            assert isinstance(kept, Tensor)
            reader.close()
            publisher.close()
            assert int(kept.array[-1]) == 99_999
        assert int(kept.array.sum()) == sum(range(100_000))
        del publisher, reader
        assert int(kept.array.sum()) == sum(range(100_000))


def test_what_is_held_stays_as_it_was_when_its_reader_has_closed(
    registry: ChannelRegistry,
) -> None:
    channel = registry.create_channel("port", 2)
    gone = registry.create_subscriber(channel, max_held=3)
    stays = registry.create_subscriber(channel, policy="drop_oldest")
    publisher = registry.create_publisher(channel)
    kept = []
    for count in range(3):
        publisher.send(number(count))
        kept.append(gone.receive())
    gone.close()
    for count in range(100, 200):
        publisher.send(number(count))
        stays.take()
        assert [value_of(message) for message in kept] == [0, 1, 2]


# Closing


def test_closing_counts_what_was_unread_and_nothing_that_is_sent_later(
    registry: ChannelRegistry,
) -> None:
    channel = registry.create_channel("port", 8)
    gone, stays = registry.create_subscriber(channel), registry.create_subscriber(channel)
    publisher = registry.create_publisher(channel)
    send_all(publisher, range(5))
    kept = gone.receive()
    assert value_of(gone.receive()) == 1
    gone.close()
    gone.close()
    send_all(publisher, range(5, 8))
    stats = connection_stats_of(registry, gone)
    assert (stats.sent, stats.received, stats.dropped["closed"]) == (5, 2, 3)
    assert (stats.held, stats.queued) == (1, 0)
    assert value_of(kept) == 0
    assert receive_now(stays) == list(range(8))


def test_a_closed_reader_refuses_everything(registry: ChannelRegistry) -> None:
    _, reader = pair(registry)
    reader.close()
    for call in (reader.receive, reader.receive_nowait, reader.take, partial(reader.receive, 0)):
        with pytest.raises(ChannelClosed):
            call()
    with pytest.raises(ChannelClosed):
        asyncio.run(reader.receive_async())
    assert reader.held == 0


def test_what_it_knows_of_the_last_message(registry: ChannelRegistry) -> None:
    publisher, reader = pair(registry)
    with pytest.raises(LookupError, match="nothing has been taken from port -> reader"):
        reader.header  # noqa: B018
    assert reader.position == 0
    publisher.send(number(0))
    reader.receive()
    assert reader.position == 1
    header = reader.header
    assert (header.sequence, header.zero, header.context.epoch) == (1, 0, 0)
    assert len(header) == len(HEADER.unpack(bytes(HEADER.size)))
    assert repr(reader).startswith("<Subscriber port -> reader")


@pytest.mark.parametrize("is_late", [True, False])
def test_an_input_has_ended_for_a_reader_once_it_has_had_all_of_it(
    registry: ChannelRegistry, is_late: bool
) -> None:
    channel = registry.create_channel("port", 8, taps=SpareTaps(2, 8, 4))
    readers = [] if is_late else [registry.create_subscriber(channel)]
    publisher = registry.create_publisher(channel)
    if is_late:
        send_all(publisher, [9])
        readers.append(registry.create_subscriber(channel))
    (reader,) = readers
    assert reader.ended_input() == 0
    send_all(publisher, [0, 1])
    publisher.end_input(1)
    publisher.send(number(2))
    assert reader.ended_input() == 0
    reader.take()
    assert reader.ended_input() == 0
    reader.take()
    # Known for sure once what was sent when the end was seen has been taken.
    reader.ended_input()
    reader.take()
    assert reader.ended_input() == 1


@pytest.mark.parametrize("policy", ["block", "drop_oldest"])
@pytest.mark.parametrize("sequence", [3, 1 << 40, (1 << 64) - 1])
def test_a_number_that_was_never_sent_is_damage_and_silences_nobody(
    registry: ChannelRegistry, policy: str, sequence: int
) -> None:
    publisher, reader = pair(registry, policy, capacity=1)
    publisher.send(number(0))
    assert receive_now(reader) == [0]
    renumber_next(publisher, sequence)
    publisher.send(number(1))
    with pytest.raises(DecodeError, match=f"message {sequence:,} of port port, which has sent 2"):
        reader.receive(0)
    publisher.send(number(2), timeout_seconds=30)
    assert receive_now(reader) == [2]
    stats = connection_stats_of(registry, reader)
    assert (stats.received, stats.dropped["unreadable"]) == (2, 1)


# The account


def test_the_account_balances_at_every_moment_of_a_busy_connection(
    registry: ChannelRegistry,
) -> None:
    channel = registry.create_channel("port", 4)
    lossless = registry.create_subscriber(channel)
    lossy = registry.create_subscriber(channel, policy="drop_oldest", capacity=2)
    publisher = registry.create_publisher(channel)

    def read(reader: Subscriber) -> int:
        return sum(1 for _ in reader)

    readers = [Background(partial(read, lossless)), Background(partial(read, lossy))]

    def send() -> None:
        send_all(publisher, range(1000))
        publisher.finish()

    sender = Background(send)
    looks = 0
    while sender.is_running:
        connection_stats_of(registry, lossless)
        connection_stats_of(registry, lossy)
        looks += 1
    sender.result()
    assert readers[0].result() == 1000
    received = readers[1].result()
    stats = connection_stats_of(registry, lossy)
    assert (stats.received, stats.dropped["overwritten"]) == (received, 1000 - received)
    assert looks > 0


# Event loops


class TestAsync:
    """Receiving in an event loop."""

    def test_it_iterates_to_the_end(self, registry: ChannelRegistry) -> None:
        publisher, reader = pair(registry, capacity=2)

        async def main() -> list[int]:
            task = asyncio.create_task(send())
            received = [value_of(message) async for message in reader]
            await task
            return received

        async def send() -> None:
            for count in range(30):
                await publisher.send_async(number(count))
            publisher.finish()

        assert asyncio.run(main()) == list(range(30))

    @pytest.mark.parametrize("is_inbox", [True, False])
    def test_one_that_always_has_a_message_gives_other_tasks_their_turn(
        self, registry: ChannelRegistry, is_inbox: bool
    ) -> None:
        publisher, reader = pair(registry, capacity=200)
        send_all(publisher, range(200))

        async def main() -> None:
            inbox = Inbox(reader._doorbell, [reader])
            others = asyncio.create_task(asyncio.sleep(0))
            for _ in range(200):
                await (inbox.receive_async() if is_inbox else reader.receive_async())
                if others.done():
                    return
            raise AssertionError("no other task had its turn")

        asyncio.run(main())

    def test_a_cancelled_receive_takes_nothing(self, registry: ChannelRegistry) -> None:
        publisher, reader = pair(registry)

        async def main() -> None:
            for count in range(20):
                task = asyncio.create_task(reader.receive_async(30 if count % 2 else None))
                await asyncio.sleep(0)
                publisher.send(number(count))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert value_of(await reader.receive_async()) == count
            assert await reader.receive_async(0.001) is None

        asyncio.run(main())
        assert connection_stats_of(registry, reader).received == 20

    def test_tasks_share_what_comes(self, registry: ChannelRegistry) -> None:
        publisher, reader = pair(registry, capacity=3)

        async def main() -> list[int]:
            tasks = [asyncio.create_task(reader.receive_async(30)) for _ in range(10)]
            for count in range(10):
                await publisher.send_async(number(count))
            return sorted([value_of(await task) for task in tasks])

        assert asyncio.run(main()) == list(range(10))

    def test_closing_ends_every_receive_that_waits(self, registry: ChannelRegistry) -> None:
        _, reader = pair(registry)

        async def main() -> None:
            tasks = [asyncio.create_task(reader.receive_async()) for _ in range(3)]
            await asyncio.sleep(0)
            reader.close()
            for task in tasks:
                with pytest.raises(ChannelClosed):
                    await task

        asyncio.run(main())

    def test_a_blocking_send_in_the_loop_takes_no_wake_up_from_a_task(
        self, registry: ChannelRegistry
    ) -> None:
        registry.add_endpoint("node")
        inputs = registry.create_channel("inputs", 4)
        outputs = registry.create_channel("outputs", 1, writer="node")
        registry.connect(inputs, "node")
        sink = registry.create_subscriber(outputs)
        node = registry.open("node")
        source = registry.create_publisher(inputs)
        (reader,) = node.subscribers.values()
        (writer,) = node.publishers.values()
        writer.send(number(0))

        async def main() -> int:
            task = asyncio.create_task(reader.receive_async())
            await asyncio.sleep(0)

            def outside() -> None:
                eventually(lambda: is_asleep(registry, writer))
                source.send(number(7))  # rings the node, which waits for credit
                assert receive_now(sink, 1) == [0]

            outsider = Background(outside)
            writer.send(number(1))
            outsider.result()
            async with asyncio.timeout(30):
                return value_of(await task)

        assert asyncio.run(main()) == 7
