"""The hooks of a node class by name, and methods whose names show that one of them was meant."""

from __future__ import annotations

import warnings
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

from remotemedia.core.node import Node
from remotemedia.core.ports import INPUT_MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["HOOKS", "misspelled_hooks", "warn_of_misspelled_hooks"]

HOOKS = ("initialize", "finish", "interrupt", "cleanup")
"""What is called besides the handlers, of which `process` is one."""

_CLOSE = 0.85  # finsh, initialise, clean_up and proces are; process_text and is_finished are not
_OTHER_WORDS = ("ed", "er", "or", "ing")  # processed, initializer: words of their own

# What other frameworks call the same (Beam, Lightning, Pipecat, unittest), in lower case and
# without underscores. `init`, `close` and `cancel` are left out: too many helpers are called so.
_ELSEWHERE = {
    **dict.fromkeys(("setup", "startup", "onstart", "onstartup", "start"), "initialize"),
    **dict.fromkeys(("teardown", "shutdown", "onstop", "onshutdown", "stop"), "cleanup"),
    **dict.fromkeys(("flush", "onflush", "onend"), "finish"),
    **dict.fromkeys(("run", "forward", "call", "handle", "execute", "onmessage"), "process"),
}


def misspelled_hooks(cls: type[Node]) -> Iterator[tuple[FunctionType, str]]:
    """Yield methods that nobody will call, and the hook or handler that each was meant to be.

    A hook that the class has is not looked for, nor are private methods and those of classes that
    are no nodes. A method that is called as another framework calls a hook is yielded only if no
    other method of the class refers to it; for `process`, only if the class handles nothing.
    """
    from difflib import get_close_matches  # here: a node's process never asks

    known = [name for name in ("process", *HOOKS) if not _has(cls, name)]
    handles_nothing = not any(hasattr(getattr(cls, one, None), INPUT_MARK) for one in dir(cls))
    for base in cls.__mro__:
        if base is Node or not issubclass(base, Node):
            continue
        for name, method in vars(base).items():
            is_ordinary = isinstance(method, FunctionType) and not hasattr(method, INPUT_MARK)
            if not is_ordinary or (name.startswith("_") and name != "__call__"):
                continue
            meant = _ELSEWHERE.get(name.lower().replace("_", ""))
            if meant in known and (meant != "process" or handles_nothing):
                if not _is_used(cls, name):
                    yield method, meant
                continue
            if name.startswith("_") or hasattr(Node, name):
                continue
            if not name.endswith(_OTHER_WORDS):
                for meant in get_close_matches(name.lower(), known, n=1, cutoff=_CLOSE):
                    yield method, meant


def warn_of_misspelled_hooks(target: type[Node] | Callable[..., object]) -> None:
    """Warn where the method stands, once: nothing else would tell that it is never called."""
    if not isinstance(target, type):
        return
    for method, meant in misspelled_hooks(target):
        code = method.__code__
        warnings.warn_explicit(
            f"{target.__qualname__}.{method.__name__}() is no hook of a node: nothing calls it but "
            f"your own code; did you mean {meant!r}? (if not, begin its name with _)",
            UserWarning,
            code.co_filename,
            code.co_firstlineno,
            registry=method.__globals__.setdefault("__warningregistry__", {}),
        )


def _is_used(cls: type[Node], name: str) -> bool:
    """Whether another method of a class names an attribute so."""
    methods = [(other, method) for base in cls.__mro__ for other, method in vars(base).items()]
    codes = [
        one.__code__ for other, one in methods if isinstance(one, FunctionType) and other != name
    ]
    while codes:
        code = codes.pop()
        if name in code.co_names:
            return True
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return False


def _has(cls: type[Node], name: str) -> bool:
    return getattr(cls, name, None) is not getattr(Node, name, None)
