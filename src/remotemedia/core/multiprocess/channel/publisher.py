"""The sending end of an output port: sending and lending, waiting for credit, the end."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from remotemedia.core.multiprocess.channel.bell import ring_sleepers
from remotemedia.core.multiprocess.channel.lending import Lender, too_large
from remotemedia.core.multiprocess.channel.sender import SENDING, Sender
from remotemedia.core.multiprocess.channel.turns import Turns
from remotemedia.core.multiprocess.transport.doorbell import give_way
from remotemedia.core.multiprocess.transport.ledger import PortState, PortWord
from remotemedia.core.timeouts import check_timeout
from remotemedia.data.message import ArrayMessage
from remotemedia.data.plain import MAX_MESSAGE_BYTES
from remotemedia.data.wire import Payload, dissect, pack_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    import numpy as np

    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.channel.loan import Loan
    from remotemedia.core.multiprocess.plan import PortPlan
    from remotemedia.core.multiprocess.transport.base import Writer
    from remotemedia.core.multiprocess.transport.doorbell import Doorbell
    from remotemedia.data.layout import Layout
    from remotemedia.data.media import Audio, Video
    from remotemedia.data.plain import Binary
    from remotemedia.data.tensor import Tensor
    from remotemedia.data.wire import RuntimeData
    from remotemedia.errors import DataError

M = TypeVar("M", bound=ArrayMessage)
_Parcel: TypeAlias = "tuple[RuntimeData, Layout, Payload, bytes, int | None]"
_now_ns = time.monotonic_ns
_FINISHED = int(PortState.FINISHED)


class Publisher(Sender):
    """Sends messages to every connection of one output port.

    A message is sent to all of the port's connections or to none. `send` waits while a `block`
    connection is full and while a planned reader has not opened yet; a full `error` connection
    raises. Connections that may drop never hold it up.

    Threads may share a publisher: sends happen one after another. A signal handler may finish or
    close one; where it interrupted a send of that publisher, it is done once that has ended.

    Made by a `ChannelRegistry` or an `Endpoint`.

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
    ) -> None:
        self._turns = Turns(doorbell)
        declared = port.max_message_bytes
        self._max_bytes = MAX_MESSAGE_BYTES if declared is None else declared
        super().__init__(
            writer, port, words, doorbell, bells, Lender(writer, port, self._max_bytes)
        )

    def disown(self) -> None:
        """Leave it to the parent process: each send looks for credit, and is told."""
        super().disown()
        self._turns.disown()

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
            epoch: the epoch the message belongs to, 0 to 2**32 - 1; None is that of the publisher.

        Raises:
            BackpressureError: a connection stayed full; nobody got the message.
            SharedMemoryExhausted: there is no memory for it; nobody got it.
            DataError: it cannot be sent.
            PeerLost: the reader of a lossless connection died.
            ChannelClosed: the publisher is closed.
            TypeError, ValueError: `timeout_seconds` is no time to wait.
        """
        if timeout_seconds is not None:
            check_timeout(timeout_seconds)
        parcel = self._parcel(message, epoch)
        if self._try_send(*parcel) is None:
            self._wait(partial(self._try_send, *parcel), timeout_seconds)

    def send_nowait(self, message: RuntimeData) -> None:
        """Send a message, or raise `BackpressureError` at once; otherwise as `send`."""
        self.send(message, timeout_seconds=0)

    def try_send(self, message: RuntimeData) -> bool | None:
        """Send a message if there is credit; None, and nothing sent, if there is none."""
        return self._try_send(*self._parcel(message, None))

    async def send_async(
        self,
        message: RuntimeData,
        *,
        timeout_seconds: float | None = None,
        epoch: int | None = None,
    ) -> None:
        """Send a message, awaiting credit; otherwise as `send`. Cancelled, it has sent nothing.

        Other tasks get their turn now and then, also where there is always credit.
        """
        if timeout_seconds is not None:
            check_timeout(timeout_seconds)
        parcel = self._parcel(message, epoch)
        if self._doorbell.ends_turn():
            await give_way()
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
        if self._is_closed:
            self._require_open()
        loan = self._lender.lend(type_, arguments)
        loan.publisher = self
        return loan

    def send_loan(self, loan: Loan[Any], timeout_seconds: float | None = None) -> None:
        """Send what a loan holds. Called by `Loan`."""
        if timeout_seconds is not None:
            check_timeout(timeout_seconds)
        if self.try_loan(loan) is None:
            self._wait(partial(self.try_loan, loan), timeout_seconds)

    async def send_loan_async(self, loan: Loan[Any]) -> None:
        """Send what a loan holds, awaiting credit. Called by `Loan`."""
        if self._doorbell.ends_turn():
            await give_way()
        if self.try_loan(loan) is None:
            await self._wait_async(partial(self.try_loan, loan), None)

    def wait_connected(self, timeout_seconds: float | None = None) -> bool:
        """Wait until every planned reader has opened; False when the time is over first."""
        if timeout_seconds is not None:
            check_timeout(timeout_seconds)
        return bool(self._turns.wait_for(lambda: self.try_connect() or None, timeout_seconds))

    def recount(self) -> None:
        """Look for credit anew before the next message: a reader may have died."""
        with self._lock:
            if self._limit == SENDING:
                self._postponed.append(self.recount)
                return
            self._limit = 0

    def end_input(self, number: int) -> None:
        """Say that nothing more will be sent of any input up to this number."""
        with self._lock:
            if not self._is_closed:
                self._words[self.port.slot + PortWord.ENDED] = number
                ring_sleepers(self._bells, self._words)

    def finish(self) -> None:
        """End the stream: readers get what was sent, then `EndOfStream`. Twice is harmless."""
        with self._lock:
            if self._limit == SENDING:
                self._postponed.append(self.finish)
                return
            if not self._is_closed and self._words[self._state_at] == PortState.OPEN:
                # The next send looks for credit, and is told. Before it is finished, for a loan is
                # sent without the lock; nothing comes between the two.
                self._limit = 0
                self._words[self._state_at] = _FINISHED
                ring_sleepers(self._bells, self._words)
        self._doorbell.ring()  # whoever waits for credit here gets `ChannelClosed`

    def close(self) -> None:
        """Finish, and give the port back once its readers have taken what was sent.

        Loans that are out can no longer be sent; whoever waits for credit gets `ChannelClosed`.
        Twice is harmless.
        """
        with self._lock:
            if self._limit == SENDING:
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

    @property
    def sent(self) -> int:
        """How many messages have been sent: the sequence number of the newest."""
        return self._sent

    def is_taken(self) -> bool:
        """Whether every reader that is open has taken all that was sent."""
        with self._lock:
            return self._credit.is_taken(self._sent)

    def abandon(self) -> None:
        """Leave the port open for the next process; what readers do not find is excused."""
        words, sent = self._words, self._words[self.port.slot + PortWord.SENT]
        words[self._skipped_at] = words[self._handed_at] = sent

    def is_delivered(self) -> bool:
        """Whether all that was sent is taken where nothing may be lost; else its readers ring."""
        with self._lock:
            return self._credit.is_taken(self._sent, by_lossless=True)

    def leave(self) -> None:
        """Give the port back at once: what readers have not taken may be lost to them.

        A reader maps memory when it first meets it, and there is none once the writer has left.
        """
        with self._lock:
            if self._limit == SENDING:
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

    def _wait(self, attempt: Callable[[], bool | None], timeout_seconds: float | None) -> None:
        began = _now_ns()
        try:
            done = self._turns.wait_for(attempt, timeout_seconds)
        finally:
            self._count_blocked(began)
        if done is None:
            raise self.refusal()

    async def _wait_async(
        self, attempt: Callable[[], bool | None], timeout_seconds: float | None
    ) -> None:
        began = _now_ns()
        try:
            # Cancelled here, the message was not sent: sending is part of the attempt.
            done = await self._doorbell.in_loop().wait_for(attempt, timeout_seconds)
        finally:
            self._count_blocked(began)
        if done is None:
            raise self.refusal()

    def _count_blocked(self, began_ns: int) -> None:
        with self._lock:
            if not self._is_closed:
                self._words[self.port.slot + PortWord.BLOCKED_NS] += _now_ns() - began_ns

    def _parcel(self, message: RuntimeData, epoch: int | None) -> _Parcel:
        layout, payload = dissect(message)
        if layout.payload_bytes > self._max_bytes:
            raise self._too_large(layout.payload_bytes)
        return message, layout, payload, pack_metadata(message), epoch

    def _too_large(self, nbytes: int) -> DataError:
        return too_large(self.port.name, nbytes, self._max_bytes)
