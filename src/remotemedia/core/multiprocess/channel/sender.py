"""One message after another, while there is credit: counted, headed, handed over, rung for."""

from __future__ import annotations

import os
import struct
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from remotemedia.core.multiprocess.channel.bell import ring_sleepers
from remotemedia.core.multiprocess.channel.credit import Credit
from remotemedia.core.multiprocess.channel.uncopied import Uncopied
from remotemedia.core.multiprocess.native import Emitter, SampleLender
from remotemedia.core.multiprocess.plan import MAX_LOANS, METADATA_ROOM_BYTES
from remotemedia.core.multiprocess.transport.forks import inherited, tell_children
from remotemedia.core.multiprocess.transport.ledger import (
    ConnectionWord,
    LedgerWord,
    PortState,
    PortWord,
)
from remotemedia.data.message import shown
from remotemedia.data.wire import CONTEXT, HEADER, Payload, bad_envelope, pack_metadata
from remotemedia.errors import ChannelClosed, ChannelError, DataError, ExecutorError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.channel.lending import Lender
    from remotemedia.core.multiprocess.channel.loan import Loan
    from remotemedia.core.multiprocess.native.portable import Chunk
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan
    from remotemedia.core.multiprocess.transport.base import Writer
    from remotemedia.core.multiprocess.transport.doorbell import Doorbell
    from remotemedia.data.layout import Layout
    from remotemedia.data.message import Message
    from remotemedia.errors import BackpressureError

SENDING = -1
_EPOCH_AT = int(LedgerWord.EPOCH)
_now_ns = time.monotonic_ns
_pack_header = HEADER.pack_into
_LAST_EPOCH = (1 << 32) - 1


def _note_moved(words: memoryview, slot: int) -> None:
    # What is lent is in the memory before, and may be sent in between.
    words[slot + PortWord.MOVED] = words[slot + PortWord.SENT] + MAX_LOANS + 1


