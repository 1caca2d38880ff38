"""One pipeline from its start to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from remotemedia.core.arguments import check_seconds, require_loop
from remotemedia.core.multiprocess import control, events
from remotemedia.core.multiprocess.ending import Ending
from remotemedia.core.multiprocess.exchange import Exchange
from remotemedia.core.multiprocess.parts import SessionParts
from remotemedia.core.multiprocess.restarting import Restarting
from remotemedia.core.multiprocess.states import (
    SESSION,
    ProcessState,
    SessionEvent,
    SessionState,
)
from remotemedia.core.multiprocess.transport.forks import inherited_whole, tell_children
from remotemedia.core.multiprocess.transport.ledger import LedgerWord
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.core.multiprocess.wiring import Wiring
from remotemedia.core.validation import validate_connection
from remotemedia.errors import ChannelClosed, ExecutorError, PipelineTerminated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.stats import PortStats
    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.multiprocess.events import Event
    from remotemedia.core.multiprocess.exits import ProcessExit
    from remotemedia.core.multiprocess.launch import Launcher
    from remotemedia.core.multiprocess.node_process import NodeProcess
    from remotemedia.core.multiprocess.transport.base import Transport
    from remotemedia.core.multiprocess.wiring import NewConnection
    from remotemedia.core.pipeline import Connection
    from remotemedia.core.validation import (
        SessionPort,
        ValidatedConnection,
        ValidatedNode,
        ValidatedPipeline,
    )
    from remotemedia.data import RuntimeData

__all__ = ["Session"]

_log = logging.getLogger("remotemedia.session")


class Session:
    """A running pipeline. Belongs to the event loop that made it.

    Made by `Runtime.create_session` and `MultiprocessExecutor.create_session`. As an asynchronous
    context manager it closes at the end of the block, and is terminated where the block raises.

    Attributes:
        session_id: its name.
        created_at: when it was made, in seconds of `time.monotonic()`.
    """

    def __init__(
        self,
        session_id: str,
        pipeline: ValidatedPipeline,
        transport: Transport,
        launcher: Launcher,
        config: MultiprocessConfig,
        forget: Callable[[Session], None],
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        self.session_id = session_id
        self.created_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._config = config
        self._forget = forget
        self._state: SessionState = SESSION.first
        self._bus = events.EventBus()
        if on_event is not None:
            self._bus.listen(on_event)
        self._wiring = Wiring(pipeline, session_id, transport, config)
        self._parts = SessionParts(self._wiring, transport, launcher, config, self._bus)
        self._nodes, self._starts = self._parts.nodes, self._parts.starts
        try:
            for node in pipeline.nodes:
                self._parts.put(node, self, control.new_pair())
        except BaseException:
            for process in self._nodes.values():
                process.close()
            self._wiring.registry.cleanup()
            raise
        self._exchange: Exchange | None = None
        self._failure: ExecutorError | None = None
        self._start_over = asyncio.Event()  # all are ready, one has failed, or it is to end
        self._works: set[asyncio.Task[None]] = set()  # what goes on though its caller is cancelled
        self._is_told = False  # somebody has got the failure raised
        self._end_task: asyncio.Task[None] | None = None
        self._ending = Ending(self._parts)
        self._restarting = Restarting(self._parts, self, self._fail)
        self._is_closing = False  # ends with what was sent worked off, so a failure matters still
        self._transport = transport
        self._final_stats: dict[str, PortStats] = {}
        self._has_dead = False
        self._is_inherited = False  # this is a forked child, and all of it is the parent's
        tell_children(self)

    # What a user asks.

    @property
    def state(self) -> SessionState:
        """How far it is."""
        return self._state

    @property
    def nodes(self) -> dict[str, ProcessState]:
        """The state of every node."""
        if self._state is SessionState.TERMINATED:
            return dict.fromkeys(self._nodes, ProcessState.STOPPED)
        return {node_id: node.shown_state for node_id, node in self._nodes.items()}

    @property
    def pids(self) -> dict[str, int]:
        """The process of every node that was started, and is not to be restarted."""
        return {
            node_id: node.launched.pid
            for node_id, node in self._nodes.items()
            if node.launched is not None and node.state is not ProcessState.RESTARTING
        }

    @property
    def restarts(self) -> dict[str, int]:
        """How often every node was restarted, those included that did not become ready."""
        return {node_id: node.incarnation for node_id, node in self._nodes.items()}

    async def send(
        self, message: RuntimeData, to: str | None = None, *, timeout_seconds: float | None = None
    ) -> int:
        """Send a message into the pipeline, awaiting room.

        Args:
            message: what to send; the session sets its `correlation_id`.
            to: the input, as "node" or "node.port"; None where the pipeline has one.
            timeout_seconds: how long to wait for room; None is for ever, 0 not at all.

        Returns:
            The number of this input; what comes of it has it as `correlation_id`.

        Raises:
            PipelineTerminated: the session has failed; `__cause__` says how.
            BackpressureError: there was no room in time; nothing was sent.
            DataError: the message or the input is not one that the pipeline takes.
            ChannelClosed: the session is closing or has ended.
            TypeError, ValueError: `to` is no text, or `timeout_seconds` no time to wait.
        """
        check_seconds("timeout_seconds", timeout_seconds)
        return await self._open_exchange().send(message, to, timeout_seconds)

    async def send_nowait(self, message: RuntimeData, to: str | None = None) -> int:
        """Send a message, or raise `BackpressureError` at once; otherwise as `send`."""
        return await self.send(message, to, timeout_seconds=0)

    async def recv(self, *, timeout_seconds: float | None = None) -> RuntimeData:
        """Await the next output, of whatever input; its `origin` says which port it left by.

        Args:
            timeout_seconds: how long to wait; None is for ever, 0 not at all.

        Raises:
            TimeoutError: nothing came in time; nothing is lost by it.
            EndOfStream: the pipeline has finished: nothing more will come.
            PipelineTerminated: the session has failed; `__cause__` says how.
            TypeError, ValueError: `timeout_seconds` is no time to wait.
        """
        check_seconds("timeout_seconds", timeout_seconds)
        return await self._open_exchange().recv(timeout_seconds)

    async def outputs(self) -> AsyncIterator[RuntimeData]:
        """Iterate over the outputs, of whatever input, until the pipeline has finished.

        Which port of which node each left by, its `origin` says.

        Raises:
            PipelineTerminated: the session has failed; `__cause__` says how.
        """
        async for message in self._open_exchange().outputs():
            yield message

    async def stream(
        self, message: RuntimeData, to: str | None = None
    ) -> AsyncIterator[RuntimeData]:
        """Send one input and iterate over all that comes of it.

        It ends as soon as the pipeline has finished with this input, also when nothing came of it.
        Left early, or cancelled, what still comes of the input is thrown away.

        Args:
            message: what to send.
            to: the input, as "node" or "node.port"; None where the pipeline has one.

        Raises:
            NodeFailed: a node failed on this input and skipped it (`on_error: skip`), or crashed
                and was restarted, and lost some of it.
            PipelineTerminated: the session has failed; `__cause__` says how.
            BackpressureError: too many outputs of other inputs wait for a `recv`.
            DataError, ChannelClosed, TypeError: the input was not sent; as `send`.
        """
        async for output in self._open_exchange().stream(message, to):
            yield output

    async def add_node(
        self,
        node: ValidatedNode,
        inputs: tuple[SessionPort, ...] = (),
        outputs: tuple[SessionPort, ...] = (),
    ) -> None:
        """Start one more node and return when it is ready; see `NodeExecutor.execute_node`.

        Args:
            node: as it was validated; its id is free.
            inputs: those of its input ports that are the session's.
            outputs: those of its output ports that are the session's.

        Raises:
            ExecutorError: the session does not run, or its id is taken.
            PipelineTerminated: it did not start, which ends the session.
        """
        exchange = self._open_exchange()
        if node.node_id in self._nodes:
            raise ExecutorError(f"session {self.session_id!r} has a node {node.node_id!r} already")
        with limits_named(f"starting node {node.node_id!r}"):
            ends = control.new_pair()  # raises while nothing has been changed
        try:
            self._wiring.add_node(node, inputs, outputs)
        except BaseException:
            for end in ends:
                end.close()
            raise
        process = self._parts.put(node, self, ends)
        self._wiring.open_host()
        exchange.extend()
        self._start_over.clear()
        await self._whole(self._start_one(process))
        self._open_exchange()  # raises where it failed

    async def _start_one(self, process: NodeProcess) -> None:
        start = asyncio.create_task(process.start())
        self._starts.append(start)
        try:
            async with asyncio.timeout(self._config.init_timeout_secs):
                await start
                await self._start_over.wait()
        except TimeoutError:
            error = await process.timeout_error(self._config.init_timeout_secs)
            self.node_failed(process, error)
        except ExecutorError as error:
            self.node_failed(process, error)

    async def _whole(self, steps: Coroutine[object, object, None]) -> None:
        """Take all of some steps; cancelled, the rest of them is taken all the same."""
        work = asyncio.create_task(steps)
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_look_at)
            raise

    async def connect(self, connection: Connection) -> None:
        """Connect two nodes while messages flow; what is sent after this arrives.

        A port that is the session's own stays so.

        Raises:
            PipelineError: there is no such port, or the ports do not fit.
            ChannelError: the output has no room for another connection.
            ExecutorError: the session does not run, a node has finished or is being restarted.
            PipelineTerminated: a node crashed meanwhile; none is restarted then.
        """
        exchange = self._open_exchange()
        one = validate_connection(self._wiring.pipeline, connection, self._config)
        reader, writer = self._nodes[one.to_node], self._nodes[one.from_node]
        reader.require_at_work()
        writer.require_at_work()
        self._restarting.suspend()
        try:
            new = self._wiring.connect(one, connection.capacity)
        except BaseException:
            self._restarting.resume()
            raise
        # Fails it from here on, a connection stays planned that carries nothing.
        await self._whole(self._join(one, new))
        exchange.extend()

    async def _join(self, one: ValidatedConnection, new: NewConnection) -> None:
        reader, writer = self._nodes[one.to_node], self._nodes[one.from_node]
        for node_id, count in new.counts:
            await self._nodes[node_id].connect(count.connection, count)
        await reader.connect(new.name, new.join, [self._wiring.bell(one.from_node).fd])
        await writer.connect(new.name, new.attach, [self._wiring.bell(one.to_node).fd])
        # Not where it failed: a process that is started after that would wait for what never comes.
        self._restarting.resume()

    def channels_of(self, node_id: str) -> dict[str, str]:
        """The channel of each output port of a node."""
        return self._wiring.channels_of(node_id)

    def events(self) -> events.EventStream:
        """Follow what happens in the session from now on: `async for event in session.events()`."""
        self._require_own()
        return self._bus.subscribe()

    def stats(self) -> dict[str, PortStats]:
        """Counts and latencies of every channel, from the ledger; the last ones once it ended."""
        self._require_own()
        if self._state is SessionState.TERMINATED or self._final_stats:
            return self._final_stats
        return self._wiring.registry.stats()

    def interrupt(self) -> None:
        """Drop all that is under way: queued messages, and what nodes are making of earlier ones.

        What is sent after this is not touched. Nodes hear it by their `interrupt` hook.

        Raises:
            PipelineTerminated: the session has failed; `__cause__` says how.
            ChannelClosed: the session has ended.
        """
        exchange = self._open_exchange()
        if self._state is SessionState.TERMINATED:
            raise ChannelClosed(f"session {self.session_id!r} has ended: nothing is under way")
        words = self._wiring.registry.ledger.words
        words[LedgerWord.EPOCH] += 1
        for node in self._nodes.values():
            node.tell(control.Interrupt())
        exchange.interrupt()

    async def close(self) -> None:
        """End the session when all that was sent has been worked off. Twice is harmless.

        The input ends; sources stop; what is under way flows out, to whoever receives it or else
        to nobody; nodes `finish`, clean up and exit. What does not come to an end within
        `drain_timeout_seconds` is terminated.

        Raises:
            PipelineTerminated: the session has failed, now or before, and nobody was told: no
                call raised it. It has ended nevertheless.
        """
        self._require_own()
        require_loop(self._loop, f"session {self.session_id!r}")
        if self._end_task is None and self._state in (SessionState.READY, SessionState.RUNNING):
            self._advance(SessionEvent.TERMINATE)
            self._is_closing = True
            self._restarting.finish()
            self._end_task = asyncio.create_task(self._drain_and_tear_down())
        if self._end_task is None:
            await self.terminate()
        else:
            await asyncio.shield(self._end_task)
        if self._failure is not None and not self._is_told:
            raise self._terminated()

    async def terminate(self) -> None:
        """End the session now: processes, channels, everything. Twice is harmless.

        Nodes are asked, and killed after `grace_period_seconds`. Cancelled, it goes on by itself.
        """
        self._require_own()
        require_loop(self._loop, f"session {self.session_id!r}")
        if self._end_task is None:
            self._advance(SessionEvent.TERMINATE)
            self._end_task = asyncio.create_task(self._tear_down(self._config.grace_period_seconds))
        self._start_over.set()
        self._is_closing = False
        self._ending.cut_short()
        await asyncio.shield(self._end_task)

    async def kill(self) -> None:
        """End the session at once: its nodes are killed, with no time to clean up.

        An end that is under way is cut short by it. Otherwise as `terminate`.
        """
        self._require_own()
        require_loop(self._loop, f"session {self.session_id!r}")
        self._ending.kill()
        await self.terminate()

    async def wait_ended(self) -> None:
        """Wait until it has ended, for whatever reason; raise the failure if there was one.

        Raises:
            PipelineTerminated: it failed.
        """
        self._require_own()
        async for _ in self._bus.subscribe():
            continue
        if self._failure is not None:
            raise self._terminated()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_inherited:
            return
        if kind is None:
            await self.close()
        else:
            await self.terminate()

    def disown(self) -> None:
        """See `Inheritable`."""
        self._is_inherited = True

    def __repr__(self) -> str:
        return f"<Session {self.session_id!r} {self._state.value}, {len(self._nodes)} nodes>"

    # Its start.

    async def start(self) -> None:
        """Start all nodes at once and return when every one is ready.

        Raises:
            SpawnError, ProcessCrashed, InitTimeout: the first failure; all is rolled back.
        """
        seconds = self._config.init_timeout_secs
        try:
            self._wiring.require_memory()
            host = self._wiring.open_host()
            async with asyncio.timeout(seconds):
                self._starts += [asyncio.create_task(one.start()) for one in self._nodes.values()]
                if self._starts:
                    await asyncio.wait(self._starts)  # cancelled here, `_tear_down` waits for them
                    for start in self._starts:
                        start.result()
                    await self._start_over.wait()
        except TimeoutError:
            late = [n for n in self._nodes.values() if n.state is ProcessState.INITIALIZING]
            # One that is connecting waits for the readers it has: for those behind it.
            late.sort(key=lambda one: one.phase == "connecting")
            error = await late[0].timeout_error(seconds) if late else None
            await self._roll_back()
            raise (
                error
                or self._failure
                or ExecutorError(f"session {self.session_id!r} was ended while it started")
            ) from None
        except BaseException:
            await self._roll_back()
            raise
        if self._failure is not None:
            await self._roll_back()
            raise self._failure
        if self._end_task is not None:
            await asyncio.shield(self._end_task)
            raise ExecutorError(f"session {self.session_id!r} was ended while it started")
        self._exchange = Exchange(
            host,
            self._wiring,
            self._nodes,
            self._why_not,
            lambda: self._failure is not None,
            self._note_first_input,
        )
        self._restarting.begin(self._exchange)
        self._advance(SessionEvent.ALL_READY)
        self._bus.emit(events.SessionReady(self.session_id, time.monotonic() - self.created_at))

    async def _roll_back(self) -> None:
        if self._end_task is None:
            self._advance(SessionEvent.FAILED)
            self._end_task = asyncio.create_task(self._tear_down(0.0))
        with suppress(asyncio.CancelledError):
            await asyncio.shield(self._end_task)

    # What nodes say.

    def node_started(self, node: NodeProcess) -> None:
        """See `Owner.node_started`."""
        assert node.launched is not None
        self._bus.emit(events.ProcessStarted(self.session_id, node.node_id, node.launched.pid))

    def node_progressed(self, node: NodeProcess, progress: control.Progress) -> None:
        """See `Owner.node_progressed`."""
        self._bus.emit(
            events.NodeProgress(
                self.session_id, node.node_id, progress.phase, progress.fraction, progress.message
            )
        )

    def node_ready(self, node: NodeProcess) -> None:
        """See `Owner.node_ready`."""
        seconds = time.monotonic() - self.created_at
        self._bus.emit(events.NodeReady(self.session_id, node.node_id, seconds))
        self._restarting.note_ready(node)
        if not any(one.is_starting for one in self._nodes.values()):
            self._start_over.set()

    def node_skipped(self, node: NodeProcess, failure: control.NodeFailure) -> None:
        """See `Owner.node_skipped`."""
        self._bus.emit(
            events.NodeError(
                self.session_id,
                node.node_id,
                failure.correlation_id,
                failure.error,
                failure.traceback,
            )
        )
        if self._exchange is not None:
            self._exchange.note_failure(node.node_id, failure)

    def node_drained(self, _: NodeProcess) -> None:
        """See `Owner.node_drained`."""
        if self._exchange is not None:
            self._exchange.wake()

    def node_failed(self, node: NodeProcess, error: ExecutorError) -> bool:
        """See `Owner.node_failed`: the session ends by it, unless the node is restarted."""
        if self._restarting.takes(node, error):
            return True
        self._fail(error)
        return False

    def _fail(self, error: ExecutorError) -> None:
        """End because of a failure: the first is the cause, the others follow from it."""
        if self._failure is not None or self._state is SessionState.ERROR:
            return
        if self._state is SessionState.TERMINATING and not self._is_closing:
            # It was told to end, and nobody waits for what it makes: not a failure of the session.
            _log.warning("%s", error)
            return
        self._failure = error
        self._start_over.set()
        if self._state is SessionState.INITIALIZING:
            return  # `start` rolls back
        if self._state is SessionState.TERMINATING:
            # `close` ends it, and raises this.
            self._bus.emit(events.PipelineTerminated(self.session_id, _first_line(error)))
            if self._exchange is not None:
                self._exchange.wake()
            return
        self._advance(SessionEvent.FAILED)
        self._bus.emit(events.PipelineTerminated(self.session_id, _first_line(error)))
        self._end_task = asyncio.create_task(self._tear_down(self._config.grace_period_seconds))
        assert self._exchange is not None
        self._exchange.wake()

    def node_exited(self, node: NodeProcess, end: ProcessExit, *, is_expected: bool) -> None:
        """See `Owner.node_exited`."""
        assert node.launched is not None
        self._has_dead = self._has_dead or end.code != 0 or not is_expected
        self._bus.emit(
            events.ProcessExited(self.session_id, node.node_id, node.launched.pid, end, is_expected)
        )

    # Its end.

    async def _drain_and_tear_down(self) -> None:
        assert self._exchange is not None
        await self._ending.drain(self._exchange)
        await self._tear_down(self._config.grace_period_seconds)

    async def _tear_down(self, grace_seconds: float) -> None:
        """End everything, in this order; every step is taken whatever the ones before came to.

        First the processes, as `Ending.stop` says, and none is restarted any more. Then the
        channels are closed, and what killed processes left in shared memory is freed.
        """
        if self._exchange is not None:
            self._exchange.close_inputs()  # a node that has gone would take messages without end
        try:
            await self._restarting.cancel()
            await self._ending.stop(grace_seconds)
        finally:
            for node in self._nodes.values():
                node.close()
            if self._exchange is not None:
                self._exchange.close()
            try:
                self._final_stats = self._wiring.registry.stats()
                self._wiring.registry.cleanup()
                if self._has_dead:
                    self._transport.clean_up_dead()
            finally:
                self._advance(SessionEvent.ALL_GONE)
                self._bus.close()
                self._forget(self)

    def _advance(self, event: SessionEvent) -> None:
        before, self._state = self._state, SESSION.next(self._state, event)
        if before is not self._state:
            self._bus.emit(events.SessionStateChanged(self.session_id, before, self._state))

    def _note_first_input(self) -> None:
        if self._state is SessionState.READY:
            self._advance(SessionEvent.FIRST_INPUT)

    def _require_own(self) -> None:
        if self._is_inherited:
            raise inherited_whole(f"session {self.session_id!r}")

    def _open_exchange(self) -> Exchange:
        self._require_own()
        failure = self._why_not()
        if failure is not None:
            raise failure
        if self._exchange is None:
            raise ExecutorError(f"session {self.session_id!r} has not started")
        return self._exchange

    def _why_not(self) -> ExecutorError | None:
        """Why nothing can be sent or received any more; None if it can."""
        return None if self._failure is None else self._terminated()

    def _terminated(self) -> PipelineTerminated:
        assert self._failure is not None
        self._is_told = True
        error = PipelineTerminated(self.session_id, _first_line(self._failure))
        error.__cause__ = self._failure
        return error


def _first_line(error: ExecutorError) -> str:
    return str(error).splitlines()[0]


def _look_at(work: asyncio.Task[None]) -> None:
    """Take note of what became of work that nobody waits for: its failure is the session's."""
    if not work.cancelled():
        work.exception()
