"""A node that crashes is restarted where its pipeline says so, and the session goes on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import remotemedia as rm
from remotemedia.core.multiprocess import events
from remotemedia.core.multiprocess.restarting import Attempts
from remotemedia.core.pipeline import Restart
from tests import executor_nodes as nodes
from tests import restart_nodes as broken
from tests.executor_helpers import (
    END_SECONDS,
    cause_of,
    chain,
    is_dead,
    long_form,
    repeated,
    running,
    text_of,
    texts,
    value_of,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from remotemedia.core.describe import NodeTarget
    from remotemedia.core.multiprocess.channel.stats import ConnectionStats
    from remotemedia.core.multiprocess.events import EventStream
    from remotemedia.core.multiprocess.plan import PolicyName

pytestmark = pytest.mark.anyio

SOON = Restart("on_failure", max_restarts=5, window_seconds=60.0, backoff_seconds=(0.01, 0.05))
LATE = Restart("on_failure", max_restarts=5, window_seconds=60.0, backoff_seconds=(600.0, 600.0))
PATIENCE_SECONDS = 30.0
CRASHES = ["SIGKILL", "segfault", "exit", "exit0", "sys.exit", "raise"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def restarted(
    target: NodeTarget, node_id: str = "n1", restart: Restart = SOON, **config: object
) -> rm.NodeConfig:
    return rm.NodeConfig(target, node_id, config=config, restart=restart)


async def until(seen: EventStream, kind: type[events.Event]) -> list[events.Event]:
    """Return what happens up to an event of this kind."""
    heard: list[events.Event] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for event in seen:
            heard.append(event)
            if isinstance(event, kind):
                return heard
    raise AssertionError(f"the session ended without {kind.__name__}: {heard}")


async def crash(session: rm.Session, text: str = "!SIGKILL", to: str | None = None) -> str:
    """Have a node break over a text; return what whoever waits for it is told."""
    with pytest.raises(rm.NodeFailed) as caught:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await texts(session, text, to)
    return str(caught.value)


def connections(session: rm.Session) -> dict[str, ConnectionStats]:
    found = {one.name: one for port in session.stats().values() for one in port.connections}
    for one in found.values():
        assert one.is_balanced, one
    return found


# The session goes on


@pytest.mark.parametrize("how", CRASHES)
async def test_a_node_that_crashes_is_restarted_and_messages_flow_again(how: str) -> None:
    async with running(nodes.Echo, restarted(nodes.Fragile, "n2"), nodes.Echo) as session:
        before = session.pids["n2"]
        assert await texts(session, "a") == ["a"]
        told = await crash(session, "!" + how)
        assert told.startswith("node 'n2' was restarted and lost ")
        assert "of input 2" in told
        assert await texts(session, "b") == ["b"]
        assert session.restarts == {"n1": 0, "n2": 1, "n3": 0}
        assert session.pids["n2"] != before
        assert is_dead(before)
        # The message it was working on is lost, nothing else is.
        found = connections(session)
        assert {name: one.dropped["lost"] for name, one in found.items()} == {
            "input n1.in -> n1.in": 0,
            "n1.out -> n2.in": 1,
            "n2.out -> n3.in": 0,
            "n3.out -> session": 0,
        }
        assert found["n1.out -> n2.in"].sent == 3
        assert all(one.is_confirmed for one in found.values())


@pytest.mark.parametrize("how", ["SIGKILL", "raise", "sys.exit"])
async def test_so_is_an_asynchronous_one(how: str) -> None:
    async with running(restarted(nodes.AsyncFragile)) as session:
        await crash(session, "!" + how)
        assert await texts(session, "b") == ["b"]


async def test_what_happens_is_told_in_order() -> None:
    async with running(restarted(nodes.Fragile)) as session:
        seen = session.events()
        await session.send(rm.Text("!exit"))
        heard = [one for one in await until(seen, events.NodeReady) if hasattr(one, "node_id")]
        kinds = [type(one) for one in heard if not isinstance(one, events.NodeProgress)]
        assert kinds == [
            events.ProcessExited,
            events.NodeRestarting,
            events.ProcessStarted,
            events.NodeReady,
        ]
        (told,) = [one for one in heard if isinstance(one, events.NodeRestarting)]
        assert (told.node_id, told.incarnation, told.attempt) == ("n1", 1, 1)
        assert told.delay_seconds == SOON.backoff_seconds[0]
        assert told.cause.startswith("node 'n1': exit code 3, while processing message 1 of input")


async def test_a_failure_is_told_with_the_crash_as_its_cause() -> None:
    async with running(restarted(nodes.Fragile)) as session:
        with pytest.raises(rm.NodeFailed) as caught:
            await texts(session, "!raise")
        cause = caught.value.__cause__
        assert isinstance(cause, rm.ProcessCrashed)
        assert cause.cause == "failed in process: ValueError: broken on purpose"
        assert "broken on purpose" in caught.value.traceback


async def test_a_node_without_outputs_is_restarted() -> None:
    async with running(nodes.Echo, restarted(broken.FragileSink, "n2")) as session:
        assert await texts(session, "a") == []
        await crash(session)
        assert await texts(session, "b") == []


async def test_a_source_is_restarted_and_begins_anew(tmp_path: Path) -> None:
    source = restarted(broken.BreaksOnce, path=str(tmp_path / "mark"))
    # It comes to the number at which it breaks when outputs are read: in a session that is ready.
    async with running(source, nodes.Echo, channel_capacity=1) as session:
        numbers = [value_of(output) async for output in session.outputs()]
        assert numbers[-10:] == list(range(10))
        assert numbers[:-10] == list(range(len(numbers) - 10))
        connections(session)


async def test_a_node_that_breaks_when_its_inputs_have_ended_finishes_in_its_next_process(
    tmp_path: Path,
) -> None:
    source = rm.NodeConfig(nodes.Count, "n1", config={"end": 3})
    last = restarted(broken.FinishesBadly, "n2", path=str(tmp_path / "mark"))
    async with running(source, last) as session:
        async with asyncio.timeout(PATIENCE_SECONDS):
            values = [value_of(output) async for output in session.outputs()]
        assert values[-1] == "finished"
        assert session.restarts["n2"] == 1


async def test_a_node_with_two_inputs_is_restarted() -> None:
    pipeline = rm.Pipeline("p").add_node("a", nodes.Echo).add_node("b", nodes.Echo)
    pipeline.add_node(restarted(broken.FragileJoin, "j"))
    pipeline.connect("a", "j.a").connect("b", "j.b")
    async with running(pipeline) as session:
        assert await texts(session, "x", "a") == ["a:x"]
        await crash(session, to="b")
        assert await texts(session, "y", "a") == ["a:y"]
        assert await texts(session, "z", "b") == ["b:z"]
        found = connections(session)
        assert found["b.out -> j.b"].dropped["lost"] == 1
        assert found["a.out -> j.a"].dropped["lost"] == 0


async def test_neighbours_that_crash_together_come_back_together() -> None:
    first, second = restarted(nodes.Echo, "n1"), restarted(nodes.Echo, "n2")
    async with running(first, second, restarted(nodes.Echo, "n3")) as session:
        assert await texts(session, "a") == ["a"]
        for pid in session.pids.values():
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(rm.NodeFailed):  # it may have gone in before the end was known
                await texts(session, "b")
            assert await texts(session, "c") == ["c"]
        assert set(session.restarts.values()) == {1}


async def test_a_node_that_is_stuck_is_restarted() -> None:
    stuck = rm.NodeConfig(nodes.Fragile, "n1", restart=SOON, stall_timeout_seconds=0.3)
    async with running(stuck) as session:
        assert "stalled" in await crash(session, "!hang")
        assert await texts(session, "a") == ["a"]


async def test_what_a_node_had_started_is_gone_before_its_next_process() -> None:
    async with running(restarted(nodes.Parent)) as session:
        (told,) = [value_of(one) async for one in session.stream(rm.Text(""))]
        assert isinstance(told, list)
        seen = session.events()
        os.kill(session.pids["n1"], signal.SIGKILL)
        await until(seen, events.NodeRestarting)
        assert all(is_dead(pid) for pid in told)
        await until(seen, events.NodeReady)


async def test_a_node_that_takes_its_time_to_clean_up_is_killed_in_the_end() -> None:
    slow = restarted(nodes.SlowCleanup, restart=Restart("on_failure", 1, 60.0, (0.01, 0.01)))
    async with running(slow, grace_period_seconds=0.3) as session:
        seen = session.events()
        await session.send(rm.Text("a"))
        await until(seen, events.NodeReady)
        await session.send(rm.Text("b"))
        cause = await cause_of(session.recv())
        assert "restarted once" in str(cause)


async def test_a_node_that_skips_errors_counts_on(tmp_path: Path) -> None:
    skips = rm.NodeConfig(nodes.Fragile, "n1", restart=SOON, on_error="skip")
    async with running(skips) as session:
        for _ in range(2):
            with pytest.raises(rm.NodeFailed, match="skipped"):
                await texts(session, "!raise")
        assert "restarted" in await crash(session)
        with pytest.raises(rm.NodeFailed, match="skipped"):
            await texts(session, "!raise")
        assert await texts(session, "a") == ["a"]


# What is lost, and who waits


async def test_what_waited_in_its_queue_is_lost_and_counted_and_told() -> None:
    async with running(restarted(nodes.Fragile)) as session:

        async def outcome(text: str) -> object:
            try:
                return await texts(session, text)
            except rm.NodeFailed as error:
                return str(error).splitlines()[0]

        async with asyncio.timeout(PATIENCE_SECONDS):
            told = await asyncio.gather(*map(outcome, ["a", "!SIGKILL", "b", "c"]))
        lost = [one for one in told if isinstance(one, str)]
        assert told[0] == ["a"]
        assert "lost message 2 of input 2" in lost[0]
        assert [one.partition(":")[0] for one in lost[1:]] == [
            f"node 'n1' was restarted and lost messages of input {number}" for number in (3, 4)
        ]
        into = connections(session)["input n1.in -> n1.in"]
        assert (into.sent, into.received, into.dropped["lost"]) == (4, 1, 3)
        assert await texts(session, "d") == ["d"]


async def test_an_input_that_has_not_come_to_the_node_is_not_lost(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    held = rm.NodeConfig(broken.Held, "n1", config={"path": str(gate)})
    async with running(held, restarted(nodes.Fragile, "n2")) as session:
        waiting = asyncio.create_task(texts(session, "wait"))
        await wait_until(lambda: session.nodes["n1"].value == "processing")
        later = asyncio.create_task(texts(session, "later"))
        seen = session.events()
        os.kill(session.pids["n2"], signal.SIGKILL)
        await until(seen, events.NodeReady)
        gate.touch()
        assert await waiting == ["wait"]
        assert await later == ["later"]


async def test_what_it_had_sent_is_delivered_though_it_is_dead(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    held = rm.NodeConfig(broken.Held, "n2", config={"path": str(gate)})
    async with running(restarted(nodes.Echo), held) as session:
        assert await texts(session, "a") == ["a"]
        streams = [asyncio.create_task(texts(session, f"wait {n}")) for n in range(5)]
        await wait_until(lambda: connections(session)["n1.out -> n2.in"].sent == 6)
        await wait_until(lambda: session.nodes["n1"].value == "ready")
        seen = session.events()
        os.kill(session.pids["n1"], signal.SIGKILL)
        await until(seen, events.NodeReady)
        gate.touch()
        assert await asyncio.gather(*streams) == [[f"wait {n}"] for n in range(5)]
        assert connections(session)["n1.out -> n2.in"].dropped["lost"] == 0


@pytest.mark.parametrize("is_mapped", [True, False])
@pytest.mark.parametrize("how", ["SIGKILL", "raise"])
async def test_what_it_had_sent_is_received_after_its_restart(how: str, is_mapped: bool) -> None:
    # More than its first memory holds: the rest came in memory that nobody here had looked at.
    spills = restarted(broken.Spills, count=40, length=200_000, how=how)
    async with running(spills) as session:
        if is_mapped:
            assert await texts(session, "first") == ["first"]
        seen = session.events()
        await session.send(rm.Text("go"))
        await until(seen, events.NodeReady)
        async with asyncio.timeout(PATIENCE_SECONDS):
            came = [text_of(await session.recv()) for _ in range(41)]
        assert [one.split()[0] for one in came] == ["go", *map(str, range(40))]
        assert connections(session)["n1.out -> session"].dropped["lost"] == 0


@pytest.mark.parametrize("how", ["SIGKILL", "raise"])
async def test_a_node_is_restarted_once_others_have_taken_what_it_had_sent(
    tmp_path: Path, how: str
) -> None:
    spills = restarted(broken.Spills, count=20, length=200_000, how=how)
    held = rm.NodeConfig(broken.Held, "n2", config={"path": str(tmp_path / "go")})
    async with running(spills, held) as session:
        assert await texts(session, "first") == ["first"]
        seen = session.events()
        await session.send(rm.Text("wait"))
        await until(seen, events.NodeRestarting)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await until(seen, events.ProcessStarted)
        (tmp_path / "go").touch()
        async with asyncio.timeout(PATIENCE_SECONDS):
            came = [text_of(await session.recv()) for _ in range(21)]
        assert [one.split()[0] for one in came] == ["wait", *map(str, range(20))]
        assert connections(session)["n1.out -> n2.in"].dropped["lost"] == 0
        assert await texts(session, "first") == ["first"]


async def test_what_a_node_had_sent_is_received_though_another_crashed_at_the_same_moment(
    tmp_path: Path,
) -> None:
    spills = restarted(broken.Spills, count=20, length=200_000, how="hang")
    pipeline = rm.Pipeline("p").add_node(restarted(nodes.Echo, "other")).add_node(spills)
    pipeline.add_node("held", broken.Held, path=str(tmp_path / "go")).connect("n1", "held")
    async with running(pipeline) as session:
        assert await texts(session, "first", "n1") == ["first"]
        await session.send(rm.Text("wait"), "n1")
        await wait_until(lambda: connections(session)["n1.out -> held.in"].sent == 22)
        seen = session.events()
        _kill_as_one([session.pids["other"], session.pids["n1"]])
        for _ in range(2):
            await until(seen, events.NodeRestarting)
        (tmp_path / "go").touch()
        async with asyncio.timeout(PATIENCE_SECONDS):
            came = [text_of(await session.recv()) for _ in range(21)]
        assert [one.split()[0] for one in came] == ["wait", *map(str, range(20))]
        assert connections(session)["n1.out -> held.in"].dropped["lost"] == 0


def _kill_as_one(pids: list[int]) -> None:
    """Kill processes and hold the event loop until all are dead: it hears of all at once."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + PATIENCE_SECONDS
    while not all(map(is_dead, pids)):
        assert time.monotonic() < end
        time.sleep(0.001)


