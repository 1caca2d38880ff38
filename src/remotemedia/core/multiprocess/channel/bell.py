"""Ringing somebody else's doorbell."""

from __future__ import annotations

import os
from typing import NamedTuple


class Bell(NamedTuple):
    """What a process needs to wake another: a duplicate of its eventfd, and its sleep word.

    Ring after the news is written. Where every nanosecond counts, `ring` is written out.
    """

    fd: int
    asleep: int

    def ring(self, words: memoryview) -> None:
        """Wake the process, if it sleeps."""
        if words[self.asleep]:
            os.eventfd_write(self.fd, 1)


def ring_sleepers(bells: tuple[Bell, ...], words: memoryview) -> None:
    """Wake all that sleep."""
    for fd, asleep in bells:
        if words[asleep]:
            os.eventfd_write(fd, 1)
