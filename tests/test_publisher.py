"""Publishers: who waits, who is refused, who is told, and what is lost."""

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

from remotemedia.core.multiprocess.channel.publisher import Publisher
from remotemedia.core.multiprocess.channel.sender import Sender
from remotemedia.core.multiprocess.plan import SpareTaps
from remotemedia.core.multiprocess.transport.ledger import (
    ConnectionWord,
    PortState,
    PortWord,
)
from remotemedia.data import Audio, Binary, File, Text, Video
from remotemedia.errors import (
    BackpressureError,
    ChannelClosed,
    ChannelError,
    DataError,
    EndOfStream,
    LoanError,
    PeerLost,
)
from tests.channel_helpers import (
    PATIENCE_SECONDS,
    Background,
    both_transports,
    connection_stats_of,
    eventually,
    is_asleep,
    new_registry,
    number,
    receive_now,
    send_all,
    value_of,
)
from tests.strikes import strikes

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.loan import Loan
    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.data import RuntimeData


@pytest.fixture
def spin_ns() -> int:
    return 0  # waits block at once


def channel_of(
    registry: ChannelRegistry, *policies: str | tuple[str, int], capacity: int = 4
) -> tuple[Publisher, list[Subscriber]]:
    """Make a channel with one reader for each policy."""
    channel = registry.create_channel("port", capacity, taps=SpareTaps(8, 8, 4))
    readers = []
    for policy in policies:
        name, depth = (policy, None) if isinstance(policy, str) else policy
        readers.append(registry.create_subscriber(channel, policy=name, capacity=depth))
    return registry.create_publisher(channel), readers


def fill(publisher: Publisher) -> int:
    """Send numbers from 0 until no more are taken; return how many were."""
    for count in range(10_000):
        try:
            publisher.send_nowait(number(count))
        except BackpressureError:
            return count
    raise AssertionError("it is never full")


def blocked_sender(registry: ChannelRegistry, publisher: Publisher, value: int) -> Background[None]:
    sender = Background(lambda: publisher.send(number(value)))
    eventually(lambda: is_asleep(registry, publisher) or not sender.is_running)
    assert sender.is_running
    return sender


# Policies


def test_order_is_preserved_and_nothing_is_lost_under_block(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 3))
    received = []
    for count in range(50):
        publisher.send(number(count))
        if count % 3 == 2:
            received += receive_now(reader)
    received += receive_now(reader)
    assert received == list(range(50))


@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_a_full_block_connection_holds_exactly_its_capacity(
    registry: ChannelRegistry, capacity: int
) -> None:
    publisher, (reader,) = channel_of(registry, ("block", capacity))
    assert fill(publisher) == capacity
    assert connection_stats_of(registry, reader).queued == capacity
    assert receive_now(reader) == list(range(capacity))
    assert fill(publisher) == capacity


@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_drop_oldest_keeps_the_newest_and_counts_every_gap(
    registry: ChannelRegistry, capacity: int
) -> None:
    publisher, (reader,) = channel_of(registry, ("drop_oldest", capacity))
    for count in range(20):
        publisher.send_nowait(number(count))
    stats = connection_stats_of(registry, reader)
    assert (stats.sent, stats.queued) == (20, capacity)
    assert stats.dropped["overwritten"] == 20 - capacity
    assert receive_now(reader) == list(range(20 - capacity, 20))
    assert connection_stats_of(registry, reader).dropped["overwritten"] == 20 - capacity
    publisher.send_nowait(number(99))
    assert receive_now(reader) == [99]
    assert connection_stats_of(registry, reader).dropped["overwritten"] == 20 - capacity


def test_latest_keeps_one(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, "latest")
    for count in range(5):
        publisher.send_nowait(number(count))
    assert receive_now(reader) == [4]
    assert connection_stats_of(registry, reader).dropped["overwritten"] == 4


def test_error_refuses_and_sends_to_nobody(registry: ChannelRegistry) -> None:
    publisher, (strict, block, latest, lossy) = channel_of(
        registry, ("error", 2), ("block", 5), "latest", ("drop_oldest", 5)
    )
    for count in range(2):
        publisher.send(number(count))
    for _ in range(3):
        with pytest.raises(BackpressureError, match=r"port -> reader \d+ \(error\) is full: 2"):
            publisher.send(number(99))
    assert registry.stats()["port"].refused == 3
    assert registry.stats()["port"].sent == 2
    readers = (strict, block, lossy, latest)
    assert [receive_now(one) for one in readers] == [[0, 1], [0, 1], [0, 1], [1]]
    publisher.send(number(2))
    assert [receive_now(one) for one in readers] == [[2], [2], [2], [2]]
    for one in readers:
        connection_stats_of(registry, one)


