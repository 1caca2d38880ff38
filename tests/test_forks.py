"""A forked child can do its parent's channels and sessions no harm, and is told so at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.channel_helpers import both_transports

PRELUDE = """
import asyncio, contextlib, gc, os, sys, threading
import numpy as np
from remotemedia.errors import ChannelError
from remotemedia.core.multiprocess.channel.endpoint import Endpoint
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.transport.memory import MemoryTransport
from remotemedia.data import Audio, Binary

is_memory = sys.argv[1] == "memory"

def new_registry():
    return ChannelRegistry(MemoryTransport() if is_memory else None)

def child(action, is_normal_exit=False):
    "Do something in a forked child; what its exit status was."
    pid = os.fork()
    if pid == 0:
        if is_normal_exit:
            action()
            sys.exit(7)
        status = 1
        try:
            action()
            status = 7
        finally:
            if status == 1:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

def goes_on():
    for number in range(20):  # round all chunks
        publisher.send(Binary(bytes([number]) * 5000), timeout_seconds=1)
        assert subscriber.receive(1) == Binary(bytes([number]) * 5000)
    publisher.send(Binary(bytes(200_000)), timeout_seconds=1)
    assert subscriber.receive(1) == Binary(bytes(200_000))
    (stats,) = registry.stats()["out"].connections
    assert stats.is_balanced and not any(stats.dropped.values()), stats

registry = new_registry()
channel = registry.create_channel("out", 4)
subscriber, publisher = registry.create_subscriber(channel), registry.create_publisher(channel)
for number in (1, 2):
    publisher.send(Binary(bytes([number]) * 100))
first = subscriber.receive(1)
"""
END = """
assert subscriber.receive(0) == Binary(bytes([2]) * 100)
assert first == Binary(bytes([1]) * 100)
goes_on()
registry.cleanup()
print("done")
"""


WITHOUT_WARNING = ("-W", "ignore:This process:DeprecationWarning")


def run(transport: str, code: str) -> None:
    done = subprocess.run(
        # From Python 3.12 on it warns of a fork beside other threads, which is what is tested.
        [sys.executable, *WITHOUT_WARNING, "-c", PRELUDE + code + END, transport],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@both_transports
def test_whatever_a_child_does_with_its_parents_ends_raises(transport: str) -> None:
    run(
        transport,
        """
loan = publisher.loan(Audio, frames=10, channels=1, sample_rate=16000)
loans = loan.message
message = Binary(b"x")

async def receive():
    await subscriber.receive_async()

async def send():
    await publisher.send_async(message)

uses = [
    lambda: publisher.send(message),
    lambda: publisher.send(message, timeout_seconds=0.1),
    lambda: publisher.send_nowait(message),
    lambda: publisher.try_send(message),
    lambda: publisher.loan(Audio, frames=10, channels=1, sample_rate=16000),
    lambda: loan.send(),
    lambda: subscriber.receive(),
    lambda: subscriber.receive(0),
    lambda: subscriber.receive_nowait(),
    lambda: subscriber.take(),
    lambda: list(subscriber),
    lambda: asyncio.run(receive()),
    lambda: asyncio.run(send()),
    lambda: registry.create_publisher(registry.create_channel("other")),
    lambda: registry.create_subscriber(channel),
]

def use_all():
    for number, use in enumerate(uses):
        try:
            use()
        except ChannelError as error:
            assert "cannot be used after a fork" in str(error), (number, error)
            assert "Endpoint.open" in str(error)
        else:
            raise AssertionError(number)

child(use_all)
loan.discard()
""",
    )


@both_transports
@pytest.mark.parametrize("is_full", [False, True])
def test_a_child_that_closes_everything_closes_nothing_of_its_parents(
    transport: str, is_full: bool
) -> None:
    run(
        transport,
        f"""
while {is_full}:
    with contextlib.suppress(ChannelError):
        publisher.send_nowait(Binary(b"x"))
        continue
    break

def close_all():
    with registry:
        publisher.close()
        subscriber.close()
    registry.cleanup()

child(close_all)
child(registry.cleanup)
child(lambda: registry.destroy_channel(channel))
if {is_full}:
    assert subscriber.receive(0) == Binary(bytes([2]) * 100)
    for _ in range(3):
        assert subscriber.receive(0) == Binary(b"x")
    publisher.send_nowait(Binary(bytes([2]) * 100))
""",
    )


@both_transports
def test_a_child_that_exits_normally_drops_nothing_of_its_parents(transport: str) -> None:
    run(
        transport,
        """
loan = publisher.loan(Audio, frames=10, channels=1, sample_rate=16000)
view = first.array[10:20]

