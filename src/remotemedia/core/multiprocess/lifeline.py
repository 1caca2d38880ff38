"""The executor's end of the lifeline: starts the spawner, speaks to it, learns of its end.

Nothing here touches what belongs to the whole process: no signal handler, no child watcher, no
reaper. The spawner's end is learned from a pidfd, and it is reaped by its own pid.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, BinaryIO, TypedDict

from remotemedia.core.multiprocess import spawner
from remotemedia.core.multiprocess.stdio import PipeReader
from remotemedia.core.uncancelled import to_its_end
from remotemedia.errors import SpawnError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Lifeline", "Report"]

_log = logging.getLogger("remotemedia.spawner")
START_SECONDS = 10.0  # a spawner takes some hundredths of one


class Report(TypedDict, total=False):
    """What the spawner says; the table in `spawner.py` tells which fields an event has."""

    event: str
    id: int
    pid: int
    errno: int
    stage: str
    status: int
    max_rss_bytes: int
    is_oom: bool


class Lifeline:
    """One spawner and the socket to it. All methods belong to the loop that called `open`.

    Args:
        on_report: called on the loop with every report, in order.
        on_end: called on the loop once, after the last report, when the spawner has ended.
    """

    def __init__(self, on_report: Callable[[Report], None], on_end: Callable[[], None]) -> None:
        self._on_report = on_report
        self._on_end = on_end
        self._outbox: deque[tuple[bytes, list[int], int | None]] = deque()  # with own fds
        self._ended = asyncio.Event()  # the spawner is dead and reaped

    @property
    def pid(self) -> int:
        """The spawner's pid."""
        return self._process.pid

    async def open(self) -> None:
        """Start the spawner and wait until it serves. Cancelled, it leaves none.

        Raises:
            SpawnError: it could not be started.
        """
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._launch()
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._ready
        except BaseException as error:
            self.kill()
            await to_its_end(self.wait_ended())
            if isinstance(error, TimeoutError):
                problem = f"it did not answer within {START_SECONDS:g} s"
                raise SpawnError("the spawner", problem, "is the machine overloaded?") from None
            raise

    def send(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send a command, at once or when the spawner takes it; never waits, never raises.

        A process that cannot be ordered is reported as `spawn_failed`; the loss of another command
        is logged. The caller may close `fds` when this returns.
        """
        if self._ended.is_set():
            return
        packet = json.dumps(message).encode()
        number = message["id"] if message["op"] == "spawn" else None
        assert isinstance(number, int | None)
        try:
            if len(packet) > spawner.MAX_MESSAGE_BYTES or len(fds) > spawner.MAX_DESCRIPTORS:
                raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
            if self._outbox or not self._try_send(packet, fds, number):
                self._outbox.append((packet, _duplicates(fds), number))
                self._loop.add_writer(self._socket, self._flush)
        except OSError as error:
            self._report_unsent(number, error)

    def signal(self, number: int, signal_number: int) -> None:
        """Have a process and its group signalled; a stopped spawner goes on for that."""
        self.rouse()
        self.send({"op": "signal", "id": number, "number": signal_number})

    def kill_tree(self, number: int) -> None:
        """Have a process and all its descendants killed; a stopped spawner goes on for that."""
        self.rouse()
        self.send({"op": "kill_tree", "id": number})

    def end(self) -> None:
        """Let the spawner kill all, sweep and end; its reports keep coming until then."""
        if not self._ended.is_set():
            self._discard_outbox()
            self.rouse()
            with contextlib.suppress(OSError):  # it is about to end by itself
                self._socket.shutdown(socket.SHUT_WR)

    def rouse(self) -> None:
        """Have a stopped spawner go on: it would obey nothing, and tell no end of a process."""
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the spawner; its runners die with it."""
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait_ended(self) -> None:
        """Wait until the spawner has ended and is reaped."""
        await self._ended.wait()

    def _launch(self) -> None:
        with contextlib.ExitStack() as on_error:
            try:
                self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                on_error.callback(self._socket.close)
                with theirs:
                    stderr, stderr_writer = os.pipe()
                    on_error.callback(os.close, stderr)
                    with open(stderr_writer, "wb") as errors:
                        self._process = _run_spawner(theirs, errors)
                on_error.callback(_kill_and_reap, self._process)
                self._pidfd = os.pidfd_open(self._process.pid)
            except OSError as error:
                hint = "it takes Linux 5.3 or later, and an interpreter in sys.executable"
                raise SpawnError("the spawner", str(error), hint) from error
            on_error.pop_all()
        self._socket.setblocking(False)
        self._stderr = PipeReader(stderr, _log, logging.ERROR)
        self._loop.add_reader(self._socket, self._receive)
        self._loop.add_reader(self._pidfd, self._finish)

    def _try_send(self, packet: bytes, fds: Sequence[int], number: int | None) -> bool:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except ConnectionError:
            pass  # it is ending: `_finish` comes next
        except OSError as error:
            self._report_unsent(number, error)
        return True

    def _flush(self) -> None:
        while self._outbox and self._try_send(*self._outbox[0]):
            for fd in self._outbox.popleft()[1]:
                os.close(fd)
        if not self._outbox:
            self._loop.remove_writer(self._socket)

    def _discard_outbox(self) -> None:
        while self._outbox:
            for fd in self._outbox.popleft()[1]:
                os.close(fd)
        self._loop.remove_writer(self._socket)

    def _report_unsent(self, number: int | None, error: OSError) -> None:
        if number is None:
            # What was to be signalled, killed or swept is so at the latest when the spawner ends.
            _log.error("a command to the spawner was lost: %s", error)
            return
        stage = "send the order to the spawner"
        code = error.errno or 0
        self._on_report({"event": "spawn_failed", "id": number, "errno": code, "stage": stage})

    def _receive(self) -> None:
        while True:
            try:
                packet = self._socket.recv(spawner.MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                packet = b""
            if not packet:
                self._loop.remove_reader(self._socket)
                return
            report: Report = json.loads(packet)
            if report["event"] != "ready":
                self._on_report(report)
            elif not self._ready.done():
                self._ready.set_result(None)

    def _finish(self) -> None:
        self._process.poll()  # reaps it
        self._receive()
        self._loop.remove_reader(self._socket)
        self._loop.remove_reader(self._pidfd)
        self._discard_outbox()
        self._socket.close()
        os.close(self._pidfd)
        self._stderr.close()
        self._ended.set()
        if not self._ready.done():
            why = self._stderr.tail or f"it ended with code {self._process.returncode}"
            self._ready.set_exception(SpawnError("the spawner", why))
        self._on_end()


def _run_spawner(end: socket.socket, errors: BinaryIO) -> subprocess.Popen[bytes]:
    python = [sys.executable, "-I", "-S", "-X", "utf8"]
    # Popen forks safely beside other threads, and closes what is not passed.
    return subprocess.Popen(  # noqa: S603 - our own file
        [*python, spawner.__file__, str(end.fileno()), str(os.getpid())],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=[end.fileno()],
        start_new_session=True,
    )


def _kill_and_reap(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()  # some milliseconds: it ignores no SIGKILL


def _duplicates(fds: Sequence[int]) -> list[int]:
    """Duplicate descriptors, all or none.

    Raises:
        OSError: too many are open.
    """
    with contextlib.ExitStack() as on_error:
        copies = []
        for fd in fds:
            copies.append(os.dup(fd))
            on_error.callback(os.close, copies[-1])
        on_error.pop_all()
        return copies
