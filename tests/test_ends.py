"""Every way a session can end, at every stage: afterwards nothing of it is left.

What is left is looked for from outside: processes by the mark in their environment that their
spawner gave them, files in shared memory and in the runtime folder by the fixture of all tests.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

import remotemedia as rm
from remotemedia.core.multiprocess.transport import folder
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER
from tests import executor_nodes as nodes
from tests.executor_helpers import (
    END_SECONDS,
    IS_LONG,
    cause_of,
    chain,
    is_dead,
    repeated,
    texts,
    wait_until,
)
from tests.process_helpers import is_running, wait_all_dead

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

pytestmark = pytest.mark.anyio

ROUNDS = 50 if IS_LONG else 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def runtime() -> AsyncIterator[rm.Runtime]:
    async with rm.Runtime(rm.MultiprocessConfig(grace_period_seconds=2.0)) as made:
        yield made


def files() -> set[str]:
    """What of this test run lies in shared memory and in the runtime folder."""
    ours = {name for name in os.listdir(SHM_FOLDER) if name.startswith(folder.PREFIX)}
    return ours | {str(path) for path in folder.private_folder().rglob("*")}


# Ends that come from the nodes or from the caller, in this process.

CRASHES = ["raise", "exit", "exit0", "sys.exit", "segfault", "SIGKILL", "SIGTERM", "SIGABRT"]
TOLD_ENDS = ["exit0", "sys.exit", "SIGKILL", "SIGTERM"]  # no failure of one that was told to end
BREAKDOWNS = [
    *itertools.product(["initialize", "process", "finish"], CRASHES),
    *(("cleanup", how) for how in CRASHES if how not in TOLD_ENDS),
]


def expected(how: str) -> tuple[int, str]:
    """Exit code of a node, and what its error says."""
    return {
        "raise": (1, "broken on purpose"),
        "exit": (3, "exit code 3"),
        "exit0": (0, "exited with code 0 before its work was done"),
        "sys.exit": (0, "exited with code 0 before its work was done"),
        "segfault": (-signal.SIGSEGV, "SIGSEGV"),
        "SIGKILL": (-signal.SIGKILL, "SIGKILL"),
        "SIGTERM": (-signal.SIGTERM, "SIGTERM"),
        "SIGABRT": (-signal.SIGABRT, "SIGABRT"),
    }[how]


@repeated(50, short=1)
@pytest.mark.parametrize(("when", "how"), BREAKDOWNS)
async def test_a_node_that_breaks_ends_the_session_and_is_named(
    runtime: rm.Runtime, how: str, when: str, round_: int
) -> None:
    broken = rm.NodeConfig(nodes.Fragile, "broken", config={"how": how, "when": when})
    pipeline = chain(nodes.Echo, broken, nodes.Echo)
    code, words = expected(how)
    session = None
    cause: rm.ExecutorError
    if when == "initialize":
        with pytest.raises(rm.ProcessCrashed) as caught:
            await runtime.create_session("s", pipeline)
        cause = caught.value
    else:
        session = await runtime.create_session("s", pipeline)
        if when == "process":
            await session.send(rm.Text("a"))
            cause = await cause_of(session.recv())
            assert "input 1" in str(cause)
        else:
            assert await texts(session, "a") == ["a"]
            cause = await cause_of(session.close())
        with pytest.raises(rm.PipelineTerminated):
            await session.wait_ended()
    assert isinstance(cause, rm.ProcessCrashed)
    assert (cause.node_id, cause.code) == ("broken", code)
    assert words in cause.cause
    if how == "exit":
        assert "last words" in cause.stderr_tail
    if how == "segfault":
        assert "breakdown" in cause.stderr_tail  # faulthandler's stack
    assert not runtime.sessions
    if session is not None:
        assert all(map(is_dead, session.pids.values()))


LOADS = ["start", "idle", "busy"]
CALLERS: dict[str, Callable[[rm.Session], object]] = {
    "close": lambda session: session.close(),
    "terminate": lambda session: session.terminate(),
    "close twice": lambda session: asyncio.gather(session.close(), session.close()),
    "terminate twice": lambda session: asyncio.gather(session.terminate(), session.terminate()),
    "terminate during close": lambda session: _one_after_the_other(
        session.close(), session.terminate()
    ),
    "close during terminate": lambda session: _one_after_the_other(
        session.terminate(), session.close()
    ),
    "SIGKILL of a node": lambda session: _kill_one(session),
    "SIGKILL of a node during close": lambda session: asyncio.gather(
        session.close(), _kill_one(session), return_exceptions=True
    ),
    "SIGKILL of all nodes": lambda session: _kill_all(session),
    "terminate, cancelled": lambda session: _cancelled(session),
}


async def _one_after_the_other(first: Awaitable[None], second: Awaitable[None]) -> None:
    begun = asyncio.ensure_future(first)
    await asyncio.sleep(random.choice([0.0, random.uniform(0.0, 0.05)]))
    await asyncio.gather(begun, second)


async def _kill_one(session: rm.Session) -> None:
    os.kill(random.choice(list(session.pids.values())), signal.SIGKILL)
    await _ended(session)


async def _kill_all(session: rm.Session) -> None:
    for pid in session.pids.values():
        os.kill(pid, signal.SIGKILL)
    await _ended(session)


async def _cancelled(session: rm.Session) -> None:
    ending = asyncio.create_task(session.terminate())
    await asyncio.sleep(0)
    ending.cancel()
    await _ended(session)


async def _ended(session: rm.Session) -> None:
    try:
        await session.wait_ended()
    except rm.PipelineTerminated:
        return


async def _send_for_ever(session: rm.Session) -> None:
    try:
        for number in itertools.count():
            await session.send(rm.Text(str(number)))
    except rm.ExecutorError:
        return


async def _receive_for_ever(session: rm.Session) -> None:
    try:
        async for _ in session.outputs():
            pass
    except rm.ExecutorError:
        return


@repeated(50, short=1)
@pytest.mark.parametrize("end", CALLERS)
@pytest.mark.parametrize("load", LOADS)
async def test_however_it_is_ended_nothing_is_left(
    runtime: rm.Runtime, end: str, load: str, round_: int
) -> None:
    other = await runtime.create_session("other", chain(nodes.Echo))  # the executor goes on
    assert await texts(other, "warm") == ["warm"]
    before = files()
    slow = rm.NodeConfig(nodes.SlowStart, "slow", config={"seconds": 0.3})
    pipeline = chain(nodes.Echo, slow if load == "start" else nodes.Busy, nodes.Echo)
    creating = asyncio.create_task(runtime.create_session("s", pipeline))
    work: list[asyncio.Task[None]] = []
    if load == "start":
        await wait_until(lambda: "s" in runtime.sessions)
        session = runtime.sessions["s"]
        await wait_until(lambda: len(session.pids) == 3)
        await asyncio.sleep(random.uniform(0, 0.3))
    else:
        session = await creating
    if load == "busy":
        work = [
            asyncio.create_task(_send_for_ever(session)),
            asyncio.create_task(_receive_for_ever(session)),
        ]
        await asyncio.sleep(random.uniform(0, 0.2))
    processes = list(session.pids.values())
    start = time.monotonic()
    async with asyncio.timeout(END_SECONDS):
        await CALLERS[end](session)  # type: ignore[misc]
    assert all(map(is_dead, processes))
    assert time.monotonic() - start < END_SECONDS
    await asyncio.gather(creating, *work, return_exceptions=True)
    assert files() == before
    assert list(runtime.sessions) == ["other"]
    assert await texts(other, "still here") == ["still here"]


@pytest.mark.faults
async def test_nodes_killed_at_random_moments_leave_nothing(runtime: rm.Runtime) -> None:
    other = await runtime.create_session("other", chain(nodes.Echo))
    assert await texts(other, "warm") == ["warm"]
    before = files()
    for number in range(ROUNDS * 2):
        session = await runtime.create_session("s", chain(nodes.Echo, nodes.Echo))
        work = [
            asyncio.create_task(_send_for_ever(session)),
            asyncio.create_task(_receive_for_ever(session)),
        ]
        await asyncio.sleep(random.uniform(0, 0.05))
        victim = random.choice(list(session.pids))
        os.kill(session.pids[victim], signal.SIGKILL)
        cause = await cause_of(session.wait_ended())
        assert isinstance(cause, rm.ProcessCrashed), number
        assert cause.node_id == victim
        await asyncio.gather(*work)
        assert all(map(is_dead, session.pids.values()))
        assert files() == before


@repeated(50, short=2)
async def test_the_spawner_killed_ends_every_session(runtime: rm.Runtime, round_: int) -> None:
    first = await runtime.create_session("a", chain(nodes.Echo, nodes.Busy))
    second = await runtime.create_session("b", chain(nodes.Echo))
    executor = runtime._executors["python"]
    assert isinstance(executor, rm.MultiprocessExecutor)
    waiting = [asyncio.create_task(cause_of(one.recv())) for one in (first, second)]
    await asyncio.sleep(random.choice([0.0, random.uniform(0, 0.05)]))
    os.kill(executor.spawner_pid, signal.SIGKILL)
    async with asyncio.timeout(END_SECONDS):
        for cause in await asyncio.gather(*waiting):
            assert isinstance(cause, rm.ProcessCrashed)
        await asyncio.gather(_ended(first), _ended(second))
    # The init of this container reaps them: who could have, is dead.
    assert not any(map(is_running, [*first.pids.values(), *second.pids.values()]))
    async with runtime.session(chain(nodes.Echo), "c") as another:  # by a spawner of its own
        assert await texts(another, "a") == ["a"]


@pytest.mark.parametrize("how", ["close", "terminate", "shutdown", "crash", "start"])
async def test_a_stopped_spawner_holds_up_no_end(how: str) -> None:
    runtime = rm.Runtime()  # with the grace period that is set by default
    session = await runtime.create_session("s", chain(nodes.Echo, nodes.Echo))
    pids = session.pids
    executor = runtime._executors["python"]
    assert isinstance(executor, rm.MultiprocessExecutor)
    spawner = executor.spawner_pid
    os.kill(spawner, signal.SIGSTOP)
    async with asyncio.timeout(END_SECONDS):
        if how in ("close", "terminate"):
            await getattr(session, how)()
        elif how == "crash":
            os.kill(pids["n1"], signal.SIGKILL)
            assert isinstance(await cause_of(session.recv()), rm.ProcessCrashed)
        elif how == "start":
            creating = asyncio.create_task(runtime.create_session("t", chain(nodes.Echo)))
            await wait_until(lambda: "t" in runtime.sessions)
            creating.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creating
        await runtime.shutdown()
    assert all(map(is_dead, [*pids.values(), spawner]))


async def test_a_stopped_node_hears_that_its_session_ends() -> None:
    async with rm.Runtime() as runtime:
        session = await runtime.create_session("s", chain(nodes.Echo, nodes.Echo))
        os.kill(session.pids["n1"], signal.SIGSTOP)
        async with asyncio.timeout(2):  # the grace period is 5 s
            await session.terminate()


async def test_a_runtime_that_is_shut_down_ends_a_session_that_starts() -> None:
    runtime = rm.Runtime()
    creating = asyncio.create_task(runtime.create_session("s", chain(nodes.NeverReady)))
    await wait_until(lambda: "s" in runtime.sessions)
    await asyncio.gather(runtime.shutdown(), runtime.shutdown())
    with pytest.raises(rm.ExecutorError):
        await creating
    await runtime.shutdown()


async def test_a_shutdown_that_is_cancelled_before_its_first_step_is_a_shutdown() -> None:
    runtime = rm.Runtime()
    session = await runtime.create_session("s", chain(nodes.Echo))
    (pid,) = session.pids.values()
    ending = asyncio.create_task(runtime.shutdown())
    await asyncio.sleep(0)  # it has begun, and none of its executors has
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert is_dead(pid)
    assert not files()


# Ends of the host: a program of its own.

HOST = """
import asyncio, os, random, signal, sys, time
import remotemedia as rm
from remotemedia.core.multiprocess.transport import folder
from tests import executor_nodes as nodes
from tests.executor_helpers import chain

