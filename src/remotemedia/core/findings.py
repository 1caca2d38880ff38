"""Words that findings share: lists of names, the name that was probably meant, first lines."""

from __future__ import annotations

from enum import Enum
from types import NoneType
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from remotemedia.data.message import shown
from remotemedia.errors import ProcessCrashed

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MAX_SHOWN",
    "TWO_OF_ID",
    "did_you_mean",
    "first_line",
    "listed",
    "suggested",
    "wrong_choice",
]

TWO_OF_ID = ("there are two nodes of this id", "rename one")
"""The problem and the suggestion, wherever it is found."""

MAX_SHOWN = 60
"""Characters of a value, where a finding says it: see `shown`."""

_MAX_LISTED = 12


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?", or an empty text if no known name is close."""
    from difflib import get_close_matches  # here: only where something is wrong

    name = name.casefold()
    folded = {choice.casefold(): choice for choice in known}
    close = [choice for choice in folded if sorted(choice) == sorted(name)]  # swapped letters
    close = close or get_close_matches(name, folded, n=1, cutoff=0.6)
    return f"did you mean {folded[close[0]]!r}?" if close else ""


def suggested(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?", else what there is to choose from, else an empty text."""
    choices = sorted(set(known))
    there_is = f"there is {listed(choices)}" if choices else ""
    return did_you_mean(name, choices) or there_is


def listed(names: Iterable[str]) -> str:
    """Return names as "'a', 'b'", the first dozen of them."""
    names = list(names)
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(repr(name) for name in names[:_MAX_LISTED]) + more


def wrong_choice(value: object, type_: object) -> tuple[str, str] | None:
    """Return what a value had to be chosen from and which was meant, None if there is no choice.

    Args:
        value: what was given.
        type_: an enum or a `Literal`, or either or None.
    """
    members = [member for member in get_args(type_) if member is not NoneType]
    if get_origin(type_) is Literal:
        choices = list(get_args(type_))
    elif isinstance(type_, type) and issubclass(type_, Enum):
        choices = [member.value for member in type_]
    elif len(members) == 1 and len(get_args(type_)) == 2:
        return wrong_choice(value, members[0])
    else:
        return None
    texts = [choice for choice in choices if isinstance(choice, str)]
    hint = did_you_mean(value, texts) if isinstance(value, str) else ""
    which = f"one of {', '.join(map(repr, choices))}" if len(choices) > 1 else repr(choices[0])
    return f"must be {which}, got {shown(value, MAX_SHOWN)}", hint


def first_line(error: Exception) -> str:
    """Return what an error says, without the details that follow; its type, if it says nothing.

    Without the name of its session, too: this is for those who know it.
    """
    text = error.summary if isinstance(error, ProcessCrashed) else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__
