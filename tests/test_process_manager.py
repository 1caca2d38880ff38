"""Processes of nodes, from start to end, as an executor sees them."""

from __future__ import annotations

import ast
import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from remotemedia.core.multiprocess import spawner
from remotemedia.core.multiprocess.orphans import MARK
from remotemedia.core.multiprocess.process_manager import (
    ExitReason,
    ProcessExit,
    ProcessHandle,
    ProcessManager,
    ProcessStatus,
    SpawnSpec,
)
from remotemedia.errors import SpawnError
from tests.process_helpers import (
    FAMILY,
    FAMILY_SIZE,
    SLEEPER,
    STUBBORN,
    Reports,
    exists,
    python,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 30.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def manager() -> AsyncIterator[ProcessManager]:
    async with ProcessManager() as made:
        yield made


@pytest.fixture
async def reports() -> AsyncIterator[Reports]:
    async with Reports() as made:
        yield made


# Exits.


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        ("pass", ExitReason.NORMAL, "exit code 0"),
        ("raise SystemExit(3)", ExitReason.ERROR, "exit code 3"),
        ("import os; os.abort()", ExitReason.KILLED, "killed by SIGABRT (aborted)"),
        ("import os; os.kill(os.getpid(), 9)", ExitReason.KILLED, "killed by SIGKILL"),
        (
            "import ctypes; ctypes.string_at(0)",
            ExitReason.KILLED,
            "killed by SIGSEGV (segmentation fault)",
        ),
    ],
)
async def test_an_exit_is_told_with_its_reason_and_in_words(
    manager: ProcessManager, code: str, reason: ExitReason, words: str
) -> None:
    handle = await manager.spawn_node(python(code))
    end = await handle.wait()
    assert (end.reason, end.describe()) == (reason, words)
    assert handle.status is ProcessStatus.EXITED
    assert end.max_rss_bytes > 1_000_000
    assert handle.started_at <= end.timestamp <= time.monotonic()
    assert await handle.wait() is end


def test_an_exit_for_want_of_memory_is_told_apart() -> None:
    end = ProcessExit(-signal.SIGKILL, 0.0, max_rss_bytes=300 * 2**20, is_oom=True)
    assert end.reason is ExitReason.OUT_OF_MEMORY
    assert end.describe() == "out of memory: killed by the kernel after it had used 300 MiB"


async def test_a_command_that_cannot_run_is_an_error_at_once_that_names_the_node(
    manager: ProcessManager,
) -> None:
    spec = SpawnSpec(
        node_id="asr", node_type="whisper", session_id="s1", python_executable="/no/python"
    )
    with pytest.raises(SpawnError) as caught:
        await manager.spawn_node(spec)
    assert (caught.value.node_id, caught.value.session_id) == ("asr", "s1")
    assert str(caught.value) == (
        "node 'asr' of session 's1' could not be started: cannot execute /no/python: "
        "No such file or directory; check python_executable and working_directory"
    )
    assert manager.processes == {}


async def test_a_current_folder_that_was_deleted_is_named_with_what_to_do(
    manager: ProcessManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SpawnError, match=r"current folder cannot be used: No such.*set working_di"):
        await manager.spawn_node(python("pass"))
    handle = await manager.spawn_node(python("pass", cwd=str(tmp_path)))
    assert (await handle.wait()).code == 0


async def test_an_order_too_large_for_the_spawner_is_an_error_and_not_a_hang(
    manager: ProcessManager,
) -> None:
    with pytest.raises(SpawnError, match="Argument list too long"):
        await manager.spawn_node(python("pass", env={"LARGE": "x" * 200_000}))


async def test_cancelling_a_wait_leaves_the_process_and_other_waits_alone(
    manager: ProcessManager, reports: Reports
) -> None:
    handle = await manager.spawn_node(python(SLEEPER, fds=reports.fds))
    other = asyncio.create_task(handle.wait())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle.wait(), 0.01)
    assert handle.status is ProcessStatus.RUNNING
    handle.signal(signal.SIGKILL)
    assert (await other).code == -signal.SIGKILL


# What a process is started with.


async def test_a_process_gets_the_environment_and_folder_that_it_was_given(
    manager: ProcessManager, reports: Reports, tmp_path: Path
) -> None:
    code = (
        "import os; os.write(3, ascii([os.getcwd(), sorted(os.environ.items())]).encode() + b'\\n')"
    )
    env = {"LC_ALL": "C.UTF-8", "TEXT": "\u00e9\udcff=\n"}
    await manager.spawn_node(python(code, env=env, cwd=str(tmp_path), fds=reports.fds))
    folder, variables = ast.literal_eval(await reports.line())
    assert folder == str(tmp_path)
    assert [item for item in variables if item[0] != MARK] == sorted(env.items())


