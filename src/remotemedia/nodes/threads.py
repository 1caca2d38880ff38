"""Models that work in threads, beside an event loop that can be interrupted."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Generic, TypeVar

from remotemedia.core.uncancelled import to_its_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

__all__ = ["Outlet", "default_threads", "made_in_thread"]

T = TypeVar("T")


def default_threads() -> int:
    """Return how many threads a model runs on unless told: half of what there is, at most 4.

    The other nodes of a pipeline work at the same time, and threads that wait for each other on a
    processor that is busy are slower than one.
    """
    return max(1, min(4, len(os.sched_getaffinity(0)) // 2))


class Outlet(Generic[T]):
    """Where a function in a thread puts what it makes.

    Attributes:
        is_wanted: whether anything more is; to be asked between the steps of the work, also where
            a step makes nothing to put.
    """

    def __init__(self) -> None:
        self.is_wanted = True
        self._loop = asyncio.get_running_loop()
        self._made: asyncio.Queue[T | None] = asyncio.Queue()

    def put(self, item: T) -> None:
        """Add an item, from the thread."""
        self._loop.call_soon_threadsafe(self._made.put_nowait, item)

    def end(self) -> None:
        """Add the end, from the event loop."""
        self._made.put_nowait(None)

    async def get(self) -> T | None:
        """Wait for the next item; None is the end."""
        return await self._made.get()


async def made_in_thread(make: Callable[[Outlet[T]], object]) -> AsyncGenerator[T, None]:
    """Yield what a function makes in a thread, as it makes it.

    When this is closed or cancelled, the function is told so by the outlet's `is_wanted`, and
    waited for, however often this is cancelled: nothing of it goes on afterwards.

    Args:
        make: called with the outlet that its items go to.

    Raises:
        Exception: what the function raised.
    """
    outlet: Outlet[T] = Outlet()
    work = asyncio.ensure_future(asyncio.to_thread(make, outlet))
    work.add_done_callback(lambda _: outlet.end())
    try:
        while (item := await outlet.get()) is not None:
            yield item
        await work
    finally:
        outlet.is_wanted = False
        await to_its_end(asyncio.wait([work]))