async def test_a_restart_waits_no_longer_for_others_than_for_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spills = restarted(broken.Spills, count=20, length=200_000, how="SIGKILL")
    held = rm.NodeConfig(broken.Held, "n2", config={"path": str(tmp_path / "go")})
    async with running(spills, held, init_timeout_secs=5) as session:
        assert await texts(session, "first") == ["first"]
        seen = session.events()
        await session.send(rm.Text("wait"))
        await until(seen, events.NodeReady)
        (tmp_path / "go").touch()
        assert "node 'n1' is restarted though other nodes have not taken 20 messages" in caplog.text
        assert await texts(session, "first") == ["first"]


async def test_who_sends_to_it_waits_until_it_is_back() -> None:
    restart = Restart("on_failure", 5, 60.0, (1.0, 1.0))
    async with running(restarted(nodes.Echo, restart=restart)) as session:
        seen = session.events()
        os.kill(session.pids["n1"], signal.SIGKILL)
        await until(seen, events.NodeRestarting)
        with pytest.raises(rm.BackpressureError, match="has no reader"):
            await session.send_nowait(rm.Text("a"))
        assert session.nodes["n1"].value == "restarting"
        assert "n1" not in session.pids
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await texts(session, "b") == ["b"]
        assert all(not one.dropped["lost"] for one in connections(session).values())


