"""The transport over iceoryx2: the only module that imports it.

Its rules (version 0.10.0, which is pinned) that shape this file:

- A Rust panic aborts the interpreter: a sample that is sent twice, anything used after `delete()`.
  So samples leave here only as tokens that are used once, and nothing is ever deleted: dropping
  the last reference gives a port or a sample back, and memory stays mapped while a sample lives.
- `send()` holds the GIL, so it must never wait: `DiscardData`, never `RetryUntilDelivered`.
- Signal handling stays off, and configuration is never read from the working directory.
- Dead processes are cleaned up in one place, by the executor, not in every process.
- Several threads may use one port in turn, not at once. A call that holds the GIL is a turn.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import iceoryx2 as iox

from remotemedia.core.multiprocess.plan import MAX_LOANS
from remotemedia.core.multiprocess.transport import segments
from remotemedia.core.multiprocess.transport.base import ALIGNMENT_BYTES, Chunk, Sample
from remotemedia.core.multiprocess.transport.folder import (
    claim,
    new_prefix,
    private_folder,
    restrict,
    sweep,
    sweep_dead,
)
from remotemedia.core.multiprocess.transport.forks import Inherited, tell_children
from remotemedia.core.multiprocess.transport.limits import limit_reached, limits_named
from remotemedia.core.multiprocess.transport.locks import FolderLock, MemoryLock
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
    from pathlib import Path

    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan

T = TypeVar("T")
MAX_PROCESSES = 128
_MAX_KNOWN_CHUNKS = 4096

_LIBRARY_TYPES = {one for one in vars(iox).values() if isinstance(one, type)}

iox.set_log_level(iox.LogLevel.Fatal)


# What the library's Python layer calls after checks that cost more than the call.
_assume_init = getattr(iox.SampleMutUninit, "__assume_init")


class _Header(ctypes.Structure):
    _fields_ = [("words", ctypes.c_uint64 * (HEADER_BYTES // 8))]


class _Block(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint8 * ALIGNMENT_BYTES)]


_HeaderBytes = ctypes.c_char * HEADER_BYTES


class IceoryxWriter:
    """A publisher whose memory is there before it is touched."""

    def __init__(self, publisher: Any, port: PortPlan, lock: MemoryLock, maps: Maps) -> None:
        self._publisher = publisher
        self._lend = getattr(publisher, "__loan_slice_uninit")
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

    def loan(self, nbytes: int) -> tuple[Chunk, Any]:
        """See `Writer.loan`. No lock is needed for a chunk that is known: calls hold the GIL."""
        try:
            if nbytes <= self._room:
                sample = self._lend((nbytes + 63) >> 6)
                chunk = self._chunks.get(sample.user_header_ptr)
                if chunk is not None and chunk.capacity >= nbytes:
                    return chunk, sample
                sample = None  # given back: another thread may have replaced its segment by now
            return self._lock.run(partial(self._loan_anew, nbytes))
        except iox.LoanError as error:
            raise self._loan_error(error, nbytes) from error

    def send(self, token: Any) -> None:
        """See `Writer.send`."""
        try:
            _assume_init(token).send()
        except iox.SendError as error:
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
        if str(error) == "ExceedsMaxLoans":
            return LoanError(
                f"port {name} lends {MAX_LOANS} messages at a time and all are out: send one, or "
                f"let go of the arrays of those that were sent"
            )
        limit = limit_reached(
            f"a message of port {name}", self._chunk_count * segments.grown_stride(nbytes)
        )
        if limit is not None:
            return limit
        if str(error) == "OutOfMemory":
            return SharedMemoryExhausted(
                f"a message of port {name}", nbytes, free_bytes(), SHM_FOLDER
            )
        return ChannelError(f"port {name} could not lend {nbytes:,} bytes: {error}")


class IceoryxReader:
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

    def take(self) -> Sample | None:
        """See `Reader.take`."""
        try:
            sample = self._receive()
        except iox.ReceiveError as error:
            raise ChannelError(
                f"connection {self._connection.name} could not receive: {error}"
            ) from error
        if sample is None:
            return None
        key = sample.user_header_ptr
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._remember(key, sample.payload_ptr)
        # The writer's word for it; there may be less, and what is read beyond that kills us.
        room = sample.header.number_of_elements << 6
        if room > chunk.capacity:
            room = self._room_at_most(room, chunk)
        return chunk, room, sample

    def close(self) -> object:
        """See `Reader.close`."""
        subscriber, self._subscriber = self._subscriber, None
        self._receive = _nothing  # another thread may be looking
        self._chunks.clear()
        return subscriber

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


class IceoryxHold:
    """A service kept alive by its creator."""

    def __init__(self, service: Any) -> None:
        self._service = service

    @property
    def readers(self) -> int:
        """See `Hold.readers`."""
        count: int = self._service.dynamic_config.number_of_subscribers
        return count

    def close(self) -> None:
        """See `Hold.close`."""
        self._service = None


class IceoryxTransport:
    """One process's share in an executor's iceoryx2 domain.

    Args:
        root: folder of the domain; the executor's own, private.
        prefix: what all its names in shared memory begin with.
        mark: marks the domain as alive, for the process that made it; owned.

    Raises:
        ChannelError: iceoryx2 cannot start on this machine, and why.
    """

    def __init__(self, root: Path, prefix: str, mark: FolderLock | None = None) -> None:
        self._root = root
        self._prefix = prefix
        self._mark = mark
        self._pid = os.getpid()
        self._lock = MemoryLock(root.parent)
        self._maps = Maps()
        self._node: Any = self._lock.run(partial(_new_node, root, prefix))
        tell_children(self)

    def disown(self) -> None:
        """Leave it to the parent process."""
        _never_drop(self._pid)

    @property
    def address(self) -> tuple[str, str]:
        """See `Transport.address`."""
        return str(self._root), self._prefix

    def create(self, port: PortPlan) -> IceoryxHold:
        """See `Transport.create`."""
        return self._lock.run(partial(self._create, port))

    def _create(self, port: PortPlan) -> IceoryxHold:
        what = f"creating port {port.name}"
        require_free(0, what)
        service = _attempt(
            what,
            lambda: (
                self._builder(port)
                .max_publishers(1)
                .max_subscribers(port.max_subscribers)
                .max_nodes(MAX_PROCESSES)
                .subscriber_max_buffer_size(port.buffer_size)
                # A writer gets no more chunks than its readers could hold: let them.
                .subscriber_max_borrowed_samples(port.max_borrowed + segments.spare_chunks(port))
                .history_size(0)
                .enable_safe_overflow(True)
                .create()
            ),
            iox.PublishSubscribeCreateError,
        )
        return IceoryxHold(service)

    def open_writer(self, port: PortPlan) -> IceoryxWriter:
        """See `Transport.open_writer`."""
        return self._lock.run(partial(self._open_writer, port))

    def _open_writer(self, port: PortPlan) -> IceoryxWriter:
        what = f"opening the writer of port {port.name}"
        service = self._open(port, what)
        # Its connections to the readers there are, and the first segment.
        readers = service.dynamic_config.number_of_subscribers
        queues = readers * segments.connection_bytes(port)
        needed_bytes = queues + segments.first_segment_bytes(port)
        require_free(needed_bytes, what)
        publisher = _attempt(
            what,
            lambda: (
                service.publisher_builder()
                .initial_max_slice_len((segments.initial_bytes(port) + 63) >> 6)
                .allocation_strategy(iox.AllocationStrategy.PowerOfTwo)
                .override_sample_preallocation(segments.preallocated_chunks(port))
                .max_loaned_samples(MAX_LOANS)
                .backpressure_strategy(iox.BackpressureStrategy.DiscardData)
                .create()
            ),
            iox.PublisherCreateError,
            needed_bytes,
        )
        return IceoryxWriter(publisher, port, self._lock, self._maps)

    def open_reader(self, port: PortPlan, connection: ConnectionPlan) -> IceoryxReader:
        """See `Transport.open_reader`."""
        return self._lock.run(partial(self._open_reader, port, connection))

    def _open_reader(self, port: PortPlan, connection: ConnectionPlan) -> IceoryxReader:
        what = f"opening the reader of {connection.name}"
        service = self._open(port, what)
        require_free(segments.connection_bytes(port), what)
        subscriber = _attempt(
            what,
            lambda: service.subscriber_builder().buffer_size(connection.capacity).create(),
            iox.SubscriberCreateError,
            segments.connection_bytes(port),
        )
        return IceoryxReader(subscriber, connection, self._maps)

    def clean_up_dead(self) -> None:
        """Free what killed processes of this domain left behind. They must have been reaped."""
        if self._pid == os.getpid():
            self._node.try_cleanup_dead_nodes()

    def close(self) -> None:
        """See `Transport.close`."""
        self._node = None
        self._lock.close()
        self._maps.close()

    def close_and_sweep(self) -> None:
        """Give everything back, and remove all that is left of the whole domain.

        For the process that made the domain, when all others are gone. A forked child leaves it
        alone.
        """
        if self._pid != os.getpid():
            return
        if self._node is not None:
            self.clean_up_dead()
        self.close()
        sweep(self._root, self._prefix)
        if self._mark is not None:
            self._mark.close()

    def _builder(self, port: PortPlan) -> Any:
        if self._node is None:
            raise ChannelError("the transport is closed")
        return (
            self._node.service_builder(iox.ServiceName.new(port.service))
            .publish_subscribe(iox.Slice[_Block])
            .user_header(_Header)
            .payload_alignment(iox.Alignment.new(ALIGNMENT_BYTES))
        )

    def _open(self, port: PortPlan, what: str) -> Any:
        return _attempt(what, lambda: self._builder(port).open(), iox.PublishSubscribeOpenError)


def new_domain() -> IceoryxTransport:
    """Start a domain that nobody else has: a private folder and a prefix of its own.

    What domains of this user left whose processes are all dead is removed first.

    Raises:
        ChannelError, ExecutorError: iceoryx2 cannot start on this machine, and why.
    """
    folder = private_folder()
    prefix = new_prefix()
    root = folder / prefix.rstrip("_")
    mark = None
    try:
        # Under the lock, so that nobody takes it for dead before it is claimed.
        mark = MemoryLock(folder).run(partial(_claim_new, folder, root))
        transport = IceoryxTransport(root, prefix, mark)
        restrict(prefix)
    except BaseException:
        sweep(root, prefix)
        if mark is not None:
            mark.close()
        raise
    return transport


def _claim_new(folder: Path, root: Path) -> FolderLock:
    with limits_named("looking for what dead processes left"):
        sweep_dead(folder)
    root.mkdir(mode=0o700)
    return claim(root)


def _new_node(root: Path, prefix: str) -> Any:
    require_free(0, "starting iceoryx2")
    try:
        return (
            iox.NodeBuilder.new()
            .config(_configuration(root, prefix))
            .signal_handling_mode(iox.SignalHandlingMode.Disabled)
            .create(iox.ServiceType.Ipc)
        )
    except iox.NodeCreationFailure as error:
        limit = limit_reached("starting iceoryx2")
        if limit is not None:
            raise limit from error
        raise ChannelError(f"iceoryx2 cannot start in {root}: {error}") from error


@functools.cache
def _never_drop(_: int) -> None:
    """In a forked child, keep all there is of the library for ever: dropped, it is given back.

    The queues and the lists of free memory are shared, and the parent goes on with them. What
    holds samples is not known here: messages, loans, arrays. So everything is looked through.

    Args:
        _: the parent, of which this is done once.
    """
    gc.unfreeze()  # what was frozen for the fork is not looked through otherwise
    held = gc.get_referents(*gc.get_objects())
    # A tuple is not tracked itself if nothing in it is.
    untracked = (one for one in held if type(one) is tuple and not gc.is_tracked(one))
    held += gc.get_referents(*untracked)
    for one in held:
        if type(one) in _LIBRARY_TYPES:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


def _nothing() -> None:
    """What a closed reader receives."""


def _header_at(address: int) -> memoryview:
    return memoryview(_HeaderBytes.from_address(address)).cast("B")


def _configuration(root: Path, prefix: str) -> Any:
    configuration = iox.config.default()
    domain = configuration.global_cfg
    domain.root_path = iox.Path.new(str(root))
    domain.prefix = iox.FileName.new(prefix)
    domain.node.cleanup_dead_nodes_on_creation = False
    domain.node.cleanup_dead_nodes_on_destruction = False
    domain.service.cleanup_dead_nodes_on_open = False
    return configuration


def _attempt(
    what: str, action: Callable[[], T], expected: type[Exception], needed_bytes: int = 0
) -> T:
    """Do something with the library; its errors are names of a Rust enum."""
    try:
        return action()
    except expected as error:
        advice = _ADVICE.get(str(error), "")
        limit = None if advice else limit_reached(what, needed_bytes)
        if limit is not None:
            raise limit from error
        raise ChannelError(f"{what} failed: {error}{advice}") from error


_ADVICE = {
    "DoesNotExist": " (its creator is gone, or has not created it yet)",
    "AlreadyExists": " (two ports of one session have the same name)",
    "ExceedsMaxSupportedPublishers": " (a port has one writer; close the other first)",
    "ExceedsMaxSupportedSubscribers": (
        " (all spare taps of the port are taken, or messages are still held that came by one)"
    ),
    "InsufficientPermissions": " (shared memory or the runtime folder belongs to another user)",
}
