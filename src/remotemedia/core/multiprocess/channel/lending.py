"""Lends messages that are filled in place: which there are, how each is asked for, how large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from remotemedia.core.multiprocess.channel.loan import Loan
from remotemedia.core.multiprocess.plan import METADATA_ROOM_BYTES
from remotemedia.data.layout import (
    Layout,
    audio_layout,
    binary_layout,
    tensor_layout,
    video_layout,
)
from remotemedia.data.media import Audio, Video
from remotemedia.data.message import ArrayMessage, shown
from remotemedia.data.plain import Binary
from remotemedia.data.tensor import Tensor
from remotemedia.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.plan import PortPlan
    from remotemedia.core.multiprocess.transport.base import Writer

M = TypeVar("M", bound=ArrayMessage)

# How to lay each out, of what it must be told and of what it may be.
_LENDABLE: dict[
    type[ArrayMessage], tuple[Callable[..., Layout], tuple[str, ...], tuple[str, ...]]
] = {
    Audio: (audio_layout, ("frames", "channels", "sample_rate"), ()),
    Video: (video_layout, ("height", "width"), ("format",)),
    Tensor: (tensor_layout, ("shape", "dtype"), ()),
    Binary: (binary_layout, ("nbytes",), ()),
}


def too_large(port: str, nbytes: int, limit: int) -> DataError:
    """Say that a payload of `nbytes` is more than a port declares."""
    return DataError(
        f"port {port} declares at most {limit:,} bytes a message and this one has {nbytes:,}; "
        f"raise its max_message_bytes"
    )


def lay_out(type_: type[ArrayMessage], arguments: dict[str, Any]) -> Layout:
    """Lay out a loan as it is asked for.

    Raises:
        DataError: that type cannot be lent, or not with these arguments.
    """
    try:
        lay_out_type, wanted, optional = _LENDABLE[type_]
    except (KeyError, TypeError):
        lent = ", ".join(lendable.__name__ for lendable in _LENDABLE)
        raise DataError(
            f"a {getattr(type_, '__name__', type_)} cannot be lent; {lent} can: send others"
        ) from None
    if not {*wanted} <= arguments.keys() <= {*wanted, *optional}:
        article = "an" if type_ is Audio else "a"
        takes = [*wanted, *(f"{name} (optional)" for name in optional)]
        raise DataError(
            f"a loan of {article} {type_.__name__} takes {', '.join(takes)}; "
            f"it got {', '.join(arguments) or 'nothing'}"
        )
    try:
        return lay_out_type(**arguments)
    except TypeError as error:
        given = ", ".join(f"{name}={shown(value)}" for name, value in arguments.items())
        raise DataError(f"a {type_.__name__} cannot be lent with {given}: {error}") from error


class Lender:
    """Lends the messages of one port.

    One stream has one format: what was asked for last is most often asked for again.

    Args:
        writer: the transport's end; not owned.
        port: the plan of the port.
        max_bytes: the largest payload that it takes.
    """

    def __init__(self, writer: Writer, port: PortPlan, max_bytes: int) -> None:
        self._writer = writer
        self._port = port
        self._max_bytes = max_bytes
        # One tuple, for threads share it.
        self._last: tuple[type[ArrayMessage], dict[str, Any], Layout] | None = None

    def lend(self, type_: type[M], arguments: dict[str, Any]) -> Loan[M]:
        """Lend a message; `Publisher.loan` says what is asked for, and what is raised."""
        last = self._last
        if last is not None and type_ is last[0] and arguments == last[1]:
            return self._lend(last[2])
        return self._lend(self._lay_out(type_, arguments))

    def _lend(self, layout: Layout) -> Loan[Any]:
        chunk, token = self._writer.loan(layout.payload_bytes + METADATA_ROOM_BYTES)
        return Loan(layout, chunk, token)

    def _lay_out(self, type_: type[M], arguments: dict[str, Any]) -> Layout:
        shape = arguments.get("shape")
        if isinstance(shape, list):  # which may change before it is asked for again
            arguments = {**arguments, "shape": tuple(shape)}
        layout = lay_out(type_, arguments)
        if layout.payload_bytes > self._max_bytes:
            raise too_large(self._port.name, layout.payload_bytes, self._max_bytes)
        self._last = type_, arguments, layout
        return layout
