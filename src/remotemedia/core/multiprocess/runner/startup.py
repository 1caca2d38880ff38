"""One node from its first word to its exit: configure, import, load, connect, work, clean up."""

from __future__ import annotations

import faulthandler
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from remotemedia.core.describe import describe
from remotemedia.core.multiprocess import control
from remotemedia.core.multiprocess.channel.endpoint import Endpoint
from remotemedia.core.multiprocess.channel.ticket import Ticket
from remotemedia.core.multiprocess.control import Phase
from remotemedia.core.multiprocess.runner.commands import Commands, Reporter
from remotemedia.core.multiprocess.runner.context import RunnerContext, finished
from remotemedia.core.multiprocess.runner.ports import NodePorts
from remotemedia.core.multiprocess.runner.tracebacks import format_error, summary
from remotemedia.core.multiprocess.runner.work import Stopped, Work
from remotemedia.core.parameters import create_node
from remotemedia.core.reference import ModuleReference, NodeReference, loading
from remotemedia.errors import ExecutorError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from remotemedia.core.describe import NodeTarget, NodeType
    from remotemedia.core.node import Node

__all__ = ["NodeRun"]

W = TypeVar("W", bound=Work)
EXIT_SECONDS = 5.0
"""How long a process that its node ends, by `sys.exit`, may take for it; then its stack is told."""


