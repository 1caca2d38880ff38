"""Whether a node is stuck in one message, judged from the ledger by a timer that is seldom armed.

    idle --(the node says that it is busy)--> watched --(idle for a whole timeout)--> idle
                                                 `----(too long on one message)--> on_stall

A node says that it is busy when it begins a message and has not said so for a whole timeout: one
word per timeout at most, none while it is idle. The timer then looks at the ledger when the message
that is worked on would be late. What a node waits for room downstream does not count.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Look", "Watchdog", "is_traced"]

LATE_NS = 250_000_000
"""A timer that is later than this was not late for want of a CPU: this process was stopped."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the ledger says of a node.

    Attributes:
        began_ns: when it began the message it works on; 0 if it is idle.
        is_waiting: it waits for room downstream.
        blocked_ns: time it has waited for room so far.
        is_traced: a debugger holds its process.
    """

    began_ns: int
    is_waiting: bool
    blocked_ns: int
    is_traced: bool


class Watchdog:
    """Watches one node. Belongs to the running event loop.

    Args:
        seconds: how long one message may take.
        look: reads the ledger.
        on_stall: called once, when a message has taken longer.
    """

    def __init__(
        self, seconds: float, look: Callable[[], Look], on_stall: Callable[[], None]
    ) -> None:
        self._timeout_ns = int(seconds * 1e9)
        self._look = look
        self._on_stall = on_stall
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._told_ns = 0
        self._since_ns = 0  # no message counts as begun before
        self._blocked_ns = 0

    def note_busy(self, at_ns: int) -> None:
        """The node has begun a message at this time of `time.monotonic_ns()`."""
        self._told_ns = at_ns
        if self._timer is None:
            self._blocked_ns = self._look().blocked_ns
            self._arm(at_ns + self._timeout_ns)

    def close(self) -> None:
        """Watch no more. Twice is harmless."""
        self._timeout_ns = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, due_ns: int) -> None:
        if self._timeout_ns:
            self._due_ns = due_ns
            wait_seconds = max(0, due_ns - time.monotonic_ns()) / 1e9
            self._timer = self._loop.call_later(wait_seconds, self._check)

    def _check(self) -> None:
        self._timer = None
        now, found = time.monotonic_ns(), self._look()
        has_waited = found.is_waiting or found.blocked_ns != self._blocked_ns
        self._blocked_ns = found.blocked_ns
        if has_waited or found.is_traced or now - self._due_ns > LATE_NS:
            self._since_ns = now
        if not found.began_ns:
            # It tells again of what it begins a whole timeout after it told last, not before.
            if now <= self._told_ns + self._timeout_ns:
                self._arm(self._told_ns + self._timeout_ns + 1)
            return
        late_at = max(found.began_ns, self._since_ns) + self._timeout_ns
        if now >= late_at:
            self.close()
            self._on_stall()
        else:
            self._arm(late_at)


def is_traced(pid: int) -> bool:
    """Whether a debugger (gdb, strace) holds a process."""
    with suppress(OSError), open(f"/proc/{pid}/status") as file:  # it may be gone
        return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in file)
    return False
