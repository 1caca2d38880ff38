"""Messages as bytes: a fixed header, then the payload, then metadata.

The header is the layout block (see `layout.py`), then, little-endian:

    56  u32  reserved, 0
    60  u32  metadata bytes, MessagePack, behind the payload
    64  u64  sequence number on the output port, from 1
    72  u32  reserved, 0
    76  u32  epoch: raised by an interrupt
    80  u64  reserved, 0
    88  u64  correlation id
    96  i64  capture time, ns of CLOCK_MONOTONIC
    104 u64  send time, ns of CLOCK_MONOTONIC

Payload by type: arrays as they are (C-contiguous, little-endian); Text as UTF-8; Json, File and
Control as MessagePack. No pickle.
"""

from __future__ import annotations

import ctypes
import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import msgspec
import numpy as np

from remotemedia.data.layout import (
    LAYOUT_BYTES,
    Layout,
    audio_layout,
    binary_layout,
    parse_layout,
    picture_layout,
    plain_layout,
    tensor_layout,
)
from remotemedia.data.media import Audio, Video, check_pixel_format, check_sample_rate
from remotemedia.data.message import (
    MAX_METADATA_BYTES,
    NO_METADATA,
    SCALARS,
    ArrayMessage,
    Message,
    Metadata,
    encode_plain,
    not_plain,
    plain_metadata,
    shown,
)
from remotemedia.data.plain import (
    MAX_MESSAGE_BYTES,
    Binary,
    Control,
    File,
    Json,
    Text,
    check_text,
    require_json,
)
from remotemedia.data.tensor import Tensor
from remotemedia.errors import DataError, DecodeError

if TYPE_CHECKING:
    from collections.abc import Buffer, Callable  # type: ignore[attr-defined]  # Python 3.12

    from numpy.typing import NDArray

RuntimeData: TypeAlias = Audio | Video | Tensor | Text | Json | Binary | File | Control
"""Any message that a pipeline carries."""
Payload: TypeAlias = "NDArray[np.generic] | bytes"


HEADER = struct.Struct(f"<{LAYOUT_BYTES}sIIQ16sQqQ")
CONTEXT = struct.Struct("<IIQ")
NO_CONTEXT = bytes(CONTEXT.size)
HEADER_BYTES = HEADER.size
_new = object.__new__  # of a message: no constructor, so nothing is checked twice
_unpackb = msgspec.msgpack.Decoder().decode
_unpack_file = msgspec.msgpack.Decoder(tuple[str, str, int, int | None]).decode
_unpack_control = msgspec.msgpack.Decoder(tuple[str, Any]).decode


class Context(NamedTuple):
    """The fields that hardly ever change from message to message."""

    zero: int
    epoch: int
    zeros: int


class Header(NamedTuple):
    """A header as it was read; field by field as in the module's table."""

    layout: bytes
    zero: int
    metadata_bytes: int
    sequence: int
    context_bytes: bytes
    correlation_id: int
    timestamp_ns: int
    sent_ns: int

    @property
    def context(self) -> Context:
        """The epoch, and what is reserved beside it.

        Raises:
            DecodeError: what is reserved is not 0.
        """
        return parse_context(self.context_bytes)


RawHeader: TypeAlias = tuple[bytes, int, int, int, bytes, int, int, int]
"""The fields of a `Header`, as they are unpacked."""


def dissect(message: Message) -> tuple[Layout, Payload]:
    """Split a message into its layout and its payload, copying no array.

    Raises:
        DataError: it is no message, or too large.
        LoanError, ReleasedError: it is no longer alive.
    """
    try:
        dissector = _DISSECTORS[type(message)]
    except KeyError:
        raise DataError(
            f"a {type(message).__name__} cannot be sent; send one of "
            f"{', '.join(type_.__name__ for type_ in _DISSECTORS)}"
        ) from None
    return dissector(message)


def _dissect_audio(message: Audio) -> tuple[Layout, Payload]:
    samples = message.samples
    try:
        return audio_layout(*samples.shape, message.sample_rate), samples
    except TypeError:  # of what cannot be hashed
        check_sample_rate(message.sample_rate)
        raise


