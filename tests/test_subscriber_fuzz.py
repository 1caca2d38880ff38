"""Whatever lies in a channel gives a message or `DecodeError`, and the connection goes on."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remotemedia.data import Audio, Binary, Json, RuntimeData, Tensor, Text
from remotemedia.data.wire import HEADER_BYTES
from remotemedia.errors import DecodeError, MessageLost
from tests.channel_helpers import connection_stats_of, new_registry, number, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
    from remotemedia.core.multiprocess.native.portable import Chunk

MESSAGES: list[RuntimeData] = [
    Audio(np.zeros((8, 2), np.float32), 8000),
    Tensor(np.arange(12).reshape(3, 4), metadata={"a": [1, "b"]}),
    Text("hello"),
    Json({"a": [1, {"b": None}]}),
    Binary(b"abc"),
]
# Where, and what is written there: the header's bytes come first, then those of the body.
patches = st.lists(
    st.tuples(st.integers(0, HEADER_BYTES + 40), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module", params=["memory", "iceoryx"])
def registry(request: pytest.FixtureRequest) -> Iterator[ChannelRegistry]:
    with new_registry(request.param) as registry:
        yield registry


def damage_next(publisher: Publisher, damage: list[tuple[int, bytes]]) -> None:
    """Have bytes of the next message overwritten just before it leaves."""
    writer = publisher._writer

    class Damaging:
        connect, close, on_moved = writer.connect, writer.close, writer.on_moved

        def loan(self, nbytes: int) -> tuple[Chunk, object]:
            self.chunk, token = writer.loan(nbytes)
            return self.chunk, token

        def send(self, token: object) -> None:
            for at, patch in damage:
                place = self.chunk.header if at < HEADER_BYTES else self.chunk.body
                begin = at if at < HEADER_BYTES else at - HEADER_BYTES
                patch = patch[: max(0, len(place) - begin)]
                place[begin : begin + len(patch)] = patch
            publisher._writer = writer
            writer.send(token)

    publisher._writer = Damaging()


@pytest.mark.parametrize("policy", ["block", "drop_oldest"])
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(MESSAGES), patches)
def test_a_damaged_message_costs_itself_and_nothing_else(
    registry: ChannelRegistry, policy: str, message: RuntimeData, damage: list[tuple[int, bytes]]
) -> None:
    channel = registry.create_channel("port", 1)
    reader = registry.create_subscriber(channel, policy=policy, capacity=1, max_held=2)
    publisher = registry.create_publisher(channel)
    try:
        damage_next(publisher, damage)
        publisher.send(message)
        with contextlib.suppress(DecodeError, MessageLost):
            received = reader.receive(0)
            assert received is None or repr(received)
        received = None
        reader.receive(0)
        publisher.send(number(7), timeout_seconds=10)
        assert value_of(reader.receive(10)) == 7
        assert reader.receive(0) is None
        stats = connection_stats_of(registry, reader)
        assert (stats.held, stats.queued, stats.sent) == (0, 0, 2)
    finally:
        registry.destroy_channel(channel)
