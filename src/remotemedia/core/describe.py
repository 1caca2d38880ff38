"""What a node type is, as plain data, read from a class or function without running any of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import TypeAlias, TypeGuard

from remotemedia.core.annotations import emitted, input_kinds, remember_local_names, type_name
from remotemedia.core.hooks import HOOKS, misspelled_hooks
from remotemedia.core.node import Node
from remotemedia.core.parameters import takes_any_parameter, typed_parameters
from remotemedia.core.ports import INPUT_MARK, Input, Output
from remotemedia.errors import NodeDefinitionError

__all__ = ["TYPE_NAME_MARK", "NodeTarget", "NodeType", "Parameter", "Port", "describe", "is_target"]

NodeTarget: TypeAlias = type[Node] | Callable[..., object]
"""What can be a node: a subclass of `Node`, or a function with annotations."""

TYPE_NAME_MARK = "__remotemedia_type__"

_PORT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # no dot: "node.port" splits at the last one
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a node type.

    Attributes:
        name: unique among the inputs, or among the outputs, of the type.
        kinds: names of the message types that pass it.
        handler: method that takes what arrives; empty for an output.
        capacity: messages that a connection here holds unless it says so itself; None: no wish.
        max_message_bytes: the largest message that an output sends; None: any size.
    """

    name: str
    kinds: tuple[str, ...]
    handler: str = ""
    capacity: int | None = None
    max_message_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a node type, as its author wrote it.

    Attributes:
        name: the keyword.
        type: its annotation; empty if it has none, and then it takes any plain value.
        default: its default as Python source; None if it must be given.
    """

    name: str
    type: str
    default: str | None


@dataclass(frozen=True, slots=True)
class NodeType:
    """Everything that a pipeline needs to know of a node before it runs.

    Attributes:
        name: the registered name, else the qualified name of the class or function.
        inputs, outputs: its ports. Without inputs it is a source: its `process` is called once.
        parameters: what its configuration may say.
        accepts_any_parameter: it takes further parameters (`**kwargs`) unchecked.
        is_async: it runs on an event loop.
        doc: first line of its docstring.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parameters: tuple[Parameter, ...]
    accepts_any_parameter: bool
    is_async: bool
    doc: str


def is_target(value: object) -> TypeGuard[NodeTarget]:
    """Whether a value is meant as a node type: a subclass of `Node`, or a function."""
    if isinstance(value, type):
        return issubclass(value, Node) and value is not Node
    return isinstance(value, FunctionType)


def describe(target: NodeTarget) -> NodeType:
    """Describe a node type; pure, and no line of the node runs.

    Args:
        target: a subclass of `Node`, or a function whose first argument is the message.

    Returns:
        Plain data; the same for the same target.

    Raises:
        NodeDefinitionError: it cannot be a node as it is written, and what to write instead.
    """
    if not is_target(target):
        raise NodeDefinitionError(
            getattr(target, "__qualname__", repr(target)),
            "it is neither a subclass of Node nor a function",
        )
    if isinstance(target, type):
        inputs, handlers = _inputs_of_class(target)
        overridden = [
            (name, hook)
            for name in HOOKS
            if (hook := getattr(target, name)) is not getattr(Node, name)
        ]
        for name, hook in overridden:
            if name != "finish":
                _require_no_generator(name, hook, target)
        methods = handlers + [hook for _, hook in overridden]
        senders = handlers + [hook for name, hook in overridden if name == "finish"]
        declared = _declared_outputs(target)
    else:
        assert isinstance(target, FunctionType)
        remember_local_names(target)
        inputs = _inputs_of_function(target)
        methods = senders = [target]
        declared = {}
    returned, awaits = _returned_kinds(senders, target, has_outputs=bool(declared))
    return NodeType(
        name=str(vars(target).get(TYPE_NAME_MARK, target.__qualname__)),
        inputs=inputs,
        outputs=_outputs(target, declared, returned),
        parameters=tuple(
            Parameter(p.name, type_name(p.type) if p.is_typed else "", p.default_source)
            for p in typed_parameters(target)
        ),
        accepts_any_parameter=takes_any_parameter(target),
        is_async=awaits or any(_is_async(method) for method in methods),
        doc=(inspect.getdoc(target) or "").partition("\n")[0] if target.__doc__ else "",
    )


