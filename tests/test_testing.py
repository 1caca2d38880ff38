"""Running one node in this process, and the plugin that looks at what a test leaves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator  # noqa: TC003 (annotations of nodes are read)
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import remotemedia
from remotemedia import (
    Addressed,
    Audio,
    Binary,
    DataError,
    Json,
    LoanError,
    Node,
    NodeDefinitionError,
    Output,
    PipelineError,
    RuntimeData,
    Text,
    input,  # noqa: A004
)
from remotemedia.testing import Residue, run_node
from tests.executor_helpers import cause_of, running
from tests.executor_nodes import Speller


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Log(Node):
    """Writes down which of its methods are called."""

    calls: list[str]

    def __init__(self) -> None:
        type(self).calls = ["__init__"]

    def initialize(self) -> None:
        self.calls.append("initialize")

    def process(self, text: Text) -> Text | None:
        self.calls.append(text.text)
        if text.text == "bad":
            raise RuntimeError("bad text")
        return None if text.text == "nothing" else text

    def finish(self) -> Text:
        self.calls.append("finish")
        return Text("end")

    def cleanup(self) -> None:
        self.calls.append("cleanup")


class Later(Node):
    """An async generator."""

    async def initialize(self) -> None:
        self.times = 2

    async def process(self, text: Text) -> AsyncIterator[Text]:
        for _ in range(self.times):
            yield text


class Duck(Node):
    """Two inputs and two outputs."""

    music = Output(Audio)
    level = Output(Json)

    @input
    def on_music(self, audio: Audio) -> Iterator[Addressed]:
        yield self.level(Json({"frames": audio.samples.shape[0]}))
        yield self.music(audio)

    @input
    def on_voice(self, text: Text) -> Addressed:
        return self.level(Json({"voice": text.text}))


class Opens(Node):
    """Yields, of what it has open, what it does not send."""

    calls: ClassVar[list[str]] = []

    def process(self, text: Text) -> Iterator[Text]:
        self.calls.append("open")
        try:
            yield Json(0)  # type: ignore[misc]
        finally:
            self.calls.append("close")

    def cleanup(self) -> None:
        self.calls.append("cleanup")


class OpensLater(Opens):
    """The same, on an event loop."""

    async def initialize(self) -> None:
        return


class Bundles(Node):
    """Yields a list, which is no message."""

    async def process(self, text: Text) -> AsyncIterator[Text]:
        yield [text, text]  # type: ignore[misc]


def count(*, to: int) -> Iterator[Json]:
    for number in range(to):
        yield Json(number)


def double(text: Text, *, times: int = 2) -> list[Text]:
    return [Text(text.text)] * times


def silence(frames: int) -> Audio:
    return Audio(np.zeros((frames, 1), np.float32), 16000)


def test_a_node_lives_from_initialize_to_cleanup() -> None:
    assert run_node(Log, [Text("a"), Text("nothing")]) == [Text("a"), Text("end")]
    assert Log.calls == ["__init__", "initialize", "a", "nothing", "finish", "cleanup"]


def test_what_a_node_raises_is_raised_after_it_has_cleaned_up() -> None:
    with pytest.raises(RuntimeError, match="bad text"):
        run_node(Log, Text("bad"))
    assert Log.calls[-2:] == ["bad", "cleanup"]


@pytest.mark.parametrize("kind", [Opens, OpensLater])
def test_what_a_node_was_making_is_closed_before_its_cleanup_also_where_it_cannot_be_sent(
    kind: type[Node],
) -> None:
    Opens.calls.clear()
    with pytest.raises(TypeError, match="sends Text, not Json"):
        run_node(kind, Text("a"))
    assert Opens.calls == ["open", "close", "cleanup"]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Opens, OpensLater])
async def test_in_a_session_it_is_closed_before_its_cleanup_too(kind: type[Node]) -> None:
    Opens.calls.clear()
    async with running(kind, executor="inline") as session:
        await session.send(Text("a"))
        assert "sends Text, not Json" in str(await cause_of(session.recv()))
    assert Opens.calls == ["open", "close", "cleanup"]


def test_an_asynchronous_node_runs_to_its_end() -> None:
    assert run_node(Later, Text("a")) == [Text("a"), Text("a")]


def test_an_asynchronous_node_yields_what_it_may_yield_in_a_session() -> None:
    assert run_node(Speller, Text("ab")) == [Text("a"), Text("b")]
    with pytest.raises(TypeError, match="returned a list"):
        run_node(Bundles, Text("a"))


@pytest.mark.anyio
async def test_an_asynchronous_node_runs_also_from_a_running_loop() -> None:
    assert run_node(Later, Text("a")) == [Text("a"), Text("a")]


def test_a_source_needs_no_input() -> None:
    assert run_node(count, to=3) == [Json(0), Json(1), Json(2)]


def test_a_function_is_a_node_with_parameters() -> None:
    assert run_node(double, Text("a"), times=3) == [Text("a")] * 3


def test_a_misspelled_output_is_an_error_and_not_empty() -> None:
    outputs = run_node(Duck, [("voice", Text("a"))])
    assert outputs.of("music") == []
    with pytest.raises(DataError, match=r"Duck has no output 'levle' \(did you mean 'level'\?\)"):
        outputs.of("levle")


def test_ports_are_fed_by_pairs_in_any_order_and_by_mapping_one_after_the_other() -> None:
    pairs = run_node(Duck, [("voice", Text("a")), ("music", silence(3)), ("voice", Text("b"))])
    assert pairs.ports == ["level", "level", "music", "level"]
    assert pairs.of("level") == [Json({"voice": "a"}), Json({"frames": 3}), Json({"voice": "b"})]
    assert pairs.of("music") == [silence(3)]
    by_port: dict[str, list[RuntimeData]]
    by_port = {"voice": [Text("a"), Text("b")], "music": [silence(3)]}
    mapped = run_node(Duck, by_port)
    assert mapped.ports == ["level", "level", "level", "music"]


def test_outputs_carry_the_number_of_their_input() -> None:
    outputs = run_node(double, [Text("a"), Text("b")])
    assert [one.correlation_id for one in outputs] == [1, 1, 2, 2]


def test_arrays_are_read_only_as_in_a_session() -> None:
    class Loud(Node):
        def process(self, audio: Audio) -> Audio:
            audio.samples[:] *= 2
            return audio

    with pytest.raises(ValueError, match="read-only"):
        run_node(Loud, silence(3))


def test_a_loan_is_sent_when_its_block_ends() -> None:
    class Tone(Node):
        def process(self, text: Text) -> Iterator[Audio]:
            with self.loan(Audio, frames=2, channels=1, sample_rate=16000) as audio:
                audio.samples[:] = 0.5
            with pytest.raises(LoanError, match="has been sent"):
                _ = audio.samples
            yield from ()

    (audio,) = run_node(Tone, Text("a"))
    assert audio == Audio(np.full((2, 1), 0.5, np.float32), 16000)
    assert audio.correlation_id == 1


@pytest.mark.parametrize("is_lent", [False, True], ids=["sent", "lent"])
def test_a_message_that_is_larger_than_its_port_declares_is_refused(is_lent: bool) -> None:
    class Bytes(Node):
        out = Output(Binary, max_message_bytes=10)

        def process(self, number: Json) -> Iterator[Binary]:
            nbytes = number.value
            assert isinstance(nbytes, int)
            if not is_lent:
                yield Binary(bytes(nbytes))
                return
            with self.loan(Binary, nbytes=nbytes) as lent:
                lent.array[:] = 0

    assert run_node(Bytes, Json(10)) == [Binary(bytes(10))]
    with pytest.raises(DataError, match=r"node.out declares at most 10 bytes .* this one has 11"):
        run_node(Bytes, Json(11))


def test_a_loan_that_is_asked_for_wrongly_says_what_it_takes() -> None:
    class Tone(Node):
        def process(self, text: Text) -> Iterator[Audio]:
            with self.loan(Audio, frames=2, channels=1):
                yield from ()

    with pytest.raises(DataError, match="takes frames, channels, sample_rate; it got"):
        run_node(Tone, Text("a"))


@pytest.mark.parametrize(
    ("inputs", "parameters", "error", "text"),
    [
        ([Json(1)], {}, DataError, "takes Text, not Json"),
        ({"text": Text("a")}, {}, DataError, "there is 'in'"),
        (Text("a"), {"time": 2}, PipelineError, "did you mean 'times'"),
        (Text("a"), {"times": "2"}, PipelineError, "times"),
    ],
)
def test_what_does_not_fit_is_an_error_before_the_node_gets_it(
    inputs: object, parameters: dict[str, object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run_node(double, inputs, **parameters)  # type: ignore[arg-type]


def test_what_is_no_node_is_refused() -> None:
    def untyped(text):  # type: ignore[no-untyped-def]
        return text

    with pytest.raises(NodeDefinitionError):
        run_node(untyped, Text("a"))


def test_an_output_that_the_node_does_not_declare_is_an_error() -> None:
    def liar(text: Text) -> Text:
        return Json(text.text)  # type: ignore[return-value]

    with pytest.raises(TypeError, match="sends Text, not Json"):
        run_node(liar, Text("a"))


def test_residue_names_what_is_new() -> None:
    before = Residue.now()
    assert not Residue.since(before)
    reading, writing = os.pipe()
    child = subprocess.Popen(["sleep", "60"])
    left = Residue.since(before)
    os.close(reading)
    os.close(writing)
    child.kill()
    child.wait()
    assert list(left.processes) == [str(child.pid)]
    assert list(left.descriptors) == [str(reading), str(writing)]
    assert f"process {child.pid}" in str(left)


PLUGIN = ("-p", "remotemedia.testing.plugin", "-p", "no:cacheprovider")


@pytest.fixture(autouse=True)
def our_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started elsewhere finds the sources that are tested here."""
    monkeypatch.setenv("PYTHONPATH", str(Path(remotemedia.__file__).parent.parent))


def test_a_marked_test_fails_if_it_leaves_something(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import os, pytest, subprocess

        @pytest.mark.no_residue
        def test_clean():
            os.close(os.open("/dev/null", os.O_RDONLY))

        def test_unmarked():
            os.open("/dev/null", os.O_RDONLY)

        @pytest.mark.no_residue
        def test_descriptor():
            os.open("/dev/null", os.O_RDONLY)

        def test_file(no_residue, remotemedia_folder):
            (remotemedia_folder / "left").touch()
    """)
    result = pytester.runpytest_subprocess(*PLUGIN, "--strict-markers")
    result.assert_outcomes(passed=4, errors=2)
    result.stdout.fnmatch_lines(["*the test left behind:*", "descriptor * /dev/null"])
    result.stdout.fnmatch_lines(["file */left"])


def test_the_plugin_gives_run_node_and_loads_nothing_before(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_light():
            assert "numpy" not in sys.modules

        def test_run(run_node):
            from remotemedia import Text
            def upper(text: Text) -> Text:
                return Text(text.text.upper())
            assert run_node(upper, Text("a")) == [Text("A")]
    """)
    pytester.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=2)