def test_policies_mix_on_one_port(registry: ChannelRegistry) -> None:
    publisher, (block, lossy, latest) = channel_of(
        registry, ("block", 4), ("drop_oldest", 2), "latest"
    )
    received = []
    for count in range(40):
        publisher.send(number(count))
        if count % 4 == 3:
            received += receive_now(block)
    assert received == list(range(40))
    assert receive_now(lossy) == [38, 39]
    assert receive_now(latest) == [39]
    assert connection_stats_of(registry, lossy).dropped["overwritten"] == 38
    assert connection_stats_of(registry, latest).dropped["overwritten"] == 39
    assert sum(connection_stats_of(registry, block).dropped.values()) == 0


def test_a_latest_reader_that_never_reads_holds_up_nobody(registry: ChannelRegistry) -> None:
    publisher, (block, _) = channel_of(registry, ("block", 2), "latest")
    for count in range(200):
        publisher.send_nowait(number(count))
        assert receive_now(block) == [count]


# Waiting


def test_a_blocked_sender_goes_on_at_the_first_slot_that_is_free(
    registry: ChannelRegistry,
) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 8))
    assert fill(publisher) == 8
    sender = blocked_sender(registry, publisher, 8)
    # The reader takes one, and then waits for something else.
    assert value_of(reader.take()) == 0
    sender.result()
    assert receive_now(reader) == list(range(1, 9))
    assert registry.stats()["port"].blocked_seconds > 0


def test_a_sender_waits_for_the_slowest_of_its_lossless_readers(
    registry: ChannelRegistry,
) -> None:
    publisher, (quick, slow) = channel_of(registry, ("block", 2), ("block", 3))
    assert fill(publisher) == 2
    sender = blocked_sender(registry, publisher, 2)
    assert receive_now(slow) == [0, 1]
    eventually(lambda: is_asleep(registry, publisher))
    assert sender.is_running
    assert receive_now(quick, 2) == [0, 1]
    sender.result()
    assert receive_now(slow) == receive_now(quick) == [2]


@pytest.mark.parametrize("timeout_seconds", [0, 1e-6, 0.02])
def test_a_send_that_runs_out_of_time_says_who_was_full_and_sends_to_nobody(
    registry: ChannelRegistry, timeout_seconds: float
) -> None:
    publisher, (wide, narrow) = channel_of(registry, ("block", 3), ("block", 2))
    fill(publisher)
    refused = registry.stats()["port"].refused
    with pytest.raises(BackpressureError, match=r"\(block\) is full: 2 messages") as refusal:
        publisher.send(number(9), timeout_seconds=timeout_seconds)
    assert refusal.value.connection == narrow.connection.name
    assert registry.stats()["port"].refused == refused + 1
    assert receive_now(wide) == receive_now(narrow) == [0, 1]


def test_the_refusal_never_names_a_reader_that_has_closed(registry: ChannelRegistry) -> None:
    publisher, (gone, reader) = channel_of(registry, ("block", 3), ("block", 5))
    gone.close()
    assert fill(publisher) == 5
    with pytest.raises(BackpressureError) as refusal:
        publisher.send_nowait(number(9))
    assert refusal.value.connection == reader.connection.name


def test_a_refused_send_leaves_another_that_waits_its_wake_up(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 2))
    fill(publisher)
    sender = blocked_sender(registry, publisher, 2)
    for timeout_seconds in (0, 0.001):
        with pytest.raises(BackpressureError):
            publisher.send(number(9), timeout_seconds=timeout_seconds)
    assert value_of(reader.take()) == 0
    sender.result()
    assert receive_now(reader) == [1, 2]


def test_a_send_that_gets_ahead_leaves_another_that_waits_its_wake_up(
    registry: ChannelRegistry,
) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 2))
    fill(publisher)
    sender = blocked_sender(registry, publisher, 7)
    for count in range(100, 400):
        receive_now(reader)
        try:
            publisher.send_nowait(number(count))
        except BackpressureError:
            continue
        if not sender.is_running:
            break
    while sender.is_running:
        receive_now(reader)
    sender.result()


def test_threads_share_a_publisher_and_lose_nothing(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 3))
    threads, each = 4, 200
    senders = [
        Background(partial(send_all, publisher, range(base, base + each)))
        for base in range(0, threads * 1000, 1000)
    ]
    received = [value_of(reader.receive(30)) for _ in range(threads * each)]
    for sender in senders:
        sender.result()
    assert reader.take() is None
    for base in range(0, threads * 1000, 1000):
        of_thread = [value for value in received if base <= value < base + 1000]
        assert of_thread == list(range(base, base + each))
    stats = connection_stats_of(registry, reader)
    assert (stats.sent, stats.queued) == (threads * each, 0)


