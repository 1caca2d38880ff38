"""Waking a process that waits, and waiting without losing a wake-up.

A doorbell is an eventfd: it coalesces, has no queue to overflow, and both `poll` and an event
loop can watch it. A process that is about to block says so in one ledger word, and looks once
more; who has news for it writes the news first and reads that word after. So a busy process is
never rung, and no ring is lost, provided that neither side's write can pass its own read. The
sleeper pays for that: `membarrier(2)` puts a full fence on both sides, and the side that sends
pays nothing. Where the kernel has no membarrier, processes count as always asleep, and every send
rings.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from remotemedia.core.errors import ChannelClosed, ChannelError
from remotemedia.core.multiprocess.transport.ledger import EndpointWord

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
DEFAULT_SPIN_NS = 50_000

_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283}.get(os.uname().machine)
_CMD_GLOBAL_EXPEDITED = 1 << 1
_CMD_REGISTER_GLOBAL_EXPEDITED = 1 << 2


class _Membarrier:
    """The system call, and whether this process may use it."""

    def __init__(self) -> None:
        self._call = ctypes.CDLL(None).syscall
        self.is_available = _SYS_MEMBARRIER is not None and not self._command(
            _CMD_REGISTER_GLOBAL_EXPEDITED
        )

    def _command(self, command: int) -> int:
        result: int = self._call(_SYS_MEMBARRIER, command, 0, 0)
        return result

    def fence(self) -> None:
        """Order all memory accesses of all registered processes around this point."""
        if self._command(_CMD_GLOBAL_EXPEDITED):
            raise ChannelError("membarrier failed after it was registered")


_membarrier = _Membarrier()


class Doorbell:
    """The doorbell of one process, held by that process. Serves one waiting thread at a time.

    Args:
        words: the ledger.
        slot: the process's endpoint block.
        fd: the eventfd, non-blocking; owned by the doorbell from now on.
        spin_ns: how long to look again and again, yielding the processor, before blocking.
    """

    def __init__(
        self, words: memoryview, slot: int, fd: int, spin_ns: int = DEFAULT_SPIN_NS
    ) -> None:
        self.fd = fd
        self.spin_ns = spin_ns
        self._words = words
        self._asleep = slot + EndpointWord.ASLEEP
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)
        self._waiting = threading.Lock()
        self._closed = False
        if not _membarrier.is_available:
            words[self._asleep] = 1

    @staticmethod
    def new_fd() -> int:
        """Make the descriptor of a doorbell; the caller owns it."""
        return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wait_for(self, attempt: Callable[[], T | None], timeout_seconds: float | None) -> T | None:
        """Call `attempt` until it gives something; None when the time is over first.

        Raises:
            ChannelClosed: the doorbell was closed meanwhile.
            ChannelError: another thread is waiting on this doorbell.
        """
        found = attempt()
        if found is not None or timeout_seconds == 0:
            return found
        if not self._waiting.acquire(blocking=False):
            raise ChannelError(
                "two threads wait on one doorbell; give each thread ends and a doorbell of its own"
            )
        try:
            found = self.spin(attempt)
            return self._block(attempt, timeout_seconds) if found is None else found
        finally:
            self._waiting.release()

    def spin(self, attempt: Callable[[], T | None]) -> T | None:
        """Call `attempt` again and again for the spin time, yielding the processor in between."""
        now, give_way = time.monotonic_ns, os.sched_yield
        until = now() + self.spin_ns if self.spin_ns else 0
        while now() < until:
            give_way()
            found = attempt()
            if found is not None:
                return found
        return None

    def _block(self, attempt: Callable[[], T | None], timeout_seconds: float | None) -> T | None:
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            self.arm()
            found = attempt()
            if found is None:
                left = None if deadline is None else (deadline - time.monotonic()) * 1000
                if left is not None and left <= 0:
                    self.clear()
                    return None
                self._poller.poll(left)
                self.clear()
                found = attempt()
            else:
                self.clear()
            if found is not None:
                return found

    def arm(self) -> None:
        """Say that this process is about to sleep; look once more after this, then sleep.

        Raises:
            ChannelClosed: the doorbell is closed.
        """
        if self._closed:
            raise ChannelClosed("the doorbell was closed; its ends cannot be waited on any more")
        if _membarrier.is_available:
            self._words[self._asleep] = 1
            _membarrier.fence()

    def clear(self) -> None:
        """Say that this process is awake, and silence what rang."""
        if _membarrier.is_available:
            self._words[self._asleep] = 0
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def ring(self) -> None:
        """Wake the process, whether or not it sleeps. Any thread may call it."""
        if not self._closed:
            os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """End every wait on it with `ChannelClosed`, in any thread. Twice is harmless."""
        if not self._closed:
            self._closed = True
            os.eventfd_write(self.fd, 1)
            with self._waiting:
                os.close(self.fd)
