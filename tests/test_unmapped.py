"""A reader that cannot map what was sent to it says so, and counts it."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from remotemedia.data import Binary
from remotemedia.errors import EndOfStream, MessageLost
from tests.channel_helpers import connection_stats_of, new_registry, number, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry

LARGE = Binary(np.zeros(1 << 22, np.uint8))  # needs a segment that the reader does not know


@pytest.fixture
def registry() -> Iterator[ChannelRegistry]:
    with new_registry("iceoryx") as registry:
        yield registry


@contextlib.contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


@contextlib.contextmanager
def unmappable(why: str, registry: ChannelRegistry) -> Iterator[None]:
    if why == "descriptors":
        with limited(resource.RLIMIT_NOFILE, 3):
            yield
    elif why == "address space":
        with limited(resource.RLIMIT_AS, address_space_bytes() + (1 << 20)):
            yield
    else:
        address = registry._transport.address
        assert address is not None
        for file in Path("/dev/shm").glob(f"{address[1]}*__*.data"):
            file.unlink()
        yield


CAUSES = {
    "descriptors": "Too many open files.*ulimit -n",
    "address space": "RLIMIT_AS",
    "removed": "could not be mapped.*removed from /dev/shm",
}


@pytest.mark.parametrize(
    ("why", "policy"),
    [
        *((why, "block") for why in CAUSES),
        # One that may lose messages anyway counts what it cannot explain.
        *((why, "drop_oldest") for why in CAUSES if why != "removed"),
    ],
)
def test_what_cannot_be_mapped_is_an_error_that_says_why_and_is_counted(
    registry: ChannelRegistry, why: str, policy: str
) -> None:
    channel = registry.create_channel("port", 1)
    reader = registry.create_subscriber(channel, policy=policy)
    publisher = registry.create_publisher(channel)
    publisher.send(number(1))
    assert value_of(reader.receive(0)) == 1
    publisher.send(LARGE)
    with unmappable(why, registry):
        with pytest.raises(MessageLost, match=CAUSES[why]) as caught:
            reader.receive(30)
        assert (caught.value.connection, caught.value.count) == ("port -> reader 1", 1)
        assert reader.receive(0) is None
    assert connection_stats_of(registry, reader).dropped["lost"] == 1
    if why != "removed":
        publisher.send(LARGE, timeout_seconds=30)
        assert reader.receive(30) == LARGE


def test_what_cannot_be_mapped_comes_before_the_end(registry: ChannelRegistry) -> None:
    channel = registry.create_channel("port", 4)
    reader = registry.create_subscriber(channel)
    publisher = registry.create_publisher(channel)
    publisher.send(LARGE)
    publisher.send(LARGE)
    publisher.finish()
    with unmappable("descriptors", registry):
        with pytest.raises(MessageLost, match="lost 2 messages"):
            reader.receive(30)
        with pytest.raises(EndOfStream):
            reader.receive(30)
    assert connection_stats_of(registry, reader).dropped["lost"] == 2


def test_one_look_that_finds_nothing_is_no_loss_while_the_writer_is_still_sending(
    registry: ChannelRegistry,
) -> None:
    channel = registry.create_channel("port", 1)
    reader = registry.create_subscriber(channel)
    publisher = registry.create_publisher(channel)
    writer = publisher._writer
    looks = []

    class Slow:
        loan, connect, close = writer.loan, writer.connect, writer.close
        on_moved = writer.on_moved

        def send(self, token: object) -> None:
            looks.append(reader.receive(0))  # counted as sent, and not handed over yet
            writer.send(token)

    publisher._writer = Slow()
    publisher.send(number(1))
    assert looks == [None]
    assert value_of(reader.receive(0)) == 1