class NodeRun:
    """The life of one node in this process.

    Args:
        end: the runner's end of the control connection; stays open until the process exits, or
            whoever runs this in a thread closes it.
        open_endpoint: opens the node's channels, where not by the ticket.
    """

    def __init__(
        self, end: socket.socket, open_endpoint: Callable[[], Endpoint] | None = None
    ) -> None:
        self._end = end
        self._open_endpoint = open_endpoint
        self._reporter = Reporter(end)
        self._commands = Commands(end, self._reporter, threading.get_ident())
        self._phase = Phase.STARTING
        self._has_failed = False
        self._node: Node | None = None
        self._work: Work | None = None
        self._endpoint: Endpoint | None = None

    def run(self) -> int:
        """Live it; return the exit code.

        0: it was told to stop; a `cleanup` that fails then is told, and changes nothing here.
        1: it failed, and the executor was told how.
        """
        self._commands.start()
        self._reporter.say(control.Hello(control.PROTOCOL_VERSION))
        code = 0
        try:
            configuration = self._commands.wait_configured()
            if configuration is not None:
                self._live(configuration)
        except Stopped:
            pass
        except Exception as error:  # the node's code may raise anything, and it is all told
            self._report(error)
            code = 1
        finally:
            self._commands.close()
            if self._work is not None:
                self._work.working_on = None  # a message that is held keeps its reader open
            if self._endpoint is not None:
                # In a thread the doorbell stays until all threads are done: others may ring it.
                if self._open_endpoint:
                    self._endpoint.close_ends()
                elif self._has_failed or not self._commands.is_stopping:
                    # It failed, and was perhaps told to stop because of that: what it has sent
                    # stays for its readers, and its peers are to hear of it from the executor,
                    # which has another process take its place perhaps.
                    self._endpoint.abandon()
                else:
                    self._endpoint.close(linger_seconds=0)  # what mattered was drained
        return code

    def _live(self, configuration: control.Configure) -> None:
        self._enter(Phase.IMPORTING)
        kind, context = self._create(configuration)
        if kind.is_async:
            # Imported here: a synchronous node's process has no event loop.
            import asyncio

            with asyncio.Runner() as runner:
                try:
                    runner.run(self._live_async(configuration, kind, context))
                except (SystemExit, KeyboardInterrupt):
                    # Of one of the node's own tasks, perhaps: what was under way is cancelled now,
                    # and what that comes to is not why it ends.
                    self._has_failed |= not self._commands.is_stopping
                    self._bound_exit()
                    runner.get_loop().set_exception_handler(lambda *_: None)
                    raise
        else:
            self._live_sync(configuration, kind, context)

    def _live_sync(
        self, configuration: control.Configure, kind: NodeType, context: RunnerContext
    ) -> None:
        from remotemedia.core.multiprocess.runner.sync_loop import SyncLoop

        node: Any = self._node
        try:
            self._enter(Phase.LOADING)
            node.initialize()
            work = self._connect(SyncLoop, configuration, kind, context)
            if work.endpoint.doorbell.wait_for(self._is_connected, None) is False:
                raise Stopped
            self._reporter.say(control.Ready())
            self._enter(Phase.PROCESSING)
            work.run(None if kind.inputs else node.process)
            self._reporter.say(control.Drained())
            self._commands.wait_stop()
        except Exception as error:
            self._report(error)  # before the clean-up, which may take long
            raise
        except BaseException:
            self._bound_exit()
            raise
        finally:
            with self._cleaning_up():
                node.cleanup()

    async def _live_async(
        self, configuration: control.Configure, kind: NodeType, context: RunnerContext
    ) -> None:
        import asyncio

        from remotemedia.core.multiprocess.runner.async_loop import CANCELLED, AsyncLoop
        from remotemedia.core.multiprocess.transport.loop_doorbell import LoopDoorbell

        node: Any = self._node
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._commands.wake_with(lambda: loop.call_soon_threadsafe(self._stop_loading, task))
        try:
            self._enter(Phase.LOADING)
            await finished(node.initialize())
            work = self._connect(AsyncLoop, configuration, kind, context)
            doorbell = LoopDoorbell.of(work.endpoint.doorbell)
            if await doorbell.wait_for(self._is_connected, None) is False:
                raise Stopped
            self._reporter.say(control.Ready())
            self._enter(Phase.PROCESSING)
            await work.run(None if kind.inputs else node.process)
            self._reporter.say(control.Drained())
            await asyncio.to_thread(self._commands.wait_stop)
        except asyncio.CancelledError as error:
            if self._commands.is_stopping:
                raise Stopped from None
            failure = RuntimeError(CANCELLED)
            failure.__cause__ = error
            self._report(failure)
            raise failure from error
        except Exception as error:
            self._report(error)  # before the clean-up, which may take long
            raise
        except BaseException:
            self._bound_exit()
            raise
        finally:
            self._commands.wake_with_nothing()  # they wake this loop, which is about to close
            while task.cancelling():
                task.uncancel()
            with self._cleaning_up():
                try:
                    await finished(node.cleanup())
                except asyncio.CancelledError as error:
                    raise RuntimeError(CANCELLED) from error

    def _stop_loading(self, task: Any) -> None:
        if self._commands.is_stopping and self._phase is Phase.LOADING:
            task.cancel()

    def _create(self, configuration: control.Configure) -> tuple[NodeType, RunnerContext]:
        reference = msgspec.msgpack.decode(configuration.reference, type=NodeReference)
        target = self._resolve(reference)
        kind = describe(target)
        parameters = msgspec.msgpack.decode(configuration.parameters, type=dict[str, object])
        node_id = configuration.node_id
        self._enter(Phase.CREATING)
        node = create_node(target, parameters, f"node {node_id!r}")
        context = RunnerContext(node_id, configuration.session_id, kind, self._reporter)
        node.bind(context)
        self._node = node
        return kind, context

    def _resolve(self, reference: NodeReference) -> NodeTarget:
        if self._open_endpoint is not None:
            return reference.resolve()  # in a thread: other threads may start sessions meanwhile
        name = reference.module if isinstance(reference, ModuleReference) else str(reference)
        with loading(name):
            return reference.resolve()

    def _connect(
        self,
        loop: type[W],
        configuration: control.Configure,
        kind: NodeType,
        context: RunnerContext,
    ) -> W:
        """Open the channels, readers first, and join them to the node's ports."""
        self._enter(Phase.CONNECTING)
        if self._open_endpoint is not None:
            endpoint = self._open_endpoint()
        else:
            ticket = msgspec.msgpack.decode(configuration.ticket, type=Ticket)
            ticket = ticket.with_fds(self._commands.fds)
            endpoint = Endpoint.open(ticket, spin_ns=configuration.spin_ns)
        self._endpoint = endpoint
        assert self._node is not None
        ports = NodePorts.join(self._node, kind, endpoint, configuration)
        context.open(ports.handlers.keys(), ports.publishers)
        work = self._work = loop(
            self._node, ports, context, self._commands, self._reporter, configuration
        )
        self._commands.wake_with(self._wake_work)
        return work

    def _wake_work(self) -> None:
        assert self._work is not None
        if self._commands.is_stopping:
            self._work.finish_outputs()  # whoever waits for room to send gets `ChannelClosed`
        else:
            self._work.recount()
        self._work.endpoint.doorbell.ring()

    def _is_connected(self) -> bool | None:
        """Whether all readers are there; False to give up, None to wait."""
        assert self._work is not None
        if self._commands.is_stopping:
            return False
        waiting = [one for one in self._work.publishers.values() if not one.try_connect()]
        return None if waiting else True

    @contextmanager
    def _cleaning_up(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # told, and the exit goes on
            self._enter(Phase.CLEANING_UP)
            self._report(error)

    def _bound_exit(self) -> None:
        """Have a node that exits by itself be gone, whatever its clean-up or exit handlers do.

        Nobody has been told: its exit says so. One that is told to end has its grace period.
        """
        if self._open_endpoint is None and not self._commands.is_stopping:
            faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True, file=2)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        if phase in _TOLD:
            self._reporter.say(control.Progress(phase, 0.0, ""))

    def _report(self, error: Exception) -> None:
        """Tell the executor what failed; the first time counts, there and here."""
        if isinstance(error, Stopped) or self._has_failed:
            return
        self._has_failed = True
        working_on = "" if self._work is None else self._work.describe_work()
        hook = _HOOKS[self._phase]
        if hook == "process" and self._work is not None and self._work.is_finishing:
            hook = "finish"
        # What the executor says to a script that starts itself again names the script: all else in
        # its traceback is ours.
        is_told = hook == "import" and type(error) is ExecutorError
        trace = "" if is_told else control.shorten(format_error(error))
        self._reporter.say(control.Failed(hook, summary(error), trace, working_on))


_TOLD = (Phase.IMPORTING, Phase.CREATING, Phase.LOADING, Phase.CONNECTING)
"""What a start takes its time for."""
_HOOKS = {
    Phase.STARTING: "start",
    Phase.IMPORTING: "import",
    Phase.CREATING: "__init__",
    Phase.LOADING: "initialize",
    Phase.CONNECTING: "connect",
    Phase.PROCESSING: "process",
    Phase.CLEANING_UP: "cleanup",
}
"""What fails in a phase, by the name that the author of the node knows it."""
