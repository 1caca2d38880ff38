"""Nodes as users write them, and what is read from them without running any."""

from __future__ import annotations

import asyncio
import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
import numpy as np
import pytest

from remotemedia.core.describe import NodeType, describe
from remotemedia.core.hooks import misspelled_hooks
from remotemedia.core.node import Node
from remotemedia.core.pipeline import Pipeline
from remotemedia.core.ports import Addressed, Output, input  # noqa: A004
from remotemedia.core.reference import local_reference_to
from remotemedia.core.validation import validate
from remotemedia.data import Audio, Control, Json, Message, RuntimeData, Text, Video
from remotemedia.errors import NodeDefinitionError
from remotemedia.testing import run_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

T = TypeVar("T")


class Upper(Node):
    """Shout.

    More of it.
    """

    def process(self, text: Text) -> Text:
        return Text(text.text.upper())


class Duck(Node):
    music = Output(Audio, max_message_bytes=4096)
    level = Output(Json, capacity=1)

    @input
    def on_music(self, audio: Audio) -> Iterator[Addressed]:
        yield self.music(audio)

    @input("speech", capacity=8)
    async def on_voice(self, audio: Audio) -> None: ...


def kinds(node_type: NodeType) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    return (
        {port.name: port.kinds for port in node_type.inputs},
        {port.name: port.kinds for port in node_type.outputs},
    )


def refusal(target: object) -> str:
    with pytest.raises(NodeDefinitionError) as caught:
        describe(target)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_class_with_process_has_the_ports_in_and_out() -> None:
    described = describe(Upper)
    assert kinds(described) == ({"in": ("Text",)}, {"out": ("Text",)})
    assert described.inputs[0].handler == "process"
    assert (described.name, described.doc, described.is_async) == ("Upper", "Shout.", False)
    assert described.parameters == ()


def test_a_description_is_plain_data() -> None:
    assert describe(Duck) == describe(Duck)
    assert msgspec.json.decode(msgspec.json.encode(describe(Duck)), type=NodeType) == describe(Duck)


def test_declared_ports_and_marked_handlers_carry_their_limits() -> None:
    described = describe(Duck)
    assert kinds(described) == (
        {"music": ("Audio",), "speech": ("Audio",)},
        {"music": ("Audio",), "level": ("Json",)},
    )
    speech = described.inputs[1]
    assert (speech.handler, speech.capacity, speech.max_message_bytes) == ("on_voice", 8, None)
    assert [p.capacity for p in described.outputs] == [None, 1]
    assert [p.max_message_bytes for p in described.outputs] == [4096, None]
    assert described.is_async


def test_an_input_takes_no_limit_of_size_which_only_an_output_keeps() -> None:
    with pytest.raises(TypeError, match="max_message_bytes"):
        input("speech", max_message_bytes=10)  # type: ignore[call-overload]


def returning(annotation: object) -> type[Node]:
    def process(self: Node, text: Text) -> None: ...

    process.__annotations__ = {"text": Text, "return": annotation}
    return type("Returning", (Node,), {"process": process})


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("None", ()),
        (None, ()),
        ("Text", ("Text",)),
        ("Text | None", ("Text",)),
        ("Text | Audio", ("Text", "Audio")),
        ("Iterator[Text]", ("Text",)),
        ("Iterator[Text | Json | None]", ("Text", "Json")),
        ("list[Text] | Audio", ("Text", "Audio")),
        ("tuple[Text, Audio]", ("Text", "Audio")),
        ("tuple[Text, ...]", ("Text",)),
        ("Generator[Text, None, None]", ("Text",)),
        ("Iterator['Text']", ("Text",)),
        (list["Text"], ("Text",)),
        ("Iterator[Text | Addressed]", ("Text",)),
        ("Addressed", ()),
    ],
)
def test_return_annotations_name_what_leaves(annotation: object, expected: tuple[str, ...]) -> None:
    described = describe(returning(annotation))
    assert [port.kinds for port in described.outputs] == ([expected] if expected else [])
    assert not described.is_async


@pytest.mark.parametrize("annotation", ["Message", "RuntimeData", RuntimeData, Message])
def test_runtime_data_stands_for_every_message_type(annotation: object) -> None:
    (port,) = describe(returning(annotation)).outputs
    assert len(port.kinds) == 8


