"""What may be an id: the name of a node in its pipeline, or of a session."""

from __future__ import annotations

import re

__all__ = ["ID_PATTERN", "ID_RULE", "id_of", "is_id"]

_CHARACTERS = "A-Za-z0-9_.-"
_MAX_LENGTH = 64

ID_PATTERN = f"^[{_CHARACTERS}]{{1,{_MAX_LENGTH}}}$"
"""With its anchors, as JSON schemas need them."""

ID_RULE = f"1 to {_MAX_LENGTH} letters (A-Z, a-z), digits, _ . -"
"""As errors say it: "use ...", "must be ..."."""


def is_id(value: object) -> bool:
    """Whether a value may be an id."""
    # Not `match`, where "$" lets a line break follow.
    return isinstance(value, str) and re.fullmatch(ID_PATTERN, value) is not None


def id_of(text: str) -> str:
    """Make an id of any text: of what it may not hold comes "-". It is empty if the text is."""
    return re.sub(f"[^{_CHARACTERS}]", "-", text)[:_MAX_LENGTH]
