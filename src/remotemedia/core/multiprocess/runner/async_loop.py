"""The loop of an asynchronous node: an event loop on the main thread."""

from __future__ import annotations

import asyncio
import inspect
from functools import partial
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.runner.context import (
    close_outputs,
    is_async_stream,
    opened,
    outputs_of,
)
from remotemedia.core.multiprocess.runner.work import Found, Stopped, Wake, Work
from remotemedia.core.multiprocess.transport.doorbell import give_way
from remotemedia.core.multiprocess.transport.loop_doorbell import LoopDoorbell
from remotemedia.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CANCELLED", "AsyncLoop"]

CANCELLED = "it was cancelled, by code of the node: what it awaited was a task that was cancelled"


class AsyncLoop(Work):
    """Runs a node on the running event loop, in the task that calls `run`."""

    async def run(self, source: Callable[[], object] | None) -> None:
        """Work until no message will come any more, and let `finish` emit what is left.

        Args:
            source: the `process` of a node without inputs.

        Raises:
            Stopped: the runner was told to stop.
            Exception: what the node raised.
        """
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._task = task
        self._is_busy = self._is_source = self._is_interrupting = False
        self._cancelled_by: set[str] = set()
        self.commands.wake_with(lambda: loop.call_soon_threadsafe(self._on_news))
        try:
            if source is not None:
                await self._work(source, is_source=True)
            else:
                await self._serve()
            self.is_finishing = True
            await self._work(self.node.finish)
        except ChannelClosed:
            if self.commands.is_stopping:
                raise Stopped from None
            raise
        self.finish_outputs()

    async def _serve(self) -> None:
        doorbell = LoopDoorbell.of(self.endpoint.doorbell)
        while True:
            found: Found | None = await doorbell.wait_for(self.attempt, None)
            assert found is not None
            if isinstance(found, Wake):
                if found is Wake.FINISHED:
                    return
                if found is Wake.ENDED:
                    self.announce_ended()
                elif self.attach():
                    await self._interrupt()
                continue
            subscriber, message = found
            del found  # the message is to die with its handler
            if self.enter(subscriber.epoch):
                await self._interrupt()  # heard of here before the control connection told it
            began = self.begin(subscriber, message)
            make = partial(self.handlers[subscriber], message)
            try:
                await self._work(make)
            except (Stopped, ChannelClosed):
                raise
            except Exception as error:
                self.note_failure(error)  # raises it again, unless the node is to live on
            del message, make
            self.end(began)
            if self.endpoint.doorbell.ends_turn():
                await give_way()

    async def _work(self, make: Callable[[], object], *, is_source: bool = False) -> None:
        """Emit what a handler makes; an interrupt cancels it, a stop ends it with `Stopped`.

        A source is not cancelled by an interrupt: what it makes next is wanted again.
        """
        self._is_busy, self._is_source = True, is_source
        is_cut_short = False
        try:
            await self._emit_result(make(), is_source=is_source)
        except asyncio.CancelledError as error:
            if not self._cancelled_by:
                raise RuntimeError(CANCELLED) from error
            is_cut_short = self.commands.is_stopping or not is_source
        finally:
            self._is_busy = False
            for _ in self._cancelled_by:
                self._task.uncancel()  # a count that stays would mislead the node's next TaskGroup
            self._cancelled_by.clear()
        if is_cut_short and self.attach():
            await self._interrupt()

    async def _emit_result(self, result: object, *, is_source: bool) -> None:
        if inspect.isawaitable(result):
            result = await result
        if is_async_stream(result):
            async with opened(result) as stream:
                async for output in stream:
                    if is_source:
                        await self._heed_interrupt()
                    await self._emit(output)
                    if is_source and await self._is_source_done():
                        return
            return
        outputs = outputs_of(result)
        try:
            for output in outputs:
                if is_source:
                    await self._heed_interrupt()
                await self._emit(output)
                if is_source and await self._is_source_done():
                    return
                if not is_source and self.is_outdated:
                    return  # the hook is called as soon as the loop looks for news
        finally:
            close_outputs(outputs)

    async def _emit(self, output: object) -> None:
        publisher, message = self.context.route(output)
        await publisher.send_async(message)
        if self.commands.changes:  # one that awaits nothing hears of them nowhere else
            self.change_connections(self.commands.take_changes())

    async def _is_source_done(self) -> bool:
        if not self.commands.is_draining:
            await self._heed_interrupt()
        return self.commands.is_draining

    async def _heed_interrupt(self) -> None:
        """Have what a source makes from here on be of the present epoch: it is wanted."""
        if self.is_outdated and self.attach():
            await self._interrupt()

    async def _interrupt(self) -> None:
        """Call the node's hook; a stop cancels it, so that it holds up no end."""
        if self.commands.is_stopping:
            raise Stopped
        done = self.node.interrupt()
        if inspect.isawaitable(done):
            self._is_interrupting = True
            try:
                await done
            finally:
                self._is_interrupting = False

    def _on_news(self) -> None:
        """Cancel what the node does if it is to end: once, as it may clean up, again for a stop.

        Connections change while it awaits something: it may do that for long.
        """
        if self.commands.changes:
            self.change_connections(self.commands.take_changes())
        if self._is_ours_to_end():
            reason = "stop" if self.commands.is_stopping else "interrupt"
            if not self._cancelled_by & {reason, "stop"}:
                self._cancelled_by.add(reason)
                self._task.cancel()

    def _is_ours_to_end(self) -> bool:
        """Whether what was asked wants what the node does to end now."""
        if not self._is_busy:
            return self._is_interrupting and self.commands.is_stopping
        if self._is_source:
            return self.commands.is_stopping or self.commands.is_draining
        return self.commands.is_stopping or self.is_outdated