@pytest.mark.parametrize(
    "annotation",
    [
        "AsyncIterator[Text]",
        "Awaitable[Text]",
        "Awaitable[list[Text]]",
        "AsyncGenerator[Text, None]",
    ],
)
def test_a_function_that_returns_something_to_await_is_async(annotation: object) -> None:
    described = describe(returning(annotation))
    assert described.is_async
    assert described.outputs[0].kinds == ("Text",)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ("int", "process() returns int, where int is no message type"),
        ("Txt", "'Txt' is not defined; did you mean 'Text'?"),
        ("Iterator", "is no message type and no iterable of one, such as Text"),
        ("Iterator[list[Text]]", "list[Text] is no message type"),
        ("Text |", "annotates 'Text |'"),
        ("dict[str, Text]", "dict[str, Text] is no message type"),
    ],
)
def test_other_return_annotations_are_refused_with_a_reason(annotation: str, reason: str) -> None:
    assert reason in refusal(returning(annotation))


def test_async_handlers_and_hooks_make_a_node_async() -> None:
    class Generating(Node):
        async def process(self, text: Text) -> AsyncIterator[Text]:
            yield text

    class Opening(Node):
        async def initialize(self) -> None: ...

        def process(self, text: Text) -> Text:
            return text

    class Wrapped(Node):
        @functools.wraps(Generating.process)
        def process(self, text: Text) -> Awaitable[Text]: ...  # type: ignore[empty-body]

    assert all(describe(node).is_async for node in (Generating, Opening, Wrapped))


def test_types_that_only_a_function_knows_are_found() -> None:
    import remotemedia.data as rm

    Local: TypeAlias = rm.Tensor

    @dataclass
    class Options:
        size: int = 1

    class Node1(Node):
        def __init__(self, options: Options | None = None) -> None: ...

        def process(self, message: Local | rm.Binary) -> list[Local]:
            return []

    def function(message: Local | rm.Binary) -> list[Local]:
        return []

    described = describe(Node1)
    assert kinds(described) == ({"in": ("Tensor", "Binary")}, {"out": ("Tensor",)})
    assert kinds(describe(function)) == kinds(described)
    assert described.parameters[0].type.endswith("Options | None")


def test_names_imported_for_type_checkers_only_are_found() -> None:
    namespace: dict[str, object] = {"Node": Node, "__name__": "elsewhere"}
    code = """
class Split(Node):
    def process(self, text: "Text") -> "Iterator[Text]":
        yield text
"""
    exec(code, namespace)
    assert kinds(describe(namespace["Split"]))[1] == {"out": ("Text",)}  # type: ignore[arg-type]


def test_a_bare_function_is_a_node_and_its_other_arguments_are_parameters() -> None:
    def suffix(text: Text, end: str = "!", *, times: int) -> Text:
        return Text(text.text + end * times)

    described = describe(suffix)
    assert kinds(described) == ({"in": ("Text",)}, {"out": ("Text",)})
    assert [(p.name, p.type, p.default) for p in described.parameters] == [
        ("end", "str", "'!'"),
        ("times", "int", None),
    ]


def test_a_process_without_a_message_is_a_source() -> None:
    class Clock(Node):
        def process(self) -> Iterator[Control]:
            yield Control("tick")

    def clock(*, seconds: float = 1.0) -> Iterator[Control]:
        yield Control("tick")

    for source in (Clock, clock):
        described = describe(source)
        assert described.inputs == ()
        assert described.outputs[0].kinds == ("Control",)


def test_finish_adds_what_it_sends() -> None:
    class Join(Node):
        def process(self, text: Text) -> None: ...

        def finish(self) -> Iterator[Text]:
            yield Text("all")

    assert kinds(describe(Join))[1] == {"out": ("Text",)}


def test_a_declared_out_carries_limits_and_bounds_what_is_returned() -> None:
    class Good(Node):
        out = Output(Text, Json, max_message_bytes=100)

        def process(self, text: Text) -> Text:
            return text

    class Bad(Node):
        out = Output(Json)

        def process(self, text: Text) -> Text:
            return text

    (port,) = describe(Good).outputs
    assert (port.kinds, port.max_message_bytes) == (("Text", "Json"), 100)
    assert "it returns Text, but declares out = Output(Json, name='out')" in refusal(Bad)


