"""`remotemedia validate`: everything that is wrong with a pipeline file."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from remotemedia.cli.failure import INVALID
from remotemedia.cli.installed import not_installed
from remotemedia.cli.loading import checked, settings_option
from remotemedia.cli.wording import json_text, plural

if TYPE_CHECKING:
    from remotemedia.errors import Finding

__all__ = ["validate"]


@click.command(short_help="Say everything that is wrong with a pipeline.")
@click.argument("file")
@settings_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate(file: str, settings: tuple[str, ...], as_json: bool) -> int:
    """Say everything that is wrong with the pipeline FILE; nothing is started.

    Modules that it names are imported, as `run` would. Exit codes: 0 it can run, 2 it cannot.
    What is right and only not installed here is warned of, with exit code 0.
    """
    from remotemedia.errors import PipelineError

    findings: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    summary = ""
    try:
        pipeline = checked(file, settings)
        counts = (
            plural(len(pipeline.nodes), "node"),
            plural(len(pipeline.connections), "connection"),
        )
        summary = f"{file}: ok, {counts[0]}, {counts[1]}"
        warnings = tuple(not_installed(pipeline))
    except PipelineError as error:
        findings = error.findings
    if as_json:
        found = {
            "findings": [asdict(finding) for finding in findings],
            "warnings": [asdict(warning) for warning in warnings],
        }
        click.echo(json_text({"file": file, "ok": not findings, **found}))
    elif not findings:
        click.echo(summary)
    told = {""}
    for finding in () if as_json else (*findings, *warnings):
        line = "" if finding.line is None else f"{finding.line}:"
        mark = "" if findings else "warning: "
        click.echo(f"{file}:{line} {finding.where}: {mark}{finding.problem}", err=True)
        if finding.suggestion not in told:
            told.add(finding.suggestion)
            click.echo(f"    {finding.suggestion}", err=True)
    if findings:
        click.get_current_context().exit(INVALID)
    return 0
