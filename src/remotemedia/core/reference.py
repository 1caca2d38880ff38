"""How a node type that was given in Python reaches the process that runs it, without pickle.

A reference says where the definition is, as plain data:

- `ModuleReference`: import a module. What is found under site-packages is imported by name alone;
  for other modules the folder that holds them goes along.
- `FileReference`: load a Python file. A script that is run as `__main__` is loaded under another
  name, so that what stands under `if __name__ == "__main__":` does not run again, as with
  `multiprocessing`'s spawn method.
- `SourceReference`: the text of what was typed into a notebook or a prompt, with the imports and
  constants that it uses.
- `LocalReference`: the definition itself, for nodes that run in this process.
"""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import sys
import threading
import zlib
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from remotemedia.core.describe import is_target
from remotemedia.core.source import functions_of, source_of
from remotemedia.errors import NodeDefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.core.describe import NodeTarget

__all__ = [
    "FileReference",
    "LocalReference",
    "ModuleReference",
    "NodeReference",
    "SourceReference",
    "load_file",
    "loading",
    "local_reference_to",
    "reference_to",
    "script_being_loaded",
]

MAIN_ALIAS = "__remotemedia_main__"
_TO_A_FILE = "define it at the top level of a Python file, by its own name"

_loading: list[str] = []
_load_lock = threading.RLock()


class ModuleReference(msgspec.Struct, frozen=True, tag="module"):
    """A definition in a module that can be imported.

    Attributes:
        module: dotted name of the module.
        qualname: the class or function in it.
        search_path: folder that must be on `sys.path` for it; None if every process finds it.
    """

    module: str
    qualname: str
    search_path: str | None = None

    def resolve(self) -> NodeTarget:
        """Import the module and return the definition.

        Raises:
            ImportError: the module is not there, or its own imports fail.
            NodeDefinitionError: it holds no such node.
        """
        if self.search_path is not None and self.search_path not in sys.path:
            sys.path.insert(0, self.search_path)
        return _member(importlib.import_module(self.module), self.qualname)

    def __str__(self) -> str:
        return f"{self.module}:{self.qualname}"


