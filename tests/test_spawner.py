"""The spawner by itself: spoken to over its socket, as an executor does."""

from __future__ import annotations

import array
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from remotemedia.core.multiprocess import spawner
from tests.process_helpers import exists, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = (sys.executable, "-I", "-S", "-X", "utf8", spawner.__file__)


class Executor:
    """The other end of a spawner's lifeline, blocking."""

    def __init__(self, *, shell_suffix: str = "", send_buffer_bytes: int = 0) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if send_buffer_bytes:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        command = [*COMMAND, str(theirs.fileno()), str(os.getpid())]
        if shell_suffix:
            command = ["/bin/sh", "-c", f'exec "$@" {shell_suffix}', "sh", *command]
        with theirs:
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        assert self.read() == {"event": "ready"}

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds or []))]
        self.socket.sendmsg([json.dumps(message).encode()], rights if fds else [])

    def spawn(self, number: int, *argv: str, **fields: Any) -> None:
        fds = fields.pop("fds", {})
        order = {"op": "spawn", "id": number, "argv": argv, "env": {}, "cwd": "/", "cpus": None}
        order |= {"max_memory_bytes": None, "fds": list(fds), **fields}
        self.send(order, list(fds.values()))

    def read(self) -> dict[str, Any]:
        packet = self.socket.recv(spawner.MAX_MESSAGE_BYTES)
        message: dict[str, Any] = json.loads(packet) if packet else {}
        return message

    def read_until(self, event: str, number: int) -> dict[str, Any]:
        while (message := self.read()).get("event") != event or message["id"] != number:
            assert message, f"the spawner ended before {event!r}"
        return message

    def close(self) -> None:
        self.socket.close()
        assert self.process.wait(10) == 0


@pytest.fixture
def executor() -> Iterator[Executor]:
    made = Executor()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("fields", "number", "stage"),
    [
        ({"argv": ["/no/such/file"]}, errno.ENOENT, "execute /no/such/file"),
        ({"argv": ["/etc/passwd"]}, errno.EACCES, "execute /etc/passwd"),
        ({"argv": ["no-such-name"], "env": {"PATH": "/bin"}}, errno.ENOENT, "execute no-such-name"),
        ({"cwd": "/no/such/folder"}, errno.ENOENT, "enter the folder /no/such/folder"),
        ({"cpus": [100_000]}, errno.EINVAL, "run on the CPUs [100000]"),
    ],
)
def test_what_prevents_exec_is_reported_once_with_its_errno(
    executor: Executor, fields: dict[str, Any], number: int, stage: str
) -> None:
    executor.spawn(1, "/bin/true", **fields)
    failure = {"event": "spawn_failed", "id": 1, "errno": number, "stage": stage}
    assert executor.read() == failure
    executor.spawn(2, "/bin/true")  # what comes next is not about 1
    assert executor.read()["id"] == 2


def test_a_process_is_spawned_then_exits_then_is_gone(executor: Executor) -> None:
    executor.spawn(7, "/bin/sh", "-c", "exit 3")
    reports = [executor.read() for _ in range(3)]
    assert [report["event"] for report in reports] == ["spawned", "exited", "gone"]
    assert all(report["id"] == 7 for report in reports)
    assert os.waitstatus_to_exitcode(reports[1]["status"]) == 3
    assert reports[1]["max_rss_bytes"] > 100_000


def test_no_report_is_lost_when_the_executor_does_not_read() -> None:
    executor = Executor(send_buffer_bytes=1)  # the kernel's least: a few packets
    for number in range(200):
        executor.spawn(number, "/bin/true")
    seen: dict[str, list[int]] = {"spawned": [], "exited": [], "gone": []}
    for _ in range(3 * 200):
        report = executor.read()
        seen[report["event"]].append(report["id"])
    assert all(sorted(ids) == list(range(200)) for ids in seen.values())
    executor.close()


def test_only_declared_descriptors_are_inherited_at_the_chosen_numbers(executor: Executor) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader, writer = os.pipe()
        # 5 and 9 are taken in the spawner as well, by its own: none may be overwritten early.
        fds = {1: writer, 9: ours.fileno(), 5: reader}
        executor.spawn(1, "/bin/ls", "-l", "/proc/self/fd", fds=fds)
        os.close(writer)
        executor.read_until("gone", 1)
        listing = os.read(reader, 65536).decode()
        os.close(reader)
    links = dict(re.findall(r"(\d+) -> (.*)", listing))
    own = {fd for fd, path in links.items() if path.startswith("/proc/")}  # the folder it lists
    assert set(links) - own == {"0", "1", "2", "5", "9"}
    assert links["0"] == "/dev/null"
    assert links["9"].startswith("socket:")
    assert links["1"] == links["5"]


