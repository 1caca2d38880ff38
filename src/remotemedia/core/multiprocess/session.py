"""A running pipeline, as its users see it: what they ask is checked here, and done elsewhere."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from remotemedia.core.arguments import require_loop
from remotemedia.core.multiprocess import events
from remotemedia.core.multiprocess.additions import Additions
from remotemedia.core.multiprocess.parts import SessionParts
from remotemedia.core.multiprocess.states import ProcessState, SessionState
from remotemedia.core.multiprocess.supervisor import Supervisor
from remotemedia.core.multiprocess.transport.forks import inherited_whole, tell_children
from remotemedia.core.multiprocess.wiring import Wiring
from remotemedia.core.timeouts import check_timeout

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.stats import PortStats
    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.multiprocess.events import Event
    from remotemedia.core.multiprocess.exchange import Exchange
    from remotemedia.core.multiprocess.launch import Launcher
    from remotemedia.core.multiprocess.transport.base import Transport
    from remotemedia.core.pipeline import Connection
    from remotemedia.core.validation import SessionPort, ValidatedNode, ValidatedPipeline
    from remotemedia.data import RuntimeData

__all__ = ["Session"]


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
        bus = events.EventBus()
        if on_event is not None:
            bus.listen(on_event)
        wiring = Wiring(pipeline, session_id, transport, config)
        self._parts = SessionParts(wiring, launcher, config, bus)
        self._supervisor = Supervisor(self._parts, self.created_at, lambda: forget(self))
        self._additions = Additions(self._parts, self._supervisor)
        self._is_inherited = False  # this is a forked child, and all of it is the parent's
        tell_children(self)

    @property
    def state(self) -> SessionState:
        """How far it is."""
        return self._supervisor.state

    @property
    def nodes(self) -> dict[str, ProcessState]:
        """The state of every node."""
        if self.state is SessionState.TERMINATED:
            return dict.fromkeys(self._parts.nodes, ProcessState.STOPPED)
        return {node_id: node.shown_state for node_id, node in self._parts.nodes.items()}

    @property
    def pids(self) -> dict[str, int]:
        """The process of every node that was started, and is not to be restarted."""
        return {
            node_id: node.launched.pid
            for node_id, node in self._parts.nodes.items()
            if node.launched is not None and node.state is not ProcessState.RESTARTING
        }

    @property
    def restarts(self) -> dict[str, int]:
        """How often every node was restarted, those included that did not become ready."""
        return {node_id: node.incarnation for node_id, node in self._parts.nodes.items()}

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
        if timeout_seconds is not None:
            check_timeout(timeout_seconds)
        return await self._open_exchange().send(message, to, timeout_seconds)

    async def send_nowait(self, message: RuntimeData, to: str | None = None) -> int:
        """Send a message, or raise `BackpressureError` at once; otherwise as `send`."""
        return await self.send(message, to, timeout_seconds=0)

    async def recv(self, *, timeout_seconds: float | None = None) -> RuntimeData:
        """Await the next output, of whatever input; its `origin` says which port it left by.

        What had left the pipeline when it failed comes before the error.

        Args:
            timeout_seconds: how long to wait; None is for ever, 0 not at all.

        Raises:
            TimeoutError: nothing came in time; nothing is lost by it.
            EndOfStream: the pipeline has finished: nothing more will come.
            ChannelClosed: the session was ended before the pipeline had finished: there would have
                been more.
            PipelineTerminated: the session has failed; `__cause__` says how.
            TypeError, ValueError: `timeout_seconds` is no time to wait.
        """
        if timeout_seconds is not None:
            check_timeout(timeout_seconds)
        self._require_here()
        return await self._supervisor.exchange_to_receive().recv(timeout_seconds)

    async def outputs(self) -> AsyncGenerator[RuntimeData, None]:
        """Iterate over the outputs, of whatever input, until the pipeline has finished.

        Which port of which node each left by, its `origin` says. What had left the pipeline when it
        failed comes before the error.

        Raises:
            ChannelClosed: the session was ended before the pipeline had finished: there would have
                been more.
            PipelineTerminated: the session has failed; `__cause__` says how.
        """
        self._require_here()
        exchange = self._supervisor.exchange_to_receive()
        async with aclosing(exchange.outputs()) as outputs:
            async for output in outputs:
                yield output

    async def stream(
        self, message: RuntimeData, to: str | None = None
    ) -> AsyncGenerator[RuntimeData, None]:
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
        async with aclosing(self._open_exchange().stream(message, to)) as outputs:
            async for output in outputs:
                yield output

    async def add_node(
        self,
        node: ValidatedNode,
        inputs: tuple[SessionPort, ...] = (),
        outputs: tuple[SessionPort, ...] = (),
    ) -> int:
        """Start one more node and return when it is ready; see `NodeExecutor.execute_node`.

        Args:
            node: as it was validated; its id is free.
            inputs: those of its input ports that are the session's.
            outputs: those of its output ports that are the session's.

        Returns:
            The process that became ready; it may have crashed by now, and another taken its place.

        Raises:
            ExecutorError: the session does not run, or its id is taken.
            PipelineTerminated: it did not start, which ends the session.
        """
        self._require_here()
        return await self._additions.add_node(node, inputs, outputs)

    async def connect(self, connection: Connection) -> None:
        """Connect two nodes while messages flow; what is sent after this arrives.

        A port that is the session's own stays so.

        Raises:
            PipelineError: there is no such port, or the ports do not fit.
            ChannelError: the output has no room for another connection.
            ExecutorError: the session does not run, a node has finished or is being restarted.
            PipelineTerminated: a node crashed meanwhile; none is restarted then.
        """
        self._require_here()
        await self._additions.connect(connection)

    def channels_of(self, node_id: str) -> dict[str, str]:
        """The channel of each output port of a node."""
        return self._parts.wiring.channels_of(node_id)

    def events(self) -> events.EventStream:
        """Follow what happens in the session from now on: `async for event in session.events()`."""
        self._require_here()
        return self._parts.bus.subscribe()

    def stats(self) -> dict[str, PortStats]:
        """Counts and latencies of every channel, from the ledger; the last ones once it ended."""
        self._require_own()
        return self._supervisor.stats()

    def interrupt(self) -> None:
        """Drop all that is under way: queued messages, and what nodes are making of earlier ones.

        What is sent after this is not touched. Nodes hear it by their `interrupt` hook.

        Raises:
            PipelineTerminated: the session has failed; `__cause__` says how.
            ChannelClosed: the session has ended.
        """
        self._require_here()
        self._supervisor.interrupt()

    async def close(self) -> None:
        """End the session when all that was sent has been worked off. Twice is harmless.

        The input ends; sources stop; what is under way flows out, to whoever receives it or else
        to nobody; nodes `finish`, clean up and exit. What does not come to an end within
        `drain_timeout_seconds` is terminated.

        Raises:
            PipelineTerminated: the session has failed, now or before, and nobody was told: no
                call raised it. It has ended nevertheless.
        """
        self._require_here()
        await self._supervisor.close()

    async def terminate(self) -> None:
        """End the session now: processes, channels, everything. Twice is harmless.

        Nodes are asked, and killed after `grace_period_seconds`. Cancelled, it goes on by itself.
        """
        self._require_here()
        await self._supervisor.terminate()

    async def kill(self) -> None:
        """End the session at once: its nodes are killed, with no time to clean up.

        An end that is under way is cut short by it. Otherwise as `terminate`.
        """
        self._require_here()
        await self._supervisor.kill()

    async def wait_ended(self) -> None:
        """Wait until it has ended, for whatever reason; raise the failure if there was one.

        Raises:
            PipelineTerminated: it failed.
        """
        self._require_here()
        await self._supervisor.wait_ended()

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

    async def start(self) -> None:
        """Start all nodes at once and return when every one is ready.

        Raises:
            SpawnError, ProcessCrashed, InitTimeout: the first failure; all is rolled back.
        """
        await self._supervisor.start()

    def disown(self) -> None:
        """See `Inheritable`."""
        self._is_inherited = True

    def __repr__(self) -> str:
        return f"<Session {self.session_id!r} {self.state.value}, {len(self._parts.nodes)} nodes>"

    def _require_own(self) -> None:
        if self._is_inherited:
            raise inherited_whole(f"session {self.session_id!r}")

    def _require_here(self) -> None:
        self._require_own()
        require_loop(self._loop, f"session {self.session_id!r}")

    def _open_exchange(self) -> Exchange:
        self._require_here()
        return self._supervisor.open_exchange()
