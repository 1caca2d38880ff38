"""Parameters of nodes: names, types and defaults from a signature, and values checked against them.

Values are plain data on their way (None, bool, int, float, str, bytes, list, dict) and become what
the signature asks for (an enum, a dataclass, a path) where the node is made.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from types import UnionType
from typing import TYPE_CHECKING, Union, get_args, get_origin

import msgspec

from remotemedia.core.annotations import resolved, type_name
from remotemedia.core.findings import MAX_SHOWN, suggested, wrong_choice
from remotemedia.core.node import Node
from remotemedia.data.message import shown
from remotemedia.errors import Finding, NodeDefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FunctionNode",
    "TypedParameter",
    "bind_parameters",
    "create_node",
    "plain_parameters",
    "takes_any_parameter",
    "typed_parameters",
]

MAX_PARAMETER_BYTES = 128 * 1024
"""For all of a node's: a control frame holds them and has 64 KiB for what comes along."""
PROCESS_OPTIONS = (
    "python_executable",
    "environment",
    "inherit_environment",
    "working_directory",
    "cpu_affinity",
    "memory_limit_bytes",
    "cuda_visible_devices",
    "stall_timeout_seconds",
    "restart",
)
"""What a `NodeConfig` says of a node's process, and a thread cannot do."""
NODE_OPTIONS = frozenset([*PROCESS_OPTIONS, "executor", "on_error"])
"""What a `NodeConfig` says of how a node is run: none of it is a parameter."""

_BOUND = re.compile(r"Expected `(?:int|float)` ([<>]=?) (\S+)")
"""What msgspec says of a number that is out of its range, as a whole: of one inside says where."""


@dataclass(frozen=True, slots=True)
class TypedParameter:
    """One parameter with its type as an object; `default` is `inspect.Parameter.empty` if none."""

    name: str
    type: object
    is_typed: bool
    default: object

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty

    @property
    def default_source(self) -> str | None:
        """The default as Python source, None if there is none."""
        if self.is_required:
            return None
        return str(self.default) if isinstance(self.default, Enum) else repr(self.default)


class FunctionNode(Node):
    """A function as a node: its parameters are bound, and its `process` is the function."""

    def __init__(self, function: Callable[..., object], parameters: Mapping[str, object]) -> None:
        self._function = function
        self._parameters = dict(parameters)

    def process(self, *message: object) -> object:
        """Call the function with the message, or with none if it is a source."""
        return self._function(*message, **self._parameters)


def typed_parameters(target: type[Node] | Callable[..., object]) -> tuple[TypedParameter, ...]:
    """Return the parameters of a node type in the order of its signature.

    Raises:
        NodeDefinitionError: one cannot be given by name, or its annotation cannot be read.
    """
    parameters = []
    function = _constructor(target)
    for parameter in _arguments(target):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise NodeDefinitionError(
                target.__qualname__,
                f"its parameter {parameter.name!r} is positional-only; parameters are given by "
                f"name: move it behind the / or drop the /",
            )
        is_typed = parameter.annotation is not parameter.empty
        type_ = resolved(parameter.annotation, function, target) if is_typed else object
        parameters.append(TypedParameter(parameter.name, type_, is_typed, parameter.default))
    return tuple(parameters)


def takes_any_parameter(target: type[Node] | Callable[..., object]) -> bool:
    """Whether a node type takes parameters beyond those it names (`**kwargs`)."""
    return any(argument.kind is argument.VAR_KEYWORD for argument in _arguments(target))


def _constructor(target: type[Node] | Callable[..., object]) -> Callable[..., object]:
    if isinstance(target, type):
        constructor: Callable[..., object] = target.__init__  # type: ignore[misc]  # not a subclass's
        return constructor
    return target


