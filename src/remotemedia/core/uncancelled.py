"""Work that goes on by itself: begun in its turn, and not cut short by a cancellation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

__all__ = ["begin_task", "to_its_end"]

T = TypeVar("T")


def begin_task(work: Coroutine[object, object, T]) -> asyncio.Task[T]:
    """Have the running loop do some work, of which nothing is done before this has returned.

    As `asyncio.create_task`, also on a loop whose tasks begin at once (asyncio.eager_task_factory):
    what came of the work would be there before whoever began it had noted that it is under way.
    """
    return asyncio.Task(work, loop=asyncio.get_running_loop())


async def to_its_end(work: Awaitable[T]) -> T:
    """Await work to its end whatever happens; a cancellation meanwhile is raised then.

    For what cleans up: `asyncio.gather` passes a cancellation on, also to coroutines that have not
    taken a step, and these then never take one.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()
