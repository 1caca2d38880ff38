"""One node as its session sees it: started, heard, judged when it ends."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess import control
from remotemedia.core.multiprocess.control_link import ControlLink
from remotemedia.core.multiprocess.diagnosis import Diagnosis
from remotemedia.core.multiprocess.states import PROCESS, ProcessEvent, ProcessState
from remotemedia.core.multiprocess.transport.ledger import EndpointWord
from remotemedia.core.multiprocess.watchdog import Look, Watchdog, is_traced
from remotemedia.core.uncancelled import begin_task
from remotemedia.errors import ExecutorError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from remotemedia.core.multiprocess.launch import Launched, Launcher
    from remotemedia.core.multiprocess.owner import Owner
    from remotemedia.core.multiprocess.wiring import Wiring
    from remotemedia.core.validation import ValidatedNode
    from remotemedia.errors import InitTimeout

__all__ = ["NodeProcess"]

_OUR_ENDS = (0, -signal.SIGTERM, -signal.SIGKILL)
"""How a node may end that was told to: it exits, or is late and made to."""
STACK_SECONDS = 0.5
"""How long a node that is late or stuck has to say where it is."""


class NodeProcess:
    """Starts one node, listens to it, and judges whether it failed.

    Args:
        node: as it was validated.
        wiring: the session's channels.
        launcher: starts it.
        owner: hears what happens.
        ends: of its control connection: ours and the runner's; owned.
        incarnation: how many processes the node has had before.

    Attributes:
        failures: how many skipped messages it has told of, those before it too.
    """

    def __init__(
        self,
        node: ValidatedNode,
        wiring: Wiring,
        launcher: Launcher,
        owner: Owner,
        ends: tuple[socket.socket, socket.socket],
        incarnation: int = 0,
    ) -> None:
        self.node = node
        self.node_id = node.node_id
        self.incarnation = incarnation
        self.state: ProcessState = PROCESS.first
        self.phase: str = control.Phase.STARTING.value
        self.launched: Launched | None = None
        self.is_drained = False
        self._wiring = wiring
        self._launcher = launcher
        self._owner = owner
        self._slot = wiring.tally.slot(node.node_id)
        self._words = wiring.registry.ledger.words
        self.failures = self._words[self._slot + EndpointWord.ERRORS]
        self._diagnosis = Diagnosis(node, wiring, incarnation)
        end, self._runner_end = ends
        self._link = ControlLink(end, self._hear, self.fail, self._note_gone)
        self._loop = asyncio.get_running_loop()
        self._has_failed = False
        self._connecting: dict[str, asyncio.Future[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        # A thread cannot be killed, and stands in a debugger perhaps.
        self._stall_seconds = (
            node.config.stall_timeout_seconds if wiring.registry.crosses_processes else None
        )
        self._watchdog: Watchdog | None = None
        self._stalling: asyncio.Task[None] | None = None
        self._has_stalled = False

    async def start(self) -> None:
        """Start it and tell it what to run; return when its process runs.

        Raises:
            SpawnError: it could not be started.
            ExecutorError: its parameters are too large.
        """
        if self._stall_seconds is not None:
            self._watchdog = Watchdog(self._stall_seconds, self._look, self._note_stall)
        if not self.incarnation:  # else its channels were made for the one before
            await self._wiring.wait_free()
        self._link.send_first(*self._wiring.configure(self.node, self._stall_seconds))
        self.launched = await self._launcher.launch(self.node, self._wiring, self._runner_end)
        # Only now: whoever hears that it is ready finds its process.
        self._link.listen()
        self._watch = begin_task(self._watch_exit(self.launched))
        self._owner.node_started(self)

    def tell(self, command: control.ToRunner, fds: Sequence[int] = ()) -> None:
        """Send a command, once there is room for it; a node that is gone does not hear it.

        Descriptors stay open until the node has ended.
        """
        self._link.send(command, fds)

    async def connect(
        self, connection: str, command: control.Change, fds: Sequence[int] = ()
    ) -> None:
        """Have it change a connection at its end; return when it has.

        Raises:
            ExecutorError: it has finished, or ended meanwhile, or could not change it.
        """
        self.require_at_work()
        done = self._connecting[connection] = self._loop.create_future()
        try:
            self.tell(command, fds)
            await done  # cancelled here, the connection is added all the same
        finally:
            del self._connecting[connection]

    def require_not_away(self) -> None:
        """Raise `ExecutorError` if it is just being restarted."""
        is_away = self.incarnation and self.state is ProcessState.INITIALIZING
        if is_away or self.state is ProcessState.RESTARTING:
            raise self._diagnosis.being_restarted()

    def require_at_work(self) -> None:
        """Raise `ExecutorError` if nothing can be connected to it, now or any more."""
        self.require_not_away()
        if self.is_drained or not self._link.is_open:
            raise self._diagnosis.out_of_reach(is_drained=self.is_drained)

    def drain(self) -> None:
        """Ask a source to make no more, and a node without connections not to wait for any."""
        self._advance(ProcessEvent.DRAIN)
        self.tell(control.Drain())

    def stop(self) -> None:
        """Ask it to clean up and exit. Twice is harmless."""
        self._advance(ProcessEvent.STOP)
        if self.state is ProcessState.STOPPING and self.has_exited:
            self._advance(ProcessEvent.EXITED)  # it was to be restarted, or was never launched
        self._end_watch()  # from here on the grace period bounds what it does
        self.tell(control.Stop())

    async def wait_exit(self) -> None:
        """Wait until its process has ended and everybody was told."""
        if self._watch is not None:
            await asyncio.shield(self._watch)

    def fail(self, error: ExecutorError) -> None:
        """Take it for failed. The first failure counts."""
        if not self._has_failed and self.state is not ProcessState.STOPPED:
            self._has_failed = True
            is_restarted = self._owner.node_failed(self, error)
            self._advance(ProcessEvent.REPLACED if is_restarted else ProcessEvent.FAILED)

    def note_start(self, start: asyncio.Task[None]) -> None:
        """Take it for failed if its process could not be started.

        Args:
            start: the `start` that has ended; cancelled, it says nothing.
        """
        error = None if start.cancelled() else start.exception()
        if isinstance(error, ExecutorError):
            self.fail(error)
        elif error is not None:
            self.fail(self._diagnosis.failed_start(error))

    async def timeout_error(self, seconds: float) -> InitTimeout:
        """Make the error of a node that is late, with its stack if it can say."""
        stack = await self._link.ask_stack(STACK_SECONDS)
        return self._diagnosis.init_timeout(seconds, self.phase, stack)

    def close(self) -> None:
        """Let go of the control connection. Twice is harmless."""
        self._end_watch()
        self._link.close()
        self._refuse_connections()
        self._runner_end.close()

    @property
    def has_exited(self) -> bool:
        """Whether no process of it runs: it has ended, or was never started."""
        return self._watch is None or self._watch.done()

    @property
    def is_starting(self) -> bool:
        """Whether the session waits for it to be ready; not if it has been before."""
        return self.state is ProcessState.INITIALIZING and not self.incarnation

    @property
    def is_busy(self) -> bool:
        """Whether it is working on a message now."""
        return bool(self._words[self._slot + EndpointWord.BEGAN_NS])

    @property
    def shown_state(self) -> ProcessState:
        """Its state, with READY told apart from PROCESSING by the ledger."""
        if self.state is ProcessState.READY and self.is_busy:
            return ProcessState.PROCESSING
        return self.state

    # What it says.

    def _hear(self, message: control.FromRunner) -> None:
        match message:
            case control.Hello() if message.version != control.PROTOCOL_VERSION:
                self.fail(self._diagnosis.other_version(message))
            case control.Progress():
                self.phase = message.phase
                self._owner.node_progressed(self, message)
            case control.Ready():
                self._become_ready()
            case control.NodeFailure():
                self.failures += 1
                self._owner.node_skipped(self, message)
            case control.Busy() if self._watchdog is not None:
                self._watchdog.note_busy(message.at_ns)
            case control.Failed():
                self.fail(self._diagnosis.failure(message))
            case control.Connected():
                self._note_connected(message)
            case control.Drained():
                self.is_drained = True
                self._refuse_connections()
                self._owner.node_drained(self)

    def _become_ready(self) -> None:
        was_initializing = self.state is ProcessState.INITIALIZING
        self._advance(ProcessEvent.READY)
        if was_initializing:  # else it was told to stop meanwhile
            self.phase = control.Phase.PROCESSING.value
            self._owner.node_ready(self)

    def _note_connected(self, message: control.Connected) -> None:
        done = self._connecting.get(message.connection)
        if done is None or done.done():
            return  # it was refused, or took too long
        if message.error:
            done.set_exception(self._diagnosis.not_connected(message))
        else:
            done.set_result(None)

    def _refuse_connections(self) -> None:
        for done in self._connecting.values():
            if not done.done():
                done.set_exception(self._diagnosis.out_of_reach(is_drained=self.is_drained))

    # How it is found to be stuck.

    def _look(self) -> Look:
        assert self.launched is not None
        began = self._words[self._slot + EndpointWord.BEGAN_NS]
        return Look(began, *self._wiring.tally.room(self.node_id), is_traced(self.launched.pid))

    def _note_stall(self) -> None:
        self._stalling = begin_task(self._end_stall())

    async def _end_stall(self) -> None:
        """Say where it is stuck, and kill it: it hears nothing else."""
        assert self.launched is not None
        self._has_stalled = True
        working_on = self._diagnosis.working_on()
        stack = await self._link.ask_stack(STACK_SECONDS)
        if not stack:
            # No Python runs in it. What `faulthandler` prints on SIGABRT is among its last lines.
            self.launched.signal(signal.SIGABRT)
            with suppress(TimeoutError):
                async with asyncio.timeout(STACK_SECONDS):
                    await self.launched.wait()
        self.fail(self._diagnosis.stall(working_on, stack, self.launched.stderr_tail))
        self.launched.signal(signal.SIGKILL)

    def _end_watch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.close()
        if self._stalling is not None:
            self._stalling.cancel()

    # How it ends.

    def _note_gone(self) -> None:
        # Its end is on its way: the exit of its process tells how.
        if self.launched is not None:
            self.launched.signal(signal.SIGCONT)  # rouses the spawner, if it is stopped

    async def _watch_exit(self, launched: Launched) -> None:
        end = await launched.wait()
        self._link.read()  # its last words came before its end
        is_expected = (
            self.state is ProcessState.STOPPING
            and not self._has_failed
            and not end.is_oom
            and end.code in _OUR_ENDS
        )
        if not is_expected:
            phase = self.phase if self.state is ProcessState.INITIALIZING else None
            self.fail(
                self._diagnosis.crash(
                    end, launched.stderr_tail, phase, has_stalled=self._has_stalled
                )
            )
        self._advance(ProcessEvent.EXITED)
        self._owner.node_exited(self, end, is_expected=is_expected)

    def _advance(self, event: ProcessEvent) -> None:
        self.state = PROCESS.next(self.state, event)