def test_ports_and_handlers_are_inherited_and_can_be_replaced() -> None:
    class Quiet(Duck):
        level = None  # type: ignore[assignment]

        @input("speech")
        async def on_voice(self, audio: Audio) -> None: ...

    inputs, outputs = kinds(describe(Quiet))
    assert list(inputs) == ["music", "speech"]
    assert list(outputs) == ["music"]


class Forward(Node):
    def forward(self, text: Text) -> Text:
        return text


class Called(Node):
    def __call__(self, text: Text) -> Text:
        return text


class Nothing(Node): ...


class Proces(Node):
    def proces(self, text: Text) -> None: ...


class Silent(Node):
    def process(self, text: Text):  # type: ignore[no-untyped-def]
        return text


class Unsaid(Node):
    def process(self, text) -> Text:  # type: ignore[no-untyped-def]
        return Text(text)


class TwoMessages(Node):
    def process(self, text: Text, audio: Audio) -> None: ...


class Mistyped(Node):
    def process(self, text: str) -> None: ...


class SameInputTwice(Node):
    @input("a")
    def on_a(self, text: Text) -> None: ...

    @input("a")
    def on_b(self, text: Text) -> None: ...


class SourceWithInput(Node):
    def process(self) -> Iterator[Text]:
        yield Text("")

    @input
    def on_mute(self, control: Control) -> None: ...


class Loads(Node):
    def initialize(self) -> Iterator[float]:  # type: ignore[override]
        yield 0.5

    def process(self, text: Text) -> None: ...


class Cleans(Node):
    async def cleanup(self) -> AsyncIterator[None]:  # type: ignore[override]
        yield

    def process(self, text: Text) -> None: ...


class BadPortName(Node):
    @input("a.b")
    def on_text(self, text: Text) -> None: ...


class Deaf(Node):
    @input
    def on_text(self) -> None: ...


class Selfless(Node):
    def process(text: Text | Audio) -> None: ...  # type: ignore[misc]  # noqa: N805


class Empty(Node):
    def process() -> Iterator[Text]:  # type: ignore[misc]
        yield Text("")


class Typed(Node):
    def process(this: Typed) -> Iterator[Text]:  # noqa: N805
        yield Text("")


class Loose(Node):
    def process(self: Any) -> Iterator[Text]:
        yield Text("")


class PositionalParameter(Node):
    def __init__(self, size: int, /) -> None: ...

    def process(self, text: Text) -> None: ...


def mix(one: Audio, two: Audio) -> Audio:
    return one


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Proces, "it handles nothing: it has proces(); did you mean 'process'?"),
        (Forward, "it handles nothing: it has forward(); did you mean 'process'?"),
        (Called, "it handles nothing: it has __call__(); did you mean 'process'?"),
        (Nothing, "handles nothing: write `def process(self, text: Text) -> Text`"),
        (Silent, "process() does not say what it returns; annotate it"),
        (Unsaid, "process() takes 'text' without saying what it is"),
        (TwoMessages, "takes text and audio; a handler takes one message"),
        (Mistyped, "process() takes str, which is no message type; the message types are Audio"),
        (SameInputTwice, "on_b() and on_a() both handle the input 'a'"),
        (SourceWithInput, "split it into two nodes"),
        (
            Loads,
            "initialize() yields, and only `process`, `finish` and input handlers may: nothing",
        ),
        (Loads, "write it without yield; say how far it is by self.progress()"),
        (Cleans, "cleanup() yields"),
        (BadPortName, "on_text() handles the input 'a.b'; names of ports are"),
        (Deaf, "on_text() handles an input but takes no message"),
        (Selfless, "process() lacks self: write `def process(self, text: Text | Audio)`"),
        (Empty, "process() lacks self: write `def process(self)`"),
        (PositionalParameter, "'size' is positional-only"),
        (mix, "it takes one and two by position"),
        (Message, "neither a subclass of Node nor a function"),
        (3, "neither a subclass of Node nor a function"),
    ],
)
def test_what_cannot_be_a_node_is_refused_with_what_to_write(target: object, reason: str) -> None:
    assert reason in refusal(target)


def test_an_annotation_of_self_is_no_message() -> None:
    assert describe(Typed).inputs == describe(Loose).inputs == ()


