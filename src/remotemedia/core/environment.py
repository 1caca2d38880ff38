"""What a process can be started with: texts that the system takes, variables that it can have."""

from __future__ import annotations

import os

__all__ = ["text_problem", "variable_problem"]


def text_problem(text: str) -> str:
    """Say why no process can be started with a text, as "holds ..."; an empty text if one can."""
    if "\0" in text:
        return "holds a NUL character"
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        character = text[error.start]
        return f"holds {character!r}, which is no character of {error.encoding}"
    return ""


def variable_problem(name: str, text: str) -> str:
    """Say why no process can have a variable in its environment; an empty text if one can."""
    if not name or "=" in name:
        return f"the name of the variable {name!r} is empty or holds '='"
    problem = text_problem(name) or text_problem(text)
    return f"the variable {name!r} {problem}" if problem else ""
