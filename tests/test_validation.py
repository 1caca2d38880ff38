"""A pipeline is checked before anything starts: every mistake at once, or plain data."""

from __future__ import annotations

import cProfile
import os
import subprocess
import sys
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import msgspec
import pytest

from remotemedia.core.multiprocess.config import MultiprocessConfig
from remotemedia.core.node import Node
from remotemedia.core.pipeline import Connection, NodeConfig, Pipeline, Restart
from remotemedia.core.pipeline_file import load_pipeline, parse_pipeline
from remotemedia.core.ports import Addressed, Output, input  # noqa: A004
from remotemedia.core.reference import ModuleReference
from remotemedia.core.registry import Registry, default_registry
from remotemedia.core.validation import validate
from remotemedia.data import Audio, Control, Json, RuntimeData, Text
from remotemedia.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from remotemedia.core.validated import ValidatedPipeline


class Vad(Node):
    speech = Output(Audio, capacity=16)
    events = Output(Json)

    def __init__(self, threshold: float = 0.5) -> None: ...

    def process(self, audio: Audio) -> Iterator[Addressed]:
        yield self.speech(audio)


class Whisper(Node):
    def __init__(self, model: str) -> None: ...

    @input(capacity=4)
    async def process(self, audio: Audio) -> AsyncIterator[Text]:
        yield Text("")


class Loop(Node):
    @input
    def on_text(self, text: Text) -> Text:
        return text

    @input
    def on_back(self, text: Text) -> None: ...


class Upper(Node):
    def process(self, text: Text) -> Text:
        return text


def relay(message: RuntimeData) -> RuntimeData:
    return message


def clock() -> Iterator[Control]:
    yield Control("tick")


def sink(text: Text) -> None: ...


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.register("silero_vad", Vad)
    registry.register("whisper", Whisper)
    return registry


def problems(pipeline: Pipeline, registry: Registry | None = None, **limits: object) -> list[str]:
    config = MultiprocessConfig(**limits)  # type: ignore[arg-type]
    with pytest.raises(PipelineError) as caught:
        validate(pipeline, registry or Registry(), config)
    return [str(finding) for finding in caught.value.findings]


def connected(pipeline: ValidatedPipeline) -> list[tuple[str, str, int]]:
    return [(str(c), c.policy, c.capacity) for c in pipeline.connections]


def texts(*ids: str) -> Pipeline:
    pipeline = Pipeline("texts")
    for node_id in ids:
        pipeline.add_node(node_id, Upper)
    return pipeline


def test_a_right_pipeline_becomes_plain_data(registry: Registry) -> None:
    pipeline = (
        Pipeline("voice")
        .add_node("vad", "silero_vad", threshold=1)
        .add_node("asr", Whisper, model="tiny")
        .add_node("relay", relay)
        .connect("vad.speech", "asr")
        .connect("asr", "relay", policy="latest")
        .connect("vad.events", "relay.in", policy="drop_oldest", capacity=7)
    )
    valid = validate(pipeline, registry)
    assert connected(valid) == [
        ("vad.speech -> asr.in", "block", 4),
        ("asr.out -> relay.in", "latest", 1),
        ("vad.events -> relay.in", "drop_oldest", 7),
    ]
    assert [str(port) for port in valid.inputs] == ["vad.in"]
    assert [str(port) for port in valid.outputs] == ["relay.out"]
    vad, asr, _ = valid.nodes
    assert (vad.config.node_type, vad.type.name, vad.config.config) == (
        "silero_vad",
        "silero_vad",
        {"threshold": 1},
    )
    assert isinstance(vad.reference, ModuleReference)
    assert (asr.node_id, asr.config.node_type, asr.type.is_async) == ("asr", "Whisper", True)
    assert msgspec.json.decode(msgspec.json.encode(valid))["name"] == "voice"
    assert validate(pipeline, registry) == valid


