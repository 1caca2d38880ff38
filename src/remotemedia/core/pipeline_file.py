"""Pipelines as YAML or JSON files.

    version: v1
    name: voice-assistant
    modules: [my_nodes.py]
    nodes:
      - {id: vad, node_type: silero_vad, params: {threshold: 0.5}}
      - {id: asr, node_type: my_nodes:Whisper, params: {model: tiny.en}}
    connections:
      - {from: vad.speech, to: asr, policy: block, capacity: 8}

`pipeline_schema` is the format; this module reads it so that each mistake is found by its line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from remotemedia.core.document import Located, Syntax, parse_json, parse_yaml
from remotemedia.core.findings import TWO_OF_ID, suggested
from remotemedia.core.pipeline import Connection, NodeConfig, Pipeline, Restart
from remotemedia.core.pipeline_schema import (
    ConnectionEntry,
    NodeEntry,
    PipelineEntry,
    RestartEntry,
    value_problem,
)
from remotemedia.errors import Finding, PipelineError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Reading", "load_pipeline", "parse_pipeline", "read_pipeline"]

MAX_FILE_BYTES = 1024 * 1024

_OTHER_WORDS = {
    "config": "params",
    "args": "params",
    "name": "id",
    "class": "node_type",
    "source": "from",
    "src": "from",
    "target": "to",
    "dst": "to",
    "edges": "connections",
}
"""What keys are called elsewhere, where no likeness of the words leads to ours."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What could be read of a pipeline file.

    Attributes:
        pipeline: what is right as far as a file's format goes.
        findings: what is wrong, by line.
        unread: ids of nodes that are in the file and not in `pipeline`, for what is wrong there.
        is_checkable: whether `pipeline` can be validated; what is missing in it would have too
            many consequences otherwise.
    """

    pipeline: Pipeline
    findings: tuple[Finding, ...]
    unread: frozenset[str] = frozenset()
    is_checkable: bool = True


def load_pipeline(path: str | Path) -> Pipeline:
    """Read a pipeline file; nothing is imported or started.

    Args:
        path: a .json file, or YAML by any other name. Its `modules` are relative to its folder.

    Raises:
        PipelineError: the file cannot be read or is no pipeline, with everything that is wrong.
    """
    return _without_findings(read_pipeline(path), str(path))


def read_pipeline(path: str | Path) -> Reading:
    """Read as much of a pipeline file as there is; otherwise as `load_pipeline`.

    Raises:
        PipelineError: the file cannot be read, or is neither YAML nor JSON.
    """
    path = Path(path)
    if path.suffix == ".py":
        hint = f"start it with python {path}, or name it in the `modules` of a pipeline file"
        raise PipelineError(str(path), (Finding("file", "is Python, not YAML or JSON", hint),))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        finding = Finding("file", f"cannot be read: {error.strerror or error}")
        raise PipelineError(str(path), (finding,)) from error
    except UnicodeDecodeError as error:
        raise PipelineError(str(path), (Finding("file", "is no UTF-8 text"),)) from error
    if len(content) > MAX_FILE_BYTES:
        problem = f"is larger than {MAX_FILE_BYTES:,} bytes"
        raise PipelineError(str(path), (Finding("file", problem),))
    return _read(text, str(path), is_json=path.suffix == ".json", folder=path.parent)


def parse_pipeline(
    text: str, name: str, *, is_json: bool = False, folder: Path | None = None
) -> Pipeline:
    """Read the text of a pipeline file.

    Args:
        text: the file.
        name: what to call it in errors.
        is_json: whether it is JSON; else it is YAML.
        folder: what `modules` is relative to.

    Raises:
        PipelineError: it is no pipeline, with everything that is wrong, by line.
    """
    return _without_findings(_read(text, name, is_json=is_json, folder=folder), name)


def _without_findings(reading: Reading, name: str) -> Pipeline:
    if reading.findings:
        raise PipelineError(name, reading.findings)
    return reading.pipeline


def _read(text: str, name: str, *, is_json: bool, folder: Path | None) -> Reading:
    findings: list[Finding] = []
    try:
        root = (parse_json if is_json else parse_yaml)(text, findings)
    except Syntax as error:
        raise PipelineError(name, (error.finding,)) from error
    reader = _Reader(findings)
    pipeline = reader.pipeline(root, Path(name).stem, folder)
    ordered = sorted(findings, key=lambda finding: finding.line or 0)
    return Reading(pipeline, tuple(ordered), frozenset(reader.unread), reader.is_checkable)


class _Reader:
    """Reads entries field by field, so that one mistake does not hide the next."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        self.unread: set[str] = set()
        self.is_checkable = True

    def pipeline(self, root: Located, name: str, folder: Path | None) -> Pipeline:
        fields, lost = self.fields(root, PipelineEntry, "pipeline")
        self.is_checkable = not lost & {"nodes", "modules"}
        given = fields.get("name")
        modules = fields.get("modules", [])
        pipeline = Pipeline(
            given if isinstance(given, str) else name,
            modules=tuple(modules) if isinstance(modules, list) else (),
            folder=folder,
        )
        readers = {"nodes": self.node, "connections": self.connection}
        lines: dict[tuple[str | int, ...], int] = {(): root.line}
        for key, item in _items(root).items():
            if key not in readers:
                lines.update(_lines(item, (key,)))
            lines[key,] = root.key_lines[key]
        for key, read in readers.items():
            index = 0  # in the pipeline, where what cannot be read is left out
            for where, entry in self.entries(root, key):
                if read(entry, where, pipeline):
                    lines.update(_lines(entry, (key, index)))
                    index += 1
        pipeline.lines = lines
        return pipeline

    def node(self, entry: Located, place: str, pipeline: Pipeline) -> bool:
        """Add a node; False if it cannot be."""
        fields, lost = self.fields(entry, NodeEntry, place)
        restart = _items(entry).get("restart")
        if restart is not None and isinstance(restart.value, dict):
            fields["restart"] = self.fields(restart, RestartEntry, f"{place}, restart")[0]
        if "id" in lost:
            self.is_checkable = False  # connections would seem to lead nowhere
            return False
        if lost & {"node_type", "params"}:
            id_ = str(fields["id"])
            if id_ in self.unread:
                problem, hint = TWO_OF_ID
                self.find(place, problem, entry.line, hint)
            self.unread.add(id_)
            return False
        node = msgspec.convert(fields, NodeEntry)
        pipeline.add_node(_config(node))
        return True

    def connection(self, entry: Located, place: str, pipeline: Pipeline) -> bool:
        """Add a connection; False if it cannot be."""
        fields, lost = self.fields(entry, ConnectionEntry, place)
        if lost & {"from", "to"}:
            return False
        line = msgspec.convert(fields, ConnectionEntry)
        pipeline.connect(Connection(line.source, None, line.to, None, line.policy, line.capacity))
        return True

    def entries(self, root: Located, key: str) -> list[tuple[str, Located]]:
        """Return the entries of a list with a place to name each by."""
        listed = _items(root).get(key)
        if listed is None or not isinstance(listed.value, list):
            return []
        places = []
        for index, entry in enumerate(listed.value):
            items = _items(entry)
            place = f"{key}[{index}]"
            if key == "nodes" and (id_ := items.get("id")) is not None:
                place = f"node {id_.value!r}"
            elif (source := items.get("from")) is not None and (to := items.get("to")) is not None:
                place = f"connection {source.plain()} -> {to.plain()}"
            places.append((place, entry))
        return places

    def fields(
        self, entry: Located, type_: type[msgspec.Struct], place: str
    ) -> tuple[dict[str, object], set[str]]:
        """Read a mapping; what does not fit the fields of `type_` is found.

        Lists of entries are left to `entries`.

        Returns:
            The plain values that fit, and the fields that were meant or needed and have none.
        """
        known = {field.encode_name: field for field in msgspec.structs.fields(type_)}
        if not isinstance(entry.value, dict):
            needed = ", ".join(f"{name}: ..." for name, one in known.items() if one.required)
            is_empty = entry.value is None and type_ is PipelineEntry
            said = "it is empty" if is_empty else "must be a mapping of keys to values"
            self.find(place, said, entry.line, f"write {needed}")
            return {}, set(known)
        values: dict[str, object] = {}
        meant: set[str] = set()  # by a key that is misspelt, or has a wrong value
        for key, item in entry.value.items():
            line = entry.key_lines[key]
            if key not in known:
                other = _OTHER_WORDS.get(key)
                hint = f"did you mean {other!r}?" if other in known else suggested(key, known)
                meant.update(name for name in known if hint == f"did you mean {name!r}?")
                start, colon, rest = key.partition(":")
                if colon and start in known:
                    meant.add(start)
                    hint = f"put a space behind the colon: '{start}: {rest}'"
                self.find(f"{place}, key {key!r}", "unknown key", line, hint)
                continue
            value = item.plain()
            is_nested = key in ("nodes", "connections", "restart") and value is not None
            expected = {"restart": dict}.get(key, list) if is_nested else known[key].type
            problem = value_problem(value, expected)
            if problem is None:
                values[key] = value
            else:
                meant.add(key)
                may_lack = value is None and not known[key].required
                hint = problem[1] or ("leave the key out" if may_lack else "")
                if isinstance(value, str) and problem[0].startswith("expected a list"):
                    hint = f"write [{value}]"
                self.find(f"{place}, key {key!r}", problem[0], line, hint)
        for key, field in known.items():
            if field.required and key not in entry.value and key not in meant:
                meant.add(key)
                self.find(place, f"the key {key!r} is missing", entry.line)
        return values, meant - values.keys()

    def find(self, where: str, problem: str, line: int, suggestion: str = "") -> None:
        self.findings.append(Finding(where, problem, suggestion, line))


