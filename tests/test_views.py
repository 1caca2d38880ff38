"""Received arrays: read-only, valid while anything refers to them, and given back after that."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import pickle
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from remotemedia.data import Audio, Binary, Tensor, Text, Video
from remotemedia.data.memory import OWN_REFERENCES, array_at, count_references
from remotemedia.errors import ReleasedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
    from remotemedia.core.multiprocess.channel.stats import ConnectionStats
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber

SIZE = 64
CONTENT = list(range(SIZE))


class Ends:
    """A channel with one reader and its writer."""

    def __init__(self, registry: ChannelRegistry, max_held: int = 4, capacity: int = 4) -> None:
        self.registry = registry
        channel = registry.create_channel("out", capacity)
        self.reader: Subscriber = registry.create_subscriber(channel, max_held=max_held)
        self.writer: Publisher = registry.create_publisher(channel)

    def send(self, first: int = 0) -> None:
        content = (np.arange(SIZE) + first).astype(np.uint8)
        self.writer.send(Tensor(content), timeout_seconds=5)

    def receive(self) -> Any:
        message = self.reader.receive(5)
        assert message is not None
        return message

    def overwrite(self, times: int = 40) -> None:
        """Use every chunk that is free, several times."""
        for _ in range(times):
            self.writer.send(Tensor(np.full(SIZE, 255, np.uint8)), timeout_seconds=5)
            self.receive()

    @property
    def stats(self) -> ConnectionStats:
        return self.registry.stats()["out"].connections[0]


@pytest.fixture
def ends(registry: ChannelRegistry) -> Ends:
    return Ends(registry)


def rows_of(array: Any) -> Iterator[Any]:
    """A generator that holds the array in its frame."""
    first = array[0]
    yield first
    yield from array[1:]


def failing(array: Any) -> BaseException:
    """An exception whose traceback holds the array in a frame."""
    try:
        local = array[:]
        raise KeyError(len(local))
    except KeyError as error:
        return error


def locals_of(error: BaseException) -> Any:
    trace = error.__traceback__
    assert trace is not None
    return trace.tb_frame.f_locals["local"]


class Foreign:
    """Another library's array over the same memory, by numpy's array interface."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__


