"""What callers hand in, checked where it comes in, so that the error names it."""

from __future__ import annotations


def check_timeout(timeout_seconds: float) -> None:
    """Raise unless a timeout is a number of seconds from 0 on; infinite is for ever.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative, or not a number.
    """
    if not isinstance(timeout_seconds, (int, float)):
        raise TypeError(
            f"timeout_seconds is {timeout_seconds!r}; it must be a number of seconds, or None to "
            f"wait for ever"
        )
    if not timeout_seconds >= 0:
        raise ValueError(
            f"timeout_seconds is {timeout_seconds!r}; it must be 0 or more, or None for ever"
        )