def _inputs_of_class(
    cls: type[Node],
) -> tuple[tuple[Port, ...], list[Callable[..., object]]]:
    """Return the input ports and the handlers, `process` of a source among these."""
    ports: dict[str, Port] = {}
    handlers: list[Callable[..., object]] = []
    for name, handler, mark in _marked_handlers(cls):
        taken = _message_argument(name, handler, cls)
        handlers.append(handler)
        if taken is None:
            if name != "process":
                raise NodeDefinitionError(
                    cls.__qualname__, f"{name}() handles an input but takes no message"
                )
            continue
        port = mark.name or ("in" if name == "process" else name.removeprefix("on_"))
        if not _PORT_NAME.fullmatch(port):
            raise NodeDefinitionError(
                cls.__qualname__,
                f"{name}() handles the input {port!r}; names of ports are 1 to 64 of A-Z, a-z, "
                f"0-9, hyphen and underscore",
            )
        if port in ports:
            raise NodeDefinitionError(
                cls.__qualname__,
                f"{name}() and {ports[port].handler}() both handle the input {port!r}",
            )
        kinds = input_kinds(taken.annotation, handler, cls)
        ports[port] = Port(port, kinds, name, mark.capacity)
    if not handlers:
        for method, meant in misspelled_hooks(cls):
            if meant == "process":
                raise NodeDefinitionError(
                    cls.__qualname__,
                    f"it handles nothing: it has {method.__name__}(); did you mean 'process'?",
                )
        raise NodeDefinitionError(
            cls.__qualname__,
            "it handles nothing: write `def process(self, text: Text) -> Text`, or mark a method "
            "per input with @input",
        )
    if len(ports) < len(handlers) and ports:
        raise NodeDefinitionError(
            cls.__qualname__,
            f"process() takes no message, which makes it a source, yet it has the input "
            f"{next(iter(ports))!r}; split it into two nodes",
        )
    return tuple(ports.values()), handlers


def _marked_handlers(cls: type[Node]) -> Iterator[tuple[str, FunctionType, Input]]:
    """Yield the handlers in the order of their definition, base classes first."""
    names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
    for name in names:
        handler = getattr(cls, name, None)
        mark = getattr(handler, INPUT_MARK, None)
        if mark is None and name == "process" and handler is not None:
            mark = Input()
        if not isinstance(mark, Input):
            continue
        if not isinstance(handler, FunctionType):
            raise NodeDefinitionError(cls.__qualname__, f"{name} must be an ordinary method")
        yield name, handler, mark


def _message_argument(
    name: str, handler: FunctionType, cls: type[Node]
) -> inspect.Parameter | None:
    """Return the argument that takes the message; None if the handler takes none."""
    is_static = isinstance(inspect.getattr_static(cls, name), staticmethod)
    arguments = list(inspect.signature(handler).parameters.values())
    if not is_static:
        _require_self(name, arguments, handler, cls)
        del arguments[0]
    if not arguments:
        return None
    taken, *others = arguments
    if others:
        raise NodeDefinitionError(
            cls.__qualname__,
            f"{name}() takes {taken.name} and {', '.join(o.name for o in others)}; a handler takes "
            f"one message: mark a method per input with @input, and give parameters to __init__",
        )
    if taken.kind not in _POSITIONAL:
        raise NodeDefinitionError(cls.__qualname__, f"{name}() must take its message by position")
    _require_annotation(taken, f"{name}()", cls)
    return taken


