"""Who may import whom: down only, as read from the import statements."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import remotemedia

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(remotemedia.__file__).parent
MULTIPROCESS = "core.multiprocess"
TOP = 9

# The longest prefix of a module's name decides. Whatever lies in `core/multiprocess/` must be here.
LAYERS = {
    "": TOP,  # the package, whose names are loaded when they are used, and its command line
    "errors": 0,
    "data": 0,
    "core": 0,
    "core.runtime": TOP,
    "core.loop_thread": TOP,
    **{
        f"{MULTIPROCESS}.{name}": 0
        for name in ("config", "states", "plan", "control", "events", "native")
    },
    f"{MULTIPROCESS}.transport": 1,
    **{
        f"{MULTIPROCESS}.{name}": 1
        for name in (
            "spawner",
            "process_manager",
            "spec",
            "lifeline",
            "stdio",
            "leftovers",
            "orphans",
            "process_handle",
        )
    },
    f"{MULTIPROCESS}.exits": 0,
    f"{MULTIPROCESS}.channel": 2,
    **{
        f"{MULTIPROCESS}.{name}": 3
        for name in (
            "wiring",
            "flow",
            "tally",
            "launch",
            "watchdog",
            "control_link",
            "diagnosis",
            "owner",
            "node_process",
            "parts",
            "losses",
            "inputs",
            "claims",
            "exchange",
            "ending",
            "restarting",
            "supervisor",
            "additions",
            "session",
            "runner",
        )
    },
    f"{MULTIPROCESS}.by_hand": 4,
    f"{MULTIPROCESS}.executor": 4,
}


class Import(NamedTuple):
    """One import statement: of what, and whether it runs when the module is loaded."""

    of: str
    at_once: bool


def name_of(path: Path) -> str:
    """The name of a module within the package."""
    return (
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip(".")
    )


MODULES = {name_of(path): path for path in SOURCE.rglob("*.py")}


def layer_of(name: str) -> int:
    """The layer of a module."""
    parts = name.split(".")
    if name != MULTIPROCESS and name.startswith(f"{MULTIPROCESS}."):
        place = ".".join(parts[:3])
        assert place in LAYERS, f"{name} has no layer: give it one here and in the documentation"
        return LAYERS[place]
    found = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((LAYERS[place] for place in found if place in LAYERS), LAYERS[""])


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a module, also those inside functions and for types alone."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")), at_once=True)


def _imports(node: ast.AST, *, at_once: bool) -> Iterator[Import]:
    for part in ast.iter_child_nodes(node):
        is_later = isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(part, ast.If) and "TYPE_CHECKING" in ast.dump(part.test)
        )
        if isinstance(part, ast.Import):
            for alias in part.names:
                yield Import(alias.name, at_once)
        elif isinstance(part, ast.ImportFrom):
            assert part.level == 0, "imports are absolute"
            module = part.module or ""
            for alias in part.names:
                full = f"{module}.{alias.name}"
                is_module = full.removeprefix("remotemedia.") in MODULES
                yield Import(full if is_module else module, at_once)
        yield from _imports(part, at_once=at_once and not is_later)


def own_imports(name: str) -> set[str]:
    """The modules of the package that a module imports."""
    wanted = (one.of for one in imports_of(MODULES[name]))
    return {of.removeprefix("remotemedia").removeprefix(".") for of in wanted if is_own(of)}


def is_own(name: str) -> bool:
    return name == "remotemedia" or name.startswith("remotemedia.")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down_only(name: str) -> None:
    above = [of for of in own_imports(name) if layer_of(of) > layer_of(name)]
    assert above == []


def test_the_data_types_know_nothing_but_each_other_and_the_errors() -> None:
    for name in MODULES:
        if name.startswith("data"):
            assert not [of for of in own_imports(name) if not of.startswith(("data", "errors"))]


def test_runner_and_executor_share_only_what_lies_below_both() -> None:
    runner = f"{MULTIPROCESS}.runner"
    for name, path in MODULES.items():
        for of in own_imports(name):
            if name.startswith(runner) and not of.startswith(runner):
                assert layer_of(of) <= 2, f"{name} imports {of}"
            elif of.startswith(runner) and not name.startswith(runner):
                # Nodes may also run in threads of the executor's process; then it is loaded.
                if name == "testing.one_node":
                    continue  # it checks what a node sends by the runner's own rules
                assert name == f"{MULTIPROCESS}.launch"
                assert Import(f"remotemedia.{of}", at_once=False) in set(imports_of(path))


def test_one_module_imports_iceoryx2() -> None:
    users = [
        name
        for name, path in MODULES.items()
        if any(one.of.split(".")[0] == "iceoryx2" for one in imports_of(path))
    ]
    assert users == [f"{MULTIPROCESS}.transport.library"]


def test_the_transport_over_iceoryx2_is_loaded_only_where_it_is_used() -> None:
    doors = {f"{MULTIPROCESS}.transport.{name}" for name in ("iceoryx", "domain")}
    inner = ("iceoryx_ends", "iceoryx_leftovers", "library")
    names = doors | {f"{MULTIPROCESS}.transport.{name}" for name in inner}
    for name in MODULES.keys() - names:
        used = own_imports(name) & names
        assert used <= doors, name
        for of in used:
            assert Import(f"remotemedia.{of}", at_once=True) not in set(imports_of(MODULES[name]))


def test_a_node_process_does_not_load_what_only_its_executor_needs() -> None:
    code = (
        "import sys, remotemedia.core.multiprocess.runner.startup, "
        "remotemedia.core.multiprocess.transport.iceoryx as _; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert not set(loaded.stdout.split()) & {
        "asyncio", "click", "difflib", "remotemedia.core.multiprocess.session", "rich", "shutil",
        "sysconfig", "tempfile", "yaml",
    }  # fmt: skip


def test_the_spawner_imports_the_standard_library_alone() -> None:
    imported = {one.of.split(".")[0] for one in imports_of(MODULES[f"{MULTIPROCESS}.spawner"])}
    assert imported <= sys.stdlib_module_names


def test_no_cycle_of_modules_is_loaded_at_once() -> None:
    needs = {
        name: {
            one.of.removeprefix("remotemedia.")
            for one in imports_of(path)
            if one.at_once and is_own(one.of)
        }
        for name, path in MODULES.items()
    }
    loaded: set[str] = set()
    while waiting := needs.keys() - loaded:
        ready = {name for name in waiting if needs[name] & needs.keys() - {name} <= loaded}
        assert ready, f"a cycle among {sorted(waiting)}"
        loaded |= ready


HEAVY = ("asyncio", "anyio", "click", "rich", "yaml", "multiprocessing", "iceoryx2")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("remotemedia", (*HEAVY, "numpy", "msgspec")),
        ("remotemedia.data", HEAVY),
        ("remotemedia.core.node", HEAVY),
        (f"remotemedia.{MULTIPROCESS}.channel.registry", HEAVY),
        (f"remotemedia.{MULTIPROCESS}.channel.endpoint", HEAVY),
        (f"remotemedia.{MULTIPROCESS}.transport.memory", HEAVY),
        (f"remotemedia.{MULTIPROCESS}.transport.iceoryx", tuple(set(HEAVY) - {"iceoryx2"})),
        (f"remotemedia.{MULTIPROCESS}.runner.startup", HEAVY),
        (f"remotemedia.{MULTIPROCESS}.runner.sync_loop", HEAVY),
    ],
)
def test_importing_loads_nothing_heavy_that_is_not_needed(
    module: str, absent: tuple[str, ...]
) -> None:
    code = f"import sys, {module}; print(*(n for n in {absent!r} if n in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_every_name_of_the_package_is_there_and_hides_no_builtin() -> None:
    for name in remotemedia.__all__:
        assert getattr(remotemedia, name).__module__.startswith(("remotemedia.", "typing", "types"))
        assert not hasattr(builtins, name)
    assert remotemedia.Policy("block") is remotemedia.Policy.BLOCK