def with_method(name: str, *, of: type[Node] = Upper) -> type[Node]:
    def method(self: Node) -> None: ...

    method.__name__ = name
    return type("Odd", (of,), {name: method})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("initalize", "initialize"),
        ("initialise", "initialize"),
        ("Initialize", "initialize"),
        ("cleanup_", "cleanup"),
        ("clean_up", "cleanup"),
        ("finsh", "finish"),
        ("finnish", "finish"),
        ("interupt", "interrupt"),
        ("on_interrupt", "interrupt"),
        ("setup", "initialize"),
        ("setUp", "initialize"),
        ("on_start", "initialize"),
        ("tear_down", "cleanup"),
        ("stop", "cleanup"),
        ("flush", "finish"),
    ],
)
def test_a_method_that_looks_like_a_hook_is_warned_of_where_it_stands(
    name: str, meant: str
) -> None:
    odd = with_method(name)
    with pytest.warns(
        UserWarning, match=f"Odd.{name}.. is no hook .* did you mean '{meant}'"
    ) as got:
        validate(Pipeline("odd").add_node("odd", odd), refer=local_reference_to)
    assert [warning.filename for warning in got] == [__file__]
    with pytest.warns(UserWarning, match=name):
        run_node(odd, [])
    assert not list(misspelled_hooks(with_method(meant, of=odd)))  # it has that hook


@pytest.mark.parametrize(
    "name",
    [
        *("_initalize", "initialized", "is_finished", "finished", "interrupted"),
        *("process_text", "processor", "cleaned", "clean", "init", "final", "progress"),
    ],
)
def test_other_methods_are_the_nodes_own(name: str) -> None:
    assert not list(misspelled_hooks(with_method(name)))
    assert not list(misspelled_hooks(Duck))


class Helpful(Node):
    """Uses what other frameworks would call, and handles an input without `process`."""

    def flush(self) -> list[Text]:
        return []

    def start(self) -> bool:
        return True

    def run(self) -> None: ...

    @input
    def on_text(self, text: Text) -> list[Text]:
        return [one for _ in range(2) if self.start() for one in self.flush()]


def test_helpers_of_a_node_are_not_taken_for_hooks_of_other_frameworks() -> None:
    assert not list(misspelled_hooks(Helpful))


def test_an_output_addresses_messages_of_its_types_only() -> None:
    node = Duck()
    audio = Audio(np.zeros((1, 1), np.float32), 16_000)
    assert node.music(audio) == Addressed("music", audio)
    with pytest.raises(TypeError, match="output 'level' sends Json, not Text"):
        node.level(Text("no"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the message types are Audio, Video"):
        Output(int)
    with pytest.raises(TypeError, match="of what"):
        Output()
    assert Output(Audio | Video).kinds == ("Audio", "Video")


class Recorder:
    """A context that keeps what a node asked for."""

    node_id = "upper"
    session_id = "s1"

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def progress(self, fraction: float, message: str) -> None:
        self.asked.append((fraction, message))

    def queued(self) -> int:
        return 3

    def loan(self, kind: type[T], port: str, shape: dict[str, object]) -> AbstractContextManager[T]:
        self.asked.append((kind, port, shape))
        return nullcontext(kind.__new__(kind))


def test_a_bound_node_reports_progress_and_borrows_memory() -> None:
    node, context = Upper(), Recorder()
    node.bind(context)
    node.progress(0.5, "weights")
    with node.loan(Audio, frames=480) as audio:
        assert isinstance(audio, Audio)
    assert context.asked == [(0.5, "weights"), (Audio, "out", {"frames": 480})]
    assert (node.node_id, node.session_id) == ("upper", "s1")
    assert node.queued() == 3


def test_a_node_outside_of_a_session_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"Upper\.progress\(\) works only while the node runs"):
        Upper().progress(0.1)
    with pytest.raises(RuntimeError, match=r"Upper\.loan\(\)"):
        Upper().loan(Audio)
    with pytest.raises(RuntimeError, match="node_id"):
        _ = Upper().node_id


def test_hooks_that_are_not_written_do_nothing() -> None:
    node = Upper()
    hooks = (node.initialize, node.finish, node.interrupt, node.cleanup)
    assert [hook() for hook in hooks] == [None] * 4


def test_an_async_hook_overrides_a_plain_one() -> None:
    class Opening(Upper):
        async def initialize(self) -> None:
            self.opened = True

    async def run(node: Node) -> None:
        pending = node.initialize()
        assert pending is not None
        await pending

    node = Opening()
    asyncio.run(run(node))
    assert node.opened
