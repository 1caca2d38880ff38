"""`remotemedia nodes`: the node types there are, and what one of them takes and sends."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remotemedia.cli.docstring import described
from remotemedia.cli.failure import INVALID, Failure
from remotemedia.cli.wording import json_text
from remotemedia.nodes.extras import extra_of

if TYPE_CHECKING:
    from remotemedia.core.describe import NodeTarget, NodeType, Port
    from remotemedia.core.registry import NodeTypeNotFound, Registry

__all__ = ["nodes"]

MAX_FIRST_COLUMN = 32
MIN_SECOND_COLUMN = 30


@click.command(short_help="List node types, or show one.")
@click.argument("name", required=False)
@click.option(
    "-m",
    "--module",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="A Python file or dotted name to look into too, as `modules` of a pipeline file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON value.")
def nodes(name: str | None, modules: tuple[str, ...], as_json: bool) -> None:
    """List the node types, or show ports and parameters of the one called NAME."""
    registry = _registry(modules)
    if name is None:
        _list(registry, as_json=as_json)
    else:
        target, about = _find(registry, name)
        click.echo(json_text(_as_data(target, about)) if as_json else _page(target, about))


def _registry(modules: tuple[str, ...]) -> Registry:
    from remotemedia.core.registry import Registry, default_registry

    registry = Registry(default_registry)
    for module in modules:
        try:
            registry.load_module(module, Path.cwd())
        except (ImportError, ValueError) as error:
            raise Failure(f"the module {module!r} cannot be imported: {error}", INVALID) from error
    return registry


def _not_found(name: str, error: NodeTypeNotFound, registry: Registry) -> str:
    """Say what is wrong with a name; modules are named otherwise here than in a pipeline."""
    from remotemedia.core.registry import module_key

    module, colon, qualname = name.partition(":")
    key = module_key(module)
    is_of_module = bool(colon) or module != key
    is_loaded = any(known.startswith(f"{key}:") for known in registry.names())
    if not is_of_module or is_loaded or error.suggestion.startswith("did you mean"):
        return str(error)
    file = module if module != key else f"{key}.py"
    shown = f" {key}:{qualname}" if qualname else ""
    return (
        f"the module {module!r} is not looked into: remotemedia nodes -m {file}{shown} does, also "
        f"with a dotted name"
    )


def _find(registry: Registry, name: str) -> tuple[NodeTarget, NodeType]:
    from dataclasses import replace

    from remotemedia.core.describe import describe
    from remotemedia.core.registry import NodeTypeNotFound
    from remotemedia.errors import NodeDefinitionError

    try:
        target = registry.find(name)
        return target, replace(describe(target), name=name)
    except NodeTypeNotFound as error:
        raise Failure(_not_found(name, error, registry), INVALID) from error
    except NodeDefinitionError as error:
        raise Failure(str(error), INVALID) from error


def _list(registry: Registry, *, as_json: bool) -> None:
    rows: list[tuple[str, str, str | None]] = []
    for name in registry.names():
        try:
            target, about = _find(registry, name)
            rows.append((name, about.doc, _missing_extra(target)))
        except Failure as error:
            rows.append((name, f"cannot be used: {error.message}", None))
    if as_json:
        keys = ("name", "doc", "missing_extra")
        click.echo(json_text([dict(zip(keys, row, strict=True)) for row in rows]))
        return
    width = max((len(name) for name, *_ in rows), default=0)
    for name, doc, extra in rows:
        hint = f"(extra {extra}, not installed)" if extra else ""
        click.echo(f"{name:{width}}  {' '.join(filter(None, (doc, hint)))}".rstrip())
    click.echo("\nremotemedia nodes NAME shows ports and parameters.", err=True)


def _missing_extra(target: NodeTarget) -> str | None:
    """Return the extra that a node type needs and that is not installed, None if there is none."""
    extra = extra_of(target)
    return extra.name if extra is not None and extra.missing else None


def _page(target: NodeTarget, about: NodeType) -> str:
    doc = described(inspect.getdoc(target) or "" if target.__doc__ else "")
    lines = [about.name, *([""] if doc.text else []), *doc.text.splitlines()]
    extra = extra_of(target)
    if extra is not None and extra.missing:
        lines += ["", f"needs the extra {extra.name}, not installed: {extra.install}"]
    for title, ports in (("inputs", about.inputs), ("outputs", about.outputs)):
        lines += ["", title, *_aligned([_port_row(port) for port in ports] or [("none", "")])]
    lines += ["", "parameters"]
    rows = []
    for one in about.parameters:
        type_ = f": {one.type}" if one.type else ""
        default = "" if one.default is None else f" = {one.default}"
        said = doc.arguments.get(one.name, "")
        rows.append((f"{one.name}{type_}{default}", said if default else f"{said} (required)"))
    if about.accepts_any_parameter:
        rows.append(("...", "any others"))
    lines += _aligned(rows or [("none", "")])
    return "\n".join(lines)


def _port_row(port: Port) -> tuple[str, str]:
    limits = []
    if port.capacity is not None:
        limits.append(f"holds {port.capacity}")
    if port.max_message_bytes is not None:
        limits.append(f"messages of at most {port.max_message_bytes:,} bytes")
    return port.name, "  ".join([" | ".join(port.kinds), ", ".join(limits)]).rstrip()


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    """Return rows of two columns; what is long goes below its first column."""
    width = max((len(first) for first, _ in rows if len(first) <= MAX_FIRST_COLUMN), default=0)
    room = max(MIN_SECOND_COLUMN, shutil.get_terminal_size((100, 24)).columns - width - 4)
    lines = []
    for first, second in rows:
        parts = textwrap.wrap(second, room)
        if len(first) > width:
            lines.append(f"  {first}")
        else:
            lines.append(f"  {first:{width}}  {parts.pop(0) if parts else ''}".rstrip())
        lines += [f"  {'':{width}}  {part}" for part in parts]
    return lines


def _as_data(target: NodeTarget, about: NodeType) -> dict[str, object]:
    doc = described(inspect.getdoc(target) or "" if target.__doc__ else "")
    return {
        "name": about.name,
        "doc": doc.text,
        "missing_extra": _missing_extra(target),
        "is_async": about.is_async,
        **{
            title: [{"name": port.name, "kinds": port.kinds} for port in ports]
            for title, ports in (("inputs", about.inputs), ("outputs", about.outputs))
        },
        "parameters": [
            {
                "name": one.name,
                "type": one.type,
                "default": one.default,
                "doc": doc.arguments.get(one.name, ""),
            }
            for one in about.parameters
        ],
    }
