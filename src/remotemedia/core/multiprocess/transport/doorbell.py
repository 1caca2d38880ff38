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

import os
import select
import threading
import time
import types
from typing import TYPE_CHECKING, NoReturn, TypeVar

from remotemedia.core.multiprocess.transport.forks import inherited, tell_children
from remotemedia.core.multiprocess.transport.ledger import ALWAYS_ASLEEP, EndpointWord
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.core.multiprocess.transport.membarrier import membarrier
from remotemedia.errors import ChannelClosed, ChannelError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from remotemedia.core.multiprocess.transport.loop_doorbell import LoopDoorbell

T = TypeVar("T")
DEFAULT_SPIN_NS = 50_000
TURNS = 32
"""Sends and receives in a row before other tasks of an event loop are given a turn: who always
finds room, or a message, never waits."""
_MAX_POLL_MS = 1 << 30  # poll(2) takes an int; a longer wait is several


@types.coroutine
def give_way() -> Generator[None, None, None]:
    """Give other tasks of the event loop a turn: `asyncio.sleep(0)`, which need not be imported."""
    yield


class Doorbell:
    """The doorbell of one process, held by that process. Serves one waiting thread at a time.

    Args:
        words: the ledger.
        slot: the process's endpoint block.
        fd: the eventfd, non-blocking; owned by the doorbell from now on.
        spin_ns: how long to look again and again, yielding the processor, before blocking.

    Attributes:
        fd: as above; -1 once it is closed.
        watcher: the event loop's view of it, if a loop watches it. Set by `LoopDoorbell`.
        turns: how often tasks have sent and received since other tasks had their turn.
        is_inherited: this is a forked child: the doorbell is its parent's, and closed here.
    """

    def __init__(
        self, words: memoryview, slot: int, fd: int, spin_ns: int = DEFAULT_SPIN_NS
    ) -> None:
        self.fd = fd
        self.spin_ns = spin_ns
        self.watcher: LoopDoorbell | None = None
        self.is_inherited = False
        self._words = words
        self._asleep = slot + EndpointWord.ASLEEP
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)
        # Reentrant, because it knows whose it is: giving it back is one call whoever has it.
        self._waiting = threading.RLock()
        self._waiter = 0  # the thread that waits
        self.turns = 0
        self._closing = threading.RLock()  # nobody rings a descriptor that is gone
        self._closed = False
        if not membarrier.is_available:
            words[self._asleep] = ALWAYS_ASLEEP
        tell_children(self)

    def disown(self) -> None:
        """Leave it to the parent process: no wait, and no ring, which would be for the parent."""
        self.is_inherited = self._closed = True
        self.watcher = None
        self._waiting, self._closing, self._waiter = threading.RLock(), threading.RLock(), 0

    @staticmethod
    def new_fd() -> int:
        """Make the descriptor of a doorbell; the caller owns it.

        Raises:
            ResourceLimit: too many files are open.
        """
        with limits_named("making a doorbell"):
            return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def is_fenced(self) -> bool:
        """Whether `fence` works; where it does not, this process counts as always asleep."""
        return membarrier.is_available

    @property
    def is_asleep(self) -> bool:
        """Whether this process says that it waits."""
        return bool(self._words[self._asleep])

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def is_waited_on(self) -> bool:
        """Whether a thread waits on it now."""
        return self._waiter != 0

    def wait_for(
        self,
        attempt: Callable[[], T | None],
        timeout_seconds: float | None,
        *,
        has_looked: bool = False,
    ) -> T | None:
        """Call `attempt` until it gives something; None when the time is over first.

        Args:
            attempt: looks for what is waited for.
            timeout_seconds: how long to wait; None is for ever, 0 not at all.
            has_looked: the caller has looked already, and for the spin time too.

        Raises:
            ChannelClosed: the doorbell was closed meanwhile.
            ChannelError: another thread, or an event loop in one, is waiting on this doorbell.
        """
        if not has_looked or timeout_seconds == 0:
            found = attempt()
            if found is not None or timeout_seconds == 0:
                return found
        watcher = self.watcher
        is_elsewhere = watcher is not None and watcher.is_waited_on_elsewhere
        if is_elsewhere or self._waiter == threading.get_ident():
            return self._refuse()
        return self._wait(attempt, timeout_seconds, otherwise=self._refuse, has_looked=has_looked)

    def ends_turn(self) -> bool:
        """Count one more call of a task; whether to give other tasks a turn before it."""
        self.turns = (self.turns + 1) % TURNS
        return self.turns == 0

    def in_loop(self) -> LoopDoorbell:
        """Return what tasks of the running loop wait on; errors as `LoopDoorbell.of`."""
        # Imported here: a synchronous node's process has no event loop.
        from remotemedia.core.multiprocess.transport.loop_doorbell import LoopDoorbell

        return LoopDoorbell.of(self)

    def wait_last(self, attempt: Callable[[], T | None], timeout_seconds: float) -> T | None:
        """Wait as `wait_for` does, after the thread that waits now and is about to leave."""
        if self.is_inherited or self._waiter == threading.get_ident():
            return attempt()  # there is no such thread; or a signal handler interrupted the wait
        return self._wait(attempt, timeout_seconds, otherwise=attempt, turn_seconds=timeout_seconds)

    @staticmethod
    def _refuse() -> NoReturn:
        raise ChannelError(
            "two threads wait on one doorbell; give each thread ends and a doorbell of its own"
        )

    def _wait(
        self,
        attempt: Callable[[], T | None],
        timeout_seconds: float | None,
        *,
        otherwise: Callable[[], T | None],
        turn_seconds: float = 0.0,
        has_looked: bool = False,
    ) -> T | None:
        """Wait, or do something else if another thread waits for `turn_seconds` more.

        A signal handler may raise after every call here, and leaves it to nobody.
        """
        began = time.monotonic()
        try:
            if not self._waiting.acquire(timeout=min(turn_seconds, threading.TIMEOUT_MAX)):
                return otherwise()
            if turn_seconds and timeout_seconds is not None:
                timeout_seconds = max(0, timeout_seconds - (time.monotonic() - began))
            return self._wait_alone(attempt, timeout_seconds, has_looked=has_looked)
        finally:
            try:  # noqa: SIM105 (a handler could raise before `suppress` is left for the release)
                self._waiting.release()
            except RuntimeError:
                pass  # it never was ours

    def _wait_alone(
        self, attempt: Callable[[], T | None], timeout_seconds: float | None, *, has_looked: bool
    ) -> T | None:
        try:
            self._waiter = threading.get_ident()
            found = None if has_looked else self.spin(attempt, timeout_seconds)
            return self._block(attempt, timeout_seconds) if found is None else found
        finally:
            self._waiter = 0
            if self._closed:
                self._give_back()
            elif self.watcher is not None and self.watcher.is_waited_on:
                self.ring()  # we may have silenced what rang for a task of our thread's loop

    def spin(
        self, attempt: Callable[[], T | None], timeout_seconds: float | None = None
    ) -> T | None:
        """Call `attempt` again and again for the spin time, yielding the processor in between."""
        for_ns = self.spin_ns
        if not for_ns:
            return None
        if timeout_seconds is not None:
            for_ns = int(min(for_ns, timeout_seconds * 1e9))
        now, give_way = time.monotonic_ns, os.sched_yield
        until = now() + for_ns
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
            if found is not None:
                self.clear()
                return found
            left = None if deadline is None else (deadline - time.monotonic()) * 1000
            if left is not None and left <= 0:
                self.clear()
                return None
            self._poller.poll(None if left is None else min(left, _MAX_POLL_MS))
            self.clear()
            found = attempt()
            if found is not None:
                return found

    def arm(self) -> None:
        """Say that this process is about to sleep; look once more after this, then sleep.

        Raises:
            ChannelClosed: the doorbell is closed.
        """
        self._require_open()
        if membarrier.is_available:
            self._words[self._asleep] = 1
            membarrier.fence()

    @staticmethod
    def fence() -> None:
        """Order what this thread wrote before what it reads next, and the same for its peers."""
        membarrier.fence()

    def clear(self, fd: int | None = None) -> None:
        """Say that this process is awake, and silence what rang.

        Args:
            fd: a duplicate of the doorbell's descriptor; None is the doorbell's own.
        """
        if membarrier.is_available:
            self._words[self._asleep] = 0
        try:  # noqa: SIM105 (a context manager costs what half a look costs)
            os.eventfd_read(self.fd if fd is None else fd)
        except BlockingIOError:
            pass

    def ring(self) -> None:
        """Wake the process, whether or not it sleeps. Any thread may call it."""
        with self._closing:
            if not self._closed:
                os.eventfd_write(self.fd, 1)

    def duplicate(self) -> int:
        """Duplicate the descriptor; the caller owns the duplicate.

        Raises:
            ChannelClosed: the doorbell is closed.
            ResourceLimit: too many files are open.
        """
        with self._closing:
            self._require_open()
            with limits_named("watching a doorbell"):
                return os.dup(self.fd)

    def close(self) -> None:
        """End every wait on it with `ChannelClosed`, in any thread. Twice is harmless.

        A wait in another thread has ended when this returns. One further up in this thread (this
        may be a signal handler) ends when it is returned to. A call that was interrupted may be
        repeated.
        """
        with self._closing:
            if not self._closed:
                self._closed = True
                os.eventfd_write(self.fd, 1)
        if self.fd >= 0 and self._waiter != threading.get_ident():
            with self._waiting:
                self._give_back()

    def _require_open(self) -> None:
        if self.is_inherited:
            raise inherited()
        if self._closed:
            raise ChannelClosed("the doorbell was closed; its ends cannot be waited on any more")

    def _give_back(self) -> None:
        with self._closing:  # `close` may be about to ring
            fd = self.fd
            if fd >= 0:
                if self.watcher is not None:
                    os.eventfd_write(fd, 1)  # a waiting thread may have silenced the first ring
                    self.watcher.note_closed()
                self.fd = -1  # last, so that an interrupted call can be repeated
                os.close(fd)