# Every way to keep a reference, and how to read it later.
FORMS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "the array": (lambda message: message.array, lambda kept: kept.tolist()),
    "a slice": (lambda message: message.array[:], lambda kept: kept.tolist()),
    "a slice of a slice": (lambda m: m.array[:][:][...], lambda kept: kept.tolist()),
    "another shape": (lambda m: m.array.reshape(8, 8), lambda kept: kept.ravel().tolist()),
    "a transpose": (lambda m: m.array.reshape(8, 8).T, lambda kept: kept.T.ravel().tolist()),
    "a transpose of a transpose": (lambda m: m.array.T.T, lambda kept: kept.tolist()),
    "another dtype": (
        lambda m: m.array.view(np.uint16),
        lambda kept: kept.view(np.uint8).tolist(),
    ),
    "a structured view": (
        lambda m: m.array.view([("low", np.uint8), ("high", np.uint8)])["high"],
        lambda kept: [value for high in kept.tolist() for value in (high - 1, high)],
    ),
    "another class": (lambda m: m.array.view(np.recarray), lambda kept: kept.tolist()),
    "a masked array": (lambda m: np.ma.asarray(m.array), lambda kept: kept.tolist()),
    "a broadcast": (lambda m: np.broadcast_to(m.array, (3, SIZE)), lambda kept: kept[2].tolist()),
    "a sliding window": (
        lambda m: np.lib.stride_tricks.sliding_window_view(m.array, SIZE),
        lambda kept: kept[0].tolist(),
    ),
    "strides": (
        lambda m: np.lib.stride_tricks.as_strided(m.array, (SIZE,), (1,)),
        lambda kept: kept.tolist(),
    ),
    "a memoryview": (lambda m: memoryview(m.array), lambda kept: kept.tolist()),
    "a memoryview of a memoryview": (
        lambda m: memoryview(memoryview(m.array)).cast("B")[:],
        lambda kept: kept.tolist(),
    ),
    "its data": (lambda m: m.array.data, lambda kept: kept.tolist()),
    "asarray": (lambda m: np.asarray(m.array), lambda kept: kept.tolist()),
    "asarray of a memoryview": (lambda m: np.asarray(m.array.data), lambda kept: kept.tolist()),
    "frombuffer": (lambda m: np.frombuffer(m.array, np.uint8), lambda kept: kept.tolist()),
    "frombuffer of a slice": (
        lambda m: np.frombuffer(m.array[:], np.uint8)[:],
        lambda kept: kept.tolist(),
    ),
    "the array interface": (lambda m: np.asarray(Foreign(m.array)), lambda kept: kept.tolist()),
    "dlpack": (np.from_dlpack, lambda kept: kept.tolist()),
    "dlpack of the array": (lambda m: np.from_dlpack(m.array), lambda kept: kept.tolist()),
    "a dlpack capsule": (
        lambda m: m.__dlpack__(max_version=(1, 0)),
        lambda kept: np.from_dlpack(Capsule(kept)).tolist(),
    ),
    "its base": (lambda m: m.array.base, lambda kept: kept.tolist()),
    "an iterator": (lambda m: iter(m.array), lambda kept: [int(value) for value in kept]),
    "a flat iterator": (lambda m: m.array.flat, lambda kept: [int(value) for value in kept]),
    "nditer": (lambda m: np.nditer(m.array), lambda kept: [int(value) for value in kept]),
    "a pickle buffer": (lambda m: pickle.PickleBuffer(m.array), lambda kept: list(kept.raw())),
    "ctypes": (
        lambda m: m.array.ctypes,
        lambda kept: array_at(kept.data, (SIZE,), np.dtype(np.uint8)).tolist(),
    ),
    "a generator": (lambda m: rows_of(m.array), lambda kept: [int(value) for value in kept]),
    "a started generator": (
        lambda m: started(rows_of(m.array)),
        lambda kept: [0, *(int(value) for value in kept)],
    ),
    "a closure": (lambda m: closure_of(m.array), lambda kept: kept()),
    "a bound method": (lambda m: m.array.tolist, lambda kept: kept()),
    "an exception": (lambda m: failing(m.array), lambda kept: locals_of(kept).tolist()),
    "a list": (lambda m: [m.array[:1], {"rest": m.array[1:]}], lambda kept: joined(kept)),
    "a cycle": (lambda m: cycle_of(m.array[:]), lambda kept: kept[0].tolist()),
    "another message": (lambda m: Tensor(m.array), lambda kept: kept.array.tolist()),
    "another kind of message": (lambda m: Binary(m.array), lambda kept: list(bytes(kept))),
    "a message of a message": (Tensor, lambda kept: kept.array.tolist()),
    "a shallow copy in a container": (
        lambda m: copy.copy([m.array]),
        lambda kept: kept[0].tolist(),
    ),
}


