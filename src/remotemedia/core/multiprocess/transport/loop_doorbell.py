"""A doorbell watched by an asyncio event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.transport.doorbell import Doorbell

T = TypeVar("T")


class LoopDoorbell:
    """Lets any number of tasks of the running loop wait on one doorbell. It never spins.

    Made and used in the loop's thread; meanwhile no thread may wait on the same doorbell.
    """

    _all: ClassVar[WeakKeyDictionary[Doorbell, LoopDoorbell]] = WeakKeyDictionary()

    @classmethod
    def of(cls, doorbell: Doorbell) -> LoopDoorbell:
        """Return the one that watches this doorbell for the running loop, made if need be."""
        found = cls._all.get(doorbell)
        if found is None or found._loop is not asyncio.get_running_loop():
            found = cls._all[doorbell] = cls(doorbell)
        return found

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._waiters: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(doorbell.fd, self._rung)

    async def wait_for(
        self, attempt: Callable[[], T | None], timeout_seconds: float | None
    ) -> T | None:
        """Call `attempt` until it gives something; None when the time is over first.

        A cancelled wait takes nothing: `attempt` is called only where its result is returned.

        Raises:
            ChannelClosed: the doorbell was closed.
        """
        found = attempt()
        if found is not None or timeout_seconds == 0:
            return found
        deadline = None if timeout_seconds is None else self._loop.time() + timeout_seconds
        while True:
            rung = self._loop.create_future()
            self._waiters.add(rung)
            try:
                self._doorbell.arm()
                found = attempt()
                if found is not None:
                    return found
                left = None if deadline is None else deadline - self._loop.time()
                await asyncio.wait_for(rung, left)
            except TimeoutError:
                return attempt()
            finally:
                self._waiters.discard(rung)

    def close(self) -> None:
        """Stop watching and end every wait with `ChannelClosed`. Twice is harmless."""
        self._loop.remove_reader(self._doorbell.fd)
        self._rung()

    def _rung(self) -> None:
        self._doorbell.clear()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