async def test_a_process_without_an_environment_of_its_own_gets_ours_as_it_is_now(
    manager: ProcessManager, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SET_AFTER_START", "yes")
    code = "import os; os.write(3, os.environb[b'SET_AFTER_START'] + b'\\n')"
    await manager.spawn_node(python(code, fds=reports.fds))
    assert await reports.line() == "yes"


async def test_a_process_runs_on_the_cpus_and_within_the_memory_that_it_was_given(
    manager: ProcessManager, reports: Reports
) -> None:
    cpu = min(os.sched_getaffinity(0))
    code = (
        "import os, resource; os.write(3, ascii([os.sched_getaffinity(0), "
        "resource.getrlimit(resource.RLIMIT_AS)]).encode() + b'\\n')"
    )
    limit = 512 * 2**20
    await manager.spawn_node(
        python(code, cpus=frozenset({cpu}), max_memory_bytes=limit, fds=reports.fds)
    )
    assert ast.literal_eval(await reports.line()) == [{cpu}, (limit, limit)]


async def test_the_runner_is_started_with_the_command_line_of_the_contract() -> None:
    spec = SpawnSpec(
        node_id="vad", node_type="silero", session_id="s", python_executable="/opt/python"
    )
    module = "remotemedia.core.multiprocess.runner"
    arguments = ("--node-type", "silero", "--node-id", "vad")
    assert spec.command == ("/opt/python", "-m", module, *arguments)


@pytest.mark.parametrize(
    "fields",
    [
        {"node_id": ""},
        {"node_id": "a/b"},
        {"node_id": "x" * 65},
        {"node_id": "new\nline"},
        {"session_id": "a b"},
        {"argv": ("nul\0",)},
        {"env": {"NUL": "\0"}},
        {"env": {"HALF": "\ud800"}},
        {"cwd": "/\ud800"},
        {"env": {"A=B": ""}},
        {"fds": {2: 0}},
        {"cpus": frozenset()},
        {"max_memory_bytes": 0},
    ],
)
def test_values_that_no_process_can_be_started_with_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SpawnError):
        python("pass", **fields)


# Termination.


async def test_terminating_asks_first_and_takes_the_answer(
    manager: ProcessManager, reports: Reports
) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); " + SLEEPER
    handle = await manager.spawn_node(python(code, fds=reports.fds))
    await reports.line()
    await manager.terminate(handle, grace_seconds=60)
    assert (await handle.wait()).code == 7
    assert not exists(handle.pid)


async def test_terminating_kills_the_deaf_and_the_stopped_all_at_once(
    manager: ProcessManager, reports: Reports
) -> None:
    specs = [python(STUBBORN, fds=reports.fds) for _ in range(5)]
    handles = [await manager.spawn_node(spec) for spec in specs]
    await reports.pids(len(specs))
    handles[0].signal(signal.SIGSTOP)
    async with asyncio.timeout(2 * 2):  # not even two of them one after the other
        await manager.terminate(handles, grace_seconds=2)
    assert not any(exists(handle.pid) for handle in handles)
    assert {(await handle.wait()).signal_name for handle in handles} == {"SIGKILL"}


async def test_terminating_reaches_descendants_that_left_the_group_or_became_daemons(
    manager: ProcessManager, reports: Reports
) -> None:
    handle = await manager.spawn_node(python(FAMILY, fds=reports.fds))
    pids = await reports.pids(FAMILY_SIZE)
    await manager.terminate(handle)
    assert not any(map(exists, pids))


async def test_what_a_node_leaves_behind_when_it_exits_is_killed(
    manager: ProcessManager, reports: Reports
) -> None:
    code = FAMILY.replace("os.wait()", "os._exit(0)")
    handle = await manager.spawn_node(python(code, fds=reports.fds))
    assert (await handle.wait()).code == 0
    await handle.wait_gone()
    assert not exists(handle.pid)
    reports.close_write_end()  # the last one: every descendant's is closed, or this would hang
    await reports.read_to_end()


async def test_descendants_of_one_node_outlive_another_node(
    manager: ProcessManager, reports: Reports
) -> None:
    family = await manager.spawn_node(python(FAMILY, fds=reports.fds))
    pids = await reports.pids(FAMILY_SIZE)
    other = await manager.spawn_node(python("pass"))
    await other.wait_gone()
    assert all(map(exists, pids))
    await manager.terminate(family, grace_seconds=0)


