"""Lends messages that are filled in place: which there are, how each is asked for, how large."""

from __future__ import annotations

import time
from collections import deque
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
from remotemedia.errors import DataError, ExecutorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.plan import PortPlan
    from remotemedia.core.multiprocess.transport.base import Writer

M = TypeVar("M", bound=ArrayMessage)
_now_ns = time.monotonic_ns

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
    """Lends the messages of one port, and lays the next one ready when it is told to.

    One stream has one format: what was asked for last is most often asked for again. Then the next
    loan is taken as soon as the last has been sent, where its reader had taken the one before: it
    waits, and a fifth comes off the way of the next message. A writer ahead of its reader would
    gain nothing by it. It is never in anybody's way: whoever needs another has it given back first.

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
        self._is_repeated = False
        self._ready: deque[Loan[Any]] = deque()  # one, or none

    def lend(self, type_: type[M], arguments: dict[str, Any]) -> Loan[M]:
        """Lend a message; `Publisher.loan` says what is asked for, and what is raised."""
        last = self._last
        if last is not None and type_ is last[0] and arguments == last[1]:
            self._is_repeated = True
            loan = self._take_ready(last[2]) if self._ready else None
            return self._lend(type_, last[2]) if loan is None else loan
        self._is_repeated = False
        self._ready.clear()
        return self._lend(type_, self._lay_out(type_, arguments))

    def lend_ahead(self) -> None:
        """Lay one more like the last ready, if that was like the one before."""
        if self._is_repeated and not self._ready and self._last is not None:
            type_, _, layout = self._last
            try:  # noqa: SIM105 (a context manager costs as much as a look)
                self._ready.append(self._lend(type_, layout))
            except ExecutorError:  # whoever asks for it is told
                pass

    def forget(self) -> None:
        """Give back what lies ready."""
        self._ready.clear()

    def disown(self) -> None:
        """Leave what lies ready to the parent process: it is kept, and lent to nobody."""
        self._ready, self._inherited = deque(), self._ready

    def _take_ready(self, layout: Layout) -> Loan[Any] | None:
        try:
            loan = self._ready.pop()
        except IndexError:
            return None
        if loan.layout is not layout:  # another thread has asked for others meanwhile
            return None
        loan.message.timestamp_ns = _now_ns()
        return loan

    def _lend(self, type_: type[M], layout: Layout) -> Loan[M]:
        chunk, token = self._writer.loan(layout.payload_bytes + METADATA_ROOM_BYTES)
        return Loan(type_, layout, chunk, token)

    def _lay_out(self, type_: type[M], arguments: dict[str, Any]) -> Layout:
        shape = arguments.get("shape")
        if isinstance(shape, list):  # which may change before it is asked for again
            arguments = {**arguments, "shape": tuple(shape)}
        layout = lay_out(type_, arguments)
        if layout.payload_bytes > self._max_bytes:
            raise too_large(self._port.name, layout.payload_bytes, self._max_bytes)
        self._last = type_, arguments, layout
        return layout
