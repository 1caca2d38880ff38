"""Signal handlers in the middle of sending and receiving: what they raise, close and send."""

from __future__ import annotations

import _weakrefset
import itertools
import sys
import weakref
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from remotemedia.core.multiprocess.plan import SpareTaps
from remotemedia.core.multiprocess.transport import doorbell, memory
from remotemedia.data import Binary, Tensor, Text
from remotemedia.errors import ChannelClosed, ChannelError
from tests.channel_helpers import connection_stats_of, number, value_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from remotemedia.core.multiprocess.channel.channel import Channel
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.data import Message, RuntimeData

PATIENCE_SECONDS = 10
BELOW = (memory.__file__, doorbell.__file__)
FINALISERS = (weakref.__file__, _weakrefset.__file__)


@pytest.fixture
def spin_ns() -> int:
    return 0  # waits block at once


def pair(
    registry: ChannelRegistry, policy: str = "block", capacity: int = 1
) -> tuple[Publisher, Subscriber]:
    channel = registry.create_channel("port", capacity)
    reader = registry.create_subscriber(channel, policy=policy, capacity=capacity, max_held=1)
    return registry.create_publisher(channel), reader


def is_below(frame: FrameType | None) -> bool:
    """Whether it lies in what a channel is built on, or in a finaliser: its errors go nowhere."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_filename in (*BELOW, *FINALISERS):
            return True
        frame = frame.f_back
    return False


def interrupt(action: Callable[[], object], at: int, handler: Callable[[], None]) -> bool:
    """Run a handler at the nth moment of an action at which a signal's could run.

    Python runs them where calls begin and end, and that is where a profiler is told.

    Returns:
        Whether there was such a moment.
    """
    moments = 0

    def look(frame: FrameType, event: str, callee: object) -> None:
        nonlocal moments
        if callee is sys.setprofile or is_below(frame):
            return
        moments += 1
        if moments == at:
            sys.setprofile(None)
            handler()

    sys.setprofile(look)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return moments >= at


def ctrl_c() -> None:
    raise KeyboardInterrupt


def assert_it_goes_on(registry: ChannelRegistry, publisher: Publisher, reader: Subscriber) -> None:
    reader.receive(0)  # what may be left; or it is found to be lost
    publisher.send(number(77), timeout_seconds=PATIENCE_SECONDS)
    assert value_of(reader.receive(PATIENCE_SECONDS)) == 77
    assert reader.receive(0) is None
    stats = connection_stats_of(registry, reader)
    assert (stats.held, stats.queued) == (0, 0), stats
    assert stats.received == stats.latency.total, stats


MESSAGES: dict[str, RuntimeData] = {
    "array": Tensor(np.arange(4)),
    "plain": Text("x"),
    "labelled": Binary(b"x", metadata={"a": 1}),
}


@pytest.mark.parametrize("policy", ["block", "drop_oldest"])
@pytest.mark.parametrize("kind", MESSAGES)
def test_a_receive_that_is_interrupted_anywhere_leaves_the_connection_whole(
    registry: ChannelRegistry, kind: str, policy: str
) -> None:
    publisher, reader = pair(registry, policy)
    for at in itertools.count(1):
        publisher.send(MESSAGES[kind], timeout_seconds=PATIENCE_SECONDS)
        if not interrupt(lambda: reader.receive(0), at, ctrl_c):
            break
        assert_it_goes_on(registry, publisher, reader)
    assert at > 10


@pytest.mark.parametrize("name", ["take", "receive_soon", "receive_nowait"])
def test_the_other_ways_to_receive_are_as_safe(registry: ChannelRegistry, name: str) -> None:
    publisher, reader = pair(registry)
    for at in itertools.count(1):
        publisher.send(MESSAGES["array"], timeout_seconds=PATIENCE_SECONDS)
        if not interrupt(getattr(reader, name), at, ctrl_c):
            break
        assert_it_goes_on(registry, publisher, reader)


@pytest.mark.parametrize("is_full", [True, False])
def test_a_receive_that_gives_back_and_copies_is_as_safe(
    registry: ChannelRegistry, is_full: bool
) -> None:
    publisher, reader = pair(registry, capacity=4)
    for at in itertools.count(1):
        kept = []
        for _ in range(2 if is_full else 1):  # more than it may hold: the next is copied
            publisher.send(MESSAGES["array"])
            kept.append(reader.receive(0))
        publisher.send(MESSAGES["array"])
        if not is_full:
            kept.clear()
        was_interrupted = interrupt(lambda: reader.receive(0), at, ctrl_c)
        kept.clear()
        if not was_interrupted:
            break
        assert_it_goes_on(registry, publisher, reader)


@pytest.mark.parametrize("is_lent", [True, False])
def test_a_send_that_is_interrupted_anywhere_leaves_the_connection_whole(
    registry: ChannelRegistry, is_lent: bool
) -> None:
    publisher, reader = pair(registry)
    sent = 0

    def send() -> None:
        if is_lent:
            publisher.loan(Binary, nbytes=8).send(PATIENCE_SECONDS)
        else:
            publisher.send(number(5), timeout_seconds=PATIENCE_SECONDS)

    for at in itertools.count(1):
        if not interrupt(send, at, ctrl_c):
            break
        assert_it_goes_on(registry, publisher, reader)
        sent += 1
    stats = connection_stats_of(registry, reader)
    assert stats.dropped["lost"] < sent


def test_a_send_that_waited_and_was_interrupted_asks_for_credit_again(
    registry: ChannelRegistry,
) -> None:
    publisher, reader = pair(registry)
    for at in itertools.count(1):
        publisher.send(number(0), timeout_seconds=PATIENCE_SECONDS)
        waits = partial(publisher.send, number(1), timeout_seconds=0.001)
        try:
            was_interrupted = interrupt(waits, at, ctrl_c)
        except ChannelError:
            was_interrupted = False
        reader.receive(0)
        if not was_interrupted:
            break
        assert_it_goes_on(registry, publisher, reader)


@pytest.mark.parametrize("call", ["finish", "close"])
@pytest.mark.parametrize("is_lent", [True, False])
@pytest.mark.parametrize("raises", [True, False])
def test_a_handler_may_end_the_publisher_whose_send_it_interrupts(
    registry: ChannelRegistry, call: str, is_lent: bool, raises: bool
) -> None:
    for at in itertools.count(1):
        channel = registry.create_channel(f"port{at}", 4)
        reader = registry.create_subscriber(channel)
        publisher = registry.create_publisher(channel)

        def send(publisher: Publisher = publisher) -> None:
            if is_lent:
                publisher.loan(Binary, nbytes=8).send()
            else:
                publisher.send(number(5))

        def end(publisher: Publisher = publisher) -> None:
            getattr(publisher, call)()
            if raises:
                raise KeyboardInterrupt

        was_sent = False
        try:
            was_interrupted = interrupt(send, at, end)
            was_sent = not raises
        except ChannelClosed:
            was_interrupted = True
        if not was_interrupted:
            break
        received = sum(1 for _ in reader)  # to the end
        # What was sent comes before the end.
        assert received == 1 if was_sent else received <= 1
        with pytest.raises(ChannelClosed):
            publisher.send(number(6))
        registry.destroy_channel(channel)
    assert at > 10


def test_a_handler_cannot_send_on_the_port_whose_send_it_interrupts(
    registry: ChannelRegistry,
) -> None:
    publisher, reader = pair(registry, capacity=4)
    refusals = set()

    def send_more() -> None:
        try:
            publisher.send_nowait(number(2))
        except ChannelError as error:
            refusals.add(str(error))

    for at in itertools.count(1):
        if not interrupt(lambda: publisher.send(number(1)), at, send_more):
            break
        received = [value_of(message) for message in iter(lambda: reader.receive(0), None)]
        assert sorted(received) in ([1], [1, 2])
    (refusal,) = refusals
    assert "a signal handler cannot send on port port" in refusal
    assert connection_stats_of(registry, reader).dropped["lost"] == 0


@pytest.mark.parametrize("kind", ["array", "plain"])
def test_a_handler_may_close_the_reader_whose_receive_it_interrupts(
    registry: ChannelRegistry, kind: str
) -> None:
    sent, other = MESSAGES[kind], Binary(b"other")
    for at in itertools.count(1, 2):
        channel = registry.create_channel(f"port{at}", 4, taps=SpareTaps(1))
        reader = registry.create_subscriber(channel)
        registry.create_subscriber(channel, policy="latest")
        publisher = registry.create_publisher(channel)
        publisher.send(sent)
        received: list[Message] = []

        def receive(reader: Subscriber = reader, into: list[Message] = received) -> None:
            into.append(reader.receive())

        try:
            was_interrupted = interrupt(receive, at, reader.close)
        except ChannelClosed:
            was_interrupted = True
        if not was_interrupted:
            break
        for _ in range(64):  # of as many as take all the memory that the port has
            publisher.send(other)
        assert received in ([], [sent])
        connection_stats_of(registry, reader)
        registry.destroy_channel(channel)
    assert at > 10


def test_a_receive_whose_channel_is_destroyed_meanwhile_counts_nothing_of_the_next(
    registry: ChannelRegistry,
) -> None:
    for at in itertools.count(1, 2):
        channel = registry.create_channel("port", 4, taps=SpareTaps(0))
        reader = registry.create_subscriber(channel)
        registry.create_publisher(channel).send(number(5))
        following: list[Subscriber] = []

        def replace(channel: Channel = channel, into: list[Subscriber] = following) -> None:
            registry.destroy_channel(channel)
            into.append(registry.create_subscriber(registry.create_channel("next")))

        try:
            was_interrupted = interrupt(partial(reader.receive, 0), at, replace)
        except ChannelClosed:
            was_interrupted = True
        if not was_interrupted:
            break
        (new,) = following
        stats = connection_stats_of(registry, new)
        assert (stats.sent, stats.received, stats.latency.total) == (0, 0, 0), stats
        for one in list(registry._channels.values()):
            registry.destroy_channel(one)
    assert at > 10


def test_an_interrupt_leaves_no_array_that_passes_for_one_of_another_shape(
    registry: ChannelRegistry,
) -> None:
    publisher, reader = pair(registry)

    def hop(nbytes: int) -> None:
        with publisher.loan(Binary, nbytes=nbytes) as message:
            message.array[:] = nbytes
        received = reader.receive(PATIENCE_SECONDS)
        assert isinstance(received, Binary)
        assert received.array.tolist() == [nbytes] * nbytes

    for at in itertools.count(1):
        for _ in range(8):  # every chunk there is
            hop(16)
        if not interrupt(partial(hop, 8), at, ctrl_c):
            break
        reader.receive(0)  # what may be left; or it is found to be lost
        for _ in range(8):
            hop(8)
