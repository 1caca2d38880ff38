"""Pipeline files, and what is said about wrong ones."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest

from remotemedia.core.pipeline import Connection, NodeConfig, Restart
from remotemedia.core.pipeline_file import load_pipeline, parse_pipeline
from remotemedia.core.pipeline_schema import json_schema
from remotemedia.errors import PipelineError

if TYPE_CHECKING:
    from pathlib import Path

FILE = """\
version: v1
name: voice-assistant
modules: [my_nodes.py]
nodes:
  - {id: vad, node_type: silero_vad, params: {threshold: 0.5, on: no}}
  - id: asr
    node_type: my_nodes:Whisper
    params:
      model: tiny.en
    executor: python
    python_executable: /opt/asr/bin/python
    environment: {HF_HUB_OFFLINE: "1"}
    inherit_environment: false
    working_directory: /tmp
    cpu_affinity: [0, 1]
    memory_limit_bytes: 4000000000
    cuda_visible_devices: "0"
    restart: {policy: on_failure, max_restarts: 1, backoff_seconds: [0.5, 2]}
    on_error: skip
    stall_timeout_seconds: 10
connections:
  - {from: vad.speech, to: asr, policy: block, capacity: 8}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(PipelineError) as caught:
        parse_pipeline(text, "p.yaml")
    return [str(finding) for finding in caught.value.findings]


def test_a_file_says_what_python_can_say(tmp_path: Path) -> None:
    path = tmp_path / "voice.yaml"
    path.write_text(FILE)
    pipeline = load_pipeline(path)
    assert (pipeline.name, pipeline.modules, pipeline.folder) == (
        "voice-assistant",
        ("my_nodes.py",),
        tmp_path,
    )
    assert pipeline.nodes == (
        NodeConfig("silero_vad", "vad", config={"threshold": 0.5, "on": "no"}),
        NodeConfig(
            "my_nodes:Whisper",
            "asr",
            "python",
            {"model": "tiny.en"},
            python_executable="/opt/asr/bin/python",
            environment={"HF_HUB_OFFLINE": "1"},
            inherit_environment=False,
            working_directory="/tmp",
            cpu_affinity=(0, 1),
            memory_limit_bytes=4_000_000_000,
            cuda_visible_devices="0",
            restart=Restart("on_failure", 1, 30.0, (0.5, 2.0)),
            on_error="skip",
            stall_timeout_seconds=10,
        ),
    )
    assert pipeline.connections == (Connection("vad.speech", None, "asr", None, "block", 8),)


def test_lines_lead_to_every_parameter() -> None:
    pipeline = parse_pipeline(FILE, "p.yaml")
    assert pipeline.line_of("nodes", 1, "params", "model") == 9
    assert pipeline.line_of("nodes", 1, "params", "missing") == 8
    assert pipeline.line_of("nodes", 0, "params", "threshold") == 5
    assert pipeline.line_of("connections", 0, "capacity") == 22


def test_json_is_read_like_yaml(tmp_path: Path) -> None:
    entry = {"version": "v1", "nodes": [{"id": "a", "node_type": "b"}]}
    path = tmp_path / "small.json"
    path.write_text(json.dumps(entry, indent="\t"))
    pipeline = load_pipeline(path)
    assert pipeline.name == "small"
    assert pipeline.nodes == (NodeConfig("b", "a"),)
    assert pipeline.line_of("nodes", 0, "id") == 5


def test_every_mistake_is_found_at_once_with_its_line_and_what_was_meant() -> None:
    text = """\
version: v2
nodes:
  - {id: vad, node_typ: silero, params: [1]}
  - id: asr
    node_type: whisper
    cpu_affinity: [0, -1]
    restart: {policy: on_failure, max_restart: 3}
    on_error: skipp
  - id: a/b
    node_type: x
  - just text
connections:
  - {from: vad.speech, to: asr, policy: blok, capacity: 0}
  - {from: vad.speech}
conections: []
"""
    assert problems(text) == [
        "line 1, pipeline, key 'version': must be 'v1', got 'v2'",
        "line 3, node 'vad', key 'node_typ': unknown key (did you mean 'node_type'?)",
        "line 3, node 'vad', key 'params': expected a mapping of keys to values, got a list",
        "line 6, node 'asr', key 'cpu_affinity': expected 'int' >= 0 - at '$[1]'",
        "line 7, node 'asr', restart, key 'max_restart': unknown key "
        "(did you mean 'max_restarts'?)",
        "line 8, node 'asr', key 'on_error': must be one of 'fail', 'skip', got 'skipp' "
        "(did you mean 'skip'?)",
        "line 9, node 'a/b', key 'id': expected 'str' of 1 to 64 letters (A-Z, a-z), digits, _ . -",
        "line 11, nodes[3]: must be a mapping of keys to values (write id: ..., node_type: ...)",
        "line 13, connection vad.speech -> asr, key 'policy': must be one of 'block', "
        "'drop_oldest', 'latest', 'error', got 'blok' (did you mean 'block'?)",
        "line 13, connection vad.speech -> asr, key 'capacity': expected 'int' >= 1",
        "line 14, connections[1]: the key 'to' is missing",
        "line 15, pipeline, key 'conections': unknown key (did you mean 'connections'?)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1, pipeline: it is empty (write version: ..., nodes: ...)"),
        ("- a", "line 1, pipeline: must be a mapping of keys to values"),
        ("version: v1", "line 1, pipeline: the key 'nodes' is missing"),
        ("version: v1\nnodes: {}", "key 'nodes': expected a list, got a mapping of keys to values"),
        ("version: v1\nnodes:", "key 'nodes': expected a list, got nothing"),
        ("modules: a.py", "key 'modules': expected a list, got 'str' (write [a.py])"),
        ("nodes: [{id: a, config: {b: 1}}]", "key 'config': unknown key (did you mean 'params'?)"),
        (
            "nodes: []\nconnections: [{from: {node: a}, to: b}]",
            "connection {'node': 'a'} -> b, key",
        ),
        ("nodes: []\nmodules:", "expected a list, got nothing (leave the key out)"),
        ("version: v1\nnodes: [{id:a, node_type: b}]", "put a space behind the colon: 'id: a'"),
        ("version: v1\nnodes: [{id: a, node_type: b}]\nname: a\nname: b", "key 'name': is here tw"),
        ("a: [", "this is no YAML"),
    ],
)
def test_files_that_are_no_pipeline_are_refused(text: str, problem: str) -> None:
    assert any(problem in found for found in problems(text))


def test_an_error_names_the_file_and_counts() -> None:
    with pytest.raises(PipelineError, match=r"pipeline 'p.yaml' has 2 problems:\n  line 1"):
        parse_pipeline("versoin: v1", "p.yaml")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="cannot be read: No such file or directory"):
        load_pipeline(tmp_path / "missing.yaml")
    with pytest.raises(PipelineError, match="is Python, not YAML or JSON"):
        load_pipeline(tmp_path / "nodes.py")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(PipelineError, match="is no UTF-8 text"):
        load_pipeline(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_text("#" * (1 << 20) + "\n")
    with pytest.raises(PipelineError, match="is larger than 1,048,576 bytes"):
        load_pipeline(tmp_path / "large.yaml")


def test_the_published_schema_is_that_of_the_reader() -> None:
    published = files("remotemedia.core").joinpath("pipeline.schema.json").read_text()
    assert json.loads(published) == json.loads(json.dumps(json_schema())), (
        "print it anew with python -m remotemedia.core.pipeline_schema"
    )
