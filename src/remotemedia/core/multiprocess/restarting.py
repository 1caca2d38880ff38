"""Nodes whose processes crash and get others: `restart: {policy: on_failure}`.

    crash --> buried --> channels awaited again --> pause --> next process --> ready
      ^                                                            |
      `------------------- a start that fails is a crash ----------'

What is decided (whether, and after which pause) is `Attempts`, which knows no process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from remotemedia.core.findings import first_line
from remotemedia.core.multiprocess import control, flow
from remotemedia.core.multiprocess.events import NodeRestarting
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.core.uncancelled import begin_task
from remotemedia.errors import ExecutorError, ProcessCrashed

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.exchange import Exchange
    from remotemedia.core.multiprocess.node_process import NodeProcess
    from remotemedia.core.multiprocess.owner import Owner
    from remotemedia.core.multiprocess.parts import SessionParts
    from remotemedia.core.pipeline import Restart

__all__ = ["Attempts", "Restarting"]

_log = logging.getLogger("remotemedia.session")
MAX_DOUBLINGS = 64
"""Of the first pause: by then it is the longest, or as good as none."""


class Attempts:
    """How often a node was restarted of late, and so whether it is again, and after which pause.

    Args:
        restart: what its pipeline says.
    """

    def __init__(self, restart: Restart) -> None:
        self._restart = restart
        self._at: deque[float] = deque()

    def next(self, now: float) -> tuple[int, float] | None:
        """Count a crash at this time of any clock, in seconds.

        Returns:
            Which restart within the window this is, from 1, and the pause before it in seconds;
            None if it is one too many.
        """
        restart = self._restart
        while self._at and now - self._at[0] > restart.window_seconds:
            self._at.popleft()
        if restart.policy == "never" or len(self._at) >= restart.max_restarts:
            return None
        self._at.append(now)
        first, longest = restart.backoff_seconds
        doublings = min(len(self._at) - 1, MAX_DOUBLINGS)
        return len(self._at), min(first * 2**doublings, longest)


class Restarting:
    """Restarts the nodes of a session, from when it is ready until all that was sent is worked off.

    Args:
        parts: of the session; its bus is told of restarts.
        owner: hears of the next processes what it heard of the first.
        fail: ends the session, where a node is given up.
    """

    def __init__(
        self, parts: SessionParts, owner: Owner, fail: Callable[[ExecutorError], None]
    ) -> None:
        self._parts = parts
        self._nodes = parts.nodes
        self._wiring = parts.wiring
        self._config = parts.config
        self._owner = owner
        self._fail = fail
        self._exchange: Exchange | None = None
        self._attempts: dict[str, Attempts] = {}
        self._works: set[asyncio.Task[None]] = set()
        self._ready: dict[str, asyncio.Future[None]] = {}  # of processes that are being started
        self._is_closing = asyncio.Event()  # nobody pauses any more
        self._is_over = False
        self._suspensions = 0

    def begin(self, exchange: Exchange) -> None:
        """The session is ready: a crash is no failed start any more."""
        self._exchange = exchange

    def takes(self, node: NodeProcess, error: ExecutorError) -> bool:
        """Whether a node that failed gets another process; then that has begun."""
        ready = self._ready.get(node.node_id)
        if ready is not None and not ready.done():
            ready.set_exception(error)
            return True
        is_spawner = isinstance(error, ProcessCrashed) and not error.node_id  # nothing starts more
        planned = None if is_spawner else self._plan(node)
        if planned is None:
            return False
        work = begin_task(self._bring_back(node, error, planned))
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        return True

    def note_ready(self, node: NodeProcess) -> None:
        """A node is ready, perhaps one that was restarted."""
        ready = self._ready.get(node.node_id)
        if ready is None or ready.done() or self._exchange is None:
            return
        ready.set_result(None)
        self._exchange.note_back(node.node_id)
        if self._is_closing.is_set() and not flow.is_fed(self._wiring.pipeline, node.node_id):
            node.drain()  # as the other sources were asked to

    def suspend(self) -> None:
        """Restart nothing until `resume`: what several processes do together, none can take over.

        Raises:
            ExecutorError: a node is just being restarted.
        """
        for node in self._nodes.values():
            node.require_not_away()
        self._suspensions += 1

    def resume(self) -> None:
        """Restart again, once this was called as often as `suspend`."""
        self._suspensions -= 1

    def finish(self) -> None:
        """Restart without a pause from now on: what was sent is to be worked off."""
        self._is_closing.set()

    async def cancel(self) -> None:
        """Let go of all that is being restarted, as it is: the session ends its processes."""
        self._is_over = True
        for work in self._works:
            work.cancel()
        if self._works:
            await asyncio.wait(self._works)

    def _plan(self, node: NodeProcess) -> tuple[int, float] | None:
        has_finished = node.is_drained or self._wiring.tally.has_finished(node.node_id)
        if self._exchange is None or self._is_over or has_finished or self._suspensions:
            return None
        if not self._wiring.registry.crosses_processes:
            return None  # a thread cannot be killed, nor its place be taken
        attempts = self._attempts.setdefault(node.node_id, Attempts(node.node.config.restart))
        return attempts.next(time.monotonic())

    async def _bring_back(
        self, node: NodeProcess, error: ExecutorError, planned: tuple[int, float] | None
    ) -> None:
        """Start processes for a node until one is ready, or it is given up."""
        failure: ExecutorError | None = error
        try:
            while failure is not None:
                if planned is None:
                    self._fail(failure)
                    return
                await self._bury(node, failure)
                self._vacate(node.node_id, failure)
                attempt, delay_seconds = planned
                self._parts.bus.emit(
                    NodeRestarting(
                        self._wiring.session_id,
                        node.node_id,
                        node.incarnation + 1,
                        attempt,
                        delay_seconds,
                        first_line(failure),
                    )
                )
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay_seconds):
                        await self._is_closing.wait()
                await self._wait_until_mapped(node.node_id)
                node, failure = await self._start_next(node)
                planned = None if failure is None else self._plan(node)
        except ExecutorError as problem:
            self._fail(problem)
        except Exception as problem:  # a fault of ours: nobody would ever hear of the node again
            self._fail(ExecutorError(f"node {node.node_id!r} could not be restarted: {problem!r}"))
            raise

    async def _bury(self, node: NodeProcess, error: ExecutorError) -> None:
        """Wait until nothing of a process is left; it has the grace period to clean up."""
        if node.launched is not None:
            # One that is only late has nothing to say any more.
            grace = self._config.grace_period_seconds if isinstance(error, ProcessCrashed) else 0.0
            with suppress(TimeoutError):
                async with asyncio.timeout(grace * 0.9):
                    await node.wait_exit()
            await self._parts.launcher.end([node.launched], grace * 0.1)
            await node.wait_exit()
        node.close()

    def _vacate(self, node_id: str, error: ExecutorError) -> None:
        """Have its peers wait for the next process, and send nothing to the last."""
        assert self._exchange is not None
        self._exchange.vacate(node_id, error)
        for writer in flow.writers_of(self._wiring.pipeline, node_id):
            self._nodes[writer].tell(control.Recount())

    async def _wait_until_mapped(self, node_id: str) -> None:
        """Let nodes take what processes that are gone had sent them: the next one's start frees it.

        A node that works on one message for longer than a process may take to start loses the rest.
        """
        seconds = self._config.init_timeout_secs
        lost = await self._wiring.registry.wait_until_mapped(seconds)
        if lost:
            _log.warning(
                "session %r: node %r is restarted though other nodes have not taken %d messages "
                "within %g s, which are lost; raise init_timeout_secs if they only need longer",
                *(self._wiring.session_id, node_id, lost, seconds),
            )

    async def _start_next(self, last: NodeProcess) -> tuple[NodeProcess, ExecutorError | None]:
        """Start the next process; return when it is ready, or why it is not."""
        node_id, seconds = last.node_id, self._config.init_timeout_secs
        with limits_named(f"restarting node {node_id!r}"):
            ends = control.new_pair()
        node = self._parts.put(last.node, self._owner, ends, last.incarnation + 1)
        ready = self._ready[node_id] = asyncio.get_running_loop().create_future()
        start = self._parts.begin(node)
        try:
            # Cancelled here, the process is the session's to end, and so is its start.
            await asyncio.wait([ready], timeout=seconds)
            if not ready.done():
                late = await node.timeout_error(seconds)
                if not ready.done():
                    node.fail(late)
            start.cancel()  # if it is not even started by now
            await asyncio.wait([start])
        finally:
            if self._ready[node_id] is ready:
                del self._ready[node_id]
        failure = ready.exception()
        assert failure is None or isinstance(failure, ExecutorError)
        return node, failure
