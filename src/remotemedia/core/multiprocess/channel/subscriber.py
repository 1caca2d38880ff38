"""The receiving end of a connection: headers believed only when checked, views, counting."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.stats import connection_stats
from remotemedia.core.multiprocess.channel.unmapped import why_unmapped
from remotemedia.core.multiprocess.transport.ledger import (
    HISTOGRAM_AT,
    HISTOGRAM_BUCKETS,
    UNLINKED,
    ConnectionWord,
    LedgerWord,
    PortState,
    PortWord,
    ReaderState,
    drop_unread,
)
from remotemedia.data.layout import Layout, parse_layout
from remotemedia.data.memory import (
    OWN_REFERENCES,
    array_at,
    count_references,
    keep_until_unused,
)
from remotemedia.data.message import NO_METADATA, ArrayMessage, Message
from remotemedia.data.wire import (
    CONTEXT,
    HEADER,
    Context,
    Header,
    RawHeader,
    array_message,
    body_at,
    check_header,
    plain_message,
    unpack_metadata,
)
from remotemedia.errors import (
    ChannelClosed,
    ChannelError,
    DecodeError,
    EndOfStream,
    MessageLost,
    PeerLost,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan
    from remotemedia.core.multiprocess.transport.base import Chunk, Reader, Sample
    from remotemedia.core.multiprocess.transport.doorbell import Doorbell

_MAX_KNOWN_LAYOUTS = 256
_EPOCH_AT = int(LedgerWord.EPOCH)
_now_ns = time.monotonic_ns
_unpack_header = HEADER.unpack_from
_LAST_BUCKET = HISTOGRAM_BUCKETS - 1
_UNMAPPED = (
    "the memory they came in could not be mapped, or its writer took it back; see whether files "
    "were removed from /dev/shm"
)


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
        self._take: Callable[[], Sample | None] = reader.take
        self._max_held = connection.max_held
        self._words = words
        self._doorbell = doorbell
        self._bell = bell
        self._is_closed = False
        # Chunks whose arrays may still be in use, and the tokens that own their memory.
        self._held: list[tuple[Chunk, object]] = []
        self._layouts: dict[bytes, Layout] = {}
        self._raw: RawHeader | None = None
        self._context, self._epoch = b"", words[_EPOCH_AT]
        self._ended = self._ending = self._ending_position = 0
        self._state_at, self._sent_at, self._handed_at = (
            port.slot + word for word in (PortWord.STATE, PortWord.SENT, PortWord.HANDED)
        )
        at = connection.slot
        self._position_at = at + ConnectionWord.POSITION
        self._wanted_at = at + ConnectionWord.CREDIT_WANTED
        self._histogram_at = at + HISTOGRAM_AT
        # What was sent while nobody had this end, between a process that died and the next.
        drop_unread(words, port.slot, at, ConnectionWord.DROPPED_LOST)
        # `UNLINKED` until the writer knows of this connection: nothing is meant for it before.
        self._position = max(words[self._position_at], words[at + ConnectionWord.BASE])
        self._released = words[at + ConnectionWord.RELEASED]
        # What is lost of the messages up to here is lost by an interrupt, and by nothing else.
        self._excused = 0
        self._was_interrupted = False
        # By how much the counts differ since a reader died whose place this one takes.
        self._unseen = self._unheld = 0
        self._unseen, self._unheld = self._imbalance()
        words[at + ConnectionWord.STATE] = ReaderState.OPEN
        self._wake_writer()

    def receive(self, timeout_seconds: float | None = None) -> Message | None:
        """Wait for the next message.

        Args:
            timeout_seconds: how long to wait; None is for ever, 0 not at all.

        Returns:
            The message, or None when the time is over first.

        An exception that a signal handler raises meanwhile may cost the message that was about to
        be returned; it is counted as lost.

        Raises:
            EndOfStream: the writer finished and all it sent has been received.
            PeerLost: the writer died and all that could be saved of what it sent was received.
            MessageLost: the next messages came in memory that this process cannot map; they are
                counted, and the next call goes on.
            DecodeError: the next message is damaged; it is counted, and the next call goes on.
            ChannelClosed: the subscriber is closed.
        """
        try:
            while True:
                if self._held:
                    self._settle()
                sample = self._take()
                if sample is None and timeout_seconds != 0:
                    sample = self._doorbell.spin(self._take, timeout_seconds)
                if sample is None:
                    break
                message = self._admit(sample)
                if message is not None:
                    return message
                sample = None  # given back before the next is taken
        except BaseException as error:
            self._note_interrupt(error)
            raise
        return self._doorbell.wait_for(self._take_or_end, timeout_seconds, has_spun=True)

    def receive_soon(self) -> Message | None:
        """Take the next message, looking for it no longer than the spin time, and never asleep.

        Raises:
            DecodeError, ChannelClosed: as `receive`.
        """
        try:
            if self._held:
                self._settle()
            sample = self._take()
            if sample is None:
                sample = self._doorbell.spin(self._take)
            return None if sample is None else self._admit(sample)
        except BaseException as error:
            self._note_interrupt(error)
            raise

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
        try:
            if self._held:
                self._settle()
            while True:
                sample = self._take()
                if sample is None:
                    return None
                message = self._admit(sample)
                if message is not None:
                    return message
                sample = None  # given back before the next is taken
        except BaseException as error:
            self._note_interrupt(error)
            raise

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
    def position(self) -> int:
        """Sequence number of the message taken last; 0 before the first that is meant for it."""
        position = self._position if self._position != UNLINKED else self._reached()
        return position if position != UNLINKED else 0

    @property
    def held(self) -> int:
        """How many views the reader keeps now."""
        self._settle()
        return len(self._held)

    @property
    def has_ended(self) -> bool:
        """Whether the writer has finished or died. What it sent may still wait to be taken."""
        return self._words[self.port.slot + PortWord.STATE] >= PortState.FINISHED

    def ended_input(self) -> int:
        """The newest input that this reader has had everything of.

        Nothing of it, or of any before it, is left in the queue; None will come. Ask after each
        message, and once the queue is empty.
        """
        words, slot = self._words, self.port.slot
        if self._position == UNLINKED:
            self._reached()
        if self._position >= self._ending_position:
            self._ended = self._ending
            # In this order: what was sent of the inputs that have ended, is counted by now.
            self._ending = words[slot + PortWord.ENDED]
            self._ending_position = words[slot + PortWord.SENT]
            if self._position >= self._ending_position:
                self._ended = self._ending
        return self._ended

    def close(self) -> None:
        """Read no more: what is queued is dropped and counted, and no writer waits for this reader.

        Messages that are held stay valid. Twice is harmless.
        """
        if not self._is_closed:
            self._is_closed = True
            self._settle()
            words, at = self._words, self.connection.slot
            words[at + ConnectionWord.STATE] = ReaderState.CLOSED
            self._take = self._take_from_closed
            self._leave_held()
            drop_unread(words, self.port.slot, at, ConnectionWord.DROPPED_CLOSED)
            self._wake_writer()
            self._doorbell.ring()  # whoever waits for a message here gets `ChannelClosed`

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
        return f"<Subscriber {self.connection.name}: at {self._position}>"

    def _take_or_end(self) -> Message | None:
        message = self.take()
        if message is not None:
            return message
        words = self._words
        if words[self._state_at] >= PortState.FINISHED:
            # Once more: the writer may have sent between our look and its end.
            message = self.take()
            if message is None:
                raise self._end()
        elif words[self._handed_at] > self._reached() or self._was_interrupted:
            message = self._take_or_lose()
        return message

    def _take_or_lose(self) -> Message | None:
        """Take the next message, or count as lost what should be in the queue and is not."""
        if self._was_interrupted:
            self._recover()
        # In this order: what was handed over by now, the next look finds.
        handed = self._words[self._handed_at]
        message = self.take()
        if message is None and handed > self._reached():
            loss = self._lose(handed)
            if loss is not None:
                raise loss
        return message

    def _end(self) -> EndOfStream | PeerLost | MessageLost:
        is_dead = self._words[self._state_at] == PortState.LOST
        sent = self._words[self._sent_at]
        if sent > self._reached():
            loss = self._lose(sent)
            if loss is not None and not is_dead:
                return loss
        if is_dead:
            return PeerLost(
                f"the writer of port {self.port.name} died; {self.connection.name} has received "
                f"all that was left of what it sent"
            )
        return EndOfStream(f"port {self.port.name} has finished")

    def _lose(self, sequence: int) -> MessageLost | None:
        """Count all up to a sequence number as lost, and say why unless it is known."""
        missing = sequence - self._position
        self._position = self._words[self._position_at] = sequence
        self._count_drop(ConnectionWord.DROPPED_LOST, missing)
        self._wake_writer()
        if sequence <= max(self._excused, self._words[self.port.slot + PortWord.SKIPPED]):
            return None
        cause = why_unmapped()
        if not cause and not self.connection.policy.is_lossless:
            return None  # sent while it was not connected
        return MessageLost(self.connection.name, missing, cause or _UNMAPPED)

    def _note_interrupt(self, error: BaseException) -> None:
        """Put right what an exception from outside left half done, at the latest when it is idle.

        Between any two calls a signal handler may raise. Then a sample was taken and is gone, or
        its message was counted in some words and not in others.
        """
        if not self._is_closed and not isinstance(error, (ChannelError, DecodeError)):
            self._was_interrupted = True
            self._excused = self._words[self._sent_at]
            self._recover()

    def _recover(self) -> None:
        unseen, unheld = self._imbalance()
        lost = min(unseen, unheld)
        if lost > 0:
            self._count_drop(ConnectionWord.DROPPED_LOST, lost)
        if unseen > lost and self._raw is not None:
            self._count_latency(self._raw[-1])
        if unheld > lost:
            self._release(unheld - lost)
        if self._position != UNLINKED:
            self._position = max(self._position, self._words[self._position_at])
        self._wake_writer()
        self._was_interrupted = False

    def _imbalance(self) -> tuple[int, int]:
        """How many messages its position says were received that are nowhere else.

        Returns:
            How many are missing in the histogram, and how many among those held or released.
        """
        stats = connection_stats(self._words, self.port, self.connection)
        unseen = stats.received - stats.latency.total - self._unseen
        return unseen, stats.received - stats.released - len(self._held) - self._unheld

    def _admit(self, sample: Sample) -> Message | None:
        """Make the message of a sample, and count it; None if it is not to be delivered."""
        words = self._words
        chunk, room, token = sample
        raw = self._raw = _unpack_header(chunk.header)
        block, zero, metadata_bytes, sequence, context, correlation, timestamp, sent = raw
        layout = self._layouts.get(block) or self._learn(block)
        if metadata_bytes or zero or layout.payload_bytes > room:
            self._check(raw, layout, room)
        if sequence != self._position + 1 and not self._note_gap(sequence):
            return None
        self._position = words[self._position_at] = sequence
        if words[self._wanted_at]:
            self._wake_writer()
        if (context != self._context or words[_EPOCH_AT] != self._epoch) and self._is_old(context):
            self._count_drop(ConnectionWord.DROPPED_INTERRUPTED, 1)
            return None
        if layout.is_array and not metadata_bytes:
            if chunk.layout is not layout:
                self._view(chunk, layout)
            message: Message = array_message(layout, chunk.array[...])  # type: ignore[index]
            self._held.append((chunk, token))
            message.metadata = NO_METADATA
        else:
            message = self._decode(layout, chunk, metadata_bytes, token)
        message.correlation_id = correlation
        message.timestamp_ns = timestamp
        bucket = (_now_ns() - sent).bit_length()
        words[self._histogram_at + (bucket if bucket < _LAST_BUCKET else _LAST_BUCKET)] += 1
        if len(self._held) > self._max_held:
            self._copy(message)
        return message

    def _decode(self, layout: Layout, chunk: Chunk, metadata_bytes: int, token: object) -> Message:
        """The uncommon kinds of message: no array, or with metadata."""
        address, payload_bytes = chunk.address, layout.payload_bytes
        try:
            metadata = NO_METADATA
            if metadata_bytes:
                metadata = unpack_metadata(body_at(address + payload_bytes, metadata_bytes))
            message: Message
            if layout.is_array:
                self._view(chunk, layout)
                message = array_message(layout, chunk.array[...])  # type: ignore[index]
                self._held.append((chunk, token))
            else:
                message = plain_message(layout, body_at(address, payload_bytes))
                self._release(1)
        except DecodeError:
            self._count_drop(ConnectionWord.DROPPED_UNREADABLE, 1)
            raise
        message.metadata = metadata
        return message

    @staticmethod
    def _view(chunk: Chunk, layout: Layout) -> None:
        """Give a chunk that nobody holds an array of the message that came in it."""
        chunk.layout = layout
        chunk.array = array_at(chunk.address, layout.shape, layout.dtype)

    def _copy(self, message: Message) -> None:
        if not isinstance(message, ArrayMessage):
            return
        message.detach()
        self._words[self.connection.slot + ConnectionWord.COPIED] += 1

    def _learn(self, block: bytes) -> Layout:
        try:
            layout = parse_layout(block)
        except DecodeError:
            self._count_unreadable()
            raise
        if len(self._layouts) >= _MAX_KNOWN_LAYOUTS:
            self._layouts.clear()
        self._layouts[block] = layout
        return layout

    def _settle(self) -> None:
        """Give back what nobody refers to any more."""
        for chunk, _ in self._held:
            array = chunk.array
            if array is not None and count_references(array) > OWN_REFERENCES:
                break
        else:  # all of them, as most often
            released = len(self._held)
            self._held.clear()
            if released:
                self._release(released)
            return
        kept = []
        for held in self._held:
            array = held[0].array
            if array is not None and count_references(array) > OWN_REFERENCES:
                kept.append(held)
        released = len(self._held) - len(kept)
        if released:
            self._held = kept
            self._release(released)

    def _leave_held(self) -> None:
        """Hand what is still in use over to whoever uses it, and give the queue back."""
        queue = self._reader.close()
        for chunk, token in self._held:
            assert chunk.array is not None
            keep_until_unused(chunk.array, (queue, token))
            chunk.array = chunk.layout = None
        self._held = []

    def __del__(self) -> None:
        self._leave_held()

    def _release(self, count: int) -> None:
        self._released += count
        self._words[self.connection.slot + ConnectionWord.RELEASED] = self._released

    def _note_gap(self, sequence: int) -> bool:
        """Count what lies between the last message and this one; False if this one is not ours."""
        missing = sequence - self._reached() - 1
        if sequence > self._words[self._sent_at]:
            self._count_unreadable()
            raise DecodeError(
                f"the header is damaged: message {sequence:,} of port {self.port.name}, which has "
                f"sent {self._words[self._sent_at]:,}"
            )
        if missing < 0:
            return False  # sent before the writer knew of this connection, or before what is lost
        if missing:
            # Moved before it is counted, so that the account balances whenever we die.
            self._words[self._position_at] = sequence
            is_lossless = self.connection.policy.is_lossless
            word = (
                ConnectionWord.DROPPED_LOST if is_lossless else ConnectionWord.DROPPED_OVERWRITTEN
            )
            self._count_drop(word, missing)
        return True

    def _count_latency(self, sent_ns: int) -> None:
        bucket = min((_now_ns() - sent_ns).bit_length(), _LAST_BUCKET)
        self._words[self._histogram_at + bucket] += 1

    def _count_unreadable(self) -> None:
        # Its sequence number is not to be believed: it counts as the next one.
        if self._reached() == UNLINKED:
            return
        self._position = self._words[self._position_at] = self._position + 1
        if self._words[self._wanted_at]:
            self._wake_writer()
        self._count_drop(ConnectionWord.DROPPED_UNREADABLE, 1)

    @property
    def epoch(self) -> int:
        """The epoch of the message that was received last."""
        return self._epoch

    def _reached(self) -> int:
        """Sequence number of the newest message that is not owed any more."""
        if self._position == UNLINKED:
            self._position = self._words[self.connection.slot + ConnectionWord.BASE]
        return self._position

    def _is_old(self, context: bytes) -> bool:
        """Whether a message of this context was sent before the last interrupt."""
        epoch = self._words[_EPOCH_AT]
        is_old = Context._make(CONTEXT.unpack(context)).epoch < epoch
        # Remembered only where it is current: then the next one of its kind needs no look.
        self._context, self._epoch = b"" if is_old else context, epoch
        return is_old

    def _check(self, raw: RawHeader, layout: Layout, room: int) -> None:
        try:
            check_header(raw, layout, room)
        except DecodeError:
            self._count_unreadable()
            raise

    def _take_from_closed(self) -> None:
        raise ChannelClosed(f"the subscriber of {self.connection.name} is closed")

    def _count_drop(self, word: ConnectionWord, count: int) -> None:
        self._words[self.connection.slot + word] += count

    def _wake_writer(self) -> None:
        if self._words[self._bell.asleep]:
            os.eventfd_write(self._bell.fd, 1)
