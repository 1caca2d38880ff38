"""`remotemedia validate`: everything that is wrong with a pipeline file."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from remotemedia.cli.failure import INVALID
from remotemedia.cli.loading import checked
from remotemedia.cli.wording import plural

__all__ = ["validate"]


@click.command(short_help="Say everything that is wrong with a pipeline.")
@click.argument("file")
@click.option("--set", "settings", multiple=True, metavar="NODE.PARAM=VALUE", help="Change one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate(file: str, settings: tuple[str, ...], as_json: bool) -> int:
    """Say everything that is wrong with the pipeline FILE; nothing is started.

    Modules that it names are imported, as `run` would. Exit codes: 0 it can run, 2 it cannot.
    """
    from remotemedia.errors import Finding, PipelineError

    findings: tuple[Finding, ...] = ()
    summary = ""
    try:
        pipeline = checked(file, settings)
        counts = (
            plural(len(pipeline.nodes), "node"),
            plural(len(pipeline.connections), "connection"),
        )
        summary = f"{file}: ok, {counts[0]}, {counts[1]}"
    except PipelineError as error:
        findings = error.findings
    if as_json:
        found = [asdict(finding) for finding in findings]
        click.echo(json.dumps({"file": file, "ok": not findings, "findings": found}))
    elif not findings:
        click.echo(summary)
    for finding in () if as_json else findings:
        line = "" if finding.line is None else f"{finding.line}:"
        click.echo(f"{file}:{line} {finding.where}: {finding.problem}", err=True)
        if finding.suggestion:
            click.echo(f"    {finding.suggestion}", err=True)
    if findings:
        click.get_current_context().exit(INVALID)
    return 0
