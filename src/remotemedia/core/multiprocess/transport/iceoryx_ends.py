"""The two ends of a port over iceoryx2; its rules stand in `library`."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import TYPE_CHECKING, Any

from remotemedia.core.multiprocess.native import Chunk, SampleLender, SampleTaker
from remotemedia.core.multiprocess.plan import MAX_LOANS
from remotemedia.core.multiprocess.transport import segments
from remotemedia.core.multiprocess.transport.forks import Inherited, tell_children
from remotemedia.core.multiprocess.transport.library import (
    OUT_OF_MEMORY,
    TOO_MANY_LOANS,
    assume_init,
    iox,
)
from remotemedia.core.multiprocess.transport.limits import limit_reached
from remotemedia.core.multiprocess.transport.pages import (
    NOWHERE,
    PAGE_BYTES,
    SHM_FOLDER,
    Maps,
    PageReserver,
    free_bytes,
    require_free,
)
from remotemedia.data.wire import HEADER_BYTES
from remotemedia.errors import ChannelClosed, ChannelError, LoanError, SharedMemoryExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan
    from remotemedia.core.multiprocess.transport.locks import MemoryLock

_MAX_KNOWN_CHUNKS = 4096
_HeaderBytes = ctypes.c_char * HEADER_BYTES


class IceoryxWriter(SampleLender):
    """A publisher whose memory is there before it is touched."""

    def __init__(self, publisher: Any, port: PortPlan, lock: MemoryLock, maps: Maps) -> None:
        self._publisher = publisher
        self._lend = getattr(publisher, "__loan_slice_uninit")
        self.on_moved: Callable[[], object] = _nothing
        self.finish = assume_init
        self._port = port
        self._chunk_count = segments.preallocated_chunks(port)
        self._pages = PageReserver(f"port {port.name}", maps)
        # Addresses are reused, so a chunk is found here and not made anew. A segment is replaced
        # only when a message does not fit its chunks; then everything is forgotten.
        self._chunks: dict[int, Chunk] = {}
        self._lock = lock
        self._stride = segments.stride(segments.initial_bytes(port))
        self._room = segments.room(self._stride)
        self._first_room = self._room
        self.loan(self._room)  # reserves the first segment; the token drops at once
        tell_children(self)

    def send(self, token: Any) -> None:
        """See `Writer.send`."""
        try:
            assume_init(token).send()
        except iox.SendError as error:
            self.not_sent(error)
            raise

    def not_sent(self, error: BaseException) -> None:
        """See `SampleLender.not_sent`."""
        if isinstance(error, iox.SendError):
            raise ChannelError(f"port {self._port.name} could not send: {error}") from error

    def connect(self) -> None:
        """See `Writer.connect`."""
        try:
            self._publisher.update_connections()
        except iox.ConnectionFailure as error:
            raise ChannelError(f"port {self._port.name} could not connect: {error}") from error

    def close(self) -> None:
        """See `Writer.close`."""
        self._publisher = None
        self._lend = self._lend_nothing
        self._chunks.clear()

    def disown(self) -> None:
        """Leave it to the parent process; the publisher stays, for nothing may be dropped yet."""
        self._lend = self.send = self.connect = Inherited()  # type: ignore[method-assign, assignment]

    def _lend_nothing(self, _: int) -> Any:
        raise ChannelClosed(f"the writer of port {self._port.name} is closed")

    def _loan_locked(self, nbytes: int) -> tuple[Chunk, Any]:
        return self._lock.run(partial(self._loan_anew, nbytes))

    def _not_lent(self, error: BaseException, nbytes: int) -> None:
        if isinstance(error, iox.LoanError):
            raise self._loan_error(error, nbytes) from error

    def _loan_anew(self, nbytes: int) -> tuple[Chunk, Any]:
        """Lend memory that has to be looked at first; called under the lock."""
        if nbytes > self._room:
            self._grow(nbytes)
        sample = self._lend((nbytes + 63) >> 6)
        chunk = self._chunks.get(sample.user_header_ptr)
        if chunk is None or chunk.capacity < nbytes:
            chunk = self._map(sample, nbytes)
        return chunk, sample

    def _grow(self, nbytes: int) -> None:
        """Have the segment replaced by one whose chunks hold `nbytes`."""
        stride = segments.grown_stride(nbytes)
        # The library writes into the new segment before we can reserve it: the only pages that
        # are checked and not reserved.
        headers = self._chunk_count * PAGE_BYTES
        require_free(nbytes + headers, f"a message of port {self._port.name}")
        self._lend((nbytes + 63) >> 6)  # the sample drops at once
        self._chunks.clear()
        self._pages.forget()
        self._stride, self._room = stride, segments.room(stride)
        self.on_moved()

    def _map(self, sample: Any, nbytes: int) -> Chunk:
        key, address = sample.user_header_ptr, sample.payload_ptr
        begin = key - segments.USER_HEADER_OFFSET
        is_declared = self._port.max_message_bytes is not None and self._room == self._first_room
        body = memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")
        self._pages.reserve(begin, address + nbytes - begin, self._stride, whole=is_declared)
        chunk = self._chunks[key] = Chunk(_header_at(key), address, body)
        return chunk

    def _loan_error(self, error: Exception, nbytes: int) -> Exception:
        name = self._port.name
        if str(error) == TOO_MANY_LOANS:
            return LoanError(
                f"port {name} lends {MAX_LOANS} messages at a time and all are out: send one, or "
                f"let go of the arrays of those that were sent"
            )
        limit = limit_reached(
            f"a message of port {name}", self._chunk_count * segments.grown_stride(nbytes)
        )
        if limit is not None:
            return limit
        if str(error) == OUT_OF_MEMORY:
            return SharedMemoryExhausted(
                f"a message of port {name}", nbytes, free_bytes(), SHM_FOLDER
            )
        return ChannelError(f"port {name} could not lend {nbytes:,} bytes: {error}")


class IceoryxReader(SampleTaker):
    """A subscriber that hands out tokens."""

    def __init__(self, subscriber: Any, connection: ConnectionPlan, maps: Maps) -> None:
        self._subscriber = subscriber
        self._maps = maps
        self._receive = subscriber.receive
        self._connection = connection
        self._chunks: dict[int, Chunk] = {}
        self._segment = NOWHERE
        tell_children(self)

    def disown(self) -> None:
        """Leave it to the parent process."""
        self._receive = Inherited()

    def close(self) -> object:
        """See `Reader.close`."""
        subscriber, self._subscriber = self._subscriber, None
        self._receive = _nothing  # another thread may be looking
        self._chunks.clear()
        return subscriber

    def _not_taken(self, error: BaseException) -> None:
        if isinstance(error, iox.ReceiveError):
            raise ChannelError(
                f"connection {self._connection.name} could not receive: {error}"
            ) from error

    def _remember(self, key: int, address: int) -> Chunk:
        # Views of a constant number of bytes at an address: right for whatever is mapped there.
        if len(self._chunks) >= _MAX_KNOWN_CHUNKS:
            self._chunks.clear()
        chunk = self._chunks[key] = Chunk(_header_at(key).toreadonly(), address)
        if not self._segment.start <= address < self._segment.end:
            self._segment = self._maps.at(address)
        chunk.capacity = self._segment.end - address
        return chunk

    def _room_at_most(self, room: int, chunk: Chunk) -> int:
        """As much of it as is mapped, by a fresh look: a segment may have taken another's place."""
        self._segment = self._maps.at(chunk.address)
        chunk.capacity = self._segment.end - chunk.address
        return min(room, chunk.capacity)


def _nothing() -> None:
    """What a closed reader receives, and what is done of memory that nobody follows."""


def _header_at(address: int) -> memoryview:
    return memoryview(_HeaderBytes.from_address(address)).cast("B")
