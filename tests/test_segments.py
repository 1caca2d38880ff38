"""The arithmetic of shared memory, held against the segments that the library really makes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import iceoryx2 as iox
import pytest

from remotemedia.core.multiprocess.plan import (
    MAX_LOANS,
    ConnectionPlan,
    Policy,
    PortPlan,
    SpareTaps,
    service_name,
)
from remotemedia.core.multiprocess.transport import segments
from remotemedia.core.multiprocess.transport.domain import new_domain
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER, Maps
from remotemedia.data.message import MAX_METADATA_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.core.multiprocess.transport.iceoryx import IceoryxTransport
    from remotemedia.core.multiprocess.transport.iceoryx_ends import IceoryxWriter

MIB = 1 << 20


@pytest.fixture
def domain() -> Iterator[IceoryxTransport]:
    made = new_domain()
    yield made
    made.close_and_sweep()


def plan(capacity: int, declared: int | None, *, readers: int = 1, taps: int = 1) -> PortPlan:
    connections = tuple(
        ConnectionPlan(f"c{index}", Policy.BLOCK, capacity, 2, 0, 0) for index in range(readers)
    )
    taps_ = SpareTaps(taps, capacity, 1)
    return PortPlan("p", service_name("p"), 0, 0, connections, taps_, declared)


def files(domain: IceoryxTransport, ending: str) -> list[Path]:
    return sorted(Path(SHM_FOLDER).glob(f"{domain.address[1]}*{ending}"))


def data_segments(domain: IceoryxTransport) -> list[Path]:
    return [path for path in files(domain, ".data") if "mgmt" not in path.name]


def place(sample: Any) -> tuple[int, int, str]:
    """Where a chunk begins in its segment, where its payload does, and which segment it is."""
    mapping = Maps().at(sample.user_header_ptr)
    begin = sample.user_header_ptr - segments.USER_HEADER_OFFSET - mapping.start
    return begin, sample.payload_ptr - mapping.start, mapping.path


DECLARED = [None, 1, 64, 1000, 100_000, 6_220_800, 24_883_200, 256 * MIB]


@pytest.mark.parametrize("declared", DECLARED)
def test_chunks_lie_where_they_are_reckoned_to(
    domain: IceoryxTransport, declared: int | None
) -> None:
    port = plan(2, declared)
    hold = domain.create(port)
    # The library's own publisher: large memory is neither reserved nor touched here.
    publisher = raw_publisher(domain, port)
    lend = getattr(publisher, "__loan_slice_uninit")
    first, stride = segments.CHUNK_HEADER_BYTES, segments.stride(segments.initial_bytes(port))
    samples = [lend((segments.initial_bytes(port) + 63) >> 6) for _ in range(4)]
    found = sorted(place(sample) for sample in samples)
    assert [begin for begin, _, _ in found] == [first + number * stride for number in range(4)]
    assert {payload - begin for begin, payload, _ in found} == {segments.CHUNK_HEADER_BYTES}
    path = Path(found[0][2])
    assert path.stat().st_size <= segments.first_segment_bytes(port)
    samples.clear()
    # The largest that a chunk holds stays in the segment, one byte more replaces it.
    samples.append(lend(segments.room(stride) >> 6))
    assert place(samples.pop())[2] == str(path)
    larger = segments.room(stride) + 1
    if larger < 256 * MIB:
        samples = [lend((larger + 63) >> 6) for _ in range(2)]
        grown = sorted(place(sample) for sample in samples)
        assert grown[0][2] != str(path)
        assert grown[1][0] - grown[0][0] == segments.grown_stride(larger)
        assert grown[0][0] == first
        samples = [lend(segments.room(segments.grown_stride(larger)) >> 6)]
        assert place(samples.pop())[2] == grown[0][2]
    del samples, publisher, lend
    hold.close()


def raw_publisher(domain: IceoryxTransport, port: PortPlan) -> Any:
    return (
        domain._open(port, "the port")
        .publisher_builder()
        .initial_max_slice_len((segments.initial_bytes(port) + 63) >> 6)
        .allocation_strategy(iox.AllocationStrategy.PowerOfTwo)
        .override_sample_preallocation(segments.preallocated_chunks(port))
        .max_loaned_samples(MAX_LOANS)
        .backpressure_strategy(iox.BackpressureStrategy.DiscardData)
        .create()
    )


@pytest.mark.parametrize("declared", [None, 64, 5000])
@pytest.mark.parametrize(("capacity", "readers", "taps"), [(1, 1, 0), (2, 2, 1), (40, 1, 2)])
def test_a_port_never_needs_a_second_segment_for_the_same_size(
    domain: IceoryxTransport, capacity: int, readers: int, taps: int, declared: int | None
) -> None:
    # A segment that runs out of chunks is replaced unasked, by one that may overrun the
    # library's table and abort the process.
    port = plan(capacity, declared, readers=readers, taps=taps)
    hold = domain.create(port)
    ends = [domain.open_reader(port, connection) for connection in port.connections]
    writer = domain.open_writer(port)
    writer.connect()
    size = segments.initial_bytes(port)
    largest = 1 << 17 if declared is None else declared + MAX_METADATA_BYTES
    while size <= largest:
        fill_and_drain(port, writer, ends, size)
        assert len(data_segments(domain)) == 1
        size = segments.room(segments.grown_stride(size)) + 1
    writer.close()
    for end in ends:
        end.close()
    hold.close()


def fill_and_drain(port: PortPlan, writer: IceoryxWriter, ends: list[Any], nbytes: int) -> None:
    held = []
    for _ in range(3):
        writer.send(writer.loan(nbytes)[1])
        held.append([end.take() for end in ends])
    for _ in range(port.connections[0].capacity):
        writer.send(writer.loan(nbytes)[1])
    loans = [writer.loan(nbytes) for _ in range(MAX_LOANS)]
    assert len({chunk.address for chunk, _ in loans}) == MAX_LOANS
    held.clear()
    for end in ends:
        while end.take():
            pass


def test_queues_take_no_more_than_is_reckoned(domain: IceoryxTransport) -> None:
    for capacity, readers in ((1, 1), (10, 3), (500, 2)):
        port = plan(capacity, 64, readers=readers)
        hold = domain.create(port)
        ends = [domain.open_reader(port, connection) for connection in port.connections]
        writer = domain.open_writer(port)
        tap = domain.open_reader(port, port.connections[0])
        writer.connect()
        queues = files(domain, ".connection")
        assert len(queues) == readers + 1
        assert max(path.stat().st_size for path in queues) <= segments.connection_bytes(port)
        for end in (*ends, tap):
            end.close()
        writer.close()
        hold.close()


def test_a_declared_port_is_reserved_to_the_last_page(domain: IceoryxTransport) -> None:
    port = plan(2, 700_000)
    hold = domain.create(port)
    writer = domain.open_writer(port)
    (path,) = data_segments(domain)
    state = path.stat()
    assert state.st_size > 4 * MIB
    assert state.st_blocks * 512 >= state.st_size
    writer.close()
    hold.close()


@pytest.mark.parametrize("declared", [None, 3_000_000])
def test_every_header_and_every_sample_is_reserved_after_growth(
    domain: IceoryxTransport, declared: int | None
) -> None:
    port = plan(2, declared)
    hold = domain.create(port)
    writer = domain.open_writer(port)
    nbytes = 3_000_000 if declared is None else 3_060_000  # metadata may pass what was declared
    loans = [writer.loan(nbytes) for _ in range(MAX_LOANS)]
    (path,) = data_segments(domain)
    stride, fd = segments.grown_stride(nbytes), os.open(path, os.O_RDWR)
    chunks = range(segments.CHUNK_HEADER_BYTES, path.stat().st_size, stride)
    assert len(chunks) >= port.chunks
    assert sorted(place(token)[0] for _, token in loans) == [*chunks][:MAX_LOANS]
    before = path.stat().st_blocks
    for begin in chunks:
        os.posix_fallocate(fd, begin, segments.CHUNK_HEADER_BYTES)
    for begin in [*chunks][:MAX_LOANS]:
        os.posix_fallocate(fd, begin, segments.CHUNK_HEADER_BYTES + nbytes)
    assert path.stat().st_blocks == before  # it was all there
    os.close(fd)
    del loans
    writer.close()
    hold.close()
