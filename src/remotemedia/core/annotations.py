"""What annotations say: the message types of ports and the types of parameters.

Annotations are read without running user code. They may be objects or text (`from __future__
import annotations`), name things that are local to a function, and use names that are imported
for type checkers only, as far as those are message types or the iterators of `collections.abc`.
"""

from __future__ import annotations

import builtins
import collections.abc
import inspect
import re
import sys
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, NoneType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Annotated, Union, get_args, get_origin, get_type_hints

from remotemedia.core.findings import did_you_mean
from remotemedia.core.ports import DATA_TYPES, NOT_A_MESSAGE_TYPE, Addressed, kinds_of_type
from remotemedia.data import Message, RuntimeData
from remotemedia.errors import NodeDefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Emitted", "emitted", "input_kinds", "remember_local_names", "resolved", "type_name"]

_NAMES_MARK = "__remotemedia_names__"

_QUALIFIED = re.compile(r"(?P<text>'[^']*')|(?:[\w<>]+\.)+(?=\w)")

_SYNC_ITERABLES = (
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
    collections.abc.Sequence,
    collections.abc.Collection,
    list,
    tuple,
)
_ASYNC_ITERABLES = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
_AWAITABLES = (collections.abc.Awaitable, collections.abc.Coroutine)

_KNOWN_NAMES: dict[str, object] = {
    **DATA_TYPES,
    "Message": Message,
    "RuntimeData": RuntimeData,
    "Addressed": Addressed,
    **{
        origin.__name__: origin
        for origin in (*_SYNC_ITERABLES[:5], *_ASYNC_ITERABLES, *_AWAITABLES)
    },
}


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a return annotation says: kinds that leave by `out`, and whether to await or iterate."""

    kinds: tuple[str, ...]
    is_async: bool


def remember_local_names(target: type | FunctionType) -> None:
    """Keep the names that annotations use and only the function around the definition knows.

    Text annotations of what is made inside a function name things that are gone when it returns.
    """
    enclosing, is_local, _ = target.__qualname__.rpartition(".<locals>.")
    if not is_local or _NAMES_MARK in vars(target):
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_qualname != enclosing:
        frame = frame.f_back
    if frame is None:
        return
    functions = [target] if isinstance(target, FunctionType) else vars(target).values()
    names = {
        name: frame.f_locals[name]
        for function in functions
        if isinstance(function, FunctionType)
        for annotation in function.__annotations__.values()
        for name in _names_in(annotation)
        if name in frame.f_locals
    }
    if names:
        setattr(target, _NAMES_MARK, names)


def _names_in(annotation: object) -> Iterator[str]:
    if not isinstance(annotation, str):
        return
    try:
        pending: list[CodeType] = [compile(annotation, "<annotation>", "eval")]
    except SyntaxError:
        return  # reported when the class is described
    while pending:
        code = pending.pop()
        yield from code.co_names
        pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def resolved(annotation: object, function: Callable[..., object], owner: object) -> object:
    """Return the object that an annotation of `function` stands for.

    Args:
        annotation: the annotation, an object or text.
        function: where it is written.
        owner: the class that the function belongs to, or the function itself.

    Raises:
        NodeDefinitionError: it names something that is not there.
    """
    function = inspect.unwrap(function)
    scope = getattr(function, "__globals__", {})
    local_names = {
        name: value
        for name, value in _KNOWN_NAMES.items()
        if name not in scope and not hasattr(builtins, name)
    }
    classes = owner.__mro__[::-1] if isinstance(owner, type) else ()
    for holder in (*classes, function):
        if isinstance(holder, type):
            local_names |= {k: v for k, v in vars(holder).items() if isinstance(v, type)}
        local_names |= vars(holder).get(_NAMES_MARK, {})
    hints = SimpleNamespace(__annotations__={"it": annotation})
    try:
        return get_type_hints(hints, scope, local_names, include_extras=True)["it"]
    except NameError as error:
        missing = error.name or ""
        hint = did_you_mean(missing, _KNOWN_NAMES) or "import or define it first"
        raise _refused(
            owner, function, f"annotates {annotation!r}, where {missing!r} is not defined; {hint}"
        ) from error
    except (AttributeError, SyntaxError, TypeError) as error:
        raise _refused(owner, function, f"annotates {annotation!r}: {error}") from error


def input_kinds(
    annotation: object, function: Callable[..., object], owner: object
) -> tuple[str, ...]:
    """Return the kinds of message that an input annotated like this takes.

    Raises:
        NodeDefinitionError: the annotation is no message type or union of them.
    """
    type_ = _bare(resolved(annotation, function, owner))
    members = _members(type_)
    kinds = [kinds_of_type(member) for member in members]
    if not all(kinds):
        raise _refused(
            owner,
            function,
            f"takes {type_name(type_)}, which is no message type; {NOT_A_MESSAGE_TYPE}",
        )
    return tuple(dict.fromkeys(kind for group in kinds for kind in group))


def emitted(annotation: object, function: Callable[..., object], owner: object) -> Emitted:
    """Return what a handler with this return annotation sends by its `out` port.

    Raises:
        NodeDefinitionError: it is neither a message type, None, `Addressed`, an iterable of these,
            nor a union of those.
    """
    type_ = resolved(annotation, function, owner)
    kinds: dict[str, None] = {}
    is_async = False
    pending = [(type_, 0)]
    while pending:
        member, depth = pending.pop(0)
        member = _bare(member)
        if (inner := _unwrapped(member, depth)) is not None:
            is_async |= get_origin(member) in (*_ASYNC_ITERABLES, *_AWAITABLES)
            pending[:0] = inner
        elif found := kinds_of_type(member):
            kinds |= dict.fromkeys(found)
        elif member not in (None, NoneType, Addressed):
            raise _refused(
                owner,
                function,
                f"returns {type_name(type_)}, where {type_name(member)} is no message type and no "
                f"iterable of one, such as Text, Text | None or Iterator[Text]; "
                f"{NOT_A_MESSAGE_TYPE}",
            )
    return Emitted(tuple(kinds), is_async)


def _unwrapped(type_: object, depth: int) -> list[tuple[object, int]] | None:
    """Take one layer off: a union stays at its depth, an awaitable is 1 deep, an iterable 2."""
    origin, args = get_origin(type_), get_args(type_)
    if isinstance(type_, UnionType) or origin is Union:
        return [(arg, depth) for arg in args]
    if origin in _AWAITABLES and depth < 1:
        return [(args[-1], 1)]
    if origin in (*_SYNC_ITERABLES, *_ASYNC_ITERABLES) and depth < 2:
        items = [arg for arg in args if arg is not ...] if origin is tuple else args[:1]
        return [(item, 2) for item in items]
    return None


def _bare(type_: object) -> object:
    """Take off `Annotated` and look through a `type X = ...` alias."""
    while True:
        if get_origin(type_) is Annotated:
            type_ = get_args(type_)[0]
        elif type(type_).__name__ == "TypeAliasType":
            type_ = getattr(type_, "__value__", None)
        else:
            return type_


def _members(type_: object) -> tuple[object, ...]:
    if isinstance(type_, UnionType) or get_origin(type_) is Union:
        return tuple(_bare(arg) for arg in get_args(type_))
    return (type_,)


def type_name(type_: object) -> str:
    """Return a type as its author would write it, without the names of modules."""
    members = _members(_bare(type_))
    if len(members) > 1:
        return " | ".join(map(type_name, members))
    (type_,) = members
    origin = get_origin(type_)
    if origin is None and isinstance(type_, type):
        return "None" if type_ is NoneType else type_.__qualname__
    if origin in (list, set, frozenset, dict, tuple):
        return f"{origin.__name__}[{', '.join(map(type_name, get_args(type_)))}]"
    if type_ is Ellipsis:
        return "..."
    return _QUALIFIED.sub(lambda match: match["text"] or "", str(type_))


def _refused(owner: object, function: Callable[..., object], problem: str) -> NodeDefinitionError:
    name = getattr(owner, "__qualname__", repr(owner))
    method = getattr(function, "__name__", "it")
    subject = f"{method}()" if isinstance(owner, type) else "it"
    return NodeDefinitionError(name, f"{subject} {problem}")
