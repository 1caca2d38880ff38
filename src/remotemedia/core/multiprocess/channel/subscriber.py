"""The receiving end of a connection: waiting for messages, and the end of the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from remotemedia.core.multiprocess.channel.intake import Intake
from remotemedia.core.multiprocess.transport.doorbell import give_way
from remotemedia.core.multiprocess.transport.ledger import (
    ConnectionWord,
    PortState,
    PortWord,
    ReaderState,
    drop_unread,
)
from remotemedia.core.timeouts import check_timeout
from remotemedia.data.memory import keep_until_unused
from remotemedia.errors import EndOfStream, MessageLost, PeerLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan
    from remotemedia.core.multiprocess.transport.base import Reader
    from remotemedia.core.multiprocess.transport.doorbell import Doorbell
    from remotemedia.data.message import Message

_FINISHED = int(PortState.FINISHED)


class _Nowhere(list[Any]):
    """What a closed reader holds: nothing, whatever is still under way."""

    def append(self, _: object) -> None:
        pass


class Subscriber(Intake):
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
        self._reader = reader
        self._take = reader.take
        self._doorbell = doorbell
        self._state_at = port.slot + PortWord.STATE
        self._handed_at = port.slot + PortWord.HANDED
        super().__init__(port, connection, words, bell)
        words[connection.slot + ConnectionWord.STATE] = ReaderState.OPEN
        self._wake_writer()

    @overload
    def receive(self, timeout_seconds: None = None) -> Message: ...

    @overload
    def receive(self, timeout_seconds: float | None) -> Message | None: ...

    def receive(self, timeout_seconds: float | None = None) -> Message | None:
        """Wait for the next message.

        An exception that a signal handler raises meanwhile may cost the message that was about to
        be returned; it is counted as lost.

        Args:
            timeout_seconds: how long to wait; None is for ever, 0 not at all.

        Returns:
            The message, or None when the time is over first.

        Raises:
            EndOfStream: the writer finished and all it sent has been received.
            PeerLost: the writer died and all that could be saved of what it sent was received.
            MessageLost: the next messages came in memory that this process cannot map; they are
                counted, and the next call goes on.
            DecodeError: the next message is damaged; it is counted, and the next call goes on.
            ChannelClosed: the subscriber is closed.
            TypeError, ValueError: `timeout_seconds` is no time to wait.
        """
        if timeout_seconds is not None:
            check_timeout(timeout_seconds)
        try:
            message = self._next()
            if message is None and timeout_seconds != 0:
                message = self._doorbell.spin(self._look, timeout_seconds)
            if message is not None:
                return message
        except BaseException as error:
            self._note_interrupt(error)
            raise
        return self._doorbell.wait_for(self._take_or_end, timeout_seconds, has_looked=True)

    def receive_soon(self) -> Message | None:
        """Take the next message, looking for it no longer than the spin time, and never asleep.

        Raises:
            DecodeError, ChannelClosed: as `receive`.
        """
        try:
            message = self._next()
            return self._doorbell.spin(self._look) if message is None else message
        except BaseException as error:
            self._note_interrupt(error)
            raise

    def receive_nowait(self) -> Message | None:
        """Take the next message if there is one; errors as `receive`."""
        return self._take_or_end()

    @overload
    async def receive_async(self, timeout_seconds: None = None) -> Message: ...

    @overload
    async def receive_async(self, timeout_seconds: float | None) -> Message | None: ...

    async def receive_async(self, timeout_seconds: float | None = None) -> Message | None:
        """Await the next message; otherwise as `receive`. Cancelled, it has taken nothing.

        Other tasks get their turn now and then, also where there is always a message.
        """
        if timeout_seconds is not None:
            check_timeout(timeout_seconds)
        if self._doorbell.ends_turn():
            await give_way()
        return await self._doorbell.in_loop().wait_for(self._take_or_end, timeout_seconds)

    def take(self) -> Message | None:
        """Take the next message if there is one, without asking whether the stream has ended.

        Raises:
            DecodeError, ChannelClosed: as `receive`.
        """
        try:
            return self._next()
        except BaseException as error:
            self._note_interrupt(error)
            raise

    @property
    def is_due(self) -> bool:
        """Whether a look may find something: a message, an end, or memory to give back."""
        words = self._words
        return bool(
            words[self._handed_at] != self._position
            or self._held
            or words[self._state_at] >= _FINISHED
            or self._was_interrupted
            or self._is_closed
        )

    def close(self) -> None:
        """Read no more: what is queued is dropped and counted, and no writer waits for this reader.

        Messages that are held stay valid. Twice is harmless.
        """
        if not self._is_closed:
            self._is_closed = True
            # What is being received just now, by another thread or by what a signal handler
            # interrupted, ends in `ChannelClosed`.
            self._max_held = -1
            self._settle()
            words, at = self._words, self.connection.slot
            words[at + ConnectionWord.STATE] = ReaderState.CLOSED
            self._take = self._take_from_closed
            self._leave_held()
            drop_unread(words, self.port.slot, at, ConnectionWord.DROPPED_CLOSED)
            self._wake_writer()
            self._let_go_of_words()
            self._doorbell.ring()  # whoever waits for a message here gets `ChannelClosed`

    def __iter__(self) -> Iterator[Message]:
        try:
            while True:
                yield self.receive()
        except EndOfStream:
            return

    async def __aiter__(self) -> AsyncIterator[Message]:
        try:
            while True:
                yield await self.receive_async()
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
        return f"<Subscriber {self.connection.name}: at {self.position}>"

    def _take_or_end(self) -> Message | None:
        try:
            message = self.take()
            if message is not None:
                return message
            words = self._words
            if words[self._state_at] >= _FINISHED:
                # Once more: the writer may have sent between our look and its end.
                message = self.take()
                if message is None:
                    raise self._end()
            elif words[self._handed_at] > self._reached() or self._was_interrupted:
                message = self._take_or_lose()
        except ValueError as error:
            self._note_closed(error)
            raise
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

    def _leave_held(self) -> None:
        """Hand what is still in use over to whoever uses it, and give the queue back."""
        queue = self._reader.close()
        for chunk, token in self._held:
            if chunk.array is not None:
                keep_until_unused(chunk.array, (queue, token))
                chunk.array = chunk.layout = None
        self._held = _Nowhere()

    def __del__(self) -> None:
        self._leave_held()

    def _take_from_closed(self) -> None:
        raise self._closed()