async def test_a_node_that_sends_to_it_waits_until_it_is_back() -> None:
    restart = Restart("on_failure", 5, 60.0, (0.3, 0.3))
    async with running(nodes.Echo, restarted(nodes.Echo, "n2", restart)) as session:
        assert await texts(session, "a") == ["a"]
        seen = session.events()
        os.kill(session.pids["n2"], signal.SIGKILL)
        await until(seen, events.NodeRestarting)
        async with asyncio.timeout(PATIENCE_SECONDS):
            for text in "bcd":
                with suppress(rm.NodeFailed):  # its neighbour may not have heard of it yet
                    assert await texts(session, text) == [text]
            assert await texts(session, "e") == ["e"]
        connections(session)


async def take(session: rm.Session, count: int) -> list[object]:
    return [value_of(await session.recv()) for _ in range(count)]


@pytest.mark.parametrize("policy", ["latest", "drop_oldest"])
async def test_a_lossy_reader_that_is_away_holds_nobody_up(policy: PolicyName) -> None:
    pipeline = rm.Pipeline("p").add_node("n1", nodes.Count).add_node("n3", nodes.Echo)
    pipeline.add_node(restarted(broken.Drop, "n2", LATE))
    pipeline.connect("n1", "n2", policy=policy, capacity=1 if policy == "latest" else 4)
    pipeline.connect("n1", "n3")
    async with running(pipeline) as session:
        seen = session.events()
        os.kill(session.pids["n2"], signal.SIGKILL)
        await until(seen, events.NodeRestarting)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await take(session, 500)
        connections(session)
        await session.terminate()