def _dissect_video(message: Video) -> tuple[Layout, Payload]:
    pixels = message.pixels
    try:
        return picture_layout(pixels.shape, message.format), pixels
    except TypeError:  # of what cannot be hashed
        check_pixel_format(message.format)
        raise


def _dissect_tensor(message: Tensor) -> tuple[Layout, Payload]:
    array = message.array
    return tensor_layout(array.shape, array.dtype), array


def _dissect_binary(message: Binary) -> tuple[Layout, Payload]:
    array = message.array
    return binary_layout(array.shape[0]), array


def _dissect_text(message: Text) -> tuple[Layout, Payload]:
    try:
        encoded = message.text.encode()
    except (AttributeError, UnicodeEncodeError):
        check_text(message.text, "text")
        raise
    return plain_layout(Text, len(encoded)), encoded


def _dissect_json(message: Json) -> tuple[Layout, Payload]:
    encoded = message.encoded()
    return plain_layout(Json, len(encoded)), encoded


def _dissect_file(message: File) -> tuple[Layout, Payload]:
    checked = File(
        message.path,
        message.media_type,
        offset_bytes=message.offset_bytes,
        size_bytes=message.size_bytes,
        timestamp_ns=0,
    )
    parts = [checked.path, checked.media_type, checked.offset_bytes, checked.size_bytes]
    encoded = encode_plain(parts, "File", MAX_MESSAGE_BYTES)
    return plain_layout(File, len(encoded)), encoded


def _dissect_control(message: Control) -> tuple[Layout, Payload]:
    encoded = message.encoded()
    return plain_layout(Control, len(encoded)), encoded


_DISSECTORS: dict[type[Message], Callable[[Any], tuple[Layout, Payload]]] = {
    Audio: _dissect_audio,
    Video: _dissect_video,
    Tensor: _dissect_tensor,
    Text: _dissect_text,
    Json: _dissect_json,
    Binary: _dissect_binary,
    File: _dissect_file,
    Control: _dissect_control,
}


def pack_metadata(message: Message) -> bytes:
    """Encode a message's metadata; empty metadata takes no bytes.

    Raises:
        DataError: it was changed into something that cannot travel.
    """
    metadata = message.metadata
    return b"" if metadata is NO_METADATA else plain_metadata(metadata)[1]


def check_header(raw: RawHeader, layout: Layout, room: int) -> None:
    """Hold what a header claims against the bytes there are.

    Raises:
        DecodeError: it claims more, or sets what it must not.
    """
    _, zero, metadata_bytes, *_ = raw
    if layout.payload_bytes + metadata_bytes > room:
        raise DecodeError(
            f"the message has {room:,} bytes and its header describes {layout.payload_bytes:,} of "
            f"payload and {metadata_bytes:,} of metadata"
        )
    if metadata_bytes > MAX_METADATA_BYTES or zero:
        raise DecodeError(
            f"the header is damaged ({metadata_bytes:,} bytes of metadata, {zero:#x} in place of 0)"
        )


def parse_context(context_bytes: bytes) -> Context:
    """Read the fields that hardly ever change.

    Raises:
        DecodeError: what is reserved is not 0.
    """
    context = Context._make(CONTEXT.unpack(context_bytes))
    if context.zero or context.zeros:
        raise DecodeError(
            f"the header is damaged ({context.zero or context.zeros:#x} in place of 0)"
        )
    return context


def body_at(address: int, nbytes: int) -> bytes:
    """Copy bytes out of shared memory; whose memory it is must be held meanwhile."""
    return ctypes.string_at(address, nbytes)


def array_message(layout: Layout, array: NDArray[np.generic]) -> ArrayMessage:
    """Make the message of an array layout around an array of that shape; no copy."""
    type_: type[ArrayMessage] = layout.type  # type: ignore[assignment]  # it is of an array
    message = _new(type_)
    message._array = array
    if type_ is Audio:
        message.sample_rate = layout.parameter  # type: ignore[attr-defined]
    elif type_ is Video:
        message.format = layout.parameter  # type: ignore[attr-defined]
    return message