def _items(entry: Located) -> Mapping[str, Located]:
    return entry.value if isinstance(entry.value, dict) else {}


def _lines(
    located: Located, place: tuple[str | int, ...]
) -> list[tuple[tuple[str | int, ...], int]]:
    """Return the line of everything down to the parameters of nodes, by the way to it."""
    lines = [(place, located.line)]
    if len(place) < 4 and isinstance(located.value, dict):
        for key, item in located.value.items():
            lines += _lines(item, (*place, key))
            lines.append(((*place, key), located.key_lines[key]))
    elif len(place) < 4 and isinstance(located.value, list):
        for index, item in enumerate(located.value):
            lines += _lines(item, (*place, index))
    return lines


def _config(entry: NodeEntry) -> NodeConfig:
    restart = entry.restart or RestartEntry()
    return NodeConfig(
        node_type=entry.node_type,
        node_id=entry.id,
        executor=entry.executor,
        config=entry.params,
        python_executable=entry.python_executable,
        environment=entry.environment,
        inherit_environment=entry.inherit_environment,
        working_directory=entry.working_directory,
        cpu_affinity=None if entry.cpu_affinity is None else tuple(entry.cpu_affinity),
        memory_limit_bytes=entry.memory_limit_bytes,
        cuda_visible_devices=entry.cuda_visible_devices,
        restart=Restart(
            restart.policy, restart.max_restarts, restart.window_seconds, restart.backoff_seconds
        ),
        on_error=entry.on_error,
        stall_timeout_seconds=entry.stall_timeout_seconds,
    )
