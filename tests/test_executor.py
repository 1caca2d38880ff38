"""Executors: many sessions, many executors, names, and what a node's process is made of."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import remotemedia as rm
from remotemedia.core.multiprocess import lifeline
from remotemedia.core.multiprocess.launch import BLAS_VARIABLES, ProcessLauncher
from remotemedia.core.multiprocess.process_manager import ProcessManager
from remotemedia.core.multiprocess.transport import folder
from remotemedia.core.multiprocess.transport.locks import FolderLock
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER
from tests import executor_nodes as nodes
from tests.channel_helpers import open_fds
from tests.executor_helpers import (
    IS_LONG,
    cause_of,
    chain,
    is_dead,
    long_form,
    running,
    texts,
    value_of,
    wait_until,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from remotemedia.core.multiprocess.launch import Launcher
    from remotemedia.core.multiprocess.process_manager import ProcessHandle
    from remotemedia.core.multiprocess.transport.base import Transport
    from remotemedia.core.multiprocess.wiring import Wiring
    from remotemedia.core.validation import ValidatedNode

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def executor() -> AsyncIterator[rm.MultiprocessExecutor]:
    made = rm.MultiprocessExecutor(rm.MultiprocessConfig(grace_period_seconds=2.0))
    async with made:
        yield made


async def surroundings(**options: Any) -> dict[str, Any]:
    async with running(rm.NodeConfig(nodes.Surroundings, "n1", **options)) as session:
        async for output in session.stream(rm.Text("")):
            found = value_of(output)
            assert isinstance(found, dict)
            return found
    raise AssertionError


async def test_ten_sessions_of_three_nodes_at_once_never_cross(
    executor: rm.MultiprocessExecutor,
) -> None:
    sessions = await asyncio.gather(
        *(
            executor.create_session(
                f"s{number}",
                chain(
                    nodes.Echo,
                    rm.NodeConfig(nodes.Suffix, "n2", config={"end": f"-{number}"}),
                    nodes.Echo,
                ),
            )
            for number in range(10)
        )
    )
    for text in ("a", "b", "c"):
        got = await asyncio.gather(*(texts(session, text) for session in sessions))
        assert got == [[f"{text}-{number}"] for number in range(10)]
    await asyncio.gather(*(session.close() for session in sessions))
    assert not executor.sessions


async def test_two_executors_run_a_session_of_the_same_name(
    executor: rm.MultiprocessExecutor,
) -> None:
    async with rm.MultiprocessExecutor() as other:
        one = await executor.create_session("s", chain(nodes.Upper))
        two = await other.create_session("s", chain(nodes.Echo))
        assert [await texts(one, "a"), await texts(two, "a")] == [["A"], ["a"]]
    assert await texts(one, "still") == ["STILL"]


async def test_a_name_is_free_again_when_its_session_has_ended(
    executor: rm.MultiprocessExecutor,
) -> None:
    session = await executor.create_session("s", chain(nodes.Echo))
    with pytest.raises(rm.ExecutorError, match="there is a session 's' already"):
        await executor.create_session("s", chain(nodes.Echo))
    await session.close()
    with pytest.raises(rm.ProcessCrashed):
        await executor.create_session("s", chain(nodes.BadStart))
    again = await executor.create_session("s", chain(nodes.Upper))
    assert await texts(again, "a") == ["A"]
    await executor.terminate_session("s")
    with pytest.raises(rm.SessionNotFound):
        await executor.terminate_session("s")


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "ä", "a/b"])
async def test_a_name_that_is_none_is_refused(executor: rm.MultiprocessExecutor, name: str) -> None:
    with pytest.raises(rm.ExecutorError, match="no name for a session"):
        await executor.create_session(name, chain(nodes.Echo))


async def test_an_executor_that_was_shut_down_starts_nothing(
    executor: rm.MultiprocessExecutor,
) -> None:
    await executor.shutdown()
    await executor.shutdown()
    with pytest.raises(rm.ExecutorError, match="shut down"):
        await executor.create_session("s", chain(nodes.Echo))


async def test_a_shutdown_waits_for_no_spawner_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deaf = tmp_path / "python"
    deaf.write_text("#!/bin/sh\nexec sleep 600\n")
    deaf.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(deaf))
    monkeypatch.setattr(lifeline, "START_SECONDS", 90.0)
    before = open_fds()
    executor = rm.MultiprocessExecutor()
    starting = asyncio.create_task(executor.create_session("s", chain(nodes.Echo)))
    waiting = asyncio.create_task(executor.create_session("t", chain(nodes.Echo)))
    await asyncio.sleep(0)  # the spawner was launched
    assert not starting.done()
    async with asyncio.timeout(60):
        await executor.shutdown()
    for session in (starting, waiting):
        with pytest.raises(rm.ExecutorError, match="the executor was shut down"):
            await session
    assert open_fds() == before


async def test_a_session_that_does_not_end_well_is_told_when_all_is_shut_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail() -> None:
        await terminate()
        raise ZeroDivisionError

    executor = rm.MultiprocessExecutor()
    session = await executor.create_session("s", chain(nodes.Echo))
    terminate = session.terminate
    monkeypatch.setattr(session, "terminate", fail)
    with pytest.raises(ZeroDivisionError):
        await executor.shutdown()
    with pytest.raises(rm.ExecutorError, match="shut down"):
        await executor.create_session("s", chain(nodes.Echo))


@pytest.mark.parametrize("turns", range(0, 200, 20))
async def test_a_start_that_a_shutdown_overtakes_starts_nothing(turns: int) -> None:
    executor = rm.MultiprocessExecutor()
    creating = asyncio.create_task(executor.create_session("s", chain(nodes.Echo)))
    for _ in range(turns):
        await asyncio.sleep(0)
    await executor.shutdown()
    with pytest.raises(rm.ExecutorError, match=r"shut down|ended while"):
        await creating
    assert not executor.sessions


async def test_a_spawner_that_could_not_be_replaced_is_so_by_the_next_session(
    executor: rm.MultiprocessExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: ProcessManager) -> None:
        raise rm.SpawnError("the spawner", "too many open files")

    session = await executor.create_session("s", chain(nodes.Echo))
    os.kill(executor.spawner_pid, signal.SIGKILL)
    with pytest.raises(rm.PipelineTerminated):
        await session.wait_ended()
    with monkeypatch.context() as broken:
        broken.setattr(ProcessManager, "start", fail)
        with pytest.raises(rm.SpawnError, match="too many open files"):
            await executor.create_session("s", chain(nodes.Echo))
    again = await executor.create_session("s", chain(nodes.Upper))
    assert await texts(again, "a") == ["A"]


class Unclosable(ProcessManager):
    async def close(self) -> None:
        raise ZeroDivisionError


async def test_a_spawner_is_ended_though_the_end_of_another_fails() -> None:
    executor = rm.MultiprocessExecutor()
    await executor.initialize()
    pid = executor.spawner_pid
    executor._lost.append(Unclosable())
    with pytest.raises(ZeroDivisionError):
        await executor.shutdown()
    assert is_dead(pid)


async def test_an_executor_that_is_not_initialised_says_that_it_has_no_spawner() -> None:
    with pytest.raises(rm.ExecutorError, match="before it is initialised"):
        _ = rm.MultiprocessExecutor().spawner_pid


async def test_more_nodes_than_allowed_are_refused() -> None:
    async with rm.Runtime(rm.MultiprocessConfig(max_processes_per_session=1)) as runtime:
        with pytest.raises(rm.PipelineError, match="the limit is 1"):
            await runtime.create_session("s", chain(nodes.Echo, nodes.Echo))


async def test_a_node_sees_the_environment_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_HOST", "1")
    found = await surroundings(environment={"ADDED": "yes"}, cuda_visible_devices="1")
    assert found["environment"]["ADDED"] == "yes"
    assert found["environment"]["SECRET_OF_HOST"] == "1"
    assert found["environment"]["CUDA_VISIBLE_DEVICES"] == "1"
    found = await surroundings(inherit_environment=False, environment={"ADDED": "yes"})
    assert found["environment"]["ADDED"] == "yes"
    assert "SECRET_OF_HOST" not in found["environment"]


async def test_numpy_has_one_thread_in_a_node_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in BLAS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    name = "OPENBLAS_NUM_THREADS"
    for kept in (True, False):
        found = await surroundings(inherit_environment=kept)
        assert found["environment"][name] == "1"
    found = await surroundings(environment={name: "2"})
    assert found["environment"][name] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = await surroundings()
    assert found["environment"]["OMP_NUM_THREADS"] == "3"
    assert name not in found["environment"]


async def test_a_node_that_keeps_what_it_received_leaves_no_file_when_its_session_ends(
    executor: rm.MultiprocessExecutor,
) -> None:
    assert executor._domain is not None
    root, prefix = executor._domain.address

    def files() -> set[str]:
        shared = {name for name in os.listdir(SHM_FOLDER) if name.startswith(prefix)}
        return shared | {str(path) for path in Path(root).rglob("*") if path.is_file()}

    before = files()
    for name in ("a", "b"):
        session = await executor.create_session(name, chain(nodes.Keeper))
        await session.send(rm.Binary(bytes(5000)))
        assert (await session.recv()).correlation_id == 1
        await session.close()
        assert files() == before


async def test_a_node_runs_where_and_with_what_it_was_given(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    cpu = min(os.sched_getaffinity(0))
    path = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
    found = await surroundings(
        working_directory=str(tmp_path),
        cpu_affinity=(cpu,),
        python_executable=str(python),
        environment={"PYTHONPATH": path},
    )
    assert found["folder"] == str(tmp_path)
    assert found["cpus"] == [cpu]
    assert found["executable"] == str(python)


async def test_an_interpreter_without_the_package_is_said_to_lack_it(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    pipeline = chain(rm.NodeConfig(nodes.Echo, "n1", python_executable=str(python)))
    async with rm.Runtime() as runtime:
        with pytest.raises(rm.ProcessCrashed) as raised:
            await runtime.create_session("s", pipeline)
    text = f"node 'n1' of session 's': {sys.executable} has no remotemedia: install it there"
    assert str(raised.value) == text


async def test_a_memory_limit_is_an_error_of_the_node_that_passes_it() -> None:
    limit = 4 * 2**30
    node = rm.NodeConfig(nodes.Glutton, "n1", memory_limit_bytes=limit)
    async with running(node) as session:
        assert await texts(session, "10") == ["1"]
        await session.send(rm.Text("8192"))
        cause = await cause_of(session.recv())
        assert isinstance(cause, rm.ProcessCrashed)
        assert "MemoryError" in str(cause)


class OneByOne(ProcessLauncher):
    """Starts `n2` after `n1`: never, or by a spawner that is stopped just then."""

    def __init__(self, manager: ProcessManager, config: rm.MultiprocessConfig, how: str) -> None:
        super().__init__(manager, config)
        self.spawner_pid = manager.spawner_pid
        self.how = how
        self.is_first_there = asyncio.Event()

    async def launch(
        self, node: ValidatedNode, wiring: Wiring, end: socket.socket
    ) -> ProcessHandle:
        if node.node_id == "n1":
            handle = await super().launch(node, wiring, end)
            self.is_first_there.set()
            return handle
        await self.is_first_there.wait()
        if self.how == "never":
            await asyncio.Event().wait()
        os.kill(self.spawner_pid, signal.SIGSTOP)
        return await super().launch(node, wiring, end)


class OneByOneExecutor(rm.MultiprocessExecutor):
    how = "never"

    def _parts(self) -> tuple[Transport, Launcher]:
        transport, launcher = super()._parts()
        assert isinstance(launcher, ProcessLauncher)
        return transport, OneByOne(launcher._manager, self.config, self.how)


@pytest.mark.parametrize("how", ["never", "stopped"])
@pytest.mark.parametrize(
    ("broken", "said"),
    [(nodes.BadStart, "no such model"), (nodes.BadImport, "no_such_library_at_all")],
)
async def test_a_node_that_does_not_start_is_told_though_another_is_still_being_started(
    broken: type[rm.Node], said: str, how: str
) -> None:
    executor = OneByOneExecutor(rm.MultiprocessConfig(init_timeout_secs=600.0))
    executor.how = how
    async with executor:
        before, children = open_fds(), _children(executor)
        creating = asyncio.create_task(executor.create_session("s", chain(broken, nodes.Echo)))
        await wait_until(lambda: "s" in executor.sessions)
        session = executor.session("s")
        async with asyncio.timeout(60.0):
            with pytest.raises(rm.ProcessCrashed, match=said):
                await creating
        assert {name: state.value for name, state in session.nodes.items()} == {
            "n1": "error",
            "n2": "stopped",  # it has never run, and will not
        }
        assert not executor.sessions
        # The spawner was stopped: only now it starts what was cut off, and kills it.
        await wait_until(lambda: _children(executor) == children)
        await wait_until(lambda: open_fds() == before)


@pytest.mark.parametrize("is_first", [True, False])
async def test_the_loop_goes_on_while_a_start_waits_for_who_takes_shared_memory(
    is_first: bool,
) -> None:
    async with rm.MultiprocessExecutor() as executor:
        if is_first:
            executor = rm.MultiprocessExecutor()  # another, which has its domain still to make
        lock = FolderLock(folder.private_folder())
        await wait_until(lock.try_take)
        creating = asyncio.create_task(executor.create_session("s", chain(nodes.Echo)))
        await asyncio.wait([creating], timeout=0.3)
        assert not creating.done()
        lock.close()
        async with executor:
            assert await texts(await creating, "a") == ["a"]


async def test_a_session_that_is_ended_while_it_waits_for_shared_memory_ends(
    executor: rm.MultiprocessExecutor,
) -> None:
    lock = FolderLock(folder.private_folder())
    await wait_until(lock.try_take)
    creating = asyncio.create_task(executor.create_session("s", chain(nodes.Echo)))
    await wait_until(lambda: "s" in executor.sessions)
    session = executor.session("s")
    await session.terminate()
    lock.close()
    with pytest.raises(rm.ExecutorError, match="ended while it started"):
        await creating
    assert {state.value for state in session.nodes.values()} == {"stopped"}


async def test_an_interpreter_that_is_not_there_is_a_spawn_error(
    executor: rm.MultiprocessExecutor,
) -> None:
    node = rm.NodeConfig(nodes.Echo, "n1", python_executable="/no/such/python")
    with pytest.raises(rm.SpawnError, match="python_executable") as caught:
        await executor.create_session("s", chain(node, nodes.Echo))
    assert caught.value.node_id == "n1"
    assert not executor.sessions


def _children(executor: rm.MultiprocessExecutor) -> list[str]:
    """The processes of an executor's nodes."""
    spawner = executor.spawner_pid
    return Path(f"/proc/{spawner}/task/{spawner}/children").read_text().split()


