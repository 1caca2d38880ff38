"""Orphans: processes that nodes have started, whose spawner died before it could kill them.

Runners die with their spawner, but what they started falls to the next reaper of the machine. It is
known by its session, which is a runner's, or by the mark that a spawner's processes carry in their
environment. What left both behind is not found: that takes the spawner.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess import spawner

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["MARK", "all_pids", "find_orphans", "kill_orphan", "kill_orphans", "wait_dead"]

MARK = "REMOTEMEDIA_SPAWNER"  # environment variable: the spawner that a process descends from
_SPAWNER = f"{spawner.__name__.replace('.', '/')}.py".encode()  # in the command line of each
MAX_ROUNDS = 100  # each ends when all that it found is dead: only a fork bomb needs many


async def kill_orphans(sessions: Collection[int], mark: str) -> None:
    """Kill every process in one of `sessions` or with `mark` in its environment; return when dead.

    Cancelled, it has killed what it had found by then.

    Args:
        sessions: pids of the runners, each of which led a session.
        mark: the value of `MARK`.
    """
    is_left = partial(_is_left, sessions=sessions, mark=mark)
    for _ in range(MAX_ROUNDS):
        killed = [_kill_if(is_left, pid) for pid in all_pids()]
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


def find_orphans() -> dict[int, str]:
    """Return the processes that nodes have started and no spawner is above any more.

    Of any executor of this user; by pid, with the names of their programs.
    """
    found = {}
    for pid in all_pids():
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            if _is_orphan(pid):
                found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
    return found


def kill_orphan(pid: int) -> None:
    """Kill a process that `find_orphans` found, unless it has ended or is none any more."""
    pidfd = _kill_if(_is_orphan, pid)
    if pidfd is not None:
        os.close(pidfd)


def all_pids() -> list[int]:
    """Return the pids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _kill_if(is_meant: Callable[[int], bool], pid: int) -> int | None:
    """Kill a process if it is one that is meant; return its pidfd then."""
    try:
        pidfd = os.pidfd_open(pid)  # first, so that what is checked is what is killed
    except OSError:
        return None
    with contextlib.suppress(OSError):  # ended meanwhile, or another user's
        if is_meant(pid):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return pidfd
    os.close(pidfd)
    return None


def _is_left(pid: int, sessions: Collection[int], mark: str) -> bool:
    state, _, _, session = _stat(pid)
    if state in b"ZX":
        return False
    return int(session) in sessions or f"{MARK}={mark}".encode() in _environment(pid).split(b"\0")


def _is_orphan(pid: int) -> bool:
    if f"{MARK}=".encode() not in _environment(pid):
        return False
    while pid > 1:
        if _SPAWNER in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        pid = int(_stat(pid)[1])
    return True


def _stat(pid: int) -> list[bytes]:
    """Return state, parent, group and session of a process."""
    # proc_pid_stat(5): they come after the name, which is in parentheses.
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:4]


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
