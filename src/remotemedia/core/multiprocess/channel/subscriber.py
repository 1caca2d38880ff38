"""The receiving end of a connection: headers believed only when checked, views, counting."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING

from remotemedia.core.errors import ChannelClosed, DecodeError, EndOfStream, PeerLost
from remotemedia.core.multiprocess.transport.ledger import (
    HISTOGRAM_AT,
    HISTOGRAM_BUCKETS,
    ConnectionWord,
    LedgerWord,
    PortState,
    PortWord,
    ReaderState,
)
from remotemedia.data.layout import Layout, parse_layout
from remotemedia.data.memory import Borrow
from remotemedia.data.message import NO_METADATA, ArrayMessage, Message
from remotemedia.data.wire import (
    HEADER,
    Header,
    RawHeader,
    array_message,
    body_at,
    check_header,
    plain_message,
    unpack_metadata,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan
    from remotemedia.core.multiprocess.transport.base import Reader
    from remotemedia.core.multiprocess.transport.doorbell import Doorbell

_MAX_KNOWN_LAYOUTS = 256
_LAST_BUCKET = HISTOGRAM_BUCKETS - 1


class Subscriber:
    """Receives the messages of one connection, in order.

    Array messages are views into shared memory for as long as they or their arrays live. A reader
    that keeps more than `connection.max_held` of them gets copies instead, which are counted, so
    that the writer never runs out of memory over it. One thread at a time may receive; messages
    may be dropped in any thread.

    Args:
        reader: the transport's end; owned by the subscriber.
        port: the plan of the port it reads.
        connection: the plan of the connection.
        words: the ledger.
        doorbell: rung when there may be a message.
        bell: of the process that writes the port.
    """

    def __init__(
        self,
        reader: Reader,
        port: PortPlan,
        connection: ConnectionPlan,
        words: memoryview,
        doorbell: Doorbell,
        bell: Bell,
    ) -> None:
        self.port = port
        self.connection = connection
        self._reader = reader
        self._words = words
        self._doorbell = doorbell
        self._bell = bell
        self._is_closed = False
        self._returned: deque[object] = deque()
        self._layouts: dict[bytes, Layout] = {}
        self._raw: RawHeader | None = None
        at = connection.slot
        self._position_at = at + ConnectionWord.POSITION
        self._received_at = at + ConnectionWord.RECEIVED
        self._wanted_at = at + ConnectionWord.CREDIT_WANTED
        self._histogram_at = at + HISTOGRAM_AT
        self._position = words[self._position_at]
        self._received = words[self._received_at]
        self._released = words[at + ConnectionWord.RELEASED]
        self._held = 0
        words[at + ConnectionWord.STATE] = ReaderState.OPEN
        self._wake_writer()

    def receive(self, timeout_seconds: float | None = None) -> Message | None:
        """Wait for the next message.

        Args:
            timeout_seconds: how long to wait; None is for ever, 0 not at all.

        Returns:
            The message, or None when the time is over first.

        Raises:
            EndOfStream: the writer finished and all it sent has been received.
            PeerLost: the writer died and all that could be saved of what it sent was received.
            DecodeError: the next message is damaged; it is counted, and the next call goes on.
            ChannelClosed: the subscriber is closed.
        """
        message = self.take()
        if message is not None:
            return message
        return self._doorbell.wait_for(self._take_or_end, timeout_seconds)

    def receive_nowait(self) -> Message | None:
        """Take the next message if there is one; errors as `receive`."""
        return self._take_or_end()

    async def receive_async(self, timeout_seconds: float | None = None) -> Message | None:
        """Await the next message; otherwise as `receive`. Cancelled, it has taken nothing."""
        # Imported here: a synchronous node's process has no event loop.
        from remotemedia.core.multiprocess.transport.loop_doorbell import LoopDoorbell

        return await LoopDoorbell.of(self._doorbell).wait_for(self._take_or_end, timeout_seconds)

    def take(self) -> Message | None:
        """Take the next message if there is one, without asking whether the stream has ended.

        Raises:
            DecodeError, ChannelClosed: as `receive`.
        """
        if self._returned:
            self._settle()
        if self._is_closed:
            raise ChannelClosed(f"the subscriber of {self.connection.name} is closed")
        words = self._words
        while True:
            taken = self._reader.take()
            if taken is None:
                return None
            view, address, room, token = taken
            raw = self._raw = HEADER.unpack_from(view)
            block, flags, metadata_bytes, sequence, _, epoch, _, reserved, *_ = raw
            layout = self._layouts.get(block)
            try:
                if layout is None:
                    layout = self._learn(block)
                nbytes = layout.payload_bytes + metadata_bytes
                if nbytes > room or metadata_bytes or flags or reserved:
                    check_header(raw, layout, room)
            except DecodeError:
                self._count_unreadable()
                raise
            if sequence != self._position + 1 and not self._note_gap(sequence):
                continue
            self._position = sequence
            words[self._position_at] = sequence
            wanted = words[self._wanted_at]
            if wanted and sequence >= wanted:
                self._wake_writer()
            if epoch != words[LedgerWord.EPOCH] and epoch < words[LedgerWord.EPOCH]:
                self._count_drop(ConnectionWord.DROPPED_INTERRUPTED, 1)
                continue
            break
        return self._deliver(raw, layout, address, token)

    @property
    def header(self) -> Header:
        """Header of the message taken last.

        Raises:
            LookupError: none has been taken.
        """
        if self._raw is None:
            raise LookupError(f"nothing has been taken from {self.connection.name} yet")
        return Header._make(self._raw)

    @property
    def flags(self) -> int:
        """Flags of the message taken last."""
        return 0 if self._raw is None else self._raw[1]

    @property
    def held(self) -> int:
        """How many views the reader keeps now."""
        self._settle()
        return self._held

    @property
    def has_ended(self) -> bool:
        """Whether the writer has finished or died. What it sent may still wait to be taken."""
        return self._words[self.port.slot + PortWord.STATE] >= PortState.FINISHED

    def close(self) -> None:
        """Read no more: what is queued is dropped and counted, and no writer waits for this reader.

        Messages that are held stay valid. Twice is harmless.
        """
        if not self._is_closed:
            self._settle()
            self._is_closed = True
            self._words[self.connection.slot + ConnectionWord.STATE] = ReaderState.CLOSED
            self._reader.close()
            self._wake_writer()

    def __iter__(self) -> Iterator[Message]:
        try:
            while True:
                message = self.receive()
                assert message is not None
                yield message
        except EndOfStream:
            return

    async def __aiter__(self) -> AsyncIterator[Message]:
        try:
            while True:
                message = await self.receive_async()
                assert message is not None
                yield message
        except EndOfStream:
            return

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Subscriber {self.connection.name}: {self._received} received>"

    def _take_or_end(self) -> Message | None:
        message = self.take()
        if message is None and self.has_ended:
            # Once more: the writer may have sent between our look and its end.
            message = self.take()
            if message is None:
                raise self._end()
        return message

    def _end(self) -> EndOfStream | PeerLost:
        words = self._words
        missing = words[self.port.slot + PortWord.SENT] - self._position
        if missing > 0:
            self._position += missing
            words[self._position_at] = self._position
            self._count_drop(ConnectionWord.DROPPED_LOST, missing)
        if words[self.port.slot + PortWord.STATE] == PortState.LOST:
            return PeerLost(
                f"the writer of port {self.port.name} died; {self.connection.name} has received "
                f"all that was left of what it sent"
            )
        return EndOfStream(f"port {self.port.name} has finished")

    def _deliver(self, raw: RawHeader, layout: Layout, address: int, token: object) -> Message:
        words = self._words
        _, _, metadata_bytes, _, _, _, _, _, correlation_id, timestamp_ns, sent_ns = raw
        self._received += 1
        words[self._received_at] = self._received
        bucket = max(0, time.monotonic_ns() - sent_ns).bit_length()
        words[self._histogram_at + (bucket if bucket < _LAST_BUCKET else _LAST_BUCKET)] += 1
        message: Message
        try:
            metadata = (
                unpack_metadata(body_at(address + layout.payload_bytes, metadata_bytes))
                if metadata_bytes
                else NO_METADATA
            )
            if layout.is_array:
                borrow = Borrow()
                borrow.sample = token
                borrow.returned = self._returned
                self._held += 1
                array = message = array_message(layout, borrow, address)
                if self._held > self.connection.max_held:
                    self._copy(array)
            else:
                message = plain_message(layout, body_at(address, layout.payload_bytes))
                self._release(1)
        except DecodeError:
            self._received -= 1
            words[self._received_at] = self._received
            self._count_drop(ConnectionWord.DROPPED_UNREADABLE, 1)
            raise
        message.correlation_id = correlation_id
        message.timestamp_ns = timestamp_ns
        message.metadata = metadata
        return message

    def _copy(self, message: ArrayMessage) -> None:
        message.detach()
        self._words[self.connection.slot + ConnectionWord.COPIED] += 1

    def _learn(self, block: bytes) -> Layout:
        layout = parse_layout(block)
        if len(self._layouts) >= _MAX_KNOWN_LAYOUTS:
            self._layouts.clear()
        self._layouts[block] = layout
        return layout

    def _settle(self) -> None:
        """Count the views that were given back, and drop their samples, in the reader's thread."""
        count = 0
        while self._returned:
            self._returned.popleft()
            count += 1
        if count:
            self._held -= count
            self._release(count)

    def _release(self, count: int) -> None:
        self._released += count
        self._words[self.connection.slot + ConnectionWord.RELEASED] = self._released

    def _note_gap(self, sequence: int) -> bool:
        """Count what lies between the last message and this one; False if this one is not ours."""
        if self._position == 0:
            # Sent before the writer knew of this connection: not meant for it.
            self._position = self._words[self.connection.slot + ConnectionWord.BASE]
        missing = sequence - self._position - 1
        if missing < 0:
            return False
        if missing:
            is_lossless = self.connection.policy.is_lossless
            word = (
                ConnectionWord.DROPPED_LOST if is_lossless else ConnectionWord.DROPPED_OVERWRITTEN
            )
            self._count_drop(word, missing)
        return True

    def _count_unreadable(self) -> None:
        self._position += 1
        self._words[self._position_at] = self._position
        self._count_drop(ConnectionWord.DROPPED_UNREADABLE, 1)

    def _count_drop(self, word: ConnectionWord, count: int) -> None:
        self._words[self.connection.slot + word] += count

    def _wake_writer(self) -> None:
        if self._words[self._bell.asleep]:
            os.eventfd_write(self._bell.fd, 1)
