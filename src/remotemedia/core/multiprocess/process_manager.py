"""Starts, watches and ends the processes of nodes, through the executor's spawner.

    spawn_node ---> spawned ---> exited ---> gone
                 `-> SpawnError   `- wait()    `- wait_gone(): no descendant is left either

The spawner says when; nothing here polls.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import secrets
import signal
import time
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess import spawner
from remotemedia.core.multiprocess.exits import SPAWNER_DIED, ExitReason, ProcessExit
from remotemedia.core.multiprocess.lifeline import Lifeline, Report
from remotemedia.core.multiprocess.orphans import MARK, kill_orphans
from remotemedia.core.multiprocess.process_handle import (
    KILL_SECONDS,
    Escalation,
    Process,
    ProcessHandle,
    ProcessStatus,
    ask_then_kill,
)
from remotemedia.core.multiprocess.spec import SpawnSpec
from remotemedia.core.multiprocess.stdio import NodeStdio
from remotemedia.core.multiprocess.transport.limits import MORE_PROCESSES
from remotemedia.core.uncancelled import begin_task, to_its_end

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

__all__ = [
    "Escalation",
    "ExitReason",
    "ProcessExit",
    "ProcessHandle",
    "ProcessManager",
    "ProcessStatus",
    "SpawnSpec",
    "ask_then_kill",
]

_log = logging.getLogger("remotemedia.spawner")
GRACE_SECONDS = 5.0  # the contract's, between asking a process to end and killing it

_HINTS = {
    errno.ENOENT: "check python_executable and working_directory",
    errno.EACCES: "check the permissions of python_executable and of working_directory",
    errno.E2BIG: "give it a smaller environment, or fewer descriptors",
    errno.EAGAIN: MORE_PROCESSES,
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EINVAL: "check cpu_affinity against the CPUs of this machine",
    errno.ENOMEM: "free memory, or raise memory_limit_bytes",
}


class ProcessManager:
    """The processes of one executor. All methods belong to the loop that called `start`.

    A program may have many managers, in any of its threads; none touches the program's signal
    handlers, child watcher or reaper.

    Args:
        escalate: how one process is ended.
    """

    def __init__(self, *, escalate: Escalation = ask_then_kill) -> None:
        self._escalate = escalate
        self._lifeline = Lifeline(self._handle_report, self._handle_end)
        self._mark = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._processes: dict[int, Process] = {}  # by number, until gone
        self._patterns: list[str] = []
        self._is_starting = False  # the spawner was launched and has not answered
        self._is_started = False
        self._is_lost = False  # the spawner ended, or was ended, before it had done its work
        self._cleanup: asyncio.Task[None] | None = None  # of what a lost spawner left
        self._closing: asyncio.Task[None] | None = None

    @property
    def processes(self) -> dict[int, ProcessHandle]:
        """The processes that have not exited, by pid."""
        handles = [process.handle for process in self._processes.values()]
        return {
            handle.pid: handle
            for handle in handles
            if handle is not None and handle.status is not ProcessStatus.EXITED
        }

    @property
    def is_lost(self) -> bool:
        """Whether the spawner was killed: it starts no more processes."""
        return self._is_lost

    @property
    def spawner_pid(self) -> int:
        """The pid of the spawner, once it was started."""
        return self._lifeline.pid

    async def __aenter__(self) -> ProcessManager:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the spawner. Cancelled, it leaves none.

        Raises:
            SpawnError: it could not be started.
        """
        self._is_starting = True
        try:
            await self._lifeline.open()
        finally:
            self._is_starting = False
        self._is_started = True
        self._lifeline.send({"op": "sweep", "patterns": self._patterns})

    def give_up_start(self) -> None:
        """Kill a spawner that has not answered yet: `start` raises `SpawnError` soon."""
        if self._is_starting:
            self._lifeline.kill()

    def set_sweep(self, patterns: Iterable[str]) -> None:
        """Say what is to be unlinked when this manager ends, however it ends.

        Args:
            patterns: absolute paths of files and folders, instead of those said before; one that
                ends in `*` stands for all names that begin so.

        Raises:
            ValueError: a pattern is not absolute, or stands for all of a folder.
        """
        chosen = list(patterns)
        for pattern in chosen:
            if not os.path.isabs(pattern) or not os.path.basename(pattern).rstrip("*"):
                raise ValueError(f"sweep pattern {pattern!r} must be an absolute path with a name")
        self._patterns = chosen
        if self._is_started:
            self._lifeline.send({"op": "sweep", "patterns": chosen})

    async def spawn_node(self, spec: SpawnSpec) -> ProcessHandle:
        """Start a process and return when it runs its command.

        Cancelled, it has killed what there was of it, and returns when that is reaped.

        Raises:
            SpawnError: its command could not be run, or the manager was closed meanwhile; there
                is no process, or it is being killed.
        """
        if not self._is_started or self._is_lost or self._closing is not None:
            state = "has ended" if self._is_started else "was not started"
            raise spec.error(f"the spawner {state}", "use a process manager that is running")
        number = next(self._numbers)
        try:
            order = spec.order(number, (MARK, self._mark))
            stdio = NodeStdio(spec.node_id, spec.session_id)
        except OSError as error:
            raise spec.error(str(error), _HINTS.get(error.errno or 0, "")) from error
        loop = asyncio.get_running_loop()
        process = Process(number, spec, stdio, loop.create_future(), loop.create_future())
        self._processes[number] = process
        self._lifeline.send(order, [*stdio.write_ends.values(), *spec.fds.values()])
        stdio.close_write_ends()
        try:
            return await process.spawned
        except asyncio.CancelledError:
            self._lifeline.kill_tree(number)
            await to_its_end(_see_off(process))
            raise

    async def terminate(
        self,
        handles: ProcessHandle | Iterable[ProcessHandle],
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """End processes and all their descendants, all at once; return when they are reaped.

        May be called again, also while it runs. Cancelled, it has sent SIGKILL and not waited.

        Args:
            handles: the processes.
            grace_seconds: time to end by themselves, before they are killed.

        Raises:
            ExecutorError: one is stuck in the kernel; all others have ended.
        """
        chosen = [handles] if isinstance(handles, ProcessHandle) else list(handles)
        ends = [self._escalate(handle, grace_seconds) for handle in chosen]
        try:
            results = await asyncio.gather(*ends, return_exceptions=True)
        except asyncio.CancelledError:
            for handle in chosen:  # of whose ends some may not have taken a step
                handle.kill()
            raise
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def close(self) -> None:
        """Kill what still runs, unlink what is under the sweep patterns, and end the spawner.

        May be called again, also while it runs. Cancelled, it goes on in the background.
        """
        if self._is_started:
            if self._closing is None:
                self._closing = begin_task(self._close())
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for process in self._processes.values():
            process.fail("the process manager was closed")
        self._lifeline.end()
        try:
            async with asyncio.timeout(spawner.END_SECONDS + 1.0):
                await self._lifeline.wait_ended()
        except TimeoutError:
            self._is_lost = True
            self._lifeline.kill()
            await self._lifeline.wait_ended()
        try:
            if self._cleanup is not None:
                async with asyncio.timeout(spawner.END_SECONDS):
                    await self._cleanup
        except TimeoutError:
            _log.warning(
                "processes of nodes whose spawner died have not ended within %g s of SIGKILL: they "
                "are stuck in the kernel, waiting for a device or a file system",
                spawner.END_SECONDS,
            )
        finally:
            if self._is_lost:
                spawner.sweep(self._patterns)

    def _handle_report(self, report: Report) -> None:
        process = self._processes[report["id"]]
        match report["event"]:
            case "spawned":
                process.start(ProcessHandle(process, report["pid"], self._lifeline))
            case "spawn_failed":
                code = report["errno"]
                problem = f"cannot {report['stage']}: {os.strerror(code)}"
                process.fail(problem, _HINTS.get(code, ""))
                self._forget(process)
            case "exited":
                code = os.waitstatus_to_exitcode(report["status"])
                rss = report["max_rss_bytes"]
                process.exit(ProcessExit(code, time.monotonic(), rss, report["is_oom"]))
            case "gone":
                self._forget(process)

    def _handle_end(self) -> None:
        self._is_lost |= self._closing is None
        left = list(self._processes.values())
        cause = SPAWNER_DIED if self._is_lost else "the process manager was closed"
        for process in left:
            process.fail(cause)
            if not process.exited.done():
                process.exit(ProcessExit(-signal.SIGKILL, time.monotonic(), cause=cause))
        if left:
            self._cleanup = begin_task(self._kill_left(left))

    async def _kill_left(self, left: list[Process]) -> None:
        sessions = {process.handle.pid for process in left if process.handle is not None}
        try:
            await kill_orphans(sessions, self._mark)
        finally:
            for process in left:
                self._forget(process)

    def _forget(self, process: Process) -> None:
        del self._processes[process.number]
        process.leave()


async def _see_off(process: Process) -> None:
    """Wait until nothing is left of a process that was killed while it was being started."""
    try:
        async with asyncio.timeout(KILL_SECONDS):
            await process.gone.wait()
    except TimeoutError:
        _log.error(
            "node %r of session %r was killed while it was being started, and has not ended within "
            "%g s: it is stuck in the kernel, waiting for a device or a file system",
            *(process.spec.node_id, process.spec.session_id, KILL_SECONDS),
        )
