"""The sending end of an output port: headers, doorbells, waiting for credit."""

from __future__ import annotations

import os
import struct
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from remotemedia.core.multiprocess.channel.credit import Credit
from remotemedia.core.multiprocess.channel.loan import Loan
from remotemedia.core.multiprocess.plan import METADATA_ROOM_BYTES
from remotemedia.core.multiprocess.transport.ledger import (
    ALWAYS_ASLEEP,
    ConnectionWord,
    LedgerWord,
    PortState,
    PortWord,
)
from remotemedia.data.layout import (
    Layout,
    audio_layout,
    binary_layout,
    tensor_layout,
    video_layout,
)
from remotemedia.data.media import Audio, Video
from remotemedia.data.message import ArrayMessage, Message, shown
from remotemedia.data.plain import MAX_MESSAGE_BYTES, Binary
from remotemedia.data.tensor import Tensor
from remotemedia.data.wire import (
    CONTEXT,
    HEADER,
    Payload,
    bad_envelope,
    dissect,
    pack_metadata,
)
from remotemedia.errors import (
    ChannelClosed,
    ChannelError,
    DataError,
    ExecutorError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from numpy.typing import NDArray

    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan
    from remotemedia.core.multiprocess.transport.base import Chunk, Writer
    from remotemedia.core.multiprocess.transport.doorbell import Doorbell
    from remotemedia.data.wire import RuntimeData
    from remotemedia.errors import BackpressureError

M = TypeVar("M", bound=ArrayMessage)
_EPOCH_AT = int(LedgerWord.EPOCH)
_SENDING = -1
_now_ns = time.monotonic_ns
_pack_header = HEADER.pack_into


class Publisher:
    """Sends messages to every connection of one output port.

    A message is sent to all of the port's connections or to none. `send` waits while a `block`
    connection is full and while a planned reader has not opened yet; a full `error` connection
    raises. Connections that may drop never hold it up.

    Threads may share a publisher: sends happen one after another. A signal handler may finish or
    close one; where it interrupted a send of that publisher, it is done once that has ended.

    Args:
        writer: the transport's end; owned by the publisher.
        port: the plan of the port.
        words: the ledger.
        doorbell: rung when there may be credit.
        bells: of the processes that read the port, by endpoint index.
        session: index of the session, for the header.

    Attributes:
        epoch: the epoch of what is sent where nobody says otherwise; None is the present one.
    """

    def __init__(
        self,
        writer: Writer,
        port: PortPlan,
        words: memoryview,
        doorbell: Doorbell,
        bells: Mapping[int, Bell],
        *,
        session: int = 0,
    ) -> None:
        self.port = port
        self._writer = writer
        self._words = words
        self._doorbell = doorbell
        self._lock = threading.RLock()  # a signal handler may close what it interrupted
        self._turn = threading.RLock()  # one thread waits on the doorbell, others for their turn
        self._session = session
        self._is_closed = False
        self.epoch: int | None = None
        self._lent_type: type[ArrayMessage] | None = None
        self._lent_arguments: dict[str, Any] = {}
        self._lent_layout: Layout
        self._enter_epoch(words[_EPOCH_AT])
        self._state_at, self._sent_at, self._bytes_at = (
            port.slot + word for word in (PortWord.STATE, PortWord.SENT, PortWord.BYTES)
        )
        self._handed_at, self._skipped_at = (
            port.slot + word for word in (PortWord.HANDED, PortWord.SKIPPED)
        )
        declared = port.max_message_bytes
        self._max_bytes = MAX_MESSAGE_BYTES if declared is None else declared
        self._sent = words[self._sent_at]
        self._bytes = words[self._bytes_at]
        # What a writer that died had counted is in the queues by now, or lost.
        words[self._skipped_at] = words[self._handed_at] = self._sent
        # Up to this sequence number credit is known; it is looked up when used up. Then,
        # and while a message is sent, it is `_SENDING`: what a signal handler then does comes
        # after, or is refused.
        self._limit = 0
        self._postponed: list[Callable[[], None]] = []
        self._credit = Credit(port, words, doorbell, writer.connect)
        self._bells: tuple[Bell, ...] = ()
        for connection in port.connections:
            self._link(connection, bells[connection.reader])
        words[self._state_at] = PortState.OPEN

    def send(
        self,
        message: RuntimeData,
        *,
        timeout_seconds: float | None = None,
        epoch: int | None = None,
    ) -> None:
        """Send a message; its array is copied once, into shared memory.

        Args:
            message: stays yours.
            timeout_seconds: how long to wait for credit; None is for ever, 0 not at all.
            epoch: the epoch the message belongs to; None is that of the publisher.

        Raises:
            BackpressureError: a connection stayed full; nobody got the message.
            SharedMemoryExhausted: there is no memory for it; nobody got it.
            DataError: it cannot be sent.
            PeerLost: the reader of a lossless connection died.
            ChannelClosed: the publisher is closed.
        """
        parcel = (message, *self._dissect(message), pack_metadata(message), epoch)
        if self._try_send(*parcel) is None:
            self._wait(partial(self._try_send, *parcel), timeout_seconds)

    def send_nowait(self, message: RuntimeData) -> None:
        """Send a message, or raise `BackpressureError` at once; otherwise as `send`."""
        self.send(message, timeout_seconds=0)

    def try_send(self, message: RuntimeData) -> bool | None:
        """Send a message if there is credit; None, and nothing sent, if there is none."""
        parcel = (message, *self._dissect(message), pack_metadata(message), None)
        return self._try_send(*parcel)

    async def send_async(
        self,
        message: RuntimeData,
        *,
        timeout_seconds: float | None = None,
        epoch: int | None = None,
    ) -> None:
        """Send a message, awaiting credit; otherwise as `send`. Cancelled, it has sent nothing."""
        parcel = (message, *self._dissect(message), pack_metadata(message), epoch)
        if self._try_send(*parcel) is None:
            await self._wait_async(partial(self._try_send, *parcel), timeout_seconds)

    @overload
    def loan(
        self, type_: type[Audio], /, *, frames: int, channels: int, sample_rate: int
    ) -> Loan[Audio]: ...
    @overload
    def loan(
        self, type_: type[Video], /, *, height: int, width: int, format: str = ...
    ) -> Loan[Video]: ...
    @overload
    def loan(
        self,
        type_: type[Tensor],
        /,
        *,
        shape: tuple[int, ...] | list[int],
        dtype: np.dtype[np.generic] | str,
    ) -> Loan[Tensor]: ...
    @overload
    def loan(self, type_: type[Binary], /, *, nbytes: int) -> Loan[Binary]: ...

    def loan(self, type_: type[M], /, **arguments: Any) -> Loan[M]:
        """Take a message to fill in place: no copy at all.

        Use it as `with publisher.loan(Audio, frames=480, channels=1, sample_rate=16000) as audio`.

        Args:
            type_: Audio (frames, channels, sample_rate in Hz), Video (height, width, format),
                Tensor (shape, dtype) or Binary (nbytes).
            arguments: its size and format, as above.

        Raises:
            DataError: that type cannot be lent, or not in that size.
            LoanError: too many loans are out.
            SharedMemoryExhausted: there is no memory for it.
            ChannelClosed: the publisher is closed.
        """
        # One stream has one format: what was asked for last is most often asked for again.
        if type_ is self._lent_type and arguments == self._lent_arguments:
            layout = self._lent_layout
        else:
            layout = self._lay_out(type_, arguments)
        if self._is_closed:
            self._require_open()
        chunk, token = self._writer.loan(layout.payload_bytes + METADATA_ROOM_BYTES)
        return Loan(self, type_, layout, chunk, token)

    def _lay_out(self, type_: type[ArrayMessage], arguments: dict[str, Any]) -> Layout:
        try:
            lay_out, wanted, optional = _LAYOUTS[type_]
        except (KeyError, TypeError):
            lent = ", ".join(lendable.__name__ for lendable in _LAYOUTS)
            raise DataError(
                f"a {getattr(type_, '__name__', type_)} cannot be lent; {lent} can: send others"
            ) from None
        if not {*wanted} <= arguments.keys() <= {*wanted, *optional}:
            article = "an" if type_ is Audio else "a"
            takes = [*wanted, *(f"{name} (optional)" for name in optional)]
            raise DataError(
                f"a loan of {article} {type_.__name__} takes {', '.join(takes)}; "
                f"it got {', '.join(arguments) or 'nothing'}"
            )
        shape = arguments.get("shape")
        if isinstance(shape, list):
            arguments = {**arguments, "shape": tuple(shape)}
        try:
            layout = lay_out(**arguments)
        except TypeError as error:
            given = ", ".join(f"{name}={shown(value)}" for name, value in arguments.items())
            raise DataError(f"a {type_.__name__} cannot be lent with {given}: {error}") from error
        if layout.payload_bytes > self._max_bytes:
            raise self._too_large(layout.payload_bytes)
        self._lent_type, self._lent_arguments, self._lent_layout = type_, arguments, layout
        return layout

    def send_loan(self, loan: Loan[Any], timeout_seconds: float | None = None) -> None:
        """Send what a loan holds. Called by `Loan`."""
        if self.try_loan(loan) is None:
            self._wait(partial(self.try_loan, loan), timeout_seconds)

    async def send_loan_async(self, loan: Loan[Any]) -> None:
        """Send what a loan holds, awaiting credit. Called by `Loan`."""
        if self.try_loan(loan) is None:
            await self._wait_async(partial(self.try_loan, loan), None)

    def add_connection(self, connection: ConnectionPlan, bell: Bell) -> None:
        """Send to one more reader from now on; it is owed only what is sent after this.

        Twice is harmless: a reader that was told of stays owed what it was.
        """
        with self._lock:
            if connection in self._credit.connections:
                return
            self._words[connection.slot + ConnectionWord.BASE] = self._sent
            self._link(connection, bell)
            self._limit = 0

    def remove_connection(self, connection: ConnectionPlan, bells: Mapping[int, Bell]) -> None:
        """Forget a reader that has closed or died; nothing of its is touched any more.

        Args:
            connection: the reader.
            bells: of the processes that still read the port, by endpoint index.
        """
        with self._lock:
            self._credit.remove(connection)
            readers = (one.reader for one in self._credit.connections)
            self._bells = tuple(dict.fromkeys(bells[reader] for reader in readers))
            self._limit = 0

    def try_connect(self) -> bool:
        """Connect to readers that have opened; whether all have that were planned."""
        with self._lock:
            return self._credit.connect()

    def wait_connected(self, timeout_seconds: float | None = None) -> bool:
        """Wait until every planned reader has opened; False when the time is over first."""
        return bool(self._take_turn(lambda: self.try_connect() or None, timeout_seconds))

    def end_input(self, number: int) -> None:
        """Say that nothing more will be sent of any input up to this number."""
        with self._lock:
            if not self._is_closed:
                self._words[self.port.slot + PortWord.ENDED] = number
                self._ring()

    def finish(self) -> None:
        """End the stream: readers get what was sent, then `EndOfStream`. Twice is harmless."""
        with self._lock:
            if self._limit == _SENDING:
                self._postponed.append(self.finish)
                return
            if not self._is_closed and self._words[self._state_at] == PortState.OPEN:
                self._words[self._state_at] = PortState.FINISHED
                self._limit = 0  # the next send looks for credit, and is told
                self._ring()
        self._doorbell.ring()  # whoever waits for credit here gets `ChannelClosed`

    def close(self) -> None:
        """Finish, and give the port back once its readers have taken what was sent.

        Loans that are out can no longer be sent; whoever waits for credit gets `ChannelClosed`.
        Twice is harmless.
        """
        with self._lock:
            if self._limit == _SENDING:
                self._postponed.append(self.close)
                return
            self.finish()
            self._is_closed = True
            self._limit = 0
        if self.is_taken():
            self.leave()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed

    def is_taken(self) -> bool:
        """Whether every reader that is open has taken all that was sent."""
        with self._lock:
            return self._credit.is_taken(self._sent)

    def is_delivered(self) -> bool:
        """Whether all that was sent is taken where nothing may be lost; else its readers ring."""
        with self._lock:
            return self._credit.is_taken(self._sent, by_lossless=True)

    def leave(self) -> None:
        """Give the port back at once: what readers have not taken may be lost to them.

        A reader maps memory when it first meets it, and there is none once the writer has left.
        """
        with self._lock:
            if self._limit == _SENDING:
                self._postponed.append(self.leave)
                return
            self._is_closed = True
            self._limit = 0
            self._writer.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Publisher {self.port.name}: {self._sent} sent>"

    def _try_send(
        self,
        message: Message,
        layout: Layout,
        payload: Payload,
        metadata: bytes,
        epoch: int | None,
    ) -> bool | None:
        """Send if there is credit; None if there is none."""
        with self._lock:
            while self._sent >= self._limit:
                if not self._find_credit():
                    return None
            limit, self._limit = self._limit, _SENDING
            try:
                rung = self._wake_early()
                nbytes = layout.payload_bytes
                chunk, token = self._writer.loan(nbytes + len(metadata))
                if isinstance(payload, bytes):
                    chunk.body[:nbytes] = payload
                else:
                    np.copyto(np.ndarray(layout.shape, layout.dtype, chunk.body), payload)
                self._emit(chunk, token, layout, message, metadata, epoch, rung)
            finally:
                self._limit = limit
                if self._postponed:
                    self._catch_up()
        return True

    def try_loan(self, loan: Loan[Any]) -> bool | None:
        """Send what a loan holds if there is credit; None if there is none. Called by `Loan`."""
        if loan.token is None:
            loan.withdraw("sent")  # raises
        with self._lock:
            while self._sent >= self._limit:
                if not self._find_credit():
                    return None
            limit, self._limit = self._limit, _SENDING
            try:
                rung = None
                for _, asleep in self._bells:
                    if self._words[asleep]:
                        rung = self._wake_early()
                        break
                message, chunk, token, layout = loan.message, loan.chunk, loan.token, loan.layout
                metadata = pack_metadata(message) if message.metadata else b""
                in_use = loan.withdraw("sent")
                if in_use is not None or len(metadata) > METADATA_ROOM_BYTES:
                    source = chunk.array if in_use is None else in_use
                    assert source is not None
                    chunk, token = self._copy_out(loan, source, len(metadata))
                self._emit(chunk, token, layout, message, metadata, None, rung)
            finally:
                self._limit = limit
                if self._postponed:
                    self._catch_up()
        return True

    def _copy_out(
        self, loan: Loan[Any], source: NDArray[np.generic], metadata_bytes: int
    ) -> tuple[Chunk, object]:
        """Copy a loan into memory that nobody else can still write to."""
        layout = loan.layout
        try:
            chunk, token = self._writer.loan(layout.payload_bytes + metadata_bytes)
        except ExecutorError:
            loan.message._gone = "discarded"
            raise
        np.copyto(np.ndarray(layout.shape, layout.dtype, chunk.body), source)
        self._words[self.port.slot + PortWord.COPIES] += 1
        return chunk, token

    def _emit(
        self,
        chunk: Chunk,
        token: object,
        layout: Layout,
        message: Message,
        metadata: bytes,
        epoch: int | None,
        rung: dict[int, int] | None,
    ) -> None:
        words, sent, nbytes = self._words, self._sent + 1, layout.payload_bytes
        if metadata:
            chunk.body[nbytes : nbytes + len(metadata)] = metadata
        if epoch is None:
            epoch = words[_EPOCH_AT] if self.epoch is None else self.epoch
        if epoch != self._epoch:
            self._enter_epoch(epoch)
        try:
            _pack_header(
                chunk.header,
                0,
                layout.block,
                0,
                len(metadata),
                sent,
                self._context,
                message.correlation_id,
                message.timestamp_ns,
                _now_ns(),
            )
        except struct.error as error:
            raise bad_envelope(message) from error
        # Counted before it is handed over: whatever a reader has was counted, even if we die here.
        words[self._sent_at] = sent
        try:
            self._writer.send(token)
            self._sent = words[self._handed_at] = sent
            self._bytes += nbytes
            words[self._bytes_at] = self._bytes
            for fd, asleep in self._bells:
                nap = words[asleep]
                if nap and (rung is None or rung.get(asleep) != nap):
                    os.eventfd_write(fd, 1)
        except ChannelError:
            words[self._sent_at] = self._sent
            raise
        except BaseException:
            # Interrupted, perhaps after it was handed over: then its number must not come again.
            # Its readers look for it, and count it as lost if it is not there.
            self._sent = words[self._skipped_at] = words[self._handed_at] = sent
            self._ring()
            raise

    def _wake_early(self) -> dict[int, int] | None:
        """Ring readers that sleep before the message is made: they wake while we make it.

        A reader that is too quick finds nothing and goes to sleep again, in a nap of another
        number; only then is it rung again. Returns the naps that were rung, by sleep word.
        """
        rung = None
        for fd, asleep in self._bells:
            nap = self._words[asleep]
            if nap and nap != ALWAYS_ASLEEP:
                os.eventfd_write(fd, 1)
                rung = {asleep: nap} if rung is None else {**rung, asleep: nap}
        return rung

    def _enter_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._context = CONTEXT.pack(0, epoch, self._session, 0)

    def _find_credit(self) -> bool:
        """Look up how far the lossless readers have come; whether one more message may be sent."""
        if self._limit == _SENDING:
            raise ChannelError(
                f"a signal handler cannot send on port {self.port.name}: it interrupted a send of "
                f"this thread; leave it to the code that was interrupted"
            )
        limit, self._limit = 0, _SENDING
        try:
            self._require_open()
            limit = self._credit.limit(self._sent)
        finally:
            self._limit = limit
            if self._postponed:
                self._catch_up()
        if self._sent < self._limit:
            return True
        if self._words[self._skipped_at] == self._sent:
            self._ring()  # readers may wait for a message that was interrupted
        return False

    def _catch_up(self) -> None:
        """Do what a signal handler asked for in the middle of a message."""
        while self._postponed:
            self._postponed.pop(0)()

    def _wait(self, attempt: Callable[[], bool | None], timeout_seconds: float | None) -> None:
        began = _now_ns()
        try:
            done = self._take_turn(attempt, timeout_seconds)
        finally:
            self._count_blocked(began)
        if done is None:
            raise self.refusal()

    def _take_turn(
        self, attempt: Callable[[], bool | None], timeout_seconds: float | None
    ) -> bool | None:
        """Wait on the doorbell, after the threads that do so already."""
        if timeout_seconds is None:
            with self._turn:
                return self._doorbell.wait_for(attempt, None)
        if timeout_seconds <= 0:
            return attempt()
        deadline = time.monotonic() + timeout_seconds
        if not self._turn.acquire(timeout=min(timeout_seconds, threading.TIMEOUT_MAX)):
            return attempt()
        try:
            return self._doorbell.wait_for(attempt, max(0, deadline - time.monotonic()))
        finally:
            self._turn.release()

    async def _wait_async(
        self, attempt: Callable[[], bool | None], timeout_seconds: float | None
    ) -> None:
        # Imported here: a synchronous node's process has no event loop.
        from remotemedia.core.multiprocess.transport.loop_doorbell import LoopDoorbell

        began = _now_ns()
        try:
            # Cancelled here, the message was not sent: sending is part of the attempt.
            done = await LoopDoorbell.of(self._doorbell).wait_for(attempt, timeout_seconds)
        finally:
            self._count_blocked(began)
        if done is None:
            raise self.refusal()

    def _count_blocked(self, began_ns: int) -> None:
        with self._lock:
            if not self._is_closed:
                self._words[self.port.slot + PortWord.BLOCKED_NS] += _now_ns() - began_ns

    def refusal(self) -> BackpressureError:
        """Count a message that is turned away for lack of credit, and make the error for it.

        Raises:
            ChannelClosed: the publisher was closed meanwhile.
        """
        with self._lock:
            self._require_open()
            return self._credit.refusal()

    def _dissect(self, message: RuntimeData) -> tuple[Layout, Payload]:
        parts = dissect(message)
        if parts[0].payload_bytes > self._max_bytes:
            raise self._too_large(parts[0].payload_bytes)
        return parts

    def _link(self, connection: ConnectionPlan, bell: Bell) -> None:
        self._credit.add(connection, self._sent)
        if bell not in self._bells:
            self._bells = (*self._bells, bell)

    def _ring(self) -> None:
        for fd, asleep in self._bells:
            if self._words[asleep]:
                os.eventfd_write(fd, 1)

    def _require_open(self) -> None:
        if self._is_closed or self._words[self._state_at] != PortState.OPEN:
            raise ChannelClosed(f"the publisher of port {self.port.name} is closed")

    def _too_large(self, nbytes: int) -> DataError:
        return DataError(
            f"port {self.port.name} declares at most {self._max_bytes:,} bytes a message and this "
            f"one has {nbytes:,}; raise its max_message_bytes"
        )


# How to lay each out, of what it must be told and of what it may be.
_LAYOUTS: dict[
    type[ArrayMessage], tuple[Callable[..., Layout], tuple[str, ...], tuple[str, ...]]
] = {
    Audio: (audio_layout, ("frames", "channels", "sample_rate"), ()),
    Video: (video_layout, ("height", "width"), ("format",)),
    Tensor: (tensor_layout, ("shape", "dtype"), ()),
    Binary: (binary_layout, ("nbytes",), ()),
}
