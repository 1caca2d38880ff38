"""Node types by name.

A name becomes a node type in one of three ways, and never by importing what it happens to spell:

1. It was registered in Python: `@node("text.upper")`, or `Registry.register`.
2. An installed distribution declares it as an entry point of the group `remotemedia.nodes`. Its
   metadata alone is read; the module is imported when the name is used.
3. It is `module:Class`, from a module that the pipeline names explicitly.

Checking a pipeline imports the modules of its nodes into the checking process. They are therefore
light: what is heavy (torch, onnxruntime) is imported inside of `initialize`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from remotemedia.core.describe import TYPE_NAME_MARK, NodeTarget, is_target
from remotemedia.core.findings import did_you_mean, suggested
from remotemedia.core.reference import installed_roots, load_file
from remotemedia.errors import RemoteMediaError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "ENTRY_POINT_GROUP",
    "NodeTypeNotFound",
    "Registry",
    "default_registry",
    "failed_at",
    "module_key",
    "node",
]

Target = TypeVar("Target", bound=Callable[..., object])

ENTRY_POINT_GROUP = "remotemedia.nodes"

_is_loading_modules: ContextVar[bool] = ContextVar("is_loading_modules", default=False)


class NodeTypeNotFound(RemoteMediaError, LookupError):
    """No node type goes by a name, or it could not be imported.

    Attributes:
        problem: what is wrong.
        suggestion: what to do about it.
    """

    def __init__(self, problem: str, suggestion: str = "") -> None:
        super().__init__(problem, suggestion)
        self.problem = problem
        self.suggestion = suggestion

    def __str__(self) -> str:
        return f"{self.problem} ({self.suggestion})" if self.suggestion else self.problem


@dataclass(frozen=True, slots=True)
class _Declared:
    """An entry point and the distribution that declares it."""

    entry_point: EntryPoint
    distribution: str


class Registry:
    """Names of node types: those registered with it, and then those of its parent.

    Args:
        parent: where to look for names that are not here; None: nowhere.
        entry_points: whether names of installed distributions are found.
    """

    def __init__(self, parent: Registry | None = None, *, entry_points: bool = False) -> None:
        self._parent = parent
        self._uses_entry_points = entry_points
        self._targets: dict[str, NodeTarget] = {}
        self._modules: dict[str, ModuleType] = {}

    def register(self, name: str, target: NodeTarget) -> None:
        """Give a node type a name.

        A definition of the same module and name replaces the one before: a notebook's cell can be
        run again.

        Raises:
            ValueError: another node type has the name.
            TypeError: it is neither a subclass of `Node` nor a function.
        """
        if not is_target(target):
            raise TypeError(f"{target!r} is neither a subclass of Node nor a function")
        before = self._targets.get(name)
        if before is not None and _home(before) != _home(target):
            raise ValueError(
                f"the node type {name!r} is {_home(before)} already, so {_home(target)} needs "
                f"another name"
            )
        self._targets[name] = target

    def load_module(self, name: str, folder: Path | None = None) -> None:
        """Import a module whose nodes may be used: `module:Class`, and names by `@node` in it.

        Args:
            name: a path that ends in .py, or a dotted name.
            folder: what paths are relative to, and where dotted names are looked for first.

        Raises:
            ImportError: there is no such module, or its code fails.
            ValueError: it registers a name twice, or its own name is taken or is neither.
        """
        is_file = name.endswith(".py")
        if not is_file and ("/" in name or not all(name.split("."))):
            raise ValueError("it is neither a path that ends in .py nor a dotted name")
        key = module_key(name)
        if key in self._modules:
            raise ValueError(f"there are two modules {key!r}; rename one of the files")
        path = (folder or Path()) / name
        with _loading_from(path.parent if is_file else folder):
            try:
                module = _load_path(path) if is_file else _import(name, folder)
            except ImportError:
                raise
            except (Exception, SystemExit) as error:  # the user's code: it can raise anything
                raise ImportError(_said(error), name=name) from error
        self._modules[key] = module
        for value in list(vars(module).values()):
            type_name = vars(value).get(TYPE_NAME_MARK) if is_target(value) else None
            if isinstance(type_name, str):
                self.register(type_name, value)

    def find(self, name: str) -> NodeTarget:
        """Return the node type of a name, importing its module if an entry point declares it.

        Raises:
            NodeTypeNotFound: there is none, or its module cannot be imported.
        """
        registry: Registry | None = self
        while registry is not None:
            if name in registry._targets:
                return registry._targets[name]
            if ":" in name and (target := registry._find_in_module(name)) is not None:
                return target
            if registry._uses_entry_points and name in _declared():
                return _load_entry_point(name)
            registry = registry._parent
        if ":" in name:
            raise self._no_such_module(name)
        if name.endswith(".py"):
            hint = f"list it among the modules, and say which class: {module_key(name)}:ClassName"
            raise NodeTypeNotFound(f"the node type {name!r} is a file", hint)
        hint = suggested(name, self.names())
        if not hint.endswith("?") and "/" not in name:
            how = f"register it by @remotemedia.node({name!r}), or give the class itself"
            hint = f"{hint}; {how}" if hint else how
        raise NodeTypeNotFound(f"unknown node type {name!r}", hint)

    def _no_such_module(self, name: str) -> NodeTypeNotFound:
        module, _, qualname = name.partition(":")
        key = module_key(module)
        near = [
            known
            for known in self.names()
            if ":" in known and did_you_mean(key, [known.partition(":")[0]])
        ]
        hint = did_you_mean(f"{key}:{qualname}", near)
        if not hint and module != key:
            hint = f"add it to them, and write {key}:{qualname}"
        return NodeTypeNotFound(
            f"the module {module!r} is not among the pipeline's modules",
            hint or f"add to them {module}.py, a file beside the pipeline's, or a dotted name",
        )

    def names(self) -> tuple[str, ...]:
        """Return every name that can be found, sorted; nothing is imported for it."""
        names = set(self._targets)
        names.update(f"{key}:{name}" for key, name in self._module_members())
        if self._uses_entry_points:
            names.update(_declared())
        if self._parent is not None:
            names.update(self._parent.names())
        return tuple(sorted(names))

    def _module_members(self) -> Iterator[tuple[str, str]]:
        for key, module in self._modules.items():
            for name, value in vars(module).items():
                is_own = getattr(value, "__module__", None) == module.__name__
                if isinstance(value, type) and is_own and is_target(value):
                    yield key, name

    def _find_in_module(self, name: str) -> NodeTarget | None:
        key, _, qualname = name.partition(":")
        if key not in self._modules:
            return None
        value = getattr(self._modules[key], qualname, None)
        if value is None:
            known = [f"{k}:{member}" for k, member in self._module_members() if k == key]
            raise NodeTypeNotFound(f"{key} has no {qualname!r}", suggested(name, known))
        if not is_target(value):
            raise NodeTypeNotFound(
                f"{name} is {type(value).__name__}, neither a subclass of Node nor a function"
            )
        return value


default_registry = Registry(entry_points=True)
"""Where `@node` registers, and where names are found unless another registry is given."""


def node(name: str) -> Callable[[Target], Target]:
    """Register a class or function as a node type under a name: `@node("text.upper")`.

    Raises:
        ValueError: another node type has the name.
        TypeError: it is neither a subclass of `Node` nor a function.
    """
    if not isinstance(name, str):
        raise TypeError('write @node("a.name"), with the name of the node type')

    def decorate(target: Target) -> Target:
        if not is_target(target):
            raise TypeError(f"{target!r} is neither a subclass of Node nor a function")
        setattr(target, TYPE_NAME_MARK, name)
        # A pipeline's own modules register with that pipeline only: see `load_module`.
        if not _is_loading_modules.get():
            default_registry.register(name, target)
        return target

    return decorate


def module_key(name: str) -> str:
    """Return what stands before the colon for a module of a pipeline: voice for lib/voice.py."""
    return Path(name).stem if name.endswith(".py") else name


def failed_at(error: ImportError) -> str:
    """Return which line of the user's own code `load_module` failed at, as "path:line".

    Empty where it is none of it: the module is not there, or its text is no Python.
    """
    import traceback  # here: only where something is wrong

    raised = error.__cause__ or error  # what other code raises is the cause
    if isinstance(raised, SyntaxError):
        return ""
    folders = (str(Path(__file__).parents[1]), *map(str, installed_roots()))
    lines = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(raised.__traceback__)
        if not frame.filename.startswith(("<", *folders))
    ]
    return lines[-1] if lines else ""


def _said(error: BaseException) -> str:
    """Say what a module raised; of a syntax error also where, as Python shows it."""
    if not isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}"
    import traceback  # here: only where something is wrong

    *place, problem = "".join(traceback.format_exception_only(error)).splitlines()
    return "\n".join([problem, *place])


def _home(target: NodeTarget) -> str:
    return f"{target.__module__}.{target.__qualname__}"


@cache
def _declared() -> dict[str, tuple[_Declared, ...]]:
    """Return the entry points of all installed distributions; metadata only."""
    found: dict[str, tuple[_Declared, ...]] = {}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        distribution = entry_point.dist.name if entry_point.dist is not None else "unknown"
        others = found.get(entry_point.name, ())
        if entry_point.value not in [other.entry_point.value for other in others]:
            found[entry_point.name] = (*others, _Declared(entry_point, distribution))
    return found


def _load_entry_point(name: str) -> NodeTarget:
    declared, *others = _declared()[name]
    if others:
        homes = " and ".join(sorted(d.distribution for d in (declared, *others)))
        raise NodeTypeNotFound(
            f"the node type {name!r} is declared by {homes}", "uninstall one of them"
        )
    value = declared.entry_point.value
    try:
        target = declared.entry_point.load()
    except Exception as error:  # the module is a plugin's: anything can be raised there
        raise NodeTypeNotFound(
            f"the node type {name!r} is {value} of {declared.distribution}, which cannot be "
            f"imported: {_said(error)}",
            "its module must import heavy or optional libraries inside of initialize()",
        ) from error
    if not is_target(target):
        raise NodeTypeNotFound(
            f"the node type {name!r} is {value} of {declared.distribution}, which is no node"
        )
    return target


def _load_path(path: Path) -> ModuleType:
    path = path.resolve()
    version = path.stat().st_mtime_ns if path.is_file() else 0  # an edited file is another module
    name = f"{path.stem}_{zlib.crc32(f'{path} {version}'.encode()):08x}"
    return load_file(str(path), name)


def _import(name: str, folder: Path | None) -> ModuleType:
    """Import a dotted name; one beside the pipeline's file wins over one that is installed."""
    module = importlib.import_module(name)
    path = getattr(module, "__file__", None)
    if folder is not None and path is not None:
        beside = folder.resolve().joinpath(*name.split("."))
        files = (beside.with_suffix(".py"), beside / "__init__.py")
        if any(file.is_file() for file in files) and Path(path).resolve() not in files:
            raise ImportError(
                f"the module {name!r} beside the pipeline is hidden by {path}, which is imported "
                f"already; give it another name, or name it by its path"
            )
    return module


@contextmanager
def _loading_from(folder: Path | None) -> Iterator[None]:
    """Let modules import what lies beside them, and register with the pipeline only."""
    token = _is_loading_modules.set(True)
    entry = None if folder is None else str(folder.resolve())
    if entry is not None:
        sys.path.insert(0, entry)
    try:
        yield
    finally:
        _is_loading_modules.reset(token)
        if entry in sys.path:
            sys.path.remove(entry)
