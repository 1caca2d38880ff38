"""What every message carries, and who owns the memory behind it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np

from remotemedia.errors import DataError, LoanError, ReleasedError

if TYPE_CHECKING:
    from typing import SupportsIndex

    from numpy.typing import DTypeLike, NDArray

MetadataValue: TypeAlias = (
    bool | int | float | str | bytes | list["MetadataValue"] | dict[str, "MetadataValue"] | None
)
Metadata: TypeAlias = Mapping[str, MetadataValue]

MAX_METADATA_BYTES = 64 * 1024
NO_METADATA: Metadata = MappingProxyType({})
_CORRELATION_LIMIT = 1 << 64
_TIMESTAMP_LIMIT = 1 << 63
SCALARS = (str, int, float, type(None))
_MAX_DEPTH = 64
_NOT_COPIED = {"__weakref__", "_array", "_gone"}


class Message:
    """Base of the eight message types.

    Attributes:
        timestamp_ns: capture time, nanoseconds of CLOCK_MONOTONIC, shared by all processes of a
            machine. Defaults to the moment of construction.
        correlation_id: which input this belongs to, 0 to 2**64 - 1; 0 means none.
        metadata: a small read-only mapping of names to plain values, at most 64 KiB encoded.

    A message made by you owns ordinary memory. A received one is a read-only view into shared
    memory, valid while it or any array taken from it lives; `release()` gives it back early.
    Copied, deep-copied or pickled, it becomes one that owns ordinary memory.
    Two messages are equal when type, content and metadata are; times and ids do not count.
    """

    __slots__ = ("__weakref__", "_origin", "correlation_id", "metadata", "timestamp_ns")

    timestamp_ns: int
    correlation_id: int
    metadata: Metadata
    _origin: str
    """Set by the `Exchange` where a message leaves a session, and nowhere else."""

    @property
    def origin(self) -> str:
        """The output of a session that it came out of, as "node.port"; else empty."""
        return getattr(self, "_origin", "")

    def _set_envelope(
        self, timestamp_ns: int | None, correlation_id: int, metadata: Metadata | None
    ) -> None:
        if timestamp_ns is None:
            self.timestamp_ns = time.monotonic_ns()
        else:
            limit = _TIMESTAMP_LIMIT
            self.timestamp_ns = checked_int(timestamp_ns, "timestamp_ns", -limit, limit - 1)
        self.correlation_id = (
            0
            if correlation_id == 0 and type(correlation_id) is int
            else checked_int(correlation_id, "correlation_id", 0, _CORRELATION_LIMIT - 1)
        )
        self.metadata = (
            NO_METADATA
            if metadata is None or metadata is NO_METADATA
            else MappingProxyType(plain_metadata(metadata)[0])
        )

    def release(self) -> None:
        """Let go of what the message holds; messages that are no arrays hold nothing."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Copies, deep copies and pickles own their memory, whatever the message holds."""
        slots = {name for kind in type(self).__mro__ for name in getattr(kind, "__slots__", ())}
        there = {name for name in slots - _NOT_COPIED if hasattr(self, name)}
        fields = {name: getattr(self, name) for name in there}
        return _restore, (type(self), {**fields, "metadata": dict(self.metadata)})

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

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Copies, deep copies and pickles own their memory, whatever the message holds."""
        restore, (type_, fields) = super().__reduce_ex__(protocol)
        return restore, (type_, {**fields, "_array": self._live_array().copy()})

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        """Be an array for numpy, which copies only if it is asked to, or for another dtype."""
        # Through a view of its own, so that a loan can see that it is still in use.
        view = self._live_array()[...]
        if dtype is not None and np.dtype(dtype) != view.dtype:
            if copy is False:
                raise ValueError(f"{view.dtype} is no {np.dtype(dtype)} without a copy")
            return view.astype(dtype)
        return view.copy() if copy else view

    def detach(self) -> None:
        """Copy the array out of shared memory, and give that memory back."""
        array = self._live_array().copy()
        array.setflags(write=False)  # as what was received is
        self._array = array

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


def _restore(type_: type[Message], fields: dict[str, object]) -> Message:
    """Make a message of the fields of one that was checked."""
    message = object.__new__(type_)
    metadata = fields["metadata"]
    assert isinstance(metadata, dict)
    for name, value in fields.items():
        setattr(message, name, value)
    message.metadata = MappingProxyType(metadata) if metadata else NO_METADATA
    return message


class _WholeArray:
    """An array that compares as a whole: same dtype, shape and values, NaN equal to NaN."""

    __slots__ = ("array",)

    def __init__(self, array: NDArray[np.generic]) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _WholeArray):
            return NotImplemented
        one, two = self.array, other.array
        # By name: the byte order is not content.
        if one.dtype.name != two.dtype.name or one.shape != two.shape:
            return False
        return bool(np.array_equal(one, two, equal_nan=one.dtype.kind in "fc"))

    __hash__ = None  # type: ignore[assignment]


def plain_metadata(metadata: object) -> tuple[dict[str, MetadataValue], bytes]:
    """Return metadata as a dict, and encoded; empty metadata takes no bytes.

    Raises:
        DataError: it is no mapping of names to plain values, or takes more than 64 KiB.
    """
    if not isinstance(metadata, Mapping):
        raise DataError(f"metadata is a {type(metadata).__name__}; it must be a mapping")
    plain: dict[str, MetadataValue] = dict(metadata)
    wrong = not_plain(plain, "metadata", (*SCALARS, bytes))
    if wrong is not None:
        raise DataError(
            f"{wrong}; metadata has None, bool, int, float, str, bytes, and lists and str-keyed "
            f"dicts of those"
        )
    return plain, encode_plain(plain, "metadata", MAX_METADATA_BYTES) if plain else b""


def not_plain(value: object, path: str, scalars: tuple[type, ...], depth: int = 0) -> str | None:
    """Name the first part of a value that is no list, str-keyed dict or scalar; None if all is.

    Args:
        value: what to look through.
        path: what to call it.
        scalars: the types that may stand for themselves.
        depth: how deep in the whole it lies; 64 is the deepest.
    """
    parts: Iterable[tuple[object, object]]
    if isinstance(value, scalars):
        return None
    if depth > _MAX_DEPTH:
        return f"{path[:80]}... nests more than {_MAX_DEPTH} deep"
    if isinstance(value, list):
        parts = enumerate(value)
    elif isinstance(value, dict):
        parts = value.items()
        for key in value:
            if not isinstance(key, str):
                return f"{path} has the key {shown(key)}"
    else:
        return f"{path} is a {type(value).__name__}"
    for place, part in parts:
        # Most parts are scalars: no call and no path for those.
        if not isinstance(part, scalars):
            wrong = not_plain(part, f"{path}[{shown(place)}]", scalars, depth + 1)
            if wrong is not None:
                return wrong
    return None


def encode_plain(value: object, what: str, limit: int, advice: str = "") -> bytes:
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
        raise DataError(
            f"{what} takes {len(encoded):,} bytes; at most {limit:,} are allowed{advice}"
        )
    return encoded


def shown(value: object, max_chars: int = 80) -> str:
    """Show a value in an error, at a length that a person reads."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"a {type(value).__name__} that cannot be shown ({error})"
    return text if len(text) <= max_chars else text[: max_chars - 3] + "..."


def checked_int(value: object, what: str, low: int, high: int) -> int:
    """Return `value` if it is an integer in [low, high]; numpy integers count.

    Raises:
        DataError: it is not, and what is allowed.
    """
    if isinstance(value, np.integer):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DataError(
            f"{what} is {shown(value)}; it must be a whole number from {low:,} to {high:,}"
        )
    return value


def as_array(value: object, what: str) -> NDArray[np.generic]:
    """Return `value` as an array without copying: an array, a message of one, or any DLPack.

    Raises:
        DataError: it is neither.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(f"{what} is a masked array, whose mask would be lost; use filled()")
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if isinstance(value, ArrayMessage):
        return value._live_array()
    if hasattr(value, "__dlpack__"):
        try:
            array: NDArray[np.generic] = np.from_dlpack(value)
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"{what} is a {type(value).__name__} that numpy cannot view ({error}); move it to "
                f"the CPU and to a dtype that numpy has"
            ) from error
        return array
    raise DataError(
        f"{what} is a {type(value).__name__}; it must be a numpy array or support DLPack"
    )