def test_threads_may_mix_loans_sends_and_timeouts(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 2))
    each = 100

    def lend() -> None:
        for count in range(each):
            with publisher.loan(Binary, nbytes=8) as loan:
                loan.array[:] = number(count).array

    def insist() -> None:
        for count in range(1000, 1000 + each):
            while True:
                try:
                    publisher.send(number(count), timeout_seconds=0.001)
                    break
                except BackpressureError:
                    continue

    senders = [Background(lend), Background(insist)]
    received = [value_of(reader.receive(30)) for _ in range(2 * each)]
    for sender in senders:
        sender.result()
    assert [value for value in received if value < 1000] == list(range(each))
    assert [value for value in received if value >= 1000] == list(range(1000, 1000 + each))


class Told:
    """A lock that tells when it is asked for."""

    def __init__(self, lock: Any, asked: threading.Event) -> None:
        self._lock, self._asked = lock, asked

    def __enter__(self) -> None:
        self._asked.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def send_between(publisher: Publisher, loan: Loan[Any], code: object, line: int) -> list[bool]:
    """Have another thread send a loan before the nth line of a function, as under a debugger.

    Returns:
        A list, for once that is over: whether readers had been told of the end when it was sent.
    """
    words, state_at = publisher._words, publisher._state_at
    went_on = threading.Event()
    publisher._lock = Told(publisher._lock, went_on)  # type: ignore[assignment]  # as good as one
    sent: list[bool] = []
    left = line

    def send() -> None:
        was_told = words[state_at] == PortState.FINISHED
        try:
            loan.send(0)
            sent.append(was_told)
        except (BackpressureError, ChannelClosed):
            pass
        finally:
            went_on.set()

    def look(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code is not code:
            return None
        left -= event == "line"
        if event == "line" and left == 0:
            went_on.clear()
            threading.Thread(target=send, daemon=True).start()
            assert went_on.wait(PATIENCE_SECONDS)
        return look

    sys.settrace(look)
    return sent


@pytest.mark.parametrize("is_lent", [True, False])
def test_a_send_between_any_two_lines_of_another_takes_nothing_of_its_credit(
    registry: ChannelRegistry, is_lent: bool
) -> None:
    code = (Sender._try_loan if is_lent else Sender._try_send).__code__
    outer = sys.gettrace()
    for line in range(1, 24):
        channel = registry.create_channel(f"port{line}", 1)
        reader = registry.create_subscriber(channel, capacity=1)
        publisher = registry.create_publisher(channel)
        publisher.loan(Binary, nbytes=8).send()  # from now on it is known how one goes
        reader.receive(0)
        mine, other = (publisher.loan(Binary, nbytes=8) for _ in range(2))
        kept = mine.message.array  # so that it takes the longer way
        send_between(publisher, other, code, line)
        try:
            if is_lent:
                mine.send(0)
            else:
                publisher.send_nowait(number(1))
        except BackpressureError:
            pass
        finally:
            sys.settrace(outer)
        del kept
        with publisher._lock:  # whoever waited for it
            pass
        assert reader.receive(0) is not None
        assert connection_stats_of(registry, reader).dropped["lost"] == 0
        publisher.leave()


def test_nothing_is_sent_once_readers_are_told_of_the_end(registry: ChannelRegistry) -> None:
    outer = sys.gettrace()
    for line in range(1, 12):
        channel = registry.create_channel(f"port{line}", 4)
        reader = registry.create_subscriber(channel)
        publisher = registry.create_publisher(channel)
        publisher.loan(Binary, nbytes=8).send()
        loan = publisher.loan(Binary, nbytes=8)
        sent = send_between(publisher, loan, Publisher.finish.__code__, line)
        try:
            publisher.finish()
        finally:
            sys.settrace(outer)
        assert True not in sent
        assert sum(1 for _ in reader) == 1 + len(sent)


def test_ctrl_c_ends_a_blocked_send_and_nothing_was_sent(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 1))
    publisher.send(number(0))
    worked: list[int] = []

    def work_then_interrupt() -> None:
        eventually(lambda: is_asleep(registry, publisher))
        worked.append(sum(range(1000)))  # other threads run meanwhile
        os.kill(os.getpid(), signal.SIGINT)

    worker = Background(work_then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        publisher.send(number(1))
    worker.result()
    assert worked == [499_500]
    assert receive_now(reader) == [0]
    publisher.send(number(2))
    assert receive_now(reader) == [2]
    connection_stats_of(registry, reader)


@pytest.mark.parametrize("ending", ["finish", "close", "destroy"])
def test_closing_the_publisher_ends_every_send_that_waits(
    registry: ChannelRegistry, ending: str
) -> None:
    channel = registry.create_channel("port", 1)
    registry.create_subscriber(channel)
    publisher = registry.create_publisher(channel)
    publisher.send(number(0))
    first = blocked_sender(registry, publisher, 1)
    second = Background(lambda: publisher.send(number(2)))
    third = Background(lambda: publisher.loan(Binary, nbytes=8).send())
    if ending == "destroy":
        registry.destroy_channel(channel)
    else:
        getattr(publisher, ending)()
    for sender in (first, second, third):
        with pytest.raises(ChannelClosed):
            sender.result()


def test_a_reader_that_closes_frees_a_blocked_sender(registry: ChannelRegistry) -> None:
    publisher, (gone, reader) = channel_of(registry, ("block", 1), ("block", 4))
    publisher.send(number(0))
    sender = blocked_sender(registry, publisher, 1)
    gone.close()
    sender.result()
    publisher.send(number(2))
    assert receive_now(reader) == [0, 1, 2]
    stats = connection_stats_of(registry, gone)
    assert (stats.sent, stats.dropped["closed"], stats.in_flight) == (1, 1, 0)


def test_a_reader_that_dies_frees_a_blocked_sender_with_peer_lost(
    registry: ChannelRegistry,
) -> None:
    registry.add_endpoint("reader")
    channel = registry.create_channel("port", 2)
    connection = registry.connect(channel, "reader")
    endpoint = registry.open("reader")
    publisher = registry.create_publisher(channel)
    fill(publisher)
    sender = blocked_sender(registry, publisher, 2)
    registry.endpoint_died("reader")
    with pytest.raises(PeerLost, match="the reader of connection port -> reader died"):
        sender.result()
    with pytest.raises(PeerLost):
        publisher.send(number(3))
    stats = connection_stats_of(registry, endpoint.subscribers[connection.name])
    assert (stats.sent, stats.dropped["lost"]) == (2, 2)


@pytest.mark.parametrize("policy", ["drop_oldest", "latest"])
def test_a_lossy_reader_that_dies_holds_up_nobody(registry: ChannelRegistry, policy: str) -> None:
    registry.add_endpoint("dead")
    channel = registry.create_channel("port", 2)
    connection = registry.connect(channel, "dead", policy=policy)
    reader = registry.create_subscriber(channel)
    endpoint = registry.open("dead")
    publisher = registry.create_publisher(channel)
    publisher.send(number(0))
    registry.endpoint_died("dead")
    publisher.send(number(1))
    assert receive_now(reader) == [0, 1]
    stats = connection_stats_of(registry, endpoint.subscribers[connection.name])
    assert (stats.sent, stats.dropped["lost"]) == (1, 1)


# Readers that come and go


def test_a_publisher_waits_for_its_planned_readers_to_open(registry: ChannelRegistry) -> None:
    registry.add_endpoint("late")
    channel = registry.create_channel("port", 2)
    registry.connect(channel, "late", policy="latest")
    early = registry.create_subscriber(channel)
    publisher = registry.create_publisher(channel)
    assert not publisher.wait_connected(0)
    assert not publisher.wait_connected(0.001)
    with pytest.raises(BackpressureError, match=r"latest\) has no reader yet"):
        publisher.send_nowait(number(0))
    connected = Background(lambda: publisher.wait_connected(30))
    sender = Background(lambda: publisher.send(number(0)))
    late = registry.open("late")
    assert connected.result()
    sender.result()
    (reader,) = late.subscribers.values()
    assert receive_now(reader) == receive_now(early) == [0]


def test_a_planned_reader_that_dies_before_it_opens_is_lost_too(
    registry: ChannelRegistry,
) -> None:
    registry.add_endpoint("stillborn")
    channel = registry.create_channel("port", 2)
    registry.connect(channel, "stillborn")
    publisher = registry.create_publisher(channel)
    sender = blocked_sender(registry, publisher, 0)
    registry.endpoint_died("stillborn")
    with pytest.raises(PeerLost):
        sender.result()


def test_a_connection_is_added_while_another_thread_sends(registry: ChannelRegistry) -> None:
    channel = registry.create_channel("port", 8)
    first = registry.create_subscriber(channel)
    publisher = registry.create_publisher(channel)
    is_over = threading.Event()

    def send() -> int:
        count = 0
        while not is_over.is_set():
            publisher.send(number(count))
            count += 1
        return count

    def drain() -> list[int]:
        return [value_of(message) for message in first]

    sender, drainer = Background(send), Background(drain)
    for _ in range(12):
        late = registry.create_subscriber(channel)
        got = [value_of(late.receive(30)) for _ in range(20)]
        assert got == list(range(got[0], got[0] + 20))
        late.close()
        stats = connection_stats_of(registry, late)
        assert stats.received == 20
        assert stats.sent == 20 + stats.dropped["closed"]
    is_over.set()
    count = sender.result()
    publisher.finish()
    assert drainer.result() == list(range(count))


def test_a_reader_that_was_forgotten_is_not_rung_any_more(local: ChannelRegistry) -> None:
    channel = local.create_channel("port", 2)
    publisher = local.create_publisher(channel)
    late = local.create_subscriber(channel)
    assert len(publisher._bells) == 1
    publisher.remove_connection(late.connection, local._parties.bells)
    assert not publisher._bells
    for count in range(5):
        publisher.send_nowait(number(count))


# Ends


def test_a_finished_publisher_refuses_and_its_readers_get_what_was_sent(
    registry: ChannelRegistry,
) -> None:
    publisher, (reader,) = channel_of(registry, "block")
    publisher.send(number(0))
    publisher.finish()
    publisher.finish()
    with pytest.raises(ChannelClosed, match="the publisher of port port is closed"):
        publisher.send(number(1))
    assert value_of(reader.receive()) == 0
    with pytest.raises(EndOfStream):
        reader.receive()


def test_no_loan_is_sent_once_readers_may_see_the_end(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, "block")
    send_all(publisher, [0])  # credit is known now
    at = publisher.port.slot + PortWord.STATE
    refused = 0

    def look(frame: Any, event: str, _: object) -> Any:  # between any two lines of `finish`
        nonlocal refused
        if frame.f_code is not type(publisher).finish.__code__:
            return None
        if event == "line" and registry.ledger.words[at] == PortState.FINISHED:
            with pytest.raises(ChannelClosed), publisher.loan(Binary, nbytes=1):
                pass
            refused += 1
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        publisher.finish()
    finally:
        sys.settrace(before)
    assert refused
    assert receive_now(reader) == [0]


def test_a_closed_publisher_refuses_everything(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, "block")
    loan = publisher.loan(Binary, nbytes=8)
    publisher.close()
    publisher.close()
    for call in (
        lambda: publisher.send(number(0)),
        lambda: publisher.send_nowait(number(0)),
        lambda: publisher.try_send(number(0)),
        lambda: publisher.loan(Binary, nbytes=8),
        loan.send,
        lambda: asyncio.run(publisher.send_async(number(0))),
    ):
        with pytest.raises(ChannelClosed):
            call()
    loan.discard()
    publisher.finish()
    publisher.end_input(3)
    assert connection_stats_of(registry, reader).sent == 0


def test_a_publisher_that_was_declared_dead_can_still_be_closed(registry: ChannelRegistry) -> None:
    registry.add_endpoint("writer")
    channel = registry.create_channel("port", 4, writer="writer")
    reader = registry.create_subscriber(channel)
    (publisher,) = registry.open("writer").publishers.values()
    publisher.send(number(0))
    registry.endpoint_died("writer")
    publisher.close()
    with pytest.raises(ChannelClosed):
        publisher.send(number(1))
    assert value_of(reader.receive()) == 0
    with pytest.raises(PeerLost):
        reader.receive()


@both_transports
@pytest.mark.parametrize("policy", ["block", "drop_oldest", "error"])
def test_what_was_sent_before_the_close_arrives_however_late_the_reader_looks(
    transport: str, policy: str
) -> None:
    with new_registry(transport) as registry:
        publisher, (reader,) = channel_of(registry, policy)
        publisher.send(number(1))
        publisher.send(Binary(bytes(100_000)))  # in memory that the reader has not met
        publisher.send(number(3))
        publisher.close()
        assert not publisher.is_taken()
        sizes = [len(message) for message in reader if isinstance(message, Binary)]
        assert sizes == [8, 100_000, 8]
        assert publisher.is_taken()
        channel = registry.stats()["port"].connections[0]
        assert (channel.dropped["lost"], channel.queued) == (0, 0)


@both_transports
def test_a_port_has_its_next_writer_once_all_of_the_last_has_been_taken(transport: str) -> None:
    with new_registry(transport) as registry:
        channel = registry.create_channel("port", 2)
        reader = registry.create_subscriber(channel)
        for count in range(1, 4):
            publisher = registry.create_publisher(channel)
            publisher.send(number(count))
            with pytest.raises(ChannelError, match="has a publisher already"):
                registry.create_publisher(channel)
            publisher.send(number(0))
            assert receive_now(reader) == [count, 0]
            publisher.close()
        assert connection_stats_of(registry, reader).received == 6


# What is refused before it is sent


def test_a_message_that_is_too_large_is_refused_before_anybody_waits(
    registry: ChannelRegistry,
) -> None:
    channel = registry.create_channel("port", 1, max_message_bytes=100)
    reader = registry.create_subscriber(channel)
    publisher = registry.create_publisher(channel)
    publisher.send(Binary(bytes(100)))
    for call in (
        lambda: publisher.send(Binary(bytes(101))),
        lambda: publisher.try_send(Text("x" * 101)),
        lambda: publisher.loan(Binary, nbytes=101),
        lambda: asyncio.run(publisher.send_async(Binary(bytes(101)))),
    ):
        with pytest.raises(DataError, match=r"declares at most 100 bytes.*has 101"):
            call()
    assert len(reader.receive()) == 100  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("correlation_id", -1), ("timestamp_ns", "now")])
