"""The source of a definition that is in no file: typed at a prompt or into a notebook.

The text is a module of its own: imports and constants that the definition uses, then other
definitions that it uses, then itself.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import linecache
import sys
import textwrap
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING

from remotemedia.errors import NodeDefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["functions_of", "source_of"]

_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_GLOBAL_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")


def source_of(target: object) -> str:
    """Return a module's text that defines `target` and everything of the prompt that it uses.

    Raises:
        NodeDefinitionError: its text was not kept, or it uses a value that text cannot carry.
    """
    collector = _Collector(target)
    collector.add_definition(target)
    return "\n\n".join(["from __future__ import annotations", *collector.parts]) + "\n"


class _Collector:
    """Collects the parts of the module, what is used before what uses it."""

    def __init__(self, target: object) -> None:
        self.node = getattr(target, "__qualname__", repr(target))
        self.parts: list[str] = []
        self._seen: set[str] = set()
        self._namespace = next((f.__globals__ for f in functions_of(target)), {})

    def add_definition(self, target: object) -> None:
        name = getattr(target, "__name__", "")
        if name in self._seen:
            return
        self._seen.add(name)
        text = self._text_of(target)
        names = dict.fromkeys(_global_names(compile(text, name, "exec", dont_inherit=True)))
        for used in names:
            if used in self._namespace and used not in self._seen and not hasattr(builtins, used):
                self._add_name(used, self._namespace[used])
        self.parts.append(text)

    def _add_name(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType):
            self._add_part(name, f"import {value.__name__} as {name}")
        elif (home := _importable_from(name, value)) is not None:
            self._add_part(name, f"from {home[0]} import {home[1]} as {name}")
        elif isinstance(value, type | FunctionType):
            self.add_definition(value)
            if value.__name__ != name:
                self._add_part(name, f"{name} = {value.__name__}")
        elif _is_literal(value):
            self._add_part(name, f"{name} = {value!r}")
        else:
            raise NodeDefinitionError(
                self.node,
                f"it uses {name!r}, a {type(value).__name__} that is in no module and that "
                f"cannot be sent to another process; make it in initialize(), or put the node "
                f"into a Python file and import it",
            )

    def _add_part(self, name: str, text: str) -> None:
        self._seen.add(name)
        self.parts.append(text)

    def _text_of(self, target: object) -> str:
        """Return the text of a definition, decorators included."""
        for function in functions_of(target):
            code = function.__code__
            text = _definition(target, code.co_filename, code.co_firstlineno)
            if text:
                return text
        # A dataclass or an enum has no function that says where it was typed: the latest is it.
        for filename in reversed(list(linecache.cache)):
            is_typed = linecache.cache[filename][1:2] == (None,)
            if is_typed and (text := _definition(target, filename)):
                return text
        raise NodeDefinitionError(
            self.node,
            f"the text of {getattr(target, '__name__', target)!r} is in no file and was not kept "
            f"(notebooks and the prompt of Python 3.13 keep it), so another process cannot define "
            f"it; put it into a Python file and import it",
        )


def _definition(target: object, filename: str, line: int | None = None) -> str:
    """Return the text of a definition in a file that covers the line, empty if there is none."""
    lines = linecache.getlines(filename)
    for node in ast.walk(_parsed("".join(lines))):
        if isinstance(node, _DEFINITIONS) and node.name == getattr(target, "__name__", ""):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            last = node.end_lineno or first
            if line is None or first <= line <= last:
                return textwrap.dedent("".join(lines[first - 1 : last])).rstrip()
    return ""


def functions_of(target: object) -> Iterator[FunctionType]:
    """Yield a function, or those that a class itself defines, without their wrappers."""
    members = vars(target).values() if isinstance(target, type) else [target]
    for member in members:
        function = inspect.unwrap(member) if callable(member) else None
        if isinstance(function, FunctionType):
            yield function


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError:  # a notebook's own syntax (%magic): what stands there cannot be sent
        return ast.Module(body=[], type_ignores=[])


def _global_names(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_LOADS:
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _importable_from(name: str, value: object) -> tuple[str, str] | None:
    """Return the module and the name in it that give this very value to any process."""
    home = getattr(value, "__module__", None)
    candidates = [(home, getattr(value, "__name__", name)), ("remotemedia.data", name)]
    for module_name, attribute in candidates:
        module = sys.modules.get(module_name) if isinstance(module_name, str) else None
        if module_name != "__main__" and getattr(module, str(attribute), None) is value:
            return str(module_name), str(attribute)
    return None


def _is_literal(value: object) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
