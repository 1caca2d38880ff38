"""One process: how far its life is, how to wait for it, and how it is brought to an end."""

from __future__ import annotations

import asyncio
import enum
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from remotemedia.errors import ExecutorError

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.exits import ProcessExit
    from remotemedia.core.multiprocess.lifeline import Lifeline
    from remotemedia.core.multiprocess.spec import SpawnSpec
    from remotemedia.core.multiprocess.stdio import NodeStdio

__all__ = [
    "KILL_SECONDS",
    "Escalation",
    "Process",
    "ProcessHandle",
    "ProcessStatus",
    "ask_then_kill",
]

KILL_SECONDS = 5.0
"""How long a process may take to be gone after SIGKILL: milliseconds, if the kernel lets it."""


class ProcessStatus(enum.Enum):
    """How far the life of a process is, as the operating system sees it."""

    RUNNING = "running"
    TERMINATING = "terminating"  # it was told to end
    EXITED = "exited"


@dataclass(slots=True, eq=False)
class Process:
    """What the manager knows of one process and changes; a handle is the public view of it."""

    number: int  # its id between executor and spawner
    spec: SpawnSpec
    stdio: NodeStdio
    spawned: asyncio.Future[ProcessHandle]
    exited: asyncio.Future[ProcessExit]
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    status: ProcessStatus = ProcessStatus.RUNNING
    handle: ProcessHandle | None = None  # once it runs its command

    def start(self, handle: ProcessHandle) -> None:
        """It runs its command."""
        self.handle = handle
        if not self.spawned.done():  # else the caller is not there any more
            self.spawned.set_result(handle)

    def fail(self, problem: str, hint: str = "") -> None:
        """It does not run its command and will not; nothing if it does."""
        if not self.spawned.done():
            self.spawned.set_exception(self.spec.error(problem, hint))

    def exit(self, end: ProcessExit) -> None:
        """It has ended; what it printed before is read first."""
        self.status = ProcessStatus.EXITED
        self.stdio.drain()
        self.exited.set_result(end)

    def leave(self) -> None:
        """Nothing of it is left."""
        self.stdio.close()
        self.gone.set()


class ProcessHandle:
    """One running or ended process. Belongs to the loop of its manager.

    Attributes:
        pid: also the id of its process group and of its session.
        node_id, node_type, session_id: the node.
        started_at: in seconds of `time.monotonic()`.
    """

    def __init__(self, process: Process, pid: int, lifeline: Lifeline) -> None:
        self._process = process
        self._lifeline = lifeline
        self.pid = pid
        self.node_id = process.spec.node_id
        self.node_type = process.spec.node_type
        self.session_id = process.spec.session_id
        self.started_at = time.monotonic()

    def __repr__(self) -> str:
        return f"<ProcessHandle {self.node_id!r} pid={self.pid} {self.status.value}>"

    @property
    def status(self) -> ProcessStatus:
        """How far its life is."""
        return self._process.status

    @property
    def stderr_tail(self) -> str:
        """The last lines of its standard error, up to its end once it has exited."""
        return self._process.stdio.stderr_tail

    async def wait(self) -> ProcessExit:
        """Wait for its end and return it; at once if it has ended. Cancelling changes nothing."""
        return await asyncio.shield(self._process.exited)

    async def wait_gone(self) -> None:
        """Wait until it and all its descendants are dead and reaped."""
        await self._process.gone.wait()

    def signal(self, number: int) -> None:
        """Send a signal to its process group; does nothing once it has exited."""
        if number in (signal.SIGTERM, signal.SIGKILL):
            self._mark_terminating()
        self._lifeline.signal(self._process.number, int(number))

    def kill(self) -> None:
        """Kill it and all its descendants, whatever groups or sessions they moved to."""
        self._mark_terminating()
        self._lifeline.kill_tree(self._process.number)

    def _mark_terminating(self) -> None:
        if self._process.status is ProcessStatus.RUNNING:
            self._process.status = ProcessStatus.TERMINATING


Escalation = Callable[[ProcessHandle, float], Awaitable[None]]


async def ask_then_kill(handle: ProcessHandle, grace_seconds: float) -> None:
    """End a process: SIGTERM to its group, then SIGKILL to all of it; return when it is reaped.

    Cancelled, it has sent SIGKILL and not waited.

    Args:
        handle: the process.
        grace_seconds: how long it may take to end by itself. What it started has only as long as
            it lives itself.

    Raises:
        ExecutorError: it is stuck in the kernel, where SIGKILL does not reach it.
    """
    try:
        if grace_seconds > 0:
            handle.signal(signal.SIGTERM)
            handle.signal(signal.SIGCONT)  # a stopped process acts on nothing but SIGKILL
            async with asyncio.timeout(grace_seconds):
                await handle.wait()
    except TimeoutError:
        pass
    finally:
        handle.kill()
    try:
        async with asyncio.timeout(KILL_SECONDS):
            await handle.wait_gone()
    except TimeoutError:
        raise ExecutorError(
            f"node {handle.node_id!r} of session {handle.session_id!r} (pid {handle.pid}) did not "
            f"end within {KILL_SECONDS:g} s of SIGKILL: it is stuck in the kernel, waiting for a "
            f"device or a file system (see /proc/{handle.pid}/stack)"
        ) from None
