"""A session from outside: what goes in, what comes out, and how it ends."""

from __future__ import annotations

import asyncio
import copy
import inspect
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pytest

import remotemedia as rm
from remotemedia.core.multiprocess import ending, events, inputs
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.node_process import NodeProcess
from remotemedia.core.multiprocess.states import SessionState
from remotemedia.core.multiprocess.transport import pages
from remotemedia.core.multiprocess.transport.doorbell import TURNS
from tests import executor_nodes as nodes
from tests.channel_helpers import open_fds
from tests.executor_helpers import (
    END_SECONDS,
    cause_of,
    chain,
    is_dead,
    patient,
    running,
    text_of,
    texts,
    value_of,
    wait_until,
)
from tests.restart_nodes import Spills

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from remotemedia.core.multiprocess.plan import PolicyName

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["python", "inline"])
def executor(request: pytest.FixtureRequest) -> str:
    name = request.param
    assert isinstance(name, str)
    return name


@pytest.fixture
async def runtime() -> AsyncIterator[rm.Runtime]:
    async with rm.Runtime(rm.MultiprocessConfig(grace_period_seconds=2.0)) as made:
        yield made


# Sending and receiving: the same in processes and in threads.


async def test_streams_at_once_each_get_the_outputs_of_their_own_input(executor: str) -> None:
    async with running(nodes.Words, nodes.Upper, executor=executor) as session:
        got = await asyncio.gather(*(texts(session, f"a{n} b{n} c{n}") for n in range(20)))
        assert got == [[f"A{n}", f"B{n}", f"C{n}"] for n in range(20)]


async def test_a_stream_that_is_left_early_leaves_nothing_to_the_next(executor: str) -> None:
    async with running(nodes.Words, nodes.Echo, executor=executor) as session:
        for number in range(10):
            async for output in session.stream(rm.Text(f"{number} x x x x")):
                assert text_of(output) == str(number)
                break
        assert await texts(session, "last one") == ["last", "one"]


async def test_outputs_may_come_of_any_asynchronous_iterator(executor: str) -> None:
    async with running(nodes.Speller, executor=executor) as session:
        assert await texts(session, "abc") == ["a", "b", "c"]


async def test_a_stream_without_outputs_ends(executor: str) -> None:
    async with running(nodes.Words, nodes.Words, executor=executor) as session:
        assert await texts(session, "") == []
        assert await texts(session, "a b") == ["a", "b"]


async def test_a_stream_into_a_pipeline_without_outputs_ends(executor: str) -> None:
    async with running(nodes.Echo, nodes.Sink, executor=executor) as session:
        assert await texts(session, "a") == []
        assert await texts(session, "b") == []


async def test_each_input_and_output_port_is_told_apart(executor: str) -> None:
    async with running(nodes.Join, executor=executor) as session:
        assert await texts(session, "1", "n1.a") == ["a:1"]
        assert await texts(session, "2", "n1.b") == ["b:2"]
        both = list(await asyncio.gather(texts(session, "3", "n1.a"), texts(session, "4", "n1.b")))
        assert both == [["a:3"], ["b:4"]]


async def test_recv_gives_outputs_with_the_number_of_their_input(executor: str) -> None:
    async with running(nodes.Words, executor=executor) as session:
        numbers = [await session.send(rm.Text("a b")) for _ in range(3)]
        got = [(await session.recv()).correlation_id for _ in range(6)]
        assert got == [number for number in numbers for _ in range(2)]


async def test_a_recv_in_vain_takes_its_time_and_nothing_is_lost_by_it(executor: str) -> None:
    async with running(nodes.Words, executor=executor) as session:
        for seconds in (0, 0.01):
            with pytest.raises(
                TimeoutError, match=f"nothing came out of session .* in {seconds} s"
            ):
                await session.recv(timeout_seconds=seconds)
        await session.send(rm.Text("a b"))
        assert text_of(await session.recv(timeout_seconds=5)) == "a"
        await wait_until(lambda: session.stats()["n1.out"].sent == 2)
        assert text_of(await session.recv(timeout_seconds=0)) == "b"
        with pytest.raises(ValueError, match="timeout_seconds"):
            await session.recv(timeout_seconds=-1)


async def test_an_output_says_which_port_it_left_by(executor: str) -> None:
    async with running(nodes.Join, executor=executor) as session:
        sent = rm.Text("1")
        await session.send(sent, "n1.a")
        first = await session.recv()
        await session.send(first, "n1.b")  # where it came from before does not count
        assert (sent.origin, first.origin) == ("", "n1.left")
        assert (await session.recv()).origin == "n1.right"
        assert [one.origin async for one in session.stream(sent, "n1.a")] == ["n1.left"]
        assert copy.copy(first).origin == "n1.left"


async def test_a_stream_and_recv_share_a_session(executor: str) -> None:
    async with running(nodes.Words, executor=executor) as session:
        await session.send(rm.Text("set aside"))
        assert await texts(session, "streamed") == ["streamed"]
        assert [text_of(await session.recv()) for _ in range(2)] == ["set", "aside"]


async def test_a_stream_sets_aside_no_more_than_a_bound_and_says_what_to_do(executor: str) -> None:
    config = {"channel_capacity": 2048, "drain_timeout_seconds": 0.5}
    async with running(nodes.Words, executor=executor, **config) as session:
        await session.send(rm.Text("word " * 1100))
        with pytest.raises(rm.BackpressureError, match=r"1024 outputs .* receive them by recv"):
            await texts(session, "streamed")
        assert text_of(await session.recv(timeout_seconds=0)) == "word"


async def test_outputs_end_when_the_pipeline_has_finished(executor: str) -> None:
    async with running(nodes.Echo, nodes.Collect, executor=executor) as session:
        collecting = asyncio.create_task(_all(session))
        for word in ["all", "of", "it"]:
            await session.send(rm.Text(word))
        await session.close()
        assert await collecting == ["all of it"]
        with pytest.raises(rm.EndOfStream):
            await session.recv()


