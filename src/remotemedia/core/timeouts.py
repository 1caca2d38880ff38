"""How long to wait, checked where it comes in: in sessions and channels alike."""

from __future__ import annotations

from remotemedia.data.message import shown

__all__ = ["check_timeout"]


def check_timeout(timeout_seconds: float) -> None:
    """Raise unless a timeout is a number of seconds from 0 on; infinite is for ever.

    None is for ever too, and needs no check.

    Raises:
        TypeError: it is no number; True and False are none.
        ValueError: it is negative, or not a number (NaN).
    """
    kind = type(timeout_seconds)
    if (kind is float or kind is int) and timeout_seconds >= 0:  # with messages: no more than this
        return
    if kind is bool or not isinstance(timeout_seconds, int | float):
        raise TypeError(
            f"timeout_seconds is {shown(timeout_seconds)}; it must be a number of seconds, or None "
            f"to wait for ever"
        )
    if not timeout_seconds >= 0:
        raise ValueError(
            f"timeout_seconds is {timeout_seconds!r}; it must be 0 or more seconds, or None to "
            f"wait for ever"
        )