def plain_message(layout: Layout, payload: bytes) -> Message:
    """Make the message of a layout that is no array from its encoded payload.

    Raises:
        DecodeError: the payload is not of that type.
    """
    try:
        return _PLAIN[layout.type](payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, DataError) as error:
        raise DecodeError(f"the payload is no {layout.type.__name__}: {error}") from error


def unpack_metadata(encoded: bytes) -> Metadata:
    """Decode metadata.

    Raises:
        DecodeError: it is no MessagePack map of names to plain values.
    """
    try:
        value = _unpackb(encoded)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DecodeError(f"the metadata is damaged: {error}") from error
    if not isinstance(value, dict):
        raise DecodeError(f"the metadata is damaged: it is a {type(value).__name__}, no map")
    wrong = not_plain(value, "metadata", (*SCALARS, bytes))
    if wrong is not None:
        raise DecodeError(f"the metadata is damaged: {wrong}")
    return MappingProxyType(value)


def _text(payload: bytes) -> Text:
    message = Text.__new__(Text)
    message.text = payload.decode()
    return message


def _json(payload: bytes) -> Json:
    value = _unpackb(payload)
    require_json(value, "value")
    message = Json.__new__(Json)
    message.value = value
    message._checked = hash(payload)
    return message


def _file(payload: bytes) -> File:
    path, media_type, offset, size = _unpack_file(payload)
    return File(path, media_type, offset_bytes=offset, size_bytes=size, timestamp_ns=0)


def _control(payload: bytes) -> Control:
    message = Control.__new__(Control)
    message.name, message.value = _unpack_control(payload)
    message.check()
    return message


_PLAIN: dict[type[Message], Callable[[bytes], Message]] = {
    Text: _text,
    Json: _json,
    File: _file,
    Control: _control,
}


def encode(message: RuntimeData) -> tuple[bytes, bytes]:
    """Encode a message as (header, payload and metadata): one copy, sequence and send time 0.

    Raises:
        DataError: it is no message, or too large.
    """
    layout, payload = dissect(message)
    metadata = pack_metadata(message)
    body = (
        np.ascontiguousarray(payload, layout.dtype).tobytes()
        if isinstance(payload, np.ndarray)
        else payload
    )
    envelope = (message.correlation_id, message.timestamp_ns, 0)
    try:
        header = HEADER.pack(layout.block, 0, len(metadata), 0, NO_CONTEXT, *envelope)
    except struct.error as error:
        raise bad_envelope(message) from error
    return header, body + metadata


def bad_envelope(message: Message) -> DataError:
    """Say what is wrong with a message whose numbers do not fit the header."""
    return DataError(
        f"timestamp_ns is {shown(message.timestamp_ns)} and correlation_id is "
        f"{shown(message.correlation_id)}; they must be 64-bit ints, the latter not negative"
    )


def decode(header: Buffer, body: Buffer) -> RuntimeData:
    """Decode any bytes whatever into a message or an error, in bounded time and memory.

    Args:
        header: `HEADER_BYTES` bytes.
        body: payload and metadata; arrays of the message are read-only views of it.

    Raises:
        DecodeError: they are no message of this version.
    """
    head, view = bytes(header), np.frombuffer(body, np.uint8)
    if len(head) != HEADER_BYTES:
        raise DecodeError(f"the header has {len(head)} bytes; it must have {HEADER_BYTES}")
    fields = Header._make(HEADER.unpack(head))
    layout = parse_layout(fields.layout)
    check_header(fields, layout, view.nbytes)
    parse_context(fields.context_bytes)
    split = layout.payload_bytes
    if split + fields.metadata_bytes < view.nbytes:
        raise DecodeError(f"{view.nbytes - split - fields.metadata_bytes:,} bytes too many")
    message: Message
    if not layout.is_array:
        message = plain_message(layout, view[:split].tobytes())
    else:
        array = view[:split].view(layout.dtype).reshape(layout.shape)
        array.setflags(write=False)
        message = array_message(layout, array)
    message.timestamp_ns = fields.timestamp_ns
    message.correlation_id = fields.correlation_id
    message.metadata = (
        unpack_metadata(view[split:].tobytes()) if fields.metadata_bytes else NO_METADATA
    )
    return cast("RuntimeData", message)