@pytest.mark.parametrize("policy", ["latest", "drop_oldest"])
async def test_a_lossy_reader_reads_on_when_it_is_back(policy: PolicyName) -> None:
    pipeline = rm.Pipeline("p").add_node("n1", nodes.AsyncCount)
    pipeline.add_node(restarted(nodes.Echo, "n2"))
    pipeline.connect("n1", "n2", policy=policy)
    async with running(pipeline) as session:
        await take(session, 10)
        seen = session.events()
        os.kill(session.pids["n2"], signal.SIGKILL)
        await until(seen, events.NodeReady)
        received = connections(session)["n1.out -> n2.in"].received
        async with asyncio.timeout(PATIENCE_SECONDS):
            while connections(session)["n1.out -> n2.in"].received < received + 50:
                await session.recv()
        assert connections(session)["n1.out -> n2.in"].dropped["lost"] > 0
        await session.terminate()


async def test_a_connection_that_was_made_while_it_ran_is_there_in_its_next_process() -> None:
    pipeline = rm.Pipeline("p").add_node("a", nodes.Echo).add_node(restarted(nodes.Suffix, "b"))
    async with running(pipeline) as session:
        await session.connect(rm.Connection("a", "out", "b", "in"))
        assert sorted(await texts(session, "x", "a")) == ["x", "x!"]
        seen = session.events()
        os.kill(session.pids["b"], signal.SIGKILL)
        await until(seen, events.NodeRestarting)
        with pytest.raises(rm.ExecutorError, match="being restarted"):
            await session.connect(rm.Connection("b", "out", "a", "in", "latest"))
        await until(seen, events.NodeReady)
        assert sorted(await texts(session, "y", "a")) == ["y", "y!"]