def test_capacity_is_the_connections_then_the_inputs_then_the_outputs_then_the_executors(
    registry: Registry,
) -> None:
    pipeline = (
        Pipeline()
        .add_node("vad", Vad)
        .add_node("asr", Whisper, model="")
        .add_node("relay", relay)
        .connect("vad.speech", "asr", capacity=9)
        .connect("vad.speech", "relay")
        .connect("vad.events", "relay")
    )
    limits = MultiprocessConfig(channel_capacity=33, enable_backpressure=False)
    assert connected(validate(pipeline, registry, limits)) == [
        ("vad.speech -> asr.in", "drop_oldest", 9),
        ("vad.speech -> relay.in", "drop_oldest", 16),
        ("vad.events -> relay.in", "drop_oldest", 33),
    ]


@pytest.mark.parametrize("capacity", [0, -1, True, 1.5, "8"])
def test_a_capacity_that_is_none_is_found(registry: Registry, capacity: int) -> None:
    pipeline = Pipeline().add_node("a", Upper).add_node("b", Upper)
    pipeline.connect("a", "b", capacity=capacity)
    (found,) = problems(pipeline, registry)
    assert f"the capacity is {capacity!r}; it must be from 1 to" in found


def test_every_mistake_in_a_file_is_found_at_once_with_its_line(registry: Registry) -> None:
    text = """\
version: v1
name: voice
nodes:
  - {id: vad, node_type: silero_vda}
  - id: asr
    node_type: whisper
    params:
      modle: tiny
  - {id: asr, node_type: silero_vad, params: {threshold: high}}
connections:
  - {from: vad.speech, to: ars}
  - {from: asr.text, to: asr}
  - {from: asr, to: asr.in, policy: latest, capacity: 2}
"""
    assert problems(parse_pipeline(text, "p.yaml"), registry) == [
        "line 4, node 'vad': unknown node type 'silero_vda' (did you mean 'silero_vad'?)",
        "line 8, node 'asr', parameter 'modle': unknown parameter (did you mean 'model'?)",
        "line 7, node 'asr', parameter 'model': missing parameter (it has no default: give it, a "
        "value of type str)",
        "line 9, node 'asr': there are two nodes of this id (rename one)",
        "line 9, node 'asr', parameter 'threshold': must be float, got 'high' (Expected 'float', "
        "got 'str')",
        "line 11, connection vad.speech -> ars: there is no node 'ars' (did you mean 'asr'?)",
        "line 12, connection asr.text -> asr: 'asr' has no output 'text' (there is 'out')",
        "line 13, connection asr -> asr.in: latest keeps one message, and the capacity is 2 "
        "(drop the capacity, or use drop_oldest)",
        "line 13, connection asr -> asr.in: asr.out sends Text, and asr.in takes Audio "
        "(put a node between them that converts)",
    ]


def test_nodes_given_in_python_are_checked_like_those_of_files() -> None:
    class Local(Node):
        def process(self, text: Text) -> Text:
            return text

    class Unfinished(Node): ...

    pipeline = (
        Pipeline()
        .add_node("a/b", Upper)
        .add_node("local", Local)
        .add_node("unfinished", Unfinished)
        .add_node("number", 3)  # type: ignore[call-overload]
        .add_node("params", Upper, callback=print)
        .add_node(
            NodeConfig(
                Upper,
                "options",
                on_error="ignore",  # type: ignore[arg-type]
                restart=Restart("on_failure", 0),
                memory_limit_bytes=-1,
            )
        )
    )
    found = problems(pipeline)
    expected = [
        "node 'a/b': the id must be 1 to 64 letters (A-Z, a-z), digits, _ . -",
        "node 'local': .*Local cannot be a node: it is made inside of a function",
        "node 'unfinished': .*Unfinished cannot be a node: it handles nothing",
        "node 'number': its type is 3, which is no node",
        "node 'params': parameter 'callback' is builtin_function_or_method, and values must be",
        "node 'options', memory_limit_bytes: expected 'int' >= 1",
        "node 'options', restart: expected 'int' >= 1 - at '$.max_restarts'",
        "node 'options', on_error: must be one of 'fail', 'skip', got 'ignore'",
    ]
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        before, _, after = start.partition(".*")
        assert line.startswith(before)
        assert after in line


