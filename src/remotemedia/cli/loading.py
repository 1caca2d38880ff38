"""Pipeline files as commands take them: read, changed by `--set`, validated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from remotemedia.cli.failure import INVALID, Failure

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from remotemedia.core.pipeline import Pipeline
    from remotemedia.core.validation import ValidatedPipeline
    from remotemedia.errors import Finding

__all__ = ["checked", "load", "settings_option"]

EXECUTORS = ("python", "inline")

settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NODE.PARAM=VALUE",
    help="Change a parameter; the value is YAML. May be given several times.",
)
"""What every command has that reads a pipeline."""


def load(file: str, settings: Iterable[str] = ()) -> ValidatedPipeline:
    """Read a pipeline file, change parameters, and validate it.

    Raises:
        Failure: it cannot run as written, with everything that is wrong.
    """
    from remotemedia.errors import PipelineError

    try:
        return checked(file, settings)
    except PipelineError as error:
        raise Failure(str(error), INVALID) from error


def checked(file: str, settings: Iterable[str] = ()) -> ValidatedPipeline:
    """Read and validate a pipeline for the command line, which has no limit of processes.

    Raises:
        PipelineError: with everything that is wrong: with the file, and with what it says.
        Failure: a setting is wrong.
    """
    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.pipeline_file import read_pipeline
    from remotemedia.core.validation import validate
    from remotemedia.errors import PipelineError

    reading = read_pipeline(file)
    if not reading.is_checkable:
        raise PipelineError(file, reading.findings)
    pipeline = _with_settings(reading.pipeline, settings, reading.unread)
    limits = MultiprocessConfig(max_processes_per_session=None)
    try:
        valid = validate(pipeline, limits=limits, executors=EXECUTORS, unread=reading.unread)
    except PipelineError as error:
        found = [*reading.findings, *error.findings]
        ordered = sorted(found, key=lambda finding: finding.line or 0)
        raise PipelineError(file, tuple(ordered)) from error
    if reading.findings:
        raise PipelineError(file, reading.findings)
    return valid


def _with_settings(
    pipeline: Pipeline, settings: Iterable[str], unread: Collection[str] = ()
) -> Pipeline:
    """Return a pipeline with parameters changed.

    Args:
        pipeline: as it was read.
        settings: "node.param=value", the value as YAML.
        unread: ids of nodes that could not be read; settings of those change nothing.

    Raises:
        Failure: one is not of that form, or there is no such node.
    """
    from remotemedia.core.pipeline import Pipeline

    ids = [*(node.node_id for node in pipeline.nodes), *unread]
    changes = dict(_parsed(one, ids) for one in settings)
    changed = Pipeline(pipeline.name, modules=pipeline.modules, folder=pipeline.folder)
    changed.lines = pipeline.lines
    for node in pipeline.nodes:
        mine = {param: value for (id_, param), value in changes.items() if id_ == node.node_id}
        changed.add_node(replace(node, config={**node.config, **mine}))
    for connection in pipeline.connections:
        changed.connect(connection)
    return changed


def _parsed(setting: str, ids: Collection[str]) -> tuple[tuple[str, str], object]:
    from remotemedia.core.document import Syntax, parse_yaml
    from remotemedia.core.findings import suggested

    key, equals, text = setting.partition("=")
    node_id, dot, param = key.rpartition(".")
    if not equals or not dot or not param:
        raise Failure(f"--set {setting!r} must be node.param=value", INVALID)
    if node_id not in ids:
        hint = suggested(node_id, ids)
        raise Failure(f"--set {setting!r}: there is no node {node_id!r} ({hint})", INVALID)
    findings: list[Finding] = []
    try:
        value = parse_yaml(text, findings).plain() if text else ""
    except Syntax as error:
        findings.append(error.finding)
    if findings:
        problem = findings[0].problem.removeprefix("this is no YAML: ")
        raise Failure(f"--set {setting!r}: the value is no YAML: {problem}", INVALID)
    return (node_id, param), value
