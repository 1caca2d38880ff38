"""The executor of the contract: sessions whose nodes are processes of their own."""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING

from remotemedia.core.arguments import check_config, check_pipeline, name_taken, require_loop
from remotemedia.core.ids import ID_RULE, is_id
from remotemedia.core.multiprocess.by_hand import (
    MultiprocessHandle,
    empty_pipeline,
    plan_node,
    require_room,
    session_of,
)
from remotemedia.core.multiprocess.config import MultiprocessConfig
from remotemedia.core.multiprocess.launch import Launcher, ProcessLauncher, ThreadLauncher
from remotemedia.core.multiprocess.process_manager import ProcessManager
from remotemedia.core.multiprocess.session import Session
from remotemedia.core.multiprocess.transport.forks import inherited_whole, tell_children
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.core.parameters import PROCESS_OPTIONS
from remotemedia.core.pipeline import Connection, NodeConfig
from remotemedia.core.reference import local_reference_to, reference_to, script_being_loaded
from remotemedia.core.uncancelled import begin_task, to_its_end
from remotemedia.core.validation import ValidatedPipeline, validate
from remotemedia.errors import ExecutorError, SessionNotFound, SpawnError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from remotemedia.core.describe import NodeTarget
    from remotemedia.core.executor import NodeContext
    from remotemedia.core.multiprocess.events import Event
    from remotemedia.core.multiprocess.plan import PolicyName
    from remotemedia.core.multiprocess.transport.base import Transport
    from remotemedia.core.multiprocess.transport.domain import Domain
    from remotemedia.core.pipeline import Pipeline
    from remotemedia.core.reference import NodeReference
    from remotemedia.core.registry import Registry

__all__ = ["InlineExecutor", "MultiprocessExecutor", "SessionExecutor", "new_session_id"]

_log = logging.getLogger("remotemedia.session")