async def test_terminating_twice_and_after_the_end_is_the_same_as_once(
    manager: ProcessManager, reports: Reports
) -> None:
    handle = await manager.spawn_node(python(SLEEPER, fds=reports.fds))
    await asyncio.gather(manager.terminate(handle), manager.terminate([handle, handle]))
    await manager.terminate(handle)
    assert not exists(handle.pid)


async def test_a_termination_that_is_cancelled_kills(
    manager: ProcessManager, reports: Reports
) -> None:
    handle = await manager.spawn_node(python(STUBBORN, fds=reports.fds))
    await reports.line()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(manager.terminate(handle, grace_seconds=60), 0.01)
    assert (await handle.wait()).signal_name == "SIGKILL"


async def test_a_termination_that_is_cancelled_at_once_kills(
    manager: ProcessManager, reports: Reports
) -> None:
    handle = await manager.spawn_node(python(STUBBORN, fds=reports.fds))
    await reports.line()
    ending = asyncio.create_task(manager.terminate(handle, grace_seconds=60))
    await asyncio.sleep(0)  # it has begun, and what ends the process has not
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await handle.wait()).signal_name == "SIGKILL"


async def test_the_way_a_process_is_ended_can_be_replaced() -> None:
    async def kill_at_once(handle: ProcessHandle, grace_seconds: float) -> None:
        assert grace_seconds == 5.0
        handle.kill()
        await handle.wait_gone()

    async with ProcessManager(escalate=kill_at_once) as manager:
        handle = await manager.spawn_node(python("import signal; signal.pause()"))
        await manager.terminate(handle)
        assert (await handle.wait()).signal_name == "SIGKILL"


# Many, cancelled, closed.


async def test_a_hundred_processes_start_and_end_at_once(
    manager: ProcessManager, reports: Reports
) -> None:
    specs = [python(SLEEPER, node_id=f"n{i}", fds=reports.fds) for i in range(100)]
    handles = await asyncio.gather(*map(manager.spawn_node, specs))
    assert sorted(await reports.pids(100)) == sorted(handle.pid for handle in handles)
    assert manager.processes == {handle.pid: handle for handle in handles}
    await manager.terminate(handles)
    assert manager.processes == {}
    assert not any(exists(handle.pid) for handle in handles)


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_a_spawn_that_is_cancelled_leaves_no_process(
    manager: ProcessManager, reports: Reports, is_stopped: bool
) -> None:
    if is_stopped:
        os.kill(manager.spawner_pid, signal.SIGSTOP)
    spawning = asyncio.create_task(manager.spawn_node(python(SLEEPER, fds=reports.fds)))
    await asyncio.sleep(0)  # the order is sent
    spawning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawning
    assert spawner.scan_children(manager.spawner_pid) == set()
    reports.close_write_end()
    await reports.read_to_end()  # ends when the process has, if there ever was one


async def test_closing_during_a_spawn_fails_the_spawn_and_leaves_no_process(
    reports: Reports,
) -> None:
    manager = ProcessManager()
    await manager.start()
    spawning = asyncio.create_task(manager.spawn_node(python(SLEEPER, fds=reports.fds)))
    await asyncio.sleep(0)  # the order is sent
    await manager.close()
    with pytest.raises(SpawnError, match="the process manager was closed"):
        await spawning
    reports.close_write_end()
    await reports.read_to_end()


async def test_closing_ends_everything_and_may_be_repeated(
    reports: Reports, tmp_path: Path
) -> None:
    (tmp_path / "rm_1").touch()
    manager = ProcessManager()
    manager.set_sweep([str(tmp_path / "rm_*")])
    await manager.start()
    handle = await manager.spawn_node(python(FAMILY, fds=reports.fds))
    pids = await reports.pids(FAMILY_SIZE)
    await asyncio.gather(manager.close(), manager.close())
    await manager.close()
    assert (await handle.wait()).signal_name == "SIGKILL"
    await handle.wait_gone()
    assert not any(map(exists, [*pids, manager.spawner_pid]))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SpawnError, match="has ended"):
        await manager.spawn_node(python("pass"))


async def test_a_manager_that_was_not_started_refuses_to_spawn_and_closes() -> None:
    manager = ProcessManager()
    with pytest.raises(SpawnError, match="was not started"):
        await manager.spawn_node(python("pass"))
    await manager.close()


@pytest.mark.parametrize("pattern", ["relative*", "/", "/dev/shm/*", "/dev/shm/"])
def test_a_sweep_pattern_that_would_take_a_whole_folder_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="sweep pattern"):
        ProcessManager().set_sweep([pattern])
