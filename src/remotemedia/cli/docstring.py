"""Docstrings in Google's style, taken apart for people who do not read code."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Described", "described"]

_SECTION = re.compile(r"[A-Z][A-Za-z ]*:")
_ARGUMENT = re.compile(r"(\w+(?:, \w+)*)(?: \(.*?\))?: *(.*)")


@dataclass(frozen=True, slots=True)
class Described:
    """What a docstring says.

    Attributes:
        text: what stands before the first section.
        arguments: what "Args:" says of each.
    """

    text: str
    arguments: dict[str, str]


def described(doc: str) -> Described:
    """Take a docstring apart, as `inspect.getdoc` gives it."""
    lines = doc.splitlines()
    ends = [n for n, line in enumerate(lines) if _SECTION.fullmatch(line)]
    text = "\n".join(lines[: ends[0]] if ends else lines).strip()
    if "Args:" not in lines:
        return Described(text, {})
    begin = lines.index("Args:") + 1
    end = next((n for n in ends if n >= begin), len(lines))
    return Described(text, _arguments(lines[begin:end]))


def _arguments(lines: list[str]) -> dict[str, str]:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        begun = _ARGUMENT.fullmatch(line[indent:])
        if begun is not None:
            names = begun[1].split(", ")
            found.update(dict.fromkeys(names, begun[2]))
        else:
            for name in names:
                found[name] = f"{found[name]} {line.strip()}".strip()
    return found
