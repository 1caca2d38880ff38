"""The entrance: executors and sessions by name."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

import remotemedia as rm
from remotemedia.core.validation import validate
from remotemedia.testing.residue import Residue
from tests import executor_nodes as nodes
from tests.cli_nodes import Count, Swallow
from tests.executor_helpers import chain, texts
from tests.process_helpers import exists

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_nodes_say_which_executor_runs_them() -> None:
    async with rm.Runtime() as runtime:
        node = rm.NodeConfig(nodes.Pid, "n1", executor="inline")
        session = await runtime.create_session("s", chain(node))
        assert list(session.pids.values()) == [os.getpid()]


async def test_an_unknown_executor_is_an_error_with_a_suggestion() -> None:
    async with rm.Runtime() as runtime:
        with pytest.raises(rm.ExecutorError, match=r"pyton.*python"):
            await runtime.create_session("s", chain(nodes.Echo), executor="pyton")
        with pytest.raises(rm.PipelineError, match="inlin"):
            await runtime.create_session(
                "s", chain(rm.NodeConfig(nodes.Echo, "n1", executor="inlin"))
            )


async def test_parameters_given_for_the_executor_are_an_error_that_says_so() -> None:
    mistaken: Any = {"path": "x"}
    pipeline = chain(rm.NodeConfig(nodes.Echo, "n1", mistaken))
    says = r"node 'n1', executor: it is a dict; it must be a name \(did you mean config=\?\)"
    async with rm.Runtime() as runtime:
        with pytest.raises(rm.PipelineError, match=says):
            await runtime.create_session("s", pipeline)


async def test_an_unknown_executor_of_a_pipeline_that_was_validated_elsewhere_is_an_error() -> None:
    pipeline = chain(rm.NodeConfig(nodes.Echo, "n1", executor="inlin"))
    valid = validate(pipeline)
    async with rm.Runtime() as runtime:
        with pytest.raises(rm.ExecutorError, match=r"no executor 'inlin' \(did you mean 'inline'"):
            await runtime.create_session("s", valid)


async def test_nodes_that_want_different_executors_are_refused() -> None:
    async with rm.Runtime() as runtime:
        pipeline = chain(
            rm.NodeConfig(nodes.Echo, "n1", executor="inline"),
            rm.NodeConfig(nodes.Echo, "n2", executor="python"),
        )
        with pytest.raises(rm.ExecutorError, match="different executors"):
            await runtime.create_session("s", pipeline)


async def test_an_executor_of_ones_own_runs_sessions_and_ends_with_the_runtime() -> None:
    mine = rm.InlineExecutor()
    async with rm.Runtime() as runtime:
        runtime.register_executor("mine", mine)
        session = await runtime.create_session("s", chain(nodes.Upper), executor="mine")
        assert await texts(session, "a") == ["A"]
        with pytest.raises(rm.ExecutorError, match="runs s"):
            runtime.register_executor("mine", rm.InlineExecutor())
    with pytest.raises(rm.ExecutorError, match="shut down"):
        await mine.create_session("s", chain(nodes.Upper))


async def test_an_executor_that_was_replaced_ends_with_the_runtime() -> None:
    mine = rm.MultiprocessExecutor()
    async with rm.Runtime() as runtime:
        runtime.register_executor("mine", mine)
        await mine.initialize()
        runtime.register_executor("mine", rm.InlineExecutor())
    assert not exists(mine.spawner_pid)


async def test_an_executor_that_starts_a_session_is_not_replaced() -> None:
    async with rm.Runtime() as runtime:
        start = asyncio.create_task(runtime.create_session("s", chain(nodes.Echo)))
        await asyncio.sleep(0)  # it has begun, and its executor has no session yet
        with pytest.raises(rm.ExecutorError, match="runs s"):
            runtime.register_executor("python", rm.InlineExecutor())
        await start


async def test_a_session_has_its_name_alone_whichever_executor_runs_it() -> None:
    async with rm.Runtime() as runtime:
        first = await runtime.create_session("s", chain(nodes.Echo), executor="inline")
        with pytest.raises(rm.ExecutorError, match="there is a session 's' already"):
            await runtime.create_session("s", chain(nodes.Echo))
        assert runtime.sessions == {"s": first}
        await runtime.terminate_session("s")
        await runtime.create_session("s", chain(nodes.Echo))


async def test_a_session_has_its_name_alone_while_it_starts() -> None:
    async with rm.Runtime() as runtime:
        start = asyncio.create_task(runtime.create_session("s", chain(nodes.Echo)))
        await asyncio.sleep(0)  # it has begun, and its executor has no session yet
        with pytest.raises(rm.ExecutorError, match="there is a session 's' already"):
            await runtime.create_session("s", chain(nodes.Echo), executor="inline")
        session = await start
        assert runtime.sessions == {"s": session}


async def test_a_name_is_free_again_when_its_session_was_terminated_while_it_started() -> None:
    is_starting = asyncio.Event()
    async with rm.Runtime() as runtime:
        start = asyncio.create_task(
            runtime.create_session(
                "s", chain(nodes.SlowStart), on_event=lambda _: is_starting.set()
            )
        )
        await is_starting.wait()
        await runtime.terminate_session("s")
        await runtime.create_session("s", chain(nodes.Echo), executor="inline")
        assert list(runtime.sessions) == ["s"]
        await asyncio.wait([start])
        with pytest.raises(rm.ExecutorError, match="there is a session 's' already"):
            await runtime.create_session("s", chain(nodes.Echo))
        assert start.exception() is not None


async def test_a_session_is_terminated_by_name() -> None:
    async with rm.Runtime() as runtime:
        await runtime.create_session("s", chain(nodes.Echo), executor="inline")
        await runtime.terminate_session("s")
        with pytest.raises(rm.SessionNotFound, match="'s'"):
            await runtime.terminate_session("s")


async def test_a_block_that_raises_terminates_its_session() -> None:
    async with rm.Runtime() as runtime:
        with pytest.raises(ZeroDivisionError):
            async with runtime.session(chain(nodes.Echo), executor="inline"):
                raise ZeroDivisionError
        assert not runtime.sessions


async def test_a_runtime_that_ran_nothing_has_started_nothing() -> None:
    before = Residue.now()
    async with rm.Runtime() as runtime:
        await asyncio.sleep(0)
        assert not Residue.since(before)
        python = runtime._executors["python"]
        assert isinstance(python, rm.MultiprocessExecutor)
        with pytest.raises(rm.ExecutorError, match="before it is initialised"):
            _ = python.spawner_pid  # nor was there one that has ended by now


async def test_the_outputs_of_a_pipeline_that_has_none_end_when_its_nodes_have_finished() -> None:
    pipeline = rm.Pipeline("counted").add_node("count", Count, to=3).add_node("sink", Swallow)
    pipeline.connect("count", "sink")
    async with rm.Runtime() as runtime, runtime.session(pipeline) as session:
        async with asyncio.timeout(30):
            assert [output async for output in session.outputs()] == []
        [port] = session.stats().values()
        assert port.sent == 3
