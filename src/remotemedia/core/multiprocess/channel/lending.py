"""What can be lent to be filled in place, how each is asked for, and what is too large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
