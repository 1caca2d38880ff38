"""The synchronous twin, for scripts, notebooks and the REPL.

    with SyncRuntime() as runtime, runtime.session(pipeline) as session:
        for output in session.stream(Text("hello")):
            print(output.text)

An event loop in a thread of its own runs the asynchronous `Runtime`; every method here asks it and
waits. Any thread may use it, also one that runs an event loop, which is held up meanwhile.

Ctrl-C ends the wait that it meets with `KeyboardInterrupt`: what was waited for is cancelled first.
The end of a runtime is not cut short: it is bounded by the grace period. A second Ctrl-C, in the
end that the first has led to, kills the nodes: the end comes at once, and leaves as little.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from remotemedia.core.arguments import check_pipeline, check_seconds
from remotemedia.core.runtime import Runtime
from remotemedia.errors import ExecutorError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.stats import PortStats
    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.multiprocess.events import Event
    from remotemedia.core.multiprocess.executor import SessionExecutor
    from remotemedia.core.multiprocess.session import Session
    from remotemedia.core.multiprocess.states import ProcessState, SessionState
    from remotemedia.core.pipeline import Pipeline
    from remotemedia.core.registry import Registry
    from remotemedia.core.validation import ValidatedPipeline
    from remotemedia.data import RuntimeData

__all__ = ["SyncRuntime", "SyncSession"]

T = TypeVar("T")


class SyncRuntime:
    """Runs pipelines, from synchronous code; see `Runtime`, whose methods and errors it has.

    As a context manager it is shut down at the end of the block; else at `shutdown`, at the latest
    when the program exits.

    Args:
        config: settings of the executor "python".
        registry: where names of node types are found; None is the default registry.
    """

    def __init__(
        self, config: MultiprocessConfig | None = None, *, registry: Registry | None = None
    ) -> None:
        self._loop = _LoopThread()
        self._runtime = Runtime(config, registry=registry)
        atexit.register(self.shutdown)

    def register_executor(self, name: str, executor: SessionExecutor) -> None:
        """See `Runtime.register_executor`."""
        self._loop.ask(lambda: self._runtime.register_executor(name, executor))

    def create_session(
        self,
        session_id: str,
        pipeline: Pipeline | ValidatedPipeline,
        *,
        executor: str | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> SyncSession:
        """See `Runtime.create_session`; `on_event` is called in the thread of the runtime."""
        self._loop.forget_interrupt()
        create = self._runtime.create_session(
            session_id, pipeline, executor=executor, on_event=on_event
        )
        return SyncSession(self._loop.run(create), self._loop)

    @contextmanager
    def session(
        self,
        pipeline: Pipeline | ValidatedPipeline,
        session_id: str | None = None,
        *,
        executor: str | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> Iterator[SyncSession]:
        """See `Runtime.session`; `on_event` is called in the thread of the runtime."""
        # Imported here: its module starts the machinery of processes.
        from remotemedia.core.multiprocess.executor import new_session_id

        check_pipeline(pipeline, session_id)
        name = session_id or new_session_id()
        start = self.create_session(name, pipeline, executor=executor, on_event=on_event)
        with start as session:
            yield session

    def terminate_session(self, session_id: str) -> None:
        """See `Runtime.terminate_session`."""
        self._loop.run(self._runtime.terminate_session(session_id))

    @property
    def sessions(self) -> dict[str, SyncSession]:
        """The sessions of all executors, by name."""
        found = self._loop.ask(lambda: self._runtime.sessions)
        return {name: SyncSession(session, self._loop) for name, session in found.items()}

    def shutdown(self) -> None:
        """End every session, and the thread. Twice is harmless.

        A Ctrl-C meanwhile is raised when it is done, and a second one kills the nodes. In a forked
        child nothing happens: all of it is the parent's.
        """
        atexit.unregister(self.shutdown)
        self._loop.finish(self._runtime.shutdown, self._kill)

    async def _kill(self) -> None:
        kills = [session.kill() for session in self._runtime.sessions.values()]
        await asyncio.gather(*kills, return_exceptions=True)  # `shutdown` says what went wrong

    def __enter__(self) -> SyncRuntime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.note_exit(self._loop, kind)
        self.shutdown()


class SyncSession:
    """A running pipeline, from synchronous code; see `Session`, whose methods and errors it has.

    Made by `SyncRuntime`. As a context manager it closes at the end of the block, and is terminated
    where the block raises.
    """

    def __init__(self, session: Session, loop: _LoopThread) -> None:
        self._session = session
        self._loop = loop

    @property
    def session_id(self) -> str:
        """Its name."""
        return self._session.session_id

    @property
    def state(self) -> SessionState:
        """How far it is."""
        return self._session.state

    @property
    def nodes(self) -> dict[str, ProcessState]:
        """The state of every node."""
        return self._loop.ask(lambda: self._session.nodes)

    @property
    def pids(self) -> dict[str, int]:
        """The process of every node that was started."""
        return self._loop.ask(lambda: self._session.pids)

    def send(
        self, message: RuntimeData, to: str | None = None, *, timeout_seconds: float | None = None
    ) -> int:
        """See `Session.send`."""
        return self._loop.run(self._session.send(message, to, timeout_seconds=timeout_seconds))

    def send_nowait(self, message: RuntimeData, to: str | None = None) -> int:
        """See `Session.send_nowait`."""
        return self._loop.run(self._session.send_nowait(message, to))

    def recv(self, *, timeout_seconds: float | None = None) -> RuntimeData:
        """See `Session.recv`.

        Args:
            timeout_seconds: how long to wait; None is for ever.

        Raises:
            TimeoutError: nothing came in time; nothing is lost by it.
        """
        check_seconds("timeout_seconds", timeout_seconds)
        return self._loop.run(asyncio.wait_for(self._session.recv(), timeout_seconds))

    def outputs(self) -> Iterator[RuntimeData]:
        """See `Session.outputs`."""
        return self._loop.iterate(self._session.outputs())

    def stream(self, message: RuntimeData, to: str | None = None) -> Iterator[RuntimeData]:
        """See `Session.stream`."""
        return self._loop.iterate(self._session.stream(message, to))

    def events(self) -> Iterator[Event]:
        """See `Session.events`."""
        return self._loop.iterate(self._loop.ask(self._session.events))

    def stats(self) -> dict[str, PortStats]:
        """See `Session.stats`."""
        return self._loop.ask(self._session.stats)

    def interrupt(self) -> None:
        """See `Session.interrupt`."""
        self._loop.ask(self._session.interrupt)

    def close(self) -> None:
        """See `Session.close`."""
        self._loop.end(self._session, self._session.close(), self._session.kill)

    def terminate(self) -> None:
        """See `Session.terminate`."""
        self._loop.end(self._session, self._session.terminate(), self._session.kill)

    def kill(self) -> None:
        """See `Session.kill`."""
        self._loop.run(self._session.kill())

    def wait_ended(self) -> None:
        """See `Session.wait_ended`."""
        self._loop.run(self._session.wait_ended())

    def __enter__(self) -> SyncSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop.is_finished or self._loop.is_inherited:
            return  # it ended with the runtime; or it is the parent's
        self._loop.note_exit(self._session, kind)
        if kind is None:
            self.close()
        else:
            self.terminate()

    def __repr__(self) -> str:
        return f"<Sync{repr(self._session)[1:]}"


class _LoopThread:
    """An event loop in a thread of its own, started when it is first asked something."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._last: _Call[None] | None = None
        self._pid = os.getpid()
        # What a Ctrl-C has led to the end of, or met in its end: a session, or this for the whole.
        self._interrupted: object | None = None
        self.is_finished = False

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child: the thread is its parent's, and does not exist here."""
        return self._pid != os.getpid()

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """Run a coroutine to its end; Ctrl-C cancels it."""
        try:
            loop = self._started()
        except BaseException:
            coroutine.close()
            raise
        call = _Call(loop, coroutine)
        try:
            return call.future.result()
        except KeyboardInterrupt:
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
                    _Call(self._loop, kill())
        self.forget_interrupt()
        if interrupted is not None:
            raise interrupted

    def _finish(self, last: Callable[[], Coroutine[object, object, None]]) -> None:
        if self.is_inherited:
            return
        with self._lock:
            self.is_finished = True
        if self._loop is None or self._thread is None:
            return
        if self._last is None:
            self._last = _Call(self._loop, last())
        wait([self._last.future])
        with suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop = None
        self._last.future.result()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self.is_inherited:
            raise ExecutorError(
                "this runtime was made before the process was forked and belongs to the parent; "
                "make another here"
            )
        with self._lock:
            if self.is_finished:
                raise ExecutorError("the runtime was shut down; make another")
            if threading.current_thread() is self._thread:
                raise RuntimeError(
                    "this is the thread of the runtime's own event loop, which cannot wait for "
                    "itself; use the asynchronous Runtime here"
                )
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="remotemedia", daemon=True
                )
                self._thread.start()
            return self._loop

    def _let_go(self, source: AsyncIterator[object]) -> None:
        close = getattr(source, "aclose", None)
        loop = self._loop
        if close is None or loop is None or self.is_finished or self.is_inherited:
            return
        call: _Call[None] = _Call(loop, close())
        # An iterator that is garbage is let go of by whatever thread finds it.
        if threading.current_thread() is not self._thread:
            wait([call.future])


class _Call(Generic[T]):
    """A coroutine on its way on a loop, as other threads see it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[object, object, T]
    ) -> None:
        self.future: Future[T] = Future()
        self._coroutine = coroutine
        self._loop = loop
        self._task: asyncio.Task[T] | None = None
        loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        """Cancel it; on the loop."""
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = self._loop.create_task(_awaited(self._coroutine))
        self._task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.future.set_exception(ExecutorError("it was cancelled"))
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())


async def _awaited(coroutine: Coroutine[object, object, T]) -> T:
    return await coroutine


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        for task in (tasks := asyncio.all_tasks(loop)):
            task.cancel()  # its caller hears of it
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