# The limit


async def test_one_crash_too_many_ends_the_session() -> None:
    restart = Restart("on_failure", 2, 60.0, (0.01, 0.01))
    async with running(nodes.Echo, restarted(nodes.Fragile, "n2", restart)) as session:
        for _ in range(2):
            await crash(session)
        cause = await cause_of(texts(session, "!SIGKILL"))
        assert isinstance(cause, rm.ProcessCrashed)
        assert (cause.node_id, cause.code, cause.restarts) == ("n2", -signal.SIGKILL, 2)
        assert "(it had been restarted 2 times)" in str(cause)


async def test_a_restart_that_fails_is_a_crash(tmp_path: Path) -> None:
    restart = Restart("on_failure", 3, 60.0, (0.01, 0.02))
    node = restarted(broken.StartsOnce, "n1", restart, path=str(tmp_path / "mark"), how="raise")
    async with running(node) as session:
        seen = session.events()
        cause = await cause_of(texts(session, "!SIGKILL"))
        assert isinstance(cause, rm.ProcessCrashed)
        assert (cause.restarts, cause.cause) == (
            3,
            "failed in initialize: ValueError: broken on purpose",
        )
        told = [one async for one in seen if isinstance(one, events.NodeRestarting)]
        assert [one.attempt for one in told] == [1, 2, 3]
        assert [one.delay_seconds for one in told] == [0.01, 0.02, 0.02]


async def test_a_restart_may_fail_and_the_next_succeed(tmp_path: Path) -> None:
    until_there = tmp_path / "until"
    node = restarted(
        *(broken.StartsOnce, "n1"),
        path=str(tmp_path / "mark"),
        how="segfault",
        until=str(until_there),
    )
    async with running(node) as session:
        seen = session.events()
        await session.send(rm.Text("!SIGKILL"))
        await until(seen, events.NodeRestarting)
        await until(seen, events.NodeRestarting)
        until_there.touch()
        await until(seen, events.NodeReady)
        assert await texts(session, "a") == ["a"]
        assert session.restarts["n1"] >= 2