def _require_self(
    name: str, arguments: list[inspect.Parameter], handler: FunctionType, cls: type[Node]
) -> None:
    """Refuse a method that has forgotten `self`, and would get the node as its message."""
    written = ""
    if arguments:
        first = arguments[0]
        if first.name == "self" or first.annotation is inspect.Parameter.empty:
            return
        try:
            kinds = input_kinds(first.annotation, handler, cls)
        except NodeDefinitionError:
            return  # it says of which class the node is
        written = f", {first.name}: {' | '.join(kinds)}"
    raise NodeDefinitionError(
        cls.__qualname__, f"{name}() lacks self: write `def {name}(self{written})`"
    )


def _require_no_generator(name: str, hook: Callable[..., object], cls: type[Node]) -> None:
    """Refuse a hook of which no line would run: a generator only runs while it is read."""
    if inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
        instead = "; say how far it is by self.progress()" if name == "initialize" else ""
        raise NodeDefinitionError(
            cls.__qualname__,
            f"{name}() yields, and only `process`, `finish` and input handlers may: nothing would "
            f"read it, so no line of it would run; write it without yield{instead}",
        )


def _inputs_of_function(function: Callable[..., object]) -> tuple[Port, ...]:
    """Return the one input of a function: its first argument, unless that has a default."""
    arguments = list(inspect.signature(function).parameters.values())
    messages = [a for a in arguments if a.kind in _POSITIONAL and a.default is a.empty]
    if len(messages) > 1:
        raise NodeDefinitionError(
            function.__qualname__,
            f"it takes {' and '.join(a.name for a in messages)} by position; a function takes one "
            f"message, and parameters by keyword: put * between them, or write a class with "
            f"@input handlers",
        )
    if not messages:
        return ()
    _require_annotation(messages[0], "it", function)
    return (Port("in", input_kinds(messages[0].annotation, function, function), "process"),)


def _require_annotation(argument: inspect.Parameter, subject: str, target: NodeTarget) -> None:
    if argument.annotation is argument.empty:
        raise NodeDefinitionError(
            target.__qualname__,
            f"{subject} takes {argument.name!r} without saying what it is; annotate it with the "
            f"message type, such as `{argument.name}: Text`",
        )


def _returned_kinds(
    senders: list[Callable[..., object]], target: NodeTarget, *, has_outputs: bool
) -> tuple[tuple[str, ...], bool]:
    """Return the kinds that return annotations send by `out`, and whether one must be awaited."""
    kinds: dict[str, None] = {}
    is_async = False
    for sender in senders:
        annotation = inspect.signature(sender).return_annotation
        if annotation is inspect.Signature.empty:
            if has_outputs or sender.__name__ == "finish":
                continue
            raise NodeDefinitionError(
                target.__qualname__,
                f"{sender.__name__}() does not say what it returns; annotate it, such as "
                f"`-> Text`, `-> Iterator[Text]`, or `-> None` if it sends nothing",
            )
        sent = emitted(annotation, sender, target)
        kinds |= dict.fromkeys(sent.kinds)
        is_async |= sent.is_async
    return tuple(kinds), is_async


def _declared_outputs(cls: type) -> dict[str, Output[object]]:
    declared = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Output):
                declared[name] = value
            else:
                declared.pop(name, None)
    return declared


def _outputs(
    target: NodeTarget, declared: dict[str, Output[object]], returned: tuple[str, ...]
) -> tuple[Port, ...]:
    ports = [
        Port(name, port.kinds, "", port.capacity, port.max_message_bytes)
        for name, port in declared.items()
    ]
    if "out" not in declared:
        return (*ports, Port("out", returned)) if returned else tuple(ports)
    undeclared = [kind for kind in returned if kind not in declared["out"].kinds]
    if undeclared:
        raise NodeDefinitionError(
            target.__qualname__,
            f"it returns {' and '.join(undeclared)}, but declares out = {declared['out']!r}",
        )
    return tuple(ports)


def _is_async(function: Callable[..., object]) -> bool:
    return any(
        inspect.iscoroutinefunction(layer) or inspect.isasyncgenfunction(layer)
        for layer in (function, inspect.unwrap(function))
    )