def test_no_process_gets_a_text_that_the_system_does_not_take() -> None:
    node = NodeConfig(
        Upper,
        "n",
        environment={
            "GOOD": "é \udcff",  # a byte that is no UTF-8, as `os.environ` has it
            "HALF": "secret \ud83d",
            "NUL": "secret\0",
            "A=B": "",
            "": "",
            "\ud800": "",
        },
        working_directory="/\0",
        cuda_visible_devices="\ud800",
    )
    assert problems(Pipeline().add_node(node)) == [
        "node 'n', environment: the variable 'HALF' holds '\\ud83d', which is no character of "
        "utf-8",
        "node 'n', environment: the variable 'NUL' holds a NUL character",
        "node 'n', environment: the name of the variable 'A=B' is empty or holds '='",
        "node 'n', environment: the name of the variable '' is empty or holds '='",
        "node 'n', environment: the variable '\\ud800' holds '\\ud800', which is no character of "
        "utf-8",
        "node 'n', working_directory: it holds a NUL character",
        "node 'n', cuda_visible_devices: it holds '\\ud800', which is no character of utf-8",
    ]


def test_a_connection_needs_ports_that_exist_and_fit() -> None:
    pipeline = (
        Pipeline()
        .add_node("vad", Vad)
        .add_node("clock", clock)
        .add_node("sink", sink)
        .add_node("loop", Loop)
        .connect("vad", "sink")
        .connect("vad.noise", "sink")
        .connect("sink", "loop")
        .connect("vad.speech", "clock")
        .connect("clock", "sink")
        .connect("loop", "sink")
        .connect("loop.out", "sink.in")
        .connect("loop", "sink", policy="blok", capacity=0)  # type: ignore[call-overload]
        .connect(Connection("gone", "out", "sink", "in"))
    )
    assert problems(pipeline) == [
        "connection vad -> sink: 'vad' has the outputs 'speech', 'events' (say which: vad.speech)",
        "connection vad.noise -> sink: 'vad' has no output 'noise' (there is 'events', 'speech')",
        "connection sink -> loop: 'sink' has no outputs",
        "connection sink -> loop: 'loop' has the inputs 'text', 'back' (say which: loop.text)",
        "connection vad.speech -> clock: 'clock' has no inputs",
        "connection clock -> sink: clock.out sends Control, and sink.in takes Text "
        "(put a node between them that converts)",
        "connection loop.out -> sink.in: it is there twice (remove one)",
        "connection loop -> sink: unknown policy 'blok' (did you mean 'block'?)",
        "connection loop -> sink: the capacity is 0; it must be from 1 to 65,536",
        "connection loop -> sink: it is there twice (remove one)",
        "connection gone.out -> sink.in: there is no node 'gone' "
        "(there is 'clock', 'loop', 'sink', 'vad')",
    ]


def test_ends_of_a_connection_that_are_no_names_are_findings() -> None:
    pipeline = (
        texts("a", "b")
        .connect(Connection(5, None, "a", None))  # type: ignore[arg-type]
        .connect(Connection("a", ["out"], "b", None))  # type: ignore[arg-type]
    )
    hint = '(such as Connection("a", "out", "b", "in"))'
    assert problems(pipeline) == [
        f"connection 5 -> a: 5 must be a name {hint}",
        f"connection a.['out'] -> b: ['out'] must be a name {hint}",
    ]


def test_ids_may_hold_dots_and_the_longest_id_wins() -> None:
    pipeline = texts("a", "a.b", "c.d.e").connect("a.b", "c.d.e").connect("a.b.out", "a.in")
    assert connected(validate(pipeline)) == [
        ("a.b.out -> c.d.e.in", "block", 100),
        ("a.b.out -> a.in", "block", 100),
    ]