def _arguments(target: type[Node] | Callable[..., object]) -> list[inspect.Parameter]:
    """Return what the constructor takes besides `self`, or the function besides its message."""
    constructor = _constructor(target)
    if constructor is object.__init__:
        return []
    arguments = list(inspect.signature(constructor).parameters.values())
    if isinstance(target, type):
        return arguments[1:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes_message = arguments and (
        arguments[0].kind in positional and arguments[0].default is inspect.Parameter.empty
    )
    return arguments[1:] if takes_message else arguments


def plain_parameters(config: Mapping[str, object]) -> dict[str, object]:
    """Return parameters as plain data; enums, dataclasses, sets and paths become what they hold.

    Raises:
        TypeError: a value is no plain data, nests too deeply, or all are larger than 128 KiB;
            the text says which and what to do.
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"its parameters are {config!r}; they must be a dict")
    plain: dict[str, object] = {}
    size = 0
    for name, value in config.items():
        if not isinstance(name, str):
            raise TypeError(f"the parameter name {name!r} is no text")
        try:
            encoded = msgspec.msgpack.encode(value, enc_hook=_plain_path)
            size += len(encoded) + len(name.encode())
            plain[name] = msgspec.msgpack.decode(encoded)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(
                f"parameter {name!r} is {type(value).__name__}, and values must be plain data to "
                f"reach another process (None, bool, 64-bit int, float, str, bytes, list, dict): "
                f"{error}"
            ) from error
    if size > MAX_PARAMETER_BYTES:
        raise TypeError(
            f"the parameters take {size:,} bytes, more than {MAX_PARAMETER_BYTES:,}: write what is "
            f"large to a file, and give its path"
        )
    return plain


def bind_parameters(
    target: type[Node] | Callable[..., object], config: Mapping[str, object], where: str
) -> tuple[dict[str, object], dict[str, Finding]]:
    """Check plain parameters against a signature and convert them to what it asks for.

    Args:
        target: the node type.
        config: plain data by name.
        where: the node, for findings.

    Returns:
        Keyword arguments for the parameters that are right, and what is wrong with each other one.
        Defaults are left to the signature.
    """
    parameters = {parameter.name: parameter for parameter in typed_parameters(target)}
    is_open = takes_any_parameter(target)
    bound: dict[str, object] = {}
    findings: dict[str, Finding] = {}
    for name, value in config.items():
        place = f"{where}, parameter {name!r}"
        if name not in parameters:
            if is_open:
                bound[name] = value
            else:
                suggestion = suggested(name, parameters) or "it takes no parameters"
                if name in NODE_OPTIONS:
                    suggestion = f"{name} is an option of NodeConfig, not a parameter of the node"
                findings[name] = Finding(place, "unknown parameter", suggestion)
            continue
        parameter = parameters[name]
        try:
            bound[name] = _converted(value, parameter.type)
        except (msgspec.ValidationError, TypeError) as error:
            findings[name] = Finding(place, *_mistyped(value, parameter, error))
    for parameter in parameters.values():
        if parameter.is_required and parameter.name not in config:
            kind = f", a value of type {type_name(parameter.type)}" if parameter.is_typed else ""
            findings[parameter.name] = Finding(
                f"{where}, parameter {parameter.name!r}",
                "missing parameter",
                f"it has no default: give it{kind}",
            )
    return bound, findings


def create_node(
    target: type[Node] | Callable[..., object], config: Mapping[str, object], where: str
) -> Node:
    """Make the node, in the process where it runs; `process` and its hooks are ready to call.

    Args:
        target: the node type.
        config: plain parameters, as validation passed them.
        where: the node, for the error.

    Raises:
        TypeError: the parameters do not fit, though validation is there to find that out first.
    """
    bound, findings = bind_parameters(target, config, where)
    if findings:
        raise TypeError("; ".join(str(finding) for finding in findings.values()))
    return target(**bound) if isinstance(target, type) else FunctionNode(target, bound)


def _converted(value: object, type_: object) -> object:
    if type_ is object:
        return value
    try:
        return msgspec.convert(value, type_, dec_hook=_path)
    except TypeError:
        # msgspec refuses some unions as a whole (str | Path): take the first member that fits.
        if not (isinstance(type_, UnionType) or get_origin(type_) is Union):
            raise
        for member in get_args(type_):
            try:
                return msgspec.convert(value, member, dec_hook=_path)
            except (msgspec.ValidationError, TypeError):
                continue
        raise msgspec.ValidationError(
            f"Expected `{type_name(type_)}`, got `{_plain_name(value)}`"
        ) from None


def _mistyped(value: object, parameter: TypedParameter, error: Exception) -> tuple[str, str]:
    """Return what is wrong with a value and what to do, for a finding."""
    if (choice := wrong_choice(value, parameter.type)) is not None:
        return choice
    if (bound := _BOUND.fullmatch(str(error))) is not None:
        return f"must be {_within(*bound.groups())}, got {shown(value, MAX_SHOWN)}", ""
    problem = f"must be {type_name(parameter.type)}, got {shown(value, MAX_SHOWN)}"
    if parameter.type is str and not isinstance(value, (str, type(None))):
        return problem, "in quotes it is text, for --set in quotes within quotes"
    if isinstance(error, msgspec.ValidationError):
        return problem, str(error).replace("`", "'")
    return problem, f"a pipeline cannot give a value of this type: {error}"


def _within(comparison: str, limit: str) -> str:
    """Return the range that ends at a limit."""
    limit = limit.removesuffix(".0")
    before = {"<": "below ", ">": "above "}.get(comparison, "")
    after = {"<=": " or less", ">=": " or more"}.get(comparison, "")
    return f"{before}{limit}{after}"


def _plain_name(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _plain_path(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} is no plain data")


def _path(type_: type, value: object) -> object:
    if issubclass(type_, PurePath) and isinstance(value, str):
        return type_(value)
    raise TypeError(f"{type_.__qualname__} is no plain data")
