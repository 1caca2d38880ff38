"""Where a node's life takes place: a process of its own, or a thread of this one."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from remotemedia.core.multiprocess.exits import ProcessExit
from remotemedia.core.multiprocess.process_handle import ProcessStatus
from remotemedia.core.multiprocess.spec import SpawnSpec
from remotemedia.errors import ExecutorError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.multiprocess.process_manager import ProcessHandle, ProcessManager
    from remotemedia.core.multiprocess.wiring import Wiring
    from remotemedia.core.validation import ValidatedNode

__all__ = [
    "CONTROL_FD",
    "CONTROL_VARIABLE",
    "Launched",
    "Launcher",
    "ProcessLauncher",
    "ThreadLauncher",
]

_log = logging.getLogger("remotemedia.session")
SWITCH_SECONDS = 0.1
"""How long a thread that is about to end has for it, however short the grace period."""
CONTROL_FD = 3
CONTROL_VARIABLE = "REMOTEMEDIA_CONTROL_FD"
"""As in the runner's `__main__`, which imports nothing of ours before it has read it."""

BLAS_VARIABLES = frozenset({"OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"})
"""How many threads OpenBLAS has, which does numpy's linear algebra. Unless one is set, one.

By itself it has one for each core, in every process. They spin for a tenth of a second after each
start and each product, on cores that the other nodes need: see `blas` in `benchmarks/`.
"""


class Launched(Protocol):
    """A node that was started."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def stderr_tail(self) -> str:
        """Last lines of its standard error."""

    def signal(self, number: int) -> None:
        """Send a signal to its process group, if it has one of its own."""

    async def wait(self) -> ProcessExit:
        """Wait for its end. Cancelling changes nothing."""


class Launcher(Protocol):
    """Starts nodes, and ends those that do not end by themselves."""

    async def launch(self, node: ValidatedNode, wiring: Wiring, end: socket.socket) -> Launched:
        """Start a node with this end of its control connection, which is then closed here.

        Raises:
            SpawnError: it could not be started.
        """

    async def end(self, launched: Iterable[Launched], grace_seconds: float) -> None:
        """End nodes that run, all at once, and return when nothing of them is left."""


class ProcessLauncher:
    """Starts each node in a process of its own.

    Args:
        manager: starts and ends processes; not owned.
        config: of the executor.
    """

    def __init__(self, manager: ProcessManager, config: MultiprocessConfig) -> None:
        self._manager = manager
        self._config = config

    async def launch(
        self, node: ValidatedNode, wiring: Wiring, end: socket.socket
    ) -> ProcessHandle:
        """See `Launcher.launch`."""
        try:
            return await self._manager.spawn_node(self._spec(node, wiring.session_id, end.fileno()))
        finally:
            end.close()

    async def end(self, launched: Iterable[Launched], grace_seconds: float) -> None:
        """See `Launcher.end`."""
        handles: list[ProcessHandle] = list(launched)  # type: ignore[arg-type]  # by `launch`
        for handle in handles if grace_seconds > 0 else ():
            if handle.status is ProcessStatus.RUNNING:
                _log.warning(
                    "node %r of session %r has not exited in nine tenths of grace_period_seconds "
                    "and gets SIGTERM: the rest of what it does, perhaps its cleanup, is not done",
                    *(handle.node_id, handle.session_id),
                )
        await self._manager.terminate(handles, grace_seconds)

    def _spec(self, node: ValidatedNode, session_id: str, control_fd: int) -> SpawnSpec:
        config = node.config
        environment = {**os.environ} if config.inherit_environment else _minimal_environment()
        environment |= config.environment
        if config.cuda_visible_devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = config.cuda_visible_devices
        if not environment.keys() & BLAS_VARIABLES:
            environment["OPENBLAS_NUM_THREADS"] = "1"
        environment[CONTROL_VARIABLE] = str(CONTROL_FD)
        return SpawnSpec(
            node_id=node.node_id,
            node_type=node.type.name,
            session_id=session_id,
            python_executable=config.python_executable or self._config.python_executable,
            env=environment,
            cwd=config.working_directory,
            fds={CONTROL_FD: control_fd},
            cpus=None if config.cpu_affinity is None else frozenset(config.cpu_affinity),
            max_memory_bytes=config.memory_limit_bytes,
        )


def _minimal_environment() -> dict[str, str]:
    """What an interpreter needs to find its files and speak UTF-8, and nothing else."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "XDG_RUNTIME_DIR", "PYTHONPATH")
    return {name: os.environ[name] for name in kept if name in os.environ}


class ThreadLauncher:
    """Runs each node in a thread of this process: for tests and debuggers.

    A thread cannot be killed: a node that does not come back keeps its thread, which does not keep
    the program from ending.
    """

    async def launch(self, node: ValidatedNode, wiring: Wiring, end: socket.socket) -> Launched:
        """See `Launcher.launch`."""
        return _NodeThread(node.node_id, wiring, end)

    async def end(self, launched: Iterable[Launched], grace_seconds: float) -> None:
        """See `Launcher.end`: there is nothing to do but wait.

        Raises:
            ExecutorError: a node did not come back.
        """
        waits = [asyncio.ensure_future(one.wait()) for one in launched]
        if not waits:
            return
        _, late = await asyncio.wait(waits, timeout=max(grace_seconds, SWITCH_SECONDS))
        for one in late:
            one.cancel()
        if late:
            raise ExecutorError(
                f"{len(late)} of the session's nodes did not come back from what they do; a thread "
                f"cannot be killed and goes on until it has (run such nodes in processes)"
            )


class _NodeThread:
    """A node in a thread.

    Attributes:
        stderr_tail: what a process that ended as this would have said last.
    """

    def __init__(self, node_id: str, wiring: Wiring, end: socket.socket) -> None:
        # Imported here: the executor of processes needs no runner in its own process.
        from remotemedia.core.multiprocess.runner.startup import NodeRun
        from remotemedia.core.multiprocess.runner.tracebacks import exit_of

        self.pid = os.getpid()
        self.stderr_tail = ""
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[ProcessExit] = self._loop.create_future()
        self._exit_of = exit_of
        self._make = partial(NodeRun, end, partial(wiring.open_node, node_id))
        self._end = end
        threading.Thread(target=self._run, name=f"node {node_id}", daemon=True).start()

    def _run(self) -> None:
        code = 1
        try:
            code = self._make().run()
        except SystemExit as error:  # what it would say and exit with, were this its process
            code, words = self._exit_of(error)
            self.stderr_tail = "" if words is None else str(words)
        except BaseException:  # told by the error of its session, as what a process prints
            self.stderr_tail = traceback.format_exc()
        finally:
            self._end.close()
            with suppress(RuntimeError):  # it came back after the loop was closed
                self._loop.call_soon_threadsafe(self._set_exit, ProcessExit(code, time.monotonic()))

    def _set_exit(self, end: ProcessExit) -> None:
        self._exited.set_result(end)

    def signal(self, number: int) -> None:
        """See `Launched.signal`: a thread cannot be told from the program that it belongs to."""

    async def wait(self) -> ProcessExit:
        """See `Launched.wait`."""
        return await asyncio.shield(self._exited)
