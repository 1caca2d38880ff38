"""Models that work in threads, beside an event loop that can be interrupted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

__all__ = ["default_threads", "made_in_thread"]

T = TypeVar("T")


def default_threads() -> int:
    """Return how many threads a model runs on unless told: half of what there is, at most 4.

    The other nodes of a pipeline work at the same time, and threads that wait for each other on a
    processor that is busy are slower than one.
    """
    return max(1, min(4, len(os.sched_getaffinity(0)) // 2))


async def made_in_thread(make: Callable[[Callable[[T], bool]], object]) -> AsyncGenerator[T, None]:
    """Yield what a function makes in a thread, as it makes it.

    When this is closed or cancelled, the function is told so when it puts the next item, and
    waited for: nothing of it goes on afterwards.

    Args:
        make: called with `put`, which takes an item and returns whether more is wanted.

    Raises:
        Exception: what the function raised.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    made: asyncio.Queue[T | None] = asyncio.Queue()
    is_wanted = True

    def put(item: T) -> bool:
        loop.call_soon_threadsafe(made.put_nowait, item)
        return is_wanted

    work = asyncio.ensure_future(asyncio.to_thread(make, put))
    work.add_done_callback(lambda _: made.put_nowait(None))
    try:
        while (item := await made.get()) is not None:
            yield item
        await work
    finally:
        is_wanted = False
        await asyncio.wait([work])