async def test_a_restart_that_takes_too_long_is_a_crash(tmp_path: Path) -> None:
    restart = Restart("on_failure", 1, 60.0, (0.01, 0.02))
    node = restarted(broken.StartsOnce, "n1", restart, path=str(tmp_path / "mark"), how="hang")
    async with running(node, init_timeout_secs=2.0) as session:
        cause = await cause_of(texts(session, "!SIGKILL"))
        assert isinstance(cause, rm.InitTimeout)


async def test_a_node_that_is_not_to_be_restarted_ends_the_session_at_once() -> None:
    async with running(restarted(nodes.Echo, "n1"), nodes.Fragile) as session:
        cause = await cause_of(texts(session, "!exit"))
        assert isinstance(cause, rm.ProcessCrashed)
        assert (cause.node_id, cause.restarts) == ("n2", 0)
        named = f"node 'n2' of session {cause.session_id!r}"
        assert str(cause).startswith(f"{named}: exit code 3, while processing")


async def test_a_node_that_does_not_start_with_its_session_is_not_restarted() -> None:
    with pytest.raises(rm.ProcessCrashed, match="no such model"):
        async with running(restarted(nodes.BadStart)):
            pytest.fail("it started")


async def test_a_node_that_has_finished_is_not_restarted() -> None:
    source = restarted(nodes.Count, end=3)
    async with running(source, nodes.Echo) as session:
        # To the end: with its last message alone, it has not finished yet.
        assert [value_of(output) async for output in session.outputs()] == [0, 1, 2]
        os.kill(session.pids["n1"], signal.SIGKILL)
        cause = await cause_of(session.wait_ended())
        assert isinstance(cause, rm.ProcessCrashed)


async def test_a_session_whose_spawner_is_killed_ends_in_spite_of_all_restarts() -> None:
    restart = Restart("on_failure", 2, 60.0, (0.01, 0.01))
    async with rm.Runtime() as runtime:
        session = await runtime.create_session("s", chain(restarted(nodes.Echo, "n1", restart)))
        manager = runtime._executors["python"]._manager  # type: ignore[attr-defined]
        os.kill(manager.spawner_pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_SECONDS):
            cause = await cause_of(session.recv())
        assert isinstance(cause, rm.ProcessCrashed | rm.SpawnError)


def test_crashes_count_for_as_long_as_the_window_says() -> None:
    attempts = Attempts(Restart("on_failure", 2, 10.0, (0.5, 0.8)))
    assert attempts.next(100.0) == (1, 0.5)
    assert attempts.next(105.0) == (2, 0.8)
    assert attempts.next(109.0) is None
    assert attempts.next(111.0) == (2, 0.8)
    assert attempts.next(200.0) == (1, 0.5)
    assert Attempts(Restart("never")).next(0.0) is None


def test_a_pause_doubles_up_to_the_longest() -> None:
    attempts = Attempts(Restart("on_failure", 2000, 1e9, (0.1, 5.0)))
    pauses = [pause for _, pause in (attempts.next(0.0) or (0, 0.0) for _ in range(1500))]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert set(pauses[6:]) == {5.0}


# Ends


@pytest.mark.parametrize("end", ["close", "terminate"])
async def test_an_end_does_not_wait_for_the_pause(end: str) -> None:
    async with running(nodes.Echo, restarted(nodes.Echo, "n2", LATE), nodes.Echo) as session:
        seen = session.events()
        os.kill(session.pids["n2"], signal.SIGKILL)
        await until(seen, events.NodeRestarting)
        began = time.monotonic()
        await getattr(session, end)()
        assert time.monotonic() - began < END_SECONDS
        # Closing works off what was sent, so the node comes back for it, without the pause.
        assert session.restarts["n2"] == (1 if end == "close" else 0)
        assert {state.value for state in session.nodes.values()} == {"stopped"}


async def test_what_was_sent_while_it_was_away_is_worked_off_by_close() -> None:
    async with running(nodes.Echo, restarted(nodes.Echo, "n2", LATE)) as session:
        assert await texts(session, "a") == ["a"]
        seen = session.events()
        os.kill(session.pids["n2"], signal.SIGKILL)
        await until(seen, events.NodeRestarting)
        await wait_until(lambda: session.nodes["n1"].value == "ready")
        await session.send(rm.Text("b"))
        receiving = asyncio.create_task(session.recv())
        await session.close()
        with suppress(rm.EndOfStream):  # sent before its neighbour knew
            assert text_of(await receiving) == "b"


