"""What a chaos test once broke: calls that are cancelled, messages that are shared, odd errors."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import pytest

import remotemedia as rm
from remotemedia import NodeContext
from remotemedia.events import NodeProgress
from tests import executor_nodes as nodes
from tests.executor_helpers import END_SECONDS, cause_of, chain, running, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from remotemedia.core.multiprocess.executor import SessionExecutor

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def executor() -> AsyncIterator[SessionExecutor]:
    async with rm.MultiprocessExecutor() as made:
        yield made


class Raiser(rm.Node):
    """Fails with an error that cannot be told as it is."""

    def __init__(self, how: str) -> None:
        self.how = how

    def process(self, text: rm.Text) -> rm.Text:
        if text.text == "fail":
            raise ValueError({"surrogate": "bad \udcff name", "huge": "x" * 1_000_000}[self.how])
        return text


class LosesItsOutput(rm.Node):
    def process(self, text: rm.Text) -> rm.Text:
        import sys

        sys.stdout.close()
        sys.stderr = None
        return text


async def test_one_message_that_many_tasks_send_is_as_many_inputs() -> None:
    message = rm.Text("a")

    async def count(session: rm.Session) -> int:
        return len([output async for output in session.stream(message)])

    async with running(nodes.Busy, channel_capacity=2) as session:
        assert await asyncio.gather(*[count(session) for _ in range(12)]) == [1] * 12


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.02])
async def test_a_node_whose_adding_is_cancelled_starts_all_the_same(
    executor: SessionExecutor, seconds: float
) -> None:
    first = await executor.execute_node(
        nodes.Echo, "a", NodeContext(session_id="s", inputs=("in",), outputs=("out",))
    )
    session = first.session
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await executor.execute_node(nodes.Echo, "b", NodeContext(session_id="s"))
    await executor.execute_node(nodes.Echo, "c", NodeContext(session_id="s"))
    states = {name: state.value for name, state in session.nodes.items()}
    if "b" in states:  # else it was cancelled before anything began
        await wait_until(lambda: session.nodes["b"].value == "ready")
        await executor.connect_nodes("b", "out", "c", "in")
    await session.close()


@pytest.mark.parametrize("seconds", [0.0002, 0.001])
async def test_a_connection_whose_making_is_cancelled_carries_all_the_same(
    executor: SessionExecutor, seconds: float
) -> None:
    first = NodeContext(session_id="s", inputs=("in",))
    session = (await executor.execute_node(nodes.Echo, "a", first)).session
    await executor.execute_node(nodes.Echo, "b", NodeContext(session_id="s", outputs=("out",)))
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await executor.connect_nodes("a", "out", "b", "in")
    receiving = asyncio.create_task(session.recv())
    while not receiving.done():  # what is sent before it is there goes to nobody
        await session.send(rm.Text("x"))
        await asyncio.wait([receiving], timeout=0.05)
    assert receiving.result() == rm.Text("x")
    await session.terminate()


@pytest.mark.parametrize(
    ("how", "words"), [("surrogate", "bad \\udcff name"), ("huge", "bytes left out")]
)
async def test_an_error_that_cannot_be_told_as_it_is_is_told_in_part(how: str, words: str) -> None:
    raiser = rm.NodeConfig(Raiser, "n1", config={"how": how})
    async with rm.Runtime() as runtime:
        session = await runtime.create_session("s", chain(raiser))
        await session.send(rm.Text("fail"))
        cause = await cause_of(session.recv())
        assert isinstance(cause, rm.ProcessCrashed)
        assert "ValueError: " in cause.cause
        assert words in cause.cause
        assert len(str(cause)) < 200_000


@pytest.mark.parametrize("how", ["surrogate", "huge"])
async def test_a_node_that_skips_lives_on_after_an_error_that_cannot_be_told(how: str) -> None:
    raiser = rm.NodeConfig(Raiser, "n1", config={"how": how}, on_error="skip")
    async with running(raiser) as session:
        with pytest.raises(rm.NodeFailed, match="ValueError"):
            [output async for output in session.stream(rm.Text("fail"))]
        assert [output async for output in session.stream(rm.Text("a"))] == [rm.Text("a")]


class SkipsHalf(rm.Node):
    """Returns what is no message; of what it returned, and what of that lives, it tells later."""

    def __init__(self) -> None:
        self.returned: list[weakref.ref[object]] = []

    def process(self, text: rm.Text) -> rm.Text | list[rm.Text]:
        if text.text == "tell":
            return rm.Text(str([one() is not None for one in self.returned]))
        result = Outputs([rm.Text("a"), 42])
        self.returned.append(weakref.ref(result))
        return cast("list[rm.Text]", result)


class Outputs(list[object]):
    """A list that may be referred to weakly."""


async def test_nothing_of_a_message_that_was_skipped_lives_on() -> None:
    skipping = rm.NodeConfig(SkipsHalf, "n1", on_error="skip")
    async with running(skipping, executor="inline") as session:
        with pytest.raises(rm.NodeFailed, match="returned a int"):
            [output async for output in session.stream(rm.Text("half"))]
        told = [output async for output in session.stream(rm.Text("tell"))]
        assert told == [rm.Text("[False]")]


class Reports(rm.Node):
    def process(self, text: rm.Text) -> rm.Text:
        self.progress(0.5, "half of it")
        return text


async def test_progress_in_a_handler_is_told_as_work() -> None:
    async with running(Reports) as session:
        seen = session.events()
        await session.send(rm.Text("a"))
        async for event in seen:
            if isinstance(event, NodeProgress) and event.message:
                assert (event.phase, event.fraction) == ("processing", 0.5)
                break


class SlowCleanup(rm.Node):
    def process(self, text: rm.Text) -> rm.Text:
        return text

    def cleanup(self) -> None:
        time.sleep(3600)


async def test_a_cleanup_that_is_cut_off_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with running(SlowCleanup, grace_period_seconds=0.5):
        pass
    assert "node 'n1' of session" in caplog.text
    assert "gets SIGTERM: the rest of what it does, perhaps its cleanup, is not done" in caplog.text


async def test_a_node_without_an_output_of_its_own_exits_as_others_do() -> None:
    async with running(LosesItsOutput) as session:
        assert [output async for output in session.stream(rm.Text("a"))] == [rm.Text("a")]


async def test_terminate_right_after_close_does_not_wait_for_the_drain() -> None:
    async with rm.Runtime(rm.MultiprocessConfig(grace_period_seconds=0.5)) as runtime:
        session = await runtime.create_session("s", chain(nodes.Deaf))
        await session.send(rm.Text("a"))
        await wait_until(lambda: session.nodes["n1"].value == "processing")
        closing = asyncio.create_task(session.close())
        await asyncio.sleep(0)
        async with asyncio.timeout(END_SECONDS):  # the drain would take 30 s
            await session.terminate()
        await closing


async def test_what_is_told_to_a_stopped_node_is_heard_when_it_goes_on() -> None:
    async with running(nodes.Echo) as session:
        os.kill(session.pids["n1"], signal.SIGSTOP)
        for _ in range(2000):
            session.interrupt()
        closing = asyncio.create_task(session.close())
        await asyncio.sleep(0)
        os.kill(session.pids["n1"], signal.SIGCONT)
        async with asyncio.timeout(END_SECONDS):
            await closing


async def test_a_killed_spawner_is_replaced() -> None:
    async with rm.Runtime() as runtime:
        session = await runtime.create_session("s", chain(nodes.Echo))
        manager = runtime._executors["python"]._manager  # type: ignore[attr-defined]
        os.kill(manager.spawner_pid, signal.SIGKILL)
        cause = await cause_of(session.recv())
        assert isinstance(cause, rm.ProcessCrashed)
        assert (cause.node_id, str(cause).partition(",")[0]) == ("", "the spawner")
        await session.terminate()
        async with runtime.session(chain(nodes.Echo), "s") as another:
            assert [out async for out in another.stream(rm.Text("a"))] == [rm.Text("a")]


def test_another_event_loop_is_refused_at_once() -> None:
    runtime = rm.Runtime()

    async def start() -> rm.Session:
        return await runtime.create_session("s", chain(nodes.Echo))

    loop = asyncio.new_event_loop()
    try:
        session = loop.run_until_complete(start())
        for call in (session.close, session.terminate, runtime.shutdown):
            with pytest.raises(rm.ExecutorError, match="belongs to the event loop"):
                asyncio.run(call())
        loop.run_until_complete(runtime.shutdown())
    finally:
        loop.close()


async def test_failures_of_streams_that_were_left_are_not_kept() -> None:
    raiser = rm.NodeConfig(Raiser, "n1", config={"how": "surrogate"}, on_error="skip")
    async with running(raiser) as session:
        for _ in range(20):
            with pytest.raises(rm.NodeFailed):
                [output async for output in session.stream(rm.Text("fail"))]
        assert not session._supervisor.open_exchange()._failures
