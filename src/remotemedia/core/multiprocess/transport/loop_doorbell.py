"""A doorbell watched by an asyncio event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, TypeVar

from remotemedia.errors import ChannelClosed, ChannelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.transport.doorbell import Doorbell

T = TypeVar("T")


class LoopDoorbell:
    """Lets any number of tasks of the running loop wait on one doorbell. It never spins.

    Made and used in the loop's thread; meanwhile no other thread may wait on the same doorbell. It
    watches a duplicate of the descriptor, which it gives back in the loop's thread: so a doorbell
    can be closed in any thread, and its loop never watches a number that means something else.
    """

    @classmethod
    def of(cls, doorbell: Doorbell) -> LoopDoorbell:
        """Return the one that watches this doorbell for the running loop, made if need be.

        Raises:
            ChannelClosed: the doorbell is closed.
            ChannelError: tasks of another loop wait on it.
        """
        found = doorbell.watcher
        if found is not None:
            if found._loop is asyncio.get_running_loop() and not found._is_closed:
                return found
            found._make_way()
        return cls(doorbell)

    def __init__(self, doorbell: Doorbell) -> None:
        self._is_closed = True  # until there is something to close
        self._doorbell = doorbell
        self._waiters: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._fd = doorbell.duplicate()
        self._is_closed = False
        self._loop.add_reader(self._fd, self._rung)
        doorbell.watcher = self

    @property
    def is_waited_on(self) -> bool:
        """Whether tasks wait."""
        return bool(self._waiters)

    @property
    def is_waited_on_elsewhere(self) -> bool:
        """Whether tasks of another thread wait."""
        waits = bool(self._waiters) and not self._loop.is_closed()
        return waits and self._thread != threading.get_ident()

    async def wait_for(
        self, attempt: Callable[[], T | None], timeout_seconds: float | None
    ) -> T | None:
        """Call `attempt` until it gives something; None when the time is over first.

        A cancelled wait takes nothing: `attempt` is called only where its result is returned.

        Raises:
            ChannelClosed: the doorbell, or this, was closed.
            ChannelError: a thread is waiting on the same doorbell.
        """
        found = attempt()
        if found is not None or timeout_seconds == 0:
            return found
        deadline = None if timeout_seconds is None else self._loop.time() + timeout_seconds
        while True:
            rung = self._loop.create_future()
            self._waiters.add(rung)
            try:
                self._arm()
                found = attempt()
                if found is not None:
                    return found
                if await self._is_over(rung, deadline):
                    return attempt()
            finally:
                self._waiters.discard(rung)

    @staticmethod
    async def _is_over(rung: asyncio.Future[None], deadline: float | None) -> bool:
        if deadline is None:
            await rung
            return False
        # Not `asyncio.wait_for`: in Python 3.11 it loses a cancellation that comes with the result.
        try:
            async with asyncio.timeout_at(deadline):
                await rung
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        """Stop watching and end every wait with `ChannelClosed`. Twice is harmless."""
        if not self._is_closed:
            # What a forked child unregisters is unregistered for its parent: they share the poll.
            if not self._loop.is_closed() and not self._doorbell.is_inherited:
                self._loop.remove_reader(self._fd)
            self._let_go()
        self._wake()

    def note_closed(self) -> None:
        """Let go at once where that is possible; elsewhere the doorbell's last ring does it."""
        if self._loop.is_closed():
            self._let_go()
        elif self._thread == threading.get_ident():
            self.close()

    def __del__(self) -> None:
        self._let_go()

    def _arm(self) -> None:
        if self._is_closed:
            raise ChannelClosed("the doorbell is no longer watched by this event loop")
        if self._doorbell.is_waited_on:
            raise ChannelError(
                "a thread waits on this event loop's doorbell; give it ends and a doorbell of its "
                "own"
            )
        self._doorbell.arm()

    def _make_way(self) -> None:
        """Leave the doorbell to another event loop."""
        if self._is_closed:
            return
        if self._loop.is_closed():
            self._let_go()
        elif self._waiters:
            raise ChannelError(
                "two event loops wait on one doorbell; give each ends and a doorbell of its own"
            )
        else:
            with contextlib.suppress(RuntimeError):  # it closes just now
                self._loop.call_soon_threadsafe(self.close)

    def _let_go(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            os.close(self._fd)

    def _rung(self) -> None:
        if self._doorbell.is_closed or self._doorbell.watcher is not self:
            self.close()
        else:
            self._doorbell.clear(self._fd)
            self._doorbell.turns = 0  # of this loop: it runs
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