def _footprint(executor: rm.MultiprocessExecutor) -> dict[str, int]:
    """What a session may leave behind: counts, and resident memory in MiB."""
    files = [name for name in os.listdir(SHM_FOLDER) if name.startswith(folder.PREFIX)]
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "processes": len(_children(executor)),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": len(files),
        "threads": len(os.listdir("/proc/self/task")),
        "tasks": len(asyncio.all_tasks()),
        "MiB": resident * os.sysconf("SC_PAGE_SIZE") // 2**20,
    }


@long_form
async def test_sessions_of_five_nodes_come_and_go_and_leave_nothing(
    executor: rm.MultiprocessExecutor,
) -> None:
    rounds = 100 if IS_LONG else 10
    before: dict[str, int] = {}
    for number in range(rounds):
        async with asyncio.timeout(30):
            session = await executor.create_session("s", chain(*[nodes.Echo] * 5))
            assert await texts(session, str(number)) == [str(number)]
            await session.close()
        del session
        if number == 2:
            before = _footprint(executor)  # what is made once is made by now
    after = _footprint(executor)
    grown = after.pop("MiB") - before.pop("MiB")
    assert after == before
    assert after["processes"] == 0
    assert grown < 8


async def test_an_inline_node_may_be_made_inside_of_a_function() -> None:
    class Local(rm.Node):
        def process(self, text: rm.Text) -> rm.Text:
            return rm.Text(text.text * 2)

    pipeline = chain(Local)
    async with rm.Runtime() as runtime:
        async with runtime.session(pipeline, executor="inline") as session:
            assert [out async for out in session.stream(rm.Text("a"))] == [rm.Text("aa")]
        with pytest.raises(rm.PipelineError, match="another process cannot find it"):
            await runtime.create_session("s", pipeline)


