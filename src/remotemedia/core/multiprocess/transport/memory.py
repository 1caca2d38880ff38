"""The transport inside one process: for tests of nodes and channels, yours included.

It keeps the same promises as the one over shared memory, and passes the same tests.
"""

from __future__ import annotations

import ctypes
from collections import deque
from typing import TYPE_CHECKING, cast

import numpy as np

from remotemedia.core.multiprocess.native import Chunk
from remotemedia.core.multiprocess.plan import MAX_LOANS
from remotemedia.core.multiprocess.transport.base import ALIGNMENT_BYTES
from remotemedia.core.multiprocess.transport.forks import Inherited, tell_children
from remotemedia.data.wire import HEADER_BYTES
from remotemedia.errors import ChannelError, LoanError, SharedMemoryExhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from remotemedia.core.multiprocess.native.portable import Sample
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan

_HEADER_ROOM = -(-HEADER_BYTES // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _new_chunk(nbytes: int) -> Chunk:
    room = -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    memory = np.empty(_HEADER_ROOM + room + ALIGNMENT_BYTES, np.uint8)
    memory = memory[-memory.__array_interface__["data"][0] % ALIGNMENT_BYTES :]
    address = memory.__array_interface__["data"][0] + _HEADER_ROOM
    # The memory lives as long as what the chunk keeps of it.
    body = (ctypes.c_char * room).from_buffer(memory, _HEADER_ROOM)  # type: ignore[arg-type]  # a type in 3.12
    return Chunk(memory[:HEADER_BYTES].data, address, memoryview(body).cast("B"))


class _Loan:
    """The token of a loan: counts itself out when it is dropped."""

    __slots__ = ("_writer", "chunk")

    def __init__(self, writer: MemoryWriter, chunk: Chunk) -> None:
        self.chunk: Chunk | None = chunk
        self._writer = writer
        writer.loans += 1

    def spend(self) -> Chunk:
        chunk, self.chunk = self.chunk, None
        if chunk is None:
            raise LoanError("this loan has been sent already")
        return chunk

    def __del__(self) -> None:
        self._writer.loans -= 1


class MemoryWriter:
    """The sending end of a port."""

    def __init__(self, service: _Service) -> None:
        self._service = service
        self._readers: tuple[MemoryReader, ...] = ()
        self.loans = 0
        self.on_moved: Callable[[], object] = int  # never called: each message has its own
        tell_children(self)

    def disown(self) -> None:
        """Leave it to the parent process."""
        self.loan = self.send = self.connect = Inherited()  # type: ignore[method-assign, assignment]

    def loan(self, nbytes: int) -> tuple[Chunk, _Loan]:
        """See `Writer.loan`."""
        name = self._service.port.name
        if self.loans >= MAX_LOANS:
            raise LoanError(
                f"port {name} lends {MAX_LOANS} messages at a time and all are out: send one, or "
                f"let go of the arrays of those that were sent"
            )
        limit = self._service.limit_bytes
        if limit is not None and nbytes > limit:
            raise SharedMemoryExhausted(f"a message of port {name}", nbytes, limit, "memory")
        chunk = _new_chunk(nbytes)
        return chunk, _Loan(self, chunk)

    def send(self, token: object) -> None:
        """See `Writer.send`."""
        chunk = cast("_Loan", token).spend()
        for reader in self._readers:
            reader.queue.append(chunk)

    def connect(self) -> None:
        """See `Writer.connect`."""
        self._readers = tuple(self._service.readers)

    def close(self) -> None:
        """See `Writer.close`."""
        if self._service.writer is self:
            self._service.writer = None


class MemoryReader:
    """The receiving end of a connection."""

    def __init__(self, service: _Service, capacity: int) -> None:
        self._service = service
        self.queue: deque[Chunk] = deque(maxlen=capacity)  # full: the oldest goes
        tell_children(self)

    def disown(self) -> None:
        """Leave it to the parent process."""
        self.queue = cast("deque[Chunk]", Inherited())

    def take(self) -> Sample | None:
        """See `Reader.take`."""
        try:
            written = self.queue.popleft()
        except IndexError:
            return None
        # A chunk of its own for every reader: what it keeps there is its own.
        chunk = Chunk(written.header.toreadonly(), written.address)
        chunk.capacity = written.capacity
        return chunk, written.capacity, written

    def close(self) -> object:
        """See `Reader.close`."""
        if self in self._service.readers:
            self._service.readers.remove(self)
        self.queue = deque(maxlen=0)  # the writer may still know it
        return None


class _Service:
    """One port: its writer and its readers."""

    def __init__(self, port: PortPlan, limit_bytes: int | None) -> None:
        self.port = port
        self.limit_bytes = limit_bytes
        self.writer: MemoryWriter | None = None
        self.readers: list[MemoryReader] = []


class MemoryHold:
    """Keeps a service."""

    def __init__(self, services: dict[str, _Service], name: str) -> None:
        self._services = services
        self._name = name

    def close(self) -> None:
        """See `Hold.close`."""
        self._services.pop(self._name, None)


class MemoryTransport:
    """All ports of one process.

    Args:
        limit_bytes: the largest message there is memory for; None is no limit.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._services: dict[str, _Service] = {}
        tell_children(self)

    def disown(self) -> None:
        """Leave it to the parent process."""
        self._find = self.create = Inherited()  # type: ignore[method-assign, assignment]

    @property
    def address(self) -> None:
        """See `Transport.address`."""
        return

    def free_leftovers(self, pids: Collection[int] | None = None) -> None:
        """See `Transport.free_leftovers`: there is one process, and it lives."""

    async def wait_free(self) -> None:
        """See `Transport.wait_free`: there is no other process."""

    def create(self, port: PortPlan) -> MemoryHold:
        """See `Transport.create`."""
        if port.service in self._services:
            raise ChannelError(f"creating port {port.name} failed: it exists already")
        self._services[port.service] = _Service(port, self._limit_bytes)
        return MemoryHold(self._services, port.service)

    def open_writer(self, port: PortPlan) -> MemoryWriter:
        """See `Transport.open_writer`."""
        service = self._find(port)
        if service.writer is not None:
            raise ChannelError(f"opening the writer of port {port.name} failed: it has a writer")
        service.writer = MemoryWriter(service)
        return service.writer

    def open_reader(self, port: PortPlan, connection: ConnectionPlan) -> MemoryReader:
        """See `Transport.open_reader`."""
        service = self._find(port)
        if len(service.readers) >= port.max_subscribers:
            raise ChannelError(
                f"opening the reader of {connection.name} failed: all spare taps are taken"
            )
        reader = MemoryReader(service, connection.capacity)
        service.readers.append(reader)
        return reader

    def close(self) -> None:
        """See `Transport.close`."""
        self._services.clear()

    def _find(self, port: PortPlan) -> _Service:
        try:
            return self._services[port.service]
        except KeyError:
            raise ChannelError(f"port {port.name} does not exist") from None