def test_an_endpoint_that_is_a_node_and_a_port_is_ambiguous() -> None:
    pipeline = texts("a", "a.out", "b").connect("a.out", "b")
    assert problems(pipeline) == [
        "connection a.out -> b: 'a.out' is a node, and also the output 'out' of 'a' "
        "(rename one of the nodes)"
    ]
    exact = texts("a", "a.out", "b").connect(Connection("a", "out", "b", "in"))
    assert connected(validate(exact)) == [("a.out -> b.in", "block", 100)]


def test_several_connections_may_lead_into_one_input() -> None:
    pipeline = texts("a", "b", "c").connect("a", "c").connect("b", "c")
    valid = validate(pipeline)
    assert len(valid.connections) == 2
    assert [str(port) for port in valid.inputs] == ["a.in", "b.in"]


def test_overlapping_types_fit_because_each_message_is_checked_on_arrival() -> None:
    pipeline = Pipeline().add_node("relay", relay).add_node("up", Upper).connect("relay", "up")
    assert connected(validate(pipeline)) == [("relay.out -> up.in", "block", 100)]


def test_a_cycle_that_only_blocks_is_refused() -> None:
    pipeline = texts("a", "b", "c").connect("a", "b").connect("b", "c").connect("c", "a")
    assert problems(pipeline) == [
        "cycle a -> b -> c -> a: every connection of it blocks, so it could wait for itself for "
        "ever (give the one that leads back policy drop_oldest, latest or error)"
    ]


def test_a_cycle_is_reported_where_the_connection_is_written_that_closes_it() -> None:
    text = """\
version: v1
name: k2
nodes:
  - {id: a, node_type: text.upper}
  - {id: b, node_type: text.upper}
connections:
  - {from: a, to: b}
  - {from: b, to: b}
"""
    (problem,) = problems(parse_pipeline(text, "k2.yaml"), default_registry)
    assert problem.startswith("line 8, cycle b -> b: every connection of it blocks")


def test_a_cycle_with_a_lossy_connection_is_feedback() -> None:
    pipeline = (
        Pipeline()
        .add_node("loop", Loop)
        .add_node("up", Upper)
        .add_node("end", Upper)
        .connect("up", "loop.back", policy="latest")
        .connect("loop", "up")
        .connect("up", "end")
    )
    valid = validate(pipeline)
    assert [c.is_feedback for c in valid.connections] == [True, False, False]


def test_the_process_limit_counts_nodes_and_can_be_off() -> None:
    many = texts(*(f"n{i}" for i in range(11)))
    assert problems(many) == [
        "pipeline: it has 11 nodes, each a process, and the limit is 10 "
        "(raise max_processes_per_session, or set it to None)"
    ]
    assert len(validate(many, None, MultiprocessConfig(max_processes_per_session=None)).nodes) == 11
    assert problems(Pipeline()) == ["pipeline: it has no nodes (add one)"]


def test_an_executor_must_be_there_where_they_are_known() -> None:
    pipeline = Pipeline().add_node(NodeConfig(Upper, "a", executor="pyton"))
    validate(pipeline)
    with pytest.raises(PipelineError, match=r"no executor 'pyton' \(did you mean 'python'\?\)"):
        validate(pipeline, executors=["python"])


@pytest.mark.parametrize("executors", [None, ["python"]])
@pytest.mark.parametrize("option", [field.name for field in fields(NodeConfig)[2:]])
def test_an_option_of_another_type_is_a_finding(option: str, executors: list[str] | None) -> None:
    mistakes: list[object] = [{"path": object()}, [{}], b"", object()]
    for mistake in mistakes:
        config = NodeConfig(Upper, "a")
        object.__setattr__(config, option, mistake)  # past the type checker
        with pytest.raises(PipelineError, match="node 'a'"):
            validate(Pipeline().add_node(config), executors=executors)


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
def test_a_stall_timeout_that_no_process_could_be_told_is_a_finding(seconds: float) -> None:
    node = NodeConfig(Upper, "a", stall_timeout_seconds=seconds)
    with pytest.raises(PipelineError, match=r"stall_timeout_seconds: .* <= 1000000000"):
        validate(Pipeline().add_node(node))