folder.PREFIX = 'PREFIX'

async def load(session):
    async def send():
        while True:
            await session.send(rm.Text("x"))
    async def receive():
        async for _ in session.outputs():
            pass
    await asyncio.gather(send(), receive())

async def main(stage, how):
    runtime = rm.Runtime(rm.MultiprocessConfig(grace_period_seconds=2.0))
    async with runtime:
        kinds = [nodes.Echo, nodes.NeverReady if stage == "start" else nodes.Parent, nodes.Echo]
        if stage != "start":
            kinds = [nodes.Echo, rm.NodeConfig(nodes.Busy, "n2", config={"seconds": 0.02})]
        pipeline = chain(*kinds)
        creating = asyncio.create_task(runtime.create_session("s", pipeline))
        creating.add_done_callback(lambda done: done.cancelled() or done.exception())
        if stage == "start":
            while "s" not in runtime.sessions or len(runtime.sessions["s"].pids) < 3:
                await asyncio.sleep(0.005)
            session = runtime.sessions["s"]
        else:
            session = await creating
        spawner = runtime._executors["python"].spawner_pid
        print(*session.pids.values(), spawner, flush=True)
        if stage == "end":
            for _ in range(90):
                await session.send(rm.Text("x"))
            ending = asyncio.create_task(session.close())
            await asyncio.sleep(random.uniform(0, 0.05))
        if how == "exit":
            os._exit(0)
        if how == "sys.exit":
            sys.exit(0)
        if stage == "load":
            await load(session)
        await asyncio.sleep(3600)