async def _all(session: rm.Session) -> list[str]:
    return [text_of(output) async for output in session.outputs()]


@pytest.mark.parametrize("to", ["nobody", "n1.nothing", "n2"])
async def test_an_unknown_input_is_an_error_that_names_those_there_are(
    executor: str, to: str
) -> None:
    async with running(nodes.Upper, nodes.Echo, executor=executor) as session:
        with pytest.raises(rm.DataError, match=r"n1\.in"):
            await session.send(rm.Text("a"), to)
        assert await texts(session, "a") == ["A"]


async def test_an_input_must_be_said_where_there_are_several(executor: str) -> None:
    async with running(nodes.Join, executor=executor) as session:
        with pytest.raises(rm.DataError, match=r"say which input.*n1\.a, n1\.b"):
            await session.send(rm.Text("a"))
        with pytest.raises(rm.DataError, match="say which input"):
            await texts(session, "a")


@pytest.mark.parametrize("message", [rm.Json(1), "text", None, 3], ids=repr)
async def test_a_message_of_the_wrong_type_is_refused_and_costs_nothing(
    executor: str, message: Any
) -> None:
    async with running(nodes.Upper, executor=executor) as session:
        with pytest.raises(rm.DataError, match="takes Text, not"):
            await session.send(message)
        with pytest.raises(rm.DataError, match="takes Text, not"):
            async for _ in session.stream(message):
                pass
        assert await texts(session, "a") == ["A"]


async def test_every_kind_of_message_goes_through_a_node_that_takes_all(executor: str) -> None:
    async with running(nodes.anything, executor=executor) as session:
        for message in (rm.Text(""), rm.Json(None), rm.Binary(b""), rm.Control("x")):
            got = [text_of(output) async for output in session.stream(message)]
            assert got == [type(message).__name__]


async def test_cancelled_send_has_sent_nothing_and_the_session_goes_on() -> None:
    async with running(nodes.Echo, channel_capacity=1) as session:
        sent = 0
        with pytest.raises(TimeoutError):  # noqa: PT012
            while True:
                async with asyncio.timeout(0.2):
                    await session.send(rm.Text(str(sent)))
                sent += 1
        assert [text_of(await session.recv()) for _ in range(sent)] == [
            str(number) for number in range(sent)
        ]
        assert await texts(session, "after") == ["after"]


async def test_send_with_a_timeout_raises_when_there_is_no_room(executor: str) -> None:
    async with running(nodes.Echo, executor=executor, channel_capacity=1) as session:
        async with asyncio.timeout(END_SECONDS):
            with pytest.raises(rm.BackpressureError, match="n1"):  # noqa: PT012
                for _ in range(20):
                    await session.send(rm.Text(""), timeout_seconds=0.1)


async def test_a_node_that_cancels_itself_is_named_and_may_live_on(executor: str) -> None:
    node = rm.NodeConfig(nodes.CancelsItself, "n1", on_error="skip")
    async with running(rm.Pipeline().add_node(node), executor=executor) as session:
        for _ in range(2):
            with pytest.raises(rm.NodeFailed, match="cancelled, by code of the node"):
                await texts(session, "a")


async def test_a_node_that_cancels_its_own_start_is_named(executor: str) -> None:
    pipeline = rm.Pipeline().add_node("n1", nodes.CancelsItself, where="initialize")
    with pytest.raises(rm.ProcessCrashed, match=r"in initialize: RuntimeError: it was cancelled"):
        async with running(pipeline, executor=executor):
            raise AssertionError("it cannot have started")


# Interrupts.


@pytest.mark.parametrize("kind", [nodes.SlowWords, nodes.AsyncSlowWords])
async def test_after_an_interrupt_only_later_inputs_have_outputs(
    executor: str, kind: type[rm.Node]
) -> None:
    async with running(kind, nodes.Echo, executor=executor) as session:
        for number in range(5):
            for _ in range(3):
                await session.send(rm.Text("old old old old"))
            session.interrupt()
            assert await texts(session, f"new{number} b c") == [f"new{number}", "b", "c"]


@pytest.mark.parametrize("kind", [nodes.SlowWords, nodes.AsyncSlowWords])
async def test_a_stream_ends_at_an_interrupt(executor: str, kind: type[rm.Node]) -> None:
    async with asyncio.timeout(10), running(kind, nodes.Echo, executor=executor) as session:
        got = []
        async for output in session.stream(rm.Text("a b c d e f g h i j k l m n o p")):
            got.append(text_of(output))
            if len(got) == 2:
                session.interrupt()
        assert len(got) < 16
        assert await texts(session, "next") == ["next"]


@pytest.mark.parametrize("kind", [nodes.Careful, nodes.AsyncCareful])
async def test_what_a_node_was_making_is_closed_before_its_hook_is_called(
    executor: str, kind: type[rm.Node]
) -> None:
    async with asyncio.timeout(10), running(kind, executor=executor) as session:
        async for _ in session.stream(rm.Text("go on")):
            session.interrupt()
        assert await texts(session, "?") == ["closed interrupt"]


async def test_an_async_node_is_cancelled_at_its_await_and_its_hook_is_called(
    executor: str,
) -> None:
    pipeline = rm.Pipeline().add_node("n1", nodes.AsyncSlowWords, seconds=3600)
    async with asyncio.timeout(10), running(pipeline, executor=executor) as session:
        await session.send(rm.Text("a b"))
        assert text_of(await session.recv()) == "a"
        session.interrupt()
        assert await texts(session, "?") == ["1 1"]


