"""The way in C of a message that is like the one before: where it is used, and what it keeps to."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

import remotemedia as rm
from remotemedia.core.multiprocess import native
from remotemedia.core.multiprocess.native import Chunk, Emitter, LoanBase, Receiver
from remotemedia.core.multiprocess.transport.ledger import (
    HISTOGRAM_BUCKETS,
    ConnectionWord,
    LedgerWord,
    ReaderState,
)
from remotemedia.core.multiprocess.transport.library import assume_init, iox
from remotemedia.data import Binary
from remotemedia.data.wire import HEADER, HEADER_BYTES
from remotemedia.errors import ChannelError
from tests import executor_nodes as nodes
from tests.channel_helpers import connection_stats_of, new_registry, number, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber

pytestmark = pytest.mark.anyio
PRINT_WHICH = "from remotemedia.core.multiprocess import native; print(native.IS_NATIVE)"
SEND_ONE = """
import numpy as np, remotemedia as rm
with rm.ChannelRegistry() as registry:
    channel = registry.create_channel("channel", 2)
    reader = registry.create_subscriber(channel)
    publisher = registry.create_publisher(channel)
    for number in range(5):
        with publisher.loan(rm.Tensor, shape=(3,), dtype="int64") as tensor:
            tensor.array[:] = number
        print(*reader.receive().array)
