"""Numbers and ends as people read them, and values as programs do."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "bytes_text",
    "duration_text",
    "json_text",
    "not_written",
    "plural",
    "progress_text",
    "rate_text",
]


def duration_text(seconds: float) -> str:
    """Return a duration with two or three digits that count: 131 us, 4.2 ms, 12.5 s, 3:20 min."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        milliseconds = seconds * 1e3
        return f"{milliseconds:.{1 if milliseconds < 10 else 0}f} ms"
    if seconds < 100:
        return f"{seconds:.{2 if seconds < 10 else 1}f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"


def bytes_text(count: int) -> str:
    """Return a size: 512 B, 12.3 MiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def rate_text(per_second: float) -> str:
    """Return a rate: 50/s, 0.4/s."""
    return f"{per_second:.{0 if per_second >= 10 or per_second == 0 else 1}f}/s"


def plural(count: int, one: str) -> str:
    """Return a count with its noun: 1 node, 2 nodes."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def progress_text(phase: str, fraction: float, message: str) -> str:
    """Return how far a node is: loading 30% the model, 60% loading the model.

    A message that has a verb of its own is not put behind that of the phase.
    """
    has_verb = re.match(r"\w+(ing|ed)\b", message) is not None
    share = f"{fraction:.0%}" if fraction else ""
    return " ".join(filter(None, ("" if has_verb else phase, share, message)))


def not_written(path: Path, came: str) -> str:
    """Say that a file was not written, as `came` ("nothing") came; an old one looks like new."""
    text = f"{path}: {came} came, so it was not written"
    return f"{text}; the file that was there is unchanged" if path.exists() else text


def json_text(value: object) -> str:
    """Return a value as one line of JSON; NaN and infinities are null, bytes are base64."""
    import msgspec

    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # a path that is no UTF-8: escaped, it can be written all the same
        return json.dumps(value, separators=(",", ":"))