def test_an_envelope_that_cannot_travel_is_a_data_error_and_nothing_is_sent(
    registry: ChannelRegistry, name: str, value: object
) -> None:
    publisher, (reader,) = channel_of(registry, "block")
    message = number(1)
    setattr(message, name, value)
    with pytest.raises(DataError, match=f"{name} is "):
        publisher.send(message)
    assert publisher.loan(Binary, nbytes=8)
    with pytest.raises(DataError), publisher.loan(Binary, nbytes=8) as loan:
        setattr(loan, name, value)
    publisher.send(number(2))
    assert receive_now(reader) == [2]
    assert connection_stats_of(registry, reader).sent == 1


@pytest.mark.parametrize(
    ("message", "name", "value", "what"),
    [
        (Text("x"), "text", None, "text is a NoneType; it must be a str"),
        (Text("x"), "text", "\ud800", "text cannot be sent as UTF-8"),
        (File("x"), "path", 5, "path is a int; it must be a path"),
        (File("x"), "offset_bytes", -1, "offset_bytes is -1; it must be a whole number"),
        (File("x"), "media_type", None, "media_type is a NoneType; it must be a str"),
        (Audio(np.zeros(1, np.float32), 1), "sample_rate", [1], r"sample_rate is \[1\]; it must"),
        (Video(np.zeros((1, 1, 3), np.uint8)), "format", {}, r"format is \{\}; it must be one of"),
    ],
)
def test_a_message_that_was_changed_into_none_is_told_to_its_sender_and_nothing_is_sent(
    local: ChannelRegistry, message: RuntimeData, name: str, value: object, what: str
) -> None:
    publisher, (reader,) = channel_of(local, "block")
    setattr(message, name, value)
    with pytest.raises(DataError, match=what):
        publisher.send(message)
    assert reader.receive(0) is None
    assert connection_stats_of(local, reader).sent == 0