class Capsule:
    """Hands a capsule on."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **request: object) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def started(generator: Iterator[Any]) -> Iterator[Any]:
    next(generator)
    return generator


def closure_of(array: Any) -> Callable[[], Any]:
    return lambda: array.tolist()


def cycle_of(value: Any) -> list[Any]:
    cycle = [value]
    cycle.append(cycle)
    return cycle


def joined(kept: Any) -> list[int]:
    return [*kept[0].tolist(), *kept[1]["rest"].tolist()]


@pytest.mark.parametrize("form", FORMS)
def test_memory_stays_while_a_reference_lives_in_any_form(ends: Ends, form: str) -> None:
    keep, read = FORMS[form]
    ends.send()
    message = ends.receive()
    kept = keep(message)
    message.release()
    del message
    ends.overwrite()
    assert ends.reader.held >= 1
    assert read(kept) == CONTENT
    kept = None
    gc.collect()
    assert ends.reader.held == 0


@pytest.mark.parametrize("form", FORMS)
def test_memory_stays_after_everything_else_is_gone(registry: ChannelRegistry, form: str) -> None:
    keep, read = FORMS[form]
    ends = Ends(registry)
    ends.send()
    message = ends.receive()
    kept = keep(message)
    message.release()
    del message
    ends.reader.close()
    ends.writer.close()
    gc.collect()
    registry.cleanup()
    del ends
    gc.collect()
    assert read(kept) == CONTENT


def test_a_received_array_cannot_be_written_nor_made_writable(ends: Ends) -> None:
    ends.send()
    message = ends.receive()
    array = message.array
    while isinstance(array, np.ndarray):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            array.setflags(write=True)
        array = array.base
    for view in (message.array[1:], message.array.view(np.int8), np.asarray(message.array.data)):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            view.flags.writeable = True
    assert memoryview(message.array).readonly
    assert np.from_dlpack(message).flags.writeable is False


def test_every_type_arrives_read_only_and_in_order(ends: Ends) -> None:
    for message, name in (
        (Audio(np.ones((4, 2), np.float32), 8000), "samples"),
        (Video(np.ones((2, 2, 3), np.uint8)), "pixels"),
        (Tensor(np.asfortranarray(np.ones((2, 3)))), "array"),
        (Tensor(np.ones((2, 3), ">i4")), "array"),
        (Tensor(np.ones((4, 4))[::2, 1:3]), "array"),
    ):
        ends.writer.send(message)
        found = ends.receive()
        array = getattr(found, name)
        assert found == message
        assert array.flags.c_contiguous
        assert array.dtype.isnative
        assert not array.flags.writeable
    ends.writer.send(Binary(b"abc"))
    assert ends.receive().data.readonly


def test_a_received_tensor_goes_by_dlpack_without_a_copy(ends: Ends) -> None:
    ends.send()
    message = ends.receive()
    assert np.shares_memory(np.from_dlpack(message), message.array)


def test_a_consumer_that_cannot_be_told_of_read_only_memory_is_refused_with_advice(
    ends: Ends,
) -> None:
    ends.send()
    message = ends.receive()
    with pytest.raises(BufferError, match=r"read-only.*DLPack 1.0.*tensor.array"):
        message.__dlpack__()
    Tensor(np.zeros(3)).__dlpack__()


def test_use_after_release_raises_and_the_memory_comes_back_at_once(ends: Ends) -> None:
    ends.send()
    message = ends.receive()
    assert ends.reader.held == 1
    message.release()
    assert ends.reader.held == 0
    for use in (lambda: message.array, lambda: message.shape, lambda: np.from_dlpack(message)):
        with pytest.raises(ReleasedError, match="was released"):
            use()
    assert repr(message) == "<Tensor released>"


def test_dropping_a_message_releases_it(ends: Ends) -> None:
    for _ in range(50):
        ends.send()
        ends.receive()
    assert ends.reader.held == 0
    assert ends.reader.take() is None
    assert ends.stats.copied == 0
    assert ends.stats.released == 50


def test_memory_comes_back_when_the_last_reference_dies_in_another_thread(ends: Ends) -> None:
    kept: list[Any] = []
    may_drop, has_dropped = threading.Event(), threading.Event()

    def drop() -> None:
        local = kept.pop()
        may_drop.wait(5)
        del local
        has_dropped.set()

    ends.send()
    kept.append(ends.receive().array[3:])
    thread = threading.Thread(target=drop)
    thread.start()
    assert ends.reader.held == 1
    may_drop.set()
    has_dropped.wait(5)
    assert ends.reader.held == 0
    thread.join()


def test_views_die_and_are_counted_in_many_threads_at_once(ends: Ends) -> None:
    # Whatever the counting sees must never be a free chunk that somebody still reads.
    wrong: list[Any] = []
    inbox: list[Any] = []
    is_over = threading.Event()

    def churn() -> None:
        while not is_over.is_set() or inbox:
            with contextlib.suppress(IndexError):
                first, array = inbox.pop()
                views = [array[start:] for start in range(8)]
                del array
                while views:
                    view = views.pop()
                    again = view[...]
                    del view
                    start = SIZE - len(again)
                    if again[0] != (first + start) % 256:
                        wrong.append((first, start, again[0]))

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(3000):
            ends.send(number % 256)
            inbox.append((number % 256, ends.receive().array))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(switch)
    assert wrong == []
    assert ends.reader.held == 0
    assert ends.stats.is_balanced


def test_a_hoarder_gets_counted_copies_and_the_writer_goes_on(registry: ChannelRegistry) -> None:
    ends = Ends(registry, max_held=2)
    hoard = []
    for number in range(100):
        ends.send(number)
        hoard.append(ends.receive())
    assert ends.stats.copied == 98
    assert ends.reader.held == 2
    for number, message in enumerate(hoard):
        assert message.array[0] == number
        assert not message.array.flags.writeable
    hoard.clear()
    ends.send(7)
    assert ends.receive().array[0] == 7
    assert ends.stats.copied == 98
    assert ends.stats.is_balanced


def test_a_hoarder_of_slices_that_lets_go_gets_views_again(registry: ChannelRegistry) -> None:
    ends = Ends(registry, max_held=1)
    for _ in range(20):
        ends.send()
        part = ends.receive().array[:3]
        assert part.tolist() == [0, 1, 2]
        del part
    assert ends.stats.copied == 0


def test_plain_messages_hold_no_shared_memory(ends: Ends) -> None:
    kept = []
    for number in range(50):
        ends.writer.send(Text(str(number)), timeout_seconds=1)
        kept.append(ends.receive())
    assert ends.reader.held == 0
    assert [message.text for message in kept] == [str(number) for number in range(50)]


def test_a_view_outlives_growth_of_its_port(ends: Ends) -> None:
    ends.send()
    array = ends.receive().array
    for size in (10_000, 1_000_000, 20_000_000, 10):
        ends.writer.send(Binary(np.full(size, 255, np.uint8)), timeout_seconds=5)
        assert len(ends.receive()) == size
    assert array.tolist() == CONTENT


def test_an_empty_array_and_one_without_dimensions_are_views_like_others(ends: Ends) -> None:
    for array in (np.zeros((0, 3), np.float32), np.array(5.5)):
        ends.writer.send(Tensor(array))
        kept = ends.receive().array
        assert ends.reader.held == 1
        assert kept.tolist() == array.tolist()
        del kept
        assert ends.reader.held == 0


def test_a_message_with_metadata_is_a_view_too(ends: Ends) -> None:
    ends.writer.send(Tensor(np.arange(SIZE, dtype=np.uint8), metadata={"a": 1}))
    message = ends.receive()
    array = message.array
    assert ends.reader.held == 1
    ends.overwrite()
    assert array.tolist() == CONTENT
    assert message.metadata == {"a": 1}
    with pytest.raises(TypeError):
        message.metadata["a"] = 2


def test_a_view_survives_the_end_of_a_subscriber_that_nobody_closed() -> None:
    # In a process of its own, which ends in the middle of everything, and without a word.
    code = """