async def test_interrupts_cancel_a_handler_once_so_that_it_can_clean_up(executor: str) -> None:
    async with asyncio.timeout(10), running(nodes.CleansUp, executor=executor) as session:
        await session.send(rm.Text("a"))
        assert text_of(await session.recv()) == "begun"
        for _ in range(5):
            session.interrupt()
            await asyncio.sleep(0.02)  # the next one comes while it cleans up
        assert await texts(session, "?") == ["began ended 0"]


async def test_a_hook_that_never_comes_back_from_an_interrupt_hears_a_stop(
    executor: str, tmp_path: Path
) -> None:
    stuck = rm.NodeConfig(nodes.StuckInterrupt, "n1", config={"folder": str(tmp_path)})
    async with patient(chain(stuck), executor=executor) as session:
        session.interrupt()
        await wait_until((tmp_path / "begun").exists)
        async with asyncio.timeout(END_SECONDS):
            await session.terminate()
        assert (tmp_path / "cleaned up").exists()


async def test_an_interrupt_of_what_has_ended_is_refused_and_touches_nothing(executor: str) -> None:
    async with running(nodes.Echo, executor=executor) as session:
        await session.close()
        with pytest.raises(rm.ChannelClosed, match="has ended"):
            session.interrupt()
    async with running(nodes.Fragile, executor=executor) as session:
        await session.send(rm.Text("!raise"))
        cause = await cause_of(session.recv())
        with pytest.raises(rm.PipelineTerminated) as caught:
            session.interrupt()
        assert caught.value.__cause__ is cause


async def test_an_interrupt_while_it_closes_shortens_what_is_worked_off(executor: str) -> None:
    pipeline = rm.Pipeline().add_node("n1", nodes.AsyncSlowWords, seconds=3600)
    async with asyncio.timeout(10), running(pipeline, executor=executor) as session:
        await session.send(rm.Text("a b"))
        assert text_of(await session.recv()) == "a"
        closing = asyncio.create_task(session.close())
        await wait_until(lambda: session.state is SessionState.TERMINATING)
        session.interrupt()
        await closing


async def test_an_interrupt_before_the_session_runs_is_refused(executor: str) -> None:
    async with rm.Runtime() as runtime:
        refused: list[str] = []

        def interrupt(event: events.Event) -> None:
            if isinstance(event, events.ProcessStarted):
                with pytest.raises(rm.ExecutorError, match="has not started"):
                    runtime.sessions["s"].interrupt()
                refused.append(event.node_id)

        session = await runtime.create_session(
            "s", chain(nodes.Echo), executor=executor, on_event=interrupt
        )
        assert refused == ["n1"]
        assert await texts(session, "a") == ["a"]


@pytest.mark.parametrize("how", ["terminate", "kill"])
async def test_a_stream_that_an_end_cuts_off_raises(executor: str, how: str) -> None:
    pipeline = rm.Pipeline().add_node("n1", nodes.AsyncSlowWords, seconds=3600)
    async with asyncio.timeout(10), running(pipeline, executor=executor) as session:
        got = []
        with pytest.raises(rm.ChannelClosed, match="before it had finished with input 1"):  # noqa: PT012
            async for output in session.stream(rm.Text("a b")):
                got.append(text_of(output))
                ending = asyncio.create_task(getattr(session, how)())
        await ending
        assert got == ["a"]


async def test_an_interrupt_that_comes_again_and_again_loses_no_later_input() -> None:
    async with running(nodes.AsyncEcho, nodes.Echo, nodes.AsyncEcho) as session:
        for number in range(100):
            await session.send(rm.Text("old"))
            session.interrupt()
            assert await texts(session, f"new{number}") == [f"new{number}"]


@pytest.mark.parametrize("kind", [nodes.Ticks, nodes.AsyncTicks])
async def test_what_a_source_makes_after_an_interrupt_comes(
    executor: str, kind: type[rm.Node]
) -> None:
    async with asyncio.timeout(10), running(kind, executor=executor) as session:
        assert value_of(await session.recv()) == 0
        session.interrupt()  # it waits for its next now
        assert [value_of(await session.recv()) for _ in range(3)] == [1, 2, 3]


async def test_a_source_goes_on_after_an_interrupt(executor: str) -> None:
    for kind in (nodes.Count, nodes.AsyncCount):
        async with running(kind, nodes.Echo, executor=executor) as session:
            await session.recv()
            session.interrupt()
            before = value_of(await session.recv())
            after = [value_of(await session.recv()) for _ in range(200)]
            assert isinstance(before, int)
            assert after == [before + 1 + number for number in range(200)]


# Failures of one message.


async def test_a_node_that_skips_errors_lives_on_and_the_caller_is_told(executor: str) -> None:
    node = rm.NodeConfig(nodes.Fragile, "n1", on_error="skip")
    async with running(node, nodes.Echo, executor=executor) as session:
        seen = session.events()
        for _ in range(3):
            with pytest.raises(rm.NodeFailed, match="broken on purpose") as caught:
                await texts(session, "!raise")
            assert caught.value.node_id == "n1"
            assert await texts(session, "good") == ["good"]
        await session.send(rm.Text("!raise"))
        assert await texts(session, "good") == ["good"]
    errors = [event async for event in seen if isinstance(event, events.NodeError)]
    assert [error.correlation_id for error in errors] == [1, 3, 5, 7]


async def test_an_error_that_cannot_be_printed_is_told_and_skipped_as_any_other(
    executor: str,
) -> None:
    skipping = rm.NodeConfig(nodes.Unprintable, "n1", on_error="skip")
    async with running(skipping, executor=executor) as session:
        with pytest.raises(rm.NodeFailed, match="SyntaxError, which cannot be printed") as caught:
            await texts(session, "")
        assert 'raise SyntaxError("odd"' in caught.value.traceback
        assert await texts(session, "good") == ["good"]


