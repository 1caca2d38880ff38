"""The part of a message's header that stays the same from message to message of one stream.

A layout says what the payload bytes are: the type of message, the dtype, the shape and the one
parameter that some types have (sample rate, pixel format). It is validated once, on the side that
makes it and on the side that first meets it, and recognised by its bytes from then on.

Layout block, little-endian, 56 bytes:

    0  u32   magic and version of the wire: "RMD" and the version as a byte
    4  u8    kind of message
    5  u8    dtype code (Tensor) or pixel format code (Video)
    6  u8    number of dimensions
    7  u8    reserved, 0
    8  u32   sample rate in Hz (Audio)
    12 u32   reserved, 0
    16 u64   payload bytes
    24 u32*8 shape, unused entries 0
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache

import numpy as np

from remotemedia.data.media import (
    PACKED_FORMATS,
    PIXEL_FORMATS,
    PLANAR_FORMATS,
    Audio,
    Video,
    check_channels,
    check_picture_shape,
    check_pixel_format,
    check_sample_rate,
)
from remotemedia.data.message import ArrayMessage, Message, checked_int, shown
from remotemedia.data.plain import (
    MAX_JSON_BYTES,
    MAX_MESSAGE_BYTES,
    Binary,
    Control,
    File,
    Json,
    Text,
)
from remotemedia.data.tensor import DTYPES, MAX_DIMENSIONS, Tensor, check_dtype
from remotemedia.errors import DataError, DecodeError

VERSION = 1
MAGIC = int.from_bytes(b"RMD", "little") | VERSION << 24
LAYOUT_BYTES = 56
_BLOCK = struct.Struct("<I4BIIQ8I")


# The position of a type is its kind on the wire: append only.
KINDS: tuple[type[Message], ...] = (Audio, Video, Tensor, Text, Json, Binary, File, Control)
_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}
_FLOAT32 = np.dtype("<f4")
_UINT8 = np.dtype("uint8")
_MAX_EMPTY_BYTES = (1 << 63) - 1


class Layout:
    """What the payload bytes of a message are.

    Attributes:
        type: the message type.
        dtype, shape: of the array, for the types that are one; shape is () otherwise.
        parameter: sample rate in Hz (Audio) or pixel format (Video), else None.
        is_array: whether the payload is an array.
        payload_bytes: size of the payload.
        block: the layout as bytes of the header.
    """

    __slots__ = (*("block", "dtype", "is_array", "parameter", "payload_bytes", "shape", "type"),)

    def __init__(
        self,
        type_: type[Message],
        payload_bytes: int,
        *,
        dtype: np.dtype[np.generic] = _UINT8,
        shape: tuple[int, ...] = (),
        parameter: int | str | None = None,
    ) -> None:
        is_json = type_ in (Json, Control)
        most = MAX_JSON_BYTES if is_json else MAX_MESSAGE_BYTES
        if payload_bytes > most:
            raise DataError(
                f"{type_.__name__} of {payload_bytes:,} bytes; {'it' if is_json else 'a message'} "
                f"holds at most {most:,}: send it in parts, or as a File"
            )
        self.type = type_
        self.is_array = issubclass(type_, ArrayMessage)
        self.payload_bytes = payload_bytes
        self.dtype = dtype
        self.shape = shape
        self.parameter = parameter
        self.block = self._pack()

    def _pack(self) -> bytes:
        code = rate = 0
        if self.type is Audio:
            assert isinstance(self.parameter, int)
            rate = self.parameter
        elif self.type is Video:
            assert isinstance(self.parameter, str)
            code = PIXEL_FORMATS.index(self.parameter)
        elif self.type is Tensor:
            code = _CODES[self.dtype]
        padded = self.shape + (0,) * (MAX_DIMENSIONS - len(self.shape))
        kind = KINDS.index(self.type)
        head = (MAGIC, kind, code, len(self.shape), 0, rate, 0, self.payload_bytes)
        return _BLOCK.pack(*head, *padded)


@lru_cache(maxsize=256)
def audio_layout(frames: int, channels: int, sample_rate: int) -> Layout:
    """Lay out `frames` x `channels` float32 samples.

    Raises:
        DataError: a number is out of range.
    """
    shape = (_length(frames, "frames"), check_channels(channels))
    rate = check_sample_rate(sample_rate)
    return Layout(Audio, shape[0] * shape[1] * 4, dtype=_FLOAT32, shape=shape, parameter=rate)


@lru_cache(maxsize=256)
def picture_layout(shape: tuple[int, ...], format: str) -> Layout:  # noqa: A002
    """Lay out the array of one picture.

    Raises:
        DataError: the format is unknown, or does not have that shape.
    """
    check_pixel_format(format)
    check_picture_shape(shape, format)
    return Layout(Video, math.prod(shape), shape=shape, parameter=format)


def video_layout(height: int, width: int, format: str = "rgb24") -> Layout:  # noqa: A002
    """Lay out a picture of `height` x `width` pixels.

    Raises:
        DataError: the format is unknown, or a side does not suit it.
    """
    check_pixel_format(format)
    height, width = _length(height, "height"), _length(width, "width")
    if format in PLANAR_FORMATS:
        if height % 2:
            raise DataError(f"height is {height}; format {format} needs an even height")
        return picture_layout((height * 3 // 2, width), format)
    return picture_layout((height, width, PACKED_FORMATS[format]), format)


@lru_cache(maxsize=256)
def tensor_layout(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Layout:
    """Lay out a C-contiguous array.

    Raises:
        DataError: the dtype or the shape cannot travel.
    """
    if not isinstance(shape, tuple):
        raise DataError(f"shape is {shown(shape)}; it must be a tuple of lengths")
    if len(shape) > MAX_DIMENSIONS:
        raise DataError(f"shape {shape} has more than {MAX_DIMENSIONS} dimensions")
    dtype = check_dtype(dtype)
    lengths = tuple(_length(length, "a length of the shape") for length in shape)
    # An empty array may be long in other dimensions, but not without end: numpy could not make it.
    if dtype.itemsize * math.prod(max(1, length) for length in lengths) > _MAX_EMPTY_BYTES:
        raise DataError(f"shape {shape} is too large")
    return Layout(Tensor, math.prod(lengths) * dtype.itemsize, dtype=dtype, shape=lengths)


@lru_cache(maxsize=256)
def binary_layout(nbytes: int) -> Layout:
    """Lay out `nbytes` bytes.

    Raises:
        DataError: the number is out of range.
    """
    length = _length(nbytes, "nbytes")
    return Layout(Binary, length, shape=(length,))


@lru_cache(maxsize=256)
def plain_layout(type_: type[Message], payload_bytes: int) -> Layout:
    """Lay out an encoded Text, Json, File or Control.

    Raises:
        DataError: it is larger than a message may be.
    """
    return Layout(type_, payload_bytes)


def parse_layout(block: bytes) -> Layout:
    """Read a layout block, believing nothing: every field is checked before it is used.

    Raises:
        DecodeError: it is no layout of this version.
    """
    magic, kind, code, rank, zero, rate, zeros, payload_bytes, *dims = _BLOCK.unpack(block)
    if magic != MAGIC:
        if magic & 0xFFFFFF == MAGIC & 0xFFFFFF:
            raise DecodeError(
                f"the message has wire version {magic >> 24}; this process speaks {VERSION}: run "
                f"the same version of remotemedia in every process"
            )
        raise DecodeError("the bytes are no message: the header does not begin with its mark")
    if kind >= len(KINDS) or rank > MAX_DIMENSIONS or zero or zeros or any(dims[rank:]):
        raise DecodeError(f"the header is damaged (kind {kind}, {rank} dimensions)")
    shape = tuple(dims[:rank])
    try:
        layout = _layout_of(KINDS[kind], code, rate, shape, payload_bytes)
    except DecodeError:
        raise
    except DataError as error:
        raise DecodeError(f"the header is damaged: {error}") from error
    if layout.block != block:
        raise DecodeError(
            f"the header is damaged: it says {payload_bytes:,} payload bytes and describes "
            f"{layout.payload_bytes:,}, or sets fields its kind does not have"
        )
    return layout


def _layout_of(
    type_: type[Message], code: int, rate: int, shape: tuple[int, ...], payload_bytes: int
) -> Layout:
    if type_ is Audio:
        if len(shape) != 2:
            raise DecodeError(f"audio has {len(shape)} dimensions")
        return audio_layout(shape[0], shape[1], rate)
    if type_ is Video:
        if code >= len(PIXEL_FORMATS):
            raise DecodeError(f"pixel format code {code} is unknown")
        return picture_layout(shape, PIXEL_FORMATS[code])
    if type_ is Tensor:
        if code >= len(DTYPES):
            raise DecodeError(f"dtype code {code} is unknown")
        return tensor_layout(shape, DTYPES[code])
    if type_ is Binary:
        return binary_layout(payload_bytes)
    return plain_layout(type_, payload_bytes)  # type: ignore[arg-type]  # types can be hashed


def _length(value: object, what: str) -> int:
    return checked_int(value, what, 0, (1 << 32) - 1)


__all__ = [
    "KINDS",
    "LAYOUT_BYTES",
    "Layout",
    "audio_layout",
    "binary_layout",
    "parse_layout",
    "picture_layout",
    "plain_layout",
    "tensor_layout",
    "video_layout",
]