class SessionExecutor(ABC):
    """What executors have in common that run whole sessions."""

    refer: Callable[[NodeTarget], NodeReference] = staticmethod(reference_to)
    """Says where its nodes find their types."""

    def __init__(
        self, config: MultiprocessConfig | None = None, *, registry: Registry | None = None
    ) -> None:
        check_config(config)
        self.config = config or MultiprocessConfig()
        self._registry = registry
        self._sessions: dict[str, Session] = {}
        # Of sessions that begin without nodes: whoever adds one meanwhile waits for the same.
        self._starts: dict[str, asyncio.Task[Session]] = {}
        self._is_initialized = False
        self._is_shut_down = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._is_inherited = False  # this is a forked child, and all of it is the parent's

    @property
    def sessions(self) -> dict[str, Session]:
        """The sessions that are starting or running, by name."""
        return dict(self._sessions)

    async def create_session(
        self,
        session_id: str,
        pipeline: Pipeline | ValidatedPipeline,
        *,
        on_event: Callable[[Event], object] | None = None,
    ) -> Session:
        """Start a session and return when every node is ready.

        Args:
            session_id: its name, 1 to 64 letters (A-Z, a-z), digits, _ . -; free again once it has
                ended.
            pipeline: what to run; it is validated before anything is started.
            on_event: called by the event loop with all that happens, from the start of the first
                process on: a progress bar, a log. It must return soon. What it raises is logged by
                the loop and ends nothing.

        Raises:
            PipelineError: it cannot run as written, with everything that is wrong.
            ExecutorError: the name is taken or is no name, or the executor is shut down.
            SpawnError, ProcessCrashed, InitTimeout: a node did not start; all is rolled back.
            ChannelError: another process of this user has held the lock on shared memory for 10 s.
            ResourceLimit: a limit would be passed.
        """
        check_pipeline(pipeline, session_id)
        if not isinstance(pipeline, ValidatedPipeline):
            pipeline = validate(pipeline, self._registry, self.config, refer=self.refer)
        return await self._start_session(session_id, pipeline, on_event)

    async def _start_session(
        self,
        session_id: str,
        pipeline: ValidatedPipeline,
        on_event: Callable[[Event], object] | None = None,
    ) -> Session:
        _check_session_id(session_id)
        _refuse_while_loading()
        await self.initialize()
        if session_id in self._sessions:
            raise name_taken(session_id)
        transport, launcher = self._parts()
        if transport.address is None:  # its nodes are threads
            _warn_of_ignored(session_id, pipeline)
        with limits_named(f"starting session {session_id!r}"):
            session = Session(
                session_id,
                pipeline,
                transport,
                launcher,
                self.config,
                self._forget_session,
                on_event,
            )
        self._sessions[session_id] = session
        await session.start()
        return session

    async def execute_node(
        self, node_type: str | NodeTarget, node_id: str, context: NodeContext
    ) -> MultiprocessHandle:
        """See `NodeExecutor.execute_node`."""
        planned = plan_node(node_type, node_id, context, self._registry, self.config, self.refer)
        _refuse_while_loading()
        session = self._sessions.get(context.session_id)
        if session is None:
            session = await self._start_empty(context.session_id)
        require_room(session, self.config)
        pid = await session.add_node(planned.node, planned.inputs, planned.outputs)
        return MultiprocessHandle(pid, node_id, session.channels_of(node_id), self, session)

    async def _start_empty(self, session_id: str) -> Session:
        """Start a session without nodes, or wait until it is started for another node.

        Cancelled, the start goes on: another may wait for it.
        """
        start = self._starts.get(session_id)
        if start is None:
            work = self._start_session(session_id, empty_pipeline(session_id))
            start = self._starts[session_id] = begin_task(work)
            start.add_done_callback(partial(self._forget_start, session_id))
        return await asyncio.shield(start)

    def _forget_start(self, session_id: str, start: asyncio.Task[Session]) -> None:
        del self._starts[session_id]
        if not start.cancelled():
            start.exception()  # all who would be told may have been cancelled

    async def connect_nodes(
        self,
        from_node: str,
        from_port: str,
        to_node: str,
        to_port: str,
        *,
        session_id: str | None = None,
        policy: PolicyName | None = None,
        capacity: int | None = None,
    ) -> None:
        """See `NodeExecutor.connect_nodes`."""
        session = session_of(self._sessions, from_node, to_node, session_id)
        await session.connect(Connection(from_node, from_port, to_node, to_port, policy, capacity))

    async def initialize(self, config: MultiprocessConfig | None = None) -> None:
        """See `NodeExecutor.initialize`. Done by the first session if not before."""
        if self._is_inherited:
            raise inherited_whole("the executor")
        require_loop(self._loop, "the executor")
        check_config(config)
        self._loop = asyncio.get_running_loop()
        tell_children(self)
        async with self._lock:
            if config is not None and config != self.config:
                if self._is_initialized:
                    raise ExecutorError("the executor runs by other settings; make another")
                self.config = config
            self._require_not_shut_down()
            try:
                if not self._is_initialized:
                    await self._initialize()
                    self._is_initialized = True
                await self._renew()
            except SpawnError:
                self._require_not_shut_down()  # meanwhile, which killed the spawner
                raise
            self._require_not_shut_down()  # meanwhile

    def _require_not_shut_down(self) -> None:
        if self._is_shut_down:
            raise ExecutorError("the executor was shut down; make another")

    async def terminate_session(self, session_id: str) -> None:
        """End a session now; see `Session.terminate`.

        Raises:
            SessionNotFound: there is no session of that name.
        """
        await self.session(session_id).terminate()

    def session(self, session_id: str) -> Session:
        """Return a session by name.

        Raises:
            SessionNotFound: there is none of that name.
        """
        try:
            return self._sessions[session_id]
        except KeyError:
            raise SessionNotFound(session_id, tuple(self._sessions)) from None

    async def shutdown(self) -> None:
        """End every session and leave nothing behind. Twice is harmless.

        Cancelled, it goes on to its end, which is near, and raises `CancelledError` then. In a
        forked child nothing happens: all of it is the parent's.
        """
        if self._is_inherited:
            return
        require_loop(self._loop, "the executor")
        self._is_shut_down = True
        await to_its_end(self._end_all())

    async def _end_all(self) -> None:
        ends = [session.terminate() for session in self._sessions.values()]
        results = await asyncio.gather(*ends, return_exceptions=True)
        async with self._lock:
            if self._is_initialized:
                self._is_initialized = False
                await self._shut_down()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def __aenter__(self) -> SessionExecutor:
        await self.initialize()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown()

    def disown(self) -> None:
        """See `Inheritable`."""
        self._is_inherited = True

    def _forget_session(self, session: Session) -> None:
        if self._sessions.get(session.session_id) is session:
            del self._sessions[session.session_id]

    @abstractmethod
    def _parts(self) -> tuple[Transport, Launcher]:
        """Return what carries the messages of a new session, and what starts its nodes."""

    async def _initialize(self) -> None:
        return

    async def _renew(self) -> None:
        return

    async def _shut_down(self) -> None:
        return