@pytest.mark.parametrize("reader", [nodes.Upper, nodes.AsyncEcho])
async def test_a_message_of_a_type_that_an_input_does_not_take_never_reaches_its_handler(
    executor: str, reader: type[rm.Node]
) -> None:
    refused = "connection n1.out -> n2.in brought a Json, and input 'in' takes Text"
    skipping = rm.NodeConfig(reader, "n2", on_error="skip")
    async with running(nodes.Echo, skipping, executor=executor) as session:
        with pytest.raises(rm.NodeFailed, match=f"DataError: {refused}"):
            await anext(session.stream(rm.Json(1)))
        assert [text.upper() for text in await texts(session, "a")] == ["A"]
    async with running(nodes.Echo, reader, executor=executor) as session:
        await session.send(rm.Json(1))
        cause = await cause_of(session.recv())
        assert isinstance(cause, rm.ProcessCrashed)
        assert f"DataError: {refused}" in str(cause)
        assert cause.working_on == "<Json 1> of input 1"


async def test_each_input_refuses_for_itself_what_it_does_not_take(executor: str) -> None:
    pipeline = rm.Pipeline().add_node("n1", nodes.Echo)
    pipeline.add_node(rm.NodeConfig(nodes.Kind, "n2", on_error="skip"))
    pipeline.connect("n1", "n2.text").connect("n1", "n2.data")
    async with running(pipeline, executor=executor) as session:
        for message in (rm.Text(""), rm.Json(1), rm.Binary(b"")):
            kind, got = type(message).__name__, []
            with pytest.raises(rm.NodeFailed, match=f"brought a {kind}"):  # noqa: PT012
                async for output in session.stream(message):
                    got.append(text_of(output))  # noqa: PERF401 - it ends with an error
            assert got == [kind]


LARGE = [rm.Control("set", "v" * 300_000), rm.File("/" + "p" * 300_000)]


@pytest.mark.parametrize("message", LARGE, ids=["control", "file"])
async def test_a_failure_at_a_large_message_is_told_as_any_other(
    executor: str, message: rm.RuntimeData
) -> None:
    skipping = rm.NodeConfig(nodes.Fussy, "n1", on_error="skip")
    async with running(skipping, executor=executor) as session:
        with pytest.raises(rm.NodeFailed, match="no text"):
            await anext(session.stream(message))
        assert await texts(session, "good") == ["good"]
    async with running(nodes.Fussy, executor=executor) as session:
        await session.send(message)
        cause = await cause_of(session.recv())
        assert isinstance(cause, rm.ProcessCrashed)
        assert "TypeError: no text" in str(cause)
        assert cause.working_on.startswith(repr(message)[:8])
        assert cause.working_on.endswith("of input 1")


# Sources, feedback, draining.


async def test_a_source_that_ends_ends_the_outputs(executor: str) -> None:
    pipeline = chain(rm.NodeConfig(nodes.Count, "n1", config={"end": 50}), nodes.Echo)
    async with running(pipeline, executor=executor) as session:
        got = [value_of(output) async for output in session.outputs()]
        assert got == list(range(50))


@pytest.mark.parametrize("kind", [nodes.Count, nodes.AsyncCount])
async def test_an_endless_source_ends_at_close(executor: str, kind: type[rm.Node]) -> None:
    async with asyncio.timeout(10), running(kind, nodes.Echo, executor=executor) as session:
        collecting = asyncio.create_task(_values(session))
        await wait_until(lambda: session.state is SessionState.RUNNING)
        await session.close()
        got = await collecting
        assert got == list(range(len(got)))
        assert got


async def _values(session: rm.Session) -> list[object]:
    return [value_of(output) async for output in session.outputs()]


def is_full(session: rm.Session) -> bool:
    """Whether no node of a chain of two finds room for one more message."""
    ports = [session.stats()[name] for name in ("n1.out", "n2.out")]
    return all(one.queued == one.capacity for port in ports for one in port.connections)


async def test_a_source_that_nobody_receives_from_ends_at_once(executor: str) -> None:
    async with patient(nodes.Count, nodes.Echo, executor=executor, channel_capacity=2) as session:
        await wait_until(lambda: is_full(session))
        async with asyncio.timeout(END_SECONDS):
            await session.close()


async def test_outputs_that_were_left_early_hold_up_no_close(executor: str) -> None:
    node = rm.NodeConfig(nodes.Count, "n1", config={"end": 400})
    async with running(node, executor=executor, channel_capacity=8) as session:
        async for _ in session.outputs():
            break
        await wait_until(lambda: session.stats()["n1.out"].connections[0].queued == 8)
        async with asyncio.timeout(END_SECONDS):  # and not until it is drained by force
            await session.close()


@pytest.mark.parametrize("how", ["outputs", "stream"])
async def test_outputs_that_are_being_iterated_over_hold_up_no_close(
    executor: str, how: str
) -> None:
    async with running(nodes.Words, executor=executor, channel_capacity=8) as session:
        if how == "stream":
            outputs = session.stream(rm.Text("word " * 400))
        else:
            await session.send(rm.Text("word " * 400))
            outputs = session.outputs()
        assert text_of(await anext(outputs)) == "word"
        async with asyncio.timeout(END_SECONDS):  # and not until it is drained by force
            await session.close()
        assert len([output async for output in outputs]) == 399


