"""One node as its session sees it: started, heard, judged when it ends."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from remotemedia.core.multiprocess import control
from remotemedia.core.multiprocess.exits import SPAWNER_DIED
from remotemedia.core.multiprocess.states import PROCESS, ProcessEvent, ProcessState
from remotemedia.core.multiprocess.transport.ledger import EndpointWord
from remotemedia.core.multiprocess.watchdog import Look, Watchdog
from remotemedia.errors import ExecutorError, InitTimeout, ProcessCrashed

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from remotemedia.core.multiprocess.exits import ProcessExit
    from remotemedia.core.multiprocess.launch import Launched, Launcher
    from remotemedia.core.multiprocess.wiring import Wiring
    from remotemedia.core.validation import ValidatedNode

__all__ = ["NodeProcess", "Owner"]

_OUR_ENDS = (0, -signal.SIGTERM, -signal.SIGKILL)
"""How a node may end that was told to: it exits, or is late and made to."""
STACK_SECONDS = 0.5
"""How long a late node has to say where it is."""
_NO_SPAWNER = (
    "the spawner, the parent of the nodes' processes, died or was killed, and every node of its "
    "executor was ended with it"
)
_LACKS_US = re.compile(r"^(.+): Error while finding module .*No module named 'remotemedia'", re.M)
"""What an interpreter says that does not find this package."""


class Owner(Protocol):
    """What a session hears of its nodes. All calls come in the session's loop."""

    def node_started(self, node: NodeProcess) -> None:
        """Its process runs."""

    def node_progressed(self, node: NodeProcess, progress: control.Progress) -> None:
        """Its start has come further."""

    def node_ready(self, node: NodeProcess) -> None:
        """It is initialised, and every reader it has is there."""

    def node_skipped(self, node: NodeProcess, failure: control.NodeFailure) -> None:
        """A message failed, and it lives on."""

    def node_drained(self, node: NodeProcess, /) -> None:
        """Every input has ended, and it has worked everything off."""

    def node_failed(self, node: NodeProcess, error: ExecutorError, /) -> bool:
        """It failed; said once, as soon as it is known. Return whether it is to be restarted."""
        ...

    def node_exited(self, node: NodeProcess, end: ProcessExit, *, is_expected: bool) -> None:
        """Its process has ended and been reaped."""