@pytest.mark.parametrize("epoch", [-1, 1 << 32, "x", 1.5])
def test_an_epoch_that_is_none_is_refused_each_time(local: ChannelRegistry, epoch: Any) -> None:
    publisher, (reader,) = channel_of(local, "block")
    for _ in range(2):
        with pytest.raises(DataError, match=r"epoch is .* a whole number from 0 to 4,294,967,295"):
            publisher.send(number(1), epoch=epoch)
    publisher.send(number(2))
    assert receive_now(reader) == [2]


# Loans


def test_loans_that_cannot_be_sent_are_given_back(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, ("error", 1))
    publisher.send(number(0))
    errors = []
    for _ in range(10):  # more than are lent at a time; the errors keep their frames
        try:
            with publisher.loan(Binary, nbytes=8) as loan:
                loan.array[:] = 0
        except BackpressureError as error:
            errors.append(error)
    assert len(errors) == 10
    assert receive_now(reader) == [0]


def test_a_loan_that_was_refused_by_send_may_be_sent_again(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 1))
    publisher.send(number(0))
    loan = publisher.loan(Binary, nbytes=8)
    loan.message.array[:] = number(1).array
    with pytest.raises(BackpressureError):
        loan.send(timeout_seconds=0)
    assert receive_now(reader) == [0]
    loan.send()
    assert receive_now(reader) == [1]
    with pytest.raises(LoanError):
        loan.send()


