"""An event loop in a thread of its own, for callers of other threads who wait for what it runs."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from remotemedia.core.multiprocess.transport.forks import inherited_whole
from remotemedia.core.multiprocess.transport.limits import MORE_PROCESSES
from remotemedia.errors import ExecutorError, ResourceLimit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

__all__ = ["LoopThread"]

T = TypeVar("T")
SHUT_DOWN = "the runtime was shut down; make another"


class LoopThread:
    """An event loop in a thread of its own, started when it is first asked something."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._last: _Call[None] | None = None
        # On their way: what the loop leaves behind as it is closed is refused. No lock instead: an
        # iterator that is garbage is let go of wherever it is found, also by who holds the lock.
        self._calls: set[_Call[Any]] = set()
        self._pid: int | None = None  # of the process that started it
        # What a Ctrl-C has led to the end of, or met in its end: a session, or this for the whole.
        self._interrupted: object | None = None
        self.is_finished = False

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child: the thread is its parent's, and does not exist here."""
        return self._pid not in (None, os.getpid())

    def start(self) -> asyncio.AbstractEventLoop:
        """Start it if nothing has, and return its event loop.

        Raises:
            ExecutorError: it has ended, or is a parent's.
            ResourceLimit: there are as many threads as there may be.
            RuntimeError: this is the thread itself, which cannot wait for itself.
        """
        if self.is_inherited:
            raise inherited_whole("the runtime")
        with self._lock:
            if self.is_finished:
                raise ExecutorError(SHUT_DOWN)
            if threading.current_thread() is self._thread:
                raise RuntimeError(
                    "this is the thread of the runtime's own event loop, which cannot wait for "
                    "itself; use the asynchronous Runtime here"
                )
            if self._loop is None:
                self._start_thread()
            assert self._loop is not None
            return self._loop

    def _start_thread(self) -> None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(
            target=_serve, args=(loop, self._calls), name="remotemedia", daemon=True
        )
        self._pid = os.getpid()
        self._loop, self._thread = loop, thread  # both or none, wherever a Ctrl-C strikes
        try:
            thread.start()
        except RuntimeError as error:  # else all would wait for a thread that never ran
            self._loop = self._thread = None
            loop.close()
            raise ResourceLimit(
                f"starting the thread of the runtime failed: {error}; {MORE_PROCESSES}"
            ) from error

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """Run a coroutine to its end; Ctrl-C cancels it.

        Raises:
            ExecutorError: the thread has ended, or ends before the coroutine; or is a parent's.
            RuntimeError: this is the thread itself.
            Exception: what the coroutine raised.
        """
        try:
            loop = self.start()
        except BaseException:
            coroutine.close()
            raise
        call = _Call(loop, coroutine, self._calls)
        try:
            return call.future.result()
        except KeyboardInterrupt:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(call.cancel)
            wait([call.future])
            raise

    def note_exit(self, what: object, kind: type[BaseException] | None) -> None:
        """Take note of what the block of a session, or of this, is left by, before it is ended.

        If it is Ctrl-C, the next one in that end is the second.
        """
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._interrupted = what

    def forget_interrupt(self) -> None:
        """Take the next Ctrl-C in an end for the first: what is ended now is something else."""
        self._interrupted = None

    def end(
        self,
        session: object,
        coroutine: Coroutine[object, object, None],
        kill: Callable[[], Coroutine[object, object, None]],
    ) -> None:
        """Run what ends a session; the first Ctrl-C cancels it, and the second kills."""
        is_over = True
        try:
            self.run(coroutine)
        except KeyboardInterrupt:
            is_over, self._interrupted = self._interrupted is session, session
            if is_over:
                self.run(kill())
            raise
        finally:
            if is_over and self._interrupted is session:
                self.forget_interrupt()

    def ask(self, function: Callable[[], T]) -> T:
        """Call a function on the loop."""

        async def call() -> T:
            return function()

        return self.run(call())

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """Iterate over an asynchronous iterator; left early, it is closed."""

        async def following() -> tuple[T] | None:
            async for item in source:
                return (item,)
            return None

        try:
            while (found := self.run(following())) is not None:
                yield found[0]
        finally:
            self._let_go(source)

    def finish(
        self,
        last: Callable[[], Coroutine[object, object, None]],
        kill: Callable[[], Coroutine[object, object, None]],
    ) -> None:
        """Run `last` to its end whatever happens, and end the thread. Twice is harmless.

        The second Ctrl-C runs `kill` beside it.
        """
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                self._finish(last)
                break
            except KeyboardInterrupt as error:  # wherever it struck, go on from there
                interrupted = error
                # A session's end that was interrupted goes on within this one.
                is_second, self._interrupted = self._interrupted is not None, self
                # While `last` runs, so does the loop: it is this thread that stops it.
                if is_second and self._loop and self._last and not self._last.future.done():
                    _Call(self._loop, kill(), self._calls)
        self.forget_interrupt()
        if interrupted is not None:
            raise interrupted

    def _finish(self, last: Callable[[], Coroutine[object, object, None]]) -> None:
        if self.is_inherited:
            return
        with self._lock:
            self.is_finished = True
        loop, thread = self._loop, self._thread  # another thread may finish it meanwhile
        if loop is None or thread is None:
            return
        if self._last is None:
            self._last = _Call(loop, last(), self._calls)
        wait([self._last.future])
        with suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(loop.stop)
        thread.join()
        self._loop = None
        self._last.future.result()

    def _let_go(self, source: AsyncIterator[object]) -> None:
        close = getattr(source, "aclose", None)
        loop = self._loop
        if close is None or loop is None or self.is_finished or self.is_inherited:
            return
        call: _Call[None] = _Call(loop, close(), self._calls)
        # An iterator that is garbage is let go of by whatever thread finds it.
        if threading.current_thread() is not self._thread:
            wait([call.future])


class _Call(Generic[T]):
    """A coroutine on its way on a loop, as other threads see it.

    Args:
        loop: runs it.
        coroutine: what is run; owned.
        calls: those on their way: this one, until its future is set.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[object, object, T],
        calls: set[_Call[Any]],
    ) -> None:
        self.future: Future[T] = Future()
        self._coroutine = coroutine
        self._loop = loop
        self._calls = calls
        self._task: asyncio.Task[T] | None = None
        calls.add(self)  # before it is closed, which refuses it; or after, and then it says so
        try:
            loop.call_soon_threadsafe(self._start)
        except RuntimeError:
            self.refuse()

    def cancel(self) -> None:
        """Cancel it; on the loop."""
        if self._task is not None:
            self._task.cancel()

    def refuse(self) -> None:
        """Have it fail: the loop is closed and has not begun it. Twice is harmless."""
        self._calls.discard(self)
        self._coroutine.close()
        with suppress(InvalidStateError):
            self.future.set_exception(ExecutorError(SHUT_DOWN))

    def _start(self) -> None:
        self._task = self._loop.create_task(_awaited(self._coroutine))
        self._task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Task[T]) -> None:
        self._calls.discard(self)
        if task.cancelled():
            self._coroutine.close()  # it may not have begun
            self.future.set_exception(ExecutorError("it was cancelled"))
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())


async def _awaited(coroutine: Coroutine[object, object, T]) -> T:
    return await coroutine


def _serve(loop: asyncio.AbstractEventLoop, calls: set[_Call[Any]]) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        _end_tasks(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        _end_tasks(loop)  # of calls that came meanwhile
        loop.close()
        for call in list(calls):
            call.refuse()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all tasks, also those that begin meanwhile; their callers hear of it."""
    while tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
