"""Ports as a node class declares them: `Output` attributes and handlers marked with `@input`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Generic, TypeVar, cast, get_args, overload

from remotemedia.data import (
    Audio,
    Binary,
    Control,
    File,
    Json,
    Message,
    RuntimeData,
    Tensor,
    Text,
    Video,
)

__all__ = ["DATA_TYPES", "INPUT_MARK", "Addressed", "Input", "Output", "input", "kinds_of_type"]

T = TypeVar("T")
Handler = TypeVar("Handler", bound=Callable[..., object])

DATA_TYPES: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Audio, Video, Tensor, Text, Json, Binary, File, Control)
}
"""The message types by their names; a name is what "kind" means in this package."""

NOT_A_MESSAGE_TYPE = (
    f"the message types are {', '.join(DATA_TYPES)}, and RuntimeData for any of them"
)

INPUT_MARK = "__remotemedia_input__"


def kinds_of_type(type_: object) -> tuple[str, ...]:
    """Return the kinds that a message type or union of them stands for, or () if it is neither.

    `Message`, the base of them all, stands for all of them.
    """
    if type_ is Message:
        return tuple(DATA_TYPES)
    if isinstance(type_, UnionType):
        members = [kinds_of_type(member) for member in get_args(type_)]
        if not all(members):
            return ()
        return tuple(dict.fromkeys(kind for kinds in members for kind in kinds))
    return tuple(kind for kind, data_type in DATA_TYPES.items() if type_ is data_type)


@dataclass(frozen=True, slots=True)
class Addressed:
    """A message and the output port that it leaves by; made by calling an `Output`."""

    port: str
    data: RuntimeData


@dataclass(frozen=True, slots=True)
class Input:
    """What `@input` wrote on a handler; empty `name` means the name of the handler says it."""

    name: str = ""
    capacity: int | None = None


class Output(Generic[T]):
    """An output port, declared on the class; its name is that of the attribute.

    Declaring `out = Output(...)` gives the port of plain returned messages its limits.

    Args:
        *types: the message types that leave by it: `Output(Audio)`, `Output(Audio, Text)` or
            `Output(Audio | Text)`.
        capacity: messages that a connection from here holds, where it does not say so itself.
        max_message_bytes: the largest message; shared memory is then planned exactly.

    Raises:
        TypeError: a type is no message type.
    """

    def __init__(
        self,
        *types: type[T] | UnionType,
        capacity: int | None = None,
        max_message_bytes: int | None = None,
    ) -> None:
        found = [(type_, kinds_of_type(type_)) for type_ in types]
        for type_, kinds in found:
            if not kinds:
                raise TypeError(f"Output({type_!r}): {NOT_A_MESSAGE_TYPE}")
        if not found:
            raise TypeError(f"Output() of what? {NOT_A_MESSAGE_TYPE}")
        self.kinds = tuple(dict.fromkeys(kind for _, kinds in found for kind in kinds))
        self.name = ""
        self.capacity = capacity
        self.max_message_bytes = max_message_bytes

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __call__(self, data: T) -> Addressed:
        """Address a message to this port, for `return` or `yield`.

        Raises:
            TypeError: the port does not send messages of this type.
        """
        if not any(isinstance(data, DATA_TYPES[kind]) for kind in self.kinds):
            raise TypeError(
                f"output {self.name!r} sends {' or '.join(self.kinds)}, not {type(data).__name__}"
            )
        return Addressed(self.name, cast("RuntimeData", data))

    def __repr__(self) -> str:
        return f"Output({' | '.join(self.kinds)}, name={self.name!r})"


@overload
def input(handler: Handler, /) -> Handler: ...  # noqa: A001 - reads as `rm.input`


@overload
def input(  # noqa: A001
    name: str = ..., /, *, capacity: int | None = ...
) -> Callable[[Handler], Handler]: ...


def input(  # noqa: A001
    name: str | Handler = "",
    /,
    *,
    capacity: int | None = None,
) -> Handler | Callable[[Handler], Handler]:
    """Mark a method as the handler of an input port: `@input`, or `@input("voice", capacity=8)`.

    Without a name, `on_voice` handles the input "voice" and `process` the input "in". The size of
    messages is declared where they are sent, by `Output`.

    Args:
        name: the port's name.
        capacity: messages that a connection to here holds, where it does not say so itself.
    """
    if not isinstance(name, str):
        setattr(name, INPUT_MARK, Input())
        return name
    mark = Input(name, capacity)

    def decorate(handler: Handler) -> Handler:
        setattr(handler, INPUT_MARK, mark)
        return handler

    return decorate
