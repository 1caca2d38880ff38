"""Pipeline files as commands take them: read, changed by `--set`, validated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from remotemedia.cli.failure import INVALID, Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from remotemedia.core.pipeline import Pipeline
    from remotemedia.core.validation import ValidatedPipeline
    from remotemedia.errors import Finding

__all__ = ["checked", "load", "with_settings"]

EXECUTORS = ("python", "inline")


def load(file: str, settings: Iterable[str] = ()) -> ValidatedPipeline:
    """Read a pipeline file, change parameters, and validate it.

    Raises:
        Failure: it cannot run as written, with everything that is wrong.
    """
    from remotemedia.core.pipeline_file import load_pipeline
    from remotemedia.errors import PipelineError

    try:
        return checked(with_settings(load_pipeline(file), settings))
    except PipelineError as error:
        text = str(error) if error.pipeline == file else f"{file}: {error}"
        raise Failure(text, INVALID) from error


def checked(pipeline: Pipeline) -> ValidatedPipeline:
    """Validate a pipeline for the command line, which has no limit of processes.

    Raises:
        PipelineError: with everything that is wrong.
    """
    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.validation import validate

    limits = MultiprocessConfig(max_processes_per_session=None)
    return validate(pipeline, limits=limits, executors=EXECUTORS)


def with_settings(pipeline: Pipeline, settings: Iterable[str]) -> Pipeline:
    """Return a pipeline with parameters changed.

    Args:
        pipeline: as it was read.
        settings: "node.param=value", the value as YAML.

    Raises:
        Failure: one is not of that form, or there is no such node.
    """
    from remotemedia.core.pipeline import Pipeline

    changes = dict(_parsed(one, pipeline) for one in settings)
    changed = Pipeline(pipeline.name, modules=pipeline.modules, folder=pipeline.folder)
    changed.lines = pipeline.lines
    for node in pipeline.nodes:
        mine = {param: value for (id_, param), value in changes.items() if id_ == node.node_id}
        changed.add_node(replace(node, config={**node.config, **mine}))
    for connection in pipeline.connections:
        changed.connect(connection)
    return changed


def _parsed(setting: str, pipeline: Pipeline) -> tuple[tuple[str, str], object]:
    from remotemedia.core.document import Syntax, parse_yaml
    from remotemedia.core.findings import suggested

    key, equals, text = setting.partition("=")
    node_id, dot, param = key.rpartition(".")
    if not equals or not dot or not param:
        raise Failure(f"--set {setting!r} must be node.param=value", INVALID)
    ids = [node.node_id for node in pipeline.nodes]
    if node_id not in ids:
        hint = suggested(node_id, ids)
        raise Failure(f"--set {setting!r}: there is no node {node_id!r} ({hint})", INVALID)
    findings: list[Finding] = []
    try:
        value = parse_yaml(text, findings).plain() if text else ""
    except Syntax as error:
        findings.append(error.finding)
    if findings:
        problem = findings[0].problem
        raise Failure(f"--set {setting!r}: the value is no YAML: {problem}", INVALID)
    return (node_id, param), value
