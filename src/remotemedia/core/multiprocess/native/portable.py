"""The same in Python, for where the extension was not built.

Here every message goes the way that takes all cases, which the classes built on these have.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from remotemedia.data.media import Audio, Video
from remotemedia.data.message import NO_METADATA, ArrayMessage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from remotemedia.data.layout import Layout
    from remotemedia.data.message import Message

M = TypeVar("M", bound=ArrayMessage)
_NO_BODY = memoryview(b"")
_now_ns = time.monotonic_ns
_new = object.__new__  # of a message: no constructor, so nothing is checked twice


class Chunk:
    """Memory for one sample, as one process sees it. The same chunk comes back for later samples.

    Attributes:
        header: `HEADER_BYTES` bytes; writable for the writer.
        address: where the payload begins, aligned to `ALIGNMENT_BYTES`.
        body: the payload's bytes, as many as were asked for and more; empty for a reader. Not a
            buffer of a numpy array (see `remotemedia.data.memory`).
        capacity: size of the body; for a reader, how many bytes can be read from the address on.
        array, layout: what the channel viewed there last. Not the transport's.
    """

    __slots__ = ("address", "array", "body", "capacity", "header", "layout")

    def __init__(self, header: memoryview, address: int, body: memoryview = _NO_BODY) -> None:
        self.header = header
        self.address = address
        self.body = body
        self.capacity = body.nbytes
        self.array: NDArray[np.generic] | None = None
        self.layout: Layout | None = None


Sample: TypeAlias = tuple[Chunk, int, object]
"""A received sample: its chunk, the room of the payload in bytes rounded up to `ALIGNMENT_BYTES`
(so much can be read, whatever the writer claims), and the token that owns the memory."""


class SampleTaker:
    """Takes the library's samples. Its heir remembers chunks, and says why nothing was taken."""

    _receive: Callable[[], Any]
    _chunks: dict[int, Chunk]

    def take(self) -> Sample | None:
        """See `Reader.take`."""
        try:
            sample = self._receive()
        except Exception as error:
            self._not_taken(error)
            raise
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

    def _remember(self, key: int, address: int) -> Chunk:
        raise NotImplementedError

    def _room_at_most(self, room: int, chunk: Chunk) -> int:
        raise NotImplementedError

    def _not_taken(self, error: BaseException) -> None:
        """Raise what is to be raised in place of an error, if it is another."""
        raise NotImplementedError


class SampleLender:
    """Lends samples of the library in chunks that are known. Its heir makes others known.

    Attributes:
        finish: the library's: makes of a token what has a `send` of its own.
    """

    finish: Callable[[Any], Any]
    _lend: Callable[[int], Any]
    _chunks: dict[int, Chunk]
    _room: int

    def loan(self, nbytes: int) -> tuple[Chunk, Any]:
        """See `Writer.loan`. No lock is needed for a chunk that is known: calls hold the GIL."""
        try:
            if nbytes <= self._room:
                sample = self._lend((nbytes + 63) >> 6)
                chunk = self._chunks.get(sample.user_header_ptr)
                if chunk is not None and chunk.capacity >= nbytes:
                    return chunk, sample
                sample = None  # given back: another thread may have replaced its segment by now
            return self._loan_locked(nbytes)
        except Exception as error:
            self._not_lent(error, nbytes)
            raise

    def not_sent(self, error: BaseException) -> None:
        """Raise what `Writer.send` raises for an error of the library's own, if it is another."""
        raise NotImplementedError

    def _loan_locked(self, nbytes: int) -> tuple[Chunk, Any]:
        raise NotImplementedError

    def _not_lent(self, error: BaseException, nbytes: int) -> None:
        """Raise what is to be raised in place of an error, if it is another."""
        raise NotImplementedError


class Receiver:
    """Takes the next message of a connection; its heir makes the message of a sample."""

    epoch: int
    _words: memoryview
    _take: Callable[[], Sample | None]
    _held: list[tuple[Chunk, object]]
    _position: int
    _handed_at: int

    def _next(self) -> Message | None:
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

    def _look(self) -> Message | None:
        """Take the next message once it has been handed over: a look that costs a word."""
        return self._next() if self._words[self._handed_at] != self._position else None

    def _settle(self) -> None:
        raise NotImplementedError

    def _admit(self, sample: Sample) -> Message | None:
        raise NotImplementedError


class Emitter:
    """Sends loans; its heir sends everything.

    Attributes:
        epoch: the epoch of what is sent where nobody says otherwise; None is the present one.
    """

    epoch: int | None

    def try_loan(self, loan: Any) -> bool | None:
        """Send what a loan holds if there is credit; None if there is none. Called by `Loan`."""
        return self._try_loan(loan)

    def _try_loan(self, loan: Any) -> bool | None:
        raise NotImplementedError

    def send_loan(self, loan: Any, timeout_seconds: float | None = None) -> None:
        """Send what a loan holds, waiting for credit."""
        raise NotImplementedError


class LoanBase(Generic[M]):
    """A message on loan, until its `with` block ends.

    Args:
        layout: of an array.
        chunk, token: what was lent for it.
    """

    __slots__ = ("chunk", "layout", "message", "publisher", "token")

    publisher: Emitter
    message: M

    def __init__(self, layout: Layout, chunk: Chunk, token: object) -> None:
        self.layout = layout
        self.chunk = chunk
        self.token: object | None = token
        if chunk.layout is not layout:
            self._view()
        message: Any = _new(layout.type)
        message._array = chunk.array[...]  # type: ignore[index]  # made with the layout
        message.timestamp_ns = _now_ns()
        message.correlation_id = 0
        message.metadata = NO_METADATA
        if layout.type is Audio:
            message.sample_rate = layout.parameter
        elif layout.type is Video:
            message.format = layout.parameter
        self.message = message

    def discard(self) -> None:
        """Give the memory back unsent. Twice is harmless."""
        raise NotImplementedError

    def _view(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> M:
        return self.message

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self.token is not None and self.publisher.try_loan(self) is None:
                self.publisher.send_loan(self)
        finally:
            if self.token is not None:  # not sent: it goes back, however long the error is kept
                self.discard()

    def __del__(self) -> None:
        try:
            if self.token is not None:
                self.discard()
        except AttributeError:  # interrupted before it had one
            pass
