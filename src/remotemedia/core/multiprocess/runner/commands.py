"""What the executor asks of a runner, heard by a thread of its own.

The node's work has the main thread. This one sleeps in `recvmsg`, writes down what was asked, and
rings the doorbell that the work waits on; so a node deep in a model can still be told to stop, and
asked where it is.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess import control
from remotemedia.errors import ExecutorError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["Commands", "Reporter"]


class Reporter:
    """Tells the executor what happens. Any thread may use it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._pid = os.getpid()

    def say(self, message: control.FromRunner) -> None:
        """Send a message; nobody is left to hear it if the executor is gone.

        A child that the node has forked says nothing in its name.
        """
        if os.getpid() != self._pid:
            return
        try:
            control.send(self._end, message)
        except OSError:
            # The executor is gone: the commands thread sees the end of file, and ends us.
            return


class Commands:
    """What was asked and not yet done.

    Attributes:
        configuration: the first command, with its descriptors.
        has_news: something has changed since `take_changes`, perhaps the epoch. Read it as
            often as you like.
        is_stopping: the runner is to clean up and exit, or the executor is gone, or not understood.
        is_draining: a source is to make no more.
        changes: of connections, those to add with the doorbell of the other end.

    Args:
        end: the runner's end of the control connection.
        reporter: answers.
        main_thread: whose stack is shown.
    """

    def __init__(self, end: socket.socket, reporter: Reporter, main_thread: int) -> None:
        self._end = end
        self._reporter = reporter
        self._main_thread = main_thread
        self._wakers: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self.configuration: control.Configure | None = None
        self.fds: list[int] = []
        self.has_news = False
        self.is_stopping = False
        self.is_draining = False
        self.changes: list[tuple[control.Change, list[int]]] = []
        self._is_closed = False
        self._changed = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._listen, name="control", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def wait_configured(self) -> control.Configure | None:
        """Wait for the first command; None if the executor wants nothing any more."""
        with self._changed:
            self._changed.wait_for(lambda: self.configuration is not None or self.is_stopping)
            return None if self.is_stopping else self.configuration

    def wait_stop(self) -> None:
        """Wait until the runner is to exit."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_stopping)

    def wake_with(self, waker: Callable[[], object]) -> None:
        """Call this, in the commands thread, whenever there is news."""
        self._wakers.append(waker)
        if self.has_news:
            waker()

    def wake_with_nothing(self) -> None:
        """Wake nobody any more: what was woken is about to go."""
        with self._lock:
            self._wakers.clear()

    def close(self) -> None:
        """Wake nobody any more, and close the descriptors of what is not done and will not be."""
        self.wake_with_nothing()
        self._is_closed = True
        for _, fds in self.take_changes():
            _close_all(fds)

    def take_changes(self) -> list[tuple[control.Change, list[int]]]:
        """Return the changes to make, which are then done; all news is then known."""
        with self._lock:
            changes, self.changes = self.changes, []
            self.has_news = self.is_stopping
        return changes

    def _listen(self) -> None:
        while True:
            try:
                frame, fds = control.receive(self._end)
            except OSError:
                frame, fds = b"", []
            if not frame:
                self._note(control.Stop(), [])
                return
            try:
                command = control.decode_to_runner(frame)
            except ExecutorError as error:
                # As if the executor were gone: nothing can be asked of this any more.
                with suppress(Exception):  # the node may have closed or replaced it
                    sys.stderr.write(f"the node exits: {error}\n")
                self._note(control.Stop(), [])
                return
            self._note(command, fds)

    def _note(self, command: control.ToRunner, fds: list[int]) -> None:
        if isinstance(command, control.ShowStack):
            self._reporter.say(control.Stack(control.shorten(self._stack())))
            return
        with self._changed:
            match command:
                case control.Configure():
                    self.configuration, self.fds = command, fds
                case control.Attach() | control.Join() | control.Count() if self._is_closed:
                    _close_all(fds)
                case control.Attach() | control.Join() | control.Count():
                    self.changes.append((command, fds))
                case control.Interrupt() | control.Recount():
                    pass  # the ledger says which epoch it is, and who reads
                case control.Drain():
                    self.is_draining = True
                case control.Stop():
                    self.is_stopping = True
            self.has_news = not isinstance(command, control.Configure) or self.has_news
            self._changed.notify_all()
            for waker in self._wakers:
                waker()

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main_thread)
        frames = traceback.extract_stack(frame)
        told = [one for one in frames if not one.filename.startswith("<frozen ")]
        return "".join(traceback.format_list(told)) if frame is not None else ""


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
