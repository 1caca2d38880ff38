"""The user's process, the spawner, or both at once may vanish: nothing is left, and it is known."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from remotemedia.core.multiprocess import process_manager, spawner
from remotemedia.core.multiprocess.process_manager import ProcessManager
from remotemedia.errors import SpawnError
from tests.process_helpers import (
    FAMILY,
    FAMILY_SIZE,
    SLEEPER,
    Reports,
    exists,
    is_running,
    open_fds,
    python,
    wait_all_dead,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 30.0

# A user's process with two families of nodes; then it does what a test says. Its last two arguments
# are the sweep pattern and the descriptor to say pids on.
HOST = """
import asyncio, os, signal, sys
from tests.process_helpers import FAMILY, python
from remotemedia.core.multiprocess.process_manager import ProcessManager

async def main():
    fd = int(sys.argv[2])
    manager = ProcessManager()
    manager.set_sweep([sys.argv[1]])
    await manager.start()
    os.write(fd, b"%d\\n" % manager.spawner_pid)
    for _ in range(2):
        await manager.spawn_node(python(FAMILY, fds={3: fd}))
    sys.stdin.readline()
    THEN

asyncio.run(main())
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def reports() -> AsyncIterator[Reports]:
    async with Reports() as made:
        yield made


@pytest.mark.parametrize(
    "then",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.abort()",
        "os._exit(0)",
        "os.execv('/bin/true', ['true'])",
        "return  # without closing",
        # A fork has a copy of the lifeline, and lives until the test has seen the others dead.
        "os.fork() or os.read(0, 1); os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
async def test_nothing_is_left_when_the_users_process_vanishes(
    reports: Reports, tmp_path: Path, then: str
) -> None:
    (tmp_path / "rm_1").touch()
    fd = reports.fds[3]
    with subprocess.Popen(
        [sys.executable, "-c", HOST.replace("THEN", then), str(tmp_path / "rm_*"), str(fd)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        pass_fds=[fd],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as host:
        pids = await reports.pids(1 + 2 * FAMILY_SIZE)
        assert host.stdin is not None
        host.stdin.write(b"go\n")
        host.wait()
        await wait_all_dead(pids)
        assert list(tmp_path.iterdir()) == []


async def test_a_spawner_that_is_killed_takes_its_nodes_along_and_is_known(
    reports: Reports, tmp_path: Path
) -> None:
    (tmp_path / "rm_1").touch()
    async with ProcessManager() as manager:
        manager.set_sweep([str(tmp_path / "rm_*")])
        handles = [await manager.spawn_node(python(FAMILY, fds=reports.fds)) for _ in range(2)]
        pids = await reports.pids(2 * FAMILY_SIZE)
        os.kill(manager.spawner_pid, signal.SIGKILL)
        for handle in handles:
            assert (await handle.wait()).describe() == "killed by SIGKILL: the spawner died"
            await handle.wait_gone()
        await wait_all_dead([handle.pid for handle in handles])
        assert not any(map(is_running, pids))
        assert not exists(manager.spawner_pid)
        await manager.terminate(handles)
        with pytest.raises(SpawnError, match="has ended"):
            await manager.spawn_node(python("pass"))
    assert list(tmp_path.iterdir()) == []


async def test_closing_waits_within_a_bound_for_what_a_killed_spawner_left(
    reports: Reports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def wait_for_ever(*_: object) -> None:  # as for a process that is stuck in the kernel
        await asyncio.Event().wait()

    monkeypatch.setattr(process_manager, "kill_orphans", wait_for_ever)
    monkeypatch.setattr(spawner, "END_SECONDS", 0.1)
    (tmp_path / "rm_1").touch()
    manager = ProcessManager()
    await manager.start()
    manager.set_sweep([str(tmp_path / "rm_*")])
    handle = await manager.spawn_node(python(SLEEPER, fds=reports.fds))
    os.kill(manager.spawner_pid, signal.SIGKILL)
    await handle.wait()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await manager.close()
    assert "stuck in the kernel" in caplog.text
    assert list(tmp_path.iterdir()) == []
    await wait_all_dead([handle.pid])


async def test_killing_a_spawner_that_was_reaped_by_another_is_harmless() -> None:
    async with ProcessManager() as manager:
        os.kill(manager.spawner_pid, signal.SIGKILL)
        os.waitpid(manager.spawner_pid, 0)
        manager._lifeline.kill()


async def test_a_spawn_fails_at_once_when_the_spawner_dies_under_it(reports: Reports) -> None:
    async with ProcessManager() as manager:
        os.kill(manager.spawner_pid, signal.SIGSTOP)
        spawning = asyncio.create_task(manager.spawn_node(python(SLEEPER, fds=reports.fds)))
        await asyncio.sleep(0)  # the order is sent
        os.kill(manager.spawner_pid, signal.SIGKILL)
        with pytest.raises(SpawnError, match="the spawner died"):
            await spawning


async def test_orders_wait_their_turn_while_the_spawner_is_slow(reports: Reports) -> None:
    async with ProcessManager() as manager:
        os.kill(manager.spawner_pid, signal.SIGSTOP)
        env = {"LARGE": "x" * 50_000}  # 50 of these are more than a socket holds
        specs = [python(SLEEPER, env=env, fds=reports.fds) for _ in range(50)]
        spawning = [asyncio.create_task(manager.spawn_node(spec)) for spec in specs]
        await asyncio.sleep(0)
        os.kill(manager.spawner_pid, signal.SIGCONT)
        handles = await asyncio.gather(*spawning)
        assert sorted(await reports.pids(50)) == sorted(handle.pid for handle in handles)


@pytest.mark.parametrize(
    ("executable", "problem"),
    [
        ("/no/python", "No such file"),
        ("/bin/false", "it ended with code 1"),
        ("", "Permission denied"),
    ],
)
async def test_a_spawner_that_cannot_start_is_an_error_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, executable: str, problem: str
) -> None:
    before = open_fds()
    monkeypatch.setattr(sys, "executable", executable)
    manager = ProcessManager()
    with pytest.raises(SpawnError, match=f"the spawner could not be started: .*{problem}"):
        await manager.start()
    await manager.close()
    assert open_fds() == before


@pytest.mark.parametrize("call", ["socketpair", "pipe", "pidfd_open"])
async def test_a_start_that_runs_out_of_descriptors_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = open_fds()
    manager = ProcessManager()
    with monkeypatch.context() as patched:
        patched.setattr(socket if call == "socketpair" else os, call, refuse)
        with pytest.raises(SpawnError, match="Too many open files") as caught:
            await manager.start()
    assert open_fds() == before, caught
    assert call != "pidfd_open" or not exists(manager.spawner_pid)


async def test_a_start_that_is_cancelled_leaves_no_spawner() -> None:
    before = open_fds()
    manager = ProcessManager()
    starting = asyncio.create_task(manager.start())
    await asyncio.sleep(0)  # the spawner was launched and has not answered
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not exists(manager.spawner_pid)
    assert open_fds() == before


async def test_a_start_that_is_cancelled_as_it_ends_leaves_no_spawner() -> None:
    before = open_fds()
    manager = ProcessManager()
    starting = asyncio.create_task(manager.start())
    while not hasattr(manager._lifeline, "_ready"):
        await asyncio.sleep(0)
    answered = manager._lifeline._ready
    while not answered.done():
        await asyncio.sleep(0)
    starting.cancel()  # before it has heard of it
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not exists(manager.spawner_pid)
    assert open_fds() == before


async def test_a_process_may_have_many_managers_and_closing_one_leaves_the_others(
    reports: Reports,
) -> None:
    async with ProcessManager() as first:
        handle = await first.spawn_node(python(SLEEPER, fds=reports.fds))
        async with ProcessManager() as second:
            await second.spawn_node(python(SLEEPER, fds=reports.fds))
        assert await reports.pids(1) == [handle.pid]
        assert exists(handle.pid)


def test_a_manager_works_on_the_loop_of_any_thread() -> None:
    codes = []

    async def main() -> None:
        async with ProcessManager() as manager:
            handle = await manager.spawn_node(python("raise SystemExit(5)"))
            codes.append((await handle.wait()).code)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [5, 5, 5]


async def test_a_program_that_ignores_sigchld_gets_true_exit_codes() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with ProcessManager() as manager:
            handle = await manager.spawn_node(python("raise SystemExit(5)"))
            assert (await handle.wait()).code == 5
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_the_users_process_keeps_its_signal_handlers_and_its_children() -> None:
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    child = subprocess.Popen(["/bin/false"])
    async with ProcessManager() as manager:
        await (await manager.spawn_node(python("pass"))).wait_gone()
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert child.wait() == 1


async def test_no_descriptor_is_leaked_by_processes_or_managers(reports: Reports) -> None:
    before = open_fds()
    for _ in range(3):
        async with ProcessManager() as manager:
            specs = [python("print('text')", fds=reports.fds), python(SLEEPER, fds=reports.fds)]
            handles = await asyncio.gather(*map(manager.spawn_node, specs))
            with pytest.raises(SpawnError):
                await manager.spawn_node(python("pass", argv=("/no/such/file",)))
            await manager.terminate(handles[1])
    assert open_fds() == before


async def test_programs_that_the_user_starts_meanwhile_inherit_nothing_of_ours() -> None:
    def list_inherited() -> bytes:
        listing = ["/bin/ls", "/proc/self/fd"]
        return subprocess.run(listing, stdout=subprocess.PIPE, close_fds=False, check=True).stdout

    before = list_inherited()

    async def start_and_spawn() -> None:
        async with ProcessManager() as manager:
            await asyncio.gather(*(manager.spawn_node(python("pass")) for _ in range(10)))

    busy = asyncio.create_task(start_and_spawn())
    while not busy.done():
        assert await asyncio.to_thread(list_inherited) == before
    await busy