@pytest.mark.parametrize("how", ["hang", "raise"])
async def test_terminate_ends_a_node_that_is_starting_again(tmp_path: Path, how: str) -> None:
    node = restarted(broken.StartsOnce, path=str(tmp_path / "mark"), how=how)
    async with running(node, grace_period_seconds=0.3) as session:
        seen = session.events()
        await session.send(rm.Text("!SIGKILL"))
        await until(seen, events.ProcessStarted)
        async with asyncio.timeout(END_SECONDS):
            await session.terminate()


async def test_close_waits_for_a_node_that_is_starting_again_as_for_one_that_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = restarted(broken.StartsOnce, path=str(tmp_path / "mark"), how="hang")
    async with running(node, grace_period_seconds=0.3, drain_timeout_seconds=0.5) as session:
        seen = session.events()
        await session.send(rm.Text("!SIGKILL"))
        await until(seen, events.ProcessStarted)
        async with asyncio.timeout(END_SECONDS):
            await session.close()
        assert "was not worked off after drain_timeout_seconds (0.5 s)" in caplog.text


async def test_a_source_that_is_away_ends_with_the_others() -> None:
    async with running(restarted(nodes.Count, "n1", LATE, seconds=0.001), nodes.Echo) as session:
        seen = session.events()
        os.kill(session.pids["n1"], signal.SIGKILL)
        await until(seen, events.NodeRestarting)
        async with asyncio.timeout(END_SECONDS):
            await session.close()


@pytest.mark.parametrize("how", ["SIGKILL", "raise", "exit0"])
async def test_a_source_that_crashes_when_it_is_to_end_comes_back_and_ends(
    tmp_path: Path, how: str
) -> None:
    source = restarted(broken.EndsBadly, "n1", LATE, path=str(tmp_path / "mark"), how=how)
    async with running(source, nodes.Echo, drain_timeout_seconds=60.0) as session:
        await session.recv()
        collecting = asyncio.create_task(_values_of(session))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await session.close()
            assert (await collecting)[-1] == "finished"
        assert session.restarts == {"n1": 1, "n2": 0}
        assert {state.value for state in session.nodes.values()} == {"stopped"}


async def _values_of(session: rm.Session) -> list[object]:
    return [value_of(output) async for output in session.outputs()]


async def test_a_node_that_crashes_while_it_closes_comes_back_to_work_off_what_was_sent() -> None:
    async with running(restarted(nodes.Fragile, "n1", LATE)) as session:
        collecting = asyncio.create_task(_texts_of(session))
        for text in ("a", "!SIGKILL", "b"):
            await session.send(rm.Text(text))
        began = time.monotonic()
        await session.close()
        assert time.monotonic() - began < END_SECONDS
        assert session.restarts == {"n1": 1}
        assert (await collecting)[0] == "a"  # what waited in its queue may be lost with it


async def _texts_of(session: rm.Session) -> list[str]:
    return [text_of(output) async for output in session.outputs()]


async def test_a_crash_while_it_closes_is_the_end_where_the_node_does_not_come_back(
    tmp_path: Path,
) -> None:
    restart = rm.Restart("on_failure", max_restarts=1)
    config = {"path": str(tmp_path / "mark"), "how": "raise"}
    node = rm.NodeConfig(broken.StartsOnce, "n1", config=config, restart=restart)
    async with rm.Runtime() as runtime:
        session = await runtime.create_session("s", chain(node))
        await session.send(rm.Text("!SIGKILL"))
        with pytest.raises(rm.PipelineTerminated) as caught:
            await session.close()
        assert isinstance(caught.value.__cause__, rm.ProcessCrashed)


@pytest.mark.parametrize(
    "moment",
    [
        "at once",
        events.ProcessExited,
        events.NodeRestarting,
        events.ProcessStarted,
        events.NodeProgress,
        events.NodeReady,
    ],
)
async def test_a_session_may_be_terminated_at_any_moment_of_a_restart(
    moment: str | type[events.Event],
) -> None:
    async with running(nodes.Echo, restarted(nodes.Echo, "n2"), nodes.Echo) as session:
        seen = session.events()
        os.kill(session.pids["n2"], signal.SIGKILL)
        if not isinstance(moment, str):
            await until(seen, moment)
        async with asyncio.timeout(END_SECONDS):
            await session.terminate()