import gc, numpy as np
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.data import Tensor
registry = ChannelRegistry()
channel = registry.create_channel("out", 4)
reader = registry.create_subscriber(channel)
writer = registry.create_publisher(channel)
writer.send(Tensor(np.arange(64)))
array = reader.receive().array[:]
registry.destroy_channel(channel)
del reader, writer, channel
gc.collect()
assert array.tolist() == list(range(64))
registry.cleanup()
del registry
gc.collect()
assert array.tolist() == list(range(64))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_messages_do_not_keep_their_subscriber(registry: ChannelRegistry) -> None:
    ends = Ends(registry)
    ends.send()
    array = ends.receive().array
    reader = weakref.ref(ends.reader)
    registry.destroy_channel(registry._channels["out"])
    del ends
    gc.collect()
    assert reader() is None
    assert array.tolist() == CONTENT


def test_a_copy_of_a_message_array_is_ordinary_memory(ends: Ends) -> None:
    ends.send()
    message = ends.receive()
    copies = [message.array.copy(), copy.deepcopy(message.array), pickled(message.array)]
    message.release()
    assert ends.reader.held == 0
    ends.overwrite()
    for array in copies:
        assert array.tolist() == CONTENT
        array[0] = 9


def pickled(array: Any) -> Any:
    stream = io.BytesIO()
    np.save(stream, array)
    return np.load(io.BytesIO(stream.getvalue()))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_copy_of_a_received_message_keeps_no_shared_memory(
    ends: Ends, duplicate: Callable[[object], object]
) -> None:
    ends.writer.send(Tensor(np.arange(3)))
    copied = duplicate(ends.reader.receive(0))
    assert ends.reader.held == 0
    if isinstance(copied, bytes):
        copied = pickle.loads(copied)
    assert copied == Tensor(np.arange(3))


def test_references_are_counted_as_this_interpreter_counts_them() -> None:
    class Holder:
        array: Any = np.zeros(3)

    array = Holder.array
    assert count_references(array) == OWN_REFERENCES
    view = array[:]
    assert count_references(array) == OWN_REFERENCES + 1
    part = view[1:].reshape(2, 1).T
    del view
    assert count_references(array) == OWN_REFERENCES + 1
    del part
    assert count_references(array) == OWN_REFERENCES


@pytest.mark.parametrize("install", [sys.settrace, sys.setprofile])
def test_a_debugger_or_profiler_does_not_hide_a_view(
    ends: Ends, install: Callable[[Any], None]
) -> None:
    def look(frame: Any, event: str, argument: object) -> Any:
        dict(frame.f_locals)
        return look

    before = sys.gettrace() if install is sys.settrace else sys.getprofile()
    kept: list[Any] = []
    install(look)
    try:
        for number in range(8):
            ends.send(number)
            kept.append(ends.receive())
    finally:
        install(before)
    assert [message.array[0] for message in kept] == list(range(8))