def test_a_loan_that_is_discarded_while_it_waits_is_not_sent(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 1))
    publisher.send(number(0))
    loan = publisher.loan(Binary, nbytes=8)
    sender = Background(loan.send)
    eventually(lambda: is_asleep(registry, publisher))
    loan.discard()
    assert receive_now(reader, 1) == [0]
    with pytest.raises(LoanError):
        sender.result()
    publisher.send(number(2))
    assert receive_now(reader) == [2]


# Interrupted in the middle


class Interrupted:
    """A transport's writer that is interrupted before or after it has sent."""

    def __init__(self, publisher: Publisher, *, has_sent: bool) -> None:
        self._writer = publisher._writer
        self.on_moved = self._writer.on_moved
        self._has_sent = has_sent
        self.loan, self.connect, self.close = (
            self._writer.loan,
            self._writer.connect,
            self._writer.close,
        )

    def send(self, token: object) -> None:
        if self._has_sent:
            self._writer.send(token)
        raise KeyboardInterrupt


@pytest.mark.parametrize("has_sent", [True, False])
def test_ctrl_c_while_a_message_is_handed_over_never_repeats_its_number(
    registry: ChannelRegistry, has_sent: bool
) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 3))
    receiver = Background(lambda: value_of(reader.receive(30)))
    writer = publisher._writer
    publisher._writer = Interrupted(publisher, has_sent=has_sent)
    with pytest.raises(KeyboardInterrupt):
        publisher.send(number(1))
    publisher._writer = writer
    publisher.send(number(2))
    publisher.send(number(3))
    received = [receiver.result(), *receive_now(reader)]
    assert received == ([1, 2, 3] if has_sent else [2, 3])
    stats = connection_stats_of(registry, reader)
    assert stats.dropped["lost"] == (not has_sent)


