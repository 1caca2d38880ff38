"""What every message carries, and who owns the memory behind it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np

from remotemedia.core.errors import DataError, LoanError, ReleasedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MetadataValue: TypeAlias = (
    bool | int | float | str | bytes | list["MetadataValue"] | dict[str, "MetadataValue"] | None
)
Metadata: TypeAlias = Mapping[str, MetadataValue]

MAX_METADATA_BYTES = 64 * 1024
NO_METADATA: Metadata = MappingProxyType({})
_CORRELATION_LIMIT = 1 << 64
_TIMESTAMP_LIMIT = 1 << 63


class Message:
    """Base of the eight message types.

    Attributes:
        timestamp_ns: capture time, nanoseconds of CLOCK_MONOTONIC, shared by all processes of a
            machine. Defaults to the moment of construction.
        correlation_id: which input this belongs to, 0 to 2**64 - 1; 0 means none.
        metadata: a small read-only mapping of names to plain values, at most 64 KiB encoded.

    A message made by you owns ordinary memory. A received one is a read-only view into shared
    memory, valid while it or any array taken from it lives; `release()` gives it back early.
    Two messages are equal when type, content and metadata are; times and ids do not count.
    """

    __slots__ = ("__weakref__", "correlation_id", "metadata", "timestamp_ns")

    timestamp_ns: int
    correlation_id: int
    metadata: Metadata

    def _set_envelope(
        self, timestamp_ns: int | None, correlation_id: int, metadata: Metadata | None
    ) -> None:
        if timestamp_ns is None:
            timestamp_ns = time.monotonic_ns()
        elif not _is_int(timestamp_ns) or not -_TIMESTAMP_LIMIT <= timestamp_ns < _TIMESTAMP_LIMIT:
            raise DataError(f"timestamp_ns is {timestamp_ns!r}; it must be a 64-bit signed int")
        if not _is_int(correlation_id) or not 0 <= correlation_id < _CORRELATION_LIMIT:
            raise DataError(f"correlation_id is {correlation_id!r}; it must be 0 to 2**64 - 1")
        self.timestamp_ns = timestamp_ns
        self.correlation_id = correlation_id
        self.metadata = NO_METADATA if not metadata else _checked_metadata(metadata)

    def release(self) -> None:
        """Let go of what the message holds; messages that are no arrays hold nothing."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, Message)
        return self._content() == other._content() and self.metadata == other.metadata

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        """Always true: an empty message is not the same as none."""
        return True

    def _content(self) -> object:
        """What equality compares, besides type and metadata."""
        raise TypeError(f"{type(self).__name__} is not a message type")


class ArrayMessage(Message):
    """A message whose payload is one array: owned, borrowed from shared memory, or on loan."""

    __slots__ = ("_array", "_gone")

    _array: NDArray[np.generic] | None
    _gone: str
    """Why there is no array any more; set when it goes."""

    def release(self) -> None:
        """Let go of the array: shared memory goes back early, and using the message raises.

        Arrays taken from it before stay valid and keep the memory. Twice is harmless.
        """
        if self._array is not None:
            self._array = None
            self._gone = "released"

    def detach(self) -> None:
        """Copy the array out of shared memory, and give that memory back."""
        self._array = self._live_array().copy()

    def _content(self) -> object:
        return self._format(), _WholeArray(self._live_array())

    def _format(self) -> object:
        """What tells two messages with equal arrays apart."""
        return None

    def _live_array(self) -> NDArray[np.generic]:
        array = self._array
        if array is None:
            name = type(self).__name__
            if self._gone == "sent":
                raise LoanError(
                    f"this {name} was on loan and has been sent: its memory now belongs to the "
                    f"readers; take another loan"
                )
            if self._gone == "discarded":
                raise LoanError(f"this {name} was on loan and was given back unsent")
            raise ReleasedError(
                f"this {name} was released: its memory may hold another message; copy what you "
                f"need before release()"
            )
        return array


class _WholeArray:
    """An array that compares as a whole: same dtype, shape and values, NaN equal to NaN."""

    __slots__ = ("array",)

    def __init__(self, array: NDArray[np.generic]) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _WholeArray):
            return NotImplemented
        one, two = self.array, other.array
        if one.dtype != two.dtype or one.shape != two.shape:
            return False
        return bool(np.array_equal(one, two, equal_nan=one.dtype.kind in "fc"))

    __hash__ = None  # type: ignore[assignment]


def _checked_metadata(metadata: object) -> Metadata:
    if not isinstance(metadata, Mapping):
        raise DataError(f"metadata is {type(metadata).__name__}; it must be a mapping")
    for key in metadata:
        if not isinstance(key, str):
            raise DataError(f"metadata has the key {key!r}; keys must be str")
    frozen = dict(metadata)
    encode_plain(frozen, "metadata", MAX_METADATA_BYTES)
    return MappingProxyType(frozen)


def encode_plain(value: object, what: str, limit: int) -> bytes:
    """Encode plain data (None, bool, int, float, str, bytes, list, dict) as MessagePack.

    Raises:
        DataError: the value holds something else, nests too deeply, or passes `limit` bytes.
    """
    try:
        encoded = msgspec.msgpack.encode(value)
    except (TypeError, OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise DataError(
            f"{what} must be plain data (None, bool, 64-bit int, float, str, bytes, list, dict), "
            f"not too deeply nested: {error}"
        ) from error
    if len(encoded) > limit:
        raise DataError(f"{what} takes {len(encoded):,} bytes; at most {limit:,} are allowed")
    return encoded


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def checked_int(value: object, what: str, low: int, high: int) -> int:
    """Return `value` if it is an integer in [low, high]; numpy integers count.

    Raises:
        DataError: it is not, and what is allowed.
    """
    if isinstance(value, np.integer):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DataError(f"{what} is {value!r}; it must be a whole number from {low:,} to {high:,}")
    return value


def as_array(value: object, what: str) -> NDArray[np.generic]:
    """Return `value` as an array without copying: an array, or anything that speaks DLPack.

    Raises:
        DataError: it is neither.
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__dlpack__"):
        try:
            array: NDArray[np.generic] = np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"{what} is a {type(value).__name__} that numpy cannot view ({error}); move it to "
                f"the CPU and to a dtype that numpy has"
            ) from error
        return array
    raise DataError(
        f"{what} is a {type(value).__name__}; it must be a numpy array or support DLPack"
    )
