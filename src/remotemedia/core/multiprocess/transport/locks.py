"""Locks on folders: among processes, and gone with their holder, however it ends.

They are locks of an open descriptor (flock(2)), and a forked child has that too. So they are given
back by an unlock, which counts for all copies, and a child closes its copy at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from remotemedia.core.multiprocess.transport.forks import inherited, tell_children
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.errors import ChannelClosed, ChannelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
LOCK_SECONDS = 10.0
"""How long to wait for who takes memory: 1 ms per MB at most, so this is time for 10 GB."""
_FIRST_PAUSE_SECONDS = 0.0005
_LONGEST_PAUSE_SECONDS = 0.05


class FolderLock:
    """A lock on a folder, by this object: another of this process is kept out like any other.

    It leaves no file. It is let go with the object, at the latest.

    Raises:
        ResourceLimit: too many files are open.
        OSError: the folder cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with limits_named(f"opening {folder}"):
            self.fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self.fd)
        self._close.atexit = False  # it ends with the process anyway
        self._is_inherited = False
        tell_children(self)

    def try_take(self) -> bool:
        """Take it unless somebody has it; whether it is ours now. It may be ours already.

        Raises:
            ChannelError: the folder is gone, or was opened before a fork.
        """
        self.require_open()
        try:
            if not os.path.samestat(self._folder.stat(), os.fstat(self.fd)):
                raise FileNotFoundError(f"{self._folder} was replaced by another folder")
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except FileNotFoundError as error:
            raise ChannelError(f"the runtime folder is gone: {error}") from error
        except (OSError, ValueError):
            self.require_open()  # it may have been closed meanwhile
            raise
        return True

    def holder(self) -> str:
        """Who has it, in words."""
        inode = os.fstat(self.fd).st_ino
        with contextlib.suppress(OSError):
            # A line is "1: FLOCK ADVISORY WRITE pid device:inode 0 EOF" (proc_locks(5)).
            locks = Path("/proc/locks").read_text(encoding="utf-8")
            found = re.search(rf": FLOCK +\w+ +WRITE +(\d+) +\w+:\w+:{inode} ", locks)
            if found:
                status = Path(f"/proc/{found[1]}/status").read_text(encoding="utf-8")
                words = re.search(r"Name:\t(?s:.*)\nState:\t\w \((.*)\)", status)
                return f"process {found[1]}" + (f" ({words[1]})" if words else "")
        return "another process of this user"

    def close(self) -> None:
        """Let go. Twice is harmless."""
        self.fd = -1
        self._close()

    def disown(self) -> None:
        """Leave it to the parent process."""
        self._is_inherited = True
        self.close()

    def require_open(self) -> None:
        """Raise `ChannelError` if it was closed, or opened before a fork."""
        if self._is_inherited:
            raise inherited()
        if self.fd < 0:
            raise ChannelClosed(f"{self._folder} is not used any more: its transport was closed")


class MemoryLock:
    """Held from a look at what is free until that is taken: one process of the user at a time.

    It cannot stop foreign programs. One of them may still take the memory in that fraction of a
    millisecond, and then the process dies by SIGBUS; `pages.MARGIN_BYTES` are for them.

    Args:
        folder: which all the user's processes know.

    Raises:
        ChannelError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self._threads = threading.RLock()
        self._depth = 0
        self._lock = _open(folder)

    def run(self, action: Callable[[], T]) -> T:
        """Do something while no other process takes memory; what it returns.

        Not a `with` block: an exception of a signal handler can strike before the first line of an
        `__exit__`, and then nobody would let go. Here it can strike where it wants.

        Raises:
            ChannelError: another process has not let go for `LOCK_SECONDS`, or the folder is gone.
        """
        lock = self._lock
        lock.require_open()
        with self._threads:
            self._depth += 1
            try:
                self._wait_for(lock)
                return action()
            finally:
                # Signal handlers run after calls, so none comes between these lines.
                self._depth -= 1
                if self._depth == 0 and lock.fd >= 0:
                    fcntl.flock(lock.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up what it needs. Twice is harmless."""
        self._lock.close()

    @staticmethod
    def _wait_for(lock: FolderLock) -> None:
        for pause_seconds in _pauses(lock):
            time.sleep(pause_seconds)


async def wait_free(folder: Path) -> None:
    """Wait until nobody has the lock of a `MemoryLock`, while the event loop goes on.

    For before a `run` by the thread of an event loop, which then waits only for who comes between.
    Cancelled, it leaves nothing.

    Args:
        folder: as for `MemoryLock`.

    Raises:
        ChannelError: another process has not let go for `LOCK_SECONDS`, or the folder is gone.
        ResourceLimit: too many files are open.
    """
    import asyncio  # not where no event loop runs: a node's process starts sooner without

    lock = _open(folder)
    try:
        for pause_seconds in _pauses(lock):
            await asyncio.sleep(pause_seconds)
    finally:
        if lock.fd >= 0:
            fcntl.flock(lock.fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has it too
        lock.close()


def _open(folder: Path) -> FolderLock:
    try:
        return FolderLock(folder)
    except FileNotFoundError as error:
        raise ChannelError(f"the runtime folder is gone: {error}") from error


def _pauses(lock: FolderLock) -> Iterator[float]:
    """Try to take a lock, and yield how many seconds to pause before each next try."""
    # flock(2) knows no time limit, and no event says that it is free.
    pause_seconds, until = _FIRST_PAUSE_SECONDS, time.monotonic() + LOCK_SECONDS
    while not lock.try_take():
        if time.monotonic() >= until:
            raise ChannelError(
                f"{lock.holder()} has been taking shared memory for {LOCK_SECONDS:g} s, and "
                f"nobody else can meanwhile; if it is stopped (by SIGSTOP or a debugger), let "
                f"it go on (kill -CONT) or end it, then try again"
            )
        yield pause_seconds
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
