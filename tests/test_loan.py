"""Loans: produced in place, dead after they are sent, and never seen to change by a reader."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import pickle
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.plan import MAX_LOANS, METADATA_ROOM_BYTES
from remotemedia.core.multiprocess.transport.memory import MemoryTransport
from remotemedia.data import Audio, Binary, Json, Tensor, Text, Video
from remotemedia.data import memory as memory_module
from remotemedia.errors import (
    BackpressureError,
    ChannelClosed,
    ChannelError,
    DataError,
    LoanError,
)
from tests.channel_helpers import connection_stats_of, new_registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.registry import Channel
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber


class Ends:
    """A channel with one reader and its writer."""

    def __init__(self, registry: ChannelRegistry, capacity: int = 8, **options: Any) -> None:
        self.registry = registry
        self.channel: Channel = registry.create_channel("out", capacity, **options)
        self.reader: Subscriber = registry.create_subscriber(self.channel)
        self.writer: Publisher = registry.create_publisher(self.channel)

    @property
    def copies(self) -> int:
        return self.registry.stats()["out"].loan_copies

    def received(self) -> Any:
        message = self.reader.receive(1)
        assert message is not None
        return message


@pytest.fixture
def ends(registry: ChannelRegistry) -> Ends:
    return Ends(registry)


def test_what_is_filled_in_place_arrives_uncopied(ends: Ends) -> None:
    with ends.writer.loan(Audio, frames=480, channels=2, sample_rate=48_000) as audio:
        audio.samples[:] = 0.5
        address = audio.samples.__array_interface__["data"][0]
        audio.correlation_id, audio.timestamp_ns, audio.metadata = 7, 8, {"speaker": "a"}
    found = ends.received()
    assert found == Audio(np.full((480, 2), 0.5, np.float32), 48_000, metadata={"speaker": "a"})
    assert (found.correlation_id, found.timestamp_ns) == (7, 8)
    assert address % 64 == 0
    assert ends.copies == 0


def test_every_array_type_can_be_lent(ends: Ends) -> None:
    with ends.writer.loan(Video, height=4, width=6, format="nv12") as video:
        video.pixels[:] = 3
    with ends.writer.loan(Tensor, shape=(2, 3), dtype="float16") as tensor:
        tensor.array[:] = 4
    with ends.writer.loan(Tensor, shape=(), dtype=np.dtype("int64")) as scalar:
        scalar.array[...] = 5
    with ends.writer.loan(Binary, nbytes=3) as binary:
        binary.data[:] = b"abc"
    with ends.writer.loan(Audio, frames=0, channels=1, sample_rate=8000):
        pass
    assert [ends.received() for _ in range(5)] == [
        Video(np.full((6, 6), 3, np.uint8), "nv12"),
        Tensor(np.full((2, 3), 4, np.float16)),
        Tensor(np.array(5)),
        Binary(b"abc"),
        Audio(np.empty((0, 1), np.float32), 8000),
    ]
    assert ends.copies == 0


@pytest.mark.parametrize(
    ("type_", "arguments", "words"),
    [
        (Text, {}, "a Text cannot be lent; Audio, Video, Tensor, Binary can"),
        (Json, {"value": 1}, "a Json cannot be lent"),
        (Audio, {"frames": 1, "channels": 1}, "an Audio takes.*sample_rate"),
        (Audio, {"frames": -1, "channels": 1, "sample_rate": 1}, "frames is -1"),
        (Audio, {"frames": 1, "channels": 0, "sample_rate": 1}, "number of channels is 0"),
        (Audio, {"frames": 1, "channels": 1, "sample_rate": True}, "sample_rate is True"),
        (Video, {"height": 3, "width": 4, "format": "nv12"}, "height is 3.*even"),
        (Video, {"height": 4, "width": 4, "format": "rgb"}, "format is 'rgb'.*rgb24"),
        (Video, {"height": 65_536, "width": 1, "format": "gray"}, "65,535"),
        (Tensor, {"shape": (2,), "dtype": "object"}, "object.*float32"),
        (Tensor, {"shape": (2,), "dtype": "floaty"}, "'floaty'.*float32"),
        (Tensor, {"shape": (2, -1), "dtype": "int8"}, "is -1"),
        (Tensor, {"shape": (0, *[1 << 31] * 7), "dtype": "int8"}, "too large"),
        (Tensor, {"shape": (1,) * 9, "dtype": "int8"}, "more than 8 dimensions"),
        (Binary, {"nbytes": (1 << 28) + 1}, "268,435,457 bytes.*at most 268,435,456"),
        (Binary, {"nbytes": 1.5}, "nbytes is 1.5"),
        (Binary, {"size": 3}, "loan of a Binary takes nbytes; it got size"),
        (Audio, {}, "loan of an Audio takes frames, channels, sample_rate; it got nothing"),
        (Video, {"width": 3}, r"takes height, width, format \(optional\); it got width"),
        (Tensor, {"shape": 5, "dtype": "int8"}, "shape is 5; it must be a tuple of lengths"),
        (Tensor, {"shape": "ab", "dtype": "int8"}, "shape is 'ab'; it must be a tuple"),
        (Tensor, {"shape": [2, "b"], "dtype": "int8"}, "length of the shape is 'b'"),
        (Tensor, {"shape": [2, []], "dtype": "int8"}, r"lent with shape=\(2, \[\]\)"),
        (Tensor, {"shape": (2,), "dtype": []}, r"lent with .*dtype=\[\]"),
        (Video, {"height": 2, "width": 2, "format": []}, r"format is \[\]"),
        (Audio, {"frames": [], "channels": 1, "sample_rate": 1}, r"lent with frames=\[\]"),
    ],
)
def test_what_cannot_be_lent_is_refused_with_what_can(
    ends: Ends, type_: Any, arguments: Any, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        ends.writer.loan(type_, **arguments)


def test_a_picture_is_rgb24_unless_it_says_otherwise(ends: Ends) -> None:
    with ends.writer.loan(Video, height=2, width=4) as picture:
        assert (picture.format, picture.pixels.shape) == ("rgb24", (2, 4, 3))
    assert ends.received().format == "rgb24"


def test_a_shape_may_be_a_list_that_changes_later(ends: Ends) -> None:
    shape = [2, 3]
    for _ in range(2):
        with ends.writer.loan(Tensor, shape=shape, dtype="int8") as tensor:
            assert tensor.shape == tuple(shape)
        shape.append(4)


def test_a_port_lends_no_more_than_it_declares(registry: ChannelRegistry) -> None:
    ends = Ends(registry, max_message_bytes=1000)
    ends.writer.loan(Binary, nbytes=1000).send()
    assert len(ends.received()) == 1000
    with pytest.raises(DataError, match=r"declares at most 1,000.*1,001.*raise its max_message"):
        ends.writer.loan(Binary, nbytes=1001)


TYPES: list[tuple[Any, dict[str, Any], str]] = [
    (Audio, {"frames": 4, "channels": 1, "sample_rate": 8000}, "samples"),
    (Video, {"height": 2, "width": 2, "format": "gray"}, "pixels"),
    (Tensor, {"shape": (4,), "dtype": "int8"}, "array"),
    (Binary, {"nbytes": 4}, "data"),
]


@pytest.mark.parametrize(("type_", "arguments", "name"), TYPES)
def test_use_after_send_raises(
    ends: Ends, type_: Any, arguments: dict[str, Any], name: str
) -> None:
    with ends.writer.loan(type_, **arguments) as message:
        getattr(message, name)
    with pytest.raises(LoanError, match=r"was on loan and has been sent.*another loan"):
        getattr(message, name)
    for use in (lambda: message == message, lambda: ends.writer.send(message)):
        with pytest.raises(LoanError, match="has been sent"):
            use()
    message.release()
    assert "sent" in repr(message)


def test_the_array_taken_from_a_loan_becomes_empty_and_read_only(ends: Ends) -> None:
    with ends.writer.loan(Audio, frames=4, channels=2, sample_rate=8000) as audio:
        samples = audio.samples
        samples[:] = 1
    assert samples.shape == (0,)
    assert not samples.flags.writeable
    with pytest.raises(IndexError):
        samples[0]
    assert ends.received().samples.tolist() == [[1, 1]] * 4
    assert ends.copies == 0


# Ways to keep a hold of a loan's memory that survive the end of the block.
KEPT: dict[str, Callable[[Any], Any]] = {
    "a slice": lambda tensor: tensor.array[:2],
    "a slice of a slice": lambda tensor: tensor.array[1:][1:],
    "every other": lambda tensor: tensor.array[::2],
    "a transpose": lambda tensor: tensor.array.T,
    "another shape": lambda tensor: tensor.array.reshape(2, 4),
    "another dtype": lambda tensor: tensor.array.view(np.uint16),
    "another class of a slice": lambda tensor: tensor.array[:].view(np.recarray),
    "a broadcast": lambda tensor: np.broadcast_to(tensor.array, (3, 8)),
    "a sliding window": lambda tensor: np.lib.stride_tricks.sliding_window_view(tensor.array[:], 2),
    "a memoryview": lambda tensor: memoryview(tensor.array),
    "its data": lambda tensor: tensor.array.data,
    "a cast memoryview": lambda tensor: memoryview(tensor.array).cast("B")[2:],
    "a buffer view": lambda tensor: np.frombuffer(tensor.array, np.uint8),
    "an array of its buffer": lambda tensor: np.asarray(memoryview(tensor.array)),
    "dlpack": np.from_dlpack,
    "its base": lambda tensor: tensor.array.base,
    "an iterator over rows": lambda tensor: iter(tensor.array.reshape(2, 4)),
    "its flat iterator over a slice": lambda tensor: tensor.array[2:].flat,
    "a cycle": lambda tensor: cycle_of(tensor.array[:2]),
}


def scribble_on(kept: Any) -> None:
    with contextlib.suppress(TypeError, ValueError, IndexError, AttributeError):
        kept[0] = 99
    with contextlib.suppress(TypeError, ValueError, IndexError, AttributeError):
        kept[0].fill(99)
    with contextlib.suppress(TypeError, ValueError, IndexError, StopIteration):
        next(kept).fill(99)


def cycle_of(value: Any) -> list[Any]:
    cycle = [value]
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize("way", KEPT)
def test_what_is_still_held_at_send_can_no_longer_change_what_readers_see(
    ends: Ends, way: str
) -> None:
    with ends.writer.loan(Tensor, shape=(8,), dtype="uint8") as tensor:
        tensor.array[:] = range(8)
        kept = KEPT[way](tensor)
    found = ends.received()
    scribble_on(kept)
    assert found.array.tolist() == list(range(8))
    assert ends.copies == 1
    # The memory comes back with what was kept.
    kept = None
    gc.collect()
    loans = [ends.writer.loan(Tensor, shape=(8,), dtype="uint8") for _ in range(MAX_LOANS)]
    assert len({loan.message.array.__array_interface__["data"][0] for loan in loans}) == MAX_LOANS


def test_a_memoryview_of_a_binary_loan_is_seen(ends: Ends) -> None:
    with ends.writer.loan(Binary, nbytes=4) as binary:
        view = binary.data
        view[:] = b"good"
    view[:] = b"evil"
    assert bytes(ends.received()) == b"good"
    assert ends.copies == 1


def test_what_was_let_go_before_the_end_costs_no_copy(ends: Ends) -> None:
    with ends.writer.loan(Tensor, shape=(8,), dtype="uint8") as tensor:
        part, view = tensor.array[2:], tensor.array[:2].data
        part[:] = 1
        view[0] = view[1] = 2
        del part, view
    assert ends.received().array.tolist() == [2, 2, 1, 1, 1, 1, 1, 1]
    assert ends.copies == 0


def test_exported_buffers_are_found_in_this_numpy() -> None:
    assert memory_module._FINDS_EXPORTS
    array = np.zeros(3)
    assert not memory_module.has_exports(array)
    bytes(array[:2].data)
    assert not memory_module.has_exports(array)
    bytes(array.data)
    assert memory_module.has_exports(array)


def test_an_exception_in_the_block_gives_the_loan_back_unsent(ends: Ends) -> None:
    for _ in range(3 * MAX_LOANS):
        try:
            with ends.writer.loan(Tensor, shape=(2,), dtype="int8") as tensor:
                kept = tensor.array
                raise KeyError
        except KeyError:
            pass
        assert kept.size == 0
        with pytest.raises(LoanError, match="given back unsent"):
            tensor.array  # noqa: B018
    assert ends.reader.receive(0) is None
    assert ends.registry.stats()["out"].sent == 0


def test_a_slice_of_a_loan_that_was_detached_reaches_no_reader(ends: Ends) -> None:
    for _ in range(2):  # the second has credit that is known
        with ends.writer.loan(Binary, nbytes=8) as message:
            message.array[:] = 1
            kept = message.array[:4]
            message.detach()
        received = ends.received()
        kept[:] = 2
        assert received.array.tolist() == [1] * 8
    assert ends.copies == 2


def test_who_hears_that_the_array_of_a_loan_goes_cannot_take_the_loan_back(ends: Ends) -> None:
    for value in range(2):  # the second has credit that is known
        loan = ends.writer.loan(Binary, nbytes=8)
        heard: list[object] = []

        def hear(_: object, loan: Any = loan, heard: list[object] = heard) -> None:
            loan.discard()
            heard.append(loan.token)

        with loan as message:
            message.array[:] = value
            watch = weakref.ref(message.array, hear)
        assert watch() is None
        assert heard == [None]
        assert ends.received().array.tolist() == [value] * 8


def test_a_loan_is_sent_once(ends: Ends) -> None:
    loan = ends.writer.loan(Binary, nbytes=1)
    loan.send()
    for again in (loan.send, loan.send):
        with pytest.raises(LoanError, match="was sent or given back before; take another"):
            again()
    loan.discard()
    ends.received()
    assert ends.reader.receive(0) is None
    loan = ends.writer.loan(Binary, nbytes=1)
    loan.discard()
    loan.discard()
    with pytest.raises(LoanError, match="given back before"):
        loan.send()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_loan_cannot_be_duplicated(ends: Ends, duplicate: Callable[[object], object]) -> None:
    loan = ends.writer.loan(Binary, nbytes=4)
    with pytest.raises(TypeError, match="a loan cannot be copied or pickled"):
        duplicate(loan)
    loan.send()
    assert isinstance(ends.received(), Binary)


def test_a_loan_sent_inside_its_block_is_not_sent_again_at_its_end(ends: Ends) -> None:
    loan = ends.writer.loan(Binary, nbytes=1)
    with loan:
        loan.send()
    ends.received()
    assert ends.reader.receive(0) is None


def test_loans_that_are_out_have_a_limit_and_come_back_when_dropped(ends: Ends) -> None:
    loans = [ends.writer.loan(Binary, nbytes=10) for _ in range(MAX_LOANS)]
    with pytest.raises(LoanError, match=f"lends {MAX_LOANS} messages at a time.*send one"):
        ends.writer.loan(Binary, nbytes=10)
    loans.pop()
    ends.writer.loan(Binary, nbytes=10)
    for _ in range(3 * MAX_LOANS):
        ends.writer.loan(Binary, nbytes=10)  # dropped at once


def send_alike(ends: Ends, count: int = 3) -> None:
    """Send loans that are all alike, so that one more lies ready."""
    for number in range(count):
        with ends.writer.loan(Binary, nbytes=10) as binary:
            binary.array[:] = number
        ends.received()


def test_a_loan_that_lies_ready_is_asked_for_when_it_is_asked_for(ends: Ends) -> None:
    send_alike(ends)
    before = time.monotonic_ns()
    with ends.writer.loan(Binary, nbytes=10) as binary:
        assert binary.timestamp_ns >= before
        assert (binary.correlation_id, dict(binary.metadata)) == (0, {})
        binary.array[:] = 9
    assert bytes(ends.received()) == b"\x09" * 10


def test_a_loan_that_lies_ready_takes_no_room_from_what_is_asked_for(ends: Ends) -> None:
    send_alike(ends)
    loans = [ends.writer.loan(Binary, nbytes=10) for _ in range(MAX_LOANS)]
    assert len({loan.message.array.__array_interface__["data"][0] for loan in loans}) == MAX_LOANS
    del loans
    send_alike(ends)
    others = [ends.writer.loan(Tensor, shape=(9,), dtype="int8") for _ in range(MAX_LOANS - 1)]
    send_alike(ends)
    send_alike(ends)
    ends.writer.send(Text("copied, with all other loans out"))
    assert ends.received() == Text("copied, with all other loans out")
    del others


def test_the_next_loan_may_be_of_another_kind_or_size(ends: Ends) -> None:
    for number, nbytes in enumerate([10, 10, 10, 11, 11, 4, 100_000, 100_000, 10, 10]):
        with ends.writer.loan(Binary, nbytes=nbytes) as binary:
            binary.array[:] = number
        assert bytes(ends.received()) == bytes([number]) * nbytes
        if number % 3 == 0:
            with ends.writer.loan(Tensor, shape=(10,), dtype="uint8") as tensor:
                tensor.array[:] = number
            assert ends.received() == Tensor(np.full(10, number, np.uint8))


def test_threads_that_ask_for_different_loans_get_what_they_asked_for() -> None:
    with ChannelRegistry(MemoryTransport()) as registry:
        channel = registry.create_channel("out", 8)
        reader = registry.create_subscriber(channel, policy="latest")
        writer = registry.create_publisher(channel)

        def lend(nbytes: int) -> None:
            for _ in range(2000):
                with writer.loan(Binary, nbytes=nbytes) as binary:
                    assert binary.array.shape == (nbytes,)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lend, [10, 20]))
        assert reader.receive(0) is not None


def test_a_loan_in_a_cycle_comes_back_with_the_cycle(ends: Ends) -> None:
    for _ in range(MAX_LOANS):
        cycle_of(ends.writer.loan(Binary, nbytes=10))
    gc.collect()
    ends.writer.loan(Binary, nbytes=10).send()
    ends.received()


@pytest.mark.parametrize("act", ["send", "discard", "close", "leave"])
def test_what_runs_when_the_array_of_a_loan_goes_does_not_come_between_its_send(
    registry: ChannelRegistry, act: str
) -> None:
    ends = Ends(registry, capacity=1)
    send_alike(ends)
    loan = ends.writer.loan(Binary, nbytes=10)
    loan.message.array[:] = 7

    def come_between(_: object) -> None:
        if act == "send":
            with pytest.raises(ChannelError, match="interrupted a send of this thread"):
                ends.writer.loan(Binary, nbytes=10).send(0)
        elif act == "discard":
            loan.discard()
        else:
            getattr(ends.writer, act)()
        came.append(act)

    came: list[str] = []
    watch = weakref.ref(loan.message.array, come_between)
    loan.send(1)
    assert (watch(), came) == (None, [act])
    assert bytes(ends.received()) == b"\x07" * 10
    assert connection_stats_of(registry, ends.reader).dropped["lost"] == 0


def test_a_collection_in_the_midst_of_lending_that_ends_the_publisher_leaves_the_loan_whole(
    ends: Ends,
) -> None:
    for at in range(1, 20):
        channel = ends.registry.create_channel(f"port{at}", 8)
        reader = ends.registry.create_subscriber(channel)
        writer = ends.registry.create_publisher(channel)
        writer.loan(Binary, nbytes=10).send()
        reader.receive(1)
        left = at

        def leave(phase: str, _: object, writer: Publisher = writer) -> None:
            nonlocal left
            left -= phase == "start"
            if left == 0:
                writer.leave()

        used_up = [(number, number) for number in range(3000)]  # the next pair is allocated anew
        thresholds = gc.get_threshold()
        gc.callbacks.append(leave)
        gc.set_threshold(1)
        try:
            loan = writer.loan(Binary, nbytes=10)
            loan.message.array[:] = 1
            loan.send()
        except ChannelClosed:
            pass
        finally:
            gc.callbacks.remove(leave)
            gc.set_threshold(*thresholds)
        del used_up
        reader.close()
        ends.registry.destroy_channel(channel)


def test_an_error_in_lending_or_taking_keeps_nothing_alive_of_its_callers() -> None:
    class Local:
        pass

    def call(function: Callable[[], object]) -> None:
        local = Local()
        locals_.append(weakref.ref(local))
        function()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    locals_: list[weakref.ref[Local]] = []
    with new_registry("iceoryx") as registry:
        ends = Ends(registry)
        writer, reader = ends.writer._writer, ends.reader._reader
        writer._lend = reader._receive = fail  # type: ignore[attr-defined]
        gc.disable()
        try:
            for function in (lambda: writer.loan(10), reader.take):
                with contextlib.suppress(ZeroDivisionError):
                    call(function)
            assert [local() for local in locals_] == [None, None]
        finally:
            gc.enable()


def test_metadata_larger_than_its_room_costs_a_counted_copy(ends: Ends) -> None:
    small = {"a": "x" * (METADATA_ROOM_BYTES - 10)}
    large = {"a": "x" * 60_000}
    for metadata in (small, large):
        with ends.writer.loan(Tensor, shape=(4,), dtype="int8") as tensor:
            tensor.array[:] = 5
            tensor.metadata = metadata
        assert ends.received() == Tensor(np.full(4, 5, np.int8), metadata=metadata)
    assert ends.copies == 1


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("metadata", {"a": {1}}, "is a set"),
        ("metadata", {1: 2}, "has the key 1"),
        ("metadata", 5, "must be a mapping"),
        ("metadata", {"a": "x" * 70_000}, "65,536 are allowed"),
        ("correlation_id", -1, "correlation_id is -1"),
        ("correlation_id", "x", "correlation_id is 'x'"),
        ("timestamp_ns", None, "timestamp_ns is None"),
    ],
)
def test_a_loan_with_a_bad_envelope_is_refused_and_the_port_goes_on(
    ends: Ends, name: str, value: Any, words: str
) -> None:
    for _ in range(2 * MAX_LOANS):
        with (
            pytest.raises(DataError, match=words),
            ends.writer.loan(Binary, nbytes=4) as binary,
        ):
            setattr(binary, name, value)
    ends.writer.send(Binary(b"next"))
    assert bytes(ends.received()) == b"next"
    stats = ends.registry.stats()["out"]
    assert stats.sent == 1
    assert stats.connections[0].is_balanced


def test_a_loan_of_nothing_but_metadata_and_an_empty_array(ends: Ends) -> None:
    with ends.writer.loan(Binary, nbytes=0) as binary:
        binary.metadata = {"only": True}
    found = ends.received()
    assert (len(found), found.metadata) == (0, {"only": True})


def test_a_full_connection_turns_a_loan_away_and_it_can_be_sent_later(
    registry: ChannelRegistry,
) -> None:
    ends = Ends(registry, capacity=1)
    ends.writer.send(Binary(b"1"))
    loan = ends.writer.loan(Binary, nbytes=1)
    loan.message.array[:] = ord("2")
    with pytest.raises(BackpressureError):
        loan.send(timeout_seconds=0)
    assert bytes(ends.received()) == b"1"
    loan.send(timeout_seconds=1)
    assert bytes(ends.received()) == b"2"


def test_a_loan_that_outlives_its_publisher_stays_writable_and_cannot_be_sent(
    ends: Ends,
) -> None:
    loan = ends.writer.loan(Tensor, shape=(100_000,), dtype="uint8")
    ends.writer.close()
    loan.message.array[:] = 7
    with pytest.raises(ChannelClosed):
        loan.send()
    with pytest.raises(ChannelClosed):
        ends.writer.loan(Binary, nbytes=1)
    assert loan.message.array[-1] == 7


def test_a_loan_and_its_slices_outlive_everything(registry: ChannelRegistry) -> None:
    ends = Ends(registry)
    with ends.writer.loan(Tensor, shape=(100_000,), dtype="uint8") as tensor:
        part = tensor.array[:50_000]
    loan = ends.writer.loan(Tensor, shape=(100_000,), dtype="uint8")
    registry.cleanup()
    del ends
    gc.collect()
    part[:] = 1
    loan.message.array[:] = 2
    assert (part[-1], loan.message.array[-1]) == (1, 2)
    with pytest.raises(ChannelError):
        loan.send()


def test_async_with_sends_and_gives_back_the_same(ends: Ends) -> None:
    async def produce() -> None:
        async with ends.writer.loan(Tensor, shape=(2,), dtype="int8") as tensor:
            tensor.array[:] = 5
        with pytest.raises(LoanError, match="has been sent"):
            tensor.array  # noqa: B018
        with pytest.raises(KeyError):
            async with ends.writer.loan(Tensor, shape=(2,), dtype="int8"):
                raise KeyError
        loan = ends.writer.loan(Tensor, shape=(2,), dtype="int8")
        async with loan:
            loan.send()

    asyncio.run(produce())
    assert ends.received() == Tensor(np.full(2, 5, np.int8))
    ends.received()
    assert ends.reader.receive(0) is None


def test_async_with_waits_for_credit(registry: ChannelRegistry) -> None:
    ends = Ends(registry, capacity=1)

    async def produce() -> None:
        for number in range(5):
            async with ends.writer.loan(Tensor, shape=(2,), dtype="int8") as tensor:
                tensor.array[:] = number

    async def consume() -> list[int]:
        return [int((await ends.reader.receive_async(5)).array[0]) for _ in range(5)]  # type: ignore[union-attr]

    async def both() -> list[int]:
        return (await asyncio.gather(produce(), consume()))[1]

    assert asyncio.run(both()) == [0, 1, 2, 3, 4]


def test_a_cancelled_wait_gives_the_loan_back(registry: ChannelRegistry) -> None:
    ends = Ends(registry, capacity=1)
    ends.writer.send(Binary(b"1"))

    async def produce() -> None:
        async with ends.writer.loan(Binary, nbytes=1):
            pass

    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(produce(), 0.01)

    for _ in range(2 * MAX_LOANS):
        asyncio.run(cancel())
    assert bytes(ends.received()) == b"1"
    assert ends.reader.receive(0) is None
