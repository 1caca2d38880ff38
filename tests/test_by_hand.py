"""Graphs that are built by hand while they run."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator  # noqa: TC003 (annotations of nodes are read)
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from remotemedia import (
    Binary,
    ChannelClosed,
    ExecutorError,
    InlineExecutor,
    Json,
    MultiprocessExecutor,
    Node,
    NodeContext,
    NodeExecutor,
    Pipeline,
    PipelineError,
    PipelineTerminated,
    ResourceLimit,
    SharedMemoryExhausted,
    Text,
    input,  # noqa: A004
)
from remotemedia.core.multiprocess import control
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.config import MultiprocessConfig
from remotemedia.core.multiprocess.exits import ProcessExit
from remotemedia.core.multiprocess.launch import ProcessLauncher
from remotemedia.core.multiprocess.transport.memory import MemoryTransport
from remotemedia.nodes.text import Suffix, Upper
from tests.executor_helpers import is_dead, wait_until
from tests.executor_nodes import Echo, Quiet, QuietSync

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from pathlib import Path

    from remotemedia.core.multiprocess.executor import SessionExecutor
    from remotemedia.core.multiprocess.launch import Launcher
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan
    from remotemedia.core.multiprocess.session import Session
    from remotemedia.core.multiprocess.transport.base import Transport
    from remotemedia.core.multiprocess.transport.memory import MemoryReader
    from remotemedia.core.multiprocess.wiring import Wiring
    from remotemedia.core.validation import ValidatedNode

pytestmark = pytest.mark.anyio
FIRST = NodeContext(session_id="one", inputs=("in",))
LAST = NodeContext(session_id="one", config={"suffix": "!"}, outputs=("out",))
MIDDLE = NodeContext(session_id="one")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["python", "inline"])
async def executor(request: pytest.FixtureRequest) -> AsyncIterator[SessionExecutor]:
    config = MultiprocessConfig(max_processes_per_session=6)
    made = (MultiprocessExecutor if request.param == "python" else InlineExecutor)(config)
    async with made:
        yield made


class Late(Node):
    """Async."""

    async def process(self, text: Text) -> AsyncIterator[Text]:
        yield text


def ticks() -> Iterator[Text]:
    import time

    for number in range(1_000_000):
        yield Text(str(number))
        time.sleep(0.001)


async def ticks_async() -> AsyncIterator[Text]:
    for number in range(1_000_000):
        yield Text(str(number))
        await asyncio.sleep(0.001)


def tick() -> Text:
    return Text("once")


def number(value: Json) -> Json:
    return value


class Broken(Node):
    def initialize(self) -> None:
        raise RuntimeError("no model")

    def process(self, text: Text) -> Text:
        return text


async def test_a_graph_is_built_by_hand_and_works(executor: SessionExecutor) -> None:
    by_contract: NodeExecutor = executor
    first = await by_contract.execute_node(Upper, "upper", FIRST)
    last = await executor.execute_node(Suffix, "bang", LAST)
    assert (first.node_id, dict(first.channels)) == ("upper", {"out": "upper.out"})
    assert (first.process_id == last.process_id) is isinstance(executor, InlineExecutor)
    await executor.connect_nodes("upper", "out", "bang", "in")
    for _ in range(3):
        assert [out async for out in last.session.stream(Text("a"))] == [Text("A!")]
    await last.session.close()
    assert executor.sessions == {}


async def test_a_node_joins_while_messages_flow(executor: SessionExecutor) -> None:
    pipeline = Pipeline("p").add_node("upper", Upper)
    session = await executor.create_session("one", pipeline)
    seen: list[str] = []
    sent = 0

    async def feed() -> None:
        nonlocal sent
        while True:
            sent = await session.send(Text(f"m{sent}"))
            await asyncio.sleep(0)

    async def read() -> None:
        async for out in session.outputs():
            assert isinstance(out, Text)
            seen.append(out.text)

    feeding, reading = asyncio.create_task(feed()), asyncio.create_task(read())
    await executor.execute_node(Suffix, "bang", LAST)
    await executor.connect_nodes("upper", "out", "bang", "in")
    connected_at = sent
    while sent < connected_at + 50:
        await asyncio.sleep(0)
    feeding.cancel()
    await session.close()
    await reading
    plain = [one for one in seen if not one.endswith("!")]
    bangs = [one for one in seen if one.endswith("!")]
    assert plain == [f"M{index}" for index in range(len(plain))]
    assert len(plain) >= sent - 1
    first = int(bangs[0][1:-1])
    assert first <= connected_at + 1
    assert bangs == [f"M{index}!" for index in range(first, len(plain))]


@pytest.mark.parametrize("source", [ticks, ticks_async])
async def test_a_source_at_work_gets_one_more_reader(
    executor: SessionExecutor, source: object
) -> None:
    await executor.execute_node(source, "ticks", MIDDLE)  # type: ignore[arg-type]
    late = await executor.execute_node(
        Late, "late", NodeContext(session_id="one", outputs=("out",))
    )
    await executor.connect_nodes("ticks", "out", "late", "in")
    async with asyncio.timeout(10):
        first, second = await late.session.recv(), await late.session.recv()
    assert isinstance(first, Text)
    assert second == Text(str(int(first.text) + 1))
    await late.session.close()


async def test_a_chain_grows_at_its_end_and_by_a_second_reader(executor: SessionExecutor) -> None:
    await executor.execute_node(Upper, "a", FIRST)
    await executor.execute_node(Late, "b", MIDDLE)
    one = await executor.execute_node(Suffix, "c", LAST)
    await executor.connect_nodes("a", "out", "b", "in")
    await executor.connect_nodes("b", "out", "c", "in")
    assert [out async for out in one.session.stream(Text("x"))] == [Text("X!")]
    two = NodeContext(session_id="one", config={"suffix": "?"}, outputs=("out",))
    await executor.execute_node(Suffix, "d", two)
    await executor.connect_nodes("b", "out", "d", "in", policy="drop_oldest", capacity=4)
    outs = [out async for out in one.session.stream(Text("x"))]
    assert sorted(out.text for out in outs if isinstance(out, Text)) == ["X!", "X?"]
    await one.session.close()


async def test_nodes_without_connections_do_not_hold_up_the_others(
    executor: SessionExecutor,
) -> None:
    one = await executor.execute_node(
        Upper, "a", NodeContext(session_id="one", inputs=("in",), outputs=("out",))
    )
    await executor.execute_node(Suffix, "alone", LAST)
    assert [out async for out in one.session.stream(Text("x"))] == [Text("X")]
    async with asyncio.timeout(5):
        await one.session.close()


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        (("upper", "out", "number", "in"), "sends Text, and number.in takes Json"),
        (("upper", "outt", "bang", "in"), "did you mean 'out'"),
        (("bang", "out", "upper", "in"), "every connection of it blocks"),
        (("upper", "out", "bang", "in"), "it is there twice"),
    ],
)
async def test_a_connection_that_does_not_fit_is_refused_and_harms_nothing(
    ends: tuple[str, str, str, str], text: str
) -> None:
    async with InlineExecutor() as executor:
        await executor.execute_node(Upper, "upper", FIRST)
        last = await executor.execute_node(Suffix, "bang", LAST)
        await executor.execute_node(number, "number", MIDDLE)
        await executor.connect_nodes("upper", "out", "bang", "in")
        with pytest.raises(PipelineError, match=text):
            await executor.connect_nodes(*ends)
        assert [out async for out in last.session.stream(Text("a"))] == [Text("A!")]


class Growing(Node):
    """Sends texts around a cycle, longer each time, until they are long enough."""

    def process(self, text: Text) -> Text | None:
        return Text(text.text + "!") if len(text.text) < 4 else None


async def test_a_connection_that_would_make_feedback_of_one_at_work_is_refused_and_harms_nothing(
    executor: SessionExecutor,
) -> None:
    await executor.execute_node(Growing, "a", FIRST)
    session = (await executor.execute_node(Growing, "b", MIDDLE)).session
    await executor.connect_nodes("a", "out", "b", "in", policy="drop_oldest")
    refused = r"connection b\.out -> a\.in: .*feedback of a\.out -> b\.in.*connect it before a\.out"
    with pytest.raises(PipelineError, match=refused):
        await executor.connect_nodes("b", "out", "a", "in", policy="block")
    # As it was advised to.
    await executor.connect_nodes("b", "out", "a", "in", policy="drop_oldest")
    async with asyncio.timeout(10):
        assert [out async for out in session.stream(Text("x"))] == []
        await session.close()


async def test_nodes_that_are_wrong_are_refused_before_anything_starts() -> None:
    async with InlineExecutor(MultiprocessConfig(max_processes_per_session=1)) as executor:
        with pytest.raises(PipelineError, match=r"missing parameter"):
            await executor.execute_node(Suffix, "bang", MIDDLE)
        with pytest.raises(PipelineError, match=r"no output 'uot' .*'out'"):
            await executor.execute_node(
                Upper, "upper", NodeContext(session_id="one", outputs=("uot",))
            )
        assert executor.sessions == {}
        await executor.execute_node(Upper, "upper", FIRST)
        with pytest.raises(ResourceLimit):
            await executor.execute_node(Upper, "other", MIDDLE)
        with pytest.raises(ExecutorError, match="no session has the nodes 'upper' and 'bang'"):
            await executor.connect_nodes("upper", "out", "bang", "in")


async def test_what_has_finished_is_connected_to_nothing_more(executor: SessionExecutor) -> None:
    once = await executor.execute_node(
        tick, "tick", NodeContext(session_id="one", outputs=("out",))
    )
    await executor.execute_node(Late, "late", MIDDLE)
    assert [out async for out in once.session.outputs()] == [Text("once")]
    with pytest.raises(ExecutorError, match="node 'tick' of session 'one' has finished"):
        await executor.connect_nodes("tick", "out", "late", "in")


async def test_what_no_input_reaches_does_not_hold_up_a_stream(executor: SessionExecutor) -> None:
    pipeline = Pipeline("p").add_node("upper", Upper).add_node("ticks", ticks)
    session = await executor.create_session("one", pipeline)
    async with asyncio.timeout(10):
        assert [out async for out in session.stream(Text("a"))] == [Text("A")]
        await session.terminate()


async def test_inputs_that_come_to_a_part_that_a_source_fed_are_waited_for(
    executor: SessionExecutor,
) -> None:
    alone = NodeContext(session_id="one", inputs=("b",), outputs=("out",))
    await executor.execute_node(ticks, "ticks", MIDDLE)
    await executor.execute_node(Both, "relay", MIDDLE)
    last = await executor.execute_node(Both, "last", alone)
    await executor.connect_nodes("ticks", "out", "relay", "a", policy="latest")
    await executor.connect_nodes("relay", "out", "last", "a")
    session = last.session
    reading = asyncio.create_task(read_all(session))  # what comes of no input
    async with asyncio.timeout(10):
        assert "x" in [text async for text in streamed(session, "x", "last.b")]
        await executor.execute_node(Late, "first", FIRST)
        await executor.connect_nodes("first", "out", "relay", "b")
        for index in range(20):
            text = f"x{index}"
            assert [one async for one in streamed(session, text, "first")] == [text]
            assert [one async for one in streamed(session, text, "last.b")] == [text]
        await session.terminate()
    await reading


async def read_all(session: Session) -> None:
    async for _ in session.outputs():
        continue


async def streamed(session: Session, text: str, to: str) -> AsyncIterator[str]:
    async for out in session.stream(Text(text), to):
        assert isinstance(out, Text)
        yield out.text


async def test_a_connection_that_comes_later_refuses_what_its_input_does_not_take(
    executor: SessionExecutor,
) -> None:
    await executor.execute_node(Echo, "echo", FIRST)
    last = await executor.execute_node(Suffix, "bang", LAST)
    await executor.connect_nodes("echo", "out", "bang", "in")
    assert [out async for out in last.session.stream(Text("a"))] == [Text("a!")]
    await last.session.send(Json(1))
    with pytest.raises(PipelineTerminated) as caught:
        await last.session.recv()
    assert "echo.out -> bang.in brought a Json, and input 'in' takes Text" in str(
        caught.value.__cause__
    )


class Both(Node):
    """Two inputs that leave as they came."""

    @input
    def on_a(self, text: Text) -> Text:
        return text

    @input
    def on_b(self, text: Text) -> Text:
        return text


async def test_what_is_added_to_a_pipeline_that_has_finished_is_heard(
    executor: SessionExecutor,
) -> None:
    out = NodeContext(session_id="one", outputs=("out",))
    source = await executor.execute_node(Single, "once", out)
    assert [out async for out in source.session.outputs()] == [Text("once")]
    both = NodeContext(session_id="one", inputs=("in",), outputs=("out",))
    upper = await executor.execute_node(Upper, "upper", both)
    async with asyncio.timeout(10):
        assert [out async for out in upper.session.stream(Text("a"))] == [Text("A")]
        await upper.session.send(Text("b"))
        assert await upper.session.recv() == Text("B")


async def test_a_process_of_an_added_node_that_cannot_be_started_ends_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> None:
        raise OSError(109, "Too many references: cannot splice")

    async with MultiprocessExecutor() as executor:
        first = await executor.execute_node(Upper, "upper", FIRST)
        (pid,) = first.session.pids.values()
        monkeypatch.setattr(ProcessLauncher, "launch", fail)
        with pytest.raises(PipelineTerminated, match=r"'bang' could not be started.*references"):
            await executor.execute_node(Suffix, "bang", LAST)
        await wait_until(lambda: not executor.sessions)
        assert is_dead(pid)


async def test_a_failed_start_ends_the_session_also_where_tasks_begin_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if sys.version_info < (3, 12):
        pytest.skip("tasks begin in their turn before Python 3.12")
    loop = asyncio.get_running_loop()
    faults: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, fault: faults.append(fault))
    loop.set_task_factory(asyncio.eager_task_factory)

    async def fail(*_: object) -> None:
        await asyncio.sleep(0)
        raise OSError(109, "Too many references: cannot splice")

    try:
        async with MultiprocessExecutor() as executor:
            first = await executor.execute_node(Upper, "upper", FIRST)
            monkeypatch.setattr(ProcessLauncher, "launch", fail)
            with pytest.raises(PipelineTerminated, match="'bang' could not be started"):
                await executor.execute_node(Suffix, "bang", LAST)
            with pytest.raises(PipelineTerminated):
                await first.session.wait_ended()
    finally:
        loop.set_task_factory(None)
        loop.set_exception_handler(None)
    assert not faults


class Stub:
    """A node that runs nowhere."""

    stderr_tail = ""

    def __init__(self, end: socket.socket) -> None:
        self.pid = os.getpid()
        self._end = end
        self._exited = asyncio.get_running_loop().create_future()

    def signal(self, number: int) -> None:
        return

    async def wait(self) -> ProcessExit:
        return await asyncio.shield(self._exited)

    def exit(self) -> None:
        self._end.close()
        if not self._exited.done():
            self._exited.set_result(ProcessExit(0, time.monotonic()))


class HastyLauncher:
    """Its nodes are ready before it says that they run."""

    async def launch(self, node: ValidatedNode, wiring: Wiring, end: socket.socket) -> Stub:
        control.send(end, control.Ready())
        for _ in range(10):
            await asyncio.sleep(0)
        return Stub(end)

    async def end(self, launched: Iterable[Stub], grace_seconds: float) -> None:
        for one in launched:
            one.exit()


class HastyExecutor(InlineExecutor):
    def _parts(self) -> tuple[Transport, Launcher]:
        return MemoryTransport(), HastyLauncher()  # type: ignore[return-value]


async def test_a_node_that_is_ready_before_its_process_is_known_has_it_when_it_is_handed_over() -> (
    None
):
    async with HastyExecutor(MultiprocessConfig(grace_period_seconds=0.0)) as executor:
        handle = await executor.execute_node(Upper, "upper", FIRST)
        assert handle.process_id == handle.session.pids["upper"] == os.getpid()


class ScriptedLauncher(HastyLauncher):
    """Its nodes say what a test has them say.

    Attributes:
        ends: the runner's end of each node's control connection.
    """

    def __init__(self) -> None:
        self.ends: dict[str, socket.socket] = {}

    async def launch(self, node: ValidatedNode, wiring: Wiring, end: socket.socket) -> Stub:
        self.ends[node.node_id] = end
        return await super().launch(node, wiring, end)


class ScriptedExecutor(InlineExecutor):
    def __init__(self, config: MultiprocessConfig) -> None:
        super().__init__(config)
        self.launcher = ScriptedLauncher()

    def _parts(self) -> tuple[Transport, Launcher]:
        return MemoryTransport(), self.launcher  # type: ignore[return-value]


async def test_a_node_that_has_finished_may_still_say_that_it_is_connected() -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    executor = ScriptedExecutor(MultiprocessConfig(grace_period_seconds=0.0))
    async with executor:
        for name in ("one", "two"):
            handle = await executor.execute_node(Upper, name, MIDDLE)
        connecting = asyncio.create_task(executor.connect_nodes("one", "out", "two", "in"))
        end = executor.launcher.ends["two"]
        await asyncio.to_thread(wait_command, end, control.Join)
        for said in (control.Drained(), control.Connected("one.out -> two.in")):
            control.send(end, said)
        with pytest.raises(ExecutorError, match=r"'two' .* has finished"):
            await connecting
        assert handle.session.state.value == "ready"
    assert errors == []


def wait_command(end: socket.socket, kind: type[control.ToRunner]) -> None:
    """Hear what a runner is told, up to a command of this kind."""
    end.settimeout(10)
    while True:
        frame, fds = control.receive(end)
        for fd in fds:
            os.close(fd)
        if isinstance(control.decode_to_runner(frame), kind):
            return


async def test_an_async_source_takes_a_connection_while_it_waits(
    executor: SessionExecutor,
) -> None:
    out = NodeContext(session_id="one", outputs=("out",))
    source = await executor.execute_node(Quiet, "quiet", out)
    await executor.execute_node(Keep, "keep", MIDDLE)
    assert await source.session.recv() == Json(0)
    async with asyncio.timeout(10):
        await executor.connect_nodes("quiet", "out", "keep", "in")


async def test_a_source_that_takes_no_connection_holds_up_no_other() -> None:
    async with MultiprocessExecutor(MultiprocessConfig(init_timeout_secs=5.0)) as executor:
        source = await executor.execute_node(QuietSync, "quiet", MIDDLE)
        for name in ("a", "b"):
            await executor.execute_node(Keep, name, MIDDLE)
        await executor.execute_node(Single, "single", MIDDLE)
        with pytest.raises(ExecutorError, match=r"quiet.out -> a.in .* not connected in 5 s: a n"):
            await executor.connect_nodes("quiet", "out", "a", "in")
        assert source.session.state.value == "ready"
        await source.session.kill()


class Poor(Node):
    """Leaves its process room for so many more descriptors, and awaits what never comes."""

    def __init__(self, *, room: int) -> None:
        self.room = room

    async def process(self, text: Text) -> AsyncIterator[Text]:
        import resource

        free = os.dup(2)  # the lowest number that is
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + self.room, free + self.room))
        yield text
        await asyncio.Event().wait()


@pytest.mark.parametrize("room", [0, 1])
async def test_an_async_node_without_descriptors_for_a_connection_says_so_at_once(
    room: int,
) -> None:
    config = MultiprocessConfig(init_timeout_secs=60.0, grace_period_seconds=0.5)
    async with MultiprocessExecutor(config) as executor:
        poor = NodeContext(
            session_id="one", config={"room": room}, inputs=("in",), outputs=("out",)
        )
        await executor.execute_node(Upper, "upper", FIRST)
        session = (await executor.execute_node(Poor, "poor", poor)).session
        await session.send(Text("a"), "poor")
        assert await session.recv() == Text("a")
        async with asyncio.timeout(20):
            with pytest.raises(ExecutorError, match=r"at node 'poor'.*file descriptors"):
                await executor.connect_nodes("upper", "out", "poor", "in")
        assert session.state.value == "running"
        await session.kill()


class Refusing(MemoryTransport):
    """Opens no reader of some connections, as if memory did not suffice."""

    def open_reader(self, port: PortPlan, connection: ConnectionPlan) -> MemoryReader:
        if connection.name == "upper.out -> busy.in":
            raise SharedMemoryExhausted("opening a reader", 8, 4, "/dev/shm")
        return super().open_reader(port, connection)


class RefusingExecutor(InlineExecutor):
    def _parts(self) -> tuple[Transport, Launcher]:
        return Refusing(), super()._parts()[1]


class Busy(Node):
    """Goes on with its first message for as long as its outputs are wanted."""

    def process(self, text: Text) -> Iterator[Text]:
        while True:
            yield text


class BusyAsync(Node):
    async def process(self, text: Text) -> AsyncIterator[Text]:
        while True:
            yield text


@pytest.mark.parametrize("kind", [Busy, BusyAsync])
async def test_a_connection_that_fails_in_a_handler_fails_no_message_and_no_other_connection(
    kind: type[Node],
) -> None:
    config = MultiprocessConfig(init_timeout_secs=60.0, grace_period_seconds=0.5)
    async with RefusingExecutor(config) as executor:
        await executor.execute_node(Upper, "upper", FIRST)
        await executor.execute_node(Late, "late", MIDDLE)
        both = NodeContext(session_id="one", inputs=("in",), outputs=("out",))
        session = (await executor.execute_node(kind, "busy", both)).session
        await session.send(Text("a"), "busy")
        assert await session.recv() == Text("a")
        async with asyncio.timeout(20):
            refused = asyncio.create_task(executor.connect_nodes("upper", "out", "busy", "in"))
            made = asyncio.create_task(executor.connect_nodes("late", "out", "busy", "in"))
            while not (refused.done() and made.done()):
                assert await session.recv() == Text("a")  # it goes on
        with pytest.raises(ExecutorError, match=r"at node 'busy': .*SharedMemoryExhausted"):
            await refused
        await made
        assert session.state.value == "running"
        await session.kill()


class Keep(Node):
    """Takes all and sends nothing."""

    def process(self, number: Json) -> None:
        return


class Single(Node):
    """A source that ends."""

    def process(self) -> Iterator[Text]:
        yield Text("once")


async def test_an_id_is_taken_once(executor: SessionExecutor) -> None:
    await executor.execute_node(Upper, "upper", FIRST)
    with pytest.raises(ExecutorError, match="has a node 'upper' already"):
        await executor.execute_node(Upper, "upper", MIDDLE)


async def test_a_node_that_cannot_start_ends_the_session_and_says_why(
    executor: SessionExecutor,
) -> None:
    await executor.execute_node(Upper, "upper", FIRST)
    with pytest.raises(PipelineTerminated, match="no model"):
        await executor.execute_node(Broken, "broken", MIDDLE)


class Slow(Node):
    """Loads until it is told, or for ever."""

    def __init__(self, gate: str = "") -> None:
        self.gate = gate

    async def initialize(self) -> None:
        if self.gate:
            reading = await asyncio.to_thread(
                open, self.gate, "rb", 0
            )  # a pipe: until it is opened
            reading.close()
        else:
            await asyncio.Event().wait()

    async def process(self, text: Text) -> Text:
        return text


async def test_nodes_that_are_added_at_once_do_not_wait_for_each_other(
    executor: SessionExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await executor.execute_node(Upper, "upper", FIRST)
    slow = NodeContext(session_id="one", config={"gate": str(gate)})
    loading = asyncio.create_task(executor.execute_node(Slow, "slow", slow))
    await executor.execute_node(Suffix, "bang", LAST)
    assert not loading.done()
    gate.open("wb").close()
    assert (await loading).node_id == "slow"


class SlowToBegin(InlineExecutor):
    """Takes a while to get ready, as one does that starts a process for it, or cannot."""

    begun = 0
    is_broken = False

    async def _initialize(self) -> None:
        self.begun += 1
        for _ in range(4):
            await asyncio.sleep(0)
        if self.is_broken:
            raise ExecutorError("it is broken")


@pytest.mark.parametrize("kind", [MultiprocessExecutor, SlowToBegin])
async def test_the_first_nodes_of_a_session_may_be_added_at_once(
    kind: type[SessionExecutor],
) -> None:
    executor = kind()
    try:
        first, last = await asyncio.gather(
            executor.execute_node(Upper, "upper", FIRST),
            executor.execute_node(Suffix, "bang", LAST),
        )
        assert first.session is last.session
        await executor.connect_nodes("upper", "out", "bang", "in")
        assert [out async for out in last.session.stream(Text("a"))] == [Text("A!")]
    finally:
        await executor.shutdown()


@pytest.mark.parametrize("turns", range(1, 5))
async def test_a_session_starts_for_its_second_node_though_the_first_is_cancelled(
    turns: int,
) -> None:
    executor = SlowToBegin()
    first = asyncio.create_task(executor.execute_node(Upper, "upper", FIRST))
    last = asyncio.create_task(executor.execute_node(Suffix, "bang", LAST))
    for _ in range(turns):
        await asyncio.sleep(0)
    first.cancel()
    assert (await last).session is executor.session("one")
    with pytest.raises(asyncio.CancelledError):
        await first
    assert executor.begun == 1
    await executor.shutdown()


async def test_a_session_that_cannot_start_is_one_error_for_all_who_add_nodes() -> None:
    executor = SlowToBegin()
    executor.is_broken = True
    adding = (executor.execute_node(Upper, name, MIDDLE) for name in ("a", "b"))
    results = await asyncio.gather(*adding, return_exceptions=True)
    assert [str(result) for result in results] == ["it is broken"] * 2
    assert executor.begun == 1
    executor.is_broken = False
    assert (await executor.execute_node(Upper, "a", MIDDLE)).node_id == "a"
    await executor.shutdown()


async def test_the_node_that_is_late_is_the_one_that_is_named() -> None:
    config = MultiprocessConfig(init_timeout_secs=2.0)
    async with MultiprocessExecutor(config) as executor:
        await executor.execute_node(Upper, "upper", FIRST)
        late = asyncio.create_task(executor.execute_node(Slow, "late", MIDDLE))
        await executor.execute_node(Suffix, "bang", LAST)
        with pytest.raises(PipelineTerminated, match="node 'late'"):
            await late


@pytest.mark.parametrize("end", ["terminate", "kill", "close"])
async def test_nothing_is_added_to_a_session_that_ends(executor: SessionExecutor, end: str) -> None:
    first = await executor.execute_node(Upper, "upper", FIRST)
    await executor.execute_node(Suffix, "bang", LAST)
    ending = asyncio.create_task(getattr(first.session, end)())
    await asyncio.sleep(0)
    with pytest.raises(ExecutorError, match="session 'one' is ending"):
        await executor.execute_node(Upper, "other", MIDDLE)
    with pytest.raises(ExecutorError, match="session 'one' is ending"):
        await executor.connect_nodes("upper", "out", "bang", "in")
    await ending
    assert executor.sessions == {}


@pytest.mark.parametrize("end", ["terminate", "kill", "close"])
async def test_an_end_takes_the_node_with_it_that_is_just_being_added(end: str) -> None:
    async with MultiprocessExecutor(MultiprocessConfig(drain_timeout_seconds=0.5)) as executor:
        first = await executor.execute_node(Upper, "upper", FIRST)
        for turns in range(4):
            adding = asyncio.create_task(executor.execute_node(Slow, f"slow{turns}", MIDDLE))
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns == 3:
                await wait_until(lambda: "slow3" in first.session.pids)
            else:
                adding.cancel()
                await asyncio.wait([adding])
        session = first.session
        await getattr(session, end)()
        with pytest.raises(ExecutorError, match="was ended meanwhile"):
            await adding
        assert session.state.value == "terminated"
        assert all(map(is_dead, session.pids.values()))


async def test_connections_that_are_made_at_once_are_all_made(executor: SessionExecutor) -> None:
    await executor.execute_node(Upper, "first", FIRST)
    await executor.execute_node(Late, "middle", MIDDLE)
    last = await executor.execute_node(Suffix, "last", LAST)
    # By the second, what comes by the first is of the session's inputs: both tell `last` of it.
    async with asyncio.timeout(10):
        await asyncio.gather(
            executor.connect_nodes("middle", "out", "last", "in"),
            executor.connect_nodes("first", "out", "middle", "in"),
        )
        for text in ("a", "b"):
            assert [one async for one in streamed(last.session, text, "first")] == [
                text.upper() + "!"
            ]


@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_whose_maker_is_cancelled_is_made_whole(
    executor: SessionExecutor, turns: int
) -> None:
    await executor.execute_node(Upper, "first", FIRST)
    last = await executor.execute_node(Suffix, "last", LAST)
    connecting = asyncio.create_task(executor.connect_nodes("first", "out", "last", "in"))
    for _ in range(turns):
        await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait([connecting])
    async with asyncio.timeout(10):
        if turns == 0:  # it had not begun
            await executor.connect_nodes("first", "out", "last", "in")
        else:
            await executor.execute_node(Late, "other", MIDDLE)
            # What is made next comes after it.
            await executor.connect_nodes("first", "out", "other", "in")
        assert [one async for one in streamed(last.session, "a", "first")] == ["A!"]


async def test_a_node_that_memory_lacks_for_ends_the_session_and_nothing_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MultiprocessExecutor() as executor:
        first = await executor.execute_node(Upper, "upper", FIRST)
        session = first.session
        # As if the process had no descriptors left, once half of the node is planned.
        with monkeypatch.context() as patch:
            patch.setattr(ChannelRegistry, "open", _no_more_descriptors)
            with pytest.raises(PipelineTerminated, match="no descriptors"):
                await executor.execute_node(Suffix, "bang", LAST)
        async with asyncio.timeout(10):
            with pytest.raises(PipelineTerminated):
                await session.wait_ended()
        assert executor.sessions == {}


def _no_more_descriptors(*_: object) -> None:
    raise ResourceLimit("no descriptors are left")


class BusyToTheEnd(Node):
    """Works on one message until its session ends, and takes no connection meanwhile."""

    begun = threading.Event()

    def process(self, _: Text) -> Binary | None:
        self.begun.set()
        with suppress(ChannelClosed):
            while True:
                with self.loan(Binary, nbytes=1):
                    """What is lent is sent from here, and waits for room."""
        return None


async def test_a_connection_that_meets_the_end_of_its_node_leaves_no_descriptor() -> None:
    async with InlineExecutor() as executor:
        await executor.execute_node(Upper, "upper", MIDDLE)
        context = NodeContext(session_id="one", inputs=("in",), outputs=("out",))
        busy = await executor.execute_node(BusyToTheEnd, "busy", context)
        await busy.session.send(Text("a"))
        assert await asyncio.to_thread(BusyToTheEnd.begun.wait, 10)
        connecting = asyncio.create_task(executor.connect_nodes("upper", "out", "busy", "in"))
        await wait_until(lambda: len(busy.session.stats()["upper.out"].connections) > 0)
        for _ in range(10):
            await asyncio.sleep(0)  # the node is told of it, and of its end after that
        await busy.session.terminate()
        with pytest.raises(ExecutorError):
            await connecting


async def test_the_same_node_ids_in_two_sessions_need_the_session_named() -> None:
    async with InlineExecutor() as executor:
        for name in ("one", "two"):
            context = NodeContext(session_id=name, inputs=("in",), outputs=("out",))
            await executor.execute_node(Upper, "a", context)
            await executor.execute_node(Upper, "b", context)
        with pytest.raises(ExecutorError, match="say which by session_id"):
            await executor.connect_nodes("a", "out", "b", "in")
        await executor.connect_nodes("a", "out", "b", "in", session_id="two")


async def test_settings_are_given_before_anything_runs() -> None:
    executor = InlineExecutor()
    config = MultiprocessConfig(max_processes_per_session=3)
    await executor.initialize(config)
    assert executor.config is config
    await executor.initialize(config)
    with pytest.raises(ExecutorError, match="other settings"):
        await executor.initialize(MultiprocessConfig())
    await executor.shutdown()
