"""What becomes of the messages of a connection, counted by its reader: held, released, dropped."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.stats import connection_stats
from remotemedia.core.multiprocess.channel.uncopied import Uncopied
from remotemedia.core.multiprocess.channel.unmapped import why_unmapped
from remotemedia.core.multiprocess.native import Receiver
from remotemedia.core.multiprocess.transport.ledger import (
    HISTOGRAM_AT,
    HISTOGRAM_BUCKETS,
    UNLINKED,
    ConnectionWord,
    PortWord,
    copied,
    drop_unread,
    taken,
)
from remotemedia.data.memory import OWN_REFERENCES, count_references
from remotemedia.errors import ChannelClosed, ChannelError, DecodeError, MessageLost

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.native.portable import Chunk
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan
    from remotemedia.data.wire import RawHeader

LAST_BUCKET = HISTOGRAM_BUCKETS - 1
_now_ns = time.monotonic_ns
_UNMAPPED = (
    "the memory they came in could not be mapped, or its writer took it back; see whether files "
    "were removed from /dev/shm"
)


def _is_in_use(chunk: Chunk) -> bool:
    array = chunk.array
    return array is not None and count_references(array) > OWN_REFERENCES


def _words_gone() -> tuple[object, ...]:
    """Return what Python says in the error for a view that was taken away."""
    view = memoryview(b"")
    view.release()
    try:
        return (view.nbytes,)
    except ValueError as error:
        return error.args


_WORDS_GONE = _words_gone()


class Account(Uncopied, Receiver):
    """The words of a connection that its reader writes, and what is behind them.

    Whenever the reader dies, the account balances: `sent = released + dropped + in flight`.

    Args:
        port: the plan of the port it reads.
        connection: the plan of the connection.
        words: the ledger.
        bell: of the process that writes the port.
    """

    def __init__(
        self, port: PortPlan, connection: ConnectionPlan, words: memoryview, bell: Bell
    ) -> None:
        self.port = port
        self.connection = connection
        self._words = words[:]  # a view of its own, which it takes away when it closes
        self._bell = bell
        self._is_closed = False
        # Chunks whose arrays may still be in use, and the tokens that own their memory.
        self._held: list[tuple[Chunk, object]] = []
        self._raw: RawHeader | None = None  # of the message taken last
        self._ended = self._ending = self._ending_position = 0
        self._sent_at = port.slot + PortWord.SENT
        self._ended_at = port.slot + PortWord.ENDED
        at = connection.slot
        self._position_at = at + ConnectionWord.POSITION
        self._wanted_at = at + ConnectionWord.CREDIT_WANTED
        self._histogram_at = at + HISTOGRAM_AT
        # What was sent while nobody had this end, between a process that died and the next.
        drop_unread(words, port.slot, at, ConnectionWord.DROPPED_LOST)
        # `UNLINKED` until the writer knows of this connection: nothing is meant for it before.
        self._position = taken(words, at)
        words[at + ConnectionWord.FIRST] = words[self._position_at] + 1
        self._released_at = at + ConnectionWord.RELEASED
        self._released = words[self._released_at]
        # What is lost of the messages up to here is lost by an interrupt, and by nothing else.
        self._excused = 0
        self._was_interrupted = False
        # By how much the counts differ since a reader died whose place this one takes.
        self._unseen = self._unheld = 0
        self._unseen, self._unheld = self._imbalance()

    @property
    def position(self) -> int:
        """Sequence number of the message taken last; 0 before the first that is meant for it."""
        position = self._position if self._position != UNLINKED else self._reached()
        return position if position != UNLINKED else 0

    @property
    def held(self) -> int:
        """How many views the reader keeps now. Any thread may ask."""
        # Nothing is given back here: the thread that receives may be adding to what is held.
        return sum(_is_in_use(chunk) for chunk, _ in tuple(self._held))

    def ended_input(self) -> int:
        """The newest input that this reader has had everything of.

        Nothing of it, or of any before it, is left in the queue; None will come. Ask after each
        message, and once the queue is empty.
        """
        words = self._words
        if self._position == UNLINKED:
            self._reached()
        if self._position >= self._ending_position:
            self._ended = self._ending
            # In this order: what was sent of the inputs that have ended, is counted by now.
            self._ending = words[self._ended_at]
            self._ending_position = words[self._sent_at]
            if self._position >= self._ending_position:
                self._ended = self._ending
        return self._ended

    def queued(self) -> int:
        """How many messages wait to be taken."""
        sent = self._words[self.port.slot + PortWord.SENT]
        owed = sent - self._reached()  # negative before its writer knows of it
        return min(max(0, owed), self.connection.capacity)  # the rest was overwritten

    def _reached(self) -> int:
        """Sequence number of the newest message that is not owed any more."""
        if self._position == UNLINKED:
            self._position = self._words[self.connection.slot + ConnectionWord.BASE]
        return self._position

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

    def _release(self, count: int) -> None:
        self._released += count
        self._words[self._released_at] = self._released

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

    def _count_unreadable(self) -> None:
        # Its sequence number is not to be believed: it counts as the next one.
        if self._reached() == UNLINKED:
            return
        self._position = self._words[self._position_at] = self._position + 1
        if self._words[self._wanted_at]:
            self._wake_writer()
        self._count_drop(ConnectionWord.DROPPED_UNREADABLE, 1)

    def _count_drop(self, word: ConnectionWord, count: int) -> None:
        self._words[self.connection.slot + word] += count

    def _count_latency(self, sent_ns: int) -> None:
        bucket = min((_now_ns() - sent_ns).bit_length(), LAST_BUCKET)
        self._words[self._histogram_at + bucket] += 1

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
        if self._is_closed:
            self._note_closed(error)
        elif not isinstance(error, (ChannelError, DecodeError)):
            self._was_interrupted = True
            self._excused = self._words[self._sent_at]
            self._recover()

    def _note_closed(self, error: BaseException) -> None:
        """Raise `ChannelClosed` for an error that comes of being closed in the midst of a call."""
        comes_of_it = isinstance(error, (ChannelError, DecodeError)) or error.args == _WORDS_GONE
        if self._is_closed and comes_of_it and not isinstance(error, ChannelClosed):
            raise self._closed() from error

    def _closed(self) -> ChannelClosed:
        return ChannelClosed(f"the subscriber of {self.connection.name} is closed")

    def _let_go_of_words(self) -> None:
        """Write no word any more, wherever a call of this reader is: they may be others' soon."""
        words, slots = self._words, (self.port.slot, self.connection.slot)
        self._words = copied(words, slots)
        words.release()

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

    def _wake_writer(self) -> None:
        if self._words[self._bell.asleep]:
            os.eventfd_write(self._bell.fd, 1)
