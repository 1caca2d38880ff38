"""Locks on folders: one at a time, never for ever, and not beyond their process."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from remotemedia.core.multiprocess.transport import locks
from remotemedia.core.multiprocess.transport.folder import claim
from remotemedia.core.multiprocess.transport.locks import FolderLock, MemoryLock
from remotemedia.errors import ChannelClosed, ChannelError
from tests.strikes import strikes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def nothing() -> None:
    pass


def is_free(folder: Path) -> bool:
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


class Child:
    """A forked child that lives until it is ended."""

    def __init__(self) -> None:
        ours, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(theirs)
            os.read(ours, 1)
            os._exit(0)
        os.close(ours)
        self._end = theirs

    def end(self) -> None:
        os.close(self._end)
        os.waitpid(self.pid, 0)


@pytest.fixture
def stopped_holder(tmp_path: Path) -> Iterator[int]:
    """A process that was stopped while it had the lock."""
    code = "import fcntl, os, signal, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); "
    code += "os.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-S", "-c", code, tmp_path]) as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        yield process.pid
        process.send_signal(signal.SIGCONT)


def test_the_lock_keeps_other_threads_and_processes_out(tmp_path: Path) -> None:
    one, two = MemoryLock(tmp_path), MemoryLock(tmp_path)
    inside = threading.Event()
    thread = threading.Thread(target=lambda: two.run(inside.set))

    def look() -> int:
        assert one.run(lambda: 5) == 5  # its own holder may enter again
        thread.start()
        assert not is_free(tmp_path)
        assert not inside.is_set()
        return 7

    assert one.run(look) == 7
    thread.join()
    assert inside.is_set()
    assert is_free(tmp_path)


def test_the_lock_ends_with_an_exception_and_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="runtime folder is gone"):
        MemoryLock(tmp_path / "gone")
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = MemoryLock(folder)
    with pytest.raises(ZeroDivisionError):
        lock.run(lambda: 1 // 0)
    assert is_free(folder)
    folder.rmdir()
    for _ in range(2):
        with pytest.raises(ChannelError, match="runtime folder is gone"):
            lock.run(nothing)
        folder.mkdir(exist_ok=True)


def test_a_child_forked_under_the_lock_does_not_keep_it(tmp_path: Path) -> None:
    lock = MemoryLock(tmp_path)
    child = lock.run(Child)
    assert is_free(tmp_path)
    child.end()


def test_a_child_forked_without_pythons_knowledge_does_not_keep_it(tmp_path: Path) -> None:
    lock = MemoryLock(tmp_path)
    copies: list[int] = []
    lock.run(lambda: copies.append(os.dup(lock._lock.fd)))  # as a fork in C would
    assert is_free(tmp_path)
    os.close(copies[0])


def test_a_child_may_not_use_its_parents_lock(tmp_path: Path) -> None:
    lock = MemoryLock(tmp_path)
    started, over = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        over.wait()

    holder = threading.Thread(target=lambda: lock.run(hold))
    holder.start()
    started.wait()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            lock.run(nothing)
        except ChannelError as error:
            status = 7 * ("cannot be used after a fork" in str(error))
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert not is_free(tmp_path)
    over.set()
    holder.join()


def test_a_forked_child_does_not_keep_a_dead_parents_claim_alive(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    parent = os.fork()
    if parent == 0:
        mark = claim(tmp_path)
        child = Child()
        os.write(theirs, f"{child.pid} {mark.fd}".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    grandchild = int(os.read(ours, 100).split()[0])
    assert is_free(tmp_path)
    os.kill(grandchild, signal.SIGKILL)
    os.close(ours)
    os.close(theirs)


def test_a_stopped_holder_is_named_after_a_while(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stopped_holder: int
) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.1)
    lock = MemoryLock(tmp_path)
    for _ in range(2):
        with pytest.raises(ChannelError, match=re.escape("kill -CONT")) as caught:
            lock.run(nothing)
    assert str(caught.value).startswith(f"process {stopped_holder} (stopped) has been taking")
    assert lock._threads.acquire(blocking=False)
    lock._threads.release()
    os.kill(stopped_holder, signal.SIGCONT)
    monkeypatch.setattr(locks, "LOCK_SECONDS", 60)
    lock.run(nothing)


def test_a_signal_handler_that_raises_leaves_the_lock_free(tmp_path: Path) -> None:
    lock = MemoryLock(tmp_path)
    for place in strikes(lambda: lock.run(nothing), "locks.py"):
        assert is_free(tmp_path), place
        other = threading.Thread(target=lambda: lock.run(nothing))
        other.start()
        other.join(10)
        assert not other.is_alive(), place
    lock.run(nothing)


def test_a_signal_handler_that_raises_ends_a_wait_for_the_lock(
    tmp_path: Path, stopped_holder: int
) -> None:
    lock = MemoryLock(tmp_path)

    def ring(*_: object) -> None:
        raise ZeroDivisionError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(ZeroDivisionError):
        lock.run(nothing)
    signal.signal(signal.SIGALRM, before)
    os.kill(stopped_holder, signal.SIGCONT)
    lock.run(nothing)


def test_a_lock_that_is_closed_while_it_is_taken_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FolderLock(tmp_path)
    look = os.fstat

    def close_and_look(fd: int) -> os.stat_result:
        lock.close()
        return look(fd)

    monkeypatch.setattr(os, "fstat", close_and_look)
    with pytest.raises(ChannelClosed, match="its transport was closed"):
        lock.try_take()


def test_a_lock_goes_with_its_object(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    assert lock.try_take()
    assert lock.try_take()
    del lock
    assert is_free(tmp_path)
