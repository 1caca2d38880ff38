"""What a stranger reads who gives something wrong: which argument, and what to write instead."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

import remotemedia as rm
from remotemedia.core.parameters import NODE_OPTIONS
from tests import executor_nodes as nodes
from tests.executor_helpers import cause_of, chain, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio


class Shy:
    """A value that an error cannot show as it is."""

    def __repr__(self) -> str:
        raise RuntimeError("not even this")


GOOD = chain(nodes.Echo)
BAD: Any = None  # lets a call through that the types refuse


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def runtime() -> AsyncIterator[rm.Runtime]:
    async with rm.Runtime() as made:
        yield made


def any_(value: object) -> Any:
    """Give a value of the wrong type."""
    return value


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: rm.Pipeline().add_node(any_(nodes.Echo), "a"), "id and type are swapped: add_nod"),
        (lambda: rm.Pipeline().add_node(any_(3), nodes.Echo), "id of a node is 3; it must be a st"),
        (lambda: rm.NodeConfig("a", any_(nodes.Echo)), "id and type are swapped: NodeConfig"),
        (lambda: rm.Pipeline(any_(3)), "name of a pipeline is 3"),
        (lambda: rm.Pipeline(modules=any_("nodes.py")), r"modules=\('nodes.py',\)"),
        (lambda: rm.Pipeline().connect(any_(nodes.Echo), "a"), "takes the ids of nodes"),
        (lambda: rm.Pipeline().connect("a", any_(nodes.Echo)), "takes the ids of nodes"),
        (lambda: rm.Runtime(any_({"channel_capacity": 8})), "must be a MultiprocessConfig"),
        (lambda: rm.MultiprocessExecutor(any_(8)), "must be a MultiprocessConfig"),
        (lambda: rm.Runtime(any_(Shy())), r"config is a Shy that cannot .*; it must"),
        (lambda: rm.SyncRuntime(any_(8)), "must be a MultiprocessConfig"),
    ],
)
def test_wrong_arguments_are_said_where_they_are_given(
    make: Callable[[], object], text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        make()


@pytest.mark.parametrize(
    ("session_id", "pipeline", "text"),
    [
        (GOOD, "s", "the other way round"),
        ("s", "pipe.yaml", r"load_pipeline\('pipe.yaml'\)"),
        ("s", nodes.Echo, "is no pipeline; make one"),
        ("s", None, "None is no pipeline"),
    ],
)
async def test_what_is_no_pipeline_is_said_to_be_none(
    runtime: rm.Runtime, session_id: Any, pipeline: Any, text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        await runtime.create_session(session_id, pipeline)
    with pytest.raises(TypeError, match=text):
        async with runtime.session(pipeline, session_id):
            pass
    async with rm.InlineExecutor() as executor:
        with pytest.raises(TypeError, match=text):
            await executor.create_session(session_id, pipeline)
    with rm.SyncRuntime() as twin, pytest.raises(TypeError, match=text):
        twin.create_session(session_id, pipeline)


@pytest.mark.parametrize(
    ("to", "text"),
    [
        (rm.Text("a"), "message and input are swapped: send"),
        (3, "the input is 3; it must be a str"),
    ],
)
async def test_an_input_that_is_no_name_is_said_to_be_none(to: Any, text: str) -> None:
    async with running(nodes.Echo, executor="inline") as session:
        with pytest.raises(TypeError, match=text):
            await session.send(any_("n1"), to)
        with pytest.raises(TypeError, match=text):
            [output async for output in session.stream(any_("n1"), to)]
        assert session.stats()["n1.out"].sent == 0


async def test_a_message_that_was_not_awaited_is_said_to_be_none() -> None:
    async def made() -> rm.Text:
        return rm.Text("a")

    async with running(nodes.Echo, executor="inline") as session:
        text = made()
        with pytest.raises(rm.DataError, match="not coroutine; await it first"):
            await session.send(any_(text))
        await session.send(await text)


@pytest.mark.parametrize("value", [float("nan"), -1, "1", "", [], True, False], ids=repr)
async def test_a_timeout_that_is_no_time_is_refused(value: Any) -> None:
    async with running(nodes.Echo, executor="inline") as session:
        with pytest.raises((TypeError, ValueError), match=r"^timeout_seconds is .*seconds, or N"):
            await session.send(rm.Text(""), timeout_seconds=value)
    with (
        rm.SyncRuntime() as runtime,
        runtime.session(GOOD, executor="inline") as twin,
        pytest.raises((TypeError, ValueError), match=r"^timeout_seconds is"),
    ):
        twin.recv(timeout_seconds=value)


async def problem(runtime: rm.Runtime, pipeline: rm.Pipeline) -> str:
    with pytest.raises(rm.PipelineError) as caught:
        await runtime.create_session("s", pipeline)
    return str(caught.value)


async def test_an_unknown_node_type_says_what_was_meant_and_how_to_register(
    runtime: rm.Runtime,
) -> None:
    text = await problem(runtime, rm.Pipeline().add_node("a", "text.uper"))
    assert "(did you mean 'text.upper'?)" in text
    text = await problem(runtime, rm.Pipeline().add_node("a", "zzzzzzz"))
    assert "register it by @remotemedia.node('zzzzzzz'), or give the class" in text
    text = await problem(runtime, rm.Pipeline().add_node("text.upper", "a"))
    assert "id and type are swapped" in text
    text = await problem(
        runtime, rm.Pipeline().add_node(rm.NodeConfig(nodes.Echo, "a", config=any_(3)))
    )
    assert "its parameters are 3; they must be a dict" in text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"cpu_affinity": (4095,)}, "cpu_affinity"),
        ({"cpu_affinity": ()}, "cpu_affinity"),
        ({"memory_limit_bytes": 1 << 20}, "memory_limit_bytes is 1,048,576"),
        ({"memory_limit_bytes": 100 << 20}, "memory_limit_bytes is 104,857,600"),
        ({"working_directory": "/no/such/folder"}, "working_directory"),
        ({"python_executable": "/no/such/python"}, "python_executable"),
    ],
    ids=str,
)
async def test_an_option_that_keeps_a_node_from_starting_is_named(
    runtime: rm.Runtime, options: dict[str, Any], named: str
) -> None:
    with pytest.raises((rm.SpawnError, rm.ProcessCrashed), match=named):
        await runtime.create_session("s", chain(rm.NodeConfig(nodes.Echo, "n1", **options)))


class BadInit(rm.Node):
    def __init__(self) -> None:
        raise RuntimeError("not made")

    def process(self, text: rm.Text) -> rm.Text:
        return text


async def test_a_failure_reads_as_what_failed_where(runtime: rm.Runtime) -> None:
    for kind, when in ((BadInit, "__init__"), (nodes.BadStart, "initialize")):
        with pytest.raises(
            rm.ProcessCrashed, match=f"^node 'n1' of session 's' failed in {when}: "
        ):
            await runtime.create_session("s", chain(kind))
    session = await runtime.create_session("s", chain(nodes.Fragile))
    await session.send(rm.Text("!raise"))
    with pytest.raises(rm.PipelineTerminated) as caught:
        await session.recv()
    what = "node 'n1' failed in process: ValueError: broken on purpose, while processing "
    assert str(caught.value).startswith(f"session 's' was terminated: {what}")
    named = what.replace("'n1'", "'n1' of session 's'")
    assert str(caught.value.__cause__).startswith(named)
    finishing = rm.NodeConfig(nodes.Fragile, "n1", config={"when": "finish"})
    session = await runtime.create_session("f", chain(finishing))
    assert "failed in finish: ValueError" in str(await cause_of(session.close()))


def test_without_asyncio_it_says_what_is_needed() -> None:
    entering = rm.Runtime().__aenter__()
    with pytest.raises(rm.ExecutorError, match=r"asyncio\.run.*trio.*SyncRuntime"):
        entering.send(None)  # as another library would
    creating = rm.MultiprocessExecutor().create_session("s", GOOD)
    with pytest.raises(rm.ExecutorError, match="no asyncio event loop"):
        creating.send(None)


async def test_an_option_of_the_process_is_no_parameter(runtime: rm.Runtime) -> None:
    text = await problem(runtime, rm.Pipeline().add_node("a", "text.upper", executor="inline"))
    assert "executor is an option of NodeConfig, not a parameter of the node" in text
    options = {one.name for one in dataclasses.fields(rm.NodeConfig)}
    assert options - NODE_OPTIONS == {"node_type", "node_id", "config"}


def test_a_node_without_an_id_is_told_what_is_missing() -> None:
    with pytest.raises(TypeError, match=r'add_node\("echo", Echo\)'):
        rm.Pipeline().add_node(nodes.Echo)  # type: ignore[call-overload]
