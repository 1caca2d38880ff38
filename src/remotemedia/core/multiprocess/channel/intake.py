"""Samples become messages: a header is believed when it is checked, an array is a view."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.account import LAST_BUCKET, Account
from remotemedia.core.multiprocess.transport.ledger import ConnectionWord, LedgerWord
from remotemedia.data.layout import Layout, parse_layout
from remotemedia.data.memory import array_at
from remotemedia.data.message import NO_METADATA, ArrayMessage, Message
from remotemedia.data.wire import (
    HEADER,
    Header,
    RawHeader,
    array_message,
    body_at,
    check_header,
    parse_context,
    plain_message,
    unpack_metadata,
)
from remotemedia.errors import DecodeError

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.native.portable import Chunk, Sample
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan

_MAX_KNOWN_LAYOUTS = 256
_EPOCH_AT = int(LedgerWord.EPOCH)
_now_ns = time.monotonic_ns
_unpack_header = HEADER.unpack_from


class Intake(Account):
    """The part of a subscriber that makes the message of a sample; for its arguments see there.

    Attributes:
        epoch: of the message that was received last; of the session, before the first.
    """

    def __init__(
        self, port: PortPlan, connection: ConnectionPlan, words: memoryview, bell: Bell
    ) -> None:
        super().__init__(port, connection, words, bell)
        self._max_held = connection.max_held
        self._layouts: dict[bytes, Layout] = {}
        self._context, self.epoch = b"", words[_EPOCH_AT]

    @property
    def header(self) -> Header:
        """Header of the message taken last.

        Raises:
            LookupError: none has been taken.
        """
        if self._raw is None:
            raise LookupError(f"nothing has been taken from {self.connection.name} yet")
        return Header._make(self._raw)

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
        if (context != self._context or words[_EPOCH_AT] != self.epoch) and self._drops(context):
            return None
        if layout.is_array and not metadata_bytes:
            if chunk.layout is not layout:
                self._view(chunk, layout)
            message: Message = array_message(layout, chunk.array[...])  # type: ignore[index]  # it has a view
            self._held.append((chunk, token))
            message.metadata = NO_METADATA
        else:
            message = self._decode(layout, chunk, metadata_bytes, token)
        message.correlation_id = correlation
        message.timestamp_ns = timestamp
        bucket = (_now_ns() - sent).bit_length()
        words[self._histogram_at + (bucket if bucket < LAST_BUCKET else LAST_BUCKET)] += 1
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
                message = array_message(layout, chunk.array[...])  # type: ignore[index]  # it has a view
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
        # The layout last: who is interrupted before leaves no array that passes for one of its.
        chunk.array = array_at(chunk.address, layout.shape, layout.dtype)
        chunk.layout = layout

    def _copy(self, message: Message) -> None:
        if self._is_closed:  # meanwhile: nothing keeps its memory, and it may have been torn
            raise self._closed()
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

    def _check(self, raw: RawHeader, layout: Layout, room: int) -> None:
        try:
            check_header(raw, layout, room)
        except DecodeError:
            self._count_unreadable()
            raise

    def _drops(self, context: bytes) -> bool:
        """Enter the present epoch, and drop the message if it is of an earlier one; whether it is.

        An earlier one ended with an interrupt, which drops what was under way.
        """
        epoch = self._words[_EPOCH_AT]
        try:
            is_old = parse_context(context).epoch < epoch
        except DecodeError:
            self._count_drop(ConnectionWord.DROPPED_UNREADABLE, 1)
            raise
        # Remembered only where it is current: then the next one of its kind needs no look.
        self._context, self.epoch = b"" if is_old else context, epoch
        if is_old:
            self._count_drop(ConnectionWord.DROPPED_INTERRUPTED, 1)
        return is_old
