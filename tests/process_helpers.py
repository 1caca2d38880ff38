"""What the tests of processes share: small programs, and ways to see that they are dead."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.orphans import wait_dead
from remotemedia.core.multiprocess.spec import SpawnSpec

if TYPE_CHECKING:
    from types import TracebackType

# Says that it runs, and sleeps until it is killed.
SLEEPER = "import os, signal; os.write(3, b'%d\\n' % os.getpid()); signal.pause()"

# The same, deaf to SIGTERM.
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER

# A node with a child in its group, one in a session of its own, and a daemon (a double fork).
FAMILY = """
import os, signal
def report_and_sleep():
    os.write(3, b"%d\\n" % os.getpid())
    signal.pause()
if os.fork() == 0:
    report_and_sleep()
if os.fork() == 0:
    os.setsid()
    report_and_sleep()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        report_and_sleep()
    os._exit(0)
os.wait()
report_and_sleep()
"""
FAMILY_SIZE = 4


def python(code: str, **fields: object) -> SpawnSpec:
    """Return a spec that runs some Python; it starts in a few milliseconds."""
    return SpawnSpec(
        **{  # type: ignore[arg-type]
            "node_id": "node",
            "node_type": "test",
            "session_id": "session",
            "argv": (sys.executable, "-I", "-S", "-c", code),
            **fields,
        }
    )


class Reports:
    """A socket that processes get as descriptor 3, to say lines to the test."""

    async def __aenter__(self) -> Reports:
        ours, theirs = socket.socketpair()
        self._theirs = theirs
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close_write_end()
        self._writer.close()
        await self._writer.wait_closed()

    @property
    def fds(self) -> dict[int, int]:
        """For `SpawnSpec.fds`."""
        return {3: self._theirs.fileno()}

    def close_write_end(self) -> None:
        """Leave the writing to the processes: when the last of them is dead, the lines end."""
        self._theirs.close()

    async def read_to_end(self) -> bytes:
        """Return what is left to read once every process has ended."""
        return await self._reader.read()

    async def line(self) -> str:
        """Return the next line."""
        return (await self._reader.readline()).decode().strip()

    async def pids(self, count: int) -> list[int]:
        """Return the pids that `count` processes have said."""
        return [int(await self.line()) for _ in range(count)]


def exists(pid: int) -> bool:
    """Tell whether a process is alive or waits to be reaped."""
    return os.path.exists(f"/proc/{pid}")


def state_of(pid: int) -> str:
    """Return the letter of a process's state (proc(5)), "X" if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def is_running(pid: int) -> bool:
    """Tell whether a process is alive: one that only waits to be reaped by init is not."""
    return state_of(pid) not in "ZX"


async def wait_all_dead(pids: list[int]) -> None:
    """Wait until every process has died."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        await wait_dead(pidfd)


def open_fds() -> set[str]:
    """Return what this process has open: of each descriptor its number and what it is."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:  # the one that lists the folder
            continue
    return found
