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
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from remotemedia.core.arguments import check_pipeline
from remotemedia.core.loop_thread import LoopThread
from remotemedia.core.runtime import Runtime
from remotemedia.errors import ExecutorError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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


class SyncRuntime:
    """Runs pipelines, from synchronous code; see `Runtime`, whose methods and errors it has.

    As a context manager it is shut down at the end of the block; else at `shutdown`, at the latest
    when the program exits.

    Args:
        config: settings of the executors "python" and "inline".
        registry: where names of node types are found; None is the default registry.
    """

    def __init__(
        self, config: MultiprocessConfig | None = None, *, registry: Registry | None = None
    ) -> None:
        self._thread = LoopThread()
        self._runtime = Runtime(config, registry=registry)
        atexit.register(self.shutdown)

    def register_executor(self, name: str, executor: SessionExecutor) -> None:
        """See `Runtime.register_executor`."""
        self._thread.ask(lambda: self._runtime.register_executor(name, executor))

    def create_session(
        self,
        session_id: str,
        pipeline: Pipeline | ValidatedPipeline,
        *,
        executor: str | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> SyncSession:
        """See `Runtime.create_session`; `on_event` is called in the thread of the runtime.

        A `sys.exit` in it ends nothing there, as in any thread.
        """
        self._thread.forget_interrupt()
        listener = None if on_event is None else partial(_tell, on_event)
        create = self._runtime.create_session(
            session_id, pipeline, executor=executor, on_event=listener
        )
        try:
            return SyncSession(self._thread.run(create), self._thread)
        except (PipelineError, ExecutorError) as error:
            # It says what is wrong, and where in the node; the rest of the trace is ours.
            raise error.with_traceback(None) from error.__cause__

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
        try:
            start = self.create_session(name, pipeline, executor=executor, on_event=on_event)
        except (PipelineError, ExecutorError) as error:
            raise error.with_traceback(None) from error.__cause__
        with start as session:
            yield session

    def terminate_session(self, session_id: str) -> None:
        """See `Runtime.terminate_session`."""
        self._thread.run(self._runtime.terminate_session(session_id))

    @property
    def sessions(self) -> dict[str, SyncSession]:
        """The sessions of all executors, by name."""
        found = self._thread.ask(lambda: self._runtime.sessions)
        return {name: SyncSession(session, self._thread) for name, session in found.items()}

    def shutdown(self) -> None:
        """End every session, and the thread. Twice is harmless.

        A Ctrl-C meanwhile is raised when it is done, and a second one kills the nodes. In a forked
        child nothing happens: all of it is the parent's.
        """
        atexit.unregister(self.shutdown)
        self._thread.finish(self._runtime.shutdown, self._kill)

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
        self._thread.note_exit(self._thread, kind)
        self.shutdown()


class SyncSession:
    """A running pipeline, from synchronous code; see `Session`, whose methods and errors it has.

    Made by `SyncRuntime`. As a context manager it closes at the end of the block, and is terminated
    where the block raises.
    """

    def __init__(self, session: Session, thread: LoopThread) -> None:
        self._session = session
        self._thread = thread

    @property
    def session_id(self) -> str:
        """Its name."""
        return self._session.session_id

    @property
    def created_at(self) -> float:
        """When it was made, in seconds of `time.monotonic()`."""
        return self._session.created_at

    @property
    def state(self) -> SessionState:
        """How far it is."""
        return self._session.state

    @property
    def nodes(self) -> dict[str, ProcessState]:
        """The state of every node."""
        return self._thread.ask(lambda: self._session.nodes)

    @property
    def pids(self) -> dict[str, int]:
        """The process of every node that was started, and is not to be restarted."""
        return self._thread.ask(lambda: self._session.pids)

    @property
    def restarts(self) -> dict[str, int]:
        """How often every node was restarted."""
        return self._thread.ask(lambda: self._session.restarts)

    def send(
        self, message: RuntimeData, to: str | None = None, *, timeout_seconds: float | None = None
    ) -> int:
        """See `Session.send`."""
        return self._thread.run(self._session.send(message, to, timeout_seconds=timeout_seconds))

    def send_nowait(self, message: RuntimeData, to: str | None = None) -> int:
        """See `Session.send_nowait`."""
        return self._thread.run(self._session.send_nowait(message, to))

    def recv(self, *, timeout_seconds: float | None = None) -> RuntimeData:
        """See `Session.recv`."""
        return self._thread.run(self._session.recv(timeout_seconds=timeout_seconds))

    def outputs(self) -> Iterator[RuntimeData]:
        """See `Session.outputs`."""
        return self._thread.iterate(self._session.outputs())

    def stream(self, message: RuntimeData, to: str | None = None) -> Iterator[RuntimeData]:
        """See `Session.stream`."""
        return self._thread.iterate(self._session.stream(message, to))

    def events(self) -> Iterator[Event]:
        """See `Session.events`."""
        return self._thread.iterate(self._thread.ask(self._session.events))

    def stats(self) -> dict[str, PortStats]:
        """See `Session.stats`."""
        return self._thread.ask(self._session.stats)

    def interrupt(self) -> None:
        """See `Session.interrupt`."""
        self._thread.ask(self._session.interrupt)

    def close(self) -> None:
        """See `Session.close`."""
        self._thread.end(self._session, self._session.close(), self._session.kill)

    def terminate(self) -> None:
        """See `Session.terminate`."""
        self._thread.end(self._session, self._session.terminate(), self._session.kill)

    def kill(self) -> None:
        """See `Session.kill`."""
        self._thread.run(self._session.kill())

    def wait_ended(self) -> None:
        """See `Session.wait_ended`."""
        self._thread.run(self._session.wait_ended())

    def __enter__(self) -> SyncSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread.is_finished or self._thread.is_inherited:
            return  # it ended with the runtime; or it is the parent's
        self._thread.note_exit(self._session, kind)
        if kind is None:
            self.close()
        else:
            self.terminate()

    def __repr__(self) -> str:
        return f"<Sync{repr(self._session)[1:]}"


def _tell(on_event: Callable[[Event], object], event: Event) -> None:
    """Tell of an event; what is raised is logged by the loop, and nothing ends it."""
    try:
        on_event(event)
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(
            f"on_event raised {error!r}, which ends nothing in the thread of the runtime; to end "
            f"the program, tell its main thread"
        ) from error
