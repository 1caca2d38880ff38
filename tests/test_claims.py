"""Several who wait for outputs of one session: each gets its own, and nobody keeps the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import remotemedia as rm
from remotemedia.core.multiprocess import claims, exchange
from remotemedia.core.multiprocess.claims import Claims
from tests import executor_nodes as nodes
from tests.executor_helpers import END_SECONDS, running, text_of, texts, wait_until

if TYPE_CHECKING:
    from remotemedia.core.describe import NodeTarget

pytestmark = pytest.mark.anyio
FAST = 6
"""Nodes side by side that together write faster than one process takes."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def side_by_side(node: NodeTarget, count: int = FAST) -> rm.Pipeline:
    """Return a pipeline of so many nodes, "n0" and on, that are not connected."""
    pipeline = rm.Pipeline("test")
    for number in range(count):
        pipeline.add_node(f"n{number}", node)
    return pipeline


def received(session: rm.Session) -> int:
    """How many messages the session has taken, whatever became of them."""
    ports = session.stats().values()
    return sum(
        one.received for port in ports for one in port.connections if one.name.endswith("session")
    )


async def leave_streams_to_all(session: rm.Session) -> None:
    """Send to every node, and leave what it makes to nobody."""
    for number in range(FAST):
        async for _ in session.stream(rm.Text("x"), f"n{number}"):
            break


async def test_one_who_waits_has_its_time_however_much_comes_for_others() -> None:
    async with running(side_by_side(nodes.Endless)) as session:
        await leave_streams_to_all(session)
        with pytest.raises(TimeoutError, match="nothing came out"):
            await session.recv(timeout_seconds=0.2)
        await session.kill()


async def test_a_close_has_its_time_however_much_still_comes() -> None:
    pipeline = side_by_side(nodes.EndlessTail)
    async with (
        running(pipeline, drain_timeout_seconds=0.3, grace_period_seconds=0.3) as session,
        asyncio.timeout(END_SECONDS),
    ):
        await session.close()


async def test_an_interrupt_takes_no_more_than_what_waits() -> None:
    pipeline = side_by_side(nodes.Count, 3)
    async with running(pipeline, channel_capacity=8) as session:
        for _ in range(50):
            await session.recv()
            before = received(session)
            session.interrupt()
            # What is old goes, and of what is new as much as was waiting.
            assert received(session) - before <= 3 * 8 * 3
        await session.kill()


@pytest.mark.parametrize("executor", ["python", "inline"])
async def test_a_slow_stream_holds_its_node_back_whoever_else_receives(
    executor: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claims, "MAX_SET_ASIDE", 16)
    monkeypatch.setattr(exchange, "MAX_SET_ASIDE", 16)
    words = [str(number) for number in range(200)]
    async with running(nodes.Words, executor=executor, channel_capacity=4) as session:
        outputs = session.stream(rm.Text(" ".join(words)))
        assert text_of(await anext(outputs)) == "0"
        other = asyncio.create_task(session.recv())
        await wait_until(lambda: "16 outputs of input 1 wait for whoever streams it" in caplog.text)
        # It wakes at every output, and takes none.
        await wait_until(lambda: session.stats()["n1.out"].sent == 1 + 16 + 4)
        await session.send(rm.Text("other"))
        assert [text_of(one) async for one in outputs] == words[1:]
        assert text_of(await other) == "other"


async def test_streams_beside_a_slow_one_go_on_once_it_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claims, "MAX_SET_ASIDE", 16)
    async with running(nodes.Words, channel_capacity=4) as session:
        slow = session.stream(rm.Text("word " * 100))
        await anext(slow)
        quick = asyncio.create_task(texts(session, "quick"))
        await wait_until(lambda: "outputs of input 1 wait" in caplog.text)
        await slow.aclose()  # nobody wants them
        assert await quick == ["quick"]


@pytest.mark.parametrize("executor", ["python", "inline"])
async def test_inputs_whose_streams_were_left_early_are_forgotten_once_they_end(
    executor: str,
) -> None:
    async with running(nodes.Words, executor=executor) as session:
        for _ in range(50):
            async for _ in session.stream(rm.Text("two words")):
                break
        assert len(session._supervisor.open_exchange()._claims.abandoned) < 50


def test_there_is_room_again_when_the_stream_that_was_full_is_left() -> None:
    told = []
    both = Claims("s", lambda: told.append(1))
    full, other = both.claim(1), both.claim(2)
    output = rm.Text("x")
    output.correlation_id = 1
    for _ in range(claims.MAX_SET_ASIDE):
        both.put(output)
    assert both.is_full
    assert len(full) == claims.MAX_SET_ASIDE
    assert not other
    assert both.release(1)
    assert not both.is_full
    assert told == [1]
    assert not both.release(1)