class NodeProcess:
    """Starts one node, listens to it, and says how it failed.

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
        self._slot = wiring.slot(node.node_id)
        self._words = wiring.registry.ledger.words
        self.failures = self._words[self._slot + EndpointWord.ERRORS]
        self._end, self._runner_end = ends
        self._end.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._is_listening = False
        self._unsent: deque[tuple[control.ToRunner, Sequence[int]]] = deque()
        self._has_failed = False
        self._stack: asyncio.Future[str] | None = None
        self._connecting: dict[str, asyncio.Future[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        # A thread cannot be killed, and stands in a debugger perhaps.
        self._stall_seconds = (
            node.config.stall_timeout_seconds if wiring.registry.crosses_processes else None
        )
        self._watchdog: Watchdog | None = None
        self._stalling: asyncio.Task[None] | None = None
        self._stall = ""  # what is to be said of its exit, if it has stalled

    async def start(self) -> None:
        """Start it and tell it what to run; return when its process runs.

        Raises:
            SpawnError: it could not be started.
            ExecutorError: its parameters are too large.
        """
        self._is_listening = True
        if self._stall_seconds is not None:
            self._watchdog = Watchdog(self._stall_seconds, self._look, self._note_stall)
        configuration, fds = self._wiring.configure(self.node, self._stall_seconds)
        self._end.setblocking(True)
        control.send(self._end, configuration, fds)  # waits in the socket until it is read
        self._end.setblocking(False)
        self.launched = await self._launcher.launch(self.node, self._wiring, self._runner_end)
        # Only now: whoever hears that it is ready finds its process.
        self._loop.add_reader(self._end, self._listen)
        self._watch = self._loop.create_task(self._watch_exit(self.launched))
        self._owner.node_started(self)

    def tell(self, command: control.ToRunner, fds: Sequence[int] = ()) -> None:
        """Send a command, once there is room for it; a node that is gone does not hear it.

        Descriptors stay open until the node has ended.
        """
        if not self._is_listening:
            return
        if self._unsent:
            if self._unsent[-1][0] != command:  # one interrupt is as good as many
                self._unsent.append((command, fds))
            return
        self._unsent.append((command, fds))
        self._send_unsent()
        if self._unsent:  # it is stopped, or stuck, and its socket full
            self._loop.add_writer(self._end, self._send_unsent)

    def _send_unsent(self) -> None:
        try:
            while self._unsent:
                control.send(self._end, *self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            return  # the loop calls again when there is room
        except OSError:
            self._unsent.clear()  # it is gone: its exit says so
        self._loop.remove_writer(self._end)

    async def connect(
        self, connection: str, command: control.Change, fds: Sequence[int] = ()
    ) -> None:
        """Have it change a connection at its end; return when it has.

        Raises:
            ExecutorError: it has finished, or ended meanwhile.
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
            raise ExecutorError(
                f"node {self.node_id!r} is being restarted: connect nodes when it is ready again"
            )

    def require_at_work(self) -> None:
        """Raise `ExecutorError` if nothing can be connected to it, now or any more."""
        self.require_not_away()
        if self.is_drained or not self._is_listening:
            raise self._finished()

    def drain(self) -> None:
        """Ask a source to make no more, and a node without connections not to wait for any."""
        self._advance(ProcessEvent.DRAIN)
        self.tell(control.Drain())

    def stop(self) -> None:
        """Ask it to clean up and exit. Twice is harmless."""
        self._advance(ProcessEvent.STOP)
        if self.state is ProcessState.STOPPING and self.launched is not None and self.has_exited:
            self._advance(ProcessEvent.EXITED)  # it was to be restarted
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
            what = "restarted" if self.incarnation else "started"
            self.fail(ExecutorError(f"node {self.node_id!r} could not be {what}: {error!r}"))

    async def timeout_error(self, seconds: float) -> InitTimeout:
        """Make the error of a node that is late, with its stack if it can say."""
        stack = await self._ask_stack()
        return InitTimeout(self.node_id, self._wiring.session_id, seconds, self.phase, stack)

    async def _ask_stack(self) -> str:
        """Return the stack of its main thread; empty if it cannot say."""
        self._stack = self._loop.create_future()
        self.tell(control.ShowStack())
        try:
            async with asyncio.timeout(STACK_SECONDS):
                return await self._stack
        except TimeoutError:
            return ""

    def close(self) -> None:
        """Let go of the control connection. Twice is harmless."""
        self._end_watch()
        if self._is_listening:
            self._stop_listening()
        self._refuse_connections()
        self._end.close()
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

    def _look(self) -> Look:
        assert self.launched is not None
        began = self._words[self._slot + EndpointWord.BEGAN_NS]
        return Look(began, *self._wiring.room(self.node_id), _is_traced(self.launched.pid))

    def _note_stall(self) -> None:
        self._stalling = self._loop.create_task(self._end_stall())

    async def _end_stall(self) -> None:
        """Say where it is stuck, and kill it: it hears nothing else."""
        assert self.launched is not None
        self._stall = (
            f"stalled: it works on one message for longer than stall_timeout_seconds, "
            f"{self._stall_seconds:g} s"
        )
        working_on = self._working_on()
        stack = await self._ask_stack()
        if not stack:
            # No Python runs in it. What `faulthandler` prints on SIGABRT is among its last lines.
            self.launched.signal(signal.SIGABRT)
            with suppress(TimeoutError):
                async with asyncio.timeout(STACK_SECONDS):
                    await self.launched.wait()
        self.fail(
            ProcessCrashed(
                self.node_id,
                self._wiring.session_id,
                -signal.SIGKILL,
                self._stall,
                traceback=stack,
                stderr_tail=self.launched.stderr_tail,
                working_on=working_on,
                restarts=self.incarnation,
            )
        )
        self.launched.signal(signal.SIGKILL)

    def _end_watch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.close()
        if self._stalling is not None:
            self._stalling.cancel()

    def _advance(self, event: ProcessEvent) -> None:
        self.state = PROCESS.next(self.state, event)

    def _listen(self) -> None:
        while self._is_listening:
            try:
                frame, _ = control.receive(self._end)
            except BlockingIOError:
                return
            except OSError:
                frame = b""
            if not frame:
                # Its end is on its way: the exit of its process tells how.
                self._stop_listening()
                if self.launched is not None:
                    self.launched.signal(signal.SIGCONT)  # rouses the spawner, if it is stopped
                return
            try:
                said = control.decode_from_runner(frame)
            except ExecutorError as error:
                self.fail(error)
                return
            self._hear(said)

    def _stop_listening(self) -> None:
        self._is_listening = False
        self._unsent.clear()
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)

    def _hear(self, message: control.FromRunner) -> None:
        match message:
            case control.Hello() if message.version != control.PROTOCOL_VERSION:
                self.fail(self._version_error(message))
            case control.Progress():
                self.phase = message.phase
                self._owner.node_progressed(self, message)
            case control.Ready():
                self._become_ready()
            case control.Stack():
                self._set_stack(message.text)
            case control.NodeFailure():
                self.failures += 1
                self._owner.node_skipped(self, message)
            case control.Busy() if self._watchdog is not None:
                self._watchdog.note_busy(message.at_ns)
            case control.Failed():
                self.fail(self._failure(message))
            case control.Connected() if message.connection in self._connecting:
                self._connecting[message.connection].set_result(None)
            case control.Drained():
                self.is_drained = True
                self._refuse_connections()
                self._owner.node_drained(self)

    def _refuse_connections(self) -> None:
        for done in self._connecting.values():
            if not done.done():
                done.set_exception(self._finished())

    def _finished(self) -> ExecutorError:
        has = "has finished" if self.is_drained else "has ended, or is about to"
        return ExecutorError(
            f"node {self.node_id!r} of session {self._wiring.session_id!r} {has}: nothing can be "
            f"connected to it any more"
        )

    def _become_ready(self) -> None:
        was_initializing = self.state is ProcessState.INITIALIZING
        self._advance(ProcessEvent.READY)
        if was_initializing:  # else it was told to stop meanwhile
            self.phase = control.Phase.PROCESSING.value
            self._owner.node_ready(self)

    def _set_stack(self, text: str) -> None:
        if self._stack is not None and not self._stack.done():
            self._stack.set_result(text)

    def _failure(self, message: control.Failed) -> ProcessCrashed:
        return ProcessCrashed(
            self.node_id,
            self._wiring.session_id,
            1,
            f"failed in {message.hook}: {message.error}" + self._limit_hint(message.error),
            traceback=message.traceback,
            working_on=message.working_on,
            restarts=self.incarnation,
        )

    def _version_error(self, hello: control.Hello) -> ExecutorError:
        return ExecutorError(
            f"node {self.node_id!r} speaks version {hello.version} of the control protocol and "
            f"this process {control.PROTOCOL_VERSION}: install the same version of remotemedia "
            f"for its interpreter"
        )

    async def _watch_exit(self, launched: Launched) -> None:
        end = await launched.wait()
        self._listen()  # its last words came before its end
        is_expected = (
            self.state is ProcessState.STOPPING
            and not self._has_failed
            and not end.is_oom
            and end.code in _OUR_ENDS
        )
        if not is_expected:
            self.fail(self._crash(launched, end))
        self._advance(ProcessEvent.EXITED)
        self._owner.node_exited(self, end, is_expected=is_expected)

    def _crash(self, launched: Launched, end: ProcessExit) -> ProcessCrashed:
        if end.cause == SPAWNER_DIED:
            return ProcessCrashed("", self._wiring.session_id, end.code, _NO_SPAWNER)
        cause = self._stall or end.describe()
        if end.code == 0:
            cause = "it exited with code 0 before its work was done"
        stderr_tail = launched.stderr_tail
        if lacking := _LACKS_US.search(stderr_tail):
            cause = f"{lacking[1]} has no remotemedia: install it there"
            stderr_tail = ""
        elif self.state is ProcessState.INITIALIZING:
            cause = f"{cause}, while {self.phase}{self._limit_hint()}"
        return ProcessCrashed(
            self.node_id,
            self._wiring.session_id,
            end.code,
            cause,
            stderr_tail=stderr_tail,
            working_on=self._working_on(),
            restarts=self.incarnation,
        )

    def _limit_hint(self, error: str = "MemoryError") -> str:
        """Say the limit of its memory where that may be why it failed."""
        limit = self.node.config.memory_limit_bytes
        if limit is None or not error.startswith("MemoryError"):
            return ""
        return f" (its memory_limit_bytes is {limit:,})"

    def _working_on(self) -> str:
        words, slot = self._words, self._slot
        if not words[slot + EndpointWord.BEGAN_NS]:
            return ""
        seconds = (time.monotonic_ns() - words[slot + EndpointWord.BEGAN_NS]) / 1e9
        return (
            f"message {words[slot + EndpointWord.SEQUENCE]} of input "
            f"{words[slot + EndpointWord.CORRELATION]}, begun {seconds:.3f} s ago"
        )


def _is_traced(pid: int) -> bool:
    """Whether a debugger (gdb, strace) holds a process."""
    with suppress(OSError), open(f"/proc/{pid}/status") as file:  # it may be gone
        return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in file)
    return False
