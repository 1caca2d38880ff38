"""The spawner: the parent of every runner of one executor, run as `python -I -S spawner.py FD PID`.

It is run by file, isolated and with the standard library only, so that it starts in a few
hundredths of a second and forks in under one thousandth. FD is its end of a SOCK_SEQPACKET pair to
the executor, the lifeline; PID is the executor's process. One packet is one JSON object.

    executor -> spawner                              spawner -> executor
    spawn      id argv env cwd fds cpus              ready
               max_memory_bytes, and the             spawned       id pid
               descriptors by SCM_RIGHTS             spawn_failed  id errno stage
    signal     id number    to the group             exited        id status max_rss_bytes is_oom
    kill_tree  id           SIGKILL, all of it       gone          id: no descendant is left
    sweep      patterns     see `sweep`

The end of the lifeline is the order to end, however it came about: every runner and descendant is
killed and reaped, what lies under the sweep patterns is unlinked, and the spawner exits.

Who belongs to a runner is never guessed. A runner is a child subreaper, so its orphans stay below
it while it lives, also those in sessions of their own. When it dies the kernel hands them to the
spawner, a subreaper too: every child that is not a runner is therefore what a dead runner left
behind, and is killed on sight. If the spawner is killed itself, runners die by PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque

TYPE_CHECKING = False  # as in `typing`, which takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

MAX_MESSAGE_BYTES = 128 * 1024  # below the default socket buffer (net.core.wmem_default, 208 KiB)
MAX_DESCRIPTORS = 64
END_SECONDS = 10.0  # for processes that SIGKILL does not end at once: stuck in the kernel

# The lifeline decides when to end, not a terminal or a service manager; writing raises errors.
IGNORED_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGPIPE, signal.SIGXFSZ),
)

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


class Runner:
    """A process that was started; `error_fd` is open until its exec has succeeded or failed."""

    __slots__ = ("error_fd", "id", "is_killed", "pid")

    def __init__(self, runner_id: int, pid: int, error_fd: int) -> None:
        self.id = runner_id
        self.pid = pid
        self.error_fd = error_fd
        self.is_killed = False

    def signal(self, number: int) -> None:
        """Signal its group, and itself where it has not made its group yet. It is not reaped."""
        self.is_killed |= number == signal.SIGKILL
        with contextlib.suppress(OSError):
            os.killpg(self.pid, number)
            return
        with contextlib.suppress(OSError):
            os.kill(self.pid, number)


class Spawner:
    """The loop: one poll over the lifeline, the executor's pidfd, SIGCHLD and pending execs."""

    def __init__(self, lifeline: socket.socket, host_pid: int) -> None:
        self._lifeline = lifeline
        self._outbox: deque[bytes] = deque()  # what the executor is too slow to take
        self._runners: dict[int, Runner] = {}  # by pid, until reaped
        self._execs: dict[int, Runner] = {}  # by error_fd
        self._leaving: list[int] = []  # ids that have exited and whose descendants may not have
        self._foreign: set[int] = set()  # pids that this user may not kill: they ran a setuid file
        self._patterns: list[str] = []
        self._deadline: float | None = None  # set when the spawner is to end
        self._oom_file = oom_file()
        self._oom_kills = 0
        # A fork of the executor has a copy of the lifeline, so its end alone would not tell.
        self._host = os.pidfd_open(host_pid) if os.getppid() == host_pid else -1
        self._wakeup, wakeup_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._wakeup, select.POLLIN)

    def run(self) -> None:
        """Serve until the lifeline ends, then leave nothing."""
        if self._host < 0:
            self._end()
        else:
            self._poll.register(self._host, select.POLLIN)
            self._send("ready")
        try:
            while not self._is_finished():
                self._turn()
        finally:
            for runner in self._runners.values():
                runner.signal(signal.SIGKILL)
            sweep(self._patterns)

    def _turn(self) -> None:
        wait = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        self._watch_lifeline()
        ready = {fd for fd, _ in self._poll.poll(None if wait is None else wait * 1000)}
        for fd in ready & self._execs.keys():
            self._finish_exec(self._execs[fd])
        if self._host in ready:
            self._end()
        if self._lifeline.fileno() in ready:
            self._flush()
            self._receive()
        if self._wakeup in ready:
            os.read(self._wakeup, 4096)
            self._reap()
        if self._leaving or self._deadline is not None:
            self._kill_orphans()

    def _end(self) -> None:
        if self._deadline is not None:
            return
        self._deadline = time.monotonic() + END_SECONDS
        if self._host >= 0:
            self._poll.unregister(self._host)
        for runner in self._runners.values():
            runner.signal(signal.SIGKILL)

    def _is_finished(self) -> bool:
        if self._deadline is None:
            return False
        is_done = not self._outbox and not children() - self._foreign
        return is_done or time.monotonic() > self._deadline

    # The lifeline.

    def _watch_lifeline(self) -> None:
        events = 0 if self._deadline is not None else select.POLLIN
        if self._outbox:
            events |= select.POLLOUT
        if events:
            self._poll.register(self._lifeline, events)
        else:  # poll would report the end of a lifeline for ever
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._lifeline)

    def _send(self, event: str, **fields: object) -> None:
        self._outbox.append(json.dumps({"event": event, **fields}).encode())
        self._flush()

    def _flush(self) -> None:
        try:
            while self._outbox:
                self._lifeline.send(self._outbox[0])
                self._outbox.popleft()
        except BlockingIOError:
            return
        except OSError:  # nobody is left to be told
            self._outbox.clear()

    def _receive(self) -> None:
        """Take one command: what else is ready has its turn before the next."""
        if self._deadline is not None:
            return
        room = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
        try:
            packet, ancillary, flags, _ = self._lifeline.recvmsg(
                MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except ConnectionError:  # closed with packets of ours unread
            packet, ancillary, flags = b"", [], 0
        if not packet:
            self._end()
            return
        received = memoryview(b"".join(data for _, _, data in ancillary)).cast("i").tolist()
        try:
            self._command(json.loads(packet), received, bool(flags & socket.MSG_CTRUNC))
        finally:
            for fd in received:
                os.close(fd)

    def _command(self, message: dict[str, Any], received: list[int], is_truncated: bool) -> None:
        match message["op"]:
            case "spawn" if is_truncated:
                self._send_failure(message["id"], errno.EMFILE, "receive its descriptors")
            case "spawn":
                self._spawn(message, received)
            case "signal":
                self._signal(message["id"], message["number"])
            case "kill_tree":  # the rest follows: see `_kill_orphans`
                self._signal(message["id"], signal.SIGKILL)
            case "sweep":
                self._patterns = message["patterns"]

    def _signal(self, runner_id: int, number: int) -> None:
        for runner in self._runners.values():
            if runner.id == runner_id:
                runner.signal(number)

    # Processes.

    def _spawn(self, order: dict[str, Any], received: list[int]) -> None:
        spawner_pid = os.getpid()
        self._oom_kills = read_counter(self._oom_file)
        try:
            error_fd, child_error_fd = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            self._send_failure(order["id"], error.errno, "create a pipe")
            return
        try:
            pid = os.fork()
            if pid == 0:
                become_runner(order, received, child_error_fd, spawner_pid)
        except OSError as error:
            os.close(error_fd)
            self._send_failure(order["id"], error.errno, "fork")
            return
        finally:
            os.close(child_error_fd)
        # Exec may take long (a file system far away), so its result is one more thing to poll.
        runner = Runner(order["id"], pid, error_fd)
        self._runners[pid] = self._execs[error_fd] = runner
        self._poll.register(error_fd, select.POLLIN)

    def _send_failure(self, runner_id: int, number: int | None, stage: str) -> None:
        self._send("spawn_failed", id=runner_id, errno=number or 0, stage=stage)

    def _finish_exec(self, runner: Runner) -> None:
        failure = os.read(runner.error_fd, 1024)  # end of file: exec closed it
        self._poll.unregister(runner.error_fd)
        os.close(runner.error_fd)
        del self._execs[runner.error_fd]
        if failure:
            del self._runners[runner.pid]
            number, stage = json.loads(failure)
            self._send_failure(runner.id, number, stage)
        else:
            self._send("spawned", id=runner.id, pid=runner.pid)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                if os.WIFSTOPPED(status):
                    continue  # it has itself traced, and nothing but SIGKILL moves it now
                self._foreign.discard(pid)
                if pid in self._runners:
                    # getrusage(2): in KiB
                    self._note_exit(self._runners[pid], status, usage.ru_maxrss * 1024)

    def _note_exit(self, runner: Runner, status: int, max_rss_bytes: int) -> None:
        if self._execs.get(runner.error_fd) is runner:
            self._finish_exec(runner)
        if self._runners.pop(runner.pid, None) is None:
            return  # its exec failed, and that is what the executor is told
        self._leaving.append(runner.id)
        is_oom = self._was_oom(runner, status)
        self._send(
            "exited", id=runner.id, status=status, max_rss_bytes=max_rss_bytes, is_oom=is_oom
        )

    def _was_oom(self, runner: Runner, status: int) -> bool:
        is_kill = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not is_kill or runner.is_killed or read_counter(self._oom_file) <= self._oom_kills:
            return False
        self._oom_kills += 1
        return True

    def _kill_orphans(self) -> None:
        """Kill what dead runners left; the children of those are next, when these are reaped."""
        orphans = children() - self._runners.keys() - self._foreign
        for pid in orphans:
            try:
                os.kill(pid, signal.SIGKILL)
            except PermissionError:
                self._foreign.add(pid)
        if not orphans - self._foreign:
            for runner_id in self._leaving:
                self._send("gone", id=runner_id)
            self._leaving.clear()


def become_runner(
    order: dict[str, Any], received: list[int], error_fd: int, spawner_pid: int
) -> NoReturn:
    """Turn this process, a fresh fork, into the one that was ordered.

    Never returns: a failure is written to `error_fd` as `[errno, stage]`, where a success of exec
    closes it. Only descriptors 0 to 2 and the ordered ones survive exec.
    """
    stage = "prepare the process"
    try:
        os.setsid()  # a group of its own, away from the terminal's signals
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != spawner_pid:  # it died before prctl took effect
            os._exit(127)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        for number in IGNORED_SIGNALS:  # exec resets handlers, but what is ignored stays so
            signal.signal(number, signal.SIG_DFL)
        stage = "place its descriptors"
        # Each moves above all targets first, so that none is overwritten before its turn.
        above = max([2, *order["fds"]]) + 1
        error_fd = fcntl.fcntl(error_fd, fcntl.F_DUPFD_CLOEXEC, above)
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in received]
        for source, target in zip(moved, order["fds"], strict=True):
            os.dup2(source, target)
        stage = f"enter the folder {order['cwd']}"
        os.chdir(order["cwd"])
        if order["cpus"] is not None:
            stage = f"run on the CPUs {order['cpus']}"
            os.sched_setaffinity(0, order["cpus"])
        if order["max_memory_bytes"] is not None:
            stage = f"limit its memory to {order['max_memory_bytes']} bytes"
            limit_memory(order["max_memory_bytes"])
        stage = f"execute {order['argv'][0]}"
        os.execvpe(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - no shell, on purpose
    except BaseException as error:  # a fork must not return into the loop
        other = errno.ENOMEM if isinstance(error, MemoryError) else errno.EINVAL
        code = error.errno if isinstance(error, OSError) else other
        os.write(error_fd, json.dumps([code, stage[:200]]).encode())
    finally:
        os._exit(127)


def limit_memory(max_bytes: int) -> None:
    """Limit the address space of this process; where a tighter limit stands, that one stays."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process (prctl(2)).

    Raises:
        OSError: the kernel refused.
    """
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def children() -> set[int]:
    """Return the pids of this process's children, running or waiting to be reaped."""
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", "rb") as file:
            return {int(pid) for pid in file.read().split()}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return scan_children(own)


def scan_children(parent: int) -> set[int]:
    """Return the pids of a process's children by looking at every process."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                found.add(int(pid))
    return found


def oom_file() -> str:
    """Return the file that counts the processes of this cgroup killed for want of memory."""
    candidates = []
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers == "":
                candidates.append(f"/sys/fs/cgroup{path}/memory.events")
            elif "memory" in controllers.split(","):
                candidates.append(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
    return next(filter(os.path.exists, candidates), "/proc/vmstat")


def read_counter(path: str) -> int:
    """Return the value of `oom_kill` in a file of names and numbers; 0 where there is none."""
    with contextlib.suppress(OSError), open(path) as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def sweep(patterns: Iterable[str]) -> None:
    """Unlink files and whole folders.

    Args:
        patterns: absolute paths; one that ends in `*` stands for all names that begin so.
    """
    for pattern in patterns:
        folder, name = os.path.split(pattern)
        if not name.endswith("*"):
            remove(pattern)
            continue
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder):
                if entry.startswith(name[:-1]):
                    remove(os.path.join(folder, entry))


def remove(path: str) -> None:
    """Unlink one file, link or folder with all it holds; what cannot be unlinked stays."""
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            for entry in os.listdir(path):
                remove(os.path.join(path, entry))
            os.rmdir(path)
        else:
            os.unlink(path)


def main(lifeline_fd: int, host_pid: int) -> None:
    """Be the spawner of the process `host_pid`, at the other end of `lifeline_fd`."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        is_ignored = number in IGNORED_SIGNALS
        signal.signal(number, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    lifeline = socket.socket(fileno=lifeline_fd)
    lifeline.setblocking(False)
    lifeline.set_inheritable(False)
    Spawner(lifeline, host_pid).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