"""
FIVE = "".join(f"{number} {number} {number}\n" for number in range(5))
in_c = pytest.mark.skipif(not native.IS_NATIVE, reason="the extension was not built")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def output_of(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(
    native.PURE_PYTHON in os.environ, reason=f"{native.PURE_PYTHON} says to do without it"
)
def test_the_extension_is_there_wherever_there_is_a_compiler() -> None:
    assert native.IS_NATIVE or shutil.which("cc") is None


def test_it_is_not_used_where_the_environment_says_so() -> None:
    assert output_of(PRINT_WHICH, REMOTEMEDIA_PURE_PYTHON="1") == "False\n"
    assert output_of(SEND_ONE, REMOTEMEDIA_PURE_PYTHON="1") == FIVE


def test_where_it_cannot_be_loaded_messages_go_their_way_in_python() -> None:
    missing = f"import sys; sys.modules['{native.__name__}._native'] = None\n"
    assert output_of(missing + PRINT_WHICH) == "False\n"
    assert output_of(missing + SEND_ONE) == FIVE


def test_where_it_does_not_fit_that_is_said_and_messages_go_their_way_in_python() -> None:
    unfit = (
        "import sys, types\n"
        "from remotemedia.data import media\n"
        "def bind(*_): raise ImportError('another layout')\n"
        f"name = '{native.__name__}._native'\n"
        "sys.modules[name] = types.ModuleType(name)\n"
        "sys.modules[name].bind = bind\n"
    )
    wanted = {native.PURE_PYTHON: ""}  # also where these tests do without it
    told = output_of(unfit + PRINT_WHICH + "; print(native.FAULT)", **wanted)
    assert told == "False\nanother layout\n"
    assert output_of(unfit + SEND_ONE, **wanted) == FIVE


@pytest.mark.parametrize("environment", [{}, {native.PURE_PYTHON: "1"}])
@pytest.mark.parametrize("other", [{}, {native.PURE_PYTHON: "1"}])
async def test_processes_with_and_without_it_understand_each_other(
    environment: Mapping[str, str], other: Mapping[str, str]
) -> None:
    pipeline = rm.Pipeline("echoes")
    for node_id, variables in (("one", environment), ("two", other)):
        pipeline.add_node(rm.NodeConfig(nodes.Loans, node_id, environment=dict(variables)))
    pipeline.connect("one", "two")
    async with rm.Runtime() as runtime:
        session = await runtime.create_session("s", pipeline)
        for number in range(10):
            sent = np.full((3, 4), number, np.int64)
            (tensor,) = [out async for out in session.stream(rm.Tensor(sent))]
            assert isinstance(tensor, rm.Tensor)
            np.testing.assert_array_equal(tensor.array, sent + 2)
        for port in session.stats().values():
            assert all(one.is_confirmed for one in port.connections)


@pytest.fixture
def shared() -> Iterator[ChannelRegistry]:
    """A registry over shared memory: what is in C is done there alone."""
    with new_registry("iceoryx") as made:
        yield made


def pair(registry: ChannelRegistry) -> tuple[Publisher, Subscriber]:
    """Make a channel whose credit is known, and whose chunk has been seen."""
    channel = registry.create_channel("port", 8)
    reader = registry.create_subscriber(channel)
    publisher = registry.create_publisher(channel)
    for value in range(2):
        lend(publisher, value)
        assert value_of(reader.take()) == value
    return publisher, reader


def lend(publisher: Publisher, value: int) -> None:
    """Send a number in a loan."""
    with publisher.loan(Binary, nbytes=8) as message:
        message.array[:] = number(value).array


class Failing:
    """What a token is made to, that fails before or after it hands the sample over."""

    error: ClassVar[BaseException]
    is_handed: ClassVar[bool]

    def __init__(self, token: Any) -> None:
        self._sample = assume_init(token)

    def send(self) -> None:
        if self.is_handed:
            self._sample.send()
        raise self.error


def fail(publisher: Publisher, error: BaseException, *, is_handed: bool) -> None:
    """Lend a number whose sending fails."""

    class Now(Failing):
        pass

    Now.error, Now.is_handed = error, is_handed
    finish, publisher._finish_token = publisher._finish_token, Now
    try:
        lend(publisher, 99)
    finally:
        publisher._finish_token = finish


@pytest.mark.parametrize(
    "call",
    [
        assume_init,
        iox.SampleMut.send,
        iox.Subscriber.receive,
        getattr(iox.Publisher, "__loan_slice_uninit"),
    ],
)
def test_what_is_called_in_the_midst_of_a_message_runs_no_python(call: object) -> None:
    assert type(call) is types.MethodDescriptorType


@in_c
@pytest.mark.parametrize("is_handed", [True, False])
def test_the_number_of_a_message_that_may_have_been_handed_over_never_comes_again(
    shared: ChannelRegistry, is_handed: bool
) -> None:
    publisher, reader = pair(shared)
    with pytest.raises(KeyboardInterrupt):
        fail(publisher, KeyboardInterrupt(), is_handed=is_handed)
    lend(publisher, 7)
    received = []
    while (message := reader.receive_nowait()) is not None:
        received.append(value_of(message))
    assert received == ([99, 7] if is_handed else [7])
    stats = connection_stats_of(shared, reader)
    assert (stats.sent, stats.dropped["lost"]) == (4, not is_handed)


@in_c
def test_a_message_that_the_library_refused_is_counted_nowhere(shared: ChannelRegistry) -> None:
    publisher, reader = pair(shared)
    with pytest.raises(ChannelError, match="could not send: refused"):
        fail(publisher, iox.SendError("refused"), is_handed=False)
    lend(publisher, 7)
    assert value_of(reader.take()) == 7
    stats = connection_stats_of(shared, reader)
    assert (stats.sent, stats.received, stats.dropped["lost"]) == (3, 3, 0)


def test_a_message_from_the_future_counts_by_how_far_it_is_ahead(shared: ChannelRegistry) -> None:
    publisher, reader = pair(shared)
    with publisher.loan(Binary, nbytes=8):
        pass
    writer: Any = publisher._writer
    (chunk,) = (one for one in writer._chunks.values() if sequence_of(one) == 3)
    chunk.header[104:112] = (time.monotonic_ns() + (1 << 30)).to_bytes(8, "little")
    assert reader.take() is not None
    histogram = connection_stats_of(shared, reader).latency.counts
    assert sum(histogram) == 3
    assert histogram[-1] == 0


def sequence_of(chunk: Chunk) -> int:
    """Read the number in the header of a chunk."""
    sequence: int = HEADER.unpack(bytes(chunk.header))[3]
    return sequence


def test_a_publisher_without_an_epoch_sends_nothing(shared: ChannelRegistry) -> None:
    publisher, reader = pair(shared)
    del publisher.epoch
    with pytest.raises(AttributeError):
        lend(publisher, 2)
    assert reader.take() is None
    publisher.epoch = None
    lend(publisher, 3)
    assert value_of(reader.take()) == 3


@in_c
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_collection_in_the_midst_of_a_message_may_do_anything(is_closed: bool) -> None:
    """Up to Python 3.11 one begins wherever memory is asked for."""
    threshold = gc.get_threshold()
    for after in range(24):
        with new_registry("iceoryx") as registry:
            publisher, reader = pair(registry)
            left = [after]

            def collected(
                phase: str,
                _: object,
                left: list[int] = left,
                ends: tuple[Publisher, Subscriber] = (publisher, reader),
            ) -> None:
                if phase == "start":
                    left[0] -= 1
                    if left[0] == -1:
                        gc.set_threshold(0)
                        if is_closed:
                            ends[0].leave()
                            ends[1].close()
                        else:
                            lend(ends[0], 5)
                            ends[1].receive_nowait()

            pairs = [(object(), object()) for _ in range(4000)]  # none is left to be used again
            gc.callbacks.append(collected)
            gc.set_threshold(1)
            try:
                lend(publisher, 2)
                reader.receive_nowait()
            except ChannelError:
                pass  # closed, or in the midst of a send
            finally:
                gc.set_threshold(*threshold)
                gc.callbacks.remove(collected)
            del pairs


@in_c
def test_a_chunk_in_a_cycle_goes_with_the_cycle() -> None:
    for is_first in (True, False):
        header = memoryview(bytearray(HEADER_BYTES))
        chunk = Chunk(header, 0, memoryview(bytearray(8)))
        cycle: list[Any] = [header, chunk] if is_first else [chunk, header]
        chunk.array = cycle  # type: ignore[assignment]
        cycle.append(cycle)
        before = len([one for one in gc.get_objects() if type(one) is Chunk])
        del header, chunk, cycle
        gc.collect()
        assert len([one for one in gc.get_objects() if type(one) is Chunk]) == before - 1


def test_the_numbers_that_c_knows_are_those_of_the_ledger() -> None:
    folder = Path(__file__).parent.parent / "src/remotemedia/core/multiprocess/native"
    header = (folder / "native.h").read_text(encoding="utf-8")
    known = {name: int(value) for name, value in re.findall(r"([A-Z_]+) = (\d+)", header)}
    assert known == {
        "EPOCH_WORD": LedgerWord.EPOCH,
        "STATE_WORD": ConnectionWord.STATE,
        "BASE_WORD": ConnectionWord.BASE,
        "POSITION_WORD": ConnectionWord.POSITION,
        "STATE_OPEN": ReaderState.OPEN,
        "HISTOGRAM_BUCKETS": HISTOGRAM_BUCKETS,
    }


@in_c
def test_a_chunk_has_room_for_a_header() -> None:
    with pytest.raises(ValueError, match="too short"):
        Chunk(memoryview(bytes(HEADER_BYTES - 1)), 0)


def test_what_is_not_set_up_says_so() -> None:
    cases: tuple[tuple[Any, Callable[[Any], object]], ...] = (
        (Receiver.__new__(Receiver), lambda one: one._next()),
        (Receiver.__new__(Receiver), lambda one: one._look()),
        (Emitter.__new__(Emitter), lambda one: one.try_loan(None)),
        (LoanBase.__new__(LoanBase), lambda one: one.__enter__()),
    )
    for incomplete, ask in cases:
        with pytest.raises((AttributeError, NotImplementedError)):
            ask(incomplete)
