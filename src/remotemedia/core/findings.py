"""Words that findings share: lists of names and the name that was probably meant."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["did_you_mean", "listed", "suggested"]

_MAX_LISTED = 12


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?", or an empty text if no known name is close."""
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
