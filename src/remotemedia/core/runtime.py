"""The entrance: executors by name, sessions by name."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from remotemedia.core.arguments import check_config, check_pipeline, name_taken, require_asyncio
from remotemedia.core.findings import suggested
from remotemedia.core.multiprocess.executor import (
    InlineExecutor,
    MultiprocessExecutor,
    SessionExecutor,
    new_session_id,
)
from remotemedia.core.uncancelled import to_its_end
from remotemedia.core.validation import ValidatedPipeline, validate
from remotemedia.errors import ExecutorError, SessionNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.multiprocess.events import Event
    from remotemedia.core.multiprocess.session import Session
    from remotemedia.core.pipeline import Pipeline
    from remotemedia.core.registry import Registry

__all__ = ["Runtime"]

DEFAULT_EXECUTOR = "python"


@dataclass(frozen=True, eq=False)
class _Start:
    """A session that is being started, and that its executor may not know of yet."""

    session_id: str
    executor: SessionExecutor


class Runtime:
    """Runs pipelines.

        async with Runtime() as runtime:
            async with runtime.session(pipeline) as session:
                async for output in session.stream(Text("hello")):
                    print(output.text)

    There are two executors: "python" runs every node in a process of its own, "inline" runs them in
    threads of this process, for tests and debuggers. Nothing is started before the first session.

    Args:
        config: settings of both.
        registry: where names of node types are found; None is the default registry.
    """

    def __init__(
        self, config: MultiprocessConfig | None = None, *, registry: Registry | None = None
    ) -> None:
        check_config(config)
        self._registry = registry
        self._executors: dict[str, SessionExecutor] = {
            DEFAULT_EXECUTOR: MultiprocessExecutor(config, registry=registry),
            "inline": InlineExecutor(config, registry=registry),
        }
        self._replaced: list[SessionExecutor] = []
        self._starting: set[_Start] = set()

    def register_executor(self, name: str, executor: SessionExecutor) -> None:
        """Give an executor a name that pipelines and `create_session` can say.

        It is shut down with the runtime. One that had the name before is replaced, if it runs no
        session, and is shut down with the runtime all the same.

        Raises:
            ExecutorError: the executor of that name runs or starts sessions.
        """
        before = self._executors.get(name)
        if before is not None and before is not executor:
            starting = [one.session_id for one in self._starting if one.executor is before]
            if running := ", ".join(dict.fromkeys([*before.sessions, *starting])):
                raise ExecutorError(
                    f"executor {name!r} runs {running}; end them before it is replaced"
                )
            self._replaced.append(before)
        self._executors[name] = executor

    async def create_session(
        self,
        session_id: str,
        pipeline: Pipeline | ValidatedPipeline,
        *,
        executor: str | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> Session:
        """Start a session and return when every node is ready.

        Args:
            session_id: its name, 1 to 64 letters (A-Z, a-z), digits, _ . -; free again once it has
                ended. No two sessions of a runtime have one name, whatever runs them.
            pipeline: what to run; it is validated before anything is started.
            executor: what runs it; None is what its nodes say, else "python".
            on_event: called by the event loop with all that happens, from the start of the first
                process on: a progress bar, a log. It must return soon. What it raises is logged by
                the loop and ends nothing.

        Raises:
            PipelineError: it cannot run as written, with everything that is wrong.
            ExecutorError: the name is taken, or its nodes want different executors.
            SpawnError, ProcessCrashed, InitTimeout: a node did not start; all is rolled back.
            ResourceLimit: a limit would be passed.
        """
        check_pipeline(pipeline, session_id)
        chosen = self._executor_for(pipeline, executor)
        if not isinstance(pipeline, ValidatedPipeline):
            pipeline = validate(
                pipeline,
                self._registry,
                chosen.config,
                executors=self._executors.keys(),
                refer=chosen.refer,
            )
        self._require_free(session_id)
        start = _Start(session_id, chosen)
        self._starting.add(start)
        try:
            return await chosen.create_session(session_id, pipeline, on_event=on_event)
        finally:
            self._starting.discard(start)

    @asynccontextmanager
    async def session(
        self,
        pipeline: Pipeline | ValidatedPipeline,
        session_id: str | None = None,
        *,
        executor: str | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> AsyncIterator[Session]:
        """Run a session for the length of a block: closed at its end, terminated if it raises.

        Args:
            pipeline: as for `create_session`.
            session_id: its name; None makes one.
            executor: as for `create_session`.
            on_event: as for `create_session`.
        """
        check_pipeline(pipeline, session_id)
        name = session_id or new_session_id()
        start = self.create_session(name, pipeline, executor=executor, on_event=on_event)
        async with await start as session:
            yield session

    async def terminate_session(self, session_id: str) -> None:
        """End a session now; see `Session.terminate`.

        Raises:
            SessionNotFound: there is no session of that name.
        """
        for executor in self._executors.values():
            if session_id in executor.sessions:
                # Its executor knows it, and from now on says when the name is free again.
                self._starting = {one for one in self._starting if one.session_id != session_id}
                await executor.terminate_session(session_id)
                return
        raise SessionNotFound(session_id, tuple(self.sessions))

    @property
    def sessions(self) -> dict[str, Session]:
        """The sessions of all executors, by name."""
        return {
            name: session
            for executor in self._executors.values()
            for name, session in executor.sessions.items()
        }

    async def shutdown(self) -> None:
        """End every session and leave nothing behind. Twice is harmless."""
        executors = dict.fromkeys([*self._executors.values(), *self._replaced])
        ends = [one.shutdown() for one in executors]
        # All of them come to their end, also when this is cancelled or one of them fails.
        for result in await to_its_end(asyncio.gather(*ends, return_exceptions=True)):
            if isinstance(result, BaseException):
                raise result

    async def __aenter__(self) -> Runtime:
        require_asyncio()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown()

    def _require_free(self, session_id: str) -> None:
        """Raise `ExecutorError` if a session of that name runs or is being started."""
        if session_id in [*self.sessions, *(one.session_id for one in self._starting)]:
            raise name_taken(session_id)

    def _executor_for(
        self, pipeline: Pipeline | ValidatedPipeline, executor: str | None
    ) -> SessionExecutor:
        if executor is None:
            if isinstance(pipeline, ValidatedPipeline):
                wanted = {node.config.executor or DEFAULT_EXECUTOR for node in pipeline.nodes}
            else:
                given = (config.executor or DEFAULT_EXECUTOR for config in pipeline.nodes)
                # Validation names those that there are not, and what is no name, with their nodes.
                wanted = {name for name in given if name in list(self._executors)}
            if len(wanted) > 1:
                names = ", ".join(sorted(wanted))
                raise ExecutorError(
                    f"nodes of pipeline {pipeline.name!r} want different executors ({names}); one "
                    f"session runs on one: give all nodes the same"
                )
            executor = next(iter(wanted), DEFAULT_EXECUTOR)
        try:
            return self._executors[executor]
        except (KeyError, TypeError):
            hint = suggested(str(executor), self._executors)
            raise ExecutorError(f"there is no executor {executor!r} ({hint})") from None
