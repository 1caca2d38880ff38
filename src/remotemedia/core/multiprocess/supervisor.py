"""The life of one session: how far it is, what its nodes say of themselves, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from remotemedia.core.findings import first_line
from remotemedia.core.multiprocess import control, events, flow
from remotemedia.core.multiprocess.ending import Ending
from remotemedia.core.multiprocess.exchange import Exchange
from remotemedia.core.multiprocess.restarting import Restarting
from remotemedia.core.multiprocess.states import (
    SESSION,
    ProcessState,
    SessionEvent,
    SessionState,
)
from remotemedia.core.multiprocess.transport.ledger import LedgerWord
from remotemedia.core.uncancelled import begin_task, to_its_end
from remotemedia.errors import ChannelClosed, ExecutorError, PipelineTerminated

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

    from remotemedia.core.multiprocess.channel.stats import PortStats
    from remotemedia.core.multiprocess.exits import ProcessExit
    from remotemedia.core.multiprocess.node_process import NodeProcess
    from remotemedia.core.multiprocess.parts import SessionParts
    from remotemedia.core.validation import ValidatedNode

__all__ = ["Supervisor"]

_log = logging.getLogger("remotemedia.session")


class Supervisor:
    """Starts the nodes of one session, hears them and ends them: the `Owner` of them all.

    Whether the session has failed, and how, is known here alone. `Session` is what users see.

    Args:
        parts: of the session; a process for every node of its pipeline is put there.
        created_at: since when, in seconds of `time.monotonic()`.
        on_end: called when everything is gone.

    Attributes:
        state: how far the session is.
        restarting: gives nodes that crash another process.
    """

    def __init__(self, parts: SessionParts, created_at: float, on_end: Callable[[], None]) -> None:
        self.state: SessionState = SESSION.first
        self.restarting = Restarting(parts, self, self.fail)
        self._parts = parts
        self._nodes = parts.nodes
        self._wiring, self._config, self._bus = parts.wiring, parts.config, parts.bus
        self._session_id = parts.wiring.session_id
        self._created_at = created_at
        self._on_end = on_end
        self._exchange: Exchange | None = None  # from when all nodes are ready
        self._failure: ExecutorError | None = None
        self._is_told = False  # somebody has got the failure raised
        self._start_over = asyncio.Event()  # all are ready, one has failed, or it is to end
        # Nodes that were added: their first process that became ready, unless the session ends.
        self._arrivals: dict[str, asyncio.Future[int | None]] = {}
        self._ending = Ending(parts)
        self._end_task: asyncio.Task[None] | None = None  # from when it begins to end
        self._ended = asyncio.Event()  # nothing of it is left
        self._is_closing = False  # ends with what was sent worked off, so a failure matters still
        self._final_stats: dict[str, PortStats] | None = None
        try:
            for node in parts.wiring.pipeline.nodes:
                parts.put(node, self, control.new_pair())
        except BaseException:
            for process in self._nodes.values():
                process.close()
            self._wiring.registry.cleanup()
            raise

    # What users ask of their session.

    def require_running(self) -> Exchange:
        """Return what messages go in and out by, where nodes and connections can still be added.

        Raises:
            PipelineTerminated: the session has failed; `__cause__` says how.
            ExecutorError: it has not started, or it is ending.
        """
        exchange = self.open_exchange()
        if self._end_task is not None:
            raise ExecutorError(
                f"session {self._session_id!r} is ending: nothing can be added to it any more"
            )
        return exchange

    def exchange_to_receive(self) -> Exchange:
        """Return what messages come out by: of a session that has failed, those it had sent.

        Raises:
            PipelineTerminated: it has failed to start; `__cause__` says how.
            ExecutorError: it has not started.
        """
        return self._exchange or self.open_exchange()

    def open_exchange(self) -> Exchange:
        """Return what messages go in and out by.

        Raises:
            PipelineTerminated: the session has failed; `__cause__` says how.
            ExecutorError: it has not started.
        """
        if self._failure is not None:
            raise self._terminated()
        if self._exchange is None:
            raise ExecutorError(f"session {self._session_id!r} has not started")
        return self._exchange

    def stats(self) -> dict[str, PortStats]:
        """See `Session.stats`."""
        if self._final_stats is not None:
            return self._final_stats
        return self._wiring.registry.stats()

    def interrupt(self) -> None:
        """See `Session.interrupt`."""
        exchange = self.open_exchange()
        if self.state is SessionState.TERMINATED:
            raise ChannelClosed(f"session {self._session_id!r} has ended: nothing is under way")
        words = self._wiring.registry.ledger.words
        words[LedgerWord.EPOCH] += 1
        for node in self._nodes.values():
            node.tell(control.Interrupt())
        exchange.interrupt()

    async def close(self) -> None:
        """See `Session.close`."""
        if self._end_task is None and self.state in (SessionState.READY, SessionState.RUNNING):
            self._advance(SessionEvent.TERMINATE)
            self._is_closing = True
            self.restarting.finish()
            self._end_task = begin_task(self._drain_and_tear_down())
        if self._end_task is None:
            await self.terminate()
        else:
            await asyncio.shield(self._end_task)
        if self._failure is not None and not self._is_told:
            raise self._terminated()

    async def terminate(self) -> None:
        """See `Session.terminate`."""
        if self._end_task is None:
            self._advance(SessionEvent.TERMINATE)
            self._end_task = begin_task(self._tear_down(self._config.grace_period_seconds))
        self._give_up_starts()
        self._is_closing = False
        self._ending.cut_short()
        await asyncio.shield(self._end_task)

    async def kill(self) -> None:
        """See `Session.kill`."""
        self._ending.kill()
        await self.terminate()

    async def wait_ended(self) -> None:
        """See `Session.wait_ended`."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._terminated()

    # How it starts.

    async def start(self) -> None:
        """See `Session.start`."""
        try:
            await self._wiring.wait_free()
            self._require_not_ended()
            self._wiring.require_memory()
            host = self._wiring.open_host()
            await self._start_nodes()
            self._exchange = Exchange(
                host,
                self._wiring,
                self._nodes,
                self._why_not,
                lambda: self._failure is not None,
                self._note_first_input,
            )
            self.restarting.begin(self._exchange)
        except BaseException:
            await self._roll_back()
            raise
        self._advance(SessionEvent.ALL_READY)
        self._bus.emit(events.SessionReady(self._session_id, time.monotonic() - self._created_at))

    async def _start_nodes(self) -> None:
        """Start all nodes at once and return when every one is ready; raise the first failure."""
        seconds = self._config.init_timeout_secs
        late: ExecutorError | None = None
        for process in self._nodes.values():
            self._parts.begin(process)
        try:
            async with asyncio.timeout(seconds):
                if self._nodes:
                    await self._start_over.wait()  # cancelled here, `_tear_down` ends the starts
        except TimeoutError:
            waiting = [n for n in self._nodes.values() if n.state is ProcessState.INITIALIZING]
            # One that is connecting waits for the readers it has: for those behind it.
            waiting.sort(key=lambda one: one.phase == control.Phase.CONNECTING)
            late = await waiting[0].timeout_error(seconds) if waiting else None
        failure = late or self._failure
        if failure is not None:
            raise failure
        self._require_not_ended()

    def _require_not_ended(self) -> None:
        if self._end_task is not None:
            raise ExecutorError(f"session {self._session_id!r} was ended while it started")

    def add(
        self, node: ValidatedNode, ends: tuple[socket.socket, socket.socket]
    ) -> Coroutine[object, object, int | None]:
        """Take in one more node, with the ends of its control connection, and begin to start it.

        Returns:
            What waits until it is ready and returns the process that is; None if the session has
            failed or ends before.
        """
        process = self._parts.put(node, self, ends)
        self._arrivals[node.node_id] = asyncio.get_running_loop().create_future()
        self._parts.begin(process)
        return self._arrival_of(process)

    async def _arrival_of(self, process: NodeProcess) -> int | None:
        arrival, seconds = self._arrivals[process.node_id], self._config.init_timeout_secs
        try:
            await asyncio.wait([arrival], timeout=seconds)
            if not arrival.done():
                late = await process.timeout_error(seconds)
                if not arrival.done():
                    process.fail(late)
            return await arrival  # also where another process took its place
        finally:
            del self._arrivals[process.node_id]

    def _give_up_starts(self) -> None:
        """Have nobody wait for nodes to be ready any more."""
        self._start_over.set()
        for arrival in self._arrivals.values():
            if not arrival.done():
                arrival.set_result(None)

    async def _roll_back(self) -> None:
        """End what has been started; why it did not start is raised, whatever comes of that."""
        if self._end_task is None:
            self._advance(SessionEvent.FAILED)
            self._end_task = begin_task(self._tear_down(0.0))
        try:
            await to_its_end(self._end_task)
        except Exception as error:
            _log.warning(
                "session %r did not start, and did not end as it should either: %s",
                *(self._session_id, error),
                exc_info=None if isinstance(error, ExecutorError) else error,
            )

    # What nodes say.

    def node_started(self, node: NodeProcess) -> None:
        """See `Owner.node_started`."""
        assert node.launched is not None
        self._bus.emit(events.ProcessStarted(self._session_id, node.node_id, node.launched.pid))

    def node_progressed(self, node: NodeProcess, progress: control.Progress) -> None:
        """See `Owner.node_progressed`."""
        self._bus.emit(
            events.NodeProgress(
                self._session_id, node.node_id, progress.phase, progress.fraction, progress.message
            )
        )

    def node_ready(self, node: NodeProcess) -> None:
        """See `Owner.node_ready`."""
        seconds = time.monotonic() - self._created_at
        self._bus.emit(events.NodeReady(self._session_id, node.node_id, seconds))
        self.restarting.note_ready(node)
        arrival = self._arrivals.get(node.node_id)
        if arrival is not None and not arrival.done():
            assert node.launched is not None
            arrival.set_result(node.launched.pid)
            if self._is_closing and not flow.is_fed(self._wiring.pipeline, node.node_id):
                node.drain()  # as the other sources were asked to
        if not any(one.is_starting for one in self._nodes.values()):
            self._start_over.set()

    def node_skipped(self, node: NodeProcess, failure: control.NodeFailure) -> None:
        """See `Owner.node_skipped`."""
        self._bus.emit(
            events.NodeError(
                self._session_id,
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
        if self.restarting.takes(node, error):
            return True
        self.fail(error)
        return False

    def fail(self, error: ExecutorError) -> None:
        """End because of a failure: the first is the cause, the others follow from it."""
        if self._failure is not None or self.state is SessionState.ERROR:
            return
        is_ending = self.state is SessionState.TERMINATING and not self._is_closing
        if is_ending or self.state is SessionState.TERMINATED:
            # It was told to end, and nobody waits for what it makes: not a failure of the session.
            _log.warning("%s", error)
            return
        self._failure = error
        self._give_up_starts()
        if self.state is SessionState.INITIALIZING:
            return  # `start` rolls back
        self._advance(SessionEvent.FAILED)
        self._bus.emit(events.PipelineTerminated(self._session_id, first_line(error)))
        if self._end_task is None:  # else `close` ends it, and raises this
            self._end_task = begin_task(self._tear_down(self._config.grace_period_seconds))
        assert self._exchange is not None
        self._exchange.wake()

    def node_exited(self, node: NodeProcess, end: ProcessExit, *, is_expected: bool) -> None:
        """See `Owner.node_exited`."""
        assert node.launched is not None
        self._wiring.note_exit(node.node_id, node.launched.pid)
        self._bus.emit(
            events.ProcessExited(
                self._session_id, node.node_id, node.launched.pid, end, is_expected
            )
        )

    # How it ends.

    async def _drain_and_tear_down(self) -> None:
        assert self._exchange is not None
        try:
            await self._ending.drain(self._exchange)
        finally:
            await self._tear_down(self._config.grace_period_seconds)

    async def _tear_down(self, grace_seconds: float) -> None:
        """End everything, in this order; every step is taken whatever the ones before came to.

        First the processes, as `Ending.stop` says, and none is restarted any more. Then the
        channels are closed, and what killed processes left in shared memory is freed.
        """
        self._give_up_starts()
        if self._exchange is not None:
            self._exchange.close_inputs()  # a node that has gone would take messages without end
        try:
            await self.restarting.cancel()
            await self._ending.stop(grace_seconds)
        finally:
            with ExitStack() as steps:  # which are taken from the last to the first
                steps.callback(self._ended.set)
                steps.callback(self._on_end)
                steps.callback(self._bus.close)
                steps.callback(self._advance, SessionEvent.ALL_GONE)
                steps.callback(self._wiring.close)
                steps.callback(self._keep_stats)
                if self._exchange is not None:
                    steps.callback(self._exchange.close)
                for node in self._nodes.values():
                    steps.callback(node.close)

    def _keep_stats(self) -> None:
        self._final_stats = self._wiring.registry.stats()

    def _advance(self, event: SessionEvent) -> None:
        before, self.state = self.state, SESSION.next(self.state, event)
        if before is not self.state:
            self._bus.emit(events.SessionStateChanged(self._session_id, before, self.state))

    def _note_first_input(self) -> None:
        if self.state is SessionState.READY:
            self._advance(SessionEvent.FIRST_INPUT)

    def _why_not(self) -> ExecutorError | None:
        """Why nothing can be sent or received any more; None if it can."""
        return None if self._failure is None else self._terminated()

    def _terminated(self) -> PipelineTerminated:
        assert self._failure is not None
        self._is_told = True
        error = PipelineTerminated(self._session_id, first_line(self._failure))
        error.__cause__ = self._failure
        return error
