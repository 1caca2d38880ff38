"""Ringing somebody else's doorbell."""

from __future__ import annotations

from typing import NamedTuple


class Bell(NamedTuple):
    """What a process needs to wake another: a duplicate of its eventfd, and its sleep word.

    Ring with `if words[bell.asleep]: os.eventfd_write(bell.fd, 1)`, after the news is written.
    """

    fd: int
    asleep: int
