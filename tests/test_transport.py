"""What a transport promises, held against each of them."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from remotemedia.core.multiprocess.plan import (
    MAX_LOANS,
    ConnectionPlan,
    Policy,
    PortPlan,
    SpareTaps,
    service_name,
)
from remotemedia.core.multiprocess.transport.base import ALIGNMENT_BYTES
from remotemedia.core.multiprocess.transport.domain import new_domain
from remotemedia.core.multiprocess.transport.memory import MemoryTransport
from remotemedia.data.memory import array_at
from remotemedia.data.wire import HEADER_BYTES
from remotemedia.errors import ChannelError, LoanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from remotemedia.core.multiprocess.native.portable import Chunk, Sample
    from remotemedia.core.multiprocess.transport.base import Hold, Reader, Transport, Writer

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(params=["iceoryx", "memory"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """Each transport."""
    if request.param == "memory":
        yield MemoryTransport()
        return
    domain = new_domain()
    yield domain
    domain.close_and_sweep()


def plan(
    *capacities: int, taps: int = 0, held: int = 2, max_message_bytes: int | None = None
) -> PortPlan:
    """A port with a reader for each capacity."""
    return PortPlan(
        name="camera.out",
        service=service_name("camera.out"),
        slot=0,
        writer=0,
        connections=tuple(
            ConnectionPlan(f"camera.out -> {index}", Policy.BLOCK, capacity, held, 0, 0)
            for index, capacity in enumerate(capacities)
        ),
        taps=SpareTaps(taps, 8, 1),
        max_message_bytes=max_message_bytes,
    )


class Port:
    """A port with all its ends open: its readers first, as planned."""

    def __init__(self, transport: Transport, port: PortPlan) -> None:
        self.plan = port
        self.hold: Hold = transport.create(port)
        self.readers: list[Reader] = [
            transport.open_reader(port, connection) for connection in port.connections
        ]
        self.writer: Writer = transport.open_writer(port)
        self.writer.connect()

    def send(self, payload: bytes, header: bytes = b"") -> None:
        chunk, token = self.writer.loan(len(payload))
        chunk.header[: len(header)] = header
        chunk.body[: len(payload)] = payload
        self.writer.send(token)

    def close(self) -> None:
        self.writer.close()
        for reader in self.readers:
            reader.close()
        self.hold.close()


def take(reader: Reader) -> Sample:
    sample = reader.take()
    assert sample is not None
    return sample


def payload_of(sample: Sample, nbytes: int) -> bytes:
    return view_of(sample[0], nbytes).tobytes()


def view_of(chunk: Chunk, nbytes: int) -> NDArray[np.generic]:
    return array_at(chunk.address, (nbytes,), np.dtype(np.uint8))


def everything(reader: Reader) -> list[int]:
    """Take all there is; the first byte of each."""
    found = []
    while (sample := reader.take()) is not None:
        found.append(payload_of(sample, 1)[0])
        del sample
    return found


def test_header_and_payload_arrive_as_they_were_written(transport: Transport) -> None:
    port = Port(transport, plan(4))
    header = bytes(range(HEADER_BYTES))
    port.send(b"payload", header)
    sample = take(port.readers[0])
    assert bytes(sample[0].header) == header
    assert payload_of(sample, 7) == b"payload"
    port.close()


def test_every_reader_gets_every_sample_in_order(transport: Transport) -> None:
    port = Port(transport, plan(8, 8, 8))
    for number in range(8):
        port.send(bytes([number]))
    assert [everything(reader) for reader in port.readers] == [list(range(8))] * 3
    port.close()


def test_nothing_there_is_none(transport: Transport) -> None:
    port = Port(transport, plan(4))
    assert port.readers[0].take() is None
    port.send(b"x")
    assert everything(port.readers[0]) == [ord("x")]
    assert port.readers[0].take() is None
    port.close()


def test_what_was_sent_before_a_reader_connected_is_not_for_it(transport: Transport) -> None:
    port = Port(transport, plan(4, taps=1))
    port.send(b"1")
    tap = transport.open_reader(port.plan, ConnectionPlan("tap", Policy.DROP_OLDEST, 8, 1, 0, 0))
    port.writer.connect()
    port.send(b"2")
    assert everything(tap) == [ord("2")]
    assert everything(port.readers[0]) == [ord("1"), ord("2")]
    tap.close()
    port.close()


def test_a_full_queue_loses_its_oldest_and_only_its_own(transport: Transport) -> None:
    port = Port(transport, plan(2, 8))
    for number in range(6):
        port.send(bytes([number]))
    assert everything(port.readers[0]) == [4, 5]
    assert everything(port.readers[1]) == [0, 1, 2, 3, 4, 5]
    port.close()


def test_a_chunk_is_aligned_and_has_the_room_that_was_asked_for(transport: Transport) -> None:
    port = Port(transport, plan(4))
    for nbytes in (0, 1, 63, 64, 65, 4096, 100_000):
        chunk, token = port.writer.loan(nbytes)
        assert chunk.address % ALIGNMENT_BYTES == 0
        assert chunk.capacity == chunk.body.nbytes >= nbytes
        assert not chunk.body.readonly
        assert not chunk.header.readonly
        assert chunk.header.nbytes == HEADER_BYTES
        port.writer.send(token)
        received, room, _ = take(port.readers[0])
        assert received.address % ALIGNMENT_BYTES == 0
        assert room == -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        assert received.header.readonly
        assert received.body.nbytes == 0
        assert received.capacity >= room
    port.close()


def test_the_body_is_no_buffer_of_a_numpy_array(transport: Transport) -> None:
    # Else a view of a chunk's array would refer past that array, and nobody could see it.
    port = Port(transport, plan(4))
    chunk, _ = port.writer.loan(64)
    array = np.ndarray((64,), np.uint8, chunk.body)
    assert not isinstance(array.base, np.ndarray)
    assert array[:5][1:].base is array
    port.close()


def test_memory_that_was_dropped_unsent_comes_back(transport: Transport) -> None:
    port = Port(transport, plan(4))
    for _ in range(MAX_LOANS * 3):
        _, token = port.writer.loan(100)
        del token
    port.send(b"x")
    assert everything(port.readers[0]) == [ord("x")]
    port.close()


def test_too_many_loans_are_refused_and_one_less_is_enough(transport: Transport) -> None:
    port = Port(transport, plan(4))
    tokens = [port.writer.loan(100)[1] for _ in range(MAX_LOANS)]
    with pytest.raises(LoanError, match=f"lends {MAX_LOANS} messages at a time.*send one"):
        port.writer.loan(100)
    with pytest.raises(LoanError):
        port.writer.loan(100_000)
    tokens.pop()
    tokens.append(port.writer.loan(100)[1])
    port.writer.send(tokens.pop())
    port.writer.loan(100_000)
    del tokens
    port.close()


def test_loans_and_what_readers_hold_are_apart(transport: Transport) -> None:
    port = Port(transport, plan(2, held=2))
    loans = [port.writer.loan(1000) for _ in range(MAX_LOANS)]
    for number, (chunk, _) in enumerate(loans):
        chunk.body[:1000] = bytes([number]) * 1000
    assert [bytes(chunk.body[:1000]) for chunk, _ in loans] == [bytes([n]) * 1000 for n in range(4)]
    del loans, chunk
    port.send(b"a" * 1000)
    port.send(b"b" * 1000)
    held = [take(port.readers[0]), take(port.readers[0])]
    for number in range(20):
        port.send(bytes([number]) * 1000)
    assert [payload_of(sample, 1000) for sample in held] == [b"a" * 1000, b"b" * 1000]
    assert everything(port.readers[0]) == [18, 19]
    del held
    port.close()


def test_a_port_carries_every_size_and_grows_by_itself(transport: Transport) -> None:
    port = Port(transport, plan(2, held=1))
    for nbytes in (0, 1, 4096, 4097, 70_000, 0, MIB, 5, 33 * MIB, 256 * MIB, 3, 2 * MIB):
        chunk, token = port.writer.loan(nbytes)
        view = np.ndarray((nbytes,), np.uint8, chunk.body)
        ends = sorted({*range(min(nbytes, 3)), *range(max(0, nbytes - 3), nbytes)})
        view[ends] = np.arange(1, len(ends) + 1)
        del view
        port.writer.send(token)
        del token, chunk
        sample = take(port.readers[0])
        assert sample[1] >= nbytes
        assert view_of(sample[0], nbytes)[ends].tolist() == list(range(1, len(ends) + 1))
        del sample
    port.close()


def test_a_port_of_declared_size_carries_it_and_less(transport: Transport) -> None:
    port = Port(transport, plan(4, max_message_bytes=100_000))
    for nbytes in (0, 1, 100_000):
        port.send(b"x" * nbytes)
        assert payload_of(take(port.readers[0]), nbytes) == b"x" * nbytes
    port.close()


@pytest.mark.parametrize("taps", [0, 2])
@pytest.mark.parametrize("capacities", [(1,), (2,), (30,), (100, 3)])
def test_all_that_a_port_may_have_in_flight_finds_room_after_every_growth(
    transport: Transport, capacities: tuple[int, ...], taps: int
) -> None:
    port = Port(transport, plan(*capacities, taps=taps, held=2))
    for nbytes in (1000, 5000, 20_000, 90_000, 1000):
        held = []
        for number in range(3):  # its share, and the one that would become a copy
            port.send(bytes([number]) * nbytes)
            held.append([take(reader) for reader in port.readers])
        for _ in range(max(capacities)):
            port.send(b"q" * nbytes)
        loans = [port.writer.loan(nbytes) for _ in range(MAX_LOANS)]
        for chunk, _ in loans:
            chunk.body[:nbytes] = b"l" * nbytes
        for number, samples in enumerate(held):
            for sample in samples:
                assert payload_of(sample, nbytes) == bytes([number]) * nbytes
        del loans, chunk, held, samples, sample
        for reader, capacity in zip(port.readers, capacities, strict=True):
            assert everything(reader) == [ord("q")] * capacity
    port.close()


def test_a_sample_outlives_any_growth(transport: Transport) -> None:
    port = Port(transport, plan(8, held=4))
    held = []
    for step in range(4):
        port.send(bytes([step]) * 500)
        held.append(take(port.readers[0]))
        port.send(b"x" * (10_000 << 2 * step))
        everything(port.readers[0])
    assert [payload_of(sample, 500) for sample in held] == [bytes([n]) * 500 for n in range(4)]
    del held
    port.close()


CLOSING: list[tuple[str, ...]] = [
    ("reader", "writer", "hold", "transport"),
    ("transport", "hold", "writer", "reader"),
    ("writer", "transport", "reader", "hold"),
    ("hold", "reader", "transport", "writer"),
]


@pytest.mark.parametrize("order", CLOSING)
def test_what_is_held_stays_valid_whatever_is_closed_first(
    transport: Transport, order: tuple[str, ...]
) -> None:
    port = Port(transport, plan(8, held=4))
    port.send(b"a" * 2000)
    port.send(b"b" * 200_000)
    samples = [take(port.readers[0]), take(port.readers[0])]
    chunk, token = port.writer.loan(300_000)
    close: dict[str, Callable[[], object]] = {
        "reader": port.readers[0].close,
        "writer": port.writer.close,
        "hold": port.hold.close,
        "transport": transport.close,
    }
    for what in order:
        close[what]()
        close[what]()
        gc.collect()
        assert payload_of(samples[0], 2000) == b"a" * 2000
        assert payload_of(samples[1], 200_000) == b"b" * 200_000
        chunk.body[:300_000] = b"c" * 300_000
    del samples, token, chunk


def test_queued_samples_survive_their_writer(transport: Transport) -> None:
    port = Port(transport, plan(8))
    port.send(b"1")
    port.send(b"2" * 100_000)
    everything(port.readers[0])
    port.send(b"3" * 100_000)
    port.writer.close()
    assert everything(port.readers[0]) == [ord("3")]
    port.close()


def test_a_port_can_be_created_once(transport: Transport) -> None:
    port = plan(4)
    hold = transport.create(port)
    with pytest.raises(ChannelError, match=r"creating port camera.out failed.*[Ee]xist"):
        transport.create(port)
    hold.close()


def test_ends_of_a_port_that_does_not_exist_cannot_be_opened(transport: Transport) -> None:
    port = plan(4)
    with pytest.raises(ChannelError, match=r"camera\.out"):
        transport.open_writer(port)
    with pytest.raises(ChannelError, match=r"camera\.out"):
        transport.open_reader(port, port.connections[0])


def test_a_port_has_one_writer_at_a_time(transport: Transport) -> None:
    port = Port(transport, plan(4))
    with pytest.raises(ChannelError, match=r"opening the writer of port camera.out failed"):
        transport.open_writer(port.plan)
    port.send(b"1")
    port.writer.close()
    port.writer = transport.open_writer(port.plan)
    port.writer.connect()
    port.send(b"2")
    assert everything(port.readers[0])[-1] == ord("2")
    port.close()


def test_a_port_has_as_many_readers_as_planned_and_taps(transport: Transport) -> None:
    port = Port(transport, plan(4, 4, taps=1))
    connection = ConnectionPlan("tap", Policy.LATEST, 1, 1, 0, 0)
    tap = transport.open_reader(port.plan, connection)
    with pytest.raises(ChannelError, match=r"opening the reader of tap failed.*spare taps"):
        transport.open_reader(port.plan, connection)
    tap.close()
    transport.open_reader(port.plan, connection).close()
    port.close()


def test_the_name_is_free_again_once_everything_is_closed(transport: Transport) -> None:
    for _ in range(3):
        port = Port(transport, plan(4))
        port.send(b"x")
        assert everything(port.readers[0]) == [ord("x")]
        port.close()
        del port


def test_two_ports_never_meet(transport: Transport) -> None:
    one = Port(transport, plan(4))
    other = PortPlan("b", service_name("b"), 0, 0, one.plan.connections)
    two = Port(transport, other)
    one.send(b"1")
    assert everything(two.readers[0]) == []
    assert everything(one.readers[0]) == [ord("1")]
    one.close()
    two.close()