class Broken:
    """A transport's writer that cannot deliver."""

    def __init__(self, publisher: Publisher) -> None:
        self._writer = publisher._writer
        self.on_moved = self._writer.on_moved
        self.loan, self.connect, self.close = (
            self._writer.loan,
            self._writer.connect,
            self._writer.close,
        )

    def send(self, token: object) -> None:
        raise ChannelError("no")


def test_a_message_that_could_not_be_delivered_is_not_counted(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 3))
    writer = publisher._writer
    publisher._writer = Broken(publisher)
    with pytest.raises(ChannelError, match="no"):
        publisher.send(number(1))
    publisher._writer = writer
    publisher.send(number(2))
    assert receive_now(reader) == [2]
    assert connection_stats_of(registry, reader).sent == 1


def test_a_signal_handler_that_raises_leaves_the_turn_to_the_next_thread(
    local: ChannelRegistry,
) -> None:
    publisher, (reader,) = channel_of(local, ("block", 1))
    publisher.send(number(0))

    def wait() -> None:
        with pytest.raises(BackpressureError):
            publisher.send(number(1), timeout_seconds=0.001)

    for place in strikes(wait, "turns.py"):
        other = Background(lambda: publisher.send(number(2), timeout_seconds=30), 10)
        eventually(lambda: is_asleep(local, publisher))
        assert receive_now(reader, 1) == [0], place
        other.result()
        assert receive_now(reader) == [2]
        publisher.send(number(0))


# Event loops


