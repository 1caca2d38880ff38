"""The format of pipeline files, as types; `pipeline.schema.json` is generated from them.

Prints the schema when run: `python -m remotemedia.core.pipeline_schema`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from remotemedia.core.environment import text_problem, variable_problem
from remotemedia.core.findings import wrong_choice
from remotemedia.core.ids import ID_PATTERN, ID_RULE
from remotemedia.core.multiprocess.plan import PolicyName
from remotemedia.core.pipeline import OnError, Restart

if TYPE_CHECKING:
    from remotemedia.core.pipeline import NodeConfig

__all__ = [
    "ConnectionEntry",
    "NodeEntry",
    "PipelineEntry",
    "RestartEntry",
    "json_schema",
    "option_problems",
    "value_problem",
]

NodeId = Annotated[
    str,
    Meta(pattern=ID_PATTERN, description="name of the node in this pipeline"),
]
Cpu = Annotated[int, Meta(ge=0, lt=2**16)]  # more than any kernel numbers
Positive = Annotated[float, Meta(gt=0)]
StallTimeout = Annotated[float, Meta(gt=0, le=1e9)]  # 30 years: as nanoseconds it fits its message

_WORDS = {"object": "a mapping of keys to values", "array": "a list", "null": "nothing"}
"""What msgspec calls as JSON does."""

Version: TypeAlias = Literal["v1"]


class RestartEntry(Struct, forbid_unknown_fields=True):
    """Whether a crashed node is started again."""

    policy: Literal["never", "on_failure"] = "never"
    max_restarts: Annotated[int, Meta(ge=1)] = 3
    window_seconds: Positive = 30.0
    backoff_seconds: tuple[Positive, Positive] = (0.1, 5.0)


class NodeEntry(Struct, forbid_unknown_fields=True):
    """One node and how its process is run; see `NodeConfig`."""

    id: NodeId
    node_type: Annotated[str, Meta(description="registered name, or module:Class")]
    params: Annotated[dict[str, object], Meta(description="parameters of the node")] = {}
    executor: str | None = None
    python_executable: str | None = None
    environment: dict[str, str] = {}
    inherit_environment: bool = True
    working_directory: str | None = None
    cpu_affinity: list[Cpu] | None = None
    memory_limit_bytes: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    cuda_visible_devices: str | None = None
    restart: RestartEntry | None = None
    on_error: OnError = "fail"
    stall_timeout_seconds: StallTimeout | None = None


class ConnectionEntry(Struct, forbid_unknown_fields=True):
    """From an output to an input, each "node" or "node.port"."""

    source: Annotated[str, Meta(description="node or node.port")] = msgspec.field(name="from")
    to: Annotated[str, Meta(description="node or node.port")]
    policy: PolicyName | None = None
    capacity: Annotated[int, Meta(ge=1)] | None = None


class PipelineEntry(Struct, forbid_unknown_fields=True):
    """A pipeline of nodes, each a process of its own."""

    version: Version
    nodes: list[NodeEntry]
    name: str | None = None
    modules: Annotated[
        list[str], Meta(description="Python files beside this one, or dotted module names")
    ] = []
    connections: list[ConnectionEntry] = []


def _any_value(type_: type) -> dict[str, object]:
    """Say what `object`, the type of a parameter here, is in a schema: anything."""
    if type_ is not object:
        raise NotImplementedError
    return {"description": "any plain value"}


def json_schema() -> dict[str, object]:
    """Return the JSON schema of pipeline files."""
    schema = msgspec.json.schema(PipelineEntry, schema_hook=_any_value)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "remotemedia pipeline",
        **schema,
    }


def option_problems(config: NodeConfig) -> list[tuple[str, str, str]]:
    """Return what is wrong with the options of a node, as (option, problem, suggestion).

    Options that were read from a file are right already; those given in Python may be anything.
    """
    problems = []
    for field in _options():
        value = getattr(config, field.name)
        problem = value_problem(value, field.type)
        found = f"it is a {type(value).__name__}; it must be"
        if field.name == "executor" and isinstance(value, Mapping):
            # It comes right after the id, where `add_node` takes parameters.
            problems.append((field.name, f"{found} a name", "did you mean config=?"))
        elif field.name == "restart" and not isinstance(value, Restart):
            problems.append((field.name, f"{found} a Restart", 'such as Restart("on_failure")'))
        elif problem is not None:
            problems.append((field.name, *problem))
        else:
            problems += [(field.name, text, "") for text in _text_problems(value)]
    return problems


@cache
def _options() -> tuple[msgspec.structs.FieldInfo, ...]:
    fields = msgspec.structs.fields(NodeEntry)
    return tuple(field for field in fields if field.name not in ("id", "node_type", "params"))


def _text_problems(value: object) -> list[str]:
    """Return why no process can be started with an option: a text, or variables."""
    if isinstance(value, str):
        problem = text_problem(value)
        return [f"it {problem}"] if problem else []
    variables = value.items() if isinstance(value, Mapping) else ()
    return [problem for name, text in variables if (problem := variable_problem(name, text))]


def value_problem(value: object, type_: object) -> tuple[str, str] | None:
    """Return what is wrong with a value and what was meant, None if it is right."""
    try:
        msgspec.convert(value, type_, from_attributes=True)
    except msgspec.ValidationError as error:
        text = str(error)
        for word, meaning in _WORDS.items():
            text = text.replace(f"`{word}`", meaning)
        text = text.replace("`", "'").replace(f"matching regex '{ID_PATTERN}'", f"of {ID_RULE}")
        return wrong_choice(value, type_) or (text[:1].lower() + text[1:], "")
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
