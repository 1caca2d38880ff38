"""Finds and kills the processes of a spawner that died before it could.

Runners die with their spawner, but what they started falls to the next reaper of the machine. It is
known by its session, which is a runner's, or by the mark that a spawner's processes carry in their
environment. What left both behind is not found: that takes the spawner.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["MARK", "kill_leftovers", "wait_dead"]

MARK = "REMOTEMEDIA_SPAWNER"  # environment variable: the spawner that a process descends from
MAX_ROUNDS = 100  # each ends when all that it found is dead: only a fork bomb needs many


async def kill_leftovers(sessions: Collection[int], mark: str) -> None:
    """Kill every process in one of `sessions` or with `mark` in its environment; return when dead.

    Cancelled, it has killed what it had found by then.

    Args:
        sessions: pids of the runners, each of which led a session.
        mark: the value of `MARK`.
    """
    for _ in range(MAX_ROUNDS):
        killed = [_kill(int(pid), sessions, mark) for pid in os.listdir("/proc") if pid.isdigit()]
        pidfds = [pidfd for pidfd in killed if pidfd is not None]
        if not pidfds:
            return
        await asyncio.gather(*map(wait_dead, pidfds))


async def wait_dead(pidfd: int) -> None:
    """Wait until a process has died, and close its `pidfd`, also when cancelled."""
    loop = asyncio.get_running_loop()
    is_dead = asyncio.Event()
    loop.add_reader(pidfd, is_dead.set)  # pidfd_open(2): readable once the process has ended
    try:
        await is_dead.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _kill(pid: int, sessions: Collection[int], mark: str) -> int | None:
    try:
        pidfd = os.pidfd_open(pid)  # first, so that what is checked is what is killed
    except OSError:
        return None
    with contextlib.suppress(OSError):  # ended meanwhile, or another user's
        if _is_left(pid, sessions, mark):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return pidfd
    os.close(pidfd)
    return None


def _is_left(pid: int, sessions: Collection[int], mark: str) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as file:
        # proc_pid_stat(5): after the name in parentheses come state, parent, group and session.
        state, _, _, session = file.read().rpartition(b")")[2].split()[:4]
    if state in b"ZX":
        return False
    if int(session) in sessions:
        return True
    with open(f"/proc/{pid}/environ", "rb") as file:
        return f"{MARK}={mark}".encode() in file.read().split(b"\0")
