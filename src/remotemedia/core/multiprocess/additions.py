"""What comes while a session runs: nodes and connections, planned, begun and made known."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from remotemedia.core.multiprocess import control
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.core.uncancelled import begin_task
from remotemedia.core.validation import validate_connection
from remotemedia.errors import ExecutorError, ResourceLimit

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from remotemedia.core.multiprocess.parts import SessionParts
    from remotemedia.core.multiprocess.supervisor import Supervisor
    from remotemedia.core.multiprocess.wiring import NewConnection
    from remotemedia.core.pipeline import Connection
    from remotemedia.core.validation import SessionPort, ValidatedConnection, ValidatedNode

__all__ = ["Additions"]

T = TypeVar("T")
_log = logging.getLogger("remotemedia.session")


class Additions:
    """Adds nodes and connections to a session while messages flow.

    Args:
        parts: of the session.
        supervisor: of its nodes.
    """

    def __init__(self, parts: SessionParts, supervisor: Supervisor) -> None:
        self._nodes = parts.nodes
        self._wiring = parts.wiring
        self._config = parts.config
        self._supervisor = supervisor
        self._turn = asyncio.Lock()  # of connections that are being made
        self._works: set[asyncio.Task[Any]] = set()  # what goes on though its caller is cancelled

    async def add_node(
        self,
        node: ValidatedNode,
        inputs: tuple[SessionPort, ...],
        outputs: tuple[SessionPort, ...],
    ) -> int:
        """See `Session.add_node`."""
        await self._wiring.wait_free()
        exchange = self._supervisor.require_running()
        what = f"node {node.node_id!r} of session {self._wiring.session_id!r}"
        if node.node_id in self._nodes:
            raise ExecutorError(
                f"session {self._wiring.session_id!r} has a node {node.node_id!r} already"
            )
        with limits_named(f"starting {what}"):
            ends = control.new_pair()  # raises while nothing has been changed
        try:
            with limits_named(f"starting {what}"):
                self._wiring.add_node(node, inputs, outputs)
                self._wiring.open_host()
        except BaseException as error:
            for end in ends:
                end.close()
            if isinstance(error, Exception) and self._wiring.has_planned(node.node_id):
                # Half of it is there, which nobody can take back: as if it had not started.
                if not isinstance(error, ExecutorError):
                    error = ExecutorError(f"{what} was not started: {error!r}")
                self._supervisor.fail(error)
                self._supervisor.open_exchange()  # raises
            if isinstance(error, ResourceLimit):
                raise ResourceLimit(f"{what} was not started: {error}") from error
            raise
        arrival = self._supervisor.add(node, ends)
        exchange.extend()
        pid = await self._whole(arrival)
        if pid is None:
            self._supervisor.open_exchange()  # raises where it failed
            raise ExecutorError(f"{what} was not started: the session was ended meanwhile")
        return pid

    async def connect(self, connection: Connection) -> None:
        """See `Session.connect`."""
        self._supervisor.require_running()
        await self._whole(self._connect(connection))

    async def _connect(self, connection: Connection) -> None:
        # One after the other: what a node is told of one connection, it confirms by its name.
        async with self._turn:
            exchange = self._supervisor.require_running()
            one = validate_connection(self._wiring.pipeline, connection, self._config)
            reader, writer = self._nodes[one.to_node], self._nodes[one.from_node]
            reader.require_at_work()
            writer.require_at_work()
            self._supervisor.restarting.suspend()
            try:
                new = self._wiring.connect(one, connection.capacity)
            except BaseException:
                self._supervisor.restarting.resume()
                raise
            seconds = self._config.init_timeout_secs
            try:
                async with asyncio.timeout(seconds):
                    await self._join(one, new)
            except (ExecutorError, TimeoutError) as error:
                self._supervisor.require_running()  # raises where a crash or an end is why
                _log.warning(
                    "session %r: %s could not be connected; nodes are not restarted any more, "
                    "since their next processes would wait for it",
                    *(self._wiring.session_id, one),
                )
                if isinstance(error, TimeoutError):
                    raise ExecutorError(
                        f"{one} of session {self._wiring.session_id!r} was not connected in "
                        f"{seconds:g} s: a node takes a connection between two messages, and a "
                        f"source that is no async one when it has made its next"
                    ) from None
                raise
            exchange.extend()

    async def _join(self, one: ValidatedConnection, new: NewConnection) -> None:
        reader, writer = self._nodes[one.to_node], self._nodes[one.from_node]
        for node_id, count in new.counts:
            await self._nodes[node_id].connect(count.connection, count)
        await reader.connect(new.name, new.join, [self._wiring.bell(one.from_node).fd])
        await writer.connect(new.name, new.attach, [self._wiring.bell(one.to_node).fd])
        # Not where it failed: the connection stays planned, and a process that is started after
        # that would wait for what never comes.
        self._supervisor.restarting.resume()

    async def _whole(self, steps: Coroutine[object, object, T]) -> T:
        """Take all of some steps; cancelled, the rest of them is taken all the same."""
        work = begin_task(steps)
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_look_at)
            raise


def _look_at(work: asyncio.Task[T]) -> None:
    """Take note of what became of work that nobody waits for: its failure is the session's."""
    if not work.cancelled():
        work.exception()
