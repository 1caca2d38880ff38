"""Messages that are not arrays of samples: text, JSON, bytes, files and control."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from remotemedia.data.message import (
    SCALARS,
    ArrayMessage,
    Message,
    Metadata,
    checked_int,
    encode_plain,
    not_plain,
    shown,
)
from remotemedia.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]  # Python 3.12

    from numpy.typing import NDArray

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
MAX_JSON_BYTES = 16 * 1024 * 1024
"""What a Json or a Control takes as MessagePack. Decoded, a byte may become 70: an empty list."""


class Text(Message):
    """A piece of text: a transcript, a token, a prompt, a caption.

    Args:
        text: any str that UTF-8 can carry; may be empty.
        timestamp_ns, correlation_id, metadata: see `Message`.

    Raises:
        DataError: it is no str, or holds a lone surrogate.
    """

    __slots__ = ("text",)

    def __init__(
        self,
        text: str,
        *,
        timestamp_ns: int | None = None,
        correlation_id: int = 0,
        metadata: Metadata | None = None,
    ) -> None:
        self.text = check_text(text, "text")
        self._set_envelope(timestamp_ns, correlation_id, metadata)

    def _content(self) -> object:
        return self.text

    def __repr__(self) -> str:
        start = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"<Text {start!r}>"


class Json(Message):
    """A JSON value: a detection, a tool call, a configuration.

    Args:
        value: None, bool, 64-bit int, float, str, or lists and str-keyed dicts of those. NaN and
            infinities travel as they are. At most 16 MiB as MessagePack; more goes as Binary or
            File. Not copied: do not change it before it is sent.
        timestamp_ns, correlation_id, metadata: see `Message`.

    Raises:
        DataError: the value holds something else, or is too large.
    """

    __slots__ = ("_checked", "value")

    _checked: int
    """Hash of the encoding that was checked: a value that still has it needs no second look."""

    def __init__(
        self,
        value: JsonValue,
        *,
        timestamp_ns: int | None = None,
        correlation_id: int = 0,
        metadata: Metadata | None = None,
    ) -> None:
        require_json(value, "value")
        self._checked = hash(encode_json(value, "value"))
        self.value = value
        self._set_envelope(timestamp_ns, correlation_id, metadata)

    def encoded(self) -> bytes:
        """Encode the value, which is looked through again if it has changed.

        Raises:
            DataError: it was changed into something that is no JSON, or too large.
        """
        encoded = encode_json(self.value, "Json")
        if hash(encoded) != self._checked:
            require_json(self.value, "value")
        return encoded

    def _content(self) -> object:
        return self.value

    def __repr__(self) -> str:
        return f"<Json {shown(self.value, 60)}>"


class Binary(ArrayMessage):
    """Bytes with no meaning to us: an encoded packet, a compressed frame.

    Args:
        data: bytes, or any C-contiguous buffer. Not copied: do not change it before it is sent.
        timestamp_ns, correlation_id, metadata: see `Message`.

    Raises:
        DataError: it is no buffer.
    """

    __slots__ = ()

    def __init__(
        self,
        data: Buffer,
        *,
        timestamp_ns: int | None = None,
        correlation_id: int = 0,
        metadata: Metadata | None = None,
    ) -> None:
        try:
            array = np.frombuffer(data, np.uint8)
        except (AttributeError, BufferError, TypeError, ValueError) as error:
            raise DataError(
                f"data is a {type(data).__name__}; it must be bytes or another contiguous "
                f"buffer ({error})"
            ) from error
        self._array = array
        self._set_envelope(timestamp_ns, correlation_id, metadata)

    @property
    def data(self) -> memoryview:
        """The bytes; a read-only view when received, writable on a loan."""
        # Through a view of its own, so that a loan can see that it is still in use.
        return self._live_array()[:].data

    @property
    def array(self) -> NDArray[np.uint8]:
        """The bytes as an array, uint8, shape (n,)."""
        array = self._array
        return self._live_array() if array is None else array  # type: ignore[return-value]  # checked

    def __len__(self) -> int:
        return len(self._live_array())

    def __bytes__(self) -> bytes:
        return self._live_array().tobytes()

    def __repr__(self) -> str:
        if self._array is None:
            return f"<Binary {self._gone}>"
        return f"<Binary {len(self)} bytes>"


class File(Message):
    """A reference to a file; the bytes stay where they are.

    Args:
        path: path of the file, str or os.PathLike, absolute or relative to the reader's working
            folder; need not exist yet.
        media_type: its type ("audio/wav"); empty if unknown.
        offset_bytes: where in the file the part begins.
        size_bytes: length of the part; None is to the end.
        timestamp_ns, correlation_id, metadata: see `Message`.

    Raises:
        DataError: the path is empty or holds NUL, or a number is out of range.
    """

    __slots__ = ("media_type", "offset_bytes", "path", "size_bytes")

    def __init__(
        self,
        path: str | os.PathLike[str],
        media_type: str = "",
        *,
        offset_bytes: int = 0,
        size_bytes: int | None = None,
        timestamp_ns: int | None = None,
        correlation_id: int = 0,
        metadata: Metadata | None = None,
    ) -> None:
        try:
            text = os.fspath(path)
        except TypeError as error:
            raise DataError(f"path is a {type(path).__name__}; it must be a path") from error
        if not text or "\0" in check_text(text, "path"):
            raise DataError(f"path is {shown(text)}; it must be a non-empty path without NUL")
        limit = (1 << 63) - 1
        self.path = text
        self.media_type = check_text(media_type, "media_type")
        self.offset_bytes = checked_int(offset_bytes, "offset_bytes", 0, limit)
        self.size_bytes = (
            None if size_bytes is None else checked_int(size_bytes, "size_bytes", 0, limit)
        )
        self._set_envelope(timestamp_ns, correlation_id, metadata)

    def _content(self) -> object:
        return self.path, self.media_type, self.offset_bytes, self.size_bytes

    def __repr__(self) -> str:
        return f"<File {shown(self.path)}{' ' + self.media_type if self.media_type else ''}>"


class Control(Message):
    """An instruction to the nodes downstream, in order with the data: "flush", "set_voice".

    Args:
        name: what to do, 1 to 64 characters.
        value: its argument, any JSON value; with the name at most 16 MiB as MessagePack.
        timestamp_ns, correlation_id, metadata: see `Message`.

    Raises:
        DataError: the name or the value is not of that form, or too large.
    """

    __slots__ = ("name", "value")

    def __init__(
        self,
        name: str,
        value: JsonValue = None,
        *,
        timestamp_ns: int | None = None,
        correlation_id: int = 0,
        metadata: Metadata | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.encoded()
        self._set_envelope(timestamp_ns, correlation_id, metadata)

    def _content(self) -> object:
        return self.name, self.value

    def __repr__(self) -> str:
        value = "" if self.value is None else f" {shown(self.value, 60)}"
        return f"<Control {self.name!r}{value}>"

    def check(self) -> None:
        """Raise `DataError` unless name and value are what the constructor takes, but for size."""
        _check_name(self.name)
        require_json(self.value, "value")

    def encoded(self) -> bytes:
        """Encode name and value.

        Raises:
            DataError: one was changed into something that the constructor does not take.
        """
        self.check()
        return encode_json([self.name, self.value], "Control")


def _check_name(name: str) -> None:
    if not 0 < len(check_text(name, "name")) <= 64:
        raise DataError(f"name is {shown(name)}; it must have 1 to 64 characters")


def encode_json(value: object, what: str) -> bytes:
    """Encode what a Json or a Control holds; raise `DataError` if it takes more than 16 MiB."""
    return encode_plain(value, what, MAX_JSON_BYTES, ": send more as Binary or File")


def require_json(value: object, what: str) -> None:
    """Raise `DataError` unless `value` is made of what JSON has; its size is not looked at."""
    wrong = not_plain(value, what, SCALARS)
    if wrong is not None:
        raise DataError(
            f"{wrong}; JSON has None, bool, int, float, str, and lists and str-keyed dicts of those"
        )


def check_text(text: object, what: str) -> str:
    """Return a str that UTF-8 can carry, or raise `DataError`."""
    if not isinstance(text, str):
        raise DataError(f"{what} is a {type(text).__name__}; it must be a str")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{what} cannot be sent as UTF-8: {error}") from error
    return text