asyncio.run(main(*sys.argv[1:]))
"""


class Host:
    """A program that runs a session, and the processes that it said it has."""

    def __init__(self, stage: str, how: str) -> None:
        command = [sys.executable, "-c", HOST.replace("'PREFIX'", repr(folder.PREFIX)), stage, how]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.pids = [int(pid) for pid in line.split()]

    @property
    def spawner(self) -> int:
        return self.pids[-1]

    def close(self) -> str:
        """Wait for its end, and return what it said of errors."""
        try:
            return self.process.communicate(timeout=END_SECONDS * 2)[1]
        finally:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    made: list[Host] = []
    yield made
    for host in made:
        host.close()


def end_host(host: Host, how: str) -> None:
    """Do to the host what the test is about; "exit" and "sys.exit" it does itself."""
    if how.endswith(("of the spawner", "of both")):
        os.kill(host.spawner, signal.SIGKILL)
    for number in SIGNALS_TO_HOST.get(how, ()):
        host.process.send_signal(number)


SIGNALS_TO_HOST = {
    "Ctrl-C": [signal.SIGINT],
    "Ctrl-C twice": [signal.SIGINT, signal.SIGINT],
    "SIGTERM": [signal.SIGTERM],
    "SIGKILL": [signal.SIGKILL],
    "SIGKILL of both": [signal.SIGKILL],
}
ENDS_OF_HOST = [*SIGNALS_TO_HOST, "SIGKILL of the spawner", "exit", "sys.exit"]


@repeated(50, short=1)
@pytest.mark.parametrize("stage", ["start", "idle", "load", "end"])
@pytest.mark.parametrize("how", ENDS_OF_HOST)
async def test_however_the_host_ends_nothing_is_left(
    how: str, stage: str, hosts: list[Host], round_: int
) -> None:
    host = Host(stage, how)
    hosts.append(host)
    await asyncio.sleep(random.uniform(0, 0.2))
    end_host(host, how)
    if how == "Ctrl-C twice":
        await press_again_where_python_lost_one(host)
    await wait_until(lambda: not any(map(is_running, host.pids)))
    if how == "SIGKILL of the spawner":
        host.process.send_signal(signal.SIGINT)
    errors = host.close()
    if how == "SIGKILL of both":
        # Nobody is left to sweep: the next executor of this user does.
        async with rm.MultiprocessExecutor():
            pass
    await wait_until(lambda: not files(), about=errors)
    if how == "Ctrl-C":
        assert "KeyboardInterrupt" in errors
        assert "never retrieved" not in errors


async def press_again_where_python_lost_one(host: Host) -> None:
    """Press Ctrl-C a third time if the second has not ended the program.

    asyncio raises KeyboardInterrupt for the second wherever its loop is. If it was about to run a
    callback, that is never run, and the task that it should have woken waits for ever: so does
    `asyncio.run`, in about one of 400 programs that only sleep. The third ends it.
    """
    try:
        async with asyncio.timeout(END_SECONDS):
            await wait_all_dead([host.process.pid])
    except TimeoutError:
        host.process.send_signal(signal.SIGINT)
