"""`remotemedia graph`: a picture of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from remotemedia.cli.failure import FAILED, INVALID, Failure
from remotemedia.cli.loading import load, settings_option
from remotemedia.cli.wording import json_text

if TYPE_CHECKING:
    from remotemedia.core.validation import SessionPort, ValidatedConnection, ValidatedPipeline

__all__ = ["graph", "mermaid"]


@click.command(short_help="Draw a pipeline, here or as Mermaid.")
@click.argument("file")
@click.option("--mermaid", "as_mermaid", is_flag=True, help="Print it as a Mermaid flowchart.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@settings_option
def graph(file: str, settings: tuple[str, ...], as_mermaid: bool, as_json: bool) -> None:
    """Draw the pipeline FILE, here or as Mermaid; nothing is started.

    The exit code is 2 where it cannot run: `validate` says all that is wrong. It is 1 where a
    picture would be too large to look at.
    """
    if as_mermaid and as_json:
        raise Failure("--mermaid and --json cannot both be given", INVALID)
    pipeline = load(file, settings)
    if as_json:
        click.echo(json_text(_as_data(pipeline)))
        return
    if as_mermaid:
        click.echo(mermaid(pipeline))
        return
    from remotemedia.cli.picture import TooLarge, Vertex, draw

    vertices = {
        **{f"input {one}": Vertex(("input", str(one)), is_box=False) for one in pipeline.inputs},
        **{one.node_id: Vertex((one.node_id, one.type.name)) for one in pipeline.nodes},
        **{f"output {one}": Vertex(("output", str(one)), is_box=False) for one in pipeline.outputs},
    }
    edges = [
        *((f"input {one}", one.node_id) for one in pipeline.inputs),
        *((one.from_node, one.to_node) for one in pipeline.connections if not one.is_feedback),
        *((one.node_id, f"output {one}") for one in pipeline.outputs),
    ]
    try:
        click.echo(draw(vertices, edges))
    except TooLarge as error:
        raise Failure(f"{error}; --mermaid prints it as a flowchart", FAILED) from error
    click.echo()
    for line in _connection_lines(pipeline):
        click.echo(line)


def _connection_lines(pipeline: ValidatedPipeline) -> list[str]:
    rows = []
    for one in pipeline.connections:
        back = ", leads back: not drawn" if one.is_feedback else ""
        rows.append((str(one), " or ".join(_kinds(one)), f"{_policy(one)}{back}"))
    widths = [max((len(row[n]) for row in rows), default=0) for n in range(2)]
    return [f"{name:{widths[0]}}  {kinds:{widths[1]}}  {policy}" for name, kinds, policy in rows]


def _as_data(pipeline: ValidatedPipeline) -> dict[str, object]:
    def ports(ends: tuple[SessionPort, ...]) -> list[dict[str, object]]:
        return [{"name": str(one), "kinds": one.port.kinds} for one in ends]

    return {
        "pipeline": pipeline.name,
        "nodes": [
            {"id": one.node_id, "node_type": one.type.name, "params": one.config.config}
            for one in pipeline.nodes
        ],
        "connections": [
            {
                "from": f"{one.from_node}.{one.from_port.name}",
                "to": f"{one.to_node}.{one.to_port.name}",
                "kinds": _kinds(one),
                "policy": one.policy,
                "capacity": one.capacity,
                "leads_back": one.is_feedback,
            }
            for one in pipeline.connections
        ],
        "inputs": ports(pipeline.inputs),
        "outputs": ports(pipeline.outputs),
    }


def _kinds(one: ValidatedConnection) -> list[str]:
    return [kind for kind in one.from_port.kinds if kind in one.to_port.kinds]


def _policy(one: ValidatedConnection) -> str:
    return one.policy if one.policy == "latest" else f"{one.policy} {one.capacity}"


def mermaid(pipeline: ValidatedPipeline) -> str:
    """Return a pipeline as a Mermaid flowchart."""
    names = {node.node_id: f"n{number}" for number, node in enumerate(pipeline.nodes)}
    lines = ["flowchart LR"]
    lines += [
        f'    {names[node.node_id]}["{_quoted(node.node_id)}<br/>{_quoted(node.type.name)}"]'
        for node in pipeline.nodes
    ]
    for number, end in enumerate(pipeline.inputs):
        label = _quoted(f"{end.port.name}: {' or '.join(end.port.kinds)}")
        lines.append(f'    in{number}(["input"]) -->|"{label}"| {names[end.node_id]}')
    for one in pipeline.connections:
        # What may lose messages is dashed.
        arrow = "-->" if one.policy in ("block", "error") else "-.->"
        label = _quoted(f"{one.from_port.name} to {one.to_port.name}: {_policy(one)}")
        lines.append(f'    {names[one.from_node]} {arrow}|"{label}"| {names[one.to_node]}')
    for number, end in enumerate(pipeline.outputs):
        label = _quoted(f"{end.port.name}: {' or '.join(end.port.kinds)}")
        lines.append(f'    {names[end.node_id]} -->|"{label}"| out{number}(["output"])')
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """Escape what Mermaid would read, its own way ("Entity codes" in its documentation)."""
    return "".join(char if char.isalnum() or char in " .:_-" else f"#{ord(char)};" for char in text)
