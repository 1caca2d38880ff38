"""The transport over iceoryx2: services and their two ends; its rules are in `library`."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from remotemedia.core.multiprocess.plan import MAX_LOANS
from remotemedia.core.multiprocess.transport import segments
from remotemedia.core.multiprocess.transport.forks import tell_children
from remotemedia.core.multiprocess.transport.iceoryx_ends import IceoryxReader, IceoryxWriter
from remotemedia.core.multiprocess.transport.library import (
    attempt,
    builder,
    iox,
    never_drop,
    new_node,
)
from remotemedia.core.multiprocess.transport.locks import MemoryLock, wait_free
from remotemedia.core.multiprocess.transport.pages import Maps, require_free
from remotemedia.errors import ChannelError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan

__all__ = ["IceoryxTransport"]

MAX_PROCESSES = 128


class IceoryxHold:
    """A service kept alive by its creator."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def close(self) -> None:
        """See `Hold.close`."""
        self._service = None


class IceoryxTransport:
    """One process's share in an executor's iceoryx2 domain.

    Args:
        root: folder of the domain; the executor's own, private.
        prefix: what all its names in shared memory begin with.

    Raises:
        ChannelError: iceoryx2 cannot start on this machine, and why.
    """

    def __init__(self, root: Path, prefix: str) -> None:
        self._root = root
        self._prefix = prefix
        self._pid = os.getpid()
        self._lock = MemoryLock(root.parent)
        self._maps = Maps()
        try:
            self._node: Any = self._lock.run(partial(new_node, root, prefix))
        except BaseException:
            self._lock.close()  # not when the error is gone: there may be no descriptor to spare
            self._maps.close()
            raise
        tell_children(self)

    def disown(self) -> None:
        """Leave it to the parent process."""
        never_drop(self._pid)

    @property
    def address(self) -> tuple[str, str]:
        """See `Transport.address`."""
        return str(self._root), self._prefix

    async def wait_free(self) -> None:
        """See `Transport.wait_free`."""
        await wait_free(self._root.parent)

    def create(self, port: PortPlan) -> IceoryxHold:
        """See `Transport.create`."""
        return self._lock.run(partial(self._create, port))

    def _create(self, port: PortPlan) -> IceoryxHold:
        what = f"creating port {port.name}"
        require_free(0, what)
        service = attempt(
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
        publisher = attempt(
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
        subscriber = attempt(
            what,
            lambda: service.subscriber_builder().buffer_size(connection.capacity).create(),
            iox.SubscriberCreateError,
            segments.connection_bytes(port),
        )
        return IceoryxReader(subscriber, connection, self._maps)

    def free_leftovers(self, pids: Collection[int] | None = None) -> None:
        """See `Transport.free_leftovers`. A forked child leaves it alone."""
        # Imported here: a node's process cleans up nobody.
        from remotemedia.core.multiprocess.transport.iceoryx_leftovers import remove_leftovers

        if self._pid == os.getpid():
            remove_leftovers(self._root, self._prefix, pids)

    def close(self) -> None:
        """See `Transport.close`."""
        self._node = None
        self._lock.close()
        self._maps.close()

    def _builder(self, port: PortPlan) -> Any:
        if self._node is None:
            raise ChannelError("the transport is closed")
        return builder(self._node, port.service)

    def _open(self, port: PortPlan, what: str) -> Any:
        return attempt(what, lambda: self._builder(port).open(), iox.PublishSubscribeOpenError)
