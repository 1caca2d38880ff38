"""Ringing somebody else's doorbell."""

from __future__ import annotations

import os
from typing import NamedTuple

from remotemedia.core.multiprocess.transport.ledger import ALWAYS_ASLEEP


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


def wake_early(bells: tuple[Bell, ...], words: memoryview) -> dict[int, int] | None:
    """Ring readers that sleep before the message is made: they wake while we make it.

    A reader that is too quick finds nothing and goes to sleep again, in a nap of another number;
    only then is it rung again. Returns the naps that were rung, by sleep word.
    """
    rung = None
    for fd, asleep in bells:
        nap = words[asleep]
        if nap and nap != ALWAYS_ASLEEP:
            os.eventfd_write(fd, 1)
            rung = {asleep: nap} if rung is None else {**rung, asleep: nap}
    return rung