MODULE = """
from remotemedia.core.node import Node
from remotemedia.data import Text

class Heavy(Node):
    def initialize(self) -> None:
        import torch
        self.torch = torch

    def process(self, text: Text) -> Text:
        return text
"""


def heavy_pipeline(folder: Path, module: str = MODULE) -> Path:
    (folder / "heavy.py").write_text(module)
    path = folder / "heavy.yaml"
    path.write_text("version: v1\nmodules: [heavy.py]\nnodes: [{id: a, node_type: heavy:Heavy}]\n")
    return path


def test_modules_are_found_beside_the_pipelines_file(tmp_path: Path) -> None:
    valid = validate(load_pipeline(heavy_pipeline(tmp_path)), Registry())
    assert valid.nodes[0].config.node_type == "heavy:Heavy"


def test_a_module_that_cannot_be_loaded_is_a_finding_with_its_line(tmp_path: Path) -> None:
    path = heavy_pipeline(tmp_path, "import json\n\nimport torch_of_another_environment\n")
    assert problems(load_pipeline(path)) == [
        "line 2, module 'heavy.py': cannot be imported: No module named "
        f"'torch_of_another_environment' ({tmp_path}/heavy.py:3) (import heavy or optional "
        "libraries inside of initialize())"
    ]
    path = heavy_pipeline(tmp_path, "import json\n\n\njson.loads('nothing')\n")
    assert (
        f"JSONDecodeError: Expecting value: line 1 column 1 (char 0) ({tmp_path}/heavy.py:4)"
        in (problems(load_pipeline(path))[0])
    )


def test_a_module_that_is_not_there_is_a_finding_without_advice_on_its_imports(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: v1\nmodules: [no_such.module]\nnodes: [{id: a, node_type: text.upper}]"
    )
    expected = "line 2, module 'no_such.module': cannot be imported: No module named 'no_such'"
    assert problems(load_pipeline(path))[0] == expected


def test_validating_imports_no_model_library(tmp_path: Path) -> None:
    for name in ("torch", "onnxruntime", "transformers", "anyio"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    code = """
import sys
from remotemedia.core.pipeline_file import load_pipeline
from remotemedia.core.validation import validate
validate(load_pipeline(sys.argv[1]))
print(sorted({"iceoryx2", "asyncio", "typer", "torch"} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(heavy_pipeline(tmp_path))],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout == "[]\n"


def there_and_back(count: int) -> Pipeline:
    pipeline = texts(*(f"n{i}" for i in range(count)))
    for i in range(count - 1):
        pipeline.connect(f"n{i}", f"n{i + 1}")
        if i:
            pipeline.connect(f"n{i}", f"n{i - 1}", policy="latest")
    return pipeline


def test_the_feedback_of_fifty_nodes_is_found() -> None:
    limits = MultiprocessConfig(max_processes_per_session=None)
    valid = validate(there_and_back(50), None, limits)
    assert sum(c.is_feedback for c in valid.connections) == 48
    assert replace(valid, name="x").name == "x"


def test_a_check_takes_little_more_for_each_node_whatever_their_number() -> None:
    limits = MultiprocessConfig(max_processes_per_session=None)

    def calls(count: int) -> int:
        pipeline = there_and_back(count)
        profile = cProfile.Profile()
        profile.runcall(validate, pipeline, None, limits)
        return sum(entry.callcount for entry in profile.getstats())

    calls(2)  # what is looked up once
    few, more, many = calls(10), calls(20), calls(80)
    # Linear, or nearly: looking for feedback is not. In time: `benchmarks`, scenario `validate`.
    assert many - more < 1.2 * 6 * (more - few)