class TestAsync:
    """Sending in an event loop."""

    def test_it_awaits_credit(self, registry: ChannelRegistry) -> None:
        publisher, (reader,) = channel_of(registry, ("block", 2))

        async def main() -> None:
            task = asyncio.create_task(send_fifty())
            for count in range(50):
                async with asyncio.timeout(30):
                    assert value_of(await reader.receive_async()) == count
            await task

        async def send_fifty() -> None:
            for count in range(50):
                await publisher.send_async(number(count))

        asyncio.run(main())

    @pytest.mark.parametrize("is_lent", [True, False])
    def test_one_that_always_has_credit_gives_other_tasks_their_turn(
        self, registry: ChannelRegistry, is_lent: bool
    ) -> None:
        publisher, _ = channel_of(registry, "latest")

        async def main() -> None:
            others = asyncio.create_task(asyncio.sleep(0))
            for _ in range(200):
                if is_lent:
                    async with publisher.loan(Binary, nbytes=1):
                        pass
                else:
                    await publisher.send_async(number(1))
                if others.done():
                    return
            raise AssertionError("no other task had its turn")

        asyncio.run(main())

    def test_tasks_that_give_up_leave_the_others_their_wake_up(
        self, registry: ChannelRegistry
    ) -> None:
        publisher, (reader,) = channel_of(registry, ("block", 1))

        async def main() -> None:
            await publisher.send_async(number(0))
            waits = asyncio.create_task(publisher.send_async(number(1)))
            cancelled = asyncio.create_task(publisher.send_async(number(2)))
            late = asyncio.create_task(publisher.send_async(number(3), timeout_seconds=0.001))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            with pytest.raises(BackpressureError):
                await late
            assert await asyncio.to_thread(receive_now, reader, 1) == [0]
            async with asyncio.timeout(30):
                await waits
            assert receive_now(reader) == [1]

        asyncio.run(main())

    def test_many_tasks_lose_nothing(self, registry: ChannelRegistry) -> None:
        publisher, (reader,) = channel_of(registry, ("block", 2))

        async def main() -> list[int]:
            tasks = [asyncio.create_task(publisher.send_async(number(k))) for k in range(40)]
            received = [value_of(await reader.receive_async(30)) for _ in tasks]
            await asyncio.gather(*tasks)
            return received

        assert sorted(asyncio.run(main())) == list(range(40))

    def test_loans_await_credit_and_a_cancelled_one_is_given_back(
        self, registry: ChannelRegistry
    ) -> None:
        publisher, (reader,) = channel_of(registry, ("block", 1))

        async def lend(value: int) -> None:
            async with publisher.loan(Audio, frames=2, channels=1, sample_rate=8000) as audio:
                audio.samples[:] = value

        async def main() -> None:
            await lend(0)
            for _ in range(10):
                task = asyncio.create_task(lend(1))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            task = asyncio.create_task(lend(2))
            await asyncio.sleep(0)
            found = []
            for _ in range(2):
                message = await reader.receive_async(30)
                assert isinstance(message, Audio)
                found.append(float(np.sum(message.samples)))
            await task
            assert found == [0.0, 4.0]

        asyncio.run(main())

    def test_closing_ends_sends_that_wait(self, registry: ChannelRegistry) -> None:
        publisher, _ = channel_of(registry, ("block", 1))

        async def main() -> None:
            await publisher.send_async(number(0))
            tasks = [asyncio.create_task(publisher.send_async(number(k))) for k in range(3)]
            await asyncio.sleep(0)
            publisher.close()
            for task in tasks:
                with pytest.raises(ChannelClosed):
                    await task

        asyncio.run(main())

    def test_a_thread_that_waits_and_a_task_that_waits_do_not_mix(
        self, registry: ChannelRegistry
    ) -> None:
        publisher, (reader,) = channel_of(registry, ("block", 1))
        publisher.send(number(0))
        sender = blocked_sender(registry, publisher, 1)

        async def main() -> None:
            with pytest.raises(ChannelError, match="a thread waits"):
                await publisher.send_async(number(2))

        asyncio.run(main())
        assert receive_now(reader, 1) == [0]
        sender.result()

    def test_a_sender_and_a_reader_share_one_doorbell(self, registry: ChannelRegistry) -> None:
        registry.add_endpoint("node")
        there = registry.create_channel("there", 1)
        back = registry.create_channel("back", 1, writer="node")
        registry.connect(there, "node")
        answers = registry.create_subscriber(back)
        node = registry.open("node")
        publisher = registry.create_publisher(there)

        async def relay() -> None:
            (reader,) = node.subscribers.values()
            (writer,) = node.publishers.values()
            tasks = set()
            async for message in reader:
                task = asyncio.create_task(writer.send_async(number(value_of(message) * 2)))
                tasks.add(task)
            await asyncio.gather(*tasks)

        async def main() -> list[int]:
            task = asyncio.create_task(relay())

            async def ask() -> None:
                for count in range(30):
                    await publisher.send_async(number(count))
                publisher.finish()

            asking = asyncio.create_task(ask())
            doubled = [value_of(await answers.receive_async(30)) for _ in range(30)]
            await asking
            await task
            return sorted(doubled)

        assert asyncio.run(main()) == [2 * count for count in range(30)]


def test_the_ledger_says_what_the_port_did(registry: ChannelRegistry) -> None:
    publisher, (reader,) = channel_of(registry, ("block", 4))
    words, slot = registry.ledger.words, publisher.port.slot
    assert words[slot + PortWord.STATE] == PortState.OPEN
    publisher.send(number(0))
    publisher.send(Binary(bytes(100)))
    stats = registry.stats()["port"]
    assert (stats.sent, stats.bytes, stats.refused, stats.loan_copies) == (2, 108, 0, 0)
    publisher.close()
    assert words[slot + PortWord.STATE] == PortState.FINISHED
    assert words[reader.connection.slot + ConnectionWord.CREDIT_WANTED] == 0
    assert repr(publisher) == "<Publisher port: 2 sent>"


@both_transports
def test_without_membarrier_it_asks_for_credit_always(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from remotemedia.core.multiprocess.transport import doorbell
    from tests.test_doorbell import NoMembarrier

    monkeypatch.setattr(doorbell, "membarrier", NoMembarrier())
    with new_registry(transport) as registry:
        publisher, (reader,) = channel_of(registry, ("block", 1))
        wanted = reader.connection.slot + ConnectionWord.CREDIT_WANTED
        assert registry.ledger.words[wanted] == 1
        sender = Background(partial(send_all, publisher, range(100)))
        assert [value_of(reader.receive(30)) for _ in range(100)] == list(range(100))
        sender.result()
        assert registry.ledger.words[wanted] == 1