async def test_another_crash_ends_a_session_whose_node_is_away() -> None:
    async with running(restarted(nodes.Echo, "n1", LATE), nodes.Echo) as session:
        seen = session.events()
        waiting = asyncio.create_task(cause_of(session.recv()))
        os.kill(session.pids["n1"], signal.SIGKILL)
        await until(seen, events.NodeRestarting)
        os.kill(session.pids["n2"], signal.SIGKILL)
        cause = await waiting
        assert isinstance(cause, rm.ProcessCrashed)
        assert cause.node_id == "n2"


async def test_a_thread_is_not_restarted(caplog: pytest.LogCaptureFixture) -> None:
    async with running(restarted(nodes.Fragile), executor="inline") as session:
        assert "ignores restart of node 'n1'" in caplog.text
        cause = await cause_of(texts(session, "!raise"))
        assert isinstance(cause, rm.ProcessCrashed)
        assert cause.restarts == 0


# At any moment


@long_form
@repeated(10, short=1)
async def test_every_stream_ends_whenever_nodes_are_killed(round_: int) -> None:
    moments = random.Random(round_)
    restart = Restart("on_failure", 1000, 60.0, (0.001, 0.01))
    types = [restarted(nodes.Busy, f"n{n}", restart) for n in (1, 2, 3)]
    kills, done, lost = 0, 0, 0
    async with running(*types, channel_capacity=4) as session:
        is_over = asyncio.Event()

        async def streams(name: int) -> None:
            nonlocal done, lost
            count = 0
            while not is_over.is_set():
                count += 1
                text = f"{name} {count}"
                try:
                    assert await texts(session, text) == [text]
                    done += 1
                except rm.NodeFailed:
                    lost += 1

        tasks = [asyncio.create_task(streams(name)) for name in range(6)]
        while kills < 20:
            await asyncio.sleep(moments.uniform(0.0, 0.2))  # any moment is as good as another
            seen = session.events()
            node_id = moments.choice(sorted(session.pids))
            os.kill(session.pids[node_id], signal.SIGKILL)
            kills += 1
            heard = await until(seen, events.NodeRestarting)
            assert heard
            if moments.random() < 0.7:
                await until(seen, events.NodeReady)
        is_over.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*tasks)
        assert done
        assert lost
        assert sum(session.restarts.values()) >= 20
        for one in connections(session).values():
            assert (one.queued, one.held) == (0, 0), one


# Connections that are made while nodes crash.


def apart(*node_ids: str) -> rm.Pipeline:
    pipeline = rm.Pipeline("apart")
    for node_id in node_ids:
        pipeline.add_node(restarted(nodes.Echo, node_id))
    return pipeline


@pytest.mark.parametrize("victim", ["n1", "n2"])
async def test_a_crash_while_nodes_are_connected_ends_the_session(victim: str) -> None:
    pipeline = apart("n1", "n2")
    async with asyncio.timeout(END_SECONDS), rm.Runtime() as runtime:
        session = await runtime.create_session("s", pipeline)
        os.kill(session.pids[victim], signal.SIGSTOP)
        joining = asyncio.create_task(session.connect(rm.Connection("n1", "out", "n2", "in")))
        await wait_until(lambda: session._supervisor.restarting._suspensions == 1)
        os.kill(session.pids[victim], signal.SIGKILL)
        with pytest.raises(rm.ExecutorError):
            await joining
        assert isinstance(await cause_of(session.recv()), rm.ProcessCrashed)


async def test_nothing_is_connected_while_a_node_is_away() -> None:
    pipeline = apart("n1", "n2", "n3")
    async with asyncio.timeout(END_SECONDS), rm.Runtime() as runtime:
        session = await runtime.create_session("s", pipeline)
        seen = session.events()
        os.kill(session.pids["n3"], signal.SIGKILL)
        await until(seen, events.NodeRestarting)
        connection = rm.Connection("n1", "out", "n2", "in")
        with pytest.raises(rm.ExecutorError, match="node 'n3' is being restarted"):
            await session.connect(connection)
        await until(seen, events.NodeReady)
        await session.connect(connection)  # nothing was planned by the first
        assert await texts(session, "a", "n1") == ["a", "a"]