class FileReference(msgspec.Struct, frozen=True, tag="file"):
    """A definition in a Python file that is loaded by its path.

    Attributes:
        path: absolute path of the file. Its folder goes to the front of `sys.path`.
        module: name to load it under.
        qualname: the class or function in it.
    """

    path: str
    module: str
    qualname: str

    def resolve(self) -> NodeTarget:
        """Load the file, once per process, and return the definition.

        Raises:
            ImportError: the file is not there or cannot be loaded.
            NodeDefinitionError: it holds no such node.
        """
        folder = str(Path(self.path).parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        return _member(load_file(self.path, self.module), self.qualname)

    def __str__(self) -> str:
        return f"{self.path}:{self.qualname}"


class SourceReference(msgspec.Struct, frozen=True, tag="source"):
    """A definition that is in no file, as text.

    Attributes:
        source: a complete module.
        qualname: the class or function in it.
    """

    source: str
    qualname: str

    def resolve(self) -> NodeTarget:
        """Run the text, once per process, and return the definition.

        Raises:
            NodeDefinitionError: it holds no such node.
        """
        name = f"{MAIN_ALIAS}_{zlib.crc32(self.source.encode()):08x}"
        if name not in sys.modules:
            module = ModuleType(name)
            filename = f"<{self.qualname}>"
            linecache.cache[filename] = (
                len(self.source),
                None,
                self.source.splitlines(keepends=True),
                filename,
            )
            sys.modules[name] = module
            code = compile(self.source, filename, "exec", dont_inherit=True)
            with _undone_if_it_fails(name):
                exec(code, vars(module))  # noqa: S102 - the user's own node, as they typed it
        return _member(sys.modules[name], self.qualname)

    def __str__(self) -> str:
        return f"<{self.qualname}>"


class LocalReference(msgspec.Struct, frozen=True, tag="local"):
    """A definition of this process; one made inside of a function is as good as any.

    Attributes:
        number: its place among those that were referred to so.
        qualname: the class or function, for people.
    """

    number: int
    qualname: str

    def resolve(self) -> NodeTarget:
        """Return the definition."""
        return _local_targets[self.number]

    def __str__(self) -> str:
        return self.qualname


_local_targets: list[NodeTarget] = []
_local_numbers: dict[NodeTarget, int] = {}

NodeReference: TypeAlias = ModuleReference | FileReference | SourceReference | LocalReference


def load_file(path: str, name: str) -> ModuleType:
    """Load a Python file under a module name, once per process.

    Raises:
        ImportError: the file is not there or is no Python file.
    """
    with _load_lock:  # nodes in threads of one process come here at the same time
        return sys.modules[name] if name in sys.modules else _load_new_file(path, name)


def _load_new_file(path: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ImportError(f"there is no Python file {path}", name=name, path=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _undone_if_it_fails(name), loading(path):
        spec.loader.exec_module(module)
    return module


@contextmanager
def loading(script: str) -> Iterator[None]:
    """Have `script_being_loaded` return this file or module meanwhile, in all threads."""
    _loading.append(script)
    try:
        yield
    finally:
        _loading.remove(script)


def script_being_loaded() -> str | None:
    """Return the file or module that is being loaded for its nodes, None if none is.

    Starting a session then means that the script lacks `if __name__ == "__main__":`, and would
    start itself again without end.
    """
    return _loading[-1] if _loading else None


def reference_to(target: NodeTarget) -> NodeReference:
    """Return where another process finds a node type.

    Raises:
        NodeDefinitionError: it cannot be found from elsewhere, and what to do about it.
    """
    qualname = target.__qualname__
    if "<locals>" in qualname or "<lambda>" in qualname:
        raise NodeDefinitionError(
            qualname,
            "it is made inside of a function, where another process cannot find it; define it "
            "at the top level of a module",
        )
    module = sys.modules.get(target.__module__)
    if module is None:
        raise NodeDefinitionError(
            qualname, f"its module {target.__module__!r} is not loaded; {_TO_A_FILE}"
        )
    if target.__module__ == "__main__":
        return _reference_into_main(target, module)
    _require_same(module, target)
    path = getattr(module, "__file__", None)
    if path is None:
        return SourceReference(source_of(target), target.__name__)
    return module_reference(target.__module__, path, qualname) or FileReference(
        str(Path(path).resolve()), target.__module__, qualname
    )


def local_reference_to(target: NodeTarget) -> LocalReference:
    """Refer to a node type in this process alone; it is kept from then on."""
    with _load_lock:
        number = _local_numbers.setdefault(target, len(_local_targets))
        if number == len(_local_targets):
            _local_targets.append(target)
    return LocalReference(number, target.__qualname__)


def _reference_into_main(target: NodeTarget, main: ModuleType) -> NodeReference:
    path = getattr(main, "__file__", None)
    if path is None or not Path(path).is_file() or _is_typed_at_prompt(target, path):
        return SourceReference(source_of(target), target.__name__)
    _require_same(main, target)
    found = None
    if main.__spec__ is not None:  # python -m package.module
        found = module_reference(main.__spec__.name, path, target.__qualname__)
    return found or FileReference(str(Path(path).resolve()), MAIN_ALIAS, target.__qualname__)


def module_reference(module: str, path: str, qualname: str) -> ModuleReference | None:
    """Return a reference by import, None if the module is not where an import looks for it."""
    file = Path(path).resolve()
    parts = module.split(".")
    stem = file.parent if file.name == "__init__.py" else file.with_suffix("")
    if list(stem.parts[-len(parts) :]) != parts:
        return None
    root = stem.parents[len(parts) - 1]
    return ModuleReference(module, qualname, None if root in installed_roots() else str(root))


def _is_typed_at_prompt(target: NodeTarget, path: str) -> bool:
    """Whether a definition in `__main__` came after its file: `python -i`, `%run`."""
    files = {function.__code__.co_filename for function in functions_of(target)}
    return bool(files) and Path(path).resolve() not in {Path(file).resolve() for file in files}


def _require_same(module: ModuleType, target: NodeTarget) -> None:
    found = _lookup(module, target.__qualname__)
    if found is None:
        raise NodeDefinitionError(
            target.__qualname__,
            f"the module {module.__name__!r} has nothing of this name, by which another process "
            f"finds it; {_TO_A_FILE}",
        )
    if found is not target:
        raise NodeDefinitionError(
            target.__qualname__,
            f"{module.__name__}.{target.__qualname__} is not it but {found!r}; another process "
            f"finds it by that name, so give it a name of its own",
        )


@cache
def installed_roots() -> frozenset[Path]:
    """Return the folders of Python's own library and of what is installed."""
    import sysconfig  # here: a node's process never asks

    names = ("stdlib", "platstdlib", "purelib", "platlib")
    paths = sysconfig.get_paths()
    return frozenset(Path(paths[name]).resolve() for name in names)


def _lookup(module: ModuleType, qualname: str) -> object:
    found: object = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _member(module: ModuleType, qualname: str) -> NodeTarget:
    found = _lookup(module, qualname)
    if not is_target(found):
        what = f"is {found!r}"
        if found is None:
            what = "is not there: define it at the top level of a module, and in a script above "
            what += '`if __name__ == "__main__":`'
        raise NodeDefinitionError(f"{module.__name__}:{qualname}", f"it {what}")
    return found


@contextmanager
def _undone_if_it_fails(name: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sys.modules.pop(name, None)
        raise
