"""Where such a system has failed before: one test per failure, named by what holds instead.

Each test begins with the number of the failure, and runs real processes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

import remotemedia as rm
from remotemedia.core.multiprocess import events
from remotemedia.core.multiprocess.transport.ledger import EndpointWord
from remotemedia.testing.residue import Residue
from tests import executor_nodes as nodes
from tests.executor_helpers import (
    cause_of,
    chain,
    is_dead,
    running,
    text_of,
    texts,
    value_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def runtime() -> AsyncIterator[rm.Runtime]:
    async with rm.Runtime(rm.MultiprocessConfig(grace_period_seconds=2.0)) as made:
        yield made


async def test_01_a_crash_of_one_node_ends_its_siblings_and_their_descendants(
    runtime: rm.Runtime,
) -> None:
    pipeline = chain(nodes.Echo, nodes.Fragile, nodes.Echo).add_node("parent", nodes.Parent)
    session = await runtime.create_session("s", pipeline)
    everybody = list(session.pids.values())
    async for output in session.stream(rm.Text(""), "parent"):
        children = value_of(output)
        assert isinstance(children, list)
        everybody += children
    os.kill(session.pids["n2"], signal.SIGKILL)
    cause = await cause_of(session.wait_ended())
    assert isinstance(cause, rm.ProcessCrashed)
    assert (cause.node_id, cause.code) == ("n2", -signal.SIGKILL)
    assert all(map(is_dead, everybody))


async def test_02_a_failed_import_arrives_within_a_second(runtime: rm.Runtime) -> None:
    async with asyncio.timeout(5):  # interpreters start in it too; nodes have 30 s to get ready
        with pytest.raises(rm.ProcessCrashed, match="no_such_library_at_all") as caught:
            await runtime.create_session("s", chain(nodes.Echo, nodes.BadImport))
    assert caught.value.node_id == "n2"
    assert "ModuleNotFoundError" in caught.value.traceback


async def test_02_an_unknown_node_type_is_an_error_before_anything_starts(
    runtime: rm.Runtime,
) -> None:
    before = Residue.now()
    with pytest.raises(rm.PipelineError, match="Uper"):
        await runtime.create_session("s", rm.Pipeline().add_node("a", "Uper"))
    assert Residue.now().processes == before.processes


async def test_03_the_first_message_after_ready_always_arrives(runtime: rm.Runtime) -> None:
    for number in range(3):
        pipeline = chain(nodes.Echo, nodes.SlowStart, nodes.Echo)
        session = await runtime.create_session(f"s{number}", pipeline)
        assert await texts(session, "first") == ["first True"]
        await session.close()


async def test_04_a_full_connection_makes_the_sender_wait_and_loses_nothing() -> None:
    async with running(nodes.Echo, nodes.Busy, channel_capacity=2) as session:
        with pytest.raises(rm.BackpressureError):  # noqa: PT012
            for number in range(100):
                await session.send_nowait(rm.Text(str(number)))

        async def send_all() -> None:
            for number in range(200):
                await session.send(rm.Text(f"x{number}"))

        sending = asyncio.create_task(send_all())
        got: list[str] = []
        while len(got) < 200:
            text = text_of(await session.recv())
            got += [text] if text.startswith("x") else []
        await sending
        assert got == [f"x{number}" for number in range(200)]


async def test_05_every_type_and_size_arrives_as_what_it_was() -> None:
    rng = np.random.default_rng(1)
    large = rng.random((1000, 1000), np.float32)
    pixels = rng.integers(0, 255, (720, 1280, 3), np.uint8)
    messages: list[rm.RuntimeData] = [
        rm.Audio(np.zeros((4800, 2), np.float32), 48_000),
        rm.Video(pixels),
        rm.Tensor(large),
        rm.Text("text"),
        rm.Json({"a": [1, None]}),
        rm.Binary(bytes(range(256)) * 8192),
        rm.File("/some/where.wav", "audio/wav"),
        rm.Control("flush", {"now": True}),
    ]
    async with running(nodes.Echo, nodes.Echo) as session:
        for message in messages:
            outputs = [output async for output in session.stream(message)]
            assert [type(output) for output in outputs] == [type(message)]
            got = outputs[0]
            if isinstance(got, rm.Tensor):
                assert np.array_equal(got.array, large)
            elif isinstance(got, rm.Video):
                assert np.array_equal(got.pixels, pixels)
            elif isinstance(got, rm.Binary):
                assert bytes(got.data) == bytes(range(256)) * 8192


async def test_06_parameters_reach_the_node(runtime: rm.Runtime) -> None:
    pipeline = rm.Pipeline().add_node("a", nodes.NeedsModel, model="tiny", beams=5)
    session = await runtime.create_session("s", pipeline)
    outputs = [value_of(output) async for output in session.stream(rm.Text(""))]
    assert outputs == [{"model": "tiny", "beams": 5}]


@pytest.mark.parametrize(
    ("parameters", "named"), [({"modle": "tiny"}, "modle"), ({}, "model")], ids=str
)
async def test_06_wrong_parameters_are_errors_before_anything_starts(
    runtime: rm.Runtime, parameters: dict[str, object], named: str
) -> None:
    with pytest.raises(rm.PipelineError, match=f"'a'.*{named}"):
        await runtime.create_session(
            "s", rm.Pipeline().add_node("a", nodes.NeedsModel, **parameters)
        )


async def test_06_a_node_without_parameters_starts(runtime: rm.Runtime) -> None:
    session = await runtime.create_session("s", chain(nodes.Upper))
    assert await texts(session, "a") == ["A"]


async def test_07_a_node_that_prints_megabytes_is_never_blocked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "remotemedia.node"):
        async with asyncio.timeout(10), running(nodes.Noisy) as session:
            assert await texts(session, "still here") == ["still here"]
    assert {record.name for record in caplog.records} >= {"remotemedia.node.n1"}
    assert max(len(record.getMessage()) for record in caplog.records) < 10_000


@pytest.mark.parametrize("kind", [nodes.Fragile, nodes.AsyncFragile])
async def test_08_an_exception_in_process_reaches_every_caller(
    runtime: rm.Runtime, kind: type[rm.Node]
) -> None:
    session = await runtime.create_session("s", chain(nodes.Echo, kind, nodes.Echo))
    waiting = [asyncio.create_task(cause_of(session.recv())) for _ in range(3)]
    waiting.append(asyncio.create_task(cause_of(session.wait_ended())))
    await session.send(rm.Text("!raise"))
    for cause in await asyncio.gather(*waiting):
        assert isinstance(cause, rm.ProcessCrashed)
        assert cause.node_id == "n2"
        assert "ValueError: broken on purpose" in str(cause)
        assert "in breakdown" in cause.traceback
        assert "!raise" in cause.working_on
    assert isinstance(await cause_of(session.send(rm.Text("later"))), rm.ProcessCrashed)


async def test_09_outputs_of_an_input_that_was_given_up_are_never_taken_for_the_next() -> None:
    async with running(nodes.SlowWords) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.08):
                await texts(session, "old old old old old old")
        assert await texts(session, "new new") == ["new", "new"]


async def test_09_outputs_from_before_an_interrupt_never_come_after_it() -> None:
    async with running(nodes.SlowWords, nodes.Echo) as session:
        for _ in range(3):
            await session.send(rm.Text("old old old old"))
        assert text_of(await session.recv()) == "old"
        session.interrupt()
        await session.send(rm.Text("new"))
        assert text_of(await session.recv()) == "new"


async def test_10_nodes_load_at_once_each_with_progress_and_none_blocks_another(
    runtime: rm.Runtime,
) -> None:
    count, seconds = 3, 1.0
    pipeline = rm.Pipeline()
    for number in range(count):
        pipeline.add_node(f"n{number}", nodes.SlowStart, seconds=seconds)
    starting = asyncio.create_task(runtime.create_session("s", pipeline))
    await wait_until(lambda: "s" in runtime.sessions)
    seen = runtime.sessions["s"].events()
    session = await starting
    loading: dict[str, list[float]] = {}
    ready: dict[str, float] = {}
    async for event in seen:
        if isinstance(event, events.NodeProgress) and event.message.startswith("step"):
            loading.setdefault(event.node_id, []).append(event.fraction)
        if isinstance(event, events.NodeReady):
            ready[event.node_id] = event.seconds
        if isinstance(event, events.SessionReady):
            assert event.seconds < count * seconds
            break
    assert list(loading) == sorted(loading, key=list(loading).index)
    assert loading == {f"n{number}": [0.0, 0.2, 0.4, 0.6, 0.8] for number in range(count)}
    assert len(ready) == count
    await session.close()


async def test_11_all_nodes_end_at_once_also_those_that_do_not_listen(runtime: rm.Runtime) -> None:
    pipeline = rm.Pipeline()
    for number in range(4):
        pipeline.add_node(f"n{number}", nodes.Deaf)
    pipeline.add_node("parent", nodes.Parent)
    session = await runtime.create_session("s", pipeline)
    everybody = list(session.pids.values())
    async for output in session.stream(rm.Text(""), "parent"):
        children = value_of(output)
        assert isinstance(children, list)
        everybody += children
    for number in range(4):
        await session.send(rm.Text(""), f"n{number}")
    processes = session._parts.nodes
    await wait_until(lambda: all(processes[f"n{number}"].is_busy for number in range(4)))
    async with asyncio.timeout(2 * 2.0):  # one grace period for all: two would be too long
        await session.terminate()
    assert all(map(is_dead, everybody))


async def test_12_sessions_of_one_pipeline_never_meet(runtime: rm.Runtime) -> None:
    first = rm.Pipeline().add_node("b_c", nodes.Suffix, end="1").add_node("c", nodes.Suffix)
    second = rm.Pipeline().add_node("b_c", nodes.Suffix, end="2").add_node("c", nodes.Suffix)
    one, two = await asyncio.gather(
        runtime.create_session("a", first), runtime.create_session("a_b", second)
    )
    for number in range(20):
        got = await asyncio.gather(
            texts(one, str(number), "b_c"),
            texts(two, str(number), "b_c"),
            texts(two, str(number), "c"),
        )
        assert list(got) == [[f"{number}1"], [f"{number}2"], [f"{number}!"]]


async def test_13_an_idle_session_uses_no_cpu() -> None:
    async with running(nodes.Echo, nodes.AsyncEcho, nodes.Echo) as session:
        assert await texts(session, "warm") == ["warm"]
        waiting = asyncio.create_task(session.recv())
        processes = [*session.pids.values(), os.getpid()]
        await wait_until(partial(_is_asleep, session))
        before = sum(map(_ticks, processes))
        await asyncio.sleep(2.0)
        used = (sum(map(_ticks, processes)) - before) / os.sysconf("SC_CLK_TCK")
        waiting.cancel()
        assert used <= 0.02


async def test_14_sending_and_receiving_from_one_task_never_deadlocks() -> None:
    async with running(nodes.Echo, nodes.Words, nodes.Echo, channel_capacity=1) as session:
        async with asyncio.timeout(20):
            for number in range(50):
                assert await texts(session, f"{number} b c d e f g h") == [
                    *(str(number), "b", "c", "d", "e", "f", "g", "h")
                ]


async def test_15_each_output_leaves_at_once() -> None:
    async with running(nodes.SlowWords, nodes.Echo) as session:
        start = time.monotonic()
        times = [time.monotonic() - start async for _ in session.stream(rm.Text("a b c d e f"))]
        assert times[-1] - times[0] > 0.2  # the last came five pauses after the first
        assert len(times) == 6


async def test_15_an_input_without_outputs_ends_at_once() -> None:
    async with asyncio.timeout(5), running(nodes.Echo, nodes.Words, nodes.Echo) as session:
        assert await texts(session, "") == []
        assert await texts(session, "a") == ["a"]


def _is_asleep(session: rm.Session) -> bool:
    """Whether all processes of a session have stopped to look for news, and wait to be rung."""
    registry = session._parts.wiring.registry
    return all(
        registry.ledger.words[party.plan.slot + EndpointWord.ASLEEP] for party in registry._parties
    )


def _ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