class Sender(Uncopied, Emitter):
    """The part of a publisher that never waits: it sends at once, or says that it cannot.

    Args:
        writer: the transport's end; owned.
        port: the plan of the port.
        words: the ledger.
        doorbell: rung when there may be credit.
        bells: of the processes that read the port, by endpoint index.
        lender: lends what is filled in place.

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
        lender: Lender,
    ) -> None:
        self.port = port
        self._lender = lender
        self._writer = writer
        # How the library sends a token, which runs no Python; other transports have their own way.
        self._finish_token = writer.finish if isinstance(writer, SampleLender) else None
        self._words = words
        self._doorbell = doorbell
        self._lock = threading.RLock()  # a signal handler may close what it interrupted
        self._is_closed = False
        self.epoch: int | None = None
        self._enter_epoch(words[_EPOCH_AT])
        self._state_at, self._sent_at, self._bytes_at = (
            port.slot + word for word in (PortWord.STATE, PortWord.SENT, PortWord.BYTES)
        )
        self._handed_at, self._skipped_at = (
            port.slot + word for word in (PortWord.HANDED, PortWord.SKIPPED)
        )
        self._sent = words[self._sent_at]
        self._bytes = words[self._bytes_at]
        # What a writer that died had counted is in the queues by now, or lost.
        words[self._skipped_at] = words[self._handed_at] = self._sent
        words[port.slot + PortWord.MOVED] = self._sent + 1
        writer.on_moved = partial(_note_moved, words, port.slot)
        # Up to this sequence number credit is known; it is looked up when used up. Then,
        # and while a message is sent, it is `SENDING`: what a signal handler then does comes
        # after, or is refused.
        self._limit = 0
        self._postponed: list[Callable[[], None]] = []
        self._credit = Credit(port, words, doorbell, writer.connect)
        self._bells: tuple[Bell, ...] = ()
        self._readers: tuple[tuple[int, int], ...] | None = None  # see `Credit.lookable`
        for connection in port.connections:
            self._link(connection, bells[connection.reader])
        words[self._state_at] = PortState.OPEN
        tell_children(self)

    def disown(self) -> None:
        """Leave it to the parent process: each send looks for credit, and is told."""
        self._lock, self._limit = threading.RLock(), 0

    def add_connection(self, connection: ConnectionPlan, bell: Bell) -> None:
        """Send to one more reader from now on; it is owed only what is sent after this.

        Twice is harmless: a reader that was told of stays owed what it was.
        """
        with self._lock:
            if connection in self._credit.connections:
                return
            self._limit = 0
            self._words[connection.slot + ConnectionWord.BASE] = self._sent
            self._link(connection, bell)

    def remove_connection(self, connection: ConnectionPlan, bells: Mapping[int, Bell]) -> None:
        """Forget a reader that has closed or died; nothing of its is touched any more.

        Args:
            connection: the reader.
            bells: of the processes that still read the port, by endpoint index.
        """
        with self._lock:
            self._limit = 0
            self._credit.remove(connection)
            readers = (one.reader for one in self._credit.connections)
            self._bells = tuple(dict.fromkeys(bells[reader] for reader in readers))

    def try_connect(self) -> bool:
        """Connect to readers that have opened; whether all have that were planned."""
        with self._lock:
            return self._credit.connect()

    def refusal(self) -> BackpressureError:
        """Count a message that is turned away for lack of credit, and make the error for it.

        Raises:
            ChannelClosed: the publisher was closed meanwhile.
        """
        with self._lock:
            self._require_open()
            return self._credit.refusal()

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
            while True:
                limit, self._limit = self._limit, SENDING  # first: C sends without the lock
                try:
                    if self._sent < limit:
                        nbytes = layout.payload_bytes
                        chunk, token = self._writer.loan(nbytes + len(metadata))
                        if isinstance(payload, bytes):
                            chunk.body[:nbytes] = payload
                        else:
                            np.copyto(np.ndarray(layout.shape, layout.dtype, chunk.body), payload)
                        self._emit(chunk, token, layout, message, metadata, epoch)
                        return True
                finally:
                    self._limit = limit
                    if self._postponed and limit != SENDING:
                        self._catch_up()
                if not self._find_credit():
                    return None

    def _try_loan(self, loan: Loan[Any]) -> bool | None:
        """Send a loan of any kind, in any state."""
        if loan.token is None:
            loan.withdraw("sent")  # raises
        with self._lock:
            while True:
                limit, self._limit = self._limit, SENDING  # first: C sends without the lock
                try:
                    if self._sent < limit:
                        message, layout = loan.message, loan.layout
                        chunk, token = loan.chunk, loan.token
                        metadata = pack_metadata(message) if message.metadata else b""
                        in_use = loan.withdraw("sent")
                        if in_use is not None or len(metadata) > METADATA_ROOM_BYTES:
                            source = chunk.array if in_use is None else in_use
                            assert source is not None
                            chunk, token = self._copy_out(loan, source, len(metadata))
                        self._emit(chunk, token, layout, message, metadata, None)
                        return True
                finally:
                    self._limit = limit
                    if self._postponed and limit != SENDING:
                        self._catch_up()
                if not self._find_credit():
                    return None

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
                if words[asleep]:
                    os.eventfd_write(fd, 1)
        except ChannelError:
            words[self._sent_at] = self._sent
            raise
        except BaseException:
            # Interrupted, perhaps after it was handed over: then its number must not come again.
            # Its readers look for it, and count it as lost if it is not there.
            self._sent = words[self._skipped_at] = words[self._handed_at] = sent
            ring_sleepers(self._bells, self._words)
            raise

    def _enter_epoch(self, epoch: int) -> None:
        try:
            self._context = CONTEXT.pack(0, epoch, 0)
        except struct.error:
            raise DataError(
                f"epoch is {shown(epoch)}; it must be a whole number from 0 to {_LAST_EPOCH:,}"
            ) from None
        self._epoch = epoch

    def _find_credit(self) -> bool:
        """Look up how far the lossless readers have come; whether one more message may be sent."""
        if self._limit == SENDING:
            raise ChannelError(
                f"a signal handler cannot send on port {self.port.name}: it interrupted a send of "
                f"this thread; leave it to the code that was interrupted"
            )
        limit, self._limit = 0, SENDING
        try:
            self._require_open()
            limit = self._credit.limit(self._sent)
            self._readers = self._credit.lookable()
        finally:
            self._limit = limit
            if self._postponed:
                self._catch_up()
        if self._sent < self._limit:
            return True
        if self._words[self._skipped_at] == self._sent:
            # Readers may wait for a message that was interrupted.
            ring_sleepers(self._bells, self._words)
        return False

    def _catch_up(self) -> None:
        """Do what a signal handler asked for in the middle of a message."""
        while self._postponed:
            self._postponed.pop(0)()

    def _link(self, connection: ConnectionPlan, bell: Bell) -> None:
        self._credit.add(connection, self._sent)
        if bell not in self._bells:
            self._bells = (*self._bells, bell)

    def _not_handed(self, error: BaseException) -> None:
        """Count a message that may not have been handed over, as `_emit` does.

        Raises:
            ChannelError: the library refused it. For any other error its caller raises that one.
        """
        assert isinstance(self._writer, SampleLender)
        with self._lock:
            words, sent = self._words, self._sent + 1
            try:
                self._writer.not_sent(error)
            except ChannelError:
                words[self._sent_at] = self._sent
                raise
            self._sent = words[self._skipped_at] = words[self._handed_at] = sent
            ring_sleepers(self._bells, words)

    def _require_open(self) -> None:
        if self._doorbell.is_inherited:
            raise inherited()
        if self._is_closed or self._words[self._state_at] != PortState.OPEN:
            raise ChannelClosed(f"the publisher of port {self.port.name} is closed")
