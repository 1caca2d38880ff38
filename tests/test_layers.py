"""Imports point down: the layers of `docs/architecture.md`, read from the import statements."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parent.parent / "src" / "remotemedia"
MP = "core.multiprocess"
# The first prefix that fits counts.
LAYERS: tuple[tuple[str, int], ...] = (
    ("data", 0),
    *((f"{MP}.{name}", 0) for name in ("config", "states", "plan", "control", "events", "exits")),
    *((f"{MP}.{name}", 1) for name in ("transport", "spawner", "lifeline", "process", "handle")),
    *((f"{MP}.{name}", 1) for name in ("spec", "output", "leftovers")),
    (f"{MP}.channel", 2),
    *((f"{MP}.{name}", 3) for name in ("wiring", "launch", "node_process", "exchange", "session")),
    (f"{MP}.runner", 3),
    (f"{MP}.executor", 4),
    ("core.runtime", 5),
    ("core", 0),
)


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """Modules that are imported when the code runs: not those for type checkers alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)


def layer_of(module: str) -> int | None:
    for prefix, layer in LAYERS:
        if module == prefix or module.startswith(f"{prefix}."):
            return layer
    return None


def test_no_module_imports_from_a_layer_above_its_own() -> None:
    wrong = [
        f"{name} (layer {layer}) imports {target} (layer {above})"
        for name, tree in modules()
        if (layer := layer_of(name)) is not None
        for target in imports(tree)
        if target.startswith("remotemedia.")
        and (above := layer_of(target.removeprefix("remotemedia."))) is not None
        and above > layer
    ]
    assert not wrong, "\n".join(wrong)


def test_one_module_alone_imports_the_transport_library() -> None:
    importers = [name for name, tree in modules() if "iceoryx2" in set(imports(tree))]
    assert importers == [f"{MP}.transport.iceoryx"]


def test_the_spawner_imports_the_standard_library_alone() -> None:
    ((_, tree),) = (one for one in modules() if one[0] == f"{MP}.spawner")
    tops = {name.partition(".")[0] for name in imports(tree)}
    assert tops <= sys.stdlib_module_names


@pytest.mark.parametrize("module", ["remotemedia", "remotemedia.data", f"remotemedia.{MP}.plan"])
def test_what_a_node_needs_loads_nothing_of_what_only_the_parent_needs(module: str) -> None:
    heavy = ("asyncio", "typer", "rich", "anyio", "yaml", "iceoryx2", "torch")
    code = f"import sys, {module}; print([one for one in {heavy} if one in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
