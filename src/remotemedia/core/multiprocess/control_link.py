"""The executor's end of the control connection to one runner, as `control` describes it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess import control
from remotemedia.errors import ExecutorError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

__all__ = ["ControlLink"]


class ControlLink:
    """Sends commands to a runner and hands on what it says. Belongs to the running event loop.

    Args:
        end: of the connection; owned.
        on_message: hears what the runner says, but for its stack.
        on_damage: hears of a frame that is no message.
        on_gone: called once, when the other end is gone.

    Attributes:
        is_open: whether commands are sent: from the first one until an end is gone.
    """

    def __init__(
        self,
        end: socket.socket,
        on_message: Callable[[control.FromRunner], None],
        on_damage: Callable[[ExecutorError], None],
        on_gone: Callable[[], None],
    ) -> None:
        self.is_open = False
        self._end = end
        self._end.setblocking(False)
        self._on_message = on_message
        self._on_damage = on_damage
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[control.ToRunner, Sequence[int]]] = deque()
        self._stack: asyncio.Future[str] | None = None

    def send_first(self, configuration: control.Configure, fds: Sequence[int]) -> None:
        """Say what the runner is to run; it waits in the socket until it is read.

        Raises:
            ExecutorError: it is larger than a frame.
        """
        self.is_open = True
        self._end.setblocking(True)
        control.send(self._end, configuration, fds)
        self._end.setblocking(False)

    def send(self, command: control.ToRunner, fds: Sequence[int] = ()) -> None:
        """Send a command, once there is room for it; nothing unless the link is open.

        The caller keeps the descriptors open until the link is closed.
        """
        if not self.is_open:
            return
        if self._unsent:
            if self._unsent[-1][0] != command:  # one interrupt is as good as many
                self._unsent.append((command, fds))
            return
        self._unsent.append((command, fds))
        self._send_unsent()
        if self._unsent:  # it is stopped, or stuck, and its socket full
            self._loop.add_writer(self._end, self._send_unsent)

    async def ask_stack(self, seconds: float) -> str:
        """Return the stack of the node's main thread; empty if it does not say within this time."""
        self._stack = self._loop.create_future()
        self.send(control.ShowStack())
        try:
            async with asyncio.timeout(seconds):
                return await self._stack
        except TimeoutError:
            return ""

    def listen(self) -> None:
        """Hear the runner from now on."""
        self._loop.add_reader(self._end, self.read)

    def read(self) -> None:
        """Hear what has come and was not heard yet."""
        while self.is_open:
            try:
                frame, _ = control.receive(self._end)
            except BlockingIOError:
                return
            except OSError:
                frame = b""
            if not frame:
                self._stop()
                self._on_gone()
                return
            try:
                message = control.decode_from_runner(frame)
            except ExecutorError as error:
                self._on_damage(error)
                return
            if isinstance(message, control.Stack):
                self._set_stack(message.text)
            else:
                self._on_message(message)

    def close(self) -> None:
        """Let go of the connection. Twice is harmless."""
        if self.is_open:
            self._stop()
        self._end.close()

    def _set_stack(self, text: str) -> None:
        if self._stack is not None and not self._stack.done():
            self._stack.set_result(text)

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

    def _stop(self) -> None:
        self.is_open = False
        self._unsent.clear()
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