def test_processes_start_with_default_signals_and_none_blocked(executor: Executor) -> None:
    reader, writer = os.pipe()
    executor.spawn(1, "/bin/grep", "^Sig[BI]", "/proc/self/status", fds={1: writer})
    os.close(writer)
    executor.read_until("gone", 1)
    # Signals 32 and 33 are the C library's own; make's children have them ignored.
    own = 0x1_8000_0000
    masks = [int(mask, 16) & ~own for mask in os.read(reader, 4096).split()[1::2]]
    assert masks == [0, 0]
    os.close(reader)


def test_each_process_leads_a_session_away_from_the_spawner_and_its_terminal(
    executor: Executor,
) -> None:
    executor.spawn(1, "/bin/sleep", "100")
    pid = executor.read()["pid"]
    assert os.getsid(pid) == os.getpgid(pid) == pid
    executor.send({"op": "signal", "id": 1, "number": signal.SIGINT})
    assert os.WTERMSIG(executor.read()["status"]) == signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_spawner_outlives_signals_meant_to_end_a_program(
    executor: Executor, number: signal.Signals
) -> None:
    executor.process.send_signal(number)
    executor.spawn(1, "/bin/true")
    assert executor.read()["event"] == "spawned"


def test_the_spawner_works_without_standard_streams() -> None:
    executor = Executor(shell_suffix="<&- >&- 2>&-")
    executor.spawn(1, "/bin/true")
    assert executor.read()["event"] == "spawned"
    executor.close()


def test_the_end_of_the_lifeline_kills_everything_and_sweeps(tmp_path: Path) -> None:
    (tmp_path / "rm_mine_1").touch()
    (tmp_path / "rm_mine_2").mkdir()
    (tmp_path / "rm_mine_2" / "file").touch()
    (tmp_path / "rm_other").touch()
    (tmp_path / "private").mkdir()
    executor = Executor()
    patterns = [str(tmp_path / "rm_mine_*"), str(tmp_path / "private"), str(tmp_path / "absent")]
    executor.send({"op": "sweep", "patterns": patterns})
    pids = []
    for number in range(5):
        executor.spawn(number, "/bin/sleep", "100")
        pids.append(executor.read()["pid"])
    executor.close()
    assert not any(map(exists, pids))
    assert [path.name for path in tmp_path.iterdir()] == ["rm_other"]


def test_a_link_is_swept_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    spawner.sweep([str(tmp_path / "link")])
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").exists()


@pytest.mark.parametrize(
    "text",
    [
        "low 0\nhigh 0\nmax 9\noom 5\noom_kill 3\noom_group_kill 7\n",  # cgroup v2, memory.events
        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",  # cgroup v1, memory.oom_control
    ],
)
def test_kills_for_want_of_memory_are_counted_in_both_kinds_of_cgroup(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "counter").write_text(text)
    assert spawner.read_counter(str(tmp_path / "counter")) == 3
    assert spawner.read_counter(str(tmp_path / "absent")) == 0


def test_children_are_found_without_the_kernels_list_of_them() -> None:
    child = subprocess.Popen(["/bin/sleep", "100"])
    try:
        assert child.pid in spawner.children()
        assert spawner.scan_children(os.getpid()) == spawner.children()
    finally:
        child.kill()
        child.wait()


def test_a_memory_limit_above_the_one_that_stands_leaves_that() -> None:
    gib = 1 << 30
    program = (
        f"import resource; from remotemedia.core.multiprocess import spawner; "
        f"resource.setrlimit(resource.RLIMIT_AS, ({gib}, {8 * gib})); "
        f"spawner.limit_memory({4 * gib}); print(resource.getrlimit(resource.RLIMIT_AS)); "
        f"spawner.limit_memory({16 * gib}); print(resource.getrlimit(resource.RLIMIT_AS))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    ).stdout
    assert told.splitlines() == [str((4 * gib, 4 * gib))] * 2


def test_a_process_that_has_itself_traced_has_not_exited_when_it_stops(executor: Executor) -> None:
    traced = "import ctypes, os; ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), 10)"
    executor.spawn(1, sys.executable, "-I", "-S", "-c", traced)
    pid = executor.read_until("spawned", 1)["pid"]
    deadline = time.monotonic() + 20
    while state_of(pid) != "t":  # stopped by who traces it
        assert time.monotonic() < deadline
    executor.spawn(2, "/bin/true")
    executor.read_until("gone", 2)  # it has been told of the stop by now
    executor.send({"op": "kill_tree", "id": 1})
    report = executor.read()
    assert (report["event"], report["id"]) == ("exited", 1)
    assert os.WTERMSIG(report["status"]) == signal.SIGKILL
    assert executor.read() == {"event": "gone", "id": 1}