def drop_all():
    global registry, channel, subscriber, publisher, first, view, loan
    registry = channel = subscriber = publisher = first = view = loan = None
    gc.collect()

gc.freeze()
child(drop_all, is_normal_exit=True)
child(lambda: None, is_normal_exit=True)
child(registry.cleanup, is_normal_exit=True)
assert (view == 1).all()
loan.discard()
del view
""",
    )


@both_transports
def test_a_child_never_waits_for_a_thread_that_it_does_not_have(transport: str) -> None:
    run(
        transport,
        """
other = registry.create_channel("other", 1)
waits, fills = registry.create_subscriber(other), registry.create_publisher(other)
reader = threading.Thread(target=waits.receive)
reader.start()
while not waits._doorbell.is_waited_on:
    os.sched_yield()
over = threading.Event()

def hold():
    with publisher._lock, waits._doorbell._closing, publisher._turns._lock:
        locked.set()
        over.wait()

locked = threading.Event()
holder = threading.Thread(target=hold)
holder.start()
locked.wait()

def send_and_close():
    try:
        publisher.send(Binary(b"x"))
    except ChannelError:
        registry.cleanup()
        return
    raise AssertionError

child(send_and_close)
over.set()
holder.join()
fills.send(Binary(b"x"))
reader.join()
""",
    )


def test_a_child_opens_ends_of_its_own_by_a_ticket() -> None:
    run(
        "iceoryx",
        """
registry.add_endpoint("child")
to_child = registry.create_channel("to child", 4)
registry.connect(to_child, "child")
from_child = registry.create_channel("from child", 4, writer="child")
answers, asks = registry.create_subscriber(from_child), registry.create_publisher(to_child)
ticket = registry.ticket("child")

def answer():
    with Endpoint.open(ticket) as endpoint:
        for message in endpoint.subscribers["to child -> child"]:
            endpoint.publishers["from child"].send(message)

def ask():
    for number in range(500):
        asks.send(Binary(bytes([number % 251]) * (1 + number * 40)))
        assert answers.receive(10) == Binary(bytes([number % 251]) * (1 + number * 40))
    asks.finish()

asking = threading.Thread(target=ask)  # after the fork, which has but one thread
pid = os.fork()
if pid == 0:
    answer()
    sys.exit(7)
asking.start()
asking.join()
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
""",
    )


def test_a_child_makes_channels_of_its_own() -> None:
    run(
        "iceoryx",
        """
def use():
    with ChannelRegistry() as own:
        channel = own.create_channel("out", 4)
        reader, writer = own.create_subscriber(channel), own.create_publisher(channel)
        for number in range(20):
            writer.send(Binary(bytes(number * 10_000)))
            assert reader.receive(5) == Binary(bytes(number * 10_000))

child(use)
child(use, is_normal_exit=True)
""",
    )


SESSIONS = """
import asyncio, os, sys
import remotemedia as rm

async def run():
    pipeline = rm.Pipeline("p").add_node("upper", "text.upper")
    runtime = rm.Runtime()
    session = await runtime.create_session("s", pipeline, executor=sys.argv[1])

    async def upper(text):
        return [output.text async for output in session.stream(rm.Text(text))]

    async def events():
        async for _ in session.events():
            pass

    async def stats():
        session.stats()

    async def interrupt():
        session.interrupt()

    async def child():
        uses = [
            lambda: upper("b"), lambda: session.send(rm.Text("b")), session.recv, events,
            session.wait_ended, session.close, session.terminate, stats, interrupt,
            lambda: runtime.terminate_session("s"),
            lambda: runtime.create_session("t", pipeline, executor=sys.argv[1]),
        ]
        for number, use in enumerate(uses):
            try:
                await asyncio.wait_for(use(), 20)
            except rm.ExecutorError as error:
                assert "belongs to the parent: make another Runtime here" in str(error), number
            else:
                raise AssertionError(number)
        async with session:  # its end is left to the parent, as is the runtime's
            pass
        await runtime.shutdown()
        async with rm.Runtime() as own, own.session(pipeline, "s", executor=sys.argv[1]) as other:
            async for output in other.stream(rm.Text("c")):
                assert output.text == "C"

    assert await upper("a") == ["A"]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(child())
            status = 7
        finally:
            if status == 1:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert await upper("d") == ["D"]
    await session.close()
    await runtime.shutdown()
    print("done")

if __name__ == "__main__":
    asyncio.run(run())
"""


@pytest.mark.parametrize("executor", ["python", "inline"])
def test_a_session_in_a_child_says_whose_it_is_and_the_child_makes_one_of_its_own(
    executor: str,
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SESSIONS, executor],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