async def test_what_is_dropped_by_a_close_that_takes_too_long_is_told(
    executor: str, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = chain(nodes.SlowWords)
    config = {"drain_timeout_seconds": 0.3}
    async with running(pipeline, executor=executor, **config) as session:
        await session.send(rm.Text("word " * 400))
        assert text_of(await session.recv()) == "word"
    assert "was not worked off after drain_timeout_seconds (0.3 s)" in caplog.text


async def test_one_who_sends_and_never_receives_is_told_what_is_wrong(
    executor: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "SLOW_SECONDS", 0.1)
    async with running(nodes.Echo, executor=executor, channel_capacity=4) as session:
        with suppress(rm.BackpressureError):
            for _ in range(100):
                await session.send(rm.Text("a"), timeout_seconds=0.5)
    assert "a send to n1.in has waited 0.1 s for room, and nobody receives" in caplog.text


async def test_a_node_that_waits_for_room_ends_at_once(executor: str) -> None:
    async with patient(nodes.Count, nodes.Echo, executor=executor, channel_capacity=2) as session:
        await wait_until(lambda: is_full(session))
        async with asyncio.timeout(END_SECONDS):
            await session.terminate()


@pytest.mark.parametrize("policy", ["block", "latest"])
@pytest.mark.parametrize("seconds", [0.0, 1.0], ids=["fast", "slow"])
async def test_a_node_that_a_source_feeds_too_says_when_an_input_is_done(
    executor: str, policy: PolicyName, seconds: float
) -> None:
    pipeline = rm.Pipeline().add_node("count", nodes.Count, seconds=seconds)
    pipeline.add_node("relay", nodes.Echo).add_node("mix", nodes.Mix).add_node("out", nodes.Echo)
    pipeline.connect("count", "relay").connect("relay", "mix.number", policy=policy)
    pipeline.connect("mix", "out")
    async with asyncio.timeout(10), rm.Runtime() as runtime:
        session = await runtime.create_session("s", pipeline, executor=executor)
        for text in "abc":
            (got,) = await texts(session, text)
            assert got.split()[0] == text
        await session.terminate()


@pytest.mark.parametrize("how", ["terminate", "close"])
async def test_a_node_that_waits_for_room_in_its_handler_ends_at_once(
    executor: str, how: str
) -> None:
    async with patient(nodes.Words, nodes.Echo, executor=executor, channel_capacity=1) as session:
        await session.send(rm.Text("word " * 100))
        await wait_until(lambda: is_full(session))
        async with asyncio.timeout(END_SECONDS):
            await getattr(session, how)()


async def test_a_cycle_with_feedback_runs_and_ends(executor: str) -> None:
    pipeline = rm.Pipeline().add_node("loop", nodes.Loop, enough=20)
    pipeline.connect("loop.again", "loop.back", policy="drop_oldest")
    async with asyncio.timeout(10), running(pipeline, executor=executor) as session:
        await session.send(rm.Json(0), "loop.start")
        assert value_of(await session.recv()) == 20
        await session.send(rm.Json(5), "loop.start")
        assert value_of(await session.recv()) == 20


async def test_close_works_off_what_was_sent(executor: str) -> None:
    async with running(nodes.Echo, nodes.Busy, nodes.Collect, executor=executor) as session:
        collecting = asyncio.create_task(_all(session))
        words = [str(number) for number in range(200)]
        for word in words:
            await session.send(rm.Text(word))
        await session.close()
        assert (await collecting)[0].split() == words


async def test_hooks_are_called_in_order_and_once(executor: str, tmp_path: Path) -> None:
    path = tmp_path / "marks"
    async with running(
        rm.NodeConfig(nodes.Marker, "n1", config={"path": str(path)}), executor=executor
    ) as session:
        assert await texts(session, "a") == ["a"]
        session.interrupt()
        await wait_until(path.exists)
    assert path.read_text().split() == ["interrupt", "finish", "cleanup"]


# Its end.


async def test_nothing_can_be_sent_to_a_session_that_is_closed(executor: str) -> None:
    async with running(nodes.Echo, executor=executor) as session:
        await session.close()
        with pytest.raises(rm.ChannelClosed):
            await session.send(rm.Text("late"))
        with pytest.raises(rm.EndOfStream):
            await session.recv()
        await session.close()
        await session.terminate()
        assert session.state is SessionState.TERMINATED


async def test_whoever_waits_is_told_when_the_session_is_terminated(executor: str) -> None:
    async with running(nodes.Echo, executor=executor) as session:
        waiting = asyncio.create_task(session.recv())
        await asyncio.sleep(0)
        await session.terminate()
        with pytest.raises(rm.EndOfStream):
            await waiting


@pytest.mark.parametrize("how", ["close", "terminate", "kill"])
async def test_whoever_receives_is_told_that_an_end_cut_off_what_was_sent(
    executor: str, how: str
) -> None:
    slow = rm.NodeConfig(nodes.AsyncSlowWords, "n1", config={"seconds": 3600.0})
    config = {"drain_timeout_seconds": 0.3, "grace_period_seconds": 0.3}
    async with running(chain(slow), executor=executor, **config) as session:
        await session.send(rm.Text("first second"))
        assert text_of(await session.recv()) == "first"
        iterating = asyncio.create_task(_all(session))
        waiting = asyncio.create_task(session.recv())
        await asyncio.sleep(0)
        await getattr(session, how)()
        for task in [iterating, waiting]:
            with pytest.raises(rm.ChannelClosed, match="before it had finished with all"):
                await task


@pytest.mark.parametrize("how", ["terminate", "kill"])
async def test_what_had_come_out_before_an_end_comes_after_it(executor: str, how: str) -> None:
    async with running(nodes.Words, executor=executor) as session:
        await session.send(rm.Text("first second"))
        await wait_until(lambda: session.stats()["n1.out"].sent == 2)
        await getattr(session, how)()
        assert [text_of(await session.recv()) for _ in range(2)] == ["first", "second"]
        with pytest.raises(rm.ChannelError, match="finished"):  # it may not have said that it had
            await session.recv()


async def test_whoever_receives_hears_of_no_loss_when_nothing_was_under_way(executor: str) -> None:
    async with running(nodes.Echo, executor=executor) as session:
        iterating = asyncio.create_task(_all(session))
        assert await texts(session, "a") == ["a"]
        await session.terminate()
        assert await iterating == []


async def test_a_session_is_used_in_its_own_event_loop_alone(executor: str) -> None:
    async with running(nodes.Echo, executor=executor) as session:

        async def used(use: Callable[[], object]) -> None:
            result = use()
            if inspect.isawaitable(result):
                await result
            else:
                await anext(cast("AsyncIterator[object]", result))

        uses: list[Callable[[], object]] = [
            lambda: session.send(rm.Text("a")),
            lambda: session.send_nowait(rm.Text("a")),
            session.recv,
            session.outputs,
            lambda: session.stream(rm.Text("a")),
            session.events,
            session.interrupt,
            session.wait_ended,
            session.close,
        ]
        for use in uses:
            with pytest.raises(rm.ExecutorError, match="belongs to the event loop"):
                await asyncio.to_thread(asyncio.run, used(use))
        assert await texts(session, "a") == ["a"]


async def test_a_stream_left_after_the_end_is_harmless(executor: str) -> None:
    async with running(nodes.Words, executor=executor) as session:
        stream = session.stream(rm.Text("a b"))
        assert text_of(await anext(stream)) == "a"
        await session.terminate()
        await stream.aclose()


@pytest.mark.parametrize("when", ["finish", "cleanup"])
async def test_a_failure_at_the_end_is_raised_by_close(executor: str, when: str) -> None:
    node = rm.NodeConfig(nodes.Fragile, "n1", config={"when": when})
    with pytest.raises(rm.PipelineTerminated, match="broken on purpose") as caught:
        async with running(node, nodes.Echo, executor=executor) as session:
            assert await texts(session, "a") == ["a"]
    assert isinstance(caught.value.__cause__, rm.ProcessCrashed)
    assert caught.value.__cause__.node_id == "n1"


async def test_a_failure_that_nobody_waited_for_is_raised_by_close(executor: str) -> None:
    with pytest.raises(rm.PipelineTerminated, match="broken on purpose"):
        async with running(nodes.Fragile, executor=executor) as session:
            await session.send(rm.Text("!raise"))


async def test_a_failure_that_was_raised_is_not_raised_again_by_close(executor: str) -> None:
    async with running(nodes.Fragile, executor=executor) as session:
        await session.send(rm.Text("!raise"))
        assert isinstance(await cause_of(session.recv()), rm.ProcessCrashed)


@pytest.mark.parametrize("how", ["close", "terminate"])
async def test_an_end_that_takes_long_says_what_it_waits_for(
    runtime: rm.Runtime,
    how: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(ending, "SLOW_DRAIN_SECONDS", 0.2)
    session = await runtime.create_session("s", chain(nodes.Echo, nodes.Deaf))
    await session.send(rm.Text(""))
    await wait_until(lambda: session.nodes["n2"].value == "processing")
    task = asyncio.create_task(getattr(session, how)())
    await wait_until(lambda: "session 's' is" in caplog.text)
    await session.terminate()
    await task
    *told, last = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "node 'n2' of session 's' has not exited" in last
    assert len(told) == (2 if how == "close" else 1)  # closing, and then ending
    assert all("session 's' is" in text for text in told)
    assert all("for 'n2' to" in text for text in told)


async def test_a_thread_that_does_not_come_back_is_an_error_and_no_hang() -> None:
    settings = rm.MultiprocessConfig(grace_period_seconds=0.2)
    async with asyncio.timeout(10), rm.Runtime(settings) as runtime:
        node = rm.NodeConfig(nodes.Busy, "n1", config={"seconds": 1.5})
        session = await runtime.create_session("s", chain(node), executor="inline")
        await session.send(rm.Text(""))
        await wait_until(lambda: session.nodes["n1"].value == "processing")
        (thread,) = (one for one in threading.enumerate() if one.name == "node n1")
        with pytest.raises(rm.ExecutorError, match="did not come back"):
            await session.terminate()
        assert not runtime.sessions
        assert thread.is_alive()
        await wait_until(lambda: not thread.is_alive())  # it finds everything closed: no error


async def test_a_failed_start_raises_its_cause_though_not_all_of_it_ends(
    runtime: rm.Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    is_stuck, may_go_on = threading.Event(), threading.Event()

    class Stuck(nodes.Echo):
        def initialize(self) -> None:
            is_stuck.set()
            may_go_on.wait()

    class Fails(nodes.Echo):
        def initialize(self) -> None:
            is_stuck.wait()
            raise ValueError("broken on purpose")

    try:
        with pytest.raises(rm.ProcessCrashed, match="broken on purpose"):
            await runtime.create_session("s", chain(Fails, Stuck), executor="inline")
        assert "session 's' did not start, and did not end" in caplog.text
        assert not runtime.sessions
    finally:
        may_go_on.set()
    await wait_until(lambda: all(one.name != "node n2" for one in threading.enumerate()))


async def test_an_end_that_is_quick_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with running(nodes.Echo) as session:
        assert await texts(session, "a") == ["a"]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("node", [nodes.Fragile, nodes.FragileAndSlow])
async def test_what_left_a_node_before_it_failed_comes_before_the_failure(
    executor: str, node: type[rm.Node]
) -> None:
    for seconds in (0.0, 0.1, 1.0):
        async with rm.Runtime() as runtime:
            session = await runtime.create_session("s", chain(node), executor=executor)
            got = []
            for text in ("a", "b", "!raise"):
                await session.send(rm.Text(text))
            await asyncio.sleep(seconds)  # it may have failed by now
            with suppress(rm.PipelineTerminated):
                async for output in session.outputs():
                    got.append(text_of(output))  # noqa: PERF401 (what came before it raises)
            assert got == ["a", "b"]
            with pytest.raises(rm.PipelineTerminated):
                await session.recv()


async def test_what_came_out_before_another_node_failed_comes_before_the_failure(
    executor: str,
) -> None:
    async with rm.Runtime() as runtime:
        pipeline = chain(nodes.Fragile, nodes.Echo)
        session = await runtime.create_session("s", pipeline, executor=executor)
        for text in ("a", "b"):
            await session.send(rm.Text(text))
        await wait_until(lambda: session.stats()["n2.out"].connections[0].queued == 2)
        await session.send(rm.Text("!raise"))
        await wait_until(lambda: not runtime.sessions)
        got = []
        with suppress(rm.PipelineTerminated):
            async for output in session.outputs():
                got.append(text_of(output))  # noqa: PERF401 (what came before it raises)
        assert got == ["a", "b"]


async def test_all_that_came_out_is_kept_when_a_node_fails_however_much_it_is(
    executor: str,
) -> None:
    spills = rm.NodeConfig(Spills, "n1", config={"count": 3000, "length": 1, "how": "raise"})
    async with rm.Runtime(rm.MultiprocessConfig(channel_capacity=4000)) as runtime:
        session = await runtime.create_session("s", chain(spills), executor=executor)
        await session.send(rm.Text("go"))
        await wait_until(lambda: not runtime.sessions)
        got = 0
        with suppress(rm.PipelineTerminated):
            async for _ in session.outputs():
                got += 1
        assert got == 3001


@pytest.mark.parametrize("sent", [["first", *["a"] * 199, "last"], ["many", "last"]], ids=len)
async def test_a_task_of_a_node_has_its_turns_while_messages_come_and_leave(
    sent: list[str], executor: str
) -> None:
    async with running(nodes.Beats, executor=executor, channel_capacity=256) as session:
        for text in sent:
            await session.send(rm.Text(text))
        got = value_of(await session.recv())
        if "many" in sent:
            for _ in range(200):
                got = value_of(await session.recv())
        assert isinstance(got, int)
        assert got <= TURNS


async def test_a_cleanup_that_cancels_what_it_awaits_is_named(executor: str) -> None:
    async with rm.Runtime() as runtime:
        session = await runtime.create_session(
            "s", chain(nodes.CancelsAtCleanup), executor=executor
        )
        assert await texts(session, "a") == ["a"]
        with pytest.raises(rm.PipelineTerminated, match="in cleanup: RuntimeError: it was cancel"):
            await session.close()


@pytest.mark.parametrize("text", ["no microphone", "KeyboardInterrupt"])
@pytest.mark.parametrize("node", [nodes.Exits, nodes.ExitsInATask])
async def test_a_node_that_exits_is_told_with_its_words(
    executor: str, node: type[rm.Node], text: str
) -> None:
    async with running(node, executor=executor) as session:
        cause = await cause_of(texts(session, text))
    assert isinstance(cause, rm.ProcessCrashed)
    assert cause.code == 1
    assert text in cause.stderr_tail
    assert "cancelled" not in str(cause)


@pytest.mark.parametrize(("number", "code"), [(3, 3), (-1, 255), (256 + 7, 7), (2**40 + 9, 9)])
async def test_a_node_exits_with_as_much_of_its_number_as_a_process_has(
    executor: str, number: int, code: int
) -> None:
    async with running(nodes.ExitsWith, executor=executor) as session:
        cause = await cause_of(texts(session, str(number)))
    assert isinstance(cause, rm.ProcessCrashed)
    assert cause.code == code
    assert f"exit code {code}," in str(cause)


@pytest.mark.parametrize("text", ["no microphone", "KeyboardInterrupt"])
async def test_a_node_that_can_say_nothing_any_more_exits_all_the_same(text: str) -> None:
    async with running(nodes.ExitsMute) as session:
        async with asyncio.timeout(10):
            cause = await cause_of(texts(session, text))
    assert isinstance(cause, rm.ProcessCrashed)
    assert cause.code == 1


async def test_a_node_that_exits_and_does_not_come_to_it_is_told_all_the_same() -> None:
    late = [
        rm.NodeConfig(nodes.ExitsLate, "exits", config={"hangs_in": "cleanup"}),
        rm.NodeConfig(nodes.ExitsLate, "exits", config={"hangs_in": "atexit"}),
        rm.NodeConfig(nodes.ExitsLateInATask, "exits"),
    ]

    async def end_of(node: rm.NodeConfig) -> str:
        async with running(node) as session:
            return str(await cause_of(texts(session, "KeyboardInterrupt")))

    async with asyncio.timeout(30):
        causes = await asyncio.gather(*map(end_of, late))
    for cause in causes:
        assert "Timeout" in cause, "its stack says where it hung"


async def test_a_failure_is_told_before_the_node_has_cleaned_up(runtime: rm.Runtime) -> None:
    session = await runtime.create_session("s", chain(nodes.SlowCleanup))
    (pid,) = session.pids.values()
    await session.send(rm.Text("a"))
    assert isinstance(await cause_of(session.recv()), rm.ProcessCrashed)
    assert not is_dead(pid)


@pytest.mark.parametrize("how", ["terminate", "kill"])
async def test_ended_while_it_starts_its_start_raises(runtime: rm.Runtime, how: str) -> None:
    for wait_seconds in (0.0, 0.001, 0.01, 0.1, 0.5):
        creating = asyncio.create_task(
            runtime.create_session("s", chain(nodes.Echo, nodes.NeverReady))
        )
        await wait_until(lambda: "s" in runtime.sessions)
        await asyncio.sleep(wait_seconds)
        await getattr(runtime.sessions["s"], how)()
        with pytest.raises(rm.ExecutorError, match="ended while it started"):
            await creating
        assert not runtime.sessions


async def test_a_start_that_is_cancelled_when_it_is_too_late_already_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask_for_ever(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    asked = asyncio.Event()
    monkeypatch.setattr(NodeProcess, "timeout_error", ask_for_ever)
    settings = rm.MultiprocessConfig(init_timeout_secs=0.5)
    async with rm.Runtime(settings) as runtime:
        creating = asyncio.create_task(runtime.create_session("s", chain(nodes.NeverReady)))
        await asked.wait()
        (pid,) = runtime.sessions["s"].pids.values()
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert not runtime.sessions
        assert is_dead(pid)


async def test_a_session_that_cannot_be_planned_leaves_no_descriptor(
    runtime: rm.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise rm.ResourceLimit("it is full")

    await runtime.create_session("first", chain(nodes.Echo))
    before = open_fds()
    monkeypatch.setattr(ChannelRegistry, "connect", refuse)
    with pytest.raises(rm.ResourceLimit, match="it is full"):
        await runtime.create_session("s", chain(nodes.Echo, nodes.Echo))
    assert open_fds() == before
    assert set(runtime.sessions) == {"first"}


async def test_a_start_that_takes_too_long_says_where_the_node_is() -> None:
    settings = rm.MultiprocessConfig(init_timeout_secs=4.0, grace_period_seconds=1.0)
    async with rm.Runtime(settings) as runtime:
        with pytest.raises(rm.InitTimeout) as caught:
            await runtime.create_session("s", chain(nodes.Echo, nodes.NeverReady))
    assert (caught.value.node_id, caught.value.phase) == ("n2", "loading")
    assert "in initialize" in caught.value.stack


async def test_a_pipeline_that_shared_memory_cannot_hold_is_refused_before_it_starts(
    runtime: rm.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "free_bytes", lambda: 64_000_000)
    with pytest.raises(rm.SharedMemoryExhausted) as caught:
        await runtime.create_session("s", chain(nodes.Large, nodes.Echo))
    assert caught.value.free_bytes == 64_000_000
    assert 100 * 16_000_000 < caught.value.needed_bytes < 200 * 16_000_000
    assert "session 's' (bytes by port: n1.out " in str(caught.value)
    assert not runtime.sessions
    session = await runtime.create_session("s", chain(nodes.Echo))
    assert await texts(session, "a") == ["a"]


# Events and statistics.


async def test_events_come_in_order(runtime: rm.Runtime) -> None:
    got: list[events.Event] = []
    session = await runtime.create_session("s", chain(nodes.Echo), on_event=got.append)
    assert await texts(session, "a") == ["a"]
    await session.close()
    names = [
        f"{event.before.value}->{event.after.value}"
        if isinstance(event, events.SessionStateChanged)
        else type(event).__name__
        for event in got
        if not isinstance(event, events.NodeProgress)
    ]
    assert names == [
        "ProcessStarted",
        "NodeReady",
        "initializing->ready",
        "SessionReady",
        "ready->running",
        "running->terminating",
        "ProcessExited",
        "terminating->terminated",
    ]
    phases = [event.phase for event in got if isinstance(event, events.NodeProgress)]
    assert phases == ["importing", "creating", "loading", "connecting"]
    ends = [event for event in got if isinstance(event, events.ProcessExited)]
    assert [(end.exit.code, end.is_expected) for end in ends] == [(0, True)]


async def test_a_listener_that_raises_is_told_of_and_ends_nothing(runtime: rm.Runtime) -> None:
    def listen(event: events.Event) -> None:
        raise ValueError(type(event).__name__)

    told: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    async with runtime.session(chain(nodes.Echo), on_event=listen) as session:
        assert await texts(session, "a") == ["a"]
    assert "SessionReady" in map(str, told)


async def test_the_account_is_balanced_after_close(executor: str) -> None:
    async with running(
        nodes.Words, nodes.Echo, nodes.Words, executor=executor, channel_capacity=4
    ) as session:
        for _ in range(50):
            assert len(await texts(session, "a b c")) == 3
        session.interrupt()
        await session.send(rm.Text("a b c d e f g"))
    stats = session.stats()
    assert stats
    for port in stats.values():
        for connection in port.connections:
            assert connection.is_balanced, connection
            assert connection.in_flight == 0, connection
    assert stats["n1.out"].sent >= 150


async def test_states_of_nodes_are_told() -> None:
    async with running(nodes.Echo, nodes.SlowWords) as session:
        assert {state.value for state in session.nodes.values()} == {"ready"}
        await session.send(rm.Text("a b c"))
        await wait_until(lambda: session.nodes["n2"].value == "processing")
    assert {state.value for state in session.nodes.values()} == {"stopped"}


async def test_who_receives_now_and_then_gets_all_that_a_close_lets_out() -> None:
    async with running(nodes.Filled) as session:
        for number in range(50):
            await session.send(rm.Json(number))
        found = [(await session.recv()).correlation_id]
        closing = asyncio.create_task(session.close())
        while True:
            await asyncio.sleep(0.002)  # in which nobody waits for an output
            try:
                output = await session.recv()
            except rm.EndOfStream:
                break
            assert isinstance(output, rm.Tensor)
            assert output.array.max() == output.array.min() == output.correlation_id - 1
            assert output.array.size == 100_000
            found.append(output.correlation_id)
        await closing
        assert found == list(range(1, 51))


async def test_what_was_set_aside_in_a_close_can_be_received_after_it() -> None:
    async with running(nodes.Echo) as session:
        for number in range(20):
            await session.send(rm.Text(str(number)))
        assert await session.recv() == rm.Text("0")
        await session.close()
        rest = [await session.recv() for _ in range(19)]
        assert rest == [rm.Text(str(number)) for number in range(1, 20)]
        with pytest.raises(rm.EndOfStream):
            await session.recv()


async def test_a_drain_that_fails_ends_the_session_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rm.Runtime() as runtime:
        session = await runtime.create_session("s", chain(nodes.Echo))
        pids = session.pids.values()

        async def fail(*_: object) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(ending.Ending, "drain", fail)
        with pytest.raises(RuntimeError, match="broken"):
            await session.close()
        assert session.state.value == "terminated"
        assert not runtime.sessions
        assert all(map(is_dead, pids))