class MultiprocessExecutor(SessionExecutor):
    """Runs every node in a process of its own, with messages in shared memory.

    Belongs to the event loop that initialises it. Several may exist in one program.

    It raises the limit of open files (RLIMIT_NOFILE) of this program to the hard limit when it is
    initialised, and leaves it so: every channel takes about 13 descriptors here. Its nodes start
    with the raised limit too.

    Args:
        config: the settings; None are the defaults.
        registry: where names of node types are found; None is the default registry.
    """

    def __init__(
        self, config: MultiprocessConfig | None = None, *, registry: Registry | None = None
    ) -> None:
        super().__init__(config, registry=registry)
        self._manager: ProcessManager | None = None  # from when it is initialised, as the domain
        self._domain: Domain | None = None
        self._newest: ProcessManager | None = None  # it may not have started, or never will
        self._files: list[str] = []  # of the domain: to be swept whoever dies
        self._lost: list[ProcessManager] = []  # whose spawners were killed

    @property
    def spawner_pid(self) -> int:
        """Process that starts those of the nodes.

        Raises:
            ExecutorError: the executor was not initialised: there is none yet.
        """
        if self._manager is None:
            raise ExecutorError("the executor has no spawner before it is initialised")
        return self._manager.spawner_pid

    async def _initialize(self) -> None:
        # Imported here: the process that only checks pipelines needs no iceoryx2.
        from remotemedia.core.multiprocess.transport.domain import new_domain
        from remotemedia.core.multiprocess.transport.folder import private_folder
        from remotemedia.core.multiprocess.transport.locks import wait_free
        from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER

        _raise_descriptor_limit()
        manager = self._newest = ProcessManager()
        # Before there are files: if this process dies, the spawner sweeps them in its stead.
        await manager.start()
        try:
            await wait_free(private_folder())
            domain = new_domain()
        except BaseException:
            await manager.close()
            raise
        root, prefix = domain.address
        self._files = [f"{SHM_FOLDER}/{prefix}*", root]
        manager.set_sweep(self._files)
        self._manager, self._domain = manager, domain

    async def _renew(self) -> None:
        """Have a spawner again if the last one was killed: its sessions end, and others begin."""
        assert self._manager is not None
        if self._manager.is_lost:
            self._manager.set_sweep([])
            manager = self._newest = ProcessManager()
            await manager.start()  # may fail, and is tried again then
            self._lost.append(self._manager)
            self._manager = manager
            manager.set_sweep(self._files)

    def _parts(self) -> tuple[Transport, Launcher]:
        assert self._domain is not None
        assert self._manager is not None
        return self._domain, ProcessLauncher(self._manager, self.config)

    async def _end_all(self) -> None:
        if self._newest is not None:
            self._newest.give_up_start()
        await super()._end_all()

    async def _shut_down(self) -> None:
        assert self._domain is not None
        assert self._manager is not None
        try:
            self._domain.close_and_sweep()
        finally:
            ends = [manager.close() for manager in (*self._lost, self._manager)]
            for result in await asyncio.gather(*ends, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result


class InlineExecutor(SessionExecutor):
    """Runs every node in a thread of this process, with the same channels in ordinary memory.

    For tests and debuggers: a breakpoint in a node stops here. Options of a node's process have no
    effect, which is logged, `restart` among them: a failure ends the session, where a debugger can
    look at it. A node that does not come back cannot be killed. Node types may be made anywhere,
    inside of a test or at any prompt.
    """

    refer = staticmethod(local_reference_to)

    def _parts(self) -> tuple[Transport, Launcher]:
        from remotemedia.core.multiprocess.transport.memory import MemoryTransport

        return MemoryTransport(), ThreadLauncher()


def _warn_of_ignored(session_id: str, pipeline: ValidatedPipeline) -> None:
    """Log what nodes ask of a process of their own: the pipeline is right, and runs without it."""
    ignored = []
    for node in pipeline.nodes:
        plain = NodeConfig(node.config.node_type, node.node_id)
        options = [o for o in PROCESS_OPTIONS if getattr(node.config, o) != getattr(plain, o)]
        if options:
            ignored.append(f"{', '.join(options)} of node {node.node_id!r}")
    if ignored:
        _log.warning(
            "session %r: the executor inline runs nodes in threads of this process, and ignores %s",
            *(session_id, "; ".join(ignored)),
        )


def _check_session_id(session_id: str) -> None:
    """Raise `ExecutorError` unless it is a name that a session may have."""
    if not is_id(session_id):
        raise ExecutorError(f"{session_id!r} is no name for a session: use {ID_RULE}")


def _refuse_while_loading() -> None:
    """Raise `ExecutorError` where a node's process loads its script: it would start without end."""
    script = script_being_loaded()
    if script is not None:
        raise ExecutorError(
            f"{script} starts a session while it is loaded for its nodes, and would start itself "
            f'again without end: put what runs the pipeline under `if __name__ == "__main__":`'
        )


def new_session_id() -> str:
    """Make a name for a session that has none."""
    return f"session-{secrets.token_hex(4)}"


def _raise_descriptor_limit() -> None:
    """Every channel costs descriptors (about 13): take all that this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