async def test_an_inline_node_keeps_its_class() -> None:
    made = []

    class Local(rm.Node):
        def __init__(self) -> None:
            made.append(self)

        def process(self, text: rm.Text) -> rm.Text:
            return text

    async with rm.InlineExecutor() as executor:
        await executor.execute_node(Local, "a", rm.NodeContext(session_id="s"))
    assert type(made[-1]) is Local


async def test_an_inline_node_runs_without_what_it_asks_of_a_process_which_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asking = rm.NodeConfig(
        *(nodes.Echo, "n1"), memory_limit_bytes=2**40, environment={"A": "b"}, on_error="skip"
    )
    pinned = rm.NodeConfig(nodes.Echo, "n2", cpu_affinity=(0,), stall_timeout_seconds=9.0)
    async with running(asking, pinned, nodes.Echo, executor="inline") as session:
        assert await texts(session, "a") == ["a"]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("remotemedia.session", "WARNING")
    assert record.getMessage() == (
        f"session {session.session_id!r}: the executor inline runs nodes in threads of this "
        f"process, and ignores environment, memory_limit_bytes of node 'n1'; cpu_affinity, "
        f"stall_timeout_seconds of node 'n2'"
    )
    caplog.clear()
    async with running(nodes.Echo, executor="inline"):
        assert not caplog.records
